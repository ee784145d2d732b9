"""The Keras variables that hold the state of a model variable, in the layout of ``adamas.rule.layout``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..rule import layout
from ..rule.declaration import Member
from ..rule.layout import HALVES, LOW_BITS, State


class Part(NamedTuple):
    """One state variable of a model variable: its name, shape, dtype and initial value."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: float


def parts(
    member: Member, hyper: Mapping[str, Any], state: State, weights: str, shape: Sequence[int], dtype: str
) -> list[Part]:
    """The state of a model variable of this shape and dtype."""
    shape = tuple(shape)
    found = []
    for slot in layout.slots(member, {**hyper, "state": state}, shape, dtype):
        start = member.start_of(slot.name, hyper)
        if slot.scale_shape is None:
            found.append(Part(slot.name, shape, slot.dtype, start))
        else:
            codes, scale = np.empty((1, 1), slot.dtype), np.empty((1, 1), np.float32)
            layout.encode(np, np.full((1, 1), start, np.float32), codes, scale)
            found.append(Part(slot.name, shape, slot.dtype, int(codes[0, 0])))
            found.append(Part(slot.scale_name, slot.scale_shape, "float32", float(scale[0, 0])))
    if weights == "split" and dtype in HALVES:
        found.append(Part(LOW_BITS, shape, "int16", 0))
    return found
