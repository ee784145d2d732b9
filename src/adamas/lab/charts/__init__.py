"""A chart as data, independent of how it is drawn. ``adamas.lab.charts.png`` draws it with matplotlib, and
``adamas.lab.charts.interactive`` with Plotly as part of a page.

May import the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

GAP = 0.27  # of a scale of colours between two of its marks: their texts fit beside one another on a phone
ALIKE = 1e-5  # values with a smaller relative difference are drawn as equal


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    ``low`` and ``high`` bound a band around it, or error bars for points and bars. ``colour`` is an index into the palette:
    the same thing has the same colour in every chart of a page. Values that are None are gaps. ``diverged`` has the x at which
    runs diverged; crosses at the edge of the chart mark them.
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
class HeatMap:
    """Positive values over two axes as colours, on a logarithmic scale.

    Attributes:
        title: what it shows.
        x_label: the name of the x axis.
        value_label: the name of the values.
        rows: the names of the rows, from the top.
        x: the places of the columns.
        values: for each row, a value for each column. None, or one that is not positive, is a gap.
        note: a sentence that says what it shows.
    """

    title: str
    x_label: str
    value_label: str
    rows: Sequence[str]
    x: Sequence[float]
    values: Sequence[Sequence[float | None]]
    note: str = ""

    @property
    def caption(self) -> str:
        """``note``."""
        return self.note

    def exponents(self) -> list[list[float | None]]:
        """The decimal logarithms of the values; None for gaps."""
        return [[math.log10(x) if x is not None and 0 < x < math.inf else None for x in row] for row in self.values]

    def scale(self) -> tuple[float, float]:
        """The exponents at the ends of the scale of colours: of the largest value, and of the smallest or one in a hundred."""
        found = sorted(x for row in self.exponents() for x in row if x is not None)
        low, high = (found[len(found) // 100], found[-1]) if found else (0.0, 0.0)
        return (low, high) if high - low > ALIKE else (low - 0.5, high + 0.5)

    def ticks(self) -> list[float]:
        """Values for the marks of the scale: powers of ten, or, if there are too few of them, 2 and 5 times those as well."""
        low, high = self.scale()
        decades = range(math.floor(low), math.ceil(high) + 1)
        tens, finer = (
            [x for x in (float(f"{k}e{n}") for n in decades for k in ks) if low <= math.log10(x) <= high]
            for ks in ((1,), (1, 2, 5))
        )
        found: list[float] = []
        for x in tens if len(tens) > 2 else finer:
            if not found or math.log10(x / found[-1]) >= GAP * (high - low):
                found.append(x)
        return found


@dataclass(frozen=True)
class Chart:
    """A chart with two axes. ``note`` says in a sentence what it shows, and ``categories`` has the names of the positions
    0, 1, 2, … on the x axis. Diverged runs are marked at the upper edge, or at the lower one with ``higher_is_better``."""

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
        """Whether the y axis is logarithmic: ``log_y`` is set, and there is a value above 0."""
        return self.log_y and any(y > 0 for y in self._values())

    def zeros(self, series: Series) -> list[float]:
        """The x at which a series is exactly 0, if the y axis is logarithmic and so cannot show it."""
        return [x for x, y in zip(series.x, series.y, strict=True) if y == 0] if self.is_log_y else []

    @property
    def caption(self) -> str:
        """``note``, and the meaning of the marks at the edges."""
        zeros = any(self.zeros(series) for series in self.series)
        diverged = any(series.diverged for series in self.series)
        edge = "lower" if self.higher_is_better else "upper"
        marks = ["A triangle at the lower edge is exactly 0."] * zeros
        marks += [f"A cross at the {edge} edge is a run that diverged or failed."] * diverged
        return " ".join(filter(None, [self.note, *marks]))

    @property
    def constant_range(self) -> tuple[float, float] | None:
        """The ends of a linear y axis if all values are equal: from 0, so that their size can be seen.

        None if they differ by more than ``ALIKE``, or are 0.
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
        """Make a chart from the result of ``dataclasses.asdict``.

        Raises:
            TypeError: the values are not those of a chart.
            KeyError: there are no series.
        """
        return cls(**{**values, "series": [Series(**series) for series in values["series"]]})
