"""NumPy's arrays, as a step asks for them: see ``adamas.step.record.Tensors``."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from ..rule.declaration import Numbers
from ..step.executor import GroupSpec
from ..step.record import Record
from . import arrays
from .arrays import Array


class _Tensors:
    """See ``adamas.step.record.Tensors``."""

    scalar = staticmethod(arrays.scalar)
    as_scalar = staticmethod(arrays.as_scalar)
    filled = staticmethod(arrays.filled)
    has_nonzero = staticmethod(arrays.has_nonzero)
    engine_view = staticmethod(arrays.engine_view)

    @staticmethod
    def dtype_name(weight: Array) -> str:
        """See ``adamas.step.record.Tensors``."""
        return str(weight.dtype.name)

    @staticmethod
    def is_on_cpu(weight: Array) -> bool:
        """Always."""
        return True

    @staticmethod
    def gradient_of(weight: Array) -> None:
        """None: arrays have no gradients of their own."""

    @staticmethod
    def check_gradient(gradient: Array, name: str, optimizer: str) -> None:
        """Nothing: ``arrays.gradient_view`` has checked it."""

    @staticmethod
    def before_writing(weights: list[Array]) -> None:
        """Nothing."""

    @staticmethod
    def refuse_lone_part(name: str, option: str) -> NoReturn:
        """Never called: all parts of an array are in this process."""
        raise AssertionError(name, option)

    @staticmethod
    def write_scalar(scalar: Array, value: float) -> None:
        """See ``adamas.step.record.Tensors``."""
        scalar[...] = value

    @staticmethod
    def low_bits(weight: Array) -> Array:
        """See ``adamas.step.record.Tensors``."""
        return np.zeros_like(weight, dtype=np.int16, subok=False)

    @staticmethod
    def step(
        spec: GroupSpec, record: Record, gradient: Array, numbers: Numbers, penalized: bool, count: int
    ) -> NoReturn:
        """See ``adamas.step.record.Tensors``."""
        raise ValueError("adamas.numpy steps on the engine alone")

    @staticmethod
    def square_sum(gradient: Array) -> tuple[float, bool]:
        """See ``adamas.step.record.Tensors``."""
        return float(np.sum(np.square(gradient, dtype=np.float64))), bool(np.isfinite(gradient).all())


TENSORS = _Tensors()
