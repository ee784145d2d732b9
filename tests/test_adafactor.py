"""Adafactor: parity with other libraries, the state of rows and columns, and what every member can do."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from test_muon import distance, same
from torch import Tensor, nn

import adamas.numpy as an
import adamas.torch as at
from adamas.schedules import cosine
from adamas.step.factored_executor import pieces_of
from adamas.torch import storage

SHAPES = [(40, 30), (7,), (), (3, 5, 6), (4, 2, 3, 3), (1, 9), (9, 1), (200, 60)]


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]


def give_gradients(params: Sequence[nn.Parameter], seed: int, scale: float = 1.0) -> None:
    random = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=random)).bfloat16().to(p.dtype)


def train(optimizer: torch.optim.Optimizer, steps: int = 20, first: int = 0, scale: float = 1.0) -> list[Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i in range(first, first + steps):
        give_gradients(params, 100 + i, scale)
        optimizer.step()
    return [p.detach() for p in params]


# ---- parity


@pytest.mark.parametrize("most", [64, 1 << 21])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-9])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"maximize": True}, {"d": 2.0, "eps": (1e-3, 1e-2)}, {"beta2_decay": -0.5}],
)
def test_steps_are_those_of_torch(
    options: dict[str, Any], scale: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_of, "__defaults__", (most,))
    ours, theirs = at.Adafactor(parameters(), **options), torch.optim.Adafactor(parameters(), **options)
    assert distance(train(ours, scale=scale), train(theirs, scale=scale)) < 1e-6
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        for name, value in theirs.state[q].items():
            assert torch.allclose(ours.state[p][name].to(value.dtype), value, rtol=1e-5)


def test_in_float64_steps_are_those_of_torch() -> None:
    def params() -> list[nn.Parameter]:
        return [nn.Parameter(p.detach().double()) for p in parameters()]

    found, expected = train(at.Adafactor(params())), train(torch.optim.Adafactor(params()))
    assert distance(found, expected) < 1e-13


def test_steps_over_arrays_are_those_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(at.Adafactor(parameters(), weight_decay=0.1))
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    assert distance(train(at.Adafactor(parameters(), weight_decay=0.1)), expected) < 1e-6


def test_matrices_are_stepped_as_optax_does() -> None:
    """Its ε is added to the squares of the gradient, which are far larger here."""
    optax = pytest.importorskip("optax")
    shapes = [(40, 30), (1, 9), (7,)]
    params = parameters(shapes)
    theirs: Any = [p.detach().numpy().copy() for p in params]
    tx = optax.adafactor(0.02, min_dim_size_to_factor=1, weight_decay_rate=None)
    state = tx.init(theirs)
    ours = at.Adafactor(params, lr=0.02)
    for i in range(20):
        give_gradients(params, i)
        updates, state = tx.update([p.grad.numpy() for p in params if p.grad is not None], state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        ours.step()
    assert distance([p.detach() for p in params], [torch.from_numpy(np.array(x)) for x in theirs]) < 2e-6


@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
def test_matrices_are_stepped_as_keras_does() -> None:
    """In a process of its own, where Keras is over PyTorch. Its ε is added to the squares of the gradient, as in optax."""
    code = """
        import keras, numpy as np, torch
        import adamas.torch as at

        random = np.random.default_rng(0)
        start = [random.standard_normal(shape).astype(np.float32) for shape in [(40, 30), (9, 1), (7,)]]
        params = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start]
        ours = at.Adafactor(params, lr=0.02)
        theirs = keras.optimizers.Adafactor(0.02)
        variables = [keras.Variable(x) for x in start]
        theirs.build(variables)
        for _ in range(20):
            gradients = [random.standard_normal(x.shape).astype(np.float32) for x in start]
            for p, g in zip(params, gradients):
                p.grad = torch.from_numpy(g)
            ours.step()
            theirs.apply([torch.from_numpy(g) for g in gradients])
        for p, v, x in zip(params, variables, start):
            moved = np.abs(p.detach().numpy() - x).max()
            assert np.abs(p.detach().numpy() - keras.ops.convert_to_numpy(v)).max() < 1e-5 * moved
    """
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_over_numpy_the_steps_are_the_same(dtype: Any) -> None:
    params = [nn.Parameter(p.detach().to(getattr(torch, np.dtype(dtype).name))) for p in parameters()]
    arrays = [p.detach().numpy().copy() for p in params]
    ours, theirs = at.Adafactor(params), an.Adafactor(arrays)
    for i in range(5):
        give_gradients(params, i)
        theirs.step([p.grad.numpy() for p in params if p.grad is not None])
        ours.step()
    assert distance([torch.from_numpy(x) for x in arrays], [p.detach() for p in params]) < 1e-6
    again = an.Adafactor([x.copy() for x in arrays])
    again.load_state_dict(theirs.state_dict())
    for optimizer in (theirs, again):
        optimizer.step([p.grad.numpy() for p in params if p.grad is not None])
    for x, y in zip(theirs.param_groups[0]["params"], again.param_groups[0]["params"], strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("large", [1e19, 1e20, 1e30, 1e34])
@pytest.mark.parametrize("executor", ["engine", "arrays"])
def test_a_large_gradient_moves_no_weight_far(executor: str, large: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its square overflows; ``torch.optim`` makes all weights NaN."""
    monkeypatch.setenv("ADAMAS_EXECUTOR", executor)
    params = parameters([(4, 6), (7,)])
    optimizer = at.Adafactor(params, lr=0.02)
    for step in range(5):
        before = [p.detach().clone() for p in params]
        give_gradients(params, step)
        if step == 2:
            for p in params:
                p.grad.view(-1)[3] = large  # type: ignore[union-attr]
        optimizer.step()
        for p, was in zip(params, before, strict=True):
            size = max(1e-3, float(was.square().mean().sqrt()))
            assert float((p.detach() - was).norm()) <= 0.0201 * size * p.numel() ** 0.5


def test_beyond_that_the_step_is_0_with_a_word() -> None:
    params = parameters([(4, 6)])
    before = params[0].detach().clone()
    optimizer = at.Adafactor(params)
    give_gradients(params, 0)
    params[0].grad[0, 3] = 3e38  # type: ignore[index]
    with pytest.warns(UserWarning, match="the sum 'updates' over its tensor, which Adafactor needs, overflows"):
        optimizer.step()
    assert torch.equal(params[0], before)


def test_a_nan_is_a_nan_in_the_whole_tensor() -> None:
    params = parameters([(4, 6), (7,)])
    optimizer = at.Adafactor(params)
    give_gradients(params, 0)
    for p in params:
        p.grad.view(-1)[3] = torch.nan  # type: ignore[union-attr]
    optimizer.step()
    assert all(bool(p.isnan().all()) for p in params)


def test_arrays_without_elements_have_no_means() -> None:
    x = np.zeros((0, 5), np.float32)
    an.Adafactor([x]).step([x.copy()])


# ---- the state


def test_state_dicts_pass_in_both_directions() -> None:
    ours, theirs = at.Adafactor(parameters()), torch.optim.Adafactor(parameters())
    train(ours, 5)
    train(theirs, 5)
    mine, other = at.Adafactor(parameters()), torch.optim.Adafactor(parameters())
    for loading, saved in ((mine, theirs), (other, ours)):
        for p, q in zip(loading.param_groups[0]["params"], saved.param_groups[0]["params"], strict=True):
            p.data.copy_(q)
        loading.load_state_dict(copy.deepcopy(saved.state_dict()))
    expected = train(theirs, 5, first=5)
    assert distance(train(mine, 5, first=5), expected) < 1e-6
    assert distance(train(other, 5, first=5), expected) < 1e-6


def test_a_state_that_does_not_fit_is_refused() -> None:
    optimizer = at.Adafactor(parameters([(4, 6)]))
    train(optimizer, 1)
    for change, words in (
        (lambda state: state.pop("col_var"), r"parameter 0 .* has \['row_var', 'step'\] there"),
        (
            lambda state: state.update(col_var=torch.ones(4, 6)),
            r"'col_var' of parameter 0 .* is float32 of shape \(4, 6\)",
        ),
        (lambda state: state.update(row_var=torch.full((4, 1), torch.nan)), "'row_var' has a NaN"),
    ):
        saved = copy.deepcopy(optimizer.state_dict())
        change(saved["state"][0])
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(saved)
    optimizer.state[optimizer.param_groups[0]["params"][0]]["row_var"] = torch.ones(6, 1)
    with pytest.raises(ValueError, match="its state 'row_var' has another shape"):
        train(optimizer, 1)


def test_the_memory_is_that_of_rows_and_columns() -> None:
    shapes = [(64, 128), (3, 5, 6), (7,)]
    planned, optimizer = at.plan_memory(parameters(shapes), "Adafactor"), at.Adafactor(parameters(shapes))
    train(optimizer, 1)
    assert planned.bytes == optimizer.memory().bytes
    assert optimizer.memory().bytes["row_var"] == 4 * (64 + 3 * 5)
    assert optimizer.memory().bytes["col_var"] == 4 * (128 + 3 * 6)
    assert optimizer.memory().bytes["variance"] == 4 * 7


def test_a_step_allocates_pieces() -> None:
    """NumPy's allocations are known; a matrix has 16 times the elements of a piece."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(pieces_of, "__defaults__", (1 << 14,))
    weight = np.ones((512, 512), np.float32)
    gradient = np.ones_like(weight)
    optimizer = an.Adafactor([weight])
    optimizer.step([gradient])
    tracemalloc.start()
    optimizer.step([gradient])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    monkeypatch.undo()
    assert peak < weight.nbytes / 2


@pytest.mark.parametrize("shape", [(3, 4), (5, 3, 4), (2, 5, 3, 4), (0, 4), (4, 0), (1, 1)])
@pytest.mark.parametrize("most", [1, 7, 12, 1000])
def test_pieces_are_in_order_and_whole(shape: tuple[int, ...], most: int) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    pieces = [x[piece] for piece in pieces_of(shape, most)]
    assert [i for piece in pieces for i in piece.reshape(-1)] == list(x.reshape(-1))
    assert all(piece.shape[-1] == shape[-1] and piece.size <= max(most, shape[-1]) for piece in pieces)


# ---- what every member can do


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
def test_bfloat16_weights_do_not_depend_on_pieces(weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def params() -> list[nn.Parameter]:
        return [nn.Parameter(p.detach().bfloat16()) for p in parameters()]

    begin, exact = [p.detach().float() for p in params()], [nn.Parameter(p.detach().float()) for p in params()]
    optimizer = at.Adafactor(params(), weights=weights)
    found, expected = train(optimizer, 1), train(at.Adafactor(exact), 1)
    for p, x, y in zip(begin, found, expected, strict=True):
        assert (x.float() - y).norm() < (y - p).norm()
    if weights == "split":
        states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
        joined = [storage.joined(x, one["weight_low_bits"]) for x, one in zip(found, states, strict=True)]
        assert distance(joined, expected) < 1e-6
    monkeypatch.setattr(pieces_of, "__defaults__", (64,))
    in_pieces = train(at.Adafactor(params(), weights=weights), 1)
    for x, y in zip(in_pieces, found, strict=True):  # sums in another order move few weights to the next number
        assert (x != y).float().mean() < 0.02


def test_a_rate_of_0_changes_no_weight() -> None:
    begin = [p.detach().clone() for p in parameters()]
    assert same(train(at.Adafactor(parameters(), lr=0.0, weight_decay=0.1)), begin)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 0, 2)])
def test_matrices_without_elements(shape: tuple[int, ...]) -> None:
    optimizer = at.Adafactor(parameters([shape, (3, 3), shape]), max_grad_norm=1.0)
    _, found, _ = train(optimizer, 2)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, parameters([shape, (3, 3)])[1])


def test_resumed_steps_have_the_same_bits() -> None:
    options: dict[str, Any] = {"lr": 0.01 * cosine(30), "weight_decay": 0.1, "max_grad_norm": "auto", "watch": True}
    whole, first, second = (at.Adafactor(parameters(), **options) for _ in range(3))
    expected = train(whole, 12)
    train(first, 5)
    for p, q in zip(second.param_groups[0]["params"], first.param_groups[0]["params"], strict=True):
        p.data.copy_(q)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert same(train(second, 7, first=5), expected)
    assert second.param_groups[0]["lr"] == whole.param_groups[0]["lr"] < 0.01
    assert same(train(copy.deepcopy(second), 2, first=12), train(whole, 2, first=12))


def test_clipping_and_cautious_decay_are_those_of_single_steps() -> None:
    clipped = at.Adafactor(parameters(), max_grad_norm=1.0, eps=(1e-6, 1e-3))
    plain = at.Adafactor(parameters(), eps=(1e-6, 1e-3))
    give_gradients(clipped.param_groups[0]["params"], 0)
    give_gradients(plain.param_groups[0]["params"], 0)
    norm = float(torch.nn.utils.clip_grad_norm_(plain.param_groups[0]["params"], 1.0))
    clipped.step()
    plain.step()
    assert clipped.grad_norm == pytest.approx(norm, rel=1e-5)
    assert (
        distance(
            [p.detach() for p in clipped.param_groups[0]["params"]],
            [p.detach() for p in plain.param_groups[0]["params"]],
        )
        < 1e-6
    )
    kept, decayed = (at.Adafactor(parameters(), weight_decay=wd, decay="cautious") for wd in (0.0, 0.5))
    begin = parameters()
    for p, x, y in zip(begin, train(kept, 1), train(decayed, 1), strict=True):
        shrinks = (p - x) * p >= 0
        assert torch.allclose(torch.where(shrinks, x - 0.01 * 0.5 * p, x), y, atol=1e-6)


def test_steps_with_an_infinity_are_skipped_or_refused() -> None:
    for choice in ("skip", "raise"):
        optimizer = at.Adafactor(parameters(), on_nonfinite=choice)
        train(optimizer, 2)
        params = optimizer.param_groups[0]["params"]
        before = [p.detach().clone() for p in params] + [optimizer.state[params[0]]["row_var"].clone()]
        params[0].grad[0, 0] = torch.inf
        if choice == "skip":
            optimizer.step()
            assert optimizer.skipped_steps == 1
        else:
            with pytest.raises(FloatingPointError, match=r"parameter 0 \(of shape \(40, 30\)\)"):
                optimizer.step()
        assert same([*params, optimizer.state[params[0]]["row_var"]], before)


@pytest.mark.parametrize("executor", ["engine", "arrays"])
def test_steps_are_watched(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", executor)
    monkeypatch.setattr(pieces_of, "__defaults__", (64,))
    plain = at.Adafactor(parameters())
    watched = at.Adafactor(parameters(), watch=True, on_spike="clip,of=exact")
    assert same(train(plain, 3), train(watched, 3))
    assert watched.watch is not None
    before = watched.param_groups[0]["params"][0].detach().clone()
    train(watched, 1, first=3)
    moved = (watched.param_groups[0]["params"][0].detach() - before).norm()
    assert float(watched.watch["update_norm"][-1][0]) == pytest.approx(float(moved), rel=1e-4)


def test_released_steps_are_the_same() -> None:
    def ends(prepare: Callable[[at.Adafactor], Any]) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3))
        optimizer = at.Adafactor(model.parameters())
        handle = prepare(optimizer)
        for i in range(3):
            model(torch.ones(2, 8) * (i + 1)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        del handle
        return [p.detach() for p in model.parameters()]

    assert distance(ends(at.release), ends(lambda optimizer: None)) < 1e-6


def test_what_cannot_be_done_is_refused() -> None:
    for options, words in (
        ({"state": "int8"}, r"state='int8' is not for Adafactor.*use \"float32\""),
        ({"cautious": True}, "cautious=True is not for Adafactor"),
        ({"beta2_decay": 0.5}, "beta2_decay"),
        ({"d": 0.5}, "d value"),
        ({"eps": (-1.0, 1e-3)}, r"eps\[0\]"),
        ({"eps": (None, None)}, r"eps\[1\]"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            at.Adafactor(parameters(), **options)
    with pytest.raises(ValueError, match=r"parameter 0 .* is complex, and Adafactor is for real numbers"):
        train(at.Adafactor([nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))]), 1)
    with pytest.raises(ValueError, match=r"parameter 0 .* is a part of a matrix"):
        train(at.Adafactor([{"params": parameters([(4, 6)]), "rows": [(0, 8)]}]), 1)
    optimizer = at.Adafactor([nn.Parameter(torch.ones(4, 3))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(4, 3).to_sparse(1)
    with pytest.raises(RuntimeError, match="Adafactor does not support sparse gradients"):
        optimizer.step()
