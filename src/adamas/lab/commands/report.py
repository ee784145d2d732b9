"""``adamas report``: makes one page of runs and comparisons.

May import typer and adamas.lab.report; SciPy, Plotly, matplotlib and Jinja2 only inside the command, so that ``--help`` does
not wait for them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

import adamas
from adamas.lab import terminal
from adamas.lab.inputs import InputError
from adamas.lab.report.numbers import count
from adamas.lab.train import folder

PAGE = Path("report.html")


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, and SQLite files of comparisons. Runs of one task share their charts.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help=f"Where to write the page. By default {PAGE}, in the working directory."
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write each chart as a picture into this folder; then the page is written only with --out.",
        ),
    ] = None,
) -> None:
    """Make one HTML page of runs and comparisons: what they mean, and charts of everything that was recorded.

    The page opens in any browser, without a network.
    """
    from adamas.lab.report.compose import compose
    from adamas.lab.report.page import pictures, render

    page = out or (PAGE if png is None else None)
    if page is not None:
        _check_page(page)
    if png is not None and (png.exists() and not png.is_dir()):
        raise InputError("png", f"{str(png)!r} is a file: choose a folder")
    title, sections = compose(runs)
    if png is not None:
        drawn = pictures(sections)
        with folder.output("png", png):
            png.mkdir(parents=True, exist_ok=True)
            for name, picture in drawn.items():
                folder.write(png / name, picture)
        typer.echo(f"Pictures: {count(len(drawn), 'chart')} in {png}/")
    if page is not None:
        subtitle = f"Made by adamas {adamas.__version__} on {time.strftime('%Y-%m-%d at %H:%M')}"
        with folder.output("out", page):
            folder.write(page, render(title, subtitle, sections).encode())
        for section in sections:
            said = "\n".join([section.title, *(f"  {sentence}" for sentence in section.sentences)])
            typer.echo(terminal.filled(said, terminal.width()))
        typer.echo(f"Page: {page}")


def _check_page(path: Path) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError("out", f"must be the name of a page, such as {path.stem or 'report'}.html, got {str(path)!r}")
    if path.is_dir():
        raise InputError("out", f"{str(path)!r} is a folder: choose another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError("out", f"{str(path)!r} cannot be written: {str(path.parent)!r} is not a writable folder")
