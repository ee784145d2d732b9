"""What two processes check in ``test_ranks.py`` of ``adamas.torch.release``: steps in the backward pass of ``fully_shard``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import Checks
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel

import adamas.torch as at
from adamas.schedules import cosine, linear, warmup

check = Checks()
Options = dict[str, Any]


class Model(nn.Module):
    """Two blocks, whose rows two processes do not share evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(140, 140) for _ in range(2)])
        self.head = nn.Linear(140, 7)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        out: Tensor = self.head(x)
        return out


class Run:
    """A model under ``fully_shard`` that is trained, released with these arguments or, if they are None, as usual."""

    def __init__(self, released: Options | None = None, policy: Options | None = None, **options: Any) -> None:
        self.model: Any = Model()
        for module in (*self.model.blocks, self.model):
            fully_shard(module, **(policy or {}))
        self.optimizer = at.AdamW(self.model.named_parameters(), **options)
        if released is not None:
            at.release(self.optimizer, **released)

    def loss(self, i: int, factor: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(10 * i + dist.get_rank())
        loss: Tensor = self.model(torch.randn(4, 140, generator=generator)).square().mean() * factor
        return loss

    def step(self, *batches: int) -> None:
        for i in batches:
            self.loss(i, 8.0 if i % 12 > 9 else 1.0).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, first: int, last: int) -> Run:
        for i in range(first, last):
            self.step(i)
        return self


def local(tensor: Any) -> Tensor:
    found: Tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return found.detach()


def assert_same(one: Run, other: Run) -> None:
    """Weights and states are the same."""
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(local(p), local(q))
        mine, its = one.optimizer.state[p], other.optimizer.state[q]
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            assert torch.equal(local(value), local(its[name])), name
    assert one.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]


FORMS: dict[str, Callable[[], Options]] = {
    "float32": lambda: {"lr": 1e-2 * warmup(2).then(cosine(6)), "weight_decay": 0.1 * linear(9)},
    "int8": lambda: {"state": "int8", "on_nonfinite": "skip"},
    "on the host": lambda: {"policy": {"offload_policy": CPUOffloadPolicy(pin_memory=False)}},
}


@check.each({name: (make,) for name, make in FORMS.items()}, quick=("int8",))
def steps_are_the_same(rank: int, make: Callable[[], Options]) -> None:
    """Steps in the backward pass are those after it, and the norm is that over all processes."""
    one, other = Run(None, **make()).train(0, 4), Run({}, **make()).train(0, 4)
    assert_same(one, other)
    if one.optimizer.grad_norm is not None:
        assert other.optimizer.grad_norm == pytest.approx(one.optimizer.grad_norm, rel=1e-12)


@check
def gradients_of_a_group_are_freed(rank: int) -> None:
    """When the gradients of a group arrive, those of the groups before are freed."""
    run = Run()
    alive: dict[str, StorageWeakRef] = {}
    for name, p in run.model.named_parameters():

        def watch(p: Any, group: str = name.rpartition(".")[0]) -> None:
            assert all(one == group or freed.expired() for one, freed in alive.items())
            alive[group] = StorageWeakRef(local(p.grad).untyped_storage())

        p.register_post_accumulate_grad_hook(watch)
    at.release(run.optimizer)
    run.step(0)
    assert len(alive) == 3
    assert all(p.grad is None for p in run.model.parameters())


@check
def micro_batches_are_reductions(rank: int) -> None:
    """Those without a reduction do not count; those with one are added up where the parts are, in ``.grad`` or in bfloat16."""
    one, other, kept, rounded = (
        Run(released) for released in (None, {}, {"micro_batches": 2}, {"micro_batches": 2, "accumulate": "bfloat16"})
    )
    for run in (one, other):
        run.model.set_requires_gradient_sync(False)
        run.loss(0).backward()
        run.model.set_requires_gradient_sync(True)
        run.step(1)
    assert_same(one, other)
    plain = Run()
    for run in (plain, kept, rounded):
        run.step(0, 1)
        run.step(2, 3)
    assert_same(plain, kept)
    for p, q in zip(plain.model.parameters(), rounded.model.parameters(), strict=True):
        assert 0 < (local(p) - local(q)).norm() < 0.05 * local(p).norm()


@check
def tensors_are_clipped_by_their_own_norms(rank: int) -> None:
    """As whole tensors are in one process. What is remembered is saved in a distributed checkpoint, and goes on."""
    options: Options = {"max_grad_norm": "auto", "on_nonfinite": "skip"}
    whole, one, other = (Run({}, **options) for _ in range(3))
    apart = Run()
    optimizers = [at.AdamW([(name, p)], **options) for name, p in apart.model.named_parameters()]
    for i in range(14):
        apart.loss(i, 8.0 if i % 12 > 9 else 1.0).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    whole.train(0, 14)
    for p, q in zip(whole.model.parameters(), apart.model.parameters(), strict=True):
        assert torch.equal(local(p), local(q))
    assert whole.optimizer.clipped_steps == sum(one.clipped_steps for one in optimizers) > 0

    one.train(0, 10)
    folder = Path(sys.argv[3]) / "released"
    dcp.save(get_optimizer_state_dict(one.model, one.optimizer), checkpoint_id=folder)
    found = get_optimizer_state_dict(other.model, other.optimizer)  # makes a step with rates and gradients of 0
    assert all(state["step"] == 0 for state in other.optimizer.state.values())
    dcp.load(found, checkpoint_id=folder)
    set_optimizer_state_dict(other.model, other.optimizer, found)
    for p, q in zip(other.model.parameters(), one.model.parameters(), strict=True):
        local(p).copy_(local(q))
    other.train(10, 14)
    for run in (whole, other):
        run.optimizer.state_dict()
    assert_same(whole, other)
    assert whole.optimizer.clipped_steps == other.optimizer.clipped_steps


@check.each({"float32": ({},), "skipping": ({"on_nonfinite": "skip", "max_grad_norm": "auto", "state": "int8"},)})
def tensor_parallel_weights_are_stepped(rank: int, options: Options) -> None:
    """In the backward pass, with the bits of optimizers of one parameter each after it."""
    found = []
    for released in (None, {}):
        model = Model()
        mesh = init_device_mesh("cpu", (2,))
        plan = {"blocks.0": ColwiseParallel(), "blocks.1": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
        named = [*model.named_parameters()]
        optimizers = [
            at.AdamW(params, **options) for params in ([[one] for one in named] if released is None else [named])
        ]
        if released is not None:
            at.release(optimizers[0])
        for i in range(4):
            generator = torch.Generator().manual_seed(i)
            model(torch.randn(4, 140, generator=generator)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        found.append([local(p).clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


@check
def a_gradient_that_is_not_finite_is_refused_by_all(rank: int) -> None:
    """In the backward pass, on all ranks at the same parameter."""
    run = Run({}, on_nonfinite="raise").train(0, 1)
    with pytest.raises(FloatingPointError, match=r"blocks\.1\."):
        run.loss(1, math.nan if rank else 1.0).backward()


@check
def ddp_is_refused_before_anything_is_stepped(rank: int) -> None:
    model = Model()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = at.AdamW(model.named_parameters())
    at.release(optimizer)
    parallel = DistributedDataParallel(model)
    with pytest.raises(
        RuntimeError, match=r"parameter 'blocks\.0\.weight' is in a DistributedDataParallel.*fully_shard"
    ):
        parallel(torch.ones(2, 140)).sum().backward()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not optimizer.state
    with pytest.raises(ValueError, match="process_group= cannot be released"):
        at.release(at.AdamW(model.parameters(), process_group=dist.group.WORLD))
