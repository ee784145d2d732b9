"""Draws curves.png: loss, accuracy and learning rate over a run. May import matplotlib, and draws without a screen."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from adamas.train.records import Epoch, Plan

TRAIN, TEST, RATE = "#3d6fb6", "#d1603d", "#5b8c5a"
POINTS = 400
SCHEDULE_LENGTH = 80  # characters in the title


def draw_curves(history: Sequence[Epoch], losses: Sequence[float], rates: Sequence[float], plan: Plan) -> bytes:
    """Draw a run.

    Args:
        history: its finished epochs.
        losses: training loss of every step.
        rates: learning rate of every step.
        plan: what was planned; gives the title and the length of an epoch.

    Returns:
        A PNG image.
    """
    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{plan.task}: {plan.optimizer}, learning rate {plan.learning_rate:g} ({_shortened(plan.schedule)}), "
        f"batches of {plan.batch_size}",
        fontsize=12,
    )
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [row.epoch for row in history]
    steps_per_epoch = plan.steps / plan.epochs
    marker = "o" if len(epochs) <= 40 else ""

    at, averaged = _averaged(losses, steps_per_epoch)
    loss.plot(at, averaged, color=TRAIN, alpha=0.35, linewidth=1, label="train, by step")
    loss.plot(epochs, [row.train_loss for row in history], color=TRAIN, marker=marker, markersize=4, label="train")
    loss.plot(epochs, [row.test_loss for row in history], color=TEST, marker=marker, markersize=4, label="test")
    if any(value > 0 for value in averaged):
        loss.set_yscale("log")
    loss.legend(frameon=False)
    accuracy.plot(epochs, [row.test_accuracy for row in history], color=TEST, marker=marker, markersize=4)
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    at, averaged = _averaged(rates, steps_per_epoch)
    rate.plot(at, averaged, color=RATE)
    rate.set_ylim(bottom=0, top=max(rates, default=0) * 1.1 or None)
    reached = f": {history[-1].test_accuracy:.2%} at the end" if history else ""
    for axes, title in ((loss, "loss"), (accuracy, f"test accuracy{reached}"), (rate, "learning rate")):
        _dress(axes, title, last_epoch=len(losses) / steps_per_epoch)

    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _shortened(text: str) -> str:
    return text if len(text) <= SCHEDULE_LENGTH else f"{text[: SCHEDULE_LENGTH - 1]}…"


def _averaged(values: Sequence[float], steps_per_epoch: float) -> tuple[list[float], list[float]]:
    """Average runs of steps, so that at most POINTS remain; return where each lies, in epochs, and its mean."""
    size = math.ceil(len(values) / POINTS) or 1
    starts = range(0, len(values), size)
    runs = [values[start : start + size] for start in starts]
    return [(start + len(run) / 2) / steps_per_epoch for start, run in zip(starts, runs, strict=True)], [
        sum(run) / len(run) for run in runs
    ]


def _dress(axes: Axes, title: str, last_epoch: float) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(last_epoch, 1e-9) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=last_epoch >= 2))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
