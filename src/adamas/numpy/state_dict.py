"""Saves an optimizer as arrays by name, and loads them: arrays are copied and checked, and it is all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..rule import bounds, declaration, former, layout
from ..rule.declaration import Member
from ..rule.hyperparameters import shown
from ..step.record import State, rows_of, slots_of
from ..step.resuming import Conversion, HypersAfter, Loaded, check_choice, mended_moments, resumed, scale_of, unfit
from ..step.scheduled import OBSERVED, GroupSchedules
from ..step.spikes import SPIKES
from ..step.watching import CALLS, WATCHED
from . import arrays
from .arrays import Array
from .tensors import TENSORS

_GROUPS = "param_groups"
_STATE = "state"
_CODES = (np.int8, np.uint8)
_REMEDY = ". Load an earlier state, or one without the arrays state/<parameter>/… to start it from scratch"
_EXACT = {np.dtype(name) for name in ("float32", "float64", "complex64", "complex128")}


def saved(groups: Iterable[Mapping[str, Any]], state: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """The state dict of an optimizer with these groups and this state."""
    plain = []
    for group in groups:
        options = {name: value for name, value in group.items() if name not in ("params", "named")}
        plain.append({"params": options.pop("param_names"), "named": group["named"], **options})
    result = {_GROUPS: np.array(json.dumps(plain, default=lambda number: number.item()))}
    for name, entries in state.items():
        result.update({f"{_STATE}/{name}/{key}": np.array(value, order="C") for key, value in entries.items()})
    return result


def loaded(
    member: Member,
    schedules: Sequence[GroupSchedules],
    known: Iterable[str],
    check: Callable[[dict[str, Any]], None],
    state_dict: Mapping[str, Any],
    hyperparameters: str,
    optimizer: str,
) -> tuple[list[dict[str, Any]], dict[str, State], list[dict[str, Any]]]:
    """The groups and the state that an optimizer has after loading, and the saved groups. Nothing is changed.

    Args:
        member: the optimizer's member.
        schedules: the schedules of its groups.
        known: the names of its hyperparameters.
        check: raises if the hyperparameters of a group are invalid.
        state_dict: the result of ``saved``.
        hyperparameters: ``"saved"`` or ``"given"``.
        optimizer: the name of the optimizer in messages.

    Raises:
        ValueError: the state dict does not fit; the message names the parameter.
    """
    check_choice(hyperparameters)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_state_dict: expected a state dict (arrays by name), not a {type(state_dict).__name__}")
    if _GROUPS not in state_dict:
        found = sorted(map(str, state_dict))[:5]
        raise ValueError(f"not an optimizer's state dict: it has {found}, and no {_GROUPS!r}")
    saved_groups = _read_groups(state_dict[_GROUPS], known, optimizer)
    saved_name = _match([one.group for one in schedules], saved_groups)
    saved_groups = [{name: value for name, value in group.items() if name != "named"} for group in saved_groups]
    saved_state = _read_state(state_dict)
    if unknown := sorted(saved_state.keys() - {name for group in saved_groups for name in group["params"]}):
        entry = min(saved_state[unknown[0]])
        raise unfit(f"it has {entry!r} of parameter {unknown[0]!r}, but there is no such parameter")

    def load(group: dict[str, Any], index: int, hypers: HypersAfter) -> Loaded | None:
        entries = saved_state.get(saved_name[group["param_names"][index]])
        return None if entries is None else _loaded(member, group, index, entries, hypers, optimizer)

    groups, state = resumed(schedules, saved_groups, hyperparameters, check, load, {}, stacklevel=3)
    return groups, state, saved_groups


def _read_state(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """The saved state of each parameter, by its name."""
    found: dict[str, dict[str, Array]] = {}
    for key in state_dict:
        kind, _, rest = str(key).partition("/")
        if kind == _STATE:
            name, _, entry = rest.rpartition("/")
            try:
                found.setdefault(name, {})[entry] = np.asarray(state_dict[key])
            except ValueError as error:
                raise unfit(f"{entry!r} of parameter {name!r} cannot be converted to an array: {error}") from error
    return found


def _read_groups(text: Any, known: Iterable[str], optimizer: str) -> list[dict[str, Any]]:
    """The saved groups, with the tuples that JSON has turned into lists.

    Raises:
        ValueError: the text cannot be read, or belongs to another optimizer.
    """
    try:
        groups = json.loads(str(np.asarray(text)[()]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an optimizer's state dict: its {_GROUPS!r} cannot be read ({error})") from error
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError(f"not an optimizer's state dict: its {_GROUPS!r} cannot be read: it is not a list of groups")
    found = [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in group.items()}
        for group in groups
    ]
    for i, group in enumerate(found):
        names, named = group.get("params"), group.get("named")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"not an optimizer's state dict: 'params' of group {i} must be a list of names, not {shown(names)}"
            )
        if not isinstance(named, bool):
            raise ValueError(
                f"not an optimizer's state dict: 'named' of group {i} must be true or false, not {shown(named)}"
            )
    known = {*known, "params", "named", "base_lr", OBSERVED, SPIKES, WATCHED, CALLS}
    if unknown := sorted({name for group in found for name in group} - known):
        raise unfit(f"it has {unknown[0]!r}, which {optimizer} does not have: it belongs to another optimizer")
    return found


def _match(groups: list[dict[str, Any]], saved_groups: list[dict[str, Any]]) -> dict[str, str]:
    """For each parameter's name, the one that it was saved under."""
    here, there = [[len(group["params"]) for group in side] for side in (groups, saved_groups)]
    if len(here) != len(there):
        raise ValueError(
            f"loaded state dict has {len(there)} parameter groups, but this optimizer has {len(here)}: make the same groups"
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
                    f"loaded state dict has {sorted(saved['params'])[:5]} in parameter group {i}, but this optimizer has "
                    f"{sorted(group['param_names'])[:5]}: make the same groups"
                )
        return {name: name for name in names}
    if here != there:
        raise ValueError(f"loaded state dict has groups of {there} parameters, but this optimizer has groups of {here}")
    return dict(zip(names, saved_names, strict=True))


def _loaded(
    member: Member,
    group: Mapping[str, Any],
    index: int,
    entries: Mapping[str, Array],
    hypers: HypersAfter,
    optimizer: str,
) -> Loaded:
    """The state of a parameter after loading its saved entries. All arrays are copies, and each moment is in its format."""
    p, name = group["params"][index], repr(group["param_names"][index])
    slots = {slot.name: slot for slot in slots_of(TENSORS, member, group, p, rows_of(group, index))}
    moments = list(member.states)
    known = {*member.scalar_names, *moments, *map(layout.scale_name, moments)}
    if unknown := sorted(entries.keys() - known - {layout.LOW_BITS, *map(former.scale_name, moments)}):
        raise unfit(
            f"{unknown[0]!r} of parameter {name} is unknown to {optimizer}, which has {', '.join(sorted(known))}"
        )
    state: dict[str, Array] = {}
    for count in member.scalar_names:
        if count not in entries or entries[count].size != 1 or entries[count].dtype.kind not in "fiu":
            raise unfit(f"{count!r} of parameter {name} must be one number")
        state[count] = np.array(entries[count].item(), np.float64)
    if (low := entries.get(layout.LOW_BITS)) is not None and group["weights"] == "split":
        if low.dtype != np.int16 or low.shape != p.shape:
            raise unfit(f"{layout.LOW_BITS!r} of parameter {name} must be int16, of shape {p.shape}")
        state[layout.LOW_BITS] = low.copy()
    scales: dict[str, tuple[Any, bool]] = {}
    for moment in slots:
        if moment in entries:
            what = f"{moment!r} of parameter {name}"
            scales[moment] = scale_of(entries, moment, what)
            _check_moment(entries[moment], *scales[moment], member.states[moment], p, what)
        elif moment in member.denominators:  # without its denominator, the next step could be of any size
            raise unfit(f"{moment!r} of parameter {name} is missing")
    exact = _in_float32({key: entries[key] for key in slots if key in entries})
    counts = {count: float(state[count]) for count in member.scalar_names}
    mended = mended_moments(np, member, hypers, name, counts, exact, _REMEDY)
    exact |= {moment: found.values for moment, found in mended.items()}
    converted, conversions = [], []
    for moment, slot in slots.items():
        if moment not in entries:
            continue  # begins at 0: an option that requires it was set later
        values, (scale, is_former) = entries[moment], scales[moment]
        fits = values.shape == slot.shape and (
            values.dtype == arrays.dtype_of(slot) or {values.dtype, arrays.dtype_of(slot)} <= _EXACT
        )
        if fits and moment not in mended:
            state[moment] = values.copy()
            if slot.scale_shape is not None:
                scale = scale.copy()
                state[slot.scale_name] = former.convert(np, state[moment], scale) if is_former else scale
        else:
            converted.append(slot)
            if values.dtype in _CODES:
                exact[moment] = arrays.decoded(values, scale, p.shape, is_former)
        if not fits:
            conversions.append(moment)
    state |= arrays.encoded(member, converted, exact, state)
    raised = {moment: found.elements for moment, found in mended.items()}
    said = [Conversion(name, *(_format_name(one[name], p) for one in (entries, state))) for name in conversions]
    return Loaded(group["param_names"][index], name, state, said, raised)


def _in_float32(values: Mapping[str, Array]) -> dict[str, Array]:
    """The values of the moments that are not codes, in float32 or wider."""
    wide = {moment: arrays.decoded(x, None, x.shape) for moment, x in values.items() if x.dtype not in _CODES}
    return {moment: x if x.dtype in _EXACT else x.astype(np.float32) for moment, x in wide.items()}


def _check_moment(
    values: Array, scale: Array | None, is_former: bool, declared: declaration.State, p: Array, what: str
) -> None:
    """Raises ValueError if the parameter cannot have this moment."""
    is_coded = values.dtype in _CODES
    is_complex = p.dtype.kind == "c"
    fits = values.dtype.kind == ("c" if is_complex else "f") or (
        not is_complex and (values.dtype == np.uint16 or is_coded)
    )
    is_packed = is_coded and not is_former and layout.form_of(values.shape, p.shape)
    if (values.shape != declared.shape_in(p.shape) and not is_packed) or not fits:
        raise unfit(
            f"{what} is {values.dtype} of shape {values.shape}, but the parameter is {p.dtype} of shape {p.shape}"
        )
    if not is_coded and scale is not None:
        raise unfit(
            f"{what} is {values.dtype}, but there are scales for codes of 8 or 6 bits: load the codes as they were saved, or "
            "the values without scales"
        )
    if is_coded:
        if values.dtype != (code_dtype := np.dtype(np.int8 if declared.signed else np.uint8)):
            raise unfit(f"{what} is {values.dtype}; as codes it would be {code_dtype}")
        shape = (former if is_former else layout).scale_shape(p.shape) if p.ndim else None
        if scale is None or scale.dtype != np.float32 or scale.shape != shape:
            raise unfit(f"{what} has codes, whose scales must be float32 of shape {shape}")
        try:
            bounds.check_scale(np, values, scale, p.shape, what, is_former)
        except ValueError as error:
            raise unfit(f"{error}{_REMEDY}") from error


def _format_name(values: Array, p: Array) -> str:
    if values.dtype in _CODES:
        return layout.form_of(values.shape, p.shape)
    return "bfloat16" if values.dtype == np.uint16 else str(values.dtype)
