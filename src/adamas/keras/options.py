"""The checks of the optimizers' arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ..rule.declaration import BELOW_1, RELATIVE, Hyperparameter, Member, Number
from ..rule.hyperparameters import Terms, checked
from ..rule.names import from_arguments
from ..schedules import Schedule
from .schedule import Scheduled


class _KerasTerms(Terms):
    """The terms of Keras."""

    refuses_conflicts = False
    takes_numpy = False

    def is_open(self, h: Hyperparameter, value: Any) -> bool:
        """See ``Terms.is_open``."""
        return h.name == "lr" and callable(value)

    def refusal(self, name: str, h: Number, value: Any, index: int | None) -> Exception:
        """See ``Terms.refusal``."""
        words = "a number from 0 to below 1" if h.range is BELOW_1 else h.range.words
        return ValueError(f"{name} must be {words}, not {value!r}")


_TERMS = _KerasTerms("keras")


def as_rate(rate: Any) -> Any:
    """A learning rate for Keras: numbers of any type as a float, schedules of ``adamas.schedules`` wrapped in Keras's type.

    Raises:
        TypeError: it is neither a number nor a schedule.
    """
    if isinstance(rate, Schedule):
        return Scheduled(rate)
    if callable(rate):
        return rate
    if not _is_number(rate) and getattr(rate, "shape", None) == () and not isinstance(rate, str):
        rate = keras.ops.convert_to_numpy(rate).item()  # an array, a tensor or a variable
    if not _is_number(rate):
        raise TypeError(
            f"learning_rate must be a number, a schedule or a function without arguments, not {type(rate).__name__}"
        )
    return float(rate)


def plain(value: Any) -> Any:
    """The value, with a NumPy number as a Python number, which a saved configuration can hold."""
    return value.item() if isinstance(value, np.generic) else value


def check(member: Member, given: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument with an invalid value, by its name in Keras."""
    checked(member, from_arguments("keras", member, given), _TERMS)
    check_independent(given["decay"], given["learning_rate"])


def check_independent(decay: str, rate: Any) -> None:
    """Raises ValueError if a decay depends on the schedule's factor, which cannot be derived from the learning rate."""
    if decay in RELATIVE and callable(rate) and not isinstance(rate, Scheduled):
        raise ValueError(
            f'decay="{decay}" needs a learning_rate that is a number or a schedule of adamas.schedules: of another it '
            'cannot tell the factor; use decay="decoupled"'
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
