"""Steps on the host in a thread of their own, while the device computes further gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import offload
from .offload import HomeTensors


class _Waiting(NamedTuple):
    """A parameter whose gradient is complete when the device reaches the mark."""

    weight: Tensor
    step: Callable[[], None]
    mark: Any
    bytes: int


class Worker:
    """Steps parameters whose step is on the host (``offload=True``), in the order in which their gradients are complete.

    Those that are waiting when the thread becomes free are stepped together, so that some are on their way to the host while
    others are stepped. A gradient is freed after its step.

    Args:
        homes: the operations on the parameters.
    """

    def __init__(self, homes: HomeTensors) -> None:
        self._homes = homes
        self._pool = ThreadPoolExecutor(1, "adamas-offload")  # starts its thread when it is needed
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._bytes = 0  # of the gradients that are waiting or in use
        self._futures: list[Future[None]] = []

    def put(self, weight: Tensor, step: Callable[[], None]) -> None:
        """Adds a parameter whose gradient is complete; ``step`` steps it.

        The caller waits as long as the gradients that were added before fill the buffers of the ring: if the host is slower
        than the device, the backward pass waits for it instead of keeping more and more gradients.
        """
        gradient = weight.grad
        assert gradient is not None
        size = gradient.nbytes
        waiting = _Waiting(weight, step, self._homes.offload_of(weight).mark(), size)
        self._raise_failed()
        with self._changed:
            self._changed.wait_for(lambda: self._bytes == 0 or self._bytes + size <= offload.SLOTS * offload.SLOT_BYTES)
            self._bytes += size
            self._waiting.append(waiting)
        self._futures.append(self._pool.submit(self._work, torch.get_num_threads()))

    def finish(self) -> None:
        """Waits until all have been stepped, and lets the device wait for the new weights.

        Raises:
            Exception: a step has raised it; those after it were not made.
        """
        wait(self._futures)
        self._raise_failed()
        self._futures = []
        self._homes.join()

    def clear(self) -> None:
        """Waits, and forgets what has failed."""
        wait(self._futures)
        self._futures = []

    def _raise_failed(self) -> None:
        for future in self._futures:
            if future.done() and (error := future.exception()) is not None:
                raise error

    def _work(self, threads: int) -> None:
        with self._changed:
            taken, self._waiting = self._waiting, []
        if not taken:
            return
        try:
            self._homes.refuse_broken()
            last = taken[-1]
            with self._homes.offload_of(last.weight).after(last.mark), self._homes.flushed(threads):
                for one in taken:
                    one.step()
            for one in taken:
                one.weight.grad = None
        finally:
            with self._changed:
                self._bytes -= sum(one.bytes for one in taken)
                self._changed.notify_all()
