"""Checkpoints of arrays with an optimizer of ``adamas.numpy``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..numpy import Optimizer, arrays
from ..rule import layout
from ..step.evaluation import refuse_evaluated
from .checkpoint import Array, Checkpoint, Moved, Names, Place, gathered
from .weights import narrowed, widened


def from_numpy(optimizer: Optimizer) -> Checkpoint:
    """The checkpoint of an optimizer and its arrays, with the names that were given to the optimizer."""
    refuse_evaluated(optimizer.param_groups)
    return gathered(
        (place, _weight(p, low), _moments(optimizer, p, state)) for place, p, low, state in _parameters(optimizer)
    )


def to_numpy(checkpoint: Checkpoint, optimizer: Optimizer, names: Names = None) -> None:
    """Load a checkpoint into an optimizer and its arrays, in place.

    Args:
        checkpoint: a checkpoint from any framework.
        optimizer: an optimizer with the same parameters. It keeps its hyperparameters, and stores moments in the formats of
            its ``state=``.
        names: for parameters that have another name in the checkpoint: a dict from the names here (of parameters or of
            modules) to the names in the checkpoint, or a function.

    Raises:
        ValueError: a parameter has no counterpart, or one of another shape, or its state does not fit. Nothing is changed in
            that case.
    """
    refuse_evaluated(optimizer.param_groups)
    for group in optimizer.param_groups:
        for p, name in zip(group["params"], group["param_names"], strict=True):
            arrays.check_parameter(p, repr(name))
    moved = Moved(checkpoint, [place for place, *_ in _parameters(optimizer)], names)
    saved: dict[str, Any] = {"param_groups": optimizer.state_dict()["param_groups"]}
    weights: list[tuple[Array, Array]] = []
    unstepped: list[tuple[dict[str, Any], int, Array]] = []  # parameters with low bits
    for group in optimizer.param_groups:
        for i, (p, name) in enumerate(zip(group["params"], group["param_names"], strict=True)):
            parameter = moved.fitting(Place.of(name), p.shape, p.dtype.name)
            weight, low = narrowed(p.dtype.name, parameter.weight, layout.is_split(group, p.dtype.name))
            weights.append((p, weight))
            state = parameter.state
            if low is not None:
                if state:
                    state = {**state, layout.LOW_BITS: low}
                else:
                    unstepped.append((group, i, low))
            saved.update({f"state/{name}/{key}": x for key, x in state.items()})
    optimizer.load_state_dict(saved, hyperparameters="given")
    for p, weight in weights:
        p[...] = weight.view(p.dtype)
    for group, i, low in unstepped:
        optimizer._initialize_state(group, i)
        optimizer.state[group["param_names"][i]][layout.LOW_BITS][...] = low


def _parameters(optimizer: Optimizer) -> Iterator[tuple[Place, Array, Array | None, Mapping[str, Array]]]:
    """Each parameter with its low bits, if it is split, and its state."""
    for group in optimizer.param_groups:
        for p, name in zip(group["params"], group["param_names"], strict=True):
            state = optimizer.state.get(name, {})
            yield Place.of(name), p, state.get(layout.LOW_BITS) if layout.is_split(group, p.dtype.name) else None, state


def _weight(p: Array, low: Array | None) -> Array:
    name = p.dtype.name
    return widened(name, p.view(np.uint16) if name in layout.HALVES else p, low)


def _moments(optimizer: Optimizer, p: Array, state: Mapping[str, Array]) -> dict[str, Array]:
    """The counts, and every moment in float32 or wider."""
    counts = {name: state[name] for name in optimizer._member.scalar_names if name in state}
    moments = {
        name: arrays.decoded(state[name], state.get(layout.scale_name(name)), p.shape)
        for name in layout.signs(optimizer._member)
        if name in state
    }
    return {**counts, **moments}
