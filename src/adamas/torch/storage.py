"""How PyTorch's tensors store the moments of one parameter: the layout of ``adamas.rule.layout``, filled and converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rule import layout
from ..rule.declaration import Member
from ..rule.layout import HALVES, Slot

_CODES = (torch.int8, torch.uint8)


class Rows(NamedTuple):
    """Where the rows that a parameter holds lie in the whole tensor, along its first dimension."""

    first: int
    total: int


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype's name without the library's."""
    return str(dtype).removeprefix("torch.")


def is_split(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether the parameter keeps the low bits of its weights in the state."""
    return group["weights"] == "split" and dtype_name(p.dtype) in HALVES


def rows_of(group: Mapping[str, Any], index: int) -> Rows | None:
    """Where the group's parameter lies in a whole tensor; None where it is one."""
    rows = group.get("rows")
    return None if rows is None or rows[index] is None else Rows(*rows[index])


def slots_of(member: Member, group: Mapping[str, Any], p: Tensor, rows: Rows | None) -> Iterator[Slot]:
    """The moments that the parameter has, each with its format."""
    for slot in layout.slots(member, group, p.shape, dtype_name(p.dtype), rows.total if rows else None):
        yield slot._replace(dtype=getattr(torch, slot.dtype))


def code_dtypes(member: Member) -> dict[str, torch.dtype]:
    """The member's moments, whatever its options are, and the dtype of the codes of each."""
    return {name: torch.int8 if has_sign else torch.uint8 for name, has_sign in layout.signs(member).items()}


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
        one = slot._replace(scale_shape=(1, 1))
        for name, code in encoded(one, torch.full((1, 1), value, device="cpu")).items():
            tensors[name].fill_(code.item())
    return tensors


def as_scalar(value: Any) -> Tensor | None:
    """A single number as a state keeps it: float64, which counts past 2²⁴, on the CPU; None where it is none."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex() or value.dtype == torch.bool:
            return None
        return value.detach().to("cpu", torch.float64)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return torch.tensor(float(value), dtype=torch.float64) if is_number else None


def is_coded(x: Tensor) -> bool:
    """Whether the tensor holds codes."""
    return x.dtype in _CODES


def decoded(codes: Tensor, scale: Tensor) -> Tensor:
    """The float32 values of codes."""
    values = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    layout.decode(torch, codes, scale, values)
    return values


def encoded(slot: Slot, x: Tensor) -> dict[str, Tensor]:
    """Values in the moment's format, each rounded to the nearest."""
    if slot.scale_shape is None:
        return {slot.name: x.to(slot.dtype)}
    tensors = zeros(slot, x)
    layout.encode(torch, x, tensors[slot.name], tensors[slot.scale_name])
    return tensors
