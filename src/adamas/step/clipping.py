"""Clipping by history: the limit of the gradient's norm is a multiple of the norm that is usual for the model."""

from __future__ import annotations

import math

GRAD_NORMS = "grad_norms"  # where a group, or the state of a parameter that is clipped by itself, has the norms
FEWEST, MOST = 8, 128  # the number of norms that are needed for a limit, and the number that are remembered
QUANTILE, MULTIPLE = 0.9, 1.5


def usual_limit(norms: tuple[float, ...]) -> float:
    """1.5 times the 0.9-quantile of the norms of the last 128 steps; infinite while there are fewer than 8.

    Unlike a mean, the quantile is not raised by single spikes.
    """
    if len(norms) < FEWEST:
        return math.inf
    return MULTIPLE * sorted(norms)[math.ceil(QUANTILE * len(norms)) - 1]


def remember(norms: tuple[float, ...], norm: float, limit: float) -> tuple[float, ...]:
    """The norms with one more. The norm after clipping is remembered, so that a run of spikes raises the limit slowly.

    A norm of 0 says nothing about what is usual, and is not remembered.
    """
    return (*norms[1 - MOST :], min(norm, limit)) if 0 < norm < math.inf else norms
