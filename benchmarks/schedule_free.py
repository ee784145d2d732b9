"""The accuracy of schedule-free AdamW by the format of its state: least squares with noise, for 20 000 steps.

    python benchmarks/schedule_free.py    # a quarter of an hour on one core

Prints the excess loss of the average x after 1000, 5000 and 20 000 steps, the median of three seeds, and at the end its ratio
to that of float32. A step sees 32 examples of 128 inputs, whose variances go from 1 to 0.01.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from adamas.torch import AdamWScheduleFree

SIZE, EXAMPLES, NOISE = 128, 32, 0.1
LOOKS = 1000, 5000, 20_000
STATES: dict[str, Any] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "y_minus_x in bfloat16, exp_avg_sq in int8": {"y_minus_x": "bfloat16", "exp_avg_sq": "int8"},
}


def excess_losses(state: Any, lr: float, seed: int) -> list[float]:
    """The loss of x above that of the true weights, at LOOKS."""
    random = torch.Generator().manual_seed(seed)
    truth = 0.1 * torch.randn(SIZE, SIZE, generator=random)
    deviations = torch.logspace(0, -2, SIZE).sqrt()
    weight = torch.nn.Parameter(torch.zeros(SIZE, SIZE))
    optimizer = AdamWScheduleFree([weight], lr=lr, state=state, seed=seed)
    found = []
    for step in range(1, LOOKS[-1] + 1):
        inputs = torch.randn(EXAMPLES, SIZE, generator=random) * deviations
        noise = NOISE * torch.randn(EXAMPLES, SIZE, generator=random)
        weight.grad = (inputs @ (weight.detach() - truth).T + noise).T @ inputs / EXAMPLES
        optimizer.step()
        if step in LOOKS:
            optimizer.eval()
            found.append(float(((weight.detach() - truth) * deviations).square().sum() / SIZE))
            optimizer.train()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for lr in (2.5e-3, 1e-3):
        exact = 0.0
        for name, state in STATES.items():
            runs = zip(*(excess_losses(state, lr, seed) for seed in range(3)), strict=True)
            figures = [median(run) for run in runs]
            exact = exact or figures[-1]
            shown = "  ".join(f"{figure:.2e}" for figure in figures)
            print(f"lr {lr:g}  {name:42} {shown}  {figures[-1] / exact:.2f} of float32", flush=True)
