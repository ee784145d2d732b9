"""Prodigy: its estimate d, one number for all parameters, against the authors' code and in everything that keeps a state."""

from __future__ import annotations

import copy
import functools
import math
import re
from typing import Any

import numpy as np
import pytest
import references
import torch
from torch import nn

import adamas.numpy as an
import adamas.torch as at
from adamas.rule.shared import defaults
from adamas.schedules import linear
from adamas.scipy.stepping import Stepper

SHAPES = [(48, 130), (7,), (), (2, 3, 256)]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decay": "l2"},
    {"use_bias_correction": True},
    {"safeguard_warmup": True, "lr": 0.5},
    {"growth_rate": 1.5, "d0": 1e-4},
    {"d_coef": 2.0, "betas": (0.8, 0.99)},
]


def model(dtype: torch.dtype) -> tuple[list[nn.Parameter], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((8, 5), (5,), (5, 3))]
    nn.init.zeros_(weights[1])
    return weights, *(torch.randn(64, n, generator=generator).to(dtype) for n in (8, 3))


def loss_of(weights: list[nn.Parameter], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    first, bias, second = weights
    return ((torch.relu(x @ first + bias) @ second - y) ** 2).mean()


def trained(make: Any, options: dict, dtype: torch.dtype = torch.float64, groups: bool = False, steps: int = 20) -> Any:
    weights, x, y = model(dtype)
    optimizer = make([{"params": [p]} for p in weights] if groups else weights, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(weights, x, y).backward()
        optimizer.step()
    return optimizer


def weights(optimizer: Any) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def optimizer_of(shapes: list[tuple[int, ...]] = SHAPES, **options: Any) -> at.Prodigy:
    torch.manual_seed(0)
    return at.Prodigy([nn.Parameter(torch.randn(shape)) for shape in shapes], **options)


def step(optimizer: Any, steps: int, seed: int = 1, among: Any = slice(None)) -> Any:
    """Steps that all go in much the same direction, so that d grows, with gradients for some of the parameters."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        noises = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in weights(optimizer)]
        for p, noise in list(zip(weights(optimizer), noises, strict=True))[among]:
            p.grad = 1 + 0.1 * noise
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("groups", [False, True], ids=["group", "groups"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_it_steps_as_the_authors_code(options: dict, groups: bool) -> None:
    prodigyopt = pytest.importorskip("prodigyopt")
    theirs = {**options, "decouple": options.get("decay") != "l2"}
    theirs.pop("decay", None)
    ours, other = trained(at.Prodigy, options, groups=groups), trained(prodigyopt.Prodigy, theirs, groups=groups)
    for p, q in zip(weights(ours), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-9)
    assert ours.d == pytest.approx(other.param_groups[0]["d"], rel=1e-9)
    assert ours.d > 20 * other.param_groups[0]["d0"]


@pytest.mark.parametrize("options", [*VARIANTS, {"betas": (0.0, 0.999)}], ids=str)
def test_a_state_of_the_authors_code_is_read(options: dict) -> None:
    prodigyopt = pytest.importorskip("prodigyopt")
    theirs = {**options, "decouple": options.get("decay") != "l2"}
    theirs.pop("decay", None)
    other = trained(prodigyopt.Prodigy, theirs, steps=9)
    ours = at.Prodigy([nn.Parameter(p.detach().clone()) for p in weights(other)])
    ours.load_state_dict(copy.deepcopy(other.state_dict()))
    assert ours.d == other.param_groups[0]["d"]
    if options.get("betas") == (0.0, 0.999):  # where their steps take the d after them
        return
    _, x, y = model(torch.float64)
    for _ in range(9):
        for optimizer in (ours, other):
            optimizer.zero_grad()
            loss_of(weights(optimizer), x, y).backward()
            optimizer.step()
    for p, q in zip(weights(ours), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-9)


def test_sums_of_the_authors_code_over_a_part_of_the_elements_are_refused() -> None:
    prodigyopt = pytest.importorskip("prodigyopt")
    for options in ({"slice_p": 2}, {"beta3": 0.9}):
        other = trained(prodigyopt.Prodigy, options, steps=2)
        ours = at.Prodigy([nn.Parameter(p.detach().clone()) for p in weights(other)])
        with pytest.raises(ValueError, match=f"parameter 0 .*was stepped by prodigyopt with {next(iter(options))}="):
            ours.load_state_dict(other.state_dict())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_weights_way_is_exact_in_float32(options: dict) -> None:
    """Where p₀ − p would have lost its digits: d is that of float64."""
    single, double = (trained(at.Prodigy, options, dtype) for dtype in (torch.float32, torch.float64))
    assert single.d == pytest.approx(double.d, rel=2e-6)


def test_the_way_is_the_weights_way_under_every_kind_of_decay() -> None:
    for decay in ("l2", "decoupled", "independent", "corrected", "cautious"):
        optimizer = optimizer_of(d0=0.01, weight_decay=0.1, decay=decay)
        before = [p.detach().clone() for p in weights(optimizer)]
        step(optimizer, 5)
        for p, first in zip(weights(optimizer), before, strict=True):
            torch.testing.assert_close(optimizer.state[p]["p0_minus_p"], first - p.detach(), rtol=1e-4, atol=1e-5)


def test_decay_goes_by_the_estimated_rate() -> None:
    optimizer = optimizer_of([(3,)], d0=0.25, weight_decay=0.1)
    (p,), (q,) = weights(optimizer), weights(optimizer_of([(3,)]))
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p, (1 - 0.25 * 0.1) * q)


@pytest.mark.parametrize("options", [{}, {"lr": linear(20)}, {"state": "bfloat16"}, {"state": "int8"}], ids=str)
def test_resuming_has_the_same_bits(options: dict) -> None:
    def run(resumes: bool) -> at.Prodigy:
        optimizer = step(optimizer_of(**copy.deepcopy(options)), 4)
        if resumes:
            other = at.Prodigy(weights(optimizer), **copy.deepcopy(options))
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert other.d == optimizer.d
            optimizer = other
        return step(optimizer, 4, seed=2)

    one, other = run(False), run(True)
    assert one.d == other.d > 1e-4
    for p, q in zip(weights(one), weights(other), strict=True):
        assert torch.equal(p, q)


def test_numpy_and_torch_have_the_same_bits() -> None:
    optimizer = step(optimizer_of(), 4)
    arrays = [p.detach().numpy().copy() for p in weights(optimizer_of())]
    other = an.Prodigy(arrays)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        other.step([1 + 0.1 * torch.randn(x.shape, generator=generator).numpy() for x in arrays])
    assert other.d == optimizer.d
    for p, x in zip(weights(optimizer), arrays, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), x)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"safeguard_warmup": True}], ids=str)
def test_it_steps_as_optax(options: dict) -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    ao = pytest.importorskip("adamas.optax")
    with jax.enable_x64(True):
        start, x, y = model(torch.float64)
        x, y, *start = (jax.numpy.asarray(a.detach().numpy()) for a in (x, y, *start))
        decay = options.get("weight_decay", 0.0)

        def loss(p: Any) -> Any:
            return ((jax.numpy.maximum(x @ p[0] + p[1], 0) @ p[2] - y) ** 2).mean()

        @functools.partial(jax.jit, static_argnums=0)
        def step(tx: Any, p: Any, state: Any) -> Any:
            updates, state = tx.update(jax.grad(loss)(p), state, p)
            return optax.apply_updates(p, updates), state

        found = []
        for tx in (
            ao.prodigy(1.0, **options),
            optax.contrib.prodigy(1.0, **{**options, "weight_decay": decay}),
        ):
            p, state = start, tx.init(start)
            for _ in range(20):
                p, state = step(tx, p, state)
            found.append((p, state))
        (ours, state), (theirs, other) = found
        assert float(state.scalars["d"]) == pytest.approx(float(other.estim_lr), rel=1e-9)
        assert float(state.scalars["d"]) > 1.5e-6
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-8, atol=1e-9)


def test_the_rule_over_one_vector_keeps_the_estimate() -> None:
    """As members of one's own with shared scalars do in ``adamas.scipy``, which Prodigy itself is not in."""
    hyper = {**defaults(at.Prodigy._member, "numpy"), "rows": None}
    start, generator = np.linspace(-1, 1, 9), np.random.default_rng(0)
    stepper, x = Stepper(at.Prodigy._member, hyper, 9), start
    optimizer = an.Prodigy([start.copy()])
    for _ in range(5):
        gradient = 1 + generator.random(9)
        x = stepper.step(x, gradient)
        optimizer.step([gradient])
    assert optimizer.d > 1e-5
    np.testing.assert_allclose(optimizer.param_groups[0]["params"][0], x, rtol=1e-12)


def test_groups_have_one_d_and_each_its_own_rate() -> None:
    def groups(optimizer: Any) -> Any:
        first, *others = weights(optimizer)
        return [{"params": [first], "lr": 0.5}, {"params": others, "weight_decay": 0.1}]

    make = {"ours": at.Prodigy, "paper": references.Prodigy}
    ours, other = (step(make[name](groups(optimizer_of()), lr=1.0, d0=1e-4), 8) for name in make)
    assert ours.d == pytest.approx(other.d, rel=1e-5)
    for p, q in zip(weights(ours), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert len({float(ours.state[p]["d"]) for p in weights(ours)}) == 1


@pytest.mark.parametrize(
    "options",
    [{"d_coef": 2.0}, {"betas": (0.8, 0.999)}, {"growth_rate": 1.01}, {"d0": 1e-3}, {"safeguard_warmup": True}],
    ids=str,
)
def test_groups_that_would_estimate_another_d_are_refused(options: dict) -> None:
    first, *others = weights(optimizer_of())
    ((name, value),) = options.items()
    optimizer = step(at.Prodigy(others), 12)
    words = re.escape(f"{name} is {optimizer.defaults[name]} in parameter group 0 and {value} in group 1")
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": [first], **options})
    assert len(optimizer.param_groups) == 1
    groups = [{"params": [x]} for x in (np.ones(2), np.ones(3))]
    with pytest.raises(ValueError, match=words):
        an.Prodigy([groups[0], {**groups[1], **options}])
    optimizer.add_param_group({"params": [first]})
    optimizer.param_groups[1][name] = value
    before = [p.detach().clone() for p in weights(optimizer)]
    with pytest.raises(ValueError, match=words):
        step(optimizer, 1)
    assert all(torch.equal(p, q) for p, q in zip(weights(optimizer), before, strict=True))


@pytest.mark.parametrize("safeguard_warmup", [False, True])
def test_parameters_at_a_rate_of_0_have_no_part_in_the_estimate(safeguard_warmup: bool) -> None:
    prodigyopt = pytest.importorskip("prodigyopt")
    made = []
    for make in (at.Prodigy, prodigyopt.Prodigy):
        first, *others = [p.detach().double().requires_grad_() for p in weights(optimizer_of())]
        groups = [{"params": others}, {"params": [first], "lr": 0.0}]
        made.append(step(make(groups, safeguard_warmup=safeguard_warmup), 12))
    ours, theirs = made
    assert ours.d == pytest.approx(theirs.param_groups[0]["d"], rel=1e-9)
    assert ours.d > 1e-4


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_parameters_that_take_turns_share_an_estimate(framework: str) -> None:
    prodigyopt = pytest.importorskip("prodigyopt")
    ours, other = optimizer_of([(5,), (4, 3), (2, 2)]), optimizer_of([(5,), (4, 3), (2, 2)])
    theirs = prodigyopt.Prodigy([p.detach().double().requires_grad_() for p in weights(other)])
    if framework == "torch":
        ours = at.Prodigy([p.detach().double().requires_grad_() for p in weights(ours)])
    else:
        arrays = [p.detach().double().numpy() for p in weights(ours)]
        ours = an.Prodigy(arrays)
    generator = torch.Generator().manual_seed(0)
    for turn in range(30):
        p = weights(theirs)[turn % 3]
        gradient = 1 + 0.1 * torch.randn(p.shape, generator=generator).double()
        theirs.zero_grad()
        p.grad = gradient
        theirs.step()
        if framework == "torch":
            ours.zero_grad()
            weights(ours)[turn % 3].grad = gradient
            ours.step()
        else:
            ours.step([gradient.numpy() if i == turn % 3 else None for i in range(3)])
    assert ours.d == pytest.approx(theirs.param_groups[0]["d"], rel=1e-9)
    assert ours.d > 1e-4


@pytest.mark.parametrize("executor", ["", "arrays"])
def test_what_is_watched_of_the_second_moment_does_not_depend_on_the_estimate(
    executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", executor) if executor else None
    found = {}
    for name, options in (("AdamW", {"lr": 0.0}), ("Prodigy", {"d0": 1e-3, "lr": 0.0})):
        torch.manual_seed(0)
        optimizer = getattr(at, name)([nn.Parameter(torch.randn(64, 64))], watch=True, betas=(0.9, 0.99), **options)
        for _ in range(400):
            (p,) = weights(optimizer)
            p.grad = 0.1 * torch.randn(64, 64)
            optimizer.step()
        latest = optimizer.watch.latest()
        found[name] = {
            key: value for key, value in latest.items() if key.split("/")[0] in ("rms", "behind", "under_eps")
        }
    assert found["Prodigy"].keys() == found["AdamW"].keys()
    assert found["Prodigy"]["rms/0"] == pytest.approx(found["AdamW"]["rms/0"], rel=0.05)
    assert found["Prodigy"]["behind/0"] == pytest.approx(found["AdamW"]["behind/0"], abs=0.002)


def test_a_parameter_without_gradients_takes_over_the_estimate_of_the_others() -> None:
    optimizer = step(optimizer_of(), 5, among=slice(0, 2))
    late, d = weights(optimizer)[2], optimizer.d
    assert "d" not in optimizer.state[late] or optimizer.state[late]["d"] == 0
    step(optimizer, 1, among=slice(1, 3))
    assert optimizer.d == float(optimizer.state[late]["d"]) >= d > 1e-5
    assert float(optimizer.state[late]["step"]) == 1
    step(optimizer, 1, among=slice(0, 1))  # alone, after a step that it did not make
    assert optimizer.d >= d


def test_the_scalars_of_the_most_steps_are_taken_over() -> None:
    """Also where others have larger ones."""
    optimizer = step(optimizer_of([(3,), (4,)]), 5)
    first, second = (optimizer.state[p] for p in weights(optimizer))
    step(optimizer, 2, among=slice(1, 2))
    assert float(first["k"]) == float(second["k"]) - 2
    first["d_numerator"].fill_(1e30)
    expected = math.sqrt(0.999) * float(second["d_numerator"])
    first["d"].copy_(second["d"]), first["d_max"].copy_(second["d_max"])
    for p in weights(optimizer):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert float(first["d_numerator"]) == float(second["d_numerator"]) == pytest.approx(expected, rel=1e-12)


def test_a_skipped_step_leaves_the_estimate_alone() -> None:
    optimizer = step(optimizer_of(on_nonfinite="skip", max_grad_norm=1.0), 4)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for p in weights(optimizer):
        p.grad = torch.full_like(p, math.nan)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    for one, other in zip(state.values(), optimizer.state_dict()["state"].values(), strict=True):
        for name, x in one.items():
            torch.testing.assert_close(other[name], x, rtol=0, atol=0)


def test_without_a_gradient_that_is_not_0_nothing_is_estimated() -> None:
    optimizer = optimizer_of()
    for _ in range(3):
        for p in weights(optimizer):
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert optimizer.d == 1e-6


def test_a_rate_of_0_moves_nothing_and_estimates_nothing() -> None:
    optimizer = optimizer_of(lr=0.0)
    before = [p.detach().clone() for p in weights(optimizer)]
    step(optimizer, 3)
    assert optimizer.d == 1e-6
    assert all(torch.equal(p, q) for p, q in zip(weights(optimizer), before, strict=True))


def test_a_numerator_below_0_is_a_state_like_any_other() -> None:
    """As of steps that turn back: the gradient is against the way that was gone."""
    optimizer = step(optimizer_of(d0=0.1), 1)
    for _ in range(2):
        for p in weights(optimizer):
            p.grad = -100 * optimizer.state[p]["p0_minus_p"]
        optimizer.step()
    first = optimizer.state[weights(optimizer)[0]]
    assert float(first["d_numerator"]) < 0
    other = at.Prodigy(weights(optimizer), d0=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert float(other.state[weights(optimizer)[0]]["d_numerator"]) == float(first["d_numerator"])


def test_only_prodigy_has_an_estimate() -> None:
    assert optimizer_of(d0=0.5).d == 0.5
    assert not hasattr(at.AdamW(weights(optimizer_of())), "d")


def test_a_released_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Prodigy.* needs sums over all gradients.* without release"):
        at.release(optimizer_of())
