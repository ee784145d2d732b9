"""Charts are the same data whoever draws them: matplotlib's pictures, and Plotly's figures for a page."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from adamas.lab.charts import Chart, Series, interactive, palette, png
from adamas.lab.train import Listener, fit, folder
from adamas.lab.train.curves import draw_curves
from adamas.lab.train.records import Evaluation, Plan, Sample

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


def zeros_and_divergence(**more) -> Chart:
    return chart(
        Series("sgd", [1, 2, 3], [1.0, 0.0, None], diverged=[3]),
        Series("adam", [1, 2, 3], [1e-3, 1e-9, 2.0], style="points"),
        Series("target", [1, 3], [0.0, 0.0], style="dashed"),
        note="A note.",
        **more,
    )


def test_a_zero_on_a_log_axis_and_a_run_that_diverged_are_marked_at_the_edges_of_a_page():
    drawn = zeros_and_divergence(log_y=True)
    data, layout = (interactive.figure(drawn)[name] for name in ("data", "layout"))
    sgd, zero, cross, adam, target, line = data
    assert (sgd["y"], adam["y"], target["y"]) == ([1.0, None, None], [1e-3, 1e-9, 2.0], [None, None])
    assert (zero["x"], zero["y"], zero["marker"]["symbol"], zero["name"]) == ([2], [0], "triangle-down", "sgd")
    assert (cross["x"], cross["y"], cross["marker"]["symbol"]) == ([3], [1], "x")
    assert (line["x"], line["y"], line["mode"]) == ([1, 3], [0, 0], "lines")
    assert {trace["yaxis"] for trace in (zero, cross, line)} == {"y2"}
    low, high = layout["yaxis2"]["range"]
    assert low < 0 < 1 < high
    assert layout["yaxis2"]["fixedrange"]
    triangle, mark = (
        "A triangle at the lower edge is exactly 0.",
        "A cross at the upper edge is a run that diverged or failed.",
    )
    assert drawn.caption == f"A note. {triangle} {mark}"


def test_on_a_linear_axis_a_zero_is_a_point_and_where_high_is_better_what_diverged_is_below():
    drawn = zeros_and_divergence(higher_is_better=True)
    sgd, cross, *_ = interactive.figure(drawn)["data"]
    assert sgd["y"] == [1.0, 0.0, None]
    assert (cross["x"], cross["y"]) == ([3], [0])
    assert drawn.caption == "A note. A cross at the lower edge is a run that diverged or failed."
    assert chart(Series("a", [1, 2], [0.0, 0.0]), log_y=True, note="All 0.").caption == "All 0."


def test_many_zeros_are_a_few_marks_with_both_ends():
    _, zeros = interactive.figure(chart(Series("a", range(10_000), [1.0] + [0.0] * 9999), log_y=True))["data"]
    assert (zeros["x"][0], zeros["x"][-1]) == (1, 9999)
    assert len(zeros["x"]) <= interactive.FEWEST_POINTS + 1


def test_a_picture_marks_them_too_and_its_legend_says_so(monkeypatch):
    figures = []
    monkeypatch.setattr(png.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    png.draw([zeros_and_divergence(log_y=True)])
    (axes,) = figures[0].axes
    marks = {line.get_marker(): line for line in axes.lines if line.get_transform() == axes.get_xaxis_transform()}
    assert list(marks[png.ZERO].get_xdata()) == [2]
    assert list(marks[png.ZERO].get_ydata()) == [png.INSET]
    assert list(marks[png.DIVERGED].get_xdata()) == [3]
    assert list(marks[png.DIVERGED].get_ydata()) == [1 - png.INSET]
    assert list(marks["None"].get_ydata()) == [png.INSET] * 2  # the line of the target
    drawn = next(line for line in axes.lines if line.get_label() == "sgd")
    assert [math.isfinite(y) for y in drawn.get_ydata()] == [True, False, False]
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ["sgd", "adam", "target", "exactly 0", "diverged or failed"]


@pytest.mark.parametrize(("metric", "mode"), [("f", "min"), ("test_accuracy", "max"), ("test_loss", "min")])
def test_the_curves_of_a_run_have_its_target_its_zeros_and_where_it_diverged(monkeypatch, metric, mode):
    plan = Plan(
        "quadratic", "", "sgd", 1e-3, "constant", None, metric, mode, 1e-4, 2, 20, 2, 1, 0, 0, 1, "cpu", 1, None
    )
    rows = [Evaluation(at, 10 * at, 1e-3, 1.0, {metric: value}, 0.1, None) for at, value in ((1, 0.5), (2, 0.0))]
    samples = [Sample(at, 0.5, 1e-3, 1.0, 1e-3) for at in (1, 19)]
    figures = []
    monkeypatch.setattr(png.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw_curves(plan, rows, samples, None, diverged=True)
    *losses, rate = figures[0].axes
    drawn = losses[-1]
    target = next(line for line in drawn.lines if line.get_label() == "target 0.0001")
    assert (list(target.get_xdata()), list(target.get_ydata())) == ([0, 2], [1e-4, 1e-4])
    said = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert ("exactly 0" in said) == (mode == "min") == (drawn.get_yscale() == "log")
    assert "diverged or failed" in said
    crosses = [line for axes in losses for line in axes.lines if line.get_marker() == png.DIVERGED]
    assert [list(line.get_xdata()) for line in crosses] == [[2]] * len(losses)
    assert list(crosses[-1].get_ydata()) == [png.INSET if mode == "max" else 1 - png.INSET]
    assert rate.get_ylim() == pytest.approx((0, 1.2e-3))


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
def test_a_constant_is_seen_against_zero(level, ends, monkeypatch):
    drawn = chart(Series("a", [1, 2], [level, level * (1 + 1e-7)]))
    axis = interactive.figure(drawn)["layout"]["yaxis"]
    assert axis["range"] == pytest.approx(ends)
    figures = []
    monkeypatch.setattr(png.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    png.draw([drawn])
    assert figures[0].axes[0].get_ylim() == pytest.approx(ends)


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


def test_a_run_leaves_the_picture_of_its_curves(tmp_path: Path) -> None:
    fit(epochs=1, threads=1, out=tmp_path / "run", listener=Listener())
    image = (tmp_path / "run" / folder.CURVES).read_bytes()
    assert image.startswith(PNG)
    assert struct.unpack(">II", image[16:24]) == (1656, 480)
    assert 20_000 < len(image) < 500_000
