"""The check of members that users declare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import house
from .declaration import HOUSE_NUMBERS, WEIGHT_DRAW, Flag, Hypers, Member, Number, Numbers, Rule
from .hyperparameters import Terms, checked
from .members import MEMBERS
from .recorder import Value, record, record_term
from .shared import defaults
from .writing import COMPARISONS, OPERATORS

# The operations on arrays that a rule may use, besides those of numbers, which are computed on the host.
_OF_ARRAYS = {"input", "neg", "abs", "sqrt", "sign", "where", "maximum", *OPERATORS, *COMPARISONS}
_USABLE = "use +, -, *, /, comparisons, and abs, sqrt, sign, where and maximum of xp"
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
    with _told(f"{member.name}: a default is out of range"):
        checked(member, {h.name: h.default for h in member.hyperparameters}, Terms("torch"))
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
    with _told(f"{member.name}: numbers cannot be computed"):
        numbers = member.numbers_of(hyper, member.advance(hyper, dict(member.scalars)))
    with _told(f"{member.name}: make_rule cannot choose a rule"):
        rules = list(member.rule(hyper).variants())
    for rule in rules:
        _check_names(member, rule, numbers)
        with _told(f"{member.name}: the rule {rule.name!r} cannot be computed for NumPy's arrays"):
            _check_results(rule, numbers)
        with _told(f"{member.name}: the rule {rule.name!r} cannot be recorded for kernels"):
            _check_recordings(rule)


@contextmanager
def _told(words: str) -> Iterator[None]:
    """A context whose errors become a ValueError that begins with these words."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{words}: there is no {error}") from error
    except AttributeError as error:
        if isinstance(error.obj, SimpleNamespace):
            raise ValueError(f"{words}: it reads k.{error.name}, and there is no number of this name") from error
        if isinstance(error.obj, Value):
            raise ValueError(
                f"{words}: it takes .{error.name} of an array: {_USABLE}, and declare sums with sums="
            ) from error
        raise ValueError(f"{words}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{words}: {error}") from error


def _check_names(member: Member, rule: Rule, numbers: Numbers) -> None:
    """Raises ValueError unless the names of states and numbers fit together."""
    words = f"{member.name}: the rule {rule.name!r}"
    states, sums = rule.states, [one.name for one in rule.sums]
    if unnamed := sorted({state.role for state in states} - set(member.names)):
        raise ValueError(f"{member.name}: names has no name for the state {unnamed[0]!r} of the rule {rule.name!r}")
    decays = [state.decay for state in states if state.decay is not None]
    if missing := sorted({*rule.numbers, *decays} - set(numbers)):
        raise ValueError(
            f"{member.name}: numbers does not return {missing[0]!r}, which the rule {rule.name!r} reads; what follows from "
            "its sums is not listed among its numbers"
        )
    draws = [WEIGHT_DRAW, *(state.draw for state in states if state.draw is not None)]
    if len(set(draws)) < len(draws):
        raise ValueError(f"{words}: each state must have a draw of its own; {WEIGHT_DRAW} is that of weights")
    taken = {*HOUSE_NUMBERS, "k_minus_one", "agreement"}
    if reserved := sorted(taken.intersection((*rule.numbers, *sums)) | (set(rule.numbers) & set(sums))):
        raise ValueError(
            f"{words}: {reserved[0]!r} is the name of another number of the step: give the rule's another one"
        )
    if unknown := [one for one in rule.sums if one.over not in ("tensor", "all")]:
        raise ValueError(f"{words}: its sum {unknown[0].name!r} is over {unknown[0].over!r}: use 'tensor' or 'all'")


def _check_results(rule: Rule, numbers: Numbers) -> None:
    """Raises ValueError unless the rule returns the update and the new states, for a tensor of ones with states of ones."""
    x = np.ones((2, 3))
    x.flags.writeable = False  # nothing may be written in place
    states = tuple(x[:] for _ in rule.states)
    with np.errstate(all="ignore"):
        known = SimpleNamespace(**house.with_sums(rule, numbers, np, x, x, states, False))
        found = rule.update(known, np, x, x, *states)
    wanted = f"it must return the update and {len(states)} new states, a tuple, all of the shape of the weight"
    if not isinstance(found, tuple):
        raise ValueError(f"it returns a {type(found).__name__}; {wanted}")
    shapes = [np.shape(one) for one in found]
    if len(found) != 1 + len(states) or shapes[0] not in ((), x.shape) or any(one != x.shape for one in shapes[1:]):
        raise ValueError(f"for arrays of shape {x.shape} it returns arrays of the shapes {shapes}; {wanted}")


def _check_recordings(rule: Rule) -> None:
    """Raises ValueError for operations that kernels do not have."""
    for penalized in (False, True):
        terms = [record_term(rule, i, penalized) for i in range(len(rule.sums))]
        for recording in (record(rule, penalized), *terms):
            used = {value.operation for value in recording.operations if not value.is_number}
            if others := sorted(used - _OF_ARRAYS):
                raise ValueError(f"{others[0]} of arrays is not among their operations: {_USABLE}")
