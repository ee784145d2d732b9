"""PyTorch as a namespace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Namespace:
    """PyTorch. See ``adamas.step.namespaces``.

    Args:
        device: where ``index`` makes tensors.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    @property
    def prefers_bfloat16(self) -> bool:
        """Whether the device is much faster with products of matrices in bfloat16 than in float32."""
        return self._device is not None and self._device.type == "cuda"

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
    def plus_diagonal(x: Tensor, number: float) -> Tensor:
        """The matrices, with a number added on their diagonals in place."""
        x.diagonal(dim1=-2, dim2=-1).add_(number)
        return x

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
    def counter(count: int | Tensor) -> int | Tensor:
        """A count in the type that the formats take."""
        return count.to(torch.int64) if isinstance(count, Tensor) else count

    @staticmethod
    def narrowed(x: Any, dtype: str) -> Any:
        """A number that was computed in float64, in the dtype in which it is used; Python's numbers are unchanged."""
        return x.to(getattr(torch, dtype)) if isinstance(x, Tensor) else x


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@cache
def formulas_of(device: torch.device) -> Formulas | None:
    """The functions for the numbers of steps on a device; None if it has no float64."""
    return None if device.type == "mps" else Formulas(device)


class Formulas:
    """PyTorch's functions for the numbers of a step that its device computes: float64 tensors and Python's numbers together.

    No function waits for the device, and none copies to it: a number becomes a tensor where it is filled in.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Any:
        function = getattr(torch, name)

        def run(*numbers: Any) -> Any:
            return function(*[self.number(x) for x in numbers])

        vars(self)[name] = run
        return run

    def __reduce__(self) -> Any:
        """Those of the same device: there is one object for each, also in copies."""
        return formulas_of, (self.device,)

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured."""
        return is_capturing(self.device)

    def refuse_capture(self, reason: str) -> None:
        """Raises RuntimeError if a CUDA graph is being captured, as replays would repeat what happens now only once."""
        if self.is_capturing():
            raise RuntimeError(
                f"a CUDA graph is being captured, and {reason}: make a step outside of the capture before it, for the same "
                "parameters"
            )

    @staticmethod
    def version(x: Tensor) -> int:
        """A number that every operation in place on the tensor changes, unless it was made within ``torch.inference_mode``."""
        return 0 if x.is_inference() else x._version

    def has(self, x: Any) -> bool:
        """Whether it is a tensor on the device."""
        return isinstance(x, Tensor) and x.device == self.device

    def has_number(self, x: Any) -> bool:
        """Whether it is a tensor on the device with a single real number."""
        return self.has(x) and x.numel() == 1 and not x.is_complex() and x.dtype != torch.bool

    def hyperparameter(self, x: Any) -> Any:
        """A number as formulas take it: a tensor on the device in float64 without dimensions, and any other as a float.

        What is no number is left as it is.
        """
        if self.has_number(x):
            return self.number(x.detach()).reshape(())
        is_number = isinstance(x, Real) or (isinstance(x, Tensor | np.ndarray) and x.ndim == 0)
        return float(x) if is_number else x

    def number(self, x: Any) -> Tensor:
        """A number as a tensor, in float64, unless it is one of booleans."""
        if not isinstance(x, Tensor):
            return torch.full((), x, dtype=torch.float64, device=self.device)
        return x if x.dtype in (torch.float64, torch.bool) else x.to(torch.float64)

    def where(self, condition: Any, one: Any, other: Any) -> Any:
        """``one`` where the condition holds, else ``other``."""
        if not isinstance(condition, Tensor):
            return one if condition else other
        return torch.where(condition, self.number(one), self.number(other))

    @staticmethod
    def stack(tensors: Sequence[Tensor]) -> Tensor:
        """The tensors in a new first dimension."""
        return torch.stack(list(tensors))

    @staticmethod
    def sorted(x: Tensor) -> Tensor:
        """The numbers in ascending order, NaN last."""
        return x.sort().values

    @staticmethod
    def concat(tensors: Sequence[Tensor]) -> Tensor:
        """The tensors one after the other in their first dimension."""
        return torch.concat(list(tensors))

    @staticmethod
    def downloaded(x: Tensor) -> Any:
        """The tensor as an array of NumPy; the host waits for it."""
        return x.cpu().numpy().copy()

    def read_later(self, x: Tensor) -> Callable[[], list[Any]]:
        """Begins to copy a tensor to the host, which does not wait for it here.

        Returns a function that does, and returns its numbers.
        """
        if self.device.type == "cpu":
            return x.clone().tolist
        copy, copied = torch.empty_like(x, device="cpu", pin_memory=True), torch.Event(self.device)
        copy.copy_(x, non_blocking=True)
        copied.record()

        def read() -> list[Any]:
            copied.synchronize()
            return copy.tolist()

        return read

    def uploaded(self, x: Any) -> Tensor:
        """An array of NumPy on the device."""
        given = torch.from_numpy(x)
        return given.clone() if self.device.type == "cpu" else given.pin_memory().to(self.device, non_blocking=True)
