"""What a step learns before it changes anything, and what the processes that share a model agree on."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Inspection(NamedTuple):
    """What is known before the step about the parameters of one process, or of all processes that share a model.

    Attributes:
        overflow: whether the loss scaler found a nonfinite gradient.
        is_query: whether the step only creates the state, as ``torch.distributed.checkpoint`` does.
        skip: whether a gradient is nonfinite in a group with ``on_nonfinite="skip"``.
        steps: the most steps that a parameter has made so far, if several processes have schedules; else None.
        reached: the most steps that a parameter will have made after this one, in the same case; else 0.
        square_sums: numbers whose sum is Σg²; None if it is not needed.
        positions: the position of each process's first parameter among those of all processes; empty unless each has
            parameters of its own.
        exchange: whether processes are to exchange gradients, and to inspect the parameters after that.
        loss: the loss; of several processes its mean over those that have one; None if none has.
        is_for_devices: whether the devices of all processes can decide about the step together (``adamas.step.together``).
        apart: if the devices of some processes decide about the step, and this process leaves it to the host: what that means,
            for a message. No process makes the step then.
    """

    overflow: bool = False
    is_query: bool = False
    skip: bool = False
    steps: int | None = None
    reached: int = 0
    square_sums: Sequence[float] | None = None
    positions: Sequence[int] = ()
    exchange: bool = False
    loss: float | None = None
    is_for_devices: bool = False
    apart: str = ""


HOST, WILLING, DEVICE = range(3)  # see ``Row.decides``


class Row(NamedTuple):
    """What a process tells the others about a step: numbers, or float64 tensors without dimensions on its device.

    Attributes:
        problem: whether it cannot make the step.
        decides: where it decides about the step: ``HOST`` if only the host can; ``WILLING`` if the host does, but the device
            could; ``DEVICE``.
        overflow: see ``Inspection``, as for the next four.
        is_query: whether the step only creates the state.
        skip: whether a gradient is nonfinite where that skips the step.
        steps: the most steps that a parameter has made so far.
        reached: the most steps that a parameter will have made after this one.
        total: the sum of the squares of its gradients.
        lost: what that sum has lost by rounding.
        parameters: the number of its parameters.
        checksum: of what it is about to exchange; negative if these are gradients.
        loss: its loss; 0 if it has none.
        has_loss: whether it has one.
    """

    problem: Any = 0.0
    decides: Any = 0.0
    overflow: Any = 0.0
    is_query: Any = 0.0
    skip: Any = 0.0
    steps: Any = 0.0
    reached: Any = 0.0
    total: Any = 0.0
    lost: Any = 0.0
    parameters: Any = 0.0
    checksum: Any = 0.0
    loss: Any = 0.0
    has_loss: Any = 0.0


class Peers(Protocol):
    """The processes that share a model, this one among them."""

    @property
    def ranks(self) -> Sequence[int]:
        """The numbers of the processes, in order."""

    def agree(
        self,
        seen: Inspection | None,
        problem: Exception | None,
        parameters: int,
        misplaced: Sequence[Any] = (),
        shared: Sequence[Any] = (),
        is_willing: bool = False,
    ) -> Inspection:
        """The combined inspection of all processes.

        Args:
            seen: the inspection of this process; None if there is a problem, or there are gradients to exchange first.
            problem: why this process cannot make the step; None if it can.
            parameters: the number of parameters that this process has; each is counted by the first that has it.
            misplaced: the gradients that this process is to exchange first.
            shared: what it exchanges in the step (``Stepping._shared_parts``).
            is_willing: whether the device of this process could decide about the step.

        Raises:
            Exception: one of the processes has a problem. All of them raise, unless there is an ``Inspection.apart``.
        """

    def exchanged(self, row: Any) -> Any:
        """The rows of all processes, in an order that is the same for all, from the row of this one.

        They are tensors on the device, and the host does not wait for them if that device communicates.
        """

    def named(self, index: int) -> str:
        """The process whose row has this index, for messages."""

    def added(self, sums: Mapping[Hashable, Sequence[float]], problem: Exception | None) -> Mapping[Hashable, float]:
        """For each key, the sum of the numbers that all processes have under it.

        Args:
            sums: the numbers of this process.
            problem: why this process cannot make the step; None if it can.

        Raises:
            Exception: one of the processes has a problem. All of them raise.
        """


def sum_in_two(numbers: Sequence[float]) -> tuple[float, float]:
    """The sum of the numbers in two parts: the nearest float, and the remainder."""
    total = math.fsum(numbers)
    return total, math.fsum([*numbers, -total]) if math.isfinite(total) else 0.0


def added_up(terms: Mapping[Hashable, Sequence[float]]) -> dict[Hashable, float]:
    """The sum of the numbers under each key, rounded once."""
    return {key: _sum(numbers) for key, numbers in terms.items()}


def _sum(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # the sum is above the largest float, or there are infinities of both signs
        return sum(numbers)
