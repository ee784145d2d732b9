"""Charts are the same data whoever draws them: matplotlib's pictures, and Plotly's figures for a page."""

from __future__ import annotations

import json
import math
from typing import get_args, get_type_hints

import pytest

from adamas.charts import Chart, Series, interactive, palette, png

STYLES = get_args(get_type_hints(Series)["style"])
PNG = b"\x89PNG\r\n\x1a\n"
WHITE, DARK = "#ffffff", "#181c22"


def series(style: str = "line", **more) -> Series:
    values = {
        "x": list(range(6)),
        "y": [0.5, 1.0, None, math.nan, 2.0, 4.0],
        "low": [0.1, 0.5, None, 1.0, 1.0, 3.0],
        "high": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    }
    return Series("a <b> $x$", style=style, **{**values, **more})


def chart(*drawn: Series, **more) -> Chart:
    return Chart("cost in $ and $", "step", "loss", drawn, **more)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_drawn_by_both(style):
    drawn = chart(series(style), series(style, low=None, high=None, colour=11), log_x=True, log_y=True)
    assert png.draw([drawn], "title").startswith(PNG)
    figure = interactive.figure(drawn)
    json.dumps(figure, allow_nan=False)
    assert {trace["type"] for trace in figure["data"]} <= {"scatter", "bar"}


def test_a_picture_holds_any_number_of_charts_and_those_without_data():
    assert png.draw([chart(series(style)) for style in STYLES], "linear").startswith(PNG)
    one = len(png.draw([chart(series())]))
    assert len(png.draw([chart(series()), chart(series("marked")), chart(), chart(series("points"))], "two", 2)) > one
    assert png.draw([]).startswith(PNG)
    assert png.draw([chart(Series("nothing", [0, 1], [None, math.nan]))]).startswith(PNG)


def test_bars_and_points_stand_at_their_categories():
    drawn = chart(series("bars", x=[0, 1], y=[1, 2], low=[0, 1], high=[2, 3]), categories=["data", "forward <i>"])
    assert png.draw([drawn]).startswith(PNG)
    figure = interactive.figure(drawn)
    assert figure["layout"]["xaxis"]["ticktext"] == ["data", "forward &lt;i&gt;"]
    assert figure["data"][0]["error_y"]["array"] == [1, 1]


def test_values_that_are_no_numbers_are_gaps_and_so_are_negative_ones_on_a_log_axis():
    drawn = chart(Series("a", [1, 2, 3, 4], [math.inf, None, -1.0, 0.123456789]), log_y=True)
    assert interactive.figure(drawn)["data"][0]["y"] == [None, None, None, 0.12346]


def test_a_band_is_an_outline_for_each_stretch_without_gaps():
    band, line = interactive.figure(chart(series()))["data"]
    assert band["fill"] == "toself"
    assert band["legendgroup"] == line["legendgroup"]
    assert band["x"] == [0, 1, 1, 0, None, 3, 4, 5, 5, 4, 3]
    assert band["y"] == [1.0, 2.0, 0.5, 0.1, None, 4.0, 5.0, 6.0, 3.0, 1.0, 1.0]


def test_names_are_text_and_never_markup():
    for trace in interactive.figure(chart(series()))["data"]:
        assert trace["name"] == "a &lt;b&gt; $x$"


@pytest.mark.parametrize(("level", "ends"), [(0.01, [0, 0.012]), (-2, [-2.4, 0])])
def test_a_constant_is_seen_against_zero(level, ends):
    axis = interactive.figure(chart(Series("a", [1, 2], [level, level])))["layout"]["yaxis"]
    assert axis["range"] == pytest.approx(ends)


def test_a_long_line_is_thinned_and_keeps_its_peaks():
    length = 50_000
    y = [1.0] * length
    y[31_234], y[40_001] = 1000.0, -7.0
    (trace,) = interactive.figure(chart(Series("a", range(length), y)))["data"]
    assert len(trace["x"]) <= interactive.MOST_POINTS
    peaks = {(x, value) for x, value in zip(trace["x"], trace["y"], strict=True) if value != 1}
    assert peaks == {(31_234, 1000.0), (40_001, -7.0)}


def test_what_the_page_lists_is_not_in_the_legend_of_the_chart():
    drawn = chart(Series("adam", [0, 1], [1, 2]), Series("target", [0, 1], [1, 1], style="dashed"))
    shown = {trace["name"]: trace["showlegend"] for trace in interactive.figure(drawn, ["adam"])["data"]}
    assert shown == {"adam": False, "target": True}


@pytest.mark.parametrize("background", [WHITE, DARK])
def test_every_colour_can_be_seen_on_both_backgrounds(background):
    for colour in palette.COLOURS:
        lighter, darker = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3  # WCAG 2.2, 1.4.11


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
