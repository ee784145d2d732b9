"""Hyperparameters that are schedules. A group holds the numbers of the present step; the schedules are kept outside of it.

Other libraries (``torch.distributed``, Lightning) copy, flatten and save the entries of a group, and write them back on load.
So a group has only numbers and text, and always under the same names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from ..rule.declaration import Member, Number, Several
from ..rule.hyperparameters import scheduled_number, shown
from ..rule.shared import declared, schedulable
from ..schedules import Schedule
from ..schedules.plateau import Observed
from ..schedules.schedule import Traced
from .record import Change, Tensor

OBSERVED = "plateaus"  # the entry with what the schedules of a group have observed, as JSON; None if that is nothing

_FOLLOWER = ". A trainer that requires a scheduler takes adamas.torch.LRScheduler(optimizer), which changes nothing"


def steps_done(states: Iterable[dict[str, Any]]) -> int:
    """The number of steps done: the largest step count in the states."""
    return max((_count(state["step"]) for state in states if "step" in state), default=0)


def _count(step: Any) -> int:
    if not 0 <= float(step) < math.inf:
        raise ValueError(f"the 'step' of a state must be a nonnegative number, not {float(step)}")
    return int(step)


class GroupSchedules:
    """The schedules of one parameter group, which itself holds their numbers.

    Attributes:
        member: the member of the family.
        group: the parameter group.
        schedules: the schedules by the names of their hyperparameters, with an index where one has several numbers:
            ``"betas[0]"``.
    """

    def __init__(self, member: Member, group: dict[str, Any], schedules: Mapping[str, Schedule] | None = None) -> None:
        self.member = member
        self.group = group
        self.schedules = dict(schedules or {})
        # By name: the last number of the schedule, and the one before it.
        self._written: dict[str, tuple[float, float]] = {}
        self._observed: str | None = None  # what it has written as ``group["plateaus"]``
        # On a device that counts the steps: its functions and its count, the numbers by name, and the factors that react to
        # a metric.
        self._clock: tuple[Any, Tensor] | None = None
        self._there: dict[str, _NumberThere] = {}
        self._factors: list[tuple[Observed, Tensor]] = []

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not the member, which has functions, and which the optimizer gives back."""
        kept = {name: value for name, value in vars(self).items() if name != "member"}
        return {**kept, "_clock": None, "_there": {}, "_factors": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores what was copied or pickled."""
        vars(self).update(
            {name: value for name, value in state.items() if name != "member"}
        )  # in former files, its name

    def separate(self, states: Iterable[dict[str, Any]]) -> None:
        """Replaces schedules in the group by their numbers for the coming step.

        ``states`` has the states of all parameters. They are searched only if there is a schedule, since many groups may be
        added one after the other.

        Raises:
            ValueError: a hyperparameter that cannot be scheduled is a schedule, or a schedule gives a number out of range.
        """
        known = declared(self.member)
        for name, value in self.group.items():
            h = known.get(name)
            if isinstance(h, Several) and isinstance(value, Sequence):
                found = {f"{name}[{i}]": share for i, share in enumerate(value) if isinstance(share, Schedule)}
            else:
                found = {name: value} if isinstance(value, Schedule) else {}
            if found and not (h and h.may_be_scheduled):
                raise ValueError(f"{name} cannot be a schedule; these can: {', '.join(schedulable(self.member))}")
            self.schedules.update(found)
        self._written.clear()
        self.end_there()
        if self.schedules:
            self.refresh(steps_done(states))
        self.write_observed()

    def refresh(self, step: int) -> None:
        """Writes the numbers of a step into the group.

        Raises:
            ValueError: a schedule gives a number out of range.
        """
        for dictionary, key, value in self.refreshed(step):
            dictionary[key] = value

    def refreshed(self, step: int) -> list[Change]:
        """The changes that ``refresh`` makes."""
        held, written = self.is_held(), self._written
        changes: list[Change] = []
        several: dict[str, list[Any]] = {}  # the numbers of those that have more than one
        for name in self.schedules:
            if held and name == "lr":
                continue
            of, index = _place(name)
            if self._there:
                number, before = self._there[name].number, self._there[name].before
            else:
                number = self._number_at(name, step)
                last, before = written.get(name, (number, number))
                before = last if last != number else before
            changes.append((written, name, (number, before)))
            if index is None:
                changes.append((self.group, name, number))
            else:
                several.setdefault(of, list(self.group[of]))[index] = number
        return changes + [(self.group, name, tuple(numbers)) for name, numbers in several.items()]

    def _number_at(self, name: str, step: int) -> float:
        """The number of a schedule at a step.

        Raises:
            ValueError: it is out of range.
        """
        h = declared(self.member)[_place(name)[0]]
        assert isinstance(h, Number)  # only numbers can be scheduled
        return scheduled_number(h, name, self.schedules[name], step)

    def check_at(self, step: int) -> None:
        """Raises ValueError if a schedule gives a number out of range at a step."""
        for name in self.schedules:
            self._number_at(name, step)

    # ---- on a device that counts the steps

    def in_numbers(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of a packed group that the device computes, with the numbers as floats. The host waits for them.

        What something else has written there is not among them.
        """
        found = {_place(name)[0] for name in self._there}
        values = {name: self.group[name] for name in found if packed.get(name) is self.group[name]}
        return {name: tuple(map(float, x)) if isinstance(x, tuple) else float(x) for name, x in values.items()}

    def begin_there(self, formulas: Any, step: Tensor) -> None:
        """Lets the device compute the scheduled numbers from this step on. The group then has tensors.

        It also tells the device the factors that react to a metric.
        """
        is_first = not self._there
        if is_first:
            self._there = {name: _NumberThere(formulas) for name in self.schedules}
            self._factors = [(part, formulas.number(0.0)) for part in self.observed()]
        for part, factor in self._factors:
            factor.fill_(part.value)
        self._clock = formulas, step
        self.compute_there()
        if is_first:
            for one in self._there.values():
                one.before.copy_(one.number)

    @property
    def are_there(self) -> bool:
        """Whether the device computes the scheduled numbers."""
        return len(self._there) == len(self.schedules)

    @property
    def tensors_there(self) -> Any:
        """What holds the tensors that the device computes the numbers with."""
        return self._there, self._factors

    def end_there(self) -> None:
        """Lets the host compute the scheduled numbers again; the next ``refresh`` writes them."""
        self._clock, self._there, self._factors = None, {}, []

    def compute_there(self) -> None:
        """Computes the scheduled numbers of the coming step on the device, in place."""
        for name, one in self._there.items():
            one.write(self._computed_there(name))

    def _computed_there(self, name: str) -> Any:
        assert self._clock is not None
        formulas, step = self._clock
        return self.schedules[name].over(step, Traced(formulas, self._factors))

    def is_held(self) -> bool:
        """Whether a scheduled rate was set to 0, as ``torch.distributed.checkpoint`` does for a step without movement."""
        if "lr" not in self._written or _get(self.group, "lr") is self._written["lr"][0]:
            return False
        return bool(self.group["lr"] == 0 and 0 not in self._written["lr"])

    def is_untouched(self) -> bool:
        """Whether the group still has the numbers and observations that were written last."""
        for name, (last, _) in self._written.items():
            number = _get(self.group, name)
            if number is not last and (self._there or number != last):
                return False
        for one in self._there.values():
            if not one.is_untouched:
                return False
        return self.group.get(OBSERVED) is self._observed

    def verify(self, may_hold: bool = True) -> None:
        """Raises ValueError if anything but ``refresh`` has written a scheduled number of the group.

        Accepted: the previous number, which a caller may have restored, and a rate of 0, once.
        """
        for name, numbers in self._written.items():
            if name in self._there and not self._there[name].is_untouched:  # the tensor has another number by now
                numbers = self._computed_there(name), self._there[name].before
            if all(_differ(_get(self.group, name), one) for one in numbers) and not (
                name == "lr" and may_hold and self.is_held()
            ):
                raise ValueError(
                    f"{name} is given by {self.schedules[name]!r}, and was set to {_get(self.group, name)} by something else "
                    f"(another scheduler?): leave it to one of the two{_FOLLOWER if name == 'lr' else ''}"
                )

    def forget(self) -> None:
        """Makes the next ``verify`` accept any numbers."""
        self._written.clear()

    def value_at(self, name: str, step: int) -> float:
        """The value of a hyperparameter of the group at a step."""
        return float(self.schedules[name](step) if name in self.schedules else _get(self.group, name))

    def scheduled_shares(self) -> tuple[str, ...]:
        """The names of the hyperparameters with several decay rates, one or more of which are scheduled."""
        return tuple({of: None for of, index in map(_place, self.schedules) if index is not None})

    def shares_at(self, name: str, step: int) -> tuple[float, ...]:
        """The numbers of such a hyperparameter at a step."""
        return tuple(self.value_at(f"{name}[{i}]", step) for i in range(len(self.group[name])))

    def observed(self) -> Iterator[Observed]:
        """The parts of the schedules that observe a metric."""
        for schedule in self.schedules.values():
            yield from (part for part in schedule.parts() if isinstance(part, Observed))

    def write_observed(self) -> None:
        """Writes what was observed into the group."""
        states = [part.state_dict() for part in self.observed()]
        self._observed = self.group[OBSERVED] = json.dumps(states) if states else None

    def read_observed(self) -> None:
        """Restores what was observed from the group, if something else has written it there.

        Raises:
            ValueError: the value was not written by ``write_observed``, or belongs to other schedules.
        """
        given = self.group.get(OBSERVED)
        if given is not self._observed:
            self.load_observed(given)

    def load_observed(self, given: str | None) -> None:
        """Restores what was observed from a value of ``group["plateaus"]``.

        Raises:
            ValueError: the value was not written by ``write_observed``, or belongs to other schedules.
        """
        for part, state in zip(self.observed(), _read(given), strict=False):
            part.load_state_dict(state)
        self.write_observed()


class _NumberThere:
    """A scheduled number on a device that counts the steps, which is written in place.

    Args:
        formulas: the functions of the device.

    Attributes:
        number: the number of the coming step, a float64 tensor without dimensions.
        before: the last number before it, as another one.
    """

    def __init__(self, formulas: Any) -> None:
        self.number, self.before = formulas.number(0.0), formulas.number(0.0)
        self._version_of: Callable[[Tensor], int] = formulas.version
        self._version = -1

    def write(self, number: Any) -> None:
        """Writes the number of the next step."""
        self.before.copy_(self.number)
        self.number.copy_(number)
        self._version = self._version_of(self.number)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing else has written into the tensor of the number. Replays of a CUDA graph count as nothing else."""
        return self._version_of(self.number) == self._version


def separated(member: Member, group: dict[str, Any], states: Iterable[dict[str, Any]]) -> GroupSchedules:
    """The schedules of a group, which are replaced by numbers in it: see ``GroupSchedules.separate``."""
    found = GroupSchedules(member, group)
    found.separate(states)
    return found


def refuse_lr_scale(group: dict[str, Any], schedule: Schedule) -> None:
    """Raises ValueError if the group has an ``lr_scale``, a factor for the rate that only the schedulers of timm read."""
    if "lr_scale" in group:
        scale = group["lr_scale"]
        raise ValueError(
            f"lr_scale={scale} of a parameter group is read by the schedulers of timm, not by {schedule!r}: give the group "
            f"its own schedule, {scale} * that one, and remove lr_scale from it"
        )


def _read(given: Any) -> list[dict[str, Any]]:
    """The observed states, from a group's entry: JSON, or in older checkpoints the list itself."""
    try:
        states = [] if given is None else list(given) if isinstance(given, list | tuple) else json.loads(given)
    except (TypeError, ValueError, RecursionError):
        states = None
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise ValueError(
            f"{OBSERVED}: {shown(given)} is not what an optimizer saves of what its schedules have observed"
        )
    return states


@cache
def _place(name: str) -> tuple[str, int | None]:
    """The hyperparameter of a schedule, and the index of the number that it gives, or None."""
    of, _, index = name.partition("[")
    return of, int(index[:-1]) if index else None


def _differ(one: Any, other: Any) -> bool:
    """Whether two numbers differ. The same tensor is equal without a look at its value."""
    return one is not other and bool(one != other)


def _get(group: dict[str, Any], name: str) -> Any:
    of, index = _place(name)
    return group[of] if index is None else group[of][index]
