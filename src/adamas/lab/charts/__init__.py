"""A chart as data, independent of how it is drawn. ``adamas.lab.charts.png`` draws it with matplotlib, and
``adamas.lab.charts.interactive`` with Plotly as part of a page.

May import the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ALIKE = 1e-5  # of their size: values that differ by less are drawn as the same


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    ``low`` and ``high`` bound a band around it, or error bars for points and bars. ``colour`` is an index into the palette:
    the same thing has the same colour in every chart of a page. Values that are None are gaps. ``diverged`` says at which x a
    run came to no value: a cross at the edge of the chart marks it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    colour: int = 0
    style: Literal["line", "faint", "dashed", "points", "marked", "steps", "bars"] = "line"
    diverged: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with two axes. ``note`` says in a sentence what can be seen in it, and ``categories`` are names for the places
    0, 1, 2, … on the x axis. What diverged is marked at the upper edge, or at the lower one with ``higher_is_better``."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    categories: Sequence[str] = ()
    higher_is_better: bool = False

    @property
    def is_log_y(self) -> bool:
        """Whether the y axis is logarithmic: ``log_y`` asks for it, and there is a value above 0."""
        return self.log_y and any(y > 0 for y in self._values())

    def zeros(self, series: Series) -> list[float]:
        """The x at which a series is exactly 0 where the y axis is logarithmic, and so has no place for it."""
        return [x for x, y in zip(series.x, series.y, strict=True) if y == 0] if self.is_log_y else []

    @property
    def caption(self) -> str:
        """``note``, and what the marks at the edges mean."""
        zeros = any(self.zeros(series) for series in self.series)
        diverged = any(series.diverged for series in self.series)
        edge = "lower" if self.higher_is_better else "upper"
        marks = ["A triangle at the lower edge is exactly 0."] * zeros
        marks += [f"A cross at the {edge} edge is a run that diverged or failed."] * diverged
        return " ".join(filter(None, [self.note, *marks]))

    @property
    def constant_range(self) -> tuple[float, float] | None:
        """The ends of a linear y axis on which all values are the same: from 0, so that it is seen how large that is.

        None where they differ by more than ``ALIKE`` of their size, or are 0.
        """
        values = self._values()
        level = max(values, key=abs, default=0.0)
        if self.is_log_y or level == 0 or max(values) - min(values) > ALIKE * abs(level):
            return None
        return min(0.0, 1.2 * level), max(0.0, 1.2 * level)

    def _values(self) -> list[float]:
        return [y for series in self.series for y in series.y if y is not None and math.isfinite(y)]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chart:
        """Read what ``dataclasses.asdict`` made of one.

        Raises:
            TypeError: it is not that.
            KeyError: it has no series.
        """
        return cls(**{**values, "series": [Series(**series) for series in values["series"]]})
