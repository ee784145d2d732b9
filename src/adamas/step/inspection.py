"""What a step learns before it changes anything, and what the processes that share a model agree on."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol


class Inspection(NamedTuple):
    """What is known before the step, of the parameters of one process or of all processes that share a model.

    Attributes:
        overflow: whether the loss scaler found a gradient that is not finite.
        is_query: whether the step only makes the state, as ``torch.distributed.checkpoint`` has it made.
        skip: whether a gradient is not finite where ``on_nonfinite="skip"``.
        steps: if several processes have schedules, the most steps that a parameter has made so far; else None.
        reached: likewise, the most steps that a parameter will have made after this one; else 0.
        square_sums: numbers whose sum is Σg²; None if nothing asks for it.
        position: of the process's first parameter among those of all processes.
    """

    overflow: bool = False
    is_query: bool = False
    skip: bool = False
    steps: int | None = None
    reached: int = 0
    square_sums: Sequence[float] | None = None
    position: int = 0


class Peers(Protocol):
    """The processes that share a model, this one among them."""

    def agree(self, seen: Inspection | None, problem: Exception | None, parameters: int) -> Inspection:
        """What all of them have seen together.

        Args:
            seen: by this process, which has so many ``parameters``; None if there is a problem.
            problem: why this process cannot make the step.

        Raises:
            Exception: one of the processes has a problem. All of them raise.
        """

    def added(self, sums: Mapping[Hashable, Sequence[float]], problem: Exception | None) -> Mapping[Hashable, float]:
        """The sums of all of them, each the sum of the numbers that the processes have under the same key.

        Args:
            sums: of this process.
            problem: why this process cannot make the step.

        Raises:
            Exception: one of the processes has a problem. All of them raise.
        """


def sum_in_two(numbers: Sequence[float]) -> tuple[float, float]:
    """The sum of numbers as two: the nearest one, and what it lacks."""
    total = math.fsum(numbers)
    return total, math.fsum([*numbers, -total]) if math.isfinite(total) else 0.0


def added_up(terms: Mapping[Hashable, Sequence[float]]) -> dict[Hashable, float]:
    """The sum of the numbers under each key, rounded once."""
    return {key: _sum(numbers) for key, numbers in terms.items()}


def _sum(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # beyond the largest number, or infinities of both signs
        return sum(numbers)
