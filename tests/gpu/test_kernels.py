"""The kernels of GPUs do what the engine does: the same codes and scales, and the same weights but for estimates."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import (
    DEVICE,
    SHAPES,
    WEIGHTS,
    Row,
    assert_same,
    begun,
    by_pairs,
    every_row,
    gradients,
    kernels,
    launches,
    step,
)
from members import CASES

import adamas.torch as at
from adamas.rule import triton
from adamas.rule.layout import WIDTHS
from adamas.step import kernels as step_kernels

sys.path.insert(0, str(Path(__file__).parents[1]))
import test_parts

# In the interpreter, NumPy warns of what is not finite.
pytestmark = [pytest.mark.kernels, pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

ADAMW = next(case for case in CASES if case.name == "adamw")
ROW = Row(ADAMW, "float32", WEIGHTS[0], SHAPES[0], {})


def compare(row: Row, on_gpu: Callable[..., Any], steps: int) -> None:
    one, params = begun(row, "cpu")
    other, copies = on_gpu(begun, row, DEVICE)
    for given in gradients(row, steps):
        step(one, params, given)
        on_gpu(step, other, copies, given)
        assert_same(one, other)


@pytest.mark.parametrize("row", by_pairs(), ids=str)
def test_a_step_is_the_engines(row: Row, on_gpu: Callable[..., Any]) -> None:
    compare(row, on_gpu, 2)


@pytest.mark.nightly
@pytest.mark.parametrize("row", every_row(), ids=str)
def test_every_step_is_the_engines(row: Row, on_gpu: Callable[..., Any]) -> None:
    compare(row, on_gpu, 3)


@pytest.mark.parametrize("state", ["bfloat16", "int8", "mixed"])
def test_parts_are_stepped_as_the_whole(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", "gpu")
    monkeypatch.setattr(test_parts, "MATRIX", (12, 401))
    shape = test_parts.MATRIX
    options = test_parts.options_of(ADAMW, state, "stochastic")
    whole = test_parts.start(shape, torch.bfloat16)
    stepper = test_parts.Stepper(ADAMW, options, whole, test_parts.ways_of(ADAMW, options, shape))
    stepper.step(*test_parts.gradients(whole, 1))
    stepper.check()
    assert not torch.equal(stepper.weight, whole)


def test_all_tensors_that_are_stored_alike_take_one_launch(
    on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROW._replace(shapes=((3,), (200,), (70, 64), (0,), (129,)))
    made = launches(monkeypatch)
    optimizer, params = on_gpu(begun, row, DEVICE)
    for given in gradients(row, 2):
        on_gpu(step, optimizer, params, given)
    assert len(made) == 2


@pytest.mark.parametrize(("name", "limit"), [("adamw", None), ("radam", 1.0)])
def test_warming_up_compiles_what_steps_launch_and_changes_nothing(
    name: str, limit: float | None, on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROW._replace(
        case=next(case for case in CASES if case.name == name), state="mixed", weights=WEIGHTS[3], shapes=SHAPES[2]
    )
    optimizer, params = on_gpu(begun, row, DEVICE, max_grad_norm=limit)
    for p in params:
        p.grad_dtype = torch.float32  # which no gradient has yet
    last = torch.nn.Parameter(torch.ones(5, device=DEVICE))
    optimizer.add_param_group({"params": [("last", last)], "state": "float32"})
    before, weights = pickle.dumps(optimizer.state_dict()), [p.detach().clone() for p in params]
    compiled, launched = kernels(monkeypatch)
    on_gpu(at.warm_up, optimizer)
    assert pickle.dumps(optimizer.state_dict()) == before
    assert all(torch.equal(p, q) for p, q in zip(params, weights, strict=True))
    assert compiled
    assert not launched

    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(7):
        on_gpu(step, optimizer, params, [torch.ones_like(p, dtype=torch.float32) for p in params])
    assert set(launched) == set(compiled)

    compiled.clear()
    on_gpu(at.warm_up, optimizer)  # with a state
    assert set(launched) == set(compiled)


def test_there_is_nothing_to_warm_up_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, _ = kernels(monkeypatch)
    at.warm_up(at.AdamW([torch.nn.Parameter(torch.ones(3))]))
    assert compiled == []


def test_what_cannot_be_warmed_up_is_an_error() -> None:
    params = [torch.nn.Parameter(torch.ones(3))]
    other: Any = torch.optim.AdamW(params)
    with pytest.raises(TypeError, match=r"optimizer is a torch\.optim\.adamw\.AdamW"):
        at.warm_up(other)
    lazy = torch.nn.LazyLinear(2, bias=False)
    with pytest.raises(ValueError, match="'weight' is lazy and has no shape yet"):
        at.warm_up(at.AdamW(lazy.named_parameters()))


def test_a_tensor_that_is_not_contiguous_is_stepped_over_arrays(
    on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = launches(monkeypatch)
    start = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(3))
    expected = torch.nn.Parameter(start.clone())
    p = torch.nn.Parameter(start.to(DEVICE, memory_format=torch.channels_last, copy=True))
    optimizers = at.AdamW([("w", expected)]), at.AdamW([("w", p)])
    for optimizer, one in zip(optimizers, (expected, p), strict=True):
        one.grad = start.to(one.device) / 2
        (on_gpu if one is p else lambda f: f())(optimizer.step)
    assert made == []
    torch.testing.assert_close(p.detach().cpu(), expected.detach(), rtol=1e-6, atol=1e-7)
    assert p.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_gradients_with_pending_signs_are_resolved(limit: float | None, on_gpu: Callable[..., Any]) -> None:
    row = ROW._replace(weights=WEIGHTS[-1], shapes=((40, 3),) * 3)
    one, params = begun(row, "cpu", max_grad_norm=limit)
    other, copies = on_gpu(begun, row, DEVICE, max_grad_norm=limit)
    for given in gradients(row, 2):
        for p, q, g in zip(params, copies, given, strict=True):
            p.grad, q.grad = -g.conj(), torch._neg_view(g.to(DEVICE).conj())
        one.step()
        on_gpu(other.step)
        assert_same(one, other)


def test_weights_and_moments_with_pending_signs_are_stepped_over_arrays(on_gpu: Callable[..., Any]) -> None:
    one, params = begun(ROW, "cpu")
    other, copies = on_gpu(begun, ROW, DEVICE)
    for i, given in enumerate(gradients(ROW, 3)):
        if i == 1:
            copies[0].data = torch._neg_view(-copies[0].detach())
        elif i == 2:
            m = other.state[copies[1]]["exp_avg"]
            m.data = torch._neg_view(-m)
        step(one, params, given)
        on_gpu(step, other, copies, given)
        torch.testing.assert_close(
            [p.detach() for p in params], [p.detach().cpu() for p in copies], rtol=1e-6, atol=1e-7
        )


def test_penalties_are_added_to_the_scaled_gradient(on_gpu: Callable[..., Any]) -> None:
    adamax = next(case for case in CASES if case.name == "adamax")  # its rule takes the scale as it is
    compare(ROW._replace(case=adamax, options={"weight_decay": 0.1, "maximize": True}), on_gpu, 2)


@pytest.mark.parametrize("state", ["float32", "int8"])
@pytest.mark.parametrize("options", [{"eps_root": 1e-3}, {"eps": 0.0}], ids=str)
def test_what_is_under_the_root_is_the_engines(state: str, options: dict[str, Any], on_gpu: Callable[..., Any]) -> None:
    """Also where nothing is: in 8 bits, a gradient that is 0 moves no weight without an ε either."""
    compare(ROW._replace(state=state, options=options), on_gpu, 2)


def test_a_rate_of_zero_moves_moments_alone(on_gpu: Callable[..., Any]) -> None:
    compare(ROW._replace(options={"lr": 0.0}), on_gpu, 1)
    optimizer, (p, *_) = on_gpu(begun, ROW._replace(options={"lr": 0.0, "weight_decay": 0.0}), DEVICE)
    before = p.detach().clone()
    on_gpu(step, optimizer, optimizer.param_groups[0]["params"], *gradients(ROW, 1))
    assert torch.equal(p.detach(), before)
    assert optimizer.state[p]["exp_avg"].any()


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_what_is_not_finite_stays_so(state: str, on_gpu: Callable[..., Any]) -> None:
    row = ROW._replace(state=state)
    one, params = begun(row, "cpu")
    other, copies = on_gpu(begun, row, DEVICE)
    for given in gradients(row, 3):
        given[0][0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
        step(one, params, given)
        on_gpu(step, other, copies, given)
        assert_same(one, other, is_marked=state == "int8")


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.nightly), 257])
@pytest.mark.parametrize("off", range(-2, 3))
def test_quotients_are_rounded_to_the_nearest(off: int, every: int) -> None:
    """Also where the root that they begin with is off by some of its last bits, as on a device."""
    kernel = """@triton.jit
def quotients(x, d, found, COUNT: tl.constexpr):
    i = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    tl.store(found + i, quotient(tl.load(x + i), tl.load(d + i)))
"""
    quotient = triton.QUOTIENT.replace("tl.rsqrt(d)", f"tl.rsqrt(d) * {1 + off * 2.0**-23}")
    assert quotient != triton.QUOTIENT
    found_by = step_kernels.defined(triton.HEAD + quotient + kernel)["quotients"]

    scales = (torch.arange(0, 1 << 23, 4 * every, dtype=torch.int32) | 0x3F800000).view(torch.float32)  # from 1 to 2
    any_number = (torch.arange(0, 1 << 23, 7 * every, dtype=torch.int32) | 0x3F800000).view(torch.float32)
    largest = [x for width in WIDTHS.values() for x in (*width.largest_signed, *width.largest_signed_marked)]
    cases = [(1.0, scales * 2.0**power) for power in (-126, -119, -1, 0, 117)]
    cases += [(any_number * 2.0**power, torch.tensor(most)) for most in largest for power in (-100, 0, 126)]
    cases += [(0.75, any_number / 2), (0.75, torch.zeros(1)), (0.0, torch.tensor(472.0))]
    for x, d in cases:
        x, d = (y.contiguous() for y in torch.broadcast_tensors(torch.as_tensor(x), d))
        expected, found = x / d, torch.zeros(-(-x.numel() >> 13) << 13, device=DEVICE)
        x, d = (torch.cat([y.reshape(-1), torch.ones(len(found) - y.numel())]).to(DEVICE) for y in (x, d))
        found_by[(len(found) >> 13,)](x, d, found, COUNT=1 << 13)
        assert torch.equal(found[: expected.numel()].cpu(), expected.reshape(-1))


@pytest.mark.parametrize("state", ["int8", "int6", "mixed"])
def test_codes_of_blocks_without_gradients_are_kept(state: str, on_gpu: Callable[..., Any]) -> None:
    """The first tile of 16 rows is left, a part of the second, and later no block."""
    row = ROW._replace(state=state)
    one, params = begun(row, "cpu")
    other, copies = on_gpu(begun, row, DEVICE)
    for left, given in zip((0, 20, 20, 0), gradients(row, 4), strict=True):
        given[0][:left] = 0.0
        step(one, params, given)
        on_gpu(step, other, copies, given)
        assert_same(one, other)


@pytest.mark.parametrize("weights", WEIGHTS[2:4], ids=["stochastic", "split"])
def test_weights_that_are_set_from_outside_are_the_engines(weights: Any, on_gpu: Callable[..., Any]) -> None:
    """NaN in the first tile, and zeros in the second, whose remainders stay."""
    row = ROW._replace(state="int8", weights=weights)
    one, params = begun(row, "cpu")
    other, copies = on_gpu(begun, row, DEVICE)
    for given in gradients(row, 3):
        step(one, params, given)
        on_gpu(step, other, copies, given)
        assert_same(one, other)
        for p in (params[0], copies[0]):
            p.data[1, 1], p.data[17, ::2] = math.nan, 0.0


def test_clipping_and_skipping_are_the_engines(on_gpu: Callable[..., Any]) -> None:
    options = {"max_grad_norm": 0.5, "on_nonfinite": "skip"}
    one, params = begun(ROW, "cpu", **options)
    other, copies = on_gpu(begun, ROW, DEVICE, **options)
    for i, given in enumerate(gradients(ROW, 3)):
        if i == 1:
            given[0][2, 2] = math.nan
        step(one, params, given)
        on_gpu(step, other, copies, given)
        assert one.grad_norm == other.grad_norm or (i == 1 and math.isnan(other.grad_norm or 0.0))
        assert_same(one, other)
    assert one.skipped_steps == other.skipped_steps == 1
    assert one.clipped_steps == other.clipped_steps == 2


def test_a_checkpoint_goes_on_elsewhere(on_gpu: Callable[..., Any]) -> None:
    row = ROW._replace(state="int8", weights=WEIGHTS[2])
    one, params = begun(row, "cpu")
    first, *rest = gradients(row, 3)
    step(one, params, first)
    other, copies = on_gpu(begun, row, DEVICE)
    with torch.no_grad():
        for p, q in zip(params, copies, strict=True):
            q.copy_(p)
    other.load_state_dict(one.state_dict())
    for given in rest:
        step(one, params, given)
        on_gpu(step, other, copies, given)
    assert_same(one, other)
