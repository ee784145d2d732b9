"""Loading a state dict: matched by name where there are names, copied, and all or nothing.

Moments are stored as the optimizer that loads them was told to (``state=``), whatever they were saved as; where that is
another format, they are converted, and a warning says so. Nothing else is ever cast.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..rule import bounds
from ..rule.hyperparameters import shown
from ..step.resuming import check_choice, check_group, hypers_of, merged, rehearse
from ..step.scheduled import OBSERVED
from . import conversion
from .foreign import decode_groups, decode_state
from .options import check, is_flag

if TYPE_CHECKING:
    from .optimizer import Optimizer


def load(optimizer: Optimizer, state_dict: dict[str, Any], hyperparameters: str) -> None:
    """See ``Optimizer.load_state_dict``."""
    check_choice(hyperparameters)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_state_dict: expected a state dict, not a {type(state_dict).__name__}")
    state_dict = dict(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        if replaced is not None:
            state_dict = replaced

    _check_structure(state_dict)
    groups, saved_groups, saved_state = optimizer.param_groups, state_dict["param_groups"], state_dict["state"]
    saved_id = _match(groups, saved_groups)
    names = {saved_id[id(p)]: name for name, p in optimizer._named_parameters()}
    group_of = {key: saved for saved in saved_groups for key in saved["params"]}
    if hyperparameters == "saved":
        saved_groups = decode_groups(saved_groups, saved_state, names, optimizer.defaults)
    saved_groups = [_decay_named(optimizer, saved) for saved in saved_groups]
    schedules = optimizer._schedules_now()
    new_groups = [merged(*pair, hyperparameters) for pair in zip(schedules, saved_groups, strict=True)]

    def check_hyperparameters(group: dict[str, Any]) -> None:
        check(group, type(optimizer).__name__, optimizer._member.states)

    for i, group in enumerate(new_groups):
        check_group(i, group, check_hyperparameters)
    state: defaultdict[Any, Any] = defaultdict(dict)
    conversions: Counter[conversion.Conversion] = Counter()
    mended: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for group, saved, own in zip(new_groups, saved_groups, schedules, strict=True):
        hypers = hypers_of(group, saved, own)
        for i, p in enumerate(group["params"]):
            if (key := saved_id[id(p)]) in saved_state:
                entry = decode_state(saved_state[key], optimizer._member.states, names[key], group_of[key])
                found = conversion.loaded(optimizer, group, i, names[key], entry, hypers)
                state[p] = found.state
                conversions.update(found.conversions)
                for moment, count in found.mended.items():
                    mended[moment][names[key]] = count
    for key, value in saved_state.items():
        if key not in names:
            conversion.check_step(value, repr(key))
            state[key] = deepcopy(value)

    # Whatever can go wrong does so here, while nothing is changed: also a warning, where those are errors.
    for i, parts in enumerate(zip(new_groups, schedules, saved_groups, strict=True)):
        rehearse(i, *parts, state.values(), check_hyperparameters)
    for (moment, saved_as, stored_as), count in conversions.items():
        warnings.warn(
            f"{moment} of {count} parameter{'s' * (count > 1)} was saved as {saved_as} and is converted to {stored_as}, which "
            "the state= of this optimizer asks for",
            stacklevel=5,  # whoever called load_state_dict, which is wrapped twice
        )
    for moment, counts in mended.items():
        warnings.warn(bounds.mended_message(moment, counts), stacklevel=5)

    optimizer.__setstate__({"state": state, "param_groups": new_groups})
    for one, saved in zip(optimizer._schedules_now(), saved_groups, strict=True):
        one.load_observed(saved.get(OBSERVED))
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


def _check_structure(state_dict: Mapping[str, Any]) -> None:
    """Raises ValueError if it has not the parts that every optimizer's state dict has."""
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
                    f"not an optimizer's state dict: {name!r} of parameter group {i} has to be a list of names or numbers, "
                    f"and is {shown(keys)}"
                )


def _match(groups: list[dict[str, Any]], saved_groups: list[dict[str, Any]]) -> dict[int, Any]:
    """For the id() of each parameter, its key in the saved state."""
    if len(groups) != len(saved_groups):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved_groups)}, and this optimizer has "
            f"{len(groups)}"
        )
    here, there = _by_name(groups), _by_name(saved_groups)
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
    """Parameters (or their keys) by name, without what DistributedDataParallel and torch.compile put before it.

    None where one has no name, or two have the same.
    """
    found: dict[str, Any] = {}
    for group in groups:
        names, params = group.get("param_names", ()), group["params"]
        if len(names) != len(params):
            return None
        found.update(
            (str(n).replace("_orig_mod.", "").removeprefix("module."), p) for n, p in zip(names, params, strict=True)
        )
    return found if len(found) == sum(len(group["params"]) for group in groups) else None


def _decay_named(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved group with what ``torch.optim`` calls ``decoupled_weight_decay`` by the name that it has here."""
    group = {name: value for name, value in saved.items() if name != "decoupled_weight_decay"}
    if "decoupled_weight_decay" in saved and optimizer._reads_decoupled_flag:
        decoupled = saved["decoupled_weight_decay"]
        if not is_flag(decoupled):
            raise ValueError(
                f"loaded state dict does not fit: decoupled_weight_decay must be True or False, not {shown(decoupled)}"
            )
        group.setdefault("decay", "decoupled" if decoupled else "l2")
    return group


def exported(optimizer: Optimizer, state_dict: dict[str, Any], state: str) -> dict[str, Any]:
    """The optimizer's state dict with all moments in float32: what the namesake in torch.optim loads."""
    if state != "float32":
        raise ValueError(
            f"state_dict(state={state!r}): only 'float32' can be exported, or state=None for what is stored"
        )
    groups = [{**group, "state": "float32"} for group in state_dict["param_groups"]]
    packed = dict(state_dict["state"])
    for key in [key for group in groups for key in group["params"] if key in packed]:
        packed[key] = conversion.in_float32(optimizer._member, packed[key])
    return {**state_dict, "state": packed, "param_groups": groups}
