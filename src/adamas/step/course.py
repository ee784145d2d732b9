"""The usual course of what is watched: the one yardstick of ``optimizer.explain()`` (``adamas.step.explaining``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .watch import Watch
from .watching import Array

# A statistic has left its usual course if its logarithm is SIGMAS robust standard deviations above its median in the WINDOW
# watched steps before. OLMo-core's SkipStepOptimizer skips a step whose loss or gradient is as far from its last 128.
WINDOW = 128
SIGMAS = 6.0
SUSPICIOUS = 2.0  # standard deviations; enough of a loss where something else has left its usual course
LEAST = 16  # the fewest steps that make a usual course: their median absolute deviation is right to about a quarter
LEAST_SPREAD = 0.1  # of a logarithm: even what never varied has to reach exp(6 · 0.1) = 1.8 times its median
YOUNG = 64  # the first steps of training, in which everything leaves where it began, the more so under a warm-up
BLOCK = 8  # consecutive steps that share a usual course, which ends before the first of them
LASTING = (
    8  # steps; what lasts is there in most of them. In most healthy runs, statistics are back on their course after 2
)
MOST = 0.5  # of the steps, of the tensors (the cause is not in one of them), or of the elements (of the whole tensor)
STANDING = 0.9  # of the steps since it began: it has stayed. Noise interrupts it now and then
# Of the gradient of the median tensor: rounding errors of one that is 0, as of a bias before batch normalization. Not of the
# whole gradient, which may be that of one tensor beside which all others would be negligible.
NEGLIGIBLE = 1e-6
SOMETIMES = 0.02  # of the steps: what is a rounding error that often varies about NEGLIGIBLE, and is one at all steps
_NORMAL_MAD = 0.6745  # the median absolute deviation of a normal distribution, in standard deviations


def medians(rows: Array) -> Array:
    """The median of each column, without NaN; NaN if there are fewer than LEAST numbers."""
    ordered, count = np.sort(rows, axis=0), np.isfinite(rows).sum(axis=0)
    low, high = (np.take_along_axis(ordered, i[None], axis=0)[0] for i in (np.maximum(count - 1, 0) // 2, count // 2))
    found: Array = np.where(count >= LEAST, (low + high) / 2, np.nan)
    return found


def middle(values: Array) -> float:
    """The median of the numbers that are known; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan


def log(values: Array) -> Array:
    """Logarithms; NaN of what has none."""
    values = np.asarray(values, np.float64)
    is_positive = np.isfinite(values) & (values > 0)
    found: Array = np.log(values, out=np.full(values.shape, np.nan), where=is_positive)
    return found


def columns(is_there: Any) -> list[int]:
    """The columns where something is there, from one value for each."""
    return [int(i) for i in np.flatnonzero(is_there)]


def lasting(is_there: Array, share: float = MOST) -> Array:
    """Where something is there that is there in this share of the LASTING steps from there on, of which 3 are known."""
    steps = len(is_there)
    known = np.minimum(LASTING, np.arange(steps, 0, -1)).reshape(-1, *[1] * (is_there.ndim - 1))
    count = np.zeros(is_there.shape, np.int64)
    for shift in range(min(LASTING, steps)):
        count[: steps - shift] += is_there[shift:]
    found: Array = is_there & (count >= share * known) & (known >= 3)
    return found


def standing(is_there: Array, is_known: Array, least: int = LEAST, share: float = STANDING) -> dict[int, int]:
    """For the columns where something has stayed until the end, for at least so many steps, in this share of those that are
    known: the row since which it has."""
    there, known = (np.cumsum(x[::-1], axis=0)[::-1] for x in (is_there & is_known, is_known))
    stands = is_there & is_known & (known >= least) & (there >= share * known)
    return {i: int(stands[:, i].argmax()) for i in columns(stands.any(axis=0))}


class Course:
    """A statistic and its usual course: the median and the spread of the WINDOW watched steps before.

    Args:
        values: the logarithm of the statistic, with a row for each step; NaN where it is not known.
        young: the number of rows at the beginning that nothing is measured by: those of the first YOUNG steps of training.
        least_spread: the least standard deviation.

    Attributes:
        values: the argument ``values``.
        median: the usual value at each step; NaN while there are fewer than LEAST that are not young.
        spread: the standard deviation of a normal distribution with the same median absolute deviation.
    """

    def __init__(self, values: Array, young: int = 0, least_spread: float = LEAST_SPREAD) -> None:
        self.values = values
        self.median, self.spread = np.full((2, *values.shape), np.nan)
        for first in range(young + LEAST, len(values), BLOCK):
            before, here = values[max(young, first - WINDOW) : first], slice(first, first + BLOCK)
            self.median[here] = median = medians(before)
            self.spread[here] = np.maximum(medians(np.abs(before - median)) / _NORMAL_MAD, least_spread)

    @cached_property
    def sigmas(self) -> Array:
        """How far each value is from the usual one, in standard deviations; NaN where that is not known."""
        found: Array = (self.values - self.median) / self.spread
        return found

    @cached_property
    def rose(self) -> Array:
        """Where a value is above its usual course."""
        found: Array = self.sigmas > SIGMAS
        return found


class History:
    """The steps that were watched and made, without those that were skipped.

    Args:
        watch: the statistics.
        options: the hyperparameters of each tensor.
        is_whole: whether it has every watched step since the optimizer was made or loaded.

    Attributes:
        watch: the argument ``watch``.
        options: the argument ``options``.
        is_whole: the argument ``is_whole``.
        is_negligible: where the gradient of a tensor is a rounding error.
        steps: the number of each step.
        young: how many of them, at the beginning, are the first YOUNG of training.
    """

    def __init__(self, watch: Watch, options: Sequence[Mapping[str, Any]], is_whole: bool) -> None:
        self.watch, self.options, self.is_whole = watch, options, is_whole
        self._is_made = watch.per_step["skipped"] != 1
        self.steps = watch.steps[self._is_made]
        self.young = int(np.cumprod(self.steps <= YOUNG).sum())
        gradient = watch["grad_norm"][self._is_made]
        usual = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in gradient])
        self.is_negligible = (gradient > 0) & (gradient < NEGLIGIBLE * usual[:, None])

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.steps)

    def per_step(self, name: str) -> Array:
        """A statistic of ``Watch.per_step``."""
        found: Array = self.watch.per_step[name][self._is_made]
        return found

    def __getitem__(self, name: str) -> Array:
        """A statistic of ``Watch``, NaN where the gradient of a tensor is a rounding error."""
        found: Array = self.watch[name][self._is_made].astype(np.float64)
        found[self.is_negligible] = np.nan
        return found

    def _course(self, values: Array) -> Course:
        return Course(values, self.young)

    @cached_property
    def gradient(self) -> Course:
        """The norm of each tensor's gradient."""
        return self._course(log(self["grad_norm"]))

    @cached_property
    def update(self) -> Course:
        """The norm of each tensor's update."""
        return self._course(log(self["update_norm"]))

    @cached_property
    def scale(self) -> Course:
        """How much 1/√v enlarges each tensor's gradient."""
        return self._course(log(self["rms"]) - self.gradient.values - log(self.per_step("clip"))[:, None])

    @cached_property
    def whole_gradient(self) -> Course:
        """The norm of the whole gradient, one column."""
        return self._course(log(self.per_step("grad_norm"))[:, None])

    @property
    def has_loss(self) -> bool:
        """Whether the optimizer got a loss that has a usual course: one that is never negative. Others, as those of
        reinforcement learning, need not fall."""
        loss = self.per_step("loss")
        return bool(np.isfinite(loss).any() and not (loss < 0).any())

    @cached_property
    def loss(self) -> Course:
        """The loss, one column."""
        return self._course(log(self.per_step("loss"))[:, None])

    def rises(self, sigmas: float) -> list[int]:
        """The rows from which the loss, or the norm of the gradient without one, is so far up and stays there."""
        course = self.loss if self.has_loss else self.whole_gradient
        is_up = lasting(course.sigmas[:, 0] > sigmas)
        return columns(is_up & ~np.append(False, is_up[:-1]))

    def names(self, tensors: Sequence[int]) -> str:
        """The names of tensors as a part of a sentence."""
        names = [self.watch.names[i] for i in tensors]
        if len(names) == len(self.watch.names) > 1:
            return f"all {len(names)} tensors"
        if len(names) > 3:
            names = [*names[:2], f"{len(names) - 2} more tensors"]
        return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
