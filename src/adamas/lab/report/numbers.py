"""Formats numbers with their significant digits. May import the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "–"


def figure(value: float | None, digits: int = 4) -> str:
    """Write a number with this many significant digits, and separated thousands."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole:
        text = f"{value:,.{max(0, digits - whole)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{digits}g}"


def seconds(value: float | None) -> str:
    """Write a duration in suitable units."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size(value: float | None) -> str:
    """Write a number of bytes in suitable units."""
    if value is None:
        return NOTHING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}" if value < 1000 * scale else f"{value / scale:,.0f} {unit}"
    return f"{value:.0f} bytes"


def share(value: float) -> str:
    """Write a fraction in percent."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "under 0.1%"
    return f"{percent:.0f}%" if percent >= 10 or percent == 0 else f"{percent:.2g}%"


def count(number: int, thing: str, things: str = "") -> str:
    """Write a number with its noun: ``1 seed``, ``3 seeds``."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: ``a, b and c``."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def spoken(name: str) -> str:
    """A metric's name as words: ``test accuracy`` for ``test_accuracy``."""
    return name.replace("_", " ")


def mean(values: Sequence[float]) -> float | None:
    """The mean of the values; None if there are none."""
    return math.fsum(values) / len(values) if values else None


def median(values: Sequence[float]) -> float:
    """The median of the values, of which there must be at least one."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
