"""The table of members that the tests of ``adamas.keras`` run over, and how a step is compiled on each backend.

A new member is tested by a row in ``CASES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

import adamas.keras as ak
from adamas.rule.declaration import Member
from adamas.rule.members import MEMBERS

BACKEND = keras.backend.backend()
ko = keras.optimizers


@dataclass(frozen=True)
class Case:
    """A member, its namesake in Keras, and what it is in ``adamas.rule``."""

    name: str
    make: Callable[..., Any]
    theirs: Callable[..., Any] | None
    member: Member
    hyper: dict[str, Any]  # what the member is given
    arguments: dict[str, Any] = field(default_factory=dict)
    start: float = 0.0

    def ours(self, **options: Any) -> Any:
        return self.make(**{"learning_rate": 0.0078125, **self.arguments, **options})  # 2⁻⁷, exact in float32

    def keras(self, **options: Any) -> Any:
        assert self.theirs is not None
        return self.theirs(**{"learning_rate": 0.0078125, **self.arguments, **options})

    def full_hyper(self) -> dict[str, Any]:
        common = {"weight_decay": 0.0, "decay": "decoupled", "l1": 0.0, "maximize": False, "lr": 0.0078125}
        return {**common, **self.hyper}

    def __str__(self) -> str:
        return self.name


ADAM = {"betas": (0.9, 0.999), "eps": 1e-7, "eps_mode": "hat", "bias_correction": True, "amsgrad": False}
SGD = {"momentum": 0.9, "nesterov": False, "dampening": 0.0}
RMS = {"alpha": 0.9, "eps": 0.0, "eps_root": 1e-7, "momentum": 0.0, "centered": False}
CASES = [
    Case("sgd", ak.SGD, ko.SGD, MEMBERS["SGD"], {**SGD, "momentum": 0.0}),
    Case("momentum", ak.SGD, ko.SGD, MEMBERS["SGD"], SGD, {"momentum": 0.9}),
    Case("nesterov", ak.SGD, ko.SGD, MEMBERS["SGD"], {**SGD, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    Case(
        "adagrad",
        ak.Adagrad,
        ko.Adagrad,
        MEMBERS["Adagrad"],
        {"eps": 0.0, "eps_root": 1e-7, "lr_decay": 0.0},
        start=0.1,
    ),
    Case("rmsprop", ak.RMSprop, ko.RMSprop, MEMBERS["RMSprop"], RMS),
    Case(
        "rmsprop-centered-momentum",
        ak.RMSprop,
        ko.RMSprop,
        MEMBERS["RMSprop"],
        {**RMS, "momentum": 0.8, "centered": True},
        {"centered": True, "momentum": 0.8},
    ),
    Case(
        "rmsprop-torch",
        ak.RMSprop,
        None,
        MEMBERS["RMSprop"],
        {**RMS, "eps": 1e-7, "eps_root": 0.0},
        {"eps_mode": "torch"},
    ),
    Case("adam", ak.Adam, ko.Adam, MEMBERS["Adam"], ADAM),
    Case("adam-torch", ak.Adam, None, MEMBERS["Adam"], {**ADAM, "eps_mode": "torch"}, {"eps_mode": "torch"}),
    Case("amsgrad", ak.Adam, ko.Adam, MEMBERS["Adam"], {**ADAM, "amsgrad": True}, {"amsgrad": True}),
    Case("adamw", ak.AdamW, ko.AdamW, MEMBERS["Adam"], {**ADAM, "weight_decay": 0.1}, {"weight_decay": 0.1}),
    Case(
        "adam-l2",
        ak.Adam,
        None,
        MEMBERS["Adam"],
        {**ADAM, "weight_decay": 0.1, "decay": "l2", "l1": 0.01},
        {"weight_decay": 0.1, "decay": "l2", "l1": 0.01},
    ),
    Case("adamax", ak.Adamax, ko.Adamax, MEMBERS["Adamax"], ADAM),
    Case("nadam", ak.Nadam, ko.Nadam, MEMBERS["NAdam"], {**ADAM, "eps_mode": "torch", "momentum_decay": 1.0}),
    Case("radam", ak.RAdam, None, MEMBERS["RAdam"], ADAM),
]
IN_KERAS = [case for case in CASES if case.theirs is not None]
SHAPES = ((6, 40), ())
LARGE = ((40, 130), (7,))  # the first has moments in 8 bits


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


def stepped(optimizer: Any, of: list[Any], steps: int = 10, scale: float = 0.1, jit: bool = True) -> list[np.ndarray]:
    """The variables after some steps of random gradients."""
    step = Stepper(optimizer, of, jit)
    shapes = [tuple(v.shape) for v in of]
    for i in range(steps):
        step(normal(100 + i, scale, shapes))
    return [value_of(v) for v in of]


def assert_near(got: np.ndarray, want: np.ndarray, share: float, what: str) -> None:
    """Within a share of the largest element: where terms cancel, single ones have been rounded before."""
    assert np.abs(got - want).max() <= share * np.abs(want).max() + 1e-30, what
