"""The kernels of watched steps find the statistics that the executor of arrays does."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import DEVICE, WEIGHTS, Row, begun, by_pairs, gradients, kernels, step
from members import CASES

import adamas.torch as at
from adamas.step.watch import Watch
from adamas.step.watching import COLUMNS

sys.path.insert(0, str(Path(__file__).parents[1]))
import decided

pytestmark = [pytest.mark.kernels, pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

ADAMW = next(case for case in CASES if case.name == "adamw")
# Whole tiles, several of a tensor, and rests; an empty tensor, and one of a single element.
SHAPES: tuple[tuple[int, ...], ...] = ((40, 128), (0, 4), (7, 130), ())
ROW = Row(ADAMW, "float32", WEIGHTS[0], SHAPES, {})
EVERY_ROW = by_pairs()
SOME_ROWS = EVERY_ROW[::9]  # with each kind of statistics, and each way to store moments and weights


def assert_alike(one: Watch | None, other: Watch | None, row: Row) -> None:
    """The statistics of one optimizer are those of another, whose rule may round otherwise."""
    assert one is not None
    assert other is not None
    assert list(one.steps) == list(other.steps)
    tolerance = dict.fromkeys(COLUMNS, 1e-6)
    if row.weights[1] != "split" and row.weights[0].itemsize == 2:  # a weight may be rounded to the other side
        tolerance |= {"weight_norm": 1e-5, "update_norm": 1e-5, "update_max": 1e-5, "decay_norm": 1e-5}
    if row.options.keys() & {"weight_decay", "l1"}:  # g and its penalty may add up to almost 0, and so v̂
        for column in ("rms", "under_eps", "behind"):
            del tolerance[column]
    for column, rtol in tolerance.items():
        expected = other[column]
        atol = 1e-6 * np.nan_to_num(other["weight_norm"]) if column.startswith("update") else 1e-30
        np.testing.assert_array_equal(np.isnan(one[column]), np.isnan(expected), column)
        is_near = np.abs(one[column] - expected) <= atol + rtol * np.abs(expected)
        assert (is_near | (one[column] == expected) | np.isnan(expected)).all(), (column, one[column], expected)


def compare(row: Row, on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, given: Sequence[Any]) -> None:
    one, params = on_gpu(begun, row, DEVICE, watch=True)
    for some in given:
        on_gpu(step, one, params, some)
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    other, params = begun(row, "cpu", watch=True)
    for some in given:
        step(other, params, some)
    assert_alike(one.watch, other.watch, row)


@pytest.mark.parametrize("row", SOME_ROWS, ids=str)
def test_statistics_are_those_over_arrays(
    row: Row, on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(row, on_gpu, monkeypatch, list(gradients(row, 2)))


@pytest.mark.nightly
@pytest.mark.parametrize("row", EVERY_ROW, ids=str)
def test_all_statistics_are_those_over_arrays(
    row: Row, on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(row, on_gpu, monkeypatch, list(gradients(row, 3)))


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_what_is_not_finite_stays_so(state: str, on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROW._replace(state=state)
    (given,) = gradients(row, 1)
    given[0][3, 5], given[2][0, 129] = math.nan, math.inf
    compare(row, on_gpu, monkeypatch, [given])


def test_a_step_is_not_measured_before_it_is_made(on_gpu: Callable[..., Any]) -> None:
    optimizer, params = on_gpu(begun, ROW, DEVICE, on_spike="skip, of=exact")
    before = params[0].detach().clone()
    with pytest.raises(ValueError, match=r"parameter 'p0': on_spike with of=exact .* kernels for GPUs"):
        on_gpu(step, optimizer, params, *gradients(ROW, 1))
    assert torch.equal(params[0], before)


def test_a_rate_of_zero_has_no_update(on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the gradient is not finite."""
    row = ROW._replace(weights=WEIGHTS[1], options={"lr": 0.0})
    (given,) = gradients(row, 1)
    given[0][3, 5] = math.nan
    compare(row, on_gpu, monkeypatch, [given])
    optimizer, params = on_gpu(begun, row, DEVICE, watch=True)
    on_gpu(step, optimizer, params, given)
    assert optimizer.watch is not None
    assert list(optimizer.watch["update_norm"][0, [0, 2, 3]]) == [0, 0, 0]


def test_what_is_beyond_a_tensor_counts_nothing(on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """There, without an ε, the update is 0/0."""
    row = ROW._replace(options={"eps": 0.0})
    compare(row, on_gpu, monkeypatch, [[g.sign() + 0.5 for g in given] for given in gradients(row, 2)])


def test_tensors_that_no_kernel_steps_have_their_rows(
    on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that are not contiguous, empty ones, and one without a gradient lie between those of two launches."""

    def watched(device: str) -> Watch | None:
        generator = torch.Generator().manual_seed(1)
        shapes = [(4, 6), (0, 3), (5, 7), (9,), (2, 130)]
        dtypes = [torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float32]
        whole = [torch.randn(s, generator=generator).to(device, dtype) for s, dtype in zip(shapes, dtypes, strict=True)]
        whole[2] = whole[2].mT.contiguous().mT
        params = [torch.nn.Parameter(x) for x in whole]
        optimizer = at.AdamW(params, watch=True)
        for _ in range(2):
            for p in params[:4]:
                p.grad = torch.randn(p.shape, generator=generator).to(p)
            optimizer.step()
        return optimizer.watch

    found = on_gpu(watched, DEVICE)
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    assert_alike(found, watched("cpu"), ROW)
    assert list(np.isnan(found["rms"][-1])) == [False, True, False, False, True]


def test_watching_changes_no_step(on_gpu: Callable[..., Any]) -> None:
    row = ROW._replace(state="int8", weights=WEIGHTS[3])
    watched, plain = (on_gpu(begun, row, DEVICE, watch=watch) for watch in ("every=2", False))
    for given in gradients(row, 2):
        for optimizer, params in (watched, plain):
            on_gpu(step, optimizer, params, given)
    assert list(watched[0].watch.steps) == [1]
    for p, q in zip(watched[1], plain[1], strict=True):
        assert torch.equal(p, q)
        for name, x in watched[0].state[p].items():
            assert torch.equal(x, plain[0].state[q][name])


@pytest.mark.parametrize("watch", ["every=1", "every=3"])
def test_warming_up_compiles_what_steps_launch(
    watch: str, on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, launched = kernels(monkeypatch)
    optimizer, params = on_gpu(begun, ROW, DEVICE, watch=watch)
    on_gpu(at.warm_up, optimizer)
    for given in gradients(ROW, 2):
        on_gpu(step, optimizer, params, given)
    assert set(launched) == set(compiled)
    assert len(launched) == 2


@pytest.mark.parametrize("first", [1, 2])
def test_all_steps_in_a_graph_are_watched(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All replays are alike, so that every third one cannot be chosen."""
    run = decided.Run(monkeypatch, "gpu", DEVICE, capturable=True, watch="every=3")
    for given, of_run in zip(decided.gradients(5), run.stepper(first), strict=False):
        of_run(given)
    assert run.optimizer.watch is not None
    assert list(run.optimizer.watch.steps) == ([1, 2, 3, 4, 5] if first == 1 else [1, 3, 4, 5])


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_steps_that_the_device_decides_about(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are captured in a CUDA graph, and one that is skipped."""
    options: dict[str, Any] = {
        "shapes": decided.CODED,
        "state": state,
        "max_grad_norm": 20.0,
        "on_nonfinite": "skip",
        "watch": True,
    }
    one, other = (
        decided.Run(monkeypatch, *where, capturable=True, **options) for where in (("gpu", DEVICE), ("arrays", "cpu"))
    )
    given = decided.gradients(5, (3,), decided.CODED)
    for some, of_one in zip(given, one.stepper(first=1), strict=False):
        of_one(some)
        other.step(some)
    assert_alike(one.optimizer.watch, other.optimizer.watch, ROW)
    found = one.optimizer.watch
    assert found is not None
    assert list(found.per_step["skipped"]) == [0, 0, 0, 1, 0]
    assert list(np.isnan(found["weight_norm"]).all(axis=1)) == [False, False, False, True, False]
