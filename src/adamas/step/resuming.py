"""Loading an optimizer's saved parameter groups and states, which are checked as a whole before anything is changed."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

from ..rule import bounds, former
from ..rule.declaration import Member, Several, Share
from ..rule.hyperparameters import shown
from .evaluation import TRAIN_MODE
from .record import State
from .scheduled import OBSERVED, GroupSchedules
from .spikes import SPIKES
from .watching import CALLS, WATCHED

# Entries of a group that belong to this optimizer and its parameters, and are not replaced by saved ones.
_BOOKKEEPING = ("params", "param_names", "base_lr", "state", "rows", "offload", OBSERVED, SPIKES, WATCHED, CALLS)

# The hyperparameters that may have produced a state, by the number of steps it has made.
HypersAfter: TypeAlias = Callable[[float], Sequence[Mapping[str, Any]]]

_SAMPLES = 64  # the number of past steps at which a scheduled β is evaluated

# What is counted and remembered over the steps, with the values before the first.
COUNTS = {"skipped_steps": 0, "clipped_steps": 0, "grad_norms": ()}


class Conversion(NamedTuple):
    """A moment that is stored in another format than it was saved in."""

    moment: str
    saved_as: str
    stored_as: str


class Loaded(NamedTuple):
    """The saved state of a parameter, in the form in which its optimizer keeps it.

    Attributes:
        key: the key of the parameter in the optimizer's state.
        name: its name in messages.
        state: the state; its tensors are copies.
        conversions: the moments that were converted.
        mended: the number of elements of each second moment that were raised; see ``adamas.rule.bounds``.
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
        schedules: the schedules of the optimizer's groups.
        saved_groups: the saved groups, in the order of the optimizer's.
        hyperparameters: the hyperparameters to continue with, ``"saved"`` or ``"given"``.
        check: raises if a group's hyperparameters are invalid.
        load: returns the saved state of a parameter, or None, given its group, its index there, and the hyperparameters that
            may have produced the state.
        others: states that belong to no parameter, which are kept.
        stacklevel: the stack level of warnings, counted from the caller of this function.

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

    # Anything that can raise does so here, before anything is changed. That includes warnings, which may be set to raise.
    for i, parts in enumerate(zip(groups, schedules, saved_groups, strict=True)):
        rehearse(i, *parts, states.values(), check)
    if conversions:
        warnings.warn(_conversion_message(conversions), stacklevel=stacklevel + 1)
    for moment, counts in mended.items():
        warnings.warn(bounds.mended_message(moment, counts), stacklevel=stacklevel + 1)
    return groups, states


def _conversion_message(conversions: Mapping[Conversion, int]) -> str:
    """The warning about converted moments; ``conversions`` has the number of parameters of each."""
    alike: defaultdict[tuple[str, str, int], list[str]] = defaultdict(list)
    for (moment, saved_as, stored_as), count in sorted(conversions.items()):
        alike[saved_as, stored_as, count].append(moment)
    each = [
        f"{' and '.join(moments)} of {count} parameter{'s' * (count > 1)} from {saved_as} to {stored_as}"
        for (saved_as, stored_as, count), moments in alike.items()
    ]
    return f"moments are converted to the formats that the state= of this optimizer asks for: {'; '.join(each)}"


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
        hypers: the hyperparameters that may have produced the state.
        name: the name of the parameter in messages.
        scalars: the scalars of the parameter's state.
        moments: the moments, except those that are or were in 8 bits, which have rounding errors.
        remedy: what would help, for messages.

    Raises:
        ValueError: a moment or a scalar has an impossible value.
    """
    try:
        bounds.check_scalars(member, scalars)
        return bounds.mended(xp, member, hypers(scalars["step"]), scalars, moments)
    except ValueError as error:
        raise unfit(f"parameter {name}: {error}{remedy}") from error


def scale_of(state: Mapping[str, Any], moment: str, what: str) -> tuple[Any, bool]:
    """The saved scales of a moment (None if it has none), and whether they are of the former format.

    Raises:
        ValueError: there are scales of both formats; ``what`` is the moment in the message.
    """
    try:
        return former.scale_of(state, moment, what)
    except ValueError as error:
        raise unfit(str(error)) from error


def check_choice(hyperparameters: str) -> None:
    """Raises ValueError unless it is ``"saved"`` or ``"given"``."""
    if hyperparameters not in ("saved", "given"):
        raise ValueError(f"hyperparameters={hyperparameters!r} is unknown: use 'saved' or 'given'")


def merged(schedules: GroupSchedules, saved: Mapping[str, Any], hyperparameters: str) -> dict[str, Any]:
    """The group of the schedules with the saved hyperparameters (``"saved"``), or with its own (``"given"``)."""
    group = schedules.group
    if hyperparameters == "given":
        return {**group, **{name: saved[name] for name in (*COUNTS, TRAIN_MODE) if name in saved}}
    taken = {name: deepcopy(value) for name, value in saved.items() if name not in _BOOKKEEPING}
    if "base_lr" in saved and "lr" not in schedules.schedules:
        taken["base_lr"] = saved["base_lr"]
    # Norms are state: those of this optimizer are never kept.
    return {**group, "grad_norms": (), **taken}


def check_group(index: int, group: dict[str, Any], check: Callable[[dict[str, Any]], Any]) -> None:
    """Raises ValueError if an entry of loaded group number ``index`` is invalid. ``check`` checks its hyperparameters."""
    with _unfit(index):
        for name in ("skipped_steps", "clipped_steps"):
            count = group[name]
            if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < 0:
                raise ValueError(f"{name} must be a nonnegative whole number, not {shown(count)}")
        norms = group["grad_norms"]
        if isinstance(norms, str):  # in state dicts of PyTorch
            with suppress(ValueError):
                norms = json.loads(norms)
        if not isinstance(norms, tuple | list) or not all(_is_number(x) and x > 0 for x in norms):
            raise ValueError("grad_norms must be the norms of gradients, numbers above 0")
        group["grad_norms"] = tuple(norms)
        if not isinstance(group.get(TRAIN_MODE, True), bool):
            raise ValueError(f"{TRAIN_MODE} must be True or False, not {shown(group[TRAIN_MODE])}")
        base = group["base_lr"]
        if not _is_number(base):
            raise ValueError(f"base_lr must be a nonnegative number, not {shown(base)}")
        check(group)
        for name in group.keys() & {"betas", "eps", "ns_coefficients"}:
            if isinstance(group[name], list):  # torch.distributed.checkpoint makes one of a tuple
                group[name] = tuple(group[name])


@contextmanager
def _unfit(index: int) -> Iterator[None]:
    """Adds the index of the parameter group to an error in the block."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise unfit(f"parameter group {index}: {error}") from error


def hypers_of(group: Mapping[str, Any], saved: Mapping[str, Any], schedules: GroupSchedules) -> HypersAfter:
    """The hyperparameters that may have produced a loaded state, by the number of steps it has made.

    They are the present ones, the saved ones, and the values of scheduled β's at the steps so far.
    """
    known = {h.name: h for h in schedules.member.hyperparameters if isinstance(h, Share)}
    shares = {name: saved[name] for name, h in known.items() if name in group and _is_share(h, saved.get(name))}
    hypers = [group, {**group, **shares}]
    scheduled = schedules.scheduled_shares()

    def after(steps: float) -> list[Mapping[str, Any]]:
        past = {
            (name, schedules.shares_at(name, int(steps * part / _SAMPLES)))
            for name in scheduled
            for part in range(_SAMPLES)
        }
        return [*hypers, *({**group, name: shares} for name, shares in past if _is_share(known[name], shares))]

    return after if scheduled else lambda _: hypers


def _is_number(x: Any) -> bool:
    """Whether it is a finite nonnegative number."""
    return isinstance(x, Real) and 0 <= float(x) < math.inf


def _is_share(h: Share, value: Any) -> bool:
    """Whether the hyperparameter can have this value: a number in [0, 1), or as many of them as its default has."""
    numbers = value if isinstance(value, tuple | list) else [value]
    count = len(h.default) if isinstance(h, Several) else 1
    return len(numbers) == count and all(_is_number(x) and x < 1 for x in numbers)


def rehearse(
    index: int,
    group: dict[str, Any],
    schedules: GroupSchedules,
    saved: Mapping[str, Any],
    states: Collection[dict[str, Any]],
    check: Callable[[dict[str, Any]], Any],
) -> None:
    """Raises ValueError if group number ``index`` is invalid after loading these hyperparameters and states."""
    trial = dict(group)
    rehearsed = GroupSchedules(schedules.member, trial, deepcopy(schedules.schedules))
    with _unfit(index):
        rehearsed.load_observed(saved.get(OBSERVED))
        rehearsed.separate(states)
        check(trial)
