"""The folder that a run leaves behind. Every file appears whole or not at all.

May import the standard library and adamas.tasks.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adamas.tasks import InputError

CHART = "chart.json"  # only of tasks that draw one of their own
CONFIG, METRICS, STEPS, SUMMARY, CURVES, MODEL, CHECKPOINT = FILES = (
    "config.json",
    "metrics.jsonl",
    "steps.jsonl",
    "summary.json",
    "curves.png",
    "model.safetensors",
    "checkpoint.pt",
)


def choose_folder(out: Path | None, task: str) -> Path:
    """Return where a run will be written: ``out``, or a fresh ``runs/<task>-<time>``. Nothing is created yet.

    Raises:
        InputError: ``out`` cannot be a folder, or holds a run already.
    """
    if out is None:
        stem = f"{task}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 1000))
        return next(path for path in map(Path("runs").joinpath, names) if not path.exists())
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
        problem = f"{str(out)!r} already holds a run: choose another folder, remove that one, or go on with it (resume)"
        raise InputError("out", problem)
    return out


def read_config(run: Path) -> dict[str, Any]:
    """Read the config.json of a run.

    Raises:
        InputError: the folder holds no run, or the file is damaged; names ``resume``.
    """
    try:
        config: dict[str, Any] = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config["options"], dict):
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
        raise InputError(
            "out", f"{str(path)!r} cannot be written: {str(path.parent)!r} is not a folder that can be written to"
        )


def create(folder: Path, config: Mapping[str, Any], *, resumed: bool = False) -> None:
    """Make the folder, with the configuration in it; leave nothing behind where that fails.

    In the folder of a run that is resumed, what is only true at the end goes away.

    Raises:
        InputError: the folder cannot be made or written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / CONFIG, to_json(config, indent=2))
        if resumed:
            (folder / SUMMARY).unlink(missing_ok=True)
    except OSError as error:
        for path in missing:
            if path.exists():
                path.rmdir()
        problem = f"{str(folder)!r} cannot be written ({error.strerror}): choose another folder"
        raise InputError("out", problem) from error


def write(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Put ``content`` into a file: the whole of it, or, where that fails, what was there before.

    This holds for a process that is killed, and, where it is ``durable``, for a machine that loses its power.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line of JSON a row."""
    write(path, b"".join(map(to_json, rows)))
