"""The operations on JAX that the adapter needs besides those of ``adamas.step.namespaces``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..step.namespaces.jax import Namespace

__all__ = ["Namespace", "closed", "dense", "opened", "rows_of"]

Array = Any


def opened(variable: Any, rows: None = None) -> Array:
    """The value of a Keras variable, of its array, or of a tensor, as an array of the namespace."""
    return jnp.asarray(getattr(variable, "value", variable))


def closed(x: Array, rows: None = None) -> Array:
    """An array of the namespace in the type that Keras takes."""
    return x


def dense(gradient: Any) -> Array:
    """The gradient as a dense array; it may be given as indices and values."""
    return gradient.todense() if hasattr(gradient, "todense") else gradient


def rows_of(gradient: Any) -> None:
    """None: gradients are made dense."""
