"""Sums that do not depend on how their terms are partitioned."""

from __future__ import annotations

import math
from typing import Any

Array = Any


def two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """x + y and its rounding error (TwoSum: Knuth, The Art of Computer Programming, section 4.2.2)."""
    total = x + y
    from_y = total - x
    return total, (x - (total - from_y)) + (y - from_y)


def added(x: Array, lost: Array, y: Array, more_lost: Array) -> tuple[Array, Array]:
    """The sum of two sums, each with what it has lost by rounding, which is summed separately."""
    total, error = two_sum(x, y)
    return total, lost + more_lost + error


def summed(x: Array) -> list[float]:
    """The sum of a one-dimensional float64 array, as a few numbers to be added; one number if it is not finite.

    Terms are added in pairs, and the rounding error of each addition is summed separately. The sum is therefore as accurate as
    with twice the digits, and the sums of the parts of an array add up to the sum of the whole.
    """
    rest = _in_pairs(x, 0 * x)
    sums = [float(total) for total, _ in rest]
    return [*sums, *(float(lost) for _, lost in rest)] if all(map(math.isfinite, sums)) else [sum(sums)]


def sum_of_sums(x: Array, lost: Array) -> tuple[Array, Array]:
    """The sum of the sums in one-dimensional arrays, as ``added`` adds two of them: an array without dimensions, and what it
    has lost."""
    (total, error), *rest = _in_pairs(x, lost)
    for other, more in rest:
        total, error = added(total, error, other, more)
    return total, error


def _in_pairs(x: Array, lost: Array) -> list[tuple[Array, Array]]:
    """Sums that are left after neighbours were added until there are none, each with what it has lost."""
    rest = []  # the last sum of each round with an odd number of them
    while len(x) > 1:
        if len(x) % 2:
            rest.append((x[-1], lost[-1]))
            x, lost = x[:-1], lost[:-1]
        x, lost = added(x[::2], lost[::2], x[1::2], lost[1::2])
    return [*rest, *zip(x, lost, strict=True)]


def in_parts(high: float, low: float) -> list[float]:
    """A sum in two parts, or in one if it is not finite, since ``low`` is NaN then."""
    return [high, low] if math.isfinite(high) else [high]
