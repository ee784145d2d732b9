"""Results of a member's rule, for the examples in docstrings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from adamas.rule import house
from adamas.rule.declaration import Member, has_penalty
from adamas.rule.names import from_arguments
from adamas.step.namespaces.numpy import Namespace


def after_a_step(member: Member, adapter: str, **given: Any) -> str:
    """The value of x, starting at 5, after a step on x² with a rate of 0.001 and an adapter's defaults, as Python shows it."""
    hyper = {**from_arguments(adapter, member, {}), "lr": 0.001, **given}
    hyper = {name: 0.0 if value is None and name != "max_grad_norm" else value for name, value in hyper.items()}
    numbers = member.numbers_of(hyper, member.advance(hyper, dict(member.scalars)))
    rule = member.rule(hyper).at(numbers)
    x = np.array([5.0]) if rule.is_elementwise else np.array([[5.0]])
    states = tuple(np.full(x.shape, member.start_of(name, hyper)) for name in member.state_names(hyper))
    given = Namespace(), x, 2 * x, states, has_penalty(hyper)
    after, _ = house.step(rule, SimpleNamespace(**house.with_sums(rule, numbers, *given)), *given)
    return repr(round(after.item(), 5))
