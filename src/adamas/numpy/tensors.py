"""The operations on NumPy arrays that a step needs: see ``adamas.step.record.Tensors``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..rule.declaration import Member
from ..rule.layout import Part
from ..step.namespaces.numpy import Namespace
from ..step.record import TensorView, Wholes
from . import arrays
from .arrays import Array


class _Tensors:
    """See ``adamas.step.record.Tensors``."""

    scalar = staticmethod(arrays.scalar)
    as_scalar = staticmethod(arrays.as_scalar)
    engine_view = staticmethod(arrays.engine_view)

    @staticmethod
    def dtype_name(weight: Array) -> str:
        return str(weight.dtype.name)

    @staticmethod
    def shape_of(weight: Array) -> tuple[int, ...]:
        return weight.shape

    @staticmethod
    def view_of(tensor: object) -> TensorView | None:
        if not isinstance(tensor, np.ndarray):
            return None
        return TensorView(tensor.shape, tensor.strides, Namespace.dtype_name(tensor))

    @staticmethod
    def state_device(weight: Array) -> None:
        """None: arrays are in the memory of the CPU."""

    @staticmethod
    def full(weight: Array, part: Part, whole: tuple[int, ...] | None) -> Array:
        return arrays.full(weight, part)

    @staticmethod
    def is_on_cpu(weight: Array) -> bool:
        """Always."""
        return True

    @staticmethod
    def is_on_gpu(weight: Array) -> bool:
        """Never."""
        return False

    @staticmethod
    def gradient_of(weight: Array) -> None:
        """None: arrays have no gradients of their own."""

    @staticmethod
    def wholes_of(weight: Array) -> Wholes:
        """Always here."""
        return Wholes(weight.shape, None, 1)

    @staticmethod
    def results_of(
        weights: Sequence[Array], parts: Sequence[Array], function: Callable[[Sequence[Array]], Sequence[Array]]
    ) -> Sequence[Array]:
        """Those of the function: arrays are whole."""
        return function(parts)

    @staticmethod
    def piece_of(tensor: Array, piece: tuple[slice, ...]) -> Array:
        """See ``adamas.step.record.Tensors.piece_of``."""
        return tensor[piece]

    @staticmethod
    def rows_of(gradient: Array) -> None:
        """None: arrays are dense."""

    @staticmethod
    def check_gradient(gradient: Array, name: str, member: Member) -> None:
        """Does nothing: ``arrays.gradient_view`` has checked it."""

    @staticmethod
    def before_writing(weights: list[Array]) -> None:
        """Nothing."""

    @staticmethod
    def refuse_alone(name: str, option: str) -> NoReturn:
        """Never called: arrays are not flat parameters."""
        raise AssertionError(name, option)

    @staticmethod
    def namespace(weight: Array) -> Namespace:
        """NumPy."""
        return Namespace()

    @staticmethod
    def array(tensor: Array) -> Array:
        """The array; with complex numbers as a last dimension of size 2; an array without dimensions gets one."""
        if tensor.dtype.kind == "c":
            real = tensor.real
            return as_strided(real, (*real.shape, 2), (*real.strides, real.itemsize))
        return np.atleast_1d(tensor if tensor.dtype.kind in "fiu" else arrays.engine_view(tensor))

    low_bits = gradient_array = array


TENSORS = _Tensors()
