"""What four processes check in ``test_distributed.py``: their devices decide about steps together, and no host waits for them.

The devices are the CPU, where ``ADAMAS_EXECUTOR=arrays`` makes steps as on other devices.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from captured import Captured, Recording
from engine_with_sums import executor
from layouts import LAYOUTS, Here, Shapes, whole
from ranks import Checks
from ranks_bits import Gradients, Run, equal_states, gradients_of, has_the_bits_of_one_process, tells, weights_of
from ranks_decisions import collectives, spoiled, unsteady, values_of
from torch.distributed.tensor import DTensor, Partial

import adamas.torch as at
from adamas.schedules import cosine, linear, warmup
from adamas.step.namespaces.torch import Formulas

check = Checks()
MESH = "the parameters' mesh"

# Those in which ranks exchange gradients or codes are decided by the hosts; plain ones, by each rank alone.
DECIDED = [name for name, one in LAYOUTS.items() if not one.partial and name not in ("plain", "ddp")]
Options = Callable[[], dict[str, Any]]

STOPS = {1: (0, torch.nan), 4: (-1, torch.inf), 5: (2000, -torch.inf)}
OPTIONS: dict[str, tuple[Options, Any]] = {
    "clipped": (lambda: {"max_grad_norm": 1.0, "state": "int8"}, gradients_of),
    "by history": (lambda: {"max_grad_norm": "auto", "on_nonfinite": "skip"}, unsteady),
    "skipped": (
        lambda: {"on_nonfinite": "skip", "max_grad_norm": 1.0, "lr": 0.1 * warmup(3).then(cosine(30))},
        partial(spoiled, STOPS),
    ),
    "scheduled": (
        lambda: {"lr": 0.1 * linear(30), "weight_decay": 0.1 * cosine(7), "max_grad_norm": 9.0 * linear(40)},
        unsteady,
    ),
}


def decides_there(optimizer: at.Optimizer, step: int) -> None:
    assert step == 0 or optimizer._together is not None or optimizer._peers is None


@check.each(
    {f"{layout}, {name}": (layout, name) for layout in DECIDED for name in OPTIONS},
    quick=(
        "rows, clipped",
        "hybrid, by history",
        "rows and columns, skipped",
        "two meshes, scheduled",
        "beside plain ones, skipped",
        "tensor parallel and sharded, by history",
        "replicas, scheduled",
    ),
)
def devices_decide_with_the_bits_of_one_process(rank: int, layout: str, name: str) -> None:
    options, stream = OPTIONS[name]
    with executor("arrays"):
        # Devices that decide together count the steps. That of one process does with capturable=True.
        alone = Run(
            LAYOUTS[layout].shapes, lambda params: at.AdamW(params, capturable=True, **options()), stream=stream
        )
        make = lambda params: at.AdamW(params, **options())  # noqa: E731
        has_the_bits_of_one_process(layout, alone, make, stream=stream, after=decides_there)


@contextmanager
def nothing_is_read() -> Iterator[None]:
    """Fails where the host would wait for a device: but for the copies of what the ranks have told one another."""

    def refused(name: str) -> Callable[..., None]:
        def refuse(*arguments: Any) -> None:
            raise AssertionError(f"the host waits for the device in {name}")

        return refuse

    read_later = Formulas.read_later
    tolist = torch.Tensor.tolist

    def copied(formulas: Formulas, x: torch.Tensor) -> Callable[[], Any]:
        copy = read_later(formulas, x).__self__  # type: ignore[attr-defined]
        return lambda: tolist(copy)

    with pytest.MonkeyPatch.context() as patch, Recording():
        for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
            patch.setattr(torch.Tensor, name, refused(name))
        patch.setattr(Formulas, "read_later", copied)
        yield


WAITLESS: dict[str, tuple[Callable[[], dict[str, Any]]]] = {
    "clipped": (lambda: {"max_grad_norm": 1.0, "state": "int8"},),
    "by history, scheduled": (lambda: {"max_grad_norm": "auto", "lr": 0.1 * linear(30), "on_nonfinite": "skip"},),
    "loss scaling": (lambda: {"fused": True, "max_grad_norm": 1.0},),
}


@check.each(WAITLESS, quick=WAITLESS)
def no_host_waits_for_a_device(rank: int, options: Callable[[], dict[str, Any]]) -> None:
    for name in ("rows", "hybrid", "two meshes"):
        layout = LAYOUTS[name]
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        with executor("arrays"):
            optimizer = at.AdamW(here.parameters.items(), **options())
            for step in range(6):
                here.give(spoiled({3: (0, torch.nan)}, layout.shapes, step, torch.float32))
                if optimizer.defaults["fused"]:
                    optimizer.grad_scale = torch.tensor([2.0])  # type: ignore[attr-defined]
                    optimizer.found_inf = torch.tensor(float(step == 3 and rank == 0))  # type: ignore[attr-defined]
                before = collectives()
                with nothing_is_read() if step else nullcontext():
                    optimizer.step()
                assert step == 0 or collectives() - before == 1
        made = {int(optimizer.state[p]["step"]) for p in here.parameters.values() if optimizer.state.get(p)}
        assert made == {
            6 if optimizer.defaults["on_nonfinite"] == "propagate" and not optimizer.defaults["fused"] else 5
        }


@check
def a_loss_scaler_is_heard_by_all_devices(rank: int) -> None:
    """What it has found on one rank skips the step on all, as in one process."""
    layout = LAYOUTS["rows"]
    with executor("arrays"):
        options = {"fused": True, "max_grad_norm": "auto"}
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        theirs = {name: torch.nn.Parameter(w) for name, w in weights_of(layout.shapes, torch.float32).items()}
        ours, alone = (at.AdamW(params.items(), **options) for params in (here.parameters, theirs))
        for step in range(12):
            given = gradients_of(layout.shapes, step, torch.float32)
            here.give(given)
            for name, q in theirs.items():
                q.grad = given[name]
            is_bad = step in (0, 4, 10)
            ours.found_inf = torch.tensor(float(is_bad and rank == 2))  # type: ignore[attr-defined]
            alone.found_inf = torch.tensor(float(is_bad))  # type: ignore[attr-defined]
            for optimizer in (ours, alone):
                optimizer.grad_scale = torch.tensor([2.0])  # type: ignore[attr-defined]
                optimizer.step()
            assert is_bad or tells(ours) == tells(alone), (step, tells(ours), tells(alone))
        assert ours._together is not None
    equal_states(here.parameters, ours, theirs, alone)


def bad_state(here: Here, optimizer: at.Optimizer) -> Callable[[], None]:
    state = optimizer.state[here.parameters["uneven"]]
    good = state["exp_avg"]
    state["exp_avg"] = torch.zeros(3)
    return lambda: state.update(exp_avg=good)


def plain_gradient(here: Here, optimizer: at.Optimizer) -> Callable[[], None]:
    p = here.parameters["uneven"]
    good = p.grad
    p.grad = None
    p.grad = torch.ones(p.shape)
    return lambda: setattr(p, "grad", good)


def bad_option(name: str, value: Any) -> Callable[[Here, at.Optimizer], Callable[[], None]]:
    def spoil(here: Here, optimizer: at.Optimizer) -> Callable[[], None]:
        group = optimizer.param_groups[0]
        good = group[name]
        group[name] = value
        return lambda: group.update({name: good})

    return spoil


PROBLEMS: dict[str, tuple[Any, ...]] = {
    "state": (bad_state, ValueError, "parameter 'uneven': its state 'exp_avg' has another shape"),
    "gradient": (plain_gradient, ValueError, "the gradient of parameter 'uneven' must be a DTensor"),
    "option": (bad_option("seed", "seven"), TypeError, "unsupported operand"),
    "number": (bad_option("weight_decay", "much"), TypeError, "weight_decay of a parameter group must be a number"),
    "schedule": (bad_option("lr", 7.0), ValueError, "lr is given by .* and was set to 7.0 by something else"),
}


@check.each(PROBLEMS, quick=PROBLEMS)
def a_step_that_one_rank_cannot_make_is_skipped_by_all_devices(
    rank: int, spoil: Any, kind: type[Exception], words: str
) -> None:
    """That rank raises at once, all raise at the following step, and go on as if neither had been called."""
    layout = LAYOUTS["rows"]
    options = {"max_grad_norm": "auto", "lr": 0.1 * linear(30), "state": "bfloat16"}
    with executor("arrays"):
        here, other = (Here(layout, weights_of(layout.shapes, torch.float32)) for _ in range(2))
        optimizer, expected = (at.AdamW(one.parameters.items(), **options) for one in (here, other))
        for step in range(12):
            given = gradients_of(layout.shapes, step, torch.float32)
            other.give(given)
            expected.step()
            here.give(given)
            if step not in (1, 10):
                optimizer.step()
                continue
            before = values_of(here.parameters, optimizer)
            if rank == 1:
                mend = spoil(here, optimizer)
                with pytest.raises(kind, match=words):
                    optimizer.step()
                mend()
            else:
                optimizer.step()
                assert math.isnan(float(optimizer.grad_norm))
                skipped = f"rank 1 of {MESH} could not make step {step + 1}, and raised .* all ranks skipped that step"
                with pytest.raises(RuntimeError, match=f"{skipped}, and nothing was changed"):
                    optimizer.state_dict()
            optimizer.state_dict()  # which says it once
            with pytest.raises(
                RuntimeError, match=f"rank 1 of {MESH} could not make step {step + 1}, .* none makes this"
            ):
                optimizer.step()
            assert values_of(here.parameters, optimizer) == before
            optimizer.step()
            assert optimizer._together is not None
            assert tells(optimizer) == tells(expected)
    assert values_of(here.parameters, optimizer) == values_of(other.parameters, expected)


@check
def a_spike_that_is_measured_exactly_leaves_no_rank_waiting(rank: int) -> None:
    """It takes a second exchange: the hosts decide, and one rank's error is raised on all before that."""
    layout = LAYOUTS["rows"]
    with executor("arrays"):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), on_spike="skip, of=exact, last=4")
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        mend = bad_state(here, optimizer) if rank == 1 else lambda: None
        with pytest.raises(ValueError, match="parameter 'uneven': its state 'exp_avg' has another shape"):
            optimizer.step()
        mend()
        optimizer.step()
        assert {int(state["step"]) for state in optimizer.state.values()} == {2}


@check
def a_loss_that_is_no_number_on_one_rank_leaves_no_rank_waiting(rank: int) -> None:
    layout = LAYOUTS["rows"]
    with executor("arrays"):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), on_spike="skip, of=loss+grad_norm, last=4")
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step(loss=1.0)
        assert optimizer._together is not None
        if rank == 1:
            with pytest.raises((RuntimeError, TypeError)):
                optimizer.step(loss=torch.ones(2))
        else:
            optimizer.step(loss=1.0)
        with pytest.raises(RuntimeError, match=f"rank 1 of {MESH} could not make step 2"):
            optimizer.step(loss=1.0)
        optimizer.step(loss=1.0)
        assert {int(state["step"]) for state in optimizer.state.values()} == {2}


@check
def several_ranks_that_cannot_make_a_step_raise_their_own_errors(rank: int) -> None:
    layout = LAYOUTS["hybrid"]
    with executor("arrays"):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), max_grad_norm=1.0)
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        mend = bad_state(here, optimizer) if rank else lambda: None
        with pytest.raises(ValueError, match="parameter 'uneven'") if rank else nullcontext():
            optimizer.step()
        mend()
        with pytest.raises(RuntimeError, match=f"rank 1 of {MESH} could not make step 2"):
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        assert {int(state["step"]) for state in optimizer.state.values()} == {2}


@check
def a_state_that_is_loaded_ends_what_was_to_be_said(rank: int) -> None:
    """After its error, a rank loads a checkpoint; the others do so after theirs."""
    layout = LAYOUTS["rows"]
    with executor("arrays"):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), max_grad_norm=1.0)
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        if rank == 1:
            bad_state(here, optimizer)
            with pytest.raises(ValueError, match="parameter 'uneven'"):
                optimizer.step()
        else:
            optimizer.step()
            with pytest.raises(RuntimeError, match=f"rank 1 of {MESH} could not make step 2"):
                optimizer.step()
        optimizer.load_state_dict(saved)
        for _ in range(2):
            optimizer.step()
        assert {int(state["step"]) for state in optimizer.state.values()} == {3}


@check
def a_rank_whose_host_decides_makes_no_step_alone(rank: int) -> None:
    """An option, or a gradient that is to be redistributed, on one rank only: an error of all, and none waits for another."""
    layout = LAYOUTS["rows"]

    def partial_gradient(here: Here, optimizer: at.Optimizer) -> Callable[[], None]:
        p = here.parameters["uneven"]
        good = p.grad
        p.grad = DTensor.from_local(torch.ones(p.shape), p.device_mesh, [Partial()], run_check=False)
        return lambda: setattr(p, "grad", good)

    with executor("arrays"):
        for spoil in (bad_option("on_nonfinite", "raise"), bad_option("lr", 0.0), partial_gradient):
            here = Here(layout, weights_of(layout.shapes, torch.float32))
            optimizer = at.AdamW(here.parameters.items(), max_grad_norm=1.0)
            here.give(gradients_of(layout.shapes, 0, torch.float32))
            optimizer.step()
            before = values_of(here.parameters, optimizer)
            if rank == 2:
                mend = spoil(here, optimizer)
                with pytest.raises(
                    RuntimeError, match=f"rank 0 of {MESH} lets its device decide .* and rank 2 does not"
                ):
                    optimizer.step()
                mend()
            else:
                optimizer.step()
            words = "lets its device decide" if rank == 2 else f"rank 2 of {MESH} left step 2 to its host"
            with pytest.raises(RuntimeError, match=f"{words}.*none makes this one"):
                optimizer.step()
            assert values_of(here.parameters, optimizer) == before
            optimizer.step()
            assert optimizer._together is not None
            assert {int(state["step"]) for state in optimizer.state.values()} == {2}


@check
def hosts_and_devices_take_turns(rank: int) -> None:
    """Options that only hosts, or devices, can decide about may come and go, with the bits of one process."""

    def turn(optimizer: at.Optimizer, step: int) -> None:
        (group,) = optimizer.param_groups
        group["on_nonfinite"] = "raise" if step % 6 in (2, 3) else "skip"
        group["max_grad_norm"] = None if step % 7 == 4 else 1.0
        if optimizer._peers is not None and step:
            assert (optimizer._together is None) == (step % 6 in (3, 4)), step

    for name in ("rows", "two meshes"):
        alone = Run(LAYOUTS[name].shapes, partial(at.AdamW, max_grad_norm=1.0), after=turn, steps=14)
        with executor("arrays"):
            layout = LAYOUTS[name]
            here = Here(layout, weights_of(layout.shapes, torch.float32))
            optimizer = at.AdamW(here.parameters.items(), max_grad_norm=1.0)
            for step in range(14):
                here.give(gradients_of(layout.shapes, step, torch.float32))
                optimizer.step()
                turn(optimizer, step)
        for key, p in here.parameters.items():
            torch.testing.assert_close(whole(p.detach()), alone.parameters[key].detach(), rtol=1e-5, atol=1e-6)
            assert optimizer.state[p]["step"] == 14
        assert optimizer.clipped_steps == alone.optimizer.clipped_steps


@check
def a_captured_step_is_refused_where_ranks_decide_together(rank: int) -> None:
    layout = LAYOUTS["rows"]
    with executor("arrays"):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = at.AdamW(here.parameters.items(), max_grad_norm=1.0, capturable=True)
        here.give(gradients_of(layout.shapes, 0, torch.float32))
        optimizer.step()
        with pytest.raises(RuntimeError, match="several processes decide about this step"):
            Captured(optimizer.step)
        optimizer.step()
        optimizer.param_groups[0]["on_nonfinite"] = "raise"
        with pytest.raises(RuntimeError, match=r'the host decides about this step: on_nonfinite="raise" of .* group 0'):
            Captured(optimizer.step)
        optimizer.param_groups[0]["on_nonfinite"] = "skip"
        optimizer.step()
        assert {int(state["step"]) for state in optimizer.state.values()} == {3}


@check
def runs_go_on_from_what_devices_have_counted(rank: int) -> None:
    """A state dict, and one in a distributed checkpoint, hold what was decided; copies go on too."""
    layout = LAYOUTS["rows"]

    def make(here: Here) -> at.Optimizer:
        lr = 0.1 * linear(30)
        return at.AdamW(here.parameters.items(), lr=lr, max_grad_norm="auto", on_nonfinite="skip", state="int8")

    def stream(step: int) -> Any:
        return spoiled({2: (0, torch.nan), 14: (0, torch.nan)}, layout.shapes, step, torch.float32)

    with executor("arrays"):
        here = Here(layout, weights_of(layout.shapes, torch.float32))
        optimizer = make(here)
        for step in range(20):
            if step == 11:
                saved = copy.deepcopy(optimizer.state_dict())
                weights = {name: whole(p.detach()).clone() for name, p in here.parameters.items()}
            here.give(stream(step))
            optimizer.step()
        resumed = Here(layout, weights)
        again = make(resumed)
        again.load_state_dict(saved)
        for step in range(11, 20):
            resumed.give(stream(step))
            again.step()
        assert again._together is not None
        assert tells(again) == tells(optimizer)
        assert values_of(resumed.parameters, again) == values_of(here.parameters, optimizer)


@check
def schedules_go_by_the_steps_of_ranks_with_gradients(rank: int) -> None:
    """Ranks 0 and 1 get none for some steps, and go on at the rate of the others when they do, or when they begin."""

    def late(shapes: Shapes, step: int, dtype: torch.dtype) -> Gradients:
        is_whole = step in (3, 4, 7)
        found = gradients_of(shapes, step, dtype)
        return {name: g if is_whole or name == "second expert" else None for name, g in found.items()}

    def make(params: Any, **options: Any) -> at.Optimizer:
        return at.AdamW(params, lr=0.1 * linear(10), max_grad_norm=1.0, **options)

    with executor("arrays"):
        alone = Run(LAYOUTS["two meshes"].shapes, partial(make, capturable=True), stream=late, steps=9)
        has_the_bits_of_one_process("two meshes", alone, make, stream=late, after=decides_there)
