"""What four processes check in ``test_distributed.py``: training loops end as in one process, except for rounding."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from layouts import Layers, mesh, mesh_of, whole
from ranks import Checks
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import adamas.torch as at
from adamas.schedules import cosine, warmup

check = Checks()
STEPS, BATCH, TOKENS, WIDTH, CLASSES = 8, 16, 4, 24, 5
OPTIONS: dict[str, Any] = {"lr": 1e-2 * warmup(3).then(cosine(10)), "weight_decay": 0.1, "max_grad_norm": 0.2}


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layers = torch.nn.LayerNorm(WIDTH), Layers(WIDTH, 128, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(self.norm(x))
        return out


class Model(torch.nn.Module):
    """Some blocks of a transformer without attention, on tokens of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, WIDTH)
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.norm, self.head = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


def batches(part: int, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The share of one of several processes in each batch."""
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(50, (BATCH, TOKENS), generator=generator)
        each = BATCH // parts
        yield tokens[each * part : each * (part + 1)], (tokens % CLASSES)[each * part : each * (part + 1)]


def train(
    model: torch.nn.Module,
    part: int = 0,
    parts: int = 1,
    pieces: int = 1,
    accumulating: Callable[[bool], Any] = lambda is_last: nullcontext(),
    optimizer: at.Optimizer | None = None,
    steps: slice = slice(STEPS),
    **options: Any,
) -> tuple[at.Optimizer, list[float]]:
    """Trains on this process's share of the batches, each in some pieces; the optimizer and the norms of the gradients."""
    optimizer = optimizer or at.AdamW(model.named_parameters(), **{**OPTIONS, **options})
    norms = []
    for tokens, labels in list(batches(part, parts))[steps]:
        for i in range(pieces):
            with accumulating(i == pieces - 1):
                out = model(tokens.tensor_split(pieces)[i])
                loss = F.cross_entropy(out.float().flatten(0, 1), labels.tensor_split(pieces)[i].flatten()) / pieces
                loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.grad_norm is not None
        norms.append(optimizer.grad_norm)
    return optimizer, norms


def trains_as_one_process(
    model: torch.nn.Module, tolerance: float = 1e-3, part: int = 0, parts: int = 1, **arguments: Any
) -> None:
    """Norms and weights are those of one process within a relative tolerance."""
    ends_as_one_process(model, tolerance, *train(model, part, parts, **arguments))


@cache
def trained_alone() -> tuple[Model, at.Optimizer, list[float]]:
    """The model after training in one process, its optimizer, and the norms of the gradients."""
    model = Model()
    return model, *train(model)


def ends_as_one_process(
    model: torch.nn.Module, tolerance: float, optimizer: at.Optimizer, norms: list[float], steps: slice = slice(STEPS)
) -> None:
    """The norms of these steps and the weights are those of one process within a relative tolerance."""
    reference, expected, alone = trained_alone()
    assert norms == pytest.approx(alone[steps], rel=tolerance)
    assert optimizer.clipped_steps == expected.clipped_steps > 0
    assert optimizer.param_groups[0]["lr"] == expected.param_groups[0]["lr"]
    started = dict(Model().named_parameters())
    theirs = dict(reference.named_parameters())
    ours = {name.removeprefix("module.").removeprefix("_orig_mod."): p for name, p in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    found = {name: whole(p.detach()) for name, p in ours.items()}
    for name, p in found.items():
        error, moved = (p - theirs[name]).norm(), (theirs[name] - started[name]).norm()
        assert error < tolerance * moved, (name, error / moved)
    for p in ours.values():
        for name, value in optimizer.state[p].items():
            assert isinstance(value, DTensor) == (isinstance(p, DTensor) and name != "step")


def sharded(*shape: int, **options: Any) -> Any:
    """The model under FSDP2, on a mesh of this shape."""
    model, own = Model(), mesh(*shape)
    for module in (*model.blocks, model):
        fully_shard(module, mesh=own, **options)
    return model


@check
def training_with_fsdp2(rank: int) -> None:
    for reshard in (True, False):
        trains_as_one_process(sharded(4, reshard_after_forward=reshard), part=rank, parts=4)


@check
def training_with_hybrid_sharding(rank: int) -> None:
    trains_as_one_process(sharded(2, 2), part=rank, parts=4)


@check
def training_with_fsdp2_in_mixed_precision(rank: int) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(4, mp_policy=policy)
    trains_as_one_process(model, 0.2, part=rank, parts=4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@check
def training_with_weights_and_state_in_the_memory_of_the_cpu(rank: int) -> None:
    trains_as_one_process(sharded(4, offload_policy=CPUOffloadPolicy(pin_memory=False)), part=rank, parts=4)


@check
def training_with_gradients_accumulated_over_two_passes(rank: int) -> None:
    model = sharded(4)

    def accumulating(is_last: bool) -> Any:
        model.set_requires_gradient_sync(is_last)
        return nullcontext()

    trains_as_one_process(model, part=rank, parts=4, pieces=2, accumulating=accumulating)
    replicas = DistributedDataParallel(Model(), gradient_as_bucket_view=True)
    trains_as_one_process(
        replicas,
        part=rank,
        parts=4,
        pieces=2,
        accumulating=lambda is_last: nullcontext() if is_last else replicas.no_sync(),
    )


@check
def training_with_ddp(rank: int) -> None:
    for views in (True, False):
        trains_as_one_process(DistributedDataParallel(Model(), gradient_as_bucket_view=views), part=rank, parts=4)


def split_by_tensors(model: torch.nn.Module, own: Any) -> torch.nn.Module:
    """The model with the linear layers of its blocks cut, the others replicated."""
    plan = {f"blocks.{i}.layers.{name}": style() for i in (0, 1) for name, style in LAYERS.items()}
    return parallelize_module(model, own, plan)


LAYERS: dict[str, Any] = {"first": ColwiseParallel, "second": RowwiseParallel}


@check
def training_with_tensor_parallel_layers(rank: int) -> None:
    """Plain parameters (norms, embedding, head) are beside DTensors, and the same on all ranks."""
    trains_as_one_process(split_by_tensors(Model(), mesh(4)))


@check
def training_with_sequence_parallel_norms(rank: int) -> None:
    """Each rank has some tokens, so the gradients of the norms are parts of a sum."""
    model, own = Model(), mesh(4)
    plan: dict[str, Any] = {}
    for i in (0, 1):
        at_block = f"blocks.{i}"
        plan[f"{at_block}.norm"] = SequenceParallel()
        plan[f"{at_block}.layers"] = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
        plan[f"{at_block}.layers.first"] = ColwiseParallel()
        plan[f"{at_block}.layers.second"] = RowwiseParallel(output_layouts=Shard(1), use_local_output=False)
    plan["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False)
    plan["norm"] = SequenceParallel()
    plan["head"] = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    parallelize_module(model, own, plan)
    out = model(next(batches(0, 1))[0])
    out.sum().backward()
    assert any(p.grad.placements[0].is_partial() for p in model.parameters() if isinstance(p.grad, DTensor))
    model.zero_grad()
    trains_as_one_process(model)


@check
def training_with_tensor_parallel_layers_under_fsdp2(rank: int) -> None:
    two = mesh(2, 2)
    model = split_by_tensors(Model(), two["inner"])
    for module in (*model.blocks, model):  # type: ignore[misc]
        fully_shard(module, mesh=two["outer"])
    trains_as_one_process(model, part=rank // 2, parts=2)


@check
def training_a_compiled_model(rank: int) -> None:
    trains_as_one_process(torch.compile(sharded(4), backend="eager"), part=rank, parts=4)  # type: ignore[arg-type]


_BFLOAT16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


@check.each(
    {"accumulated": (2, {}, 1e-3), "accumulated in mixed precision": (2, {"mp_policy": _BFLOAT16}, 0.2)},
    quick=("accumulated",),
)
def training_goes_on_with_another_number_of_ranks(
    rank: int, pieces: int, options: dict[str, Any], tolerance: float
) -> None:
    """FSDP2 on four ranks, then a checkpoint, and from there on two."""
    path = Path(sys.argv[3]) / f"half trained {len(options)}"
    for ranks, steps in ((4, slice(4)), (2, slice(4, STEPS))):
        own = mesh_of(*range(ranks))  # all processes make it
        if rank >= ranks:
            continue
        model: Any = Model()
        for module in (*model.blocks, model):
            fully_shard(module, mesh=own, reshard_after_forward=False, **options)
        optimizer = at.AdamW(model.named_parameters(), **OPTIONS)
        if steps.start:
            saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
            dcp.load(saved, checkpoint_id=path, process_group=own.get_group())
            set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])

        def accumulating(is_last: bool, model: Any = model) -> Any:
            model.set_requires_gradient_sync(is_last)
            return nullcontext()

        _, norms = train(model, rank, ranks, pieces, accumulating, optimizer, steps)
        if not steps.start:
            saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
            dcp.save(saved, checkpoint_id=path)
        else:
            ends_as_one_process(model, tolerance, optimizer, norms, steps)
