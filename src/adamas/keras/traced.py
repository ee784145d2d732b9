"""The step as a compiled program runs it, on JAX and TensorFlow: ``adamas.rule`` over their arrays, with the numbers of
``adamas.family`` computed once a step within the program, since there the step is known only when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .. import rule
from ..family import Coefficients, Member, Shape, Traced
from .backend import arrays

Array = Any


class Numbers(NamedTuple):
    """The numbers of a step in one dtype, for the variables that have the decay and the penalties."""

    coefficients: Coefficients
    drift: Array | float  # k − 1, which float32 would not keep

    def undecayed(self) -> Numbers:
        """The same for the others."""
        return Numbers(self.coefficients._replace(l2=0.0, l1=0.0, k=1.0), 0.0)


def numbers(
    member: Member, hyper: Mapping[str, Any], rate: Any, before: Mapping[str, Array], dtypes: Iterable[str]
) -> tuple[dict[str, Numbers], dict[str, Array]]:
    """The numbers of the coming step for each dtype that is computed in, and the member's scalars after it.

    Args:
        member: the member.
        hyper: its hyperparameters but the learning rate.
        rate: the learning rate.
        before: the member's scalars before the step, of which ``step`` is one.
        dtypes: ``"float32"``, ``"float64"`` or both.
    """
    with arrays.exactly():
        now = member.advance(hyper, {name: arrays.double(value) for name, value in before.items()})
        k = member.full_coefficients({**hyper, "lr": arrays.double(rate)}, now, f=Traced(arrays.xp))
        found = {
            dtype: Numbers(Coefficients(*(arrays.narrowed(x, dtype) for x in k)), arrays.narrowed(k.k - 1, dtype))
            for dtype in dtypes
        }
        after = {name: arrays.narrowed(now[name], "float32") for name in before if name != "step"}
    return found, after


def step(shape: int, one: Numbers, weight: Array, gradient: Array, old: rule.Moments) -> tuple[Array, rule.Moments]:
    """One step of one variable: the weight and the moments after it, in the dtype that is computed in."""
    xp, k = arrays.xp, one.coefficients
    g = rule.gradient(k, shape, xp, weight, gradient)
    new = rule.moments(k, shape, xp, g, old)
    change, new = rule.update(k._replace(k=one.drift), shape, xp, weight, g, new)
    # A rate of 0 without decay leaves the weight as it is, whatever the gradient was.
    still = (k.eta == 0.0) & (one.drift == 0.0)
    return xp.where(still, weight, weight + change), new


def undecayed(shape: int) -> int:
    """The shape for variables without decay and penalties."""
    return shape & ~Shape.PENALTY
