"""The page of a report in a real browser: it draws everything, follows light and dark, fits a phone, and loads nothing."""

from __future__ import annotations

import json
import re

from browser import browser
from report_material import judgement, make_run, settings, standing, trials

from adamas.lab.charts import Chart, Series
from adamas.lab.report.compose import compose
from adamas.lab.report.page import render
from adamas.lab.report.section import Section, Table
from adamas.lab.report.study_section import study_section

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=window.hacked=1>"


def test_a_browser_draws_every_chart_in_light_and_dark_and_on_a_phone_and_runs_nothing_else(tmp_path):
    runs = [
        make_run(tmp_path / f"{name}{seed}", optimizer=name, seed=seed) for name in ("adam", "sgd") for seed in (0, 1)
    ]
    hostile = make_run(tmp_path / "hostile", optimizer=HOSTILE, lr=0.1, command=HOSTILE, description=HOSTILE)
    _, sections = compose([*runs, hostile])
    judged = judgement(standing("adam", 1, [50, 70]), standing("sgd", 2, [90, None]), sentences=[HOSTILE])
    sections.append(study_section(tmp_path / "s.sqlite", settings(), trials(), judged, {}))
    sections.append(Section(HOSTILE, [], tables=[Table(HOSTILE, ["a"], [[HOSTILE]])]))
    parts = ("data", "forward", "backward", "optimizer", "evaluation")
    bars = Series("adam", range(len(parts)), [1.0] * len(parts), style="bars")
    sections.append(Section("Bars", [], charts=[Chart("Bars", "", "seconds", [bars], categories=parts)]))
    page = tmp_path / "page.html"
    page.write_text(render(HOSTILE, HOSTILE, sections), encoding="utf-8")

    with browser() as launched:
        for width, scheme in ((1300, "light"), (360, "dark")):
            context = launched.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view = context.new_page()
            said, asked = [], []
            view.on("console", lambda message, said=said: said.append(message.text))
            view.on("pageerror", lambda error, said=said: said.append(str(error)))
            view.on("request", lambda request, asked=asked: asked.append(request.url))
            view.set_default_timeout(600_000)
            view.goto(page.as_uri())
            until(view, "document.documentElement.dataset.charts === 'drawn'")
            drawn = view.evaluate(
                "[...document.querySelectorAll('.js-plotly-plot')].map(plot => "
                "plot.querySelectorAll('.plot path, .scatterlayer path, .barlayer path').length)"
            )
            assert len(drawn) == sum(len(section.charts) for section in sections)
            assert all(drawn)
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            captions = view.evaluate(
                "[...document.querySelectorAll('figcaption, .caption')].filter(caption => caption.offsetParent)"
                ".map(caption => [caption.scrollWidth - caption.clientWidth, caption.getBoundingClientRect().right])"
            )
            assert captions
            assert all(hidden <= 0 and right <= width for hidden, right in captions)
            named = view.evaluate(
                "[...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.layout.xaxis.ticktext).map(plot => "
                "[plot.layout.xaxis.ticktext.length, [...plot.querySelectorAll('.xtick text')]"
                ".filter(text => getComputedStyle(text).display !== 'none').length])"
            )
            assert named
            assert all(shown == labels for labels, shown in named)
            assert view.evaluate("window.hacked") is None

            buttons = view.evaluate(
                "[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)"
            )
            assert set(buttons) == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}

            colours = [_colours(view)]
            view.click("#theme")
            until(view, f"{_TICK} !== {json.dumps(colours[0][1])}")
            colours.append(_colours(view))
            pages, ticks = zip(*colours, strict=True)
            dark = 0 if scheme == "dark" else 1
            assert brightness(pages[dark]) < 60 < 200 < brightness(pages[1 - dark])
            assert brightness(ticks[1 - dark]) < 60 < 200 < brightness(ticks[dark])

            view.click(".legend button >> nth=0")
            until(view, "document.querySelector('.js-plotly-plot').data.some(trace => trace.visible === false)")
            assert said == []
            assert asked == [page.as_uri()]
            context.close()


_TICK = "getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill"


def until(view, condition: str) -> None:
    """Wait until an expression is true. (``wait_for_function`` would need the page to allow eval.)"""
    for _ in range(6000):
        if view.evaluate(condition):
            return
        view.wait_for_timeout(100)
    raise AssertionError(f"still not so after 10 minutes: {condition}")


def _colours(view):
    return view.evaluate(f"[getComputedStyle(document.body).backgroundColor, {_TICK}]")


def brightness(colour: str) -> float:
    parts = [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]
    return sum(parts) / 3
