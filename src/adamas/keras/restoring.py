"""Checks and mends the saved values of an optimizer's variables before any of them is changed."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..rule import bounds, former, layout
from ..rule.declaration import Member
from ..schedules.plateau import Observed
from .variables import Variable, dtype_of, path_of

Array = Any

_EXACT = ("int8", "uint8", "int16")  # codes and low bits, which mean nothing in another dtype
_REMEDY = ". Load an earlier state, or the model alone (load_model(…, compile=False)) to begin without one"


def read_description(text: Any) -> dict[str, Any]:
    """The description that ``save_own_variables`` wrote as JSON.

    Raises:
        ValueError: it is damaged.
    """
    try:
        described = json.loads(bytes(np.asarray(text)))
    except (ValueError, RecursionError) as error:
        raise _unfit(f"its description cannot be read ({error})") from error
    if not isinstance(described, dict) or "layout" not in described or not isinstance(described.get("observed"), list):
        raise _unfit("its description has no 'layout' and list of what was 'observed'")
    return described


def read_values(store: Any, count: int) -> list[Array]:
    """The values of this many variables, by number.

    Raises:
        ValueError: one is missing.
    """
    keys = set(store.keys())
    if missing := [i for i in range(count) if str(i) not in keys]:
        raise _unfit(f"variable {missing[0]} of {count} is missing")
    return [np.asarray(store[str(i)]) for i in range(count)]


def check_observed(parts: Sequence[Observed], observed: Sequence[Any]) -> None:
    """Raises ValueError if these are not observations of these parts of the optimizer's schedule."""
    if len(observed) != len(parts):
        raise _unfit(f"{len(observed)} factors of its rate observe a metric, and here {len(parts)}")
    for part, state in zip(parts, observed, strict=True):
        if not isinstance(state, Mapping):
            raise _unfit(f"what a {type(part).__name__} has observed is a {type(state).__name__} there")
        try:
            copy.deepcopy(part).load_state_dict(state)
        except ValueError as error:
            raise _unfit(str(error)) from error


class Variables(NamedTuple):
    """The variables of an optimizer that has been built.

    Attributes:
        every: all variables, in the order in which they are saved.
        iterations: the number of batches done.
        batches_per_step: the number of batches over which gradients are accumulated.
        scalars: the scalars of the member by name, without the step.
        rate: the learning rate, a variable or something else.
        states: the state of each model variable, by name.
    """

    every: Sequence[Variable]
    iterations: Variable
    batches_per_step: int
    scalars: Mapping[str, Variable]
    rate: Any
    states: Sequence[tuple[Variable, Mapping[str, Variable]]]


def shapes(variables: Variables, is_former: bool) -> list[tuple[int, ...]]:
    """The shape in which each variable is saved; ``is_former`` says whether 8-bit moments are of the former format."""
    found = {id(variable): tuple(variable.shape) for variable in variables.every}
    if is_former:
        for variable, state in variables.states:
            for name in state:
                if (scale := state.get(layout.scale_name(name))) is not None:
                    found[id(scale)] = former.scale_shape(variable.shape)
    return list(found.values())


def mended(
    member: Member, hyper: Mapping[str, Any], variables: Variables, saved: Sequence[Array], is_former: bool
) -> list[Array]:
    """The new values of the optimizer's variables, in their order.

    Second moments that are too small for the first ones are raised, with a warning; see ``adamas.rule.bounds``. 8-bit moments
    have rounding errors, and are not changed.

    Args:
        member: the optimizer's member.
        hyper: its hyperparameters.
        variables: the variables of the optimizer.
        saved: the saved value of each variable, of its shape (``shapes``).
        is_former: whether 8-bit moments are of the former format; then they are converted.

    Raises:
        ValueError: a value is impossible; the message names the variable.
    """
    values = list(saved)
    place = {id(variable): i for i, variable in enumerate(variables.every)}
    for variable, value in zip(variables.every, values, strict=True):
        _check_dtype(dtype_of(variable), value.dtype, path_of(variable))
    scalars = {name: float(values[place[id(variable)]]) for name, variable in variables.scalars.items()}
    iterations = float(values[place[id(variables.iterations)]])
    highest = np.iinfo(dtype_of(variables.iterations)).max
    if not 0 <= iterations <= highest or not iterations.is_integer():
        raise _unfit(f"'iterations' must be a whole number from 0 to {highest}, not {iterations:g}{_REMEDY}")
    scalars["step"] = iterations // variables.batches_per_step
    try:
        bounds.check_scalars(member, scalars)
    except ValueError as error:
        raise _unfit(f"{error}{_REMEDY}") from error
    rate = variables.rate
    if id(rate) in place and not 0 <= float(values[place[id(rate)]]) < math.inf:
        raise _unfit(f"'learning_rate' must be a nonnegative number, not {values[place[id(rate)]]}{_REMEDY}")
    hyper = {**hyper, "lr": 1.0}
    raised: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for variable, state in variables.states:
        path = repr(path_of(variable))
        names = [name for name in layout.signs(member) if name in state]
        moments = {name: values[place[id(state[name])]] for name in names}
        for name in names:
            if (scale := state.get(layout.scale_name(name))) is not None:
                codes, stored = place[id(state[name])], place[id(scale)]
                _check_scale(values[codes], values[stored], variable.shape, f"{name!r} of variable {path}", is_former)
                if is_former:
                    values[codes] = values[codes].copy()
                    values[stored] = former.convert(np, values[codes], values[stored].copy())
        wide = {
            name: x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
            for name, x in moments.items()
            if dtype_of(state[name]) not in layout.CODES
        }
        try:
            found = bounds.mended(np, member, [hyper], scalars, wide)
        except ValueError as error:
            raise _unfit(f"variable {path}: {error}{_REMEDY}") from error
        for name, one in found.items():
            values[place[id(state[name])]] = one.values
            raised[name][path] = one.elements
    for name, elements in raised.items():
        warnings.warn(bounds.mended_message(name, elements, "variable"), stacklevel=4)
    return values


def _check_dtype(wanted: str, given: np.dtype[Any], path: str) -> None:
    """Raises ValueError if a variable cannot have values of this dtype."""
    is_number = given.kind in "fiu" or given.name == "bfloat16"
    if given != wanted if wanted in _EXACT else not is_number:
        raise _unfit(f"variable {path!r} must be {wanted}, not {given.name}{_REMEDY}")


def _check_scale(codes: Array, scale: Array, shape: Sequence[int], what: str, is_former: bool) -> None:
    if scale.dtype != np.float32:
        raise _unfit(f"the scales of {what} must be float32, not {scale.dtype.name}{_REMEDY}")
    try:
        bounds.check_scale(np, codes, scale, shape, what, is_former)
    except ValueError as error:
        raise _unfit(f"{error}{_REMEDY}") from error


def _unfit(problem: str) -> ValueError:
    return ValueError(f"the saved state of the optimizer does not fit: {problem}")
