"""AdaGrad."""

from __future__ import annotations

from typing import Any

from ..corrections import EPS_ROOT
from ..declaration import Hypers, Member, Number, Numbers, Scalars
from ..sentence import Sentence


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    eta = f.number(hyper["lr"]) / (1 + (scalars["step"] - 1) * hyper["lr_decay"])
    return {
        "a2": 1.0,
        "b2": 1.0,
        "d": 1.0,
        "w": 1.0,
        "eps": hyper["eps"],
        "root": hyper.get("eps_root", 0.0),
        "eta": eta,
    }


ADAGRAD = Member(
    name="Adagrad",
    title="AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.",
    equations=r"v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{1 + (t-1) \gamma} \frac{g_t}{\sqrt{v_t} + \epsilon}",
    hyperparameters=(
        Number("lr", 1e-2, "learning rate η", may_be_scheduled=True),
        Number("lr_decay", 0.0, "γ"),
        Number("initial_accumulator_value", 0.0, "v₀"),
        Number("eps", 1e-10, "ε"),
        EPS_ROOT,
    ),
    make_rule=lambda hyper: Sentence(second="square", use_gradient=True),
    numbers=_numbers,
    names={"second": "sum"},
    starts={"second": "initial_accumulator_value"},
)
MEMBERS = (ADAGRAD,)
