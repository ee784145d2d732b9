"""Loading a state dict: matched by name where there are names, copied, and all or nothing.

Moments are stored as the optimizer that loads them was told to (``state=``), whatever they were saved as; where that is
another format, they are converted, and a warning says so. Nothing else is ever cast.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import scheduled, storage
from .foreign import decode_state

if TYPE_CHECKING:
    from .optimizer import Optimizer

# Present in a group, but not hyperparameters: what belongs to this optimizer and its parameters, whatever was saved.
_BOOKKEEPING = ("params", "param_names", "base_lr", "state", "rows", scheduled.OBSERVED)


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
    saved_group = {key: saved for saved in saved_groups for key in saved["params"]}
    owned = set()
    converted: Counter[tuple[str, str, str]] = Counter()
    for group in merged:
        for i, p in enumerate(group["params"]):
            owned.add(key := saved_id[id(p)])
            if key in saved_state:
                plain = decode_state(saved_state[key], optimizer._member.slots, names[id(p)], saved_group[key])
                state[p] = _loaded_state(optimizer, plain, group, i, names[id(p)], converted)
    for key, value in saved_state.items():
        if key not in owned:
            state[key] = deepcopy(value)

    for group in merged:  # raises here, before anything is changed, where a schedule has no number at that step
        scheduled.separate(dict(group), scheduled.steps_done(state.values()))
    for group, saved in zip(merged, saved_groups, strict=True):
        scheduled.load_observed(group, saved.get(scheduled.OBSERVED, []))
    optimizer.__setstate__({"state": state, "param_groups": merged})
    for (slot, saved_as, stored_as), count in converted.items():
        warnings.warn(
            f"{slot} of {count} parameter{'s' * (count > 1)} was saved as {saved_as} and is converted to {stored_as}, which "
            "the state= of this optimizer asks for",
            stacklevel=3,
        )
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
    optimizer: Optimizer,
    saved: dict[str, Any],
    group: dict[str, Any],
    index: int,
    name: str,
    converted: Counter[tuple[str, str, str]],
) -> dict[str, Any]:
    """One parameter's state, as copies where the parameter is; counts the moments whose format is another."""
    member, p = optimizer._member, group["params"][index]
    scalars = dict(member.scalars)
    scales = [storage.scale_name(slot) for slot in member.slots if slot is not None]
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
            if key not in scales:
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
    for slot in storage.slots_of(member, group, p, storage.rows_of(group, index)):
        if slot.name in result:
            result.update(_in_format(slot, result[slot.name], saved.get(slot.scale_name), name, converted))
    return result


def _in_format(
    slot: storage.Slot, value: Tensor, scale: Tensor | None, name: str, converted: Counter[tuple[str, str, str]]
) -> dict[str, Tensor]:
    """A saved moment in the format that it is to have here."""
    if storage.is_coded(value):
        if scale is None:
            raise ValueError(f"loaded state dict does not fit: {slot.name!r} of parameter {name} has codes without scales")
        scale = scale.detach().to(device=value.device, copy=True)
        if value.dtype == slot.dtype and scale.shape == slot.scale_shape:
            return {slot.name: value.contiguous(), slot.scale_name: scale.contiguous()}
        plain = storage.decoded(value, scale)
    elif value.dtype == slot.dtype or (slot.scale_shape is None and slot.dtype != torch.bfloat16 and _is_exact(value)):
        return {slot.name: value}
    else:
        plain = value
    converted[slot.name, _format_name(value.dtype), _format_name(slot.dtype)] += 1
    return storage.encoded(slot, plain)


def _is_exact(value: Tensor) -> bool:
    """Whether the dtype is one that the arithmetic has: float32 moments of a float64 weight, or the other way round."""
    return value.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)


def _format_name(dtype: torch.dtype) -> str:
    return "int8" if dtype == torch.uint8 else str(dtype).removeprefix("torch.")


def exported(optimizer: Optimizer, state_dict: dict[str, Any], state: str) -> dict[str, Any]:
    """The state dict with all moments in float32, without scales."""
    if state != "float32":
        raise ValueError(f"state_dict(state={state!r}): only 'float32' can be exported, or state=None for what is stored")
    slots = [slot for slot in optimizer._member.slots if slot is not None]
    packed = {}
    for key, saved in state_dict["state"].items():
        entry = dict(saved)
        for slot in slots:
            scale = entry.pop(storage.scale_name(slot), None)
            if isinstance(value := entry.get(slot), Tensor):
                if storage.is_coded(value):
                    entry[slot] = storage.decoded(value, scale)
                elif value.dtype in (torch.bfloat16, torch.float16):
                    entry[slot] = value.to(torch.float32)
        packed[key] = entry
    groups = [{**group, "state": "float32"} for group in state_dict["param_groups"]]
    return {**state_dict, "state": packed, "param_groups": groups}
