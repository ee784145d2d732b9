"""Loading a state dict: matched by name where there are names, copied, and all or nothing.

Moments are stored as the optimizer that loads them was told to (``state=``), whatever they were saved as; where that is
another format, they are converted, and a warning says so. Nothing else is ever cast.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..stepping.resuming import check_choice, merged, rehearse
from ..stepping.scheduled import OBSERVED
from . import conversion
from .foreign import decode_groups, decode_state
from .options import check

if TYPE_CHECKING:
    from .optimizer import Optimizer


def load(optimizer: Optimizer, state_dict: dict[str, Any], hyperparameters: str) -> None:
    """See ``Optimizer.load_state_dict``."""
    check_choice(hyperparameters)
    state_dict = state_dict.copy()
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        if replaced is not None:
            state_dict = replaced

    if "state" not in state_dict or "param_groups" not in state_dict:
        raise ValueError(f"not an optimizer's state dict: it has {sorted(state_dict)}, not 'state' and 'param_groups'")
    groups, saved_groups, saved_state = optimizer.param_groups, state_dict["param_groups"], state_dict["state"]
    saved_id = _match(groups, saved_groups)
    names = {saved_id[id(p)]: name for name, p in optimizer._named_parameters()}
    group_of = {key: saved for saved in saved_groups for key in saved["params"]}
    if hyperparameters == "saved":
        saved_groups = decode_groups(saved_groups, saved_state, names, optimizer.defaults)
    saved_groups = [_decay_named(optimizer, saved) for saved in saved_groups]
    schedules = optimizer._schedules_now()
    new_groups = [merged(*pair, hyperparameters) for pair in zip(schedules, saved_groups, strict=True)]

    state: defaultdict[Any, Any] = defaultdict(dict)
    conversions: Counter[conversion.Conversion] = Counter()
    for group in new_groups:
        for i, p in enumerate(group["params"]):
            if (key := saved_id[id(p)]) in saved_state:
                entry = decode_state(saved_state[key], optimizer._member.slots, names[key], group_of[key])
                state[p], converted = conversion.loaded(optimizer, group, i, names[key], entry)
                conversions.update(converted)
    for key, value in saved_state.items():
        if key not in names:
            state[key] = deepcopy(value)

    # Whatever can go wrong does so here, while nothing is changed: also a warning, where those are errors.
    for i, parts in enumerate(zip(new_groups, schedules, saved_groups, strict=True)):
        rehearse(
            i, *parts, state.values(), lambda trial: check(trial, type(optimizer).__name__, optimizer._member.slots)
        )
    for (moment, saved_as, stored_as), count in conversions.items():
        warnings.warn(
            f"{moment} of {count} parameter{'s' * (count > 1)} was saved as {saved_as} and is converted to {stored_as}, which "
            "the state= of this optimizer asks for",
            stacklevel=5,  # whoever called load_state_dict, which is wrapped twice
        )

    optimizer.__setstate__({"state": state, "param_groups": new_groups})
    for one, saved in zip(optimizer._schedules_now(), saved_groups, strict=True):
        one.load_observed(saved.get(OBSERVED))
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


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
        group.setdefault("decay", "decoupled" if saved["decoupled_weight_decay"] else "l2")
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
