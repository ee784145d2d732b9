"""JAX as a namespace. Everything here is traced, and writes to no array."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

Array = Any


class Namespace:
    """``jax.numpy``. See ``adamas.step.namespaces``.

    ``adamas.rule.formats`` masks its integers to 32 bits, so uint32, half as wide as int64, gives the same bits.

    Args:
        count: any nonnegative integer that is known only when the program runs; ``separate`` needs one.
    """

    int64 = jnp.uint32

    def __init__(self, count: Array = 0) -> None:
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def separate(self, product: Array) -> Array:
        """The float32 product, kept from being fused with a sum by XLA: its bits are combined by "or" with a zero that the
        compiler cannot prove to be zero."""
        zero = jnp.minimum(self._count, 0).astype(jnp.uint32)
        return (product.view(jnp.uint32) | zero).view(jnp.float32)

    @staticmethod
    def computing() -> AbstractContextManager[Any]:
        """A context with float64 and 32-bit unsigned constants, which JAX otherwise takes for int32 and refuses."""
        return jax.enable_x64(True)  # type: ignore[no-any-return]  # JAX leaves it untyped

    @staticmethod
    def double(x: Any) -> Array:
        """A number in float64, within ``exactly``."""
        return jnp.asarray(x, jnp.float64)

    @staticmethod
    def narrowed(x: Any, dtype: str) -> Any:
        """A number that was computed in float64, in the dtype in which it is used; Python's numbers are unchanged.

        An optimization barrier keeps XLA from repeating the conversion for every element of a parameter.
        """
        if not isinstance(x, jax.Array):
            return x
        return jax.lax.optimization_barrier(x.astype(dtype))  # type: ignore[no-untyped-call]  # JAX leaves it untyped

    @staticmethod
    def cast(x: Array, dtype: str) -> Array:
        """The array in another dtype."""
        return x.astype(dtype)

    @staticmethod
    def sum(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
        """The sum in the dtype of the array: within ``computing``, JAX would add 32-bit integers in 64 bits."""
        return jnp.sum(x, axis, dtype=x.dtype, keepdims=keepdims)

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
        """Consecutive integers from ``first`` on, computed where they are used, so that they are sharded like the array."""
        index, stride = jnp.full(shape, first & 0xFFFFFFFF, jnp.uint32), 1
        for axis in reversed(range(len(shape))):
            index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
            stride *= shape[axis]
        return index

    @staticmethod
    def counter(count: Array) -> Array:
        """A count in the type that the formats take."""
        return jnp.asarray(count).astype(jnp.uint32)
