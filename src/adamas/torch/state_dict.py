"""Loads a state dict: parameters are matched by name if there are names, tensors are copied, and it is all or nothing.

Moments are stored in the format of the loading optimizer (``state=``). If they were saved in another one, they are converted,
and a warning says so. Nothing else is cast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from torch import Tensor

from ..rule import layout
from ..rule.declaration import Member
from ..rule.hyperparameters import shown
from ..rule.members import MEMBERS
from ..step.clipping import GRAD_NORMS
from ..step.record import State, check_place
from ..step.resuming import HypersAfter, Loaded, resumed, unfit
from ..step.scheduled import GroupSchedules
from . import conversion, distributed
from .distributed import is_distributed
from .edges import edges_at, edges_of
from .foreign import decode_groups, decode_prodigy, decode_schedule_free, decode_state
from .groups import canonical_name
from .options import check, is_flag
from .ranks import Exchanged
from .storage import dtype_name
from .tensors import TENSORS

_SCALES = {layout.scale_name(moment) for member in MEMBERS.values() for moment in member.states}


def _is_scale(member: Member, name: str) -> bool:
    """Whether an entry of a state has scales: of this member, or of another of the family."""
    return name in _SCALES or name in map(layout.scale_name, member.states)


def loaded(
    member: Member,
    schedules: Sequence[GroupSchedules],
    names: Mapping[Tensor, str],
    defaults: Mapping[str, Any],
    state_dict: Mapping[str, Any],
    hyperparameters: str,
    optimizer: str,
    reads_decoupled_flag: bool,
    agree: Callable[[Sequence[Exchanged]], None],
    home_of: Callable[[Mapping[str, Any], Tensor], Tensor],
) -> tuple[list[dict[str, Any]], dict[Any, State], list[dict[str, Any]]]:
    """The groups and the state that an optimizer has after loading, and the saved groups. Nothing is changed.

    Args:
        member: the optimizer's member.
        schedules: the schedules of its groups.
        names: the names of the parameters in messages.
        defaults: the hyperparameters of new groups.
        state_dict: a state dict of this class, or of its namesake in ``torch.optim``.
        hyperparameters: ``"saved"`` or ``"given"``.
        optimizer: the name of the optimizer in messages.
        reads_decoupled_flag: whether ``decoupled_weight_decay`` of ``torch.optim`` determines the kind of decay.
        agree: called with what this process is to exchange with others, before it does so.
        home_of: returns the tensor that is stepped, whose device the state has, given a group and its parameter.

    Raises:
        ValueError: the state dict does not fit; the message names the parameter.
    """
    _check_structure(state_dict)
    groups, saved_groups, saved_state = (
        [one.group for one in schedules],
        state_dict["param_groups"],
        state_dict["state"],
    )
    saved_id = _match(groups, saved_groups)
    saved_names = {saved_id[id(p)]: name for p, name in names.items()}
    group_of = {key: saved for saved in saved_groups for key in saved["params"]}
    if hyperparameters == "saved":
        saved_groups = decode_groups(saved_groups, saved_state, saved_names, defaults)
    saved_groups = [_decay_named(saved, reads_decoupled_flag) for saved in saved_groups]

    def check_hyperparameters(group: dict[str, Any]) -> None:
        check(group, optimizer, member)

    # After all have agreed, the processes exchange everything before anything else is checked: one that raises would leave
    # the others waiting.
    agree([one for p, name in names.items() for one in _exchanged(p, name, saved_state.get(saved_id[id(p)]))])
    found_here = {
        id(p): _gathered(_take(group, i), saved_state[key])
        for group in groups
        for i, p in enumerate(group["params"])
        if isinstance(saved_state.get(key := saved_id[id(p)]), Mapping)
    }

    # Before the hyperparameters, which may be invalid only because they are another member's.
    for group in groups:
        for p in group["params"]:
            conversion.check_member(member, group, p, names[p], saved_state.get(saved_id[id(p)]), optimizer)

    def load(group: dict[str, Any], index: int, hypers: HypersAfter) -> Loaded | None:
        p, place = group["params"][index], distributed.place_in(group, index)
        if (key := saved_id[id(p)]) not in saved_state:
            return None
        entry, shapes = found_here.get(id(p), (saved_state[key], {}))
        if not is_distributed(p):
            entry = decode_schedule_free(member, entry, p, group_of[key])
            entry = decode_prodigy(member, entry, names[p], p, group_of[key])
        decoded = decode_state(entry, member.states, names[p], group_of[key])
        if isinstance(key, str):  # names are the keys of torch.distributed.checkpoint
            conversion.check_cast(member, p, decoded.state, group_of[key].get("state"), names[p])
        if not is_distributed(p):
            return conversion.loaded(member, group, p, home_of(group, p), place, names[p], decoded, hypers, optimizer)
        edges = edges_at(group, index)
        is_divided = edges_of(member, group, index) is not None
        check_place(TENSORS, member, group, p, place, names[p], is_divided)
        wholes = {name: x for name, x in decoded.state.items() if name not in shapes and _is_cut(member, p, name, x)}
        shapes = {**shapes, **{name: tuple(x.shape) for name, x in wholes.items()}}
        conversion.check_shapes(member, p, shapes, names[p])
        take = _take(group, index)
        decoded = decoded._replace(state={**decoded.state, **{name: take(x) for name, x in wholes.items()}})
        here = p._local_tensor
        if edges is not None:
            here, place = edges.wide_weight(), edges.wide_place
        found = conversion.loaded(member, group, p, here, place, names[p], decoded, hypers, optimizer)
        shapes |= layout.shapes(member, group, p.shape, dtype_name(p.dtype))
        shapes[layout.LOW_BITS] = (*p.shape, 2)
        state = dict(found.state)
        for name in state.keys() & shapes.keys():
            if is_divided and _is_scale(member, name):
                continue  # those of all blocks that it has elements of
            if edges is not None and not _is_scale(member, name):
                state[name] = edges.narrowed(state[name])
            state[name] = distributed.like(p, state[name], shapes[name], f"{name!r} of parameter {names[p]}")
        return found._replace(state=state)

    others = {key: value for key, value in saved_state.items() if key not in saved_names}
    for key, value in others.items():
        conversion.check_step(value, repr(key))
    new_groups, state = resumed(
        schedules,
        saved_groups,
        hyperparameters,
        check_hyperparameters,
        load,
        deepcopy(others),
        stacklevel=5,  # the caller of load_state_dict, which is wrapped twice
    )
    return new_groups, state, saved_groups


def _is_cut(member: Member, p: Tensor, name: str, x: Any) -> bool:
    """Whether an entry of a saved state has elements for those of the parameter. What others have put there may have none."""
    if not isinstance(x, Tensor) or not x.ndim or name in (*member.scalar_names, GRAD_NORMS):
        return False
    return name in member.states or _is_scale(member, name) or name == layout.LOW_BITS or x.shape == p.shape


def _take(group: Mapping[str, Any], index: int) -> Callable[[Tensor], Tensor]:
    """What takes from a saved tensor the part that a parameter of the group, by its index, needs here."""
    edges = edges_at(group, index)
    return partial(distributed.part_of, group["params"][index]) if edges is None else edges.widened


def _exchanged(p: Tensor, name: str, saved: Any) -> list[Exchanged]:
    """What processes exchange of the saved state of a parameter; they also have to have the same entries."""
    entries = saved if isinstance(saved, Mapping) else {}
    found = []
    if is_distributed(p) and entries:
        found.append(
            Exchanged(f"the state of parameter {name} with {', '.join(sorted(map(repr, entries)))}", p.device_mesh)
        )
    for key, x in entries.items():
        if is_distributed(x):
            text = f"{key!r} of parameter {name} of shape {tuple(x.shape)} with the placements {x.placements}"
            found.append(Exchanged(text, x.device_mesh))
    return found


def _gathered(
    take: Callable[[Tensor], Tensor], saved: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """A saved state with the part of each DTensor that a parameter needs here, and the shapes of their wholes."""
    wholes = {name: value for name, value in saved.items() if is_distributed(value)}
    parts = {name: take(value) for name, value in wholes.items()}
    return {**saved, **parts}, {name: tuple(value.shape) for name, value in wholes.items()}


def _check_structure(state_dict: Mapping[str, Any]) -> None:
    """Raises ValueError if it lacks parts that every optimizer's state dict has."""
    if "state" not in state_dict or "param_groups" not in state_dict:
        found = sorted(map(str, state_dict))
        raise ValueError(f"not an optimizer's state dict: it has {found}, not 'state' and 'param_groups'")
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, Mapping):
        raise ValueError(f"not an optimizer's state dict: its 'state' is a {type(state).__name__}, not a dictionary")
    if not isinstance(groups, list | tuple):
        raise ValueError(f"not an optimizer's state dict: its 'param_groups' is a {type(groups).__name__}, not a list")
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping):
            raise ValueError(
                f"not an optimizer's state dict: parameter group {i} is a {type(group).__name__}, not a dictionary"
            )
        for name in ("params", "param_names"):
            keys = group.get(name, None if name == "params" else [])
            if not isinstance(keys, list | tuple) or not all(isinstance(key, str | int) for key in keys):
                raise ValueError(
                    f"not an optimizer's state dict: {name!r} of parameter group {i} must be a list of names or numbers, "
                    f"not {shown(keys)}"
                )


def _match(groups: list[dict[str, Any]], saved_groups: list[dict[str, Any]]) -> dict[int, Any]:
    """The key of each parameter in the saved state, by the parameter's ``id()``."""
    if len(groups) != len(saved_groups):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved_groups)}, but this optimizer has "
            f"{len(groups)}"
        )
    here, there = _by_name(groups), _by_name(saved_groups)
    keys = [key for saved in saved_groups for key in saved["params"]]
    if all(isinstance(key, str) for key in keys):
        # torch.distributed.checkpoint: the names are the keys, in the order of the parameters here, and "param_names" those
        # of the optimizer that was saved, in its order.
        there = {canonical_name(key): key for key in keys}
        if here is None or here.keys() != there.keys():
            here = there = None
    if here is not None and there is not None:
        if here.keys() != there.keys():
            missing, unknown = sorted(here.keys() - there.keys()), sorted(there.keys() - here.keys())
            raise ValueError(
                f"loaded state dict has other parameters than this optimizer: it lacks {missing[:5]} and has {unknown[:5]}. "
                "To load by position, remove 'param_names' from its groups"
            )
        return {id(p): there[name] for name, p in here.items()}
    for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(saved["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: group "
                f"{i} has {len(saved['params'])} parameters there and {len(group['params'])} here"
            )
    return {
        id(p): key
        for group, saved in zip(groups, saved_groups, strict=True)
        for p, key in zip(group["params"], saved["params"], strict=True)
    }


def _by_name(groups: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Parameters (or their keys) by name, without what wrappers add to it; None if one has no name, or two have the same."""
    found: dict[str, Any] = {}
    for group in groups:
        names, params = group.get("param_names", ()), group["params"]
        if len(names) != len(params):
            return None
        found.update((canonical_name(str(n)), p) for n, p in zip(names, params, strict=True))
    return found if len(found) == sum(len(group["params"]) for group in groups) else None


def _decay_named(saved: dict[str, Any], reads_decoupled_flag: bool) -> dict[str, Any]:
    """A saved group with ``decoupled_weight_decay`` of ``torch.optim`` translated to ``decay``."""
    group = {name: value for name, value in saved.items() if name != "decoupled_weight_decay"}
    if "decoupled_weight_decay" in saved and reads_decoupled_flag:
        decoupled = saved["decoupled_weight_decay"]
        if not is_flag(decoupled):
            raise unfit(f"decoupled_weight_decay must be True or False, not {shown(decoupled)}")
        group.setdefault("decay", "decoupled" if decoupled else "l2")
    return group


def with_whole_scales(
    member: Member, groups: Sequence[Mapping[str, Any]], state_dict: dict[str, Any]
) -> dict[str, Any]:
    """A state dict of DTensors, also where cuts divide blocks of codes and this process has scales of its own.

    If there are such parameters, all processes of their meshes call this together. The other arguments are those of
    ``exported``.
    """
    found = {}
    for group, i, key in _entries(groups, state_dict):
        edges, entry = edges_of(member, group, i), state_dict["state"][key]
        if edges is not None:
            scales = {name: x for name, x in entry.items() if _is_scale(member, name) and not is_distributed(x)}
            found[key] = {**entry, **{name: edges.gathered_scales(x) for name, x in scales.items()}}
    return {**state_dict, "state": {**state_dict["state"], **found}} if found else state_dict


def exported(
    member: Member, groups: Sequence[Mapping[str, Any]], state_dict: dict[str, Any], state: str
) -> dict[str, Any]:
    """A state dict with all moments in float32, which the namesake in torch.optim loads.

    ``groups`` are the optimizer's, in the order of those in the state dict.
    """
    if state != "float32":
        raise ValueError(
            f"state_dict(state={state!r}): only 'float32' can be exported, or state=None for what is stored"
        )
    packed = dict(state_dict["state"])
    for group, i, key in _entries(groups, state_dict):
        packed[key] = conversion.in_float32(member, group, i, packed[key])
    saved_groups = [{**group, "state": "float32"} for group in state_dict["param_groups"]]
    return {**state_dict, "state": packed, "param_groups": saved_groups}


def _entries(
    groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], int, Any]]:
    """Each parameter that has a state in the state dict: its group, its index there, and its key in the state dict."""
    for group, saved in zip(groups, state_dict.get("param_groups", ()), strict=False):
        for i, key in enumerate(saved["params"]):
            if key in state_dict["state"]:
                yield group, i, key
