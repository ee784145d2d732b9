"""The general update rule, of which most members are special cases, in every combination of its parts.

::

    m ← a1·m + b1·g                        first moment: a memory of direction
    v ← a2·v + b2·g²                       second moment: a memory of size   (or: max(a2·v, |g| + ε), or none)
    h ← max(h, v)                          only AMSGrad, which uses it in place of v
    u ← (c·m + d·g) / (√(w·v + ρ) + ε)     the update   (centered: v − z·m² for v; or no denominator)
    r ← q·r + u                            RMSprop with momentum and LaProp, which use it in place of u
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal

from .declaration import Array, Numbers, Rule, State

FIRST = State("first", signed=True, decay="a1", draw=0, of="gradient", gain="b1")
SECOND = State("second", signed=False, decay="a2", draw=1, of="square", gain="b2")
SIZE = State("second", signed=False, decay="a2", draw=1, of="size")
MAXIMUM = State("maximum", signed=False, decay=None, draw=None, of="maximum")
TRACE = State("trace", signed=True, decay="q", draw=3)


@dataclass(frozen=True)
class Sentence(Rule):
    """The general rule with some of its parts.

    Attributes:
        first: whether there is a first moment.
        second: the kind of second moment, ``"square"`` or ``"size"``, or None.
        maximum: whether the denominator uses the largest second moment so far.
        centered: whether the denominator uses the variance, not the mean square.
        trace: whether there is momentum after the division.
        use_first: whether the first moment is in the update.
        use_gradient: whether the gradient is in the update.
        denominator: ``"always"``; ``"never"``; or ``"where w"``: only in steps whose ``w`` is above 0.
        is_cautious: see ``Rule``.
    """

    first: bool = False
    second: Literal["square", "size"] | None = None
    maximum: bool = False
    centered: bool = False
    trace: bool = False
    use_first: bool = False
    use_gradient: bool = False
    denominator: Literal["always", "never", "where w"] = "always"
    is_cautious: bool = False

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        """Its parts."""
        parts = {
            "first": self.first,
            str(self.second): self.second is not None,
            "maximum": self.maximum,
            "centered": self.centered,
            "trace": self.trace,
            "use_first": self.use_first,
            "use_gradient": self.use_gradient,
            "undivided": self.second is not None and self.denominator == "never",
            "open": self.denominator == "where w",
        }
        return "_".join(part for part, is_there in parts.items() if is_there)

    @cached_property
    def states(self) -> tuple[State, ...]:  # type: ignore[override]
        """See ``Rule``."""
        second = {"square": SECOND, "size": SIZE}
        parts = (
            (FIRST, self.first),
            (second.get(str(self.second)), self.second is not None),
            (MAXIMUM, self.maximum),
            (TRACE, self.trace),
        )
        return tuple(state for state, is_there in parts if is_there and state is not None)

    @cached_property
    def numbers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See ``Rule``."""
        divides = self.second == "square" and self.denominator != "never"
        parts = (
            (("a1", "b1"), self.first),
            (("a2", "b2"), self.second == "square"),
            (("a2", "eps"), self.second == "size"),
            (("c",), self.use_first),
            (("d",), self.use_gradient),
            (("w", "eps", "root"), divides),
            (("z",), divides and self.centered),
            (("q",), self.trace),
        )
        return tuple(name for names, is_there in parts if is_there for name in names)

    def rests(self, numbers: Numbers) -> bool:
        """See ``Rule.rests``: there is no state but a sum of squares, and an ε, so that no update is 0/0."""
        if self.states == (SECOND,):
            return bool(numbers["a2"] == 1 and numbers["eps"] + numbers["root"] > 0)
        return not self.states

    def at(self, numbers: Numbers) -> Rule:
        """See ``Rule.at``."""
        if self.denominator != "where w" or not isinstance(numbers["w"], float):
            return self
        divided, undivided = _sides(self)
        return divided if numbers["w"] else undivided

    def variants(self) -> Iterator[Rule]:
        """See ``Rule.variants``."""
        if self.denominator == "where w":
            yield from _sides(self)
        else:
            yield self

    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``."""
        at = {state.role: x for state, x in zip(self.states, states, strict=True)}
        if self.first:
            at["first"] = k.a1 * at["first"] + k.b1 * g
        if self.second == "square":
            at["second"] = k.a2 * at["second"] + k.b2 * g * g
        elif self.second == "size":
            at["second"] = xp.maximum(k.a2 * at["second"], xp.abs(g) + k.eps)
        if self.maximum:
            at["maximum"] = xp.maximum(at["maximum"], at["second"])

        u: Array = 0.0
        if self.use_first:
            u = k.c * at["first"]
        if self.use_gradient:
            u = u + k.d * g if self.use_first else k.d * g
        if self.second == "size":
            u = u / at["second"]
        elif self.second == "square" and self.denominator != "never":
            u = self._divided(k, xp, u, at)
        if self.trace:
            u = at["trace"] = k.q * at["trace"] + u
        return u, *(at[state.role] for state in self.states)

    def _divided(self, k: Any, xp: Any, u: Array, at: Mapping[str, Array]) -> Array:
        """The update over its denominator."""
        size = at["maximum" if self.maximum else "second"]
        if self.centered:
            # An infinite v stays infinite, although m² overflows too and the difference would be NaN.
            variance = xp.where(size < math.inf, size - k.z * at["first"] * at["first"], size)
            size = xp.where(variance < 0, 0 * variance, variance)
        divided = quotient(k, xp, u, size)
        return xp.where(k.w > 0, divided, u) if self.denominator == "where w" else divided


def quotient(k: Any, xp: Any, u: Array, size: Array) -> Array:
    """u / (√(w·v + ρ) + ε), where ``size`` is v. Computed as √w·√(v + ρ/w), which does not overflow before v does."""
    root_w = math.sqrt(k.w) if isinstance(k.w, float) else xp.sqrt(k.w)
    return u / (root_w * xp.sqrt(size + k.root / k.w) + k.eps)


@cache
def _sides(rule: Sentence) -> tuple[Sentence, Sentence]:
    """The rule for steps with a denominator, and the rule for steps without one."""
    return replace(rule, denominator="always"), replace(rule, denominator="never")
