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

CONFIG, METRICS, SUMMARY, CURVES, MODEL = FILES = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "curves.png",
    "model.safetensors",
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
        raise InputError("out", f"{str(out)!r} already holds a run: choose another folder, or remove that one")
    return out


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


def create(folder: Path, config: Mapping[str, Any]) -> None:
    """Make the folder, with the configuration in it; leave nothing behind where that fails.

    Raises:
        InputError: the folder cannot be made or written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / CONFIG, to_json(config, indent=2))
    except OSError as error:
        for path in missing:
            if path.exists():
                path.rmdir()
        problem = f"{str(folder)!r} cannot be written ({error.strerror}): choose another folder"
        raise InputError("out", problem) from error


def write(path: Path, content: bytes) -> None:
    """Put ``content`` into a file: the whole of it, or, where that fails, what was there before."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def to_json(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Encode one JSON object and a line end. NaN and infinity, which JSON does not have, become null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    return (json.dumps(finite, indent=indent, allow_nan=False, default=str, ensure_ascii=False) + "\n").encode()


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line of JSON an epoch."""
    write(folder / METRICS, b"".join(map(to_json, rows)))
