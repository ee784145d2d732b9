"""What the adapter asks of JAX, beside the operations of ``adamas.step.namespaces``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..step.namespaces.jax import Namespace

__all__ = ["Namespace", "closed", "dense", "opened"]

Array = Any


def opened(variable: Any) -> Array:
    """The value of a variable of Keras, of its own array, or of a tensor, as an array of the namespace."""
    return jnp.asarray(getattr(variable, "value", variable))


def closed(x: Array) -> Array:
    """An array of the namespace as Keras takes it."""
    return x


def dense(gradient: Any) -> Array:
    """The gradient as one array, where it may come as indices and values."""
    return gradient.todense() if hasattr(gradient, "todense") else gradient
