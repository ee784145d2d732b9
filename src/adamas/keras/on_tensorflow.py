"""What the adapter asks of TensorFlow. Everything here is a graph's operation, and writes into no tensor."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

Array = Any


class _Namespace:
    """The functions of an array namespace that the rule and the schedules use."""

    abs, sign, sqrt, cos, floor = tf.abs, tf.sign, tf.sqrt, tf.cos, tf.floor
    log, log1p, minimum, maximum = tf.math.log, tf.math.log1p, tf.minimum, tf.maximum
    where = tf.where


xp = _Namespace


def exactly() -> AbstractContextManager[Any]:
    """A context in which float64 is float64: here, always."""
    return contextlib.nullcontext()


def double(x: Any) -> Array:
    """A number in float64."""
    return tf.cast(x, tf.float64)


def narrowed(x: Any, dtype: str) -> Any:
    """A number that was computed in float64 as it is used; Python's stay as they are."""
    return tf.cast(x, dtype) if tf.is_tensor(x) else x


def cast(x: Array, dtype: str) -> Array:
    """The tensor in another dtype."""
    return tf.cast(x, dtype)


def dense(gradient: Any) -> Array:
    """The gradient as one tensor, where it may come as indices and values."""
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient
