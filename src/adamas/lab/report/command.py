"""``adamas report``: makes one page of runs and comparisons.

May import typer and adamas.lab.report; SciPy, Plotly, matplotlib and Jinja2 only inside the command, so that ``--help`` does
not wait for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import adamas
from adamas.lab.report.numbers import count, listed
from adamas.lab.report.section import Section
from adamas.lab.tasks import InputError
from adamas.lab.train import folder, terminal

if TYPE_CHECKING:
    from adamas.lab.compare.judgement import Judgement

PAGE = Path("report.html")
MOST_NAMES = 3  # in the title


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, and SQLite files of comparisons. Runs of one task are laid over one another.",
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
            metavar="DIR", help="Write each chart as a picture into this folder; the page then only with --out."
        ),
    ] = None,
) -> None:
    """Make one HTML page of runs and comparisons: what they mean, and charts of everything that was recorded.

    The page opens in any browser, without a network.
    """
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


def compose(paths: Sequence[Path]) -> tuple[str, list[Section]]:
    """Read runs and studies; return the title of a page about them, and its sections.

    Raises:
        InputError: one is neither, or is damaged; names ``runs``.
    """
    from adamas.lab.report.run_section import by_task, run_section
    from adamas.lab.report.runs import Run, read_run

    unique = list({path.resolve(): path for path in paths}.values())
    for path in unique:
        if not path.exists():
            raise InputError("runs", f"{str(path)!r} does not exist: give the folder of a run, or the file of a study")
    colours: dict[str, int] = {}
    judgements: list[Judgement] = []
    studies: list[Section] = []
    found: list[Run] = []
    for path in unique:
        if path.is_dir():
            found.append(read_run(path))
        else:
            judgement, section = _study(path, colours)
            judgements.append(judgement)
            studies.append(section)
    sections = studies + [run_section(runs, colours) for runs in by_task(found)]
    if len(judgements) > 1:
        from adamas.lab.report.performance import performance_section

        sections.insert(0, performance_section(judgements, colours))
    if len(sections) == 1:
        return sections[0].title, sections
    names = [path.resolve().name for path in unique]
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return f"Report: {listed(names[:MOST_NAMES] + more)}", sections


def _study(path: Path, colours: dict[str, int]) -> tuple[Judgement, Section]:
    from adamas.lab.compare.judgement import judge
    from adamas.lab.compare.study import Study
    from adamas.lab.report.study_section import study_section

    with Study.open(path, parameter="runs") as study:
        try:
            judgement = judge(study)
        except InputError as error:  # no trial is over yet
            raise InputError("runs", error.problem) from error
        return judgement, study_section(path, study.settings, study.finished(), judgement, colours)


def _check_page(path: Path) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError("out", f"must be the name of a page, such as {path.stem or 'report'}.html, got {str(path)!r}")
    if path.is_dir():
        raise InputError("out", f"{str(path)!r} is a folder: choose another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            "out", f"{str(path)!r} cannot be written: {str(path.parent)!r} is not a folder that can be written to"
        )
