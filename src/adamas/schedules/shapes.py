r"""The schedules themselves: one small class each, with the formula, its source, and what others call it.

In the formulas t is the step, counted from 0, n the number of steps, and :math:`x = \min(t / n, 1)`. Imports NumPy alone, and
that through ``schedule``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .schedule import MOST_TURNS, Number, Schedule, check, check_distance, numbers, refuse


class _OfSteps(Schedule):
    """A schedule that ends after ``steps``."""

    steps: float

    def _length(self) -> float | None:
        return self.steps

    def _share(self, t: Number, xp: Any) -> Number:
        return xp.minimum(xp.divide(t, self.steps), 1.0)


def _rises(shape: str, x: Number, start: float, xp: Any) -> Number:
    """From ``start`` to 1 as x goes from 0 to 1: on a line, on half a cosine, or by the same factor in equal times."""
    if shape == "exponential":
        return xp.power(start, 1.0 - x)
    return start + (1.0 - start) * (x if shape == "linear" else (1.0 - xp.cos(math.pi * x)) / 2)


@dataclass(frozen=True, repr=False)
class constant(Schedule):  # noqa: N801 - as all of this file: functions to whoever writes one
    """The same value at every step; ``steps`` is how long it takes in ``then``.

    PyTorch: ``ConstantLR`` is ``constant(factor, steps).then(constant())``. optax: ``constant_schedule``.

    Args:
        value: the value.
        steps: its length.
    """

    value: float = 1.0
    steps: float = 0

    def __post_init__(self) -> None:
        check(self, finite="value steps")
        if self.steps < 0:
            raise refuse(self, "steps", "0 or above")

    def _length(self) -> float | None:
        return self.steps

    def _at(self, t: Number, xp: Any) -> Number:
        return float(self.value)


@dataclass(frozen=True, repr=False)
class linear(_OfSteps):  # noqa: N801
    r"""On a line: :math:`\mathrm{start} + (\mathrm{end} - \mathrm{start}) x`.

    PyTorch: ``LinearLR(start_factor, end_factor, total_iters)``. Keras: ``PolynomialDecay`` with power 1. optax:
    ``linear_schedule(init_value, end_value, transition_steps)``.

    Args:
        steps: n.
        start: the first value.
        end: the last one.
    """

    steps: float
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check(self, above_zero="steps", finite="start end")
        check_distance(self, "end", "start")

    def _at(self, t: Number, xp: Any) -> Number:
        return self.start + (self.end - self.start) * self._share(t, xp)


@dataclass(frozen=True, repr=False)
class polynomial(_OfSteps):  # noqa: N801
    r"""By a power of what is left: :math:`\mathrm{end} + (\mathrm{start} - \mathrm{end}) (1 - x)^\mathrm{power}`.

    PyTorch: ``PolynomialLR(total_iters, power)``. Keras: ``PolynomialDecay``. optax: ``polynomial_schedule``.

    Args:
        steps: n.
        power: the exponent.
        start: the first value.
        end: the last one.
    """

    steps: float
    power: float = 1.0
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check(self, above_zero="steps power", finite="start end")
        check_distance(self, "end", "start")

    def _at(self, t: Number, xp: Any) -> Number:
        return self.end + (self.start - self.end) * xp.power(1.0 - self._share(t, xp), self.power)


class _Periods(Schedule):
    """A schedule of t / every, or of whole periods alone."""

    every: float
    staircase: bool

    def _periods(self, t: Number, xp: Any) -> Number:
        return xp.floor(xp.turns(t, self.every)) if self.staircase else xp.divide(t, self.every)


@dataclass(frozen=True, repr=False)
class exponential(_Periods):  # noqa: N801
    r""":math:`\mathrm{rate}^{\,t / \mathrm{every}}`; with ``staircase``, the exponent is rounded down.

    PyTorch: ``ExponentialLR(gamma)`` is ``exponential(gamma)``. Keras and TensorFlow: ``ExponentialDecay(decay_steps,
    decay_rate, staircase)``. optax: ``exponential_decay(transition_steps, decay_rate)``.

    Args:
        rate: the factor of one period.
        every: steps in a period.
        staircase: change at the end of each period alone.
    """

    rate: float
    every: float = 1
    staircase: bool = False

    def __post_init__(self) -> None:
        check(self, above_zero="rate every", flags="staircase")

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.power(self.rate, self._periods(t, xp))


@dataclass(frozen=True, repr=False)
class inverse_time(_Periods):  # noqa: N801
    r""":math:`1 / (1 + \mathrm{rate} \cdot t / \mathrm{every})`; with ``staircase``, t / every is rounded down.

    Keras and TensorFlow: ``InverseTimeDecay(decay_steps, decay_rate, staircase)``; the ``decay`` of old Keras optimizers.

    Args:
        rate: how quickly it falls.
        every: steps in a period.
        staircase: change at the end of each period alone.
    """

    rate: float
    every: float = 1
    staircase: bool = False

    def __post_init__(self) -> None:
        check(self, above_zero="rate every", flags="staircase")

    def _at(self, t: Number, xp: Any) -> Number:
        return 1.0 / (1.0 + self.rate * self._periods(t, xp))


@dataclass(frozen=True, repr=False)
class power(Schedule):  # noqa: N801
    r""":math:`\min(1, \mathrm{decay}^{\,t})`.

    PyTorch: ``ExponentialLR(gamma=decay)``, for a decay up to 1.

    Args:
        decay: the factor of one step.
    """

    decay: float

    def __post_init__(self) -> None:
        check(self, above_zero="decay")

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.minimum(1.0, xp.power(self.decay, t))


@dataclass(frozen=True, repr=False)
class step(Schedule):  # noqa: N801
    r""":math:`\mathrm{factor}^{\lfloor t / \mathrm{every} \rfloor}`.

    PyTorch: ``StepLR(step_size, gamma)``. Keras, optax: ``ExponentialDecay`` and ``exponential_decay`` with staircase.

    Args:
        factor: of one period.
        every: steps in a period.
    """

    factor: float
    every: float

    def __post_init__(self) -> None:
        check(self, above_zero="factor every")

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.power(self.factor, xp.floor(xp.turns(t, self.every)))


@dataclass(frozen=True, repr=False)
class multistep(Schedule):  # noqa: N801
    r"""``factor`` to the power of how many milestones have been reached.

    PyTorch: ``MultiStepLR(milestones, gamma)``.

    Args:
        milestones: rising steps.
        factor: of each.
    """

    milestones: tuple[float, ...] | list[float]
    factor: float = 0.1

    def __post_init__(self) -> None:
        numbers(self, "milestones", rising=True)
        check(self, above_zero="factor")

    def _length(self) -> float | None:
        return max(max(self.milestones, default=0), 0)

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.power(self.factor, xp.count(self.milestones, t))


@dataclass(frozen=True, repr=False)
class piecewise(Schedule):  # noqa: N801
    r"""The first value before the first boundary, the second from there on to the next, and so on.

    Keras: ``PiecewiseConstantDecay``, which changes one step after a boundary, not at it. optax:
    ``piecewise_constant_schedule``, which has the ratios of neighbours for values.

    Args:
        boundaries: rising steps.
        values: one more than boundaries.
    """

    boundaries: tuple[float, ...] | list[float]
    values: tuple[float, ...] | list[float]

    def __post_init__(self) -> None:
        numbers(self, "boundaries", rising=True)
        numbers(self, "values")
        if len(self.values) != len(self.boundaries) + 1:
            raise refuse(self, "values", f"{len(self.boundaries) + 1} numbers, one more than the boundaries")

    def _length(self) -> float | None:
        return max(max(self.boundaries, default=0), 0)

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.pick(self.values, self.boundaries, t)


@dataclass(frozen=True, repr=False)
class cosine(_OfSteps):  # noqa: N801
    r"""Down half a cosine: :math:`\mathrm{end} + (1 - \mathrm{end}) \bigl((1 + \cos \pi x) / 2\bigr)^\mathrm{exponent}`.

    Loshchilov and Hutter, SGDR (2017), equation 5. PyTorch: ``CosineAnnealingLR(T_max, eta_min)``, whose rate climbs again
    after T_max, and whose ``eta_min`` is end times the rate. Keras: ``CosineDecay(decay_steps, alpha)``. optax:
    ``cosine_decay_schedule(decay_steps, alpha, exponent)``.

    Args:
        steps: n.
        end: the last value.
        exponent: of the cosine.
    """

    steps: float
    end: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        check(self, above_zero="steps exponent", finite="end")

    def _at(self, t: Number, xp: Any) -> Number:
        height = (1.0 + xp.cos(math.pi * self._share(t, xp))) / 2
        if self.exponent != 1:
            height = xp.power(height, self.exponent)
        return self.end + (1.0 - self.end) * height


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):  # noqa: N801
    r"""Down half a cosine, again and again: period i takes :math:`\mathrm{period} \cdot \mathrm{multiplier}^i` steps.

    Its height is :math:`\mathrm{height}^i`. Loshchilov and Hutter, SGDR (2017). PyTorch:
    ``CosineAnnealingWarmRestarts(T_0, T_mult, eta_min)``. Keras: ``CosineDecayRestarts(first_decay_steps, t_mul, m_mul,
    alpha)``.

    Args:
        period: steps of the first period.
        multiplier: length of each period in the last one's.
        height: the first value of each period in the last one's.
        end: where each period would end; at the very step, the next one begins.
    """

    period: float
    multiplier: float = 1.0
    height: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check(self, above_zero="period multiplier height", finite="end")
        if self.multiplier < 1:
            raise refuse(self, "multiplier", "1 or above")
        if self.multiplier > 1e30:
            raise refuse(self, "multiplier", "at most 1e30")

    def _at(self, t: Number, xp: Any) -> Number:
        m, x = self.multiplier, xp.turns(t, self.period)
        if m == 1:
            number = xp.floor(x)
            inside = x - number
        else:
            # The logarithm may fall on the wrong side of a restart, and is put right by the restarts themselves, which are
            # rounded too: a step that is the 1e-12th part before one is at it. All of it times m - 1, which divides nothing.
            grown = xp.minimum(x * (m - 1), MOST_TURNS)
            near = xp.floor(xp.log1p(grown) / math.log(m) + 0.5)
            early = grown * (1 + 1e-12) < xp.power(m, near) - 1
            number = near - xp.where(early, 1.0, 0.0)
            length = xp.power(m, number)
            inside = (grown - (length - 1)) / (length * (m - 1))
        height = xp.times(xp.power(self.height, number), (1.0 + xp.cos(math.pi * inside)) / 2)
        return self.end + xp.times(1.0 - self.end, height)


@dataclass(frozen=True, repr=False)
class one_cycle(_OfSteps):  # noqa: N801
    r"""Up from ``start`` to 1 and down to ``end``, in one go (Smith and Topin, Super-Convergence, 2018).

    The peak is at step peak_at · n − 1 and the end at step n − 1. With ``three_phase``, it goes down to ``start`` as long as
    it went up, and to ``end`` after that.

    PyTorch: ``OneCycleLR(total_steps, pct_start, anneal_strategy, div_factor=1/start, three_phase)``, with
    final_div_factor = start / end. It raises beyond its end, and changes β1 unless it is told not to. optax:
    ``cosine_onecycle_schedule``, whose phases end at peak_at · n and at n.

    Args:
        steps: n.
        peak_at: share of the steps up to the peak.
        start: the first value.
        end: the last one.
        shape: ``"cosine"`` or ``"linear"``.
        three_phase: in three phases.
    """

    steps: float
    peak_at: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    shape: str = "cosine"
    three_phase: bool = False

    def __post_init__(self) -> None:
        shapes = ("cosine", "linear")
        check(self, above_zero="steps peak_at", finite="start end", flags="three_phase", choices={"shape": shapes})
        if self.peak_at > (0.5 if self.three_phase else 1):
            raise refuse(self, "peak_at", f"at most {0.5 if self.three_phase else 1}")
        check_distance(self, "end", "start")

    def _at(self, t: Number, xp: Any) -> Number:
        last = max(self.steps - 1.0, 1.0)
        peak = min(max(self.peak_at * self.steps - 1.0, 0.0), last)
        stops = [(peak, 1.0), (last, self.end)]
        if self.three_phase:
            stops.insert(1, (2 * self.peak_at * self.steps - 2.0, self.start))
        value, before, low = self.start, 0.0, self.start
        for at, high in stops:
            x = xp.minimum(xp.maximum((t - before) / max(at - before, 1e-12), 0.0), 1.0)
            value = value + (high - low) * _rises(self.shape, x, 0.0, xp)
            before, low = at, high
        return value


@dataclass(frozen=True, repr=False)
class triangular(Schedule):  # noqa: N801
    r"""From ``low`` up to 1 and down again, for ever (Smith, Cyclical Learning Rates, 2017).

    PyTorch: ``CyclicLR(base_lr, max_lr, step_size_up, step_size_down, mode, gamma)``, with low = base_lr / max_lr.

    Args:
        up: steps up.
        down: steps down; as many where None.
        low: the lowest value.
        mode: ``"triangular"``: always up to 1; ``"triangular2"``: the height over ``low`` halves from cycle to cycle;
            ``"exp_range"``: it falls as gammaᵗ.
        gamma: for ``"exp_range"``.
    """

    up: float
    down: float | None = None
    low: float = 0.0
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        choices = {"mode": ("triangular", "triangular2", "exp_range")}
        check(self, above_zero="up gamma" + (" down" if self.down is not None else ""), finite="low", choices=choices)

    def _at(self, t: Number, xp: Any) -> Number:
        down = self.up if self.down is None else self.down
        period = min(self.up + down, sys.float_info.max)
        cycle = xp.floor(xp.turns(t, period))
        inside = xp.minimum(xp.maximum(t - cycle * period, 0.0), period)
        height = xp.where(inside <= self.up, inside / self.up, 1.0 - (inside - self.up) / down)
        if self.mode == "triangular2":
            height = xp.times(height, xp.power(0.5, cycle))
        elif self.mode == "exp_range":
            height = xp.times(height, xp.power(self.gamma, t))
        return self.low + xp.times(1.0 - self.low, height)


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):  # noqa: N801
    r""":math:`\sqrt{n / \max(t, n)}`: 1 for n steps, and from there with the root of the step.

    Vaswani et al., Attention Is All You Need (2017), equation 3, is ``warmup(n) * inverse_sqrt(n)``.

    Args:
        steps: n.
    """

    steps: float

    def __post_init__(self) -> None:
        check(self, above_zero="steps")

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.sqrt(self.steps / xp.maximum(t, self.steps))


@dataclass(frozen=True, repr=False)
class trapezoid(_OfSteps):  # noqa: N801
    r"""Up on a line, level at 1, and down to ``end``: warmup, stable, decay.

    Zhai et al., Scaling Vision Transformers (2022); Hu et al., MiniCPM (2024); Hägele et al. (2024) for the decay by
    1 − √x. optax: ``join_schedules`` of three.

    Args:
        steps: of all.
        warmup: steps up, from 0.
        decay: steps down.
        end: the last value.
        shape: of the way down: ``"linear"``, ``"cosine"`` or ``"sqrt"`` (1 − √x).
    """

    steps: float
    warmup: float = 0
    decay: float = 0
    end: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        shapes = ("linear", "cosine", "sqrt")
        check(self, above_zero="steps", finite="warmup decay end", choices={"shape": shapes})
        if not 0 <= self.warmup <= self.steps:
            raise refuse(self, "warmup", f"from 0 to steps={self.steps!r}")
        if not 0 <= self.decay <= self.steps - self.warmup:
            raise refuse(self, "decay", f"from 0 to the {self.steps - self.warmup!r} steps after the warmup")

    def _at(self, t: Number, xp: Any) -> Number:
        up = xp.minimum(xp.divide(t, self.warmup), 1.0) if self.warmup else 1.0
        if not self.decay:
            return up
        x = xp.minimum(xp.divide(xp.maximum(t - (self.steps - self.decay), 0.0), self.decay), 1.0)
        fallen = xp.sqrt(x) if self.shape == "sqrt" else _rises(self.shape, x, 0.0, xp)
        return up * (1.0 - (1.0 - self.end) * fallen)


@dataclass(frozen=True, repr=False)
class warmup(_OfSteps):  # noqa: N801
    r"""Up from ``start`` to 1: on a line (:math:`\mathrm{start} + (1 - \mathrm{start}) x`), half a cosine, or exponentially.

    The exponential one is :math:`\mathrm{start}^{1 - x}`. PyTorch: ``LinearLR(start_factor=start, total_iters=n)``.
    Keras: the ``warmup_steps`` of ``CosineDecay``. optax: ``warmup_constant_schedule``.

    Args:
        steps: n.
        start: the first value, above 0 for ``"exponential"``.
        shape: ``"linear"``, ``"cosine"`` or ``"exponential"``.
    """

    steps: float
    start: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        check(self, above_zero="steps", finite="start", choices={"shape": ("linear", "cosine", "exponential")})
        if self.shape == "exponential" and self.start <= 0:
            raise refuse(self, "start", "above 0 where the shape is exponential")

    def _at(self, t: Number, xp: Any) -> Number:
        return _rises(self.shape, self._share(t, xp), self.start, xp)

    @staticmethod
    def untuned(beta2: float) -> Schedule:
        r"""The warmup that Adam needs by its β2 alone: :math:`\min(1, (t + 1)(1 - \beta_2) / 2)`, over 2/(1−β2) steps.

        Ma and Yarats, On the adequacy of untuned warmup for adaptive optimization (2021), equation 8.
        """
        if not 0 <= beta2 < 1:
            raise ValueError(f"warmup.untuned: beta2 must be from 0 up to but not including 1, got {beta2!r}")
        return warmup(round(2 / (1 - beta2))).shift(-1)


@dataclass(frozen=True, repr=False)
class from_function(Schedule):  # noqa: N801
    """Any function of the step. It is printed by its name, and cannot be written as JSON.

    PyTorch: ``LambdaLR``.

    Args:
        function: takes a step as a float, or as an array if the schedule is asked for an array; returns the same.
        steps: how long the function is asked; after that its value stays. None: for ever.
    """

    function: Callable[[Any], Any]
    steps: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise refuse(self, "function", "callable")
        if self.steps is not None:
            check(self, above_zero="steps")

    def _length(self) -> float | None:
        return self.steps

    def _at(self, t: Number, xp: Any) -> Number:
        return self.function(t if self.steps is None else xp.minimum(t, self.steps))
