"""What each of two processes does in ``test_ranks.py``."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import engine_with_sums
import pytest
import ranks_release
import stacks
import test_docs
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import Checks, main, raises
from rules_with_sums import LAMB, STANDARDIZED
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import functional as F

import adamas.torch as at
from adamas.rule.members import MEMBERS
from adamas.rule.members.lion import RULE as LION
from adamas.schedules import cosine, linear

check = Checks()
Params = list[torch.nn.Parameter]


def parameters(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> Params:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def zero(params: Any, kind: type[at.Optimizer] = at.AdamW, **options: Any) -> Any:
    """The optimizer with its state shared over both ranks."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # here, since importing it warns

    shared = partial(kind, process_group=dist.group.WORLD)
    return ZeroRedundancyOptimizer(params, shared, **options)


def gradients_(params: Params, step: int, factors: Sequence[float | None]) -> None:
    """The same gradients on both ranks; None for those that get none."""
    for i, (p, factor) in enumerate(zip(params, factors, strict=True)):
        generator = torch.Generator().manual_seed(100 * step + i)
        p.grad = None if factor is None else (factor * torch.randn(p.shape, generator=generator)).to(p.dtype)


SHAPES = [(64, 130), (40, 130), (130,), (7,)]  # the first is rank 0's, the others are rank 1's
ONES = [1.0] * len(SHAPES)


def equal(ours: Params, theirs: Params) -> None:
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.equal(p, q), f"parameter {i}: {(p - q).abs().max()}"


def compare(
    steps: Sequence[Sequence[float | None]], make: Callable[[], dict[str, Any]], kind: type[at.Optimizer] = at.AdamW
) -> tuple[Any, Any]:
    """Makes the same steps with ZeRO and in one process; weights and what is counted are the same bits."""
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    shared, alone = zero(ours, kind, **make()), kind(theirs, **make())
    for i, factors in enumerate(steps):
        gradients_(ours, i, factors), gradients_(theirs, i, factors)
        shared.step(), alone.step()
        equal(ours, theirs)
        names = ("lr", "weight_decay", "clipped_steps", "skipped_steps", "grad_norms")
        for name in names:
            assert shared.param_groups[0][name] == shared.optim.param_groups[0][name] == alone.param_groups[0][name], (
                name
            )
        norms = [(one.grad_norm, one.grad_norm_limit) for one in (shared.optim, alone)]
        assert str(norms[0]) == str(norms[1])  # also where they are NaN
    return shared, alone


@check
def clipping_goes_by_the_norm_over_all_ranks(rank: int) -> None:
    shared, _ = compare([ONES, [100.0, 1.0, 1.0, 1.0], [1.0, 1.0, None, 100.0]], lambda: {"max_grad_norm": 1.0})
    assert shared.optim.clipped_steps == 3


@check
def sums_that_rules_name_are_of_whole_tensors(rank: int) -> None:
    """Parts of a tensor by rows, in two processes, step as the whole tensor does in one, to the bit."""
    kinds = ("engine", "arrays") if engine_with_sums.can_be_built() else ("arrays",)
    for executor, member in itertools.product(kinds, (LAMB, STANDARDIZED)):
        with engine_with_sums.executor(executor):
            parts_step_as_whole_tensors(rank, type("Own", (at.Adam,), {"_member": member}))


@check
def the_share_that_a_mask_leaves_is_of_whole_tensors(rank: int) -> None:
    parts_step_as_whole_tensors(rank, partial(at.AdamW, cautious=True))


def parts_step_as_whole_tensors(rank: int, kind: Callable[..., at.Adam]) -> None:
    whole = [("matrix", parameters([(40, 7)])[0]), ("vector", parameters([(13,)])[0])]
    rows = [((0, 15), (15, 40)), ((0, 6), (6, 13))]
    parts, places = [], []
    for (name, p), ranges in zip(whole, rows, strict=True):
        first, last = ranges[rank]
        parts.append((name, torch.nn.Parameter(p.detach()[first:last].clone())))
        places.append((first, p.shape[0]))
    alone = kind(whole, lr=0.1, weight_decay=0.1)
    shared = kind([{"params": parts, "rows": places}], lr=0.1, weight_decay=0.1, process_group=dist.group.WORLD)
    for step in range(4):
        gradients_([p for _, p in whole], step, [1.0, 1.0])
        for (_, p), (_, part), (first, _) in zip(whole, parts, places, strict=True):
            part.grad = p.grad[first : first + len(part)].clone()
        alone.step(), shared.step()
    for (_, p), (_, part), (first, _) in zip(whole, parts, places, strict=True):
        equal([part], [p[first : first + len(part)]])


@check
def codes_of_a_members_own_state_are_saved_and_loaded_with_their_scales(rank: int) -> None:
    """Also where the cut divides blocks of codes: the second, of 100 columns."""
    lion = MEMBERS["Lion"]
    member = replace(
        lion, name="Renamed", names={"first": "direction"}, make_rule=lambda hyper: replace(LION, name="x")
    )
    own = types.new_class("Renamed", (at.OwnOptimizer,), {"member": member})
    mesh = init_device_mesh("cpu", (2,))
    for dim in (0, 1):
        (p,) = parameters([(130, 200)])
        q = torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(dim)]))
        alone, shared = (own([("w", one)], lr=0.01, state="int8") for one in (p, q))
        for step in range(4):
            if step == 2:
                resumed = own([("w", q)], lr=0.01, state="int8")
                resumed.load_state_dict(shared.state_dict())
                shared = resumed
            gradients_([p], step, [1.0])
            q.grad = distribute_tensor(p.grad.clone(), mesh, [Shard(dim)])
            alone.step(), shared.step()
        equal([q.full_tensor()], [p])


@check
def schedule_free_weights_of_dtensors_are_switched_as_those_of_one_process(rank: int) -> None:
    """Also where the cut divides blocks of codes: the second, of 550 columns."""
    mesh = init_device_mesh("cpu", (2,))
    for state, dim in itertools.product(("float32", "int8"), (0, 1)):
        (p,) = parameters([(47, 1100)])
        q = torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(dim)]))
        optimizers = [at.AdamWScheduleFree([("w", one)], lr=0.05, state=state) for one in (p, q)]
        for step in range(4):
            gradients_([p], step, [1.0])
            q.grad = distribute_tensor(p.grad.clone(), mesh, [Shard(dim)])
            for optimizer in optimizers:
                optimizer.step()
        training = q.full_tensor()
        equal([training], [p])
        for optimizer in optimizers:
            optimizer.eval()
        average = q.full_tensor()
        equal([average], [p])
        assert not torch.equal(average, training)
        for optimizer in optimizers:
            optimizer.train()
        equal([q.full_tensor()], [p])


@check
def prodigy_estimates_one_d_over_all_ranks(rank: int) -> None:
    """Also where the parameters of one rank get gradients late: they take over the estimate."""
    late, early = [1.0, None, None, None], [None, 1.0, 1.0, 1.0]
    for steps in ([ONES] * 6, [early, early, early, ONES, late, ONES], [late, early, late, early, ONES]):
        shared, alone = compare(steps, lambda: {"d0": 1e-4, "d_coef": 300.0, "growth_rate": 2.0}, at.Prodigy)
        estimates = [None, None]
        dist.all_gather_object(estimates, shared.optim.d)
        assert max(estimates) == alone.d > 2e-4


@check
def auto_clipping_remembers_the_norms_over_all_ranks(rank: int) -> None:
    steps = [[1.0 + i % 3, 1.0, 1.0, 1.0] for i in range(9)]
    shared, _ = compare([*steps, [1.0, 50.0, 1.0, 1.0]], lambda: {"max_grad_norm": "auto"})
    assert shared.optim.clipped_steps == 1


@check
def a_step_is_skipped_on_all_ranks_or_none(rank: int) -> None:
    bad = torch.nan
    shared, _ = compare([ONES, [1.0, bad, 1.0, 1.0], [bad, 1.0, 1.0, 1.0], ONES], lambda: {"on_nonfinite": "skip"})
    assert shared.optim.skipped_steps == 2


@check
def schedules_go_by_the_most_steps_of_all_ranks(rank: int) -> None:
    """Also where the parameters of one rank get gradients late, or never."""
    late, early = [1.0, None, None, None], [None, 1.0, 1.0, 1.0]
    compare([late, late, ONES, early, ONES], lambda: {"lr": 0.1 * linear(10), "weight_decay": 0.1 * cosine(5)})
    compare([early, early, early], lambda: {"lr": 0.1 * linear(10)})


@check
def a_gradient_that_is_not_finite_raises_on_all_ranks(rank: int) -> None:
    params = parameters(SHAPES)
    shared = zero(params, on_nonfinite="raise")
    before = copy.deepcopy(params)
    gradients_(params, 0, [1.0, torch.inf, 1.0, 1.0])
    with raises(FloatingPointError, r"the gradient of parameter 0 \(of shape \(40, 130\)\) has a NaN", rank, at_rank=1):
        shared.step()
    equal(params, before)
    gradients_(params, 1, ONES)
    shared.step()
    assert shared.optim.state[shared.optim.param_groups[0]["params"][0]]["step"] == 1


@check
def a_step_that_one_rank_cannot_make_is_made_by_none(rank: int) -> None:
    params = parameters(SHAPES)
    shared = zero(params)
    before = copy.deepcopy(params)
    gradients_(params, 0, ONES)
    params[1].grad = params[1].grad.to_sparse()
    with raises(RuntimeError, r"steps the rows of sparse gradients", rank, at_rank=1):
        shared.step()
    equal(params, before)


@check
def each_parameter_is_rounded_by_random_numbers_of_its_own(rank: int) -> None:
    """Those of its position, as if one process had the parameters of all ranks in order, or of its name."""
    shapes = [(64, 130), (64, 130), (16, 130)]
    for options in ({"weights": "stochastic"}, {"state": "int8"}, {"state": "bfloat16"}):
        for named in (False, True):
            ours, theirs = parameters(shapes, torch.bfloat16), parameters(shapes, torch.bfloat16)
            order = [0, 2, 1] if not named else [2, 1, 0]  # rank 0 has the first and the last
            names = [f"p{i}" for i in range(3)]
            alone = at.AdamW([(names[i], theirs[i]) if named else theirs[i] for i in order], **options)
            mine = [i for i in (0, 2, 1) if (i == 1) == (rank == 1)]
            shared = at.AdamW(
                [(names[i], ours[i]) if named else ours[i] for i in mine], process_group=dist.group.WORLD, **options
            )
            for step in range(3):
                gradients_(ours, step, [1.0] * 3), gradients_(theirs, step, [1.0] * 3)
                shared.step(), alone.step()
            equal([ours[i] for i in mine], [theirs[i] for i in mine])
            for i in mine:
                for name, value in alone.state[theirs[i]].items():
                    assert torch.equal(shared.state[ours[i]][name], value), (options, named, i, name)


@check
def a_consolidated_state_loads_and_the_given_schedule_counts(rank: int) -> None:
    first, second = parameters(SHAPES), parameters(SHAPES)
    shared = zero(first, lr=0.1 * linear(10), max_grad_norm="auto", state="int8")
    for step in range(3):
        gradients_(first, step, ONES)
        shared.step()
    shared.consolidate_state_dict(0)
    file = io.BytesIO()
    if rank == 0:
        torch.save(shared.state_dict(), file)
    box = [file.getvalue()]
    dist.broadcast_object_list(box, 0)
    saved = torch.load(io.BytesIO(box[0]), weights_only=True)
    again = zero(second, lr=0.1 * linear(1000), max_grad_norm="auto", state="int8")
    with torch.no_grad():
        for p, q in zip(first, second, strict=True):
            q.copy_(p)
    again.load_state_dict(saved)
    assert again.param_groups[0]["grad_norms"] == shared.param_groups[0]["grad_norms"] != ()
    gradients_(second, 3, ONES)
    before = copy.deepcopy(second)
    again.step()
    assert again.param_groups[0]["lr"] == 0.1 * linear(1000)(4)
    # The same step, with the state and the rate set by hand.
    alone = at.AdamW(before, lr=0.1 * linear(1000)(3), max_grad_norm="auto", state="int8")
    alone.load_state_dict({**alone.state_dict(), "state": saved_state(shared, rank)}, hyperparameters="given")
    gradients_(before, 3, ONES)
    alone.step()
    equal(second, before)


def saved_state(shared: Any, rank: int) -> dict[int, Any]:
    """The state of all ranks by the position of the parameters, on both ranks."""
    box = [shared.state_dict()["state"] if rank == 0 else None]
    dist.broadcast_object_list(box, 0)
    state: dict[int, Any] = box[0]
    return state


@check
def a_rank_without_a_parameter_goes_along(rank: int) -> None:
    params, alone = parameters([(5, 3)]), parameters([(5, 3)])
    options = {"max_grad_norm": 0.1, "on_nonfinite": "skip"}
    shared = zero(params, lr=0.1 * linear(10), **options)
    reference = at.AdamW(alone, lr=0.1 * linear(10), **options)
    for step, factor in enumerate((1.0, torch.nan, 1.0)):
        gradients_(params, step, [factor]), gradients_(alone, step, [factor])
        shared.step(), reference.step()
    equal(params, alone)
    assert shared.param_groups[0]["lr"] == reference.param_groups[0]["lr"] == 0.1 * linear(10)(2)
    shared.consolidate_state_dict(0)
    saved = {"state": saved_state(shared, rank), "param_groups": shared.param_groups}
    saved["param_groups"] = [{**group, "params": [0]} for group in saved["param_groups"]]
    again = zero(parameters([(5, 3)]), lr=0.1 * linear(1000), **options)
    again.load_state_dict(copy.deepcopy(saved))
    gradients_(again.param_groups[0]["params"], 2, [1.0])
    again.step()
    assert again.param_groups[0]["lr"] == 0.1 * linear(1000)(3)


@check
def groups_that_are_added_later_are_shared_too(rank: int) -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    shared = zero(ours[:3], lr=0.1 * linear(10), max_grad_norm=1.0)
    alone = at.AdamW(theirs[:3], lr=0.1 * linear(10), max_grad_norm=1.0)
    for step in range(4):
        if step == 2:
            shared.add_param_group({"params": ours[3:], "lr": 0.5})
            alone.add_param_group({"params": theirs[3:], "lr": 0.5})
        gradients_(ours, step, ONES), gradients_(theirs, step, ONES)
        shared.step(), alone.step()
    equal(ours, theirs)


@check
def an_overflow_on_one_rank_is_one_on_all(rank: int) -> None:
    ours = parameters([(3,), (3,)])
    optimizer = at.Adam([ours[rank]], lr=0.1 * linear(10), fused=True, process_group=dist.group.WORLD)
    before = ours[rank].detach().clone()
    ours[rank].grad = torch.full((3,), torch.inf if rank == 1 else 8.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(float(rank == 1))
    optimizer.step()
    assert torch.equal(ours[rank], before)
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.found_inf = torch.tensor(0.0)
    ours[rank].grad = torch.full((3,), 8.0)
    optimizer.step()
    assert optimizer.state[ours[rank]]["step"] == 1
    assert optimizer.param_groups[0]["lr"] == 0.1 * linear(10)(1)


@check
def asking_for_the_state_counts_nothing_on_any_rank(rank: int) -> None:
    for gradient, steps in ((0.0, 0), (float(rank), 1)):  # also a step of one rank alone is one of all
        params = parameters([(3,), (3,)])
        optimizer = at.Adam([params[rank]], lr=0.0, weight_decay=0.1, process_group=dist.group.WORLD)
        params[rank].grad = torch.full((3,), gradient)
        optimizer.step()
        assert optimizer.state[params[rank]]["step"] == steps


@check
def the_group_is_copied_along_and_neither_saved_nor_pickled(rank: int) -> None:
    params = parameters([(3,), (3,)])
    optimizer = at.SGD([params[rank]], lr=0.1, max_grad_norm=1.0, process_group=dist.group.WORLD)
    assert "process_group" not in optimizer.defaults
    assert all("process_group" not in group for group in optimizer.state_dict()["param_groups"])
    torch.save(optimizer.state_dict(), io.BytesIO())
    copied = copy.deepcopy(optimizer)
    optimizer.load_state_dict(copied.state_dict())
    for one in (copied, optimizer):
        (p,) = one.param_groups[0]["params"]
        p.grad = torch.full((3,), 3.0 + rank)
        one.step()
        assert abs(one.grad_norm - (3 * (9 + 16)) ** 0.5) < 1e-12
    with raises(TypeError, "cannot be pickled: save its state_dict", rank):
        pickle.dumps(optimizer)


@check
def what_is_no_process_group_is_refused(rank: int) -> None:
    p = parameters([(3,)])
    with raises(TypeError, "process_group=None: it must be a process group", rank):
        at.Adam(p, process_group=None)
    with raises(TypeError, "process_group must be a torch.distributed.ProcessGroup, not 'world'", rank):
        at.Adam(p, process_group="world")
    with raises(ValueError, "process_group is of the whole optimizer, not of a parameter group", rank):
        at.Adam([{"params": p, "process_group": dist.group.WORLD}])
    alone = dist.new_group([0])
    if rank == 1:
        with raises(ValueError, "this process is not in the group", rank):
            at.Adam(p, process_group=alone)


# ---- FullyShardedDataParallel


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 33), torch.nn.Tanh(), torch.nn.Linear(33, 7))


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[float]:
    losses = []
    for step in range(steps):
        x = torch.randn(6, 40, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@check
def elementwise_steps_of_flat_parameters_are_right(rank: int) -> None:
    expected = train(model := network(), at.AdamW(model.parameters(), lr=0.01 * linear(10), weight_decay=0.1))
    for originals in (False, True):
        sharded = FullyShardedDataParallel(network(), use_orig_params=originals, device_id=torch.device("cpu"))
        optimizer = at.AdamW(sharded.parameters(), lr=0.01 * linear(10), weight_decay=0.1, weights="split")
        assert train(sharded, optimizer) == approximately(expected)


@check
def flat_parameters_are_clipped_over_all_ranks_or_refused(rank: int) -> None:
    options: dict[str, Any] = {"lr": 0.01, "max_grad_norm": 0.5, "on_nonfinite": "skip"}
    expected = train(model := network(), alone := at.AdamW(model.parameters(), **options))
    for originals in (False, True):
        sharded = FullyShardedDataParallel(network(), use_orig_params=originals, device_id=torch.device("cpu"))
        optimizer = at.AdamW(sharded.parameters(), process_group=sharded.process_group, **options)
        assert train(sharded, optimizer) == approximately(expected)
        assert [optimizer.grad_norm] == approximately([alone.grad_norm])
        refused = {
            "max_grad_norm": 0.5,
            "on_nonfinite": "raise",
            "state": "bfloat16",
        }
        for name, value in refused.items():
            with raises(ValueError, rf"parameter 0.*FullyShardedDataParallel.*{name}=.*process_group=", rank):
                at.AdamW(sharded.parameters(), **{name: value})
        with raises(ValueError, r"parameter 0.*FullyShardedDataParallel.*int8", rank):
            at.AdamW(sharded.parameters(), state="int8", process_group=sharded.process_group)
        # Also where the option is changed later.
        optimizer = at.AdamW(sharded.parameters())
        optimizer.param_groups[0]["max_grad_norm"] = 0.5
        with raises(ValueError, r"parameter 0.*FullyShardedDataParallel.*process_group=", rank):
            train(sharded, optimizer, 1)


@check
def recipes_for_training_stacks_shard_and_resume(rank: int) -> None:
    """Those of docs/distributed.md, each with its library if that is installed."""
    page = test_docs.ROOT / "docs" / "distributed.md"
    text = page.read_text(encoding="utf-8")
    section = re.search(r"^## In training stacks\n.*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    folder = Path(sys.argv[3]) / "recipes"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        stacks.stand_in(patch)
        patch.chdir(folder)
        told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        for name, value in (test_docs.ENVIRONMENTS["docs/distributed.md"] | told).items():
            patch.setenv(name, value)
        made = test_docs.run_page(text[: text.index("-->") + 4] + section[0], page, None, patch)
        # accelerate
        for p, state in made["optimizer"].state.items():
            assert isinstance(p, DTensor)
            assert state["exp_avg"].placements == p.placements == (Shard(0),)
        # transformers
        whole = made["trainer"]
        resumed = made["AdamasTrainer"](made["Network"](), whole.args, train_dataset=made["dataset"])
        resumed.train(resume_from_checkpoint="trained/checkpoint-2")
        equal_weights(whole.model, resumed.model)
        # torchtitan
        model, optimizers, schedulers = built(made)
        train_built(made, model, optimizers, schedulers)
        state = {
            "model": model.state_dict(),
            "optimizers": optimizers.state_dict(),
            "schedulers": schedulers.state_dict(),
        }
        dcp.save(state, checkpoint_id="torchtitan")
        train_built(made, model, optimizers, schedulers)
        again, optimizers, schedulers = built(made)
        state = {
            "model": again.state_dict(),
            "optimizers": optimizers.state_dict(),
            "schedulers": schedulers.state_dict(),
        }
        dcp.load(state, checkpoint_id="torchtitan")
        again.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        schedulers.load_state_dict(state["schedulers"])
        train_built(made, again, optimizers, schedulers)
        equal_weights(model, again)


def equal_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert isinstance(p, DTensor)
        assert isinstance(q, DTensor)
        assert torch.equal(p.to_local(), q.to_local()), name


def built(made: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A sharded model, and what the configuration of torchtitan makes for it."""
    model, config = made["make_model"](), made["config"]
    fully_shard(model)
    optimizers = config.optimizer.build(model_parts=[model])
    return model, optimizers, config.lr_scheduler.build(optimizers=optimizers, training_steps=8)


def train_built(made: dict[str, Any], model: Any, optimizers: Any, schedulers: Any) -> None:
    for x, y in made["loader"]:
        F.mse_loss(model(x), y).backward()
        for optimizer, scheduler in zip(optimizers, schedulers.schedulers, strict=True):
            optimizer.step(), scheduler.step()
            optimizer.zero_grad()


def approximately(values: Sequence[float | None]) -> Any:
    return pytest.approx(values, rel=1e-4)


check.take(ranks_release.check)

if __name__ == "__main__":
    main(check)
