# Written by `make members` from the declarations in adamas.rule.members. Change those.
"""The members of the family as methods of ``scipy.optimize.minimize``."""

from __future__ import annotations

from ..rule.members import MEMBERS
from .method import Method

__all__ = [
    "METHODS",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adamw_schedule_free",
    "adan",
    "ademamix",
    "adopt",
    "amsgrad",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "mars",
    "momentum",
    "nadam",
    "nesterov",
    "radam",
    "rmsprop",
    "sgd",
    "sgd_schedule_free",
    "signum",
    "stableadamw",
]

sgd = Method("sgd", MEMBERS["SGD"])
"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013)."""

momentum = Method("momentum", MEMBERS["SGD"], {"momentum": 0.9})
"""Gradient descent with momentum (Polyak, 1964)."""

nesterov = Method("nesterov", MEMBERS["SGD"], {"momentum": 0.9, "nesterov": True})
"""Gradient descent with Nesterov's momentum (Sutskever et al., 2013)."""

adagrad = Method("adagrad", MEMBERS["Adagrad"])
"""AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator."""

lars = Method("lars", MEMBERS["LARS"])
"""LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888, algorithm 1): momentum with a rate for each tensor."""

lion = Method("lion", MEMBERS["Lion"])
"""Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum."""

rmsprop = Method("rmsprop", MEMBERS["RMSprop"])
"""RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45)."""

sgd_schedule_free = Method("sgd_schedule_free", MEMBERS["SGDScheduleFree"])
"""Schedule-free gradient descent (Defazio et al., 2024, arXiv:2405.15682, equations 3 to 5): averages its steps."""

signum = Method("signum", MEMBERS["Signum"])
"""Signum (Bernstein et al., 2018, arXiv:1802.04434, algorithm 2): the sign of the momentum."""

adam = Method("adam", MEMBERS["Adam"])
"""Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1): momentum, RMSprop and bias correction."""

amsgrad = Method("amsgrad", MEMBERS["Adam"], {"amsgrad": True})
"""AMSGrad (Reddi, Kale and Kumar, 2018, arXiv:1904.09237): Adam that divides by the largest v so far."""

adamw = Method("adamw", MEMBERS["AdamW"])
"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with decoupled weight decay.

Its weight decay pulls x to 0, so it does not converge to the minimum of the function.
"""

adamax = Method("adamax", MEMBERS["Adamax"])
"""Adamax (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 2): Adam with the infinity norm."""

adopt = Method("adopt", MEMBERS["ADOPT"])
"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853, algorithm 2): Adam that divides by the v of the step before."""

lamb = Method("lamb", MEMBERS["LAMB"])
"""LAMB (You et al., 2020, arXiv:1904.00962, algorithm 2): AdamW whose step is relative to the weight of each tensor.

Its weight decay pulls x to 0, so it does not converge to the minimum of the function.
"""

laprop = Method("laprop", MEMBERS["LaProp"])
"""LaProp (Ziyin, Wang and Ueda, 2020, arXiv:2002.04839, algorithm 1): momentum after the division."""

nadam = Method("nadam", MEMBERS["NAdam"])
"""NAdam (Dozat, 2016, Incorporating Nesterov Momentum into Adam): Adam with Nesterov's momentum."""

radam = Method("radam", MEMBERS["RAdam"])
"""RAdam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): Adam without a denominator until its variance is finite."""

adamw_schedule_free = Method("adamw_schedule_free", MEMBERS["AdamWScheduleFree"])
"""Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682, algorithm 1): AdamW that averages its steps."""

stableadamw = Method("stableadamw", MEMBERS["StableAdamW"])
"""StableAdamW (Wortsman et al., 2023, arXiv:2304.13013, algorithm 2): AdamW with shorter steps where v lags behind.

Its weight decay pulls x to 0, so it does not converge to the minimum of the function.
"""

ademamix = Method("ademamix", MEMBERS["AdEMAMix"])
"""AdEMAMix (Pagliardini et al., 2024, arXiv:2409.03137, algorithm 1): AdamW with a second, slow average."""

mars = Method("mars", MEMBERS["MARS"])
"""MARS-AdamW (Yuan et al., 2024, arXiv:2411.10438, algorithm 2): AdamW with gradients of reduced variance."""

adan = Method("adan", MEMBERS["Adan"])
"""Adan (Xie et al., 2022, arXiv:2208.06677, algorithm 1): Nesterov's momentum by differences of gradients."""

METHODS = {
    method.name: method
    for method in (
        sgd,
        momentum,
        nesterov,
        adagrad,
        lars,
        lion,
        rmsprop,
        sgd_schedule_free,
        signum,
        adam,
        amsgrad,
        adamw,
        adamax,
        adopt,
        lamb,
        laprop,
        nadam,
        radam,
        adamw_schedule_free,
        stableadamw,
        ademamix,
        mars,
        adan,
    )
}
