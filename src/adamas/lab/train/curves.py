"""The charts of curves.png: loss, metric and learning rate over a run. Imports matplotlib through adamas.lab.charts.png."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adamas.lab.charts import Chart, Series, png
from adamas.lab.charts.palette import GREY
from adamas.lab.train.records import Evaluation, Plan, Sample, validation_name

SCHEDULE_LENGTH = 80  # characters of a schedule in the title


def draw_curves(
    plan: Plan,
    history: Sequence[Evaluation],
    samples: Sequence[Sample],
    own: Chart | None,
    diverged: bool,
) -> bytes:
    """Draw a run.

    Args:
        plan: the plan of the run, for the title and the length of an epoch.
        history: its evaluations.
        samples: its sampled steps.
        own: the task's own chart of the run.
        diverged: whether the loss became nonfinite.

    Returns:
        A PNG image.
    """
    schedule = plan.schedule if len(plan.schedule) <= SCHEDULE_LENGTH else f"{plan.schedule[: SCHEDULE_LENGTH - 1]}…"
    batches = f", batches of {plan.batch_size}" * bool(plan.train_examples)
    title = f"{plan.task}: {plan.optimizer}, learning rate {plan.learning_rate:g} ({schedule}){batches}"
    steps_per_epoch = plan.steps / plan.epochs
    epochs = [row.epoch for row in history]
    steps = [sample.step / steps_per_epoch for sample in samples]
    ends = [max([0.0, *steps, *epochs])] if diverged else []
    loss = [
        Series("train, by step", steps, [sample.loss for sample in samples], style="faint", diverged=ends),
        Series("train", epochs, [row.train_loss for row in history], style="marked"),
    ]
    evaluated = history[-1].metrics if history else {}

    def evaluations(label: str, name: str, colour: int, **look: Any) -> list[Series]:
        values = [row.metrics.get(name) for row in history]
        return [Series(label, epochs, values, colour=colour, style="marked", **look)] if name in evaluated else []

    loss += evaluations("test", "test_loss", 1) + evaluations("validation", validation_name("test_loss"), 2)
    target = Series(f"target {plan.target:g}", [0, max([0.0, *epochs])], [plan.target] * 2, colour=GREY, style="dashed")
    if plan.metric == "test_loss":
        loss.append(target)
    charts = [Chart("loss", "epoch", "", loss, log_y=_can_be_log(loss))]
    name = plan.metric.replace("_", " ")
    if plan.metric != "test_loss":
        reached = f": {evaluated[plan.metric]:.4g} at the end" if history else ""
        values = evaluations(name, plan.metric, 1, diverged=ends)
        series = [*values, *evaluations("validation", validation_name(plan.metric), 2), target]
        log_y, higher_is_better = plan.mode == "min" and _can_be_log(series), plan.mode == "max"
        charts.append(Chart(f"{name}{reached}", "epoch", "", series, log_y=log_y, higher_is_better=higher_is_better))
    rate = Series("learning rate", steps, [sample.learning_rate for sample in samples], colour=2)
    charts.append(Chart("learning rate", "epoch", "", [rate]))
    if own is not None:
        charts.append(own)
    return png.draw(charts, title, columns=len(charts))


def _can_be_log(series: Sequence[Series]) -> bool:
    """Whether no value is negative. A value of 0 is marked at the edge."""
    return all(value is None or not value < 0 for one in series for value in one.y)
