"""How moments and weights are stored in JAX arrays: the formats of ``adamas.rule.formats`` over ``jax.numpy``.

A tensor's part of its random numbers is computed on the host, from its name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..jax_formats import Namespace
from ..rule import formats, layout
from ..rule.declaration import State
from ..rule.layout import HALVES, StateFormat

Array = Any


_F = TypeVar("_F", bound=Callable[..., Any])


def _with_all_constants(function: _F) -> _F:
    """Lets the function write constants of 32 bits and more, which JAX by default takes for int32 and refuses."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with jax.enable_x64(True):
            return function(*args)

    return run  # type: ignore[return-value]  # wraps() keeps the signature, which its type does not say


class Stored(NamedTuple):
    """A moment of one parameter: an array of its shape, and, in 8 bits, a float32 scale for each block of 128 in a row."""

    values: Array
    scale: Array = None

    @property
    def is_coded(self) -> bool:
        """Whether the values are codes, which the scale belongs to."""
        return self.values.dtype in (jnp.int8, jnp.uint8)


def as_array(x: Any) -> Array:
    """An array of JAX for a number or an array of Python or NumPy; anything else as it is."""
    return jnp.asarray(x) if isinstance(x, int | float | complex | np.ndarray | np.generic) else x


def is_half(dtype: Any) -> bool:
    """Whether weights of this dtype have 16 bits."""
    return jnp.dtype(dtype).name in HALVES


@_with_all_constants
def initial(form: StateFormat, has_sign: bool, p: Array, value: Array | float = 0.0) -> Stored:
    """A moment of the parameter before the first step, with one value everywhere."""
    if form == "int8" and layout.has_blocks(p.shape):
        xp = Namespace()
        one = jnp.full((1, 1), value, jnp.float32)
        codes, scale = formats.encode_signed(xp, one) if has_sign else formats.encode_unsigned(xp, one, 0 * one)
        return Stored(
            jnp.broadcast_to(codes[0, 0].astype(jnp.int8 if has_sign else jnp.uint8), p.shape),
            jnp.broadcast_to(scale[0, 0], layout.scale_shape(p.shape)),
        )
    wide = jnp.float64 if p.dtype == jnp.float64 else jnp.float32
    values = jnp.full_like(p, value, dtype=jnp.bfloat16 if form == "bfloat16" else wide)
    return Stored(values, unused(p) if form == "int8" else None)


def unused(p: Array) -> Array:
    """What stands where a parameter needs no scale or no low bits.

    Every parameter has a leaf in each tree of the state, so that a tree of shardings maps over them; of the parameter's
    shape, so that its sharding fits; and with elements, since Orbax saves no array without any.
    """
    return jnp.zeros_like(p, jnp.int8)


def copied(x: Array) -> Array:
    """The same in memory of its own, so that a new state can be donated and the old one stays."""
    return None if x is None else jnp.copy(x)


def no_low_bits(p: Array) -> Array:
    """The low bits of a weight before the first step."""
    return jnp.zeros_like(p, jnp.int16) if is_half(p.dtype) else unused(p)


class Rounding(NamedTuple):
    """What the roundings of one parameter's step share: its key, the steps done with this one, and the namespace."""

    key: int
    count: Array
    xp: Namespace

    @_with_all_constants
    def thresholds(self, shape: Sequence[int], draw: int) -> Array:
        """The 16-bit thresholds of a whole tensor's elements."""
        index, stride = jnp.zeros(shape, jnp.uint32), 1
        for axis in reversed(range(len(shape))):
            index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
            stride *= shape[axis]
        return formats.random16(self.xp, index, self.key, self.count.astype(jnp.uint32), draw)

    @_with_all_constants
    def block_thresholds(self, scale_shape: Sequence[int], draw: int) -> Array:
        """The 18-bit thresholds of a moment in 8 bits, by blocks."""
        rows, blocks = (jax.lax.broadcasted_iota(jnp.uint32, (*scale_shape, 1), axis) for axis in (0, 1))
        position = jnp.arange(formats.BLOCK, dtype=jnp.uint32)
        count = self.count.astype(jnp.uint32)
        return formats.random18(self.xp, rows * jnp.uint32(scale_shape[1]) + blocks, position, self.key, count, draw)


@_with_all_constants
def loaded(stored: Stored, compute: Any, xp: Namespace) -> Array:
    """A moment as it is computed with."""
    values, scale = stored
    if not stored.is_coded:
        return values.astype(compute)
    decode = formats.decode_signed if values.dtype == jnp.int8 else formats.decode_unsigned
    return layout.unblocked(
        decode(xp, layout.blocks(xp, values.astype(jnp.int32)), scale[..., None]), values.shape
    ).astype(compute)


@_with_all_constants
def kept(value: Array, before: Stored, rounding: Rounding, kind: State, factor: Array | float) -> Stored:
    """A moment as it is stored, in the format of the one ``before``. ``factor`` is the rule's own, of its decay."""
    xp, dtype = rounding.xp, before.values.dtype
    if not before.is_coded:
        if dtype != jnp.bfloat16:
            return Stored(value.astype(dtype), copied(before.scale))
        # Maxima are no averages: to the nearest.
        thresholds = None if kind.draw is None else rounding.thresholds(value.shape, kind.draw)
        return Stored(rounded(value, dtype, thresholds, xp), copied(before.scale))
    blocks = layout.blocks(xp, value.astype(jnp.float32))
    draw = kind.code_draw
    thresholds = None if draw is None else rounding.block_thresholds(before.scale.shape, draw)
    if dtype == jnp.int8:
        codes, scale = formats.encode_signed(xp, blocks, thresholds)
    else:
        old = factor * jnp.abs(before.scale[..., None])
        codes, scale = formats.encode_unsigned(xp, blocks, old, thresholds)
    return Stored(layout.unblocked(codes, value.shape).astype(dtype), scale[..., 0])


@_with_all_constants
def rounded(value: Array, dtype: Any, thresholds: Array | None, xp: Namespace) -> Array:
    """Float32 values as bfloat16 or float16: stochastically, or to the nearest without thresholds."""
    codes = formats.ENCODE[jnp.dtype(dtype).name](xp, value.astype(jnp.float32), thresholds)
    return codes.astype(jnp.uint16).view(dtype)


def as_update(change: Array, dtype: Any, xp: Namespace) -> Array:
    """The difference between two weights as an update of that dtype.

    In the weights' own 16 bits it is exact as long as a weight keeps its sign and changes by no more than a factor of 2.
    (Rounded by operations on integers: within a sum, XLA may leave a conversion to 16 bits out.)
    """
    return rounded(change, dtype, None, xp) if is_half(dtype) else change.astype(dtype)


@_with_all_constants
def split(value: Array, dtype: Any, xp: Namespace) -> tuple[Array, Array]:
    """Float32 weights as weights of 16 bits and the low bits (int16)."""
    high, low = formats.SPLIT[jnp.dtype(dtype).name](xp, value)
    return high.astype(jnp.uint16).view(dtype), low.astype(jnp.int16)


@_with_all_constants
def joined(p: Array, low: Array, xp: Namespace) -> Array:
    """The float32 weights that ``split`` split."""
    high = p.view(jnp.uint16).astype(jnp.uint32)
    return formats.JOIN[p.dtype.name](xp, high, low.view(jnp.uint16).astype(jnp.uint32))
