"""Adam, AdamW and AMSGrad."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, EPS_ROOT, bias_corrections, placed_eps
from ..declaration import Flag, Hypers, Member, Number, Numbers, Rule, Scalars
from ..sentence import Sentence


def _rule(hyper: Hypers) -> Rule:
    return Sentence(first=True, second="square", maximum=bool(hyper["amsgrad"]), use_first=True)


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    c, w = bias_corrections(hyper, scalars["step"])
    return {
        "a1": beta1,
        "b1": 1 - beta1,
        "a2": beta2,
        "b2": 1 - beta2,
        "c": c,
        "w": w,
        "eps": placed_eps(hyper, w, f),
        "root": hyper.get("eps_root", 0.0),
    }


ADAM = Member(
    name="Adam",
    title="Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1).",
    equations=(
        r"m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad "
        r"p_t = p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}"
    ),
    hyperparameters=(
        Number("lr", 1e-3, "learning rate η", may_be_scheduled=True),
        BETAS,
        EPS,
        Flag(
            "amsgrad",
            False,
            "divide by the largest v so far (Reddi, Kale and Kumar, 2018, arXiv:1904.09237)",
            structural=True,
        ),
        BIAS_CORRECTION,
        EPS_MODE,
        EPS_ROOT,
    ),
    make_rule=_rule,
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq", "maximum": "max_exp_avg_sq"},
)
ADAMW = replace(
    ADAM,
    name="AdamW",
    title="AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with decoupled weight decay.",
    weight_decay=1e-2,
    decay="decoupled",
    variant_of="Adam",
)
MEMBERS = (ADAM, ADAMW)
