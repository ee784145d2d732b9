"""The operations on TensorFlow that the adapter needs besides those of ``adamas.step.namespaces``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from ..step.namespaces.tensorflow import Array, Namespace

__all__ = ["Namespace", "closed", "dense", "eagerly", "opened", "reduced"]

Tensor = Any


def opened(variable: Any) -> Array:
    """The value of a Keras variable, of its TensorFlow variable, or of a tensor, as an array of the namespace."""
    value = variable if isinstance(variable, tf.Variable) else getattr(variable, "value", variable)
    return Array(tf.convert_to_tensor(value))


def closed(x: Array) -> Tensor:
    """An array of the namespace in the type that Keras takes."""
    return x.tensor


def dense(gradient: Any) -> Tensor:
    """The gradient as a dense tensor; it may be given as indices and values."""
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def reduced(all_reduce: Callable[..., Any], gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients summed over all replicas, by Keras's method for gradients with their variables."""
    return [gradient for gradient, _ in all_reduce([(gradient, None) for gradient in gradients])]


def eagerly() -> AbstractContextManager[Any]:
    """A context in which variables are written at once, even while a graph is being built."""
    return tf.init_scope()  # type: ignore[no-any-return]  # TensorFlow is untyped
