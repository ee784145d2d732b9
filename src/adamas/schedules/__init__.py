"""Learning rates and other hyperparameters as functions of the step.

    >>> from adamas.schedules import cosine, warmup
    >>> lr = 3e-4 * warmup(1000).then(cosine(9000, end=0.1))
    >>> lr(500), lr(1000), lr(10_000)
    (0.00015, 0.0003, 2.9999999999999997e-05)

A schedule is an immutable value: it can be printed, parsed from its ``repr`` (``parse``), compared, pickled and written as
JSON, and evaluated at any step, in any order. A schedule alone is a factor; multiplied by a number it is a learning rate. The
optimizers take one in place of a number.

Imports only NumPy.
"""

from .expression import ScheduleError, parse
from .plateau import Feedback, Plateau
from .schedule import Schedule, from_json
from .shapes import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    from_function,
    inverse_sqrt,
    inverse_time,
    linear,
    multistep,
    one_cycle,
    piecewise,
    polynomial,
    power,
    step,
    trapezoid,
    triangular,
    warmup,
)

__all__ = [
    "Feedback",
    "Plateau",
    "Schedule",
    "ScheduleError",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "from_function",
    "from_json",
    "inverse_sqrt",
    "inverse_time",
    "linear",
    "multistep",
    "one_cycle",
    "parse",
    "piecewise",
    "polynomial",
    "power",
    "step",
    "trapezoid",
    "triangular",
    "warmup",
]
