"""PyTorch as a namespace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


class Namespace:
    """PyTorch. See ``adamas.step.namespaces``.

    Args:
        device: where ``index`` makes tensors.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def computing() -> AbstractContextManager[None]:
        """A context in which no gradients are recorded."""
        return torch.no_grad()

    @staticmethod
    def sign(x: Tensor) -> Tensor:
        """The sign, and NaN for NaN, for which ``torch.sign`` returns 0."""
        return torch.where(x.isnan(), x, x.sign())

    @staticmethod
    def cast(x: Tensor, dtype: str) -> Tensor:
        """The tensor in another dtype."""
        return x.to(getattr(torch, dtype))

    @staticmethod
    def dtype_name(x: Tensor) -> str:
        """The name of the tensor's dtype."""
        return str(x.dtype).removeprefix("torch.")

    @staticmethod
    def bits(x: Tensor) -> Tensor:
        """The bits of 16-bit numbers, as integers from 0 to 65535."""
        return x.contiguous().view(torch.int16).to(torch.int64) & 0xFFFF

    @staticmethod
    def from_bits(bits: Tensor, dtype: str) -> Tensor:
        """The numbers with these bits."""
        return bits.to(torch.int16).view(getattr(torch, dtype))

    def index(self, shape: Sequence[int], first: int) -> Tensor:
        """Consecutive integers from ``first`` on."""
        return (torch.arange(math.prod(shape), device=self._device) + first).reshape(shape)

    @staticmethod
    def counter(count: int) -> int:
        """The count itself."""
        return count
