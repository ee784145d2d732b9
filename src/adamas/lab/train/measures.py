"""What is measured while a network trains: where the time goes, and in some steps how far the weights move.

May import PyTorch, adamas.torch and adamas.lab.train.records. Nothing here changes the result of training.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from time import perf_counter

import torch
from torch import Tensor, nn

from adamas.lab.train.records import Memory
from adamas.rule.layout import LOW_BITS
from adamas.torch.distributed import is_distributed, like, local_of
from adamas.torch.storage import joined


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


def grad_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The 2-norm of all gradients together, in float32."""
    return _norm([parameter.grad.detach() for parameter in parameters if parameter.grad is not None])


@torch.no_grad()
def weights(parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of the weights in float32; split weights include the low bits that the optimizer stores."""
    copies = []
    for parameter in parameters:
        state = optimizer.state.get(parameter)
        low = state.get(LOW_BITS) if isinstance(state, dict) else None
        copies.append(_real(parameter).float().clone() if low is None else _joined(parameter, low))
    return copies


def _joined(weight: Tensor, low: Tensor) -> Tensor:
    whole = joined(local_of(weight), local_of(low))
    return like(weight, whole, weight.shape, "the weights") if is_distributed(weight) else whole


def update_ratio(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The norm of the change of all weights over their norm before. About 1e-3 is usual in healthy training."""
    size = _norm(before)
    return _norm([now - then for now, then in zip(after, before, strict=True)]) / size if size > 0 else 0.0


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
