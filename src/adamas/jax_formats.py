"""``jax.numpy`` as an array namespace for ``adamas.rule.formats``. Imports JAX alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

Array = Any


class Namespace:
    """``jax.numpy`` with uint32 as ``int64``: ``adamas.rule.formats`` masks integers to 32 bits, so the bits are the same.

    Args:
        count: any nonnegative integer that is known only at run time; ``separate`` needs one.
    """

    int64 = jnp.uint32

    def __init__(self, count: Array = 0) -> None:
        self._zero = jnp.minimum(count, 0).astype(jnp.uint32)

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def separate(self, product: Array) -> Array:
        """A float32 product that XLA cannot fuse with a sum: its bits are combined with a zero that XLA cannot prove."""
        return (product.view(jnp.uint32) | self._zero).view(jnp.float32)
