"""Schedules inside the optimizers and beside others', and that nothing is lost on resume.

Traps T09 to T14, T18, T19, T24 and T36 of the list of known traps.
"""

from __future__ import annotations

import copy
import doctest
import io
import itertools
import json
import math
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from members import WITH_FACTORED, Case

import adamas.numpy as an
import adamas.torch as at
from adamas.schedules import (
    Feedback,
    Plateau,
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    from_function,
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

SCHEDULES = [
    constant(0.5),
    linear(20),
    polynomial(20, power=2.0),
    exponential(0.9),
    exponential(0.5, every=4, staircase=True),
    inverse_time(0.1),
    power(0.95),
    step(0.5, every=5),
    multistep([3, 9, 14]),
    piecewise([5, 12], [1.0, 0.3, 0.1]),
    cosine(20, end=0.1),
    cosine_restarts(4, multiplier=2.0, height=0.5),
    one_cycle(24),
    triangular(5),
    inverse_sqrt(4),
    trapezoid(20, warmup=4, decay=6, shape="sqrt"),
    warmup(8),
    warmup.untuned(0.9),
    warmup(5).then(cosine(10)).repeat(2),
    warmup(6) * exponential(0.9),
    cosine(4).per_epoch(5).clip(low=0.2),
    warmup(3).then(linear(4).then(constant(0.3), at=2)).shift(2),
]
STEPS, SAVED_AT = 24, 9


def parameter(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((3,), value))


def moved(optimizer: torch.optim.Optimizer) -> float:
    """Makes a step with gradients of 1; returns the rate that it had."""
    rate = float(optimizer.param_groups[0]["lr"])
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return rate


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# ---- the optimizers' own


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_rate_of_each_step_is_the_schedules(schedule: Schedule) -> None:
    p = parameter()
    optimizer = at.SGD([p], lr=0.1 * schedule)
    for t in range(STEPS):
        assert optimizer.param_groups[0]["lr"] == optimizer.lr_at(t) == 0.1 * schedule(t)
        before = p.detach().clone()
        moved(optimizer)
        assert torch.allclose(before - p.detach(), torch.full((3,), 0.1 * schedule(t)), atol=1e-6)


@pytest.mark.parametrize("load", ["before the first step", "into a used optimizer"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_trap_T09_the_rate_goes_on_after_resume(schedule: Schedule, load: str) -> None:
    uninterrupted = at.AdamW([parameter()], lr=1e-2 * schedule)
    rates = [moved(uninterrupted) for _ in range(STEPS)]

    first = at.AdamW([parameter()], lr=1e-2 * schedule)
    for _ in range(SAVED_AT):
        moved(first)
    saved = through_a_file(first.state_dict())
    second = at.AdamW([parameter()], lr=1e-2 * schedule)
    if load == "into a used optimizer":
        for _ in range(3):
            moved(second)
    second.load_state_dict(saved)
    assert second.param_groups[0]["lr"] == rates[SAVED_AT]
    assert [moved(second) for _ in range(STEPS - SAVED_AT)] == rates[SAVED_AT:]


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_every_member_takes_a_schedule(case: Case) -> None:
    schedule = case.options["lr"] * warmup(4).then(cosine(8))
    scheduled, by_hand = parameter(), parameter()
    one = case.make([scheduled], **{**case.options, "lr": schedule})
    other = case.make([by_hand], **case.options)
    for t in range(12):
        other.param_groups[0]["lr"] = schedule(t)
        moved(one), moved(other)
        assert torch.equal(scheduled, by_hand)


def test_trap_T10_the_horizon_may_change_on_resume() -> None:
    first = at.Adam([parameter()], lr=1e-2 * cosine(10))
    for _ in range(5):
        moved(first)
    for hyperparameters in ("saved", "given"):
        second = at.Adam([parameter()], lr=1e-2 * cosine(100))
        second.load_state_dict(first.state_dict(), hyperparameters=hyperparameters)
        assert moved(second) == 1e-2 * cosine(100)(5)
    unscheduled = at.Adam([parameter()], lr=1.0)
    unscheduled.load_state_dict(first.state_dict())
    assert moved(unscheduled) == 1e-2 * cosine(10)(5)


@pytest.mark.parametrize("make", [lambda **o: at.AdamW([parameter()], **o), lambda **o: an.AdamW([np.ones(3)], **o)])
def test_a_refused_value_says_that_a_schedule_is_possible_and_how_to_make_it(make: Callable[..., Any]) -> None:
    for name in ("lr", "weight_decay", "betas"):
        as_option = (lambda value: (value, 0.99)) if name == "betas" else (lambda value: value)
        for value, ending in {
            "1e-3 * warmup(10)": ": adamas.schedules.parse reads a schedule from text",
            math.exp: ": adamas.schedules.from_function makes a schedule of a function of the step",
            cosine: "",
            (): "",
        }.items():
            words = re.escape(f" or a schedule, not {value!r}{ending}")
            with pytest.raises((TypeError, ValueError), match=rf"^{name}(\[0\])? must be .*{words}$"):
                make(**{name: as_option(value)})
    with pytest.raises((TypeError, ValueError), match=r"^eps must be a (nonnegative )?number, not 'x'$"):
        make(eps="x")


@pytest.mark.parametrize(
    "make", [lambda c, **o: getattr(at, c)([parameter()], **o), lambda c, **o: getattr(an, c)([np.ones(3)], **o)]
)
@pytest.mark.parametrize(
    ("member", "given", "meant"),
    [
        ("AdamW", "learning_rate", ": did you mean lr?"),
        ("AdamW", "beta1, beta2, epsilon", ": did you mean betas, eps?"),
        ("AdamW", "beta_1, b2", ": did you mean betas?"),
        ("AdamW", "Weight_Decay, zzz", ": did you mean weight_decay?"),
        ("AdamW", "on_spikes", ": did you mean on_spike?"),
        ("RMSprop", "rho", ": did you mean alpha?"),
        ("AdamW", "zzz", ""),
    ],
)
def test_an_unknown_option_has_the_nearest_beside_it(
    make: Callable[..., Any], member: str, given: str, meant: str
) -> None:
    names = sorted(given.split(", "))
    with pytest.raises(TypeError, match=f"^{member} has no option {re.escape(', '.join(names) + meant)}$"):
        make(member, **dict.fromkeys(names, 0.5))


def test_an_unknown_option_of_a_group_has_the_nearest_beside_it() -> None:
    with pytest.raises(TypeError, match=r"^AdamW has no option learning_rate: did you mean lr\?$"):
        an.AdamW([{"params": [np.ones(3)], "learning_rate": 0.5}])


def test_after_a_schedule_that_ended_at_0_a_new_phase_needs_the_given_rate() -> None:
    first = at.AdamW([parameter()], lr=1e-2 * cosine(10))
    for _ in range(10):
        moved(first)
    for hyperparameters, rate in (("saved", 0.0), ("given", 1e-3)):
        second = at.AdamW([parameter()], lr=1e-3)
        second.load_state_dict(first.state_dict(), hyperparameters=hyperparameters)
        assert (moved(second), second.param_groups[0]["lr"]) == (rate, rate)


def test_trap_T11_any_nesting_and_any_boundary() -> None:
    inner = constant(1.0).then(linear(3).then(constant(0.5, steps=2)), at=0)
    schedule = warmup(2).then(inner, at=0).then(constant(0.1))
    assert [schedule(t) for t in range(7)] == [1.0, 1 - 1 / 3, 1 - 2 / 3, 0.5, 0.5, 0.1, 0.1]


def test_trap_T12_warmup_decay_and_plateau_multiply() -> None:
    plateau = Plateau(factor=0.5, patience=0)
    optimizer = at.Adam([parameter()], lr=1e-2 * warmup(2).then(cosine(10)) * plateau)
    rates = []
    for t in range(6):
        rates.append(moved(optimizer))
        plateau.observe(1.0 if t else 2.0)
    shape = warmup(2).then(cosine(10))
    assert rates == pytest.approx([1e-2 * shape(t) * f for t, f in enumerate((1, 1, 1, 0.5, 0.25, 0.125))])


def test_trap_T14_groups_are_added_at_any_time() -> None:
    optimizer = at.Adam([parameter()], lr=1e-2 * cosine(10))
    for _ in range(4):
        moved(optimizer)
    optimizer.add_param_group({"params": [parameter()]})
    optimizer.add_param_group({"params": [parameter()], "lr": 1e-3 * linear(10)})
    optimizer.add_param_group({"params": [parameter()], "lr": 0.5})
    for t in range(4, 8):
        expected = [1e-2 * cosine(10)(t)] * 2 + [1e-3 * linear(10)(t), 0.5]
        assert [group["lr"] for group in optimizer.param_groups] == expected
        moved(optimizer)


def test_trap_T18_the_rate_that_was_given_counts() -> None:
    first = at.AdamW([parameter()], lr=1.0, weight_decay=0.5)
    moved(first)
    second = at.AdamW([parameter()], lr=1e-2 * constant(), weight_decay=0.1 * constant())
    second.load_state_dict(first.state_dict())
    assert (second.param_groups[0]["lr"], second.param_groups[0]["weight_decay"]) == (1e-2, 0.1)


def test_trap_T19_betas_change_only_when_asked() -> None:
    optimizer = at.AdamW([parameter()], lr=1e-2 * one_cycle(10))
    for _ in range(15):  # and beyond its end
        moved(optimizer)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert optimizer.lr_at(15) == optimizer.lr_at(10**9)

    optimizer = at.AdamW([parameter()], betas=(linear(10, start=0.95, end=0.85), 0.99))
    seen = []
    for _ in range(12):
        seen.append(optimizer.param_groups[0]["betas"])
        moved(optimizer)
    assert seen == [(pytest.approx(0.95 - 0.01 * min(t, 10)), 0.99) for t in range(12)]


def test_trap_T23_asking_for_the_state_moves_nothing_and_the_schedule_goes_on() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def make() -> tuple[torch.nn.Module, at.AdamW]:
        model = torch.nn.Linear(3, 2)
        return model, at.AdamW(model.parameters(), lr=1e-2 * linear(10), weight_decay=0.5)

    model, optimizer = make()
    before = copy.deepcopy(model.state_dict())
    get_optimizer_state_dict(model, optimizer)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [moved(optimizer) for _ in range(3)] == [optimizer.lr_at(step) for step in range(3)]

    saved = get_optimizer_state_dict(model, optimizer)
    other_model, other = make()
    set_optimizer_state_dict(other_model, other, saved)
    assert [moved(other) for _ in range(3)] == [moved(optimizer) for _ in range(3)]


@pytest.mark.parametrize("resumed", [False, True])
def test_trap_T24_independent_decay_follows_the_factor_alone(resumed: bool) -> None:
    p = parameter()
    optimizer = at.AdamW([p], lr=1e-3 * linear(10), weight_decay=0.1, decay="independent")
    if resumed:  # from one with another rate
        optimizer.load_state_dict(at.AdamW([p], lr=1.0, weight_decay=0.1, decay="independent").state_dict())
    for t in range(10):
        before = p.detach().clone()
        p.grad = torch.zeros_like(p)
        optimizer.step()
        torch.testing.assert_close(p.detach(), before * (1 - 0.1 * linear(10)(t)))


@pytest.mark.parametrize("how", ["overflow", "non-finite gradient"])
def test_trap_T36_a_skipped_step_does_not_advance_the_schedule(how: str) -> None:
    p = parameter()
    optimizer = at.Adam([p], lr=1e-2 * linear(10), on_nonfinite="skip")
    moved(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    if how == "overflow":
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale((p * float("inf")).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    else:
        p.grad = torch.full_like(p, math.nan)
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == rate == 1e-2 * linear(10)(1)
    assert moved(optimizer) == rate


def test_weight_decay_and_norm_take_schedules_and_show_numbers() -> None:
    decay, norm = 0.1 * linear(4), 2.0 * piecewise([3], [1.0, 0.25])
    optimizer = at.AdamW([{"params": [parameter()], "weight_decay": decay}], max_grad_norm=norm, decay="l2")
    for t in range(6):
        group = optimizer.param_groups[0]
        assert (group["weight_decay"], group["max_grad_norm"]) == (decay(t), norm(t))
        assert all(not isinstance(value, Schedule) for value in group.values())
        moved(optimizer)
        assert optimizer.grad_norm_limit == norm(t)


def test_an_optimizer_with_schedules_is_copied_and_pickled() -> None:
    plateau = Plateau(patience=0)
    optimizer = at.Adam([parameter()], lr=1e-2 * linear(10) * plateau)
    moved(optimizer)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert moved(other) == 1e-2 * linear(10)(1)
        assert "schedules" not in other.state_dict()["param_groups"][0]
    plateau.observe(1.0), plateau.observe(1.0)
    assert optimizer.lr_at(1) == pytest.approx(1e-3 * linear(10)(1))


def test_state_dict_has_numbers_alone_and_torch_loads_it() -> None:
    optimizer = at.AdamW([parameter()], lr=1e-2 * cosine(10) * Plateau(), betas=(0.9, linear(5, start=0.9, end=0.99)))
    seen = []
    optimizer.register_state_dict_post_hook(lambda _, state: seen.append(list(state["param_groups"][0])))
    moved(optimizer)
    saved = through_a_file(optimizer.state_dict())
    assert "schedules" not in saved["param_groups"][0]
    assert "schedules" not in seen[0]
    theirs = torch.optim.AdamW([parameter()])
    theirs.load_state_dict(saved)
    assert theirs.param_groups[0]["lr"] == 1e-2 * cosine(10)(1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: at.Adam(p, lr=linear(5, start=-1.0)), "lr must be a nonnegative number, but linear"),
        (lambda p: at.Adam(p, betas=(0.9, constant(1.0))), r"betas\[1\] must be from 0 up to but not including 1"),
        (lambda p: at.Adam(p, eps=1e-8 * constant()), "eps cannot be a schedule; these can: lr, betas, weight_decay"),
        (lambda p: at.Adam(p, max_grad_norm="often"), "max_grad_norm must be above 0, \"auto\" or None, not 'often'"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[list[torch.nn.Parameter]], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make([parameter()])


def test_two_masters_are_an_error() -> None:
    optimizer = at.Adam([parameter()], lr=1e-2 * cosine(10))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.5
    says = r"lr is given by .* and was set to 0.5 by something else .* adamas.torch.LRScheduler\(optimizer\)"
    with pytest.raises(ValueError, match=says):
        moved(optimizer)


@pytest.mark.parametrize(
    "make", [at.Adam, at.Adafactor, at.AdamWScheduleFree, at.Muon, at.Prodigy], ids=attrgetter("__name__")
)
@pytest.mark.parametrize(
    "given",
    [lambda t: 0.1, None, "fast", [0.1], 0.5 * linear(10)],
    ids=["function", *map(repr, (None, "text", [0.1])), "schedule"],
)
def test_what_is_not_a_number_is_refused_by_the_step_and_nothing_is_changed(make: Any, given: Any) -> None:
    first, second = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = make([{"params": [first]}, {"params": [second]}], lr=0.1)
    for p in (first, second):
        p.grad = torch.ones(4, 4)
    optimizer.step()
    before = copy.deepcopy((first, second, optimizer.state[first], optimizer.state[second]))
    optimizer.param_groups[1]["lr"] = given
    says = rf"lr of a parameter group must be a number, not {re.escape(repr(given))}: only the constructor and add_param_group"
    with pytest.raises(TypeError, match=says):
        optimizer.step()
    torch.testing.assert_close((first, second, optimizer.state[first], optimizer.state[second]), before, rtol=0, atol=0)
    optimizer.param_groups[1]["lr"] = 0.1
    optimizer.step()
    assert not torch.equal(second, before[1])


# ---- beside other optimizers


@pytest.mark.parametrize("order", ["OBS", "BOS", "BSO", "BS"])
@pytest.mark.parametrize("rate", [False, True], ids=["factor", "rate"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_trap_T09_a_scheduler_goes_on_in_every_order_of_resume(schedule: Schedule, rate: bool, order: str) -> None:
    given = 0.1 * schedule if rate else schedule

    def make() -> torch.optim.Optimizer:
        return torch.optim.AdamW([parameter()], lr=0.1)

    def run(optimizer: torch.optim.Optimizer, scheduler: at.LRScheduler, steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            rates.append(moved(optimizer))
            scheduler.step()
        return rates

    optimizer = make()
    rates = run(optimizer, at.LRScheduler(optimizer, given), STEPS)
    assert rates == pytest.approx([0.1 * schedule(t) for t in range(STEPS)])

    optimizer = make()
    scheduler = at.LRScheduler(optimizer, given)
    run(optimizer, scheduler, SAVED_AT)
    saved, saved_scheduler = through_a_file(optimizer.state_dict()), through_a_file(scheduler.state_dict())

    optimizer = make()
    for what in order:
        if what == "O":
            optimizer.load_state_dict(saved)
        elif what == "B":
            scheduler = at.LRScheduler(optimizer, given)
        else:
            scheduler.load_state_dict(saved_scheduler)
    assert scheduler.get_last_lr() == [rates[SAVED_AT]]
    assert run(optimizer, scheduler, STEPS - SAVED_AT) == rates[SAVED_AT:]


def test_trap_T10_a_schedulers_horizon_may_change_on_resume() -> None:
    def make(steps: int) -> tuple[torch.optim.Optimizer, at.LRScheduler]:
        optimizer = torch.optim.SGD([parameter()], lr=0.1)
        return optimizer, at.LRScheduler(optimizer, cosine(steps))

    optimizer, scheduler = make(10)
    for _ in range(5):
        moved(optimizer)
        scheduler.step()
    for order in itertools.permutations((0, 1)):
        other, longer = make(100)
        for i in order:
            (other, longer)[i].load_state_dict((optimizer, scheduler)[i].state_dict())
        assert moved(other) == 0.1 * cosine(100)(5)


def test_trap_T14_a_group_added_beside_a_scheduler() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    scheduler = at.LRScheduler(optimizer, cosine(10))
    optimizer.add_param_group({"params": [parameter()], "lr": 0.01})
    moved(optimizer)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1 * cosine(10)(1), 0.01 * cosine(10)(1)]


@pytest.mark.parametrize("fused", [False, True])
def test_trap_T36_a_scheduler_waits_while_steps_overflow(fused: bool) -> None:
    p = parameter()
    optimizer = torch.optim.Adam([p], lr=0.1, fused=fused)
    scheduler = at.LRScheduler(optimizer, linear(10))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert scheduler.last_epoch == 2


def test_trap_T37_asking_for_the_state_is_no_step_to_a_scheduler() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # has no state: each time it is asked, it makes a step
    scheduler = at.LRScheduler(optimizer, linear(10))
    moved(optimizer)
    scheduler.step()
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    scheduler.step()  # as after a step that overflowed
    assert scheduler.last_epoch == 1
    moved(optimizer)
    scheduler.step()
    assert scheduler.last_epoch == 2


def test_a_scheduler_is_one_of_torchs_and_carries_the_plateau() -> None:
    plateau = Plateau(factor=0.5, patience=0)
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    scheduler = at.LRScheduler(optimizer, warmup(2) * plateau)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    for _ in range(4):
        moved(optimizer)
        scheduler.step()
        plateau.observe(1.0)
    assert plateau.value == 0.125
    again = Plateau(factor=0.5, patience=0)
    at.LRScheduler(torch.optim.SGD([parameter()], lr=0.1), warmup(2) * again).load_state_dict(scheduler.state_dict())
    assert (again.value, again.history) == (plateau.value, plateau.history)


# ---- for trainers that require a scheduler


def two_groups() -> at.AdamW:
    groups = [{"params": [parameter()], "lr": 1e-2 * warmup(3).then(cosine(7))}, {"params": [parameter()]}]
    return at.AdamW(groups, lr=1e-3 * linear(10))


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_scheduler_without_a_schedule_follows_the_optimizers(processes: int) -> None:
    alone, optimizer = two_groups(), two_groups()
    keys = [list(group) for group in optimizer.param_groups]
    scheduler = at.LRScheduler(optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    for t in range(12):
        expected = [optimizer.lr_at(t, group=i) for i in range(2)]
        assert scheduler.get_last_lr() == rates_of(optimizer) == expected
        moved(alone), moved(optimizer)
        assert (
            scheduler.get_last_lr() == expected
        )  # as with one of PyTorch, where a trainer logs before scheduler.step()
        for _ in range(processes):  # accelerate steps it once for each
            scheduler.step()
        scheduler._step_count += 1  # accelerate, while gradients accumulate
    assert [list(group) for group in optimizer.param_groups] == keys
    assert "step" not in vars(optimizer)
    for one, other in zip(alone.param_groups, optimizer.param_groups, strict=True):
        assert torch.equal(one["params"][0], other["params"][0])
    assert scheduler.last_epoch == 12 * processes


@pytest.mark.parametrize("order", ["OBS", "BOS", "BSO", "BO", "OB"])
def test_a_scheduler_that_follows_is_resumed_in_any_order(order: str) -> None:
    optimizer = two_groups()
    scheduler = at.LRScheduler(optimizer)
    for _ in range(4):
        moved(optimizer)
        scheduler.step()
    saved, saved_scheduler = through_a_file(optimizer.state_dict()), through_a_file(scheduler.state_dict())
    again = two_groups()
    for what in order:
        if what == "O":
            again.load_state_dict(saved)
        elif what == "B":
            other = at.LRScheduler(again)
        else:
            other.load_state_dict(saved_scheduler)
            assert other.last_epoch == 4
    for t in range(4, 8):
        assert other.get_last_lr() == rates_of(again) == [again.lr_at(t, group=i) for i in range(2)]
        moved(again)
        other.step()


def test_a_scheduler_that_follows_stands_still_where_a_step_is_skipped() -> None:
    p = parameter()
    optimizer = at.Adam([p], lr=0.1 * linear(10))
    scheduler = at.LRScheduler(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    rates = []
    for factor in (1.0, math.inf, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        rates += scheduler.get_last_lr()
    assert rates == [0.1 * linear(10)(t) for t in (1, 1, 1, 2)]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_the_copy_of_a_scheduler_that_follows_goes_on(how: Callable[[Any], Any]) -> None:
    optimizer = two_groups()
    scheduler = at.LRScheduler(optimizer)
    moved(optimizer)
    scheduler.step()
    other = how(scheduler)
    moved(other.optimizer)
    other.step()
    assert other.get_last_lr() == [optimizer.lr_at(2, group=i) for i in range(2)]
    assert scheduler.get_last_lr() == rates_of(optimizer) == [optimizer.lr_at(1, group=i) for i in range(2)]
    saved = copy.deepcopy(other.optimizer.state_dict())
    moved(other.optimizer)
    other.optimizer.load_state_dict(saved)
    assert other.get_last_lr() == [optimizer.lr_at(2, group=i) for i in range(2)]


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: it passes all on, and has not called the constructor that gives an optimizer its hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.wrapped = optimizer

    param_groups = property(lambda self: self.wrapped.param_groups)  # type: ignore[assignment]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.wrapped.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.wrapped.load_state_dict(state_dict)


@pytest.mark.parametrize("follows", [False, True])
def test_a_scheduler_of_an_optimizer_that_wraps_another(follows: bool) -> None:
    schedule = 0.1 * linear(10)

    def make() -> tuple[Wrapper, at.LRScheduler]:
        made: list[torch.optim.Optimizer] = [at.SGD([parameter()], lr=schedule)]
        if not follows:
            made = [torch.optim.SGD([parameter()], lr=1.0)]
        wrapper = Wrapper(Wrapper(*made))
        return wrapper, at.LRScheduler(wrapper) if follows else at.LRScheduler(wrapper, schedule)

    optimizer, scheduler = make()
    for t in range(4):
        assert moved(optimizer) == schedule(t)
        scheduler.step()
    resumed, other = make()
    other.load_state_dict(scheduler.state_dict())
    resumed.load_state_dict(optimizer.wrapped.wrapped.state_dict())  # type: ignore[attr-defined]
    assert other.get_last_lr() == [schedule(4)]
    assert moved(resumed) == schedule(4)
    if not follows:  # a step that did not happen is seen through the wrapper
        scheduler.step(), scheduler.step()
        assert scheduler.last_epoch == 4


def test_an_optimizer_without_hooks_is_refused() -> None:
    class Bare(torch.optim.Optimizer):
        def __init__(self) -> None:
            self.param_groups = [{"params": [parameter()], "lr": 0.1}]

    with pytest.raises(
        TypeError, match=r"Bare has no hooks: its constructor has to call that of torch\.optim\.Optimizer"
    ):
        at.LRScheduler(Bare(), linear(10))
    with pytest.raises(ValueError, match="has a schedule for its lr already"):
        at.LRScheduler(Wrapper(at.SGD([parameter()], lr=0.1 * linear(10))), linear(10))


def test_a_scheduler_of_torch_goes_on_from_what_was_followed_from_0() -> None:
    optimizer = at.AdamW([parameter()], lr=0.1 * warmup(5))
    at.LRScheduler(optimizer)
    theirs = torch.optim.AdamW([parameter()], lr=0.1)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 0.1
    theirs.load_state_dict(saved)
    torch.optim.lr_scheduler.LambdaLR(theirs, lambda t: 1.0)
    assert rates_of(theirs) == [0.1]


def test_a_scheduler_goes_on_from_the_state_of_one_of_torch() -> None:
    theirs = torch.optim.SGD([parameter()], lr=0.1)
    before = torch.optim.lr_scheduler.LambdaLR(theirs, lambda t: 1.0)
    for _ in range(3):
        moved(theirs)
        before.step()
    follower = at.LRScheduler(two_groups())
    follower.load_state_dict(before.state_dict())
    assert follower.last_epoch == 3
    scheduler = at.LRScheduler(torch.optim.SGD([parameter()], lr=0.1), linear(10))
    scheduler.load_state_dict(before.state_dict())
    assert scheduler.get_last_lr() == [0.1 * linear(10)(3)]


def test_a_scheduler_that_follows_takes_a_rate_without_a_schedule_and_a_tensor() -> None:
    optimizer = at.SGD([parameter()], lr=torch.tensor(0.5))
    scheduler = at.LRScheduler(optimizer)
    optimizer.param_groups[0]["lr"].fill_(0.25)
    assert scheduler.get_last_lr() == [0.5]
    scheduler.step()
    assert scheduler.get_last_lr() == [0.25]


def test_what_could_not_be_followed_is_refused() -> None:
    with pytest.raises(TypeError, match="SGD has no schedule that could be followed"):
        at.LRScheduler(torch.optim.SGD([parameter()], lr=0.1))


def test_the_scale_of_a_group_that_only_timm_reads_is_refused() -> None:
    """Layer-wise decay of timm: its own schedulers take it for rates that are numbers, and schedules would leave it out."""
    group = {"params": [parameter()], "lr_scale": 0.75}
    at.AdamW([dict(group)], lr=0.1)
    with pytest.raises(
        ValueError, match=r"lr_scale=0.75 .* is read by the schedulers of timm, .*: give .* 0.75 \* that one"
    ):
        at.AdamW([dict(group)], lr=0.1 * linear(10))
    with pytest.raises(ValueError, match=r"lr_scale=0.75 of a parameter group"):
        at.LRScheduler(torch.optim.SGD([dict(group)], lr=0.1), linear(10))
    theirs = torch.optim.AdamW([dict(group)], lr=0.1)
    moved(theirs)
    optimizer = at.AdamW([parameter()], lr=0.75 * linear(10))
    optimizer.load_state_dict(theirs.state_dict())
    assert moved(optimizer) == 0.75 * linear(10)(1)


def test_the_examples_of_the_scheduler_run() -> None:
    result = doctest.testmod(sys.modules["adamas.torch.lr_scheduler"])
    assert result.attempted
    assert not result.failed


def test_a_scheduler_refuses_what_is_no_schedule() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    with pytest.raises(TypeError, match="must be a schedule"):
        at.LRScheduler(optimizer, lambda t: 1.0)  # type: ignore[arg-type]
    for wrong in ([cosine(1), cosine(2)], []):
        with pytest.raises(ValueError, match=f"{len(wrong)} schedules for 1 groups"):
            at.LRScheduler(optimizer, wrong)


# ---- plateau


def observe(plateau: Plateau, values: list[float]) -> list[float]:
    return [plateau.observe(value) for value in values]


def test_trap_T13_nan_is_ignored_and_counted() -> None:
    plateau = Plateau(patience=1)
    assert observe(plateau, [1.0, math.nan, math.inf, math.nan, 1.0, -math.inf]) == [1.0] * 6
    assert plateau.ignored == 4
    assert plateau.observe(1.0) == 0.1


def test_trap_T13_recovery_from_a_spike_is_improvement() -> None:
    plateau = Plateau(patience=3)
    assert observe(plateau, [1.0, 0.5, 10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.8, 0.7, 0.6]) == [1.0] * 14
    assert observe(plateau, [0.6, 0.6, 0.6, 0.6])[-1] == 0.1


def test_trap_T13_a_recovery_that_pytorch_cuts_three_times() -> None:
    """The example of docs/schedules.md."""
    losses = [1, 2, 1.5, 1.4, 1.3, 1.2, 1.1]
    theirs = torch.optim.SGD([parameter()], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=1)
    for loss in losses:
        scheduler.step(loss)
    assert theirs.param_groups[0]["lr"] == 0.5**3
    assert observe(Plateau(factor=0.5, patience=1), losses) == [1.0] * 7


def test_trap_T13_the_sign_of_the_loss_does_not_matter() -> None:
    losses = [3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    for shift in (0.0, -1.0, -100.0):
        plateau = Plateau(patience=2)
        assert observe(plateau, [loss + shift for loss in losses])[5] == 0.1
    falling = Plateau(patience=0)
    assert observe(falling, [-1.0, -2.0, -3.0, -4.0]) == [1.0] * 4


def test_a_plateau_does_as_it_is_told() -> None:
    plateau = Plateau(factor=0.5, patience=1, cooldown=2, min_factor=0.2, mode="max")
    assert observe(plateau, [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]) == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]
    observe(plateau, [0.9] * 20)
    assert plateau.value == 0.2
    assert plateau.history[0] == (
        "observation 3: 1 → 0.5, 2 observations in a row did not improve on 0.9 (observation 1)"
    )
    assert len(plateau.history) == 3


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_history_counts_all_observations_since_the_best(patience: int, cooldown: int, mode: str) -> None:
    sign = 1 if mode == "min" else -1
    losses = [0.9, 0.5, 0.4, 0.3, 0.2608, 0.2715, 0.2610, 0.2619, 0.28, 0.27]
    losses += [0.2] * 13 + [0.1, 0.3, 0.2] + [0.15] * 10
    plateau = Plateau(factor=0.5, patience=patience, cooldown=cooldown, mode=mode)
    observe(plateau, [sign * loss for loss in losses])
    assert plateau.history
    for line in plateau.history:
        found = re.search(r"(\d+): .*, (\d+) observations? .*did not improve on (\S+) \(observation (\d+)\)$", line)
        assert found is not None
        cut, count, best, at = map(float, found.groups())
        before = losses[: int(cut)]
        assert (sign * best, at) == (min(before), before.index(min(before)) + 1)
        assert count == cut - at > patience


def test_a_recovery_that_ends_is_counted() -> None:
    plateau = Plateau(factor=0.5, patience=1)
    observe(plateau, [0.4, 0.3, 0.29, 0.28, 0.2608, 0.2715, 0.2610, 0.2619])
    assert plateau.history == (
        "observation 8: 1 → 0.5, 3 observations in a row did not improve on 0.2608 (observation 5)",
    )


def test_a_plateaus_state_travels_with_the_optimizer() -> None:
    def make() -> tuple[at.Adam, Plateau]:
        plateau = Plateau(factor=0.5, patience=2)
        return at.Adam([parameter()], lr=1e-2 * linear(100) * plateau), plateau

    losses = [1.0, 0.9, 0.9, 0.9, 0.9, math.nan, 0.8, 0.8, 0.8, 0.8, 0.8, 0.7]
    for cut in range(len(losses)):
        whole, plateau = make()
        rates = []
        for i, loss in enumerate(losses):
            if i == cut:
                saved = through_a_file(whole.state_dict())
            rates.append(moved(whole))
            plateau.observe(loss)
        resumed, again = make()
        resumed.load_state_dict(saved)
        for i in range(cut, len(losses)):
            assert moved(resumed) == rates[i]
            again.observe(losses[i])
        assert again.state_dict() == plateau.state_dict()


@pytest.mark.parametrize("through", ["as it is", "a file"])
@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("saved_with", ["schedules", "numbers"])
def test_trap_T10_distributed_checkpoints_go_on_with_the_schedules_that_are_given(
    saved_with: str, flatten: bool, through: str, tmp_path: Path
) -> None:
    from torch.distributed.checkpoint import load, save
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=flatten)

    def make(lr: Any, **schedules: Any) -> tuple[torch.nn.Module, at.AdamW]:
        model = torch.nn.Linear(3, 2)
        groups = [{"params": [model.weight], "lr": lr}, {"params": [model.bias]}]
        return model, at.AdamW(groups, lr=0.5, max_grad_norm="auto", **schedules)

    plateau = Plateau(factor=0.5, patience=0)
    if saved_with == "schedules":
        model, first = make(1e-2 * cosine(10) * plateau, betas=(0.9, linear(9, start=0.9, end=0.99)))
        plateau.observe(1.0), plateau.observe(1.0)
    else:
        model, first = make(1e-2)
    for _ in range(9):
        moved(first)
    saved = {"optimizer": get_optimizer_state_dict(model, first, options=options)}
    assert not any(isinstance(value, Schedule) for value in saved["optimizer"].values())

    again = Plateau(factor=0.5, patience=0)
    other, second = make(1e-2 * cosine(100) * again, weight_decay=1e-2 * constant())
    if through == "a file":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, that there is one process only
            save(saved, checkpoint_id=tmp_path)
            saved = {"optimizer": get_optimizer_state_dict(other, second, options=options)}
            load(saved, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, second, saved["optimizer"], options=options)
    assert again.state_dict() == (plateau.state_dict() if saved_with == "schedules" else Plateau().state_dict())
    assert second.param_groups[0]["grad_norms"] == first.param_groups[0]["grad_norms"] != ()
    assert moved(second) == 1e-2 * again.value * cosine(100)(9)
    assert second.param_groups[1]["lr"] == 0.5


def test_schedules_stay_with_their_groups() -> None:
    """Also where the dictionaries of groups are copied, replaced, reordered or removed."""
    rates = [1e-2 * linear(10), 2e-2 * linear(10), 3e-2]
    optimizer = at.SGD([{"params": [parameter()], "lr": rate} for rate in rates], lr=1.0)

    def now() -> list[float]:
        moved(optimizer)
        return [group["lr"] for group in optimizer.param_groups]

    one, two = (1e-2 * linear(10)(t) for t in (1, 2))
    assert now() == [one, 2 * one, 3e-2]
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    assert now() == pytest.approx([two, 2 * two, 3e-2])
    del optimizer.param_groups[0]
    optimizer.param_groups.reverse()
    assert now() == [3e-2, 2e-2 * linear(10)(3)]
    assert optimizer.schedules == [{}, {"lr": rates[1]}]
    optimizer.add_param_group({"params": [parameter()], "lr": 4e-2 * linear(10)})
    assert now() == [3e-2, 2e-2 * linear(10)(4), 4e-2 * linear(10)(4)]


def test_what_a_plateau_observed_is_read_from_the_groups() -> None:
    """Libraries that write a saved group into one that is there (ZeroRedundancyOptimizer) replace numbers and state."""

    def make() -> tuple[at.Adam, Plateau]:
        plateau = Plateau(factor=0.5, patience=0)
        return at.Adam([parameter()], lr=1e-2 * linear(100) * plateau), plateau

    (first, plateau), (second, again) = make(), make()
    for _ in range(3):
        moved(first)
        plateau.observe(1.0)
    (p,) = second.param_groups[0]["params"]
    second.state[p] = copy.deepcopy(first.state_dict()["state"][0])
    second.param_groups[0].update(
        {name: value for name, value in first.param_groups[0].items() if name not in ("params", "schedules")}
    )
    rate = moved(first)
    assert moved(second) == rate == 1e-2 * 0.25 * linear(100)(3)
    assert second.param_groups[0] == {**first.param_groups[0], "params": [p]}
    assert again.state_dict() == plateau.state_dict()


def test_what_a_plateau_observed_may_be_a_list_in_a_checkpoint() -> None:
    """As it was in checkpoints before it was text."""

    def make() -> tuple[at.Adam, Plateau]:
        plateau = Plateau(factor=0.5, patience=0)
        return at.Adam([parameter()], lr=1e-2 * plateau), plateau

    (first, plateau), (second, again) = make(), make()
    moved(first), plateau.observe(1.0), plateau.observe(1.0)
    saved = first.state_dict()
    saved["param_groups"][0]["plateaus"] = json.loads(saved["param_groups"][0]["plateaus"])
    second.load_state_dict(saved)
    assert again.state_dict() == plateau.state_dict()
    assert moved(second) == moved(first) == 0.5e-2


def test_what_a_plateau_observed_may_be_a_list_in_a_checkpoint_of_arrays() -> None:
    def make() -> tuple[an.Adam, Plateau]:
        plateau = Plateau(factor=0.5, patience=0)
        return an.Adam([np.ones(3, np.float32)], lr=1e-2 * plateau), plateau

    (first, plateau), (second, again) = make(), make()
    observe(plateau, [1.0, 1.0])
    saved = first.state_dict()
    groups = json.loads(str(saved["param_groups"]))
    groups[0]["plateaus"] = json.loads(groups[0]["plateaus"])
    second.load_state_dict({**saved, "param_groups": np.array(json.dumps(groups))})
    assert again.state_dict() == plateau.state_dict()
    assert second.param_groups[0]["lr"] == 0.5e-2


def test_a_rule_of_ones_own() -> None:
    def rule(metrics: list[dict[str, float]], factor: float) -> tuple[float, str]:
        return factor / 2, f"after {len(metrics)}: {metrics[-1]['loss']}"

    feedback = Feedback(rule, memory=2)
    optimizer = at.Adam([parameter()], lr=1e-2 * feedback)
    assert [feedback.observe(loss=loss) for loss in (3.0, 2.0, math.nan, 1.0)] == [0.5, 0.25, 0.25, 0.125]
    assert feedback.history[-1] == "observation 3: 0.25 → 0.125, after 2: 1.0"
    moved(optimizer)
    other = Feedback(rule)
    at.Adam([parameter()], lr=1e-2 * other).load_state_dict(through_a_file(optimizer.state_dict()))
    assert (other.value, other.ignored) == (0.125, 1)


@pytest.mark.parametrize("answer", [-1.0, "0.5", None, math.nan, (0.5, "why", 2), np.ones(2)], ids=repr)
def test_the_rule_of_a_feedback_must_return_a_number(answer: Any) -> None:
    feedback = Feedback(lambda metrics, factor: answer)
    says = f"Feedback: the rule must return a nonnegative number, not {answer!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        feedback.observe(loss=1.0)
    assert feedback.value == 1.0


@pytest.mark.parametrize("memory", [2.5, 2.0])
def test_the_memory_of_a_feedback_is_a_whole_number(memory: Any) -> None:
    with pytest.raises(ValueError, match=rf"^Feedback: memory must be a whole number, got {memory}$"):
        Feedback(lambda metrics, factor: factor, memory=memory)


# ---- clipping by history


def test_auto_clipping_cuts_spikes_and_is_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(100))
    optimizer = at.SGD([p], lr=1.0, max_grad_norm="auto")
    for t in range(100):
        before = p.detach().clone()
        p.grad = torch.randn(100, generator=generator) * (100.0 if t in (50, 60) else 1.0)
        optimizer.step()
        length = (before - p.detach()).norm().item()
        assert length < 20
        assert optimizer.grad_norm == pytest.approx(p.grad.norm().item(), rel=1e-5)
        if t in (50, 60):
            assert length == pytest.approx(optimizer.grad_norm_limit, rel=1e-4)
    assert optimizer.clipped_steps == 2


def test_auto_clipping_goes_on_after_resume() -> None:
    def run(optimizer: at.Adam, generator: torch.Generator, steps: int) -> None:
        for _ in range(steps):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.randn(3, generator=generator).exp()
            optimizer.step()

    def make() -> at.Adam:
        return at.Adam([{"params": [parameter()]}, {"params": [parameter()]}], max_grad_norm="auto", lr=0.1)

    generator = torch.Generator().manual_seed(1)
    optimizer = make()
    run(optimizer, generator, 150)
    resumed, there = make(), copy.deepcopy(generator)
    for mine, saved in zip(resumed.param_groups, optimizer.param_groups, strict=True):
        mine["params"][0].data.copy_(saved["params"][0])
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    run(optimizer, generator, 30)
    run(resumed, there, 30)
    assert resumed.clipped_steps == optimizer.clipped_steps > 0
    assert resumed.grad_norm_limit == optimizer.grad_norm_limit
    for mine, saved in zip(resumed.param_groups, optimizer.param_groups, strict=True):
        assert torch.equal(mine["params"][0], saved["params"][0])


def test_a_lasting_rise_of_the_norm_is_followed() -> None:
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = at.SGD([p], lr=0.0, max_grad_norm="auto")
    for t in range(400):
        p.grad = torch.full((4,), 1.0 if t < 100 else 20.0)
        optimizer.step()
        if t == 120:  # not at once: it might be a run of spikes
            assert optimizer.grad_norm_limit < 10
    assert optimizer.grad_norm_limit is not None
    assert optimizer.grad_norm_limit > 40


# ---- what others do around it


@pytest.mark.parametrize("order", ["OS", "SO"])
def test_a_member_of_a_sequence_leaves_the_rate_to_whose_turn_it_is(order: str) -> None:
    def make() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([parameter()], lr=1.0)
        first = at.LRScheduler(optimizer, warmup(4).shift(-1))
        then = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, [first, then], [4])

    def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            rates.append(moved(optimizer))
            scheduler.step()
        return rates

    optimizer, scheduler = make()
    run(optimizer, scheduler, 8)
    saved = {"O": optimizer.state_dict(), "S": copy.deepcopy(scheduler.state_dict())}
    again = dict(zip("OS", make(), strict=True))
    for what in order:
        again[what].load_state_dict(saved[what])
    assert run(again["O"], again["S"], 4) == run(optimizer, scheduler, 4)


def test_a_plateau_in_a_member_without_the_turn_changes_no_rate() -> None:
    plateau = Plateau(factor=0.5, patience=0)
    optimizer = torch.optim.SGD([parameter()], lr=1.0)
    members = [
        at.LRScheduler(optimizer, constant(0.5) * plateau),
        torch.optim.lr_scheduler.ConstantLR(optimizer, 0.1, 9),
    ]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, members, [2])
    for _ in range(4):
        moved(optimizer)
        scheduler.step()
    plateau.observe(1.0), plateau.observe(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_scheduler_that_was_let_go_writes_no_more() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=1.0)
    scheduler = at.LRScheduler(optimizer, linear(10))
    for _ in range(5):
        moved(optimizer)
        scheduler.step()
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.filterwarnings("ignore:Seems like:UserWarning")
def test_the_copy_of_a_scheduler_goes_on(how: Callable[[Any], Any]) -> None:
    optimizer = torch.optim.SGD([parameter()], lr=1.0)
    scheduler = at.LRScheduler(optimizer, linear(10))
    scheduler.optimizer.step = type(optimizer).step.__get__(optimizer)  # torch's own wrapper cannot be pickled
    for _ in range(3):
        moved(optimizer)
        scheduler.step()
    other = how(scheduler)
    for _ in range(3):
        moved(other.optimizer)
        other.step()
    assert other.get_last_lr() == pytest.approx([0.4])


def test_a_warmup_is_not_held_at_zero() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.Linear(2, 1)
    optimizer = at.AdamW(model.parameters(), lr=0.1 * warmup(5))
    get_optimizer_state_dict(model, optimizer)
    assert [moved(optimizer) for _ in range(4)] == pytest.approx([0.0, 0.02, 0.04, 0.06])


def test_a_second_master_over_a_warmup_is_an_error_too() -> None:
    optimizer = at.AdamW([parameter()], lr=0.1 * warmup(5))
    with pytest.raises(ValueError, match="has a schedule for its lr already"):
        at.LRScheduler(optimizer, linear(10))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)

    def train() -> None:
        for _ in range(5):
            moved(optimizer)
            scheduler.step()

    with pytest.raises(ValueError, match=r"was set to 0\.0 by something else"):
        train()


def test_a_schedule_without_a_number_stops_training_where_it_stands() -> None:
    p = parameter()
    optimizer = at.SGD([p], lr=from_function(lambda t: 0.1 if t < 2 else -1.0))
    moved(optimizer)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"gives -1\.0 at step 2"):
            moved(optimizer)
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.8))


def test_a_schedule_without_a_number_refuses_a_checkpoint_whole() -> None:
    first = at.SGD([parameter()], lr=0.1)
    for _ in range(5):
        moved(first)
    optimizer = at.SGD([parameter()], lr=from_function(lambda t: 0.1 if t < 4 else -1.0))
    moved(optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"gives -1\.0 at step 5"):
        optimizer.load_state_dict(first.state_dict())
    assert optimizer.state_dict() == before


def test_a_plateau_that_is_loaded_by_hand_tells_its_optimizers() -> None:
    plateau, other = Plateau(patience=0), Plateau(patience=0)
    optimizer = at.Adam([parameter()], lr=1.0 * plateau)
    other.observe(1.0), other.observe(1.0)
    plateau.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_auto_clipping_does_not_take_silence_for_what_is_usual() -> None:
    p = parameter(0.0)
    optimizer = at.SGD([p], lr=0.1, max_grad_norm="auto")
    for t in range(60):
        p.grad = torch.full_like(p, 1.0 if t > 20 and t % 4 == 0 else 0.0)
        optimizer.step()
    assert optimizer.clipped_steps == 0
    assert p.max().item() == pytest.approx(-0.9)
