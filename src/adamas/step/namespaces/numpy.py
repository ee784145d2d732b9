"""NumPy as a namespace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rule import formats

Array = npt.NDArray[Any]


class Namespace:
    """NumPy. See ``adamas.step.namespaces``.

    NumPy has no bfloat16: uint16 arrays hold the codes of such numbers.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def computing() -> AbstractContextManager[Any]:
        """A context without warnings, since an infinity or a NaN in a weight is not an error here."""
        return np.errstate(all="ignore")

    @staticmethod
    def cast(x: Array, dtype: str) -> Array:
        """The array in another dtype."""
        if x.dtype == np.uint16:
            x = formats.decode_bfloat16(np, x.astype(np.int64))
        if dtype == "bfloat16":
            return Namespace.from_bits(formats.encode_bfloat16(np, x.astype(np.float32)), dtype)
        return x.astype(dtype, copy=False)

    @staticmethod
    def dtype_name(x: Array) -> str:
        """The name of the array's dtype."""
        return "bfloat16" if x.dtype == np.uint16 else str(x.dtype.name)

    @staticmethod
    def bits(x: Array) -> Array:
        """The bits of 16-bit numbers, as integers from 0 to 65535."""
        return x.view(np.uint16).astype(np.int64)

    @staticmethod
    def from_bits(bits: Array, dtype: str) -> Array:
        """The numbers with these bits."""
        codes = bits.astype(np.uint16)
        return codes if dtype == "bfloat16" else codes.view(dtype)

    @staticmethod
    def index(shape: Sequence[int], first: int) -> Array:
        """Consecutive integers from ``first`` on."""
        return np.arange(first, first + math.prod(shape)).reshape(shape)

    @staticmethod
    def counter(count: int) -> int:
        """The count itself."""
        return count
