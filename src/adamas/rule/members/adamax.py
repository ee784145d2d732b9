"""Adamax."""

from __future__ import annotations

from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, bias_corrections
from ..declaration import Hypers, Member, Number, Numbers, Scalars
from ..sentence import Sentence


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    c, _ = bias_corrections(hyper, scalars["step"])
    return {"a1": beta1, "b1": 1 - beta1, "a2": beta2, "c": c, "eps": hyper["eps"]}


ADAMAX = Member(
    name="Adamax",
    title="Adamax (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 2), with PyTorch's ε beside |g|.",
    equations=(
        r"m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \qquad "
        r"p_t = p_{t-1} - \eta \frac{m_t}{(1 - \beta_1^t) v_t}"
    ),
    hyperparameters=(
        Number("lr", 2e-3, "learning rate η", may_be_scheduled=True),
        BETAS,
        EPS,
        BIAS_CORRECTION,
    ),
    make_rule=lambda hyper: Sentence(first=True, second="size", use_first=True),
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_inf"},
)
MEMBERS = (ADAMAX,)
