"""A chart as data: what is drawn, whoever draws it. ``adamas.charts.png`` makes pictures of it with matplotlib, and
``adamas.charts.interactive`` a part of a page with Plotly.

May import the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    ``low`` and ``high`` bound a band around it, or error bars for points and bars. ``colour`` is an index into the palette:
    the same thing has the same colour in every chart of a page. Values that are None are gaps.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    colour: int = 0
    style: Literal["line", "faint", "dashed", "points", "marked", "steps", "bars"] = "line"


@dataclass(frozen=True)
class Chart:
    """A chart with two axes. ``note`` says in a sentence what can be seen in it, and ``categories`` are names for the places
    0, 1, 2, … on the x axis."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    categories: Sequence[str] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chart:
        """Read what ``dataclasses.asdict`` made of one.

        Raises:
            TypeError: it is not that.
            KeyError: it has no series.
        """
        return cls(**{**values, "series": [Series(**series) for series in values["series"]]})
