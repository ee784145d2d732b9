"""Hyperparameters that are schedules. A group holds the numbers of the present step, and beside them what gives those."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..schedules import Schedule
from ..schedules.plateau import Observed

SCHEDULES = "schedules"  # of a group: name → Schedule
WRITTEN = "scheduled"  # of a group: name → the number that the schedule gave last, and the one before
OBSERVED = "plateaus"  # of a saved group: the states of what its schedules have observed

_BETAS = ("betas[0]", "betas[1]")


class Range(NamedTuple):
    """What a number has to be, as a condition and in words."""

    holds: Callable[[float], bool]
    words: str


_NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "a number from 0 up")
_BETA = Range(lambda x: 0 <= x < 1, "from 0 up to but not including 1")
_RANGES = {
    "lr": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": Range(lambda x: 0 < x < math.inf, "a number above 0"),
    **dict.fromkeys(_BETAS, _BETA),
}

_FOLLOWER = ". A trainer that requires a scheduler takes adamas.torch.LRScheduler(optimizer), which changes nothing"

HYPERPARAMETERS = ("lr", "weight_decay", "max_grad_norm", "betas")  # in which a schedule may stand


def steps_done(states: Iterable[dict[str, Any]]) -> int:
    """How many steps the states have seen: the most of any parameter."""
    return max((int(state["step"]) for state in states if "step" in state), default=0)


def given(group: dict[str, Any]) -> dict[str, Any]:
    """The group's schedules by the names of what they give: those that stand in the place of a number, and those that were
    separated before."""
    schedules = dict(group.get(SCHEDULES, {}))
    for name, value in group.items():
        if name == "betas":
            schedules.update({_BETAS[i]: beta for i, beta in enumerate(value) if isinstance(beta, Schedule)})
        elif isinstance(value, Schedule):
            schedules[name] = value
    return schedules


def separate(group: dict[str, Any], step: int) -> None:
    """Puts numbers in the place of the group's schedules, which go to ``group["schedules"]``.

    Raises:
        ValueError: a hyperparameter that cannot be scheduled is a schedule, or a schedule gives a number out of range.
    """
    schedules = given(group)
    if schedules.keys() - _RANGES.keys():
        name = min(schedules.keys() - _RANGES.keys())
        raise ValueError(f"{name} cannot be a schedule; these can: {', '.join(_RANGES)}")
    if schedules:
        group[SCHEDULES], group[WRITTEN] = schedules, {}
        refresh(group, step)


def refresh(group: dict[str, Any], step: int) -> None:
    """Makes the group's numbers those of the step.

    Raises:
        ValueError: a schedule gives a number out of range.
    """
    schedules: dict[str, Schedule] = group.get(SCHEDULES, {})
    if not schedules:
        return
    held, written = is_held(group), group[WRITTEN]
    for name, schedule in schedules.items():
        if held and name == "lr":
            continue
        number = schedule(step)
        holds, words = _RANGES[name]
        if not holds(number):
            raise ValueError(f"{name} must be {words}, and {schedule!r} gives {number} at step {step}")
        last, before = written.get(name, (number, number))
        written[name] = (number, last if last != number else before)
        _set(group, name, number)


def is_held(group: dict[str, Any]) -> bool:
    """Whether a scheduled rate was set to 0, as ``torch.distributed.checkpoint`` does for a step that moves nothing."""
    return bool(group["lr"] == 0 and 0 not in group.get(WRITTEN, {}).get("lr", (0,)))


def is_untouched(group: dict[str, Any]) -> bool:
    """Whether the scheduled numbers are those that ``refresh`` has written."""
    for name, (last, _) in group.get(WRITTEN, {}).items():  # noqa: SIM110 - all() takes 0.3 µs more
        if _get(group, name) != last:
            return False
    return True


def verify(group: dict[str, Any], may_hold: bool = True) -> None:
    """Raises ValueError if anything but ``refresh`` has written a scheduled number of the group.

    Accepted are the previous number, which a caller that made a step of its own may have restored, and a rate of 0, once.
    """
    for name, numbers in group.get(WRITTEN, {}).items():
        if _get(group, name) not in numbers and not (name == "lr" and may_hold and is_held(group)):
            raise ValueError(
                f"{name} is given by {group[SCHEDULES][name]!r}, and was set to {_get(group, name)} by something else "
                f"(another scheduler?): leave it to one of the two{_FOLLOWER if name == 'lr' else ''}"
            )


def refuse_lr_scale(group: dict[str, Any], schedule: Schedule) -> None:
    """Raises ValueError if the group has an ``lr_scale``, by which the schedulers of timm multiply its rate."""
    if "lr_scale" in group:
        scale = group["lr_scale"]
        raise ValueError(
            f"lr_scale={scale} of a parameter group is read by the schedulers of timm, and not by {schedule!r}: give the "
            f"group a schedule of its own, {scale} * that one, and take lr_scale out of it"
        )


def value_at(group: dict[str, Any], name: str, step: int) -> float:
    """What a hyperparameter of the group is at a step."""
    schedules: dict[str, Schedule] = group.get(SCHEDULES, {})
    return float(schedules[name](step) if name in schedules else _get(group, name))


def observed(group: dict[str, Any]) -> Iterator[Observed]:
    """What the group's schedules have in them that observes a metric."""
    for schedule in group.get(SCHEDULES, {}).values():
        yield from (part for part in schedule.parts() if isinstance(part, Observed))


def to_saved(group: dict[str, Any]) -> None:
    """Takes out of a copy of a group what is not saved, and puts in what its schedules have observed."""
    states = [part.state_dict() for part in observed(group)]
    group.pop(SCHEDULES, None), group.pop(WRITTEN, None)
    if states:
        group[OBSERVED] = states


def load_observed(group: dict[str, Any], states: list[dict[str, Any]]) -> None:
    """Gives what the group's schedules observe the saved states, in the order in which they stand."""
    for part, state in zip(observed(group), states, strict=False):
        part.load_state_dict(state)


def _get(group: dict[str, Any], name: str) -> Any:
    return group["betas"][_BETAS.index(name)] if name in _BETAS else group[name]


def _set(group: dict[str, Any], name: str, number: float) -> None:
    if name in _BETAS:
        betas = list(group["betas"])
        betas[_BETAS.index(name)] = number
        group["betas"] = tuple(betas)
    else:
        group[name] = number
