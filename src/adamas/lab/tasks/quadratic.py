"""The task ``quadratic``: f(x) = x² from x = 5, the worked example of every text on gradient descent; and, as another
model, Rosenbrock's valley, where gradient descent is slow. There is no data.

May import PyTorch and adamas.lab.charts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamas.lab.charts import Chart, Series
from adamas.lab.tasks import Task, without_data_dir

PARABOLA_START = 5.0
ROSENBROCK_START = (
    -1.2,
    1.0,
)  # Rosenbrock's own, in "An automatic method for finding the greatest or least value", 1960
LEVELS = (1.0, 5.0, 25.0, 100.0)
POINTS = 81  # points of a drawn curve


class Parabola(nn.Module):
    """The point x, which is the parameter; calling it returns f(x) = x²."""

    def __init__(self) -> None:
        """Start at x = 5."""
        super().__init__()
        self.x = nn.Parameter(torch.tensor(PARABOLA_START))

    def forward(self) -> Tensor:
        """Return f, a float32 scalar."""
        return self.x.float() ** 2


class Rosenbrock(nn.Module):
    """The point (x, y), two parameters; calling it returns f(x, y) = (1 - x)² + 100 (y - x²)²."""

    def __init__(self) -> None:
        """Start at (-1.2, 1), across the bend of the valley from the minimum at (1, 1)."""
        super().__init__()
        x, y = ROSENBROCK_START
        self.x, self.y = nn.Parameter(torch.tensor(x)), nn.Parameter(torch.tensor(y))

    def forward(self) -> Tensor:
        """Return f, a float32 scalar."""
        x, y = self.x.float(), self.y.float()
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def loss(model: nn.Module) -> Tensor:
    """Return f at the model's point."""
    value: Tensor = model()
    return value


def evaluate(model: nn.Module) -> dict[str, float]:
    """Return ``f`` and the coordinates by name."""
    return {"f": model().item(), **{name: value.item() for name, value in model.named_parameters()}}


def chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw the path from the start, over the curve of f or the level lines of Rosenbrock's valley."""
    if "y" in rows[0]:
        starts = [ROSENBROCK_START] if rows[0]["step"] > 0 else []
        path = starts + [(row["x"], row["y"]) for row in rows]
        under = [_level_line(level) for level in LEVELS]
        title, y_label = "The way down Rosenbrock's valley", "y"
        note = "Each line is a level of f = (1 - x)² + 100 (y - x²)². The minimum, 0, is at (1, 1)."
    else:
        starts = [(PARABOLA_START, PARABOLA_START**2)] if rows[0]["step"] > 0 else []
        path = starts + [(row["x"], row["f"]) for row in rows]
        widest = max(abs(x) for x, _ in path if math.isfinite(x))
        across = [widest * (2 * point / (POINTS - 1) - 1) for point in range(POINTS)]
        under = [Series("f(x) = x²", across, [x * x for x in across], colour=7, style="faint")]
        title, y_label = "The way down x²", "f(x)"
        note = "Each point is an evaluation. The minimum, 0, is at x = 0."
    across, up = [x for x, _ in path], [y for _, y in path]
    way = [Series("the run", across, up), Series("its evaluations", across, up, style="points")]
    return Chart(title, "x", y_label, [*under, *way], note=note)


def _level_line(level: float) -> Series:
    """Return the line on which Rosenbrock's function has this value: y = x² ± √(level - (1 - x)²) / 10, for x from -2 to 2."""
    reach = math.sqrt(level)
    first, last = max(1 - reach, -2.0), min(1 + reach, 2.0)
    across = [first + (last - first) * point / (POINTS - 1) for point in range(POINTS)]
    half = [math.sqrt(max(level - (1 - x) ** 2, 0.0)) / 10 for x in across]
    upper: list[float | None] = [x * x + h for x, h in zip(across, half, strict=True)]
    lower: list[float | None] = [x * x - h for x, h in zip(across, half, strict=True)]
    # The gap keeps the two ends from being joined where the line leaves the picture.
    return Series(f"f = {level:g}", [*across, first, *across], [*upper, None, *lower], colour=7, style="faint")


def load(data_dir: Path | None) -> Task:
    """Make the task.

    Raises:
        InputError: a data_dir was given, which this task does not read.
    """
    without_data_dir(data_dir, "quadratic, which has no data")
    return Task(
        description="f(x) = x² from x = 5",
        model=Parabola,
        models={"rosenbrock": Rosenbrock},
        loss=loss,
        evaluate=evaluate,
        metric="f",
        mode="min",
        target=1e-4,
        epochs=30,
        steps_per_epoch=10,
        eval_every=1,  # so that the path is drawn step by step
        threads=1,
        # The usual rates suit many weights near 0. Here a single weight has to move by 5.
        lr_scale=100.0,
        chart=chart,
    )
