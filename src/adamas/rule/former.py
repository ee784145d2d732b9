"""8-bit moments as former versions stored them: 0.1.0 until blocks chose their grids.

A moment was codes and one float32 scale for each block, as now, but the scales were called ``…_scale``. By that name they are
recognised: nothing else tells the two apart. Arrays are NumPy's or PyTorch's. This module imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import layout

Array = Any


def scale_name(slot: str) -> str:
    """The former name of a moment's scales."""
    return f"{slot}_scale"


def scale_of(state: Mapping[str, Any], slot: str) -> tuple[Any, bool]:
    """The scales of a moment, and whether they are of the former format. None if there are none."""
    scale = state.get(layout.scale_name(slot))
    former = state.get(scale_name(slot))
    return (former, True) if scale is None and former is not None else (scale, False)


def names(slots: Iterable[str]) -> dict[str, str]:
    """The former names of the moments' scales, by their names."""
    return {layout.scale_name(slot): scale_name(slot) for slot in slots}


def entries(slot: str) -> tuple[str, str, str]:
    """The names under which a moment may have been saved: its own, and those of its scales."""
    return slot, layout.scale_name(slot), scale_name(slot)


def renew(state: dict[str, Any], slots: Iterable[str]) -> None:
    """Converts the moments of a parameter's state that are of the former format, in place."""
    for name, former in names(slots).items():
        if former in state:
            state[name] = state.pop(former)
