"""Loading what was saved of an optimizer: parameter groups and states, checked as a whole before anything is changed."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

from ..rule import bounds
from ..rule.declaration import Member, Share
from ..rule.hyperparameters import shown
from .record import State
from .scheduled import OBSERVED, GroupSchedules

# Present in a group, but not hyperparameters: what belongs to this optimizer and its parameters, whatever was saved.
_BOOKKEEPING = ("params", "param_names", "base_lr", "state", "rows", OBSERVED)

# The hyperparameters that a state may have come of, by how many steps it has seen.
HypersAfter: TypeAlias = Callable[[float], Sequence[Mapping[str, Any]]]

_SAMPLES = 64  # of the steps so far, at which a scheduled β is asked for

# What is counted and remembered over the steps, as it is before the first.
COUNTS = {"skipped_steps": 0, "clipped_steps": 0, "grad_norms": ()}


class Conversion(NamedTuple):
    """A moment that is stored in another format than it was saved in."""

    moment: str
    saved_as: str
    stored_as: str


class Loaded(NamedTuple):
    """What was saved of a parameter, as its optimizer keeps it.

    Attributes:
        key: of the parameter in the optimizer's state.
        name: what messages call it.
        state: every tensor is a copy.
        conversions: what was converted.
        mended: how many elements of each second moment were raised; see ``adamas.rule.bounds``.
    """

    key: Any
    name: str
    state: State
    conversions: list[Conversion]
    mended: dict[str, int]


def unfit(problem: str) -> ValueError:
    """The error about a state dict that cannot be loaded."""
    return ValueError(f"loaded state dict does not fit: {problem}")


def resumed(
    schedules: Sequence[GroupSchedules],
    saved_groups: Sequence[Mapping[str, Any]],
    hyperparameters: str,
    check: Callable[[dict[str, Any]], Any],
    load: Callable[[dict[str, Any], int, HypersAfter], Loaded | None],
    others: Mapping[Any, State],
    stacklevel: int,
) -> tuple[list[dict[str, Any]], dict[Any, State]]:
    """The groups and the states that an optimizer has after loading. Nothing of the optimizer is changed.

    Args:
        schedules: of the optimizer's groups.
        saved_groups: in the order of the optimizer's.
        hyperparameters: ``"saved"`` or ``"given"``, which to go on with.
        check: raises if a group's hyperparameters cannot be.
        load: gives what was saved of a parameter, by its group, its index in it, and the hyperparameters that it may have come
            of; None if nothing was.
        others: states that belong to no parameter, which are kept.
        stacklevel: of warnings, counted from the caller of this function.

    Raises:
        ValueError: what was saved does not fit; the message names the parameter or the group.
    """
    groups = [merged(*pair, hyperparameters) for pair in zip(schedules, saved_groups, strict=True)]
    for i, group in enumerate(groups):
        check_group(i, group, check)
    states: dict[Any, State] = {}
    conversions: Counter[Conversion] = Counter()
    mended: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for group, saved, given in zip(groups, saved_groups, schedules, strict=True):
        hypers = hypers_of(group, saved, given)
        for i in range(len(group["params"])):
            if (found := load(group, i, hypers)) is not None:
                states[found.key] = found.state
                conversions.update(found.conversions)
                for moment, count in found.mended.items():
                    mended[moment][found.name] = count
    states.update(others)

    # Whatever can go wrong does so here, while nothing is changed: also a warning, where those are errors.
    for i, parts in enumerate(zip(groups, schedules, saved_groups, strict=True)):
        rehearse(i, *parts, states.values(), check)
    for (moment, saved_as, stored_as), count in conversions.items():
        warnings.warn(
            f"{moment} of {count} parameter{'s' * (count > 1)} was saved as {saved_as} and is converted to {stored_as}, which "
            "the state= of this optimizer asks for",
            stacklevel=stacklevel + 1,
        )
    for moment, counts in mended.items():
        warnings.warn(bounds.mended_message(moment, counts), stacklevel=stacklevel + 1)
    return groups, states


def mended_moments(
    xp: Any,
    member: Member,
    hypers: HypersAfter,
    name: str,
    scalars: Mapping[str, float],
    moments: Mapping[str, Any],
    remedy: str,
) -> dict[str, bounds.Mended]:
    """The second moments of a parameter that were too small, raised: see ``adamas.rule.bounds.mended``.

    Args:
        xp: the namespace of the moments.
        member: the member.
        hypers: the hyperparameters that the state may have come of.
        name: what messages call the parameter.
        scalars: of the parameter's state.
        moments: without those that are or were in 8 bits, which have errors of their own.
        remedy: what would help, for messages.

    Raises:
        ValueError: a moment or a scalar cannot be.
    """
    try:
        bounds.check_scalars(member, scalars)
        return bounds.mended(xp, member, hypers(scalars["step"]), scalars, moments)
    except ValueError as error:
        raise unfit(f"parameter {name}: {error}{remedy}") from error


def check_choice(hyperparameters: str) -> None:
    """Raises ValueError unless it is ``"saved"`` or ``"given"``."""
    if hyperparameters not in ("saved", "given"):
        raise ValueError(f"hyperparameters={hyperparameters!r} is unknown: use 'saved' or 'given'")


def merged(schedules: GroupSchedules, saved: Mapping[str, Any], hyperparameters: str) -> dict[str, Any]:
    """The group of the schedules with the saved hyperparameters (``"saved"``), or with its own (``"given"``)."""
    group = schedules.group
    if hyperparameters == "given":
        return {**group, **{name: saved[name] for name in COUNTS if name in saved}}
    taken = {name: deepcopy(value) for name, value in saved.items() if name not in _BOOKKEEPING}
    if "base_lr" in saved and "lr" not in schedules.schedules:
        taken["base_lr"] = saved["base_lr"]
    # Norms are state: the saved ones or none.
    return {**group, "grad_norms": (), **taken}


def check_group(index: int, group: dict[str, Any], check: Callable[[dict[str, Any]], Any]) -> None:
    """Raises ValueError if the loaded group, number ``index``, has what cannot be; ``check`` looks at its hyperparameters."""
    with _unfit(index):
        for name in ("skipped_steps", "clipped_steps"):
            count = group[name]
            if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < 0:
                raise ValueError(f"{name} has to be a whole number from 0 up, and is {shown(count)}")
        norms = group["grad_norms"]
        if not isinstance(norms, tuple | list) or not all(_is_number(x) and x > 0 for x in norms):
            raise ValueError("grad_norms has to be the norms of gradients, numbers above 0")
        group["grad_norms"] = tuple(norms)
        base = group["base_lr"]
        if not _is_number(base):
            raise ValueError(f"base_lr has to be a number from 0 up, and is {shown(base)}")
        check(group)


@contextmanager
def _unfit(index: int) -> Iterator[None]:
    """Adds the index of the parameter group to an error in the block."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise unfit(f"parameter group {index}: {error}") from error


def hypers_of(group: Mapping[str, Any], saved: Mapping[str, Any], schedules: GroupSchedules) -> HypersAfter:
    """The hyperparameters that a loaded state may come from, by the number of steps that it has seen.

    They are those that count from now on, those that were saved, and those that schedules of β gave before; not those that
    they will give, of which no state has come.
    """
    names = [h.name for h in schedules.member.hyperparameters if isinstance(h, Share)]
    shares = {name: saved[name] for name in names if name in group and _is_share(saved.get(name))}
    hypers = [group, {**group, **shares}]
    scheduled = schedules.scheduled_shares()

    def after(steps: float) -> list[Mapping[str, Any]]:
        past = {
            (name, schedules.shares_at(name, int(steps * part / _SAMPLES)))
            for name in scheduled
            for part in range(_SAMPLES)
        }
        return [*hypers, *({**group, name: shares} for name, shares in past if _is_share(shares))]

    return after if scheduled else lambda _: hypers


def _is_number(x: Any) -> bool:
    """Whether it is a finite number from 0 up."""
    return isinstance(x, Real) and 0 <= float(x) < math.inf


def _is_share(value: Any) -> bool:
    """Whether these are one or more numbers from 0 up to but not including 1."""
    numbers = value if isinstance(value, tuple | list) else [value]
    return all(_is_number(x) and x < 1 for x in numbers)


def rehearse(
    index: int,
    group: dict[str, Any],
    schedules: GroupSchedules,
    saved: Mapping[str, Any],
    states: Collection[dict[str, Any]],
    check: Callable[[dict[str, Any]], Any],
) -> None:
    """Raises ValueError if the group, number ``index``, cannot be what the loaded hyperparameters and states make of it."""
    trial = dict(group)
    rehearsed = GroupSchedules(schedules.member, trial, deepcopy(schedules.schedules))
    with _unfit(index):
        rehearsed.load_observed(saved.get(OBSERVED))
        rehearsed.separate(states)
        check(trial)
