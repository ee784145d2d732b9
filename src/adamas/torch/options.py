"""The checks of hyperparameters and parameters, with PyTorch's messages where PyTorch has the same check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..rule import options
from ..rule.declaration import Flag, Hyperparameter, Limit, Member, Number, Several
from ..rule.hyperparameters import Terms, checked, or_a_schedule, shown
from ..rule.layout import HALVES, WIDTHS, is_reduced
from ..rule.members import MEMBERS
from ..rule.shared import declared
from ..schedules import Schedule
from ..step.engine import has_rule
from .distributed import check_distributed, is_distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Scheduled: TypeAlias = float | Tensor | Schedule  # a hyperparameter that may change with the step


class Options(options.Options, total=False):
    """Options that every optimizer of ``adamas.torch`` has: those of ``adamas.rule.options.Options``, and two of PyTorch.

    Attributes:
        process_group: declares that each rank of this ``torch.distributed.ProcessGroup`` has different parameters of the
            model, or different parts of them, as with ``ZeroRedundancyOptimizer``. The ranks then decide together, with one
            small collective per step: ``max_grad_norm``, ``on_nonfinite`` and loss scaling use the gradients of all ranks,
            schedules use the most steps that any parameter has made, and random numbers depend on a parameter's name or,
            without names, on its position among the parameters of all ranks in order. If one rank cannot take a step, all
            ranks raise an error and none takes it. All ranks of the group must call ``step`` equally often. Leave it out if
            every process has the same parameters: with plain ``DistributedDataParallel``, and for DTensors (``fully_shard``,
            tensor parallelism), whose meshes say which ranks decide together. Without it, DTensors on different parts of one
            mesh count as replicas; give the group if they are different parameters (experts, stages of a pipeline).
        offload: True keeps the state of parameters on a device (GPU) on the host, where the engine steps them: gradients
            are copied there and new weights back, in pieces, while other pieces are stepped. Can be set for a parameter
            group. Parameters on the CPU are not affected. Default: False.
    """

    process_group: ProcessGroup
    offload: bool


class _PyTorchTerms(Terms):
    """The terms of ``torch.optim``, whose messages are kept because users and their tests may match them.

    NumPy's arrays are refused: the group would keep them, and the engine and ``torch.load`` do not take them.
    """

    takes_numpy = False

    def refusal(self, name: str, h: Number, value: Any, index: int | None) -> Exception:
        """See ``Terms.refusal``."""
        if not isinstance(value, Real):
            return TypeError(f"{name} must be a number{or_a_schedule(h, value)}")
        if index is not None and h.name == "betas":
            return ValueError(f"Invalid beta parameter at index {index}: {value}")
        words = {"lr": "learning rate", "eps": "epsilon value"}
        return ValueError(f"Invalid {words.get(name, f'{name} value')}: {value}")


_TERMS = _PyTorchTerms("torch")
_FLAGS_OR_NONE = ("foreach", "capturable", "differentiable", "fused")


def as_number(value: Any) -> Any:
    """A one-element tensor as a Python number; anything else unchanged."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta else value


def is_flag(value: Any) -> bool:
    """Whether the value is True or False, or 1 or 0."""
    return isinstance(value, Real | np.bool_) and value in (False, True)


def check(group: dict[str, Any], optimizer: str, member: Member) -> None:
    """Raises if a hyperparameter of the group has an invalid value; the message names both.

    Raises:
        TypeError: a number or a flag has another type.
        ValueError: a value is out of range; with PyTorch's message where PyTorch has the same check.
        RuntimeError: a combination of ``foreach``, ``fused`` and ``differentiable`` for which PyTorch raises it too.
    """
    known = {name: h for name, h in declared(member).items() if not h.only or "torch" in h.only}
    flags = [name for name, h in known.items() if isinstance(h, Flag)]
    for name in (*flags, "offload", *_FLAGS_OR_NONE):
        if name in group and not (is_flag(group[name]) or (group[name] is None and name in _FLAGS_OR_NONE)):
            raise TypeError(f"{name} must be True or False, not {shown(group[name])}")
    eager_foreach = group["foreach"] and not group.get("capturable")
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if eager_foreach and "betas" in group and "amsgrad" in group:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        if lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
    if "betas" in group:
        _check_tensor_betas(group["betas"], eager_foreach)
    checked(member, {name: _plain(h, group[name]) for name, h in known.items() if name in group}, _TERMS)
    if group["differentiable"]:
        if group.get("fused"):
            raise RuntimeError("`fused` does not support `differentiable`")
        there = optimizer if hasattr(torch.optim, optimizer) else "Adam"
        raise ValueError(
            f"differentiable=True: adamas.torch.{optimizer} updates weights in place outside of autograd, so nothing can be "
            f"differentiated through its step; use torch.optim.{there}(differentiable=True)"
        )
    if group.get("fused") and group["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _plain(h: Hyperparameter, value: Any) -> Any:
    """The value with tensors, and the flags 0 and 1, replaced by Python's numbers and flags."""
    if isinstance(h, Flag):
        return bool(value)
    if isinstance(h, Several):
        is_many = isinstance(value, Sequence) and not isinstance(value, str)
        return [_plain_number(one) for one in value] if is_many or (isinstance(value, Tensor) and value.ndim) else value
    return _plain_number(value) if isinstance(h, Number) and not isinstance(h, Limit) else value


def _plain_number(value: Any) -> Any:
    number = as_number(value)
    return float(number) if isinstance(number, Real) else number


def _check_tensor_betas(betas: Any, eager_foreach: bool) -> None:
    """PyTorch's checks of β's that are tensors."""
    if isinstance(betas, str) or not isinstance(betas, Sequence):
        return
    are_tensors = [isinstance(beta, Tensor) for beta in betas]
    for i, beta in enumerate(betas):
        if eager_foreach and all(are_tensors):
            raise ValueError(f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True")
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{i}] must be 1-element")
    if any(are_tensors) and not all(are_tensors):
        raise ValueError("betas must be either both floats or both Tensors")


def check_parameter(parameter: Any, name: str, group: Mapping[str, Any], alone: bool = True) -> None:
    """Raises if the parameter cannot be optimized with the group's options. ``alone``: whether this is the only process."""
    if not isinstance(parameter, Tensor):
        return  # PyTorch says so itself
    if is_lazy(parameter) or not parameter.requires_grad:
        return  # has no values yet, or is never stepped
    refuse_wrapper(parameter, f"parameter {name}")
    if parameter.is_meta:
        raise ValueError(f"parameter {name} is on the meta device and has no values; materialise it first (to_empty)")
    if parameter.is_conj() or parameter.is_neg():
        raise ValueError(f"parameter {name} has a pending conjugation or sign; pass .resolve_conj().resolve_neg()")
    if parameter.is_complex() and is_reduced(group["state"]):
        raise ValueError(
            f'parameter {name} is complex, and there is no complex {group["state"]!r}: use state="float32" for its group'
        )
    check_flat(parameter, f"parameter {name}", group, alone)
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise ValueError(
            f"parameter {name} has dtype {parameter.dtype}; only floating-point and complex ones can be optimized"
        )


def refuse_wrapper(tensor: Tensor, name: str) -> None:
    """Raises ValueError if the tensor has its values in other tensors; ``name`` is its name in the message."""
    if is_distributed(tensor):
        check_distributed(tensor, name)
        tensor = tensor._local_tensor
    if not is_traceable_wrapper_subclass(tensor):
        return
    kind = type(tensor).__name__
    raise ValueError(
        f"{name} is a {kind}, which has its values in other tensors, but adamas.torch steps only plain tensors and "
        "DTensors of them: pass those, or use torch.optim for this parameter"
    )


def refuse_sparse(gradient: Tensor, name: str, member: Member) -> NoReturn:
    """Raises RuntimeError: no rows of the gradient can be stepped; ``name`` is its name in the message."""
    dense = "make it dense (for an embedding: sparse=False)"
    if not member.steps_rows:
        others = ", ".join(other.name for other in MEMBERS.values() if other.steps_rows)
        raise RuntimeError(
            f"{member.name} does not support sparse gradients, and {name} is {gradient.layout}: {dense}, or use a member that "
            f"steps single rows ({others}) for this parameter"
        )
    kind = str(gradient.layout)
    if gradient.layout == torch.sparse_coo:
        kind += f" with sparse_dim {gradient.sparse_dim()}"
    raise RuntimeError(
        f"{member.name} steps the rows of sparse gradients that are torch.sparse_coo with sparse_dim 1, on the CPU and "
        f"without cautious=True, and {name} is {kind}, on {gradient.device}: {dense}"
    )


def is_flat(parameter: Any) -> bool:
    """Whether ``FullyShardedDataParallel`` has the parameter in a flat one, of which each rank has a part."""
    return bool(getattr(parameter, "_fsdp_flattened", False) or getattr(parameter, "_is_flat_param", False))


def check_flat(parameter: Tensor, name: str, group: Mapping[str, Any], alone: bool) -> None:
    """Raises ValueError if a part of a flat parameter cannot be optimized with the group's options.

    ``alone`` is whether the optimizer does not know the ranks that have the other parts.
    """
    if not is_flat(parameter):
        return
    state = group["state"]
    if WIDTHS.keys() & {*([state] if isinstance(state, str) else state.values())}:
        raise ValueError(
            f"{name} is flattened by FullyShardedDataParallel and has no rows, for which state={state!r} keeps scales: use "
            '"float32" or "bfloat16", or DistributedDataParallel with ZeroRedundancyOptimizer'
        )
    is_rounded = group["weights"] == "stochastic" and str(parameter.dtype).removeprefix("torch.") in HALVES
    asked = {
        "max_grad_norm": group["max_grad_norm"] is not None,
        "on_nonfinite": group["on_nonfinite"] != "propagate",
        "state": is_reduced(state),
        "weights": is_rounded,
    }
    if alone and any(asked.values()):
        option = next(option for option, is_asked in asked.items() if is_asked)
        refuse_alone(name, f"{option}={group[option]!r}")


def refuse_offload(parameter: Tensor, name: str, member: Member, group: Mapping[str, Any]) -> None:
    """Raises ValueError if the step of a parameter on a device cannot be made on the host by this member."""
    if member.offset:
        raise ValueError(
            f"parameter {name} is stepped by {member.name}, whose eval() and train() change the weights where they are: use "
            "offload=False"
        )
    rule = member.rule(group, parameter.shape)
    if not rule.is_elementwise:
        there = "give offload=True only to groups with use_muon=False" if "use_muon" in group else "use offload=False"
        raise ValueError(
            f"parameter {name} is stepped by {member.name}, which takes whole matrices and steps them on the device of the "
            f"parameter: {there}"
        )
    if not has_rule(rule):
        raise ValueError(
            f"parameter {name} follows the rule {rule.name!r} of your own, and offload=True makes the step on the engine, "
            "which was compiled without it: use offload=False"
        )
    if is_distributed(parameter) or is_flat(parameter):
        raise ValueError(
            f"parameter {name} is sharded, and offload=True takes whole tensors: let fully_shard keep the weights on the "
            "host, with offload_policy=CPUOffloadPolicy(), where the step is made in any case"
        )


def refuse_alone(name: str, option: str) -> NoReturn:
    """Raises ValueError for an option that all ranks with parts of a flat parameter must decide together."""
    raise ValueError(
        f"{name} is flattened by FullyShardedDataParallel, and each rank has a part of it. {option} would go by the part of "
        "only this rank: give the optimizer process_group=, that of FullyShardedDataParallel (model.process_group)"
    )
