"""What an adapter says when it is asked for a member that it does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from .members import MEMBERS


def missing_from(adapter: str) -> Callable[[str], NoReturn]:
    """The ``__getattr__`` of an adapter's module: raises AttributeError, for members with the reason and what would work."""

    def missing(name: str) -> NoReturn:
        reasons = (
            m.absent[adapter] for m in MEMBERS.values() if adapter in m.absent and name.lower() == m.name.lower()
        )
        reason = next(reasons, None)
        if reason is None:
            raise AttributeError(f"module 'adamas.{adapter}' has no attribute {name!r}")
        raise AttributeError(f"adamas.{adapter} has no {name}: {reason}")

    return missing
