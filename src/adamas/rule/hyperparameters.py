"""The options that the optimizers of every framework share, and what a hyperparameter may be. Imports NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from ..schedules import Schedule
from .layout import FORMATS, State, is_reduced

Decay = Literal["l2", "decoupled", "independent"]
Weights = Literal["nearest", "stochastic", "split"]


class Options(TypedDict, total=False):
    """Options that every optimizer of the family has; each can be set for a parameter group.

    Attributes:
        l1: coefficient of the L1 penalty, added to the gradient as ``l1 * sign(p)``. Default 0.
        decay: what ``weight_decay`` means. ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"decoupled"`` multiplies
            the weight by ``1 - lr * weight_decay`` (as PyTorch's AdamW does); ``"independent"`` multiplies it by
            ``1 - factor * weight_decay``, with the schedule's factor lr / (the lr given at construction) alone, as
            Loshchilov and Hutter (2019) have it. Default: the namesake's.
        max_grad_norm: the gradient is scaled so that its 2-norm over all groups is at most this: a number, a schedule, or
            ``"auto"``: 1.5 times the 0.9-quantile of the norms of the last 128 steps (as they were after clipping; nothing
            is clipped in the first 8 steps). It is measured and applied inside the step; gradients are not
            written. ``optimizer.grad_norm``, ``grad_norm_limit`` and ``clipped_steps`` tell of it. Default None.
        on_nonfinite: what to do when a gradient has a NaN or an infinity. ``"propagate"`` (default): what the arithmetic
            gives, as PyTorch does; ``"skip"``: the whole step is left undone and counted in ``skipped_steps``;
            ``"raise"``: ``FloatingPointError`` naming the parameter, and nothing is changed.
        state: how the moments are stored: ``"float32"`` (default; float64 for float64 weights), ``"bfloat16"`` (2 bytes
            each; averages are rounded stochastically, so that they do not stall) or ``"int8"`` (1.03 bytes each: a code,
            and a float32 scale for each block of 128 in a row; parameters with fewer than two dimensions, rows shorter
            than 32 or fewer than 4096 elements stay in float32). Or a format for each moment by its name in the state:
            ``{"exp_avg": "int8", "exp_avg_sq": "bfloat16"}``; what is not named is float32.
        weights: how bfloat16 and float16 weights are rounded. ``"nearest"`` (default): updates smaller than half the
            spacing of such numbers are lost, so training stalls at small rates, as with other libraries;
            ``"stochastic"``: right on average; ``"split"``: the bits that do not fit are kept beside the weight (2 more
            bytes), so that training is that of float32 weights. Wider weights are not affected.
        seed: of the stochastic rounding. Default 0.
        rows: for parameters that are parts of larger tensors, cut along the first dimension: for each parameter of the
            group None, or a pair (index of its first row in the whole tensor, rows of the whole tensor). With the same
            name, such parts are stepped as the whole tensor would be, to the bit. Default None.
    """

    l1: float
    decay: Decay
    max_grad_norm: float | Schedule | Literal["auto"] | None
    on_nonfinite: Literal["propagate", "skip", "raise"]
    state: State
    weights: Weights
    seed: int
    rows: Sequence[tuple[int, int] | None] | None


class RootOptions(Options, total=False):
    """Options of those with a root in the denominator.

    Attributes:
        eps_root: added under the root, as optax has it. Default 0.
    """

    eps_root: float


class AdamOptions(Options, total=False):
    """Options of the members with Adam's two moments.

    Attributes:
        bias_correction: False leaves the moments as they are (the plain form of several texts). Default True.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow). Default: the namesake's.
        eps_root: added under the root, as optax has it. Default 0.
    """

    bias_correction: bool
    eps_mode: Literal["torch", "hat"]
    eps_root: float


class AdamaxOptions(Options, total=False):
    """Options of Adamax.

    Attributes:
        bias_correction: False leaves the first moment as it is. Default True.
    """

    bias_correction: bool


COMMON: dict[str, Any] = {
    "l1": 0.0,
    "max_grad_norm": None,
    "on_nonfinite": "propagate",
    "state": "float32",
    "weights": "nearest",
    "seed": 0,
    "rows": None,
}
"""Defaults of the options that are not a namesake's."""

CHOICES = {
    "decay": ("l2", "decoupled", "independent"),
    "on_nonfinite": ("propagate", "skip", "raise"),
    "weights": ("nearest", "stochastic", "split"),
    "eps_mode": ("torch", "hat"),
}

_NUMBERS = (
    "lr",
    "eps",
    "weight_decay",
    "momentum",
    "dampening",
    "lr_decay",
    "initial_accumulator_value",
    "alpha",
    "momentum_decay",
    "l1",
    "eps_root",
)
FLAGS = ("amsgrad", "bias_correction", "centered", "nesterov", "maximize")
_SCHEDULED = ("lr", "weight_decay", "betas")


def checked(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters with Python's numbers for NumPy's, if each has a value that it can have.

    Raises:
        ValueError: one has not; it is named, with what it was given and what would work.
    """
    found = dict(hyper)
    for name, value in hyper.items():
        if name in FLAGS:
            if not isinstance(value, bool | np.bool_):
                raise ValueError(f"{name} must be True or False, not {shown(value)}")
            found[name] = bool(value)
        elif name == "betas":
            if isinstance(value, str) or not isinstance(value, Iterable) or len(list(value)) != 2:
                raise ValueError(f"betas must be a pair, such as (0.9, 0.999), not {shown(value)}")
            found[name] = tuple(number(f"betas[{i}]", beta, below=1.0) for i, beta in enumerate(value))
        elif name in _NUMBERS:
            found[name] = number(name, value)
        elif name in ("seed", "max_grad_norm") and isinstance(value, np.generic):
            found[name] = value.item()
    check_choices(found)
    if found.get("nesterov") and (found["momentum"] == 0 or found["dampening"] != 0):
        raise ValueError("nesterov=True requires a momentum above 0 and dampening=0")
    return found


def number(name: str, value: Any, below: float = math.inf) -> float | Schedule:
    """A hyperparameter as a float, or as the schedule that it may be.

    Raises:
        ValueError: it is neither, or not from 0 up to below ``below``.
    """
    can_change = name.split("[")[0] in _SCHEDULED
    if isinstance(value, Schedule):
        if not can_change:
            raise ValueError(f"{name} cannot be a schedule; these can: {', '.join(_SCHEDULED)}")
        return value
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        words = "a number from 0 up" if below == math.inf else f"from 0 up to but not including {below:g}"
        raise ValueError(f"{name} must be {words}{' or a schedule' if can_change else ''}, not {shown(value)}")
    return float(value)


def shown(value: Any) -> str:
    """A value of any kind in an error's message: in one line, and not long."""
    words = " ".join(repr(value).split())
    return words if len(words) <= 80 else f"{words[:77]}…"


def check_choices(hyper: Mapping[str, Any]) -> None:
    """Raises ValueError where an option with a few values has another."""
    for name, choices in CHOICES.items():
        if name in hyper and not (isinstance(hyper[name], str) and hyper[name] in choices):
            raise ValueError(f"{name}={shown(hyper[name])} is unknown: use one of {', '.join(map(repr, choices))}")


def check_options(group: Mapping[str, Any], moments: Iterable[str | None]) -> None:
    """Raises ValueError where an option of ``Options`` has a value that it cannot have.

    ``moments`` are the names of those that the optimizer may have.
    """
    check_choices(group)
    if not _is_limit(limit := group["max_grad_norm"]):
        raise ValueError(f'max_grad_norm must be above 0, "auto" or None, not {shown(limit)}')
    check_state(group["state"], moments, bool(group.get("centered")))
    if isinstance(group["seed"], bool) or not isinstance(group["seed"], int):
        raise ValueError(f"seed must be an int, not {shown(group['seed'])}")


def _is_limit(limit: Any) -> bool:
    if limit is None or isinstance(limit, str):
        return limit in (None, "auto")
    try:
        return float(limit) > 0
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor of many elements
        return False


def check_state(state: Any, moments: Iterable[str | None], centered: bool) -> None:
    """Raises ValueError where ``state=`` names a moment that there is not, or a format that cannot be.

    ``centered`` is whether the variance of the gradient is divided by.
    """
    names = [name for name in moments if name is not None]
    if isinstance(state, Mapping) and (unknown := sorted(set(state) - set(names))):
        raise ValueError(f"state: there is no moment {unknown[0]!r}; the names are {', '.join(map(repr, names))}")
    for given in state.values() if isinstance(state, Mapping) else [state]:
        if given not in FORMATS:
            raise ValueError(f"state={given!r} is unknown: use one of {', '.join(map(repr, FORMATS))}")
    if centered and is_reduced(state):
        raise ValueError(
            f'centered=True needs state="float32", not {state!r}: the rounding of such moments exceeds the difference of '
            "square_avg and grad_avg² that it divides by, and single updates would be far too large"
        )


def check_rows(rows: Any, names: Sequence[str], shapes: Sequence[Sequence[int] | None]) -> None:
    """Raises ValueError if ``rows`` does not say where each parameter, of such a shape or None, lies in its whole tensor."""
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
