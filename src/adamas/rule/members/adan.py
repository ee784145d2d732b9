"""Adan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, EPS_ROOT, bias_corrections, denominator, learning_rate
from ..declaration import Array, Hypers, Member, Numbers, OwnRule, Scalars, State
from ..sentence import FIRST, SECOND, quotient
from ..shared import DECAY, WEIGHT_DECAY

_DIFFERENCE = State("difference", signed=True, decay="a2", draw=4)
_SIZE = replace(SECOND, decay="a3", gain="b3")  # of the gradient ahead
_PREVIOUS = State("previous", signed=True, decay=None, draw=5)


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array, d: Array, v: Array, previous: Array) -> tuple[Array, ...]:
    change = k.has_previous * (g - previous)
    m, d = k.a1 * m + k.b1 * g, k.a2 * d + k.b2 * change
    ahead = g + k.a2 * change
    v = k.a3 * v + k.b3 * ahead * ahead
    return quotient(k, xp, k.c * m + k.d * d, v), m, d, v, g


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2, beta3 = hyper["betas"]
    c, d, w = bias_corrections(hyper, scalars["step"])
    (has_previous,) = f.either(scalars["step"] > 1, lambda: (1.0,), lambda: (0.0,))
    averages = {"a1": beta1, "b1": 1 - beta1, "a2": beta2, "b2": 1 - beta2, "a3": beta3, "b3": 1 - beta3}
    return averages | {"c": c, "d": beta2 * d, "has_previous": has_previous} | denominator(hyper, w, f)


_NUMBERS = ("a1", "b1", "a2", "b2", "a3", "b3", "c", "d", "has_previous", "w", "eps", "root")
_RULE = OwnRule("adan", (FIRST, _DIFFERENCE, _SIZE, _PREVIOUS), _NUMBERS, _update)
ADAN = Member(
    name="Adan",
    title="Adan (Xie et al., 2022, arXiv:2208.06677, algorithm 1): Nesterov's momentum by differences of gradients.",
    equations=(
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad d_t = \beta_2 d_{t-1} + (1 - \beta_2) (g_t - g_{t-1})",
        r"v_t &= \beta_3 v_{t-1} + (1 - \beta_3) (g_t + \beta_2 (g_t - g_{t-1}))^2",
        r"p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \beta_2 d_t / (1 - \beta_2^t)}"
        r"{\sqrt{v_t / (1 - \beta_3^t)} + \epsilon}",
    ),
    hyperparameters=(
        *(learning_rate(1e-3), replace(BETAS, default=(0.98, 0.92, 0.99), doc="the decay of m, d and v")),
        *(replace(EPS, elsewhere={}), WEIGHT_DECAY, replace(DECAY, default="decoupled")),
        *(replace(EPS_MODE, elsewhere={}), BIAS_CORRECTION, replace(EPS_ROOT, elsewhere={"optax": 1e-8})),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "exp_avg", "difference": "exp_avg_diff", "second": "exp_avg_sq_ahead", "previous": "previous_grad"},
    notes="In the first step, :math:`g_0 = g_1`.",
    page=r"""
AdamW that looks ahead by the change of the gradient, for which it keeps the previous gradient: four numbers per weight. Use
learning rates 5 to 10 times those of AdamW. Each β is $1 - \beta$ in the paper; the weight decay is that of the authors' code
with `no_prox=True`. Source: [Xie et al., 2022](https://arxiv.org/abs/2208.06677).
""",
)
MEMBERS = (ADAN,)
