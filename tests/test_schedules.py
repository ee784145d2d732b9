"""Schedules: what others compute is what they compute; what holds for all of them in any nesting; what they refuse."""

from __future__ import annotations

import copy
import doctest
import json
import math
import os
import pickle
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as ls

import adamas.schedules
from adamas.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    from_function,
    from_json,
    inverse_sqrt,
    inverse_time,
    linear,
    multistep,
    one_cycle,
    piecewise,
    polynomial,
    power,
    step,
    trapezoid,
    triangular,
    warmup,
)

# ---- beside PyTorch, Keras and optax, all in float64

RATE = 0.3


def agree(schedule: Schedule, expected: Any) -> None:
    """Equal at every step, asked one by one and at once; PyTorch's recursions gather some 1e-12 on the way."""
    expected = np.asarray(expected, np.float64)
    slack = 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose([schedule(t) for t in range(len(expected))], expected, rtol=1e-9, atol=slack)
    np.testing.assert_allclose(schedule(np.arange(len(expected))), expected, rtol=1e-9, atol=slack)


def torch_sequence(optimizer: Any) -> Any:
    parts = [ls.LinearLR(optimizer, 0.1, 1.0, 5), ls.ExponentialLR(optimizer, 0.9), ls.StepLR(optimizer, 4, 0.5)]
    return ls.SequentialLR(optimizer, parts, milestones=[5, 17])


def torch_chain(optimizer: Any) -> Any:
    return ls.ChainedScheduler([ls.ConstantLR(optimizer, 0.2, 7), ls.ExponentialLR(optimizer, 0.95)])


TORCH: dict[str, tuple[Callable[[Any], Any], Schedule]] = {
    "constant": (lambda o: ls.ConstantLR(o, 0.25, 9), RATE * constant(0.25, 9).then(constant())),
    "linear": (lambda o: ls.LinearLR(o), RATE * linear(5, 1 / 3, 1.0)),
    "linear-down": (lambda o: ls.LinearLR(o, 1.0, 0.1, 37), RATE * linear(37, 1.0, 0.1)),
    "linear-warmup": (lambda o: ls.LinearLR(o, 1e-3, 1.0, 30), RATE * warmup(30, 1e-3)),
    "polynomial": (lambda o: ls.PolynomialLR(o, 40), RATE * polynomial(40)),
    "polynomial-2": (lambda o: ls.PolynomialLR(o, 33, 2.0), RATE * polynomial(33, 2.0)),
    "polynomial-root": (lambda o: ls.PolynomialLR(o, 50, 0.5), RATE * polynomial(50, 0.5)),
    "exponential": (lambda o: ls.ExponentialLR(o, 0.93), RATE * exponential(0.93)),
    "exponential-up": (lambda o: ls.ExponentialLR(o, 1.1), RATE * exponential(1.1)),
    "exponential-power": (lambda o: ls.ExponentialLR(o, 0.9), RATE * power(0.9)),
    "step": (lambda o: ls.StepLR(o, 7), RATE * step(0.1, 7)),
    "step-up": (lambda o: ls.StepLR(o, 13, 1.5), RATE * step(1.5, 13)),
    "multistep": (lambda o: ls.MultiStepLR(o, [3, 20, 21]), RATE * multistep([3, 20, 21])),
    "multistep-up": (lambda o: ls.MultiStepLR(o, [10, 30], 2.0), RATE * multistep([10, 30], 2.0)),
    "cosine": (lambda o: ls.CosineAnnealingLR(o, 59), RATE * cosine(59)),
    "cosine-end": (lambda o: ls.CosineAnnealingLR(o, 60, 0.03), RATE * cosine(60, 0.03 / RATE)),
    "cosine-restarts-1": (lambda o: ls.CosineAnnealingWarmRestarts(o, 10), RATE * cosine_restarts(10)),
    "cosine-restarts-2": (
        lambda o: ls.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
        RATE * cosine_restarts(3, 2, end=0.01 / RATE),
    ),
    "cosine-restarts-3": (lambda o: ls.CosineAnnealingWarmRestarts(o, 1, 3), RATE * cosine_restarts(1, 3)),
    "one-cycle": (lambda o: ls.OneCycleLR(o, RATE, total_steps=60, cycle_momentum=False), RATE * one_cycle(60)),
    "one-cycle-linear": (
        lambda o: ls.OneCycleLR(o, RATE, 60, pct_start=0.45, anneal_strategy="linear", cycle_momentum=False),
        RATE * one_cycle(60, 0.45, shape="linear"),
    ),
    "one-cycle-three": (
        lambda o: ls.OneCycleLR(
            o, RATE, 60, div_factor=10, final_div_factor=100, three_phase=True, cycle_momentum=False
        ),
        RATE * one_cycle(60, start=0.1, end=1e-3, three_phase=True),
    ),
    "one-cycle-three-linear": (
        lambda o: ls.OneCycleLR(
            o, RATE, 60, pct_start=0.41, anneal_strategy="linear", three_phase=True, cycle_momentum=False
        ),
        RATE * one_cycle(60, 0.41, shape="linear", three_phase=True),
    ),
    "cyclic": (lambda o: ls.CyclicLR(o, 0.03, RATE, 7, cycle_momentum=False), RATE * triangular(7, low=0.1)),
    "cyclic-uneven": (
        lambda o: ls.CyclicLR(o, 0.0, RATE, 4, 11, cycle_momentum=False),
        RATE * triangular(4, 11),
    ),
    "cyclic-halving": (
        lambda o: ls.CyclicLR(o, 0.03, RATE, 5, 6, "triangular2", cycle_momentum=False),
        RATE * triangular(5, 6, 0.1, "triangular2"),
    ),
    "cyclic-exponential": (
        lambda o: ls.CyclicLR(o, 0.03, RATE, 8, None, "exp_range", 0.97, cycle_momentum=False),
        RATE * triangular(8, low=0.1, mode="exp_range", gamma=0.97),
    ),
    "lambda": (lambda o: ls.LambdaLR(o, lambda t: 1 / (1 + t)), RATE * from_function(lambda t: 1 / (1 + t))),
    "one-after-another": (torch_sequence, RATE * warmup(5, 0.1).then(exponential(0.9), at=5).then(step(0.5, 4), at=17)),
    "product": (torch_chain, RATE * constant(0.2, 7).then(constant()) * exponential(0.95)),
}


@pytest.mark.parametrize("name", TORCH)
def test_as_pytorch(name: str) -> None:
    make, schedule = TORCH[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    with warnings.catch_warnings():
        # Of PyTorch's own making: SequentialLR calls its parts in a way that it warns of.
        warnings.filterwarnings("ignore", message="The epoch parameter in `scheduler.step", category=UserWarning)
        scheduler, rates = make(optimizer), []
        for _ in range(60):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(rates) < 60:  # OneCycleLR raises beyond its end
                scheduler.step()
    agree(schedule, rates)


def test_as_pytorch_where_stepped_by_epoch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, rates = ls.StepLR(optimizer, 2, 0.5), []
    for _ in range(6):
        rates += 10 * [optimizer.param_groups[0]["lr"]]
        optimizer.step()
        scheduler.step()
    agree((RATE * step(0.5, 2)).per_epoch(10), rates)


KERAS: dict[str, tuple[str, dict[str, Any], Schedule]] = {
    "exponential": (
        "ExponentialDecay",
        {"decay_steps": 7, "decay_rate": 0.8},
        RATE * exponential(0.8, 7),
    ),
    "exponential-staircase": (
        "ExponentialDecay",
        {"decay_steps": 7, "decay_rate": 0.8, "staircase": True},
        RATE * exponential(0.8, 7, staircase=True),
    ),
    "exponential-step": (
        "ExponentialDecay",
        {"decay_steps": 9, "decay_rate": 0.1, "staircase": True},
        RATE * step(0.1, 9),
    ),
    "inverse-time": ("InverseTimeDecay", {"decay_steps": 5, "decay_rate": 0.4}, RATE * inverse_time(0.4, 5)),
    "inverse-time-staircase": (
        "InverseTimeDecay",
        {"decay_steps": 6, "decay_rate": 2.0, "staircase": True},
        RATE * inverse_time(2.0, 6, staircase=True),
    ),
    "polynomial": (
        "PolynomialDecay",
        {"decay_steps": 40, "end_learning_rate": 0.03, "power": 2.0},
        RATE * polynomial(40, 2.0, end=0.03 / RATE),
    ),
    "polynomial-linear": ("PolynomialDecay", {"decay_steps": 45, "end_learning_rate": 0.0}, RATE * linear(45)),
    "piecewise": (
        "PiecewiseConstantDecay",
        {"boundaries": [5, 20], "values": [0.3, 0.1, 0.02]},
        piecewise([5, 20], [0.3, 0.1, 0.02]).shift(1),
    ),
    "cosine": ("CosineDecay", {"decay_steps": 50}, RATE * cosine(50)),
    "cosine-alpha": ("CosineDecay", {"decay_steps": 33, "alpha": 0.1}, RATE * cosine(33, 0.1)),
    "cosine-warmup": (
        "CosineDecay",
        {"decay_steps": 30, "alpha": 0.1, "warmup_target": 1.2, "warmup_steps": 12},
        1.2 * warmup(12, RATE / 1.2).then(cosine(30, 0.1)),
    ),
    "cosine-restarts": (
        "CosineDecayRestarts",
        {"first_decay_steps": 6},
        RATE * cosine_restarts(6, 2),
    ),
    "cosine-restarts-same": (
        "CosineDecayRestarts",
        {"first_decay_steps": 8, "t_mul": 1.0, "m_mul": 0.7, "alpha": 0.05},
        RATE * cosine_restarts(8, height=0.7, end=0.05),
    ),
    "cosine-restarts-lower": (
        "CosineDecayRestarts",
        {"first_decay_steps": 5, "t_mul": 1.6, "m_mul": 0.8, "alpha": 0.1},
        RATE * cosine_restarts(5, 1.6, 0.8, 0.1),
    ),
}


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    os.environ.setdefault("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # it writes its settings there
    keras = pytest.importorskip("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield keras
    keras.config.set_floatx(before)


@pytest.mark.parametrize("name", KERAS)
def test_as_keras(name: str, keras: Any) -> None:
    kind, options, schedule = KERAS[name]
    if kind != "PiecewiseConstantDecay":
        options = {"initial_learning_rate": RATE, **options}
    theirs = getattr(keras.optimizers.schedules, kind)(**options)
    agree(schedule, [float(theirs(t)) for t in range(60)])


OPTAX: dict[str, tuple[Callable[[Any], Any], Schedule]] = {
    "constant": (lambda o: o.constant_schedule(RATE), RATE * constant()),
    "linear": (lambda o: o.linear_schedule(RATE, 0.01, 40), RATE * linear(40, end=0.01 / RATE)),
    "linear-late": (lambda o: o.linear_schedule(0.1, 0.7, 20, 10), linear(20, 0.1, 0.7).shift(10)),
    "polynomial": (lambda o: o.polynomial_schedule(RATE, 0.0, 3, 50), RATE * polynomial(50, 3)),
    "polynomial-late": (lambda o: o.polynomial_schedule(2.0, 0.5, 0.5, 30, 9), polynomial(30, 0.5, 2.0, 0.5).shift(9)),
    "exponential": (lambda o: o.exponential_decay(RATE, 8, 0.7), RATE * exponential(0.7, 8)),
    "exponential-staircase": (
        lambda o: o.exponential_decay(RATE, 8, 0.5, 3, staircase=True, end_value=0.02),
        (RATE * exponential(0.5, 8, staircase=True)).shift(3).clip(low=0.02),
    ),
    "exponential-up": (
        lambda o: o.exponential_decay(RATE, 9, 2.0, end_value=5.0),
        (RATE * exponential(2.0, 9)).clip(high=5.0),
    ),
    "cosine": (lambda o: o.cosine_decay_schedule(RATE, 48), RATE * cosine(48)),
    "cosine-alpha": (lambda o: o.cosine_decay_schedule(RATE, 57, 0.1), RATE * cosine(57, 0.1)),
    "cosine-exponent": (lambda o: o.cosine_decay_schedule(RATE, 41, 0.2, 1.5), RATE * cosine(41, 0.2, 1.5)),
    "warmup-cosine": (
        lambda o: o.warmup_cosine_decay_schedule(0.03, RATE, 10, 55, 0.006, 1.2),
        RATE * warmup(10, 0.1).then(cosine(45, 0.02, 1.2)),
    ),
    "warmup-exponential": (
        lambda o: o.warmup_exponential_decay_schedule(0.0, RATE, 10, 5, 0.8),
        RATE * warmup(10).then(exponential(0.8, 5)),
    ),
    "warmup": (lambda o: o.warmup_constant_schedule(0.01, RATE, 25), RATE * warmup(25, 0.01 / RATE)),
    "piecewise": (
        lambda o: o.piecewise_constant_schedule(RATE, {10: 0.5, 30: 0.1}),
        RATE * piecewise([10, 30], [1.0, 0.5, 0.05]),
    ),
    "one-after-another": (
        lambda o: o.join_schedules(
            [o.linear_schedule(0.0, 1.0, 8), o.constant_schedule(1.0), o.exponential_decay(1.0, 3, 0.7)], [8, 30]
        ),
        warmup(8).then(constant(steps=22)).then(exponential(0.7, 3)),
    ),
    "trapezoid": (
        lambda o: o.join_schedules(
            [o.linear_schedule(0.0, RATE, 8), o.constant_schedule(RATE), o.linear_schedule(RATE, 0.03, 20)], [8, 35]
        ),
        RATE * trapezoid(55, 8, 20, 0.1),
    ),
    "one-cycle": (
        lambda o: o.cosine_onecycle_schedule(60, RATE, 0.25, 20.0, 500.0),
        RATE * warmup(15, 1 / 20, "cosine").then(cosine(45, 1 / 20 / 500)),
    ),
    "one-cycle-linear": (
        lambda o: o.linear_onecycle_schedule(60, RATE, 0.3, 0.8, 10.0, 100.0),
        RATE * warmup(18, 0.1).then(linear(30, end=0.1)).then(linear(12, 0.1, 0.1 / 100)),
    ),
    "restarts": (
        lambda o: o.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": p, "warmup_steps": 4, "decay_steps": n}
                for p, n in ((RATE, 14), (RATE / 2, 34))
            ]
        ),
        RATE * warmup(4).then(cosine(10)).then(0.5 * warmup(4).then(cosine(30))),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_as_optax(name: str) -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    make, schedule = OPTAX[name]
    with jax.enable_x64(True):
        theirs = make(optax)
        agree(schedule, [float(theirs(t)) for t in range(60)])


@pytest.mark.parametrize("model_size", [64, 512])
@pytest.mark.parametrize("steps", [10, 400])
def test_attention_is_all_you_need(model_size: int, steps: int) -> None:
    schedule = (model_size * steps) ** -0.5 * warmup(steps) * inverse_sqrt(steps)
    expected = [model_size**-0.5 * min(t**-0.5, t * steps**-1.5) if t else 0.0 for t in range(1000)]
    agree(schedule, expected)


@pytest.mark.parametrize("beta2", [0.0, 0.9, 0.98, 0.999])
def test_untuned_warmup(beta2: float) -> None:
    agree(warmup.untuned(beta2), [min(1.0, (t + 1) * (1 - beta2) / 2) for t in range(3000)])


@pytest.mark.parametrize("multiplier", ["1.1", "1.2", "1.5", "1.6", "2", "2.3", "3", "10"])
def test_a_restart_on_a_whole_step_is_at_that_step(multiplier: str) -> None:
    """Also where the rounding of the powers would put it behind the step, as with a multiplier of 1.6 and a period of 5."""
    exact = Fraction(multiplier)
    for period in (1, 5, 10, 11, 25, 100, 625, 1000):
        schedule = cosine_restarts(period, float(exact), height=0.5, end=0.0)
        start, length = Fraction(0), Fraction(period)
        for number in range(60):
            if start > 10**6:
                break
            if start.denominator == 1:
                assert schedule(int(start)) == pytest.approx(0.5**number, rel=1e-12)
                assert schedule(np.array([int(start)]))[0] == pytest.approx(0.5**number, rel=1e-12)
            inside = math.ceil(start + length) - 1  # the last step of the period
            share = float((inside - start) / length)
            if share >= 0:
                expected = 0.5**number * (1 + math.cos(math.pi * share)) / 2
                assert schedule(inside) == pytest.approx(expected, rel=1e-6, abs=1e-12 * 0.5**number)
            start, length = start + length, length * exact


def test_shapes_without_a_counterpart() -> None:
    x = np.minimum(np.arange(60) / 40, 1.0)
    agree(warmup(40, 0.01, "exponential"), 0.01 ** (1 - x))
    agree(warmup(40, 0.2, "cosine"), 0.2 + 0.8 * (1 - np.cos(np.pi * x)) / 2)
    fallen = np.clip((np.arange(60) - 30) / 25, 0.0, 1.0)
    agree(trapezoid(55, 0, 25, 0.1, "sqrt"), 1.0 - 0.9 * np.sqrt(fallen))
    agree(trapezoid(55, 0, 25, 0.0, "cosine"), (1.0 + np.cos(np.pi * fallen)) / 2)


# ---- what holds for all of them, in any nesting

# Quarters, so that no two ways of computing a boundary differ by rounding, float32 included.
lengths = st.one_of(st.integers(1, 40), st.integers(2, 80).map(lambda n: n / 4))
factors = st.sampled_from([0.0, 0.001, 0.1, 0.3, 0.5, 0.9, 1.0, 1.5])
positive = st.sampled_from([0.01, 0.1, 0.5, 0.9, 1.0, 2.0])
falling = st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0])
rising = st.lists(st.integers(0, 60), max_size=5, unique=True).map(sorted)


@st.composite
def trapezoids(draw: st.DrawFn) -> Schedule:
    steps = draw(st.integers(2, 40))
    up = draw(st.integers(0, steps))
    return trapezoid(
        steps, up, draw(st.integers(0, steps - up)), draw(factors), draw(st.sampled_from(["linear", "cosine", "sqrt"]))
    )


def lists_of_values(boundaries: list[int]) -> st.SearchStrategy[Schedule]:
    n = len(boundaries) + 1
    return st.lists(factors, min_size=n, max_size=n).map(lambda values: piecewise(boundaries, values))


ALONE: dict[str, st.SearchStrategy[Schedule]] = {
    "constant": st.builds(constant, factors, st.integers(0, 20)),
    "linear": st.builds(linear, lengths, factors, factors),
    "polynomial": st.builds(polynomial, lengths, positive, factors, factors),
    "exponential": st.builds(exponential, falling, lengths, st.booleans()),
    "inverse_time": st.builds(inverse_time, positive, lengths, st.booleans()),
    "power": st.builds(power, falling),
    "step": st.builds(step, falling, lengths),
    "multistep": st.builds(multistep, rising, falling),
    "piecewise": rising.flatmap(lists_of_values),
    "cosine": st.builds(cosine, lengths, factors, st.sampled_from([0.5, 1.0, 2.0])),
    "cosine_restarts": st.builds(cosine_restarts, lengths, st.sampled_from([1, 1.5, 2, 3]), falling, factors),
    "one_cycle": st.builds(
        one_cycle,
        st.integers(4, 60),
        st.sampled_from([0.3, 0.5]),
        factors,
        factors,
        st.sampled_from(["cosine", "linear"]),
        st.booleans(),
    ),
    "triangular": st.builds(
        triangular,
        lengths,
        st.none() | lengths,
        factors,
        st.sampled_from(["triangular", "triangular2", "exp_range"]),
        falling,
    ),
    "inverse_sqrt": st.builds(inverse_sqrt, lengths),
    "trapezoid": trapezoids(),
    "warmup": st.builds(warmup, lengths, positive, st.sampled_from(["linear", "cosine", "exponential"])),
}
numbers = st.sampled_from([-1.0, 3e-4, 0.1, 1.0, 2, 10.0])


def has_end(schedule: Schedule) -> bool:
    try:
        schedule.then(constant())
    except ValueError:
        return False
    return True


def joined(inner: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    def first(a: Schedule, b: Schedule, at: int | None) -> Schedule:
        return a.then(b, 7 if at is None and not has_end(a) else at)

    def again(a: Schedule, times: float | None, until: int) -> Schedule:
        return (a if has_end(a) else a.then(constant(0.5, 3), at=until)).repeat(times)

    def bounded(a: Schedule, low: float | None, more: float | None) -> Schedule:
        return a.clip(low, more if low is None or more is None else low + more)

    return st.one_of(
        st.builds(first, inner, inner, st.none() | st.integers(0, 50)),
        st.builds(lambda number, a: number * a, numbers, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(bounded, inner, st.none() | factors, st.none() | factors),
        st.builds(lambda a, steps: a.shift(steps), inner, st.integers(-30, 30)),
        st.builds(lambda a, steps, smooth: a.per_epoch(steps, smooth), inner, st.integers(1, 9), st.booleans()),
        st.builds(again, inner, st.none() | st.sampled_from([1, 2, 2.5, 7]), st.integers(0, 20)),
    )


schedules = st.recursive(st.one_of(*ALONE.values()), joined, max_leaves=5)
STEPS = np.array([*range(150), 151.5, 1000, 10_001, 10**6, 10**9 + 1])


def test_every_schedule_is_among_those_drawn() -> None:
    shapes = {name for name, cls in Schedule._registry.items() if cls.__module__ == "adamas.schedules.shapes"}
    assert {name for name in shapes if name[0] != "_"} - {"from_function"} == ALONE.keys()


@settings(max_examples=300, deadline=None)
@given(schedules)
def test_one_number_at_a_time_or_an_array_in_any_order_finite(schedule: Schedule) -> None:
    at_once = schedule(STEPS)
    assert isinstance(at_once, np.ndarray)
    assert at_once.dtype == np.float64
    assert at_once.shape == STEPS.shape
    assert np.isfinite(at_once).all()
    one_by_one = [schedule(float(t)) for t in STEPS]
    assert all(type(value) in (int, float) for value in one_by_one)
    scale = np.abs(at_once).max()
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-12, atol=1e-14 * scale)
    backwards = [schedule(int(t)) for t in STEPS[149::-1]]
    assert backwards[::-1] == one_by_one[:150]
    np.testing.assert_array_equal(schedule(STEPS[::-1].reshape(5, -1)), at_once[::-1].reshape(5, -1))


@settings(max_examples=300, deadline=None)
@given(schedules)
def test_before_the_first_step_and_past_the_length(schedule: Schedule) -> None:
    assert schedule(-1) == schedule(-1e6) == schedule(0)
    if schedule.length is None:
        return
    end = math.ceil(schedule.length)
    assert schedule.length >= 0
    last = schedule(schedule.length)
    assert {schedule(end), schedule(end + 1), schedule(end + 17), schedule(10 * end + 12345)} == {last}


@settings(max_examples=200, deadline=None)
@given(schedules, schedules, st.integers(0, 50), st.integers(1, 20))
def test_what_joining_does(a: Schedule, b: Schedule, at: int, n: int) -> None:
    again = b.then(constant(b(n), steps=3), at=n)
    for t in range(0, 80):
        assert a.then(b, at=at)(t) == (a(t) if t < at else b(t - at))
        assert (a * b)(t) == a(t) * b(t)
        assert (0.3 * a)(t) == (a * 0.3)(t) == 0.3 * a(t)
        assert a.clip(0.1, 0.4)(t) == min(max(a(t), 0.1), 0.4)
        assert a.clip(low=0.1)(t) == max(a(t), 0.1)
        assert a.clip(high=0.4)(t) == min(a(t), 0.4)
        assert a.shift(at)(t) == a(max(t - at, 0))
        assert a.shift(-at)(t) == a(t + at)
        assert a.per_epoch(n)(t) == a(t // n)
        assert a.per_epoch(n, smooth=True)(t) == a(t / n)
        period = n + 3
        assert again.repeat()(t) == again(t % period)
        assert again.repeat(2)(t) == again(t % period if t < 2 * period else period)
        assert again.repeat(2.5)(t) == again(t % period if t < 2.5 * period else 0.5 * period)
    if has_end(a):
        assert [a.then(b)(math.ceil(a.length) + t) for t in range(20)] == [
            b(math.ceil(a.length) - a.length + t) for t in range(20)
        ]


@settings(max_examples=300, deadline=None)
@given(schedules, schedules)
def test_as_a_value(schedule: Schedule, other: Schedule) -> None:
    copies = [
        from_json(json.loads(json.dumps(schedule.to_json(), allow_nan=False))),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        copy.copy(schedule),
    ]
    for twin in copies:
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert repr(from_json(twin.to_json())) == repr(from_json(schedule.to_json()))
        assert [twin(t) for t in range(0, 150, 7)] == [schedule(t) for t in range(0, 150, 7)]
    assert (schedule == other) == (schedule.to_json() == other.to_json())
    assert schedule != 2 * schedule
    with pytest.raises(AttributeError):
        schedule.steps = 1  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None)
@given(schedules)
def test_a_jax_array_compiled_or_not(schedule: Schedule) -> None:
    jax = pytest.importorskip("jax")
    steps = jax.numpy.arange(150)
    plain, compiled = schedule(steps), jax.jit(schedule)(steps)
    expected = schedule(np.arange(150))
    for values in (plain, compiled):
        assert isinstance(values, jax.Array)
        assert values.dtype == np.float32
        # JAX computes in float32, in which the tail of a cosine has few bits left; a step too early or late is 1 % or more.
        np.testing.assert_allclose(values, expected, rtol=3e-3, atol=1e-30 + 1e-5 * np.abs(expected).max())


def test_a_jax_array_changes_at_the_same_steps() -> None:
    """A period of these is not 1 in float32 where it is multiplied by its reciprocal, as JAX does with what is constant."""
    jax = pytest.importorskip("jax")
    steps, parts = np.arange(500), []
    for n in (41, 55, 97):
        assert np.float32(n) * (np.float32(1) / np.float32(n)) < 1
        parts += [step(0.5, n), constant(0.5, n).then(constant(1.0, n)).repeat(), triangular(n / 2, mode="triangular2")]
        parts += [multistep([1, 4]).per_epoch(n), multistep([1, 4]).per_epoch(n, smooth=True), polynomial(n, 0.1)]
        parts += [cosine_restarts(n, multiplier) for multiplier in (1, 2, 3)]
    compiled = jax.jit(lambda t: [part(t) for part in parts])(steps)
    for part, values in zip(parts, compiled, strict=True):
        np.testing.assert_allclose(values, part(steps), rtol=1e-3, atol=1e-6)


def test_one_step_within_a_compiled_function() -> None:
    jax = pytest.importorskip("jax")
    schedule = 3e-4 * warmup(10).then(cosine(90, 0.1))
    compiled = jax.jit(schedule)
    for t in (0, 5, 10, 55, 1000):
        value = compiled(jax.numpy.int32(t))
        assert value.shape == ()
        assert float(value) == pytest.approx(schedule(t), rel=1e-5, abs=1e-10)


def test_numbers_of_numpy_are_numbers() -> None:
    assert repr(np.float64(0.5) * cosine(np.int64(5), end=np.float32(0.5))) == "0.5 * cosine(5, end=0.5)"
    assert repr(cosine(5) * np.float32(0.25)) == "0.25 * cosine(5)"
    assert multistep(np.array([1, 2])) == multistep([1, 2])
    assert cosine(10)(np.int32(5)) == pytest.approx(0.5)


def test_the_deepest_schedule_is_a_value_as_any_other() -> None:
    deepest = nested(149, lambda a: a.then(cosine(3)))
    assert deepest == from_json(deepest.to_json()) == pickle.loads(pickle.dumps(deepest)) == copy.deepcopy(deepest)
    assert hash(deepest) == hash(copy.copy(deepest))
    assert deepest.length == 450
    assert len(repr(deepest)) > 149 * 10
    with pytest.raises(ValueError, match="nested at most 150 deep"):
        copy.deepcopy(deepest).shift(1)


def test_unit_and_is_rate() -> None:
    factor, rate = warmup(5).then(cosine(10)), 3e-4 * warmup(5).then(cosine(10))
    assert (factor.unit, factor.is_rate) == (1.0, False)
    assert (rate.unit, rate.is_rate) == (3e-4, True)
    assert (rate * factor).shift(3).clip(high=1).per_epoch(2).repeat().unit == 3e-4
    assert (0.1 * warmup(5)).then(0.2 * cosine(10)).unit == 0.2


def triple(t: Any) -> Any:
    return 3.0 * t


def test_from_function() -> None:
    schedule = from_function(triple, steps=10)
    assert (schedule(4), schedule(10), schedule(99), schedule.length) == (12.0, 30.0, 30.0, 10)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert repr(schedule) == "from_function(triple, steps=10)"
    with pytest.raises(TypeError, match=r"triple.*Python function"):
        (3 * schedule).to_json()


# ---- what they refuse


def nested(times: int, join: Callable[[Schedule], Schedule]) -> Schedule:
    schedule: Schedule = cosine(3)
    for _ in range(times):
        schedule = join(schedule)
    return schedule


REFUSED: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "steps-zero": (lambda: cosine(0), ("cosine", "steps", "above 0", "got 0")),
    "steps-text": (lambda: linear("9"), ("linear", "steps", "finite number", "'9'")),  # type: ignore[arg-type]
    "steps-true": (lambda: warmup(True), ("warmup", "steps", "finite number", "True")),
    "steps-nan": (lambda: polynomial(math.nan), ("polynomial", "steps", "finite number", "nan")),
    "steps-infinite": (lambda: inverse_sqrt(math.inf), ("inverse_sqrt", "steps", "finite number", "inf")),
    "steps-huge": (lambda: warmup(10**400), ("warmup", "steps", "finite number")),
    "value-nan": (lambda: constant(math.nan), ("constant", "value", "finite number", "nan")),
    "constant-steps": (lambda: constant(1.0, -1), ("constant", "steps", "0 or above", "-1")),
    "power": (lambda: polynomial(10, 0), ("polynomial", "power", "above 0")),
    "rate": (lambda: exponential(-0.5), ("exponential", "rate", "above 0", "-0.5")),
    "staircase": (
        lambda: inverse_time(0.5, 10, "no"),  # type: ignore[arg-type]
        ("inverse_time", "staircase", "True or False", "'no'"),
    ),
    "decay": (lambda: power(0), ("power", "decay", "above 0")),
    "every": (lambda: step(0.5, 0), ("step", "every", "above 0")),
    "milestones": (lambda: multistep([20, 10]), ("multistep", "milestones", "rising", "[20, 10]")),
    "milestones-text": (lambda: multistep("ab"), ("multistep", "milestones", "list of finite numbers")),  # type: ignore[arg-type]
    "values": (lambda: piecewise([1, 2], [1.0, 2.0]), ("piecewise", "values", "3 numbers", "one more")),
    "exponent": (lambda: cosine(10, 0.0, 0.0), ("cosine", "exponent", "above 0")),
    "multiplier": (lambda: cosine_restarts(10, 0.5), ("cosine_restarts", "multiplier", "1 or above", "0.5")),
    "peak-at": (lambda: one_cycle(10, 1.5), ("one_cycle", "peak_at", "at most 1", "1.5")),
    "peak-at-three": (
        lambda: one_cycle(10, 0.7, three_phase=True),
        ("one_cycle", "peak_at", "at most 0.5", "0.7"),
    ),
    "mode": (
        lambda: triangular(5, mode="triangle"),
        ("triangular", "mode", "'triangular'", "'triangular2'", "'exp_range'", "'triangle'"),
    ),
    "down": (lambda: triangular(5, 0), ("triangular", "down", "above 0")),
    "trapezoid-warmup": (lambda: trapezoid(10, 11), ("trapezoid", "warmup", "from 0 to steps=10", "11")),
    "trapezoid-decay": (lambda: trapezoid(10, 4, 7), ("trapezoid", "decay", "from 0 to the 6 steps", "7")),
    "shape": (lambda: warmup(10, shape="quick"), ("warmup", "shape", "'linear'", "'exponential'", "'quick'")),
    "start": (lambda: warmup(10, shape="exponential"), ("warmup", "start", "above 0")),
    "untuned": (lambda: warmup.untuned(1.0), ("warmup.untuned", "beta2", "1.0")),
    "function": (lambda: from_function(0.5), ("from_function", "function", "callable", "0.5")),  # type: ignore[arg-type]
    "then-level": (lambda: constant(0.5).then(cosine(10)), ("then", "constant(value=0.5)", "no length", "at=")),
    "then-endless": (
        lambda: (0.1 * exponential(0.9)).then(cosine(10)),
        ("then", "0.1 * exponential(0.9)", "no length", "at="),
    ),
    "then-level-twice": (
        lambda: warmup(5).then(constant()).then(linear(3)),
        ("then: constant() has no length", "at="),
    ),
    "then-at": (lambda: warmup(5).then(cosine(10), at=-1), ("then", "at", "0 or above", "-1")),
    "then-number": (lambda: warmup(5).then(1.0), ("then", "second", "schedule", "1.0")),  # type: ignore[arg-type]
    "repeat-endless": (lambda: triangular(5).repeat(), ("repeat", "triangular(5)", "no end")),
    "repeat-level": (lambda: warmup(5).then(constant()).repeat(2), ("repeat: constant() has no end",)),
    "repeat-times": (lambda: warmup(5).repeat(0), ("repeat", "times", "above 0")),
    "clip": (lambda: warmup(5).clip(1.0, 0.5), ("clip", "low", "high=0.5", "1.0")),
    "per-epoch": (lambda: warmup(5).per_epoch(0), ("per_epoch", "steps", "above 0")),
    "shift": (lambda: warmup(5).shift(math.nan), ("shift", "steps", "finite")),
    "apart": (lambda: linear(5, -1e308, 1e308), ("linear", "end", "1.8e+308 away from start=-1e+308", "got 1e+308")),
    "multiplier-huge": (lambda: cosine_restarts(10, 1e31), ("cosine_restarts", "multiplier", "at most 1e30", "1e+31")),
    "nested": (lambda: nested(150, lambda a: a.then(cosine(3))), ("then", "nested at most 150 deep", "piecewise")),
    "nested-text": (lambda: nested(2000, lambda a: a.clip()), ("clip", "nested at most 150 deep")),
    "joined": (lambda: nested(40, lambda a: a * a), ("product", "at most 1000 others", "not 1023")),
    "scaled": (lambda: math.nan * warmup(5), ("scaled", "number", "finite", "nan")),
}


ENDLESS = {
    "then": lambda: warmup(5).then(constant()),
    "then-at": lambda: cosine(9).then(constant(0.5), at=5),
    "first": lambda: warmup(2).then(warmup(3).then(constant())),
    "number": lambda: 0.1 * warmup(5).then(constant()),
    "part": lambda: warmup(5).then(0.1 * constant()),
    "product": lambda: warmup(5).then(constant() * constant(0.5)),
    "longer": lambda: warmup(5).then(constant()) * linear(4, 1.0, 0.5),
    "clip": lambda: warmup(5).then(constant()).clip(0.1),
    "shift": lambda: warmup(3).then(constant()).shift(2),
    "later": lambda: constant().shift(5),
    "per_epoch": lambda: (1.0 * warmup(5).then(constant())).per_epoch(1),
    "plateau": lambda: warmup(5).then(adamas.schedules.Plateau()),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_part_without_a_length_at_the_end_is_never_dropped(name: str) -> None:
    schedule = ENDLESS[name]()
    assert schedule.length == 5
    with pytest.raises(ValueError, match=r"then: .* has no length: give the step at which the next one begins \(at=\)"):
        schedule.then(linear(10))
    with pytest.raises(ValueError, match="has no end, so it cannot be repeated"):
        schedule.repeat()
    with pytest.raises(ValueError, match="has no length"):
        from_json({"kind": "then", "first": schedule.to_json(), "second": linear(10).to_json()})
    later = schedule.then(linear(10), at=7)
    assert [later(t) for t in (6, 7, 12)] == [schedule(6), 1.0, 0.5]


@pytest.mark.parametrize(
    "schedule",
    [
        warmup(5) * constant(0.5),
        warmup(5) * adamas.schedules.Plateau(),
        warmup(5) * warmup(2).then(constant()),
        warmup(2).then(constant()) * linear(5, end=0.5),
        warmup(2).then(constant(steps=3)),
        constant(steps=2).repeat(2.5),
    ],
    ids=str,
)
def test_a_schedule_that_ends_is_followed(schedule: Schedule) -> None:
    assert schedule.length == 5
    assert schedule.then(linear(10))(10) == 0.5
    assert schedule.repeat()(5) == schedule(0)


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_names_the_schedule_and_the_argument(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(ValueError, match=r"must be|no length|no end|at most") as error:
        make()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("what", ["x", None, [1], torch.tensor(3)], ids=["text", "none", "list", "tensor"])
def test_only_numbers_and_arrays_are_steps(what: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(what).__name__}"):
        cosine(10)(what)


def test_only_numbers_and_schedules_are_multiplied() -> None:
    for what in ("2", None, [2], np.ones(3)):
        with pytest.raises(TypeError):
            cosine(10) * what  # type: ignore[operator]
        with pytest.raises(TypeError):
            what * cosine(10)  # type: ignore[operator]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "steps", "first", "second", "schedule", "number", "milestones", "at", "x"]),
            inner | st.sampled_from(sorted(Schedule._registry)),
            max_size=4,
        )
    ),
    max_leaves=8,
)
RUBBISH: list[Any] = [
    [],
    "cosine(10)",
    None,
    3.0,
    {},
    {"steps": 10},
    {"kind": "cosinus", "steps": 10},
    {"kind": ["cosine"], "steps": 10},
    {"kind": "cosine"},
    {"kind": "cosine", "steps": 10, "stop": 0.1},
    {"kind": "cosine", "steps": "10"},
    {"kind": "cosine", "steps": [10]},
    {"kind": "cosine", "steps": 10**400},
    {"kind": "cosine", "steps": {"kind": "cosine", "steps": 10}},
    {"kind": "_ofsteps"},
    {"kind": "observed"},
    {"kind": "scaled", "number": 0.1, "schedule": 1.0},
    {"kind": "then", "first": {"kind": "warmup", "steps": 5}, "second": [10]},
    {"kind": "exponential", "rate": 0.5, "staircase": []},
    {"kind": "multistep", "milestones": [{}]},
    {"kind": "from_function", "function": "print"},
    {"kind": "cosine", "steps": 10, 3: 4},
]


@pytest.mark.parametrize("value", RUBBISH, ids=str)
def test_from_json_refuses_rubbish(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(value)


@settings(max_examples=300, deadline=None)
@given(plain)
def test_from_json_raises_nothing_but_value_errors(value: Any) -> None:
    try:
        schedule = from_json(value)
    except ValueError:
        return
    assert math.isfinite(schedule(5))
    assert isinstance(hash(schedule), int)


def test_from_json_of_something_endlessly_deep() -> None:
    value: dict[str, Any] = {"kind": "cosine", "steps": 5}
    for _ in range(5000):
        value = {"kind": "scaled", "number": 1.0, "schedule": value}
    with pytest.raises(ValueError, match="not a schedule"):
        from_json(value)


def test_importing_them_loads_no_framework() -> None:
    program = (
        "import sys, adamas.schedules as s; s.cosine(5)(3); s.from_json(s.cosine(5).to_json());"
        "print(*{'torch', 'jax', 'keras', 'optax', 'tensorflow', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_the_examples_in_the_docstrings() -> None:
    from adamas.schedules import schedule, shapes

    results = [doctest.testmod(module) for module in (adamas.schedules, schedule, shapes)]
    assert results[0].attempted
    assert not any(result.failed for result in results)


def test_the_page_of_schedules_shows_what_there_is() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    script = runpy.run_path(str(docs / "plot_schedules.py"))
    page = (docs / "schedules.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"images/schedules/(\w+)\.png", page))
    assert shown == script["PICTURES"].keys() == {path.stem for path in script["FOLDER"].glob("*.png")}
    assert ALONE.keys() | {"from_function", "then", "times", "clip", "shift", "per_epoch", "repeat"} == shown
    for texts in script["PICTURES"].values():
        for text in texts:
            assert 0 <= script["schedule"](text)(60) <= 1
    for name in adamas.schedules.__all__:
        assert f"`{name}" in page
    model = torch.nn.Linear(3, 2)
    names = {"model": model, "loss": model(torch.ones(1, 3)).sum(), "epochs": 3}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(code, names)
    assert names["plateau"].factor == 0.5
