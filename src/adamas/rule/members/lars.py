"""LARS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import EPS, learning_rate
from ..declaration import Array, Flag, Hypers, Member, Number, Numbers, OwnRule, Scalars, Share, State, Sum
from ..scaled import UPDATE_DECAY, decay_of, of_gradient, of_weight
from ..shared import WEIGHT_DECAY

_MOMENTUM = State("first", signed=True, decay="a1", draw=0)


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array) -> tuple[Array, ...]:
    g = k.trust * g + k.trusted_decay * p
    m = k.a1 * m + g
    return k.c * m + k.d * g, m


def _trust(k: Any, f: Any) -> Numbers:
    weight, gradient = f.sqrt(k.weights), f.sqrt(k.gradients)
    size = gradient + k.decay * weight + k.eps
    (trust,) = f.either(f.minimum(weight, gradient) > 0, lambda: (k.coefficient * weight / size,), lambda: (1.0,))
    return {"trust": trust, "trusted_decay": trust * k.decay}


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    mu = hyper["momentum"]
    c, d = (mu, 1.0) if hyper["nesterov"] else (1.0, 0.0)
    return {"a1": mu, "c": c, "d": d, "coefficient": hyper["trust_coefficient"], "eps": hyper["eps"], **decay_of(hyper)}


_SUMS = Sum("weights", "tensor", of_weight), Sum("gradients", "tensor", of_gradient)
_RULE = OwnRule("lars", (_MOMENTUM,), ("a1", "c", "d", "coefficient", "eps", "decay"), _update, _SUMS, _trust)
LARS = Member(
    name="LARS",
    title="LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888, algorithm 1): momentum with a rate for each tensor.",
    equations=(
        r"m_t = \mu m_{t-1} + \frac{c\, \|p_{t-1}\|}{\|g_t\| + \lambda \|p_{t-1}\| + \epsilon} (g_t + \lambda p_{t-1}), "
        r"\qquad p_t = p_{t-1} - \eta m_t",
    ),
    hyperparameters=(
        *(learning_rate(1.0), Share("momentum", 0.9, "μ"), replace(WEIGHT_DECAY, doc="λ")),
        Number("trust_coefficient", 1e-3, "c, the share of its norm that a tensor moves by at a rate of 1"),
        *(replace(EPS, default=0.0, elsewhere={}), Flag("nesterov", False, "use Nesterov's momentum")),
        replace(UPDATE_DECAY, elsewhere={"optax": "l2"}),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "scaled_momentum_buffer"},
    notes='The norms are of each tensor; where one is 0, the ratio is 1. With ``decay="l2"``, the norm is of the sum '
    r":math:`g_t + \lambda p_{t-1}`, as in optax.",
    page=r"""
Momentum for training on images with very large batches: every tensor moves by the same fraction of its norm, whatever the size
of its gradient. Source: [You, Gitman and Ginsburg, 2017](https://arxiv.org/abs/1708.03888).
""",
)
MEMBERS = (LARS,)
