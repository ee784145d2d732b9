"""LaProp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, EPS_ROOT, bias_corrections, denominator, learning_rate
from ..declaration import Hypers, Member, Numbers, Scalars
from ..sentence import Sentence
from ..shared import DECAY, WEIGHT_DECAY


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    c, w = bias_corrections(hyper, scalars["step"])
    eta = f.number(hyper["lr"]) * c
    return {"a2": beta2, "b2": 1 - beta2, "d": 1 - beta1, **denominator(hyper, w, f), "q": beta1, "eta": eta}


LAPROP = Member(
    name="LaProp",
    title="LaProp (Ziyin, Wang and Ueda, 2020, arXiv:2002.04839, algorithm 1): momentum after the division.",
    equations=(
        r"v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2",
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad "
        r"p_t = p_{t-1} - \eta \frac{m_t}{1 - \beta_1^t}",
    ),
    hyperparameters=(
        *(learning_rate(4e-4), BETAS, replace(EPS, default=1e-15, elsewhere={})),
        *(WEIGHT_DECAY, replace(DECAY, default="decoupled")),
        *(replace(EPS_MODE, elsewhere={}), BIAS_CORRECTION, EPS_ROOT),
    ),
    make_rule=lambda hyper: Sentence(second="square", use_gradient=True, trace=True),
    numbers=_numbers,
    names={"trace": "exp_avg_normalized", "second": "exp_avg_sq"},
    page=r"""
AdamW that divides each gradient by its size before it is averaged. Its update is at most the learning rate times $1/\sqrt{1 -
\beta_2}$ for any betas, while Adam's is unbounded if β₁² > β₂. So β₂ can be lower. Source: [Ziyin, Wang and Ueda,
2020](https://arxiv.org/abs/2002.04839).
""",
)
MEMBERS = (LAPROP,)
