"""The kernels that step parameters on GPUs, compiled before the first step."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.nn.parameter import is_lazy

from ..step.devices import compiled_executor_of
from ..step.executor import GroupSpec, spec_of
from ..step.record import Record, begin_state, check_place
from .distributed import is_here, local_of, place_in
from .edges import edges_of
from .optimizer import Optimizer
from .tensors import TENSORS


def warm_up(optimizer: Optimizer) -> None:
    """Compiles the Triton kernels that step the optimizer's parameters on GPUs, which the first step would do otherwise.

    Triton stores compiled kernels on disk, so later processes only load them. The optimizer does not change: weights,
    gradients, state and step counts stay as they are, and missing state is not created. Temporarily, the call takes the memory
    of the gradient and the state of one parameter at a time.

    Call it when the weights have their final devices and dtypes. A gradient that does not exist yet is assumed to have the
    memory layout of its parameter, and the dtype ``grad_dtype`` or, if that is None, the dtype of the parameter. For
    parameters on other devices, and without Triton, there is nothing to compile.

    Args:
        optimizer: one of ``adamas.torch``.

    Raises:
        TypeError: the optimizer is not one of ``adamas.torch``.
        ValueError: a parameter is lazy and has no shape yet, or is a part of a tensor whose moments cannot be stored as
            ``state=`` says; the message names the parameter.

    Example:
        >>> import torch, adamas.torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = adamas.torch.AdamW(model.parameters())
        >>> adamas.torch.warm_up(optimizer)
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"warm_up compiles the kernels of the optimizers of adamas.torch, and optimizer is a "
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__}: give one of adamas.torch, such as AdamW"
        )
    names = {p: name for name, p in optimizer._named_parameters()}
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            if is_lazy(p):
                raise ValueError(f"parameter {names[p]} is lazy and has no shape yet: run the model once, then warm up")
            member = optimizer._member
            if p.requires_grad and is_here(p) and edges_of(member, group, i) is None:
                spec = spec_of(member, group, TENSORS, member.scalar_names, shape=p.shape)
                record = Record(p, dict(optimizer.state.get(p, {})), names[p], 0, place_in(group, i))
                _warm_up(spec, record, optimizer._is_measured(), optimizer._will_decide_there(), optimizer._watched())


def _warm_up(spec: GroupSpec, record: Record, is_measured: bool, is_decided: bool, watched: Collection[bool]) -> None:
    """Compiles the kernels that will step a parameter and, if the gradient ``is_measured``, those of its norm.

    The record has a copy of its state, which is completed. ``is_decided`` and ``watched``: see ``GpuExecutor.warm_up``.
    """
    executor = compiled_executor_of(TENSORS, record.weight)
    if executor is None or not spec.rule.is_elementwise:
        return
    p, place = record.weight, record.place
    check_place(TENSORS, spec.member, spec.group, p, place, record.name)
    begin_state(TENSORS, spec.member, spec.group, p, place, record.state)
    dtype = (p.grad_dtype or p.dtype) if p.grad is None else p.grad.dtype
    gradient = torch.empty_like(local_of(p), dtype=dtype)
    executor(spec, [record], is_decayed=True).warm_up([gradient], is_measured, is_decided, watched)
