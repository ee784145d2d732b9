"""What the files in ``tests/data/old`` hold, for the script that wrote them and for the tests that go on from them.

An optimizer of each case does 4 steps and is saved; the steps after that are what every later version has to repeat. Only
public names are used, and weights and gradients are exact binary fractions that depend on nothing, so the same code writes
the files with an old version and steps on with a new one.
"""

from __future__ import annotations

import copy
import json
import runpy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from adamas.schedules import Plateau, cosine, linear, warmup

OLD = Path(__file__).parent / "data" / "old"
STEPS_BEFORE = 4
COMPARED = (1, 3)  # steps after the file, at which weights and states are compared
SMALL = {"weight": (4, 20), "bias": (4,)}
LARGE = {"weight": (32, 130), "bias": (32,)}  # the weight has codes in 8 bits: two blocks in a row, the second not full
RATE = 0.02 * warmup(3).then(cosine(12, end=0.1))


@dataclass(frozen=True)
class Case:
    """An optimizer with options of its own.

    Attributes:
        name: of its files.
        member: the class in ``adamas.torch`` and ``adamas.numpy``.
        options: what it is given.
        dtype: of the parameters.
        shapes: of the parameters, by name.
        grouped: whether the bias is in a group of its own, without decay.
        named: whether the optimizer is told the parameters' names.
        nonfinite: the steps whose gradient has a NaN, counted from 1.
    """

    name: str
    member: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: SMALL)
    grouped: bool = False
    named: bool = True
    nonfinite: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name

    def fresh_options(self) -> tuple[dict[str, Any], Plateau | None]:
        """The options, and the plateau in the learning rate where there is one; none is shared with another optimizer."""
        options = copy.deepcopy(dict(self.options))
        plateau = options.pop("plateau", None)
        if plateau is not None:
            options["lr"] = options["lr"] * plateau
        return options, plateau


MIXED = {"exp_avg": "int8", "exp_avg_sq": "bfloat16"}
CASES = [
    Case("sgd", "SGD", {"lr": 0.05, "weight_decay": 0.1}),
    Case("sgd-momentum", "SGD", {"lr": 0.02, "momentum": 0.9, "dampening": 0.1, "decay": "decoupled"}),
    Case("sgd-nesterov", "SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "l1": 0.001}),
    Case("adagrad", "Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    Case("rmsprop", "RMSprop", {"lr": 0.01, "eps_root": 1e-6}),
    Case("rmsprop-centered-momentum", "RMSprop", {"lr": 0.003, "momentum": 0.8, "centered": True, "weight_decay": 0.1}),
    Case("adam", "Adam", {"lr": 0.02, "maximize": True}),
    Case("adam-coupled", "Adam", {"lr": 0.02, "weight_decay": 0.1, "l1": 0.01}),
    Case("adam-hat", "Adam", {"lr": 0.02, "eps_mode": "hat", "eps": 1e-3}),
    Case("adam-uncorrected", "Adam", {"lr": 0.02, "bias_correction": False, "eps_root": 1e-6}),
    Case("adam-amsgrad", "Adam", {"lr": 0.02, "amsgrad": True}),
    Case("adamw", "AdamW", {"lr": 0.02, "weight_decay": 0.05}),
    Case("adamw-groups", "AdamW", {"lr": 0.02, "weight_decay": 0.05}, grouped=True),
    Case("adamw-independent", "AdamW", {"lr": RATE, "weight_decay": 0.01, "decay": "independent"}),
    Case("adamax", "Adamax", {"lr": 0.02, "weight_decay": 0.1}),
    Case("nadam", "NAdam", {"lr": 0.02, "weight_decay": 0.1, "decay": "decoupled"}),
    Case("radam", "RAdam", {"lr": 0.02}),
    Case("adam-float64", "Adam", {"lr": 0.02}, dtype="float64"),
    Case("adam-complex64", "Adam", {"lr": 0.02}, dtype="complex64"),
    Case("adam-bfloat16", "Adam", {"lr": 0.02, "state": "bfloat16"}),
    Case("adam-unnamed", "Adam", {"lr": 0.02, "state": "bfloat16", "seed": 3}, named=False),
    Case("adam-split-bfloat16", "Adam", {"lr": 0.02, "weights": "split"}, dtype="bfloat16"),
    Case("adam-split-float16", "Adam", {"lr": 0.02, "weights": "split"}, dtype="float16"),
    Case("adam-stochastic", "Adam", {"lr": 0.02, "weights": "stochastic", "seed": 7}, dtype="bfloat16"),
    Case("adam-nearest-float16", "Adam", {"lr": 0.02}, dtype="float16"),
    Case("adam-int8", "Adam", {"lr": 0.02, "state": "int8"}, shapes=LARGE),
    Case("adam-mixed", "Adam", {"lr": 0.02, "state": MIXED}, shapes=LARGE, dtype="bfloat16"),
    Case("amsgrad-int8-split", "Adam", {"amsgrad": True, "state": "int8", "weights": "split"}, "bfloat16", LARGE),
    Case("nadam-int8-stochastic", "NAdam", {"state": "int8", "weights": "stochastic"}, "bfloat16", LARGE),
    Case("adamax-int8", "Adamax", {"state": "int8", "weights": "stochastic"}, "float16", LARGE),
    Case("rmsprop-int8-momentum", "RMSprop", {"momentum": 0.8, "state": "int8", "weights": "split"}, "float16", LARGE),
    Case("sgd-int8", "SGD", {"lr": 0.02, "momentum": 0.9, "state": "int8", "weights": "split"}, "bfloat16", LARGE),
    Case("adagrad-int8", "Adagrad", {"lr": 0.1, "state": "int8", "weights": "split"}, "bfloat16", LARGE),
    Case(
        "adamw-schedules",
        "AdamW",
        {
            "lr": RATE,
            "weight_decay": 0.1 * cosine(12),
            "betas": (linear(6, start=0.8, end=0.9), 0.99),
            "max_grad_norm": cosine(12),
        },
        grouped=True,
    ),
    Case("adam-plateau", "Adam", {"lr": RATE, "plateau": Plateau(factor=0.5, patience=1)}),
    Case("adamw-clipped", "AdamW", {"lr": 0.02, "max_grad_norm": "auto"}),
    Case("adam-skipped", "Adam", {"lr": RATE, "on_nonfinite": "skip", "max_grad_norm": 0.5}, nonfinite=(2, 6)),
]
BY_NAME = {case.name: case for case in CASES}
IN_NUMPY = [
    BY_NAME[name]
    for name in (
        "sgd-nesterov",
        "adagrad",
        "rmsprop-centered-momentum",
        "adam-amsgrad",
        "adamw-groups",
        "nadam",
        "adam-complex64",
        "adam-unnamed",
        "adam-mixed",
        "sgd-int8",
        "adam-stochastic",
        "adamw-schedules",
        "adam-plateau",
        "adamw-clipped",
        "adam-skipped",
    )
]
METRICS = (1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5)  # what a plateau observes, a number after each step


def fractions(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Multiples of 2⁻²³ in [-1, 1) in float64, a hash of position and seed."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(1 + 1_000_003 * seed)
    mixed = index * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).reshape(shape)


def numbers(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> np.ndarray:
    """Fractions in rows of very different sizes."""
    sizes = 2.0 ** -(3.0 * (np.arange(shape[0]) % 4)).reshape(-1, *[1] * (len(shape) - 1))
    values = fractions(shape, seed) * sizes
    if dtype.startswith("complex"):
        values = values + 1j * fractions(shape, seed + 500) * sizes
    return values.astype(numpy_dtype(dtype))


def gradients(case: Case, step: int) -> dict[str, np.ndarray]:
    """The gradient of each parameter in a step, counted from 1."""
    result = {}
    for i, (name, shape) in enumerate(case.shapes.items()):
        result[name] = numbers(shape, 10 * step + i, case.dtype)
        if step in case.nonfinite:
            result[name][-1] = np.nan
    return result


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of NumPy, or of ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def stepping(optimizer: Any, case: Case, plateau: Plateau | None, first: int, steps: int, step: Any) -> Iterator[int]:
    """Makes steps, and yields how many they were after each of those at which files are compared."""
    for i in range(first, first + steps):
        step(gradients(case, i))
        if plateau is not None:
            plateau.observe(METRICS[i - 1])
        if (done := i - first + 1) in COMPARED:
            yield done


# ---- PyTorch


def torch_parameters(case: Case, values: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Parameters with these values, or with those that every case begins with."""
    import torch

    result = {}
    for i, (name, shape) in enumerate(case.shapes.items()):
        given = numbers(shape, 900 + i, case.dtype) if values is None else values[name]
        result[name] = torch.nn.Parameter(torch_tensor(given))
    return result


def torch_tensor(x: np.ndarray) -> Any:
    """A tensor of the array's values in memory of its own, bfloat16 too."""
    import torch

    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def array_of(tensor: Any) -> np.ndarray:
    """An array of a tensor's values, with ml_dtypes' bfloat16."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()


def torch_optimizer(case: Case, params: Mapping[str, Any]) -> tuple[Any, Plateau | None]:
    """The case's optimizer, and the plateau in its learning rate."""
    import adamas.torch

    options, plateau = case.fresh_options()
    given: Any = params.items() if case.named else params.values()
    if case.grouped:
        given = [{"params": [("weight", params["weight"])]}, {"params": [("bias", params["bias"])], "weight_decay": 0}]
    return getattr(adamas.torch, case.member)(given, **options), plateau


def torch_values(params: Mapping[str, Any], optimizer: Any) -> dict[str, np.ndarray]:
    """Weights and states by name; low bits as 16-bit integers."""
    from adamas.torch.storage import as_int16

    result = {}
    for name, p in params.items():
        result[name] = array_of(p)
        state = {key: as_int16(x) if key == "weight_low_bits" else x for key, x in optimizer.state[p].items()}
        result.update({f"{name}/{key}": array_of(value) for key, value in state.items()})
    if (skipped := getattr(optimizer, "skipped_steps", None)) is not None:
        result["skipped_steps"] = np.array(skipped)
    return result


def torch_stepping(
    case: Case, params: Mapping[str, Any], optimizer: Any, plateau: Plateau | None, first: int, steps: int
) -> Iterator[int]:
    """See ``stepping``."""

    def step(given: Mapping[str, np.ndarray]) -> None:
        for name, p in params.items():
            p.grad = torch_tensor(given[name])
        optimizer.step()

    return stepping(optimizer, case, plateau, first, steps, step)


# ---- NumPy


def numpy_parameters(case: Case, values: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Arrays with these values, or with those that every case begins with."""
    return {
        name: numbers(shape, 900 + i, case.dtype) if values is None else values[name].copy()
        for i, (name, shape) in enumerate(case.shapes.items())
    }


def numpy_optimizer(case: Case, params: Mapping[str, np.ndarray]) -> tuple[Any, Plateau | None]:
    """The case's optimizer, and the plateau in its learning rate."""
    import adamas.numpy

    options, plateau = case.fresh_options()
    given: Any = dict(params) if case.named else list(params.values())
    if case.grouped:
        given = [{"params": {"weight": params["weight"]}}, {"params": {"bias": params["bias"]}, "weight_decay": 0}]
    return getattr(adamas.numpy, case.member)(given, **options), plateau


def numpy_values(params: Mapping[str, np.ndarray], optimizer: Any) -> dict[str, np.ndarray]:
    """Weights and states by name."""
    result = {name: p.copy() for name, p in params.items()}
    for name, state in optimizer.state.items():
        result.update({f"{name}/{key}": np.array(value) for key, value in state.items()})
    result["skipped_steps"] = np.array(optimizer.skipped_steps)
    return result


def numpy_stepping(
    case: Case, params: Mapping[str, Any], optimizer: Any, plateau: Plateau | None, first: int, steps: int
) -> Iterator[int]:
    """See ``stepping``."""

    def step(given: Mapping[str, np.ndarray]) -> None:
        optimizer.step(given if case.named else list(given.values()))

    return stepping(optimizer, case, plateau, first, steps, step)


# ---- optax


@dataclass(frozen=True)
class OptaxCase:
    """An optimizer of ``adamas.optax``: its name there and its options."""

    name: str
    member: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: SMALL)
    nonfinite: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name


IN_OPTAX = [
    OptaxCase("nesterov", "sgd", {"learning_rate": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    OptaxCase("centered", "rmsprop", {"learning_rate": 0.003, "centered": True, "momentum": 0.8}),
    OptaxCase("amsgrad", "amsgrad", {"learning_rate": 0.02, "weight_decay": 0.1, "decay_mode": "decoupled"}),
    OptaxCase("adamax", "adamax", {"learning_rate": 0.02, "l1": 0.01}),
    OptaxCase("nadam", "nadam", {"learning_rate": RATE, "momentum_decay": 4e-3}),
    OptaxCase("radam", "radam", {"learning_rate": RATE}),
    OptaxCase(
        "adamw-skipped", "adamw", {"learning_rate": RATE, "on_nonfinite": "skip", "state": "bfloat16"}, nonfinite=(2, 6)
    ),
    OptaxCase("adamw-split", "adamw", {"learning_rate": 0.02, "weights": "split"}, dtype="bfloat16"),
    OptaxCase("adam-int8", "adam", {"learning_rate": 0.02, "state": "int8"}, shapes=LARGE),
]


def optax_parameters(case: OptaxCase, values: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Arrays of JAX, within a module called ``layer``."""
    import jax.numpy as jnp

    return {"layer": {name: jnp.asarray(x) for name, x in numpy_parameters(case, values).items()}}  # type: ignore[arg-type]


def optax_optimizer(case: OptaxCase) -> Any:
    """The case's gradient transformation."""
    import adamas.optax

    return getattr(adamas.optax, case.member)(**case.options)


def optax_values(params: Mapping[str, Any], state: Any) -> dict[str, np.ndarray]:
    """Weights and the leaves of a state, by their paths."""
    import jax

    return {
        f"{what}{jax.tree_util.keystr(path)}": np.asarray(leaf)
        for what, tree in (("params", params), ("state", state))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def optax_steps(
    case: OptaxCase, tx: Any, params: Any, state: Any, first: int, steps: int
) -> Iterator[tuple[int, Any, Any]]:
    """Makes compiled steps; yields after each how many they were, and weights and state."""
    import jax
    import jax.numpy as jnp

    import adamas.optax

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return adamas.optax.apply_updates(params, updates), state

    for i in range(first, first + steps):
        grads = {"layer": {name: jnp.asarray(x) for name, x in gradients(case, i).items()}}  # type: ignore[arg-type]
        params, state = step(params, state, grads)
        yield i - first + 1, params, state


# ---- Keras


@dataclass(frozen=True)
class KerasCase:
    """An optimizer of ``adamas.keras``, its options, and the dtype and size of the dense layer that it trains."""

    name: str
    member: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    size: tuple[int, int] = (4, 20)
    excluded: str | None = None

    def __str__(self) -> str:
        return self.name


IN_KERAS = [
    KerasCase("nadam", "Nadam", {"learning_rate": 0.02, "decay": "l2", "weight_decay": 0.1, "l1": 0.01}),
    KerasCase(
        "rmsprop-centered-momentum",
        "RMSprop",
        {"learning_rate": 0.003, "centered": True, "momentum": 0.8, "clipnorm": 1.0},
    ),
    KerasCase(
        "adamw-schedule",
        "AdamW",
        {"learning_rate": RATE * Plateau(factor=0.5, patience=1), "use_ema": True},
        excluded="bias",
    ),
    KerasCase(
        "adam-int8-split", "Adam", {"learning_rate": 0.02, "amsgrad": True, "state": "int8"}, "bfloat16", (32, 130)
    ),
]


def keras_model(case: KerasCase) -> Any:
    """A dense layer with the weights that every case begins with, compiled with the case's optimizer."""
    import keras

    import adamas.keras

    optimizer = getattr(adamas.keras, case.member)(**copy.deepcopy(dict(case.options)))
    if case.excluded is not None:
        optimizer.exclude_from_weight_decay(var_names=[case.excluded])
    layer = keras.layers.Dense(case.size[1], dtype=case.dtype, name="dense")
    model = keras.Sequential([keras.Input((case.size[0],)), layer], name="model")
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(numbers(tuple(variable.shape), 900 + i))
    model.compile(optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    return model


def keras_values(model: Any) -> dict[str, np.ndarray]:
    """Weights and the optimizer's variables, each with its position in the file; bfloat16 as float32."""
    import keras

    def value(variable: Any) -> np.ndarray:
        is_half = keras.backend.standardize_dtype(variable.dtype) == "bfloat16"
        return np.array(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32") if is_half else variable))

    return {
        f"{what}/{i}": value(variable)
        for what, variables in (("weights", model.trainable_variables), ("optimizer", model.optimizer.variables))
        for i, variable in enumerate(variables)
    }


def keras_steps(model: Any, first: int, steps: int) -> Iterator[int]:
    """Makes steps as a training loop of the backend does, and yields after each how many they were."""
    import keras

    optimizer, of = model.optimizer, model.trainable_variables
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stateless = jax.jit(optimizer.stateless_apply)

        def step(given: list[Any]) -> None:
            values, state = stateless([v.value for v in optimizer.variables], given, [v.value for v in of])
            pairs = (*zip(of, values, strict=True), *zip(optimizer.variables, state, strict=True))
            for variable, value in pairs:
                variable.assign(value)
    elif backend == "tensorflow":
        import tensorflow

        step = tensorflow.function(lambda given: optimizer.apply(given, of), jit_compile=True)
    else:

        def step(given: list[Any]) -> None:
            optimizer.apply(given, of)

    for i in range(first, first + steps):
        given = [
            keras.ops.convert_to_tensor(numbers(tuple(v.shape), 10 * i + k), keras.backend.standardize_dtype(v.dtype))
            for k, v in enumerate(of)
        ]
        step(given)
        for plateau in optimizer.observed:
            plateau.observe(METRICS[i - 1])
        yield i - first + 1


# ---- files of arrays


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays into an ``.npz``; those in bfloat16, which it cannot hold, as their bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {}
    for name, x in arrays.items():
        is_half = x.dtype == ml_dtypes.bfloat16
        plain[f"{name}:bfloat16" if is_half else name] = x.view(np.uint16) if is_half else x
    np.savez_compressed(path, **plain)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what ``save_arrays`` wrote."""
    with np.load(path) as saved:
        return {
            name.removesuffix(":bfloat16"): saved[name].view(ml_dtypes.bfloat16) if ":" in name else saved[name]
            for name in saved.files
        }


def thinned(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of large arrays every eleventh element, and of codes in 8 bits every third, to keep the files small."""
    strides = {name: 1 if x.size < 1000 else 3 if x.itemsize == 1 else 11 for name, x in values.items()}
    return {name: x if strides[name] == 1 else x.reshape(-1)[:: strides[name]] for name, x in values.items()}


def at(saved: Mapping[str, np.ndarray], when: str) -> dict[str, np.ndarray]:
    """The arrays of one moment: ``before``, ``after1`` or ``after3``. The scales of codes have their present name."""
    return {
        name.split("|", 1)[1].replace("_scale", "_grid"): x for name, x in saved.items() if name.startswith(f"{when}|")
    }


def when(values: Mapping[str, np.ndarray], moment: str) -> dict[str, np.ndarray]:
    """The arrays under the names that ``at`` finds."""
    return {f"{moment}|{name}": x for name, x in values.items()}


def writer() -> dict[str, str]:
    """What wrote the files: the commit, the instruction set, and the versions of the frameworks."""
    return json.loads((OLD / "written.json").read_text())


def ulps(got: np.ndarray, want: np.ndarray, before: np.ndarray) -> float:
    """How far two arrays of one dtype are apart, in units of the last place of the largest of ``want`` and ``before``.

    NaN and infinities have to stand in the same places.
    """
    if np.iscomplexobj(want):
        return max(ulps(got.real, want.real, before.real), ulps(got.imag, want.imag, before.imag))
    info = ml_dtypes.finfo(want.dtype)
    wide = np.float64
    x, y, z = got.astype(wide), want.astype(wide), before.astype(wide)
    if not np.array_equal(x[~np.isfinite(y)], y[~np.isfinite(y)], equal_nan=True):
        return np.inf
    finite = np.isfinite(y)
    size = np.maximum(np.maximum(np.abs(y), np.abs(z)), float(info.smallest_normal))[finite]
    unit = 2.0 ** (np.floor(np.log2(size)) - info.nmant)
    return float(np.max(np.abs(x[finite] - y[finite]) / unit, initial=0.0))


def assert_same(
    got: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    most: float,
    what: str,
) -> None:
    """Names, dtypes, shapes and integers the same, floats at most so many units in the last place apart.

    The low bits of a split weight are units in the last place themselves, and go round at 2¹⁶; where many units are allowed,
    they say nothing.
    """
    assert got.keys() == want.keys(), what
    for name, x in want.items():
        assert (got[name].dtype, got[name].shape) == (x.dtype, x.shape), f"{what}: {name}"
        if x.dtype == np.int16:
            distance = np.abs((got[name] - x).astype(np.int32)).max(initial=0)
            assert distance <= most or most > 64, f"{what}: {name} is {distance} units in the last place off"
        elif x.dtype.kind in "iub":
            assert np.array_equal(got[name], x), f"{what}: {name}"
        else:
            distance = ulps(got[name], x, before.get(name, x))
            assert distance <= most, f"{what}: {name} is {distance} units in the last place off"


def assert_same_but_converted(
    got: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    what: str,
    dtype: str | None = None,
) -> None:
    """Like ``assert_same``, for 8-bit moments that were converted from their former format when the file was loaded.

    The conversion changes a second moment by at most 1/32, so an update by at most that much; then the former and the present
    format round otherwise. So moments have to lie within one spacing of each of the two grids of one another; weights, and
    moments in other formats, within 1/32 of the largest change and two units in the last place, and within 1% of the change in
    the 2-norm. ``dtype`` is that of the weights where the arrays don't have it. The low bits of weights are not compared.
    """
    assert got.keys() == want.keys(), what
    codes, numbers_of_codes = "", {}
    for name, x in want.items():
        y = got[name]
        assert (y.dtype, y.shape) == (x.dtype, x.shape), f"{what}: {name}"
        if x.dtype in (np.int8, np.uint8):
            codes = name
        elif codes:  # the scales are next to them
            numbers_of_codes[codes] = (got[codes], y, False), (want[codes], x, True)
            codes = ""
        elif x.dtype.kind in "iub" or x.size == 1:
            assert x.dtype == np.int16 or np.array_equal(y, x), f"{what}: {name}"
        else:
            y, x, z = (values.astype(np.float64) for values in (y, x, before.get(name, x)))
            unit = np.abs(x) * float(ml_dtypes.finfo(dtype or want[name].dtype).eps)
            assert (np.abs(y - x) <= np.abs(x - z).max() / 32 + 2 * unit).all(), f"{what}: {name}"
            assert np.linalg.norm(y - x) <= 0.01 * np.linalg.norm(x - z) + np.linalg.norm(unit), f"{what}: {name}"
    assert numbers_of_codes
    for name, pair in numbers_of_codes.items():
        (y, its_spacing), (x, spacing) = (_values(*one) for one in pair)
        assert (np.abs(y - x) <= its_spacing + spacing).all(), f"{what}: {name}"


def _values(codes: np.ndarray, scale: np.ndarray, is_former: bool) -> tuple[np.ndarray, np.ndarray]:
    """The values of codes that ``thinned`` has taken from those of a large weight, and at least the grid's spacing there."""
    from adamas.rule import formats, former, layout

    whole = np.zeros(LARGE["weight"], codes.dtype)
    whole.reshape(-1)[::3] = codes
    values = np.empty(whole.shape, np.float32)
    (former if is_former else layout).decode(np, whole, scale, values)
    units = np.repeat(scale if is_former else formats.scale_of(np, scale), formats.BLOCK, 1)[:, : whole.shape[1]]
    bits = np.repeat(5 - (0 if is_former else formats.choice_of(np, scale)) + 0 * scale, formats.BLOCK, 1)
    spacing = np.abs(values) * 2.0 ** -bits[:, : whole.shape[1]] + 2 * np.abs(units)
    return values.reshape(-1)[::3], spacing.reshape(-1)[::3]


# ---- what moves between frameworks, and the scheduler


def torch_model() -> Any:
    """A network that other frameworks have too."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
    for i, p in enumerate(model.parameters()):
        p.data = torch_tensor(numbers(tuple(p.shape), 900 + i))
    return model


def train_model(model: Any, optimizer: Any, first: int, steps: int) -> None:
    """Makes steps of the network."""
    for i in range(first, first + steps):
        for k, p in enumerate(model.parameters()):
            p.grad = torch_tensor(numbers(tuple(p.shape), 10 * i + k))
        optimizer.step()


def scheduled_optimizer() -> tuple[Any, Any, Plateau]:
    """An optimizer of PyTorch's under a scheduler of ours, whose schedule observes a metric."""
    import torch

    import adamas.torch

    plateau = Plateau(factor=0.5, patience=1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    return optimizer, adamas.torch.LRScheduler(optimizer, warmup(3).then(cosine(12)) * plateau), plateau


def scheduled_rates(optimizer: Any, scheduler: Any, plateau: Plateau, first: int, steps: int) -> Iterator[float]:
    """Makes steps, and yields the rate after each."""
    for i in range(first, first + steps):
        optimizer.step()
        scheduler.step()
        plateau.observe(METRICS[i - 1])
        yield optimizer.param_groups[0]["lr"]


# ---- runs and studies

RUNS = {
    "run": ["--optimizer", "nadam", "--lr", "0.1", "--schedule", "warmup(2).then(cosine(14))", "--clip", "auto"],
    "run-bfloat16": [
        "--optimizer",
        "adamw",
        "--state",
        "bfloat16",
        "--precision",
        "bfloat16",
        "--plateau",
        "Plateau(patience=0)",
    ],
}


def command(*arguments: str) -> None:
    """Runs ``adamas`` in this process.

    Raises:
        SystemExit: it did not end with 0.
    """
    before = sys.argv
    sys.argv = ["adamas", *arguments]
    try:
        runpy.run_module("adamas", run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    finally:
        sys.argv = before
