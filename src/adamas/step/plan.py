"""One parameter group as the engine takes it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .. import _engine
from ..rule import layout
from ..rule.declaration import Member, Numbers, has_penalty
from .engine import EngineRule

Row: TypeAlias = tuple[float, ...]  # the scalars of a parameter: its step first
Change: TypeAlias = tuple[dict[Any, Any], Any, Any]  # a dictionary, a key and the value that it is to have
Advance: TypeAlias = Callable[[Row], tuple[Numbers, Row]]  # the numbers of its next step, and what they become


class Plan:
    """One parameter group as the engine takes it, for as long as its tensors and options stay the same.

    Args:
        member: of the family.
        options: the group's hyperparameters.
        tensors: the parameters, in memory that the engine sees.
        states: the state of each.
        names: what error messages call them.
        keys: of their random numbers (``adamas.rule.formats.tensor_key``).
        first_rows: where each begins in the whole tensor that it is a part of; 0 for a whole one.
        as_scalar: what a state keeps for a number that was put into it, or None where it is no single number.
    """

    def __init__(
        self,
        member: Member,
        options: Mapping[str, Any],
        tensors: list[Any],
        states: list[dict[str, Any]],
        names: list[str],
        keys: Sequence[int],
        first_rows: Sequence[int],
        as_scalar: Callable[[Any], Any],
    ) -> None:
        self.rows: list[Row] = []  # the distinct scalars among the parameters of the coming step
        self._advanced: list[tuple[Numbers, Row]] = []
        self._rule, slots = EngineRule(member.rule(options)), member.state_names(options)
        self._group = _engine.Group(
            list(zip(tensors, states, names, keys, first_rows, strict=True)),
            self._rule.index,
            has_penalty(options),
            options["weights"],
            list(slots),
            [layout.scale_name(name) for name in slots],
            layout.LOW_BITS if options["weights"] == "split" else None,
            [name for name, _ in member.scalars],
            as_scalar,
        )

    def collect(self, gradients: list[Any] | None = None) -> None:
        """Looks up the tensors of all parameters that have a gradient: one of these, or, without any, their own.

        Raises:
            ValueError: a tensor cannot be used; the message names the parameter.
        """
        self.rows = self._group.collect(gradients)

    def discard(self) -> None:
        """Lets go of what was collected."""
        self._group.discard()

    def collected(self) -> list[Any]:
        """The parameters that were collected."""
        return self._group.collected()

    def most_steps(self) -> float:
        """The most steps that a parameter that was collected has made; -1 where there is none."""
        return max((row[0] for row in self.rows), default=-1.0)

    @abstractmethod
    def has_zero_gradients(self) -> bool:
        """Whether every gradient that was collected is 0 everywhere."""

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """Σg² of what was collected, as numbers to be added, and the name of the first parameter whose gradient is not
        finite, or None."""
        high, low, culprit = self._group.square_sum(threads)
        return [high, low] if math.isfinite(high) else [high], culprit  # what an infinite sum lacks is NaN

    def prepare(self, advance: Advance) -> None:
        """Computes the numbers of the coming step for what was collected."""
        self._advanced = [advance(row) for row in self.rows]

    def reached(self) -> int:
        """The highest step that a parameter will have reached, 0 where none was prepared."""
        most = 0.0
        for _, row in self._advanced:
            if row[0] > most:
                most = row[0]
        return int(most)

    def step_elsewhere(self) -> None:
        """Steps what was prepared and the engine does not step; called before the engine steps the rest."""


def step(plans: Sequence[Plan], threads: int, changes: list[Change]) -> None:
    """Steps what was prepared, and makes the changes: in one call of the engine, so that an exception from a signal handler
    comes before or after all of it. What is stepped elsewhere is stepped before that, one parameter after the other."""
    for plan in plans:
        plan.step_elsewhere()
    moving = [plan for plan in plans if plan._advanced]
    _engine.step(
        [plan._group for plan in moving],
        [[plan._rule.at(numbers) for numbers, _ in plan._advanced] for plan in moving],
        [[row for _, row in plan._advanced] for plan in moving],
        threads,
        changes,
    )


def refuse_shared_memory(plans: Sequence[Plan]) -> None:
    """Raises ValueError if a gradient that was collected lies in the memory of a weight or a state, which the step changes.

    Each element of a weight may be its own gradient.
    """
    _engine.refuse_shared_memory([plan._group for plan in plans])
