"""What ``watch=`` measures of a step: sums over the elements of a tensor, of what the step did to it.

``terms`` is the only statement of them. The engine's loop and the kernels for GPUs are written from its recording, and the
executor of arrays calls it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from .declaration import Array, Numbers, Rule

FACTOR_BEHIND = 10.0  # v lags behind where g² is this many times as large

# The sums, in their order: of g², p², u², m·g, g²/max(v̂, ε²); and the numbers of elements whose √v̂ is below ε, whose v̂ lags
# behind g², and whose update was lost when the weight was rounded.
SUMS = ("gradient", "weight", "update", "alignment", "ratio", "under_eps", "behind", "lost")
LARGEST = "largest"  # the largest |u|, which is no sum
# What executors return for each tensor, in float64: the sums, NaN for those that the rule does not have; the largest |u|; the
# sum of ((k − 1)·p)², which is what weight decay did; and the number of elements.
ROW = (*SUMS, LARGEST, "decay", "count")
LEAST_FLOOR = 1e-37  # of v̂, so that 1/v̂ is finite in float32
NUMBERS = ("s", "w", "floor")  # the numbers that they depend on


@dataclass(frozen=True)
class Watched:
    """What a rule keeps that statistics depend on.

    Attributes:
        has_first: whether there is an average of the gradient, m.
        of: what the second moment, v, tracks: ``"square"`` or ``"size"``; None if there is none.
    """

    has_first: bool
    of: Literal["square", "size"] | None


def first_of(rule: Rule) -> int | None:
    """The index of m among the states of a rule: its first average of the gradient. None if it has none."""
    return next((i for i, state in enumerate(rule.states) if state.of == "gradient"), None)


def second_of(rule: Rule) -> int | None:
    """The index of v: the state that the update is divided by, which with a maximum is that. None if there is none."""
    found = [i for i, state in enumerate(rule.states) if state.of in ("square", "size", "maximum")]
    return found[-1] if found else None


def watched(rule: Rule) -> Watched:
    """What the rule keeps."""
    kinds = [state.of for state in rule.states]
    return Watched(first_of(rule) is not None, "size" if "size" in kinds else "square" if "square" in kinds else None)


def numbers_of(numbers: Numbers) -> Numbers:
    """The numbers in ``NUMBERS`` from those of a step; of a rule without w, v̂ is v, and of one without ε, that is 0."""
    eps = numbers.get("eps", 0.0)
    return {"s": numbers["s"], "w": numbers.get("w", 1.0), "floor": eps * eps + LEAST_FLOOR}


def decay_of(rule: Rule, numbers: Numbers) -> Any:
    """What decay multiplies each element of the weight by in a step with these numbers; NaN where that is not measured."""
    return math.nan if rule.is_cautious else numbers["k_minus_one"]


def terms(
    kind: Watched,
    k: Any,
    xp: Any,
    p: Array,
    g: Array,
    q: Array,
    r: Array,
    m: Array = None,
    v: Array = None,
) -> dict[str, Array]:
    """The summands of each of ``SUMS``, and |u| as ``LARGEST``.

    Args:
        kind: what the rule keeps.
        k: ``NUMBERS`` as attributes.
        xp: an array namespace with ``abs`` and ``where``.
        p: the weight before the step.
        g: its gradient, before it is scaled.
        q: the weight after the step, before it is rounded.
        r: the weight as it was stored.
        m: the average of the gradient after the step.
        v: the second moment after the step.
    """
    g, u = k.s * g, q - p
    square = g * g
    found = {"gradient": square, "weight": p * p, "update": u * u, LARGEST: xp.abs(u)}
    found["lost"] = xp.where(r == p, xp.where(u == 0, 0.0, 1.0), 0.0)
    if kind.has_first:
        found["alignment"] = m * g
    if kind.of is not None:
        size = v * v if kind.of == "size" else k.w * v
        size = xp.where(
            size > 0, size, math.inf
        )  # v is 0 if the rule has seen no gradient, or does not use it in this step
        found["ratio"] = square / xp.where(size < k.floor, k.floor, size)
        found["under_eps"] = xp.where(size < k.floor, 1.0, 0.0)
        found["behind"] = xp.where(square > FACTOR_BEHIND * size, 1.0, 0.0)
    return found


def joined(xp: Any, one: Array, other: Array) -> Array:
    """The sums in ``ROW`` over two parts of tensors, from those over each. Both have the sums in their last dimension."""
    found, largest = one + other, ROW.index(LARGEST)
    found[..., largest] = xp.maximum(one[..., largest], other[..., largest])
    return found
