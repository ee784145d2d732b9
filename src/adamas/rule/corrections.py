"""Formulas that the members with Adam's moments share."""

from __future__ import annotations

from typing import Any

from .declaration import Choice, Flag, Hypers, Number, Shares

BETAS = Shares("betas", (0.9, 0.999), "β1 and β2, the decay of the two moments", may_be_scheduled=True)
EPS = Number("eps", 1e-8, "ε")
EPS_ROOT = Number("eps_root", 0.0, "added under the root, as optax has it")
BIAS_CORRECTION = Flag("bias_correction", True, "False leaves the moments as they are, the plain form of several texts")
EPS_MODE = Choice(
    "eps_mode",
    "torch",
    'the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras, TensorFlow)',
    choices=("torch", "hat"),
)


def bias_corrections(hyper: Hypers, step: Any) -> tuple[Any, ...]:
    """1/(1 − βᵗ) for each of ``betas``, or 1 for each where the moments are used as they are."""
    if not hyper["bias_correction"]:
        return tuple(1.0 for _ in hyper["betas"])
    return tuple(1 / (1 - beta**step) for beta in hyper["betas"])


def placed_eps(hyper: Hypers, w: Any, f: Any) -> Any:
    """ε beside √(w·v) as in PyTorch, or beside √v ("epsilon hat", Kingma and Ba, 2015, section 2)."""
    return hyper["eps"] * f.sqrt(w) if hyper["eps_mode"] == "hat" else hyper["eps"]
