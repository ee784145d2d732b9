"""Modules that cannot be imported, as where they are not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager


class Missing:
    """A finder that is asked first, and finds none of these modules."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def missing(*names: str):
    """Within this, they cannot be imported; what was imported of them is forgotten."""
    for name in [name for name in sys.modules if any(f"{name}.".startswith(f"{one}.") for one in names)]:
        del sys.modules[name]
    finder = Missing(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
