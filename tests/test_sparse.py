"""Sparse gradients: the rows that are there make the step of a dense gradient, to the bit, and all others stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from members import CASES, Case
from torch import Tensor

import adamas.torch as at

STEPS_ROWS = [case for case in CASES if case.declared.steps_rows]
OTHERS = {case.make.__name__: case.make for case in CASES if not case.declared.steps_rows}
STORED = [
    ("float32", "nearest", torch.float32),
    ("float32", "nearest", torch.float64),
    ("bfloat16", "nearest", torch.float32),
    ("int8", "nearest", torch.float32),
    ("int6", "nearest", torch.float32),
    ("int8", "stochastic", torch.bfloat16),
    ("int6", "split", torch.bfloat16),
    ("float32", "stochastic", torch.float16),
    ("bfloat16", "split", torch.float16),
]
SHAPES = [(300, 64), (150, 300), (20, 3, 128), (4000,)]  # the second is cut inside a row, for threads


@pytest.fixture(autouse=True)
def _invariants() -> Iterator[None]:
    """Without it, PyTorch warns that they are not checked."""
    with torch.sparse.check_sparse_tensor_invariants(False):
        yield


def bits(x: Tensor) -> Tensor:
    return x.detach().reshape(-1).contiguous().view(torch.uint8)


def tensors(optimizer: torch.optim.Optimizer, p: Tensor) -> list[Tensor]:
    """The weight and its state."""
    return [p, *(x for x in optimizer.state[p].values() if isinstance(x, Tensor))]


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """The sparse gradient that has these rows of a dense one."""
    return torch.sparse_coo_tensor(rows[None], values[rows], values.shape)


def started(case: Case, w: Tensor, **options: Any) -> tuple[at.Optimizer, Tensor]:
    p = torch.nn.Parameter(w.clone())
    return case.make([("w", p)], **{"lr": 0.01, "weight_decay": 0.1, **case.options, **options}), p


@pytest.mark.parametrize(("state", "weights", "dtype"), STORED)
@pytest.mark.parametrize("case", STEPS_ROWS, ids=str)
def test_all_rows_make_the_dense_step(case: Case, state: str, weights: str, dtype: torch.dtype) -> None:
    """From the first step on, in any order."""
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        w, options = torch.randn(shape, generator=generator).to(dtype), {"state": state, "weights": weights}
        (dense, p), (sparse, q) = started(case, w, **options), started(case, w, **options)
        for rows in (torch.randperm(shape[0], generator=generator), torch.arange(shape[0])):
            p.grad = torch.randn(shape, generator=generator).to(dtype)
            q.grad = rows_of(p.grad, rows)
            dense.step()
            sparse.step()
            for one, two in zip(tensors(dense, p), tensors(sparse, q), strict=True):
                assert torch.equal(bits(one), bits(two))


@pytest.mark.parametrize(("state", "weights", "dtype"), STORED)
@pytest.mark.parametrize("case", STEPS_ROWS, ids=str)
def test_some_rows_make_the_dense_step(case: Case, state: str, weights: str, dtype: torch.dtype) -> None:
    """From the same state; the others stay as they are, with their states."""
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        w = torch.randn(shape, generator=generator).to(dtype)
        sparse, q = started(case, w, state=state, weights=weights)
        for count in (shape[0], shape[0] // 3, 1):
            rows = torch.randperm(shape[0], generator=generator)[:count]
            others = torch.ones(shape[0], dtype=torch.bool).index_fill(0, rows, False)
            before = [x.clone() for x in tensors(sparse, q)]
            dense, p = copy.deepcopy((sparse, q))
            p.grad = torch.randn(shape, generator=generator).to(dtype)
            q.grad = rows_of(p.grad, rows)
            dense.step()
            sparse.step()
            for one, two in zip(tensors(dense, p), tensors(sparse, q), strict=True):
                assert one.ndim == two.ndim
                assert torch.equal(bits(one[rows]), bits(two[rows])) if one.ndim else torch.equal(one, two)
            for one, two in zip(before, tensors(sparse, q), strict=False):
                assert two.ndim == 0 or torch.equal(bits(one[others]), bits(two[others]))


REFERENCES = [
    (at.Adam, torch.optim.SparseAdam, {"lr": 0.01}, {"eps_mode": "hat"}),
    (at.AdamW, torch.optim.SparseAdam, {"lr": 0.01}, {"eps_mode": "hat", "weight_decay": 0.0}),
    (at.SGD, torch.optim.SGD, {"lr": 0.01}, {}),
    (at.Adagrad, torch.optim.Adagrad, {"lr": 0.01, "lr_decay": 0.1}, {}),
]


@pytest.mark.parametrize(("make", "reference", "options", "own"), REFERENCES)
@pytest.mark.parametrize("layer", ["Embedding", "EmbeddingBag"])
def test_the_steps_are_those_of_pytorch(make: Any, reference: Any, options: Any, own: Any, layer: str) -> None:
    torch.manual_seed(0)
    first = getattr(torch.nn, layer)(60, 20, sparse=True)
    second = copy.deepcopy(first)
    ours, theirs = make(first.parameters(), **options, **own), reference(second.parameters(), **options)
    for _ in range(20):
        index = torch.randint(0, 60, (10, 3))
        for model, optimizer in ((first, ours), (second, theirs)):
            optimizer.zero_grad()
            (model(index) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=1e-6)


def test_trap_T57_rows_that_are_there_twice_are_summed_before_they_are_squared() -> None:
    dense, sparse = (torch.nn.Parameter(torch.ones(4, 2)) for _ in range(2))
    optimizers = [at.Adagrad([p], lr=0.1) for p in (dense, sparse)]
    sparse.grad = torch.sparse_coo_tensor(torch.tensor([[2, 0, 2, 2]]), torch.arange(1.0, 9).reshape(4, 2), (4, 2))
    dense.grad = torch.tensor([[3.0, 4.0], [0, 0], [13, 16], [0, 0]])
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(dense, sparse)
    assert torch.equal(optimizers[0].state[dense]["sum"], optimizers[1].state[sparse]["sum"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_sum_of_rows_is_rounded_once(dtype: torch.dtype) -> None:
    """Of 300 times 1/256, a sum in bfloat16 would stand still at 1."""
    p = torch.nn.Parameter(torch.zeros(2, 700, dtype=dtype))
    p.grad = torch.sparse_coo_tensor(torch.ones(1, 300, dtype=torch.long), torch.full((300, 700), 2**-8, dtype=dtype))
    at.SGD([p], lr=1.0).step()
    assert torch.equal(p[1], torch.full((700,), -300 / 256, dtype=dtype))
    assert not p[0].any()


@pytest.mark.parametrize("state", ["float32", "int8", "int6"])
@pytest.mark.parametrize("weights", ["stochastic", "split"])
def test_the_bits_do_not_depend_on_the_number_of_threads(state: str, weights: str) -> None:
    torch.manual_seed(0)
    rows, values = torch.randint(0, 3000, (2500,)), torch.randn(2500, 40, dtype=torch.bfloat16)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            p = torch.nn.Parameter(torch.ones(3000, 40, dtype=torch.bfloat16))
            optimizer = at.AdamW([p], lr=0.1, state=state, weights=weights)
            for _ in range(3):
                p.grad = torch.sparse_coo_tensor(rows[None], values, p.shape)
                optimizer.step()
            found.append(tensors(optimizer, p))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(bits(one), bits(two)) for one, two in zip(found[0], other, strict=True))


def test_a_gradient_without_rows_is_a_step_without_change() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = at.AdamW([p])
    p.grad = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 2), (4, 2))
    optimizer.step()
    assert torch.equal(p, torch.ones(4, 2))
    assert optimizer.state[p]["step"] == 1


def test_a_parameter_may_have_sparse_and_dense_gradients_in_turn() -> None:
    p, q = (torch.nn.Parameter(torch.ones(4, 2)) for _ in range(2))
    optimizers = [at.Adam([one]) for one in (p, q)]
    for is_sparse in (True, False, True, True, False):
        q.grad = torch.arange(8.0).reshape(4, 2)
        p.grad = rows_of(q.grad, torch.arange(4)) if is_sparse else q.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(p, q)


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 3)])
def test_a_weight_may_lie_in_any_order(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    w, rows = torch.randn(shape), torch.tensor([3, 0])
    p, q = torch.nn.Parameter(w.clone()), torch.nn.Parameter(w.mT.contiguous().mT)
    optimizers = [at.Adam([one], state="bfloat16") for one in (p, q)]
    for one, optimizer in zip((p, q), optimizers, strict=True):
        for _ in range(2):
            one.grad = rows_of(w.sin(), rows)
            optimizer.step()
    assert torch.equal(p, q)


def test_a_gradient_may_be_complex() -> None:
    p, q = (torch.nn.Parameter(torch.ones(4, 2, dtype=torch.complex64)) for _ in range(2))
    q.grad = torch.complex(torch.arange(8.0), -torch.arange(8.0)).reshape(4, 2)
    p.grad = rows_of(q.grad, torch.tensor([2, 1])).conj()
    q.grad = q.grad.conj()
    at.Adam([p]).step()
    at.Adam([q]).step()
    assert torch.equal(p[1:3], q[1:3])
    assert torch.equal(p[0], torch.ones_like(p[0]))


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_the_rows_of_a_part_are_stepped_as_those_of_the_whole(state: str) -> None:
    torch.manual_seed(0)
    w, g = torch.randn(10, 128, dtype=torch.bfloat16), torch.randn(10, 128, dtype=torch.bfloat16)
    whole, part = torch.nn.Parameter(w.clone()), torch.nn.Parameter(w[4:].clone())
    options: dict[str, Any] = {"state": state, "weights": "stochastic", "lr": 0.1}
    one, two = at.AdamW([whole], **options), at.AdamW([{"params": [part], "rows": [(4, 10)]}], **options)
    for _ in range(2):
        whole.grad, part.grad = rows_of(g, torch.tensor([8, 5, 2])), rows_of(g[4:], torch.tensor([4, 1]))
        one.step()
        two.step()
    assert torch.equal(whole[4:], part)


# ---- with the other features of a step


def summed(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad.to_dense()


def test_the_norm_is_that_of_the_sums() -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.ones(50, 30))
    p.grad = torch.sparse_coo_tensor(torch.randint(0, 50, (1, 40)), torch.randn(40, 30), p.shape)
    norm = torch.linalg.vector_norm(summed(p).double())
    q = torch.nn.Parameter(torch.ones(50, 30))
    q.grad = summed(p) / (norm + 1e-6)
    one, two = at.SGD([p], lr=0.1, max_grad_norm=1.0), at.SGD([q], lr=0.1)
    one.step()
    two.step()
    assert one.grad_norm == pytest.approx(norm.item(), rel=1e-6)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-7)


def test_a_sum_that_is_not_finite_is_found() -> None:
    """inf - inf and NaN."""
    for values in ([torch.inf, 1.0], [torch.inf, -torch.inf], [3e38, 3e38]):
        p = torch.nn.Parameter(torch.ones(3, 1))
        p.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor(values)[:, None], (3, 1))
        optimizer = at.Adam([("w", p)], on_nonfinite="raise")
        with pytest.raises(FloatingPointError, match="'w'"):
            optimizer.step()
        assert torch.equal(p, torch.ones(3, 1))
        skipping = at.Adam([("w", p)], on_nonfinite="skip")
        skipping.step()
        assert skipping.skipped_steps == 1


def test_a_watched_step_is_of_the_rows_that_are_there() -> None:
    p = torch.nn.Parameter(torch.ones(50, 30))
    optimizer = at.SGD([("w", p)], lr=0.5, watch=True)
    p.grad = rows_of(torch.ones(50, 30), torch.tensor([7, 3]))
    optimizer.step()
    watch = optimizer.watch
    assert watch is not None
    assert watch["grad_norm"][-1] == pytest.approx(60**0.5)
    assert watch["weight_norm"][-1] == pytest.approx(60**0.5)
    assert watch["update_ratio"][-1] == pytest.approx(0.5)


def test_a_watched_step_of_no_rows_has_a_gradient_of_0() -> None:
    """And not one that is not finite, which ``explain`` would report."""
    p = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = at.Adam([("w", p)], watch=True)
    for rows in ([1], [], [2]):
        p.grad = rows_of(torch.ones(4, 2), torch.tensor(rows, dtype=torch.long))
        optimizer.step()
    watch = optimizer.watch
    assert watch is not None
    assert watch.per_step["grad_norm"] == pytest.approx([2**0.5, 0, 2**0.5])
    assert not optimizer.explain()


@pytest.mark.parametrize("release", [False, True])
def test_a_released_optimizer_steps_rows(release: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Embedding(9, 3, sparse=True)
    optimizer = at.Adam(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    if release:
        at.release(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.tensor([1, 2, 1])).sum().backward()
        optimizer.step()
    moved = (layer.weight != before).any(1)
    assert moved.tolist() == [i in (1, 2) for i in range(9)]
    torch.testing.assert_close(layer.weight[1], before[1] - 0.2)


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_a_loss_scaler_scales_rows(options: dict[str, Any]) -> None:
    layer = torch.nn.Embedding(9, 3, sparse=True)
    torch.nn.init.zeros_(layer.weight)
    optimizer = at.SGD(layer.parameters(), lr=0.5, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(layer(torch.tensor([1, 2, 1])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight, torch.tensor([0.0, -1, -0.5] + 6 * [0.0])[:, None].expand(9, 3))


def test_a_rate_of_zero_creates_the_state_alone() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = at.Adam([p], lr=0.0)
    p.grad = rows_of(torch.zeros(4, 2), torch.tensor([1]))
    optimizer.step()
    assert optimizer.state[p]["step"] == 0
    p.grad = rows_of(torch.ones(4, 2), torch.tensor([1]))
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_memory_counts_rows_and_their_indices() -> None:
    p = torch.nn.Parameter(torch.ones(1000, 2))
    p.grad = rows_of(torch.ones(1000, 2), torch.tensor([1, 5, 6]))
    optimizer = at.Adam([p])
    assert optimizer.memory().bytes["gradients"] == 3 * (8 + 8)


def test_a_checkpoint_of_sparse_adam_is_continued() -> None:
    torch.manual_seed(0)
    first = torch.nn.Embedding(50, 8, sparse=True)
    second = copy.deepcopy(first)
    theirs, ours = torch.optim.SparseAdam(first.parameters(), lr=0.01), at.Adam(second.parameters(), eps_mode="hat")
    for step in range(10):
        index = torch.randint(0, 50, (30,))
        for model, optimizer in ((first, theirs), (second, ours)):
            optimizer.zero_grad()
            (model(index) ** 2).sum().backward()
            if step > 4 or optimizer is theirs:
                optimizer.step()
        if step == 4:
            second.load_state_dict(first.state_dict())
            ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=1e-6)


# ---- what is refused


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_members_refuse_by_name(make: Any) -> None:
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(4, 2))
    optimizer = make([("p", p), ("q", q)])
    p.grad, q.grad = torch.ones(2), rows_of(torch.ones(4, 2), torch.tensor([1]))
    message = (
        rf"^{make.__name__} does not support sparse gradients, and that of parameter 'q'.*\(Adagrad, Adam, AdamW, SGD\)"
    )
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))


def test_elements_without_rows_are_refused_by_name() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    p.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(
        RuntimeError, match=r"^Adam steps the rows of .* parameter 'w' is torch\.sparse_coo with sparse_dim 2"
    ):
        at.Adam([("w", p)]).step()


def test_devices_without_the_engine_refuse_rows_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    p = torch.nn.Parameter(torch.ones(4, 2))
    p.grad = rows_of(torch.ones(4, 2), torch.tensor([1]))
    with pytest.raises(RuntimeError, match=r"^Adam steps the rows of sparse gradients .* on the CPU.* parameter 'w'"):
        at.Adam([("w", p)]).step()


@pytest.mark.parametrize("row", [-1, 4, 2**40])
def test_a_row_that_does_not_exist_is_refused_by_name(row: int) -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    p.grad = rows_of(torch.ones(4, 2), torch.tensor([1]))
    p.grad._indices().fill_(row)
    with pytest.raises(
        ValueError, match=f"parameter 'w': its gradient has the row {row}, and the parameter has 4 rows"
    ):
        at.Adam([("w", p)]).step()


@pytest.mark.parametrize("shape", [(3, 2), (6, 2), (4, 3), (4, 2, 1)])
def test_another_shape_is_refused_by_name(shape: tuple[int, ...]) -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    p.grad = rows_of(torch.ones(4, 2), torch.tensor([1]))
    p.data = torch.ones(shape)
    with pytest.raises(ValueError, match="parameter 'w': its gradient has another shape than the parameter"):
        at.Adam([("w", p)]).step()


def test_another_problem_of_the_group_is_named() -> None:
    """And is not taken for one of the sparse gradient."""
    p, q = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = at.Adam([("p", p), ("q", q)])
    p.grad, q.grad = rows_of(torch.ones(4, 2), torch.tensor([1])), torch.ones(2)
    optimizer.step()
    del optimizer.state[q]["exp_avg"]
    optimizer.state[q]["exp_avg"] = torch.ones(3)
    with pytest.raises(ValueError, match="parameter 'q': its state 'exp_avg' has another shape"):
        optimizer.step()
