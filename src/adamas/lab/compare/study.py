"""A study: one SQLite file with the settings of a comparison and a row for each finished trial.

Each trial is committed as it ends, so only running trials are lost, however the process ends. May import the
standard library, filelock, adamas.lab.tasks and adamas.lab.train.folder.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, get_type_hints

from filelock import FileLock

from adamas.lab.inputs import InputError
from adamas.lab.train.folder import fits, from_json, lock, unlock

SCHEMA = 1  # PRAGMA user_version
SUFFIX = ".sqlite"
MOST_CHARACTERS = 200  # of SQLite's message about a damaged file, which may quote the file

Kind = TypeVar("Kind", "Settings", "Trial", "Outcome")

_TABLES = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    id INTEGER PRIMARY KEY,
    optimizer TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('tune', 'sweep', 'final')),
    number INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    settings TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'diverged', 'failed')),
    value REAL,
    steps_to_target INTEGER,
    seconds_to_target REAL,
    train_seconds REAL,
    memory TEXT NOT NULL,
    seconds TEXT NOT NULL,
    evaluations TEXT NOT NULL,
    error TEXT,
    finished TEXT NOT NULL,
    UNIQUE (optimizer, phase, number, seed)
);
"""

Phase = Literal["tune", "sweep", "final"]
Status = Literal["done", "diverged", "failed"]


# The points are drawn once, so that another release of SciPy does not move them.
# Studies of earlier versions do not have the metric of tuning.
_HARMLESS = ("description", "points", "command", "python", "tuning_metric")
_DERIVED = (
    "hyperparameters",
    "space",
    "metric",
    "mode",
    "target",
    "steps",
    "eval_every",
)  # reported only if nothing else differs


@dataclass(frozen=True)
class Settings:
    """Everything that determines the trials, with every default filled in. All of it is plain JSON.

    ``hyperparameters`` are those of each optimizer that could be tuned, ``tune`` those that are; ``space`` has the range of
    each hyperparameter of each optimizer, ``points`` the coordinates of the tuning trials in the unit cube. ``metric`` is that
    of the final trials, ``tuning_metric`` that of the others, which is of the validation data if the task has any. ``seeds``
    are those of the final trials. ``steps`` is the length of a trial. The last five say how the study was requested, and the
    versions.
    """

    task: str
    description: str
    metric: str
    tuning_metric: str
    mode: Literal["max", "min"]
    target: float
    optimizers: list[str]
    budget: int
    seeds: list[int]
    tune: list[str]
    hyperparameters: dict[str, list[str]]
    space: dict[str, dict[str, list[Any]]]
    points: list[dict[str, float]]
    data_dir: str | None
    model: str | None
    epochs: int
    batch_size: int
    steps: int
    eval_every: int
    schedule: str
    clip: float | Literal["auto"] | None
    device: str
    jobs: int
    threads: int
    command: str
    adamas: str
    torch: str
    python: str

    def metric_of(self, phase: Phase) -> str:
        """The name of the metric by which a trial is judged."""
        return self.metric if phase == "final" else self.tuning_metric

    def differences(self, other: Settings) -> list[str]:
        """List the differences that make trials of ``other`` incomparable with these, as ``name was this, is that``."""
        names = [field.name for field in fields(self) if field.name not in (*_HARMLESS, *_DERIVED)]
        found = [line for name in names for line in _changes(name, getattr(self, name), getattr(other, name))]
        derived = [line for name in _DERIVED for line in _changes(name, getattr(self, name), getattr(other, name))]
        return found or derived


@dataclass(frozen=True)
class Trial:
    """One training run of a study. ``number`` counts the settings within a phase, and is that of the tuning trial whose
    settings a final trial has. ``settings`` are by the names lr, weight_decay, beta1, beta2 and eps."""

    optimizer: str
    phase: Phase
    number: int
    seed: int
    settings: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """The result of a trial. ``value`` is the metric at the end of training; None if the loss was no longer finite (diverged)
    or the trial ended otherwise (failed), and then ``error`` has the reason. ``evaluations`` are rows of metrics.jsonl; those
    judged by the ``tuning_metric`` have no metrics of the test data."""

    status: Status
    value: float | None = None
    steps_to_target: int | None = None
    seconds_to_target: float | None = None
    train_seconds: float | None = None
    memory: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Finished:
    """A trial and its result."""

    trial: Trial
    outcome: Outcome


class Study:
    """An open study. Use it as a context manager."""

    def __init__(self, path: Path, settings: Settings, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        """Hold what ``create`` or ``open`` made."""
        self.path = path
        self.settings = settings
        self._connection = connection
        self._lock = lock

    @classmethod
    def create(cls, path: Path, settings: Settings) -> Study:
        """Make the file, and its folder.

        Raises:
            InputError: it cannot be made; names ``out``.
        """
        held = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = _lock(path)
            # Written elsewhere and renamed, so that a file with this name is always a complete study.
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            connection = sqlite3.connect(partial)
            connection.executescript(f"PRAGMA user_version = {SCHEMA};{_TABLES}")
            rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in asdict(settings).items()]
            with connection:
                connection.executemany("INSERT INTO study VALUES (?, ?)", rows)
            connection.close()
            os.replace(partial, path)
        except (OSError, sqlite3.Error) as error:
            _unlock(held)
            reason = getattr(error, "strerror", None) or error
            raise InputError("out", f"{str(path)!r} cannot be written ({reason}): choose another file") from error
        return cls(path, settings, sqlite3.connect(path), held)

    @classmethod
    def open(cls, path: Path, *, parameter: str = "out", write: bool = False) -> Study:
        """Open an existing file, to read it or to resume it.

        Args:
            path: the file.
            parameter: what an error names.
            write: whether trials will be recorded; then no other process may do so.

        Raises:
            InputError: it is not a study, is damaged, is of a newer Adamas, or another process writes to it.
        """
        check_exists(path, parameter)
        held = _lock(path, parameter) if write else None
        connection = sqlite3.connect(path)
        try:
            settings = _read(path, connection, parameter)
        except InputError:
            connection.close()
            _unlock(held)
            raise
        return cls(path, settings, connection, held)

    def __enter__(self) -> Study:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._connection.close()
        _unlock(self._lock)
        self._lock = None

    def check_same(self, settings: Settings) -> None:
        """Raise InputError, which names ``out``, if trials with these settings do not belong in this study."""
        if differences := self.settings.differences(settings):
            problem = f"{str(self.path)!r} is a study with other settings: {'; '.join(differences)}"
            raise InputError("out", f"{problem}: choose another file, or the same settings")

    def record(self, trial: Trial, outcome: Outcome) -> None:
        """Add a finished trial, and commit.

        Raises:
            OSError: the file cannot be written.
        """
        row = {
            **asdict(trial),
            **asdict(outcome),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        row = {key: _json(value) if isinstance(value, dict | list) else value for key, value in row.items()}
        columns, places = ", ".join(row), ", ".join(f":{key}" for key in row)
        try:
            with self._connection:
                self._connection.execute(f"INSERT INTO trials ({columns}) VALUES ({places})", row)
        except sqlite3.Error as error:
            raise OSError(f"{self.path} cannot be written: {error}") from error

    def finished(self) -> list[Finished]:
        """Return all finished trials, in the order in which they ended."""
        with _told_as_damage(self.path, "study"):
            return _finished(self._connection)


@contextmanager
def _told_as_damage(path: Path, parameter: str) -> Iterator[None]:
    """Turn the errors of a damaged file into an InputError of one line that names the parameter."""
    try:
        yield
    except (sqlite3.Error, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        what = " ".join(str(error).split())
        what = what if len(what) <= MOST_CHARACTERS else f"{what[:MOST_CHARACTERS]}…"
        raise InputError(parameter, f"{str(path)!r} is not a study, or is damaged: {what}") from error


def _read(path: Path, connection: sqlite3.Connection, parameter: str) -> Settings:
    """Check the whole file and read the settings.

    Raises:
        InputError: it is not a study, is damaged, or is of a newer Adamas; names ``parameter``.
    """
    with _told_as_damage(path, parameter):
        connection.execute("BEGIN")  # so that no other process writes in between
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            problem = f"{str(path)!r} was written by a newer Adamas (schema {schema}, here {SCHEMA}): upgrade Adamas"
            raise InputError(parameter, problem)
        (pages,), (size,) = (connection.execute(f"PRAGMA page_{name}").fetchone() for name in ("count", "size"))
        if path.stat().st_size < pages * size:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, where {pages * size:,} were written")
        (state,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if state != "ok":
            raise ValueError(state)
        stored = {key: from_json(value) for key, value in connection.execute("SELECT key, value FROM study")}
        # Studies of earlier versions do not say which data their tuning is of.
        stored.setdefault("tuning_metric", str(stored.get("metric")).removeprefix("test_"))
        settings = _checked(Settings, stored)
        _check_parts(settings)
        _finished(connection)
        connection.commit()
        return settings


def _check_parts(settings: Settings) -> None:
    """Raise ValueError if the settings contradict one another."""
    for optimizer in settings.optimizers:
        ranges = settings.space.get(optimizer, {})
        if "lr" not in ranges or optimizer not in settings.hyperparameters:
            raise ValueError(f"{optimizer} has no range of its rate")
        for name, bounds in ranges.items():
            if len(bounds) != 3 or not fits(bounds[:2], list[float]) or not 0 < bounds[0] < bounds[1]:
                raise ValueError(f"the range of {name} of {optimizer} is {bounds}")
            if not all(0 <= point.get(name.removeprefix("1-"), -1.0) <= 1 for point in settings.points):
                raise ValueError(f"a point has no {name} from 0 to 1")
    numbers = (
        settings.budget,
        settings.epochs,
        settings.batch_size,
        settings.steps,
        settings.eval_every,
        settings.jobs,
    )
    if min(*numbers, settings.threads) < 1 or len(settings.points) != settings.budget or not settings.seeds:
        raise ValueError("its numbers do not belong together")


def _finished(connection: sqlite3.Connection) -> list[Finished]:
    names = [field.name for field in (*fields(Trial), *fields(Outcome))]
    found = []
    for values in connection.execute(f"SELECT {', '.join(names)} FROM trials ORDER BY id"):
        row = dict(zip(names, values, strict=True))
        for name in ("settings", "memory", "seconds", "evaluations"):
            row[name] = from_json(row[name])
        trial = _checked(Trial, row)
        if "lr" not in trial.settings:
            raise ValueError("a trial has no lr")
        found.append(Finished(trial, _checked(Outcome, row)))
    return found


_HINTS: dict[type, dict[str, Any]] = {kind: get_type_hints(kind) for kind in (Settings, Trial, Outcome)}


def _checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Make a dataclass from the values of a file.

    Raises:
        ValueError: a value is missing, or of another type.
    """
    hints = _HINTS[kind]
    for name, hint in hints.items():
        if name not in values:
            raise ValueError(f"{name} is missing")
        if not fits(values[name], hint):
            raise ValueError(f"{name} is {values[name]!r}")
    return kind(**{name: values[name] for name in hints})


def choose_path(task_label: str) -> Path:
    """Return a fresh ``studies/<task>-<time>.sqlite``. Nothing is created yet."""
    stem = f"{task_label}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{stem}{SUFFIX}" if count == 1 else f"{stem}-{count}{SUFFIX}" for count in range(1, 1000))
    return next(path for path in map(Path("studies").joinpath, names) if not path.exists())


def check_exists(path: Path, parameter: str) -> None:
    """Check that a study is there.

    Raises:
        InputError: it is not; names ``parameter``.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise InputError(parameter, f"{str(path)!r} {problem}: give a study that adamas compare wrote")


def _lock(path: Path, parameter: str = "out") -> FileLock:
    """Keep other processes from writing to the same study.

    The lock is a separate file: closing any handle of the study itself would drop SQLite's own locks.
    """
    try:
        return lock(path)
    except BlockingIOError as error:
        raise InputError(
            parameter, f"{str(path)!r} is being written by another comparison: let it end first"
        ) from error
    except OSError as error:
        cure = "copy it to where it can be written, and resume the copy" if path.exists() else "choose another file"
        raise InputError(parameter, f"{str(path)!r} cannot be written ({error.strerror}): {cure}") from error


def _unlock(held: FileLock | None) -> None:
    if held is not None:
        unlock(held)


def _json(value: Any) -> str:
    """Encode; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(value), allow_nan=False, default=str, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _changes(name: str, was: Any, now: Any) -> list[str]:
    """List the changes; in a mapping with the same keys, only the values that differ."""
    if was == now:
        return []
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        return [line for key in was for line in _changes(f"{name} of {key}", was[key], now[key])]
    return [f"{name} was {_text(was)}, is {_text(now)}"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
