"""Members whose rules name sums, as variants of Adam: LAMB, and one that measures its updates over all tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adamas.rule.corrections import redeclared
from adamas.rule.declaration import OwnRule, Sum
from adamas.rule.members import MEMBERS
from adamas.rule.scaled import ADAM, UPDATE_DECAY

ADAM_MEMBER = MEMBERS["Adam"]
NAMES = {"first": "exp_avg", "second": "exp_avg_sq"}


# LAMB with the arguments of Adam, and its ε.
_LAMB = MEMBERS["LAMB"].rule({})
LAMB = replace(
    ADAM_MEMBER,
    name="lamb",
    make_rule=lambda hyper: _LAMB,
    numbers=MEMBERS["LAMB"].numbers,
    names=NAMES,
    hyperparameters=(*redeclared(ADAM_MEMBER.hyperparameters, "amsgrad", structural=False), UPDATE_DECAY),
)


def _update(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> Any:
    return ADAM.update(k, xp, p, g, *states)[0]


def _square(x: Any) -> Any:
    return x * x


def _measured(k: Any, xp: Any, p: Any, g: Any, *states: Any) -> tuple[Any, ...]:
    update, *after = ADAM.update(k, xp, p, g, *states)
    return (update - k.total / k.count) / k.spread, *after


# Updates with mean 0 and variance 1 over all tensors: the third sum uses the two before it.
_STANDARDIZED = OwnRule(
    "standardized",
    ADAM.states,
    ADAM.numbers,
    _measured,
    (
        Sum("count", "all", lambda k, xp, p, g, *states: 0 * g + 1),
        Sum("total", "all", _update),
        Sum("squares", "all", lambda k, xp, *x: _square(_update(k, xp, *x) - k.total / k.count)),
    ),
    lambda k, f: {"spread": f.sqrt(k.squares / k.count)},
)
STANDARDIZED = replace(ADAM_MEMBER, name="standardized", make_rule=lambda hyper: _STANDARDIZED, names=NAMES)

RULES = (_LAMB, _STANDARDIZED)


# ---- the same by NumPy

Scaling = Callable[[list[np.ndarray], list[np.ndarray]], list[np.ndarray]]


def trusted(weights: list[np.ndarray], updates: list[np.ndarray]) -> list[np.ndarray]:
    return [np.linalg.norm(p) / np.linalg.norm(u) * u for p, u in zip(weights, updates, strict=True)]


def standardized(weights: list[np.ndarray], updates: list[np.ndarray]) -> list[np.ndarray]:
    every = np.concatenate([u.ravel() for u in updates])
    return [(u - every.mean()) / every.std() for u in updates]


def stepped(
    scaled: Scaling,
    weights: list[np.ndarray],
    gradients: Sequence[list[np.ndarray]],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    inside: float = 0.0,
    outside: float = 0.0,
) -> list[np.ndarray]:
    """Adam's updates, scaled, by NumPy. The weights decay inside of the update, before it is scaled, and outside of it."""
    m, v = [0 * p for p in weights], [0 * p for p in weights]
    for step, given in enumerate(gradients):
        m = [betas[0] * x + (1 - betas[0]) * g for x, g in zip(m, given, strict=True)]
        v = [betas[1] * x + (1 - betas[1]) * g * g for x, g in zip(v, given, strict=True)]
        corrections = [1 - beta ** (step + 1) for beta in betas]
        updates = [
            x / corrections[0] / (np.sqrt(y / corrections[1]) + eps) + inside * p
            for x, y, p in zip(m, v, weights, strict=True)
        ]
        weights = [(1 - lr * outside) * p - lr * u for p, u in zip(weights, scaled(weights, updates), strict=True)]
    return weights
