"""MARS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, EPS, learning_rate
from ..declaration import Array, Hypers, Member, Number, Numbers, OwnRule, Scalars, State, Sum
from ..scaled import ADAM, at_most_1, squares
from ..shared import DECAY, WEIGHT_DECAY
from .adam import ADAM as ADAM_MEMBER

_PREVIOUS = State("previous", signed=True, decay=None, draw=4)


def _corrected(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array, previous: Array) -> tuple[Array, ...]:
    return (g + k.gamma * (g - previous),)


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array, previous: Array) -> tuple[Array, ...]:
    (corrected,) = _corrected(k, xp, p, g, m, v, previous)
    return *ADAM.update(k, xp, p, k.clip * corrected, m, v), g


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, _ = hyper["betas"]
    adam = ADAM_MEMBER.numbers({**hyper, "bias_correction": True, "eps_mode": "torch"}, scalars, f)
    return adam | {"gamma": hyper["gamma"] * beta1 / (1 - beta1)}


_STATES, _SUMS = (*ADAM.states, _PREVIOUS), (Sum("corrected", "tensor", squares(_corrected)),)
_RULE = OwnRule("mars", _STATES, (*ADAM.numbers, "gamma"), _update, _SUMS, at_most_1("clip", "corrected"))
MARS = Member(
    name="MARS",
    title="MARS-AdamW (Yuan et al., 2024, arXiv:2411.10438, algorithm 2): AdamW with gradients of reduced variance.",
    equations=(
        r"c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad \tilde c_t = \frac{c_t}{\max(1, \|c_t\|)}",
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde c_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \tilde c_t^2",
        r"p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}",
    ),
    hyperparameters=(
        *(learning_rate(3e-3), replace(BETAS, default=(0.95, 0.99)), replace(EPS, elsewhere={})),
        WEIGHT_DECAY,
        Number("gamma", 0.025, "γ, the strength of the correction"),
        replace(DECAY, default="decoupled"),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "exp_avg_corrected", "second": "exp_avg_sq_corrected", "previous": "previous_grad"},
    notes="The norm is of each tensor; the gradient before the first step is 0, as in the authors' code.",
    page=r"""
AdamW on corrected gradients: a multiple of the change since the last step is added, which reduces the noise of the batches,
and the result is clipped tensor by tensor. The authors step biases and norms with AdamW; with `gamma=0` in their group, only
the clipping remains. Source: [Yuan et al., 2024](https://arxiv.org/abs/2411.10438).
""",
)
MEMBERS = (MARS,)
