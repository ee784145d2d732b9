"""The steps of one member over a NumPy vector: schedules read, the rule applied in float64.

Imports NumPy and what is below the adapters. There is no arithmetic here: it is that of ``adamas.rule``.
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
        member: of ``adamas.rule.members``.
        hyper: what ``adamas.rule.hyperparameters.checked`` gave.
        n: length of the vector.

    Attributes:
        done: how many steps were done.
        lr: the learning rate of the last step; before the first, that of the first.
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
        assert isinstance(h, Number)  # no other can be a schedule
        return scheduled_number(h, place, value, self.done)

    def step(self, x: Vector, gradient: Vector) -> Vector:
        """The vector after a step along the gradient at it, in float64; ``x`` is left as it is.

        Raises:
            ValueError: a schedule gives a number that its hyperparameter cannot be.
        """
        now = self._now()
        self._scalars = self._member.advance(now, self._scalars)
        numbers = self._member.numbers_of(now, self._scalars)
        rule = self._member.rule(now).at(numbers)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the caller looks at what comes of it
            after, self._moments = house.step(
                rule, SimpleNamespace(**numbers), np, x, gradient, self._moments, has_penalty(now)
            )
        self.done += 1
        self.lr = float(now["lr"])
        is_still = numbers["eta"] == 0 and numbers["k"] == 1  # whatever the gradient was
        return x if is_still else np.asarray(after)
