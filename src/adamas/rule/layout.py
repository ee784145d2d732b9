"""Which moments a parameter has, and how each is stored: by its shape and dtype alone, whichever framework's tensor it is.

A parameter of shape (n₀, …) is n₀ rows; in int8, each row is cut into blocks of 128, and the codes of a moment, which have
the parameter's shape, come with a tensor of scales of shape (n₀, blocks of a row). What is decided here is decided by the
shape of the whole parameter, never by the part of it that one process holds. The formats themselves are
``adamas.rule.formats``; ``xp`` is ``numpy`` or ``torch``. This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from . import formats
from .declaration import Member

Array = Any

StateFormat = Literal["float32", "bfloat16", "int8"]
State: TypeAlias = StateFormat | Mapping[str, StateFormat]

FORMATS = ("float32", "bfloat16", "int8")
LOW_BITS = "weight_low_bits"  # what the state calls the other half of weights="split"
HALVES = ("bfloat16", "float16")  # dtypes that a weight is rounded to

_WIDE = ("float64", "complex128")
_CHUNK = 1 << 20  # elements that are converted at a time


class Slot(NamedTuple):
    """One moment of one parameter.

    Attributes:
        name: its name in the state.
        dtype: what it is stored as: the name of a dtype, or a framework's own.
        scale_shape: the shape of its scales, where it is stored as codes that have some.
    """

    name: str
    dtype: Any
    scale_shape: tuple[int, int] | None

    @property
    def scale_name(self) -> str:
        """The name of its scales."""
        return scale_name(self.name)


def scale_name(slot: str) -> str:
    """What the scales of a moment are called in the state."""
    return f"{slot}_scale"


def format_of(state: State, slot: str) -> StateFormat:
    """The format that ``state=`` asks for."""
    return state if isinstance(state, str) else state.get(slot, "float32")


def is_reduced(state: State) -> bool:
    """Whether any moment is to be stored in less than float32."""
    return any(x != "float32" for x in ([state] if isinstance(state, str) else state.values()))


def signs(member: Member) -> dict[str, bool]:
    """The member's moments by name, whatever its options are, and whether they have a sign."""
    return {name: state.signed for name, state in member.states.items()}


def has_blocks(shape: Sequence[int], rows: int | None = None) -> bool:
    """Whether a parameter is large enough for moments in 8 bits; ``rows`` are those of the whole that it is a part of."""
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
    """The moments that a parameter has, each with its format.

    Args:
        member: whose parameter it is.
        hyper: the hyperparameters, with ``state``.
        shape: of the parameter, or of the part of it that is there.
        dtype: the name of its dtype.
        rows: how many the whole parameter has, where this is a part.
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


# ---- whole tensors, in pieces


def blocks(xp: Any, x: Array) -> Array:
    """The tensor as (rows, blocks of a row, 128), with zeros behind each row's end."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    if missing := -rows.shape[1] % formats.BLOCK:
        zeros = xp.broadcast_to(xp.zeros_like(rows[:, :1]), (x.shape[0], missing))
        rows = xp.concatenate([rows, zeros], 1)
    return rows.reshape(x.shape[0], rows.shape[1] // formats.BLOCK, formats.BLOCK)


def unblocked(x: Array, shape: Sequence[int]) -> Array:
    """The tensor that ``blocks`` made these of."""
    return x.reshape(shape[0], x.shape[1] * formats.BLOCK)[:, : math.prod(shape[1:])].reshape(shape)


def decode(xp: Any, codes: Array, scale: Array, values: Array) -> None:
    """Writes the values of codes in 8 bits into the float32 ``values``."""
    decoded = formats.decode_signed if codes.dtype == xp.int8 else formats.decode_unsigned
    for piece in _pieces(codes):
        part = decoded(xp, blocks(xp, formats.cast(codes[piece], xp.int64)), scale[piece][..., None])
        values[piece] = unblocked(part, values[piece].shape)


def encode(xp: Any, values: Array, codes: Array, scale: Array) -> None:
    """Writes values into codes in 8 bits and their scales, each rounded to the nearest."""
    for piece in _pieces(values):
        part = blocks(xp, formats.cast(values[piece], xp.float32))
        found, scales = (
            formats.encode_signed(xp, part)
            if codes.dtype == xp.int8
            else formats.encode_unsigned(xp, part, xp.zeros_like(part[..., :1]))
        )
        codes[piece] = formats.cast(unblocked(found, codes[piece].shape), codes.dtype)
        scale[piece] = scales[..., 0]


def _pieces(x: Array) -> Iterator[slice]:
    """Rows that are converted together."""
    step = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
    for first in range(0, x.shape[0], step):
        yield slice(first, first + step)
