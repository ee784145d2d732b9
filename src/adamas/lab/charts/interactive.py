"""Turns a chart into a Plotly figure, as the plain data that ``Plotly.newPlot`` takes. The page sets what depends on its light
or dark background (text, grid).

May import adamas.lab.charts, and plotly when its script is needed.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Sequence
from typing import Any

from adamas.extras import needs
from adamas.lab.charts import Chart, HeatMap, Series
from adamas.lab.charts.palette import NEUTRAL, SEQUENTIAL, colour, repeated

MOST_POINTS = 16_000  # of a chart; more are thinned out
FEWEST_POINTS = 60  # of a line, however many lines there are
FEW_POINTS = 40  # up to this many points are marked individually
UNIFIED = 6  # up to this many lines share one box under the pointer
DIGITS = 5
FEW_ROWS = 30  # of a heat map; more have smaller labels
ROW, SMALL_ROW, HEAT_MAP_MARGIN = 22, 14, 132  # heights in pixels
LONGEST_NAME = 26  # characters of a row's name
X_FORMAT = ",.6~g"
MARKS_RANGE = [-0.03, 1.03]  # the axis of the marks, which are at 0 and 1: just inside the edges


@needs("train")
def plotly_js() -> str:
    """Return the script that draws the figures; it includes its licence."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def figure(chart: Chart | HeatMap, listed: Collection[str] = ()) -> dict[str, Any]:
    """Return ``data`` and ``layout``, without the title, which the page shows. Every number is finite or None.

    The series in ``listed`` are in the legend of the page, and therefore not in that of the chart.
    """
    if isinstance(chart, HeatMap):
        return _heat_map(chart)
    most = max(FEWEST_POINTS, MOST_POINTS // max(1, len(chart.series)))
    positive = [y for series in chart.series for y in _clean(series.y, log=True) if y is not None]
    smallest = min(positive, default=1.0)
    log_y = chart.is_log_y
    unified = len({series.name for series in chart.series}) <= UNIFIED and not chart.categories
    x_shown = "%{text}" if chart.categories else f"%{{x:{X_FORMAT}}}"
    named: set[str] = set()
    data: list[dict[str, Any]] = []
    for series in chart.series:
        group = {"name": html.escape(series.name), "legendgroup": html.escape(series.name), "meta": series.name}
        first = bool(series.name) and series.name not in named and series.name not in listed
        named.add(series.name)
        if series.low is not None and series.high is not None and series.style not in ("points", "bars"):
            data += _band(series, most, smallest if log_y else None, group)
        trace = _trace(series, most, log_y, marked=len(chart.series) <= UNIFIED)
        if series.style != "dashed":
            trace["hovertemplate"] = (
                "%{y:.5~g}" if unified else f"%{{fullData.name}}, {x_shown}: %{{y:.5~g}}<extra></extra>"
            )
        if chart.categories:
            trace["text"] = [html.escape(chart.categories[int(x)]) for x in series.x]
            trace |= {"textposition": "none"} if series.style == "bars" else {}
        data.append({**trace, **group, "showlegend": first})
        for mark in _marks(chart, series):
            word = mark.pop("word")
            if series.style != "dashed":
                mark["hovertemplate"] = word if unified else f"%{{fullData.name}}, {x_shown}: {word}<extra></extra>"
            if chart.categories:
                mark["text"] = [html.escape(chart.categories[int(x)]) for x in mark["x"]]
            data.append({**mark, **group, "showlegend": False})
    from_zero = any(series.style in ("bars", "steps") for series in chart.series)
    marked_above = any(series.diverged for series in chart.series) and not chart.higher_is_better
    flat = {"range": list(chart.constant_range)} if chart.constant_range else {}
    layout = {
        "height": 340,
        "margin": {"l": 60, "r": 14, "t": 34 if marked_above else 10, "b": 48},  # the buttons would hide the marks
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified" if unified else "closest",
        "barmode": "group",
        "showlegend": any(trace["showlegend"] for trace in data) and len(named) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "groupclick": "togglegroup"},
        "xaxis": {
            **_axis(chart.x_label, [x for one in chart.series for x in one.x], chart.log_x),
            **_categories(chart),
        },
        "yaxis": {**_axis(chart.y_label, positive, log_y), "rangemode": "tozero" if from_zero else "normal", **flat},
        "yaxis2": {"overlaying": "y", "range": MARKS_RANGE, "fixedrange": True, "visible": False},
    }
    return {"data": data, "layout": layout}


def _heat_map(chart: HeatMap) -> dict[str, Any]:
    low, high = chart.scale()
    last = len(SEQUENTIAL) - 1
    names, ticks = [html.escape(name) for name in chart.rows], chart.ticks()
    trace = {
        "type": "heatmap",
        "x": _clean(chart.x),
        "y": names,
        "z": [_clean(row) for row in chart.exponents()],
        "zmin": _rounded(low),
        "zmax": _rounded(high),
        "colorscale": [[at / last, paint] for at, paint in enumerate(SEQUENTIAL)],
        "colorbar": {
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "ypad": 6,
            "thickness": 10,
            "outlinewidth": 0,
            "tickvals": [_rounded(math.log10(x)) for x in ticks],
            "ticktext": [f"{x:g}" for x in ticks],
            "tickangle": 0,
            "title": {"text": html.escape(chart.value_label), "side": "top"},
        },
        "hovertemplate": f"%{{y}}<br>{chart.x_label} %{{x:{X_FORMAT}}}: 10<sup>%{{z:.2f}}</sup><extra></extra>",
    }
    small = len(names) > FEW_ROWS
    layout = {
        "height": max(340, HEAT_MAP_MARGIN + len(names) * (SMALL_ROW if small else ROW)),
        "margin": {"l": 10, "r": 14, "t": 30, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {**_axis(chart.x_label, chart.x, False), "showgrid": False},
        "yaxis": {
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "type": "category",
            "tickvals": names,
            "ticktext": [html.escape(_shortened(name)) for name in chart.rows],
            "tickfont": {"size": 10 if small else 12},
            "range": [len(names) - 0.5, -0.5],
        },
    }
    return {"data": [trace], "layout": layout}


def _shortened(name: str) -> str:
    """The last parts of a tensor's name, which say more than the first, in at most LONGEST_NAME characters."""
    if len(name) <= LONGEST_NAME:
        return name
    end = name[1 - LONGEST_NAME :]
    return f"…{end.partition('.')[2] or end}"


def _trace(series: Series, most: int, log_y: bool, marked: bool) -> dict[str, Any]:
    paint = colour(series.colour)
    y = _clean(series.y, log=log_y)
    if series.style == "bars" or series.style == "points":
        trace: dict[str, Any] = {"x": _clean(series.x), "y": y, "marker": {"color": paint, "size": 7}}
        if series.style == "bars":
            trace |= {"type": "bar", "marker": {"color": paint}}
        else:
            trace |= {"type": "scatter", "mode": "markers"}
        if series.low is not None and series.high is not None:
            trace["error_y"] = _error_bars(y, _clean(series.low), _clean(series.high))
        return trace
    at, y = _thinned(_clean(series.x), y, most)
    alone = sum(value is not None for value in y) == 1  # a line through one point is invisible
    marked = alone or (marked and series.style == "marked" and len(at) <= FEW_POINTS)
    dash = "dash" if series.style == "dashed" else "dot" if repeated(series.colour) else "solid"
    trace = {
        "type": "scatter",
        "mode": "lines+markers" if marked else "lines",
        "x": at,
        "y": y,
        "line": {"color": paint, "width": 1.2 if series.style in ("faint", "dashed") else 2, "dash": dash},
        "marker": {"color": paint, "size": 5},
        "opacity": 0.55 if series.style == "faint" else 1,
    }
    if series.style == "steps":
        trace["line"]["shape"] = "hv"
    if series.style == "dashed":
        trace["hoverinfo"] = "skip"
    return trace


def _marks(chart: Chart, series: Series) -> list[dict[str, Any]]:
    """The marks at the edges, which stay there in any zoom: of zeros if the axis is logarithmic, and of diverged runs."""
    paint = colour(series.colour)
    found: list[dict[str, Any]] = []
    if zeros := _spaced(chart.zeros(series)):
        dashed = {"mode": "lines", "line": {"color": paint, "width": 1.2, "dash": "dash"}, "hoverinfo": "skip"}
        look = dashed if series.style == "dashed" else _symbol("triangle-down", paint)
        found.append({"x": zeros, "y": [0] * len(zeros), "word": "0", **look})
    if diverged := _spaced(series.diverged):
        edge = 0 if chart.higher_is_better else 1
        found.append({"x": diverged, "y": [edge] * len(diverged), "word": "diverged", **_symbol("x", paint)})
    return [{"type": "scatter", "yaxis": "y2", **mark} for mark in found]


def _symbol(name: str, paint: str) -> dict[str, Any]:
    return {"mode": "markers", "marker": {"color": paint, "size": 10, "symbol": name}}


def _spaced(places: Sequence[float]) -> list[float]:
    """At most FEWEST_POINTS of the places, evenly spaced, including both ends."""
    ordered = sorted(set(places))
    stride = math.ceil(len(ordered) / FEWEST_POINTS) or 1
    return sorted({*ordered[::stride], *ordered[-1:]})


def _band(series: Series, most: int, smallest: float | None, group: dict[str, str]) -> list[dict[str, Any]]:
    """The area between low and high, as closed outlines with a gap between them."""
    assert series.low is not None
    assert series.high is not None
    x: list[float | None] = []
    y: list[float | None] = []
    rows = list(zip(_clean(series.x), _clean(series.low), _clean(series.high), strict=True))
    stride = math.ceil(len(rows) / most) or 1
    kept = [row for index, row in enumerate(rows) if index % stride == 0 or index == len(rows) - 1]
    for run in _whole(kept, series.style == "steps"):
        floor = [low if smallest is None else max(low, smallest) for _, low, _ in run]
        x += [at for at, _, _ in run] + [at for at, _, _ in reversed(run)] + [None]
        y += [max(high, low) for (_, _, high), low in zip(run, floor, strict=True)] + floor[::-1] + [None]
    if not x:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x[:-1],
            "y": y[:-1],
            "line": {"width": 0, "color": colour(series.colour)},
            "fill": "toself",
            "fillcolor": _transparent(colour(series.colour)),
            "hoverinfo": "skip",
            "showlegend": False,
            **group,
        }
    ]


def _whole(
    rows: Sequence[tuple[float | None, float | None, float | None]], steps: bool
) -> list[list[tuple[float, float, float]]]:
    """Cut rows where a number is missing; with ``steps``, each value lasts until the next."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in rows:
        if x is None or low is None or high is None:
            runs.append([])
            continue
        if steps and runs[-1]:
            runs[-1].append((x, *runs[-1][-1][1:]))
        runs[-1].append((x, low, high))
    return [run for run in runs if run]


def _thinned(x: list[float | None], y: list[float | None], most: int) -> tuple[list[float | None], list[float | None]]:
    """Keep at most ``most`` points: the lowest and the highest of each section, so that no peak is lost."""
    if len(x) <= most:
        return x, y
    size = math.ceil(2 * len(x) / most)
    kept: list[int] = []
    for start in range(0, len(x), size):
        stretch = [index for index in range(start, min(start + size, len(x))) if y[index] is not None]
        if not stretch:
            kept.append(start)
            continue
        ends = min(stretch, key=lambda index: y[index] or 0.0), max(stretch, key=lambda index: y[index] or 0.0)
        kept += sorted(set(ends))
    return [x[index] for index in kept], [y[index] for index in kept]


def _axis(label: str, values: Sequence[float], log: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "title": {"text": html.escape(label), "standoff": 8},
        "automargin": True,
        "exponentformat": "power",
        "zeroline": False,
        "nticks": 7,
        "type": "linear",
        "hoverformat": X_FORMAT,
        "showspikes": False,  # their edge would be white even on the dark page
    }
    values = [value for value in values if value > 0]
    if not log or not values:
        return axis
    decades = math.log10(max(values) / min(values))
    step = {"dtick": math.ceil(decades / 6)} if decades > 2.5 else {"dtick": "D2"} if decades > 0.7 else {}
    return {**axis, "type": "log", "tickformat": "~g", **step}


def _categories(chart: Chart) -> dict[str, Any]:
    if not chart.categories:
        return {}
    places = list(range(len(chart.categories)))
    return {
        "tickvals": places,
        "ticktext": [html.escape(name) for name in chart.categories],
        "autotickangles": [0, -30, -90],  # to the left of its bar, so that the last one fits on a phone, too
        "range": [-0.6, len(places) - 0.4],
        "showgrid": False,
    }


def _error_bars(y: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]) -> dict[str, Any]:
    def reach(ends: Sequence[float | None], sign: int) -> list[float]:
        return [
            0.0 if at is None or end is None else _rounded(max(0.0, sign * (end - at)))
            for at, end in zip(y, ends, strict=True)
        ]

    return {
        "type": "data",
        "symmetric": False,
        "array": reach(high, 1),
        "arrayminus": reach(low, -1),
        "color": NEUTRAL,
        "thickness": 1.3,
        "width": 4,
    }


def _clean(values: Sequence[float | None], log: bool = False) -> list[float | None]:
    """Round to DIGITS. Values that are not finite, or not positive on a logarithmic axis, become None."""
    return [
        None if value is None or not math.isfinite(value) or (log and value <= 0) else _rounded(value)
        for value in values
    ]


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def _transparent(paint: str) -> str:
    red, green, blue = (int(paint[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
