"""The step on JAX and TensorFlow, which compile it: ``adamas.step.arrays`` over the values of Keras's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..rule.declaration import Member, Numbers, has_decay, has_penalty, undecayed
from ..rule.layout import LOW_BITS, scale_name
from ..step import arrays
from .backend import framework

Array = Any
Variable = Any


def numbers(
    member: Member, hyper: Mapping[str, Any], rate: Any, before: Mapping[str, Variable], dtypes: Sequence[str]
) -> tuple[dict[str, Numbers], dict[str, Array]]:
    """The numbers of the coming step for each dtype of the computation, and the member's scalars after it.

    Args:
        member: the member.
        hyper: its hyperparameters, without the learning rate.
        rate: the learning rate.
        before: the member's scalars before the step, including ``step``.
        dtypes: ``"float32"``, ``"float64"`` or both.
    """
    xp = framework.Namespace()
    with xp.computing():
        hyper = {**hyper, "lr": xp.double(framework.opened(rate))}
    scalars = {name: framework.opened(value) for name, value in before.items()}
    found, after = arrays.numbers(xp, member, hyper, scalars, dtypes)
    return found, {name: framework.closed(value) for name, value in after.items()}


def step(
    member: Member,
    hyper: Mapping[str, Any],
    k: Numbers,
    is_decayed: bool,
    weight: Variable,
    gradient: Array,
    state: Mapping[str, Variable],
    weights: str,
    key: int,
    iterations: Variable,
) -> tuple[Array, dict[str, Array]]:
    """One step of one variable: the stored weight and state after it.

    Args:
        member: the member.
        hyper: its hyperparameters, without the learning rate.
        k: the numbers of the step, in the dtype of the computation.
        is_decayed: whether weight decay and the penalties apply to the variable.
        weight: the variable.
        gradient: its gradient.
        state: the state of the variable, by name.
        weights: how 16-bit weights are rounded.
        key: the key of the variable's random numbers (``adamas.rule.formats.tensor_key``).
        iterations: the number of steps before this one.
    """
    count = framework.opened(iterations) + 1
    xp = framework.Namespace(count)
    names = member.state_names(hyper)
    values = {name: framework.opened(value) for name, value in state.items()}
    one = arrays.Step(
        xp,
        member.rule(hyper),
        k if is_decayed else undecayed(k),
        is_decayed and has_penalty(hyper),
        is_decayed and has_decay(hyper),
    )
    before = arrays.Weight(framework.opened(weight), values.get(LOW_BITS))
    stored = [arrays.Stored(values[name], values.get(scale_name(name))) for name in names]
    rounding = arrays.Rounding(xp, key, count, before.high.shape)
    after, states = one.weight(before, framework.opened(gradient), stored, weights, rounding, by_change=True)
    found = {LOW_BITS: after.low}
    for name, moment in zip(names, states, strict=True):
        found |= {name: moment.values, scale_name(name): moment.scale}
    closed = {name: framework.closed(value) for name, value in found.items() if value is not None}
    return framework.closed(after.high), closed
