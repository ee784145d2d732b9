"""Schedules of the learning rate of a run: by name, and as expressions. May import adamas.schedules and adamas.lab.inputs.

A name stands for a schedule over all planned steps; in an expression the numbers of steps are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adamas.lab.inputs import InputError, choose
from adamas.schedules import (
    Plateau,
    Schedule,
    ScheduleError,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    inverse_time,
    linear,
    multistep,
    one_cycle,
    parse,
    polynomial,
    trapezoid,
    triangular,
    warmup,
)
from adamas.schedules.expression import names


class Named(NamedTuple):
    """The explanation of a name, and its schedule as a function of the planned steps."""

    explanation: str
    over: Callable[[int], Schedule]


def _tenth(steps: int) -> int:
    return max(1, steps // 10)


SCHEDULES = {
    "constant": Named("the same rate throughout", lambda steps: constant()),
    "exponential": Named(
        "falls by the same share at every step, to 1% at the end", lambda steps: exponential(0.01, every=steps)
    ),
    "step": Named(
        "a tenth after half of the run, a hundredth after three quarters",
        lambda steps: multistep([steps / 2, 3 * steps / 4], factor=0.1),
    ),
    "cosine": Named("falls along half a cosine, to 0 at the end", cosine),
    "linear": Named("falls on a line, to 0 at the end", linear),
    "polynomial": Named(
        "falls as the square of what is left, to 0 at the end", lambda steps: polynomial(steps, power=2)
    ),
    "inverse_time": Named("falls as 1 / (1 + 9t), to a tenth at the end", lambda steps: inverse_time(9, every=steps)),
    "warmup": Named("rises from 0 over the first tenth of the run", lambda steps: warmup(_tenth(steps))),
    "warmup_cosine": Named(
        "rises from 0 over the first tenth, and falls along half a cosine to 0 at the end",
        lambda steps: warmup(_tenth(steps)).then(cosine(max(1, steps - _tenth(steps)))),
    ),
    "inverse_sqrt": Named(
        "rises from 0 over the first tenth, and falls as 1 / √t from there",
        lambda steps: warmup(_tenth(steps)) * inverse_sqrt(_tenth(steps)),
    ),
    "trapezoid": Named(
        "rises from 0 over the first tenth, stays, and falls to 0 over the last fifth",
        lambda steps: trapezoid(steps, warmup=steps // 10, decay=steps // 5),
    ),
    "one_cycle": Named("rises from 4% over 30% of the run, and falls to almost 0 at the end", one_cycle),
    "cosine_restarts": Named(
        "falls along half a cosine three times, each twice as long as the last",
        lambda steps: cosine_restarts(steps / 7, multiplier=2),
    ),
    "triangular": Named(
        "rises from a tenth and falls back to it, four times", lambda steps: triangular(steps / 8, low=0.1)
    ),
}


def plateaus(schedule: Schedule) -> list[Plateau]:
    """The plateaus that are part of a schedule."""
    return [part for part in schedule.parts() if isinstance(part, Plateau)]


def too_patient(schedule: Schedule, evaluations: int) -> str | None:
    """Say which plateau of a schedule cannot take effect in a run of so few evaluations, if there is one.

    The first evaluation is what others are compared with, and a cut after the last one changes nothing.
    """
    patient = [plateau.patience for plateau in plateaus(schedule) if plateau.patience + 2 >= evaluations]
    if not patient:
        return None
    patience = max(patient)
    return (
        f"A plateau with patience={patience} cannot take effect: that needs more than {patience + 2} evaluations, and the run "
        f"has {evaluations} (--eval-every, or a smaller patience)."
    )


def choose_schedule(text: str, steps: int, parameter: str = "schedule") -> Schedule:
    """Return the schedule of a name or an expression for a run of that many steps.

    Raises:
        InputError: it is neither; names the parameter.
    """
    if text in SCHEDULES:
        return SCHEDULES[text].over(steps)
    if text.isidentifier() and text not in names():
        choose(parameter, text, SCHEDULES)
    try:
        return parse(text)
    except ScheduleError as error:
        raise InputError(parameter, f"cannot be read: {error.problem}", error.marked) from error
