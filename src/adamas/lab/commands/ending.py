"""How a command ends with an error: one line, and an exit status.

May import the standard library and adamas.lab.launch.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

from adamas.lab import launch


def stop(status: int, line: str, shown: str = "") -> NoReturn:
    """Print why the command ends, and exit; if several processes share a run, one of them prints it."""
    with _last_word() as prints:
        if prints:
            print(f"adamas: {line}", *filter(None, [shown]), sep="\n", file=sys.stderr, flush=True)
    sys.exit(status)


def _last_word() -> AbstractContextManager[bool]:
    """A context that tells whether this process is the one."""
    if launch.ranks() == 1:
        return nullcontext(True)
    from adamas.lab.train.ranks import last_word

    return last_word()
