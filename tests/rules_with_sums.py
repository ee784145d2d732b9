"""Members whose rules name sums, for tests: a trust ratio of each tensor, and updates measured over all tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adamas.rule.corrections import redeclared
from adamas.rule.declaration import Hypers, Numbers, OwnRule, Scalars, Sum
from adamas.rule.members import MEMBERS
from adamas.rule.sentence import Sentence
from adamas.rule.shared import DECAY

ADAM = Sentence(first=True, second="square", use_first=True)
ADAM_MEMBER = MEMBERS["Adam"]
NAMES = {"first": "exp_avg", "second": "exp_avg_sq"}


def _direction(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> tuple[Any, ...]:
    update, *after = ADAM.update(k, xp, p, g, *states)
    return update + k.decay * p, *after


def _squared(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> Any:
    direction = _direction(k, xp, p, g, *states)[0]
    return direction * direction


def _trusted(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> tuple[Any, ...]:
    direction, *after = _direction(k, xp, p, g, *states)
    return k.trust * direction, *after


def _trust(k: Any, f: Any) -> Numbers:
    known = f.minimum(k.weights, k.updates) > 0
    (trust,) = f.either(known, lambda: (f.sqrt(k.weights / k.updates),), lambda: (1.0,))
    return {"trust": trust}


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    decay = hyper["weight_decay"] if hyper["decay"] == "update" else 0.0
    return ADAM_MEMBER.numbers(hyper, scalars, f) | {"decay": decay}


# LAMB (You et al., 2019, arXiv:1904.00962, algorithm 2): the decay is a part of what the trust ratio measures.
_LAMB = OwnRule(
    "lamb",
    ADAM.states,
    (*ADAM.numbers, "decay"),
    _trusted,
    (Sum("weights", "tensor", lambda k, xp, p, g, *states: p * p), Sum("updates", "tensor", _squared)),
    _trust,
)
LAMB = replace(
    ADAM_MEMBER,
    name="lamb",
    make_rule=lambda hyper: _LAMB,
    numbers=_numbers,
    names=NAMES,
    hyperparameters=(
        *redeclared(ADAM_MEMBER.hyperparameters, "amsgrad", structural=False),
        replace(DECAY, default="update", choices=("update", *DECAY.choices), elsewhere={}),
    ),
)


def _update(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> Any:
    return ADAM.update(k, xp, p, g, *states)[0]


def _square(x: Any) -> Any:
    return x * x


def _measured(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> tuple[Any, ...]:
    update, *after = ADAM.update(k, xp, p, g, *states)
    return (update - k.total / k.count) / k.spread, *after


# Updates with mean 0 and variance 1 over all tensors: the third sum uses the two before it.
_STANDARDIZED = OwnRule(
    "standardized",
    ADAM.states,
    ADAM.numbers,
    _measured,
    (
        Sum("count", "all", lambda k, xp, p, g, *states: 0 * g + 1),
        Sum("total", "all", _update),
        Sum("squares", "all", lambda k, xp, *x: _square(_update(k, xp, *x) - k.total / k.count)),
    ),
    lambda k, f: {"spread": f.sqrt(k.squares / k.count)},
)
STANDARDIZED = replace(ADAM_MEMBER, name="standardized", make_rule=lambda hyper: _STANDARDIZED, names=NAMES)

RULES = (_LAMB, _STANDARDIZED)
