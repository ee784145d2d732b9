"""Makes the page, or the pictures, of sections. May import Jinja2, adamas.lab.charts and the standard library; matplotlib and
Plotly are imported when they are needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from adamas.lab.charts import Chart, HeatMap
from adamas.lab.charts.palette import colour, repeated
from adamas.lab.report.numbers import NOTHING
from adamas.lab.report.section import Section, Table

if TYPE_CHECKING:
    from markupsafe import Markup

# A number with its unit and related numbers: "0.97", "12 of 20", "1 min 3 s", "1e-4 to 1e-2", "4.1 MB", "12%".
_NUMBER = re.compile(r"[-−]?\d[\d,.]*(e-?\d+)?%?( ?(of|to|ms|s|min|h|kB|MB|GB|bytes|-?\d[\d,.]*(e-?\d+)?))*")

# Browsers may break a line after the hyphens of "2.8e-13" and "--epochs".
_BREAKABLE = re.compile(r"[\d.]+e-\d+|--[a-z-]+")


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the page: one self-contained HTML document."""
    from jinja2 import Environment, StrictUndefined

    from adamas.lab.charts.interactive import figure, plotly_js

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kinds"] = kinds
    environment.filters["unbroken"] = unbroken
    environment.tests["wide"] = lambda chart: isinstance(chart, HeatMap)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.from_string(files("adamas.lab.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        legends=[legend(section) for section in sections],
        figures=[
            [figure(chart, [entry.name for entry in legend(section)]) for chart in section.charts]
            for section in sections
        ],
        plotly_js=plotly_js(),
    )


def unbroken(sentence: str) -> Markup:
    """Return a sentence as HTML in which no line breaks within a number or the name of an option."""
    from markupsafe import Markup, escape

    return Markup(_BREAKABLE.sub(r'<span class="unbroken">\g<0></span>', str(escape(sentence))))


@dataclass(frozen=True)
class Entry:
    """An entry of a section's legend, for something that is in several of its charts; ``line`` is a CSS keyword."""

    name: str
    colour: str
    line: str


def legend(section: Section) -> list[Entry]:
    """Return the entries of the legend above all charts of a section: what is in several of them."""
    charts = [chart for chart in section.charts if isinstance(chart, Chart)]
    names = Counter(name for chart in charts for name in {series.name for series in chart.series} - {""})
    several = {
        series.name: series.colour
        for chart in charts
        for series in chart.series
        if names[series.name] > 1 and series.style != "dashed"
    }
    return [
        Entry(name, colour(index), "dotted" if repeated(index) else "solid")
        for name, index in sorted(several.items(), key=lambda entry: entry[1])
    ]


def pictures(sections: Sequence[Section]) -> dict[str, bytes]:
    """Return a PNG for each chart, by the name of its file."""
    from adamas.lab.charts import png

    drawn: dict[str, bytes] = {}
    for section in sections:
        for chart in section.charts:
            stem = _slug(chart.title) if len(sections) == 1 else f"{_slug(section.title)}-{_slug(chart.title)}"
            name, count = stem, 1
            while f"{name}.png" in drawn:
                count += 1
                name = f"{stem}-{count}"
            drawn[f"{name}.png"] = png.draw([chart], section.title)
    return drawn


def kinds(table: Table) -> list[str]:
    """Return the kind of each column: numbers, which are aligned right, or text."""
    return [_kind([row[place] for row in table.rows]) for place in range(len(table.header))]


def _kind(cells: Sequence[Any]) -> str:
    filled = [cell for cell in cells if cell != NOTHING]
    return "number" if all(_NUMBER.fullmatch(cell) for cell in filled) else "text"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "chart"
