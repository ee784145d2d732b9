"""Rules that name sums: over a tensor or over all of them, wherever their parts lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from rules_with_sums import LAMB, STANDARDIZED

import adamas.torch
from adamas.rule.declaration import Member

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


Scaling = Callable[[list[np.ndarray], list[np.ndarray]], list[np.ndarray]]


def trusted(weights: list[np.ndarray], updates: list[np.ndarray]) -> list[np.ndarray]:
    return [np.linalg.norm(p) / np.linalg.norm(u) * u for p, u in zip(weights, updates, strict=True)]


def standardized(weights: list[np.ndarray], updates: list[np.ndarray]) -> list[np.ndarray]:
    every = np.concatenate([u.ravel() for u in updates])
    return [(u - every.mean()) / every.std() for u in updates]


def directly(scaled: Scaling, weights: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Adam's updates, scaled, by NumPy."""
    m, v = [0 * p for p in weights], [0 * p for p in weights]
    for step in range(steps):
        given = [g.numpy() for g in gradients(step)]
        m = [BETAS[0] * x + (1 - BETAS[0]) * g for x, g in zip(m, given, strict=True)]
        v = [BETAS[1] * x + (1 - BETAS[1]) * g * g for x, g in zip(v, given, strict=True)]
        corrections = [1 - beta ** (step + 1) for beta in BETAS]
        updates = [x / corrections[0] / (np.sqrt(y / corrections[1]) + EPS) for x, y in zip(m, v, strict=True)]
        weights = [p - LR * u for p, u in zip(weights, scaled(weights, updates), strict=True)]
    return weights


CASES = [(LAMB, trusted), (STANDARDIZED, standardized)]


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


def test_parameters_without_a_gradient_are_in_no_sum() -> None:
    params, alone = starts(), starts()
    with_others, without = torch_optimizer(STANDARDIZED, params), torch_optimizer(STANDARDIZED, alone[:1])
    params[0].grad = alone[0].grad = gradients(0)[0]
    with_others.step(), without.step()
    assert torch.equal(params[0], alone[0])
    assert torch.equal(params[1], starts()[1])


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


def test_the_engine_is_not_asked_for_what_it_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", "engine")
    p = starts()[0]
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="the rule 'lamb' needs sums over tensors, which the engine does not compute"):
        torch_optimizer(LAMB, [p]).step()
    monkeypatch.setenv("ADAMAS_EXECUTOR", "abacus")
    with pytest.raises(ValueError, match=r"ADAMAS_EXECUTOR='abacus' is unknown: use 'engine' or 'arrays'"):
        adamas.torch.Adam([p]).step()
