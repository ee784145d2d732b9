"""Recognises errors that were raised in the user's own code. May import the standard library only."""

from __future__ import annotations

import traceback

USERS_MODULES: set[str] = (
    set()
)  # names of the modules that were imported for the user: task files, modules of optimizers


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
