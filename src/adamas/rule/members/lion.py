"""Lion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, learning_rate
from ..declaration import Array, Hypers, Member, Numbers, OwnRule, Scalars, State
from ..shared import DECAY, WEIGHT_DECAY

_MOMENTUM = State("first", signed=True, decay="a1", draw=0, of="gradient", gain="b1")


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array) -> tuple[Array, ...]:
    return xp.sign(k.c * m + k.d * g), k.a1 * m + k.b1 * g


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    return {"a1": beta2, "b1": 1 - beta2, "c": beta1, "d": 1 - beta1}


RULE = OwnRule("lion", (_MOMENTUM,), ("a1", "b1", "c", "d"), _update)

LION = Member(
    name="Lion",
    title="Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.",
    equations=(
        r"u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t",
        r"p_t &= p_{t-1} - \eta u_t",
    ),
    hyperparameters=(
        learning_rate(1e-4, keras=1e-3),
        replace(BETAS, default=(0.9, 0.99), doc="the interpolation of the update, and the decay of the momentum"),
        replace(WEIGHT_DECAY, elsewhere={"keras": None, "optax": 1e-3}),
        replace(DECAY, default="decoupled", elsewhere={}),
    ),
    make_rule=lambda hyper: RULE,
    numbers=_numbers,
    names={"first": "exp_avg"},
    page=r"""
Every element moves up or down by the learning rate: only the sign of the momentum matters, not its size. Lion keeps
one number per weight, half as many as Adam. Use a learning rate 3 to 10 times smaller than AdamW's, and a weight decay
that is larger by the same factor. Source: [Chen et al., 2023](https://arxiv.org/abs/2302.06675).
""",
)
MEMBERS = (LION,)
