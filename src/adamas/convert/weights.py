"""Converts 16-bit weights to float32 and back, as NumPy arrays. 16-bit floats are codes in uint16."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..rule import formats
from ..rule.layout import HALVES
from .checkpoint import Array


def widened(dtype: str, x: Array, low: Array | None = None) -> Array:
    """The weights in float32 or wider.

    Args:
        dtype: the name of their dtype.
        x: their values; for ``"bfloat16"`` and ``"float16"``, their codes in uint16.
        low: the low bits that ``weights="split"`` keeps (int16).
    """
    if dtype not in HALVES:
        return x
    codes = x.astype(np.int64)
    if low is None:
        return np.asarray(formats.DECODE[dtype](np, codes))
    return np.asarray(formats.JOIN[dtype](np, codes, low.view(np.uint16).astype(np.int64)))


def narrowed(dtype: str, x: Array, is_split: bool) -> tuple[Array, Array | None]:
    """The weights rounded to the nearest of their dtype (16-bit floats as codes in uint16), and the low bits if split."""
    if dtype not in HALVES:
        return x.astype(dtype, copy=False), None
    wide = np.ascontiguousarray(x, np.float32)
    if not is_split:
        return _uint16(formats.ENCODE[dtype](np, wide)), None
    high, low = formats.SPLIT[dtype](np, wide)
    return _uint16(high), _uint16(low).view(np.int16)


def _uint16(codes: Any) -> Array:
    return np.asarray(codes).astype(np.uint16)
