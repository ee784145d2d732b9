"""The charts of runs of one task: metrics, loss, learning rate, gradient norm, updates, time and memory.

May import adamas.lab.charts, adamas.lab.report's readers and the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adamas.lab.charts import Chart, Series
from adamas.lab.charts.palette import GREY
from adamas.lab.report.groups import Group, averaged, averaged_over_time
from adamas.lab.report.numbers import figure, mean, seconds, spoken
from adamas.lab.report.runs import Run, pairs
from adamas.lab.train.records import validation_name

TEST = 1  # the colour of the test loss if there is only one setting
WIDE = 50  # the ratio of the largest value to the smallest from which on a logarithmic scale shows more
PARTS = ("data", "forward", "backward", "optimizer", "evaluation", "other")
KINDS = ("weights", "state")
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
USUAL_RATIO = 1e-3


def charts_of(groups: Sequence[Group]) -> list[Chart]:
    """Return the charts, including those without data."""
    runs = [run for group in groups for run in group.runs]
    first = runs[0]
    band = _band(groups)
    charts = [_metric(groups, first, band, "step")]
    if len(runs) > 1:
        charts.append(_metric(groups, first, band, "train_seconds"))
    charts.append(_loss(groups, band))
    charts += [
        _learning_rate(groups, band),
        _over_steps(
            groups,
            "grad_norm",
            "Gradient norm",
            "2-norm, log scale",
            f"The norm of the whole gradient, before clipping{band}.",
            log_y=True,
        ),
        _update_ratio(groups, band),
    ]
    shown = {first.metric, *(_losses(first) if len(groups) == 1 else ()), *_validation(groups)}
    others = dict.fromkeys(name for run in runs for name in run.metrics if name not in shown)
    charts += [_other_metric(groups, name, band) for name in others]
    own = [first.chart] if len(runs) == 1 and first.chart is not None else []
    return [*own, *charts, _time(groups), _memory(groups)]


def spans_decades(series: Sequence[Series]) -> bool:
    """Whether no value is negative, and the values are so far apart that a logarithmic scale shows more."""
    values = [y for one in series for y in one.y if y is not None]
    positive = [y for y in values if y > 0]
    return bool(positive) and min(values) >= 0 and max(positive) > WIDE * min(positive)


def title(name: str) -> str:
    """A metric's name as a heading; symbols are unchanged."""
    return spoken(name)[:1].upper() + spoken(name)[1:] if len(name) > 2 else name


def _band(groups: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    return "; the mean of the seeds, in a band from the lowest to the highest" if several else ""


def _curves(group: Group, metric: str, over: str, **look: Any) -> Series:
    look.setdefault("style", "marked")
    curves = [run.curve(metric) for run in group.runs]
    look["diverged"] = _diverged(group, over)
    if over == "step":
        return averaged(group.label, curves, group.colour, **look)
    return averaged_over_time(group.label, curves, [run.curve(over) for run in group.runs], group.colour, **look)


def _diverged(group: Group, over: str) -> list[float]:
    """The step, or the seconds of training, at which each diverged run diverged."""
    ends = [run.steps if over == "step" else run.train_seconds for run in group.runs if run.end == "diverged"]
    return [end for end in ends if end is not None]


def _metric(groups: Sequence[Group], first: Run, band: str, over: str) -> Chart:
    metric = first.metric or "metric"
    series = [_curves(group, metric, over) for group in groups]
    series += [replace(_curves(groups[0], name, over), name="validation", colour=TEST) for name in _validation(groups)]
    ends = [max(one.x) for one in series if one.x]
    if first.target is not None and ends:
        series.append(
            Series(f"target {figure(first.target)}", [0, max(ends)], [first.target] * 2, colour=GREY, style="dashed")
        )
    by_time = over == "train_seconds"
    beside = "; beside it that of the examples that training left out" if _validation(groups) else ""
    log_y = first.mode == "min" and spans_decades(series)
    return Chart(
        f"{title(metric)} {'over time' if by_time else 'by step'}",
        "seconds of training" if by_time else "step",
        f"{spoken(metric)}, log scale" if log_y else spoken(metric),
        series,
        log_y=log_y,
        higher_is_better=first.mode == "max",
        note=f"{title(metric)} at each evaluation{', against the time without evaluation' if by_time else ''}{band}{beside}.",
    )


def _other_metric(groups: Sequence[Group], name: str, band: str) -> Chart:
    """A metric besides the main one, of the runs that have it."""
    series = [_curves(group, name, "step") for group in groups if any(name in run.metrics for run in group.runs)]
    of_validation = name in {
        validation_name(metric)
        for group in groups
        for run in group.runs
        for metric in run.metrics
        if run.validation_examples
    }
    where = ", on the examples that training left out" if of_validation else ""
    log_y = name.endswith("loss") and spans_decades(series)
    return Chart(
        title(name),
        "step",
        f"{spoken(name)}, log scale" if log_y else spoken(name),
        series,
        log_y=log_y,
        note=f"{title(name)} at each evaluation{where}{band}.",
    )


def _loss(groups: Sequence[Group], band: str) -> Chart:
    series: list[Series] = []
    alone = len(groups) == 1
    for group in groups:
        name = "train" if alone else group.label
        sampled = [pairs(run.samples, "step", "loss") for run in group.runs]
        if alone and any(sampled):
            series.append(averaged("train, by step", sampled, group.colour, style="faint"))
        curve = [run.curve("train_loss") for run in group.runs]
        diverged = _diverged(group, "step")
        series.append(averaged(name, curve if any(curve) else sampled, group.colour, style="marked", diverged=diverged))
        for colour, loss in enumerate(_losses(group.runs[0]) if alone else [], start=TEST):
            series.append(averaged(spoken(loss), [run.curve(loss) for run in group.runs], colour, style="marked"))
    positive = all(y >= 0 for one in series for y in one.y if y is not None)
    return Chart(
        "Loss" if alone else "Training loss",
        "step",
        "loss, log scale" if positive else "loss",
        series,
        log_y=positive,
        note=f"The mean over the training examples since the last evaluation, as the weights changed{band}.",
    )


def _losses(run: Run) -> list[str]:
    """The losses of data that a run is not trained on."""
    return [name for name in ("test_loss", "loss", "validation_loss") if name in run.metrics]


def _validation(groups: Sequence[Group]) -> list[str]:
    """The main metric on the validation data, which is drawn beside that on the test data if there is one setting."""
    first = groups[0].runs[0]
    name = validation_name(first.metric or "metric")
    return [name] if len(groups) == 1 and name in first.metrics else []


def _over_steps(groups: Sequence[Group], name: str, title: str, y_label: str, note: str, log_y: bool = False) -> Chart:
    """A chart of a value of the samples, or of the evaluations if there are no samples."""
    series = []
    for group in groups:
        curves = [pairs(run.samples, "step", name) or run.curve(name) for run in group.runs]
        series.append(averaged(group.label, curves, group.colour))
    return Chart(title, "step", y_label, series, log_y=log_y, note=note)


def _learning_rate(groups: Sequence[Group], band: str) -> Chart:
    chart = _over_steps(groups, "learning_rate", "Learning rate", "learning rate", f"The rate of each step{band}.")
    highest = [max(y for y in one.y if y is not None) for one in chart.series if one.y]
    apart = bool(highest) and min(highest) > 0 and max(highest) > WIDE * min(highest)
    return replace(chart, log_y=True, y_label=f"{chart.y_label}, log scale") if apart else chart


def _update_ratio(groups: Sequence[Group], band: str) -> Chart:
    chart = _over_steps(groups, "update_ratio", "Update-to-weight ratio", "ratio, log scale", "", log_y=True)
    ends = [max(one.x) for one in chart.series if one.x]
    usual = [Series("usual, 0.001", [0, max(ends)], [USUAL_RATIO] * 2, colour=GREY, style="dashed")] if ends else []
    note = f"The norm of a step's change of all weights, over the norm of the weights{band}; about 0.001 is usual."
    return replace(chart, series=[*chart.series, *usual], note=note)


def _time(groups: Sequence[Group]) -> Chart:
    parts = [name for name in PARTS if any(run.seconds().get(name) for group in groups for run in group.runs)]
    series = []
    totals = []
    for group in groups:
        split = [spent for run in group.runs if (spent := run.seconds())]
        totals += [sum(spent.values()) for spent in split]
        rows = [[100 * spent.get(name, 0.0) / sum(spent.values()) for spent in split] for name in parts]
        if split:
            series.append(_bars(group, rows))
    whole = f" Of {seconds(mean(totals))}{' on average' if len(totals) > 1 else ''}." if totals else ""
    note = f"The share of a run's time that each part took.{whole}"
    return Chart("Where the time went", "", "% of the time", series, note=note, categories=parts)


def _memory(groups: Sequence[Group]) -> Chart:
    kinds = [name for name in KINDS if any(name in run.memory() for group in groups for run in group.runs)]
    recorded = {group: [memory for run in group.runs if (memory := run.memory())] for group in groups}
    largest = max((memory.get(name, 0) for rows in recorded.values() for memory in rows for name in kinds), default=0)
    unit, scale = next(((unit, scale) for unit, scale in UNITS if largest >= scale), ("bytes", 1.0))
    series = [
        _bars(group, [[memory[name] / scale for memory in rows if name in memory] for name in kinds])
        for group, rows in recorded.items()
        if rows
    ]
    note = "The weights, and what the optimizer keeps between steps; the peak of the whole process is in the table."
    return Chart("Memory", "", unit, series, note=note, categories=kinds)


def _bars(group: Group, rows: Sequence[Sequence[float]]) -> Series:
    several = any(len(row) > 1 for row in rows)
    return Series(
        group.label,
        range(len(rows)),
        [mean(row) for row in rows],
        low=[min(row, default=None) for row in rows] if several else None,
        high=[max(row, default=None) for row in rows] if several else None,
        colour=group.colour,
        style="bars",
    )
