"""Draws charts as a picture with matplotlib, without a display. May import matplotlib and adamas.lab.charts."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from adamas.extras import needs
from adamas.lab.charts import Chart, HeatMap, Series
from adamas.lab.charts.palette import NEUTRAL, SEQUENTIAL, colour, repeated

with needs("train"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

PANEL = 4.6, 3.6  # the size of a chart in inches
ROW, FEW_ROWS = 0.15, 30  # the height of a row of a heat map; more rows than these have smaller labels
MOST_IN_LEGEND = 12
FEW_POINTS = 40  # up to this many points are marked individually
TITLE_WIDTH = 52  # characters per line, for one chart
ZERO, DIVERGED = "v", "x"  # markers at the edges
INSET = 0.03  # the distance of the markers from the edge, as a fraction of the chart's height


def draw(charts: Sequence[Chart | HeatMap], title: str = "", columns: int = 3) -> bytes:
    """Draw charts in a grid.

    Args:
        charts: the charts; one without any number says "no data".
        title: the title above all of them.
        columns: the number of charts side by side.

    Returns:
        A PNG image.
    """
    columns = max(1, min(columns, len(charts)))
    rows = max(1, math.ceil(len(charts) / columns))
    width, height = map(max, zip(*(_size(chart) for chart in charts), strict=True)) if charts else PANEL
    figure = Figure(figsize=(width * columns, height * rows + 0.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(_plain(textwrap.fill(title, 26 * columns + 30)), fontsize=12)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, chart in zip(panels, charts, strict=False):
        if isinstance(chart, HeatMap):
            _draw_heat_map(figure, axes, chart)
        else:
            _draw_chart(axes, chart)
    for axes in panels[len(charts) :]:
        axes.set_visible(False)

    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _size(chart: Chart | HeatMap) -> tuple[float, float]:
    """The size of a chart in inches."""
    return (2 * PANEL[0], max(PANEL[1], 1.4 + ROW * len(chart.rows))) if isinstance(chart, HeatMap) else PANEL


def _draw_heat_map(figure: Figure, axes: Axes, chart: HeatMap) -> None:
    low, high = chart.scale()
    axes.set_title(_plain(textwrap.fill(chart.title, TITLE_WIDTH)), loc="left", fontsize=11)
    axes.set_xlabel(_plain(chart.x_label))
    values = [_gaps(row) for row in chart.exponents()]
    paints = LinearSegmentedColormap.from_list("sequential", SEQUENTIAL)
    places = range(len(chart.rows))
    mesh = axes.pcolormesh(
        chart.x, places, values, cmap=paints, vmin=low, vmax=high, shading="nearest", rasterized=True
    )
    axes.invert_yaxis()
    axes.set_yticks(places, [_plain(name) for name in chart.rows], fontsize=7 if len(chart.rows) > FEW_ROWS else 9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ticks = chart.ticks()
    bar = figure.colorbar(mesh, ax=axes, aspect=30 * _size(chart)[1] / PANEL[1], label=_plain(chart.value_label))
    bar.set_ticks([math.log10(x) for x in ticks], labels=[f"{x:g}" for x in ticks])


def _draw_chart(axes: Axes, chart: Chart) -> None:
    axes.set_title(_plain(textwrap.fill(chart.title, TITLE_WIDTH)), loc="left", fontsize=11)
    axes.set_xlabel(_plain(chart.x_label))
    axes.set_ylabel(_plain(chart.y_label))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    numbers = [value for series in chart.series for value in _gaps(series.y) if math.isfinite(value)]
    if not numbers:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="0.5")
        axes.set(xticks=[], yticks=[])
        return
    bars = [series for series in chart.series if series.style == "bars"]
    named: set[str] = set()
    for series in chart.series:
        label = series.name if series.name and series.name not in named else None
        named.add(series.name)
        if series.style == "bars":
            _draw_bars(axes, series, label, bars.index(series), len(bars))
        else:
            _draw_line(axes, series, label, chart.is_log_y)
        _draw_marks(axes, series, chart)
    if chart.log_x and any(value > 0 for series in chart.series for value in series.x):
        axes.set_xscale("log")
    if chart.is_log_y:
        axes.set_yscale("log")
    elif chart.constant_range is not None:
        axes.set_ylim(chart.constant_range)
    if chart.categories:
        axes.set_xticks(range(len(chart.categories)), [_plain(name) for name in chart.categories])
        axes.grid(visible=False, axis="x")
    elif not chart.log_x and all(value == int(value) for series in chart.series for value in series.x):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    handles, labels = axes.get_legend_handles_labels()
    marks = _explained(chart)
    if marks or 1 < len(labels) <= MOST_IN_LEGEND:
        shown = handles if len(handles) <= MOST_IN_LEGEND else []
        axes.legend(handles=[*shown, *marks], frameon=False, fontsize=8)


def _draw_marks(axes: Axes, series: Series, chart: Chart) -> None:
    """Mark, at the edges, values that are exactly 0 on a logarithmic axis, and diverged runs."""
    at_edge: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "color": colour(series.colour), "zorder": 3}
    if zeros := chart.zeros(series):
        look: dict[str, Any] = {"linestyle": "--"} if series.style == "dashed" else {"linestyle": "", "marker": ZERO}
        axes.plot(zeros, [INSET] * len(zeros), **at_edge, **look)
    if x := list(series.diverged):
        edge = INSET if chart.higher_is_better else 1 - INSET
        axes.plot(x, [edge] * len(x), DIVERGED, **at_edge)


def _explained(chart: Chart) -> list[Line2D]:
    """The legend's entries for the marks at the edges."""
    found = []
    if any(chart.zeros(series) for series in chart.series):
        found.append(Line2D([], [], color=NEUTRAL, linestyle="", marker=ZERO, label="exactly 0"))
    if any(series.diverged for series in chart.series):
        found.append(Line2D([], [], color=NEUTRAL, linestyle="", marker=DIVERGED, label="diverged or failed"))
    return found


def _draw_line(axes: Axes, series: Series, label: str | None, is_log: bool) -> None:
    paint = colour(series.colour)
    look: dict[str, Any] = {"color": paint, "linewidth": 1.6, "label": label and _plain(label)}
    if repeated(series.colour):
        look["linestyle"] = ":"
    if series.style == "faint":
        look |= {"alpha": 0.35, "linewidth": 1}
    elif series.style == "dashed":
        look |= {"linestyle": "--", "linewidth": 1.2}
    elif series.style == "points":
        look |= {"linestyle": "", "marker": "o", "markersize": 4}
    elif series.style == "marked":
        look |= {"marker": "o" if len(series.x) <= FEW_POINTS else "", "markersize": 4}
    elif series.style == "steps":
        look |= {"drawstyle": "steps-post"}
    y = [math.nan if is_log and value <= 0 else value for value in _gaps(series.y)]
    if sum(map(math.isfinite, y)) == 1 and series.style in ("line", "faint"):
        look |= {"marker": "o", "markersize": 4}  # a line through one point is invisible
    axes.plot(series.x, y, **look)
    if series.style == "points":
        _draw_error_bars(axes, series, list(series.x))
    elif series.low is not None and series.high is not None:
        step: Literal["post"] | None = "post" if series.style == "steps" else None
        axes.fill_between(
            series.x, _gaps(series.low), _gaps(series.high), color=paint, alpha=0.18, linewidth=0, step=step
        )


def _draw_bars(axes: Axes, series: Series, label: str | None, place: int, of: int) -> None:
    """Draw bars next to those of the other series with bars."""
    width = 0.8 / of
    at = [x + (place - (of - 1) / 2) * width for x in series.x]
    axes.bar(at, _gaps(series.y), width=width, color=colour(series.colour), label=label and _plain(label))
    _draw_error_bars(axes, series, at)


def _draw_error_bars(axes: Axes, series: Series, at: Sequence[float]) -> None:
    if series.low is None or series.high is None:
        return
    values = _gaps(series.y)
    lows = [max(0.0, value - low) for value, low in zip(values, _gaps(series.low), strict=True)]
    highs = [max(0.0, high - value) for value, high in zip(values, _gaps(series.high), strict=True)]
    axes.errorbar(at, values, yerr=[lows, highs], fmt="none", ecolor=NEUTRAL, elinewidth=1, capsize=2)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None or not math.isfinite(value) else value for value in values]


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollars as mathematics."""
    return text.replace("$", r"\$")
