"""The parameters' device decides about steps, over arrays: see ``decided``. ``tests/gpu`` has the same for kernels."""

from __future__ import annotations

import gc
from typing import Any

import decided
import pytest
import torch
from captured import Recording

import adamas.torch as at
from adamas.rule.members import MEMBERS
from adamas.rule.shared import defaults
from adamas.rule.triton_numbers import NumbersKind, fixed_of, record_numbers
from adamas.schedules import Plateau, cosine
from adamas.step import kernels

WHERE = ("arrays", "cpu")
pytestmark = pytest.mark.usefixtures("exact_engine")


def test_parameters_that_do_not_decay_have_numbers_of_their_own() -> None:
    adamw = MEMBERS["AdamW"]
    hyper = defaults(adamw, "torch") | {"base_lr": 1e-3}
    kind = NumbersKind(adamw, fixed_of(adamw, hyper), adamw.rule(hyper), False, False, is_decayed=True)
    assert "k" in record_numbers(kind)[0].outputs
    assert record_numbers(kind._replace(is_decayed=False))[1]["k"] == 1


class TestOverArrays(decided.Decided):
    WHERE = WHERE


@pytest.mark.parametrize("member", [at.AdamW, at.RAdam, at.NAdam], ids=lambda member: member.__name__)
@pytest.mark.parametrize("options", decided.OPTIONS)
def test_steps_are_the_engines(options: str, member: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_steps(monkeypatch, *WHERE, options, member)


def test_what_a_graph_uses_outlives_later_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory that a graph reads or writes, but that of gradients, is freed by later steps, or by loading."""
    plateau = Plateau(factor=0.5, patience=0)
    run = decided.Run(monkeypatch, *WHERE, lr=1e-2 * cosine(20) * plateau, max_grad_norm="auto", capturable=True)
    given = next(decided.gradients(1))
    run.step(given)
    run.params[2].requires_grad_(False)
    run.step(given)
    used, kept = run.captured().used, [p.grad for p in run.params]
    run.step([given[0], None, None])
    for state in run.optimizer.state.values():
        state["step"] = state["step"].clone()
    run.step(given)
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    run.step(given)
    gc.collect()
    assert all(reference() is not None for reference in used)
    del kept  # as who replays a graph keeps its gradients


def test_trap_T44_step_counts_on_the_device_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    run = decided.Run(monkeypatch, *WHERE, on_nonfinite="skip")
    given = list(decided.gradients(3))
    run.step(given[0])
    for state in run.optimizer.state.values():
        state["step"] = state["step"].clone()  # as something that moves all tensors of the state does
    run.give(given[1])
    with Recording():  # which raises where a value is read
        run.step()
    assert [state["step"] for state in run.optimizer.state.values()] == [2] * 3


def test_trap_T45_a_rate_in_a_tensor_is_read_at_each_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_rate_in_a_tensor(monkeypatch, *WHERE)


def test_trap_T46_a_parameter_without_a_gradient_is_named_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    run = decided.Run(monkeypatch, *WHERE, capturable=True)
    run.step(next(decided.gradients(1)))
    run.params[1].grad = None
    with pytest.raises(RuntimeError, match="parameter 'p1' has no gradient"):
        run.captured()


@pytest.mark.parametrize("gradient", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_trap_T47_a_captured_step_takes_gradients_of_another_dtype(
    gradient: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = decided.Run(monkeypatch, *WHERE, capturable=True)
    other = decided.Run(monkeypatch, "engine")
    for p in (*one.params, *other.params):
        p.grad_dtype = None
    for given, step in zip(decided.gradients(4), one.stepper(), strict=False):
        given = [g.to(gradient) for g in given]
        other.step(given)
        step(given)
        decided.assert_alike(one, other)


def test_trap_T48_any_number_of_tensors_is_stepped_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    count, launched = 20_001, []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda table, tensors, numbers, **options: launched.append((grid, len(table), len(tensors)))

    monkeypatch.setattr(kernels, "step_or_sum", lambda kind, index=None: Kernel())
    monkeypatch.setenv("ADAMAS_EXECUTOR", "gpu")
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(count)]
    for p in params:
        p.grad = torch.ones(2)
    at.SGD(params, lr=0.1).step()
    ((grid, table, tensors),) = launched
    assert grid == (count,)
    assert tensors == count
    assert table % count == 0
