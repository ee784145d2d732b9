"""Which executor steps a parameter, and what executors share.

An executor has the parameters of a group that are stepped by the same code. Its duties are to look up tensors, to reduce
gradients to sums, and to apply the step. The executor for the CPU is in ``adamas.step.engine``, that for other devices in
``adamas.step.arrays_executor``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..rule.declaration import Member, Rule, has_penalty
from .record import Record, Tensor, Tensors, begin_state

_FORCED = "ADAMAS_EXECUTOR"  # the environment variable with which tests force one executor for all parameters

Kind = Literal["engine", "arrays"]


class GroupSpec(NamedTuple):
    """What the parameters of a group have in common.

    Attributes:
        member: the member of the family.
        group: the hyperparameters.
        rule: the member's rule for these hyperparameters.
        penalized: whether a penalty is added to the gradient.
        weights: how 16-bit weights are rounded.
        state_names: the names of the rule's states, in its order.
        scalar_names: the names of the single numbers in each parameter's state, its step count first. Empty if the
            adapter keeps them elsewhere.
        tensors: the framework's operations on tensors.
    """

    member: Member
    group: Mapping[str, Any]
    rule: Rule
    penalized: bool
    weights: str
    state_names: tuple[str, ...]
    scalar_names: tuple[str, ...]
    tensors: Tensors


def spec_of(member: Member, group: Mapping[str, Any], tensors: Tensors, scalar_names: Iterable[str]) -> GroupSpec:
    """The ``GroupSpec`` of a group with these hyperparameters."""
    rule, names = member.rule(group), member.state_names(group)
    return GroupSpec(member, group, rule, has_penalty(group), group["weights"], names, tuple(scalar_names), tensors)


def executor_kind(spec: GroupSpec, record: Record) -> Kind:
    """Which executor steps the parameter.

    The engine steps parameters on the CPU by rules without sums, since a loop over one block at a time cannot compute sums.

    Raises:
        ValueError: the environment asks for an executor that is unknown, or that cannot step the parameter.
    """
    forced = os.environ.get(_FORCED)
    if forced not in (None, "engine", "arrays"):
        raise ValueError(f"{_FORCED}={forced!r} is unknown: use 'engine' or 'arrays'")
    if spec.rule.sums:
        if forced == "engine":
            raise ValueError(
                f"{_FORCED}='engine': the rule {spec.rule.name!r} needs sums over tensors, which the engine does not compute"
            )
        return "arrays"
    if forced is not None:
        return "engine" if forced == "engine" else "arrays"
    return "engine" if spec.tensors.is_on_cpu(record.weight) else "arrays"


def check_gradients(spec: GroupSpec, records: Sequence[Record], gradients: Sequence[Tensor | None]) -> bool:
    """Raises if a gradient is of an unsupported kind, and initializes states that were emptied.

    Returns whether a state was initialized.
    """
    begun = False
    for record, gradient in zip(records, gradients, strict=True):
        if gradient is not None:
            spec.tensors.check_gradient(gradient, record.name, spec.member.name)
            if not record.state:
                begin_state(spec.tensors, spec.member, spec.group, record.weight, record.rows, record.state)
                begun = True
    return begun
