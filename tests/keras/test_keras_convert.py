"""A run that was begun in PyTorch goes on in Keras, and one of Keras in PyTorch, as if nothing had happened."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras_cases import (
    LARGE,
    Stepper,
    after,
    nightly_on,
    nightly_unless_on_torch,
    nightly_value_unless_on_torch,
    value_of,
    variables,
)
from members import Case, moved_to
from torch import nn

import adamas.keras as ak
import adamas.torch as at
from adamas import convert

pytestmark = pytest.mark.keras

STEPS = 100
draw = np.random.default_rng(0)
INPUTS = draw.normal(size=(STEPS * 16, 6)).astype(np.float32)
TARGETS = np.tanh(INPUTS @ draw.normal(size=(6, 3))).astype(np.float32)
NAMES = {"hidden": "0", "out": "2"}
BACK = {there: here for here, there in NAMES.items()}
IN_KERAS = moved_to("keras")


def in_keras(optimizer: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, activation="tanh", name="hidden"), keras.layers.Dense(3, name="out")]
    )
    model.compile(optimizer, loss="mse")
    return model


def by_keras(model: Any, steps: range) -> None:
    part = slice(steps.start * 16, steps.stop * 16)
    model.fit(INPUTS[part], TARGETS[part], batch_size=16, verbose=0, shuffle=False)


def in_torch(case: Case) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to("cpu")
    return model, case.make(model.parameters(), **case.options)


def by_torch(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        part = slice(step * 16, step * 16 + 16)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(torch.from_numpy(INPUTS[part])), torch.from_numpy(TARGETS[part])).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "case", [case if case.name == "adam" else nightly_value_unless_on_torch(case) for case in IN_KERAS], ids=str
)
@nightly_on("tensorflow")
def test_a_run_that_goes_to_keras_and_back_is_that_in_torch(case: Case) -> None:
    whole, optimizer = in_torch(case)
    by_torch(whole, optimizer, range(STEPS))

    moved, optimizer = in_torch(case)
    by_torch(moved, optimizer, range(25))
    model = in_keras(IN_KERAS[case]())
    convert.to_keras(convert.from_torch(moved, optimizer), model, names=NAMES)
    assert int(model.optimizer.iterations) == 25
    by_keras(model, range(25, 50))
    by_keras(model, range(50, 75))
    convert.to_torch(convert.from_keras(model), moved, optimizer, names=BACK)
    by_torch(moved, optimizer, range(75, STEPS))
    for x, y in zip(moved.parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(x.detach(), y.detach(), rtol=1e-4, atol=1e-4)


@nightly_unless_on_torch
def test_convolutions_give_the_same_outputs_after_the_move() -> None:
    torch.manual_seed(1)
    source = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 5, (2, 3)), "up": nn.ConvTranspose2d(5, 2, (3, 2)), "norm": nn.LayerNorm(2)}
    )
    optimizer = at.Adam(source.parameters())
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 7, 3)),
            layers.Conv2D(5, (2, 3), name="conv"),
            layers.Conv2DTranspose(2, (3, 2), name="up"),
            layers.LayerNormalization(epsilon=1e-5, name="norm"),
        ]
    )
    model.compile(ak.Adam())
    convert.to_keras(convert.from_torch(source, optimizer), model)
    x = draw.normal(size=(2, 6, 7, 3)).astype(np.float32)
    with torch.no_grad():
        y = source["up"](source["conv"](torch.from_numpy(x).permute(0, 3, 1, 2)))
        y = source["norm"](y.permute(0, 2, 3, 1))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), y.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("state", [*map(nightly_value_unless_on_torch, ["float32", "bfloat16", "int6"]), "int8"])
@nightly_on("tensorflow")
def test_there_and_back_in_keras_keeps_split_weights_and_stored_moments(state: Any) -> None:
    step = Stepper(ak.AdamW(0.01, state=state), variables(0, "bfloat16", LARGE))
    after(step, 4)
    checkpoint = convert.from_keras(step.of, step.optimizer)
    others, resumed = variables(1, "bfloat16", LARGE), ak.AdamW(0.01, state=state)
    resumed.build(others)
    convert.to_keras(checkpoint, others, resumed)
    assert int(resumed.iterations) == 4
    assert all(np.array_equal(value_of(a), value_of(b)) for a, b in zip(step.of, others, strict=True))
    again = convert.from_keras(others, resumed).parameters
    for name, p in checkpoint.parameters.items():
        assert (again[name].weight == p.weight).all()
        for moment, stored in p.state.items():
            if state in ("int8", "int6"):  # a block may take another grid when its values are stored anew
                assert np.linalg.norm(again[name].state[moment] - stored) <= 0.03 * np.linalg.norm(stored)
            else:
                np.testing.assert_allclose(again[name].state[moment], stored, rtol=0.02)


def test_first_moments_take_the_grids_of_their_second_moments() -> None:
    (variable,) = variables(0, shapes=((40, 256),))
    optimizer = ak.Adam(state="int8")
    optimizer.build([variable])
    columns = np.where(np.arange(256) % 16, 1, 1e-3)
    first = np.float32(draw.normal(size=(40, 256)) * columns)
    state = {"step": np.array(3.0), "exp_avg": first, "exp_avg_sq": np.float32(np.tile(columns**2, (40, 1)))}
    name = next(iter(convert.from_keras([variable], optimizer).parameters))
    checkpoint = convert.Checkpoint({name: convert.Parameter(value_of(variable), state)})
    convert.to_keras(checkpoint, [variable], optimizer)
    stored = convert.from_keras([variable], optimizer).parameters[name].state["exp_avg"]
    assert ((stored == 0) & (first != 0)).mean() <= 2e-3


def test_kerass_own_optimizers_are_refused_by_name() -> None:
    model = in_keras("adam")
    with pytest.raises(TypeError, match=r"optimizer must be one of adamas\.keras, not a Adam"):
        convert.from_keras(model)


def test_a_model_without_a_step_has_no_state() -> None:
    model = in_keras(ak.Adam())
    checkpoint = convert.from_keras(model)
    assert len(checkpoint.parameters) == 4
    assert all(not p.state for p in checkpoint.parameters.values())


def test_trap_T38_a_moved_state_is_checked() -> None:
    """Squares that float16 made 0 are raised; what cannot be is refused, and nothing is changed."""
    (case,) = [case for case in IN_KERAS if case.name == "adam"]
    model, optimizer = in_torch(case)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-4)
    optimizer.step()
    checkpoint = convert.from_torch(model, optimizer)
    exact = {name: p.state["exp_avg_sq"] for name, p in checkpoint.parameters.items()}
    for p in checkpoint.parameters.values():
        p.state["exp_avg_sq"] = 0 * p.state["exp_avg_sq"]
    target = in_keras(IN_KERAS[case]())
    with pytest.warns(UserWarning, match="exp_avg_sq was too small for the first moment in 163 elements"):
        convert.to_keras(checkpoint, target, names=NAMES)
    moved = convert.from_keras(target).parameters
    for name, p in moved.items():
        layer, _, leaf = name.rpartition(".")
        assert np.allclose(p.state["exp_avg_sq"], exact[f"{NAMES[layer.rpartition('.')[2]]}.{leaf}"], rtol=1e-5, atol=0)
    checkpoint.parameters["0.bias"].state["exp_avg"][3] = np.nan
    with pytest.raises(ValueError, match=r"parameter '.*hidden.bias' in the checkpoint: 'exp_avg' has a NaN"):
        convert.to_keras(checkpoint, target, names=NAMES)
    again = convert.from_keras(target).parameters
    assert all(np.array_equal(p.state[key], moved[name].state[key]) for name, p in again.items() for key in p.state)
