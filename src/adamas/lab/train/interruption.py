"""Turns Ctrl-C, and the SIGTERM with which a cluster ends a job, into a flag that a loop checks between two steps.

May import the standard library only.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """While entered, the first SIGINT (Ctrl-C) or SIGTERM sets ``requested``; a second one acts as it did before.

    So no step and no file is left half done. Outside the main thread, where Python delivers no signals,
    ``requested`` stays false.
    """

    def __init__(self) -> None:
        """Start without a request."""
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        self._give_back()

    def ignore(self, number: int) -> None:
        """Give a signal no effect from now on, also after the end."""
        if self._previous.pop(number, None) is not None:
            signal.signal(number, signal.SIG_IGN)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._give_back()

    def _give_back(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
