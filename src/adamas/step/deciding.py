"""What the device of the parameters decides about a step, without the host waiting for it.

That is the gradient's norm and whether it is finite, the clipping, whether the step is made, and what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..rule.exact import sum_of_sums
from .clipping import FEWEST, MOST, MULTIPLE, QUANTILE
from .record import Tensor
from .spikes import Spike


class Decision(NamedTuple):
    """What the device has decided about a step.

    Attributes:
        scales: for each group, the factor of its gradients: a float, or a float64 tensor without dimensions.
        runs: whether the step is made, a boolean tensor without dimensions; None if it is in any case.
        spike: what was decided about it as a spike; None without ``on_spike=``.
        would_run: ``runs`` as it were if it is no spike.
        counts: the numbers of ``Decisions`` that change with the step, each with its value after it.
    """

    scales: Sequence[Any]
    runs: Tensor | None
    spike: Spike | None = None
    would_run: Tensor | None = None
    counts: Sequence[tuple[Tensor, Tensor]] = ()


def total_of(formulas: Any, squares: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of sums on the device, each in a tensor with what it has lost by rounding; and what the sum has lost."""
    if not squares:
        return formulas.number(0.0), formulas.number(0.0)
    return sum_of_sums(*formulas.stack(squares).T)


class Decisions:
    """The numbers that steps decide by, and what they count, on the device.

    All are float64 tensors without dimensions, and are written in place, so that a CUDA graph can be replayed.

    Args:
        formulas: the functions of the device (``adamas.step.namespaces.torch.Formulas``).
        steps: the most steps that a parameter has made.
        clipped_steps: the steps that were clipped so far.
        skipped_steps: the steps that were skipped so far.
        grad_norms: the norms that are remembered, the oldest first.

    Attributes:
        formulas: the argument ``formulas``.
        steps: the most steps that a parameter has made.
        attempted: the same as the host counts it: with the steps that were skipped, and without those of replays.
        grad_norm: the norm of the last gradient that was measured.
        grad_norm_limit: its limit; infinite if there was none.
    """

    def __init__(
        self, formulas: Any, steps: float, clipped_steps: int, skipped_steps: int, grad_norms: Sequence[float]
    ) -> None:
        self.formulas, self.attempted = formulas, int(steps)
        norms = grad_norms[-MOST:]
        numbers = [steps, math.inf, math.inf, clipped_steps, skipped_steps, len(norms)]
        self._all = formulas.uploaded(np.array(numbers, np.float64))
        self.steps, self.grad_norm, self.grad_norm_limit, self._clipped, self._skipped, self._count = self._all
        self._norms = formulas.uploaded(np.array([*norms, *[math.inf] * (MOST - len(norms))], np.float64))
        self._positions = formulas.uploaded(np.arange(MOST, dtype=np.float64))

    def set_steps(self, steps: int) -> None:
        """Sets the most steps that a parameter has made."""
        self.steps.fill_(steps)
        self.attempted = steps

    @property
    def clipped_steps(self) -> int:
        """The number of steps that were clipped. The host waits for it, as for the next two."""
        return int(self._clipped)

    @property
    def skipped_steps(self) -> int:
        """The number of steps that were skipped because of a gradient that is not finite."""
        return int(self._skipped)

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return int(self._all.nbytes + self._norms.nbytes + self._positions.nbytes)

    def add(self, clipped: int, skipped: int) -> None:
        """Adds steps that others have counted."""
        self._clipped += clipped
        self._skipped += skipped

    @property
    def grad_norms(self) -> tuple[float, ...]:
        """The norms that are remembered, the oldest first."""
        norms, count = self._norms.tolist(), int(self._count)
        first = count % MOST
        return tuple(norms[:count] if count < MOST else norms[first:] + norms[:first])

    def decide(
        self,
        norm: Tensor | None,
        is_skipped: Tensor | None,
        limits: Sequence[Any],
        scale: Any,
        overflow: Tensor | None,
        spike: Spike | None = None,
        skips: bool = False,
    ) -> Decision:
        """Decides about a step; ``count`` writes what follows from it.

        Args:
            norm: the norm of the gradient before clipping; None if it is not needed.
            is_skipped: whether a gradient is not finite where this skips the step; None if nothing is skipped for that.
            limits: the ``max_grad_norm`` of each group.
            scale: the factor of all gradients.
            overflow: whether a loss scaler found a gradient that is not finite; None without one.
            spike: what is decided about the step as a spike; None without ``on_spike=``.
            skips: whether spikes are skipped.
        """
        f = self.formulas
        runs = None if overflow is None else overflow == 0
        counts = [] if norm is None else [(self.grad_norm, norm)]
        if is_skipped is not None:
            skipped = is_skipped if runs is None else is_skipped & runs
            counts.append((self._skipped, self._skipped + skipped))
            runs = ~is_skipped if runs is None else runs & ~is_skipped
        would_run = runs
        if spike is not None and skips:
            runs = ~spike.is_spike if runs is None else runs & ~spike.is_spike
        if norm is None:
            return Decision([scale] * len(limits), runs, spike, would_run, counts)
        usual = None
        if "auto" in limits:
            usual = self._usual_limit()
            counts += self._remembered(norm, usual, runs)
        limits = [usual if limit == "auto" else limit for limit in limits]
        factors = [None if limit is None else f.minimum(limit / (norm + 1e-6), 1.0) for limit in limits]
        given = [limit for limit in limits if limit is not None]
        if given:
            lowest = f.number(given[0])
            for limit in given[1:]:
                lowest = f.minimum(lowest, limit)
            least = f.stack([factor for factor in factors if factor is not None])
            clipped = (least != 1).any()
            clipped = clipped if runs is None else clipped & runs
            counts += [(self.grad_norm_limit, lowest), (self._clipped, self._clipped + clipped)]
        if spike is not None:
            factors = [spike.gradient if factor is None else f.minimum(factor, spike.gradient) for factor in factors]
        scales = [scale if factor is None else scale * factor for factor in factors]
        return Decision(scales, runs, spike, would_run, counts)

    def without_spike(self, decision: Decision, spike: Spike) -> Decision:
        """The decision, but that the step is skipped if it is this spike: then it counts neither as clipped nor as usual."""
        f, measured = self.formulas, (self.grad_norm, self.grad_norm_limit)
        is_skipped = spike.is_spike if decision.would_run is None else spike.is_spike & decision.would_run
        counts = [
            (number, value if any(number is one for one in measured) else f.where(is_skipped, number, value))
            for number, value in decision.counts
        ]
        runs = ~spike.is_spike if decision.runs is None else decision.runs & ~spike.is_spike
        return decision._replace(spike=spike, runs=runs, counts=counts)

    def count(self, decision: Decision, reached: Sequence[Tensor]) -> None:
        """Counts a step that was made, or skipped.

        Args:
            decision: what was decided about it.
            reached: the steps that parameters have made after it.
        """
        for number, value in decision.counts:
            number.copy_(value)
        if reached:
            self.steps.copy_(self.formulas.maximum(self.steps, self.formulas.stack(reached).max()))

    def norm_of(self, squares: Sequence[Tensor]) -> Tensor:
        """The root of sums whose sum is Σg², each in a tensor with what it has lost."""
        f = self.formulas
        total, lost = total_of(f, squares)
        norm: Tensor = f.sqrt(f.where(f.isfinite(total), total + lost, total))
        return norm

    def _usual_limit(self) -> Tensor:
        """See ``adamas.step.clipping.usual_limit``. What is not remembered yet is infinite, and comes last."""
        f = self.formulas
        count = f.minimum(self._count, float(MOST))
        chosen = f.where(self._positions == f.ceil(QUANTILE * count) - 1, f.sorted(self._norms), 0.0).sum()
        return f.where(count < FEWEST, math.inf, MULTIPLE * chosen)

    def _remembered(self, norm: Tensor, limit: Tensor, runs: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """The norms after the step and their number: see ``adamas.step.clipping.remember``."""
        f = self.formulas
        counts = (norm > 0) & (norm < math.inf)
        counts = counts if runs is None else counts & runs
        is_next = (self._positions == self._count % MOST) & counts
        norms = f.where(is_next, f.minimum(norm, limit), self._norms)
        return [(self._norms, norms), (self._count, self._count + counts)]
