"""What is measured while a network trains: where the time goes, and in some steps how far the weights move.

May import PyTorch, adamas.torch, adamas.step and adamas.lab.train.records. Nothing here changes the result of training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adamas.lab.train.records import Memory
from adamas.step.stepping import Stepping
from adamas.torch.distributed import is_distributed, local_of


class Stopwatch:
    """Adds up the seconds of each part of a step.

    On an accelerator each mark waits for the work before it, so that the time is attributed to the right part.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]) -> None:
        """Continue from ``seconds`` by part."""
        self.seconds = seconds
        self._waits = device.type != "cpu"
        self._last = perf_counter()

    def start(self) -> None:
        """Restart the clock."""
        self._last = perf_counter()

    def mark(self, part: str) -> float:
        """Add the time since the last mark to a part; return the current time."""
        if self._waits:
            torch.accelerator.synchronize()
        now = perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
        return now


class OfWatch:
    """Measures steps by what ``watch=`` of their optimizer keeps, in the pass of the step."""

    def __init__(self, optimizer: Stepping) -> None:
        self._optimizer = optimizer

    def begin(self) -> None:
        """Measure the coming step."""
        self._optimizer.watch_next()

    def end(self) -> tuple[float, float]:
        """The norm of its gradient and its update ratio, before the weights are rounded to 16 bits."""
        watch = self._optimizer.watch
        assert watch is not None
        update, size = (_root(watch[name][-1]) for name in ("update_norm", "weight_norm"))
        return float(watch.per_step["grad_norm"][-1]), update / size if size > 0 else 0.0


def _root(norms: Any) -> float:
    """The norm of all tensors together; a tensor without a gradient has NaN."""
    return float(np.sqrt(np.nansum(np.square(norms, dtype=np.float64))))


class OfWeights:
    """Measures steps of any optimizer by comparing the weights before and after."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters

    def begin(self) -> None:
        """Measure the coming step."""
        self._grad_norm = _norm([one.grad.detach() for one in self._parameters if one.grad is not None])
        self._before = self._copies()

    def end(self) -> tuple[float, float]:
        """The norm of its gradient and its update ratio."""
        before, size = self._before, _norm(self._before)
        change = _norm([now - then for now, then in zip(self._copies(), before, strict=True)])
        return self._grad_norm, change / size if size > 0 else 0.0

    def _copies(self) -> list[Tensor]:
        return [_real(one.detach()).float().clone() for one in self._parameters]


def memory(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Memory:
    """Bytes of the weights and of the optimizer's state in this process, and the peak of the device or of the process."""
    # The state of a parameter is a dict; optimizers of other libraries may also store other entries.
    kept = (values.values() if isinstance(values, dict) else [values] for values in optimizer.state.values())
    state = (value for values in kept for value in values)
    return Memory(
        weights=sum(local_of(parameter).nbytes for parameter in model.parameters()),
        state=sum(local_of(value).nbytes for value in state if isinstance(value, Tensor)),
        peak=_process_peak() if device.type == "cpu" else torch.accelerator.max_memory_allocated(device),
    )


def _process_peak() -> int | None:
    """The peak memory of this process in bytes; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _norm(tensors: Sequence[Tensor]) -> float:
    if not tensors:
        return 0.0
    norm = torch.nn.utils.get_total_norm([_real(tensor).float() for tensor in tensors])
    return (norm.full_tensor() if is_distributed(norm) else norm).item()


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
