"""How moments and weights are stored in Keras's variables: which variables there are, and, for what is traced, how they are
read and written in the formats of ``adamas.rule.formats``. A variable's part of the random numbers comes from its position.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..rule import formats, layout
from ..rule.declaration import WEIGHT_DRAW, Member
from ..rule.declaration import State as MomentKind
from ..rule.layout import HALVES, LOW_BITS, State
from .backend import arrays

Array = Any


_F = TypeVar("_F", bound=Callable[..., Any])


def _exactly(function: _F) -> _F:
    """Lets the function write constants of 32 bits and more, which JAX by default takes for int32 and refuses."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with arrays.exactly():
            return function(*args)

    return run  # type: ignore[return-value]


# ---- which variables there are


class Part(NamedTuple):
    """One state variable of one model variable: its name, shape and dtype, and the value that it begins with."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: float


def parts(
    member: Member, hyper: Mapping[str, Any], state: State, weights: str, shape: Sequence[int], dtype: str
) -> list[Part]:
    """The state of a model variable of this shape and dtype."""
    shape = tuple(shape)
    found = []
    for slot in layout.slots(member, {**hyper, "state": state}, shape, dtype):
        start = member.start_of(slot.name, hyper)
        if slot.scale_shape is None:
            found.append(Part(slot.name, shape, slot.dtype, start))
        else:
            codes, scale = np.empty((1, 1), slot.dtype), np.empty((1, 1), np.float32)
            layout.encode(np, np.full((1, 1), start, np.float32), codes, scale)
            found.append(Part(slot.name, shape, slot.dtype, int(codes[0, 0])))
            found.append(Part(slot.scale_name, slot.scale_shape, "float32", float(scale[0, 0])))
    if weights == "split" and dtype in HALVES:
        found.append(Part(LOW_BITS, shape, "int16", 0))
    return found


# ---- how they are read and written where the step is traced


class Rounding(NamedTuple):
    """What the roundings of one variable's step share: its key, and the steps done with this one."""

    key: int
    count: Array

    @property
    def xp(self) -> Any:
        """The namespace for ``adamas.rule.formats``."""
        return arrays.Codes(self.count)

    def thresholds(self, shape: Sequence[int], draw: int) -> Any:
        """The 16-bit thresholds of a whole variable's elements."""
        index = arrays.reshaped(arrays.counted(math.prod(shape)), tuple(shape))
        return formats.random16(self.xp, index, self.key, arrays.counter(self.count), draw)

    def block_thresholds(self, scale_shape: Sequence[int], draw: int) -> Any:
        """The 18-bit thresholds of a moment in 8 bits, by blocks."""
        blocks = arrays.reshaped(arrays.counted(math.prod(scale_shape)), (*scale_shape, 1))
        position = arrays.counted(formats.BLOCK)
        return formats.random18(self.xp, blocks, position, self.key, arrays.counter(self.count), draw)


@_exactly
def loaded(values: Array, scale: Array | None, compute: str, xp: Any) -> Array:
    """A moment as it is computed with."""
    if scale is None:
        return arrays.cast(values, compute)
    has_sign = arrays.dtype_of(values) == "int8"
    decode = formats.decode_signed if has_sign else formats.decode_unsigned
    found = decode(xp, _blocks(arrays.cast(values, "int32")), arrays.opened(scale)[..., None])
    return arrays.cast(_unblocked(found, values.shape), compute)


@_exactly
def kept(value: Array, dtype: str, rounding: Rounding, kind: MomentKind) -> Array:
    """A moment in a dtype of the backend: 16 bits are rounded stochastically, but maxima, no averages, to the nearest."""
    if dtype not in HALVES:
        return arrays.cast(value, dtype)
    return _rounded(
        value, dtype, rounding.xp, None if kind.draw is None else rounding.thresholds(value.shape, kind.draw)
    )


@_exactly
def coded(
    value: Array, dtype: str, scale: Array, rounding: Rounding, factor: Array | float, draw: int | None
) -> tuple[Array, Array]:
    """A moment in 8 bits: codes and scales. ``scale`` is what these were, and ``factor`` the rule's own, of the
    decay; ``draw`` is None where codes are rounded to the nearest."""
    xp = rounding.xp
    blocks = _blocks(arrays.cast(value, "float32"))
    thresholds = None if draw is None else rounding.block_thresholds(scale.shape, draw)
    if dtype == "int8":
        codes, scales = formats.encode_signed(xp, blocks, thresholds)
    else:
        old = arrays.opened(factor * arrays.xp.abs(scale))[..., None]
        codes, scales = formats.encode_unsigned(xp, blocks, old, thresholds)
    return arrays.cast(_unblocked(codes, value.shape), dtype), arrays.closed(scales[..., 0], "float32")


@_exactly
def rounded(value: Array, dtype: str, rounding: Rounding) -> Array:
    """Float32 weights as 16-bit ones, rounded stochastically."""
    return _rounded(value, dtype, rounding.xp, rounding.thresholds(value.shape, WEIGHT_DRAW))


@_exactly
def split(value: Array, dtype: str, xp: Any) -> tuple[Array, Array]:
    """Float32 weights as 16-bit ones and the low bits (int16)."""
    high, low = formats.SPLIT[dtype](xp, arrays.opened(value))
    return arrays.from_codes(high, dtype), arrays.from_codes(low, "int16")


@_exactly
def joined(weight: Array, low: Array, dtype: str, xp: Any) -> Array:
    """The float32 weights that ``split`` split."""
    return arrays.closed(formats.JOIN[dtype](xp, arrays.codes(weight), arrays.codes(low)), "float32")


def _rounded(value: Array, dtype: str, xp: Any, thresholds: Any) -> Array:
    return arrays.from_codes(formats.ENCODE[dtype](xp, arrays.opened(arrays.cast(value, "float32")), thresholds), dtype)


def _blocks(x: Array) -> Any:
    """The tensor as (rows, blocks of a row, 128), with zeros behind each row's end."""
    rows, row = x.shape[0], math.prod(x.shape[1:])
    matrix = arrays.padded(arrays.opened(arrays.reshaped(x, (rows, row))), -row % formats.BLOCK)
    return arrays.reshaped(matrix, (rows, -(-row // formats.BLOCK), formats.BLOCK))


def _unblocked(x: Any, shape: Sequence[int]) -> Array:
    """The tensor that ``_blocks`` made these of."""
    row = math.prod(shape[1:])
    matrix = arrays.reshaped(x, (shape[0], -(-row // formats.BLOCK) * formats.BLOCK))[:, :row]
    return arrays.bare(arrays.reshaped(matrix, tuple(shape)))
