"""Locks that are free in a forked child process.

A child of ``os.fork`` has only the thread that forked. A lock that another thread held at that moment would stay locked in the
child forever, and what it guards would be half changed. So a fork first acquires all of these locks, and then releases them in
both processes.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_locks: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_forking = threading.local()  # the locks that a forking thread has acquired


def step_lock() -> Any:
    """A reentrant lock that allows one step at a time."""
    lock = threading.RLock()
    _locks[id(lock)] = lock
    return lock


def _take_all() -> None:
    _forking.held = held = []
    for reference in _locks.valuerefs():
        if (lock := reference()) is not None:
            lock.acquire()
            held.append(lock)


def _let_go() -> None:
    for lock in _forking.held:
        lock.release()
    del _forking.held


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_take_all, after_in_parent=_let_go, after_in_child=_let_go)
