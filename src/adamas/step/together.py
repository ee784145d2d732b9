"""Steps that the devices of several processes decide about together, without any host waiting for them.

Each process gives a row of numbers about the coming step, and all of them get the rows of all in one exchange between the
devices. Each device then computes the same from them.

A process that cannot make the step says so in its row, and raises its error. The devices of all processes skip the step. The
hosts of the others learn of it at the following step: before anything is exchanged, each reads a copy of the rows, which was
sent while the host went on, and raises. The process that has raised before raises again, so that all of them go on with the
same exchanges: those of the step after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .deciding import total_of
from .inspection import DEVICE, Peers, Row
from .record import Tensor


class Shared(NamedTuple):
    """What all processes know together about a step, on the device.

    Attributes:
        squares: for each process Σg² of what it counts, in a tensor with what the sum has lost by rounding.
        is_skipped: whether a gradient is not finite where this skips the step.
        is_stopped: whether the step cannot be made, or a loss scaler found a gradient that is not finite.
        steps: the most steps that a parameter has made.
        reached: the most steps that a parameter will have made, if the step is made.
        loss: the mean of the losses.
    """

    squares: Sequence[Tensor]
    is_skipped: Tensor
    is_stopped: Tensor
    steps: Tensor
    reached: Tensor
    loss: Tensor


class Together:
    """The processes whose devices decide about steps together.

    Args:
        formulas: the functions of the device.
        peers: the processes.

    Attributes:
        formulas: the argument ``formulas``.
        peers: the argument ``peers``.
    """

    def __init__(self, formulas: Any, peers: Peers) -> None:
        self.formulas, self.peers = formulas, peers
        self._zero, self._there, self._yes = map(formulas.number, (0.0, float(DEVICE), 1.0))
        self._unread: Callable[[], list[list[float]]] | None = None  # the rows of the last step
        self._failure: str | None = None
        self._is_told = False  # whether it was raised outside of a step

    def row(
        self,
        squares: Sequence[Tensor],
        is_skipped: Tensor | None,
        overflow: Any,
        steps: Tensor,
        made: Sequence[Tensor],
        loss: Any,
    ) -> Tensor:
        """What is known here about the coming step.

        Args:
            squares: sums whose sum is Σg², each in a tensor with what it has lost.
            is_skipped: whether a gradient is not finite where this skips the step; None if nothing is skipped for that.
            overflow: whether a loss scaler found a gradient that is not finite; None without one.
            steps: the most steps that a parameter has made.
            made: the steps that parameters with gradients have made.
            loss: the loss; None if it is not known.

        Raises:
            Exception: the loss is no number.
        """
        f = self.formulas
        total, lost = total_of(f, squares)
        known = Row(
            overflow=None if overflow is None else f.number(overflow != 0),
            skip=is_skipped,
            steps=steps,
            reached=f.stack(made).max() + 1 if made else None,
            total=total,
            lost=lost,
            loss=None if loss is None else f.number(loss),
            has_loss=None if loss is None else self._yes,
        )
        return self._row(known)

    def share(self, row: Tensor) -> Shared:
        """Exchanges the row of this process for those of all. From here on, nothing that only one process does may fail."""
        f, rows = self.formulas, self._exchange(row)
        every = Row(*rows.T)
        has_failed = (every.problem != 0) | (every.decides != DEVICE)
        total = f.where(has_failed, math.nan, every.total)  # what is missing leaves the norm unknown
        return Shared(
            list(f.stack([total, every.lost]).T),
            (every.skip != 0).any(),
            (has_failed | (every.overflow != 0)).any(),
            every.steps.max(),
            every.reached.max(),
            every.loss.sum() / every.has_loss.sum(),
        )

    def give_up(self) -> None:
        """Tells the other processes that this one cannot make the coming step, about which it is going to raise."""
        self._exchange(self._row(Row(problem=self._yes)))
        self._is_told = True

    def _row(self, known: Row) -> Tensor:
        numbers = [self._zero if x is None or type(x) is float else x for x in known._replace(decides=self._there)]
        row: Tensor = self.formulas.stack([x.to(self._zero.dtype) for x in numbers])
        return row

    def _exchange(self, row: Tensor) -> Tensor:
        rows = self.peers.exchanged(row)
        self._unread, self._failure, self._is_told = self.formulas.read_later(rows), None, False
        return rows

    def failure(self) -> str | None:
        """Why the last step was skipped by all processes, if one of them could not make it; else None.

        The host waits until that step has begun on the device.
        """
        if self._unread is not None:
            rows, self._unread = [Row(*row) for row in self._unread()], None
            self._failure = self._failure_in(rows)
        return self._failure

    def _failure_in(self, rows: Sequence[Row]) -> str | None:
        number = 1 + int(max(row.steps for row in rows))
        for i, row in enumerate(rows):
            if row.problem:
                what = f"{self.peers.named(i)} could not make step {number}, and raised an error about it"
            elif row.decides != DEVICE:
                what = f"{self.peers.named(i)} left step {number} to its host, while the devices of others decided about it"
            else:
                continue
            return f"{what}; all ranks skipped that step"
        return None

    def tell(self) -> None:
        """Raises RuntimeError if the last step was skipped by all processes, unless this was said before.

        The following step raises in any case, as it does in all other processes.
        """
        if (failure := self.failure()) is not None and not self._is_told:
            self._is_told = True
            raise RuntimeError(f"{failure}, and nothing was changed. The following call of step() will say so too")
