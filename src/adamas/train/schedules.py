"""How the learning rate falls over a planned run, by name. May import the standard library only.

Each schedule is a function of the steps taken and the steps planned, and returns the factor on the rate asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Schedule(NamedTuple):
    """A schedule and the words that explain it."""

    explanation: str
    factor: Callable[[int, int], float]


SCHEDULES = {
    "constant": Schedule("the same rate throughout", lambda step, steps: 1.0),
    "exponential": Schedule(
        "falls by the same share at every step, to 1% at the end", lambda step, steps: 0.01 ** (step / steps)
    ),
    "step": Schedule(
        "a tenth after half of the run, a hundredth after three quarters",
        lambda step, steps: 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps)),
    ),
    "cosine": Schedule(
        "falls along half a cosine, to 0 at the end", lambda step, steps: (1 + math.cos(math.pi * step / steps)) / 2
    ),
}
