"""What moments can be, and what the two of one element can be together: for states that are loaded.

A second moment that was saved in float16 has become 0 where it was below 2⁻²⁵, and the first moment beside it has not: the
next step would divide by next to nothing. But the two come of the same gradients. With m ← a1·m + b1·g and v ← a2·v + b2·g²,
Cauchy and Schwarz give after t steps ::

    m² ≤ v · b1²/b2 · (1 − rᵗ)/(1 − r),   r = a1²/a2

and where v is the largest gradient, ``v ← max(a2·v, |g|)``, ``|m| ≤ v · b1 · (1 − rᵗ)/(1 − r)`` with r = a1/a2. So the least
second moment that can come with a first one is known. Arrays are NumPy's or PyTorch's, and ``xp`` is ``numpy`` or ``torch``.
This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import formats
from .declaration import Host, Member, State
from .layout import blocks

Array = Any

# Mended is what float16 cannot hold: its least number is 2⁻²⁴. And not what float32 has rounded to 0 itself.
_LEAST_HALF, _LEAST_NORMAL = 2.0**-24, 2.0**-126
# How far m² may be above the bound, since moments are rounded, and hyperparameters may have been others: a factor of 2 in m.
_SLACK = 4.0
_CHUNK = 1 << 18  # elements that are looked at together


class Mended(NamedTuple):
    """A second moment, raised where it was too small.

    Attributes:
        values: the moment.
        elements: how many of its elements were raised.
    """

    values: Array
    elements: int


def check_scalars(member: Member, scalars: Mapping[str, float]) -> None:
    """Raises ValueError, which begins with the scalar's name, if a scalar that a parameter carries is none that can be."""
    for name in member.scalar_names:
        value = scalars[name]
        highest = math.inf if name == "step" else 1.0  # a product of numbers from 0 to 1
        if not 0 <= value <= highest or math.isinf(value):
            words = "a number of steps, finite and from 0 up" if name == "step" else "a number from 0 to 1"
            raise ValueError(f"{name!r} has to be {words}, and is {value}")


def check_scale(xp: Any, codes: Array, scale: Array, what: str) -> None:
    """Raises ValueError if scales of codes in 8 bits are none that can be.

    A scale is negative where its block has a code that stands for a number that is not finite, and nowhere else.
    """
    if not bool(xp.isfinite(scale).all()):
        raise ValueError(f"the scales of {what} have a NaN or an infinity")
    if bool((scale < 0).any()):
        marked = formats.can_be_marked(xp, blocks(xp, codes), codes.dtype == xp.int8)
        if bool(((scale < 0) & ~marked).any()):
            raise ValueError(f"the scales of {what} have a negative number")


def mended(
    xp: Any,
    member: Member,
    hypers: Sequence[Mapping[str, Any]],
    scalars: Mapping[str, float],
    moments: Mapping[str, Array],
) -> dict[str, Mended]:
    """The second moments that are too small for the first ones, with what is the least that they can be.

    Args:
        xp: the namespace of the arrays.
        member: whose moments they are.
        hypers: the hyperparameters that they may have come of.
        scalars: what the parameter carries beside them.
        moments: the moments by name, in float32 or wider, without those that are or were in 8 bits. They are not changed.

    Raises:
        ValueError: one has a NaN, or is negative or infinite and cannot be; the message begins with its name.
    """
    states = member.states
    least = {name: _least(xp, x, name, states[name].signed) for name, x in moments.items()}
    found: dict[str, Mended] = {}
    for (first, second), raised_too in _pairs(member).items():
        if first not in moments:
            continue
        ratios = (_ratios(member, states[first], states[second], hyper, scalars) for hyper in hypers)
        possible, usual = map(max, zip(*ratios, strict=True))
        if not usual or not math.isfinite(possible):
            continue
        for name in (second, *raised_too):
            if least.get(name, math.inf) < _LEAST_HALF:
                before = found[name].values if name in found else moments[name]
                raised = _raised(xp, moments[first], before, possible, usual, states[second].of == "square")
                if raised.elements:
                    found[name] = raised
    return found


def _pairs(member: Member) -> dict[tuple[str, str], list[str]]:
    """The member's averages of the gradient beside its averages of the gradient's size, and the maxima of the latter."""
    states = member.states
    maxima = [name for name, state in states.items() if state.of == "maximum"]
    return {
        (first, second): maxima
        for first, one in states.items()
        for second, other in states.items()
        if one.of == "gradient" and other.of in ("square", "size")
    }


def mended_message(moment: str, counts: Mapping[str, int], kind: str = "parameter") -> str:
    """The warning about elements of a second moment that were raised: how many, by the name of what the moment is of."""
    names = list(counts)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"{moment} was too small beside the first moment in {sum(counts.values())} elements of {kind}"
        f"{'s' * (len(names) > 1)} {shown}, as after saving in float16, and the next steps would be far too large: these "
        "elements are raised to the least that is possible"
    )


def _least(xp: Any, x: Array, name: str, has_sign: bool) -> float:
    """The smallest number of a moment, if it can be one."""
    smallest = math.inf
    for part in _parts(x):
        if not math.prod(part.shape):
            continue
        low, high = (float(y) for y in (xp.aminmax(part) if hasattr(xp, "aminmax") else (part.min(), part.max())))
        if math.isnan(low) or math.isnan(high):
            raise ValueError(f"{name!r} has a NaN")
        if has_sign and not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name!r} has an infinity")
        if not has_sign and low < 0:
            raise ValueError(
                f"{name!r} has a negative number ({low:.3g}), which squares and sizes of gradients cannot be"
            )
        smallest = min(smallest, low)
    return smallest


def _ratios(
    member: Member, first: State, second: State, hyper: Mapping[str, Any], scalars: Mapping[str, float]
) -> tuple[float, float]:
    """The highest m²/v (m/v, where v is a size and no square) after any number of steps, and after those that were done.

    Infinite where there is none; 0 where the hyperparameters leave one of the two out.
    """
    if not {first, second} <= set(member.rule(hyper).states):
        return 0.0, 0.0
    steps = max(scalars["step"], 1.0)
    k = member.numbers({**hyper, "bias_correction": False}, {**scalars, "step": steps}, Host)
    a1, b1, a2 = k[str(first.decay)], k[str(first.gain)], k[str(second.decay)]
    if not a2:
        return math.inf, math.inf
    part, r = (b1**2 / k[str(second.gain)], a1**2 / a2) if second.of == "square" else (b1, a1 / a2)
    try:
        done = part * (steps if r == 1 else (1 - r**steps) / (1 - r))
    except OverflowError:
        done = math.inf
    return part / (1 - r) if r < 1 else done, done


def _raised(xp: Any, first: Array, second: Array, possible: float, usual: float, is_square: bool) -> Mended:
    """The second moment with its elements raised where the first one is beyond what is possible."""
    values, count = second, 0
    slack = _SLACK * possible / usual if is_square else 2 * possible / usual
    for i, (m, v) in enumerate(zip(_parts(first), _parts(second), strict=True)):
        for piece in _pieces(v):
            here, size = v[piece], abs(m[piece])
            needed = (size * size if is_square else size) * (1 / usual)
            wrong = (here < _LEAST_HALF) & (needed > slack * here) & (needed >= _LEAST_NORMAL)
            if found := int(wrong.sum()):
                if not count:
                    values = xp.clone(second) if hasattr(xp, "clone") else second.copy()
                count += found
                _parts(values)[i][piece] = xp.where(wrong, needed, here)
    return Mended(values, count)


def _parts(x: Array) -> list[Array]:
    """A view of the real numbers, or one each of the real and imaginary parts, with a dimension at least."""
    is_complex = x.is_complex() if hasattr(x, "is_complex") else x.dtype.kind == "c"
    return [part.reshape(1) if part.ndim == 0 else part for part in ([x.real, x.imag] if is_complex else [x])]


def _pieces(x: Array) -> Iterator[slice]:
    """Rows that are looked at together."""
    step = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
    for first in range(0, x.shape[0], step):
        yield slice(first, first + step)
