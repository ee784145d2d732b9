"""The engine's words for a rule and for its numbers."""

from __future__ import annotations

from typing import NamedTuple


class Shape:
    """The parts of the sentence that a member has, as bits to be joined by ``|``. The values are the engine's."""

    FIRST = 1
    SQUARE = 2
    ABSOLUTE = 4
    MAXIMUM = 8
    CENTERED = 16
    TRACE = 32
    USE_FIRST = 64
    USE_GRADIENT = 128
    PENALTY = 256


class Coefficients(NamedTuple):
    """The numbers of the sentence for one step. The defaults are those of plain gradient descent at rate 0.

    Where ``w`` is 0, the update has no denominator in this step.
    """

    s: float = 1.0
    l2: float = 0.0
    l1: float = 0.0
    a1: float = 0.0
    b1: float = 0.0
    a2: float = 0.0
    b2: float = 0.0
    c: float = 0.0
    d: float = 0.0
    w: float = 1.0
    eps: float = 0.0
    root: float = 0.0
    z: float = 0.0
    q: float = 0.0
    k: float = 1.0
    eta: float = 0.0
