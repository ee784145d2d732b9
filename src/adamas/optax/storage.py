"""How the state of optax stores moments and weights in JAX arrays."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..rule import formats, layout
from ..rule.layout import HALVES, StateFormat
from ..step import arrays
from ..step.arrays import Stored
from ..step.namespaces.jax import Namespace

Array = Any


def as_array(x: Any) -> Array:
    """An array of JAX for a number or an array of Python or NumPy; anything else as it is."""
    return jnp.asarray(x) if isinstance(x, int | float | complex | np.ndarray | np.generic) else x


def is_half(dtype: Any) -> bool:
    """Whether weights of this dtype have 16 bits."""
    return jnp.dtype(dtype).name in HALVES


def initial(form: StateFormat, has_sign: bool, p: Array, value: Array | float = 0.0) -> Stored:
    """A moment of the parameter before the first step, with one value everywhere."""
    if form == "int8" and layout.has_blocks(p.shape):
        xp = Namespace()
        with xp.exactly():
            one = jnp.full((1, 1), value, jnp.float32)
            codes, scale = formats.encode_signed(xp, one) if has_sign else formats.encode_unsigned(xp, one, 0 * one)
            return Stored(
                jnp.broadcast_to(codes[0, 0].astype(jnp.int8 if has_sign else jnp.uint8), p.shape),
                jnp.broadcast_to(scale[0, 0], layout.scale_shape(p.shape)),
            )
    values = jnp.full_like(p, value, dtype="bfloat16" if form == "bfloat16" else arrays.compute_dtype(Namespace(), p))
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


def as_update(change: Array, dtype: Any, xp: Namespace) -> Array:
    """The difference between two weights as an update of that dtype.

    In the weights' own 16 bits it is exact as long as a weight keeps its sign and changes by no more than a factor of 2.
    """
    name = jnp.dtype(dtype).name
    return arrays.rounded(xp, change, name, None) if name in HALVES else change.astype(dtype)
