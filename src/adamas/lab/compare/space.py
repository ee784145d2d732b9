"""The search space of a comparison: the stated range of each hyperparameter, and the points that are tried in it.

The points are the same for every optimizer, scaled to its ranges. May import SciPy, inside the function that needs it,
adamas.lab.tasks, adamas.lab.train.optimizers and adamas.rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from adamas.lab.inputs import InputError, choose
from adamas.lab.train.optimizers import OptimizerSpec
from adamas.rule.shared import defaults

# By hyperparameter. For the decay rates of the moments, the searched quantity is their distance from 1.
RANGES = {
    "weight_decay": (1e-4, 1.0),
    "1-beta1": (0.01, 0.5),
    "1-beta2": (1e-4, 0.1),
    "eps": (1e-10, 1e-3),
}
LR_FACTOR = 30.0  # the range of rates: this factor to either side of the default
TUNABLE = ("lr", "weight_decay", "beta1", "beta2", "eps")
DEFAULT_BETAS = (0.9, 0.999)
SEED = 0  # the seed of the scrambling
DIGITS = 3  # significant digits of a setting, so that it can be read and typed

Space = dict[str, list[Any]]  # hyperparameter → [low, high, "log"]


def check_tune(tune: Sequence[str]) -> list[str]:
    """Return what is tuned, in the order of TUNABLE and always with lr.

    Raises:
        InputError: a name is not in TUNABLE; names ``tune``.
    """
    for name in tune:
        choose("tune", name, TUNABLE)
    return [name for name in TUNABLE if name == "lr" or name in tune]


def tunable(spec: OptimizerSpec) -> list[str]:
    """Return the names of TUNABLE that an optimizer has, without those that are fixed by its arguments."""
    return [name for name in TUNABLE if name == "lr" or ("betas" if name.startswith("beta") else name) in spec.options]


def check_had(tune: Sequence[str], has: Mapping[str, Sequence[str]]) -> None:
    """Check that what is tuned can be tuned in one optimizer at least.

    Args:
        tune: names of TUNABLE.
        has: those that each optimizer has.

    Raises:
        InputError: none has one of them; names ``tune``.
    """
    for name in tune:
        if not any(name in own for own in has.values()):
            theirs = "; ".join(f"{optimizer} has {', '.join(own)}" for optimizer, own in has.items())
            raise InputError("tune", f"contains {name}, which no optimizer here has to tune: {theirs}")


def state_space(optimizer: str, lr: float | None, tune: Sequence[str], lr_range: tuple[float, float] | None) -> Space:
    """Return the ranges of an optimizer's settings, each sampled log-uniformly.

    Args:
        optimizer: the optimizer, as it is written on the command line.
        lr: its default rate on the task, the middle of its range; None if it has none.
        tune: those of TUNABLE that are tuned in it.
        lr_range: the range of the rate, in place of the default.

    Raises:
        InputError: the range of the rate is not known; names ``lr_range``.
    """
    if lr_range is None:
        if not lr:
            raise InputError("lr_range", f"is missing: {optimizer} has no default rate to search around")
        lr_range = (_rounded(lr / LR_FACTOR), _rounded(lr * LR_FACTOR))
    space: Space = {"lr": [*lr_range, "log"]}
    for name in tune:
        if name != "lr":
            stated = f"1-{name}" if name.startswith("beta") else name
            space[stated] = [*RANGES[stated], "log"]
    return space


def quasi_random(budget: int, tune: Sequence[str]) -> list[dict[str, float]]:
    """Return ``budget`` points of a scrambled Halton sequence in the unit cube, a coordinate for each name in ``tune``.

    Such points leave smaller gaps than random ones. For few points, or one coordinate, the sequence is still uneven, so each
    coordinate is moved to the middle of one of ``budget`` equal cells, in the same order (Saka, Gunzburger and Burkardt,
    Latinized, improved LHS, and CVT point sets in hypercubes, 2007): with one coordinate, that is an even grid.
    """
    from scipy.stats import qmc

    rows = qmc.Halton(len(tune), scramble=True, seed=SEED).random(budget)
    rows = (rows.argsort(axis=0).argsort(axis=0) + 0.5) / budget
    return [dict(zip(tune, map(float, row), strict=True)) for row in rows]


def at(space: Mapping[str, Sequence[Any]], point: Mapping[str, float]) -> dict[str, float]:
    """Return the settings of a point of the unit cube, by the names of TUNABLE, rounded to DIGITS significant digits."""
    settings = {}
    for stated, (low, high, _) in space.items():
        name = stated.removeprefix("1-")
        value = _rounded(low * (high / low) ** point[name])
        settings[name] = value if stated == name else round(1 - value, 9)
    return settings


def lr_grid(space: Mapping[str, Sequence[Any]], budget: int) -> list[float]:
    """Return ``budget`` geometrically spaced rates from end to end of the stated range."""
    low, high, _ = space["lr"]
    return [_rounded(low * (high / low) ** (number / max(1, budget - 1))) for number in range(budget)]


def default_betas(spec: OptimizerSpec) -> tuple[float, float]:
    """Return the default decay rates of an optimizer."""
    if spec.member is not None:
        betas = defaults(spec.member, "torch").get("betas", DEFAULT_BETAS)
    else:
        parameter = inspect.signature(spec.load()).parameters.get("betas")
        betas = DEFAULT_BETAS if parameter is None else parameter.default
    if isinstance(betas, tuple | list) and len(betas) == 2:
        return float(betas[0]), float(betas[1])
    return DEFAULT_BETAS


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
