"""The section of a page about the runs of one task: one run, several seeds of one setting, or several settings.

May import adamas.lab.charts, adamas.lab.launch, adamas.lab.report's readers and the standard library.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from adamas.lab import launch
from adamas.lab.report import run_words
from adamas.lab.report.groups import Group, grouped
from adamas.lab.report.numbers import NOTHING, figure, mean, median, seconds, size, spoken
from adamas.lab.report.run_charts import charts_of
from adamas.lab.report.runs import Run
from adamas.lab.report.section import Section, Table, has_data

NOT_IN_TABLE = ("command", "options", "lr_schedule")  # entries of the configuration without a row in the options' table
VERSIONS = ("adamas", "torch", "python")
WHY_MISSING = {
    "Where the time went": "summary.json has no split of the time.",
    "Memory": "summary.json has no memory.",
    "Gradient norm": "steps.jsonl has no gradient norms.",
    "Update-to-weight ratio": "steps.jsonl has no update ratios.",
}


def run_section(runs: Sequence[Run], colours: dict[str, int]) -> Section:
    """The section about runs of one task; ``colours`` as in ``grouped``."""
    groups = grouped(runs, colours)
    charts = charts_of(groups)
    drawn = [chart for chart in charts if has_data(chart)]
    missing = [
        f"{chart.title} is not drawn: {WHY_MISSING.get(chart.title, 'nothing of it was recorded.')}"
        for chart in charts
        if not has_data(chart)
    ]
    alone = len(runs) == 1
    name = runs[0].name if alone else f"{len(runs)} runs"
    return Section(
        title=f"{runs[0].task}: {name}",
        sentences=run_words.of_run(runs[0]) if alone else run_words.of_groups(groups),
        warnings=[*run_words.inequalities(groups), *(caution for run in runs for caution in run_words.cautions(run))],
        charts=drawn,
        missing=missing,
        tables=[
            *([] if alone else [_settings(groups)]),
            _results(groups),
            *([_last_figures(runs[0])] if alone and runs[0].evaluations else []),
            *_options(runs),
        ],
        commands=list(dict.fromkeys(_again(str(run.config["command"])) for run in runs if run.config.get("command"))),
    )


def _again(command: str) -> str:
    """The command that repeats a run, without the folder, which exists."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if "--out" not in words:
        return command
    place = words.index("--out")
    return launch.typed(words[:place] + words[place + 2 :])


def _settings(groups: Sequence[Group]) -> Table:
    metric = next((run.metric for group in groups for run in group.runs if run.metric), None) or "metric"
    rows = []
    for group in groups:
        values = group.values()
        times = [time for run in group.runs if (time := run.to_target()) is not None]
        rows.append(
            [
                group.label,
                str(len(group.runs)),
                figure(mean(values)),
                f"{figure(min(values))} to {figure(max(values))}" if len(values) > 1 else NOTHING,
                f"{len(times)} of {len(group.runs)}",
                figure(median([steps for steps, _ in times])) if times else NOTHING,
                seconds(median([took for _, took in times])) if times else NOTHING,
            ]
        )
    header = ["setting", "runs", spoken(metric), "lowest to highest", "reached the target", "steps to it", "time to it"]
    note = (
        "Means of the seeds that did not diverge; steps and time to the target are medians over those that reached it."
    )
    return Table("Settings", header, rows, note)


def _results(groups: Sequence[Group]) -> Table:
    runs = [(group, run) for group in groups for run in group.runs]
    metric = next((run.metric for _, run in runs if run.metric), None) or "metric"
    rows = []
    for group, run in runs:
        reached = run.to_target()
        memory = run.memory()
        rows.append(
            [
                run.name,
                group.label,
                NOTHING if run.seed is None else str(run.seed),
                figure(run.value, 6),
                figure(reached[0]) if reached else NOTHING,
                seconds(reached[1]) if reached else NOTHING,
                f"{run.steps:,}",
                seconds(run.train_seconds),
                size(memory.get("state")),
                size(memory.get("peak")),
                run.end,
            ]
        )
    header = ["run", "setting", "seed", spoken(metric), "steps to target", "time to target", "steps", "training time"]
    header += ["optimizer state", "peak memory", "ended"]
    return Table("Runs", header, rows, folded=len(runs) > 12)


def _last_figures(run: Run) -> Table:
    last = run.evaluations[-1]
    rows = [[spoken(name), _shown(value)] for name, value in last.items() if value is not None]
    return Table("The last evaluation", ["figure", "value"], rows, folded=True)


def _options(runs: Sequence[Run]) -> list[Table]:
    """Tables of every option; those in which runs differ have a row for each run."""
    names = list(dict.fromkeys(name for run in runs for name in run.config if name not in NOT_IN_TABLE))
    names = [name for name in names if name not in VERSIONS] + [name for name in VERSIONS if name in names]
    differing = [name for name in names if len({_shown(run.config.get(name)) for run in runs}) > 1]
    alike = [[spoken(name), _shown(runs[0].config.get(name))] for name in names if name not in differing]
    title = "What was run: every option, and the versions"
    if not differing:
        return [Table(title, ["option", "value"], alike, folded=True)]
    shown = [name for name in differing if name != "out"]  # `out` is the run's name
    rows = [[run.name, *(_shown(run.config.get(name)) for name in shown)] for run in runs]
    return [
        Table("How the runs differ", ["run", *map(spoken, shown)], rows, folded=True),
        Table(f"{title}, that all of them have in common", ["option", "value"], alike, folded=True),
    ]


def _shown(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return figure(value, 6)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def by_task(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by task, in the given order."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    return list(tasks.values())
