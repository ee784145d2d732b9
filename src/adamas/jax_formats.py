"""``jax.numpy`` as ``adamas.rule.formats`` takes it. Imports JAX alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

Array = Any


class Namespace:
    """``adamas.rule.formats`` computes with integers that are masked to 32 bits: uint32, half as wide, gives the same bits.

    Args:
        count: any integer that is never negative, known only when the program runs: what ``separate`` hides behind.
    """

    int64 = jnp.uint32

    def __init__(self, count: Array = 0) -> None:
        self._zero = jnp.minimum(count, 0).astype(jnp.uint32)

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def separate(self, product: Array) -> Array:
        """A float32 product that XLA will not join with a sum: its bits go through an "or" with what only we know is 0."""
        return (product.view(jnp.uint32) | self._zero).view(jnp.float32)
