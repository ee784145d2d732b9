"""The kernel of a member that a user has declared makes the steps that its operations make one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import DEVICE

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_own import Lioness, normal

pytestmark = [pytest.mark.kernels, pytest.mark.gpu]


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_a_kernel_is_written_for_it(state: str, on_gpu: Callable[..., Any]) -> None:
    shape = (24, 128) if state == "float32" else (40, 128)
    kernel, plain = (torch.nn.Parameter(normal(0, *shape).to(device)) for device in (DEVICE, "cpu"))
    of_kernel, of_operations = (Lioness([("w", p)], lr=0.01, weight_decay=0.1, state=state) for p in (kernel, plain))
    for t in range(3):
        plain.grad = normal(t + 1, *shape)
        kernel.grad = plain.grad.to(DEVICE)
        of_operations.step()
        on_gpu(of_kernel.step)
    differs = ((kernel.detach().cpu() - plain.detach()).abs() > 1e-6).float().mean()
    assert differs < 1e-3  # a sign may turn where products and sums are fused
    assert type(of_kernel._plans[0].executors[0]).__name__ == "GpuExecutor"
