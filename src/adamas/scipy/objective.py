"""The objective: the function and its gradient, with their calls counted, and the bounds of its argument.

Imports NumPy and SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import Bounds
from scipy.optimize._numdiff import approx_derivative  # what SciPy's own methods differentiate with

from .stepping import Vector

SCHEMES = ("2-point", "3-point", "cs")


class Box:
    """Bounds in any form that SciPy takes, for a vector of a length and a dtype.

    Args:
        bounds: ``scipy.optimize.Bounds``, a sequence of n pairs (low, high) with None for no bound, or None.
        x: a vector of the length and the dtype.

    Attributes:
        low, high: arrays of shape (n,) and the dtype of ``x``, infinite where there is no bound.

    Raises:
        ValueError: there are not n pairs, or a lower bound is above its upper bound.
    """

    def __init__(self, bounds: Any, x: Vector) -> None:
        n = x.size
        if bounds is None:
            low, high = np.full(n, -np.inf), np.full(n, np.inf)
        elif isinstance(bounds, Bounds):
            try:
                low, high = (np.broadcast_to(np.asarray(end, float), (n,)) for end in (bounds.lb, bounds.ub))
            except ValueError as error:
                raise ValueError(f"bounds: {bounds!r} does not fit x0, which has {n} elements") from error
        else:
            low, high = _from_pairs(bounds, n)
        wrong = ~(low <= high)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(f"bounds[{i}] is ({low[i]}, {high[i]}): give a low that is at most the high")
        # Bounds are rounded inwards to a narrower dtype; without a number in between, to the nearest.
        near_low, near_high = low.astype(x.dtype), high.astype(x.dtype)
        self.low = np.where(near_low < low, np.nextafter(near_low, x.dtype.type(np.inf)), near_low)
        self.high = np.where(near_high > high, np.nextafter(near_high, x.dtype.type(-np.inf)), near_high)
        self.high = np.maximum(self.high, self.low)

    def project(self, x: Vector) -> Vector:
        """The nearest vector in the box."""
        return np.clip(x, self.low, self.high)

    def size_of(self, x: Vector, gradient: Vector) -> float:
        """The largest component of the gradient; at a bound, a component counts only up to the distance that x can move."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.max(np.abs(self.project(x - gradient) - x), initial=0.0))

    def active(self, x: Vector) -> str:
        """The active bounds as text; empty if there are none."""
        at = [
            f"x[{i}] at its {'lower' if x[i] == self.low[i] else 'upper'} bound {x[i]:g}"
            for i in np.flatnonzero((x == self.low) | (x == self.high))
        ]
        more = f" and {len(at) - 8} more" if len(at) > 8 else ""
        return ", ".join(at[:8]) + more


def _from_pairs(bounds: Any, n: int) -> tuple[Vector, Vector]:
    pairs = list(bounds)
    if len(pairs) != n:
        raise ValueError(
            f"bounds has {len(pairs)} pairs for the {n} elements of x0: give one for each; (None, None) is no bound"
        )
    ends: list[list[float]] = [[], []]
    for i, pair in enumerate(pairs):
        try:
            low, high = pair
            ends[0].append(-np.inf if low is None else float(np.asarray(low).item()))
            ends[1].append(np.inf if high is None else float(np.asarray(high).item()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"bounds[{i}] is {pair!r}: give a pair (low, high), with None for no bound") from error
    return np.array(ends[0]), np.array(ends[1])


class Objective:
    """A function of a vector and its gradient, with the calls counted.

    Args:
        fun: called as ``fun(x, *args)`` with a copy of x; returns a number.
        jac: called like ``fun``, returns the gradient of shape (n,); or one of ``SCHEMES``, for finite differences.
        box: the bounds for finite differences.
        rel_step: the relative step of finite differences, None for SciPy's.

    Attributes:
        nfev, njev: the number of calls of ``fun`` (including those of finite differences), and of gradients.
    """

    def __init__(self, fun: Callable[..., Any], jac: Callable[..., Any] | str, box: Box, rel_step: Any = None) -> None:
        self._fun, self._jac, self._box, self._rel_step = fun, jac, box, rel_step
        self.nfev = self.njev = 0

    def value(self, x: Vector, *args: Any) -> float:
        """The function's value.

        Raises:
            ValueError: the value is not a real number.
        """
        return _real(self._call(x, *args))

    def _call(self, x: Vector, *args: Any) -> Any:
        self.nfev += 1
        return self._fun(np.copy(x), *args)

    def gradient(self, x: Vector, value: float, *args: Any) -> Vector:
        """The gradient in float64, of shape (n,); ``value`` is the function's value at x.

        Raises:
            ValueError: ``jac`` returns an array of another size.
        """
        self.njev += 1
        if not isinstance(self._jac, str):
            given = np.asarray(self._jac(np.copy(x), *args), np.float64)
            if given.size != x.size:
                raise ValueError(f"jac gives an array of shape {given.shape}, where x0 has {x.size} elements")
            return given.reshape(-1)
        gradient = np.zeros(x.size)
        free = self._box.low < self._box.high  # a fixed component has no room for a difference
        if free.any():
            gradient[free] = self._differences(x, value, free, args)
        return gradient

    def _differences(self, x: Vector, value: float, free: Vector, args: tuple[Any, ...]) -> Vector:
        def along(part: Vector) -> Any:
            whole = x.astype(np.result_type(x, part))
            whole[free] = part
            found = np.asarray(self._call(whole, *args))
            return found.item() if self._jac == "cs" else _real(found)

        bounds = (self._box.low[free], self._box.high[free])
        rel_step = self._rel_step
        if np.ndim(rel_step):
            rel_step = np.asarray(rel_step)[free]
        # If the function is infinite next to x, so is the difference; the caller checks it.
        with np.errstate(invalid="ignore", over="ignore"):
            found = approx_derivative(along, x[free], self._jac, rel_step=rel_step, f0=np.array([value]), bounds=bounds)
        return np.asarray(found, np.float64).reshape(-1)


def _real(value: Any) -> float:
    try:
        found = np.asarray(value)
    except ValueError:  # a pair of a number and an array, as for jac=True
        found = np.empty(0)
    if found.size != 1 or found.dtype.kind not in "fiub":
        raise ValueError(
            f"fun must return one real number, not {value!r} (if it returns the gradient too, use jac=True)"
        )
    return float(found.item())
