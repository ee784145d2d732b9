"""Results of a member's rule, for the examples in docstrings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from adamas.rule import house
from adamas.rule.declaration import Member, has_penalty
from adamas.rule.names import arguments, from_arguments
from adamas.step.namespaces.numpy import Namespace


def of_example(member: Member) -> dict[str, float]:
    """The hyperparameters of the examples: a usual rate or, for Prodigy, an estimate with which a step can be seen."""
    return {"lr": 1.0, "d0": 0.1} if member.shared else {"lr": 0.001}


def example_arguments(member: Member, adapter: str) -> str:
    """The arguments of the examples, the rate first and without its name in optax."""
    names = arguments(adapter, member)
    given = [f"{names[name][0]}={value}" for name, value in of_example(member).items()]
    return ", ".join(given).removeprefix("learning_rate=")


def after_a_step(member: Member, adapter: str, **given: Any) -> str:
    """The value of x, starting at 5, after a step on x² with ``of_example`` and an adapter's defaults, as Python shows it."""
    hyper = {**from_arguments(adapter, member, {}), **of_example(member), **given}
    hyper = {name: 0.0 if value is None and name != "max_grad_norm" else value for name, value in hyper.items()}
    numbers = member.numbers_of(hyper, member.advance(hyper, dict(member.scalars)))
    rule = member.rule(hyper).at(numbers)
    x = np.array([5.0]) if rule.is_elementwise else np.array([[5.0]])
    states = tuple(np.full(x.shape, member.start_of(name, hyper)) for name in member.state_names(hyper))
    given = Namespace(), x, 2 * x, states, has_penalty(hyper)
    after, _ = house.step(rule, SimpleNamespace(**house.with_sums(rule, numbers, *given)), *given)
    return repr(round(after.item(), 5))
