"""The loop of the methods for ``scipy.optimize.minimize``: evaluate, stop or step, and remember the best point.

Imports NumPy and SciPy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult

from .objective import SCHEMES, Box, Objective
from .stepping import Stepper, Vector

CONVERGED, OUT_OF_ITERATIONS, NOT_FINITE, STOPPED_BY_CALLBACK = 0, 1, 3, 99  # SciPy's numbers
STOPPED = "`callback` raised `StopIteration`."  # SciPy's words


@dataclass
class Stopping:
    """The options of all methods: when to stop, and what to report. None stands for the default.

    Attributes:
        maxiter: the maximum number of steps.
        gtol: stop when no component of the gradient is larger (at a bound, the distance that x can move limits a component).
            ``minimize(tol=)`` sets it if it is not given.
        ftol: stop when the best value has fallen by no more than ``ftol * max(1, |value|)`` in ``patience`` steps. Off by
            default; 0 if ``patience`` is given and ``xtol`` is not.
        xtol: stop when no component of x has moved by more than ``xtol * max(1, largest |x|)`` in each of ``patience`` steps.
            Off by default.
        patience: the number of steps for ``ftol`` and ``xtol``.
        disp: print the outcome.
        return_all: return ``allvecs`` in the result: x0 and the x after each step.
        finite_diff: without ``jac``: ``"2-point"``, ``"3-point"`` or ``"cs"`` (complex steps).
        finite_diff_rel_step: the relative step of finite differences, a number or one for each component; None for SciPy's.
    """

    maxiter: int = 10_000
    gtol: float = 1e-5
    ftol: float | None = None
    xtol: float | None = None
    patience: int = 50
    disp: bool = False
    return_all: bool = False
    finite_diff: str = "2-point"
    finite_diff_rel_step: Any = None

    def __post_init__(self) -> None:
        self.maxiter, self.patience = whole("maxiter", self.maxiter, 0), whole("patience", self.patience, 1)
        if self.finite_diff not in SCHEMES:
            raise ValueError(f"finite_diff={self.finite_diff!r} is unknown: use one of {', '.join(map(repr, SCHEMES))}")
        for name in ("gtol", "ftol", "xtol"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, float | int | np.number) or not value >= 0):
                raise ValueError(f"{name} must be a nonnegative number, not {value!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Stopping:
        """The settings from the options of ``minimize``.

        Raises:
            ValueError: an option has an invalid value.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if (tol := given.pop("tol", None)) is not None:
            given.setdefault("gtol", tol)
        if "patience" in given and "xtol" not in given:
            given.setdefault("ftol", 0.0)
        return cls(**given)


STOPPING_OPTIONS = ("tol", *(field.name for field in fields(Stopping)))


def whole(name: str, value: Any, least: int) -> int:
    """The value as an int, such as 1000 for 1e3.

    Raises:
        ValueError: it is not a whole number, or less than ``least``.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not value >= least or value != math.floor(min(value, 2.0**62)):
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


class Point(NamedTuple):
    """An evaluated point, with its value and gradient and the number of steps before it."""

    x: Vector
    fun: float
    jac: Vector
    nit: int

    def is_finite(self) -> bool:
        """Whether the value and the gradient are finite."""
        return math.isfinite(self.fun) and bool(np.isfinite(self.jac).all())


def start_of(x0: Any) -> Vector:
    """The start as a new vector of floats: of its own dtype, or float64 for whole numbers.

    Raises:
        ValueError: it is not a vector of real numbers, or not finite.
    """
    x = np.atleast_1d(np.array(x0))
    if x.ndim != 1 or x.dtype.kind not in "fiub":
        raise ValueError(f"x0 must be a vector of real numbers, not of shape {x.shape} and dtype {x.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"x0 must be finite, and x0[{int(np.argmin(np.isfinite(x)))}] is not")
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def with_result(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], Any]:
    """The callback as a function of an ``OptimizeResult``.

    As in SciPy, one whose only parameter is named ``intermediate_result`` is given that by keyword, any other a copy of x.
    """
    if callback is None:
        return lambda result: None
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # a builtin without a signature
        names = set()
    if names == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(np.copy(result.x))


def minimize(
    objective: Objective,
    box: Box,
    x0: Vector,
    args: tuple[Any, ...],
    stepper: Stepper,
    stopping: Stopping,
    callback: Callable[..., Any] | None,
) -> OptimizeResult:
    """Step from ``x0``, of shape (n,), until one of the criteria of ``stopping`` is met.

    Steps are computed in float64; ``fun``, ``jac`` and the result have x in the dtype of ``x0``.
    """
    notify = with_result(callback)

    def evaluate(x: Vector, nit: int) -> Point:
        value = objective.value(x, *args)
        gradient = objective.gradient(x, value, *args) if math.isfinite(value) else np.full(x.size, np.nan)
        return Point(x, value, gradient, nit)

    exact = box.project(x0.astype(np.float64))
    point = best = evaluate(box.project(x0), 0)
    visited = [np.copy(point.x)]
    falls, small_steps = _Falls(stopping, point.fun), 0
    while True:
        if not point.is_finite():
            status, reason = NOT_FINITE, _not_finite(point, best)
            break
        if (verdict := _verdict(point, box, stopping, falls, small_steps)) is not None:
            status, reason = verdict
            break
        after = box.project(stepper.step(exact, point.jac))
        with np.errstate(over="ignore"):
            rounded = box.project(after.astype(x0.dtype))
        if not np.isfinite(rounded).all():
            status, reason = NOT_FINITE, f"Step {point.nit + 1} would leave the finite numbers: a smaller lr may help."
            break
        moved = float(np.max(np.abs(after - exact), initial=0.0))
        scale = max(1.0, float(np.max(np.abs(exact), initial=0.0)))
        small_steps = small_steps + 1 if stopping.xtol is not None and moved <= stopping.xtol * scale else 0
        exact = after
        point = evaluate(rounded, point.nit + 1)
        if point.is_finite() and (point.fun <= best.fun or not best.is_finite()):
            best = point
        falls.note(best)
        if stopping.return_all:
            visited.append(np.copy(point.x))
        try:
            notify(OptimizeResult(x=np.copy(point.x), fun=point.fun))
        except StopIteration:
            status, reason = STOPPED_BY_CALLBACK, STOPPED
            break
    average = box.project(stepper.evaluated(exact).astype(x0.dtype))
    if point.is_finite() and stepper.done and not np.array_equal(average, point.x):
        last = evaluate(average, point.nit)
        if last.is_finite() and last.fun <= best.fun:
            best = last
    result = OptimizeResult(
        x=best.x,
        fun=best.fun,
        jac=best.jac,
        nit=point.nit,
        nfev=objective.nfev,
        njev=objective.njev,
        status=status,
        success=status == CONVERGED,
        message=_message(reason, point, best, box),
    )
    if stopping.return_all:
        result["allvecs"] = visited
    if stopping.disp:
        print(
            f"{result.message}\n         Current function value: {best.fun:f}\n         Iterations: {point.nit:d}\n"
            f"         Function evaluations: {objective.nfev:d}\n         Gradient evaluations: {objective.njev:d}"
        )
    return result


class _Falls:
    """Counts the steps since the best value last fell by more than ``ftol``."""

    def __init__(self, stopping: Stopping, value: float) -> None:
        self._ftol, self._value, self._at = stopping.ftol, value, 0

    def note(self, best: Point) -> None:
        """Record the best point after a step."""
        if self._ftol is not None and not self._value - best.fun <= self._ftol * max(1.0, abs(best.fun)):
            self._value, self._at = best.fun, best.nit

    def since(self, nit: int) -> int:
        """The number of steps since the last fall, at step ``nit``."""
        return 0 if self._ftol is None else nit - self._at


def _verdict(point: Point, box: Box, stopping: Stopping, falls: _Falls, small_steps: int) -> tuple[int, str] | None:
    """The status and the reason to stop at the point, or None to continue."""
    if (size := box.size_of(point.x, point.jac)) <= stopping.gtol:
        return CONVERGED, f"Converged: no component of the gradient is above gtol ({size:.3g} <= {stopping.gtol:g})."
    if falls.since(point.nit) >= stopping.patience:
        why = f"the best value fell by no more than ftol ({stopping.ftol:g}) in {stopping.patience} steps"
        return CONVERGED, f"Converged: {why}."
    if small_steps >= stopping.patience:
        why = f"no component of x moved by more than xtol ({stopping.xtol:g}) in each of {stopping.patience} steps"
        return CONVERGED, f"Converged: {why}."
    if point.nit >= stopping.maxiter:
        return (
            OUT_OF_ITERATIONS,
            f"Maximum number of iterations has been exceeded (maxiter={stopping.maxiter}); the gradient is {size:.3g}.",
        )
    return None


def _not_finite(point: Point, best: Point) -> str:
    what = f"The objective is {point.fun}" if not math.isfinite(point.fun) else "The gradient is not finite"
    where = "at x0" if point.nit == 0 else f"after step {point.nit}"
    hint = "a smaller lr may help" if best.is_finite() and point.nit else "begin elsewhere"
    return f"{what} {where}: {hint}."


def _message(reason: str, point: Point, best: Point, box: Box) -> str:
    """The reason, with remarks about the returned point."""
    parts = [reason]
    if best.nit != point.nit:
        parts.append(f"The result is the best point, from step {best.nit}.")
    if active := box.active(best.x):
        parts.append(f"Active bounds: {active}.")
    return " ".join(parts)
