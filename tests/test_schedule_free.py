"""Schedule-free members: the weights for evaluation and those of training, and switching between them."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import adamas.numpy as an
import adamas.torch as at
from adamas.convert import from_numpy, from_torch
from adamas.lab.train import fit
from adamas.step import evaluation
from adamas.step.evaluation import Evaluated

MAKES = [at.AdamWScheduleFree, at.SGDScheduleFree]
SHAPES = [(48, 130), (7,), (), (2, 3, 256)]
FORMATS: list[dict[str, Any]] = [
    {},
    {"state": "bfloat16"},
    {"state": "int8"},
    {"state": "int6"},
    {"dtype": torch.float64},
    {"dtype": torch.complex64},
    *({"dtype": torch.bfloat16, "weights": weights} for weights in ("nearest", "stochastic", "split")),
    {"dtype": torch.float16, "weights": "split", "state": "int8"},
]


def trained(make: Any, steps: int = 6, dtype: torch.dtype = torch.float32, **options: Any) -> at.Optimizer:
    torch.manual_seed(0)
    optimizer = make([nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES], lr=0.05, **options)
    return step(optimizer, steps)


def step(optimizer: at.Optimizer, steps: int, seed: int = 1) -> at.Optimizer:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in weights(optimizer):
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
    return optimizer


def weights(optimizer: at.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def copies(optimizer: at.Optimizer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in weights(optimizer)]


def exact(optimizer: at.Optimizer, p: torch.Tensor) -> torch.Tensor:
    """The weight with its low bits."""
    low = optimizer.state[p].get("weight_low_bits")
    return p.detach() if low is None else at.storage.joined(p.detach(), low)


@pytest.mark.parametrize("options", FORMATS, ids=str)
@pytest.mark.parametrize("make", MAKES)
def test_the_weights_for_evaluation_are_the_average_and_those_of_training_come_back(make: Any, options: dict) -> None:
    """In every format: y less the stored difference, rounded once; and the same again is nothing."""
    optimizer = trained(make, **options)
    before = [exact(optimizer, p).clone() for p in weights(optimizer)]
    offsets = [entry["y_minus_x"] for entry in optimizer.state_dict(state="float32")["state"].values()]
    optimizer.eval()
    there = copies(optimizer)
    optimizer.eval()
    for p, y, offset, x in zip(weights(optimizer), before, offsets, there, strict=True):
        assert not torch.equal(exact(optimizer, p), y)
        assert torch.equal(exact(optimizer, p), (y - offset).to(exact(optimizer, p).dtype))
        assert torch.equal(p, x)
    optimizer.train()
    there = copies(optimizer)
    optimizer.train()
    size = torch.finfo(before[0].dtype).eps
    for p, y, offset, again in zip(weights(optimizer), before, offsets, there, strict=True):
        assert ((exact(optimizer, p) - y).abs() <= size * (y.abs() + offset.abs())).all()
        assert torch.equal(p, again)


def test_it_is_the_average_of_the_paper() -> None:
    """Evaluation at x, where z takes steps of plain gradient descent and x is their mean (equations 3 to 5)."""
    p = nn.Parameter(torch.tensor([4.0, -2.0], dtype=torch.float64))
    optimizer = at.SGDScheduleFree([p], lr=0.1, momentum=0.8)
    x = z = p.detach().clone()
    for t in range(1, 9):
        y = 0.2 * z + 0.8 * x
        torch.testing.assert_close(p.detach(), y, rtol=1e-14, atol=0)
        p.grad = p.detach() ** 3
        optimizer.step()
        z = z - 0.1 * y**3
        x = x + (z - x) / t
    optimizer.eval()
    torch.testing.assert_close(p.detach(), x, rtol=1e-14, atol=0)


def test_steps_weigh_as_the_largest_rate_so_far() -> None:
    """The weights of the mean are γ², where γ is the largest rate so far (Defazio et al., 2024, algorithm 1)."""
    p = nn.Parameter(torch.tensor([4.0, -2.0], dtype=torch.float64))
    optimizer = at.SGDScheduleFree([p], lr=0.1, momentum=0.8)
    x = z = p.detach().clone()
    total = 0.0
    for rate, largest in ((0.05, 0.05), (0.1, 0.1), (0.02, 0.1), (0.07, 0.1), (0.2, 0.2), (0.1, 0.2)):
        optimizer.param_groups[0]["lr"] = rate
        y = 0.2 * z + 0.8 * x
        p.grad = p.detach().clone()
        optimizer.step()
        z = z - rate * y
        total += largest**2
        x = x + (z - x) * largest**2 / total
    optimizer.eval()
    torch.testing.assert_close(p.detach(), x, rtol=1e-14, atol=0)


def test_a_rate_of_0_changes_neither_the_weights_nor_what_they_are_for_evaluation() -> None:
    optimizer = trained(at.AdamWScheduleFree, weight_decay=0.1)
    before = copies(optimizer), [optimizer.state[p]["y_minus_x"].clone() for p in weights(optimizer)]
    optimizer.param_groups[0]["lr"] = 0.0
    step(optimizer, 3)
    after = copies(optimizer), [optimizer.state[p]["y_minus_x"] for p in weights(optimizer)]
    assert all(map(torch.equal, itertools.chain(*before), itertools.chain(*after)))


@pytest.mark.parametrize("make", MAKES)
def test_a_step_with_the_weights_for_evaluation_is_refused(make: Any) -> None:
    optimizer = trained(make)
    optimizer.eval()
    before = copies(optimizer)
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\) before the forward pass"):
        step(optimizer, 1)
    assert all(map(torch.equal, before, copies(optimizer)))
    optimizer.train()
    step(optimizer, 1)


def test_a_released_step_with_the_weights_for_evaluation_is_refused() -> None:
    layer = nn.Linear(3, 2)
    optimizer = at.AdamWScheduleFree(layer.parameters(), lr=0.1)
    at.release(optimizer)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.eval()
    x = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\)"):
        layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight, x)


def test_offloaded_weights_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = at.AdamWScheduleFree([("w", nn.Parameter(torch.ones(3)))], lr=0.1, offload=True)
    monkeypatch.setattr(optimizer, "_is_offloaded", lambda group, p: True)
    with pytest.raises(ValueError, match=r"'w' is stepped by AdamWScheduleFree, whose eval\(\) and train\(\)"):
        step(optimizer, 1)


# ---- saving


@pytest.mark.parametrize("hyperparameters", ["saved", "given"])
@pytest.mark.parametrize("is_training", [True, False])
def test_trap_T54_the_state_dict_says_which_weights_belong_to_it(is_training: bool, hyperparameters: str) -> None:
    """Saved in either mode, and loaded into an optimizer in the other, training goes on with the same bits."""
    first = trained(at.AdamWScheduleFree, state="int8")
    if not is_training:
        first.eval()
    saved, values = copy.deepcopy(first.state_dict()), copies(first)
    assert saved["param_groups"][0]["train_mode"] is is_training
    second = at.AdamWScheduleFree([nn.Parameter(x.clone()) for x in values], lr=0.05, state="int8")
    if is_training:
        second.eval()
    second.load_state_dict(saved, hyperparameters)
    assert all(map(torch.equal, values, copies(second)))
    for optimizer in (first, second):
        optimizer.train()
        step(optimizer, 3)
    assert all(map(torch.equal, copies(first), copies(second)))


def test_a_switch_that_was_interrupted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = trained(at.AdamWScheduleFree)
    saved, values = copy.deepcopy(optimizer.state_dict()), copies(optimizer)
    done = []

    def interrupted(*given: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(given)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.eval()
    for use in (optimizer.eval, optimizer.train, optimizer.step, optimizer.state_dict):
        with pytest.raises(RuntimeError, match="was interrupted"):
            use()
    with torch.no_grad():
        for p, x in zip(weights(optimizer), values, strict=True):
            p.copy_(x)
    optimizer.load_state_dict(saved)
    step(optimizer, 1)


def test_a_mode_that_is_none_is_refused_on_loading() -> None:
    optimizer = trained(at.AdamWScheduleFree)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["train_mode"] = None
    with pytest.raises(ValueError, match="train_mode must be True or False, not None"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("make", MAKES)
def test_a_state_of_the_package_schedulefree_is_read(make: Any, is_training: bool) -> None:
    """It has z in place of y − x, and the counts in its groups."""
    ours = trained(make)
    theirs = {"state": {}, "param_groups": copy.deepcopy(ours.state_dict()["param_groups"])}
    group = theirs["param_groups"][0]
    beta = group["betas"][0] if "betas" in group else group["momentum"]
    for i, p in enumerate(weights(ours)):
        entry = {**ours.state[p]}
        group |= {"k": int(entry.pop("step")), **{name: float(entry.pop(name)) for name in ("weight_sum", "lr_max")}}
        theirs["state"][i] = {"z": p.detach() + beta / (1 - beta) * entry.pop("y_minus_x"), **entry}
    if not is_training:
        ours.eval()
        group["train_mode"] = False
    loaded = make([nn.Parameter(x) for x in copies(ours)], lr=0.1)
    loaded.load_state_dict(theirs)
    for optimizer in (ours, loaded):
        optimizer.train()
        step(optimizer, 3)
    for p, q in zip(weights(ours), weights(loaded), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_converting_the_weights_for_evaluation_is_refused() -> None:
    model = nn.Linear(3, 2)
    optimizer = at.AdamWScheduleFree(model.parameters())
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\)"):
        from_torch(model, optimizer)
    ours = an.AdamWScheduleFree({"w": np.ones(3)})
    ours.eval()
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\)"):
        from_numpy(ours)


# ---- the model


@pytest.mark.parametrize("make", MAKES)
def test_trap_T54_a_model_in_another_mode_than_its_weights_is_told_once(make: Any) -> None:
    model = nn.Linear(3, 2)
    optimizer = make(model, lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    x = torch.ones(1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(x)  # before the first step, all weights are the same
        model.train()(x).sum().backward()
        optimizer.step()
        model(x)
        optimizer.eval()
        model.eval()(x)
        optimizer.train()
    with pytest.warns(UserWarning, match=r"in evaluation mode .* call optimizer\.eval\(\)"):
        model(x)
    optimizer.eval()
    with pytest.warns(UserWarning, match=r"in training mode .* call optimizer\.train\(\)"):
        model.train()(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        optimizer.train()
        model.eval()(x)


def test_the_model_keeps_nothing_of_the_optimizer() -> None:
    """The hook ends with the optimizer, and copies of the model, which have other weights, have one that does nothing."""
    model = nn.Linear(3, 2)
    optimizer = at.AdamWScheduleFree(model, lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(model).eval()(torch.ones(1, 3))
    assert b"AdamWScheduleFree" not in pickle.dumps(model)
    del optimizer
    gc.collect()
    assert not model._forward_pre_hooks


def test_a_model_is_refused_by_other_members() -> None:
    with pytest.raises(TypeError, match=r"AdamW takes parameters, not a model: pass model\.parameters\(\)"):
        at.AdamW(nn.Linear(3, 2))


# ---- NumPy, SciPy, and runs


@pytest.mark.parametrize("options", [{}, {"state": "int8"}, {"state": "bfloat16"}], ids=str)
def test_numpy_switches_to_the_same_bits(options: dict) -> None:
    optimizer = trained(at.AdamWScheduleFree, 0, **options)
    arrays = [x.numpy() for x in copies(optimizer)]
    ours = an.AdamWScheduleFree(arrays, lr=0.05, **options)
    assert isinstance(ours, Evaluated)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        for p in weights(optimizer):
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        ours.step([p.grad.numpy() for p in weights(optimizer)])
    for one in (optimizer, ours):
        one.eval()
    assert all(map(np.array_equal, arrays, [x.numpy() for x in copies(optimizer)]))
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\)"):
        ours.step([None] * len(arrays))
    again = an.AdamWScheduleFree([x.copy() for x in arrays], lr=0.05, **options)
    again.load_state_dict(ours.state_dict())
    assert again.param_groups[0]["train_mode"] is False
    for one in (optimizer, ours):
        one.train()
    assert all(map(np.array_equal, arrays, [x.numpy() for x in copies(optimizer)]))


def test_the_result_of_scipy_is_the_average() -> None:
    from scipy.optimize import minimize

    from adamas.scipy import METHODS

    points = []

    def fun(x: np.ndarray) -> float:
        points.append(x.copy())
        return float(((x - 3.0) ** 2).sum())

    found = minimize(
        fun,
        np.zeros(2),
        jac=lambda x: 2 * (x - 3.0),
        method=METHODS["sgd_schedule_free"],
        options={"lr": 0.3, "maxiter": 12, "gtol": 0.0},
    )
    x = z = np.zeros(2)
    for t in range(1, 13):
        z = z - 0.3 * 2 * (0.1 * z + 0.9 * x - 3.0)
        x = x + (z - x) / t
    np.testing.assert_allclose(points[-1], x, rtol=1e-12)
    assert found.fun == min(float(((one - 3.0) ** 2).sum()) for one in points)


def test_a_run_is_evaluated_with_the_average_and_does_not_depend_on_when(tmp_path: Any) -> None:
    often = fit("digits", optimizer="adamw_schedule_free", epochs=2, seed=0, eval_every=7, out=tmp_path / "often")
    once = fit("digits", optimizer="adamw_schedule_free", epochs=2, seed=0, out=tmp_path / "once")
    name = "model.safetensors"
    assert (tmp_path / "often" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert often.value == once.value
