"""The kernels of ``adamas.step.gpu``, and how they are launched. This module alone imports Triton, for the first of them."""

from __future__ import annotations

import linecache
from functools import cache
from typing import Any

import torch

from ..rule.triton import Kind, source
from ..rule.triton_numbers import NumbersKind, numbers_source
from ..rule.triton_statistics import add_up_statistics_source, watched_source
from ..rule.triton_sums import add_up_source, sum_source

ROWS = 16  # the blocks of 128 elements that a program steps
TILES = 4  # the tiles that a program adds up
LANES = 1024  # the partial sums that a program reads at a time
LANES_OF_STATISTICS = 4096  # likewise, of those of statistics, of which there is one for each tile
SETS = 128  # the sets of numbers that a program computes
WARP = 64 if torch.version.hip else 32  # threads
WARPS = 128 // WARP  # of a program that adds up or computes numbers
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}
SUMMED = {"ROWS": ROWS, "TILES": TILES, **OPTIONS}
ADDED_UP = {"LANES": LANES, **OPTIONS}
STATISTICS = {**OPTIONS, "LANES": LANES_OF_STATISTICS, "num_warps": 4 * WARPS}
COMPUTED = {"LANES": SETS, **OPTIONS}


def launched(kind: Kind) -> dict[str, Any]:
    """The constants and options of the kernel that steps tensors of a kind."""
    return {"ROWS": ROWS, **OPTIONS, "num_warps": ROWS * kind.threads // WARP}


@cache
def step_or_sum(kind: Kind, index: int | None = None) -> Any:
    """The kernel that steps tensors of a kind or, given an index, that adds up the sum of the rule there."""
    if index is not None:
        return defined(sum_source(kind, index))["sum"]
    return defined(watched_source(kind) if kind.is_watched else source(kind))["step"]


@cache
def adding_up() -> Any:
    """The kernel that adds up partial sums."""
    return defined(add_up_source())["add_up"]


@cache
def adding_up_statistics(kind: Kind) -> Any:
    """The kernel that adds up the statistics of a watched step of tensors of a kind."""
    return defined(add_up_statistics_source(kind))["add_up"]


@cache
def computing(kind: NumbersKind, words: int) -> Any:
    """The kernel that computes the numbers of a step."""
    return defined(numbers_source(kind, words))["numbers"]


def defined(text: str) -> dict[str, Any]:
    """What a source defines."""
    name = f"<kernel {len(linecache.cache)} of adamas>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # from here, Triton reads it
    module: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), module)
    return module
