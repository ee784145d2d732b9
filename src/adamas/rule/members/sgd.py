"""Gradient descent and its momentum."""

from __future__ import annotations

from typing import Any

from ..declaration import Flag, Hypers, Member, Number, Numbers, Rule, Scalars
from ..sentence import Sentence


def _rule(hyper: Hypers) -> Rule:
    if not hyper["momentum"]:
        return Sentence(use_gradient=True)
    return Sentence(first=True, use_first=True, use_gradient=bool(hyper["nesterov"]))


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    (damping,) = f.either(scalars["step"] > 1, lambda: (hyper["dampening"],), lambda: (0.0,))
    mu = hyper["momentum"]
    return {"a1": mu, "b1": 1 - damping, "c": mu if hyper["nesterov"] else 1.0, "d": 1.0}


SGD = Member(
    name="SGD",
    title="Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013).",
    equations=r"m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad p_t = p_{t-1} - \eta m_t",
    hyperparameters=(
        Number("lr", 1e-3, "learning rate η", may_be_scheduled=True),
        Number("momentum", 0.0, "μ", structural=True),
        Number("dampening", 0.0, "τ"),
        Flag("nesterov", False, "use Nesterov's momentum", structural=True),
    ),
    make_rule=_rule,
    numbers=_numbers,
    names={"first": "momentum_buffer"},
)
MEMBERS = (SGD,)
