"""Bounds on the moments of a loaded state: possible values of each, and of the two moments of one element together.

A second moment that was saved in float16 is 0 if it was below 2⁻²⁵, while the first moment of the same element may not be: the
next step would divide by almost nothing. But both moments are computed from the same gradients. With m ← a1·m + b1·g and
v ← a2·v + b2·g², the Cauchy-Schwarz inequality gives after t steps ::

    m² ≤ v · b1²/b2 · (1 − rᵗ)/(1 − r),   r = a1²/a2

and if v is a decaying maximum, ``v ← max(a2·v, |g|)``, ``|m| ≤ v · b1 · (1 − rᵗ)/(1 − r)`` with r = a1/a2. So the first moment
gives a lower bound on the second. Arrays are NumPy's or PyTorch's, and ``xp`` is ``numpy`` or ``torch``. This module imports
no framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import formats
from .declaration import Host, Member, State
from .layout import WIDTHS, form_of, padding, pieces, scale_shape, unpacked

Array = Any

# Only elements that float16 cannot represent are raised (its smallest number is 2⁻²⁴), unless the bound is 0 in float32 too.
_LEAST_HALF, _LEAST_NORMAL = 2.0**-24, 2.0**-126
# The factor by which m² may exceed the bound, since moments are rounded and hyperparameters may have changed: 2 in m.
_SLACK = 4.0
_CHUNK = 1 << 18  # elements that are checked at a time
_RANGES = {  # of scalars that can be other numbers than finite ones from 0 up, or are named in another way
    "step": (0.0, math.inf, "a finite, nonnegative number of steps"),
    "mu_product": (0.0, 1.0, "a number from 0 to 1"),  # of numbers from 0 to 1
    "d_numerator": (-math.inf, math.inf, "a finite number"),
}


class Mended(NamedTuple):
    """A second moment whose elements were raised if they were too small.

    Attributes:
        values: the moment.
        elements: the number of elements that were raised.
    """

    values: Array
    elements: int


def check_scalars(member: Member, scalars: Mapping[str, float]) -> None:
    """Raise ValueError if a scalar of a parameter's state has an impossible value. The message begins with its name."""
    for name in member.scalar_names:
        value, (least, most, words) = scalars[name], _RANGES.get(name, (0.0, math.inf, "a finite, nonnegative number"))
        if not least <= value <= most or math.isinf(value):
            raise ValueError(f"{name!r} must be {words}, not {value}")


def check_scale(xp: Any, codes: Array, scale: Array, shape: Sequence[int], what: str, is_former: bool = False) -> None:
    """Raise ValueError if the codes of a parameter of this shape or their scales have impossible values.

    Packed codes end with zeros in each row. A scale is negative if and only if its block has a code for a number that is not
    finite, and 0 only where all codes are 0. Its two low bits are one of the choices of ``adamas.rule.formats``, unless it is
    of the former format (``adamas.rule.former``).
    """
    if not bool(xp.isfinite(scale).all()):
        raise ValueError(f"the scales of {what} have a NaN or an infinity")
    if not is_former and bool((formats.choice_of(xp, scale) >= formats.CHOICES).any()):
        raise ValueError(f"the scales of {what} have a number whose two low bits are not the choice of a grid")
    has_sign, width = codes.dtype == xp.int8, WIDTHS[form_of(codes.shape, shape)]
    if bool((padding(xp, codes, shape, width, has_sign) != 0).any()):
        raise ValueError(f"the codes of {what} have a number behind the end of a row")
    scale = scale.reshape(scale_shape(shape))  # the former format has another
    if bool((scale < 0).any()):
        marked = formats.can_be_marked(xp, unpacked(xp, codes, width, has_sign), has_sign, width)
        if bool(((scale < 0) & ~marked).any()):
            raise ValueError(f"the scales of {what} have a negative number")
    is_zero = formats.float_bits(xp, scale) < formats.CHOICES  # a choice without a scale too
    if bool(is_zero.any()) and bool((is_zero & (unpacked(xp, codes, width, has_sign) != 0).any(-1)).any()):
        raise ValueError(f"the scales of {what} have a 0 where its codes are not 0")


def mended(
    xp: Any,
    member: Member,
    hypers: Sequence[Mapping[str, Any]],
    scalars: Mapping[str, float],
    moments: Mapping[str, Array],
) -> dict[str, Mended]:
    """Second moments with elements that are too small for the first moments, raised to the lower bound.

    Args:
        xp: the namespace of the arrays.
        member: the member that has the moments.
        hypers: the hyperparameters that may have produced the moments.
        scalars: the scalars of the parameter's state.
        moments: the moments by name, in float32 or wider, without those that are or were in 8 bits. They are not changed.

    Raises:
        ValueError: a moment has a NaN, or an impossible negative or infinite value; the message begins with its name.
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
    """The pairs of an average of the gradient and one of its magnitude, each with the member's maxima of the latter."""
    states = member.states
    maxima = [name for name, state in states.items() if state.of == "maximum"]
    return {
        (first, second): maxima
        for first, one in states.items()
        for second, other in states.items()
        if one.of == "gradient" and other.of in ("square", "size")
    }


def mended_message(moment: str, counts: Mapping[str, int], kind: str = "parameter") -> str:
    """The warning about raised elements of a second moment; ``counts`` has their number for each parameter."""
    names = list(counts)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"{moment} was too small for the first moment in {sum(counts.values())} elements of {kind}"
        f"{'s' * (len(names) > 1)} {shown}, as after saving in float16, and the next steps would be far too large: these "
        "elements are raised to the smallest possible value"
    )


def _least(xp: Any, x: Array, name: str, has_sign: bool) -> float:
    """The smallest element of a moment, after a check for impossible values."""
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
    """The highest m²/v (or m/v, if v is not a square) after any number of steps, and after the number of steps so far.

    Infinite if there is no bound; 0 if the hyperparameters leave out one of the moments.
    """
    if not {first, second} <= set(member.rule(hyper).states):
        return 0.0, 0.0
    steps = max(scalars["step"], 1.0)
    plain = {**hyper, "bias_correction": False}
    # The coefficients of the first moment may change monotonically with the steps.
    begun, k = (member.numbers(plain, {**scalars, "step": step}, Host) for step in (1.0, steps))
    a1, b1 = (max(begun[name], k[name]) for name in (str(first.decay), str(first.gain)))
    a2 = k[str(second.decay)]
    if not a2:
        return math.inf, math.inf
    part, r = (b1**2 / k[str(second.gain)], a1**2 / a2) if second.of == "square" else (b1, a1 / a2)
    try:
        done = part * (steps if r == 1 else (1 - r**steps) / (1 - r))
    except OverflowError:
        done = math.inf
    return part / (1 - r) if r < 1 else done, done


def _raised(xp: Any, first: Array, second: Array, possible: float, usual: float, is_square: bool) -> Mended:
    """The second moment, with its elements raised where the first moment exceeds the bound."""
    values, count = second, 0
    slack = _SLACK * possible / usual if is_square else 2 * possible / usual
    for i, (m, v) in enumerate(zip(_parts(first), _parts(second), strict=True)):
        for piece in pieces(v.shape, _CHUNK):
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
    """A view of a real array, or views of the real and imaginary parts, with at least one dimension."""
    is_complex = x.is_complex() if hasattr(x, "is_complex") else x.dtype.kind == "c"
    return [part.reshape(1) if part.ndim == 0 else part for part in ([x.real, x.imag] if is_complex else [x])]
