"""Checkpoints of PyTorch models with an optimizer of ``adamas.torch``, or one of ``torch.optim`` with the same state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..extras import needs
from ..rule import layout
from ..rule.declaration import Member
from ..rule.members import MEMBERS
from ..step.evaluation import refuse_evaluated
from .checkpoint import Array, Checkpoint, Moved, Names, Place, gathered
from .weights import narrowed, widened

with needs("torch"):
    import torch
    from torch import Tensor, nn

    from ..torch import Optimizer, storage


def from_torch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """The checkpoint of a model and its optimizer, with the names of ``model.named_parameters()``.

    Args:
        model: the model; its trainable parameters are in the checkpoint.
        optimizer: an optimizer of ``adamas.torch`` or ``torch.optim``.

    Raises:
        ValueError: the state has an entry that is neither a count nor of its parameter's shape.
    """
    refuse_evaluated(optimizer.param_groups)
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    return gathered(
        (Place(name, is_kernel=False), _weight(p, groups.get(p, {}), state), _moments(name, p, state))
        for name, p in _parameters(model)
        for state in [optimizer.state.get(p, {})]
    )


def to_torch(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, names: Names = None) -> None:
    """Load a checkpoint into a model and its optimizer, in place.

    Args:
        checkpoint: a checkpoint from any framework.
        model: a model with the same trainable parameters.
        optimizer: an optimizer of ``adamas.torch`` or ``torch.optim`` over the model's parameters. It keeps its
            hyperparameters, and stores moments in the formats of its ``state=``.
        names: for parameters that have another name in the checkpoint: a dict from the names here (of parameters or of
            modules) to the names in the checkpoint, or a function.

    Raises:
        ValueError: a parameter has no counterpart, or one of another shape, or its state does not fit or has an impossible
            value (a NaN, a negative square). Nothing is changed in that case.
    """
    refuse_evaluated(optimizer.param_groups)
    parameters = _parameters(model)
    moved = Moved(checkpoint, [Place(name, is_kernel=False) for name, _ in parameters], names)
    packed = optimizer.state_dict()
    key_of = {
        p: key
        for group, saved in zip(optimizer.param_groups, packed["param_groups"], strict=True)
        for p, key in zip(group["params"], saved["params"], strict=True)
    }
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    if missing := next((name for name, p in parameters if p not in group_of), None):
        raise ValueError(f"parameter {missing!r} of the model is not one of the optimizer's")
    if not isinstance(optimizer, Optimizer) and (member := _member_of(optimizer)) is not None:
        named = dict(parameters)
        moved.check(member, lambda name: {**group_of[named[name]], "lr": 1.0, "eps_mode": "torch"})
    weights: list[tuple[Tensor, Tensor]] = []
    unstepped: list[tuple[str, Tensor, Tensor]] = []  # parameters with low bits
    for name, p in parameters:
        parameter = moved.fitting(Place(name, is_kernel=False), p.shape, storage.dtype_name(p.dtype))
        is_split = layout.is_split({"weights": "nearest", **group_of[p]}, storage.dtype_name(p.dtype))
        weight, low = narrowed(storage.dtype_name(p.dtype), parameter.weight, is_split)
        weights.append((p, _tensor(weight, p.dtype)))
        packed["state"].pop(key_of[p], None)
        state = {key: torch.from_numpy(np.array(x)) for key, x in parameter.state.items()}
        if low is not None:
            if state:
                state[layout.LOW_BITS] = storage.as_bytes(torch.from_numpy(low))
            else:
                unstepped.append((name, p, storage.as_bytes(torch.from_numpy(low))))
        if state:
            packed["state"][key_of[p]] = state
    if isinstance(optimizer, Optimizer):
        optimizer.load_state_dict(packed, hyperparameters="given")
    else:
        optimizer.load_state_dict(packed)
    with torch.no_grad():
        for p, tensor in weights:
            p.copy_(tensor)
    for name, p, low_bits in unstepped:
        assert isinstance(optimizer, Optimizer)  # only these split weights
        group = group_of[p]
        index = next(i for i, other in enumerate(group["params"]) if other is p)
        optimizer._initialize_state(group, index, repr(name))
        optimizer.state[p][layout.LOW_BITS].copy_(low_bits)


def _member_of(optimizer: torch.optim.Optimizer) -> Member | None:
    """The member that corresponds to an optimizer of ``torch.optim``, if there is one."""
    return next(
        (
            member
            for name, member in MEMBERS.items()
            if (kind := getattr(torch.optim, name, None)) is not None and isinstance(optimizer, kind)
        ),
        None,
    )


def _parameters(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _tensor(x: Array, dtype: torch.dtype) -> Tensor:
    """The tensor of an array that ``narrowed`` returned."""
    tensor = torch.from_numpy(np.ascontiguousarray(x.view(np.int16) if x.dtype == np.uint16 else x))
    return tensor.view(dtype) if x.dtype == np.uint16 else tensor


def _array(x: Tensor) -> Array:
    """The tensor as an array; 16-bit floats as codes."""
    x = x.detach().cpu().contiguous()
    if storage.dtype_name(x.dtype) in layout.HALVES:
        return np.asarray(x.view(torch.int16).numpy().view(np.uint16))
    return np.asarray(x.numpy())


def _weight(p: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Array:
    low = (
        state.get(layout.LOW_BITS)
        if layout.is_split({"weights": "nearest", **group}, storage.dtype_name(p.dtype))
        else None
    )
    return widened(storage.dtype_name(p.dtype), _array(p), None if low is None else _array(storage.as_int16(low)))


def _moments(name: str, p: Tensor, state: Mapping[str, Any]) -> dict[str, Array]:
    """The counts, and every moment in float32 or wider."""
    found: dict[str, Array] = {}
    scales = {layout.scale_name(key) for key in state}
    for key, value in state.items():
        if key == layout.LOW_BITS or key in scales or value is None:
            continue
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, device="cpu")
        if storage.is_coded(value) and layout.scale_name(key) in state:
            value = storage.decoded(value, state[layout.scale_name(key)], p.shape)
        if value.ndim == 0 and not value.is_complex():
            found[key] = np.array(float(value))
        elif value.shape == p.shape and (value.is_floating_point() or value.is_complex()):
            found[key] = widened(storage.dtype_name(value.dtype), _array(value))
        else:
            raise ValueError(
                f"{key!r} of parameter {name!r} has shape {tuple(value.shape)} and dtype {value.dtype}: only moments of the "
                "parameter's own shape can be moved"
            )
    if found and "step" not in found:  # torch.optim.SGD counts no steps; a buffer means at least one
        found["step"] = np.array(1.0)
    return found
