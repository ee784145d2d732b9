"""Checks of Muon and Adafactor on weights that several processes share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any
from unittest.mock import Mock, patch

import torch
import torch.distributed as dist
from layouts import mesh
from ranks import Checks, raises
from ranks_training import STEPS, Model, batches, sharded
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

import adamas.torch as at
from adamas.rule import newton_schulz
from adamas.step import matrix_executor

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
def stacks_end_as_on_one_process(rank: int) -> None:
    here = DeviceMesh("cpu", list(range(dist.get_world_size())))
    begin = torch.randn(6, 8, 16, generator=torch.Generator().manual_seed(0))
    for placement in (Shard(0), Shard(1), Shard(2), Replicate()):
        p, q = torch.nn.Parameter(distribute_tensor(begin, here, [placement])), torch.nn.Parameter(begin.clone())
        ours, alone = (at.Muon([x], lr=0.1, stacks=True) for x in (p, q))
        for i in range(2):
            q.grad = torch.randn(begin.shape, generator=torch.Generator().manual_seed(1 + i))
            p.grad = distribute_tensor(q.grad, here, [placement])
            ours.step()
            alone.step()
        assert torch.allclose(whole(p.detach()), q, rtol=1e-4, atol=1e-5), placement


@check
def adafactor_on_replicas_is_that_of_one_process(rank: int) -> None:
    here = DeviceMesh("cpu", list(range(dist.get_world_size())))
    begin = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((16, 12), (3, 5, 4), (7,))]
    replicas = [torch.nn.Parameter(distribute_tensor(x, here, [Replicate()])) for x in begin]
    plain = [torch.nn.Parameter(x.clone()) for x in begin]
    ours, alone = (at.Adafactor(params, lr=0.1, max_grad_norm=1.0) for params in (replicas, plain))
    for i in range(3):
        for p, q in zip(replicas, plain, strict=True):
            q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1 + i))
            p.grad = distribute_tensor(q.grad, here, [Replicate()])
        ours.step()
        alone.step()
    for p, q in zip(replicas, plain, strict=True):
        assert torch.equal(whole(p.detach()), q)


@check
def adafactor_refuses_parts_of_matrices(rank: int) -> None:
    here = DeviceMesh("cpu", list(range(dist.get_world_size())))
    p = torch.nn.Parameter(distribute_tensor(torch.ones(16, 12), here, [Shard(0)]))
    p.grad = distribute_tensor(torch.ones(16, 12), here, [Shard(0)])
    with raises(ValueError, "is a part of a matrix, and Adafactor takes the means of whole rows and columns", rank):
        at.Adafactor([p]).step()


@check
def each_matrix_is_orthogonalized_by_one_process(rank: int) -> None:
    made = torch.zeros(())

    def counted(xp: Any, x: Tensor, *others: Any) -> Tensor:
        made.add_(x.shape[:-2].numel())
        return newton_schulz.orthogonalized(xp, x, *others)

    model, said = sharded(4), StringIO()
    with patch("adamas.rule.members.muon.orthogonalized", counted), redirect_stdout(said):
        optimizer = train(model, rank, 4)
    dist.all_reduce(made)
    assert made == STEPS * 4  # two layers in each of two blocks
    assert bool(said.getvalue()) == (rank == 0)
    ends_as_one_process(model, optimizer)


@check
def each_process_has_its_turn_however_large_the_matrices_are(rank: int) -> None:
    params = [torch.nn.Parameter(distribute_tensor(torch.eye(8), mesh(4), [Shard(0)])) for _ in range(4)]
    for p in params:
        p.grad = p.detach().clone()
    calls = Mock(side_effect=newton_schulz.orthogonalized)
    with patch("adamas.rule.members.muon.orthogonalized", calls), patch.object(matrix_executor, "_MOST_ON_CPU", 1):
        at.Muon(params).step()
    assert calls.call_count == 1


@check
def matrices_that_are_cut_inside_of_blocks_of_codes_are_refused(rank: int) -> None:
    p = torch.nn.Parameter(distribute_tensor(torch.ones(64, 300), mesh(4), [Shard(1)]))
    p.grad = torch.ones_like(p)
    with raises(ValueError, 'parameter 0 .* inside of blocks of codes.*state="float32"', rank):
        at.Muon([p], state="int8").step()


@check
def matrices_of_replicas(rank: int) -> None:
    model = sharded(2, 2)
    ends_as_one_process(model, train(model, rank, 4))


def take_the_steps_of_one_process(rows: int, places: Sequence[tuple[DeviceMesh, Sequence[Placement]]]) -> None:
    """Matrices that lie on these meshes with these placements."""
    given = [torch.randn(rows, 6, generator=torch.Generator().manual_seed(i)) for i in range(len(places))]
    plain = [torch.nn.Parameter(x.clone()) for x in given]
    cut = [torch.nn.Parameter(distribute_tensor(x.clone(), *one)) for x, one in zip(given, places, strict=True)]
    ours, alone = (at.Muon(params, lr=0.1, max_grad_norm=1.0) for params in (cut, plain))
    for step in range(2):
        for p, q, one in zip(cut, plain, places, strict=True):
            q.grad = (q.detach() + step).sin()
            p.grad = distribute_tensor(q.grad.clone(), *one)
        ours.step()
        alone.step()
    assert ours.grad_norm is not None
    assert abs(ours.grad_norm - alone.grad_norm) < 1e-5 * alone.grad_norm
    for p, q in zip(cut, plain, strict=True):
        assert torch.allclose(whole(p.detach()), q, rtol=1e-5, atol=1e-6)


@check
def matrices_cut_otherwise_are_gathered(rank: int) -> None:
    line, square = mesh(4), mesh(2, 2)
    places = [(line, [Shard(1)]), (line, [Shard(0)]), (line, [Replicate()])]
    take_the_steps_of_one_process(6, places)
    for one in ([Shard(0), Shard(1)], [Shard(1), Shard(0)], [Shard(0), Shard(0)]):
        take_the_steps_of_one_process(8, [(square, one)] * 2)


@check
def matrices_cut_by_tensor_parallelism_and_then_by_rows(rank: int) -> None:
    """``fully_shard`` then has parts that are not consecutive rows of the whole."""

    def network() -> torch.nn.Sequential:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False), torch.nn.Linear(8, 4, bias=False))

    square, plain, cut = mesh(2, 2), network(), network()
    parallelize_module(cut, square["inner"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(cut, mesh=square["outer"])
    optimizers = [at.Muon([*model.parameters()], lr=0.1) for model in (cut, plain)]
    for model, optimizer in zip((cut, plain), optimizers, strict=True):
        for _ in range(2):
            model(torch.eye(6)).sin().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(cut.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(whole(p.detach()), q, rtol=1e-4, atol=1e-5)


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
    take_the_steps_of_one_process(8, places)


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
