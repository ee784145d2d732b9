"""``adamas.optax`` in the loops of Flax and Equinox, the libraries that models are written in (``docs/jax.md`` has the loops).

Each is held against a plain loop over ``optax.adamw``, which keeps every weight in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp  # noqa: E402

import adamas.optax as ao  # noqa: E402

Tree = Any
STEPS = 40
RATE = {"learning_rate": 3e-3, "weight_decay": 0.1}
DATA = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
TARGET = DATA @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)


def mean_square(outputs: Any) -> Any:
    return ((outputs.astype(jnp.float32) - TARGET) ** 2).mean()


class Flax:
    """A network of Flax, and its own loop."""

    def __init__(self, dtype: Any) -> None:
        nnx = pytest.importorskip("flax.nnx")
        made = {"rngs": nnx.Rngs(0), "dtype": dtype, "param_dtype": dtype}
        self.nnx = nnx
        self.model = nnx.Sequential(
            nnx.Linear(4, 64, **made), nnx.tanh, nnx.Linear(64, 64, **made), nnx.tanh, nnx.Linear(64, 1, **made)
        )

    def params_and_loss(self) -> tuple[Tree, Callable[[Tree], Any]]:
        definition, params = self.nnx.split(self.model)
        return params, lambda params: mean_square(self.nnx.merge(definition, params)(DATA))

    def train(self, tx: Any) -> tuple[list[float], Tree, Tree]:
        optimizer = self.nnx.Optimizer(self.model, tx, wrt=self.nnx.Param)

        @self.nnx.jit
        def step(model: Any, optimizer: Any) -> Any:
            loss, gradients = self.nnx.value_and_grad(lambda model: mean_square(model(DATA)))(model)
            optimizer.update(model, gradients)
            return loss

        losses = [float(step(self.model, optimizer)) for _ in range(STEPS)]
        return losses, self.nnx.state(self.model), self.nnx.state(optimizer)


class Equinox:
    """A network of Equinox, and its own loop."""

    def __init__(self, dtype: Any) -> None:
        self.eqx = pytest.importorskip("equinox")
        made = self.eqx.nn.MLP(4, 1, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
        self.model = jax.tree.map(lambda x: x.astype(dtype) if self.eqx.is_array(x) else x, made)

    def params_and_loss(self) -> tuple[Tree, Callable[[Tree], Any]]:
        params, rest = self.eqx.partition(self.model, self.eqx.is_inexact_array)
        return params, lambda params: mean_square(jax.vmap(self.eqx.combine(params, rest))(DATA))

    def train(self, tx: Any) -> tuple[list[float], Tree, Tree]:
        eqx, model = self.eqx, self.model
        state = tx.init(eqx.filter(model, eqx.is_inexact_array))

        @eqx.filter_jit
        def step(model: Any, state: Any) -> Any:
            loss, gradients = eqx.filter_value_and_grad(lambda m: mean_square(jax.vmap(m)(DATA)))(model)
            updates, state = tx.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
            return ao.apply_updates(model, updates), state, loss

        losses = []
        for _ in range(STEPS):
            model, state, loss = step(model, state)
            losses.append(float(loss))
        return losses, eqx.filter(model, eqx.is_array), state


def kept_in_float32(params: Tree, loss_of: Callable[[Tree], Any]) -> tuple[list[float], Tree]:
    """The losses and the weights of ``optax.adamw`` over float32 weights, of which the network has what its dtype holds."""
    tx = optax.adamw(**RATE)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state = tx.init(wide)

    def seen(wide: Tree) -> Tree:
        return jax.tree.map(lambda w, p: w.astype(p.dtype), wide, params)

    @jax.jit
    def step(wide: Tree, state: Tree) -> Tree:
        loss, gradients = jax.value_and_grad(loss_of)(seen(wide))
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        updates, state = tx.update(gradients, state, wide)
        return optax.apply_updates(wide, updates), state, loss

    losses = []
    for _ in range(STEPS):
        wide, state, loss = step(wide, state)
        losses.append(float(loss))
    return losses, seen(wide)


def flat(tree: Tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("library", [Flax, Equinox])
def test_a_network_loses_as_with_optax(library: type[Flax | Equinox]) -> None:
    """To 1e-5 of the first loss: optax's own bias corrections are off by as much (``test_optax.py``)."""
    expected, _ = kept_in_float32(*library(jnp.float32).params_and_loss())
    losses, _, _ = library(jnp.float32).train(ao.adamw(**RATE))
    assert np.abs(np.subtract(losses, expected)).max() <= 1e-5 * expected[0]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("library", [Flax, Equinox])
def test_a_split_bfloat16_network_is_trained_as_one_kept_in_float32(library: type[Flax | Equinox]) -> None:
    """Nine weights of ten end with the same bits; with weights="nearest" it is one of seven."""
    expected, weights = kept_in_float32(*library(jnp.bfloat16).params_and_loss())
    losses, params, _ = library(jnp.bfloat16).train(ao.adamw(**RATE, weights="split"))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert np.abs(np.subtract(losses, expected)).max() <= 5e-4 * expected[0]
    assert (flat(params) == flat(weights)).mean() > 0.9


@pytest.mark.parametrize("library", [pytest.param(Flax, marks=pytest.mark.nightly), Equinox])
def test_moments_in_8_bits_train_a_network_too(library: type[Flax | Equinox]) -> None:
    losses, _, state = library(jnp.float32).train(ao.adamw(**RATE, state="int8"))
    assert {"int8", "uint8"} <= {x.dtype.name for x in jax.tree.leaves(state)}
    assert losses[-1] < 0.1 * losses[0]
