"""A run that was begun in PyTorch goes on in Keras, and one of Keras in PyTorch, as if nothing had happened."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
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

# Each member with the arguments that make it the same on both sides.
MEMBERS: dict[str, tuple[Any, Any]] = {
    "adam": (lambda: ak.Adam(0.02, epsilon=1e-8, eps_mode="torch"), lambda p: at.Adam(p, lr=0.02)),
    "adamw": (
        lambda: ak.AdamW(0.02, weight_decay=0.05, epsilon=1e-8, eps_mode="torch"),
        lambda p: at.AdamW(p, lr=0.02, weight_decay=0.05),
    ),
    "amsgrad": (
        lambda: ak.Adam(0.02, epsilon=1e-8, eps_mode="torch", amsgrad=True),
        lambda p: at.Adam(p, lr=0.02, amsgrad=True),
    ),
    "adamax": (lambda: ak.Adamax(0.02, epsilon=1e-8), lambda p: at.Adamax(p, lr=0.02)),
    "radam": (lambda: ak.RAdam(0.02, epsilon=1e-8), lambda p: at.RAdam(p, lr=0.02)),
}


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


def in_torch(make: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to("cpu")
    return model, make(model.parameters())


def by_torch(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        part = slice(step * 16, step * 16 + 16)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(torch.from_numpy(INPUTS[part])), torch.from_numpy(TARGETS[part])).backward()
        optimizer.step()


@pytest.mark.parametrize("name", MEMBERS)
def test_fifty_steps_in_torch_and_fifty_in_keras_are_a_hundred_in_torch_and_back(name: str) -> None:
    make_keras, make_torch = MEMBERS[name]
    whole, optimizer = in_torch(make_torch)
    by_torch(whole, optimizer, range(STEPS))

    half, optimizer = in_torch(make_torch)
    by_torch(half, optimizer, range(50))
    model = in_keras(make_keras())
    convert.to_keras(convert.from_torch(half, optimizer), model, names=NAMES)
    assert int(model.optimizer.iterations) == 50
    by_keras(model, range(50, 75))
    by_keras(model, range(75, STEPS))
    assert_same(model, whole)

    half, optimizer = in_torch(make_torch)
    model = in_keras(make_keras())
    convert.to_keras(convert.from_torch(half, optimizer), model, names=NAMES)
    by_keras(model, range(50))
    convert.to_torch(convert.from_keras(model), half, optimizer, names=BACK)
    by_torch(half, optimizer, range(50, STEPS))
    assert_same(model=None, whole=whole, other=half)


def assert_same(model: Any, whole: nn.Module, other: nn.Module | None = None) -> None:
    theirs = [p.detach().numpy() for p in whole.parameters()]
    if other is not None:
        ours = [p.detach().numpy() for p in other.parameters()]
    else:
        ours = [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
        ours = [x.T if x.ndim == 2 else x for x in ours]
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
def test_there_and_back_in_keras_keeps_split_weights_and_stored_moments(state: Any) -> None:
    def made() -> tuple[Any, Any]:
        variable = keras.Variable(np.linspace(-1, 1, 64 * 80).reshape(64, 80), dtype="bfloat16", name="kernel")
        optimizer = ak.AdamW(0.01, state=state)
        optimizer.build([variable])
        return variable, optimizer

    variable, optimizer = made()
    for step in range(4):
        gradient = keras.ops.cast(keras.ops.ones((64, 80)) * (0.1 * step - 0.2), "bfloat16")
        optimizer.apply([gradient], [variable])
    checkpoint = convert.from_keras([variable], optimizer)
    other, resumed = made()
    convert.to_keras(checkpoint, [other], resumed)
    assert int(resumed.iterations) == 4
    assert (keras.ops.convert_to_numpy(other) == keras.ops.convert_to_numpy(variable)).all()
    again = convert.from_keras([other], resumed)
    name = next(iter(checkpoint.parameters))
    assert (again.parameters[name].weight == checkpoint.parameters[name].weight).all()
    for moment, stored in checkpoint.parameters[name].state.items():
        np.testing.assert_allclose(again.parameters[name].state[moment], stored, rtol=0.02)


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
    make_keras, make_torch = MEMBERS["adam"]
    model, optimizer = in_torch(make_torch)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-4)
    optimizer.step()
    checkpoint = convert.from_torch(model, optimizer)
    exact = {name: p.state["exp_avg_sq"] for name, p in checkpoint.parameters.items()}
    for p in checkpoint.parameters.values():
        p.state["exp_avg_sq"] = 0 * p.state["exp_avg_sq"]
    target = in_keras(make_keras())
    with pytest.warns(UserWarning, match="exp_avg_sq was too small beside the first moment in 163 elements"):
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
