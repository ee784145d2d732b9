"""The operations on TensorFlow that the adapter needs besides those of ``adamas.step.namespaces``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from ..step.namespaces.tensorflow import Array, Namespace

__all__ = ["Namespace", "closed", "dense", "eagerly", "is_distributed", "opened", "reduced", "rows_of", "summed"]

Tensor = Any


def opened(variable: Any, rows: Tensor | None = None) -> Array:
    """The value of a Keras variable, of its TensorFlow variable, or of a tensor, as an array of the namespace; with ``rows``,
    only of these rows. Of a gradient that is given as indices and values, the values."""
    if isinstance(variable, tf.IndexedSlices):
        return Array(variable.values)
    value = variable if isinstance(variable, tf.Variable) else getattr(variable, "value", variable)
    return Array(tf.convert_to_tensor(value) if rows is None else tf.gather(value, rows))


def closed(x: Array, rows: Tensor | None = None) -> Any:
    """An array of the namespace in the type that Keras takes; with ``rows``, as the values of these rows of a variable."""
    return x.tensor if rows is None else tf.IndexedSlices(x.tensor, rows)


def dense(gradient: Any) -> Tensor:
    """The gradient as a dense tensor; it may be given as indices and values."""
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def rows_of(gradient: Any) -> Tensor | None:
    """The indices of the rows that a gradient has; None if it is dense."""
    return gradient.indices if isinstance(gradient, tf.IndexedSlices) else None


def summed(gradient: tf.IndexedSlices, shape: Sequence[int]) -> tf.IndexedSlices:
    """The gradient of a variable of this shape, with the sum of a row's values wherever the row occurs.

    Thus all occurrences of a row make the same step, and no shape depends on the number of different rows, which XLA could not
    compile.
    """
    rows, values = tf.cast(gradient.indices, tf.int64), tf.ensure_shape(gradient.values, (None, *shape[1:]))
    order = tf.argsort(rows, stable=True)
    rows, values = tf.gather(rows, order), tf.gather(values, order)
    is_new = rows != tf.concat([rows[:1] - 1, rows[:-1]], 0)
    number = tf.cumsum(tf.cast(is_new, tf.int32)) - 1
    sums = tf.math.unsorted_segment_sum(values, number, tf.shape(rows)[0])
    return tf.IndexedSlices(tf.gather(sums, number), rows)


def is_distributed() -> bool:
    """Whether the step is made under a ``tf.distribute`` strategy."""
    return bool(tf.distribute.has_strategy())


def reduced(all_reduce: Callable[..., Any], gradients: Sequence[Tensor]) -> list[Tensor]:
    """The gradients summed over all replicas, by Keras's method for gradients with their variables."""
    return [gradient for gradient, _ in all_reduce([(gradient, None) for gradient in gradients])]


def eagerly() -> AbstractContextManager[Any]:
    """A context in which variables are written at once, even while a graph is being built."""
    return tf.init_scope()  # type: ignore[no-any-return]  # TensorFlow is untyped
