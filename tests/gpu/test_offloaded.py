"""Steps on the host for parameters on a GPU: the bits of steps whose gradients were brought to the CPU, on real streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adamas.torch as at
from adamas.torch import offload

SHAPES = [(1000, 1024), (300,), (2, 700_000), (), (64, 64)]
STEPS = 6
OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"max_grad_norm": 3.0},
    "int8": {"state": "int8", "weights": "split", "on_nonfinite": "skip"},
    "stochastic": {"state": "bfloat16", "weights": "stochastic"},
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="the transfers are those of a GPU"),
]


def gradients(dtype: torch.dtype) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES] for _ in range(STEPS)]


def steps(device: str, dtype: torch.dtype, is_released: bool, **options: Any) -> list[Tensor]:
    """The weights after steps whose gradients are given, by a backward pass."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in SHAPES]
    optimizer = at.AdamW([(f"p{i}", p) for i, p in enumerate(params)], lr=1e-2, **options)
    if is_released:
        at.release(optimizer)
    for given in gradients(dtype):
        work = torch.randn(2048, 2048, device=device)
        for p, g in zip(params, given, strict=True):
            work = (work @ work).tanh()  # the device is busy when the gradient is computed
            (p * g.to(device)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().cpu() for p in params]


@pytest.mark.parametrize("is_released", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_bits_are_those_of_the_cpu(name: str, is_released: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "SLOT_BYTES", 1 << 20)
    dtype, options = torch.float32 if name == "float32" else torch.bfloat16, OPTIONS[name]
    if is_released and "max_grad_norm" in options:
        options = {**options, "max_grad_norm": "auto"}
    expected = steps("cpu", dtype, is_released, **options)
    found = steps("cuda", dtype, is_released, offload=True, **options)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
