"""What a step finds out before it changes anything, and goes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Finding(NamedTuple):
    """What is found out for the parameters of one process, or of all processes that share a model.

    Attributes:
        overflow: whether the loss scaler found a gradient that is not finite.
        is_query: whether the step only makes the state, as ``torch.distributed.checkpoint`` has it made.
        skip: whether a gradient is not finite where ``on_nonfinite="skip"``.
        steps: of several processes with schedules: the most that a parameter has made before; else None.
        reached: of the same: the most that a parameter will have made after it; else 0.
        square_sums: numbers whose sum is Σg²; None where nothing asks for it.
        position: of the process's first parameter among those of all processes.
    """

    overflow: bool = False
    is_query: bool = False
    skip: bool = False
    steps: int | None = None
    reached: int = 0
    square_sums: Sequence[float] | None = None
    position: int = 0


class Sharers(Protocol):
    """The processes that share a model, of which this is one."""

    def agree(self, found: Finding | None, problem: Exception | None, parameters: int) -> Finding:
        """What was found by all of them.

        Args:
            found: by this process, which has so many ``parameters``; None where there is a problem.
            problem: why this process cannot make the step.

        Raises:
            Exception: one of the processes has a problem. All of them raise.
        """


def in_two(numbers: Sequence[float]) -> tuple[float, float]:
    """The sum of numbers from 0 up as two: the nearest one, and what it lacks."""
    total = math.fsum(numbers)
    return total, math.fsum([*numbers, -total]) if math.isfinite(total) else 0.0
