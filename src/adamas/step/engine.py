"""What the engine calls the rules, and the check that it was built from those that are here."""

from __future__ import annotations

from functools import cache

from .. import _engine
from ..rule.declaration import HOUSE_NUMBERS, Numbers, Rule
from ..rule.members import RULES
from ..rule.recorder import digest

_STALE = (
    "the engine, adamas._engine, was built from other rules than those of adamas.rule: run pip install . in the source tree "
    "again (needs a C++20 compiler)"
)


@cache
def _indices() -> dict[Rule, int]:
    """The place of each rule among those that the engine has.

    Raises:
        ImportError: the engine was built from other rules.
    """
    if _engine.rules_digest() != digest(RULES):
        raise ImportError(_STALE)
    return {rule: index for index, rule in enumerate(RULES)}


class EngineRule:
    """A rule as the engine takes it.

    Args:
        rule: of a member.

    Attributes:
        index: what the engine calls the rule, or a variant of it: those have the same states.

    Raises:
        ImportError: the engine was built from other rules, and would step by those.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._use(next(iter(rule.variants())))

    def _use(self, variant: Rule) -> None:
        self._last, self.index, self._names = variant, _indices()[variant], (*HOUSE_NUMBERS, *variant.numbers)

    def at(self, numbers: Numbers) -> tuple[int, list[float]]:
        """The rule of a step with these numbers, and the numbers in the engine's order."""
        variant = self._rule.at(numbers)
        if variant is not self._last:
            self._use(variant)
        return self.index, [numbers[name] for name in self._names]
