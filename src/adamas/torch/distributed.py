"""Weights that are DTensors: what a process has of them, and state of the same mesh and placements.

A step works on local tensors and never calls an operation of DTensor, which would take longer than the step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from ..step.record import Place, rows_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_distributed(tensor: Any) -> TypeGuard[DTensor]:
    """Whether the tensor is a DTensor. The module of DTensor takes long to import, and without it there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_here(tensor: Tensor) -> bool:
    """Whether this process has a tensor or a part of it: not if it is a DTensor on a mesh of other processes."""
    return not is_distributed(tensor) or tensor.device_mesh.get_coordinate() is not None


def is_cut(tensor: Tensor) -> bool:
    """Whether other processes have other parts of a tensor: a DTensor that is not replicated."""
    return is_distributed(tensor) and not all(placement.is_replicate() for placement in tensor.placements)


def local_of(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in the same memory; a plain tensor itself."""
    return tensor._local_tensor if is_distributed(tensor) else tensor


def place_in(group: Mapping[str, Any], index: int) -> Place | None:
    """Where a parameter of the group lies in the whole tensor; None if it is a whole tensor itself.

    Raises:
        ValueError: the part of a DTensor that this process has is not a range of the weight in each dimension.
    """
    weight = group["params"][index]
    return _place_of(weight) if is_distributed(weight) else rows_of(group, index)


def _place_of(weight: DTensor) -> Place | None:
    shape, offset = part_in(weight.shape, weight)
    if not _are_ranges(weight) or tuple(shape) != tuple(weight._local_tensor.shape):
        raise ValueError(
            f"a DTensor of shape {tuple(weight.shape)} has the placements {weight.placements} on a mesh of shape "
            f"{tuple(weight.device_mesh.shape)}, and the part here, of shape {tuple(weight._local_tensor.shape)}, is not one "
            f"range of each dimension (expected shape {tuple(shape)}): use sizes that the mesh divides evenly"
        )
    return None if tuple(shape) == tuple(weight.shape) else Place(tuple(offset), tuple(weight.shape))


def part_in(shape: Sequence[int], weight: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the part that this process has of a tensor of this shape, placed as the weight is, and where it begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(tuple(shape), weight.device_mesh, weight.placements)


def _are_ranges(weight: DTensor) -> bool:
    """Whether each part is a range of each dimension: every strided cut is made up for by the cuts after it."""
    placements, mesh = weight.placements, weight.device_mesh
    for i, placement in enumerate(placements):
        factor = getattr(placement, "split_factor", 1)
        for j in range(i + 1, len(placements)):
            if placements[j].is_shard(getattr(placement, "dim", None)):
                factor /= mesh.size(j)
        if factor > 1:
            return False
    return True


def is_counted(weight: DTensor) -> bool:
    """Whether this process has the replica of its part that counts in sums: the first one."""
    coordinate = weight.device_mesh.get_coordinate()
    return coordinate is not None and all(
        at == 0 for at, placement in zip(coordinate, weight.placements, strict=True) if placement.is_replicate()
    )


def like(weight: DTensor, local: Tensor, shape: Sequence[int], name: str) -> DTensor:
    """A DTensor of the weight's mesh and placements.

    Args:
        weight: the weight.
        local: the part that this process has.
        shape: the shape of the whole.
        name: what the tensor is, for messages.

    Raises:
        ValueError: parts of this shape do not make up a whole of ``shape`` by these placements.
    """
    from torch.distributed.tensor import DTensor

    expected, _ = part_in(shape, weight)
    if expected != tuple(local.shape):
        raise ValueError(
            f"{name}: with the placements {weight.placements}, the part here of a tensor of shape {tuple(shape)} has "
            f"the shape {expected}, not {tuple(local.shape)}"
        )
    stride = weight.stride() if tuple(shape) == tuple(weight.shape) else _row_major(shape)
    with torch.no_grad():
        return DTensor.from_local(
            local, weight.device_mesh, weight.placements, run_check=False, shape=torch.Size(shape), stride=stride
        )


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor in row-major order."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides[: len(shape)])


def is_placed_as(weight: DTensor, tensor: Any) -> bool:
    """Whether a tensor is a DTensor of the weight's mesh and placements."""
    return _is_on_mesh_of(weight, tensor) and tensor.placements == weight.placements


def is_misplaced(weight: DTensor, gradient: Tensor | None) -> bool:
    """Whether a gradient has to be redistributed to have the weight's placements."""
    return _is_on_mesh_of(weight, gradient) and not is_placed_as(weight, gradient)


def _is_on_mesh_of(weight: DTensor, tensor: Any) -> TypeGuard[DTensor]:
    return is_distributed(tensor) and tensor.device_mesh == weight.device_mesh


def check_gradient(weight: DTensor, name: str) -> None:
    """Raises ValueError if the weight's gradient is no DTensor, or has another mesh. ``name`` is for the message."""
    gradient = weight.grad
    if not is_distributed(gradient):
        raise ValueError(f"the gradient of parameter {name} must be a DTensor, as the parameter is, not a plain tensor")
    if gradient.device_mesh != weight.device_mesh:
        raise ValueError(
            f"the gradient of parameter {name} lies on the mesh {gradient.device_mesh}, but must lie on that of the "
            f"parameter, {weight.device_mesh}"
        )


def waited_for(local: Tensor) -> Tensor:
    """A tensor after the collective whose result it is, if it is still under way."""
    wait: Callable[[], Tensor] | None = getattr(local, "wait", None)
    return local if wait is None else wait()


def placed_as(weight: DTensor, tensor: DTensor) -> Tensor:
    """The local tensor of a DTensor of the weight's mesh, after it was given the weight's placements.

    All processes of the mesh have to call this together unless the placements are the same.
    """
    if tensor.placements != weight.placements:
        with torch.no_grad():
            tensor = tensor.redistribute(placements=weight.placements)
    return waited_for(tensor._local_tensor)


def part_of(weight: Tensor, whole: Tensor) -> Tensor:
    """The part of a saved tensor that belongs to the part of the weight that this process has, not copied if it is here.

    All processes of the meshes have to call this together unless the placements are the same.

    Args:
        weight: the weight; if it is no DTensor, the result is the whole tensor.
        whole: a tensor of the weight's state: plain, or a DTensor of any placements.
    """
    if is_distributed(whole) and is_distributed(weight) and whole.device_mesh == weight.device_mesh:
        return placed_as(weight, whole)
    is_gathered = is_distributed(whole)
    if is_distributed(whole):
        whole = whole.full_tensor()
    if not is_distributed(weight):
        return whole
    shape, offset = part_in(whole.shape, weight)
    part = whole[tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))]
    return part.clone() if is_gathered else part  # the whole is not kept


def check_distributed(parameter: DTensor, name: str) -> None:
    """Raises ValueError if the DTensor cannot be optimized."""
    if any(placement.is_partial() for placement in parameter.placements):
        raise ValueError(
            f"{name} is a DTensor with the placements {parameter.placements}: each process has a part of a sum, not a "
            "weight. Redistribute it to Replicate() or Shard(dim)"
        )
