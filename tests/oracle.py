"""The oracle: a member's rule over NumPy in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from adamas.rule import house
from adamas.rule.declaration import Member, has_penalty

Array = np.ndarray


def step(
    member: Member, hyper: Mapping[str, Any], scalars: Mapping[str, float], p: Array, g: Array, old: Sequence[Array]
) -> tuple[Array, tuple[Array, ...]]:
    """The weight and the states after a step; a rate of 0 without decay leaves the weight as it is.

    ``scalars`` are those after ``member.advance``, ``old`` the states in the order of the rule's.
    """
    numbers = member.numbers_of(hyper, scalars)
    rule = member.rule(hyper).at(numbers)
    given = np, p, g, tuple(old), has_penalty(hyper)
    weight, new = house.step(rule, SimpleNamespace(**house.with_sums(rule, numbers, *given)), *given)
    return (weight if numbers["eta"] or numbers["k"] != 1 else p), new


def start(member: Member, hyper: Mapping[str, Any], shape: Sequence[int]) -> tuple[Array, ...]:
    """The states before the first step."""
    return tuple(np.full(shape, member.start_of(name, hyper)) for name in member.state_names(hyper))
