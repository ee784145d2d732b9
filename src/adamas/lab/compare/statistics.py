"""The statistics of a comparison: intervals, paired tests, Holm's correction, and the range of rates that are nearly as good.

May import NumPy; SciPy only inside the functions, as it takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")
LEVEL = 0.05  # the significance level; intervals have the confidence 1 - LEVEL
NEGLIGIBLE = 1e-6  # differences below this share of the target do not count: metrics come from float32 numbers
NEARLY = 0.05  # the share of the best value within which a rate counts as nearly as good


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean with Student's 95% interval around it, m ± t(n-1)·s/√n; for a single value the interval is NaN."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return mean, math.nan, math.nan
    from scipy import stats

    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return mean, mean - half, mean + half


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of the paired t-test of equal means; values with the same index have the same seed.

    If the differences have no spread, t is infinite or 0/0, and three seeds would prove what metrics in steps of 1/360 give by
    chance. In that case p is 1 if the differences are 0; 0 if neither sequence has any spread, as nothing depends on the seed;
    and otherwise that of the sign test, 2·(1/2)ⁿ, which only says that all n seeds agree.
    """
    differences = np.subtract(first, second)
    size = float(np.max(np.abs([first, second])))
    if np.ptp(differences) > 1e-12 * size:
        from scipy import stats

        return float(stats.ttest_rel(first, second).pvalue)
    if float(np.max(np.abs(differences))) <= 1e-12 * size:
        return 1.0
    if np.ptp(first) == np.ptp(second) == 0:
        return 0.0
    return min(1.0, 2 * 0.5 ** len(differences))


def is_negligible(difference: float, target: float) -> bool:
    """Whether a difference of two metrics is at most NEGLIGIBLE of the target's magnitude, and therefore meaningless."""
    return abs(difference) <= NEGLIGIBLE * abs(target)


def middle(equals: Sequence[T]) -> T:
    """Return the one in the middle, of two the first."""
    return equals[(len(equals) - 1) // 2]


def holm(p: Sequence[float]) -> list[float]:
    """Return each p adjusted for their number, so that the probability of any false difference stays below LEVEL.

    Holm, A simple sequentially rejective multiple test procedure, 1979: the i-th smallest of m (from 0) is multiplied by
    m - i, and is at least as large as those before it.
    """
    adjusted = [1.0] * len(p)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, (len(p) - place) * p[index])
        adjusted[index] = min(1.0, highest)
    return adjusted


def nearly_best(
    rates: Sequence[float], values: Sequence[float | None], mode: Literal["max", "min"], target: float
) -> tuple[int, float, float] | None:
    """Find the rates around the best one that are nearly as good: worse than the best value by at most 5% of its magnitude, or
    by at most NEGLIGIBLE of the target's.

    Between a rate inside the range and the next one outside, the border is interpolated, linearly in the value and the
    logarithm of the rate. If the next rate has no value or was not tried, the range ends at the last one inside.

    Args:
        rates: the rates, in ascending order.
        values: the metric at each rate; None if the run has none.
        mode: whether high or low is better.
        target: the target metric, which determines what difference is negligible.

    Returns:
        The index of the best rate (of those that differ negligibly, the one in the middle) and the range; None if no
        rate has a value.
    """
    sign = 1 if mode == "min" else -1
    losses = [math.inf if value is None else sign * value for value in values]
    if not losses or min(losses) == math.inf:
        return None
    least = min(losses)
    border = least + max(NEARLY * abs(least), NEGLIGIBLE * abs(target))
    best = middle([index for index, loss in enumerate(losses) if is_negligible(loss - least, target)])

    def end(step: int) -> float:
        index = best
        while 0 <= index + step < len(rates) and losses[index + step] <= border:
            index += step
        beyond = index + step
        if not 0 <= beyond < len(rates) or losses[beyond] == math.inf:
            return rates[index]
        share = (border - losses[index]) / (losses[beyond] - losses[index])
        return float(rates[index] * (rates[beyond] / rates[index]) ** share)

    return best, end(-1), end(1)
