"""Muon: Newton–Schulz iterations, one optimizer for matrices and the rest, and what every member can do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import adamas.numpy as an
import adamas.torch as at
from adamas.rule import newton_schulz
from adamas.schedules import cosine
from adamas.step import matrix_executor
from adamas.step.namespaces.torch import Namespace

COEFFICIENTS = (3.4445, -4.775, 2.0315)
SHAPES = [(8, 16), (16, 8), (32, 32), (1, 5), (32, 32), (5, 1), (40, 130), (130, 40)]


def iterated(x: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    """The iterations of ``torch.optim.Muon``, in the dtype of the matrix instead of bfloat16."""
    a, b, c = coefficients
    if x.shape[0] > x.shape[1]:
        return iterated(x.T, coefficients, steps, eps).T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def matrices(shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]


def give_gradients(params: Sequence[nn.Parameter], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=random).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, steps: int = 20, first: int = 0) -> list[Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i in range(first, first + steps):
        give_gradients(params, 100 + i)
        optimizer.step()
    return [p.detach() for p in params]


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of two tensors, relative to the largest element of the expected one."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True))


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, found, expected))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(11, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16, bias=False), nn.Linear(16, 11)
    )


# ---- Newton–Schulz


@pytest.mark.parametrize("shape", [(96, 96), (96, 400), (400, 96), (3, 96, 200)])
@pytest.mark.parametrize("condition", [1, 1e2, 1e7])
def test_iterations_have_the_errors_of_those_written_out(shape: tuple[int, ...], condition: float) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    x = left * torch.logspace(0, -np.log10(condition), values.shape[-1], dtype=torch.float64) @ right
    given = x.float()
    found = newton_schulz.orthogonalized(Namespace(), given, 5, COEFFICIENTS, 1e-7, "float32")
    flat, results = given.reshape(-1, *shape[-2:]), found.reshape(-1, *shape[-2:])
    for one, result in zip(flat, results, strict=True):
        exact = iterated(one.double(), COEFFICIENTS, 5, 1e-7)
        plain = iterated(one, COEFFICIENTS, 5, 1e-7)
        assert (result - exact).norm() < 2.5 * (plain - exact).norm() + 1e-7 * exact.norm()


@pytest.mark.parametrize("shape", [(96, 96), (96, 288)])
@pytest.mark.parametrize("condition", [1, 1e2, 1e4])
def test_the_errors_of_products_in_bfloat16(shape: tuple[int, int], condition: float) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    x = left * (values * torch.logspace(0, -np.log10(condition), len(values), dtype=torch.float64)) @ right
    exact = iterated(x, COEFFICIENTS, 5, 1e-7)
    found = newton_schulz.orthogonalized(Namespace(), x.float(), 5, COEFFICIENTS, 1e-7, "bfloat16")
    assert (found - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_any_number_of_iterations(steps: int) -> None:
    for x in matrices([(20, 100), (20, 20)]):
        exact = iterated(x.double(), COEFFICIENTS, steps, 1e-7)
        found = newton_schulz.orthogonalized(Namespace(), x.double(), steps, COEFFICIENTS, 1e-7, "float64")
        assert (found - exact).norm() < 1e-12 * exact.norm()


def test_symmetric_products_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton_schulz, "_LEAST_BLOCKS", 4)
    x = torch.randn(2, 9, 30, dtype=torch.float64)
    found = newton_schulz.symmetric_product(Namespace(), x, x.mT)
    assert torch.allclose(found, x @ x.mT, rtol=1e-13, atol=1e-13)
    assert torch.equal(found, found.mT) or torch.allclose(found, found.mT, rtol=1e-13, atol=1e-13)


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not newton_schulz.orthogonalized(Namespace(), torch.zeros(4, 9), 5, COEFFICIENTS, 1e-7, "float32").any()


# ---- the steps of torch.optim


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_as_in_torch(monkeypatch: pytest.MonkeyPatch, nesterov: bool, adjust: Any) -> None:
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", iterated)
    options: dict[str, Any] = {"lr": 0.02, "nesterov": nesterov, "adjust_lr_fn": adjust, "momentum": 0.9}
    ours, theirs = at.Muon(matrices(), **options), torch.optim.Muon(matrices(), **options)
    assert distance(train(ours), train(theirs)) < 1e-6


def test_as_in_torch_with_products_in_bfloat16() -> None:
    """Theirs round the norm to bfloat16, and sums to bfloat16 at other places."""
    ours, theirs = at.Muon(matrices(), lr=0.02, ns_dtype="bfloat16"), torch.optim.Muon(matrices(), lr=0.02)
    begin, found, expected = matrices(), train(ours), train(theirs)
    for p, x, y in zip(begin, found, expected, strict=True):
        assert (x - y).norm() < 0.05 * (y - p).norm()


def test_the_default_dtype_of_products_is_float32_on_the_cpu() -> None:
    usual, float32 = train(at.Muon(matrices())), train(at.Muon(matrices(), ns_dtype="float32"))
    bfloat16 = train(at.Muon(matrices(), ns_dtype="bfloat16"))
    assert same(usual, float32)
    assert not same(usual, bfloat16)


def test_other_parameters_are_stepped_as_by_adamw() -> None:
    shapes = [(7,), (3, 4), (2, 3, 4)]
    ours = at.Muon([{"params": matrices(shapes), "use_muon": False, "eps": 1e-8}], lr=0.01)
    theirs = torch.optim.AdamW(matrices(shapes), lr=0.01, weight_decay=0.1)
    assert distance(train(ours), train(theirs)) < 1e-6


def test_state_dicts_pass_to_and_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", iterated)
    theirs = torch.optim.Muon(matrices(), lr=0.02)
    train(theirs, 5)
    ours = at.Muon([p.detach().clone().requires_grad_() for p in theirs.param_groups[0]["params"]])
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    again = torch.optim.Muon([p.detach().clone().requires_grad_() for p in theirs.param_groups[0]["params"]])
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    expected = train(theirs, 5, first=5)
    assert distance(train(ours, 5, first=5), expected) < 1e-6
    assert distance(train(again, 5, first=5), expected) < 1e-6


def test_a_state_of_adamw_is_no_state_of_a_matrix() -> None:
    """Its moments would take memory for good, and the momentum would begin anew without a word."""
    theirs = torch.optim.AdamW(matrices())
    train(theirs, 1)
    with pytest.raises(ValueError, match=r"not one of Muon: parameter 0 .* needs \['step', 'momentum_buffer'\]"):
        at.Muon(matrices()).load_state_dict(theirs.state_dict())
    at.Muon(matrices(), use_muon=False).load_state_dict(theirs.state_dict())


# ---- groups


def test_groups_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = at.Muon(network(), lr=1e-3)
    names = [group["param_names"] for group in optimizer.param_groups]
    assert names == [["1.weight", "3.weight"], ["4.weight"], ["0.weight", "1.bias", "2.weight", "2.bias", "4.bias"]]
    assert [group["use_muon"] for group in optimizer.param_groups] == [True, False, False]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert {group["adjust_lr_fn"] for group in optimizer.param_groups} == {"match_rms_adamw"}
    assert [group["eps"] for group in optimizer.param_groups] == [1e-7, 1e-8, 1e-8]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Muon with adjust_lr_fn='match_rms_adamw':"
    assert printed[1] == "    Muon, weight_decay=0.1: 2 tensors, 384 parameters"
    assert len(printed) == 4


def test_groups_are_printed_only_if_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"Invalid momentum value: 2\.0"):
        at.Muon(network(), momentum=2.0)
    with pytest.raises(TypeError, match="has no option statte"):
        at.Muon(network(), statte="int8")  # type: ignore[call-arg]
    assert capsys.readouterr().out == ""


def test_a_weight_that_the_head_shares_with_an_embedding_is_no_matrix() -> None:
    model = network()
    model[4] = nn.Linear(8, 11)
    model[4].weight = model[0].weight
    assert [name for name, _ in at.matrix_groups(model)[0]["params"]] == ["1.weight", "3.weight"]


def test_heads_that_are_not_last_are_known_by_name() -> None:
    model = nn.ModuleDict({"lm_head": nn.Linear(4, 9), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    groups = at.matrix_groups(model, adamw=["b"])
    assert [name for name, _ in groups[0]["params"]] == ["a.weight"]
    with pytest.raises(ValueError, match=r"adamw: .* called, \['c'\]"):
        at.matrix_groups(model, adamw=["c"])


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter 'b' has the shape \(3,\).*use_muon=False"):
        at.Muon([("a", nn.Parameter(torch.zeros(3, 3))), ("b", nn.Parameter(torch.zeros(3)))])
    with pytest.raises(ValueError, match=r"parameter 0 is complex.*use_muon=False"):
        at.Muon([nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        at.Muon([3.0])  # type: ignore[list-item]
    optimizer = at.Muon(matrices())
    with pytest.raises(ValueError, match="use_muon=False"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], "use_muon": False})
    train(optimizer, 2)


def test_the_groups_of_a_model_are_not_overridden_without_a_word() -> None:
    with pytest.raises(ValueError, match=r"use_muon=False with a model.*model\.parameters\(\)"):
        at.Muon(network(), use_muon=False)
    at.Muon(network().parameters(), use_muon=False)


def test_parts_of_matrices_are_refused() -> None:
    optimizer = at.Muon([{"params": matrices([(4, 6)]), "rows": [(0, 8)]}])
    with pytest.raises(ValueError, match=r"parameter 0 .* is a part of a matrix.*use_muon=False"):
        train(optimizer, 1)
    (flat,) = matrices([(24,)])
    flat._fsdp_flattened = True  # as FullyShardedDataParallel marks its parameters
    with pytest.raises(ValueError, match=r"parameter 0 is a part of a matrix.*fully_shard.*use_muon=False"):
        at.Muon([flat])


def test_matrices_are_not_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")  # as on a device
    with pytest.raises(ValueError, match=r"parameter 0 .*offload=True only to groups with use_muon=False"):
        train(at.Muon(matrices([(4, 6)]), offload=True), 1)
    train(at.Muon(matrices([(4, 6)]), use_muon=False, offload=True), 1)


def test_convolutions_are_matrices_of_their_rows() -> None:
    (p,), (q,) = matrices([(6, 3, 2, 2)]), matrices([(6, 12)])
    flat = train(at.Muon([q], lr=0.1))[0]
    assert torch.equal(train(at.Muon([p], lr=0.1))[0].reshape(6, 12), flat)
    (p,) = matrices([(6, 3, 2, 2)])
    p.data = p.data.contiguous(memory_format=torch.channels_last)
    assert torch.equal(train(at.Muon([p], lr=0.1))[0].reshape(6, 12), flat)


@pytest.mark.parametrize(
    "options",
    [
        {"ns_steps": 0},
        {"ns_steps": 2.5},
        {"adjust_lr_fn": "other"},
        {"ns_coefficients": (1.0, 2.0)},
        {"ns_dtype": "int8"},
    ],
)
def test_invalid_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).replace("_", "[_ ]")):
        at.Muon(matrices(), **options)


# ---- what every member can do


def test_matrices_of_one_shape_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    products = newton_schulz.orthogonalized

    def seen(xp: Any, x: Tensor, *others: Any) -> Tensor:
        sizes.append(tuple(x.shape))
        return products(xp, x, *others)

    monkeypatch.setattr("adamas.rule.members.muon.orthogonalized", seen)
    shapes = [(32, 32), (8, 16), (32, 32), (32, 32)]
    together = train(at.Muon(matrices(shapes)), 1)
    assert sizes == [(3, 32, 32), (8, 16)]
    monkeypatch.setattr(matrix_executor, "_MOST_ON_CPU", 2 * 32 * 32)
    sizes.clear()
    train(at.Muon(matrices(shapes)), 1)
    assert sizes == [(2, 32, 32), (32, 32), (8, 16)]
    monkeypatch.setattr(matrix_executor, "_MOST_ON_CPU", 1)
    assert distance(train(at.Muon(matrices(shapes)), 1), together) < 1e-6


def test_matrices_of_one_shape_and_several_dtypes() -> None:
    def made(dtypes: Sequence[torch.dtype]) -> list[Tensor]:
        return train(at.Muon([nn.Parameter(matrices([(8, 16)])[0].detach().to(dtype)) for dtype in dtypes]), 2)

    dtypes = [torch.float32, torch.float64]
    assert same(
        made(dtypes), [made([dtype])[0] if i == 0 else made([dtype, dtype])[1] for i, dtype in enumerate(dtypes)]
    )


@pytest.mark.parametrize(("state", "size"), [("bfloat16", 2), ("int8", 1)])
def test_momentum_in_fewer_bits(state: Any, size: int) -> None:
    shapes = [(64, 128), (64, 128)]
    exact = at.Muon(matrices(shapes), lr=0.02, weight_decay=0.0)
    fewer = at.Muon(matrices(shapes), lr=0.02, weight_decay=0.0, state=state)
    begin, expected, found = matrices(shapes), train(exact), train(fewer)
    for p, x, y in zip(begin, found, expected, strict=True):
        assert (x - y).norm() < (0.01 if state == "bfloat16" else 0.05) * (y - p).norm()
    assert fewer.memory().bytes["momentum_buffer"] == size * 2 * 64 * 128


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
def test_bfloat16_weights(weights: Any) -> None:
    params = [nn.Parameter(p.detach().bfloat16()) for p in matrices()]
    exact = [nn.Parameter(p.detach().float()) for p in params]
    begin = [p.detach().clone() for p in exact]
    found, expected = train(at.Muon(params, lr=0.02, weights=weights)), train(at.Muon(exact, lr=0.02))
    for p, x, y in zip(begin, found, expected, strict=True):
        assert (x.float() - y).norm() < (0.05 if weights == "split" else 0.6) * (y - p).norm()


def test_a_rate_of_0_changes_no_weight() -> None:
    begin = [p.detach().clone() for p in matrices()]
    assert same(train(at.Muon(matrices(), lr=0.0)), begin)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 0, 2)])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_matrices_without_elements(shape: tuple[int, ...], adjust: Any) -> None:
    optimizer = at.Muon(matrices([shape, (3, 3), shape]), adjust_lr_fn=adjust, max_grad_norm=1.0)
    begin = optimizer.param_groups[0]["params"][1].detach().clone()
    _, found, _ = train(optimizer, 2)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, begin)


def test_maximize_goes_the_other_way() -> None:
    begin = matrices()
    down, up = (train(at.Muon(matrices(), weight_decay=0.0, maximize=one), 1) for one in (False, True))
    assert distance([x + y for x, y in zip(down, up, strict=True)], [2 * p.detach() for p in begin]) < 1e-6


def groups(**options: Any) -> at.Muon:
    """An optimizer with both kinds of groups."""
    hidden, others = matrices([(8, 16), (8, 16), (40, 20)]), matrices([(7,), (5, 3)], seed=1)
    return at.Muon([{"params": hidden}, {"params": others, "use_muon": False}], **{"lr": 0.01, **options})


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
def test_resumed_steps_have_the_same_bits(state: Any) -> None:
    options: dict[str, Any] = {"lr": 0.01 * cosine(30), "state": state, "max_grad_norm": "auto", "watch": True}
    whole, first = groups(**options), groups(**options)
    expected = train(whole, 12)
    train(first, 5)
    second = groups(**options)
    for mine, theirs in zip(second.param_groups, first.param_groups, strict=True):
        for p, q in zip(mine["params"], theirs["params"], strict=True):
            p.data.copy_(q)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert same(train(second, 7, first=5), expected)
    assert second.param_groups[0]["lr"] == whole.param_groups[0]["lr"] < 0.01


def test_clipping_counts_all_gradients_and_leaves_them_alone() -> None:
    optimizer = groups(max_grad_norm=1.0)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    give_gradients(params, 0)
    gradients = [p.grad.clone() for p in params if p.grad is not None]
    optimizer.step()
    assert same([p.grad for p in params if p.grad is not None], gradients)
    norm = float(torch.cat([g.reshape(-1) for g in gradients]).norm())
    assert optimizer.grad_norm == pytest.approx(norm)
    assert optimizer.clipped_steps == 1
    momentum = optimizer.state[params[0]]["momentum_buffer"]
    assert torch.allclose(momentum, 0.05 * gradients[0] / norm, rtol=1e-4)


def test_steps_with_an_infinity_are_skipped_or_refused() -> None:
    for choice in ("skip", "raise"):
        optimizer = groups(on_nonfinite=choice)
        train(optimizer, 2)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in params] + [optimizer.state[params[0]]["momentum_buffer"].clone()]
        assert params[1].grad is not None
        params[1].grad[0, 0] = torch.inf
        if choice == "skip":
            optimizer.step()
            assert optimizer.skipped_steps == 1
        else:
            with pytest.raises(FloatingPointError, match=r"parameter 1 \(of shape \(8, 16\)\)"):
                optimizer.step()
        assert same([*params, optimizer.state[params[0]]["momentum_buffer"]], before)


def test_steps_are_watched() -> None:
    plain, watched = groups(), groups(watch=True, on_spike="clip,of=exact")
    assert same(train(plain, 3), train(watched, 3))
    assert watched.watch is not None
    before = watched.param_groups[0]["params"][2].detach().clone()
    train(watched, 1, first=3)
    moved = (watched.param_groups[0]["params"][2].detach() - before).norm()
    assert float(watched.watch["update_norm"][-1][2]) == pytest.approx(float(moved), rel=1e-4)


def test_released_steps_are_the_same() -> None:
    def ends(prepare: Callable[[at.Muon], Any]) -> list[Tensor]:
        model = network()
        optimizer = at.Muon(model, lr=0.01)
        handle = prepare(optimizer)
        for i in range(3):
            x = torch.arange(11) * (i + 1) % 11
            nn.functional.cross_entropy(model(x), (x + 1) % 11).backward()
            optimizer.step()
            optimizer.zero_grad()
        del handle
        return [p.detach() for p in model.parameters()]

    assert distance(ends(at.release), ends(lambda optimizer: None)) < 1e-6


def test_a_refused_group_leaves_nothing_in_a_released_optimizer() -> None:
    model, vector = network(), nn.Parameter(torch.zeros(3))
    optimizer = at.Muon(model)
    handle = at.release(optimizer)
    with pytest.raises(ValueError, match="use_muon=False"):
        optimizer.add_param_group({"params": [("vector", vector)]})
    (model(torch.arange(11)).sum() + vector.sum()).backward()
    optimizer.step()
    assert len(optimizer.param_groups) == 3
    assert torch.equal(vector, torch.zeros(3))
    del handle


def test_the_memory_is_known_before() -> None:
    model = network()
    planned = at.plan_memory(at.matrix_groups(model), "Muon", state="int8")
    optimizer = at.Muon(model, state="int8")
    give_gradients(list(model.parameters()), 0)
    optimizer.step()
    assert planned.bytes == optimizer.memory().bytes


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
def test_over_numpy_the_steps_are_the_same(state: Any) -> None:
    shapes = [(8, 16), (40, 130), (130, 40), (3, 4, 5)]
    tensors, other = matrices(shapes), nn.Parameter(torch.ones(5))
    arrays, vector = [p.detach().numpy().copy() for p in tensors], np.ones(5, np.float32)
    ours = at.Muon([{"params": tensors}, {"params": [other], "use_muon": False}], state=state)
    theirs = an.Muon([{"params": arrays}, {"params": [vector], "use_muon": False}], state=state)
    for i in range(5):
        give_gradients([*tensors, other], i)
        theirs.step([p.grad.numpy() for p in [*tensors, other] if p.grad is not None])
        ours.step()
    found = [torch.from_numpy(x) for x in [*arrays, vector]]
    assert distance(found, [p.detach() for p in [*tensors, other]]) < 1e-6
    with pytest.raises(ValueError, match=r"has the shape \(3,\).*use_muon=False"):
        an.Muon([np.zeros(3)]).step([np.zeros(3)])


def test_copies_and_pickles_go_on_alike() -> None:
    optimizer = groups()
    train(optimizer, 2)
    assert same(train(copy.deepcopy(optimizer), 2, first=2), train(optimizer, 2, first=2))


def test_cautious_decay_leaves_out_what_the_update_enlarges() -> None:
    generator = torch.Generator().manual_seed(0)
    before, g = torch.randn(16, 32, generator=generator), torch.randn(16, 32, generator=generator)
    after = {}
    for decay in (0.0, 0.5):
        p = torch.nn.Parameter(before.clone())
        p.grad = g.clone()
        at.Muon([p], lr=0.1, weight_decay=decay, decay="cautious").step()
        after[decay] = p.detach()
    expected = after[0.0] - torch.where((before - after[0.0]) * before >= 0, 0.05 * before, 0.0)
    torch.testing.assert_close(after[0.5], expected)
    assert not torch.equal(after[0.0], after[0.5])


def test_a_stack_of_matrices_is_no_matrix() -> None:
    """Experts lie in one parameter, whose matrices would be taken for one; the kernels of a convolution are one."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2))
    model.experts = nn.Parameter(torch.zeros(4, 8, 8))
    matrices, others, _ = at.matrix_groups(model)
    assert [name for name, _ in matrices["params"]] == ["0.weight", "1.weight"]
    assert [name for name, _ in others["params"]] == ["experts", "2.weight"]


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("most", [1, 2 * 8 * 16, 1 << 20])
def test_each_matrix_of_a_stack_is_orthogonalized(adjust: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_executor, "_MOST_ON_CPU", most)
    shapes = [(5, 8, 16), (5, 8, 16), (2, 3, 20, 4)]
    stacks = matrices(shapes)
    apart = [[nn.Parameter(x.clone()) for x in p.detach().reshape(-1, *p.shape[-2:])] for p in stacks]
    ours = at.Muon(stacks, lr=0.02, stacks=True, adjust_lr_fn=adjust, max_grad_norm=1.0)
    theirs = at.Muon([p for some in apart for p in some], lr=0.02, adjust_lr_fn=adjust, max_grad_norm=1.0)
    arrays = [p.detach().numpy().copy() for p in stacks]
    others = an.Muon(arrays, lr=0.02, stacks=True, adjust_lr_fn=adjust, max_grad_norm=1.0)
    for i in range(5):
        give_gradients(stacks, i)
        for p, some in zip(stacks, apart, strict=True):
            assert p.grad is not None
            for one, g in zip(some, p.grad.reshape(-1, *p.shape[-2:]), strict=True):
                one.grad = g.clone()
        others.step([p.grad.numpy() for p in stacks if p.grad is not None])
        ours.step()
        theirs.step()
    found = [p.detach() for p in stacks]
    expected = [torch.stack([p.detach() for p in some]) for some in apart]
    assert distance([p.reshape(x.shape) for p, x in zip(found, expected, strict=True)], expected) < 1e-6
    assert distance([torch.from_numpy(x) for x in arrays], found) < 1e-6


def test_a_model_with_stacks(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2))
    model.experts = nn.Parameter(torch.ones(4, 8, 8))
    optimizer = at.Muon(model, stacks=True)
    assert "\n    Muon, stacks, weight_decay=0.1: 1 tensors, 256 parameters\n" in capsys.readouterr().out
    assert [(group["param_names"], group["use_muon"], group["stacks"]) for group in optimizer.param_groups] == [
        (["0.weight", "1.weight"], True, False),
        (["experts"], True, True),
        (["2.weight"], False, False),
        (["0.bias", "1.bias", "2.bias"], False, False),
    ]
    before = model.experts.detach().clone()
    model.experts.grad = torch.eye(8).repeat(4, 1, 1)
    optimizer.step()
    moved = before * (1 - 1e-3 * 0.1) - model.experts.detach()
    values = torch.linalg.svdvals(moved) / (1e-3 * 0.2 * 8**0.5)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
