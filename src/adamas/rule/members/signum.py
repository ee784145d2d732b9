"""Signum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import learning_rate
from ..declaration import Hypers, Member, Numbers, Scalars, Share
from ..shared import DECAY, WEIGHT_DECAY
from .lion import RULE


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta = hyper["momentum"]  # Lion whose update is the sign of the new momentum
    return {"a1": beta, "b1": 1 - beta, "c": beta, "d": 1 - beta}


SIGNUM = Member(
    name="Signum",
    title="Signum (Bernstein et al., 2018, arXiv:1802.04434, algorithm 2): the sign of the momentum.",
    equations=(r"m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad p_t = p_{t-1} - \eta \operatorname{sign}(m_t)",),
    hyperparameters=(
        learning_rate(1e-4, keras=1e-3),
        Share("momentum", 0.9, "β, the decay of the momentum; 0 for signSGD"),
        *(WEIGHT_DECAY, replace(DECAY, default="decoupled")),
    ),
    make_rule=lambda hyper: RULE,
    numbers=_numbers,
    names={"first": "exp_avg"},
    page=r"""
Every element moves by the learning rate, in the direction of the average gradient. It is Lion with equal betas, and needs as
small a learning rate; `momentum=0` is signSGD. Source: [Bernstein et al., 2018](https://arxiv.org/abs/1802.04434).
""",
)
MEMBERS = (SIGNUM,)
