"""The moments of a parameter and their storage, determined by its shape and dtype alone, for any framework.

A parameter of shape (n₀, …) has n₀ rows. If it has three or more dimensions and the last is a multiple of 128, as in a stack
of matrices, a row runs along the last dimension alone, and all others number the rows. In int8 and int6, each row is divided
into blocks of 128, and the scales of a moment have shape (*rows, blocks of a row). Its codes have the parameter's shape in
int8. In int6 they are packed, four in three bytes, in the shape (*rows, 3·⌈row/4⌉): bytes 3i to 3i + 2 of a row, as a
little-endian number, have the code of the row's element 4i + k in the six bits from 6k on. The end of a row is padded with
codes of 0.

All decisions depend on the shape of the whole parameter, never on the part that one process holds. The formats themselves are
in ``adamas.rule.formats``; ``xp`` is ``numpy`` or ``torch``. This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from . import formats
from .declaration import Member
from .formats import Width

Array = Any

StateFormat = Literal["float32", "bfloat16", "int8", "int6"]
State: TypeAlias = StateFormat | Mapping[str, StateFormat]

FORMATS = ("float32", "bfloat16", "int8", "int6")
WIDTHS = {"int8": formats.INT8, "int6": formats.INT6}  # of the formats with codes
LOW_BITS = "weight_low_bits"  # the name in the state of the lower halves of the weights with weights="split"
HALVES = ("bfloat16", "float16")  # dtypes that a weight is rounded to
CODES = ("int8", "uint8")  # the dtypes of codes, with and without a sign, in any width

_WIDE = ("float64", "complex128")
_CHUNK = 1 << 20  # elements that are converted at a time
_PACKED, _BYTES = 4, 3  # so many codes of 6 bits are packed into so many bytes


class Slot(NamedTuple):
    """One moment of one parameter.

    Attributes:
        name: its name in the state.
        dtype: its storage dtype: the name of a dtype, or a dtype of the framework.
        shape: the shape of its values or codes.
        scale_shape: the shape of its scales if it is stored as codes, else None.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...] | None = None

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


def has_blocks(shape: Sequence[int]) -> bool:
    """Whether a parameter of this shape is large enough for moments as codes."""
    if len(shape) < 2:
        return False
    return math.prod(shape[1:]) >= formats.LEAST_ROW and math.prod(shape) >= formats.LEAST_NUMEL


def is_split(hyper: Mapping[str, Any], dtype: str) -> bool:
    """Whether a parameter of this dtype keeps the low bits of its weights in the state."""
    return bool(hyper["weights"] == "split" and dtype in HALVES)


def in_rows(shape: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """The dimensions that number the rows of a parameter of this shape, and the number of elements of a row."""
    count = len(shape) - 1 if len(shape) > 2 and shape[-1] % formats.BLOCK == 0 else 1
    return tuple(shape[:count]), math.prod(shape[count:])


def scale_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the scales of a parameter's codes."""
    rows, length = in_rows(shape)
    return *rows, -(-length // formats.BLOCK)


def codes_shape(shape: Sequence[int], width: Width) -> tuple[int, ...]:
    """The shape of a parameter's codes."""
    if width.bits == 8:
        return tuple(shape)
    rows, length = in_rows(shape)
    return *rows, _BYTES * -(-length // _PACKED)


def form_of(codes: Sequence[int], shape: Sequence[int]) -> str:
    """The format of the codes of this shape, for a parameter of shape ``shape``; "" if it cannot have them.

    The shape tells it, since rows that are long enough for codes are longer than packed ones.
    """
    found = (form for form, width in WIDTHS.items() if tuple(codes) == codes_shape(shape, width))
    return next(found, "") if len(shape) else ""


def slots(
    member: Member, hyper: Mapping[str, Any], shape: Sequence[int], dtype: str, whole: Sequence[int] | None = None
) -> Iterator[Slot]:
    """The moments of a parameter, each with its storage.

    Args:
        member: the member.
        hyper: the hyperparameters, including ``state``.
        shape: the shape of the parameter, or of the part that this process holds.
        dtype: the name of its dtype.
        whole: the shape of the whole parameter, if this is a part.
    """
    has_sign = signs(member)
    is_complex = dtype.startswith("complex")
    for name in member.state_names(hyper, shape):
        wanted, own = format_of(hyper["state"], name), member.states[name].shape_in(shape)
        if is_complex:
            yield Slot(name, dtype, own)
        elif wanted == "bfloat16":
            yield Slot(name, "bfloat16", tuple(shape))
        elif wanted in WIDTHS and has_blocks(shape if whole is None else whole):
            codes = "int8" if has_sign[name] else "uint8"
            yield Slot(name, codes, codes_shape(shape, WIDTHS[wanted]), scale_shape(shape))
        else:
            yield Slot(name, "float64" if dtype in _WIDE else "float32", own)


class Part(NamedTuple):
    """A tensor of a parameter's state before the first step.

    Attributes:
        name: its name in the state.
        shape: its shape.
        dtype: the name of its dtype.
        value: the value of all elements, or of each in a row.
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
    if slot.scale_shape is None:
        return [Part(slot.name, slot.shape, slot.dtype, value)]
    has_sign, width = slot.dtype == "int8", WIDTHS[form_of(slot.shape, shape)]
    one = xp.full((1, 1), value, xp.float32)
    codes, scale = formats.encode_anew(xp, one, has_sign, width)
    code: Any = codes[0, 0]
    if width is not formats.INT8:  # a code is not the same in each byte
        row = (1, in_rows(shape)[1])
        code = packed(xp, blocks(xp, xp.broadcast_to(codes, row)), row, width, has_sign)
    return [
        Part(slot.name, slot.shape, slot.dtype, code),
        Part(slot.scale_name, slot.scale_shape, "float32", scale[0, 0]),
    ]


def state_parts(member: Member, hyper: Mapping[str, Any], shape: Sequence[int], dtype: str) -> list[Part]:
    """All tensors of a parameter's state before the first step. The arguments are those of ``slots``."""
    slots_of = slots(member, hyper, shape, dtype)
    found = [part for slot in slots_of for part in parts(np, slot, shape, member.start_of(slot.name, hyper))]
    return [*found, low_bits(shape)] if is_split(hyper, dtype) else found


def shapes(member: Member, hyper: Mapping[str, Any], shape: Sequence[int], dtype: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a parameter's state, by name. The arguments are those of ``slots``."""
    found: dict[str, tuple[int, ...]] = {LOW_BITS: low_bits(shape).shape} if is_split(hyper, dtype) else {}
    for slot in slots(member, hyper, shape, dtype):
        found[slot.name] = slot.shape
        if slot.scale_shape is not None:
            found[slot.scale_name] = slot.scale_shape
    return found


def low_bits(shape: Sequence[int]) -> Part:
    """The low bits of a split weight of this shape."""
    return Part(LOW_BITS, tuple(shape), "int16", 0)


# ---- whole tensors, in pieces


def blocks(xp: Any, x: Array) -> Array:
    """The tensor in the shape (*rows, blocks of a row, 128); rows are padded with zeros."""
    rows, length = in_rows(x.shape)
    x = x.reshape((*rows, length))
    if missing := -length % formats.BLOCK:
        x = xp.concatenate([x, xp.broadcast_to(xp.zeros_like(x[..., :1]), (*rows, missing))], -1)
    return x.reshape((*rows, (length + missing) // formats.BLOCK, formats.BLOCK))


def unblocked(x: Array, shape: Sequence[int]) -> Array:
    """The inverse of ``blocks``."""
    rows, length = in_rows(shape)
    return x.reshape((*rows, x.shape[-2] * formats.BLOCK))[..., :length].reshape(shape)


def unpacked(xp: Any, codes: Array, width: Width, has_sign: bool) -> Array:
    """Stored codes as int32, in the shape (*rows, blocks of a row, 128)."""
    codes = formats.cast(codes, xp.int32)
    if width is formats.INT8:
        return blocks(xp, codes)
    part = codes.reshape((*codes.shape[:-1], codes.shape[-1] // _BYTES, _BYTES)) & 0xFF
    word = part[..., 0] | part[..., 1] << 8 | part[..., 2] << 16
    found = _together(xp, [word >> width.bits * k & (1 << width.bits) - 1 for k in range(_PACKED)])
    return blocks(xp, found - (found >> width.bits - 1 << width.bits) if has_sign else found)


def padding(xp: Any, codes: Array, shape: Sequence[int], width: Width, has_sign: bool) -> Array:
    """The codes behind the end of each row in the stored codes of a parameter of shape ``shape``; all should be 0."""
    if width is formats.INT8:
        return codes.reshape(-1)[:0]
    rows = codes.reshape((math.prod(codes.shape[:-1]), codes.shape[-1]))
    last_word = unpacked(xp, rows[:, -_BYTES:], width, has_sign)[:, 0, :_PACKED]
    return last_word[:, _PACKED - -in_rows(shape)[1] % _PACKED :]


def packed(xp: Any, codes: Array, shape: Sequence[int], width: Width, has_sign: bool) -> Array:
    """Codes in the shape (*rows, blocks of a row, 128), as they are stored for a parameter of shape ``shape``."""
    if width is formats.INT8:
        return unblocked(codes, shape)
    *rows, size = codes_shape(shape, width)
    words = size // _BYTES
    part = codes.reshape((*rows, codes.shape[-2] * formats.BLOCK))[..., : words * _PACKED]
    part = part.reshape((*rows, words, _PACKED)) & (1 << width.bits) - 1
    word = part[..., 0]
    for k in range(1, _PACKED):
        word = word | part[..., k] << width.bits * k
    found = _together(xp, [word >> 8 * k & 0xFF for k in range(_BYTES)])
    return found - (found >> 7 << 8) if has_sign else found


def _together(xp: Any, parts: Sequence[Array]) -> Array:
    """Arrays of the same shape, interleaved along the last dimension."""
    joined = xp.concatenate([part[..., None] for part in parts], -1)
    *rows, length, count = joined.shape
    return joined.reshape((*rows, length * count))


def decode(xp: Any, codes: Array, scale: Array, values: Array) -> None:
    """Write the values of codes into the float32 ``values``, which has the shape of the parameter."""
    has_sign, width = codes.dtype == xp.int8, WIDTHS[form_of(codes.shape, values.shape)]
    for piece in pieces(values.shape):
        part = formats.decode(xp, unpacked(xp, codes[piece], width, has_sign), scale[piece][..., None], has_sign, width)
        values[piece] = unblocked(part, values[piece].shape)


def encode(xp: Any, member: Member, values: Mapping[str, Array], state: Mapping[str, Array]) -> None:
    """Write the values of moments into their codes and scales, rounded to the nearest, on the grids that a step takes.

    Args:
        xp: the namespace.
        member: the member that has the moments.
        values: the values of moments by name, of the parameter's shape. Second moments may be missing if the state has their
            codes.
        state: the parameter's state. Codes of the moments in ``values`` and their scales are written; everything else is
            only read.
    """
    for name in sorted(values, key=lambda name: member.states[name].signed):  # second moments first
        if scale_name(name) not in state:
            continue
        x, codes, scale = values[name], state[name], state[scale_name(name)]
        has_sign, width = codes.dtype == xp.int8, WIDTHS[form_of(codes.shape, x.shape)]
        second, counts = member.grids_of(name)
        for piece in pieces(x.shape):
            part = blocks(xp, formats.cast(x[piece], xp.float32))
            choice = None if second is None else _choices(xp, second, values, state, piece, x.shape, width)
            found, scales = formats.encode_anew(xp, part, has_sign, width, choice, counts)
            codes[piece] = formats.cast(packed(xp, found, x[piece].shape, width, has_sign), codes.dtype)
            scale[piece] = scales[..., 0]


def _choices(
    xp: Any,
    second: str,
    values: Mapping[str, Array],
    state: Mapping[str, Array],
    piece: slice,
    shape: Sequence[int],
    width: Width,
) -> Array:
    """The choices of a second moment's blocks for a first moment of this width, in some rows; as in a step."""
    codes, scale = state[second], state.get(scale_name(second))
    own = WIDTHS[form_of(codes.shape, shape)]
    if scale is None or (own is not width and second in values):
        return formats.chosen_unsigned(xp, blocks(xp, formats.cast(values[second][piece], xp.float32)), width)
    stored = scale[piece][..., None]
    if own is width:
        return formats.choice_of(xp, stored)
    part = formats.decode_unsigned(xp, unpacked(xp, codes[piece], own, False), stored, own)
    return formats.chosen_unsigned(xp, part, width)


def pieces(shape: Sequence[int], most: int = _CHUNK) -> Iterator[slice]:
    """Slices along the first dimension: of at most so many elements, or of one index."""
    step = max(1, most // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))
