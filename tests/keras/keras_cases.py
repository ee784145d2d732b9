"""The table of members that the tests of ``adamas.keras`` run over, and how a step is compiled on each backend.

A new member is tested by its row in ``members``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import members
import numpy as np
import pytest
from members import There, hyperparameters

import adamas.keras as ak
from adamas.rule.declaration import Member
from adamas.rule.members import MEMBERS

BACKEND = keras.backend.backend()


def nightly_unless_on_torch(test: Callable[..., None]) -> Callable[..., None]:
    """For what is done alike on every backend, and takes long to compile on JAX and TensorFlow."""
    return test if BACKEND == "torch" else pytest.mark.nightly(test)


def nightly_value_unless_on_torch(value: Any) -> Any:
    """The same for one value of a parameter."""
    return value if BACKEND == "torch" else pytest.param(value, marks=pytest.mark.nightly)


def nightly_on(backend: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For what is done alike on JAX and TensorFlow (``adamas.keras.traced``): ``make test-long`` has it on the other one."""
    return pytest.mark.nightly if backend == BACKEND else lambda test: test


def in_turns(values: Sequence[Any]) -> list[Any]:
    """The same for the values of a parameter: of two that follow each other, ``make test-long`` has one on each."""
    others = {"jax": 1, "tensorflow": 0}.get(BACKEND)
    return [pytest.param(value, marks=pytest.mark.nightly if i % 2 == others else ()) for i, value in enumerate(values)]


@dataclass(frozen=True, eq=False)
class Case:
    """A row of the table of members, as ``adamas.keras`` has it."""

    name: str
    member: Member
    there: There

    @property
    def make(self) -> Callable[..., Any]:
        return getattr(ak, self.there.name)

    @property
    def theirs(self) -> Callable[..., Any] | None:
        """Its namesake in Keras."""
        return getattr(keras.optimizers, self.there.name) if self.there.own else None

    @property
    def options(self) -> dict[str, Any]:
        return {"learning_rate": 0.0078125, **self.there.arguments}  # 2⁻⁷, exact in float32

    def ours(self, **options: Any) -> Any:
        return self.make(**{**self.options, **options})

    def compiled(self) -> Stepper:
        return compiled(self.make, **self.options)

    def keras(self, **options: Any) -> Any:
        assert self.theirs is not None
        given = self.there.own_arguments
        given = self.there.arguments if given is None else given
        return self.theirs(**{"learning_rate": 0.0078125, **given, **options})

    def full_hyper(self) -> dict[str, Any]:
        return hyperparameters(self.member, **{"lr": 0.0078125, **self.there.hyper})

    def __str__(self) -> str:
        return self.name


L2 = {"weight_decay": 0.1, "decay": "l2", "l1": 0.01}
CASES = [
    *(Case(case.name, case.declared, case.keras) for case in members.CASES if case.keras is not None),
    # What Keras has not: PyTorch's place of ε, and other kinds of decay.
    Case(
        "rmsprop-torch", MEMBERS["RMSprop"], There("RMSprop", {"eps_mode": "torch"}, {"alpha": 0.9, "eps": 1e-7}, False)
    ),
    Case("adam-torch", MEMBERS["Adam"], There("Adam", {"eps_mode": "torch"}, {"eps": 1e-7}, False)),
    Case("adam-l2", MEMBERS["Adam"], There("Adam", L2, {**members.KERAS_ADAM, **L2}, False)),
]
IN_KERAS = [case for case in CASES if case.theirs is not None]
SHAPES = ((6, 40), ())
LARGE = ((7,), (40, 130))  # the second has moments in 8 bits


def normal(seed: int, scale: float = 1.0, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape) * scale, np.float64) for shape in shapes]


def variables(seed: int = 0, dtype: str = "float32", shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    return [keras.Variable(value, dtype=dtype, name=f"v{i}") for i, value in enumerate(normal(seed, 1.0, shapes))]


def value_of(variable: Any) -> np.ndarray:
    """The variable's values in float64."""
    return np.asarray(
        keras.ops.convert_to_numpy(keras.ops.cast(variable, "float64" if is_wide(variable) else "float32"))
    )


def is_wide(variable: Any) -> bool:
    return keras.backend.standardize_dtype(variable.dtype) == "float64"


class Stepper:
    """Steps variables with an optimizer as a training loop of the backend does: compiled, on JAX without side effects."""

    def __init__(self, optimizer: Any, of: list[Any], jit: bool = True, eager: bool = False) -> None:
        """``jit=False``: TensorFlow without XLA. ``eager=True``: not compiled at all, for a few steps that make a state."""
        self.optimizer, self.of = optimizer, of
        optimizer.build(of)
        self._stateless = BACKEND == "jax" and not eager
        if eager or BACKEND == "torch":
            self._step = lambda gradients: optimizer.apply(gradients, of)
        elif BACKEND == "jax":
            import jax

            self._step = jax.jit(optimizer.stateless_apply)
        else:
            import tensorflow as tf

            self._step = tf.function(lambda gradients: optimizer.apply(gradients, of), jit_compile=jit)

    @property
    def variables(self) -> list[Any]:
        """The variables that are stepped, and the optimizer's."""
        return [*self.of, *self.optimizer.variables]

    def __call__(self, gradients: Sequence[np.ndarray]) -> None:
        given = [
            keras.ops.convert_to_tensor(g, dtype=keras.backend.standardize_dtype(v.dtype))
            for g, v in zip(gradients, self.of, strict=True)
        ]
        if not self._stateless:
            self._step(given)
            return
        state = [v.value for v in self.optimizer.variables]
        values, state = self._step(state, given, [v.value for v in self.of])
        for variable, value in (*zip(self.of, values, strict=True), *zip(self.optimizer.variables, state, strict=True)):
            variable.assign(value)


@cache
def _compiled(
    make: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], dtype: str, **options: Any
) -> tuple[Stepper, list[Any]]:
    step = Stepper(make(**options), variables(0, dtype, shapes))
    return step, [keras.ops.copy(v.value) for v in step.variables]


def compiled(
    make: Callable[..., Any], shapes: tuple[tuple[int, ...], ...] = SHAPES, dtype: str = "float32", **options: Any
) -> Stepper:
    """Steps an optimizer's first variables from the beginning; compiled once for all tests that give the same."""
    step, beginning = _compiled(make, shapes, dtype, **options)
    for variable, value in zip(step.variables, beginning, strict=True):
        variable.assign(value)
    return step


def after(step: Stepper, steps: int = 10, scale: float = 0.1) -> list[np.ndarray]:
    """The variables after some steps of random gradients."""
    shapes = [tuple(v.shape) for v in step.of]
    for i in range(steps):
        step(normal(100 + i, scale, shapes))
    return [value_of(v) for v in step.of]


def stepped(optimizer: Any, of: list[Any], steps: int = 10, scale: float = 0.1, jit: bool = True) -> list[np.ndarray]:
    """The same with an optimizer that has not stepped them yet."""
    return after(Stepper(optimizer, of, jit), steps, scale)


def assert_near(got: np.ndarray, want: np.ndarray, share: float, what: str) -> None:
    """Within a share of the largest element: where terms cancel, single ones have been rounded before."""
    assert np.abs(got - want).max() <= share * np.abs(want).max() + 1e-30, what
