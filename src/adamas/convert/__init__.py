"""Moves a run from one framework to another: weights and optimizer state, matched by parameter name.

    >>> import numpy as np, torch
    >>> import adamas.numpy, adamas.torch
    >>> from adamas import convert
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = adamas.torch.Adam(model.parameters(), lr=0.1)
    >>> model(torch.ones(2)).sum().backward()
    >>> optimizer.step()
    >>> params = {"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
    >>> other = adamas.numpy.Adam(params, lr=0.1)
    >>> convert.to_numpy(convert.from_torch(model, optimizer), other)
    >>> bool((params["bias"] == model.bias.detach().numpy()).all()), int(other.state["bias"]["step"])
    (True, 1)

``from_torch``, ``from_keras``, ``from_optax`` and ``from_numpy`` return a ``Checkpoint``; ``to_torch``, ``to_keras``,
``to_optax`` and ``to_numpy`` load one into an existing model and optimizer, which keep their hyperparameters. A checkpoint can
be written to a file in between (``Checkpoint.save``, ``load``). Each framework is imported only by its own two functions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint, Names, Parameter, load

if TYPE_CHECKING:
    from .jax import from_optax, to_optax
    from .keras import from_keras, to_keras
    from .numpy import from_numpy, to_numpy
    from .torch import from_torch, to_torch

__all__ = [
    "Checkpoint",
    "Names",
    "Parameter",
    "from_keras",
    "from_numpy",
    "from_optax",
    "from_torch",
    "load",
    "to_keras",
    "to_numpy",
    "to_optax",
    "to_torch",
]

_MODULES = {"torch": "torch", "keras": "keras", "optax": "jax", "numpy": "numpy"}


def __getattr__(name: str) -> Any:
    direction, _, framework = name.partition("_")
    if direction not in ("from", "to") or framework not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[framework]}", __name__), name)
