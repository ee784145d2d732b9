"""The host's time of a step on a GPU, measured without one: tensors lie on the CPU, and kernels are not launched.

    PYTHONPATH=.venv/triton python benchmarks/bench_gpu_host.py

AdamW steps the same tensors again and again, so all that a step can reuse is there. Its time, and that of parts of it, are
ratios to that of ``[p.grad.data_ptr() for p in params]`` in the same process. Each side runs several times in a row:
after a step that empties the caches the list takes up to three times as long, so in turn with it a slow step would look better
than it is. The status is 1 if a step takes more than ``BOUND``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import adamas.torch
from adamas.step import kernels

BOUND = 5.0
COUNTS = {148: 21, 10_000: 3}  # tensors, and runs of each side in a row
ROUNDS = 3  # of which the fastest counts: others load the machine


class NotLaunched:
    """A kernel that does nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: None


def ratios(count: int, repeats: int) -> dict[str, float]:
    """The times of a step and of parts of it with so many tensors, as ratios."""
    params: list[Any] = [torch.nn.Parameter(torch.randn(16, 128)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = adamas.torch.AdamW(params, lr=1e-3)
    clipped = adamas.torch.AdamW(params, lr=1e-3, max_grad_norm=1.0)
    sides: dict[str, Callable[[], Any]] = {
        "data_ptr": lambda: [p.grad.data_ptr() for p in params],
        "a step": optimizer.step,
        "a clipped step": clipped.step,
        "of a step, plans": optimizer._current_plans,
        "versions of the weights": lambda: torch.autograd.graph.increment_version(params),
    }
    times = {name: min(_median(side, repeats) for _ in range(ROUNDS)) for name, side in sides.items()}
    unit = times.pop("data_ptr")
    return {name: found / unit for name, found in times.items()}


def _median(side: Callable[[], Any], repeats: int) -> float:
    """The median time of a side that runs in a row, after a warm-up."""
    side()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        side()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> int:
    os.environ["ADAMAS_EXECUTOR"] = "gpu"
    for name in ("step_or_sum", "computing", "adding_up"):
        setattr(kernels, name, lambda *arguments: NotLaunched())
    torch.set_num_threads(1)
    worst = 0.0
    for count, repeats in COUNTS.items():
        found = ratios(count, repeats)
        print(f"{count:6} tensors  " + "  ".join(f"{name} {ratio:.2f}x" for name, ratio in found.items()), flush=True)
        worst = max(worst, found["a step"], found["a clipped step"])
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
