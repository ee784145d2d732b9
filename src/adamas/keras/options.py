"""What may be given to the optimizers, and the errors for what may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ..rule.declaration import Member
from ..rule.hyperparameters import CHOICES, check_state
from ..schedules import Schedule
from .schedule import Scheduled

_NOT_NEGATIVE = (
    "learning_rate",
    "epsilon",
    "weight_decay",
    "l1",
    "momentum",
    "initial_accumulator_value",
    "momentum_decay",
)
_BELOW_ONE = ("beta_1", "beta_2", "rho")


def as_rate(rate: Any) -> Any:
    """A learning rate as Keras takes it: numbers of all kinds as a float, schedules of ``adamas.schedules`` as Keras's.

    Raises:
        TypeError: it can be neither.
    """
    if isinstance(rate, Schedule):
        return Scheduled(rate)
    if callable(rate):
        return rate
    if not _is_number(rate) and getattr(rate, "shape", None) == () and not isinstance(rate, str):
        rate = keras.ops.convert_to_numpy(rate).item()  # of an array, a tensor or a variable
    if not _is_number(rate):
        raise TypeError(
            f"learning_rate must be a number, a schedule or a function without arguments, not {type(rate).__name__}"
        )
    return float(rate)


def check(member: Member, eps_modes: tuple[str, ...], given: Mapping[str, Any]) -> None:
    """Raises ValueError for what cannot be, naming it and what would work.

    Args:
        member: the member.
        eps_modes: what it takes for ``eps_mode``.
        given: all arguments by name, the learning rate as ``as_rate`` made it.
    """
    for name in _NOT_NEGATIVE:
        value = given.get(name)
        if value is not None and not callable(value) and not (_is_number(value) and value >= 0):
            raise ValueError(f"{name} must be a number from 0 up, not {value!r}")
    for name in _BELOW_ONE:
        if name in given and not (_is_number(given[name]) and 0 <= given[name] < 1):
            raise ValueError(f"{name} must be a number from 0 to below 1, not {given[name]!r}")
    for name, allowed in {**CHOICES, "eps_mode": eps_modes}.items():
        if name in given and given[name] not in allowed:
            raise ValueError(f"{name}={given[name]!r} is unknown: use one of {', '.join(map(repr, allowed))}")
    check_state(given["state"], member.states, bool(given.get("centered")))
    if isinstance(given["seed"], bool) or not isinstance(given["seed"], int):
        raise ValueError(f"seed must be an int, not {given['seed']!r}")
    check_independent(given["decay"], given["learning_rate"])


def check_independent(decay: str, rate: Any) -> None:
    """Raises ValueError where the factor of ``decay="independent"`` cannot be told from the learning rate."""
    if decay == "independent" and callable(rate) and not isinstance(rate, Scheduled):
        raise ValueError(
            'decay="independent" needs a learning_rate that is a number or a schedule of adamas.schedules: of another it '
            'cannot tell the factor; use decay="decoupled"'
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
