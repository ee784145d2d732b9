"""A training run whose network and steps are on a GPU has the loss that it has on the CPU, in each storage format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import DEVICE

import adamas.torch as at
from adamas.lab.tasks import chars_gpt, text

# In the interpreter, a step takes seconds.
STEPS, WITHIN = (2, 1e-6) if DEVICE == "cpu" else (200, 0.03)
FORMATS: list[Any] = [
    pytest.param(torch.float32, {}, marks=[pytest.mark.kernels, pytest.mark.gpu], id="float32"),
    *(
        pytest.param(dtype, options, marks=pytest.mark.gpu, id=name)
        for name, dtype, options in (
            ("bfloat16", torch.float32, {"state": "bfloat16"}),
            ("int8", torch.float32, {"state": "int8"}),
            ("int6", torch.float32, {"state": "int6"}),
            ("stochastic-int8", torch.bfloat16, {"state": "int8", "weights": "stochastic"}),
            ("split-int8", torch.bfloat16, {"state": "int8", "weights": "split"}),
        )
    ),
]


def losses(device: str, dtype: torch.dtype, **options: Any) -> list[float]:
    """The loss of each step of chars-gpt."""
    train, _ = text.windows(text.corpus(), chars_gpt.CONTEXT, train=16 * STEPS, test=16)
    torch.manual_seed(0)
    model = chars_gpt.Transformer().to(device, dtype)
    optimizer = at.AdamW(model.named_parameters(), lr=1e-3, **options)
    found = []
    for batch in train.split(16):
        optimizer.zero_grad()
        loss = text.loss(model, batch.to(device))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(("dtype", "options"), FORMATS)
def test_chars_gpt_learns_as_on_the_cpu(
    dtype: torch.dtype, options: dict[str, Any], on_gpu: Callable[..., Any]
) -> None:
    expected, found = losses("cpu", dtype, **options), on_gpu(losses, DEVICE, dtype, **options)
    last = STEPS // 10 + 1
    assert expected[-1] < 0.99 * expected[0]
    assert sum(found[-last:]) == pytest.approx(sum(expected[-last:]), rel=WITHIN)
