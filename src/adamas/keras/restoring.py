"""What was saved of an optimizer's variables, checked and mended before any of them is changed."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..rule import bounds, layout
from .variables import dtype_of, path_of

if TYPE_CHECKING:
    from .optimizer import Optimizer

Array = Any

_EXACT = ("int8", "uint8", "int16")  # codes and low bits, which mean nothing in another dtype
_CODES = ("int8", "uint8")
_REMEDY = ". Load an earlier state, or the model alone (load_model(…, compile=False)) to begin without one"


def read_description(text: Any) -> dict[str, Any]:
    """The description that ``save_own_variables`` wrote as JSON beside the variables.

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


def check_observed(optimizer: Optimizer, observed: Sequence[Any]) -> None:
    """Raises ValueError if this is not what the parts of the optimizer's schedule can have observed."""
    if len(observed) != len(optimizer.observed):
        raise _unfit(f"{len(observed)} factors of its rate observe a metric, and here {len(optimizer.observed)}")
    for part, state in zip(optimizer.observed, observed, strict=True):
        if not isinstance(state, Mapping):
            raise _unfit(f"what a {type(part).__name__} has observed is a {type(state).__name__} there")
        try:
            copy.deepcopy(part).load_state_dict(state)
        except ValueError as error:
            raise _unfit(str(error)) from error


def mended(optimizer: Optimizer, saved: Sequence[Array]) -> list[Array]:
    """The values that the optimizer's variables are to have, in their order.

    Second moments that are too small for the first ones are raised, with a warning; see ``adamas.rule.bounds``. Moments in 8
    bits have errors of their own, and are left as they are.

    Args:
        optimizer: has been built.
        saved: what was saved of each variable, of its shape.

    Raises:
        ValueError: a value is none that its variable can have; the message names it.
    """
    values = list(saved)
    place = {id(variable): i for i, variable in enumerate(optimizer.variables)}
    for variable, value in zip(optimizer.variables, values, strict=True):
        _check_dtype(dtype_of(variable), value.dtype, path_of(variable))
    counts = _counts(optimizer, {name: values[place[id(v)]] for name, v in _counted(optimizer).items()})
    rate = optimizer._learning_rate
    if id(rate) in place and not 0 <= float(values[place[id(rate)]]) < math.inf:
        raise _unfit(f"'learning_rate' has to be a number from 0 up, and is {values[place[id(rate)]]}{_REMEDY}")
    hyper = {**optimizer.hyperparameters(), "lr": 1.0}
    raised: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for variable, state in zip(optimizer._trainable_variables, optimizer._states, strict=True):
        path = repr(path_of(variable))
        names = [name for name in layout.signs(optimizer._member) if name in state]
        moments = {name: values[place[id(state[name])]] for name in names}
        for name in names:
            if (scale := state.get(layout.scale_name(name))) is not None:
                _check_scale(moments[name], values[place[id(scale)]], f"{name!r} of variable {path}")
        wide = {
            name: x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
            for name, x in moments.items()
            if dtype_of(state[name]) not in _CODES
        }
        try:
            found = bounds.mended(np, optimizer._member, [hyper], counts, wide)
        except ValueError as error:
            raise _unfit(f"variable {path}: {error}{_REMEDY}") from error
        for name, one in found.items():
            values[place[id(state[name])]] = one.values
            raised[name][path] = one.elements
    for name, elements in raised.items():
        warnings.warn(bounds.mended_message(name, elements, "variable"), stacklevel=4)
    return values


def _counted(optimizer: Optimizer) -> dict[str, Any]:
    """The variables of the counts that Keras has once for all model variables."""
    return {"iterations": optimizer._iterations, **optimizer._scalars}


def _counts(optimizer: Optimizer, values: Mapping[str, Array]) -> dict[str, float]:
    """The scalars of the member.

    Raises:
        ValueError: one cannot be.
    """
    iterations = float(values["iterations"])
    highest = np.iinfo(dtype_of(optimizer._iterations)).max
    if not 0 <= iterations <= highest or not iterations.is_integer():
        raise _unfit(f"'iterations' has to be a whole number from 0 to {highest}, and is {iterations:g}{_REMEDY}")
    counts = {name: float(values[name]) for name in optimizer._scalars}
    counts["step"] = iterations // (optimizer.gradient_accumulation_steps or 1)
    try:
        bounds.check_scalars(optimizer._member, counts)
    except ValueError as error:
        raise _unfit(f"{error}{_REMEDY}") from error
    return counts


def _check_dtype(wanted: str, given: np.dtype[Any], path: str) -> None:
    """Raises ValueError if a variable cannot have values of this dtype."""
    is_number = given.kind in "fiu" or given.name == "bfloat16"
    if given != wanted if wanted in _EXACT else not is_number:
        raise _unfit(f"variable {path!r} has to be {wanted}, and is {given.name}{_REMEDY}")


def _check_scale(codes: Array, scale: Array, what: str) -> None:
    if scale.dtype != np.float32:
        raise _unfit(f"the scales of {what} have to be float32, and are {scale.dtype.name}{_REMEDY}")
    try:
        bounds.check_scale(np, codes, scale, what)
    except ValueError as error:
        raise _unfit(f"{error}{_REMEDY}") from error


def _unfit(problem: str) -> ValueError:
    return ValueError(f"the saved state of the optimizer does not fit: {problem}")
