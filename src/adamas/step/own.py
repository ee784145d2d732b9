"""What the optimizers of all frameworks for members that users declare have in common."""

from __future__ import annotations

from typing import Any

from ..rule.declaration import Member
from ..rule.own import check_member


class ForOwnMember:
    """Lets a class take its member when it is derived: ``class AdaBelief(OwnOptimizer, member=ADABELIEF)``."""

    _member: Member

    def __init_subclass__(cls, member: Member | None = None, **others: Any) -> None:
        """Checks the member.

        Raises:
            TypeError: it is no ``Member``.
            ValueError: its declaration contradicts itself; the message names the part.
        """
        super().__init_subclass__(**others)
        if member is not None:
            check_member(member)
            cls._member = member

    def _refuse_without_member(self) -> None:
        if not hasattr(self, "_member"):
            raise TypeError(f"{type(self).__name__} has no member: derive a class with member=, and use that")
