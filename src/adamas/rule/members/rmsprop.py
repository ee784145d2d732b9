"""RMSprop."""

from __future__ import annotations

from typing import Any

from ..corrections import EPS, EPS_ROOT
from ..declaration import Flag, Hypers, Member, Number, Numbers, Rule, Scalars, Share
from ..sentence import Sentence


def _rule(hyper: Hypers) -> Rule:
    centered = bool(hyper["centered"])
    return Sentence(
        first=centered, second="square", centered=centered, trace=bool(hyper["momentum"]), use_gradient=True
    )


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    alpha = hyper["alpha"]
    return {
        "a1": alpha,
        "b1": 1 - alpha,
        "a2": alpha,
        "b2": 1 - alpha,
        "d": 1.0,
        "z": 1.0,
        "w": 1.0,
        "eps": hyper["eps"],
        "root": hyper.get("eps_root", 0.0),
        "q": hyper["momentum"],
    }


RMSPROP = Member(
    name="RMSprop",
    title="RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).",
    equations=(
        r"v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t} + \epsilon}"
    ),
    hyperparameters=(
        Number("lr", 1e-2, "learning rate η", may_be_scheduled=True),
        Share("alpha", 0.99, "α"),
        EPS,
        Number("momentum", 0.0, "averages the quotient", structural=True),
        Flag("centered", False, "divide by the variance of the gradient", structural=True),
        EPS_ROOT,
    ),
    make_rule=_rule,
    numbers=_numbers,
    names={"first": "grad_avg", "second": "square_avg", "trace": "momentum_buffer"},
)
MEMBERS = (RMSPROP,)
