"""8-bit moments as 0.1.0 stored them before each block chose its grid, and their conversion to the present format.

As now, such a moment is codes and one float32 scale for each block, which is negative in a marked block. But the scales are
called ``…_scale``, and by that name alone the former format is recognised. Every block has the grid of 5 bits, all bits of the
scale are its value, and unsigned codes are read half a unit higher: code c is (grid(c) + ½)·scale, so none is 0. Arrays are
NumPy's or PyTorch's. This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import formats, layout

Array = Any


def scale_name(slot: str) -> str:
    """The former name of a moment's scales."""
    return f"{slot}_scale"


def names(slots: Iterable[str]) -> dict[str, str]:
    """The former names of the moments' scales, by their present names."""
    return {layout.scale_name(slot): scale_name(slot) for slot in slots}


def scale_of(state: Mapping[str, Any], slot: str, what: str) -> tuple[Any, bool]:
    """The scales of a moment (None if it has none), and whether they are of the former format.

    Raises:
        ValueError: there are scales of both formats; ``what`` is the moment in the message.
    """
    scale, former = state.get(layout.scale_name(slot)), state.get(scale_name(slot))
    if scale is not None and former is not None:
        raise ValueError(
            f"{what} has scales of two versions, {scale_name(slot)!r} and {layout.scale_name(slot)!r}: remove those that do "
            "not belong to its codes"
        )
    return (scale, False) if former is None else (former, True)


def decode(xp: Any, codes: Array, scale: Array, values: Array) -> None:
    """Write the values of codes into the float32 ``values``, like ``adamas.rule.layout.decode``."""
    for piece in layout.pieces(codes.shape):
        blocks = layout.blocks(xp, formats.cast(codes[piece], xp.int64))
        scales = scale[piece].reshape(blocks.shape[:-1])[..., None]
        value = _decoded(xp, blocks, scales, codes.dtype == xp.int8)
        values[piece] = layout.unblocked(value, values[piece].shape)


def _decoded(xp: Any, codes: Array, scale: Array, has_sign: bool) -> Array:
    size, marked = xp.abs(codes), formats.is_marked(xp, scale)
    units = formats.cast(((size % 32 + 32) << (size >> 5)) - 32, xp.float32)
    value = (units if has_sign else units + 0.5) * xp.abs(scale)
    value = xp.where(marked & (size == (127 if has_sign else 255)), xp.full_like(value, float("inf")), value)
    value = xp.where(codes < 0, -value, value)
    return xp.where(marked & (codes == (-128 if has_sign else 254)), xp.full_like(value, float("nan")), value)


def scale_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape that the scales of a parameter's codes had."""
    return shape[0], -(-math.prod(shape[1:]) // formats.BLOCK)


def convert(xp: Any, codes: Array, scale: Array) -> Array:
    """Convert codes and scales to the present format, in place. Blocks keep the grid of 5 bits.

    Returns the scales in their present shape.

    Scales are rounded to multiples of 4 ulp, which changes a value by at most 1 part in 4 million. Signed codes stay as they
    are. Of unsigned codes, the value moves to the nearest that the present format has: those from 0 to 31 become the next
    code, with the same value; the values of higher codes lie one unit from the nearest, so they change by at most 1/32 (codes
    from 32 on), 1/96 (from 64 on), 1/224 (from 96 on), and so on.
    """
    if codes.dtype == xp.uint8:
        blocks = layout.blocks(xp, codes)
        # From 32 to 63 two values are equally near: the one with the even code is taken.
        live = (scale != 0).reshape(blocks.shape[:-1])[..., None]
        rises = ((blocks < 32) | ((blocks < 64) & (blocks % 2 == 1))) & live
        codes[...] = layout.unblocked(blocks + formats.cast(rises, xp.uint8), codes.shape)
    scale[...] = xp.copysign(formats.rounded_scale(xp, xp.abs(scale)), scale)
    return scale.reshape(layout.scale_shape(codes.shape))


def convert_state(xp: Any, state: dict[str, Any], slots: Iterable[str]) -> None:
    """Convert the moments of a parameter's state that are of the former format, in place."""
    for slot in slots:
        scale, is_former = scale_of(state, slot, repr(slot))
        if is_former:
            del state[scale_name(slot)]
            state[layout.scale_name(slot)] = convert(xp, state[slot], scale)
