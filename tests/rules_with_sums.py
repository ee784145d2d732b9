"""Members whose rules name sums, for tests: a trust ratio of each tensor, and updates measured over all tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adamas.rule.declaration import Member, OwnRule, Sum
from adamas.rule.members import MEMBERS
from adamas.rule.sentence import Sentence

ADAM = Sentence(first=True, second="square", use_first=True)


def _update(k: Any, xp: Any, g: Any, *states: Any) -> Any:
    return ADAM.update(k, xp, g, *states)[0]


def _member(name: str, function: Any, sums: tuple[Sum, ...]) -> Member:
    rule = OwnRule(name, ADAM.states, ADAM.numbers, function, sums)
    names = {"first": "exp_avg", "second": "exp_avg_sq"}
    return replace(MEMBERS["Adam"], name=name, make_rule=lambda hyper: rule, names=names)


def _trusted(k: Any, xp: Any, g: Any, *states: Any) -> tuple[Any, ...]:
    update, *after = ADAM.update(k, xp, g, *states)
    ratio = (k.weights / k.updates) ** 0.5 if k.weights > 0 and k.updates > 0 else 1.0
    return ratio * update, *after


# LAMB (You et al., 2019, arXiv:1904.00962, algorithm 2), without weight decay.
LAMB = _member(
    "lamb",
    _trusted,
    (
        Sum("weights", "tensor", lambda k, xp, p, g, *states: p * p),
        Sum("updates", "tensor", lambda k, xp, p, g, *states: _update(k, xp, g, *states) ** 2),
    ),
)


def _measured(k: Any, xp: Any, g: Any, *states: Any) -> tuple[Any, ...]:
    update, *after = ADAM.update(k, xp, g, *states)
    return (update - k.total / k.count) / (k.squares / k.count) ** 0.5, *after


# Updates with mean 0 and variance 1 over all tensors: the third sum uses the two before it.
STANDARDIZED = _member(
    "standardized",
    _measured,
    (
        Sum("count", "all", lambda k, xp, p, g, *states: 0 * p + 1),
        Sum("total", "all", lambda k, xp, p, g, *states: _update(k, xp, g, *states)),
        Sum("squares", "all", lambda k, xp, p, g, *states: (_update(k, xp, g, *states) - k.total / k.count) ** 2),
    ),
)
