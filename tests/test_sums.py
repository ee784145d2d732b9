"""Rules that name sums: over a tensor or over all of them, wherever their parts lie, on the engine and over arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import engine_with_sums
import numpy as np
import pytest
import torch
from engine_with_sums import executor
from members import hyperparameters
from rules_with_sums import LAMB, STANDARDIZED, Scaling, standardized, stepped, trusted

import adamas.numpy
import adamas.torch
from adamas.rule.declaration import Member, undecayed
from adamas.step import devices, sums
from adamas.step.arrays_executor import ArraysExecutor

SHAPES = ((3, 5), (7,), ())
LR, BETAS, EPS = 0.1, (0.9, 0.999), 1e-8


def torch_optimizer(member: Member, params: Sequence[torch.nn.Parameter], **options: object) -> adamas.torch.Adam:
    kind = type("Own", (adamas.torch.Adam,), {"_member": member})
    return kind(params, lr=LR, **options)


def starts(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES
    ]


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


@pytest.fixture(params=["engine", "arrays"])
def each_executor(request: pytest.FixtureRequest) -> Iterator[None]:
    with executor(request.param):
        yield


on_each = pytest.mark.usefixtures("each_executor")


def directly(scaled: Scaling, weights: list[np.ndarray], steps: int, *decay: float) -> list[np.ndarray]:
    given = [[g.numpy() for g in gradients(step)] for step in range(steps)]
    return stepped(scaled, weights, given, LR, BETAS, EPS, *decay)


CASES = [(LAMB, trusted), (STANDARDIZED, standardized)]


@on_each
@pytest.mark.parametrize(("member", "scaled"), CASES, ids=["lamb", "standardized"])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_rule_gets_the_sums_that_it_names(member: Member, scaled: Scaling, groups: int) -> None:
    params = starts()
    wanted = directly(scaled, [p.detach().numpy().copy() for p in params], 5)
    optimizer = torch_optimizer(member, params if groups == 1 else [{"params": [p]} for p in params])
    for step in range(5):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
    for p, x in zip(params, wanted, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)


@on_each
@pytest.mark.parametrize(("member", "scaled"), CASES, ids=["lamb", "standardized"])
def test_a_rule_gets_the_sums_that_it_names_in_numpy(member: Member, scaled: Scaling) -> None:
    arrays = [p.detach().numpy().copy() for p in starts()]
    wanted = directly(scaled, [x.copy() for x in arrays], 5)
    optimizer = type("Own", (adamas.numpy.Adam,), {"_member": member})(arrays, lr=LR)
    for step in range(5):
        optimizer.step([g.numpy() for g in gradients(step)])
    for x, y in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


@on_each
@pytest.mark.parametrize(("decay", "inside", "outside"), [("update", 0.3, 0.0), ("decoupled", 0.0, 0.3)])
def test_a_rule_may_see_the_weight_and_decay_it_itself(decay: str, inside: float, outside: float) -> None:
    """LAMB's trust ratio measures the update with the decay in it. Otherwise the decay is outside of the rule."""
    params = starts()
    wanted = directly(trusted, [p.detach().numpy().copy() for p in params], 5, inside, outside)
    optimizer = torch_optimizer(LAMB, params, weight_decay=0.3, decay=decay)
    for step in range(5):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
    for p, x in zip(params, wanted, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)


def test_parameters_without_decay_have_none_inside_of_the_update_either() -> None:
    hyper = {**hyperparameters(LAMB), "weight_decay": 0.3}
    numbers = LAMB.numbers_of(hyper, {"step": 1.0})
    assert (numbers["decay"], numbers["k"], numbers["l2"]) == (0.3, 1.0, 0.0)
    assert undecayed(numbers)["decay"] == 0


@on_each
def test_sums_are_of_what_is_stored_and_of_the_gradient_that_was_meant() -> None:
    """Clipping scales the gradient, and 16-bit weights enter with their low bits; Adam's update is the same for any scale."""
    ends = []
    for dtype, factor in ((torch.float32, 1.0), (torch.bfloat16, 1024.0)):
        params = [torch.nn.Parameter(p.to(torch.bfloat16).to(dtype)) for p in starts()]
        optimizer = torch_optimizer(LAMB, params, weights="split", max_grad_norm=1.0, eps=0.0)
        for step in range(20):
            for p, g in zip(params, gradients(step), strict=True):
                p.grad = (factor * g.to(torch.bfloat16)).to(dtype)
            optimizer.step()
        ends.append([p.detach().to(torch.float32) for p in params])
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=2**-7, atol=0)


@on_each
def test_parameters_without_a_gradient_are_in_no_sum() -> None:
    params, alone = starts(), starts()
    with_others, without = torch_optimizer(STANDARDIZED, params), torch_optimizer(STANDARDIZED, alone[:1])
    params[0].grad = alone[0].grad = gradients(0)[0]
    with_others.step(), without.step()
    assert torch.equal(params[0], alone[0])
    assert torch.equal(params[1], starts()[1])


@on_each
def test_a_part_of_a_tensor_is_refused_where_the_other_parts_are_not_known() -> None:
    p = starts()[0]
    optimizer = torch_optimizer(LAMB, [{"params": [("layer", p)], "rows": [(0, 6)]}])
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    with pytest.raises(
        ValueError, match=r"parameter 'layer' is a part of a tensor, and the rule 'lamb' needs the sum 'weights'"
    ):
        optimizer.step()
    assert torch.equal(p, before)


# ---- the executors agree

LARGE = ((40, 130), (33,), (300, 70))  # the first and the last may have states in 8 bits
FORMATS: list[dict[str, Any]] = [
    {"dtype": torch.float32},
    {"dtype": torch.float64},
    {"dtype": torch.complex64},
    {"dtype": torch.float32, "state": "bfloat16"},
    {"dtype": torch.float32, "state": "int8"},
    {"dtype": torch.float32, "state": {"exp_avg": "int8", "exp_avg_sq": "bfloat16"}},
    {"dtype": torch.bfloat16, "weights": "stochastic", "state": "int8"},
    {"dtype": torch.bfloat16, "weights": "split"},
    {"dtype": torch.float16, "weights": "nearest", "state": "bfloat16"},
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1, "decay": "l2", "l1": 0.01, "maximize": True},
    {"weight_decay": 0.1, "max_grad_norm": 1.0},
]


def drawn(shapes: Sequence[tuple[int, ...]], seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex64 if dtype.is_complex else torch.float32
    return [torch.randn(shape, generator=generator, dtype=wide).to(dtype) for shape in shapes]


def real(x: torch.Tensor) -> np.ndarray:
    x = torch.view_as_real(x.detach()) if x.is_complex() else x.detach()
    return x.to(torch.float64).numpy()


Copies = list[dict[str, torch.Tensor]]


def copies(optimizer: Any) -> Copies:
    return [
        {name: x.detach().clone() for name, x in [("weight", p), *optimizer.state[p].items()]}
        for p in optimizer.param_groups[0]["params"]
    ]


def assert_agree(ours: Copies, theirs: Copies, before: Copies) -> None:
    """Codes are equal, but for those whose values lie between two; floats differ by the rounding of a few operations.

    With all states in 8 bits, the engine estimates the update to 13 bits.
    """
    different = compared = 0
    for mine, other, old in zip(ours, theirs, before, strict=True):
        is_estimated = {torch.int8, torch.uint8} <= {x.dtype for x in mine.values()}
        for name, x in mine.items():
            y = other[name]
            if name == "weight_low_bits":  # these go round: they are seen in the weights of the next steps
                continue
            if x.dtype in (torch.int8, torch.uint8):
                off = (x.to(torch.int16) - y.to(torch.int16)).abs()
                assert off.max() <= 1
                different, compared = different + int((off > 0).sum()), compared + off.numel()
                continue
            bits = {torch.bfloat16: 7, torch.float16: 10, torch.float64: 52}.get(x.dtype, 23)
            got, wanted, start = real(x), real(y), real(old[name])
            allowed = 4 * np.abs(wanted) * 2.0**-bits + 1e-37
            if name == "weight":
                allowed += (5e-4 if is_estimated else 32 * 2.0**-bits) * (np.abs(wanted - start) + LR)
            elif name != "step":  # gradients with penalties may cancel: they are of size 1, and enter with this factor
                gain = {"exp_avg": 1 - BETAS[0], "exp_avg_sq": 1 - BETAS[1]}[name.removesuffix("_grid")]
                allowed += (4 * np.abs(start) + 8 * gain) * 2.0**-bits
            assert (np.abs(got - wanted) <= allowed).all(), name
    assert different <= 1e-4 * compared


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("formats", FORMATS, ids=str)
@pytest.mark.parametrize("member", [LAMB, STANDARDIZED], ids=lambda member: member.name)
def test_the_executors_agree(member: Member, formats: dict[str, Any], settings: dict[str, Any]) -> None:
    """Each step from the same state, on each instruction set."""
    dtype = formats["dtype"]
    options = {name: value for name, value in formats.items() if name != "dtype"} | settings
    pairs = []
    for kind in ("engine", "arrays"):
        with executor(kind):
            params = [torch.nn.Parameter(x) for x in drawn(LARGE, 0, dtype)]
            optimizer = torch_optimizer(member, params, **options)
            for p, g in zip(params, drawn(LARGE, 9, dtype), strict=True):
                p.grad = g
            optimizer.step()  # makes the plans, which keep their executor
            pairs.append((params, optimizer))
    (ours, engine), (theirs, arrays) = pairs
    with engine_with_sums.used() as module:
        chosen = module.instruction_set()
        try:
            for step, name in enumerate(2 * module.instruction_sets()):
                module.use_instruction_set(name)
                for p, q, g in zip(ours, theirs, drawn(LARGE, step, dtype), strict=True):
                    p.grad = q.grad = g
                    q.data.copy_(p.data)
                    for state, x in engine.state[p].items():
                        arrays.state[q][state].copy_(x)
                before = copies(arrays)
                engine.step(), arrays.step()
                assert_agree(copies(engine), copies(arrays), before)
        finally:
            module.use_instruction_set(chosen)


def test_sums_are_the_same_numbers_on_both_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their terms are rounded alike, and what adding them up rounds off is added up as well.

    In float64: PyTorch rounds some roots in float32 up that are nearer to the number below.
    """
    found: dict[str, list[dict[Any, float]]] = {"engine": [], "arrays": []}
    added = sums.added_up
    for kind, results in found.items():

        def added_up(terms: Any, results: Any = results) -> dict[Any, float]:
            results.append(added(terms))
            return results[-1]

        with executor(kind), monkeypatch.context() as patch:
            patch.setattr(sums, "added_up", added_up)
            for member in (LAMB, STANDARDIZED):
                params = [torch.nn.Parameter(x) for x in drawn(LARGE, 0, torch.float64)]
                optimizer = torch_optimizer(member, params, weight_decay=0.1, decay="decoupled")
                for p, g in zip(params, drawn(LARGE, 1, torch.float64), strict=True):
                    p.grad = g
                optimizer.step()
    assert len(found["engine"]) == 5
    assert found["engine"] == found["arrays"]


@pytest.mark.parametrize("state", ["float32", "int8"])
@pytest.mark.parametrize("member", [LAMB, STANDARDIZED], ids=lambda member: member.name)
def test_any_number_of_threads_gives_the_same_bits(member: Member, state: str) -> None:
    ends = []
    chosen = torch.get_num_threads()
    with executor("engine"):
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                params = [torch.nn.Parameter(x) for x in drawn((*LARGE, (257, 260)), 0, torch.float32)]
                optimizer = torch_optimizer(member, params, state=state)
                for step in range(4):
                    for p, g in zip(params, drawn((*LARGE, (257, 260)), step + 1, torch.float32), strict=True):
                        p.grad = g
                    optimizer.step()
                ends.append(params)
            finally:
                torch.set_num_threads(chosen)
    for end in ends[1:]:
        assert all(torch.equal(p, q) for p, q in zip(ends[0], end, strict=True))


@on_each
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_a_gradient_that_is_not_finite_stays_with_its_tensor(bad: float) -> None:
    """And one whose square overflows in float32 is none of those: its sum is in float64."""
    params = [torch.nn.Parameter(x) for x in drawn(LARGE, 0, torch.float32)]
    optimizer = torch_optimizer(LAMB, params)
    for p, g in zip(params, drawn(LARGE, 1, torch.float32), strict=True):
        p.grad = g
    params[1].grad[3] = bad
    optimizer.step()
    assert torch.isfinite(params[1]).all() == (bad == 1e30)
    assert torch.isfinite(params[0]).all()
    assert torch.isfinite(params[2]).all()


@pytest.mark.parametrize("where", ["engine", "arrays"])
@pytest.mark.parametrize("kind", [adamas.torch.LARS, adamas.torch.MARS])
def test_a_sum_that_overflows_is_told(kind: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step is 0; with clipping, it is not. An infinite gradient is none of the sum's doing."""
    monkeypatch.setenv("ADAMAS_EXECUTOR", where)
    start = torch.linspace(-1, 1, 9)
    for limit, gradient, is_told in ((None, 1e20, True), (1.0, 1e20, False), (None, torch.inf, False)):
        p = torch.nn.Parameter(start.clone())
        optimizer = kind([("w", p)], lr=1.0, max_grad_norm=limit)
        p.grad = torch.full_like(p, gradient)
        words = r"parameter 'w': the sum '\w+' over its tensor, which (LARS|MARS) needs, overflows, .*clip the gradient"
        with pytest.warns(UserWarning, match=words) if is_told else contextlib.nullcontext():
            optimizer.step()
        assert torch.equal(p, start) is is_told


@on_each
def test_a_rate_of_0_changes_no_weight() -> None:
    params = [torch.nn.Parameter(x) for x in drawn(LARGE, 0, torch.float32)]
    optimizer = torch_optimizer(LAMB, params, weight_decay=0.3)
    optimizer.param_groups[0]["lr"] = 0.0
    for p, g in zip(params, drawn(LARGE, 1, torch.float32), strict=True):
        p.grad = g
    optimizer.step()
    assert all(torch.equal(p, x) for p, x in zip(params, drawn(LARGE, 0, torch.float32), strict=True))


# ---- which executor


def test_an_executor_needs_nothing_but_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    class Another(ArraysExecutor):
        def apply(self) -> None:
            steps.append(len(self.found()))
            super().apply()

    monkeypatch.setitem(devices.EXECUTORS, "another", lambda: Another)
    monkeypatch.setenv("ADAMAS_EXECUTOR", "another")
    params = starts()
    optimizer = torch_optimizer(LAMB, params)
    for p, g in zip(params, gradients(0), strict=True):
        p.grad = g
    optimizer.step()
    assert steps == [len(params)]
    wanted = directly(trusted, [p.detach().numpy().copy() for p in starts()], 1)
    for p, x in zip(params, wanted, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)


def test_an_executor_that_cannot_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    p = starts()[0]
    p.grad = torch.ones_like(p)
    monkeypatch.setenv("ADAMAS_EXECUTOR", "engine")
    with pytest.raises(ValueError, match="the engine was built without the rule 'standardized'"):
        torch_optimizer(STANDARDIZED, [p]).step()
    monkeypatch.setenv("ADAMAS_EXECUTOR", "abacus")
    with pytest.raises(ValueError, match=r"ADAMAS_EXECUTOR='abacus' is unknown: use 'engine' or 'arrays' or 'gpu'"):
        adamas.torch.Adam([p]).step()
