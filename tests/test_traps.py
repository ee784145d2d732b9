"""What goes wrong with other libraries' optimizers, each by its number in the list of known traps, and does not here.

Further traps are tested where their subject is: T07, T08 and T33 for any shape, strides and dtypes, T24 (decay by name) and
T34 (``weights_only``) in ``test_torch.py`` and ``test_rule.py``, T26 and T29 in ``test_int8.py``, T28 and T61 in
``test_int8_accuracy.py``, and T27 in ``test_checkpoint.py``.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from members import CASES, WITH_FACTORED, Case, has

import adamas.numpy as an
import adamas.torch as at
from adamas.rule import layout
from adamas.schedules import cosine, from_function, multistep, warmup
from adamas.torch import storage


def filled(value: float, dtype: torch.dtype = torch.float32, n: int = 1000) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((n,), value, dtype=dtype))


def test_trap_T01_the_default_is_the_fast_path() -> None:
    """What is called from Python in a step does not grow with the number of tensors: they are stepped in one call."""

    def calls(count: int) -> int:
        params = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(count)]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer, seen = at.Adam(params), 0

        def see(frame: object, event: str, argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        optimizer.step()
        sys.setprofile(see)
        try:
            optimizer.step()
        finally:
            sys.setprofile(None)
        return seen

    assert calls(300) < 200


def test_trap_T02_bfloat16_weights_learn() -> None:
    ends = {}
    for weights in ("nearest", "stochastic", "split"):
        p = filled(1.0, torch.bfloat16)
        optimizer = at.Adam([p], lr=1e-3, weights=weights)
        for _ in range(50):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[weights] = p.detach().float()
    exact = filled(1.0)
    optimizer = at.Adam([exact], lr=1e-3)
    for _ in range(50):
        exact.grad = torch.ones_like(exact)
        optimizer.step()
    assert (ends["nearest"] == 1.0).all()  # as documented
    assert ends["stochastic"].mean().item() == pytest.approx(0.95, abs=0.005)
    assert torch.equal(ends["split"], exact.detach().bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_trap_T02_split_weights_train_as_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(2000, generator=generator) + 3).to(dtype)
    p, exact = torch.nn.Parameter(values.clone()), torch.nn.Parameter(values.float())
    one, two = at.AdamW([p], lr=1e-4, weights="split"), at.AdamW([exact], lr=1e-4)
    for _ in range(100):
        g = torch.randn(2000, generator=generator).to(dtype)
        p.grad, exact.grad = g, g.float()
        one.step(), two.step()
    # Within a tie's choice: every weight is the float32 weight's nearest.
    assert (p.detach().float() - exact.detach()).abs().max() <= (
        exact.detach() - exact.detach().to(dtype).float()
    ).abs().max()
    assert torch.equal(p.detach(), exact.detach().to(dtype))


def test_trap_T60_decay_of_bfloat16_weights_acts() -> None:
    ends = {}
    for weights in ("nearest", "stochastic", "split"):
        p = filled(1.0, torch.bfloat16)
        optimizer = at.AdamW([p], lr=1e-3, weight_decay=0.1, weights=weights)
        for _ in range(1000):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        ends[weights] = p.detach().float()
    exact = (1 - 1e-4) ** 1000
    assert (ends["nearest"] == 1.0).all()  # as documented
    assert ends["stochastic"].mean().item() == pytest.approx(exact, abs=0.005)
    assert (ends["split"] == torch.tensor(exact).bfloat16().float()).all()


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8", "int6"])
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in ("adam", "amsgrad", "rmsprop", "nadam", "adamax")], ids=str
)
def test_trap_T03_moments_decay_in_every_format(case: Case, state: str) -> None:
    def mean_of(state: dict[str, torch.Tensor], name: str) -> float:
        x = state[name]
        values = storage.decoded(x, state[layout.scale_name(name)], p.shape) if storage.is_coded(x) else x
        return values.double().mean().item()

    p = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = case.make([p], **case.options, state=state)
    p.grad = torch.ones_like(p)
    optimizer.step()
    name = {"rmsprop": "square_avg", "adamax": "exp_inf"}.get(case.name, "exp_avg_sq")
    start = mean_of(optimizer.state[p], name)
    p.grad.zero_()
    steps = 200 if case.name == "rmsprop" else 2000
    for _ in range(steps):
        optimizer.step()
    decayed = start * (0.99 if case.name == "rmsprop" else 0.999) ** steps
    assert mean_of(optimizer.state[p], name) == pytest.approx(decayed, rel=0.05)


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_trap_T05_float16_with_a_zero_gradient(case: Case) -> None:
    p = filled(1.0, torch.float16)
    optimizer = case.make([p], **{**case.options, "weight_decay": 0.0})
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (p == 1.0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_trap_T06_a_nonfinite_gradient(bad: float) -> None:
    def optimizer_with(policy: str) -> tuple[at.Adam, list[torch.nn.Parameter]]:
        params = [filled(1.0), filled(2.0)]
        optimizer = at.Adam([("first", params[0]), ("second", params[1])], on_nonfinite=policy, lr=0.1)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        params[1].grad[700] = bad
        return optimizer, params

    optimizer, params = optimizer_with("skip")
    before = copy.deepcopy((params, optimizer.state_dict()["state"]))
    optimizer.step()
    optimizer.step()
    assert optimizer.skipped_steps == 2
    assert all(torch.equal(a, b) for a, b in zip(params, before[0], strict=True))
    for i, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(t, before[1][i][name]) for name, t in state.items())
    assert copy.deepcopy(optimizer).skipped_steps == 2

    optimizer, params = optimizer_with("raise")
    before = copy.deepcopy(params)
    with pytest.raises(FloatingPointError, match="second"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))

    optimizer, params = optimizer_with("propagate")
    optimizer.step()
    assert not params[1][700].isfinite()
    assert params[1][:700].isfinite().all()
    assert optimizer.skipped_steps == 0


def test_trap_T06_large_but_finite_gradients_are_not_skipped() -> None:
    p = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
    optimizer = at.Adam([p], on_nonfinite="skip")
    p.grad = torch.full_like(p, 1e200)
    optimizer.step()
    assert optimizer.skipped_steps == 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trap_T07_a_gradient_that_is_not_contiguous(case: Case) -> None:
    values, g = torch.randn(33, 65), torch.randn(65, 33)
    ends = []
    for grad in (g.t(), g.t().contiguous()):
        p = torch.nn.Parameter(values.clone())
        optimizer = case.make([p], **case.options)
        p.grad = grad
        optimizer.step(), optimizer.step()  # ADOPT's first step moves nothing
        ends.append(p.detach())
    assert torch.equal(*ends)
    expanded = torch.nn.Parameter(values.clone())
    optimizer = case.make([expanded], **case.options)
    expanded.sum().backward()
    assert expanded.grad.stride() == (0, 0) or expanded.grad.is_contiguous()
    expanded.grad = torch.ones(()).expand(33, 65)
    optimizer.step(), optimizer.step()
    assert not torch.equal(expanded, values)


@pytest.mark.parametrize("moments", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grads", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_trap_T08_any_mix_of_dtypes(weights: torch.dtype, grads: torch.dtype, moments: torch.dtype) -> None:
    p = filled(1.0, weights)
    p.grad_dtype = grads
    optimizer = at.Adam([p], lr=0.1)
    for _ in range(3):
        p.grad = torch.ones(1000, dtype=grads)
        optimizer.step()
        for name in ("exp_avg", "exp_avg_sq"):
            optimizer.state[p][name] = optimizer.state[p][name].to(moments)
    assert p.detach().float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert p.dtype == weights


def test_trap_T15_order_does_not_matter_with_names() -> None:
    def build(order: tuple[int, ...], shapes: tuple[tuple[int, ...], ...]) -> tuple[at.Adam, dict[str, torch.Tensor]]:
        named = {f"layer{i}": torch.nn.Parameter(torch.full(shapes[i], float(i))) for i in order}
        return at.Adam(named.items()), named

    square = ((3, 3), (3, 3), (2,))
    one, named = build((0, 1, 2), square)
    for i, p in enumerate(named.values()):
        p.grad = torch.full_like(p, i + 1.0)
    one.step()
    two, other = build((2, 1, 0), square)
    two.load_state_dict(one.state_dict())
    for name, p in other.items():
        assert torch.equal(two.state[p]["exp_avg"], one.state[named[name]]["exp_avg"])
    missing, _ = build((0, 1), square)
    with pytest.raises(ValueError, match="layer2"):
        missing.load_state_dict(one.state_dict())


def test_trap_T15_without_names_a_shape_that_does_not_fit_is_an_error() -> None:
    p, q = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2, 3))
    one, two = at.Adam([p, q]), at.Adam([q, p])
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    one.step()
    with pytest.raises(ValueError, match=r"exp_avg.*parameter 0.*\(2, 3\)"):
        two.load_state_dict(one.state_dict())
    assert not two.state


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("float32", (torch.float32, torch.float32)),
        ("bfloat16", (torch.bfloat16, torch.bfloat16)),
        ("int8", (torch.int8, torch.uint8)),
        ({"exp_avg": "int8", "exp_avg_sq": "bfloat16"}, (torch.int8, torch.bfloat16)),
    ],
    ids=str,
)
def test_trap_T16_loading_never_casts(state: object, expected: tuple[torch.dtype, torch.dtype]) -> None:
    """Under bfloat16 weights every part of the state keeps its dtype and its bits, and no warning speaks of a conversion."""
    p = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    one, two = (at.Adam([p], state=state, weights="split") for _ in range(2))
    p.grad = torch.ones_like(p)
    one.step()
    two.load_state_dict(one.state_dict())
    for name, x in one.state[p].items():
        assert two.state[p][name].dtype == x.dtype
        assert torch.equal(two.state[p][name], x)
    assert (two.state[p]["exp_avg"].dtype, two.state[p]["exp_avg_sq"].dtype) == expected
    assert two.state[p]["weight_low_bits"].dtype == torch.uint8
    assert two.state[p]["step"].dtype == torch.float64


def test_trap_T17_loading_copies() -> None:
    p, q = filled(1.0), filled(1.0)
    one, two = at.Adam([p]), at.Adam([q])
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    one.step()
    two.load_state_dict(one.state_dict())
    before = {name: t.clone() for name, t in one.state[p].items()}
    two.step()
    assert all(torch.equal(t, before[name]) for name, t in one.state[p].items())


def test_trap_T18_the_caller_chooses_whose_hyperparameters_count() -> None:
    p = filled(1.0)
    one = at.AdamW([p], lr=0.1, weight_decay=0.2, amsgrad=True)
    p.grad = torch.ones_like(p)
    one.step()
    saved = one.state_dict()
    two = at.AdamW([p], lr=0.5, weight_decay=0.3)
    two.load_state_dict(saved, hyperparameters="given")
    assert (two.param_groups[0]["lr"], two.param_groups[0]["weight_decay"]) == (0.5, 0.3)
    assert not two.param_groups[0]["amsgrad"]
    two.load_state_dict(saved)
    assert (two.param_groups[0]["lr"], two.param_groups[0]["weight_decay"]) == (0.1, 0.2)
    assert two.param_groups[0]["amsgrad"]
    with pytest.raises(ValueError, match=r"'mine'.*'saved' or 'given'"):
        two.load_state_dict(saved, hyperparameters="mine")


def test_trap_T20_a_parameter_given_twice() -> None:
    p, q = filled(1.0), filled(2.0)
    with pytest.raises(ValueError, match="duplicate parameters: number 2 is number 0 again"):
        at.Adam([p, q, p])
    with pytest.raises(ValueError, match="duplicate parameters: tied is weight again"):
        at.Adam([("weight", p), ("tied", p)])
    with pytest.raises(ValueError, match="more than one parameter group"):
        at.Adam([{"params": [p]}, {"params": [q, p]}])


def test_trap_T21_a_frozen_parameter_stays() -> None:
    p = filled(1.0)
    optimizer = at.Adam([p], lr=0.1)
    p.grad = torch.ones_like(p)
    p.requires_grad_(False)
    optimizer.step()
    assert (p == 1.0).all()
    assert not optimizer.state  # nor does it take memory
    p.requires_grad_(True)
    optimizer.step()
    assert (p != 1.0).all()


def test_trap_T22_the_step_counts_past_2_to_the_24() -> None:
    p = filled(1.0)
    optimizer = at.Adam([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.state[p]["step"].fill_(2.0**24)
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 2**24 + 1


ASKED: dict[str, dict[str, object]] = {
    "plain": {},
    "l2": {"weight_decay": 0.1, "decay": "l2", "l1": 0.01},
    "clipped": {"max_grad_norm": "auto", "on_nonfinite": "skip"},
    "scheduled": {"lr": 0.01 * warmup(10).then(cosine(20)), "weight_decay": 0.1 * cosine(5)},
    "a rate in a tensor": {"lr": torch.tensor(0.01)},
    "int8": {"state": "int8"},
}


@pytest.mark.parametrize("options", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_trap_T37_asking_a_fresh_optimizer_for_its_state_counts_nothing(case: Case, options: dict[str, object]) -> None:
    """Weights, state and hyperparameters are then those of an optimizer that nobody asked, to the bit."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    if not has(case, options):
        pytest.skip("centered moments stay in float32")
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(130, 40), torch.nn.Linear(40, 3))]
    models.append(copy.deepcopy(models[0]))
    made = [
        case.make([{"params": [*m[0].named_parameters("0")]}, {"params": [*m[1].named_parameters("1")]}], **all_of)
        for m in models
        for all_of in [copy.deepcopy({**case.options, **options})]
    ]
    before = copy.deepcopy(made[0].state_dict()["param_groups"])
    saved = get_optimizer_state_dict(models[0], made[0])
    assert saved["state"]["0.weight"]["step"] == 0
    assert made[0].state_dict()["param_groups"] == before
    for i in range(3):
        for model, optimizer in zip(models, made, strict=True):
            for j, p in enumerate(model.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * i + j))
            optimizer.step()
    asked, other = (optimizer.state_dict() for optimizer in made)
    assert asked["param_groups"] == other["param_groups"]
    assert asked["state"].keys() == other["state"].keys()
    for key, state in other["state"].items():
        assert all(torch.equal(asked["state"][key][name], value) for name, value in state.items())
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


@pytest.mark.parametrize(
    ("rate", "gradients", "steps"),
    [
        (0.0, (0.0, -0.0), 0),
        (0.1, (0.0, 0.0), 1),
        (0.0, (0.0, 1e-30), 1),
        (0.0, (1e-30, None), 1),
        (0.0, (0.0, math.nan), 1),
    ],
)
def test_trap_T37_what_else_is_a_step_counts(rate: float, gradients: tuple[float | None, ...], steps: int) -> None:
    params = [filled(1.0), filled(2.0)]
    optimizer = at.Adam([{"params": [p]} for p in params], lr=rate)
    for p, value in zip(params, gradients, strict=True):
        p.grad = None if value is None else torch.full_like(p, value)
    optimizer.step()
    assert [state["step"] for state in optimizer.state.values()] == [steps] * sum(g is not None for g in gradients)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == steps + 2


@pytest.mark.parametrize("decay", ["l2", "decoupled", "independent"])
def test_trap_T23_asking_a_fresh_optimizer_for_its_state_moves_nothing(decay: str) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model = torch.nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    optimizer = at.AdamW(model.parameters(), weight_decay=0.5, decay=decay)
    saved = get_optimizer_state_dict(model, optimizer)
    assert saved["state"]["weight"]["exp_avg"].shape == (2, 3)
    set_optimizer_state_dict(model, optimizer, saved)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trap_T38_state_saved_in_float16_does_not_explode(case: Case, state: str) -> None:
    if case.options.get("centered") and state != "float32":
        pytest.skip("centered=True is refused with other formats")
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(32, 128))
    options = {**case.options, "lr": 1e-3, "weight_decay": 0.0}
    source = case.make([("w", p)], **options)
    for _ in range(20):
        p.grad = 1e-4 * torch.rand(32, 128, generator=generator)
        source.step()
    exact, cut = source.state_dict(), copy.deepcopy(source.state_dict())
    states = case.make._member.states
    first = next((name for name, state in states.items() if state.of == "gradient"), None)
    squares = [name for name, state in states.items() if state.of in ("square", "size", "maximum")]
    for name in set(squares) & cut["state"][0].keys():
        cut["state"][0][name] = cut["state"][0][name].half().float()

    def moved(saved: dict[str, Any], gradient: float) -> float:
        q = torch.nn.Parameter(torch.zeros(32, 128))
        optimizer = case.make([("w", q)], **{**options, "state": state})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.load_state_dict(saved)
        said = [str(warning.message) for warning in caught if "converted" not in str(warning.message)]
        is_cut = any(name.startswith(("exp_avg_sq", "square_avg")) for name in squares)
        if saved is cut and first in saved["state"][0] and is_cut:
            assert "was too small for the first moment in 4096 elements of parameter 'w', as after" in said[0]
        else:
            assert said == []
        q.grad = torch.full_like(q, gradient)
        optimizer.step()
        return q.detach().abs().max().item()

    for gradient in (1e-4, 0.0):
        assert moved(cut, gradient) <= 3 * moved(exact, gradient)  # RMSprop without a mean: as at a first step


def test_trap_T38_only_what_is_impossible_is_raised() -> None:
    p, q = filled(1.0, n=4), filled(1.0, n=4)
    one, other = at.Adam([("w", p)], amsgrad=True), at.Adam([("w", q)], amsgrad=True, lr=0.5)
    for _ in range(3):
        p.grad = torch.tensor([1e-5, 1e-5, 1e-5, 1.0])
        one.step()
    saved = one.state_dict()
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        saved["state"][0][name][1] = 0
        saved["state"][0][name][2] = 1e-14
    with pytest.raises(UserWarning, match=r"exp_avg_sq was too small .* in 2 elements"):
        other.load_state_dict(saved)  # warnings are errors in these tests
    assert not other.state
    assert other.param_groups[0]["lr"] == 0.5
    with pytest.warns(UserWarning, match="exp_avg_sq was too small .* in 2 elements of parameter 'w'"):
        other.load_state_dict(saved)
    for name, value in one.state[p].items():
        mended = other.state[q][name]
        if not name.endswith("sq"):
            assert torch.equal(mended, value)
        else:
            assert torch.equal(mended[[0, 3]], value[[0, 3]])
            # Three equal gradients: the second moment was above the least that is possible, and not by much.
            assert (mended[1:3] <= 3e-13).all()
            assert (mended[1:3] > 2.9e-13).all()
    other.load_state_dict(other.state_dict())  # nothing is left to say


def legitimate(kind: str) -> tuple[torch.optim.Optimizer, dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    dtype, sizes, make, options = torch.float32, [1e-6] * 50, at.Adam, {}
    if kind.startswith("of 1e"):  # whose squares float32 rounds to 0, or to few of its least units
        sizes = [float(kind.removeprefix("of "))] * 300
    elif kind == "growing":  # as far as the first moment can be ahead of the second
        sizes = [1e-6 * (0.999 / 0.9) ** i for i in range(60)]
    elif kind == "a spike":
        sizes = [1e-12] * 20 + [1e-3] + [1e-12] * 100
    elif kind == "bfloat16 of torch.optim":
        dtype, make = torch.bfloat16, torch.optim.Adam
    elif kind == "float64":
        dtype, sizes = torch.float64, [1e-30] * 50
    elif kind == "other betas":
        options = {"betas": (0.9, 0.95)}
    elif kind == "a falling beta":  # the second moment was an average over far more steps than it is now
        sizes, options = [0.0] * 11 + [1e-4, 0.0, 0.0], {"betas": (0.9, multistep([12], 0.9) * 0.999)}
    p = torch.nn.Parameter(torch.zeros(500, dtype=dtype))
    optimizer = make([p], **(options if kind == "a falling beta" else {}))
    for size in sizes:
        p.grad = (size * (1 + 0.1 * torch.rand(500, generator=generator))).to(dtype)
        optimizer.step()
    return optimizer, options


@pytest.mark.parametrize(
    "kind",
    [
        "of 1e-25",
        "of 1e-22",
        "of 5e-22",
        "of 1e-20",
        "of 1e-19",
        "growing",
        "a spike",
        "bfloat16 of torch.optim",
        "float64",
        "other betas",
        "a falling beta",
    ],
)
@pytest.mark.parametrize("hyperparameters", ["given", "saved"])
def test_trap_T38_states_that_can_be_stay_as_they_are(kind: str, hyperparameters: str) -> None:
    source, options = legitimate(kind)
    (p,) = source.param_groups[0]["params"]
    state = "bfloat16" if p.dtype == torch.bfloat16 else "float32"
    other = at.Adam([torch.nn.Parameter(p.detach().clone())], state=state, **options)  # type: ignore[arg-type]
    saved = source.state_dict()
    other.load_state_dict(saved, hyperparameters)  # without a warning, which would be an error
    for name, value in other.state_dict()["state"][0].items():
        assert torch.equal(value, saved["state"][0][name]), name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exp_avg", math.nan, "parameter 'w': 'exp_avg' has a NaN. Load an earlier state, or remove"),
        ("exp_avg", -math.inf, "parameter 'w': 'exp_avg' has an infinity"),
        ("exp_avg_sq", math.nan, "parameter 'w': 'exp_avg_sq' has a NaN"),
        ("exp_avg_sq", -1e-9, "parameter 'w': 'exp_avg_sq' has a negative number"),
        ("max_exp_avg_sq", -1.0, "parameter 'w': 'max_exp_avg_sq' has a negative number"),
        ("step", -1.0, "parameter 'w': 'step' must be a finite, nonnegative number of steps, not -1.0"),
        ("step", math.nan, "parameter 'w': 'step' must be a finite, nonnegative number of steps"),
        ("step", math.inf, "parameter 'w': 'step' must be a finite, nonnegative number of steps"),
    ],
)
def test_trap_T38_a_state_that_cannot_be_is_refused(name: str, value: float, words: str) -> None:
    p = filled(1.0)
    one, other = at.Adam([("w", p)], amsgrad=True), at.Adam([("w", filled(1.0))], amsgrad=True, lr=0.5)
    p.grad = torch.ones_like(p)
    one.step()
    saved = one.state_dict()
    saved["state"][0][name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(saved)
    assert not other.state
    assert other.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5])
@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_trap_T38_a_scale_that_cannot_be_is_refused(moment: str, bad: float) -> None:
    def made() -> tuple[torch.nn.Parameter, at.Adam]:
        p = torch.nn.Parameter(torch.zeros(32, 128))
        return p, at.Adam([("w", p)], state="int8")

    (p, one), (_, other) = made(), made()
    p.grad = torch.ones_like(p)
    one.step()
    saved = copy.deepcopy(one.state_dict())
    saved["state"][0][f"{moment}_grid"][3] = bad
    with pytest.raises(ValueError, match=f"the scales of '{moment}' of parameter 'w' have a"):
        other.load_state_dict(saved)
    p.grad[5, 6] = math.inf
    one.step()
    other.load_state_dict(one.state_dict())  # here the sign is the mark of a block with numbers that are not finite
    assert (other.state_dict()["state"][0][f"{moment}_grid"] < 0).any()


def test_trap_T56_one_optimizer_has_matrices_and_everything_else() -> None:
    """Other implementations of Muon take matrices alone, so that a model needs a second optimizer, schedule and checkpoint."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(8, 16), torch.nn.Linear(16, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 8)
    )
    optimizer = at.Muon(model, lr=0.02 * cosine(60), max_grad_norm="auto")
    given = torch.arange(8)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(given), given.roll(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    stepped = {p for group in optimizer.param_groups for p in group["params"]}
    assert stepped == {*model.parameters()} == optimizer.state.keys()
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    moments = {name for state in optimizer.state.values() for name in state}
    assert moments == {"step", "momentum_buffer", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("take", ["state_dict", "deepcopy"])
@pytest.mark.parametrize("module", [at, an], ids=["torch", "numpy"])
def test_trap_T62_a_state_dict_is_of_one_step(module: Any, take: str) -> None:
    """A step is held where it asks for the next rate; meanwhile another thread takes the state, and has to wait for it."""
    held, taken, let_go = threading.Event(), threading.Event(), threading.Event()
    found: list[Any] = []

    def rate(t: Any) -> float:
        if t == 2 and threading.current_thread() is stepping:
            held.set()
            let_go.wait(60)
        return 0.1 / (1 + t)

    p = torch.nn.Parameter(torch.ones(3)) if module is at else np.ones(3, np.float32)
    optimizer = module.Adam([p], lr=1.0 * from_function(rate))

    def step(times: int) -> None:
        for _ in range(times):
            if module is at:
                p.grad = torch.ones(3)
                optimizer.step()
            else:
                optimizer.step([np.ones(3)])

    def save() -> None:
        saved = optimizer.state_dict() if take == "state_dict" else copy.deepcopy(optimizer).state_dict()
        if module is at:
            found.extend([float(saved["state"][0]["step"]), saved["param_groups"][0]["lr"]])
        else:
            found.extend([float(saved["state/0/step"]), json.loads(str(saved["param_groups"]))[0]["lr"]])
        taken.set()

    step(1)
    stepping = threading.Thread(target=step, args=(1,))
    saving = threading.Thread(target=save)
    stepping.start()
    assert held.wait(60)
    saving.start()
    taken.wait(0.1)  # without a lock, it is taken now
    let_go.set()
    stepping.join(60), saving.join(60)
    assert found == [2, 0.1 / 3]


@pytest.mark.parametrize("case", [case for case in CASES if str(case) in ("sgd", "adamw", "nadam")], ids=str)
def test_split_weights_go_on_when_a_model_is_cast(case: Case) -> None:
    """After float32, low bits begin with 0; so they do after another 16-bit dtype, of which they would say something else."""
    module = torch.nn.Linear(4, 3)
    optimizer = case.make(module.parameters(), **{**case.options, "weights": "split"})
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()

    step()
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.bfloat16):
        module.to(dtype)
        before = copy.deepcopy(module)
        after_cast = copy.deepcopy(optimizer.state_dict())
        for entry in after_cast["state"].values():
            entry.pop("weight_low_bits", None)
        anew = case.make(before.parameters(), **{**case.options, "weights": "split"})
        anew.load_state_dict(after_cast)
        for p, q in zip(module.parameters(), before.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            q.grad = p.grad.clone()
        optimizer.step(), anew.step()
        for p, q in zip(module.parameters(), before.parameters(), strict=True):
            assert torch.equal(p, q)
            if dtype != torch.float32:
                assert torch.equal(optimizer.state[p]["weight_low_bits"], anew.state[q]["weight_low_bits"])
        step()  # with low bits that are no longer 0


def test_trap_T25_groups_with_and_without_decay() -> None:
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(5, 4),
            "linear": torch.nn.Linear(4, 4),
            "norm": torch.nn.LayerNorm(4),
            "head": torch.nn.Linear(4, 5, bias=False),
            "frozen": torch.nn.Linear(2, 2).requires_grad_(False),
        }
    )
    groups = at.param_groups(model, weight_decay=0.1, lr=3e-4)
    names = [[name for name, _ in group["params"]] for group in groups]
    assert names == [["linear.weight", "head.weight"], ["embedding.weight", "linear.bias", "norm.weight", "norm.bias"]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    printed = str(groups)
    assert "weight_decay=0.1: 2 tensors, 36 parameters" in printed
    assert "norm.bias  (4,)" in printed
    optimizer = at.AdamW(groups)
    assert optimizer.param_groups[1]["param_names"][0] == "embedding.weight"
    kept = at.param_groups(model, no_decay=["head"])
    assert "head.weight" in [name for name, _ in kept[1]["params"]]
    with pytest.raises(ValueError, match="haed"):
        at.param_groups(model, no_decay=["haed"])
    model["head"].weight = model["embedding"].weight
    tied = at.param_groups(model)
    assert [name for name, _ in tied[0]["params"]] == ["linear.weight"]


def test_trap_T30_gradients_come_back_as_they_were() -> None:
    p = filled(1.0)
    optimizer = at.AdamW([p], max_grad_norm=1e-3, maximize=True, l1=0.1, on_nonfinite="skip")
    p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    assert (p.grad == 3.0).all()


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_trap_T33_empty_and_0_dimensional_tensors(case: Case) -> None:
    params = [torch.nn.Parameter(torch.ones(s)) for s in ((), (0,), (3, 0, 2), (1,))]
    optimizer = case.make(params, **case.options, max_grad_norm=10.0)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step(), optimizer.step()
    assert params[0].item() == params[3].item()
    assert params[0].item() != 1.0 or case.name == "adamh"  # which keeps the norm, and only turns


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_trap_T34_the_state_loads_with_weights_only(case: Case) -> None:
    p = filled(1.0)
    optimizer = case.make([p], **case.options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    optimizer.load_state_dict(torch.load(buffer, weights_only=True))


def test_trap_T35_a_subclass_fires_the_hooks_once() -> None:
    class Mine(at.Adam):
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            return super().step(closure)

    for first in (at.Adam, Mine):
        seen = []
        p = filled(1.0)
        first([filled(1.0)])
        optimizer = Mine([p])
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append(1))
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert seen == [1]


def test_hooks_are_fired_once_for_each_step_of_each_thread() -> None:
    class Mine(at.Adam):
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            return super().step(closure)

    p = filled(1.0)
    p.grad = torch.ones_like(p)
    optimizer, seen = Mine([p]), []

    def before(*_: object) -> None:  # a whole step of another thread, while this one's is open
        seen.append("pre")
        if len(seen) == 1:
            other = threading.Thread(target=optimizer.step)
            other.start()
            other.join()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    optimizer.step()
    assert seen == ["pre", "pre", "post", "post"]
    optimizer.step()
    assert seen[4:] == ["pre", "post"]


@pytest.mark.parametrize("module", [at, an], ids=["torch", "numpy"])
def test_the_work_of_building_groups_grows_as_their_number(module: Any) -> None:
    def calls(n: int) -> int:  # of functions of Adamas
        made = 0

        def count(frame: FrameType, event: str, _: object) -> None:
            nonlocal made
            made += event == "call" and "/adamas/" in frame.f_code.co_filename

        params = [torch.nn.Parameter(torch.ones(1)) if module is at else np.ones(1) for _ in range(2 * n)]
        gradients = [np.ones(1)] * n
        for p in params if module is at else ():
            p.grad = torch.ones(1)
        sys.setprofile(count)
        try:
            optimizer = module.Adam([{"params": [p]} for p in params[:n]])
            optimizer.step(*([gradients] if module is an else []))
            for p in params[n:]:
                optimizer.add_param_group({"params": [p]})
            optimizer.step(*([gradients * 2] if module is an else []))
            optimizer.load_state_dict(optimizer.state_dict())
        finally:
            sys.setprofile(None)
        return made

    calls(1)  # what is done once
    assert calls(40) < 4.4 * calls(10)


COUNTS = [
    5,
    5.0,
    torch.tensor(5),
    torch.tensor([5], dtype=torch.int32),
    torch.tensor(5.0),
    torch.tensor([5]).bfloat16(),
]


@pytest.mark.parametrize("module", [at, an], ids=["torch", "numpy"])
@pytest.mark.parametrize("count", COUNTS, ids=str)
def test_a_count_set_by_hand_counts_on(module: Any, count: Any) -> None:
    p = filled(1.0) if module is at else np.ones(3)
    optimizer = module.Adam([p])
    gradients = [] if module is at else [[np.ones(3)]]
    if module is at:
        p.grad = torch.ones_like(p)
    elif isinstance(count, torch.Tensor):
        name = str(count.dtype).removeprefix("torch.")
        count = count.float().numpy().astype(getattr(ml_dtypes, name, name))
    optimizer.step(*gradients)
    (state,) = optimizer.state.values()
    state["step"] = count
    if module is an:
        assert optimizer.state_dict()["state/0/step"].astype(float).item() == 5
    optimizer.step(*gradients)
    assert float(state["step"]) == 6
    assert str(state["step"].dtype).endswith("float64")  # which goes on where float32 stops


@pytest.mark.parametrize("module", [at, an], ids=["torch", "numpy"])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1.0, 2.0**53, "5", True])
def test_what_is_no_count_is_refused_before_anything_is_changed(module: Any, scheduled: bool, count: Any) -> None:
    p = filled(1.0) if module is at else np.ones(3)
    optimizer = module.Adam([p], lr=warmup(10) * 0.1 if scheduled else 0.1)
    gradients = [] if module is at else [[np.ones(3)]]
    if module is at:
        p.grad = torch.ones_like(p)
    optimizer.step(*gradients)
    (state,) = optimizer.state.values()
    if isinstance(count, float):
        state["step"][...] = count  # where it is
    else:
        state["step"] = count
    before = copy.deepcopy([p, state])
    with pytest.raises(ValueError, match=rf"parameter .*0.*: its state 'step' is .*{count}.*has to be"):
        optimizer.step(*gradients)
    assert str(copy.deepcopy([p, state])) == str(before)


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("module", [at, an], ids=["torch", "numpy"])
@pytest.mark.parametrize("nonfinite", [False, True], ids=["step", "skipped"])
def test_a_step_is_whole_or_not_at_all_wherever_a_signal_handler_raises(module: Any, nonfinite: bool) -> None:
    """Python calls signal handlers when a function begins and when one in C returns: one raises at each of these places."""

    def made() -> tuple[Callable[[], None], Callable[[], str]]:
        values = [np.full(3, float(i + 1), np.float32) for i in range(3)]
        params = [torch.nn.Parameter(torch.from_numpy(v)) for v in values] if module is at else values
        options = {"max_grad_norm": 0.5, "on_nonfinite": "skip", "betas": (0.9, warmup(9).clip(0.5))}
        optimizer = module.RAdam([{"params": [p]} for p in params], lr=warmup(9) * 0.1, **options)
        gradients = [np.full(3, 0.5 * i, np.float32) for i in range(3)]
        for p, g in zip(params, gradients, strict=True) if module is at else ():
            p.grad = torch.from_numpy(g)

        def step() -> None:
            optimizer.step(*([] if module is at else [gradients]))

        def seen() -> str:
            groups = [
                {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
            ]
            return str([params, list(optimizer.state.values()), groups])

        step()
        gradients[1][0] = np.nan if nonfinite else 0.5
        return step, seen

    step, seen = made()
    before = seen()
    step()
    after = seen()
    step()
    later = seen()
    places, whole = 0, set()
    while True:
        step, seen = made()
        left = places

        def interrupt(frame: FrameType, event: str, _: object) -> None:
            nonlocal left
            if frame.f_code.co_name == "<genexpr>":  # what is raised while one is closed goes nowhere
                return
            if event in ("call", "c_return") and "/adamas/" in frame.f_code.co_filename:
                left -= 1
                if left < 0:
                    sys.setprofile(None)
                    raise Interrupt

        sys.setprofile(interrupt)
        try:
            step()
        except Interrupt:
            pass
        else:
            break
        finally:
            sys.setprofile(None)
        found = seen()
        assert found in (before, after), places
        whole.add(found == after)
        step()
        assert seen() == (later if found == after else after), places
        places += 1
    assert places > 50
    assert whole == {False, True}


# What a child of a fork steps to, and what the same steps come to without a fork. In a process of its own, since that of the
# tests has threads that are not ours.
FORKED = """
import os, sys, threading
import numpy as np
{imports}
import adamas
import adamas.numpy as an
from adamas.schedules import Schedule

def optimizer(lr=1e-3):
    return an.Adam([np.ones(200_000, np.float32), np.ones(3, np.float32)], lr=lr)

def step(one):
    one.step([np.full(p.shape, 0.1, p.dtype) for p in one.param_groups[0]["params"]])

def bits(one):
    return b"".join(p.tobytes() for p in one.param_groups[0]["params"])

def child_steps(one):  # returns whether the child's step is that of a process without a fork
    step(exact)
    pid = os.fork()
    if pid == 0:
        step(one)
        os._exit(0 if bits(one) == bits(exact) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

exact = optimizer()
step(exact)
"""


def in_a_process(code: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.parametrize("source", ["own", "OpenMP"])
def test_trap_T40_a_forked_child_steps_on_several_threads(source: str) -> None:
    libraries = [
        str(path) for path in Path(torch.__file__).parent.glob("lib/libgomp*")
    ]  # sooner there than all of PyTorch
    if source == "OpenMP" and not libraries:
        pytest.skip("this PyTorch has another OpenMP runtime")
    in_a_process(
        FORKED.format(
            imports=f"import ctypes; ctypes.CDLL({libraries[0]!r}, ctypes.RTLD_GLOBAL)" * (source == "OpenMP")
        )
        + textwrap.dedent(
            """
            one = optimizer()
            step(one)
            assert child_steps(one) == 0
            step(one)  # the parent goes on as before
            assert bits(one) == bits(exact)
            """
        )
        + f"assert adamas.engine_info().thread_source == {source!r}"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_trap_T40_a_child_forked_while_another_thread_steps_has_a_whole_step() -> None:
    in_a_process(
        FORKED.format(imports="")
        + textwrap.dedent(
            """
            from dataclasses import dataclass
            inside, forking = threading.Event(), threading.Event()
            os.register_at_fork(before=forking.set)

            @dataclass(frozen=True)
            class Slow(Schedule):  # a step that is not done before a fork begins
                def _at(self, t, xp):
                    if threading.current_thread() is not threading.main_thread():
                        inside.set()
                        forking.wait()
                    return 1e-3

            one = optimizer(Slow())
            thread = threading.Thread(target=step, args=[one])
            thread.start()
            inside.wait()
            assert child_steps(one) == 0
            thread.join()
            """
        )
    )


def test_an_optimizer_in_a_backward_hook_is_collected() -> None:
    p = filled(1.0)
    optimizer = at.Adam([p])

    def hook(gradient: torch.Tensor, p: torch.Tensor = p, optimizer: at.Adam = optimizer) -> None:
        p.grad = gradient
        optimizer.step()

    p.register_hook(hook)
    (p * p).sum().backward()
    alive = [weakref.ref(p), weakref.ref(optimizer), weakref.ref(optimizer.state[p]["exp_avg"])]
    del p, optimizer, hook
    gc.collect()
    assert [reference() for reference in alive] == [None, None, None]


def test_nothing_is_said_at_exit_of_what_is_still_alive() -> None:
    code = """
    import ctypes
    import numpy as np
    import adamas.numpy
    p = np.ones(3)
    optimizer = adamas.numpy.Adam([p])
    optimizer.step([p.copy()])
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(optimizer))  # as what a hook of a global model holds
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: at.Adam([filled(1.0)], differentiable=True), "differentiable=True.*torch.optim.Adam"),
        (lambda: at.Lion([filled(1.0)], differentiable=True), "adamas.torch.Lion .*torch.optim.Adam"),
        (lambda: at.Adam([torch.nn.Parameter(torch.ones(2, device="meta"))]), "parameter 0 is on the meta device"),
        (
            lambda: at.Adam([("w", torch.nn.Parameter(torch.ones(2, dtype=torch.complex64)))], state="bfloat16"),
            "'w' is complex",
        ),
        (lambda: at.Adam([filled(1.0)], state="int3"), "state='int3' is unknown: use one of 'float32', 'bfloat16'"),
        (lambda: at.Adam([filled(1.0)], decay="L2"), "decay='L2' is unknown"),
        (
            lambda: at.AdamW([filled(1.0)], decay="update"),
            "decay='update' is only for LAMB, LARS, .*, not for AdamW: use one of 'l2', 'decoupled'",
        ),
        (lambda: at.Adam([filled(1.0)], decoupled_weight_decay=True, decay="l2"), "contradict"),
        (lambda: at.Adam([filled(1.0)], max_grad_norm=0.0), 'max_grad_norm must be above 0, "auto" or None, not 0.0'),
        (lambda: at.Adam([{"params": [filled(1.0)], "lr": -1.0}]), "Invalid learning rate: -1.0"),
        (lambda: at.SGD([filled(1.0)], l1=-0.5), "Invalid l1 value: -0.5"),
        (lambda: at.Adam([filled(1.0)], seed=np.int64(1)), r"seed must be an int, not np.int64\(1\)"),
        (lambda: at.Adam([filled(1.0)], betas=np.array([0.9, 0.99])), r"betas must be a pair.*not array\(\[0.9"),
        (lambda: at.Adam([filled(1.0)], betas=torch.tensor(0.9)), r"betas must be a pair.*not tensor\(0.9"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["lr", "weight_decay", "eps", "l1"])
def test_an_array_in_the_place_of_a_number_is_refused_by_name(name: str) -> None:
    wanted = "a number or a schedule" if name in ("lr", "weight_decay") else "a number"
    for array in (np.array(0.1), np.array([0.1])):
        with pytest.raises(TypeError, match=f"{name} must be {wanted}, not array"):
            at.Adam([filled(1.0)], **{name: array})


def test_an_option_of_another_member_is_refused() -> None:
    with pytest.raises(TypeError, match="SGD has no option eps_mode"):
        at.SGD([filled(1.0)], eps_mode="hat")


@pytest.mark.parametrize("sparse_at", [0, 1])
def test_a_sparse_gradient_is_refused_and_nothing_is_changed(sparse_at: int) -> None:
    embedding, dense = torch.nn.Embedding(5, 2, sparse=True), torch.nn.Linear(2, 2)
    params = [*dense.parameters()]
    params.insert(sparse_at, embedding.weight)
    optimizer = at.NAdam(params)
    before = [p.detach().clone() for p in params]
    dense(embedding(torch.tensor([1]))).sum().backward()
    with pytest.raises(RuntimeError, match=rf"NAdam does not support sparse gradients.*parameter {sparse_at}"):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o, p: o.state[p].pop("exp_avg"), "parameter 'w': its state 'exp_avg' is missing"),
        (lambda o, p: o.state[p].update(exp_avg=torch.ones(2)), "'exp_avg' has another shape"),
        (lambda o, p: o.state[p].update(exp_avg=torch.ones(1000).long()), "'exp_avg' has a dtype"),
        (lambda o, p: o.state[p].update(step=torch.ones(3)), "'step' is .* and has to be a single number"),
    ],
)
def test_a_spoiled_state_is_refused_by_name(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    p = filled(1.0)
    optimizer = at.Adam([("w", p)])
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = p.detach().clone()
    spoil(optimizer, p)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(p, before)


def test_a_tensor_that_has_its_values_elsewhere_is_refused_by_name() -> None:
    """At construction, and at the first step where it was frozen before, or where only the gradient is one."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Partial
    from torch.testing._internal.two_tensor import TwoTensor

    mesh = DeviceMesh("cpu", [0], _init_backend=False, _rank=0)
    values = torch.ones(4, 3)
    wrapped = {
        "DTensor": (DTensor.from_local(values, mesh, [Partial()], run_check=False), "Partial.*Redistribute it"),
        "TwoTensor": (TwoTensor(values, values.clone()), "pass those.*torch.optim"),
    }
    for kind, (tensor, cure) in wrapped.items():
        says = f"parameter 'w' is a {kind}.*{cure}"
        with pytest.raises(ValueError, match=says):
            at.Adam([("w", torch.nn.Parameter(tensor))])
        p, q = torch.nn.Parameter(tensor, requires_grad=False), torch.nn.Parameter(values.clone())
        optimizer = at.Adam([("v", q), ("w", p)])
        p.requires_grad_(True)
        p.grad, q.grad = torch.ones_like(tensor), torch.ones(4, 3)
        with pytest.raises(ValueError, match=says):
            optimizer.step()
        assert torch.equal(q, values)
        p.grad, q.grad = None, torch.ones_like(tensor)
        with pytest.raises(ValueError, match=f"the gradient of parameter 'v' is a {kind}"):
            optimizer.step()


def test_a_gradient_on_another_mesh_is_refused_by_name() -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    def on_mesh(name: str) -> DTensor:
        mesh = DeviceMesh("cpu", [0], mesh_dim_names=(name,), _init_backend=False, _rank=0)
        return DTensor.from_local(torch.ones(4, 3), mesh, [Shard(0)], run_check=False)

    p = torch.nn.Parameter(on_mesh("one"))
    optimizer = at.Adam([("w", p)])
    p.grad = on_mesh("other")
    with pytest.raises(ValueError, match=r"the gradient of parameter 'w' lies on the mesh .*other.*must lie on .*one"):
        optimizer.step()
    p.grad = on_mesh("one")
    optimizer.step()
    assert (p.to_local() < 1).all()


def test_a_step_with_an_overflow_makes_no_state() -> None:
    p = filled(1.0)
    p.grad = torch.ones_like(p)
    optimizer = at.Adam([p], fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    optimizer.step()
    assert not optimizer.state
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_an_expanded_parameter_is_refused() -> None:
    p = torch.ones(1).expand(4).requires_grad_()
    leaf = torch.nn.Parameter(torch.ones(1))
    leaf.data = torch.ones(1).expand(4)
    optimizer = at.Adam([leaf])
    leaf.grad = torch.ones(4)
    with pytest.raises(
        ValueError, match=r"it has elements that share memory, .*; use a copy of it \(clone\(\) in PyTorch"
    ):
        optimizer.step()
    assert p.stride() == (0,)


# ---- what else was once wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_split_weights_that_are_set_to_zero_from_outside(dtype: torch.dtype) -> None:
    p = torch.nn.Parameter(torch.randn(200, generator=torch.Generator().manual_seed(0)).to(dtype))
    optimizer = at.AdamW([p], lr=1e-3, weights="split")
    p.grad = torch.ones_like(p)
    optimizer.step()
    for zero in (0.0, -0.0):
        with torch.no_grad():
            p.fill_(zero)
        optimizer.step()
        torch.testing.assert_close(p.detach().float(), torch.full((200,), -1e-3), rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_clipping_by_a_norm_that_is_not_finite_is_that_of_torch(bad: float) -> None:
    ends = []
    for ours in (True, False):
        p, q = filled(1.0), filled(1.0)
        p.grad, q.grad = torch.ones_like(p), torch.full_like(q, 1e6)
        p.grad[3] = bad
        if ours:
            optimizer = at.SGD([p, q], lr=1.0, max_grad_norm=1.0)
        else:
            torch.nn.utils.clip_grad_norm_([p, q], 1.0)
            optimizer = torch.optim.SGD([p, q], lr=1.0)
        optimizer.step()
        ends.append((p.detach(), q.detach()))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_an_overflowing_norm_clips_all() -> None:
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = at.SGD([p], lr=1.0, max_grad_norm=1.0)
    p.grad = torch.full_like(p, 1e160)
    optimizer.step()
    assert optimizer.grad_norm == torch.inf
    assert (p.abs() <= 1.0).all()


def test_a_centered_denominator_is_not_kept_in_bfloat16() -> None:
    with pytest.raises(ValueError, match='centered=True needs state="float32"'):
        at.RMSprop([filled(1.0)], centered=True, state="bfloat16")


def test_adamw_stays_decoupled_after_loading_adam() -> None:
    p = filled(1.0)
    adam, adamw = torch.optim.Adam([p], weight_decay=0.1), at.AdamW([p])
    p.grad = torch.ones_like(p)
    adam.step()
    adamw.load_state_dict(adam.state_dict())
    assert adamw.param_groups[0]["decay"] == "decoupled"


def test_another_seed_takes_effect() -> None:
    ends = []
    for seed in (0, 7):
        p = filled(1.0, torch.bfloat16)
        optimizer = at.Adam([p], weights="stochastic")
        p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.param_groups[0]["seed"] = seed
        optimizer.step()
        ends.append(p.detach())
    assert not torch.equal(*ends)


@pytest.mark.parametrize("how", ["in the group", "by loading"])
def test_amsgrad_switched_on_while_a_parameter_has_no_gradient(how: str) -> None:
    p, q = filled(1.0), filled(1.0)
    optimizer = at.Adam([p, q])
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    if how == "in the group":
        optimizer.param_groups[0]["amsgrad"] = True
    else:
        saved, optimizer = optimizer.state_dict(), at.Adam([p, q], amsgrad=True)
        optimizer.load_state_dict(saved, hyperparameters="given")
    q.grad = None
    optimizer.step()
    q.grad = torch.ones_like(q)
    optimizer.step()
    assert "max_exp_avg_sq" in optimizer.state[q]


def test_names_that_two_groups_share_or_that_a_wrapper_changed() -> None:
    def stepped(*models: torch.nn.Module) -> at.Adam:
        optimizer = at.Adam([{"params": list(model.named_parameters())} for model in models])
        for model in models:
            for p in model.parameters():
                p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer

    twins = stepped(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    twins.load_state_dict(twins.state_dict())
    wrapped = torch.nn.Sequential()
    wrapped.add_module("module", torch.nn.Linear(2, 2))
    stepped(torch.nn.Linear(2, 2)).load_state_dict(stepped(wrapped).state_dict())


def test_parameters_that_cannot_be_stepped_yet() -> None:
    lazy, frozen = torch.nn.LazyLinear(3), torch.nn.Parameter(torch.ones(4, dtype=torch.int8), requires_grad=False)
    optimizer = at.SGD([*lazy.parameters(), frozen], lr=0.1)
    lazy(torch.ones(2, 5)).sum().backward()
    before = lazy.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(lazy.weight, before)
    optimizer.param_groups[0]["param_names"] = ["too", "few"]
    optimizer.step()
    at.SGD([(1, filled(1.0))])


def test_a_hook_may_wrap_the_state_dict() -> None:
    optimizer = at.Adam([filled(1.0)])
    optimizer.register_state_dict_post_hook(lambda _, packed: {"wrapped": packed})
    assert optimizer.state_dict()["wrapped"]["param_groups"][0]["decoupled_weight_decay"] is False
    with pytest.raises(ValueError, match="not an optimizer's state dict"):
        optimizer.load_state_dict({})


def test_adagrad_has_its_state_at_once_and_shares_it() -> None:
    p = filled(1.0)
    optimizer = at.Adagrad([p], initial_accumulator_value=0.5)
    optimizer.share_memory()
    assert optimizer.state[p]["sum"].is_shared()
    assert (optimizer.state[p]["sum"] == 0.5).all()
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert (optimizer.state[p]["sum"] == 1.5).all()


def test_one_optimizer_stepped_from_several_threads() -> None:
    params = [torch.nn.Parameter(torch.zeros(100, 60).t()) for _ in range(20)]
    optimizer = at.Adam(params)
    for p in params:
        p.grad = torch.ones(60, 100)

    def steps() -> None:
        for _ in range(40):
            optimizer.step()

    threads = [threading.Thread(target=steps) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {float(optimizer.state[p]["step"]) for p in params} == {120.0}


def test_gradients_dropped_by_another_thread_during_a_step() -> None:
    p = torch.nn.Parameter(torch.zeros(4_000_000))
    optimizer = at.Adam([p])
    done = threading.Event()

    def drop() -> None:
        while not done.is_set():
            p.grad = None

    dropper = threading.Thread(target=drop)
    dropper.start()
    try:
        for _ in range(20):
            p.grad = torch.ones_like(p)
            optimizer.step()
    finally:
        done.set()
        dropper.join()
    assert p.isfinite().all()
