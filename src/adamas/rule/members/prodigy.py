"""Prodigy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..corrections import BETAS, EPS, bias_corrections, learning_rate
from ..declaration import (
    ABOVE_0,
    FROM_1_TO_INFINITY,
    Array,
    Flag,
    Hypers,
    Member,
    Number,
    Numbers,
    OwnRule,
    Scalars,
    State,
    Sum,
)
from ..sentence import FIRST, SECOND
from ..shared import DECAY, WEIGHT_DECAY

# What the gradients are multiplied with is the way p₀ − p, which begins with 0, so that no copy of the first weights is kept.
_STATES = FIRST, SECOND, State("sum", signed=True, decay="a3", draw=4), State("way", signed=True, decay=None, draw=5)
_OF_ESTIMATE = ("d", "d_max", "d_numerator", "d0", "d_coef", "growth_rate")
_NUMBERS = ("a1", "b1", "a2", "b2", "a3", "b3", "b4", "eps", "w", *_OF_ESTIMATE)


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array, s: Array, way: Array) -> tuple[Array, ...]:
    m, v = k.a1 * m + k.b1 * g, k.a2 * v + k.b2 * g * g
    update = m / (xp.sqrt(v) + k.floor)
    decay = k.lost * p + xp.where(update * xp.sign(p) >= 0, k.cautious * p, 0.0)
    return update, m, v, k.a3 * s + k.b3 * g, way + (k.eta * update + decay)


def _along(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array, s: Array, way: Array) -> Array:
    return k.b4 * g * way


def _size(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array, s: Array, way: Array) -> Array:
    return xp.abs(k.a3 * s + k.b3 * g)


def _estimated(k: Any, f: Any) -> Numbers:
    """The d of the next step, which this one has in its ε alone."""
    numerator = k.d_numerator + k.along
    (estimate,) = f.either(k.size > 0, lambda: (k.d_coef * numerator / k.size,), lambda: (k.d,))
    (d,) = f.either(k.d <= k.d0, lambda: (f.maximum(k.d, estimate),), lambda: (k.d,))
    d_max = f.maximum(k.d_max, estimate)
    d = f.minimum(d_max, d * k.growth_rate)
    return {"d": d, "d_max": d_max, "d_numerator": numerator, "floor": d * k.eps, "lost": 1 - k.k}


def _next_scalars(hyper: Hypers, scalars: Scalars, f: Any) -> dict[str, Any]:
    decayed = {"d_numerator": hyper["betas"][1] ** 0.5 * scalars["d_numerator"]}
    return {**scalars, "step": scalars["step"] + 1, "k": scalars["k"] + 1, **decayed}


def _begun(hyper: Hypers, scalars: Scalars, name: str, f: Any) -> Any:
    """d or its maximum, which are 0 in a new state."""
    return f.maximum(scalars[name], hyper["d0"])


def _rate(hyper: Hypers, scalars: Scalars, f: Any) -> Any:
    c, w = bias_corrections({**hyper, "bias_correction": hyper["use_bias_correction"]}, scalars["step"])
    return _begun(hyper, scalars, "d", f) * f.number(hyper["lr"]) * c / f.sqrt(w)


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    (beta1, beta2), rate = hyper["betas"], _rate(hyper, scalars, f)
    d, d_max = (_begun(hyper, scalars, name, f) for name in ("d", "d_max"))
    relative = d / hyper["d0"]
    moments = {"a1": beta1, "b1": d * (1 - beta1), "a2": beta2, "b2": d * d * (1 - beta2), "a3": beta2**0.5}
    share = d if hyper["safeguard_warmup"] else rate
    # What does not move has no part in the estimate.
    (b3,) = f.either(f.number(hyper["lr"]) > 0, lambda: (relative * share,), lambda: (0.0,))
    sums = {"b3": b3, "b4": relative * rate}
    given = {name: hyper[name] for name in ("d0", "d_coef", "growth_rate", "eps")}
    scale = {"w": 1 / (d * d)}  # with which v is an average of g²
    return moments | sums | given | scale | {"d": d, "d_max": d_max, "d_numerator": scalars["d_numerator"]}


_RULE = OwnRule(
    "prodigy",
    _STATES,
    _NUMBERS,
    _update,
    (Sum("along", "all", _along), Sum("size", "all", _size)),
    _estimated,
)
PRODIGY = Member(
    name="Prodigy",
    title="Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101, algorithm 4): Adam that estimates its learning rate.",
    equations=(
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 g_t^2",
        r"r_t &= \sqrt{\beta_2} r_{t-1} + \tfrac{d_t}{d_0} \eta d_t \langle g_t, p_0 - p_{t-1} \rangle, \qquad "
        r"s_t = \sqrt{\beta_2} s_{t-1} + \tfrac{d_t}{d_0} \eta d_t g_t, \qquad "
        r"d_{t+1} = \max(d_t, c\, r_t / \|s_t\|_1)",
        r"p_t &= p_{t-1} - \eta d_t \left( \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon} + \lambda p_{t-1} \right)",
    ),
    hyperparameters=(
        *(learning_rate(1.0), replace(BETAS, may_be_scheduled=False), replace(EPS, elsewhere={})),
        *(replace(WEIGHT_DECAY, doc="λ"), replace(DECAY, default="decoupled")),
        Flag("use_bias_correction", False, "multiply η by √(1 − β₂ᵗ) / (1 − β₁ᵗ)", elsewhere={"optax": True}),
        Flag("safeguard_warmup", False, "leave η out of s; for a schedule with a warmup"),
        Number("d0", 1e-6, "d₁, the first estimate", range=ABOVE_0),
        Number("d_coef", 1.0, "c, a factor of d, with which the learning rate is tuned", range=ABOVE_0),
        Number(
            "growth_rate",
            math.inf,
            "the largest factor by which d grows in a step, except the first time",
            range=FROM_1_TO_INFINITY,
        ),
    ),
    make_rule=lambda hyper: _RULE,
    rate=_rate,
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq", "sum": "s", "way": "p0_minus_p"},
    scalars=(("step", 0.0), ("k", 0.0), ("d", 0.0), ("d_max", 0.0), ("d_numerator", 0.0)),
    next_scalars=_next_scalars,
    shared=("k", "d", "d_max", "d_numerator"),
    same=("betas", "d0", "d_coef", "growth_rate", "safeguard_warmup"),
    absent={
        "scipy": "its first steps are so short that the minimization would stop, and bounds would change the distance that it "
        "estimates from: use adamas.scipy.adam"
    },
    no_mask="it estimates its rate from the distance that the weights have moved, which a masked update changes",
    notes="There is one d for all parameters of all groups, which share ``betas``, ``d0``, ``d_coef``, ``growth_rate`` and "
    "``safeguard_warmup``; in ``s``, η and d are those of each step. It is the scalar ``d`` in the state of each parameter. "
    ":math:`d_{t+1}` is at most ``growth_rate`` times :math:`d_t`, except the first time that it grows.",
    page=r"""
Adam that finds its own learning rate: d estimates the distance from the start to the solution, from how far the weights have
moved along the gradients. Leave `lr` at 1, or make it a schedule that is a factor, such as `cosine(n)` (with a warmup, set
`safeguard_warmup=True`). At one of Adam's usual rates, such as 1e-3, d hardly grows. What is left to tune is `d_coef`. In
PyTorch and NumPy, `optimizer.d` is the estimate. A layer that is unfrozen late uses the estimate of the others.

The distance p₀ − p is stored instead of p₀, so that small distances keep their precision; therefore only the optimizer may
change the weights. `slice_p` and `beta3` of the authors' code are not available, and `cautious=True` is refused. Source:
[Mishchenko and Defazio, 2023](https://arxiv.org/abs/2306.06101).
""",
)
MEMBERS = (PRODIGY,)
