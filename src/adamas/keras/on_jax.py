"""What the adapter asks of JAX. Everything here is traced, and writes into no array.

The numbers of a step are computed in float64 whatever ``jax_enable_x64`` says, and handed on behind a barrier: else XLA would
convert them anew for every element of a variable.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from ..jax_formats import Namespace

Array = Any

xp = jnp


def read(variable: Any) -> Array:
    """The value of a variable of Keras, or of its own array."""
    return jnp.asarray(getattr(variable, "value", variable))


def exactly() -> AbstractContextManager[Any]:
    """A context in which float64 is float64."""
    return jax.enable_x64(True)  # type: ignore[no-any-return]  # JAX leaves it untyped


def double(x: Any) -> Array:
    """A number in float64, within ``exactly``."""
    return jnp.asarray(x, jnp.float64)


def narrowed(x: Any, dtype: str) -> Any:
    """A number that was computed ``exactly`` as it is used; Python's stay as they are."""
    if not isinstance(x, jax.Array):
        return x
    return jax.lax.optimization_barrier(x.astype(dtype))  # type: ignore[no-untyped-call]  # JAX leaves it untyped


def cast(x: Array, dtype: str) -> Array:
    """The array in another dtype."""
    return jnp.asarray(x).astype(dtype)


def dense(gradient: Any) -> Array:
    """The gradient as one array, where it may come as indices and values."""
    return gradient.todense() if hasattr(gradient, "todense") else gradient


# ---- for ``adamas.rule.formats``


Codes = Namespace


def opened(x: Array) -> Any:
    """The array as ``adamas.rule.formats`` takes it."""
    return x


def bare(x: Any) -> Array:
    """What ``adamas.rule.formats`` returned, as an array."""
    return x


def dtype_of(x: Array) -> str:
    """The name of the array's dtype."""
    return str(x.dtype)


def closed(x: Any, dtype: str) -> Array:
    """What ``adamas.rule.formats`` returned, as an array of this dtype."""
    return x.astype(dtype)


def codes(x: Array) -> Any:
    """The bits of an array of 16-bit numbers, as integers from 0 to 65535."""
    return x.view(jnp.uint16).astype(jnp.uint32)


def from_codes(x: Any, dtype: str) -> Array:
    """The numbers that ``codes`` gives these of."""
    return x.astype(jnp.uint16).view(dtype)


def counted(length: int) -> Any:
    """0, 1, 2, … as ``adamas.rule.formats`` takes them."""
    return jnp.arange(length, dtype=jnp.uint32)


def counter(x: Any) -> Any:
    """A count as ``adamas.rule.formats`` takes it."""
    return jnp.asarray(x).astype(jnp.uint32)


def reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    """The array in another shape."""
    return jnp.reshape(x, shape)


def padded(x: Any, missing: int) -> Any:
    """The matrix with zeros behind each row."""
    return jnp.pad(x, ((0, 0), (0, missing)))
