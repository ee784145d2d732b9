"""Turns Ctrl-C into a question that a loop can ask between two steps. May import the standard library only."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """While entered, the first Ctrl-C sets ``requested``; a second one acts as it did before.

    So nothing is stopped halfway through a step or a file. Outside the main thread, where Python delivers no signals,
    ``requested`` stays false.
    """

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Interruption:
        """Take Ctrl-C over."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._give_back()

    def _give_back(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
