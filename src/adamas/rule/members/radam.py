"""RAdam."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import (
    BETAS,
    BIAS_CORRECTION,
    EPS,
    EPS_MODE,
    EPS_ROOT,
    bias_corrections,
    learning_rate,
    placed_eps,
)
from ..declaration import Hypers, Member, Numbers, Scalars
from ..sentence import Sentence
from ..shared import WEIGHT_DECAY


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    step = scalars["step"]
    c, w = bias_corrections(hyper, step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)

    def rectified() -> tuple[Any, ...]:
        r = f.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return w, placed_eps(hyper, w, f), r

    def momentum() -> tuple[Any, ...]:  # the variance of the denominator is not tractable yet
        return 0.0, 1.0, 1.0

    w, eps, r = f.either(rho > 5, rectified, momentum)
    return {
        "a1": beta1,
        "b1": 1 - beta1,
        "a2": beta2,
        "b2": 1 - beta2,
        "c": c,
        "w": w,
        "eps": eps,
        "root": hyper.get("eps_root", 0.0),
        "eta": f.number(hyper["lr"]) * r,
    }


RADAM = Member(
    name="RAdam",
    title="RAdam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): Adam without a denominator until its variance is finite.",
    equations=(
        r"\rho_\infty &= \tfrac{2}{1-\beta_2} - 1, \qquad \rho_t = \rho_\infty - \tfrac{2 t \beta_2^t}{1 - \beta_2^t}",
        r"p_t &= p_{t-1} - \eta\, r_t \frac{m_t}{1 - \beta_1^t} \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon} "
        r"\quad\text{once } \rho_t > 5, \text{ before that } p_{t-1} - \eta \frac{m_t}{1 - \beta_1^t}",
    ),
    hyperparameters=(
        learning_rate(1e-3),
        BETAS,
        EPS,
        WEIGHT_DECAY,
        replace(EPS_MODE, default="hat", elsewhere={"optax": "torch"}),
        BIAS_CORRECTION,
        EPS_ROOT,
    ),
    make_rule=lambda hyper: Sentence(first=True, second="square", use_first=True, denominator="where w"),
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq"},
    page=r"""
Adam without the denominator until there are enough gradients to estimate it, and then with a learning rate that rises: a
warmup without hyperparameters. With an explicit warmup, Adam does as well ([Ma and Yarats,
2019](https://arxiv.org/abs/1910.04209)). Source: [Liu et al., 2020](https://arxiv.org/abs/1908.03265).
""",
)
MEMBERS = (RADAM,)
