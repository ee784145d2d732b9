"""Recognises errors that were raised in the user's own code, or by an optimizer of another library.

May import the standard library only.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

USERS_MODULES: set[str] = (
    set()
)  # names of the modules that were imported for the user: task files, modules of optimizers
_STEPS: dict[CodeType, str] = {}  # the optimizers of other libraries, by the code of their steps


def in_users_code(error: BaseException) -> tuple[str, str] | None:
    """Describe an error that was raised in the user's own code: one line, and the traceback from where that code begins.

    None if ``error`` was not raised within the modules of USERS_MODULES.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [place for place, (frame, _) in enumerate(frames) if frame.f_globals.get("__name__") in USERS_MODULES]
    if not own:
        return None
    trace = traceback.TracebackException.from_exception(error)
    trace.stack = traceback.StackSummary.extract(iter(frames[own[0] :]))
    place = trace.stack[own[-1] - own[0]]
    what = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return f"{place.filename}, line {place.lineno}, raised {what}", "".join(trace.format()).rstrip()


def remember_step(step: Callable[..., Any], optimizer: str) -> None:
    """Note the step of an optimizer of another library for ``in_foreign_step``, unless it is inherited from Adamas."""
    code = getattr(inspect.unwrap(step), "__code__", None)
    if code is not None and step.__module__.partition(".")[0] != "adamas":
        _STEPS[code] = optimizer


def in_foreign_step(error: BaseException) -> str | None:
    """Describe an error that the step of an optimizer of another library raised, in one line; None if none has raised it."""
    codes = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    optimizer = next((_STEPS[code] for code in codes if code in _STEPS), None)
    if optimizer is None:
        return None
    reason = next(iter(str(error).splitlines()), "")
    return f"{optimizer} cannot make a step: {reason or type(error).__name__}"
