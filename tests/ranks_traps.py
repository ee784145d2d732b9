"""What four processes check in ``test_distributed.py``: faults of other optimizers that Adamas must not have."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import resource
from typing import Any

import pytest
import torch
from layouts import LAYOUTS, Here, Layers, Shapes, distributed, local, mesh, mesh_of, whole
from ranks import Checks
from ranks_bits import equal_states, gradients_of, random, weights_of
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import adamas.torch as at

check = Checks()


@check
def trap_T41_the_state_lies_as_the_weights_do(rank: int) -> None:
    for name in ("rows", "columns", "hybrid", "rows and columns", "tensor parallel and sharded", "two meshes"):
        for state, weights in (("int8", "split"), ("int6", "nearest")):
            layout = LAYOUTS[name]
            here = Here(layout, weights_of(layout.shapes, torch.bfloat16))
            optimizer = at.AdamW(here.parameters.items(), state=state, weights=weights)
            here.give(gradients_of(layout.shapes, 0, torch.bfloat16))
            optimizer.step()
            saved = optimizer.state_dict()["state"]
            for i, p in enumerate(here.parameters.values()):
                assert not isinstance(saved[i].pop("step"), DTensor)
                assert isinstance(p, DTensor)
                for entry, value in saved[i].items():
                    assert isinstance(value, DTensor), entry
                    assert value.device_mesh == p.device_mesh
                    assert value.placements == p.placements, entry
                    if p.ndim:  # rows lie beside rows
                        assert value.shape[0] == p.shape[0], entry
                        assert local(value).shape[0] == local(p).shape[0], entry


@check
def trap_T42_weights_of_which_some_ranks_have_less_or_nothing_are_stepped_and_saved(rank: int) -> None:
    """A state dict gathered from all ranks goes on in one process with the same bits."""
    for name, state in (("rows", "int8"), ("columns", "int6"), ("rows and columns", "float32")):
        a_gathered_state_goes_on(rank, name, state)


_OTHERS = itertools.product(("rows", "columns", "rows and columns"), ("float32", "int8", "int6"))


@check.each({f"{name}, {state}": (name, state) for name, state in _OTHERS})
def a_gathered_state_goes_on(rank: int, name: str, state: str) -> None:
    layout = LAYOUTS[name]
    here = Here(layout, weights_of(layout.shapes, torch.float32))
    optimizer = at.AdamW(here.parameters.items(), state=state, max_grad_norm=1.0)
    for step in range(3):
        here.give(gradients_of(layout.shapes, step, torch.float32))
        optimizer.step()
    saved = optimizer.state_dict()
    assert rank < 3 or any(local(p).numel() == 0 for p in here.parameters.values())
    saved["state"] = {i: {key: whole(x) for key, x in one.items()} for i, one in saved["state"].items()}
    theirs = {name: torch.nn.Parameter(whole(p.detach()).clone()) for name, p in here.parameters.items()}
    alone = at.AdamW(theirs.items(), state=state, max_grad_norm=1.0)
    alone.load_state_dict(saved)
    for step in range(3, 6):
        gradients = gradients_of(layout.shapes, step, torch.float32)
        here.give(gradients)
        for name, q in theirs.items():
            q.grad = gradients[name]
        optimizer.step(), alone.step()
        assert optimizer.grad_norm == alone.grad_norm
    equal_states(here.parameters, optimizer, theirs, alone)


@check
def trap_T43_a_model_is_sharded_after_its_optimizer_was_made(rank: int) -> None:
    """Accelerate puts the sharded parameters into the groups: whatever state there was belonged to the others."""
    kinds: dict[type[at.Optimizer], dict[str, Any]] = {at.AdamW: {}, at.SGD: {"momentum": 0.9}, at.Adagrad: {}}
    for kind, own in kinds.items():
        options: dict[str, Any] = {"lr": 0.1, "max_grad_norm": 1.0, "state": "int8", **own}
        torch.manual_seed(0)
        model = Layers(130, 64, 33)
        reference = copy.deepcopy(model)
        optimizer, alone = kind(model.parameters(), **options), kind(reference.parameters(), **options)
        fully_shard(model, mesh=mesh(4))
        optimizer.param_groups[0]["params"] = list(model.parameters())
        if kind is at.Adagrad:  # has state already
            assert all(
                isinstance(one["sum"], DTensor) for one in get_optimizer_state_dict(model, optimizer)["state"].values()
            )
            assert optimizer.state.keys() == set(model.parameters())
        theirs = dict(reference.named_parameters())
        for step in range(3):
            for i, (p, q) in enumerate(zip(model.parameters(), theirs.values(), strict=True)):
                q.grad = random(tuple(q.shape), 10 * step + i, torch.float32)
                p.grad = distribute_tensor(q.grad, mesh(4), p.placements)  # type: ignore[attr-defined]
            optimizer.step(), alone.step()
            assert optimizer.grad_norm == alone.grad_norm
        equal_states(dict(model.named_parameters()), optimizer, theirs, alone)


@check
def trap_T49_memory_and_objects_stand_still(rank: int) -> None:
    """Also where gradients are redistributed and something is measured, and that communicates at each step."""
    stands_still(rank, 500, {"state": "int8", "weight_decay": 0.1}, Shard(0))
    stands_still(rank, 50, {"max_grad_norm": 1.0, "on_nonfinite": "skip"}, Partial())


STILL = {
    "5 000 steps": (5000, {"state": "int8", "weight_decay": 0.1}, Shard(0)),
    "5 000 steps that measure": (5000, {"max_grad_norm": 1.0, "on_nonfinite": "skip"}, Shard(0)),
    "1 000 steps that redistribute": (1000, {"max_grad_norm": 1.0, "on_nonfinite": "skip"}, Partial()),
}


@check.each(STILL)
def stands_still(rank: int, steps: int, options: dict[str, Any], placement: Any) -> None:
    shapes: Shapes = (
        {"matrix": (34, 130)} if placement.is_partial() else {"matrix": (34, 130), "vector": (5,), "number": ()}
    )
    params = distributed((4,), (Shard(0),), weights_of(shapes, torch.float32))
    optimizer = at.AdamW(params.items(), **options)
    for p in params.values():
        assert isinstance(p, DTensor)
        if placement.is_partial():
            p.grad = DTensor.from_local(torch.ones(p.shape), mesh(4), [placement], run_check=False)
        else:
            p.grad = torch.ones_like(p)

    def run(count: int) -> tuple[int, int]:
        """Objects and kilobytes after so many steps."""
        for _ in range(count):
            optimizer.step()
        gc.collect()
        return len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    gc.freeze()  # what is there is not looked at, which would take most of the time
    run(20)
    before, after = run(20), run(steps)
    gc.unfreeze()
    assert after[0] - before[0] < 20, (options, before, after)
    assert after[1] - before[1] < 2000, (options, before, after)


@check
def trap_T50_the_norm_over_several_meshes_counts_each_element_once(rank: int) -> None:
    """It has the same bits for every layout of the same gradients."""
    weights = {
        name: random(shape, i, torch.float32) for i, (name, shape) in enumerate([("a", (70, 130)), ("b", (9, 3))])
    }
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in weights.values()))
    two = mesh(2, 2)
    places = [
        (mesh(4), [Shard(0)]),
        (mesh(4), [Shard(1)]),
        (mesh(4), [Replicate()]),
        (two, [Replicate(), Shard(0)]),
        (two, [Shard(0), Replicate()]),
        (two, [Shard(1), Shard(0)]),
        (two["outer"], [Shard(0)]),
        (two["inner"], [Replicate()]),
        (mesh_of(0, 1, 2, 3), [Shard(0)]),
        None,
    ]
    norms: dict[float | None, list[Any]] = {}
    for first, second in itertools.product(places, places):
        if all(place is not None and place[0].size() < 4 for place in (first, second)):
            continue  # two meshes neither of which has all ranks
        params = []
        for w, place in zip(weights.values(), (first, second), strict=True):
            p = torch.nn.Parameter(w.clone() if place is None else distribute_tensor(w.clone(), *place))
            p.grad = p.detach().clone()
            params.append(p)
        optimizer = at.SGD(params, lr=0.1, max_grad_norm=1.0)
        optimizer.step()
        norms.setdefault(optimizer.grad_norm, []).append((first, second))
    assert len(norms) == 1, norms
    assert [*norms] == pytest.approx([expected], rel=1e-12)
