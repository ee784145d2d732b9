"""Reads the folders of runs: finished, still running, or killed.

May import adamas.lab.charts, adamas.lab.tasks, adamas.lab.train's folder, records and watched, and the standard library.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_type_hints

from adamas.lab.charts import Chart, Series
from adamas.lab.inputs import InputError
from adamas.lab.train.folder import CHART, CONFIG, METRICS, STEPS, SUMMARY, WATCH, fits, from_json
from adamas.lab.train.records import Evaluation, Sample, Summary
from adamas.lab.train.watched import History

# The settings, besides the seed, that may distinguish two groups of runs.
SETTINGS = (
    "task",
    "model",
    "optimizer",
    "lr",
    "schedule",
    "plateau",
    "betas",
    "eps",
    "weight_decay",
    "clip",
    "state",
    "weights",
    "precision",
    "epochs",
    "batch_size",
    "device",
    "compile",
)

Row = dict[str, Any]


def _or_null(hints: Mapping[str, Any]) -> dict[str, Any]:
    """The types, or None: a nonfinite number is written as null."""
    return {name: hint | None for name, hint in hints.items()}


# The types of the values that a run writes into its files. The files may have others, which are shown as they are.
RUN_HINTS = _or_null(
    get_type_hints(Summary)
    | dict.fromkeys(("metrics", "seconds", "memory"), dict[str, float | None])
    | {"schedule": str, "command": str, "seed": int, "validation_examples": int, "plateau_follows": list[str]}
)
EVALUATION_HINTS, SAMPLE_HINTS = _or_null(get_type_hints(Evaluation)), _or_null(get_type_hints(Sample))
CHART_HINTS = {**get_type_hints(Chart), "series": list[dict[str, Any]], "categories": list[str]}
SERIES_HINTS = {
    **get_type_hints(Series),
    **dict.fromkeys(("x", "y"), list[float | None]),
    **dict.fromkeys(("low", "high"), list[float | None] | None),
    "diverged": list[float],
}
MOST_CHARACTERS = 60  # of a value in an error message
End = Literal["finished", "interrupted", "diverged", "unfinished"]


@dataclass(frozen=True)
class Run:
    """The contents of a run folder.

    ``evaluations`` has the rows of metrics.jsonl, ``samples`` those of steps.jsonl. ``summary`` is None if the run is still
    running or was killed, ``chart`` if the task draws none, ``watched`` if the optimizer was not watched.
    """

    folder: Path
    config: Row
    evaluations: list[Row]
    samples: list[Row]
    summary: Row | None
    chart: Chart | None = None
    watched: History | None = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def task(self) -> str:
        """The name of the task, without the path of its file."""
        return Path(self._recorded("task") or "unknown task").stem

    @property
    def optimizer(self) -> str:
        """The optimizer, as it was given on the command line."""
        return str(self._recorded("optimizer") or "unknown optimizer")

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def followed(self) -> list[str]:
        """The metrics that the plateaus observed, without repetitions."""
        return list(dict.fromkeys(self.config.get("plateau_follows") or []))

    @property
    def validation_examples(self) -> int:
        """The number of training examples that were kept for validation."""
        return self.config.get("validation_examples") or 0

    @property
    def end(self) -> End:
        """How it ended."""
        if self.summary is None:
            return "unfinished"
        if self.summary.get("diverged"):
            return "diverged"
        return "interrupted" if self.summary.get("interrupted") else "finished"

    @cached_property
    def metrics(self) -> list[str]:
        """The names of the metrics, the main one first."""
        own = {field.name for field in fields(Evaluation)}
        names = list(dict.fromkeys(name for row in self.evaluations for name in row if name not in own))
        names = [name for name in names if any(number(row, name) is not None for row in self.evaluations)]
        counts = self._recorded("metric")
        return [name for name in names if name == counts] + [name for name in names if name != counts]

    @property
    def metric(self) -> str | None:
        """The main metric; None if nothing has been evaluated yet."""
        value = self._recorded("metric")
        return str(value) if value else next(iter(self.metrics), None)

    @property
    def mode(self) -> Literal["max", "min"] | None:
        """Whether a higher or a lower metric is better; None if unknown."""
        value = self._recorded("mode")
        return value if value in ("max", "min") else None

    @property
    def target(self) -> float | None:
        """The value of the metric that counts as solved."""
        value = self._recorded("target")
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def value(self) -> float | None:
        """The metric at the end: from the summary, or from the last evaluation. None if it is not a finite number."""
        if self.summary is not None:
            return number(self.summary, "value")
        return next((value for _, value in reversed(self.curve(self.metric or ""))), None)

    @property
    def steps(self) -> int:
        """The number of steps made, according to the files."""
        if self.summary is not None and isinstance(self.summary.get("steps"), int):
            return int(self.summary["steps"])
        rows = self.evaluations[-1:] + self.samples[-1:]
        return max((int(row["step"]) for row in rows if isinstance(row.get("step"), (int, float))), default=0)

    @property
    def train_seconds(self) -> float | None:
        """Seconds of training, without evaluation."""
        if self.summary is not None:
            return number(self.summary, "train_seconds")
        return number(self.evaluations[-1], "train_seconds") if self.evaluations else None

    def to_target(self) -> tuple[float, float] | None:
        """Steps and seconds of training until the target was reached; None if it was not."""
        if self.summary is not None:
            steps, seconds = number(self.summary, "steps_to_target"), number(self.summary, "seconds_to_target")
            return None if steps is None else (steps, math.nan if seconds is None else seconds)
        for row in self.evaluations:
            value = number(row, self.metric or "")
            if value is not None and self.reaches(value):
                return number(row, "step") or 0, number(row, "train_seconds") or math.nan
        return None

    def reaches(self, value: float) -> bool:
        """Whether that value of the metric reaches the target."""
        if self.target is None or self.mode is None:
            return False
        return value >= self.target if self.mode == "max" else value <= self.target

    def curve(self, metric: str, over: str = "step") -> list[tuple[float, float]]:
        """The values of a metric, over ``over``."""
        return pairs(self.evaluations, over, metric)

    def seconds(self) -> dict[str, float]:
        """The seconds that each part took, if they were measured; the rest is ``other``."""
        recorded = (self.summary or {}).get("seconds")
        parts = {name: value for name in recorded if (value := number(recorded, name)) is not None} if recorded else {}
        if not any(parts.values()):
            return {}
        in_training = sum(value for name, value in parts.items() if name != "evaluation")
        other = (self.train_seconds or 0.0) - in_training
        return {**parts, "other": other} if other > 0.01 * in_training else parts

    def memory(self) -> dict[str, float]:
        """Bytes by kind: weights, state, peak."""
        recorded = (self.summary or {}).get("memory")
        return {name: value for name in recorded if (value := number(recorded, name)) is not None} if recorded else {}

    def _recorded(self, name: str) -> Any:
        """What the summary says, or else the configuration."""
        value = (self.summary or {}).get(name)
        return self.config.get(name) if value is None else value


def read_run(folder: Path) -> Run:
    """Read a run.

    Raises:
        InputError: the folder holds no run, or a file of it is damaged; names the file and the line.
    """
    if not (folder / CONFIG).is_file():
        problem = f"{str(folder)!r} holds no run, it has no {CONFIG}"
        if any((inside / CONFIG).is_file() for inside in folder.iterdir()):
            raise InputError("runs", f"{problem}, but runs are inside: give those, {folder / '*'}")
        problem += ": give a folder that adamas train wrote, or a study of adamas compare"
        raise InputError("runs", problem)
    summary = folder / SUMMARY
    return Run(
        folder=folder,
        config=_object(folder / CONFIG, RUN_HINTS),
        evaluations=list(_lines(folder / METRICS, EVALUATION_HINTS)),
        samples=list(_lines(folder / STEPS, SAMPLE_HINTS)),
        summary=_object(summary, RUN_HINTS) if summary.is_file() else None,
        chart=_chart(folder / CHART),
        watched=_watched(folder / WATCH),
    )


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a row, or None."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) <= sys.float_info.max else None


def pairs(rows: Sequence[Row], over: str, name: str) -> list[tuple[float, float]]:
    """Two columns of rows, where both are numbers."""
    both = ((number(row, over), number(row, name)) for row in rows)
    return [(x, y) for x, y in both if x is not None and y is not None]


def _chart(path: Path) -> Chart | None:
    if not path.is_file():
        return None
    values = _object(path, CHART_HINTS)
    try:
        for series in values["series"]:
            _check(path, series, SERIES_HINTS)
            columns = [series["x"], series["y"], series.get("low") or series["y"], series.get("high") or series["y"]]
            if len(set(map(len, columns))) > 1:
                raise TypeError("they are not as long as one another")
        return Chart.from_dict(values)
    except (TypeError, KeyError) as error:
        raise _damaged(path, "is not a chart") from error


def _watched(path: Path) -> History | None:
    if not path.is_file():
        return None
    try:
        return History.parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"is not what was watched, {error}") from error


def _object(path: Path, hints: Mapping[str, Any]) -> Row:
    text = _text(path)
    try:
        value = from_json(text)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _damaged(path, f"is not JSON{line}") from error
    if not isinstance(value, dict):
        raise _damaged(path, "is not a JSON object")
    return _check(path, value, hints)


def _lines(path: Path, hints: Mapping[str, Any]) -> Iterator[Row]:
    """The objects of a file with one per line. A last line without a line end, which was being written, is left out."""
    if not path.is_file():
        return
    text = _text(path)
    lines = text.split("\n")
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = from_json(line)
        except ValueError as error:
            if count == len(lines):
                return
            raise _damaged(path, f"is not JSON, line {count}") from error
        if not isinstance(row, dict):
            raise _damaged(path, f"is not a JSON object, line {count}")
        yield _check(path, row, hints, f", line {count}")


def _check(path: Path, row: Row, hints: Mapping[str, Any], where: str = "") -> Row:
    """Return the row if every value of it is of its type."""
    for name in hints.keys() & row.keys():
        if not fits(row[name], hints[name]):
            shown = repr(row[name])
            shown = shown if len(shown) <= MOST_CHARACTERS else f"{shown[:MOST_CHARACTERS]}…"
            raise _damaged(path, f"has {name} = {shown}{where}, which is of another type")
    return row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def _damaged(path: Path, what: str) -> InputError:
    return InputError("runs", f"{str(path)!r} {what}: leave this run out, or repair the file")
