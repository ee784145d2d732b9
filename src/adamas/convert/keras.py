"""Checkpoints of Keras models with an optimizer of ``adamas.keras``, on any backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..extras import needs
from ..numpy import arrays
from ..rule import layout
from ..rule.layout import Slot
from .checkpoint import Array, Checkpoint, Moved, Names, Place, gathered
from .weights import narrowed, widened

with needs("keras"):
    import keras

    from ..keras import Optimizer
    from ..keras.variables import dtype_of, path_of

Variable = Any


def from_keras(model: Any, optimizer: Optimizer | None = None) -> Checkpoint:
    """The checkpoint of a model and its optimizer, named by the paths of the trainable variables.

    Args:
        model: a ``keras.Model``, or the trainable variables in the order that the optimizer was built with.
        optimizer: an optimizer of ``adamas.keras``; by default the one that the model was compiled with.

    Raises:
        TypeError: the optimizer is not one of ``adamas.keras``.
    """
    optimizer = _optimizer_of(model, optimizer)
    counts = {name: np.array(float(_array(variable))) for name, variable in optimizer._scalars.items()}
    counts = {"step": np.array(float(_step(optimizer))), **counts} if optimizer.built and _step(optimizer) else {}
    return gathered(
        (
            Place.of(path_of(variable)),
            _weight(variable, state),
            {**counts, **_moments(variable, state)} if counts else {},
        )
        for variable, state in _parameters(model, optimizer)
    )


def to_keras(checkpoint: Checkpoint, model: Any, optimizer: Optimizer | None = None, names: Names = None) -> None:
    """Load a checkpoint into a model and its optimizer.

    Args:
        checkpoint: a checkpoint from any framework.
        model: a ``keras.Model``, or the trainable variables in the order that the optimizer is built with.
        optimizer: an optimizer of ``adamas.keras``, built or not; by default the one that the model was compiled with. It
            keeps its hyperparameters, and stores moments in the formats of its ``state=``.
        names: for parameters that have another name in the checkpoint: a dict from the names here (of parameters or of
            modules) to the names in the checkpoint, or a function.

    Raises:
        TypeError: the optimizer is not one of ``adamas.keras``.
        ValueError: a parameter has no counterpart, or one of another shape; step counts differ between parameters (Keras has
            one for all); or the state lacks a moment or has an impossible value (a NaN, a negative square). Nothing is changed
            in that case.
    """
    optimizer = _optimizer_of(model, optimizer)
    optimizer.build(_trainable(model))
    parameters = list(_parameters(model, optimizer))
    places = [Place.of(path_of(variable)) for variable, _ in parameters]
    moved = Moved(checkpoint, places, names)
    moved.check(optimizer._member, lambda _: {**optimizer.hyperparameters(), "lr": 1.0})
    counts = moved.counts(places, ["step", *optimizer._scalars])
    values: list[tuple[Variable, Array]] = []
    for place, (variable, state) in zip(places, parameters, strict=True):
        parameter = moved.fitting(place, variable.shape, dtype_of(variable))
        dtype = dtype_of(variable)
        weight, low = narrowed(dtype, parameter.weight, layout.LOW_BITS in state)
        values.append((variable, widened(dtype, weight)))
        if low is not None:
            values.append((state[layout.LOW_BITS], low))
        if not parameter.state:
            if steps := _step(optimizer):
                raise ValueError(
                    f"parameter {place.name!r} has no state in the checkpoint, but {steps} steps here: compile the model again"
                )
            continue
        slots = []
        for name in _names(state):
            if name not in parameter.state:
                raise ValueError(
                    f"parameter {place.name!r} has {sorted(parameter.state)} in the checkpoint, but no {name!r}: it comes "
                    "from another optimizer"
                )
            scale = state.get(layout.scale_name(name))
            scale_shape = None if scale is None else tuple(scale.shape)
            slots.append(Slot(name, dtype_of(state[name]), tuple(state[name].shape), scale_shape))
        exact = {slot.name: parameter.state[slot.name] for slot in slots}
        for part, x in arrays.encoded(optimizer._member, slots, exact, {}).items():
            values.append((state[part], widened("bfloat16", x) if x.dtype == np.uint16 else x))
    values += [(variable, np.array(counts[name])) for name, variable in optimizer._scalars.items() if name in counts]
    # Keras counts batches if gradients are accumulated.
    batches = counts.get("step", 0) * (optimizer.gradient_accumulation_steps or 1)
    values.append((optimizer._iterations, np.array(batches)))
    for variable, value in values:
        variable.assign(keras.ops.cast(keras.ops.convert_to_tensor(value), dtype_of(variable)))


def _optimizer_of(model: Any, given: Any) -> Optimizer:
    optimizer = getattr(model, "optimizer", None) if given is None else given
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # inside a LossScaleOptimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be one of adamas.keras, not a {type(optimizer).__name__}: compile the model with one, or pass it"
        )
    return optimizer


def _trainable(model: Any) -> list[Variable]:
    return list(getattr(model, "trainable_variables", model))


def _parameters(model: Any, optimizer: Optimizer) -> Iterator[tuple[Variable, Mapping[str, Variable]]]:
    """Each trainable variable with its state variables by name."""
    for variable in _trainable(model):
        yield variable, optimizer._states[optimizer._get_variable_index(variable)] if optimizer.built else {}


def _step(optimizer: Optimizer) -> int:
    """The number of steps so far."""
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _names(state: Mapping[str, Variable]) -> list[str]:
    """The names of the moments in the state of a variable."""
    scales = set(map(layout.scale_name, state))
    return [name for name in state if name not in scales and name != layout.LOW_BITS]


def _moments(variable: Variable, state: Mapping[str, Variable]) -> dict[str, Array]:
    """Every moment of a model variable in float32 or wider."""
    found = {}
    for name in _names(state):
        scale = state.get(layout.scale_name(name))
        found[name] = arrays.decoded(_array(state[name]), None if scale is None else _array(scale), variable.shape)
    return found


def _weight(variable: Variable, state: Mapping[str, Variable]) -> Array:
    low = state.get(layout.LOW_BITS)
    return widened(dtype_of(variable), _array(variable), None if low is None else _array(low))


def _array(variable: Variable) -> Array:
    """The variable as an array; 16-bit floats as codes."""
    array = np.asarray(keras.ops.convert_to_numpy(variable.value))
    if (dtype := dtype_of(variable)) in layout.HALVES:
        return narrowed(dtype, array.astype(np.float32), is_split=False)[0]
    return array
