"""The charts of curves.png: loss, metric and learning rate over a run. May import matplotlib, through adamas.charts.png."""

from __future__ import annotations

from collections.abc import Sequence

from adamas.charts import Chart, Series, png
from adamas.train.records import Evaluation, Plan, Sample

SCHEDULE_LENGTH = 80  # characters in the title


def draw_curves(
    plan: Plan,
    history: Sequence[Evaluation],
    samples: Sequence[Sample],
    own: Chart | None,
) -> bytes:
    """Draw a run.

    Args:
        plan: what was planned; gives the title and the length of an epoch.
        history: its evaluations.
        samples: the steps that were looked at.
        own: the task's own chart of it.

    Returns:
        A PNG image.
    """
    schedule = plan.schedule if len(plan.schedule) <= SCHEDULE_LENGTH else f"{plan.schedule[: SCHEDULE_LENGTH - 1]}…"
    batches = f", batches of {plan.batch_size}" * bool(plan.train_examples)
    title = f"{plan.task}: {plan.optimizer}, learning rate {plan.learning_rate:g} ({schedule}){batches}"
    steps_per_epoch = plan.steps / plan.epochs
    epochs = [row.epoch for row in history]
    steps = [sample.step / steps_per_epoch for sample in samples]
    loss = [
        Series("train, by step", steps, [sample.loss for sample in samples], style="faint"),
        Series("train", epochs, [row.train_loss for row in history], style="marked"),
    ]
    if history and "test_loss" in history[-1].metrics:
        loss.append(Series("test", epochs, [row.metrics.get("test_loss") for row in history], colour=1, style="marked"))
    charts = [Chart("loss", "epoch", "", loss, log_y=_positive(loss))]
    name = plan.metric.replace("_", " ")
    if plan.metric != "test_loss":
        values = [row.metrics[plan.metric] for row in history]
        reached = f": {values[-1]:.4g} at the end" if values else ""
        series = [Series(name, epochs, values, colour=1, style="marked")]
        charts.append(Chart(f"{name}{reached}", "epoch", "", series, log_y=plan.mode == "min" and _positive(series)))
    rate = Series("learning rate", steps, [sample.learning_rate for sample in samples], colour=2)
    charts.append(Chart("learning rate", "epoch", "", [rate]))
    if own is not None:
        charts.append(own)
    return png.draw(charts, title, columns=len(charts))


def _positive(series: Sequence[Series]) -> bool:
    return all(value is not None and value > 0 for one in series for value in one.y)
