"""NumPy arrays for the engine: which arrays can be stepped in place, and how they are viewed and stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..rule import formats, former, layout
from ..rule.declaration import Member
from ..rule.layout import CODES, Part, Slot

Array: TypeAlias = npt.NDArray[Any]

# NumPy has no bfloat16. Weights may have the type of ml_dtypes; moments are stored as codes, which np.savez can write.
_BFLOAT16 = "bfloat16"
_NATIVE = {np.dtype(name): name for name in ("float16", "float32", "float64", "complex64", "complex128")}
_FLOATING = ", ".join([*_NATIVE.values(), _BFLOAT16])
_CONSTANT = ("jax", "jaxlib", "tensorflow")  # libraries whose arrays are immutable


def engine_view(array: Array) -> Array:
    """A view of the array for the engine: bfloat16 as codes, in the same memory."""
    return array if array.dtype in _NATIVE else array.view(np.uint16)


def check_parameter(array: Any, name: str) -> None:
    """Raises if the array cannot be stepped in place.

    Raises:
        TypeError: it is not a NumPy array, or its memory belongs to an array of JAX or TensorFlow.
        ValueError: it is read-only, or has an unsupported dtype or layout.
    """
    if owner := _constant_owner(array):
        raise TypeError(
            f"parameter {name}: its memory belongs to an array of {owner}, which must never change: pass a copy "
            "(np.array(…)), or use adamas.optax or adamas.keras"
        )
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"parameter {name} is a {type(array).__name__}: only NumPy arrays can be stepped in place")
    if not is_floating(array):
        raise ValueError(
            f"parameter {name} has dtype {array.dtype}: only {_FLOATING} in the machine's byte order can be optimized"
        )
    if not array.flags.aligned:
        raise ValueError(f"parameter {name} is not aligned in memory and cannot be stepped in place: pass a copy of it")
    if array.size and any(stride == 0 and size > 1 for stride, size in zip(array.strides, array.shape, strict=True)):
        raise ValueError(f"parameter {name} is a broadcast array, whose elements share memory: pass a copy of it")
    if not array.flags.writeable:
        raise ValueError(f"parameter {name} is read-only and cannot be stepped in place: pass a copy of it")


def is_floating(array: Array) -> bool:
    """Whether the engine supports the dtype of the array."""
    return array.dtype in _NATIVE or array.dtype.name == _BFLOAT16


def _constant_owner(array: Any) -> str | None:
    """The library, if the memory belongs to an array of JAX or TensorFlow."""
    while array is not None:
        if (library := type(array).__module__.partition(".")[0]) in _CONSTANT:
            return {"jaxlib": "jax"}.get(library, library)
        array = getattr(array, "base", None)
        if isinstance(array, memoryview):
            array = array.obj
    return None


def bounds_of(arrays: Sequence[Array]) -> Array:
    """The addresses at which the memory of each array begins and ends, of shape (arrays, 2)."""
    bounds = np.byte_bounds if hasattr(np, "byte_bounds") else np.lib.array_utils.byte_bounds  # NumPy 2 has moved it
    return np.array([bounds(a) for a in arrays], np.int64).reshape(-1, 2)


def shared(arrays: Sequence[Array], bounds: Array) -> tuple[int, int] | None:
    """The indices of two arrays that share memory, so that stepping one would change the other; None if there are none.

    ``bounds`` is the result of ``bounds_of`` for the arrays.
    """
    order = np.argsort(bounds[:, 0], kind="stable")
    order = order[bounds[order, 0] < bounds[order, 1]]
    begins, ends = bounds[order].T
    reach = np.maximum.accumulate(ends[:-1])  # the largest end of the arrays so far
    for i in np.flatnonzero(begins[1:] < reach) + 1:  # few, unless many arrays are views of the same one
        for j in np.flatnonzero(ends[:i] > begins[i]):
            if np.shares_memory(arrays[order[i]], arrays[order[j]]):
                first, second = sorted((int(order[i]), int(order[j])))
                return first, second
    return None


def gradient_view(gradient: Any, shape: tuple[int, ...], name: str) -> Array:
    """The gradient of a parameter of this shape, as an array that the engine can read.

    Raises:
        TypeError: it cannot be converted to an array.
        ValueError: it has another shape or an unsupported dtype.
    """
    if isinstance(gradient, np.ma.MaskedArray):
        raise TypeError(
            f"the gradient of parameter {name} is a MaskedArray, whose mask would be lost: fill it (.filled(0))"
        )
    try:
        array = np.asarray(gradient)
    except Exception as error:
        raise TypeError(f"the gradient of parameter {name} cannot be converted to an array: {error}") from error
    if not is_floating(array):
        raise ValueError(
            f"the gradient of parameter {name} has dtype {array.dtype}: it must be one of {_FLOATING}, in the "
            "machine's byte order"
        )
    if array.shape != shape:
        raise ValueError(f"the gradient of parameter {name} has shape {array.shape}, but the parameter has {shape}")
    return engine_view(array if array.flags.aligned else array.copy())


# ---- moments


def dtype_of(slot: Slot) -> np.dtype[Any]:
    """The dtype of the moment's array. For bfloat16 it is that of its codes."""
    return np.dtype(np.uint16 if slot.dtype == _BFLOAT16 else slot.dtype)


def full(p: Array, part: Part) -> Array:
    """An array of the parameter's state before the first step. Codes and scales are contiguous."""
    dtype = np.dtype(np.uint16 if part.dtype == _BFLOAT16 else part.dtype)
    if part.dtype in CODES or part.shape != p.shape:
        array = np.zeros(part.shape, dtype)
    else:
        array = np.zeros_like(p, dtype=dtype, subok=False)
    if np.any(part.value):
        value = formats.encode_bfloat16(np, np.array(part.value, np.float32)) if part.dtype == _BFLOAT16 else part.value
        array[...] = complex(value, value) if dtype.kind == "c" else value
    return array


def scalar(value: float) -> Array:
    """A number as a scalar of a state: in float64, which counts past 2²⁴, where float32 stops."""
    return np.array(value, np.float64)


def as_scalar(value: Any) -> Array | None:
    """A value as a scalar of a state: in float64, which counts past 2²⁴; None if it is not a single number."""
    array = np.asarray(value)
    is_number = array.dtype.kind in "iuf" or array.dtype.name == _BFLOAT16
    return np.array(array.reshape(()), np.float64) if array.size == 1 and is_number else None


def decoded(values: Array, scale: Array | None, shape: Sequence[int], is_former: bool = False) -> Array:
    """The values of a stored moment of a parameter of this shape, in float32 or in its own wider dtype.

    ``is_former`` says whether codes are of the former format.
    """
    if values.dtype == np.uint16:
        return np.asarray(formats.decode_bfloat16(np, values.astype(np.int64)))
    if scale is None:
        return values
    result = np.empty(shape, np.float32)
    (former if is_former else layout).decode(np, values, scale, result)
    return result


def encoded(
    member: Member, slots: Iterable[Slot], values: Mapping[str, Array], kept: Mapping[str, Array]
) -> dict[str, Array]:
    """Moments of a parameter in their formats, each element rounded to the nearest.

    Args:
        member: the member that has the moments.
        slots: the moments.
        values: their values by name, and those of other moments that the state does not have as codes.
        kept: the rest of the parameter's state.
    """
    found: dict[str, Array] = {}
    for slot in slots:
        x = values[slot.name]
        if slot.dtype == _BFLOAT16:
            found[slot.name] = formats.encode_bfloat16(np, x.astype(np.float32)).astype(np.uint16)
        elif slot.scale_shape is None:
            found[slot.name] = x.astype(dtype_of(slot))
        else:
            found[slot.name] = np.empty(slot.shape, dtype_of(slot))
            found[slot.scale_name] = np.empty(slot.scale_shape, np.float32)
    layout.encode(np, member, values, {**kept, **found})
    return found
