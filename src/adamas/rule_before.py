"""The one rule of the Adam family over an array namespace.

``moments`` and ``update`` are the sentence of ``adamas.family``, for arrays of any library whose namespace has ``abs``,
``sqrt``, ``sign``, ``where`` and ``maximum``. They are what runs where the engine has no kernel, and, over NumPy in
float64, the oracle of every test. This module imports ``adamas.family`` alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .family import Coefficients, Shape

Array = Any


class Moments(NamedTuple):
    """The state of one parameter, each part an array of its shape or None: m, v, h and r of the sentence."""

    first: Array = None
    second: Array = None
    maximum: Array = None
    trace: Array = None


def gradient(k: Coefficients, shape: int, xp: Any, p: Array, g: Array) -> Array:
    """The gradient that the user meant: scaled, and with the coupled penalties."""
    g = k.s * g
    return g + k.l2 * p + k.l1 * xp.sign(p) if shape & Shape.PENALTY else g


def moments(k: Coefficients, shape: int, xp: Any, g: Array, old: Moments) -> Moments:
    """The moments after the gradient ``g``; the trace is ``update``'s."""
    first, second, maximum, trace = old
    if shape & Shape.FIRST:
        first = k.a1 * first + k.b1 * g
    if shape & Shape.SQUARE:
        second = k.a2 * second + k.b2 * g * g
    if shape & Shape.ABSOLUTE:
        second = xp.maximum(k.a2 * second, xp.abs(g) + k.eps)
    if shape & Shape.MAXIMUM:
        maximum = xp.maximum(maximum, second)
    return Moments(first, second, maximum, trace)


def update(k: Coefficients, shape: int, xp: Any, p: Array, g: Array, new: Moments) -> tuple[Array, Moments]:
    """The weight after a step with the moments ``new``, and the moments with their trace brought up to date."""
    first, second, maximum, trace = new
    u: Array = 0.0
    if shape & Shape.USE_FIRST:
        u = k.c * first
    if shape & Shape.USE_GRADIENT:
        u = u + k.d * g
    if shape & Shape.ABSOLUTE:
        u = u / second
    if shape & Shape.SQUARE:
        size = maximum if shape & Shape.MAXIMUM else second
        if shape & Shape.CENTERED:
            # An infinite v stays so, also where m² overflows with it.
            variance = xp.where(size < math.inf, size - k.z * first * first, size)
            size = xp.where(variance < 0, 0 * variance, variance)
        u = _divided(k, xp, u, size)
    if shape & Shape.TRACE:
        u = trace = k.q * trace + u
    return k.k * p - k.eta * u, Moments(first, second, maximum, trace)


def _divided(k: Coefficients, xp: Any, u: Array, size: Array) -> Array:
    """The update over its denominator, which there is not where w is 0.

    √w·√(v + ρ/w) is √(w·v + ρ), and does not overflow before v does.
    """
    if isinstance(k.w, float):
        return u / (math.sqrt(k.w) * xp.sqrt(size + k.root / k.w) + k.eps) if k.w else u
    return xp.where(k.w > 0, u / (xp.sqrt(k.w) * xp.sqrt(size + k.root / k.w) + k.eps), u)


def step(k: Coefficients, shape: int, xp: Any, p: Array, g: Array, old: Moments) -> tuple[Array, Moments]:
    """One step of the rule: the new weight and the new moments. Nothing is written in place.

    A rate of 0 without decay leaves the weight as it is, whatever the gradient was.
    """
    g = gradient(k, shape, xp, p, g)
    weight, new = update(k, shape, xp, p, g, moments(k, shape, xp, g, old))
    return (weight if k.eta or k.k != 1 else p), new
