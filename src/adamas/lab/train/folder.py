"""The folder of a run. Every file is written atomically.

May import the standard library, filelock, adamas.files and adamas.lab.tasks.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from filelock import FileLock, Timeout

from adamas.files import replacing
from adamas.lab.inputs import InputError

CHART = "chart.json"  # only for tasks that draw their own chart
WATCH = "watch.npz"  # only with ``watch``
CONFIG, METRICS, STEPS, SUMMARY, CURVES, MODEL, CHECKPOINT = FILES = (
    "config.json",
    "metrics.jsonl",
    "steps.jsonl",
    "summary.json",
    "curves.png",
    "model.safetensors",
    "checkpoint.pt",
)
# What a resumed run reads from its config.json, besides the versions.
CONFIG_NEEDS = {"options": dict[str, Any], "threads": int, "lr_found": str | None, "resumed_after": list[int]}


def check_out(out: Path) -> None:
    """Raise InputError if a run cannot be written there, or if there is one already."""
    try:
        for path in (out, *out.parents):
            if path.exists():
                if not path.is_dir():
                    raise InputError("out", f"{str(out)!r} cannot be made, {path} is a file: choose another folder")
                if not os.access(path, os.W_OK | os.X_OK):
                    raise InputError(
                        "out", f"{str(out)!r} cannot be made, {path} is write-protected: choose another folder"
                    )
                break
        if any((out / name).exists() for name in FILES):
            problem = f"{str(out)!r} already holds a run: choose another folder, remove that one, or resume it (resume)"
            raise InputError("out", problem, other="resume")
    except OSError as error:
        raise InputError("out", f"{str(out)!r} cannot be made ({error.strerror}): choose another folder") from error


@contextmanager
def hold(out: Path | None, task: str, *, resumed: bool = False) -> Iterator[Path]:
    """Make the folder of a run, and keep other processes from writing to it.

    Args:
        out: the folder; None is a new ``runs/<task>-<time>``.
        task: the name of the task.
        resumed: whether the folder exists and holds the run.

    Yields:
        The folder. It is removed again if nothing was written to it.

    Raises:
        InputError: it cannot be made, or another process writes to it; names ``out``, or ``resume``.
    """
    parameter = "resume" if resumed else "out"
    made: list[Path] = []
    try:
        folder = out if out is not None else _fresh(task, made)
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / "run")
    except BlockingIOError as error:
        raise InputError(parameter, f"{str(out)!r} is being written by another process: let it end first") from error
    except OSError as error:
        _remove_empty(made)
        raise _not_writable(parameter, out or Path("runs"), error) from error
    try:
        if not resumed:
            check_out(folder)  # again, now that no other process can write there
        yield folder
    finally:
        unlock(held)
        _remove_empty(made)


def _fresh(task: str, made: list[Path]) -> Path:
    """Make a folder that did not exist: two runs may begin in the same second."""
    runs, stem = Path("runs"), f"{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not runs.exists():
        made.append(runs)
        runs.mkdir(exist_ok=True)
    for count in itertools.count(1):
        folder = runs / (stem if count == 1 else f"{stem}-{count}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            made.insert(0, folder)
            return folder
    raise AssertionError("there is always another name")


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it does not exist, or is not empty
            folder.rmdir()


def lock(path: Path) -> FileLock:
    """Keep other processes from holding this lock, until ``unlock`` or the end of the process.

    Raises:
        BlockingIOError: another one holds it.
        OSError: the folder of ``path`` cannot be written to.
    """
    held = FileLock(path.with_name(f".{path.name}.lock"), blocking=False)
    try:
        held.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{path} is held by another process") from error
    return held


def unlock(held: FileLock) -> None:
    """Release the lock."""
    Path(held.lock_file).unlink(missing_ok=True)
    held.release()


def read_config(run: Path) -> dict[str, Any]:
    """Read the config.json of a run.

    Raises:
        InputError: the folder holds no run, or the file is damaged; names ``resume``.
    """
    try:
        config: dict[str, Any] = from_json((run / CONFIG).read_text(encoding="utf-8"))
        if not all(fits(config[name], hint) for name, hint in CONFIG_NEEDS.items()):
            raise TypeError
    except OSError as error:
        problem = f"{str(run)!r} holds no run, it has no readable {CONFIG}: give the folder of a run"
        raise InputError("resume", problem) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("resume", f"{str(run)!r} has a damaged {CONFIG}: it is not one that adamas wrote") from error
    return config


def check_picture(path: Path) -> None:
    """Raise InputError if a picture cannot be written there."""
    if path.suffix.lower() != ".png":
        raise InputError(
            "out", f"must be the name of a picture, such as {path.stem or 'picture'}.png, got {str(path)!r}"
        )
    if path.is_dir():
        raise InputError("out", f"{str(path)!r} is a folder: choose another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError("out", f"{str(path)!r} cannot be written: {str(path.parent)!r} is not a writable folder")


@contextmanager
def output(parameter: str, path: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the parameter for which ``path`` is written."""
    try:
        yield
    except OSError as error:
        raise InputError(parameter, f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def _not_writable(parameter: str, folder: Path, error: OSError) -> InputError:
    cure = "choose another folder" if parameter == "out" else "copy it to where it can be written, and resume the copy"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = f"make room, or {cure}"
    return InputError(parameter, f"{str(folder)!r} cannot be written ({error.strerror or error}): {cure}")


def write_config(folder: Path, config: Mapping[str, Any], *, resumed: bool = False) -> None:
    """Write the configuration, and remove the summary, which holds only at the end of a run.

    Raises:
        InputError: the folder cannot be written; names ``out``, or ``resume``.
    """
    try:
        write(folder / CONFIG, to_json(config, indent=2))
        (folder / SUMMARY).unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable("resume" if resumed else "out", folder, error) from error


def write(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write ``content`` to a file atomically; see ``adamas.files.replacing``."""
    with replacing(path, durable=durable) as stream:
        stream.write(content)


def to_json(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Encode one JSON object and a line end. NaN and infinity, which JSON does not have, become null."""
    return (
        json.dumps(_finite(values), indent=indent, allow_nan=False, default=str, ensure_ascii=False) + "\n"
    ).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(text: str | bytes) -> Any:
    """Decode JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except TypeError as error:  # the value is not text
        raise ValueError(str(error)) from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from a JSON file has the type of a hint.

    An int is a float, too; NaN and infinity are not. All parts of a parametrised type are checked. A dataclass stands for a
    dict, in which those of its fields that are present have their types.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts and isinstance(value, tuple(map(type, parts)))
    if origin is list:
        return isinstance(value, list) and all(fits(one, parts[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(one, parts[1]) for key, one in value.items()
        )
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return isinstance(value, dict) and all(fits(value[name], hints[name]) for name in hints.keys() & value.keys())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is Path:
        return isinstance(value, str)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line of JSON a row."""
    write(path, b"".join(map(to_json, rows)))
