"""The kernels that add up gradients' squares and the sums of rules give the engine's bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import DEVICE

from adamas.step import gpu, sums
from adamas.torch import AdamW

sys.path.insert(0, str(Path(__file__).parents[1]))
import engine_with_sums
import test_sums
from rules_with_sums import LAMB, STANDARDIZED

pytestmark = [pytest.mark.kernels, pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

# Whole tiles and rests, tensors of several programs, and empty ones.
SHAPES = ((33, 128), (7,), (0, 4), (), (16, 128), (130, 130))
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)


def drawn(seed: int, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).exp().to(dtype) for shape in shapes]


def begun(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    gradients: list[torch.Tensor],
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Any:
    """A function that makes an optimizer's step for gradients, and the optimizer. Its weights are 1, in a dtype."""
    device = "cpu" if kind == "engine" else DEVICE
    params = [torch.nn.Parameter(torch.ones_like(g, dtype=dtype, device=device)) for g in gradients]
    for p in params:
        p.grad_dtype = None
    optimizer = AdamW([(f"p{i}", p) for i, p in enumerate(params)], **options)

    def step(gradients: list[torch.Tensor]) -> None:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.to(device)
        with monkeypatch.context() as patch:
            patch.setenv("ADAMAS_EXECUTOR", kind)
            optimizer.step()

    return step, optimizer


def norm(
    monkeypatch: pytest.MonkeyPatch, kind: str, gradients: list[torch.Tensor], dtype: torch.dtype | None = None
) -> Any:
    step, optimizer = begun(monkeypatch, kind, gradients, dtype, max_grad_norm=1.0)
    step(gradients)
    return optimizer.grad_norm


def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which each launch of a sum adds the number of its tensors."""
    made: list[int] = []
    call = gpu._SumLaunch.sums

    def counted(self: Any, share: Any, *arguments: Any) -> torch.Tensor:
        made.append(len(share.parts))
        return call(self, share, *arguments)

    monkeypatch.setattr(gpu._SumLaunch, "sums", counted)
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_has_the_engines_bits_and_takes_one_launch(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = launches(monkeypatch)
    given = drawn(0, dtype)
    assert norm(monkeypatch, "gpu", given) == norm(monkeypatch, "engine", given)
    assert made == [len(SHAPES) - 1]


def test_gradients_of_several_dtypes_take_a_launch_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made = launches(monkeypatch)
    given = [*drawn(0, torch.float32), *drawn(1, torch.bfloat16), *drawn(2, torch.float64)]
    assert norm(monkeypatch, "gpu", given, torch.float32) == norm(monkeypatch, "engine", given, torch.float32)
    assert made == [len(SHAPES) - 1] * 3


def test_the_norm_is_the_same_however_tensors_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = drawn(0, torch.float32, [(20000,)])
    expected = norm(monkeypatch, "gpu", [whole])
    for size in (1, 2, 3):
        assert norm(monkeypatch, "gpu", list(whole.chunk(size + 1))) == expected
    assert norm(monkeypatch, "gpu", [whole.flip(0)]) == expected
    assert expected == math.sqrt(math.fsum(x * x for x in whole.tolist()))


def test_gradients_that_are_not_contiguous_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn(0, torch.float32)
    apart = [g.to(DEVICE).mT.contiguous().mT if g.ndim == 2 else g for g in given]
    made = launches(monkeypatch)
    assert norm(monkeypatch, "gpu", apart) == norm(monkeypatch, "engine", given)
    assert made == [2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_the_first_gradient_that_is_not_finite_is_named(
    bad: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = drawn(0, dtype)
    given[5][-1, -1] = given[4][0, 0] = bad
    step, optimizer = begun(monkeypatch, "gpu", given, on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match="parameter 'p4' has a NaN"):
        step(given)
    given[4][0, 0] = 1
    with pytest.raises(FloatingPointError, match="parameter 'p5' has a NaN"):
        step(given)
    given[5][-1, -1] = 1
    step(given)
    assert math.isfinite(optimizer.grad_norm)


def test_a_square_that_overflows_is_no_gradient_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn(0, torch.float64)
    given[0][3, 3] = 1e200
    for kind in ("gpu", "engine"):
        step, optimizer = begun(monkeypatch, kind, given, on_nonfinite="raise")
        step(given)
        assert optimizer.grad_norm == math.inf


@pytest.mark.parametrize("limit", [None, 3.0, "auto"])
def test_skipping_and_clipping_are_the_engines(limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = SHAPES[1:5]
    pairs = [
        begun(monkeypatch, kind, drawn(0, torch.float32, shapes), on_nonfinite="skip", max_grad_norm=limit)
        for kind in ("gpu", "engine")
    ]
    for i in range(13):
        given = drawn(i, torch.float32, shapes)
        if i == 4:
            given[0][0] = math.nan
        if i == 11:
            given[0] *= 1e4
        for step, _ in pairs:
            step(given)
        (_, one), (_, other) = pairs
        assert one.grad_norm == other.grad_norm or i == 4
        assert one.grad_norm_limit == other.grad_norm_limit or i == 4
    assert one.skipped_steps == other.skipped_steps == 1
    assert one.clipped_steps == other.clipped_steps == {None: 0, 3.0: 12, "auto": 1}[limit]
    for p, q in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=2e-6, atol=1e-7)


# ---- the sums of rules

Found = list[dict[Any, float]]


def sums_of(monkeypatch: pytest.MonkeyPatch, kind: str, member: Any, shapes: Any, **options: Any) -> Found:
    """The sums of two steps with the same gradients, and the same states before the second."""
    found: Found = []
    added = sums.added_up

    def added_up(terms: Any) -> dict[Any, float]:
        found.append(added(terms))
        return found[-1]

    device = "cpu" if kind == "engine" else DEVICE
    with engine_with_sums.executor(kind), monkeypatch.context() as patch:
        if kind == "engine":
            use_exact_engine_with_sums()
        patch.setattr(sums, "added_up", added_up)
        dtype = options.pop("dtype")
        params = [torch.nn.Parameter(x.to(device)) for x in test_sums.drawn(shapes, 0, dtype)]
        optimizer = test_sums.torch_optimizer(member, params, **options)
        for step in range(2):
            for p, x, g in zip(
                params, test_sums.drawn(shapes, 5, dtype), test_sums.drawn(shapes, step, dtype), strict=True
            ):
                p.grad = g.to(device)
                p.data.copy_(x)
            optimizer.step()
    return found


def use_exact_engine_with_sums() -> None:
    module = engine_with_sums._loaded()
    module.use_instruction_set("avx2" if "avx2" in module.instruction_sets() else module.instruction_set())


@pytest.mark.parametrize("index", range(len(test_sums.FORMATS)))
def test_sums_of_rules_are_the_engines(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats, members and settings by turns."""
    options = test_sums.FORMATS[index] | test_sums.SETTINGS[(index + index // 3) % 3]
    member, shapes = (LAMB, STANDARDIZED)[index % 2], ((40, 130), (33,), (16, 128))
    one, other = (sums_of(monkeypatch, kind, member, shapes, **options) for kind in ("gpu", "engine"))
    assert len(one) == 2 * (2 if member is LAMB else 3)
    assert one == other


def test_a_tensors_sum_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = launches(monkeypatch)
    together = sums_of(monkeypatch, "gpu", LAMB, ((70, 130), (5,)), dtype=torch.float32)
    assert made == [2] * 4
    alone = sums_of(monkeypatch, "gpu", LAMB, ((70, 130),), dtype=torch.float32)
    for one, other in zip(together, alone, strict=True):
        assert len(one) == 2
        assert next(iter(one.values())) == next(iter(other.values()))
