"""The operations on NumPy arrays that a step needs: see ``adamas.step.record.Tensors``."""

from __future__ import annotations

from collections.abc import Callable
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
        """Does nothing: ``arrays.gradient_view`` has checked it."""

    @staticmethod
    def before_writing(weights: list[Array]) -> None:
        """Nothing."""

    @staticmethod
    def refuse_alone(name: str, option: str) -> NoReturn:
        """Never called: arrays are not flat parameters."""
        raise AssertionError(name, option)

    @staticmethod
    def write_scalar(scalar: Array, value: float) -> None:
        scalar[...] = value

    @staticmethod
    def low_bits(weight: Array) -> Array:
        return np.zeros_like(weight, dtype=np.int16, subok=False)

    @staticmethod
    def step(
        spec: GroupSpec, record: Record, gradient: Array, numbers: Numbers, penalized: bool, count: int
    ) -> NoReturn:
        raise ValueError("adamas.numpy steps only with the engine")

    @staticmethod
    def squares(gradient: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.square(_real(gradient).astype(np.float64)).ravel()

    @staticmethod
    def is_finite(gradient: Array) -> bool:
        return bool(np.isfinite(_real(gradient)).all())

    @staticmethod
    def terms(
        spec: GroupSpec,
        record: Record,
        gradient: Array,
        numbers: Numbers,
        penalized: bool,
        term: Callable[..., Array],
    ) -> Array:
        raise ValueError("adamas.numpy steps only with the engine")


def _real(x: Array) -> Array:
    """The array, with complex numbers as a last dimension of size 2."""
    x = arrays.decoded(x, None)
    return x[..., None].view(x.real.dtype) if x.dtype.kind == "c" else x


TENSORS = _Tensors()
