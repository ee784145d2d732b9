"""Saving an optimizer as arrays by name, and loading them: copied, checked, and all or nothing."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..rule import bounds, layout
from ..rule.declaration import Member
from ..rule.hyperparameters import shown
from ..step.resuming import HypersAfter, check_choice, check_group, hypers_of, merged, rehearse
from ..step.scheduled import OBSERVED
from . import arrays
from .arrays import Array

if TYPE_CHECKING:
    from .optimizer import Optimizer

_GROUPS = "param_groups"
_STATE = "state"
_CODES = (np.int8, np.uint8)
_REMEDY = ". Load an earlier state, or one without the arrays state/<parameter>/… to begin anew with this parameter"
_EXACT = {np.dtype(name) for name in ("float32", "float64", "complex64", "complex128")}


def saved(optimizer: Optimizer) -> dict[str, Array]:
    """See ``Optimizer.state_dict``."""
    groups = []
    for group in optimizer.param_groups:
        plain = {name: value for name, value in group.items() if name not in ("params", "named")}
        groups.append({"params": plain.pop("param_names"), "named": group["named"], **plain})
    result = {_GROUPS: np.array(json.dumps(groups, default=lambda number: number.item()))}
    for name, state in optimizer.state.items():
        result.update({f"{_STATE}/{name}/{key}": np.array(value, order="C") for key, value in state.items()})
    return result


def load(optimizer: Optimizer, state_dict: Mapping[str, Any], hyperparameters: str) -> None:
    """See ``Optimizer.load_state_dict``."""
    check_choice(hyperparameters)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_state_dict: expected a state dict (arrays by name), not a {type(state_dict).__name__}")
    if _GROUPS not in state_dict:
        found = sorted(map(str, state_dict))[:5]
        raise ValueError(f"not an optimizer's state dict: it has {found}, and no {_GROUPS!r}")
    saved_groups = _read_groups(state_dict[_GROUPS], optimizer)
    saved_name = _match(optimizer.param_groups, saved_groups)
    saved_groups = [{name: value for name, value in group.items() if name != "named"} for group in saved_groups]
    saved_state: dict[str, dict[str, Array]] = {}
    for key in state_dict:
        kind, _, rest = str(key).partition("/")
        if kind == _STATE:
            name, _, entry = rest.rpartition("/")
            try:
                saved_state.setdefault(name, {})[entry] = np.asarray(state_dict[key])
            except ValueError as error:
                raise _unfit(f"{entry!r} of parameter {name!r} cannot be made an array: {error}") from error

    if unknown := sorted(saved_state.keys() - {name for group in saved_groups for name in group["params"]}):
        entry = min(saved_state[unknown[0]])
        raise _unfit(f"it has {entry!r} of parameter {unknown[0]!r}, and no such parameter")
    schedules = optimizer._schedules_now()
    new_groups = [merged(*pair, hyperparameters) for pair in zip(schedules, saved_groups, strict=True)]
    for index, group in enumerate(new_groups):
        check_group(index, group, optimizer._check)
    state: dict[str, dict[str, Array]] = {}
    conversions: Counter[tuple[str, str, str]] = Counter()
    mended: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for group, given, own in zip(new_groups, saved_groups, schedules, strict=True):
        hypers = hypers_of(group, given, own)
        for i, name in enumerate(group["param_names"]):
            if (entries := saved_state.get(saved_name[name])) is not None:
                state[name], raised = _loaded(optimizer, group, i, entries, hypers, conversions)
                for moment, count in raised.items():
                    mended[moment][repr(name)] = count

    # Whatever can go wrong does so here, while nothing is changed: also a warning, where those are errors.
    for index, parts in enumerate(zip(new_groups, schedules, saved_groups, strict=True)):
        rehearse(index, *parts, state.values(), optimizer._check)
    for (moment, saved_as, stored_as), count in conversions.items():
        warnings.warn(
            f"{moment} of {count} parameter{'s' * (count > 1)} was saved as {saved_as} and is converted to {stored_as}, which "
            "the state= of this optimizer asks for",
            stacklevel=3,
        )
    for moment, counts in mended.items():
        warnings.warn(bounds.mended_message(moment, counts), stacklevel=3)
    optimizer._restore(new_groups, state)
    for one, given in zip(optimizer._schedules, saved_groups, strict=True):
        one.load_observed(given.get(OBSERVED))


def _read_groups(text: Any, optimizer: Optimizer) -> list[dict[str, Any]]:
    """The saved groups, with tuples where JSON has made lists of them.

    Raises:
        ValueError: it is none of these, or of another optimizer.
    """
    try:
        groups = json.loads(str(np.asarray(text)[()]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an optimizer's state dict: its {_GROUPS!r} cannot be read ({error})") from error
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError(f"not an optimizer's state dict: its {_GROUPS!r} cannot be read: they are no list of groups")
    found = [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in group.items()}
        for group in groups
    ]
    for i, group in enumerate(found):
        names, named = group.get("params"), group.get("named")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"not an optimizer's state dict: 'params' of group {i} has to be a list of names, and is {shown(names)}"
            )
        if not isinstance(named, bool):
            raise ValueError(
                f"not an optimizer's state dict: 'named' of group {i} has to be true or false, and is {shown(named)}"
            )
    known = {*optimizer.defaults, "params", "named", "base_lr", OBSERVED}
    if unknown := sorted({name for group in found for name in group} - known):
        raise _unfit(f"it has {unknown[0]!r}, which {type(optimizer).__name__} has not: it is of another optimizer")
    return found


def _match(groups: list[dict[str, Any]], saved_groups: list[dict[str, Any]]) -> dict[str, str]:
    """For each parameter's name, the one that it was saved under."""
    here, there = [[len(group["params"]) for group in side] for side in (groups, saved_groups)]
    if len(here) != len(there):
        raise ValueError(
            f"loaded state dict has {len(there)} parameter groups, and this optimizer has {len(here)}: make the same groups"
        )
    names = [name for group in groups for name in group["param_names"]]
    saved_names = [name for group in saved_groups for name in group["params"]]
    if all(group["named"] for group in (*groups, *saved_groups)):
        if set(names) != set(saved_names):
            missing, unknown = sorted(set(names) - set(saved_names)), sorted(set(saved_names) - set(names))
            raise ValueError(
                f"loaded state dict has other parameters than this optimizer: it lacks {missing[:5]} and has {unknown[:5]}"
            )
        for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
            if set(group["param_names"]) != set(saved["params"]):
                raise ValueError(
                    f"loaded state dict has {sorted(saved['params'])[:5]} in parameter group {i}, and this optimizer has "
                    f"{sorted(group['param_names'])[:5]}: make the same groups"
                )
        return {name: name for name in names}
    if here != there:
        raise ValueError(f"loaded state dict has groups of {there} parameters, and this optimizer of {here}")
    return dict(zip(names, saved_names, strict=True))


def _loaded(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    index: int,
    entries: Mapping[str, Array],
    hypers: HypersAfter,
    conversions: Counter[tuple[str, str, str]],
) -> tuple[dict[str, Array], dict[str, int]]:
    """One parameter's state as its optimizer keeps it, from what was saved: every array a copy, each moment in its format.

    And how many elements of each second moment were raised: see ``adamas.rule.bounds``.
    """
    p, name = group["params"][index], repr(group["param_names"][index])
    slots = {slot.name: slot for slot in optimizer._slots(group, index)}
    moments = list(optimizer._member.states)
    known = {*(count for count, _ in optimizer._member.scalars), *moments, *map(layout.scale_name, moments)}
    if unknown := sorted(entries.keys() - known - {layout.LOW_BITS}):
        kind = type(optimizer).__name__
        raise _unfit(
            f"{unknown[0]!r} of parameter {name} is nothing that {kind} has: it has {', '.join(sorted(known))}"
        )
    state: dict[str, Array] = {}
    for count, _ in optimizer._member.scalars:
        if count not in entries or entries[count].size != 1 or entries[count].dtype.kind not in "fiu":
            raise _unfit(f"{count!r} of parameter {name} has to be one number")
        state[count] = np.array(entries[count].item(), np.float64)
    if (low := entries.get(layout.LOW_BITS)) is not None and group["weights"] == "split":
        if low.dtype != np.int16 or low.shape != p.shape:
            raise _unfit(f"{layout.LOW_BITS!r} of parameter {name} has to be int16, of shape {p.shape}")
        state[layout.LOW_BITS] = low.copy()
    for moment, slot in slots.items():
        if moment in entries:
            _check_moment(entries[moment], entries.get(slot.scale_name), p, f"{moment!r} of parameter {name}")
        elif moment in optimizer._member.denominators:  # without what it divides by, the next step could be of any size
            raise _unfit(f"{moment!r} of parameter {name} is missing")
    mended = _mended(optimizer._member, hypers, name, state, {key: entries[key] for key in slots if key in entries})
    for moment, slot in slots.items():
        if moment not in entries:
            continue  # begins at 0: an option asks for it since
        values, scale = entries[moment], entries.get(slot.scale_name)
        fits = values.dtype == arrays.dtype_of(slot) or {values.dtype, arrays.dtype_of(slot)} <= _EXACT
        if moment in mended:
            state.update(arrays.encoded(slot, mended[moment].values))
        elif fits:
            state[moment] = values.copy()
            if scale is not None and slot.scale_shape is not None:
                state[slot.scale_name] = scale.copy()
        else:
            state.update(arrays.encoded(slot, arrays.decoded(values, scale)))
        if not fits:
            conversions[moment, _format_name(values.dtype), _format_name(arrays.dtype_of(slot))] += 1
    return state, {moment: found.elements for moment, found in mended.items()}


def _mended(
    member: Member,
    hypers: HypersAfter,
    name: str,
    scalars: Mapping[str, Array],
    values: Mapping[str, Array],
) -> dict[str, bounds.Mended]:
    """See ``bounds.mended``: what was in 8 bits has errors of its own, and is left as it is."""
    counts = {count: float(scalars[count]) for count, _ in member.scalars}
    wide = {moment: arrays.decoded(x, None) for moment, x in values.items() if x.dtype not in _CODES}
    wide = {moment: x if x.dtype in _EXACT else x.astype(np.float32) for moment, x in wide.items()}
    try:
        bounds.check_scalars(member, counts)
        return bounds.mended(np, member, hypers(counts["step"]), counts, wide)
    except ValueError as error:
        raise _unfit(f"parameter {name}: {error}{_REMEDY}") from error


def _check_moment(values: Array, scale: Array | None, p: Array, what: str) -> None:
    """Raises if a saved moment is none that the parameter can have."""
    is_coded = values.dtype in _CODES
    is_complex = p.dtype.kind == "c"
    fits = values.dtype.kind == ("c" if is_complex else "f") or (
        not is_complex and (values.dtype == np.uint16 or is_coded)
    )
    if values.shape != p.shape or not fits:
        raise _unfit(
            f"{what} is {values.dtype} of shape {values.shape}, and the parameter {p.dtype} of shape {p.shape}"
        )
    if is_coded:
        shape = layout.scale_shape(p.shape) if p.ndim else None
        if scale is None or scale.dtype != np.float32 or scale.shape != shape:
            raise _unfit(f"{what} has codes in 8 bits, whose scales have to be float32 of shape {shape}")
        try:
            bounds.check_scale(np, values, scale, what)
        except ValueError as error:
            raise _unfit(f"{error}{_REMEDY}") from error


def _format_name(dtype: np.dtype[Any]) -> str:
    return {"uint16": "bfloat16", "uint8": "int8"}.get(str(dtype), str(dtype))


def _unfit(problem: str) -> ValueError:
    return ValueError(f"loaded state dict does not fit: {problem}")
