"""The check of members that users declare."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import house
from .declaration import HOUSE_NUMBERS, WEIGHT_DRAW, Flag, Hypers, Member, Number, Rule
from .members import MEMBERS
from .recorder import record, record_term
from .shared import defaults

# The arguments of optimizers that are no hyperparameters.
_ARGUMENTS = frozenset(
    {"params", "foreach", "capturable", "differentiable", "fused", "process_group", "offload", "base_lr"}
)


def check_member(member: Member) -> None:
    """Checks a member that a user has declared.

    Raises:
        TypeError: it is no ``Member``.
        ValueError: the declaration contradicts itself; the message names the part.
    """
    if not isinstance(member, Member):
        raise TypeError(f"member must be an adamas.own.Member, not {type(member).__name__}")
    if member.name in MEMBERS:
        raise ValueError(f"member: the family has an optimizer of the name {member.name}: give it another one")
    if len({*member.names.values(), *member.scalar_names}) < len(member.names) + len(member.scalar_names):
        raise ValueError(
            f"{member.name}: names must give every state a name of its own, and none of {member.scalar_names}"
        )
    _check_hyperparameters(member)
    hyper: dict[str, Any] = {**defaults(member, "torch"), "base_lr": 1.0}
    structural = [h.name for h in member.hyperparameters if h.structural]
    for values in itertools.product((False, True), repeat=len(structural)):
        _check({**hyper, **dict(zip(structural, values, strict=True))}, member)


def _check_hyperparameters(member: Member) -> None:
    names = [h.name for h in member.hyperparameters]
    if "lr" not in names:
        raise ValueError(f"{member.name}: hyperparameters must have lr: begin them with adamas.own.learning_rate(1e-3)")
    for h in member.hyperparameters:
        if h.name in _ARGUMENTS or names.count(h.name) > 1:
            raise ValueError(f"{member.name}: the hyperparameter {h.name!r} is another argument already: rename it")
        if h.structural and not isinstance(h, Flag | Number):
            raise ValueError(
                f"{member.name}: {h.name!r} must be a Flag or a Number to be structural, not a {type(h).__name__}"
            )


def _check(hyper: Hypers, member: Member) -> None:
    """Raises ValueError unless a step with these hyperparameters can be made, and recorded for kernels."""
    name = member.name
    numbers = member.numbers_of(hyper, member.advance(hyper, dict(member.scalars)))
    for rule in member.rule(hyper).variants():
        roles = [state.role for state in rule.states]
        if unnamed := sorted(set(roles) - set(member.names)):
            raise ValueError(f"{name}: names has no name for the state {unnamed[0]!r} of the rule {rule.name!r}")
        decays = [state.decay for state in rule.states if state.decay is not None]
        if missing := sorted({*rule.numbers, *decays} - set(numbers)):
            raise ValueError(f"{name}: numbers does not return {missing[0]!r}, which the rule {rule.name!r} reads")
        draws = [WEIGHT_DRAW, *(state.draw for state in rule.states if state.draw is not None)]
        if len(set(draws)) < len(draws):
            raise ValueError(
                f"{name}: each state of the rule {rule.name!r} must have a draw of its own; {WEIGHT_DRAW} is that of weights"
            )
        wanted = [one.name for one in rule.sums]
        taken = {*HOUSE_NUMBERS, "k_minus_one", "agreement"}
        if reserved := sorted(taken.intersection((*rule.numbers, *wanted)) | (set(rule.numbers) & set(wanted))):
            raise ValueError(
                f"{name}: {reserved[0]!r} is the name of another number of the step: give the rule's another one"
            )
        x = np.ones((2, 3))
        try:
            found = _made(rule, numbers, x)
        except ValueError as error:
            raise ValueError(
                f"{name}: the rule {rule.name!r} cannot be computed for NumPy's arrays: {error}"
            ) from error
        update, *states = (np.shape(one) for one in found)
        shapes = [update, *states]
        if len(states) != len(roles) or update not in ((), x.shape) or any(shape != x.shape for shape in states):
            raise ValueError(
                f"{name}: for arrays of shape {x.shape} the rule {rule.name!r} returns arrays of the shapes {shapes}; it must "
                f"return the update and {len(roles)} new states, all of the shape of the weight"
            )
        try:
            for penalized in (False, True):
                record(rule, penalized)
                for i in range(len(rule.sums)):
                    record_term(rule, i, penalized)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{name}: the rule {rule.name!r} cannot be recorded for kernels: {error}") from error


def _made(rule: Rule, numbers: dict[str, Any], x: Any) -> Sequence[Any]:
    """What the rule returns for a tensor of ones whose states are ones."""
    x.flags.writeable = False  # nothing may be written in place
    states = tuple(x[:] for _ in rule.states)
    with np.errstate(all="ignore"):
        known = SimpleNamespace(**house.with_sums(rule, numbers, np, x, x, states, False))
        return rule.update(known, np, x, x, *states)
