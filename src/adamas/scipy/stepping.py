"""The steps of one member over a NumPy vector: schedules read, the rule applied in float64.

Imports NumPy and what is below the adapters. There is no arithmetic here: it is that of ``adamas.family`` and ``adamas.rule``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import rule_before as rule
from ..family import Member
from ..rule.hyperparameters import number
from ..schedules import Schedule

Vector: TypeAlias = npt.NDArray[Any]

# What every member takes beside its own hyperparameters; "decay" is what weight_decay means, as in adamas.torch.
COMMON: dict[str, Any] = {"weight_decay": 0.0, "decay": "l2", "l1": 0.0}

_SCHEDULED = ("lr", "weight_decay", "betas")


class Stepper:
    """A member's state for one vector, and its next step.

    Args:
        member: of ``adamas.family``.
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
        start = float(hyper.get("initial_accumulator_value", 0.0))
        names = member.state_names(self._hyper)
        fills = (0.0, start, 0.0, 0.0)
        self._moments = rule.Moments(
            *(None if name is None else np.full(n, fill) for name, fill in zip(names, fills, strict=True))
        )
        self.lr = float(self._now()["lr"])

    def _now(self) -> dict[str, Any]:
        """The hyperparameters of the next step, as numbers."""
        now = dict(self._hyper)
        for name in _SCHEDULED:
            value = now.get(name)
            if isinstance(value, Schedule):
                now[name] = number(f"{name} at step {self.done}, by {value!r},", value(self.done))
            elif isinstance(value, tuple):
                now[name] = tuple(
                    number(f"{name}[{i}] at step {self.done}, by {beta!r},", beta(self.done), below=1.0)
                    if isinstance(beta, Schedule)
                    else beta
                    for i, beta in enumerate(value)
                )
        return now

    def step(self, x: Vector, gradient: Vector) -> Vector:
        """The vector after a step along the gradient at it, in float64; ``x`` is left as it is.

        Raises:
            ValueError: a schedule gives a number that its hyperparameter cannot be.
        """
        now = self._now()
        self._scalars = self._member.advance(now, self._scalars)
        numbers = self._member.full_coefficients(now, self._scalars)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the caller looks at what comes of it
            after, self._moments = rule.step(numbers, self._member.full_shape(now), np, x, gradient, self._moments)
        self.done += 1
        self.lr = float(now["lr"])
        return np.asarray(after)
