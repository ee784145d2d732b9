"""The parts of a page as plain data: sections with sentences, charts and tables.

May import adamas.lab.charts and the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from adamas.lab.charts import Chart, HeatMap


@dataclass(frozen=True)
class Table:
    """A table of text. A ``folded`` table is opened by a click."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One part of a page. ``sentences`` has the findings, ``warnings`` what to be careful about, ``notes`` what is said
    beneath the charts, ``missing`` what could not be drawn and why, and ``commands`` the commands that reproduce it."""

    title: str
    sentences: Sequence[str]
    charts: Sequence[Chart | HeatMap] = ()
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    missing: Sequence[str] = ()
    commands: Sequence[str] = field(default=())


def has_data(chart: Chart) -> bool:
    """Whether the chart has any number in it."""
    return any(y is not None and math.isfinite(y) for series in chart.series for y in series.y)
