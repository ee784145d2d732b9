"""Sums that do not depend on how their terms are partitioned."""

from __future__ import annotations

import math
from typing import Any

Array = Any


def summed(x: Array) -> list[float]:
    """The sum of a one-dimensional float64 array, as a few numbers to be added; one number if it is not finite.

    Terms are added in pairs, and the rounding error of each addition is summed separately (TwoSum: Knuth, The Art of Computer
    Programming, section 4.2.2). The sum is therefore as accurate as with twice the digits, and the sums of the parts of an
    array add up to the sum of the whole.
    """
    lost = 0 * x
    rest = []  # of each round, the last term if their number is odd, and the rounding errors
    while len(x) > 1:
        if len(x) % 2:
            rest.append((x[-1], lost[-1]))
            x, lost = x[:-1], lost[:-1]
        a, b = x[::2], x[1::2]
        x = a + b
        from_b = x - a
        lost = lost[::2] + lost[1::2] + ((a - (x - from_b)) + (b - from_b))
    rest += zip(x, lost, strict=True)
    sums = [float(total) for total, _ in rest]
    return [*sums, *(float(rounded) for _, rounded in rest)] if all(map(math.isfinite, sums)) else [sum(sums)]
