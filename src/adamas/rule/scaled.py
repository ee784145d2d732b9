"""Adam's update as rules take it that scale it by a number for each tensor, the decay that is scaled with it, and the sums of
squares that such numbers are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .declaration import Array, Hypers, Numbers, OwnRule, Sum
from .sentence import Sentence
from .shared import DECAY

ADAM = Sentence(first=True, second="square", use_first=True)
UPDATE_DECAY = replace(DECAY, default="update", choices=("update", *DECAY.choices), elsewhere={"keras": "decoupled"})


def decay_of(hyper: Hypers) -> Numbers:
    """The coefficient of the decay that is a part of the update, as the number ``decay``."""
    return {"decay": hyper["weight_decay"] if hyper["decay"] == "update" else 0.0}


def decayed_update(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
    """Adam's update with the decay, followed by the new states."""
    update, *after = ADAM.update(k, xp, p, g, *states)
    return update + k.decay * p, *after


def scaled_adam(name: str, sums: tuple[Sum, ...], measured: Any, numbers: tuple[str, ...] = ()) -> OwnRule:
    """The rule whose update is Adam's with the decay, times the number ``trust``.

    Args:
        name: its name.
        sums: its sums.
        measured: computes ``trust`` from the sums, see ``adamas.rule.declaration.Rule.from_sums``.
        numbers: the names of the numbers that the sums need besides Adam's.
    """

    def update(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        update, *after = decayed_update(k, xp, p, g, *states)
        return k.trust * update, *after

    return OwnRule(name, ADAM.states, (*ADAM.numbers, "decay", *numbers), update, sums, measured)


def of_weight(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
    """The term of the squared norm of the weight."""
    return p * p


def of_gradient(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
    """The term of the squared norm of the gradient."""
    return g * g


def squares(update: Callable[..., tuple[Array, ...]]) -> Callable[..., Array]:
    """The term of the squared norm of an update, which a rule's function ``update`` returns first."""

    def of_update(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
        u, *_ = update(k, xp, p, g, *states)
        return u * u

    return of_update


def at_most_1(number: str, square: str) -> Callable[[Any, Any], Numbers]:
    """Computes the number by which a norm has to be multiplied to be at most 1, from its square, a sum."""
    return lambda k, f: {number: 1 / f.maximum(f.sqrt(getattr(k, square)), 1.0)}
