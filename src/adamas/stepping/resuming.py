"""Hyperparameters of a saved parameter group, and of the group that is to go on with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from . import scheduled

# Present in a group, but not hyperparameters: what belongs to this optimizer and its parameters, whatever was saved.
_BOOKKEEPING = ("params", "param_names", "base_lr", "state", "rows", scheduled.OBSERVED)
_COUNTS = ("skipped_steps", "clipped_steps", "grad_norms")


def check_choice(hyperparameters: str) -> None:
    """Raises ValueError unless it is ``"saved"`` or ``"given"``."""
    if hyperparameters not in ("saved", "given"):
        raise ValueError(f"hyperparameters={hyperparameters!r} is unknown: use 'saved' or 'given'")


def merged(group: Mapping[str, Any], saved: Mapping[str, Any], hyperparameters: str) -> dict[str, Any]:
    """The group with the saved hyperparameters (``"saved"``), or with its own (``"given"``)."""
    if hyperparameters == "given":
        return {**group, **{name: saved[name] for name in _COUNTS if name in saved}}
    taken = {name: deepcopy(value) for name, value in saved.items() if name not in _BOOKKEEPING}
    if "base_lr" in saved and "lr" not in group.get(scheduled.SCHEDULES, {}):
        taken["base_lr"] = saved["base_lr"]
    # Norms are state: the saved ones or none.
    kept = {name: value for name, value in group.items() if name != "grad_norms"}
    return {**kept, **taken}


def rehearse(
    index: int, group: dict[str, Any], saved: Mapping[str, Any], steps: int, check: Callable[[dict[str, Any]], Any]
) -> None:
    """Raises ValueError if the group, number ``index``, cannot be what the loaded hyperparameters and steps make of it."""
    trial = {**group, scheduled.SCHEDULES: deepcopy(group.get(scheduled.SCHEDULES, {}))}
    scheduled.load_observed(trial, saved.get(scheduled.OBSERVED, []))
    scheduled.separate(trial, steps)
    try:
        check(trial)
    except ValueError as error:
        raise ValueError(f"loaded state dict does not fit: parameter group {index}: {error}") from error
