"""Reads runs and studies, and composes the sections of the page about them.

May import the rest of adamas.lab.report, adamas.lab.compare and adamas.lab.inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adamas.lab.compare.judgement import judge
from adamas.lab.compare.results import Judgement
from adamas.lab.compare.study import Study
from adamas.lab.inputs import InputError
from adamas.lab.report.numbers import listed
from adamas.lab.report.performance import performance_section
from adamas.lab.report.run_section import by_task, run_section
from adamas.lab.report.runs import Run, read_run
from adamas.lab.report.section import Section
from adamas.lab.report.study_section import study_section
from adamas.lab.report.watch_section import watch_section

MOST_NAMES = 3  # names in the title


def compose(paths: Sequence[Path]) -> tuple[str, list[Section]]:
    """Read runs and studies; return the title of a page about them, and its sections.

    Raises:
        InputError: a path is neither a run nor a study, or is damaged; names ``runs``.
    """

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
    sections += [watch_section(run) for run in found if run.watched is not None]
    if len(judgements) > 1:
        sections.insert(0, performance_section(judgements, colours))
    if len(unique) == 1:
        return sections[0].title, sections
    names = [path.resolve().name for path in unique]
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return f"Report: {listed(names[:MOST_NAMES] + more)}", sections


def _study(path: Path, colours: dict[str, int]) -> tuple[Judgement, Section]:

    with Study.open(path, parameter="runs") as study:
        try:
            judgement = judge(study)
        except InputError as error:  # no trial has ended yet
            raise InputError("runs", error.problem) from error
        return judgement, study_section(path, study.settings, study.finished(), judgement, colours)
