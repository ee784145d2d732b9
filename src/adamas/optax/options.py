"""The checks of the optimizers' arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from ..rule.declaration import BELOW_1, FROM_0, FROM_0_TO_INFINITY, RELATIVE, Hyperparameter, Limit, Member, Seed
from ..rule.declaration import Number as NumberKind
from ..rule.hyperparameters import Terms, checked, shown
from ..rule.names import from_arguments
from ..rule.shared import declared
from ..schedules import Schedule
from ..schedules.plateau import Observed

Number: TypeAlias = float | jax.Array | np.ndarray[Any, Any]
Scheduled: TypeAlias = Number | Schedule | Callable[[Any], Any]  # a number, or a function of the number of steps done


class _OptaxTerms(Terms):
    """The terms of optax."""

    refuses_conflicts = False

    def is_open(self, h: Hyperparameter, value: Any) -> bool:
        """See ``Terms.is_open``."""
        return is_open(value)

    def refusal(self, name: str, h: NumberKind, value: Any, index: int | None) -> Exception:
        """See ``Terms.refusal``."""
        usual = {BELOW_1: "from 0 to below 1", FROM_0: "0 or above", FROM_0_TO_INFINITY: "0 or above"}
        words = usual.get(h.range, h.range.words)
        return ValueError(f"{name} must be {words}, not {value!r}")


TERMS = _OptaxTerms("optax")


def is_open(value: Any) -> bool:
    """Whether the number is known only when the program runs."""
    return isinstance(value, jax.Array) or callable(value)


def hyperparameters(member: Member, given: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters under their names in ``adamas.rule``, from arguments by their names in optax, with 0 for None.

    Raises:
        ValueError: an argument has an invalid value.
    """
    known = declared(member)
    found = from_arguments("optax", member, given)
    _check_seed(found["seed"])
    _check_on_nonfinite(found["on_nonfinite"])
    if "eps_in_sqrt" in given:
        found["eps_mode"] = "root" if _flag("eps_in_sqrt", given["eps_in_sqrt"]) else "torch"
    found = {name: _plain(member, known[name], value) for name, value in found.items()}
    found = checked(member, found, TERMS)
    for value in (*found.values(), *found.get("betas", ())):
        if isinstance(value, Schedule) and any(isinstance(part, Observed) for part in value.parts()):
            raise ValueError(
                f"{value!r} reacts to a metric, and a compiled step would keep the value that it had when compiled: use "
                "optax.contrib.reduce_on_plateau"
            )
    if found["decay"] in RELATIVE:
        found["base_lr"] = _base_rate(found["decay"], found["lr"])
    return found


def _plain(member: Member, h: Hyperparameter, value: Any) -> Any:
    """The value with NumPy's numbers replaced by Python's, and None by 0."""
    if isinstance(value, tuple):
        return tuple(_plain(member, h, one) for one in value)
    if value is None and isinstance(h, NumberKind | Seed) and not isinstance(h, Limit):
        return 0
    if isinstance(value, np.ndarray | np.generic):
        if value.size != 1:
            raise ValueError(f"{TERMS.name(member, h)} must be one number, not an array of shape {value.shape}")
        return value.item()
    return value


def _flag(name: str, value: Any) -> bool:
    """The value of a flag that is not a hyperparameter.

    Raises:
        ValueError: it is not True or False.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def _check_seed(seed: Any) -> None:
    """Raises ValueError for a seed that is not an int."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(
            f"seed must be an int, not {type(seed).__name__}; optax.inject_hyperparams takes it as static_args='seed'"
        )


def _check_on_nonfinite(given: str) -> None:
    """Raises ValueError unless it is one that a compiled step supports."""
    if given == "raise":
        raise ValueError(
            'on_nonfinite="raise" is not supported here, since a compiled step cannot raise: use "skip", which counts such '
            "steps in the state's skipped_steps, or JAX's own jax_debug_nans"
        )
    if given not in ("propagate", "skip"):
        raise ValueError(f"on_nonfinite={given!r} is unknown: use one of 'propagate', 'skip'")


def _base_rate(decay: str, rate: Any) -> float:
    """The rate that the schedule's factor is relative to, on which the decay depends."""
    if isinstance(rate, Schedule):
        return float(rate.unit)
    if is_open(rate):
        raise ValueError(
            f'decay_mode="{decay}" needs a learning_rate that is a number or a schedule of adamas.schedules: of another '
            "function or an array it cannot tell the factor; use decay_mode='decoupled'"
        )
    return float(rate)
