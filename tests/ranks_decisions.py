"""What four processes check in ``test_distributed.py``: what they decide together, and with what communication."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from layouts import LAYOUTS, Here, Layout, Shapes, Tensors, distributed, local, mesh, mesh_of, whole
from ranks import Checks, raises
from ranks_bits import (
    STEPS,
    Gradients,
    Run,
    equal_states,
    gradients_of,
    has_the_bits_of_one_process,
    random,
    tells,
    weights_of,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import adamas.torch as at
from adamas.schedules import Plateau, cosine, linear

check = Checks()
MESH = "the parameters' mesh"
LAYOUTS_THAT_DECIDE = ("rows", "hybrid", "tensor parallel and sharded", "two meshes", "beside plain ones")


def compare(
    make: Callable[..., at.Optimizer],
    stream: Any = gradients_of,
    after: Any = lambda optimizer, step: None,
    steps: int = STEPS,
) -> list[at.Optimizer]:
    """The optimizers of several layouts, after runs that went as in one process."""
    found, runs = [], {}
    for name in LAYOUTS_THAT_DECIDE:
        shapes = LAYOUTS[name].shapes
        if str(shapes) not in runs:
            runs[str(shapes)] = Run(shapes, make, stream=stream, after=after, steps=steps)
        found.append(has_the_bits_of_one_process(name, runs[str(shapes)], make, stream=stream, after=after))
    return found


def spoiled(values: dict[int, tuple[int, float]], shapes: Shapes, step: int, dtype: torch.dtype) -> Gradients:
    """Gradients with one value that is not finite, at an element of the first weight, in some steps."""
    found = gradients_of(shapes, step, dtype)
    if step in values:
        element, value = values[step]
        name, gradient = next(iter(found.items()))
        assert gradient is not None
        found[name] = gradient.clone()
        found[name].view(-1)[element] = value  # type: ignore[union-attr]
    return found


def unsteady(shapes: Shapes, step: int, dtype: torch.dtype) -> Gradients:
    """Gradients of which some are a hundred times as large, and some are missing."""
    found = gradients_of(shapes, step, dtype)
    for i, (name, gradient) in enumerate(found.items()):
        if (step + i) % 3 == 0 and step < 15:
            found[name] = None
        elif step in (12, 17):
            found[name] = 100 * gradient  # type: ignore[operator]
    return found


@check
def auto_clipping_goes_by_the_norms_of_all_ranks(rank: int) -> None:
    for optimizer in compare(partial(at.AdamW, max_grad_norm="auto", state="int8"), unsteady):
        assert 2 <= optimizer.clipped_steps < 10


@check
def a_step_with_a_nan_on_one_rank_is_skipped_by_all(rank: int) -> None:
    values = {1: (0, torch.nan), 4: (-1, torch.inf), 5: (2000, -torch.inf)}
    for optimizer in compare(partial(at.AdamW, on_nonfinite="skip"), partial(spoiled, values), steps=8):
        assert optimizer.skipped_steps == 3


@check
def schedules_go_by_the_steps_of_all_ranks(rank: int) -> None:
    def make(params: Any) -> at.Optimizer:
        return at.AdamW(
            params, lr=0.1 * linear(10), betas=(0.9, linear(9, start=0.9, end=0.99)), weight_decay=0.1 * cosine(7)
        )

    compare(make, unsteady, steps=12)


@check
def a_plateau_observes_on_each_rank(rank: int) -> None:
    plateaus: dict[int, Plateau] = {}

    def make(params: Any) -> at.Optimizer:
        plateau = Plateau(factor=0.5, patience=1)
        optimizer = at.AdamW(params, lr=0.1 * linear(30) * plateau, max_grad_norm=0.5)
        plateaus[id(optimizer)] = plateau
        return optimizer

    def observe(optimizer: at.Optimizer, step: int) -> None:
        plateaus[id(optimizer)].observe([3.0, 2.0, 2.0, 2.0, 1.0, torch.nan][step % 6])

    compare(make, unsteady, observe, steps=12)
    assert all(plateau.value < 0.3 for plateau in plateaus.values())


@check
def a_nan_on_one_rank_raises_on_all_and_changes_nothing(rank: int) -> None:
    for name in ("rows", "hybrid", "beside plain ones"):
        layout = LAYOUTS[name]
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), on_nonfinite="raise", state="int8")
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        before = values_of(here.parameters, optimizer)
        gradients = gradients_of(layout.shapes, 1, torch.float32)
        bad = gradients["uneven"] = gradients["uneven"].clone()  # type: ignore[union-attr]
        bad[40, 7] = torch.nan
        here.give(gradients)
        # Row 40 of 70 is of rank 2, and where they are in two halves of ranks 1 and 3.
        at_rank = None if name == "hybrid" else 2
        with raises(FloatingPointError, "the gradient of parameter 'uneven' has a NaN", rank, at_rank, MESH):
            optimizer.step()
        assert values_of(here.parameters, optimizer) == before
        here.give(gradients_of(layout.shapes, 1, torch.float32))
        optimizer.step()
        assert optimizer.state[here.parameters["uneven"]]["step"] == 2


def values_of(parameters: Tensors, optimizer: at.Optimizer) -> list[bytes]:
    """The bytes of all that is here of weights and states."""
    tensors = [*parameters.values(), *(x for p in parameters.values() for x in optimizer.state[p].values())]
    return [local(x.detach()).contiguous().view(-1).view(torch.uint8).numpy().tobytes() for x in tensors]


@check
def an_overflow_on_one_rank_lowers_the_scale_on_all(rank: int) -> None:
    """Whether the scaler divides the gradients or the step does (``fused=True``), an infinity on one rank skips the step."""
    overflows = {0: (0, torch.inf), 6: (-1, torch.inf), 7: (2000, -torch.inf)}
    for name, fused in (("rows", False), ("hybrid", True), ("columns", True), ("tensor parallel and sharded", False)):
        shapes, stream = LAYOUTS[name].shapes, partial(spoiled, overflows)
        here = Here(LAYOUTS[name], weights_of(shapes, torch.float32))
        theirs = {name: torch.nn.Parameter(w.clone()) for name, w in weights_of(shapes, torch.float32).items()}
        ours, alone = (
            at.AdamW(params.items(), lr=0.1 * linear(10), fused=fused, max_grad_norm=1.0, state="int8")
            for params in (here.parameters, theirs)
        )
        scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=4) for _ in range(2)]
        for step in range(10):
            for scaler in scalers:
                scaler.scale(torch.zeros(()))
            gradients = stream(shapes, step, torch.float32)
            scale = scalers[0].get_scale()
            scaled = {name: scale * g for name, g in gradients.items()}  # type: ignore[operator]
            here.give(scaled)
            for key, q in theirs.items():
                q.grad = scaled[key].clone()  # type: ignore[union-attr]
            for scaler, optimizer in zip(scalers, (ours, alone), strict=True):
                scaler.step(optimizer)
                scaler.update()
            assert tells(ours) == tells(alone), (name, fused, step)
            assert scalers[0].get_scale() == scalers[1].get_scale(), (name, fused, step)
        equal_states(here.parameters, ours, theirs, alone)
        assert ours.state[here.parameters[next(iter(shapes))]]["step"] == 7


@check
def a_rank_whose_weights_get_no_gradients_takes_part(rank: int) -> None:
    """Experts that no token was sent to for some steps, or ever."""

    def unused(shapes: Shapes, step: int, dtype: torch.dtype) -> Gradients:
        absent = {"second expert", "third expert"} if step < 10 else {"second expert", "uneven", "vector"}
        return {name: None if name in absent else g for name, g in gradients_of(shapes, step, dtype).items()}

    for options in ({"max_grad_norm": 1.0}, {"lr": 0.1 * linear(30)}, {"on_nonfinite": "skip", "state": "int6"}):
        make = partial(at.AdamW, **options)
        alone = Run(LAYOUTS["two meshes"].shapes, make, stream=unused)
        has_the_bits_of_one_process("two meshes", alone, make, stream=unused)


@check
def a_step_that_one_rank_cannot_make_is_made_by_none(rank: int) -> None:
    """Where something is measured. Otherwise the ranks don't communicate, and only that one raises."""
    layout = LAYOUTS["rows"]
    for is_measured in (True, False):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), max_grad_norm=1.0 if is_measured else None)
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        state = optimizer.state[here.parameters["uneven"]]
        good = state["exp_avg"]
        if rank == 1:
            state["exp_avg"] = torch.zeros(3)
        before = [local(p.detach()).clone() for p in here.parameters.values()]
        if is_measured:
            with raises(ValueError, "parameter 'uneven'.*exp_avg", rank, 1, MESH):
                optimizer.step()
        elif rank == 1:
            with raises(ValueError, "parameter 'uneven'.*exp_avg", rank):
                optimizer.step()
        for p, expected in zip(here.parameters.values(), before, strict=True):
            assert torch.equal(local(p.detach()), expected)
        state["exp_avg"] = good
        here.give(gradients_of(layout.shapes, 1, torch.float32))
        optimizer.step()
        assert state["step"] == 2


@check
def gradients_are_exchanged_by_all_ranks_or_none(rank: int) -> None:
    """Partial gradients, where rank 1 has an overflow, a wrong option, or no gradient of one parameter."""
    layout = LAYOUTS["sequence parallel"]
    for options, wrong in itertools.product(({}, {"max_grad_norm": 1.0}), ("overflow", "option", "none")):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), fused=wrong == "overflow", **options)
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        p = here.parameters["uneven"]
        before, state, gradient = values_of(here.parameters, optimizer), optimizer.state[p], p.grad
        if wrong == "overflow":
            optimizer.found_inf = torch.tensor(float(rank == 1))  # type: ignore[attr-defined] # as GradScaler does
            optimizer.step()
            del optimizer.found_inf
        elif wrong == "none" and not options:
            continue  # nothing is communicated by a rank that exchanges and measures nothing
        else:
            if rank == 1 and wrong == "option":
                optimizer.param_groups[0]["seed"] = "seven"
            elif rank == 1:
                p.grad = None
            words, at_rank = {
                "option": ("", 1),
                "none": ("rank 0 has the gradient of parameter 'uneven' .*Partial.*, rank 1 has .*'stack'", None),
            }[wrong]
            with raises(Exception, words, rank, at_rank, MESH):
                optimizer.step()
            optimizer.param_groups[0]["seed"], p.grad = 0, gradient
        assert values_of(here.parameters, optimizer) == before, (options, wrong)
        optimizer.step()
        assert state["step"] == 2


@check
def an_overflow_comes_before_the_first_step_of_new_parameters(rank: int) -> None:
    """It was found on rank 1; a group of DTensors was added to one of plain parameters, which have been stepped alone."""
    plain = torch.nn.Parameter(torch.ones(3))
    plain.grad = torch.ones(3)
    optimizer = at.AdamW([("plain", plain)], fused=True)
    optimizer.step()
    added = distributed((4,), (Shard(0),), {"added": torch.ones(8)})
    added["added"].grad = torch.ones_like(added["added"])
    optimizer.add_param_group({"params": list(added.items())})
    optimizer.found_inf = torch.tensor(float(rank == 1))  # type: ignore[attr-defined] # as GradScaler does
    optimizer.step()
    assert torch.equal(local(added["added"].detach()), torch.ones(2))
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert [optimizer.state[p]["step"] for p in (plain, added["added"])] == [2, 1]


def collectives() -> int:
    """The number of collectives that this process has taken part in."""
    groups = dist.distributed_c10d._world.pg_map
    return sum(group._get_sequence_number_for_group() for group in groups)


@check
def a_step_communicates_once_if_something_is_measured_and_else_not_at_all(rank: int) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 0),
        ({"state": "int8", "weight_decay": 0.1}, 0),
        ({"lr": 0.1 * linear(10)}, 0),
        ({"max_grad_norm": 1.0}, 1),
        ({"max_grad_norm": "auto", "on_nonfinite": "raise", "lr": 0.1 * linear(10)}, 1),
        ({"on_nonfinite": "skip"}, 1),
    ]
    for name in ("rows", "replicas", "hybrid", "rows and columns", "tensor parallel and sharded"):
        layout = LAYOUTS[name]
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        for options, expected in cases:
            optimizer = at.AdamW(here.parameters.items(), **options)
            for step in range(3):
                here.give(gradients_of(layout.shapes, step, torch.float32))
                before = collectives()
                optimizer.step()
                # The first also makes the process group of the ranks, unless there is one.
                assert collectives() - before == expected or (step == 0 and expected), (name, options, step)


@check
def stages_of_a_pipeline_decide_together(rank: int) -> None:
    """Each has DTensors on a mesh of its own, and ``process_group=`` has the ranks of all."""
    shapes: Shapes = {"0.weight": (70, 130), "0.bias": (70,), "1.weight": (40, 200), "1.bias": (), "1.last": (9, 9)}
    stage = rank // 2
    meshes = [mesh_of(0, 1), mesh_of(2, 3)]
    for named, placement in itertools.product((True, False), (Shard(0), Replicate())):
        for options in ({"max_grad_norm": 1.0, "state": "int8"}, {"lr": 0.1 * linear(10)}, {"on_nonfinite": "skip"}):
            weights = weights_of(shapes, torch.float32)
            theirs = {name: torch.nn.Parameter(w.clone()) for name, w in weights.items()}
            ours = {
                name: torch.nn.Parameter(
                    distribute_tensor(w.clone(), meshes[stage], [placement if w.ndim else Replicate()])
                )
                for name, w in weights.items()
                if name[0] == str(stage)
            }
            alone = at.AdamW(theirs.items() if named else theirs.values(), **options)
            shared = at.AdamW(ours.items() if named else ours.values(), process_group=dist.group.WORLD, **options)
            for step in range(5):
                for name, g in spoiled({2: (5, torch.nan)}, shapes, step, torch.float32).items():
                    theirs[name].grad = g
                    if name in ours:
                        p = ours[name]
                        p.grad = distribute_tensor(g, p.device_mesh, p.placements)  # type: ignore[attr-defined]
                if step == 2 and "on_nonfinite" not in options:
                    continue
                alone.step(), shared.step()
                assert tells(alone) == tells(shared), (named, placement, options, step)
            equal_states(ours, shared, theirs, alone)


@check
def weights_that_are_parts_of_a_sum_are_refused_by_name(rank: int) -> None:
    for placements in ((Partial(), Shard(0)), (Replicate(), Partial("avg"))):
        p = torch.nn.Parameter(DTensor.from_local(torch.ones(3, 4), mesh(2, 2), placements, run_check=False))
        with raises(ValueError, r"parameter 'w' is a DTensor with the placements.*Partial.*Redistribute", rank):
            at.AdamW([("w", p)])


@check
def rows_are_not_given_for_a_dtensor(rank: int) -> None:
    """It knows itself where its rows lie; parts that are plain tensors may lie beside it."""
    p = distributed((4,), (Shard(0),), {"w": random((70, 130), 0, torch.float32)})["w"]
    q = torch.nn.Parameter(torch.zeros(10, 130))
    for rows in ([(0, 70), None], [(18 * rank, 280), None]):
        with raises(ValueError, r"rows of parameter 'w': .*is a DTensor.*give None", rank):
            at.AdamW([{"params": [("w", p), ("q", q)], "rows": rows}])
    at.AdamW([{"params": [("w", p), ("q", q)], "rows": [None, (10 * rank, 40)]}])


@check
def packed_codes_of_a_block_that_is_cut_are_refused_by_name(rank: int) -> None:
    for name in ("inside blocks", "between blocks of stacks", "last dimension"):
        layout = LAYOUTS[name]
        words = r"parameter '(matrix|stack)' is the part.*state='int6': it has the elements from \d+ up to \d+.*Use"
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), state="int6")
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        with raises(ValueError, words, rank):
            optimizer.step()
        with raises(ValueError, words, rank):
            at.Adagrad(here.parameters.items(), state="int6")  # which has its state at once
        for key, p in here.parameters.items():
            assert torch.equal(whole(p.detach()), weights_of(layout.shapes, torch.float32)[key])


@check
def sums_over_codes_of_a_block_that_is_cut_are_refused_by_name(rank: int) -> None:
    layout = LAYOUTS["inside blocks"]
    for member, options, what in ((at.LAMB, {}, "LAMB"), (at.AdamW, {"cautious": True}, "cautious=True")):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = member(here.parameters.items(), state="int8", **options)
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        with raises(ValueError, rf"parameter 'matrix': .*{what}.* needs sums over each tensor.*state=.float32", rank):
            optimizer.step()
        for key, p in here.parameters.items():
            assert torch.equal(whole(p.detach()), weights_of(layout.shapes, torch.float32)[key])


@check
def codes_of_a_dimension_that_two_dimensions_of_the_mesh_cut_are_refused_by_name(rank: int) -> None:
    shapes = {"w": (8, 600)}
    here = Here(Layout(shapes, partial(distributed, (2, 2), (Shard(1), Shard(1)))), weights_of(shapes, torch.float32))
    optimizer = at.AdamW(here.parameters.items(), state="int8")
    here.give(gradients_of(shapes, 0, torch.float32))
    with raises(
        ValueError, r"parameter 'w' is the part.*it has the elements from \d+ up to \d+.*not whole blocks.*Use", rank
    ):
        optimizer.step()


@check
def a_gradient_that_one_of_those_that_share_a_block_lacks_is_an_error_by_name(rank: int) -> None:
    """Also if that process has no state yet."""
    layout = LAYOUTS["inside blocks"]
    for begins in (False, True):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), state="int8")
        if begins:
            here.give(gradients_of(layout.shapes, 0, torch.float32))
            optimizer.step()
        here.give(gradients_of(layout.shapes, 1, torch.float32))
        if rank == 1:
            here.parameters["matrix"].grad = None
        before = here.parameters["wide"].detach().clone()
        words = (
            r"where rank [0-3] has blocks of codes of parameter 'matrix', rank [0-3] has blocks of .* parameter 'wide'"
        )
        with raises(ValueError, words, rank):
            optimizer.step()
        assert torch.equal(local(here.parameters["wide"].detach()), local(before))


@check
def processes_that_cannot_know_who_decides_are_told(rank: int) -> None:
    """Experts on each pair of ranks, or on the first pair alone, beside a plain parameter on all."""
    first, second = (
        torch.nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh_of(*ranks), [Shard(0)]))
        for ranks in ((0, 1), (2, 3))
    )
    plain = torch.nn.Parameter(torch.ones(4))
    optimizer = at.SGD([("first", first), ("second", second), ("plain", plain)], max_grad_norm=1.0)
    plain.grad = torch.ones(4)
    with raises(ValueError, r"meshes of the ranks \[0, 1\] and \[2, 3\].*process_group=", rank):
        optimizer.step()
    for options in ({}, {"max_grad_norm": 1.0}):
        optimizer = at.SGD([("first", first), ("plain", plain)], **options)
        if rank > 1 and options:
            with raises(
                ValueError, "parameter 'plain' is here, and parameter 'first' lies on other.*process_group=", rank
            ):
                optimizer.step()
        else:
            optimizer.step()


@check
def a_state_that_one_of_those_that_share_a_block_cannot_use_is_an_error_of_all(rank: int) -> None:
    layout = LAYOUTS["inside blocks"]
    here = Here(layout, weights_of(layout.shapes, torch.float32))
    optimizer = at.AdamW(here.parameters.items(), state="int8")
    here.give(gradients_of(layout.shapes, 0, torch.float32))
    optimizer.step()
    state = optimizer.state[here.parameters["wide"]]
    for entry, bad, words in (
        ("exp_avg", torch.zeros(3, dtype=torch.int8), "has another shape than the parameter"),
        ("exp_avg_sq", torch.zeros(9, 275), r"has to be uint8, not float32"),
        ("exp_avg_sq_grid", torch.zeros(9, 1), r"has to be float32, of shape"),
        ("exp_avg", None, "is missing"),
    ):
        good = state[entry]
        if rank == 1:
            state[entry] = bad
            if bad is None:
                del state[entry]
        with raises(ValueError, f"parameter 'wide': its state '{entry}' {words}", rank, at_rank=1, group=MESH):
            optimizer.step()
        state[entry] = good
    optimizer.step()
    assert state["step"] == 2


@check
def a_process_outside_of_a_mesh_has_nothing_to_step(rank: int) -> None:
    """Also if it has the DTensor, even with a gradient."""
    options: list[tuple[type[at.Optimizer], dict[str, Any]]] = [
        (at.AdamW, {}),
        (at.AdamW, {"max_grad_norm": 1.0, "state": "int8"}),
        (at.Adagrad, {"on_nonfinite": "skip"}),
    ]
    w = random((33, 130), 0, torch.float32)
    for is_beside, (kind, given) in itertools.product((False, True), options):
        ours = {"part": torch.nn.Parameter(distribute_tensor(w.clone(), mesh_of(0, 1), [Shard(0)]))}
        theirs = {"part": torch.nn.Parameter(w.clone())}
        if is_beside:
            ours |= distributed((4,), (Shard(0),), {"all": w})
            theirs["all"] = torch.nn.Parameter(w.clone())
        optimizer, alone = kind(ours.items(), **given), kind(theirs.items(), **given)
        for p in (*ours.values(), *theirs.values()):
            p.grad = torch.ones_like(p)
        for _ in range(3):
            optimizer.step(), alone.step()
        assert optimizer.grad_norm == alone.grad_norm or (rank > 1 and not is_beside)
        assert bool(optimizer.state[ours["part"]]) == (rank < 2)
        for name, p in ours.items():
            if rank < 2 or name == "all":
                equal_states({name: p}, optimizer, theirs, alone)


@check
def a_rate_is_not_searched_over_sharded_weights(rank: int) -> None:
    model = torch.nn.Linear(8, 8)
    fully_shard(model, mesh=mesh(4))
    optimizer = at.AdamW(model.named_parameters())
    with raises(ValueError, "the optimizer has DTensors.*in one process, before the model is sharded", rank):
        at.find_lr(model, optimizer, lambda model, x: model(x).square().mean(), [torch.ones(2, 8)])
