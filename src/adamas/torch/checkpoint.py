"""Loading a state dict: matched by name where there are names, copied, never cast, and all or nothing."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import scheduled

if TYPE_CHECKING:
    from .optimizer import Optimizer

# Present in a group, but not hyperparameters.
_BOOKKEEPING = ("params", "param_names", "base_lr", scheduled.OBSERVED)


def load(optimizer: Optimizer, state_dict: dict[str, Any], hyperparameters: str) -> None:
    """See ``Optimizer.load_state_dict``."""
    if hyperparameters not in ("saved", "given"):
        raise ValueError(f"hyperparameters={hyperparameters!r} is unknown: use 'saved' or 'given'")
    state_dict = state_dict.copy()
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        if replaced is not None:
            state_dict = replaced

    if "state" not in state_dict or "param_groups" not in state_dict:
        raise ValueError(f"not an optimizer's state dict: it has {sorted(state_dict)}, not 'state' and 'param_groups'")
    groups, saved_groups = optimizer.param_groups, state_dict["param_groups"]
    saved_id = _match(groups, saved_groups)
    names = {id(p): name for name, p in optimizer._named_parameters()}
    merged = [_merged(optimizer, *pair, hyperparameters) for pair in zip(groups, saved_groups, strict=True)]

    state: defaultdict[Any, Any] = defaultdict(dict)
    saved_state = state_dict["state"]
    owned = set()
    for group in merged:
        for p in group["params"]:
            owned.add(key := saved_id[id(p)])
            if key in saved_state:
                state[p] = _loaded_state(optimizer, saved_state[key], p, group, names[id(p)])
    for key, value in saved_state.items():
        if key not in owned:
            state[key] = deepcopy(value)

    for group in merged:  # raises here, before anything is changed, where a schedule has no number at that step
        scheduled.separate(dict(group), scheduled.steps_done(state.values()))
    for group, saved in zip(merged, saved_groups, strict=True):
        scheduled.load_observed(group, saved.get(scheduled.OBSERVED, []))
    optimizer.__setstate__({"state": state, "param_groups": merged})
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


def _merged(optimizer: Optimizer, group: dict[str, Any], saved: dict[str, Any], hyperparameters: str) -> dict[str, Any]:
    """The group with the saved hyperparameters, or with its own."""
    if hyperparameters == "given":
        counts = ("skipped_steps", "clipped_steps", "grad_norms")
        return {**group, **{name: saved[name] for name in counts if name in saved}}
    taken = {name: deepcopy(value) for name, value in saved.items() if name not in _BOOKKEEPING}
    decoupled = taken.pop("decoupled_weight_decay", None)
    if decoupled is not None and optimizer._reads_decoupled_flag:
        taken.setdefault("decay", "decoupled" if decoupled else "l2")
    if "base_lr" in saved and "lr" not in group.get(scheduled.SCHEDULES, {}):
        taken["base_lr"] = saved["base_lr"]
    kept = {
        name: value for name, value in group.items() if name != "grad_norms"
    }  # these are state: the saved ones or none
    return {**kept, **taken}


def _loaded_state(
    optimizer: Optimizer, saved: dict[str, Any], p: Tensor, group: dict[str, Any], name: str
) -> dict[str, Any]:
    """One parameter's state, as copies where the parameter is."""
    member = optimizer._member
    scalars = dict(member.scalars)
    result: dict[str, Any] = {}
    for key, value in saved.items():
        if key in scalars:
            result[key] = torch.tensor(float(value), dtype=torch.float64)
        elif isinstance(value, Tensor):
            if key in member.slots and value.shape != p.shape:
                raise ValueError(
                    f"loaded state dict does not fit: {key!r} of parameter {name} has shape {tuple(value.shape)}, and the "
                    f"parameter has {tuple(p.shape)}. Were the parameters given in another order? With names "
                    "(optimizer(model.named_parameters())) order does not matter"
                )
            result[key] = value.detach().to(device=p.device, copy=True)
        elif value is not None:  # torch.optim.SGD saves None for a momentum that it has not used
            result[key] = deepcopy(value)
    if not result:
        return result

    moments = [key for key in member.state_names(group) if key is not None]
    if moments and not any(key in result for key in moments) and set(result) - set(scalars) - set(member.slots):
        raise ValueError(
            f"loaded state dict is not one of {type(optimizer).__name__}: parameter {name} has {sorted(result)} there, and "
            f"{type(optimizer).__name__} needs {moments}"
        )
    if "step" not in result:
        # torch.optim.SGD keeps no count; that a buffer is there means that its first step is over.
        result["step"] = torch.tensor(1.0, dtype=torch.float64)
    return result
