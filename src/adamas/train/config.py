"""Where the options of a run come from: a TOML file, the run that is resumed, and what was given on top.

May import the standard library, tomli before Python 3.11, adamas.tasks and the options.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from adamas.tasks import InputError, choose
from adamas.train import folder
from adamas.train.options import Options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = [field.name for field in fields(Options)]
# What a resumed run may be told: how long it goes, and where it is. All else would make it another run.
MAY_CHANGE = frozenset({"epochs", "data_dir", "threads", "log"})


def gather(given: Mapping[str, Any], *, config: Path | None = None, resume: Path | None = None) -> Options:
    """Put the options of a run together.

    Args:
        given: options by name; they count before those of ``config``.
        config: a TOML file of options.
        resume: the folder of a run, whose options stay, but for those that say how long it goes and where.

    Raises:
        InputError: the file cannot be read, the folder holds no run, or what was given would make it another run.
    """
    given = {**(_read_toml(config) if config is not None else {}), **given}
    return Options(**given) if resume is None else _resumed(resume, given)


def _resumed(run: Path, given: Mapping[str, Any]) -> Options:
    try:
        began = Options(**{name: value for name, value in folder.read_config(run)["options"].items() if name in NAMES})
    except InputError as error:
        if error.parameter == "resume":
            raise
        raise InputError("resume", f"{str(run)!r} cannot go on here: its {error}") from error
    for name, value in given.items():
        if name == "out":
            raise InputError("out", f"is given, and a resumed run stays in its folder, {run}: leave it out")
        before, now = getattr(began, name), getattr(replace(began, **{name: value}), name)
        if name not in MAY_CHANGE and now != before:
            raise InputError(
                name, f"is {_shown(before)} in {run}, and {_shown(now)} here: leave it out, or begin a new run"
            )
    return replace(began, **{name: value for name, value in given.items() if name in MAY_CHANGE})


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise InputError("config", f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("config", f"{str(path)!r} is not TOML: {error}") from error
    options = {name.replace("-", "_"): value for name, value in values.items()}
    for name in options:
        try:
            choose("config", name, NAMES)
        except InputError as error:
            raise InputError("config", f"{str(path)!r} has an option that is none: {error.problem}") from error
    return options
