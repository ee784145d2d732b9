"""Checks of Muon on weights that several processes share."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from layouts import mesh
from ranks import Checks, raises
from ranks_training import STEPS, Model, batches, sharded
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

import adamas.torch as at
from adamas.rule import newton_schulz

check = Checks()
OPTIONS: dict[str, Any] = {"lr": 0.01, "max_grad_norm": 0.5, "watch": True}


def train(model: Any, part: int = 0, parts: int = 1, **options: Any) -> at.Muon:
    optimizer = at.Muon(model, **{**OPTIONS, **options})
    for tokens, labels in batches(part, parts):
        F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def ends_as_one_process(model: Any, optimizer: at.Muon) -> None:
    alone = Model()
    expected = train(alone)
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert torch.allclose(whole(p.detach()), q, rtol=1e-3, atol=2e-4), name
        for moment, value in optimizer.state[p].items():
            assert isinstance(value, DTensor) == (isinstance(p, DTensor) and moment != "step")
    assert optimizer.clipped_steps == expected.clipped_steps > 0
    assert optimizer.watch is not None
    assert expected.watch is not None
    found, norms = optimizer.watch["update_norm"], expected.watch["update_norm"]
    assert torch.allclose(torch.tensor(found), torch.tensor(norms), rtol=1e-3)


@check
def each_matrix_is_orthogonalized_by_one_process(rank: int) -> None:
    made = torch.zeros(())

    def counted(xp: Any, x: Tensor, *others: Any) -> Tensor:
        made.add_(x.shape[:-2].numel())
        return newton_schulz.orthogonalized(xp, x, *others)

    model = sharded(4)
    with patch("adamas.rule.members.muon.orthogonalized", counted):
        optimizer = train(model, rank, 4)
    dist.all_reduce(made)
    assert made == STEPS * 4  # two layers in each of two blocks
    ends_as_one_process(model, optimizer)


@check
def matrices_of_replicas(rank: int) -> None:
    model = sharded(2, 2)
    ends_as_one_process(model, train(model, rank, 4))


@check
def matrices_cut_otherwise_are_gathered(rank: int) -> None:
    own = mesh(4)
    given = [torch.randn(6, 10, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    plain = [torch.nn.Parameter(x.clone()) for x in given]
    placements = [Shard(1), Shard(0), Replicate()]
    cut = [
        torch.nn.Parameter(distribute_tensor(x.clone(), own, [one])) for x, one in zip(given, placements, strict=True)
    ]
    ours, alone = at.Muon(cut, lr=0.1), at.Muon(plain, lr=0.1)
    for step in range(3):
        for i, (p, q, one) in enumerate(zip(cut, plain, placements, strict=True)):
            q.grad = torch.randn(6, 10, generator=torch.Generator().manual_seed(10 * step + i))
            p.grad = distribute_tensor(q.grad.clone(), own, [one])
        ours.step()
        alone.step()
    for p, q in zip(cut, plain, strict=True):
        assert torch.allclose(whole(p.detach()), q, rtol=1e-5, atol=1e-6)


@check
def matrices_of_several_meshes(rank: int) -> None:
    """Of what is replicated over a part of a mesh, each process counts other parameters in its sums."""
    line, square = mesh(4), mesh(2, 2)
    places = [
        (line, [Shard(0)]),
        (square, [Shard(0), Replicate()]),
        (square, [Replicate(), Shard(0)]),
        (line, [Shard(1)]),
        (square, [Shard(0), Replicate()]),
    ]
    given = [torch.randn(8, 6, generator=torch.Generator().manual_seed(i)) for i in range(len(places))]
    plain = [torch.nn.Parameter(x.clone()) for x in given]
    cut = [torch.nn.Parameter(distribute_tensor(x.clone(), *one)) for x, one in zip(given, places, strict=True)]
    ours, alone = (at.Muon(params, lr=0.1, max_grad_norm=1.0) for params in (cut, plain))
    for p, q, one in zip(cut, plain, places, strict=True):
        q.grad = q.detach().sin()
        p.grad = distribute_tensor(q.grad.clone(), *one)
    ours.step()
    alone.step()
    assert ours.grad_norm is not None
    assert abs(ours.grad_norm - alone.grad_norm) < 1e-5 * alone.grad_norm
    for p, q in zip(cut, plain, strict=True):
        assert torch.allclose(whole(p.detach()), q, rtol=1e-5, atol=1e-6)


@check
def matrices_without_elements(rank: int) -> None:
    shapes = [(0, 6), (6, 0), (0, 0), (6, 0, 2), (6, 0)]
    cut = [torch.nn.Parameter(distribute_tensor(torch.ones(shape), mesh(4), [Shard(0)])) for shape in shapes]
    for p in cut:
        p.grad = torch.ones_like(p)
    optimizer = at.Muon(cut)
    optimizer.step()
    assert {float(optimizer.state[p]["step"]) for p in cut} == {1}


@check
def rows_that_some_processes_have_none_of(rank: int) -> None:
    layer = torch.nn.Linear(5, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    fully_shard(layer, mesh=mesh(4))
    optimizer = at.Muon([*layer.parameters()], lr=1.0, weight_decay=0.0)
    layer(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    assert torch.allclose(whole(layer.weight.detach()), torch.full((1, 5), float(whole(layer.weight.detach())[0, 0])))
    assert float(whole(layer.weight.detach())[0, 0]) < 0.9


@check
def a_gradient_that_is_missing_on_one_process_stops_all(rank: int) -> None:
    own = mesh(4)
    p, q = (torch.nn.Parameter(distribute_tensor(torch.ones(4, 4), own, [Shard(0)])) for _ in range(2))
    optimizer = at.Muon([p, q])
    p.grad = distribute_tensor(torch.ones(4, 4), own, [Shard(0)])
    if rank == 0:
        q.grad = DTensor.from_local(torch.ones(1, 4), own, [Shard(0)], run_check=False)
    before = p.detach()._local_tensor.clone()
    with raises(Exception, "direction of parameter 1|exchange", rank):
        optimizer.step()
    assert torch.equal(p.detach()._local_tensor, before)
