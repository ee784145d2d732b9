"""Groups runs that differ only in their seed, names the groups by what distinguishes them, and averages them.

May import adamas.lab.charts, adamas.lab.report.runs and the standard library.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adamas.lab.charts import Series
from adamas.lab.report.numbers import count, figure, mean, spoken
from adamas.lab.report.runs import SETTINGS, Run

MOST_PLACES = 400  # points of a mean over runs
NONE_BY_DEFAULT = ("plateau", "clip", "data_dir")  # settings that a run does without if they are not given
SPEAK_FOR_THEMSELVES = ("schedule", "plateau")  # settings whose values say what they are


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one optimizer with one setting, and the index of their colour on the page."""

    label: str
    runs: list[Run]
    colour: int

    def values(self) -> list[float]:
        """The final metric of each run that did not diverge."""
        return [run.value for run in self.runs if run.value is not None and run.end != "diverged"]


def grouped(runs: Sequence[Run], colours: dict[str, int]) -> list[Group]:
    """Group runs of one task, in the order in which they are given.

    ``colours`` has the colours of the labels that are already on the page; new ones are added.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_settings(run), sort_keys=True, default=str), []).append(run)
    settings = [_settings(members[0]) for members in groups.values()]
    differing = [name for name in SETTINGS if len({json.dumps(one[name], default=str) for one in settings}) > 1]
    differing = [name for name in differing if name != "optimizer"]
    labels: list[str] = []
    for one in settings:
        label = _label(one, [name for name in differing if _sets_apart(name, one, settings)])
        labels.append(label if label not in labels else f"{label} ({len(labels) + 1})")
    return [
        Group(label, members, colours.setdefault(label, len(colours)))
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def averaged(name: str, curves: Sequence[Sequence[tuple[float, float]]], colour: int, **look: Any) -> Series:
    """One line for several curves: their mean, in a band from the lowest to the highest.

    Curves are interpolated linearly. Where some have ended, the mean is that of the others.
    """
    curves = [curve for curve in curves if curve]
    if len(curves) <= 1:
        (curve,) = curves or [[]]
        return Series(name, [x for x, _ in curve], [y for _, y in curve], colour=colour, **look)
    places = sorted({x for curve in curves for x, _ in curve})
    stride = math.ceil(len(places) / MOST_PLACES)
    places = places[:-1:stride] + places[-1:]
    columns = [[_at(curve, x) for x in places] for curve in curves]
    present = [[value for value in row if value is not None] for row in zip(*columns, strict=True)]
    kept = [(x, row) for x, row in zip(places, present, strict=True) if row]
    return Series(
        name,
        [x for x, _ in kept],
        [mean(row) for _, row in kept],
        low=[min(row) for _, row in kept],
        high=[max(row) for _, row in kept],
        colour=colour,
        **look,
    )


def averaged_over_time(
    name: str,
    curves: Sequence[Sequence[tuple[float, float]]],
    clocks: Sequence[Sequence[tuple[float, float]]],
    colour: int,
    **look: Any,
) -> Series:
    """Like ``averaged``, for curves over steps, but drawn over the mean time of each step, which ``clocks`` has in seconds.

    At a given time the curves are at different steps, so a mean over time would mix early and late steps.
    """
    by_step = averaged(name, curves, colour, **look)
    clock = averaged(name, clocks, colour)
    ticks = [(x, y) for x, y in zip(clock.x, clock.y, strict=True) if y is not None]
    times = [_at(ticks, step) for step in by_step.x]
    kept = [place for place, time in enumerate(times) if time is not None]
    return replace(
        by_step,
        x=[time for time in times if time is not None],
        y=[by_step.y[place] for place in kept],
        low=None if by_step.low is None else [by_step.low[place] for place in kept],
        high=None if by_step.high is None else [by_step.high[place] for place in kept],
    )


def _at(curve: Sequence[tuple[float, float]], x: float) -> float | None:
    after = bisect.bisect_left(curve, x, key=lambda point: point[0])
    if after == len(curve):
        return None
    if curve[after][0] == x:
        return curve[after][1]
    if after == 0:
        return None
    (x0, y0), (x1, y1) = curve[after - 1 : after + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _settings(run: Run) -> dict[str, Any]:
    settings = {name: run.config.get(name) for name in SETTINGS}
    if run.config.get("lr_found") or (run.summary or {}).get("lr_found"):
        settings["lr"] = "auto"  # each seed searches for its own
    return {**settings, "optimizer": run.optimizer}


def _sets_apart(name: str, one: dict[str, Any], settings: Sequence[dict[str, Any]]) -> bool:
    """Whether a setting distinguishes the group: another group of the same optimizer has another value."""
    same = [other for other in settings if other["optimizer"] == one["optimizer"]]
    return any(other[name] != one[name] for other in same)


def _label(one: dict[str, Any], names: Sequence[str]) -> str:
    written = ", ".join(written_setting(name, one[name]) for name in names)
    return f"{one['optimizer']} ({written})" if written else str(one["optimizer"])


def written_setting(name: str, value: Any) -> str:
    """Write a setting so that it can stand alone: ``lr 0.001``, ``cosine``, ``10 epochs``, ``no clip``."""
    if value is None or value is False:
        return f"{'no' if value is False or name in NONE_BY_DEFAULT else 'default'} {spoken(name)}"
    if name == "epochs" and isinstance(value, int):
        return count(value, "epoch")
    text = figure(value) if isinstance(value, float) else str(value)
    return text if name in SPEAK_FOR_THEMSELVES else f"{spoken(name)} {text}"
