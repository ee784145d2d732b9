"""Hyperparameters and formulas that several members share. Imports only the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .declaration import Choice, Flag, Hyperparameter, Hypers, Number, Numbers, Shares

BETAS = Shares("betas", (0.9, 0.999), "the decay of the moments", may_be_scheduled=True)
EPS = Number("eps", 1e-8, "ε", elsewhere={"keras": 1e-7})
EPS_ROOT = Number(
    "eps_root",
    0.0,
    "added under the root, as in optax",
    is_option=True,
    only=("torch", "numpy", "scipy", "optax"),
)
BIAS_CORRECTION = Flag("bias_correction", True, "False uses the moments without bias correction", is_option=True)
EPS_MODE = Choice(
    "eps_mode",
    "torch",
    'the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras, TensorFlow)',
    is_option=True,
    elsewhere={"keras": "hat"},
    choices=("hat", "torch"),
)
EPS_PLACE = Choice(
    "eps_mode",
    "torch",
    'the place of ε: ``"root"``, under the root as in Keras and optax, or ``"torch"``, outside it',
    is_option=True,
    elsewhere={"keras": "root", "optax": "root"},
    only=("keras", "optax"),
    choices=("root", "torch"),
)


def learning_rate(default: float, **elsewhere: float) -> Number:
    """The learning rate of a member; ``elsewhere`` has the defaults of adapters where they differ."""
    return Number("lr", default, "learning rate η", may_be_scheduled=True, elsewhere=elsewhere)


def redeclared(hyperparameters: Sequence[Hyperparameter], name: str, **changes: Any) -> tuple[Hyperparameter, ...]:
    """The hyperparameters, with changes to the one of this name."""
    return tuple(replace(h, **changes) if h.name == name else h for h in hyperparameters)


def bias_corrections(hyper: Hypers, step: Any) -> tuple[Any, ...]:
    """1/(1 − βᵗ) for each of ``betas``, or 1 for each without bias correction."""
    if not hyper["bias_correction"]:
        return tuple(1.0 for _ in hyper["betas"])
    return tuple(1 / (1 - beta**step) for beta in hyper["betas"])


def placed_eps(hyper: Hypers, w: Any, f: Any) -> Any:
    """The ε added to √(w·v), as in PyTorch, or to √v ("epsilon hat", Kingma and Ba, 2015, section 2)."""
    return hyper["eps"] * f.sqrt(w) if hyper["eps_mode"] == "hat" else hyper["eps"]


def denominator(hyper: Hypers, w: Any, f: Any) -> Numbers:
    """The numbers of √(w·v + root) + ε."""
    return {"w": w, "eps": placed_eps(hyper, w, f), "root": hyper.get("eps_root", 0.0)}


def rooted_eps(hyper: Hypers) -> tuple[Any, Any]:
    """What is added to the root, and what is added under it."""
    root = hyper.get("eps_root", 0.0)
    return (0.0, root + hyper["eps"]) if hyper.get("eps_mode") == "root" else (hyper["eps"], root)
