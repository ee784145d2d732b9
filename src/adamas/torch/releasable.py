"""What can be stepped in the backward pass, and what cannot: ``release`` refuses it with the reason."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..rule.declaration import Member
from .optimizer import given_names
from .options import is_flat


def check_group(member: Member, group: Mapping[str, Any], per_tensor: bool, has_sums: bool) -> None:
    """Raises ValueError if the parameters of a group cannot be stepped one after the other with its options.

    Args:
        member: the member.
        group: the group, or the argument of ``add_param_group`` with the defaults of its options.
        per_tensor: whether a number as ``max_grad_norm`` is a limit for each tensor.
        has_sums: whether the gradients of micro-batches are added up in bfloat16.
    """
    limit = group["max_grad_norm"]
    if limit is not None and limit != "auto" and not per_tensor:
        raise ValueError(
            f"max_grad_norm={limit!r} limits the norm of all gradients together, which is known only after the last of "
            "them, when the first have been used and freed. "
            'Use max_grad_norm="auto", which has a limit for each tensor from its own history, or '
            "release(optimizer, per_tensor=True), with which the number is a limit for each tensor"
        )
    rule = member.rule(group)
    if any(one.over == "all" for one in rule.sums):
        raise ValueError(
            f"the step of {member.name} needs sums over all gradients, which do not exist at the same time: make it after the "
            "backward pass, without release"
        )
    params = group["params"]
    names = given_names({**group, "params": [*params]}) if not isinstance(params, Tensor) else None
    for i, item in enumerate([params] if isinstance(params, Tensor) else params):
        name, p = item if isinstance(item, tuple) else (i if names is None else names[i], item)
        if is_flat(p):
            raise ValueError(
                f"parameter {name} is flattened by FullyShardedDataParallel, which reduces its gradient after the "
                "backward pass has given it: use fully_shard"
            )
        if has_sums and isinstance(p, Tensor) and p.is_complex():
            raise ValueError(f'parameter {name} is complex, and there is no complex "bfloat16": use accumulate=None')


def refuse_ddp(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raises RuntimeError if ``DistributedDataParallel`` has one of these parameters, given with their names."""
    here = {id(p): name for name, p in named}
    for model in gc.get_objects():
        if not issubclass(type(model), DistributedDataParallel):
            continue
        for name, p in model.module.named_parameters():
            if id(p) in here and p.requires_grad and name not in model.parameters_to_ignore:
                raise RuntimeError(
                    f"parameter {here[id(p)]} is in a DistributedDataParallel, which adds up the gradients of all "
                    "processes after the backward pass has given them, so a released optimizer would step with those of "
                    "one process. Use fully_shard, or remove() the release; nothing was changed"
                )
