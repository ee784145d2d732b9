"""Sums that do not depend on how their terms are shared out."""

from __future__ import annotations

import math
from typing import Any

Array = Any


def summed(x: Array) -> list[float]:
    """The sum of a float64 array of one dimension, as a few numbers to be added.

    Terms are added in pairs, and what each addition rounds off is added up beside them (TwoSum: Knuth, The Art of Computer
    Programming, section 4.2.2). So the sum is as exact as with twice the digits, and the parts of an array add up to what the
    whole array does. Where it is not finite, it is one number.
    """
    lost = 0 * x
    rest = []  # an odd last term of each round, and what was rounded off in it
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
