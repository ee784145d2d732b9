"""What a sweep of the learning rate says: the rules that read a rate off its curve, and the finding that they come to.

What sweeps are made with is the adapters' matter. Imports NumPy and adamas.schedules alone; matplotlib only to draw.
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

# The curve is smoothed over this many decades of the rate, and at least so many rates; see ``Curve``.
_WIDTH = 0.2
_POINTS = 2.5
# How many standard errors a fall or a slope has to have: the noise of 100 rates exceeds four of them in one sweep of 300.
_BEYOND_NOISE = 4.0
_FALLS = 3.0
# How far down the valley its rule goes. Of shares from two thirds to four fifths, for twelve seeds on digits and eight on
# MNIST, this came nearest to the best rate of one epoch, for Adam and gradient descent together (docs/find-lr.md).
_DOWN = 0.75
LOW_CONFIDENCE = 0.3  # under it, a suggestion comes with a warning
# Decades of spread that halve the confidence.
_HALVING = 0.5
# A sweep is over when the averaged loss is this many times as far above its best as it had fallen. It only saves batches:
# what a sweep says is read off by the rules.
_OVER = 4.0
_AVERAGE = 0.9
_BEFORE_OVER = 10


class LRFindingError(ValueError):
    """No learning rate can be read off the sweep. The text says why, and what to change."""


@dataclass(frozen=True)
class LRRule:
    """What one rule says: a rate, or, where it does not apply, why; ``note`` explains either.

    Attributes:
        name: ``"steepest descent"``, ``"valley"`` or ``"tenth of divergence"``.
        lr: the rate; None where the rule does not apply.
        note: how it came about, or why the rule does not apply.
    """

    name: str
    lr: float | None
    note: str


@dataclass(frozen=True)
class LRFinding:
    """What ``find_lr`` found; ``print`` says it in words, ``plot`` draws it.

    Attributes:
        lr: the learning rate to use: the median, by its logarithm, of the rules that apply.
        confidence: from 0 to 1. Rules and repeats that agree on one rate give 1; each half decade of spread (a factor of
            3.2) halves it; a rule that does not apply, and a sweep that gives no rate by itself, take their share of it away.
            The spread is the root of the mean squares of the distances from ``lr``, in decades: of the rules, and, added in
            squares, of the sweeps.
        rules: what each of the three rules says.
        sweep_lrs: what each sweep says by itself; None where no rule applies to it.
        rates: the rates that were swept, rising.
        losses: for each sweep, the loss before the step at each rate, as far as it went.
        smoothed: the median of the sweeps, smoothed; NaN from where most sweeps had diverged.
    """

    lr: float
    confidence: float
    rules: tuple[LRRule, ...]
    sweep_lrs: tuple[float | None, ...]
    rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    smoothed: tuple[float, ...]

    def __str__(self) -> str:
        """The rate, the confidence, and a line for each rule."""
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
                + (f" ({lacking} of them say nothing by themselves)" if alone and lacking else "")
            )
        return "\n".join(lines)

    def schedule(self, steps: int, warmup: int | None = None) -> Schedule:
        """A schedule for a run: up to ``lr`` on a line, then down half a cosine to 0.

        Args:
            steps: how many the run has, in all.
            warmup: how many of them lead up to ``lr``; by default a twentieth. 0 leaves the warmup out.

        Raises:
            ValueError: ``steps`` is below 1, or ``warmup`` is not from 0 up to but not including ``steps``.
        """
        return _schedule(self.lr, steps, steps // 20 if warmup is None else warmup)

    @needs("train")
    def plot(self, path_or_axes: Any = None) -> Any:
        """Draw the median of the sweeps, the band from their lowest to their highest loss, and what the rules say.

        Args:
            path_or_axes: a file (its name's end says in which format; or a binary file to write a PNG into), or
                matplotlib's axes to draw in; by default a new figure of pyplot.

        Returns:
            matplotlib's axes.
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
        raise ValueError(f"steps must be a whole number from 1 up, got {steps}")
    if not 0 <= up < steps:
        raise ValueError(f"warmup must be from 0 up to but not including the {steps} steps, got {up}")
    return lr * warmup(up).then(cosine(steps - up)) if up else lr * cosine(steps)


# ---- the sweep


class Sweep:
    """The losses of one sweep, as they come in.

    Attributes:
        losses: the loss before the step at each rate so far.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._average, self._best = 0.0, math.inf

    def add(self, loss: float) -> bool:
        """Take notice of the next loss; returns whether the sweep goes on.

        Raises:
            LRFindingError: it is the first, and not finite.
        """
        number = len(self.losses)
        if not math.isfinite(loss):
            if number == 0:
                raise LRFindingError(
                    f"the loss is {loss} at the first batch, before any step. Look for what makes it so: the rate does not"
                )
            return False
        self.losses.append(loss)
        self._average = _AVERAGE * self._average + (1 - _AVERAGE) * loss
        corrected = self._average / (1 - _AVERAGE ** (number + 1))
        if number >= _BEFORE_OVER:
            start = self.losses[:_BEFORE_OVER]
            level = sum(start) / len(start)
            # Differences alone, so that a loss may be negative; a hundredth of the loss stands for noise where there is none.
            scale = max(level - self._best, max(start) - min(start), 0.01 * abs(level))
            if corrected > self._best + _OVER * scale:
                return False
        self._best = min(self._best, corrected)
        return True


def check_sweep(low: float, high: float, steps: int, sweeps: int) -> None:
    """Raise ValueError for rates and counts that cannot be swept."""
    if not 0 < low < high < math.inf:
        raise ValueError(f"low and high must be numbers with 0 < low < high, got low={low} and high={high}")
    if steps < 20:
        raise ValueError(f"steps must be 20 or more, to tell a fall from noise, got {steps}")
    if sweeps < 1:
        raise ValueError(f"sweeps must be a whole number from 1 up, got {sweeps}")


# ---- the curve


class Curve:
    """The loss over the logarithm of the rate, smoothed, with its slope and the standard errors of both.

    Smoothed by a local linear regression (Cleveland, 1979) with Gaussian weights, not by a moving average: an average
    lags, and moves what is read off it up by a good part of a decade; a regression gives the slope along with the value;
    and its weights say how much noise is left in each.
    """

    def __init__(self, rates: Floats, losses: Floats, noise: float = 0.0) -> None:
        """Take rising rates, and a loss at each, infinite from where the sweep had diverged; and the noise that they have.

        Of that, and of what is found in the losses themselves, the larger counts.
        """
        self.x = np.log10(rates)
        self.count = len(rates)
        self.diverged = not np.isfinite(losses).all()
        measured = losses[np.isfinite(losses)]
        first = measured[: max(5, self.count // 10)]
        self.start = float(first.mean())
        self.noise = max(noise, _noise_within(measured[: max(20, self.count // 4)]))
        self.spread = float(first.max() - first.min())
        # What has diverged may be of any size, and would bend the curve long before it.
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
        self.slope: Floats = slopes @ losses  # loss a decade
        error = np.sqrt((values**2).sum(1) + 1 / len(first)) * self.noise
        slope_error = np.sqrt((slopes**2).sum(1)) * self.noise
        # Rounding is noise too, and all there is of it where every batch is the same.
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
        """Where the loss falls the most for the same factor, down to the lowest loss; only where it fell."""
        return self._steepest(self.moved & self.falls)

    @property
    def begins_falling(self) -> bool:
        """Whether the loss fell the most at the lowest rate: it is not known from where."""
        return bool(self.x[self._steepest(self.falls)] - self.x[0] < self.width)

    def _steepest(self, possible: NDArray[np.bool_]) -> int:
        return int(np.where(possible & (np.arange(self.count) <= self.bottom), self.slope, np.inf).argmin())

    @property
    def ends_falling(self) -> bool:
        """Whether the loss had no bottom yet at the highest rate."""
        before = int(np.searchsorted(self.x, self.x[-1] - 2 * self.width))
        return not self.diverged and float(self.value[before] - self.value[-1]) > 0.05 * self.depth

    def crossing(self, level: float, begin: int, up: bool) -> float | None:
        """The rate at which the smoothed curve first reaches ``level`` from ``begin`` on, rising or falling."""
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
    """The noise of the beginning of one sweep: what a cubic leaves, which has room for the beginning of a fall."""
    if len(losses) < 8:
        return float(losses.std())
    at = np.linspace(-1.0, 1.0, len(losses))
    rest = losses - np.polynomial.Polynomial.fit(at, losses, 3)(at)
    return _independent(rest[None, :], len(rest) - 4)


def _noise_between(losses: Floats) -> float:
    """The noise of one sweep (sweeps × rates): how far those of several differ over the first half of the rates."""
    here = losses[:, np.isfinite(losses).all(0)][:, : max(20, losses.shape[1] // 2)]
    if len(here) < 2 or here.shape[1] < 8:
        return 0.0
    return _independent(here - here.mean(0), (len(here) - 1) * here.shape[1])


def _independent(rest: Floats, freedom: int) -> float:
    """The standard deviation that independent noise would need to disturb averages as much as this (sweeps × rates).

    It is more than that of ``rest`` where neighbours resemble each other, as they do in data that is sorted.
    """
    squares = float((rest**2).sum())
    if squares == 0:
        return 0.0
    likeness = min(max(float((rest[:, 1:] * rest[:, :-1]).sum()) / squares, 0.0), 0.9)
    return math.sqrt(squares / freedom * (1 + likeness) / (1 - likeness))


# ---- the rules: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3, looks for where the loss
# begins to fall and where it becomes ragged; these read it off without an eye. See also Smith and Topin, Super-Convergence
# (2018).

_NEVER_FELL = "the loss never fell by more than its noise"
_FELL_BEFORE = "the loss fell the most at the lowest rate"


def steepest_descent(curve: Curve) -> LRRule:
    """The rate at which the loss falls the most for the same factor; only where it has fallen by more than its noise."""
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
    return LRRule(name, float(rate), "the loss falls the most for the same factor on the rate")


def valley(curve: Curve) -> LRRule:
    """Most of the way down to the lowest loss.

    fastai's rule of this name takes the middle of the longest falling subsequence, in steps: so it depends on where the
    sweep began, and on noise in the flat part. Depth depends on neither.
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
    """A tenth of the rate at which half of what the loss had fallen is lost again."""
    name = "tenth of divergence"
    if not curve.fell:
        return LRRule(name, None, _NEVER_FELL)
    rate = curve.crossing(float(curve.value[curve.bottom]) + curve.depth / 2, curve.bottom, up=True)
    if rate is None:
        return LRRule(name, None, "no rate was high enough to diverge")
    return LRRule(name, rate / 10, f"half of the fall is lost again at {rate:.2g}")


def _apply(rates: Floats, losses: Floats, noise: float) -> tuple[Curve, tuple[LRRule, ...], float | None]:
    """The curve, what the rules say of it, and the median by logarithm of those that apply."""
    curve = Curve(rates, losses, noise)
    rules = steepest_descent(curve), valley(curve), tenth_of_divergence(curve)
    logarithms = [math.log10(rule.lr) for rule in rules if rule.lr is not None]
    return curve, rules, float(10 ** np.median(logarithms)) if logarithms else None


def conclude(rates: Sequence[float], sweeps: Sequence[Sequence[float]]) -> LRFinding:
    """Make a finding of sweeps: for each, its losses as far as it went; finite numbers.

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
    # The median of three has 0.67 of the noise of one, that of many 1.25 / √n.
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
    # Where it diverges, the loss has no bound: show the fall.
    axes.set_ylim(bottom - 0.2 * (start - bottom), start + 0.6 * (start - bottom))
    axes.set_title(f"learning rate {finding.lr:.2g}, confidence {finding.confidence:.2f}", loc="left", fontsize=11)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss before the step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    return axes
