"""``cautious=True``: no update where its sign is not the gradient's, and a larger one elsewhere (Liang et al., 2024)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from members import CASES, Case, has
from torch import Tensor

import adamas.numpy
import adamas.torch as at

MASKED = [case for case in CASES if has(case, {"cautious": True})]
STORED = [
    ("float32", "nearest", torch.float32),
    ("int8", "nearest", torch.float32),
    ("int6", "split", torch.bfloat16),
    ("bfloat16", "stochastic", torch.bfloat16),
]


def started(case: Case, w: Tensor, **options: Any) -> tuple[at.Optimizer, Tensor]:
    p = torch.nn.Parameter(w.clone())
    return case.make([("w", p)], **{"lr": 0.01, **case.options, "weight_decay": 0.0, **options}), p


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(params=["engine", "arrays"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ADAMAS_EXECUTOR", request.param)
    return str(request.param)


@pytest.mark.parametrize("case", MASKED, ids=str)
def test_the_change_is_masked_and_divided_by_the_share_that_is_left(case: Case, executor: str) -> None:
    """Every step is the plain step from the same state, masked: the update does not depend on the mask."""
    w = normal(0, 40, 64)
    cautious, p = started(case, w, cautious=True, maximize=True)
    plain, q = started(case, w, maximize=True)
    for t in range(4):
        g = normal(t + 1, 40, 64)
        with torch.no_grad():
            q.copy_(p)
        if t:
            plain.load_state_dict({**cautious.state_dict(), "param_groups": plain.state_dict()["param_groups"]})
        before = p.detach().clone()
        p.grad, q.grad = g, g.clone()
        cautious.step()
        plain.step()
        change = q.detach() - before
        agrees = change * g > 0  # maximized
        share = agrees.double().mean().clamp(min=1e-3)  # ADOPT's first step moves nothing
        torch.testing.assert_close(p.detach(), before + change * agrees / share, rtol=0, atol=1e-12)
        assert torch.equal(p.detach()[~agrees], before[~agrees])


@pytest.mark.parametrize(("state", "weights", "dtype"), STORED)
def test_moments_are_those_of_the_plain_step(state: str, weights: str, dtype: torch.dtype, executor: str) -> None:
    w = normal(0, 48, 130, dtype=dtype)
    options = {"state": state, "weights": weights, "weight_decay": 0.1}
    made = [at.AdamW([torch.nn.Parameter(w.clone())], **options, cautious=one) for one in (False, True)]
    for t in range(3):
        for optimizer in made:
            optimizer.param_groups[0]["params"][0].grad = normal(t + 1, 48, 130, dtype=dtype)
            optimizer.step()
    plain, cautious = (optimizer.state[optimizer.param_groups[0]["params"][0]] for optimizer in made)
    for name in plain:
        if name.startswith("exp_avg"):
            assert torch.equal(plain[name], cautious[name]), name
    assert not torch.equal(*(optimizer.param_groups[0]["params"][0] for optimizer in made))


def test_penalties_count_in_the_sign_of_the_gradient(executor: str) -> None:
    """The first update of Adam has the sign of the gradient that it takes: with the penalty, or scaled by −1."""
    w, g = normal(0, 32, 128), normal(1, 32, 128)
    for options in ({"weight_decay": 5.0}, {"l1": 0.5}, {"maximize": True}, {"weight_decay": 0.1, "l1": 0.5}):
        moved = []
        for cautious in (False, True):
            p = torch.nn.Parameter(w.clone())
            p.grad = g.clone()
            at.Adam([p], cautious=cautious, **options).step()
            moved.append(p.detach())
        assert torch.equal(*moved)


def test_decoupled_decay_is_not_masked(executor: str) -> None:
    p = torch.nn.Parameter(torch.full((4, 8), 2.0, dtype=torch.float64))
    optimizer = at.AdamW([p], lr=0.1, weight_decay=0.5, cautious=True)
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = p.detach().clone()
    p.grad = -1e-3 * torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), 0.95 * before, rtol=1e-15, atol=0)


def test_cautious_decay_follows_the_masked_update(executor: str) -> None:
    p = torch.nn.Parameter(torch.full((2, 2), 2.0, dtype=torch.float64))
    optimizer = at.AdamW([p], lr=0.1, weight_decay=0.5, decay="cautious", cautious=True)
    p.grad = -torch.ones_like(p)
    optimizer.step()
    assert p.detach().unique().tolist() == pytest.approx([2.1])  # enlarged by the update: no decay
    p.grad = 1e-3 * torch.ones_like(p)
    optimizer.step()
    assert p.detach().unique().tolist() == pytest.approx([2.1 * 0.95])  # no update


def test_elements_without_a_gradient_stay_and_the_others_are_enlarged_at_most_a_thousand_times(executor: str) -> None:
    w, g = torch.zeros(100, 100, dtype=torch.float64), torch.zeros(100, 100, dtype=torch.float64)
    g[0, 0] = 1.0
    p = torch.nn.Parameter(w)
    p.grad = g
    at.SGD([p], lr=1e-3, cautious=True).step()
    expected = torch.zeros_like(w)
    expected[0, 0] = -1.0
    torch.testing.assert_close(p.detach(), expected)


def test_momentum_does_not_move_an_element_without_a_gradient(executor: str) -> None:
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = at.SGD([p], lr=1.0, momentum=0.5, cautious=True)
    for g in ([1.0, 1.0], [0.0, 1.0]):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    assert p.tolist() == [-1.0, -1.0 - 2 * 1.5]


def test_a_nan_is_not_hidden(executor: str) -> None:
    p = torch.nn.Parameter(torch.ones(4, 64))
    p.grad = torch.ones(4, 64)
    p.grad[1, 3] = torch.nan
    at.Adam([p], cautious=True).step()
    assert p.detach().isnan().nonzero().tolist() == [[1, 3]]


def test_lr_0_and_no_elements_change_nothing(executor: str) -> None:
    p, empty = torch.nn.Parameter(normal(0, 8, 64)), torch.nn.Parameter(torch.ones(0, 3))
    before = p.detach().clone()
    optimizer = at.AdamW([p, empty], lr=0.0, weight_decay=0.1, cautious=True)
    p.grad, empty.grad = normal(1, 8, 64), torch.ones(0, 3)
    optimizer.step()
    assert torch.equal(p.detach(), before)


def test_the_bits_do_not_depend_on_threads_and_it_can_be_switched_between_steps() -> None:
    w = normal(0, 300, 640, dtype=torch.float32)
    found, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            p = torch.nn.Parameter(w.clone())
            optimizer = at.AdamW([p], state="int8", max_grad_norm=1.0)
            for t in range(4):
                optimizer.param_groups[0]["cautious"] = t % 2 == 1
                p.grad = normal(t + 1, 300, 640, dtype=torch.float32)
                optimizer.step()
            found.append(p.detach())
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(*found)
    never = torch.nn.Parameter(w.clone())
    optimizer = at.AdamW([never], state="int8", max_grad_norm=1.0)
    for t in range(4):
        never.grad = normal(t + 1, 300, 640, dtype=torch.float32)
        optimizer.step()
    assert not torch.equal(never.detach(), found[0])


def test_resumed_training_has_the_same_bits_and_remembers_the_option() -> None:
    w = normal(0, 33, 129, dtype=torch.float32)

    def stepped(optimizer: at.Optimizer, p: Tensor, steps: range) -> None:
        for t in steps:
            p.grad = normal(t + 1, 33, 129, dtype=torch.float32)
            optimizer.step()

    p = torch.nn.Parameter(w.clone())
    one = at.Lion([p], cautious=True, state="int8")
    stepped(one, p, range(3))
    q = torch.nn.Parameter(p.detach().clone())
    other = at.Lion([q], state="int8")
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    stepped(one, p, range(3, 6))
    stepped(other, q, range(3, 6))
    assert other.param_groups[0]["cautious"] is True
    assert torch.equal(p, q)


def test_numpy_steps_as_torch() -> None:
    w = normal(0, 16, 64).numpy()
    x, p = w.copy(), torch.nn.Parameter(torch.tensor(w))
    ours, torchs = adamas.numpy.AdamW([x], cautious=True), at.AdamW([p], cautious=True)
    for t in range(3):
        g = normal(t + 1, 16, 64).numpy()
        p.grad = torch.tensor(g)
        ours.step([g])
        torchs.step()
    np.testing.assert_array_equal(x, p.detach().numpy())


def test_statistics_are_of_the_masked_step() -> None:
    p = torch.nn.Parameter(normal(0, 16, 64))
    optimizer = at.AdamW([p], lr=0.01, weight_decay=0.0, cautious=True, watch=True)
    for t in range(2):
        before = p.detach().clone()
        p.grad = normal(t + 1, 16, 64)
        optimizer.step()
    assert optimizer.watch["update_norm"][-1, 0] == pytest.approx(float((p.detach() - before).norm()), rel=1e-6)


def test_what_cannot_be_masked_is_refused_by_name() -> None:
    p = torch.nn.Parameter(torch.ones(8, 8))
    with pytest.raises(ValueError, match="cautious=True is not for AdamH: it keeps the norms"):
        at.AdamH([p], cautious=True)
    with pytest.raises(ValueError, match=r'cautious=True is not for Muon: .*decay="cautious"'):
        at.Muon([p], cautious=True)
    table = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = at.AdamW(table.parameters(), cautious=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="without cautious=True"):
        optimizer.step()
    with pytest.raises(TypeError, match="cautious must be True or False, not 'yes'"):
        at.AdamW([p], cautious="yes")
