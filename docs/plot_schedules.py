"""Draws the pictures of schedules.md: ``python docs/plot_schedules.py`` writes them to docs/images/schedules."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

import adamas.schedules

FOLDER = Path(__file__).parent / "images" / "schedules"
COLORS = ("#1f6feb", "#d9730d", "#2e8b57")

# The name of each picture, and the schedules in it as they are written in Python.
PICTURES: dict[str, tuple[str, ...]] = {
    "constant": ("constant(0.3, steps=20).then(constant())",),
    "linear": ("linear(100)", "linear(60, start=0.1, end=0.7)"),
    "polynomial": ("polynomial(100, power=2)", "polynomial(100, power=0.5, end=0.2)"),
    "exponential": ("exponential(0.5, every=25)", "exponential(0.5, every=25, staircase=True)"),
    "inverse_time": ("inverse_time(1, every=25)", "inverse_time(1, every=25, staircase=True)"),
    "power": ("power(0.97)",),
    "step": ("step(0.5, every=25)",),
    "multistep": ("multistep([30, 60, 80], factor=0.4)",),
    "piecewise": ("piecewise([20, 50], [0.3, 1.0, 0.1])",),
    "cosine": ("cosine(100)", "cosine(100, end=0.2)", "cosine(100, exponent=3)"),
    "cosine_restarts": ("cosine_restarts(14, multiplier=2)", "cosine_restarts(25, height=0.7, end=0.1)"),
    "one_cycle": ("one_cycle(100)", 'one_cycle(100, shape="linear")', "one_cycle(100, three_phase=True)"),
    "triangular": (
        "triangular(15, low=0.1)",
        'triangular(15, low=0.1, mode="triangular2")',
        'triangular(15, low=0.1, mode="exp_range", gamma=0.98)',
    ),
    "inverse_sqrt": ("inverse_sqrt(10)", "warmup(10) * inverse_sqrt(10)"),
    "trapezoid": ("trapezoid(100, warmup=10, decay=40)", 'trapezoid(100, warmup=10, decay=40, shape="sqrt")'),
    "warmup": ("warmup(60)", 'warmup(60, shape="cosine")', 'warmup(60, start=0.01, shape="exponential")'),
    "from_function": ("from_function(lambda t: 0.5 + 0.4 * math.sin(t / 8))",),
    "then": ("warmup(10).then(cosine(80, end=0.1))", "exponential(0.98).then(linear(30, start=0.6), at=60)"),
    "times": ("0.8 * cosine(100)", "cosine(100) * triangular(5, low=0.8)"),
    "clip": ("cosine(100).clip(low=0.3, high=0.8)",),
    "shift": ("cosine(60)", "cosine(60).shift(30)", "cosine(60).shift(-30)"),
    "per_epoch": ("cosine(8).per_epoch(12)", "cosine(8).per_epoch(12, smooth=True)"),
    "repeat": ("warmup(5).then(linear(25)).repeat()", "cosine(20).repeat(2.5)"),
}


def schedule(text: str) -> adamas.schedules.Schedule:
    """The schedule for the text of a picture."""
    names = {name: getattr(adamas.schedules, name) for name in adamas.schedules.__all__}
    return eval(text, {"math": math, **names})


def draw(name: str, texts: tuple[str, ...]) -> None:
    """Writes one picture: the schedules over 120 steps."""
    from matplotlib import pyplot as plt
    from PIL import Image

    steps = np.linspace(0, 120, 2401)  # fine enough for a jump to be vertical
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(5.2, 2.2 + 0.14 * len(texts)), layout="constrained")
        for text, color, width in zip(texts, COLORS, (2.6, 1.8, 1.2), strict=False):
            values = [schedule(text)(float(t)) for t in steps]
            axes.plot(steps, values, color=color, linewidth=width, label=text)
        axes.set(xlim=(0, 120), ylim=(-0.03, 1.05), xlabel="step")
        axes.set_xticks(range(0, 121, 20))
        axes.grid(color="#dddddd", linewidth=0.6)
        figure.legend(loc="outside upper left", frameon=False, prop={"family": "monospace", "size": 7.5}, borderpad=0)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=150)
        plt.close(figure)
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(24).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    for picture in PICTURES.items():
        draw(*picture)
