"""Hyperparameters of a saved parameter group, and of the group that is to go on with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from typing import Any

from .scheduled import OBSERVED, GroupSchedules

# Present in a group, but not hyperparameters: what belongs to this optimizer and its parameters, whatever was saved.
_BOOKKEEPING = ("params", "param_names", "base_lr", "state", "rows", OBSERVED)

# What is counted and remembered over the steps, as it is before the first.
COUNTS = {"skipped_steps": 0, "clipped_steps": 0, "grad_norms": ()}


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
    rehearsed = GroupSchedules(trial, deepcopy(schedules.schedules))
    try:
        rehearsed.load_observed(saved.get(OBSERVED))
        rehearsed.separate(states)
        check(trial)
    except ValueError as error:
        raise ValueError(f"loaded state dict does not fit: parameter group {index}: {error}") from error
