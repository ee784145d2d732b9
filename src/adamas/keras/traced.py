"""The step on JAX and TensorFlow, which compile it: ``adamas.step.arrays`` over the values of Keras's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..rule.declaration import Member
from ..rule.layout import LOW_BITS, scale_name
from ..step import arrays
from ..step.record import Record
from .backend import framework

Array = Any
Variable = Any


class Moved:
    """What a step of several variables has done.

    Attributes:
        updates: the changes of the variables, before they are rounded to 16 bits.
        weights: the variables before the step.
    """

    def __init__(self) -> None:
        self.updates: list[Array] = []
        self.weights: list[Array] = []

    def add(self, before: Array, after: Array, stored: Array, states: Sequence[Array]) -> None:
        """Adds those of a variable; called by ``adamas.step.arrays.Step.weight``."""
        self.updates.append(framework.closed(after - before))
        self.weights.append(framework.closed(before))


def steps(
    member: Member,
    hyper: Mapping[str, Any],
    rate: Any,
    before: Mapping[str, Variable],
    records: Sequence[Record],
    gradients: Sequence[Array],
) -> tuple[list[arrays.Step], dict[str, Array]]:
    """The coming step of each variable, and the member's scalars after it.

    Args:
        member: the member.
        hyper: its hyperparameters, without the learning rate.
        rate: the learning rate.
        before: the member's scalars before the step, including ``step``.
        records: of the variables.
        gradients: one for each variable.
    """
    scalars = {name: framework.opened(value) for name, value in before.items()}
    xp, rule = framework.Namespace(scalars["step"] + 1), member.rule(hyper)
    with xp.computing():
        rate = xp.double(framework.opened(rate))
    parameters = [_parameter(member, hyper, *one) for one in zip(records, gradients, strict=True)]
    dtypes = {one.compute_dtype(xp) for one in parameters} | ({"float64"} if rule.sums else set())
    numbers, after = arrays.numbers(xp, member, {**hyper, "lr": rate}, scalars, sorted(dtypes))
    are_decayed = [record.is_decayed for record in records]
    found, after = arrays.steps(xp, rule, hyper, numbers, parameters, are_decayed, after)
    return found, {name: framework.closed(value) for name, value in after.items()}


def step(
    member: Member,
    hyper: Mapping[str, Any],
    step: arrays.Step,
    record: Record,
    gradient: Array,
    weights: str,
    iterations: Variable,
    moved: Moved | None,
    rows: Any = None,
) -> tuple[Array, dict[str, Array]]:
    """One step of one variable: the stored weight and state after it.

    Args:
        member: the member.
        hyper: its hyperparameters, without the learning rate.
        step: the step of the variable.
        record: of the variable.
        gradient: its gradient.
        weights: how 16-bit weights are rounded.
        iterations: the number of steps before this one.
        moved: if given, what this step adds to.
        rows: the indices of the rows of the variable in record and gradient, if these are not the whole.
    """
    one = _parameter(member, hyper, record, gradient)
    at = None if rows is None else framework.opened(rows)
    rounding = arrays.Rounding(step.xp, record.key, framework.opened(iterations) + 1, one.g.shape, rows=at)
    after, states = step.weight(one, weights, rounding, True, None if moved is None else moved.add)
    found = {LOW_BITS: after.low}
    for name, moment in zip(member.state_names(hyper), states, strict=True):
        found |= {name: moment.values, scale_name(name): moment.scale}
    closed = {name: framework.closed(value, rows) for name, value in found.items() if value is not None}
    return framework.closed(after.high, rows), closed


def _parameter(member: Member, hyper: Mapping[str, Any], record: Record, gradient: Array) -> arrays.Parameter:
    state = record.state
    states = [arrays.Stored(state[name], state.get(scale_name(name))) for name in member.state_names(hyper)]
    return arrays.Parameter(arrays.Weight(record.weight, state.get(LOW_BITS)), framework.opened(gradient), states)
