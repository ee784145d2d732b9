"""Minimizes a function that is known only by noisy samples: one step per batch, and a weighted mean of the iterates.

Imports NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from .method import Method
from .methods import adam
from .minimizing import NOT_FINITE, STOPPED, STOPPED_BY_CALLBACK, start_of, whole, with_result
from .objective import SCHEMES, Box, Objective
from .stepping import Stepper, Vector

RECENT = 100  # batches that the reported value is the mean of


def minimize_stochastic(
    fun: Callable[..., Any],
    x0: Any,
    batches: Iterable[Any],
    *,
    jac: Callable[..., Any] | bool | str | None = None,
    args: Any = (),
    method: Method = adam,
    bounds: Any = None,
    epochs: int = 1,
    maxiter: int | None = None,
    average: float | None = 8.0,
    callback: Callable[..., Any] | None = None,
    every: int = 1,
    **hyperparameters: Any,
) -> OptimizeResult:
    r"""Minimize the expectation of ``fun(x, batch)`` over batches, with one step for each batch.

    A single value is too noisy to decide anything: the arguments determine the length of the run, and there is no best point.
    The result is a weighted mean of the iterates that favours later ones (Shamir and Zhang, 2013, arXiv:1212.1824, section 4),
    which has less noise than any single iterate:

    .. math:: \bar x_t = \left(1 - \frac{1 + a}{t + a}\right) \bar x_{t-1} + \frac{1 + a}{t + a}\, x_t

    where a is ``average``: with 8, half of the weight is on the last 7% of the steps; with 3, on the last 16%; with 0, it is
    the plain mean of all iterates.

    Args:
        fun: called as ``fun(x, batch, *args)``; returns a number, or with ``jac=True`` a number and its gradient.
        x0: the start, of shape (n,).
        batches: an iterable of batches. With several epochs it is iterated once per epoch, so it must be a list or a data
            loader; a generator (which may be endless if ``maxiter`` is given) works for one epoch.
        jac: a function that is called like ``fun`` and returns the gradient, of shape (n,); or True; or ``"2-point"``,
            ``"3-point"`` or ``"cs"`` for finite differences on the same batch. None is ``"2-point"``.
        args: additional arguments, a tuple or a single one.
        method: a method of this package.
        bounds: bounds on x, in any form that SciPy accepts.
        epochs: the number of passes over the batches.
        maxiter: the maximum number of steps; None for no limit.
        average: a, from 0 up; None for the last iterate.
        callback: called every ``every`` steps as in ``scipy.optimize.minimize``: with a copy of x, or, if its only parameter
            is named ``intermediate_result``, with an ``OptimizeResult`` of x (averaged), x_last, fun, nit, epoch and lr. It
            stops the run by raising ``StopIteration``.
        every: the number of steps between calls.
        **hyperparameters: the method's, as ``options=`` of ``minimize`` has them: ``lr`` (a number or a schedule), ….

    Returns:
        ``OptimizeResult`` with x (averaged), x_last, fun (the mean of the last 100 batches' values, each as it was before its
        step), nit, nfev, njev, epoch (passes completed), status (0: all was done; 3: not finite; 99: stopped by the
        callback), success and message. In x0's dtype.

    Raises:
        ValueError: an argument has an invalid value, or there are no batches.

    Example:
        >>> import numpy as np, adamas.scipy
        >>> samples = np.random.default_rng(0).normal(3.0, 1.0, size=(500, 20))
        >>> def fun(x, batch):
        ...     return np.mean((x - batch) ** 2), np.array([np.mean(2 * (x - batch))])
        >>> found = adamas.scipy.minimize_stochastic(fun, [0.0], samples, jac=True, lr=0.05)
        >>> bool(abs(found.x[0] - samples.mean()) < 0.1)
        True
    """
    epochs, every = whole("epochs", epochs, 1), whole("every", every, 1)
    maxiter = None if maxiter is None else whole("maxiter", maxiter, 1)
    if average is not None and not 0 <= average < math.inf:
        raise ValueError(f"average must be a nonnegative number or None, not {average!r}")
    if epochs > 1 and isinstance(batches, Iterator):
        raise ValueError(
            f"batches is a {type(batches).__name__}, which can be iterated only once: give a list, or epochs=1"
        )
    if isinstance(jac, str) and jac not in SCHEMES:
        raise ValueError(f"jac={jac!r} is unknown: use a function, True or one of {', '.join(map(repr, SCHEMES))}")
    hyper, _ = method.split(hyperparameters, (), 2)
    start = start_of(x0)
    box = Box(bounds, start)
    if jac is True:
        pair = _Pair(fun)
        objective = Objective(pair.value, pair.gradient, box)
    else:
        objective = Objective(fun, jac if callable(jac) else jac or "2-point", box)
    stepper = Stepper(method.member, method.hyperparameters(hyper), start.size)
    notify = with_result(callback)
    args = args if isinstance(args, tuple) else (args,)
    exact = box.project(start.astype(np.float64))
    mean, takes_mean = exact, average is not None and method.member.offset is None
    recent: deque[float] = deque(maxlen=RECENT)
    epoch, done, status = 0, 0, 0

    def state(epoch: int) -> OptimizeResult:
        x_last = _rounded(exact, start, box)
        x = _rounded(mean if takes_mean else stepper.evaluated(exact), start, box)
        value = float(np.mean(recent)) if recent else math.nan
        return OptimizeResult(x=x, x_last=x_last, fun=value, nit=done, epoch=epoch, lr=stepper.lr)

    for epoch, batch in _passes(batches, epochs):
        x = _rounded(exact, start, box)
        loss = objective.value(x, batch, *args)
        gradient = objective.gradient(x, loss, batch, *args) if math.isfinite(loss) else np.full(x.size, math.nan)
        after = box.project(stepper.step(exact, gradient))
        if not np.isfinite(_rounded(after, start, box)).all() or not np.isfinite(gradient).all():
            what = "the gradient or the step is not finite" if math.isfinite(loss) else f"the objective is {loss}"
            status, message = NOT_FINITE, f"At batch {done + 1} {what}: a smaller lr may help. x is as it was before."
            break
        exact, done = after, done + 1
        recent.append(loss)
        if average is not None:
            mean = mean + (1 + average) / (done + average) * (exact - mean)
        if done % every == 0:
            try:
                notify(state(epoch))
            except StopIteration:
                status, message = STOPPED_BY_CALLBACK, STOPPED
                break
        if done == maxiter:
            message = f"All of maxiter={maxiter} steps were done."
            break
    else:
        epoch, message = epochs, f"All {epochs} passes were done, of {done} steps."
    if active := box.active(_rounded(exact, start, box)):
        message += f" Active bounds: {active}."
    result = state(epoch)
    result.update(nfev=objective.nfev, njev=objective.njev, status=status, success=status == 0, message=message)
    return result


def _passes(batches: Iterable[Any], epochs: int) -> Iterator[tuple[int, Any]]:
    """The batches, each with the number of completed passes."""
    for epoch in range(epochs):
        empty = True
        for batch in batches:
            empty = False
            yield epoch, batch
        if empty:
            raise ValueError(f"batches is empty in pass {epoch + 1}: give at least one batch")


def _rounded(x: Vector, start: Vector, box: Box) -> Vector:
    """The vector that is passed to ``fun``: in the dtype of the start, and within the bounds."""
    with np.errstate(over="ignore"):
        return box.project(x.astype(start.dtype))


class _Pair:
    """A function that returns value and gradient, as two functions; the gradient is that of the last value."""

    def __init__(self, fun: Callable[..., Any]) -> None:
        self._fun = fun
        self._gradient: Any = None

    def value(self, x: Vector, *args: Any) -> Any:
        """The value. The gradient is stored."""
        value, self._gradient = self._fun(x, *args)
        return value

    def gradient(self, x: Vector, *args: Any) -> Any:
        """The gradient at the point of the last value."""
        return self._gradient
