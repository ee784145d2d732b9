"""The figures and the picture of watch.md: ``python docs/spikes.py`` prints them, and draws docs/images/spike.png.

Two runs of one network: on all examples at once, where Adam makes spikes of its own, and on batches, some of them bad.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import adamas.torch
from adamas.schedules import cosine

PICTURE = Path(__file__).parent / "images" / "spike.png"
STEPS, BAD = 1000, 50  # every 50th batch is bad
X = torch.linspace(-torch.pi, torch.pi, 200).unsqueeze(1)
Y = torch.sin(X) + torch.sin(4 * X)


def network() -> nn.Sequential:
    """A network that fits a curve."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


def whole(step: int) -> tuple[Tensor, Tensor]:
    """All examples."""
    return X, Y


def batches(step: int) -> tuple[Tensor, Tensor]:
    """Random examples; in some steps their labels are those of another task, a hundred times as large."""
    chosen = torch.randint(len(X), (32,), generator=torch.Generator().manual_seed(step))
    x, y = X[chosen], Y[chosen]
    return x, 100 * y.flip(0) if step % BAD == 0 else y


def run(data: Callable[[int], tuple[Tensor, Tensor]], steps: int = STEPS, **options: Any) -> tuple[list[float], Any]:
    """The loss over all examples after each step, and the optimizer."""
    model = network()
    optimizer = adamas.torch.Adam(model.named_parameters(), **{"lr": 1e-2, "watch": True, **options})
    losses = list[float]()
    for step in range(1, steps + 1):
        x, y = data(step)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())
        with torch.no_grad():
            losses.append((model(X) - Y).square().mean().item())
    return losses, optimizer


RUNS: dict[str, dict[str, Any]] = {
    "as it is": {},
    '`on_spike="skip"`': {"on_spike": "skip"},
    '`on_spike="clip"`': {"on_spike": "clip"},
    '`max_grad_norm="auto"`': {"max_grad_norm": "auto"},
    "`betas=(0.9, 0.95)`": {"betas": (0.9, 0.95)},
    "`lr=1e-2 * cosine(1000)`": {"lr": 1e-2 * cosine(STEPS)},
}


def table() -> None:
    """Prints the largest loss of the last 500 steps, the last one, and the spikes that were left out or clipped."""
    for data in (whole, batches):
        print(data.__name__)
        for name, options in RUNS.items():
            losses, optimizer = run(data, **options)
            spikes = optimizer.spikes if "on_spike" in options else ""
            print(f"| {name} | {max(losses[500:]):.1e} | {losses[-1]:.1e} | {spikes}")


def draw() -> None:
    """Draws the loss, the norm of the gradient, and m·g/‖g‖² around the spikes."""
    from matplotlib import pyplot as plt
    from PIL import Image

    losses, optimizer = run(whole, 760)
    watch = optimizer.watch
    steps, gradient = watch.steps, watch.per_step["grad_norm"]
    turned = (watch["m_dot_g"] / watch["grad_norm"] ** 2)[:, 2]
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(3, figsize=(5.6, 4.2), sharex=True, layout="constrained")
        axes[0].semilogy(steps, [losses[i - 2] for i in steps], color="#1f6feb", linewidth=1)
        axes[1].semilogy(steps, gradient, color="#d9730d", linewidth=1)
        axes[2].plot(steps, turned, color="#2e8b57", linewidth=1)
        for value, text in ((0.1, "unrelated"), (0.1 / 1.9, "turns around")):
            axes[2].axhline(value, color="#888888", linewidth=0.6)
            axes[2].text(steps[-1] + 3, value, text, va="center", fontsize=7)
        axes[2].set(ylim=(0, 0.2), xlabel="step")
        for axis, label in zip(axes, ("loss", "‖g‖", "m·g/‖g‖²"), strict=True):
            axis.set_ylabel(label)
            axis.grid(color="#dddddd", linewidth=0.6)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=150)
        plt.close(figure)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(32).save(PICTURE, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(run(whole, 760)[1].explain())
    table()
    draw()
