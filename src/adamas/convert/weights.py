"""Weights of 16 bits as float32 ones, and back: over NumPy arrays, of which those in 16 bits are codes (uint16)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..rule import formats
from ..rule.layout import HALVES
from .checkpoint import Array


def widened(dtype: str, x: Array, low: Array | None = None) -> Array:
    """The weights in float32 or wider.

    Args:
        dtype: the name of theirs.
        x: their values, or, of ``"bfloat16"`` and ``"float16"``, their codes as uint16.
        low: what ``weights="split"`` keeps beside such codes (int16).
    """
    if dtype not in HALVES:
        return x
    codes = x.astype(np.int64)
    if low is None:
        return np.asarray(formats.DECODE[dtype](np, codes))
    return np.asarray(formats.JOIN[dtype](np, codes, low.view(np.uint16).astype(np.int64)))


def narrowed(dtype: str, x: Array, is_split: bool) -> tuple[Array, Array | None]:
    """The weights in their dtype, to the nearest (16-bit ones as codes, uint16), and their low bits where they are split."""
    if dtype not in HALVES:
        return x.astype(dtype, copy=False), None
    wide = np.ascontiguousarray(x, np.float32)
    if not is_split:
        return _uint16(formats.ENCODE[dtype](np, wide)), None
    high, low = formats.SPLIT[dtype](np, wide)
    return _uint16(high), _uint16(low).view(np.int16)


def _uint16(codes: Any) -> Array:
    return np.asarray(codes).astype(np.uint16)
