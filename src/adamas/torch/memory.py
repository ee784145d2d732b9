"""The memory that an optimizer will take, before any of it is allocated.

It is measured on an optimizer over tensors on the meta device, which have shapes but no values. The prediction therefore comes
from the same code that creates the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT

from ..rule.hyperparameters import shown
from ..step.memory import Memory
from . import members
from .optimizer import Optimizer
from .options import check_parameter


def plan_memory(
    model: nn.Module | ParamsT, optimizer: type[Optimizer] | str = "AdamW", *, ranks: int = 1, **options: Any
) -> Memory:
    """What ``optimizer.memory()`` will return after the first step, with a gradient for every trainable parameter.

    Only shapes and dtypes are used: no tensors are allocated, and the model may be on the meta device.

    Args:
        model: a module, or the optimizer's ``params``: tensors, named tensors, or groups of either with their own options.
            It is not changed, except that a generator in a group is replaced by a list.
        optimizer: a class of ``adamas.torch``, or its name.
        ranks: the number of processes that share the model, as ``torch.distributed.fsdp.fully_shard`` does: each has the
            weights, gradients and moments of at most ⌈rows / ranks⌉ rows of every weight, its first dimension. The plan is
            that of one process, the first, which has most. It does not count what ``fully_shard`` gathers meanwhile.
        **options: options of the optimizer: ``state=``, ``weights=``, ``amsgrad=``, …

    Raises:
        TypeError: an option is unknown, ``ranks`` is not an int, or ``optimizer`` is not one of these classes.
        ValueError: an option has an invalid value, ``ranks`` is below 1 or stands beside a group's ``rows=``, or a parameter
            has no shape yet or cannot be optimized with the options of its group; the message names it.

    Example:
        >>> import torch, adamas.torch
        >>> with torch.device("meta"):
        ...     model = torch.nn.Linear(4096, 4096, bias=False)
        >>> print(adamas.torch.plan_memory(model, state="int8"))
        16,777,216 parameters     memory  bytes a parameter
        weights                 67.11 MB               4.00
        gradients               67.11 MB               4.00
        exp_avg                 16.78 MB               1.00
        exp_avg_sq              16.78 MB               1.00
        scales                   1.05 MB               0.06
        step counts                  8 B               0.00
        state                   34.60 MB               2.06
        total                  168.82 MB              10.06
    """
    kind = _class(optimizer)
    if not isinstance(ranks, int):
        raise TypeError(f"ranks must be an int, the number of processes that share the model, not {shown(ranks)}")
    if ranks < 1:
        raise ValueError(f"ranks must be 1 or more, the number of processes that share the model, not {ranks}")
    stand_ins: dict[Tensor, Tensor] = {}
    params = model.named_parameters() if isinstance(model, nn.Module) else model
    with torch.device("cpu"):  # even if the default device is another
        # An optimizer accepts frozen tensors on the meta device, and creates no state for them.
        planned = kind(params if isinstance(params, Tensor) else list(_without_values(params, stand_ins)), **options)
        trainable = {stand_in for p, stand_in in stand_ins.items() if p.requires_grad}
        names = {p: name for name, p in planned._named_parameters()}
        for group in planned.param_groups:
            if ranks > 1:
                _keep_first_rows(group, ranks)
            for i, p in enumerate(group["params"]):
                if p in trainable:
                    check_parameter(torch.empty(0, dtype=p.dtype, requires_grad=True), names[p], group)
                    p.requires_grad_()
                    p.grad = torch.empty_like(p)
                    planned._initialize_state(group, i, names[p])
    return planned.memory()


def _keep_first_rows(group: dict[str, Any], ranks: int) -> None:
    """Cuts the stand-ins of a group to what the first of several processes has of them."""
    if group["rows"] is not None:
        raise ValueError(
            f"rows={group['rows']!r} says which rows this process has, and ranks={ranks} shares out the rows of whole "
            "weights: give one of them"
        )
    group["rows"] = [(0, p.shape[0]) if p.ndim else None for p in group["params"]]
    for p in group["params"]:
        if p.ndim:
            p.data = p.data[: -(-p.shape[0] // ranks)]


def _class(optimizer: Any) -> type[Optimizer]:
    """The class, given the class or its name."""
    named = isinstance(optimizer, str) and optimizer in members.__all__
    kind = getattr(members, optimizer) if named else optimizer
    if not isinstance(kind, type) or not issubclass(kind, Optimizer) or not hasattr(kind, "_member"):
        raise TypeError(
            f"plan_memory plans for the optimizers of adamas.torch, but {optimizer!r} is not one of them: give a class, such "
            'as adamas.torch.AdamW, or its name, "AdamW"'
        )
    return kind


def _without_values(params: Iterable[Any], stand_ins: dict[Tensor, Tensor]) -> Iterator[Any]:
    """The same parameters and groups, with all tensors replaced by frozen tensors on the meta device."""
    for position, item in enumerate(params):
        if isinstance(item, dict) and "params" in item:
            given = item["params"]
            if isinstance(given, Iterator):  # otherwise it would be empty for the optimizer that is created later
                item["params"] = given = list(given)
            inner = [given] if isinstance(given, Tensor) else given
            replaced = _without_values(inner, stand_ins)
            yield {**item, "params": set(replaced) if isinstance(given, set) else list(replaced)}
            continue
        name, p = item if isinstance(item, tuple) else (position, item)
        if not isinstance(p, Tensor):
            yield item  # the optimizer says what is wrong with it
            continue
        if is_lazy(p):
            raise ValueError(f"parameter {name!r} is lazy and has no shape yet: run the model once, then plan")
        if p not in stand_ins:
            stand_ins[p] = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device="meta")
        yield (name, stand_ins[p]) if isinstance(item, tuple) else stand_ins[p]
