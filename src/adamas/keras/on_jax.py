"""What the adapter asks of JAX. Everything here is traced, and writes into no array.

The numbers of a step are computed in float64 whatever ``jax_enable_x64`` says, and handed on behind a barrier: else XLA would
convert them anew for every element of a variable.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

Array = Any

xp = jnp


def exactly() -> AbstractContextManager[Any]:
    """A context in which float64 is float64."""
    return jax.enable_x64(True)  # type: ignore[no-any-return, no-untyped-call]


def double(x: Any) -> Array:
    """A number in float64, within ``exactly``."""
    return jnp.asarray(x, jnp.float64)


def narrowed(x: Any, dtype: str) -> Any:
    """A number that was computed ``exactly`` as it is used; Python's stay as they are."""
    if not isinstance(x, jax.Array):
        return x
    return jax.lax.optimization_barrier(x.astype(dtype))  # type: ignore[no-untyped-call]


def cast(x: Array, dtype: str) -> Array:
    """The array in another dtype."""
    return jnp.asarray(x).astype(dtype)


def dense(gradient: Any) -> Array:
    """The gradient as one array, where it may come as indices and values."""
    return gradient.todense() if hasattr(gradient, "todense") else gradient
