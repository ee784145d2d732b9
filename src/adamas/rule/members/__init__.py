"""The members of the family. Each module of this package declares one or several, and lists them in ``MEMBERS``."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from ..declaration import Member, Rule


def _declared() -> dict[str, Member]:
    found: dict[str, Member] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for member in import_module(f"{__name__}.{module}").MEMBERS:
            found[member.name] = member
    return found


MEMBERS = _declared()
"""Each member by its name."""

RULES: tuple[Rule, ...] = tuple(
    {rule: None for member in MEMBERS.values() for rule in member.rules() if rule.is_elementwise}
)
"""All elementwise rules that members can have, each once. The engine refers to them by their positions."""
