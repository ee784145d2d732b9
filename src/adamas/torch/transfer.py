"""How tensors travel between a device and the host, for ``adamas.torch.offload``.

A transfer copies what lies in pairs of a source and a target, in the background where the device can do that.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

_PAGE = mmap.PAGESIZE

Pairs: TypeAlias = Sequence[tuple[Tensor, Tensor]]  # sources and their targets, of the same shape and dtype


class Transfer(Protocol):
    """Copies between one device and the host."""

    def host_buffer(self, size: int) -> Tensor:
        """A buffer of so many bytes on the host, which the device reads and writes in the background while it is kept."""

    def mark(self) -> Any:
        """A mark of the work that the device has been given so far, on the present stream."""

    def after(self, marks: Sequence[Any]) -> AbstractContextManager[None]:
        """A context whose work the device does when it has reached the marks, beside what it is given elsewhere."""

    def fetch(self, pairs: Pairs, after: Any) -> Any:
        """Begins to copy to the host, as soon as the device has reached the mark ``after``; returns a ticket for ``wait``.

        Until then, the caller keeps the sources as they are, and does not look at the targets.
        """

    def wait(self, ticket: Any) -> None:
        """Waits until what was fetched is on the host."""

    def send(self, pairs: Pairs) -> None:
        """Begins to copy to the device. The caller leaves the sources as they are until ``settle``."""

    def join(self) -> None:
        """Lets the work that the device is given from now on, on the present stream, wait for all that was sent."""

    def settle(self) -> None:
        """Waits until all that was sent has arrived, so that its sources may be written again."""


class CopyTransfer:
    """Plain copies, during which the host waits: for devices that have no streams.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._host = device if device.type == "meta" else torch.device("cpu")  # a plan takes no memory

    def host_buffer(self, size: int) -> Tensor:
        """See ``Transfer.host_buffer``."""
        return torch.empty(size, dtype=torch.uint8, device=self._host)

    def mark(self) -> None:
        """See ``Transfer.mark``."""

    def after(self, marks: Sequence[Any]) -> AbstractContextManager[None]:
        """See ``Transfer.after``."""
        return nullcontext()

    def fetch(self, pairs: Pairs, after: Any) -> None:
        """See ``Transfer.fetch``."""
        _copy(pairs)

    def wait(self, ticket: Any) -> None:
        """See ``Transfer.wait``."""

    def send(self, pairs: Pairs) -> None:
        """See ``Transfer.send``."""
        _copy(pairs)

    def join(self) -> None:
        """See ``Transfer.join``."""

    def settle(self) -> None:
        """See ``Transfer.settle``."""


class CudaTransfer:
    """Copies by a CUDA device: in each direction on a stream of its own, from and to page-locked memory.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        stream: Any = torch.cuda.Stream  # has no annotations
        self._down, self._up = stream(device), stream(device)

    def host_buffer(self, size: int) -> Tensor:
        """See ``Transfer.host_buffer``. It is page-locked as long as this tensor exists, whatever views of it there are.

        PyTorch's allocator of page-locked memory would round the size up to a power of two.
        """
        # Whole pages, as no page can be locked twice.
        locked = -(-size // _PAGE) * _PAGE
        memory = torch.empty(locked + _PAGE, dtype=torch.uint8, device="cpu")
        first = -memory.data_ptr() % _PAGE
        buffer = memory[first : first + size]
        if size > 0:
            address = buffer.data_ptr()
            with torch.cuda.device(self._device):
                torch.cuda.check_error(int(_runtime().cudaHostRegister(address, locked, 0)))
            weakref.finalize(buffer, _unlock, address, (self._down, self._up)).atexit = False
        return buffer

    def mark(self) -> Any:
        """See ``Transfer.mark``."""
        return torch.cuda.current_stream(self._device).record_event()

    @contextmanager
    def after(self, marks: Sequence[Any]) -> Iterator[None]:
        """See ``Transfer.after``."""
        for mark in marks:
            self._down.wait_event(mark)
        with torch.cuda.stream(self._down):
            yield

    def fetch(self, pairs: Pairs, after: Any) -> Any:
        """See ``Transfer.fetch``."""
        self._down.wait_event(after)
        with torch.cuda.stream(self._down):
            _copy(pairs)
        return self._down.record_event()

    def wait(self, ticket: Any) -> None:
        """See ``Transfer.wait``. Other threads may run meanwhile."""
        ticket.synchronize()

    def send(self, pairs: Pairs) -> None:
        """See ``Transfer.send``."""
        with torch.cuda.stream(self._up):
            _copy(pairs)

    def join(self) -> None:
        """See ``Transfer.join``."""
        torch.cuda.current_stream(self._device).wait_stream(self._up)

    def settle(self) -> None:
        """See ``Transfer.settle``."""
        self._up.synchronize()


def _runtime() -> Any:
    cuda: Any = torch.cuda  # has no annotations for it
    return cuda.cudart()


def _unlock(address: int, streams: Sequence[Any]) -> None:
    for stream in streams:
        stream.synchronize()
    _runtime().cudaHostUnregister(address)


def _copy(pairs: Pairs) -> None:
    with torch.no_grad():
        for source, target in pairs:
            target.copy_(source, non_blocking=True)


def transfer_of(device: torch.device) -> Transfer:
    """The transfer between the host and a device."""
    return CudaTransfer(device) if device.type == "cuda" else CopyTransfer(device)
