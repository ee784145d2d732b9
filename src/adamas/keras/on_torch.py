"""The step on PyTorch: ``adamas.step``, as for ``adamas.torch``, with the learning rate and the counts that Keras keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from ..rule.declaration import Member, Numbers, has_penalty
from ..step import sums
from ..step.engine import same_objects
from ..step.namespaces.torch import Namespace
from ..step.plan import GroupPlan, look
from ..step.plan import step as step_plans
from ..step.record import Record, Scalars
from ..torch.tensors import TENSORS

__all__ = ["Namespace", "closed", "opened", "plan_of", "step"]


def opened(variable: Any, rows: None = None) -> Tensor:
    """The value of a variable of Keras, or a tensor, as an array of the namespace."""
    tensor: Tensor = getattr(variable, "value", variable)
    return tensor


def closed(x: Tensor) -> Tensor:
    """An array of the namespace as Keras takes it."""
    return x


def plan_of(
    plan: GroupPlan | None,
    member: Member,
    hyper: Mapping[str, Any],
    variables: Sequence[Any],
    record: Callable[[Any], Record],
) -> GroupPlan:
    """The plan of these variables: the last one, or a new one if a tensor or an option was replaced.

    Args:
        plan: the last plan, or None.
        member: the member.
        hyper: its hyperparameters.
        variables: the variables that have a gradient.
        record: makes the record of a variable.
    """
    tensors = [variable.value for variable in variables]
    options = member.rule(hyper), has_penalty(hyper), hyper["weights"]
    if plan is not None and plan.basis[0] == options and same_objects(plan.basis[1], tensors):
        return plan
    return GroupPlan(member, hyper, [record(variable) for variable in variables], TENSORS, (options, tensors), False)


@_disable_dynamo  # a compiled training step has a graph break here
def step(
    plan: GroupPlan,
    member: Member,
    hyper: Mapping[str, Any],
    before: Mapping[str, Any],
    gradients: Sequence[Tensor],
    is_watched: bool,
) -> tuple[dict[str, float], list[Any]]:
    """Steps all variables of the plan in place.

    Returns the member's scalars after the step and, if it is watched, ``adamas.rule.statistics.ROW`` of each variable.

    Args:
        plan: the plan of the variables.
        member: the member.
        hyper: its hyperparameters.
        before: the member's scalars.
        gradients: one for each variable.
        is_watched: whether there are statistics of the step.

    Raises:
        ValueError: a gradient cannot be used; the message names it. Nothing was changed.
    """
    after = member.advance(hyper, {name: float(value) for name, value in before.items()})
    numbers = member.numbers_of(hyper, after)
    count = after["step"]

    def advance(_: Scalars) -> tuple[Numbers, Scalars]:
        return numbers, (count,)

    try:
        look([plan], [list(gradients)])
        plan.prepare(advance)
        plan.watch(is_watched)
        after |= sums.compute([plan], None, torch.get_num_threads())
        step_plans([plan], torch.get_num_threads(), [])
        rows = [row for _, rows in plan.statistics() for row in rows]
    finally:
        plan.release()
    return after, rows
