"""The checks of hyperparameters, for every adapter. Imports only NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..schedules import Schedule
from .declaration import Choice, Flag, Hyperparameter, Limit, Member, Number, Seed, Several
from .layout import FORMATS, is_reduced
from .members import MEMBERS
from .names import arguments
from .shared import declared, schedulable


class Terms:
    """How an adapter names hyperparameters in its messages, and what it accepts besides numbers.

    Args:
        adapter: its name in ``adamas.rule.names``.

    Attributes:
        refuses_conflicts: whether hyperparameters that contradict each other are refused, as in ``torch.optim``.
        takes_numpy: whether NumPy's numbers and arrays are taken for Python's.
    """

    refuses_conflicts: ClassVar[bool] = True
    takes_numpy: ClassVar[bool] = True

    def __init__(self, adapter: str) -> None:
        self.adapter = adapter

    def name(self, member: Member, h: Hyperparameter, index: int | None = None) -> str:
        """The name of a hyperparameter, or of the number at this index if it consists of several."""
        names = arguments(self.adapter, member)[h.name]
        if index is None:
            return " or ".join(names)
        return names[index] if len(names) > 1 else f"{names[0]}[{index}]"

    def is_open(self, h: Hyperparameter, value: Any) -> bool:
        """Whether the value becomes known only later, so that it cannot be checked now."""
        return isinstance(value, Schedule) and h.may_be_scheduled

    def refusal(self, name: str, h: Number, value: Any, index: int | None) -> Exception:
        """The error for a value that is not a number, or outside the range."""
        return ValueError(f"{name} must be {h.range.words}{or_a_schedule(h, value)}")


def or_a_schedule(h: Number, value: Any) -> str:
    """The end of the message that a value is refused: it names schedules if the hyperparameter may be one.

    For a function or a text it says what makes a schedule of it.
    """
    if not h.may_be_scheduled:
        return f", not {shown(value)}"
    hint = ""
    if isinstance(value, str):
        hint = ": adamas.schedules.parse reads a schedule from text"
    elif callable(value) and not isinstance(value, type):
        hint = ": adamas.schedules.from_function makes a schedule of a function of the step"
    return f" or a schedule, not {shown(value)}{hint}"


NAMESAKES = Terms("numpy")
"""The terms of the adapters that use the names of ``torch.optim``."""


def checked(member: Member, hyper: Mapping[str, Any], terms: Terms = NAMESAKES) -> dict[str, Any]:
    """The hyperparameters, checked, with NumPy's numbers replaced by Python's.

    Raises:
        ValueError: a value is invalid; the message names the hyperparameter, the value and what would work.
    """
    known = declared(member)
    found = {
        name: _checked(member, known[name], value, terms) if name in known else value for name, value in hyper.items()
    }
    if "state" in hyper:
        _check_state(found["state"], member, bool(found.get("centered")))
    if found.get("cautious") and member.no_mask:
        raise ValueError(f"cautious=True is not for {member.name}: {member.no_mask}")
    if terms.refuses_conflicts and (conflict := member.conflict(found)):
        raise ValueError(conflict)
    return found


def _checked(member: Member, h: Hyperparameter, value: Any, terms: Terms) -> Any:
    name = terms.name(member, h)
    if value is None and h.default_in(terms.adapter) is None:
        return value
    if isinstance(h, Flag):
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, not {shown(value)}")
        return bool(value)
    if isinstance(h, Choice):
        if not isinstance(value, str) or value not in h.choices:
            others = _members_with(h.name, value)
            problem = f"is only for {', '.join(others)}, not for {member.name}" if others else "is unknown"
            raise ValueError(f"{name}={shown(value)} {problem}: use one of {', '.join(map(repr, h.choices))}")
    elif isinstance(h, Several):
        count = len(h.default)
        if not _is_many(value, terms) or len(value) != count:
            words = "a pair" if count == 2 else f"{count} numbers"
            raise ValueError(f"{name} must be {words}, such as {h.default}, not {shown(value)}")
        return tuple(
            share if share is None is default else _number(member, h, share, terms, i)
            for i, (share, default) in enumerate(zip(value, h.default, strict=True))
        )
    elif isinstance(h, Limit):
        value = value.item() if isinstance(value, np.generic) else value
        if not _is_limit(value):
            raise ValueError(f'{name} must be above 0, "auto" or None, not {shown(value)}')
    elif isinstance(h, Number):
        return _number(member, h, value, terms)
    elif isinstance(h, Seed):
        value = value.item() if isinstance(value, np.generic) and terms.takes_numpy else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be an int, not {shown(value)}")
    return value


def _number(member: Member, h: Number, value: Any, terms: Terms, index: int | None = None) -> Any:
    if terms.is_open(h, value):
        return value
    name = terms.name(member, h, index)
    if isinstance(value, Schedule):
        raise ValueError(f"{name} cannot be a schedule; these can: {', '.join(schedulable(member))}")
    if isinstance(value, np.generic | np.ndarray) and value.size == 1 and terms.takes_numpy:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not h.range.holds(value):
        raise terms.refusal(name, h, value, index)
    return float(value)


def _members_with(name: str, value: Any) -> list[str]:
    """The members that have a choice in the hyperparameter of this name."""
    known = {member.name: declared(member).get(name) for member in MEMBERS.values()}
    return [
        member for member, h in known.items() if isinstance(h, Choice) and isinstance(value, str) and value in h.choices
    ]


def _is_many(value: Any, terms: Terms) -> bool:
    """Whether the value consists of several."""
    if isinstance(value, np.ndarray):
        return terms.takes_numpy and value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str)


def scheduled_number(h: Number, name: str, schedule: Schedule, step: int) -> float:
    """The value of a schedule at a step.

    Raises:
        ValueError: the value is outside the range of the hyperparameter, which the message calls ``name``.
    """
    number = float(schedule(step))
    if not h.range.holds(number):
        raise ValueError(f"{name} must be {h.range.words}, but {schedule!r} gives {number} at step {step}")
    return number


def shown(value: Any) -> str:
    """A value of any kind for an error message: on one line, and shortened."""
    words = " ".join(repr(value).split())
    return words if len(words) <= 80 else f"{words[:77]}…"


def _is_limit(limit: Any) -> bool:
    if limit is None or isinstance(limit, str):
        return limit in (None, "auto")
    try:
        return float(limit) > 0
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with several elements
        return False


def _check_state(state: Any, member: Member, centered: bool) -> None:
    """Raises ValueError if ``state=`` names an unknown moment or format.

    ``centered`` is whether the update is divided by the standard deviation of the gradient.
    """
    if isinstance(state, Mapping) and (unknown := sorted(set(state) - set(member.states))):
        raise ValueError(
            f"state: there is no moment {unknown[0]!r}; the names are {', '.join(map(repr, member.states))}"
        )
    for given in state.values() if isinstance(state, Mapping) else [state]:
        if given not in FORMATS:
            raise ValueError(f"state={given!r} is unknown: use one of {', '.join(map(repr, FORMATS))}")
    if centered and is_reduced(state):
        raise ValueError(
            f'centered=True needs state="float32", not {state!r}: the rounding of such moments exceeds the difference of '
            "square_avg and grad_avg² that it divides by, and single updates would be far too large"
        )


def check_rows(rows: Any, names: Sequence[str], shapes: Sequence[Sequence[int] | None]) -> None:
    """Raises ValueError if ``rows`` does not place each parameter in its whole tensor. A shape of None is not checked."""
    if rows is None:
        return
    if len(rows) != len(names):
        raise ValueError(
            f"rows has {len(rows)} entries for {len(names)} parameters; give None for those that are whole"
        )
    for entry, name, shape in zip(rows, names, shapes, strict=True):
        if entry is None or shape is None:
            continue
        first, total = entry
        if not shape or not 0 <= first <= first + shape[0] <= total:
            raise ValueError(
                f"rows of parameter {name}: {entry!r} does not hold its {shape[0] if shape else 'no'} rows; give "
                "(index of its first row, rows of the whole tensor)"
            )
