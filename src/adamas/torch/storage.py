"""How the moments of one parameter are stored: which format each has, and what it costs.

The formats themselves are ``adamas.formats``; here they are applied to whole tensors. A parameter of shape (n₀, …) is n₀
rows; in int8, each row is cut into blocks of 128, and the codes of a moment, which have the parameter's shape, come with
a tensor of scales of shape (n₀, blocks of a row). What is decided here is decided by the shape of the whole parameter,
never by the part of it that one process holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .. import formats
from ..family import STATEFUL_PARTS, Member, Shape

StateFormat = Literal["float32", "bfloat16", "int8"]
State: TypeAlias = StateFormat | Mapping[str, StateFormat]

FORMATS = ("float32", "bfloat16", "int8")
LOW_BITS = "weight_low_bits"

_SIGNED = Shape.FIRST | Shape.TRACE
_CODES = {torch.int8: (formats.decode_signed, True), torch.uint8: (formats.decode_unsigned, False)}
_CHUNK = 1 << 20  # elements that are converted at a time


class Rows(NamedTuple):
    """Where the rows that a parameter holds lie in the whole tensor, along its first dimension."""

    first: int
    total: int


class Slot(NamedTuple):
    """One moment of one parameter: its name in the state, and how it is stored."""

    name: str
    dtype: torch.dtype
    scale_shape: tuple[int, int] | None

    @property
    def scale_name(self) -> str:
        """The name of its scales."""
        return scale_name(self.name)


def scale_name(slot: str) -> str:
    """What the scales of a moment are called in the state."""
    return f"{slot}_scale"


def format_of(state: State, slot: str) -> StateFormat:
    """The format that a group's ``state`` asks for."""
    return state if isinstance(state, str) else state.get(slot, "float32")


def is_reduced(state: State) -> bool:
    """Whether any moment is to be stored in less than float32."""
    return any(x != "float32" for x in ([state] if isinstance(state, str) else state.values()))


def is_wide(dtype: torch.dtype) -> bool:
    """Whether weights of this dtype are stepped in float64."""
    return dtype in (torch.float64, torch.complex128)


def is_split(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether the parameter keeps the low bits of its weights in the state."""
    return group["weights"] == "split" and p.dtype in (torch.bfloat16, torch.float16)


def rows_of(group: Mapping[str, Any], index: int) -> Rows | None:
    """Where the group's parameter lies in a whole tensor; None where it is one."""
    rows = group.get("rows")
    return None if rows is None or rows[index] is None else Rows(*rows[index])


def has_blocks(p: Tensor, rows: Rows | None) -> bool:
    """Whether the parameter is large enough for moments in 8 bits: by the whole tensor that it is, or is a part of."""
    if p.ndim < 2 or p.is_complex():
        return False
    row = math.prod(p.shape[1:])
    return row >= formats.LEAST_ROW and row * (rows.total if rows else p.shape[0]) >= formats.LEAST_NUMEL


def code_dtypes(member: Member) -> dict[str, torch.dtype]:
    """The member's moments, whatever its options are, and the dtype of the codes of each."""
    return {
        name: torch.int8 if part & _SIGNED else torch.uint8
        for part, name in zip(STATEFUL_PARTS, member.slots, strict=True)
        if name is not None
    }


def slots_of(member: Member, group: Mapping[str, Any], p: Tensor, rows: Rows | None) -> Iterator[Slot]:
    """The moments that the parameter has, each with its format."""
    codes = code_dtypes(member)
    for name in member.state_names(group):
        if name is None:
            continue
        wanted = format_of(group["state"], name)
        if p.is_complex():
            yield Slot(name, p.dtype, None)
        elif wanted == "bfloat16":
            yield Slot(name, torch.bfloat16, None)
        elif wanted == "int8" and has_blocks(p, rows):
            yield Slot(name, codes[name], _scale_shape(p.shape))
        else:
            yield Slot(name, torch.float64 if is_wide(p.dtype) else torch.float32, None)


def _scale_shape(shape: torch.Size) -> tuple[int, int]:
    return shape[0], -(-math.prod(shape[1:]) // formats.BLOCK)


def zeros(slot: Slot, p: Tensor) -> dict[str, Tensor]:
    """The moment's tensors before the first step."""
    if slot.scale_shape is None:
        return {slot.name: torch.zeros_like(p, dtype=slot.dtype, memory_format=torch.preserve_format)}
    return {
        slot.name: torch.zeros(p.shape, dtype=slot.dtype, device=p.device),
        slot.scale_name: torch.zeros(slot.scale_shape, dtype=torch.float32, device=p.device),
    }


def filled(slot: Slot, p: Tensor, value: float) -> dict[str, Tensor]:
    """The moment's tensors with one value everywhere."""
    tensors = zeros(slot, p)
    if slot.scale_shape is None:
        tensors[slot.name].fill_(complex(value, value) if p.is_complex() else value)
    else:
        for name, one in encoded(slot, torch.full((1, 1), value)).items():
            tensors[name].fill_(one.item())
    return tensors


def blocks(x: Tensor) -> Tensor:
    """The tensor as (rows, blocks of a row, 128), with zeros behind each row's end."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    missing = -rows.shape[1] % formats.BLOCK
    return torch.nn.functional.pad(rows, (0, missing)).reshape(x.shape[0], -1, formats.BLOCK)


def unblocked(x: Tensor, shape: torch.Size) -> Tensor:
    """The tensor that ``blocks`` made these of."""
    rows = x.flatten(1)
    return rows[:, : math.prod(shape[1:])].reshape(shape)


def _pieces(x: Tensor) -> Iterator[slice]:
    """Rows that are converted together."""
    step = max(1, _CHUNK // max(1, x[:1].numel()))
    for first in range(0, x.shape[0], step):
        yield slice(first, first + step)


def is_coded(x: Tensor) -> bool:
    """Whether the tensor holds codes."""
    return x.dtype in _CODES


def decoded(codes: Tensor, scale: Tensor) -> Tensor:
    """The float32 values of codes."""
    decode, _ = _CODES[codes.dtype]
    result = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    for piece in _pieces(codes):
        values = decode(torch, blocks(codes[piece].to(torch.int64)), scale[piece].unsqueeze(-1))
        result[piece] = unblocked(values, result[piece].shape)
    return result


def encoded(slot: Slot, x: Tensor) -> dict[str, Tensor]:
    """Values in the moment's format, each rounded to the nearest."""
    if slot.scale_shape is None:
        return {slot.name: x.to(slot.dtype)}
    codes = torch.empty(x.shape, dtype=slot.dtype, device=x.device)
    scale = torch.empty(_scale_shape(x.shape), dtype=torch.float32, device=x.device)
    _, has_sign = _CODES[slot.dtype]
    for piece in _pieces(x):
        values = blocks(x[piece].to(torch.float32))
        found, scales = (
            formats.encode_signed(torch, values)
            if has_sign
            else formats.encode_unsigned(torch, values, torch.zeros_like(values[..., :1]))
        )
        codes[piece], scale[piece] = unblocked(found, codes[piece].shape).to(slot.dtype), scales[..., 0]
    return {slot.name: codes, slot.scale_name: scale}
