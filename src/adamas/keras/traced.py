"""The step as a compiled program runs it, on JAX and TensorFlow: ``adamas.rule`` over their arrays, with the numbers of
``adamas.family`` computed once a step within the program, since there the step is known only when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import rule_before as rule
from ..family import Coefficients, Member, Shape, Traced
from ..rule import layout
from . import storage
from .backend import arrays

Array = Any


class Numbers(NamedTuple):
    """The numbers of a step in one dtype, for the variables that have the decay and the penalties."""

    coefficients: Coefficients
    drift: Array | float  # k − 1, which float32 would not keep

    def undecayed(self) -> Numbers:
        """The same for the others."""
        return Numbers(without_decay(self.coefficients), 0.0)


def without_decay(k: Coefficients) -> Coefficients:
    """The numbers for variables without decay and penalties."""
    return k._replace(l2=0.0, l1=0.0, k=1.0)


def undecayed(shape: int) -> int:
    """The shape for variables without decay and penalties."""
    return shape & ~Shape.PENALTY


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


def step(
    shape: int,
    one: Numbers,
    names: Sequence[str | None],
    weight: Array,
    gradient: Array,
    state: Mapping[str, Array],
    weights: str,
    rounding: storage.Rounding,
) -> tuple[Array, dict[str, Array]]:
    """One step of one variable: the weight and the state after it, as they are stored.

    Args:
        shape: of the rule.
        one: the numbers of the step.
        names: of the moments, None where there is none.
        weight: as it is stored.
        gradient: in the dtype that is computed in.
        state: what the variable has, by name.
        weights: how 16-bit weights are rounded.
        rounding: what the roundings need.
    """
    xp, k, compute, dtype = arrays.xp, one.coefficients, arrays.dtype_of(gradient), arrays.dtype_of(weight)
    low = state.get(layout.LOW_BITS)
    p = arrays.cast(weight, compute) if low is None else storage.joined(weight, low, dtype, rounding.xp)
    old = rule.Moments(
        *(
            None
            if name is None
            else storage.loaded(state[name], state.get(layout.scale_name(name)), compute, rounding.xp)
            for name in names
        )
    )
    g = rule.gradient(k, shape, xp, p, gradient)
    change, new = rule.update(k._replace(k=one.drift), shape, xp, p, g, rule.moments(k, shape, xp, g, old))
    # A rate of 0 without decay leaves the weight as it is, whatever the gradient was.
    still = (k.eta == 0.0) & (one.drift == 0.0)
    p = xp.where(still, p, p + change)

    after: dict[str, Array] = {}
    factors = (k.a1, k.a2, 1.0, k.q)
    for name, value, what, factor in zip(names, new, storage.WHATS, factors, strict=True):
        if name is None:
            continue
        form, scale = arrays.dtype_of(state[name]), state.get(layout.scale_name(name))
        if scale is None:
            after[name] = storage.kept(value, form, rounding, what)
        else:
            is_average = what == "second" and bool(shape & Shape.SQUARE)
            coded = storage.coded(value, form, scale, rounding, factor, is_average)
            after[name], after[layout.scale_name(name)] = coded
    if low is not None:
        stored, after[layout.LOW_BITS] = storage.split(p, dtype, rounding.xp)
    elif weights == "stochastic" and dtype in layout.HALVES:
        stored = storage.rounded(p, dtype, rounding)
    else:
        stored = arrays.cast(p, dtype)
    return stored, after
