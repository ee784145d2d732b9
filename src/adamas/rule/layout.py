"""The moments of a parameter and their storage, determined by its shape and dtype alone, for any framework.

A parameter of shape (n₀, …) has n₀ rows. In int8, each row is divided into blocks of 128. The codes of a moment have the
parameter's shape, and its scales have shape (n₀, blocks of a row). All decisions depend on the shape of the whole parameter,
never on the part that one process holds. The formats themselves are in ``adamas.rule.formats``; ``xp`` is ``numpy`` or
``torch``. This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from . import formats
from .declaration import Member

Array = Any

StateFormat = Literal["float32", "bfloat16", "int8"]
State: TypeAlias = StateFormat | Mapping[str, StateFormat]

FORMATS = ("float32", "bfloat16", "int8")
LOW_BITS = "weight_low_bits"  # the name in the state of the lower halves of the weights with weights="split"
HALVES = ("bfloat16", "float16")  # dtypes that a weight is rounded to
CODES = ("int8", "uint8")  # the dtypes of codes in 8 bits

_WIDE = ("float64", "complex128")
_CHUNK = 1 << 20  # elements that are converted at a time


class Slot(NamedTuple):
    """One moment of one parameter.

    Attributes:
        name: its name in the state.
        dtype: its storage dtype: the name of a dtype, or a dtype of the framework.
        scale_shape: the shape of its scales if it is stored as 8-bit codes, else None.
    """

    name: str
    dtype: Any
    scale_shape: tuple[int, int] | None

    @property
    def scale_name(self) -> str:
        """The name of its scales."""
        return scale_name(self.name)


def scale_name(slot: str) -> str:
    """The name of a moment's scales in the state."""
    return f"{slot}_grid"


def format_of(state: State, slot: str) -> StateFormat:
    """The storage format of a moment according to ``state=``."""
    return state if isinstance(state, str) else state.get(slot, "float32")


def is_reduced(state: State) -> bool:
    """Whether any moment is stored in fewer bits than float32."""
    return any(x != "float32" for x in ([state] if isinstance(state, str) else state.values()))


def signs(member: Member) -> dict[str, bool]:
    """For each moment that the member can have, whether it has a sign."""
    return {name: state.signed for name, state in member.states.items()}


def has_blocks(shape: Sequence[int], rows: int | None = None) -> bool:
    """Whether a parameter is large enough for 8-bit moments; ``rows`` is the number of rows of the whole parameter."""
    if len(shape) < 2:
        return False
    row = math.prod(shape[1:])
    return row >= formats.LEAST_ROW and row * (shape[0] if rows is None else rows) >= formats.LEAST_NUMEL


def is_split(hyper: Mapping[str, Any], dtype: str) -> bool:
    """Whether a parameter of this dtype keeps the low bits of its weights in the state."""
    return bool(hyper["weights"] == "split" and dtype in HALVES)


def scale_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape of the scales of a parameter's codes."""
    return shape[0], -(-math.prod(shape[1:]) // formats.BLOCK)


def slots(
    member: Member, hyper: Mapping[str, Any], shape: Sequence[int], dtype: str, rows: int | None = None
) -> Iterator[Slot]:
    """The moments of a parameter, each with its storage.

    Args:
        member: the member.
        hyper: the hyperparameters, including ``state``.
        shape: the shape of the parameter, or of the part that this process holds.
        dtype: the name of its dtype.
        rows: the number of rows of the whole parameter, if this is a part.
    """
    has_sign = signs(member)
    is_complex = dtype.startswith("complex")
    for name in member.state_names(hyper):
        wanted = format_of(hyper["state"], name)
        if is_complex:
            yield Slot(name, dtype, None)
        elif wanted == "bfloat16":
            yield Slot(name, "bfloat16", None)
        elif wanted == "int8" and has_blocks(shape, rows):
            yield Slot(name, "int8" if has_sign[name] else "uint8", scale_shape(shape))
        else:
            yield Slot(name, "float64" if dtype in _WIDE else "float32", None)


class Part(NamedTuple):
    """A tensor of a parameter's state before the first step.

    Attributes:
        name: its name in the state.
        shape: its shape.
        dtype: the name of its dtype.
        value: the value of all elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: Any


def parts(xp: Any, slot: Slot, shape: Sequence[int], value: Any) -> list[Part]:
    """The tensors of a moment that has one value everywhere.

    Args:
        xp: ``numpy``, or a namespace of compiled programs if the value is known only there.
        slot: the moment.
        shape: the shape of the parameter.
        value: the value.
    """
    shape = tuple(shape)
    if slot.scale_shape is None:
        return [Part(slot.name, shape, slot.dtype, value)]
    one = xp.full((1, 1), value, xp.float32)
    codes, scale = formats.encode_signed(xp, one) if slot.dtype == "int8" else formats.encode_unsigned(xp, one, 0 * one)
    return [
        Part(slot.name, shape, slot.dtype, codes[0, 0]),
        Part(slot.scale_name, slot.scale_shape, "float32", scale[0, 0]),
    ]


def state_parts(member: Member, hyper: Mapping[str, Any], shape: Sequence[int], dtype: str) -> list[Part]:
    """All tensors of a parameter's state before the first step. The arguments are those of ``slots``."""
    slots_of = slots(member, hyper, shape, dtype)
    found = [part for slot in slots_of for part in parts(np, slot, shape, member.start_of(slot.name, hyper))]
    return [*found, low_bits(shape)] if is_split(hyper, dtype) else found


def low_bits(shape: Sequence[int]) -> Part:
    """The low bits of a split weight of this shape."""
    return Part(LOW_BITS, tuple(shape), "int16", 0)


# ---- whole tensors, in pieces


def blocks(xp: Any, x: Array) -> Array:
    """The tensor in the shape (rows, blocks of a row, 128); rows are padded with zeros."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    if missing := -rows.shape[1] % formats.BLOCK:
        zeros = xp.broadcast_to(xp.zeros_like(rows[:, :1]), (x.shape[0], missing))
        rows = xp.concatenate([rows, zeros], 1)
    return rows.reshape(x.shape[0], rows.shape[1] // formats.BLOCK, formats.BLOCK)


def unblocked(x: Array, shape: Sequence[int]) -> Array:
    """The inverse of ``blocks``."""
    return x.reshape(shape[0], x.shape[1] * formats.BLOCK)[:, : math.prod(shape[1:])].reshape(shape)


def decode(xp: Any, codes: Array, scale: Array, values: Array) -> None:
    """Write the values of 8-bit codes into the float32 ``values``."""
    decoded = formats.decode_signed if codes.dtype == xp.int8 else formats.decode_unsigned
    for piece in pieces(codes):
        part = decoded(xp, blocks(xp, formats.cast(codes[piece], xp.int64)), scale[piece][..., None])
        values[piece] = unblocked(part, values[piece].shape)


def encode(xp: Any, values: Array, codes: Array, scale: Array) -> None:
    """Write values into 8-bit codes and their scales, rounded to the nearest."""
    for piece in pieces(values):
        part = blocks(xp, formats.cast(values[piece], xp.float32))
        found, scales = (
            formats.encode_signed(xp, part)
            if codes.dtype == xp.int8
            else formats.encode_unsigned(xp, part, xp.zeros_like(part[..., :1]))
        )
        codes[piece] = formats.cast(unblocked(found, codes[piece].shape), codes.dtype)
        scale[piece] = scales[..., 0]


def pieces(x: Array) -> Iterator[slice]:
    """Slices of rows that are converted at a time."""
    step = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
    for first in range(0, x.shape[0], step):
        yield slice(first, first + step)
