"""Clipping by history: the limit of a gradient's norm is a multiple of what is usual for this model."""

from __future__ import annotations

import math

_FEWEST, _MOST = 8, 128  # norms that tell what is usual, and those that are remembered
_QUANTILE, _MULTIPLE = 0.9, 1.5


def usual_limit(norms: tuple[float, ...]) -> float:
    """1.5 times the 0.9-quantile of the norms of the last 128 steps; infinite before there are 8.

    A quantile and not a mean, so that single spikes do not raise it.
    """
    if len(norms) < _FEWEST:
        return math.inf
    return _MULTIPLE * sorted(norms)[math.ceil(_QUANTILE * len(norms)) - 1]


def remember(norms: tuple[float, ...], norm: float, limit: float) -> tuple[float, ...]:
    """The norms with one more, as it was after clipping, so that a run of spikes raises the limit slowly.

    A norm of 0 says nothing of what is usual, and is not remembered.
    """
    return (*norms[1 - _MOST :], min(norm, limit)) if 0 < norm < math.inf else norms
