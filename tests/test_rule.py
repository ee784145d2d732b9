"""Every member against the oracle: the rule over NumPy in float64."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from members import CASES, WITH_FACTORED, Case, hyperparameters, moments_of, next_numbers, ulp

import adamas.torch
from adamas import _engine
from adamas.rule import house
from adamas.rule.declaration import WEIGHT_DRAW, Member, Rule
from adamas.rule.members import MEMBERS
from adamas.rule.sentence import Sentence
from adamas.step.namespaces.torch import Namespace

OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decay": "decoupled"},
    {"weight_decay": 0.1, "decay": "independent"},
    {"weight_decay": 0.1, "decay": "corrected"},
    {"weight_decay": 0.1, "decay": "cautious", "l1": 0.01},
    {"l1": 0.01, "maximize": True},
]


def test_a_state_takes_its_grids_from_the_same_state_in_all_rules_of_its_member() -> None:
    for member in MEMBERS.values():
        for rule in member.rules():
            for state in rule.states:
                second = rule.second_of(state)
                name = None if second is None else member.names[rule.states[second].role]
                assert member.grids_of(member.names[state.role]) == (name, rule.counts(state))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_member_rests_where_a_gradient_of_0_changes_nothing(case: Case, options: dict[str, Any]) -> None:
    """And those of the members with ``steps_rows`` that do not rest change something."""
    member, rng = case.declared, np.random.default_rng(0)
    hyper = {"base_lr": 0.1, **hyperparameters(member, **{**case.options, **options})}
    assert not (member.rests(hyper, True) and not member.steps_rows)
    for is_decayed in (False, True) if member.steps_rows else ():
        given = hyper if is_decayed else {**hyper, "weight_decay": 0.0, "l1": 0.0}
        p, old = rng.standard_normal(9), [rng.random(9) for _ in member.state_names(hyper)]
        weight, new = oracle.step(member, given, {"step": 2.0}, p, np.zeros(9), old)
        rests = all(np.array_equal(a, b) for a, b in zip((p, *old), (weight, *new), strict=True))
        assert member.rests(hyper, is_decayed) == rests


def adversarial(rng: np.random.Generator, n: int) -> np.ndarray:
    """Gradients as they should not be: zeros, denormals, huge and tiny ones, NaN and infinity."""
    special = np.array([0.0, -0.0, 1e-40, -1e-45, 1e30, -1e30, 1e-30, 3e38, np.nan, np.inf, -np.inf, 1.0], np.float32)
    return special[rng.integers(0, len(special), n)]


def assert_close(got: np.ndarray, expected: np.ndarray, allowed: np.ndarray, what: str) -> None:
    """Equal within ``allowed``; NaN and infinity where they are expected, or where the expected overflows float32."""
    with np.errstate(over="ignore"):
        stored = expected.astype(np.float32).astype(np.float64)
    same = (np.isnan(got) & np.isnan(stored)) | (got == stored)
    with np.errstate(invalid="ignore"):
        same |= np.abs(got - expected) <= allowed
    worst = np.flatnonzero(~same)[:3]
    assert same.all(), f"{what}: {got.flat[worst]} instead of {expected.flat[worst]} (within {allowed.flat[worst]})"


def check_step(optimizer: torch.optim.Optimizer, p: torch.Tensor, g: np.ndarray) -> None:
    """One step against the oracle: moments within 4 ulp of their terms, the update within 4 ulp of itself.

    The update is compared for the moments that the step stored: that v overflows in float32 is storage, not error.
    """
    (rule, numbers, penalized), old = next_numbers(optimizer, p), moments_of(optimizer, p)
    with np.errstate(all="ignore"):  # terms of sums are rounded to float32
        stored = [x.astype(np.float32) for x in old.values()]
        numbers = house.with_sums(rule, numbers, np, p.detach().numpy(), g, tuple(stored), penalized)
    k = SimpleNamespace(**numbers)
    before = p.detach().numpy().astype(np.float64)
    p.grad = torch.from_numpy(g.copy())
    optimizer.step()
    new = moments_of(optimizer, p)

    with np.errstate(all="ignore"):
        full = house.gradient(k, np, before, g.astype(np.float64), penalized)
        # A gradient with penalties has been rounded, and where its terms cancel, that is seen in all that follows.
        noise = ulp(np.abs(k.l2 * before) + abs(k.l1) + np.abs(g)) if penalized else 0.0 * full
        expected = updated(rule, k, before, full, old)[1]
        for state in rule.states:
            role = state.role
            if state.of == "gradient":
                a, b = numbers[state.decay], numbers[state.gain]
                terms = np.abs(a * old[role]) + np.abs(b * full) + np.abs(b * old.get("previous", 0.0))
                allowed = 2 * ulp(terms) + 2 * b * noise
                assert_close(new[role], expected[role], allowed, role)
            elif state.of in ("square", "size"):
                slope = np.abs(2 * numbers[state.gain] * full) if state.of == "square" else 1.0
                assert_close(new[role], expected[role], 4 * ulp(expected[role]) + 2 * slope * noise, role)
            elif state.of == "maximum":
                with_new = np.maximum(old[role], new["second"])
                assert_close(new[role], with_new, 0 * with_new, role)

        # From here on with the averages that were stored: none of them moves any more.
        still = {
            number: value
            for state in rule.states
            for number, value in ((state.decay, 1.0), (state.gain, 0.0))
            if number
        }
        trace = "trace" in new
        stored = new | {role: old[role] for role in ("trace", "previous", "offset") if role in new}
        k = SimpleNamespace(**(numbers | still | ({"q": numbers["q"]} if trace else {})))
        update, after = updated(rule, k, before, full, stored)
        direct = updated(rule, SimpleNamespace(**numbers), before, full, old)[0]
        # 0·∞, which was not added, is NaN. A rule of its own may read a state before it is updated, but not where float32
        # has overflowed since.
        overflows = np.any([np.isinf(new[role]) & np.isfinite(x) for role, x in expected.items()], axis=0)
        update = np.where(np.isfinite(full) & (isinstance(rule, Sentence) | overflows), update, direct)
        if trace:
            part = updated(rule, SimpleNamespace(**(vars(k) | {"q": 0.0})), before, full, stored)[0]
            scale = np.abs(k.q * old["trace"]) + np.abs(part)
            centre = cancellation(k, rule, stored)
            allowed = 4 * ulp(scale) * centre + np.abs(part) * relative(noise + SMALLEST * (full != 0), full)
            assert_close(new["trace"], after["trace"], allowed, "trace")
            update = new["trace"]
        weight = house.moved(rule, k, np, before, full, update)
        terms = np.abs(k.k * before) + np.abs(weight - k.k * before)
        size = np.abs(k.eta * update)
        if not trace:
            size = np.where(np.isfinite(full), k.eta * terms_of_update(k, rule, before, full, stored), size)
        allowed = 4 * ulp(size) * cancellation(k, rule, stored) + 2 * ulp(terms) + size * relative(noise, full)
        if not isinstance(rule, Sentence):  # the sign of what float32 has as zero
            tiny = np.finfo(np.float32).tiny
            is_zero = np.logical_and.reduce([np.abs(x) < tiny for x in (full, *old.values())])
            allowed = np.where(is_zero, np.abs(k.eta) + allowed, allowed)
        if rule.is_cautious:  # whether an element decays depends on the sign of a change that float32 may have as zero
            is_open = np.abs(k.eta * update) <= allowed
            allowed = allowed + np.where(is_open, np.abs(k.cautious * before), ulp(terms))
        if k.eta or k.k != 1:
            assert_close(p.detach().numpy().astype(np.float64), weight, allowed, "weight")


def updated(
    rule: Rule, k: Any, p: np.ndarray, g: np.ndarray, old: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The update and the states after it, by their roles."""
    update, *new = rule.update(k, np, p, g, *(old[state.role] for state in rule.states))
    return update, {state.role: x for state, x in zip(rule.states, new, strict=True)}


def relative(noise: np.ndarray, full: np.ndarray) -> np.ndarray:
    return np.where(noise > 0, 4 * noise / np.maximum(np.abs(full), 1e-300), 0.0)


SMALLEST = float(
    np.finfo(np.float32).smallest_subnormal
)  # what gradients are rounded to that a small ε makes large again


def cancellation(k: Any, rule: Rule, new: dict[str, np.ndarray]) -> np.ndarray | float:
    """How much v − m² magnifies the rounding of v, in a centered denominator."""
    if not getattr(rule, "centered", False):
        return 1.0
    with np.errstate(all="ignore"):
        factor = 1 + new["second"] / (new["second"] - k.z * new["first"] ** 2)
    # Where next to nothing is left of the difference, its rounding decides, and nothing can be said of the result.
    return np.where((factor > 0) & (factor < 1e4), factor, np.inf)


def terms_of_update(k: Any, rule: Rule, p: np.ndarray, g: np.ndarray, new: dict[str, np.ndarray]) -> np.ndarray:
    """(|c·m| + |d·g|) / denominator: the size of the update before its terms cancel."""
    positive = dict(new)
    if not getattr(rule, "centered", False):
        positive |= {role: np.abs(new[role]) for role in ("first", "difference") if role in new}
    positive |= {role: -np.abs(new[role]) for role in ("previous", "offset") if role in new}  # which are subtracted
    return updated(rule, k, np.abs(p), np.abs(g), positive)[0]


# Squares of the larger ones overflow. Before v itself does, v̂ may in torch.optim, between 1e19 and 6e20.
LARGE = {
    torch.float32: [1.0, 1e15, 1e18, 1e21, 1e25, 1e30, 1e36, 3e38],
    torch.float64: [1.0, 1e100, 1e152, 1e200, 1e250, 1e300, 1e308],
}


@pytest.mark.filterwarnings("ignore:parameter 0 .* overflows, so that the step may be 0:UserWarning")
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True}], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("where", [*_engine.instruction_sets(), "arrays"])
def test_squares_that_overflow_do_what_they_do_in_torch(
    case: Case, where: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = _engine.instruction_set()
    if where == "arrays":
        monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    else:
        _engine.use_instruction_set(where)
    try:
        for dtype, large in LARGE.items():
            gradient = torch.tensor([*large, *(-g for g in large)], dtype=dtype)
            p, q = torch.nn.Parameter(torch.ones_like(gradient)), torch.nn.Parameter(torch.ones_like(gradient))
            optimizer, other = (
                make([one], **{**case.options, **options}) for make, one in ((case.make, p), (case.reference, q))
            )
            for step in range(8):
                p.grad = q.grad = gradient if step < 4 else 1e-3 * gradient
                optimizer.step()
                other.step()
                finite = torch.isfinite(q)
                torch.testing.assert_close(p[finite], q[finite], rtol=1e-4, atol=1e-4)
    finally:
        _engine.use_instruction_set(chosen)


@pytest.mark.parametrize("where", ["engine", "arrays"])
def test_before_it_is_rectified_radam_is_momentum_whatever_is_under_the_root(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "arrays":
        monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = adamas.torch.RAdam([p], lr=0.5, eps_root=3.0)
    for step in range(1, 6):
        p.grad = torch.full((3,), 0.25)
        optimizer.step()
        assert torch.allclose(p.detach(), torch.full((3,), 1 - step * 0.125))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
@pytest.mark.parametrize("isa", _engine.instruction_sets())
def test_each_step_is_the_oracles(case: Case, options: dict, isa: str) -> None:
    chosen = _engine.instruction_set()
    _engine.use_instruction_set(isa)
    try:
        rng = np.random.default_rng(3)
        p = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(1531).astype(np.float32)))
        optimizer = case.make([p], **{**case.options, **options})
        for step in range(8):
            check_step(optimizer, p, (rng.standard_normal(1531) * 10.0 ** rng.integers(-6, 3)).astype(np.float32))
            assert float(optimizer.state[p]["step"]) == step + 1
    finally:
        _engine.use_instruction_set(chosen)


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_adversarial_gradients_do_what_the_oracle_does(case: Case) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        p = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(97).astype(np.float32)))
        first = case.make([p], **case.options)
        check_step(first, p, adversarial(rng, 97))
        p = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(97).astype(np.float32)))
        second = case.make([p], **case.options)
        check_step(second, p, rng.standard_normal(97).astype(np.float32))
        check_step(second, p, adversarial(rng, 97))


FADING = [c for c in CASES if c.name in ("momentum", "rmsprop-momentum", "adam", "adamax", "nadam", "radam")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", FADING, ids=str)
@pytest.mark.parametrize("isa", _engine.instruction_sets())
def test_a_moment_that_fades_ends_at_zero(case: Case, dtype: torch.dtype, isa: str) -> None:
    """Rounding holds up the smallest numbers: 0.9 times four of them is four again, and processors are slow at it."""
    chosen = _engine.instruction_set()
    _engine.use_instruction_set(isa)
    try:
        p = torch.nn.Parameter(torch.ones(100, dtype=dtype))
        optimizer = case.make([p], **case.options)
        p.grad = torch.full_like(p, 1e-3)
        optimizer.step()
        name = next(name for name in ("momentum_buffer", "exp_avg") if name in optimizer.state[p])
        moment = optimizer.state[p][name]
        moment.fill_(16 * torch.finfo(dtype).tiny)
        p.grad.zero_()
        for _ in range(50):
            optimizer.step()
        assert (moment == 0).all()
        assert p.isfinite().all()
    finally:
        _engine.use_instruction_set(chosen)


def test_what_others_compute_keeps_its_smallest_numbers() -> None:
    p = torch.nn.Parameter(torch.ones(1 << 20))
    p.grad = torch.ones_like(p)
    small = torch.full((1 << 20,), 1e-40)
    CASES[0].make([p]).step()
    assert (small * 0.5 > 0).all()
    assert np.float32(1e-40) * np.float32(0.5) > 0


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_float64_weights_are_stepped_in_float64(case: Case) -> None:
    rng = np.random.default_rng(7)
    p = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(301)))
    optimizer = case.make([p], **case.options)
    for _ in range(5):
        g = rng.standard_normal(301)
        (rule, numbers, penalized), old = next_numbers(optimizer, p), moments_of(optimizer, p)
        before = p.detach().numpy().copy()
        p.grad = torch.from_numpy(g)
        optimizer.step()
        given = np, before, g, tuple(old.values()), penalized
        expected, _ = house.step(rule, SimpleNamespace(**house.with_sums(rule, numbers, *given)), *given)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-14, atol=1e-14)


def test_the_worked_example() -> None:
    """f(x) = x² from 5 with lr 0.001: gradient 10, m = 1, v = 0.1, m̂ = 10, v̂ = 100, x = 4.999."""
    hyper = {
        "lr": 0.001,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay": "l2",
        "l1": 0.0,
        "maximize": False,
        "amsgrad": False,
        "bias_correction": True,
        "eps_mode": "torch",
    }
    adam = MEMBERS["Adam"]
    k = SimpleNamespace(**adam.numbers_of(hyper, {"step": 1.0}))
    zeros = (np.array(0.0), np.array(0.0))
    x, (m, v) = oracle.step(adam, hyper, {"step": 1.0}, np.array(5.0), np.array(10.0), zeros)
    assert (m, v) == (pytest.approx(1.0), pytest.approx(0.1))
    assert (k.c * m, k.w * v) == (pytest.approx(10.0), pytest.approx(100.0))
    assert x == pytest.approx(4.999, abs=1e-9)


def test_the_plain_form_without_bias_correction() -> None:
    """x₁ = 5 − 0.001·1/√0.1: what several texts print as Adam."""
    from adamas.torch import Adam

    x = torch.nn.Parameter(torch.tensor([5.0], dtype=torch.float64))
    optimizer = Adam([x], lr=0.001, bias_correction=False)
    (x**2).sum().backward()
    optimizer.step()
    assert x.item() == pytest.approx(5 - 0.001 / np.sqrt(0.1), abs=1e-9)


@pytest.mark.parametrize(("eps_mode", "moved"), [("torch", 0.990), ("hat", 0.240)])
def test_the_place_of_epsilon(eps_mode: str, moved: float) -> None:
    """The first step at lr 1, ε 1e-8 (1e-7 for Keras's form) with a gradient of 1e-6."""
    from adamas.torch import Adam

    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([x], lr=1.0, eps=1e-8 if eps_mode == "torch" else 1e-7, eps_mode=eps_mode)
    x.grad = torch.full_like(x, 1e-6)
    optimizer.step()
    assert -x.item() == pytest.approx(moved, abs=1e-3)


def test_eps_root_is_under_the_root() -> None:
    from adamas.torch import Adam

    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([x], lr=1.0, eps=0.0, eps_root=3.0)
    x.grad = torch.ones_like(x)
    optimizer.step()
    assert -x.item() == pytest.approx(0.5)


def test_decay_by_name() -> None:
    """With a zero gradient only the decay moves the weight, and each kind by its own amount (trap T24)."""
    from adamas.torch import AdamW

    moved = {}
    for decay in ("decoupled", "independent", "corrected", "cautious"):
        x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = AdamW([x], lr=0.1, weight_decay=0.5, decay=decay)
        for factor in (1.0, 0.5):
            optimizer.param_groups[0]["lr"] = 0.1 * factor
            x.grad = torch.zeros_like(x)
            optimizer.step()
        moved[decay] = x.item()
    assert moved["decoupled"] == pytest.approx((1 - 0.05) * (1 - 0.025))
    assert moved["independent"] == pytest.approx((1 - 0.5) * (1 - 0.25))
    assert moved["corrected"] == pytest.approx((1 - 0.05) * (1 - 0.0125))
    assert moved["cautious"] == moved["decoupled"]


def test_without_a_coefficient_cautious_decay_takes_no_other_rule() -> None:
    hyper = hyperparameters(MEMBERS["AdamW"], decay="cautious", weight_decay=0.0)
    assert not MEMBERS["AdamW"].rule(hyper).is_cautious
    assert MEMBERS["AdamW"].rule({**hyper, "weight_decay": 0.1}).is_cautious


def test_cautious_decay_never_works_against_the_update() -> None:
    """Chen et al., 2025, arXiv:2510.12402: only elements whose update has the sign of the weight decay, or none at all."""
    from adamas.torch import AdamW

    weights, gradients = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0]), torch.tensor([1.0, -1.0, -1.0, 1.0, 0.0])
    for dtype, state in itertools.product((torch.float32, torch.float64, torch.bfloat16), ("float32", "int8")):
        p = torch.nn.Parameter(weights.repeat(64, 128).to(dtype))
        optimizer = AdamW([p], lr=0.1, weight_decay=0.5, decay="cautious", state=state, weights="split")
        p.grad = gradients.repeat(64, 128).to(dtype)
        optimizer.step()
        expected = torch.tensor([1.8, -1.8, 2.1, -2.1, 1.9]).repeat(64, 128)
        torch.testing.assert_close(p.detach().float(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)
        frozen = torch.nn.Parameter(weights.clone())
        frozen.grad = gradients.clone()
        AdamW([frozen], lr=0.0, weight_decay=0.5, decay="cautious").step()
        assert torch.equal(frozen, weights)


@pytest.mark.parametrize(
    "case", [case for case in WITH_FACTORED if case.name != "adamh"], ids=str
)  # which keeps the norm of x
def test_converges_on_a_parabola_and_on_rosenbrock(case: Case) -> None:
    x = torch.nn.Parameter(torch.tensor([5.0, -3.0], dtype=torch.float64))
    lr = 1.0 if case.name in ("adagrad", "prodigy") else 0.05
    optimizer = case.make([x], **{**case.options, "weight_decay": 0.0, "lr": lr})
    start = (x**2).sum().item()
    for _ in range(600):
        x.grad = 2 * x.detach()
        optimizer.step()
    assert (x**2).sum().item() < 1e-2 * start

    y = torch.nn.Parameter(torch.tensor([-1.0, 1.5], dtype=torch.float64))

    def rosenbrock() -> float:
        a, b = y.tolist()
        return (1 - a) ** 2 + 100 * (b - a**2) ** 2

    rates = {
        "sgd": 1e-3,
        "momentum": 2e-4,
        "nesterov": 2e-4,
        "adagrad": 0.5,
        "adamax": 0.03,
        "radam": 3e-3,
        "adopt": 0.1,
        "sgd-schedule-free": 1e-3,
        "prodigy": 1.0,
    }
    lr = rates.get(case.name, 2e-3 if "momentum" in case.name else 1e-2)
    options = {**case.options, "weight_decay": 0.0, "lr": lr}
    if case.name == "adagrad":
        options["lr_decay"] = 0.0
    optimizer = case.make([y], **options)
    start = rosenbrock()
    for _ in range(2500):
        a, b = y.tolist()
        y.grad = torch.tensor([2 * (a - 1) - 400 * a * (b - a**2), 200 * (b - a**2)], dtype=torch.float64)
        optimizer.step()
    assert rosenbrock() < 0.05 * start


def test_the_sign_is_nan_of_nan_and_0_of_zeros_in_pytorch_as_in_numpy() -> None:
    x = [math.nan, -0.0, 0.0, -math.inf, 3.0]
    np.testing.assert_array_equal(Namespace.sign(torch.tensor(x)).numpy(), np.sign(np.array(x)))


@pytest.mark.parametrize("member", MEMBERS.values(), ids=lambda member: member.name)
def test_each_state_is_rounded_with_random_numbers_of_its_own(member: Member) -> None:
    for rule in member.rules():
        draws = [state.draw for state in rule.states if state.draw is not None]
        assert len({*draws, WEIGHT_DRAW}) == len(draws) + 1


def test_the_warmup_of_ademamix_never_exceeds_beta3() -> None:
    member = MEMBERS["AdEMAMix"]
    hyper = hyperparameters(member, betas=(0.99, 0.9, 0.5), beta3_warmup=10.0)
    for step in (1.0, 5.0, 10.0):  # the minimum in the paper's equation for β₃ counts where β₁ is above β₃
        assert member.numbers_of(hyper, {"step": step})["a3"] == 0.5


@pytest.mark.parametrize("where", ["engine", "arrays"])
def test_adamh_keeps_the_norm_of_each_weight_and_turns_it_by_the_rate(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "arrays":
        monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    generator = torch.Generator().manual_seed(0)
    p, q, zeros = (torch.nn.Parameter(torch.randn(40, 50, generator=generator)) for _ in range(3))
    zeros.data.zero_()
    groups = [{"params": [p, zeros]}, {"params": [q], "keep_norm": False}]
    r = torch.nn.Parameter(q.detach().clone())
    optimizer, adam = adamas.torch.AdamH(groups, lr=0.02), adamas.torch.Adam([r], 0.02, (0.9, 0.95))
    before = p.detach().clone()
    for step in range(20):
        for x in (p, q, zeros):
            x.grad = torch.randn(40, 50, generator=generator)
        r.grad = q.grad.clone()
        optimizer.step(), adam.step()
        if not step:
            cosine = (p * before).sum() / before.norm() ** 2
            assert cosine.item() == pytest.approx(1 / math.sqrt(1 + 0.02**2), abs=1e-4)  # u is nearly at a right angle
    assert p.norm().item() == pytest.approx(before.norm().item(), rel=1e-6)
    assert torch.equal(q, r)
    assert zeros.any()


@pytest.mark.parametrize("where", ["engine", "arrays"])
def test_the_mean_over_a_complex_weight_is_that_over_its_real_and_imaginary_parts(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "arrays":
        monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(30, dtype=torch.complex64, generator=generator))
    q = torch.nn.Parameter(torch.view_as_real(p.detach()).clone())
    optimizers = [adamas.torch.StableAdamW([x], lr=0.1) for x in (p, q)]
    for size in (1.0, 1.0, 30.0, 1.0):
        p.grad = size * torch.randn(30, dtype=torch.complex64, generator=generator)
        q.grad = torch.view_as_real(p.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(p.detach()), q.detach(), rtol=1e-6, atol=1e-7)
