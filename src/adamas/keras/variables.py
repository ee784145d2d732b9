"""Model variables: the dtype of their computation, their selection by name, and their exact values if the state has their low
bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras

from ..step import arrays
from .backend import framework

Variable = Any
Array = Any


def dtype_of(variable: Variable) -> str:
    """The name of its dtype."""
    return str(keras.backend.standardize_dtype(variable.dtype))


def compute_dtype(variable: Variable) -> str:
    """The dtype of its computation."""
    return "float64" if dtype_of(variable) == "float64" else "float32"


def path_of(variable: Variable) -> str:
    """Its path, or its name if it is a TensorFlow variable."""
    return str(getattr(variable, "path", variable.name))


def find(variables: Sequence[Variable], wanted: Sequence[str], patterns: Sequence[str]) -> set[int]:
    """The positions of the variables with these paths, or with one of the patterns in their names.

    The paths in a ``Sequential`` that was loaded or cloned may lack its name. So if no variable has a path, variables match
    whose path ends with it, or is the end of it. A pattern with a ``/`` is searched for in paths.
    """
    paths = [path_of(variable) for variable in variables]
    found = set()
    for one in wanted:
        same = {i for i, path in enumerate(paths) if path == one}
        tails = {i for i, path in enumerate(paths) if f"/{one}".endswith(f"/{path}") or path.endswith(f"/{one}")}
        found |= same or tails
    for pattern in patterns:
        found |= {i for i, v in enumerate(variables) if re.search(pattern, paths[i] if "/" in pattern else v.name)}
    return found


def joined(variable: Variable, low: Variable | None) -> Array:
    """The weights in the dtype of the computation, including the low bits in the state."""
    if low is None:
        return keras.ops.cast(variable, compute_dtype(variable))
    weight = arrays.Weight(framework.opened(variable), framework.opened(low))
    return framework.closed(arrays.load_weight(framework.Namespace(), weight, "float32"))


def split(variable: Variable, value: Array) -> tuple[Array, Array]:
    """The weights as 16-bit values of the variable, and their low bits."""
    high, low = arrays.split(framework.Namespace(), framework.opened(value), dtype_of(variable))
    return framework.closed(high), framework.closed(low)


def norm(parts: Sequence[Array]) -> Array:
    """The 2-norm of all elements of these arrays together, in float32."""
    squares = [keras.ops.sum(keras.ops.square(keras.ops.cast(part, "float32"))) for part in parts]
    return keras.ops.sqrt(keras.ops.sum(keras.ops.stack(squares)))
