"""The moments of one parameter as PyTorch tensors, in the layout of ``adamas.rule.layout``: created and converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rule import former, layout
from ..rule.declaration import Member
from ..rule.layout import Part, Slot
from ..step import arrays
from ..step.namespaces.torch import Namespace

_CODES = (torch.int8, torch.uint8)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of the dtype, without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def dtype_name_of(x: Tensor) -> str:
    """The name of the tensor's dtype."""
    return dtype_name(x.dtype)


def dtype_of(slot: Slot) -> torch.dtype:
    """The dtype of the moment's tensor."""
    dtype: torch.dtype = getattr(torch, slot.dtype)
    return dtype


def code_dtypes(member: Member) -> dict[str, torch.dtype]:
    """The dtype of the codes of each moment that the member can have, under any options."""
    return {name: torch.int8 if has_sign else torch.uint8 for name, has_sign in layout.signs(member).items()}


def full(p: Tensor, part: Part) -> Tensor:
    """A tensor of the parameter's state before the first step. Codes and scales are contiguous."""
    dtype: torch.dtype = getattr(torch, part.dtype)
    if dtype in _CODES or part.shape != tuple(p.shape):
        tensor = torch.zeros(part.shape, dtype=dtype, device=p.device)
    else:
        tensor = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    if np.ndim(part.value):  # the codes of a row
        tensor.copy_(torch.as_tensor(part.value, device="cpu"))
    elif part.value:
        tensor.fill_(complex(part.value, part.value) if dtype.is_complex else part.value)
    return tensor


def zeros(slot: Slot, p: Tensor) -> dict[str, Tensor]:
    """The moment's tensors before the first step, if it starts at 0."""
    return {part.name: full(p, part) for part in layout.parts(np, slot, p.shape, 0.0)}


def scalar(value: float) -> Tensor:
    """A number as a scalar of a state: in float64, which counts past 2²⁴, on the CPU."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def as_scalar(value: Any) -> Tensor | None:
    """A value as a scalar of a state: in float64, which counts past 2²⁴, on the CPU; None if it is not a single number."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex() or value.dtype == torch.bool:
            return None
        return value.detach().to("cpu", torch.float64)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return scalar(float(value)) if is_number else None


def parts_of(gradient: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a gradient consists of: two if it is sparse, its indices and its values."""
    if gradient.layout == torch.sparse_coo:
        return gradient._indices(), gradient._values()
    return (gradient,)


def is_coded(x: Tensor) -> bool:
    """Whether the tensor holds codes."""
    return x.dtype in _CODES


def decoded(codes: Tensor, scale: Tensor, shape: Sequence[int], is_former: bool = False) -> Tensor:
    """The float32 values of codes of a parameter of this shape; ``is_former`` says whether they are of the former format."""
    values = torch.empty(tuple(shape), dtype=torch.float32, device=codes.device)
    (former if is_former else layout).decode(torch, codes, scale, values)
    return values


def as_int16(low: Tensor) -> Tensor:
    """Low bits as int16 in the weight's shape, in the same memory, where they are bytes."""
    return low.view(torch.int16).squeeze(-1) if low.dtype == torch.uint8 else low


def as_bytes(low: Tensor) -> Tensor:
    """Low bits as a state keeps them: as bytes, two in a last dimension."""
    return low.unsqueeze(-1).view(torch.uint8) if low.dtype == torch.int16 else low


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 weights whose upper halves are a 16-bit parameter, and whose lower halves are its low bits."""
    value: Tensor = arrays.load_weight(Namespace(weight.device), arrays.Weight(weight, as_int16(low)), "float32")
    return value
