"""Compares the family on the tasks: every member, other libraries', the storage formats, the kinds of decay and the schedules.

    python benchmarks/which.py run DIR [--task digits …] [--group members …] [--data-dir MNIST]
    python benchmarks/which.py gather DIR    # the studies of DIR → their rows in benchmarks/which.json
    python benchmarks/which.py page          # benchmarks/which.json → the tables of docs/which.md

``run`` makes one study of ``adamas compare`` for each row of a table, and skips those that are complete; several may run at
the same time. Nothing depends on the speed of the machine. All of it takes hours.

Rows are judged against AdamW: a paired t-test over the seeds, corrected by Holm's method for the rows of a table, as in
docs/compare.md, where every pair is compared.

May import adamas.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adamas
from adamas.lab.compare import compare
from adamas.lab.compare.comparison import Listener, usual_rate
from adamas.lab.compare.design import missing
from adamas.lab.compare.judgement import judge
from adamas.lab.compare.results import Standing
from adamas.lab.compare.space import LR_FACTOR
from adamas.lab.compare.statistics import LEVEL, holm, interval, is_negligible, paired_p
from adamas.lab.compare.study import SUFFIX, Outcome, Study, Trial
from adamas.lab.inputs import InputError
from adamas.lab.tasks import load
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.options import Options

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "which.json", HERE.parent / "docs" / "which.md"
BUDGET = 6  # rates tried for each row, a factor of 3.1 apart
BASELINE = "adamw"
# What all rows of a task share.
ABOUT = ("metric", "mode", "target", "epochs", "batch_size", "steps", "budget", "torch")


@dataclass(frozen=True)
class Row:
    """An optimizer as ``adamas compare`` names it, and the schedule of its rate; by default that of the task."""

    optimizer: str
    schedule: str | None = None

    @property
    def label(self) -> str:
        """Its name on the page."""
        return f"`{self.optimizer}`" + (f" ({self.schedule})" if self.schedule else "")


@dataclass(frozen=True)
class Setup:
    """How a task is trained here: the passes over its data, and the seeds at the best rate. ``middle`` is that of the range of
    rates, in default rates of each optimizer. ``eval_every`` is the number of steps between evaluations, of which the last
    alone counts. ``warmup`` says that the rate of all rows rises over the first tenth of the run. ``has_codes`` is false where
    no parameter is large enough for moments in codes, so that rows with such moments are those with float32."""

    epochs: int
    seeds: int
    middle: float = 1.0
    eval_every: int | None = None
    warmup: bool = False
    has_codes: bool = True

    def has(self, row: Row) -> bool:
        """Whether the options of a row have an effect on this task."""
        return self.has_codes or "state='int" not in row.optimizer

    def schedule(self, row: Row) -> str:
        """The schedule of a row on this task: the row's own, if it has one."""
        if row.schedule is not None:
            return row.schedule
        if row.optimizer.endswith("schedule_free"):
            return "warmup" if self.warmup else "constant"
        return "warmup_cosine" if self.warmup else "cosine"

    def key(self, row: Row) -> str:
        """What a row is called in the results of this task."""
        return f"{row.optimizer}, {self.schedule(row)}"

    def file(self, row: Row) -> str:
        """The name of the study of a row on this task."""
        return "-".join(re.findall(r"[\w.]+", self.key(row))) + SUFFIX


SETUPS = {
    "digits": Setup(epochs=25, seeds=10, middle=5.0),
    "sentiment": Setup(epochs=3, seeds=10, has_codes=False),
    "mnist-cnn": Setup(epochs=1, seeds=5, eval_every=1000),
    "speech": Setup(epochs=6, seeds=5, eval_every=1000),
    "chars-gpt": Setup(epochs=1, seeds=5, middle=3.1, eval_every=1000, warmup=True),
}


@dataclass(frozen=True)
class Column:
    """A task of a table, and the results of its rows there."""

    task: str
    mode: str
    target: float
    rows: dict[Row, dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """The mean difference of a row from the first of its table over the seeds, and half of its 95% interval.

    Above 0 is better. ``verdict`` is 1 if the row is better by the test, -1 if it is worse, and 0 if they are tied."""

    mean: float
    half: float
    verdict: int


GROUPS: dict[str, list[Row]] = {
    "members": [Row(BASELINE), *(Row(name) for name in OPTIMIZERS if name != BASELINE)],
    "others": [
        Row(BASELINE),
        *(Row(f"torch:{name}") for name in ("AdamW", "NAdam", "RAdam", "Adafactor")),
        *(Row(f"pytorch_optimizer:{name}") for name in ("SOAP", "CAME", "Prodigy")),
    ],
    "formats": [Row(BASELINE), *(Row(f"adamw(state={name!r})") for name in ("bfloat16", "int8", "int6"))],
    "decay": [
        Row("adamw(weight_decay=0.1)"),
        *(Row(f"adamw(weight_decay=0.1,decay={kind!r})") for kind in ("cautious", "corrected", "l2")),
        Row("adamw(weight_decay=0.1,cautious=True)"),
        Row("adamw(weight_decay=0)"),
    ],
    "schedules": [
        Row(BASELINE, name)
        for name in (
            "cosine",
            "warmup_cosine",
            "constant",
            "linear",
            "exponential",
            "one_cycle",
            "trapezoid",
            "inverse_sqrt",
        )
    ],
}


def _rates(optimizer: str, task: str, data_dir: Path | None, middle: float) -> tuple[float, float]:
    """The range of rates of a row: that of ``adamas compare``, moved for the tasks whose best rates are elsewhere."""
    usual = usual_rate(load(task, data_dir), Options(task, data_dir, optimizer=optimizer, lr=1.0))
    assert usual is not None
    return float(f"{usual * middle / LR_FACTOR:.3g}"), float(f"{usual * middle * LR_FACTOR:.3g}")


class Progress(Listener):
    """Prints a line for each finished trial."""

    def on_trial_end(self, trial: Trial, outcome: Outcome, done: int, total: int) -> None:
        rate = trial.settings["lr"]
        print(
            f"  {done}/{total} {trial.phase} seed {trial.seed} lr {rate:g}: {outcome.status} {outcome.value}",
            flush=True,
        )


def run(folder: Path, tasks: Sequence[str], groups: Sequence[str], only: Sequence[str], data_dir: Path | None) -> None:
    for group in groups:
        for row in GROUPS[group]:
            for task in tasks:
                setup = SETUPS[task]
                if (only and row.optimizer not in only) or not setup.has(row):
                    continue
                data = data_dir if task == "mnist-cnn" else None
                print(f"{task}: {setup.key(row)}", flush=True)
                try:
                    compare(
                        task,
                        [row.optimizer],
                        budget=BUDGET,
                        seeds=setup.seeds,
                        epochs=setup.epochs,
                        eval_every=setup.eval_every,
                        schedule=setup.schedule(row),
                        threads=1,
                        lr_range=_rates(row.optimizer, task, data, setup.middle),
                        data_dir=data,
                        out=folder / task / setup.file(row),
                        listener=Progress(),
                    )
                except InputError as error:
                    print(f"  not run: {error}", flush=True)


def gather(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with a row for each complete study, in the order of ``GROUPS``. All others stay as they are.

    Raises:
        ValueError: a study is of other training than the rows of its task.
    """
    tasks = {}
    for name, setup in SETUPS.items():
        task = results["tasks"].get(name, {})
        kept = {key: task[key] for key in ABOUT if task}
        keys, known = [], task.get("rows", {})
        for row in dict.fromkeys(row for group in GROUPS.values() for row in group if setup.has(row)):
            keys.append(setup.key(row))
            about, own = _of_study(folder / name / setup.file(row))
            if own is not None:
                if kept not in ({}, about):
                    raise ValueError(
                        f"{name}: the study of {keys[-1]!r} has {about}, the other rows {kept}: run all anew"
                    )
                kept, known = about, known | {keys[-1]: own}
        if known:
            tasks[name] = {**kept, "rows": {key: known[key] for key in keys if key in known}}
    return {"adamas": adamas.__version__, "tasks": tasks}


def _of_study(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """How a study trained, and what the page needs of its row; no row unless the study is complete."""
    if not path.exists():
        return {}, None
    with Study.open(path) as study:
        settings = study.settings
        if missing(settings, study.finished()):
            return {}, None
        return {key: getattr(settings, key) for key in ABOUT}, _kept(judge(study).standings[0])


def _as_json(results: dict[str, Any]) -> str:
    """The text of which.json: a list is on one line."""
    lines = json.dumps(results, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found.group().split()), lines) + "\n"


def _kept(standing: Standing) -> dict[str, Any]:
    """What the page needs of a row."""
    return {
        "lr": standing.settings.get("lr"),
        "at_edge": standing.sensitivity.at_edge,
        "decades": round(standing.sensitivity.decades, 2),
        "values": [None if value is None else float(f"{value:.6g}") for value in standing.values],
    }


def page(results: dict[str, Any], text: str) -> str:
    """Return the text of the page with its tables written anew, each between the markers of its group."""
    for group, rows in GROUPS.items():
        begin, end = f"<!-- which: {group} -->\n", "<!-- end -->"
        if text.count(begin) != 1:
            raise ValueError(f"{PAGE.name} must have one line {begin.strip()}")
        before, _, rest = text.partition(begin)
        text = before + begin + _table(results["tasks"], rows) + end + rest.partition(end)[2]
    return text


def _table(tasks: dict[str, Any], rows: Sequence[Row]) -> str:
    """A line for each row, the best first; the first row has its metric on each task, all others their difference from it."""
    first = rows[0]
    columns = [_column(name, task, rows) for name, task in tasks.items()]
    columns = [column for column in columns if first in column.rows and len(column.rows) > 1]
    found = [differences(column, first) for column in columns]
    tried = {row for column in columns for row in column.rows} - {first}
    lines = [f"| | {' | '.join(column.task for column in columns)} |", "|---|" + "---|" * len(columns)]
    lines += [f"| {first.label} | {' | '.join(_value(column, first) for column in columns)} |"]
    for row in sorted(tried, key=lambda row: (-_score(row, found), row.label)):
        cells = (_cell(column, row, of_task) for column, of_task in zip(columns, found, strict=True))
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    sentences = (_sentence(column, of_task) for column, of_task in zip(columns, found, strict=True))
    return "\n".join([*lines, "", *sentences, ""])


def _column(name: str, task: dict[str, Any], rows: Sequence[Row]) -> Column:
    keys = {row: SETUPS[name].key(row) for row in rows}
    known = {row: task["rows"][key] for row, key in keys.items() if key in task["rows"]}
    return Column(name, task["mode"], task["target"], known)


def differences(column: Column, first: Row) -> dict[Row, Difference]:
    """Judge the rows of a task against the first one, without those that diverged for a seed."""
    sign = 1 if column.mode == "max" else -1
    base = column.rows[first]["values"]
    values = {row: kept["values"] for row, kept in column.rows.items() if row != first and None not in kept["values"]}
    adjusted = holm([paired_p(own, base) for own in values.values()])
    found = {}
    for (row, own), p in zip(values.items(), adjusted, strict=True):
        mean, low, _ = interval([sign * (value - other) for value, other in zip(own, base, strict=True)])
        tied = p >= LEVEL or is_negligible(mean, column.target)
        found[row] = Difference(mean, mean - low, 0 if tied else 1 if mean > 0 else -1)
    return found


def _score(row: Row, found: Sequence[dict[Row, Difference]]) -> float:
    """The mean place of a row on the tasks where it did not diverge, from 0 for the last to 1 for the first; else -1."""
    places = []
    for of_task in found:
        if row in of_task:
            ordered = sorted(of_task, key=lambda one: of_task[one].mean)
            places.append(ordered.index(row) / max(1, len(ordered) - 1))
    return sum(places) / len(places) if places else -1.0


def _digits(column: Column) -> tuple[float, int]:
    """The factor and the decimals with which a metric is printed: accuracies in percent, bits as they are."""
    return (100.0, 2) if column.mode == "max" else (1.0, 3)


def _value(column: Column, row: Row) -> str:
    factor, decimals = _digits(column)
    unit = "%" if factor == 100 else " bits"
    mean, low, _ = interval(column.rows[row]["values"])
    return _on_one_line(f"{factor * mean:.{decimals}f} ± {factor * (mean - low):.{decimals}f}{unit}")


def _cell(column: Column, row: Row, found: dict[Row, Difference]) -> str:
    if row not in found:
        return "diverged" if row in column.rows else ""
    factor, decimals = _digits(column)
    one = found[row]
    text = f"{factor * one.mean:+.{decimals}f} ± {factor * one.half:.{decimals}f}".replace("-", "−")
    return _on_one_line(f"**{text}**" if one.verdict > 0 else f"{text} ▼" if one.verdict < 0 else text)


def _on_one_line(cell: str) -> str:
    """A cell that a narrow page does not break: its table scrolls."""
    return cell.replace(" ", "\N{NO-BREAK SPACE}")


def _sentence(column: Column, found: dict[Row, Difference]) -> str:
    """Which rows are better, which are worse, how many are tied, and for which ones a better rate may not have been tried."""
    by_verdict = {verdict: [row for row, one in found.items() if one.verdict == verdict] for verdict in (1, 0, -1)}
    parts = []
    for verdict, word in ((1, "better"), (-1, "worse")):
        ordered = sorted(by_verdict[verdict], key=lambda row: -verdict * found[row].mean)
        parts.append(f"{word}: {_listed(ordered)}")
    parts.append(f"tied: {len(by_verdict[0])}")
    at_edge = [row for row in found if column.rows[row]["at_edge"]]
    if at_edge:
        parts.append(f"best rate at the edge: {_listed(at_edge)}")
    return f"- **{column.task}**: {'; '.join(parts)}"


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(row.label for row in rows) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="carry out the missing studies")
    running.add_argument("folder", type=Path)
    running.add_argument("--task", nargs="+", choices=SETUPS, default=list(SETUPS))
    running.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS))
    running.add_argument("--only", nargs="+", metavar="OPTIMIZER", default=[], help="these rows only")
    running.add_argument("--data-dir", type=Path, help="the folder of MNIST's IDX files")
    commands.add_parser("gather", help="write the rows of which.json").add_argument("folder", type=Path)
    commands.add_parser("page", help="write the tables of docs/which.md")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.folder, arguments.task, arguments.group, arguments.only, arguments.data_dir)
    elif arguments.command == "gather":
        RESULTS.write_text(_as_json(gather(arguments.folder, _results())), encoding="utf-8")
    else:
        PAGE.write_text(page(_results(), PAGE.read_text("utf-8")), encoding="utf-8")


def _results() -> dict[str, Any]:
    """What which.json has."""
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
    return found


if __name__ == "__main__":
    main()
