"""The steps of one member over a NumPy vector: reads schedules, and applies the rule in float64.

Imports NumPy and the packages below the adapters. The arithmetic is that of ``adamas.rule``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..rule import house
from ..rule.declaration import Member, Number, has_penalty
from ..rule.hyperparameters import scheduled_number
from ..rule.shared import declared
from ..schedules import Schedule

Vector: TypeAlias = npt.NDArray[Any]


class Stepper:
    """A member's state for one vector, and its next step.

    Args:
        member: a member of ``adamas.rule.members``.
        hyper: its hyperparameters, from ``adamas.rule.hyperparameters.checked``.
        n: the length of the vector.

    Attributes:
        done: the number of steps done.
        lr: the learning rate of the last step; before the first step, that of the first.
    """

    def __init__(self, member: Member, hyper: Mapping[str, Any], n: int) -> None:
        lr = hyper["lr"]
        self._member, self._hyper = member, {**hyper, "maximize": False}
        self._hyper["base_lr"] = lr.unit if isinstance(lr, Schedule) else lr
        self._scalars = dict(member.scalars)
        self.done = 0
        names = member.state_names(self._hyper)
        self._moments: tuple[Vector, ...] = tuple(np.full(n, member.start_of(name, hyper)) for name in names)
        self.lr = float(self._now()["lr"])

    def _now(self) -> dict[str, Any]:
        """The hyperparameters of the next step, as numbers."""
        return {name: self._at(name, name, value) for name, value in self._hyper.items()}

    def _at(self, name: str, place: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._at(name, f"{name}[{i}]", one) for i, one in enumerate(value))
        if not isinstance(value, Schedule):
            return value
        h = declared(self._member)[name]
        assert isinstance(h, Number)  # only numbers can be scheduled
        return scheduled_number(h, place, value, self.done)

    def evaluated(self, x: Vector) -> Vector:
        """The vector that is the result, for a vector that was stepped: another one in schedule-free members."""
        offset = self._member.offset
        return x if offset is None else x - self._moments[self._member.state_names(self._hyper).index(offset)]

    def step(self, x: Vector, gradient: Vector) -> Vector:
        """The vector after a step, in float64; ``x`` is not modified.

        Raises:
            ValueError: a schedule gives a number that is out of range for its hyperparameter.
        """
        now = self._now()
        self._scalars = self._member.advance(now, self._scalars)
        numbers = self._member.numbers_of(now, self._scalars)
        rule = self._member.rule(now).at(numbers)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the caller checks the result
            given = np, x, gradient, self._moments, has_penalty(now)
            numbers = house.with_sums(rule, numbers, *given)
            self._scalars |= {name: numbers[name] for name in self._member.shared if name in numbers}
            after, self._moments = house.step(rule, SimpleNamespace(**numbers), *given)
        self.done += 1
        self.lr = float(now["lr"])
        is_still = numbers["eta"] == 0 and numbers["k"] == 1  # x does not move, whatever the gradient is
        return x if is_still else np.asarray(after)
