"""Suggests a learning rate from the curve of a sweep: three rules, and the finding that combines them.

The adapters run the sweeps. Imports only NumPy and adamas.schedules, and matplotlib to draw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .extras import needs
from .schedules import Schedule, cosine, warmup

Floats = NDArray[np.float64]

# The curve is smoothed over this many decades of the learning rate, and at least this many rates; see ``Curve``.
_WIDTH = 0.2
_POINTS = 2.5
# The number of standard errors that a fall or a slope must exceed: the noise of 100 rates exceeds four in one sweep of 300.
_BEYOND_NOISE = 4.0
_FALLS = 3.0
# How far down the valley its rule goes. Among fractions from two thirds to four fifths, for twelve seeds on digits and eight
# on MNIST, this one came closest to the best rate of one epoch, for Adam and gradient descent together (docs/find-lr.md).
_DOWN = 0.75
LOW_CONFIDENCE = 0.3  # a suggestion with less confidence comes with a warning
# Decades of spread that halve the confidence.
_HALVING = 0.5
# A sweep stops when the averaged loss has risen above its best by this multiple of its fall. This only saves batches: it does
# not change what the rules find.
_OVER = 4.0
_AVERAGE = 0.9
_BEFORE_OVER = 10


class LRFindingError(ValueError):
    """The sweep does not determine a learning rate. The message says why, and what to change."""


@dataclass(frozen=True)
class LRRule:
    """The result of one rule: a learning rate, or the reason why the rule does not apply.

    Attributes:
        name: ``"steepest descent"``, ``"valley"`` or ``"tenth of divergence"``.
        lr: the learning rate; None if the rule does not apply.
        note: how the learning rate was found, or why the rule does not apply.
    """

    name: str
    lr: float | None
    note: str


@dataclass(frozen=True)
class LRFinding:
    """The result of ``find_lr``; ``print`` explains it, ``plot`` draws it.

    Attributes:
        lr: the suggested learning rate: the median of the logarithms of the rules that apply.
        confidence: from 0 to 1. It is 1 if all rules and sweeps agree on one rate. Each half decade of spread (a factor of
            3.2) halves it, and it is multiplied by the fraction of rules that apply and by the fraction of sweeps that give a
            rate of their own. The spread is the root mean square distance from ``lr``, in decades, of the rules and of the
            sweeps, added in squares.
        rules: the results of the three rules.
        sweep_lrs: the suggestion of each sweep alone; None if no rule applies to it.
        rates: the learning rates of the sweep, increasing.
        losses: for each sweep, the loss before the step at each rate, until the sweep stopped.
        smoothed: the smoothed median of the sweeps; NaN where most sweeps had diverged.
    """

    lr: float
    confidence: float
    rules: tuple[LRRule, ...]
    sweep_lrs: tuple[float | None, ...]
    rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    smoothed: tuple[float, ...]

    def __str__(self) -> str:
        """The learning rate, the confidence, and a line for each rule."""
        low = ": low, as rules or sweeps disagree; look at the curve before you use it"
        lines = [
            f"learning rate {self.lr:.2g}, confidence {self.confidence:.2f}{low * (self.confidence < LOW_CONFIDENCE)}"
        ]
        for rule in self.rules:
            said = "does not apply" if rule.lr is None else f"{rule.lr:.2g}"
            lines.append(f"  {rule.name:20} {said}: {rule.note}")
        alone = [lr for lr in self.sweep_lrs if lr is not None]
        if len(self.sweep_lrs) > 1:
            between = f"{min(alone):.2g} to {max(alone):.2g}" if alone else "none"
            lacking = len(self.sweep_lrs) - len(alone)
            lines.append(
                f"  {f'each of {len(self.sweep_lrs)} sweeps':20} {between}"
                + (f" ({lacking} of them give no rate by themselves)" if alone and lacking else "")
            )
        return "\n".join(lines)

    def schedule(self, steps: int, warmup: int | None = None) -> Schedule:
        """A schedule for a run: linear warmup to ``lr``, then cosine decay to 0.

        Args:
            steps: the total number of steps of the run.
            warmup: the number of steps of the warmup; by default a twentieth of ``steps``. 0 means no warmup.

        Raises:
            ValueError: ``steps`` is below 1, or ``warmup`` is not from 0 up to but not including ``steps``.
        """
        return _schedule(self.lr, steps, steps // 20 if warmup is None else warmup)

    @needs("train")
    def plot(self, path_or_axes: Any = None) -> Any:
        """Draw the median of the sweeps, the band from their lowest to their highest loss, and the results of the rules.

        Args:
            path_or_axes: a path (its suffix determines the format), a binary file to write a PNG into, or matplotlib axes to
                draw in; by default a new pyplot figure.

        Returns:
            The matplotlib axes.
        """
        if path_or_axes is None:
            from matplotlib import pyplot

            return _draw(self, pyplot.subplots(figsize=(9, 5), layout="constrained")[1])
        if not (isinstance(path_or_axes, str | os.PathLike) or hasattr(path_or_axes, "write")):
            return _draw(self, path_or_axes)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = _draw(self, figure.subplots())
        figure.savefig(path_or_axes)
        return axes


def _schedule(lr: float, steps: int, up: int) -> Schedule:
    if steps < 1:
        raise ValueError(f"steps must be a positive whole number, got {steps}")
    if not 0 <= up < steps:
        raise ValueError(f"warmup must be from 0 up to but not including the {steps} steps, got {up}")
    return lr * warmup(up).then(cosine(steps - up)) if up else lr * cosine(steps)


# ---- the sweep


class Sweep:
    """The losses of one sweep while it runs.

    Attributes:
        losses: the loss before the step at each rate so far.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._average, self._best = 0.0, math.inf

    def add(self, loss: float) -> bool:
        """Record the next loss; return whether the sweep continues.

        Raises:
            LRFindingError: the first loss is not finite.
        """
        number = len(self.losses)
        if not math.isfinite(loss):
            if number == 0:
                raise LRFindingError(
                    f"the loss is {loss} at the first batch, before any step. Find the cause: it is not the rate"
                )
            return False
        self.losses.append(loss)
        self._average = _AVERAGE * self._average + (1 - _AVERAGE) * loss
        corrected = self._average / (1 - _AVERAGE ** (number + 1))
        if number >= _BEFORE_OVER:
            start = self.losses[:_BEFORE_OVER]
            level = sum(start) / len(start)
            # Only differences count, so a loss may be negative. Without noise, a hundredth of the loss takes its place.
            scale = max(level - self._best, max(start) - min(start), 0.01 * abs(level))
            if corrected > self._best + _OVER * scale:
                return False
        self._best = min(self._best, corrected)
        return True


def check_sweep(low: float, high: float, steps: int, sweeps: int) -> None:
    """Raise ValueError for rates or counts that do not define a sweep."""
    if not 0 < low < high < math.inf:
        raise ValueError(f"low and high must be numbers with 0 < low < high, got low={low} and high={high}")
    if steps < 20:
        raise ValueError(f"steps must be at least 20, to distinguish a fall from noise, got {steps}")
    if sweeps < 1:
        raise ValueError(f"sweeps must be a positive whole number, got {sweeps}")


# ---- the curve


class Curve:
    """The smoothed loss as a function of the logarithm of the learning rate, with its slope and the standard errors of both.

    The smoother is a local linear regression (Cleveland, 1979) with Gaussian weights, not a moving average. A moving average
    lags, which shifts the result up by a large part of a decade. A regression gives the slope together with the value, and its
    weights give the remaining noise of both.
    """

    def __init__(self, rates: Floats, losses: Floats, noise: float = 0.0) -> None:
        """Smooth the losses.

        Args:
            rates: increasing learning rates.
            losses: the loss at each rate, infinite after the sweep has diverged.
            noise: a standard deviation of the losses. The noise estimated from the losses themselves is used if it is larger.
        """
        self.x = np.log10(rates)
        self.count = len(rates)
        self.diverged = not np.isfinite(losses).all()
        measured = losses[np.isfinite(losses)]
        first = measured[: max(5, self.count // 10)]
        self.start = float(first.mean())
        self.noise = max(noise, _noise_within(measured[: max(20, self.count // 4)]))
        self.spread = float(first.max() - first.min())
        # Losses after divergence can have any size, and would bend the curve far before it.
        top = self.start + max(self.start - float(measured.min()), 4 * self.noise, 5 * self.spread)
        losses = np.minimum(losses, top)
        self.width = max(_WIDTH, _POINTS * float(self.x[1] - self.x[0]))
        distance = self.x[:, None] - self.x[None, :]
        weights = np.exp(-((distance / self.width) ** 2) / 2)
        weights /= weights.sum(1, keepdims=True)
        centre = weights @ self.x
        offset = self.x[None, :] - centre[:, None]
        slopes = weights * offset / (weights * offset**2).sum(1, keepdims=True)
        values = weights + slopes * (self.x - centre)[:, None]
        self.value: Floats = values @ losses
        self.slope: Floats = slopes @ losses  # loss per decade
        error = np.sqrt((values**2).sum(1) + 1 / len(first)) * self.noise
        slope_error = np.sqrt((slopes**2).sum(1)) * self.noise
        # Rounding is noise too, and the only noise if all batches are the same.
        rounding = 1e-6 * abs(self.start)
        self.bottom = int(self.value.argmin())
        self.tolerance: Floats = _BEYOND_NOISE * error + rounding
        self.moved = self.start - self.value > self.tolerance
        self.falls = self.slope < -(_FALLS * slope_error + rounding)
        self.depth = self.start - float(self.value[self.bottom])

    @property
    def fell(self) -> bool:
        """Whether the loss fell by more than its noise."""
        return bool((self.moved & self.falls)[: self.bottom + 1].any())

    @property
    def steepest(self) -> int:
        """The index of the steepest descent per decade, up to the lowest loss, where the loss fell significantly."""
        return self._steepest(self.moved & self.falls)

    @property
    def begins_falling(self) -> bool:
        """Whether the loss fell the most at the lowest rate, so that the start of the fall is unknown."""
        return bool(self.x[self._steepest(self.falls)] - self.x[0] < self.width)

    def _steepest(self, possible: NDArray[np.bool_]) -> int:
        return int(np.where(possible & (np.arange(self.count) <= self.bottom), self.slope, np.inf).argmin())

    @property
    def ends_falling(self) -> bool:
        """Whether the loss was still falling at the highest rate."""
        before = int(np.searchsorted(self.x, self.x[-1] - 2 * self.width))
        return not self.diverged and float(self.value[before] - self.value[-1]) > 0.05 * self.depth

    def crossing(self, level: float, begin: int, up: bool) -> float | None:
        """The rate at which the smoothed curve first reaches ``level`` at or after the index ``begin``, rising or falling."""
        reached = self.value >= level if up else self.value <= level
        after = np.flatnonzero(reached[begin:])
        if not len(after):
            return None
        i = begin + int(after[0])
        if i == begin:
            return float(10 ** self.x[i])
        share = (level - self.value[i - 1]) / (self.value[i] - self.value[i - 1])
        return float(10 ** (self.x[i - 1] + share * (self.x[i] - self.x[i - 1])))


def _noise_within(losses: Floats) -> float:
    """The noise at the start of one sweep: the residual of a cubic fit, which can follow the beginning of a fall."""
    if len(losses) < 8:
        return float(losses.std())
    at = np.linspace(-1.0, 1.0, len(losses))
    rest = losses - np.polynomial.Polynomial.fit(at, losses, 3)(at)
    return _independent(rest[None, :], len(rest) - 4)


def _noise_between(losses: Floats) -> float:
    """The noise of one sweep: the deviation between sweeps (sweeps × rates) over the first half of the rates."""
    here = losses[:, np.isfinite(losses).all(0)][:, : max(20, losses.shape[1] // 2)]
    if len(here) < 2 or here.shape[1] < 8:
        return 0.0
    return _independent(here - here.mean(0), (len(here) - 1) * here.shape[1])


def _independent(rest: Floats, freedom: int) -> float:
    """The standard deviation of independent noise with the same effect on averages as ``rest`` (sweeps × rates).

    It is larger than that of ``rest`` if neighbours are correlated, as they are in sorted data.
    """
    squares = float((rest**2).sum())
    if squares == 0:
        return 0.0
    likeness = min(max(float((rest[:, 1:] * rest[:, :-1]).sum()) / squares, 0.0), 0.9)
    return math.sqrt(squares / freedom * (1 + likeness) / (1 - likeness))


# ---- the rules. Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3, finds by eye where the loss
# begins to fall and where it becomes ragged; these rules do it automatically. See also Smith and Topin, Super-Convergence
# (2018).

_NEVER_FELL = "the loss never fell by more than its noise"
_FELL_BEFORE = "the loss fell the most at the lowest rate"


def steepest_descent(curve: Curve) -> LRRule:
    """The rate at which the loss falls the most per decade, where it has fallen by more than its noise."""
    name = "steepest descent"
    if not curve.fell:
        return LRRule(name, None, _NEVER_FELL)
    i = curve.steepest
    if curve.x[-1] - curve.x[i] < curve.width:
        return LRRule(name, None, "the loss fell the most at the highest rate")
    if curve.begins_falling:
        return LRRule(name, None, _FELL_BEFORE)
    before, here, after = curve.slope[i - 1 : i + 2]
    bend = before - 2 * here + after
    between = (before - after) / (2 * bend) if bend > 0 else 0.0  # the vertex of a parabola through the three
    rate = 10 ** (curve.x[i] + min(max(between, -0.5), 0.5) * (curve.x[1] - curve.x[0]))
    return LRRule(name, float(rate), "the loss falls fastest, per factor of the rate")


def valley(curve: Curve) -> LRRule:
    """The rate at which the loss has fallen most of the way to its lowest value.

    fastai's rule of this name takes the middle of the longest decreasing subsequence, counted in steps. It depends on the
    first rate of the sweep and on noise in the flat part; the depth of the fall depends on neither.
    """
    name = "valley"
    if not curve.fell:
        return LRRule(name, None, _NEVER_FELL)
    if curve.begins_falling:
        return LRRule(name, None, _FELL_BEFORE)
    if curve.ends_falling:
        return LRRule(name, None, "the loss was still falling at the highest rate")
    top = int(curve.value[: curve.bottom + 1].argmax())
    highest, lowest = float(curve.value[top]), float(curve.value[curve.bottom])
    rate = curve.crossing(highest - _DOWN * (highest - lowest), top, up=False)
    return LRRule(name, rate, f"{_DOWN:.0%} of the way down from {highest:.3g} to {lowest:.3g}")


def tenth_of_divergence(curve: Curve) -> LRRule:
    """A tenth of the rate at which the loss has risen by half of its fall."""
    name = "tenth of divergence"
    if not curve.fell:
        return LRRule(name, None, _NEVER_FELL)
    rate = curve.crossing(float(curve.value[curve.bottom]) + curve.depth / 2, curve.bottom, up=True)
    if rate is None:
        return LRRule(name, None, "no rate was high enough to diverge")
    return LRRule(name, rate / 10, f"half of the fall is lost again at {rate:.2g}")


def _apply(rates: Floats, losses: Floats, noise: float) -> tuple[Curve, tuple[LRRule, ...], float | None]:
    """The curve, the results of the rules, and the median of the logarithms of those that apply."""
    curve = Curve(rates, losses, noise)
    rules = steepest_descent(curve), valley(curve), tenth_of_divergence(curve)
    logarithms = [math.log10(rule.lr) for rule in rules if rule.lr is not None]
    return curve, rules, float(10 ** np.median(logarithms)) if logarithms else None


def conclude(rates: Sequence[float], sweeps: Sequence[Sequence[float]]) -> LRFinding:
    """Apply the rules to sweeps.

    Args:
        rates: increasing learning rates.
        sweeps: the losses of each sweep, finite, until the sweep stopped.

    Raises:
        LRFindingError: no rule applies.
    """
    grid = np.asarray(rates, np.float64)
    losses = np.full((len(sweeps), len(grid)), np.inf)
    for row, sweep in zip(losses, sweeps, strict=True):
        row[: len(sweep)] = sweep
    with np.errstate(invalid="ignore"):
        median = np.median(losses, axis=0)
    reached = int(np.isfinite(median).sum())
    if reached < 5:
        raise LRFindingError(
            f"the loss diverged at the first rates: after {reached} steps, at {grid[reached]:.2g}. Lower low, to "
            f"{grid[0] / 1000:.0e} for example"
        )
    noise = _noise_between(losses)
    # The noise of the median of three sweeps is 0.67 times that of one; of n sweeps, for large n, 1.25 / √n times.
    curve, rules, lr = _apply(grid, median, noise * min(1.2 / math.sqrt(len(losses)), 0.71))
    if lr is None:
        raise LRFindingError(_why_nothing_applies(curve, rules))
    alone = tuple(_apply(grid, row, noise)[2] if np.isfinite(row).sum() >= 5 else None for row in losses)
    smoothed = np.where(np.isfinite(median), curve.value, np.nan)
    return LRFinding(
        lr=lr,
        confidence=_confidence(lr, [rule.lr for rule in rules], alone),
        rules=rules,
        sweep_lrs=alone,
        rates=tuple(grid.tolist()),
        losses=tuple(tuple(map(float, sweep)) for sweep in sweeps),
        smoothed=tuple(smoothed.tolist()),
    )


def _confidence(lr: float, rules: Sequence[float | None], sweeps: Sequence[float | None]) -> float:
    spread, share = 0.0, 1.0
    for found in (rules, sweeps):
        distances = [math.log10(other / lr) ** 2 for other in found if other is not None]
        spread += sum(distances) / max(len(distances), 1)
        share *= len(distances) / len(found)
    return share * math.pow(2.0, -math.sqrt(spread) / _HALVING)


def _why_nothing_applies(curve: Curve, rules: Sequence[LRRule]) -> str:
    low, high = 10 ** curve.x[0], 10 ** curve.x[-1]
    if curve.fell:
        reasons = "; ".join(dict.fromkeys(rule.note for rule in rules))
        if curve.ends_falling and not curve.begins_falling:
            return f"{reasons}. Raise high, to {high * 100:.0e} for example"
        return f"{reasons}. Lower low, to {low / 1000:.0e} for example"
    rise = curve.crossing(curve.start + max(4 * curve.spread, curve.depth), 0, up=True)
    if curve.diverged or (rise is not None and curve.value[-1] > curve.start):
        end = high if rise is None else rise
        if math.log10(end / low) < 2:
            return (
                f"the loss diverged at the first rates, at {end:.2g}, without having fallen before. Lower low, to "
                f"{low / 1000:.0e} for example"
            )
        return (
            f"the loss rose at {end:.2g} and had not fallen by more than its noise ({curve.noise:.2g}) before. Shuffle the "
            "batches, make them larger, which is less noisy, or sweep in more steps"
        )
    return (
        f"the loss never fell by more than its noise ({curve.noise:.2g}) up to a rate of {high:.2g}. Raise high, to "
        f"{high * 100:.0e} for example, or use larger batches, which are less noisy"
    )


# ---- the picture

_LINE, _MARKS = "#3d6fb6", {"steepest descent": "#d1603d", "valley": "#5b8c5a", "tenth of divergence": "#8a63b0"}


def _draw(finding: LRFinding, axes: Any) -> Any:
    rates = np.asarray(finding.rates)
    losses = np.full((len(finding.losses), len(rates)), np.nan)
    for row, sweep in zip(losses, finding.losses, strict=True):
        row[: len(sweep)] = sweep
    smoothed = np.asarray(finding.smoothed)
    seen = np.isfinite(losses).any(0)
    count = len(losses)
    if count > 1:
        axes.fill_between(
            rates[seen],
            np.nanmin(losses[:, seen], 0),
            np.nanmax(losses[:, seen], 0),
            color=_LINE,
            alpha=0.18,
            linewidth=0,
            label=f"{count} sweeps, lowest to highest",
        )
    else:
        axes.plot(rates[seen], losses[0, seen], color=_LINE, alpha=0.35, linewidth=1, label="loss")
    axes.plot(rates, smoothed, color=_LINE, linewidth=2, label="median, smoothed" if count > 1 else "smoothed")
    start, bottom = float(smoothed[0]), float(np.nanmin(smoothed))
    for rule in finding.rules:
        if rule.lr is not None:
            height = np.interp(math.log(rule.lr), np.log(rates), smoothed)
            label = f"{rule.name}: {rule.lr:.2g}"
            axes.plot(rule.lr, height, "o", color=_MARKS[rule.name], markersize=8, zorder=3, label=label)
    axes.axvline(finding.lr, color="#333333", linestyle="--", linewidth=1, label=f"suggestion: {finding.lr:.2g}")
    axes.set_xscale("log")
    axes.set_xlim(rates[0], rates[-1])
    # A diverging loss is unbounded: show the fall.
    axes.set_ylim(bottom - 0.2 * (start - bottom), start + 0.6 * (start - bottom))
    axes.set_title(f"learning rate {finding.lr:.2g}, confidence {finding.confidence:.2f}", loc="left", fontsize=11)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss before the step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    return axes
