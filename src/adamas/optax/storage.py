"""The JAX arrays in which the optax state stores moments and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..rule import former, layout
from ..rule.layout import HALVES, Slot, StateFormat
from ..step import arrays
from ..step.arrays import Stored
from ..step.namespaces.jax import Namespace

Array = Any


def refuse_former(moments: Mapping[str, Any]) -> None:
    """Raises ValueError if a former version has made these 8-bit moments."""
    if found := next((name for name in map(former.scale_name, moments) if name in moments), None):
        raise ValueError(
            f"state: its moments have {found!r}, so it is of an earlier version, which stored 8-bit moments in another way: "
            "convert it with adamas.convert: params, state = to_optax(from_optax(params, state), params, tx.init(params))"
        )


def refuse_cast(moments: Mapping[str, Any]) -> None:
    """Raises ValueError if moments or their scales were cast to another dtype: codes would be taken for values."""
    for name in moments:
        for scale_name in (layout.scale_name(name), former.scale_name(name)):
            for values, scale in zip(
                jax.tree.leaves(moments[name]), jax.tree.leaves(moments.get(scale_name)), strict=False
            ):
                found = str(values.dtype), str(scale.dtype)
                if (found[0] in layout.CODES) != (found[1] == "float32") or found[1] not in ("float32", "int8"):
                    raise ValueError(
                        f"state: {name!r} is {found[0]} and {scale_name!r} is {found[1]}: codes have scales in float32, and "
                        "values have none (int8). The state was cast: restore it in the dtypes of tx.init(params)"
                    )


def as_array(x: Any) -> Array:
    """A JAX array for a number or a NumPy array; anything else unchanged."""
    return jnp.asarray(x) if isinstance(x, int | float | complex | np.ndarray | np.generic) else x


def is_half(dtype: Any) -> bool:
    """Whether weights of this dtype have 16 bits."""
    return jnp.dtype(dtype).name in HALVES


def initial(slot: Slot, form: StateFormat, p: Array, value: Array | float = 0.0) -> Stored:
    """A moment of the parameter before the first step, with all elements set to this value."""
    if slot.scale_shape is None:
        return Stored(jnp.full_like(p, value, dtype=slot.dtype), unused(p) if form in layout.WIDTHS else None)
    xp = Namespace()
    with xp.computing():
        parts = layout.parts(xp, slot, p.shape, value)
        return Stored(*(jnp.broadcast_to(part.value.astype(part.dtype), part.shape) for part in parts))


def unused(p: Array) -> Array:
    """The placeholder for a parameter without scale or low bits.

    Every parameter has a leaf in each tree of the state, so that a tree of shardings maps over them. It has the parameter's
    shape, so that its sharding fits, and at least one element, since Orbax does not save empty arrays.
    """
    return jnp.zeros_like(p, jnp.int8)


def copied(x: Array) -> Array:
    """A copy in its own memory, so that a new state can be donated while the old one stays valid."""
    return None if x is None else jnp.copy(x)


def no_low_bits(p: Array) -> Array:
    """The low bits of a weight before the first step."""
    return jnp.zeros_like(p, jnp.int16) if is_half(p.dtype) else unused(p)


def as_update(change: Array, dtype: Any, xp: Namespace) -> Array:
    """The difference between two weights as an update of this dtype.

    In the 16-bit dtype of the weights it is exact as long as a weight keeps its sign and changes by at most a factor of 2.
    """
    name = jnp.dtype(dtype).name
    return arrays.rounded(xp, change, name, None) if name in HALVES else change.astype(dtype)
