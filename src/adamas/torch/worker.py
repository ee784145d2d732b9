"""Steps on the host in a thread of their own, while the device computes further gradients."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import offload
from .offload import HomeTensors, Offload

if TYPE_CHECKING:
    from .single import Single


class _Waiting(NamedTuple):
    """A gradient that is complete when the device reaches the mark.

    Attributes:
        single: the step of its parameter.
        gradient: the gradient.
        version: the version of the parameter.
        offload: what the device of the parameter needs.
        mark: the mark.
    """

    single: Single
    gradient: Tensor
    version: int
    offload: Offload
    mark: Any


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
        self._last: Future[None] | None = None  # ends when all that was added has been taken
        self._error: BaseException | None = None  # what a step has raised
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._bytes = 0  # of the gradients that are waiting or in use

    def put(self, single: Single) -> None:
        """Adds a parameter whose gradient is complete, and takes the gradient from it.

        The caller waits as long as the gradients that were added before fill the buffers of the ring: if the host is slower
        than the device, the backward pass waits for it instead of keeping more and more gradients.

        Raises:
            Exception: an earlier step has raised it.
        """
        weight = single.parameter
        gradient, of_device = weight.grad, self._homes.offload_of(weight)
        assert gradient is not None
        waiting = _Waiting(single, gradient, weight._version, of_device, of_device.mark())
        size, most = gradient.nbytes, offload.SLOTS * offload.SLOT_BYTES
        with self._changed:
            self._changed.wait_for(lambda: self._bytes == 0 or self._bytes + size <= most)
            self._raise_failed()
            self._bytes += size
            self._waiting.append(waiting)
            weight.grad = None
        self._last = self._pool.submit(self._work, torch.get_num_threads())

    def finish(self) -> None:
        """Waits until all have been stepped, and lets the device wait for the new weights.

        Raises:
            Exception: a step has raised it; those after it were not made.
        """
        self._wait()
        self._raise_failed()
        self._homes.join()

    def clear(self) -> None:
        """Waits until nothing is under way, and forgets what has failed."""
        self._wait()
        self._homes.settle()
        self._error = None

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def _raise_failed(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self, threads: int) -> None:
        with self._changed:
            taken, self._waiting = self._waiting, []
        try:
            if self._error is None:
                self._step(taken, threads)
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._bytes -= sum(one.gradient.nbytes for one in taken)
                self._changed.notify_all()

    def _step(self, taken: Sequence[_Waiting], threads: int) -> None:
        marks: dict[Offload, list[Any]] = {}
        for one in taken:
            marks.setdefault(one.offload, []).append(one.mark)
        with ExitStack() as contexts:
            for of_device, reached in marks.items():
                contexts.enter_context(of_device.after(reached))
            contexts.enter_context(self._homes.flushed(threads))
            for one in taken:
                one.single.step_now(threads, one.gradient)
                # Checked only now: once a step has begun, it notices itself what else is written.
                if one.single.parameter._version != one.version:
                    raise RuntimeError(
                        f"parameter {one.single.name} was written by something else between the backward pass and its step "
                        "on the host: call step() before, which waits for it"
                    )
