"""Gathers the options of a run from a TOML file, the run that is resumed, and the arguments.

May import the standard library, tomli before Python 3.11, adamas.lab.tasks and the options.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from adamas.lab import launch
from adamas.lab.inputs import InputError, choose
from adamas.lab.tasks import is_file
from adamas.lab.train import folder
from adamas.lab.train.options import Options, plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = [field.name for field in fields(Options)]
# What may change when a run is resumed: its length, and where it runs. Anything else would make it another run.
MAY_CHANGE = frozenset({"epochs", "data_dir", "threads", "parallel", "log", "watch"})


def gather(given: dict[str, Any], *, config: Path | None = None, resume: Path | None = None) -> Options:
    """Gather the options of a run.

    Args:
        given: options by name; they take precedence over ``config``.
        config: a TOML file of options.
        resume: the folder of a run, whose options are kept except those in MAY_CHANGE.

    Raises:
        InputError: the file cannot be read, the folder holds no run, an option would make it another run, or ``parallel`` does
            not suit how this process was started.
    """
    given = {**(_read_toml(config) if config is not None else {}), **given}
    if is_file(str(given.get("task", ""))):
        given["task"] = str(Path(given["task"]).resolve())  # so that the run can be resumed from another folder
    options = Options(**given) if resume is None else _resumed(resume, given)
    if resume is None:
        launch.check(options.parallel, replace(options, parallel=None).command()[1:])
    else:
        launch.check(options.parallel, ["train", "--resume", str(resume)])
    return options


def _resumed(run: Path, given: Mapping[str, Any]) -> Options:
    config = folder.read_config(run)
    # Each start says anew how many processes share the run.
    stored = {name: value for name, value in config["options"].items() if name in NAMES and name != "parallel"}
    changed = {name: value for name, value in given.items() if name in MAY_CHANGE or _is_moved(name, value, stored)}
    try:
        # The bits of a run depend on its threads, so this machine must have them, even if they were not asked for.
        Options(**{**stored, "threads": config["threads"], **changed})
        began = Options(**{**stored, **changed})
    except InputError as error:
        if error.parameter in changed:
            raise
        raise InputError("resume", f"{str(run)!r} cannot be resumed here: its {error}") from error
    for name, value in given.items():
        if name == "out" and Path(value).resolve() != run.resolve():
            raise InputError("out", f"is given, but a resumed run stays in its folder, {run}: leave it out")
        before, now = getattr(began, name), plain(value)
        same = now in (before, plain(config.get(name))) or (now == "auto" and name == "lr" and config.get("lr_found"))
        if name not in changed and name != "out" and not same:
            raise InputError(
                name, f"is {_shown(before)} in {run}, but {_shown(now)} here: leave it out, or begin a new run"
            )
    return began


def _is_moved(name: str, value: Any, stored: Mapping[str, Any]) -> bool:
    """Whether it is the file of the task, in another place. That the task is the same is checked when it is loaded."""
    before = str(stored.get("task", ""))
    return name == "task" and is_file(before) and is_file(value) and Path(value).name == Path(before).name


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError("config", f"{str(path)!r} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise InputError("config", f"{str(path)!r} cannot be read: it is nested too deeply") from error
    except ValueError as error:  # includes a number with too many digits
        raise InputError("config", f"{str(path)!r} is not TOML: {error}") from error
    options = {name.replace("-", "_"): value for name, value in values.items()}
    if len(options) < len(values):
        twice = next(name for name in values if "-" in name and name.replace("-", "_") in values)
        raise InputError("config", f"{str(path)!r} has {twice} twice, once with _: leave one of them out")
    for name in options:
        try:
            choose("config", name, NAMES)
        except InputError as error:
            raise InputError("config", f"{str(path)!r} has an unknown option: {error.problem}") from error
    return options
