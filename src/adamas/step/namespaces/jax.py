"""JAX as a namespace. Everything here is traced, and writes into no array."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

Array = Any


class Namespace:
    """``jax.numpy``. See ``adamas.step.namespaces``.

    ``adamas.rule.formats`` masks its integers to 32 bits: in uint32, half as wide as int64, they have the same bits.

    Args:
        count: any integer that is never negative and known only when the program runs, which ``separate`` needs.
    """

    int64 = jnp.uint32

    def __init__(self, count: Array = 0) -> None:
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def separate(self, product: Array) -> Array:
        """The float32 product, which XLA does not join with a sum: its bits go through an "or" with a zero that the compiler
        cannot prove to be one."""
        zero = jnp.minimum(self._count, 0).astype(jnp.uint32)
        return (product.view(jnp.uint32) | zero).view(jnp.float32)

    @staticmethod
    def exactly() -> AbstractContextManager[Any]:
        """A context with float64, and with constants of 32 bits, which JAX otherwise takes for int32 and refuses."""
        return jax.enable_x64(True)  # type: ignore[no-any-return]  # JAX leaves it untyped

    @staticmethod
    def double(x: Any) -> Array:
        """A number in float64, within ``exactly``."""
        return jnp.asarray(x, jnp.float64)

    @staticmethod
    def narrowed(x: Any, dtype: str) -> Any:
        """A number that was computed in float64 in the dtype that it is used in; Python's numbers stay as they are.

        It is handed on behind a barrier: without one, XLA converts it anew for every element of a parameter.
        """
        if not isinstance(x, jax.Array):
            return x
        return jax.lax.optimization_barrier(x.astype(dtype))  # type: ignore[no-untyped-call]  # JAX leaves it untyped

    @staticmethod
    def cast(x: Array, dtype: str) -> Array:
        """The array in another dtype."""
        return x.astype(dtype)

    @staticmethod
    def dtype_name(x: Array) -> str:
        """The name of the array's dtype."""
        return str(x.dtype)

    @staticmethod
    def bits(x: Array) -> Array:
        """The bits of 16-bit numbers, as integers from 0 to 65535."""
        return x.view(jnp.uint16).astype(jnp.uint32)

    @staticmethod
    def from_bits(bits: Array, dtype: str) -> Array:
        """The numbers with these bits."""
        return bits.astype(jnp.uint16).view(dtype)

    @staticmethod
    def index(shape: Sequence[int], first: int) -> Array:
        """The numbers from ``first`` on, each computed where it is used, so that they are sharded as the array is."""
        index, stride = jnp.full(shape, first & 0xFFFFFFFF, jnp.uint32), 1
        for axis in reversed(range(len(shape))):
            index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
            stride *= shape[axis]
        return index

    @staticmethod
    def counter(count: Array) -> Array:
        """A count as the formats take it."""
        return jnp.asarray(count).astype(jnp.uint32)
