r"""The schedules: one small class each, with its formula, its source, and its name in other libraries.

In the formulas, t is the step, counted from 0, n the number of steps, and :math:`x = \min(t / n, 1)`. Imports only NumPy, and
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
    """Rises from ``start`` to 1 as x goes from 0 to 1: linearly, as half a cosine, or exponentially."""
    if shape == "exponential":
        return xp.power(start, 1.0 - x)
    return start + (1.0 - start) * (x if shape == "linear" else (1.0 - xp.cos(math.pi * x)) / 2)


@dataclass(frozen=True, repr=False)
class constant(Schedule):  # noqa: N801 - users call the classes of this file like functions
    """The same value at every step; ``steps`` is its length in ``then``.

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
    r"""Linear: :math:`\mathrm{start} + (\mathrm{end} - \mathrm{start}) x`.

    PyTorch: ``LinearLR(start_factor, end_factor, total_iters)``. Keras: ``PolynomialDecay`` with power 1. optax:
    ``linear_schedule(init_value, end_value, transition_steps)``.

    Args:
        steps: n.
        start: the first value.
        end: the last value.
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
    r"""Polynomial decay: :math:`\mathrm{end} + (\mathrm{start} - \mathrm{end}) (1 - x)^\mathrm{power}`.

    PyTorch: ``PolynomialLR(total_iters, power)``. Keras: ``PolynomialDecay``. optax: ``polynomial_schedule``.

    Args:
        steps: n.
        power: the exponent.
        start: the first value.
        end: the last value.
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
    """A schedule of t / every, rounded down to whole periods with ``staircase``."""

    every: float
    staircase: bool

    def _periods(self, t: Number, xp: Any) -> Number:
        return xp.floor(xp.turns(t, self.every)) if self.staircase else xp.divide(t, self.every)


@dataclass(frozen=True, repr=False)
class exponential(_Periods):  # noqa: N801
    r"""Exponential decay: :math:`\mathrm{rate}^{\,t / \mathrm{every}}`; with ``staircase``, the exponent is rounded down.

    PyTorch: ``ExponentialLR(gamma)`` is ``exponential(gamma)``. Keras and TensorFlow: ``ExponentialDecay(decay_steps,
    decay_rate, staircase)``. optax: ``exponential_decay(transition_steps, decay_rate)``.

    Args:
        rate: the factor of one period.
        every: the number of steps in a period.
        staircase: change the value only at the end of each period.
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
        rate: the decay rate.
        every: the number of steps in a period.
        staircase: change the value only at the end of each period.
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

    PyTorch: ``ExponentialLR(gamma=decay)``, for a decay of at most 1.

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
        factor: the factor of one period.
        every: the number of steps in a period.
    """

    factor: float
    every: float

    def __post_init__(self) -> None:
        check(self, above_zero="factor every")

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.power(self.factor, xp.floor(xp.turns(t, self.every)))


@dataclass(frozen=True, repr=False)
class multistep(Schedule):  # noqa: N801
    r"""``factor`` to the power of the number of milestones that have been reached.

    PyTorch: ``MultiStepLR(milestones, gamma)``.

    Args:
        milestones: increasing steps.
        factor: the factor of each milestone.
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
    r"""Piecewise constant: the first value before the first boundary, the second from there to the next, and so on.

    Keras: ``PiecewiseConstantDecay``, which changes one step after a boundary, not at it. optax:
    ``piecewise_constant_schedule``, which takes the ratios of successive values.

    Args:
        boundaries: increasing steps.
        values: one more than there are boundaries.
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
    r"""Cosine decay: :math:`\mathrm{end} + (1 - \mathrm{end}) \bigl((1 + \cos \pi x) / 2\bigr)^\mathrm{exponent}`.

    Loshchilov and Hutter, SGDR (2017), equation 5. PyTorch: ``CosineAnnealingLR(T_max, eta_min)``, whose learning rate rises
    again after T_max, and whose ``eta_min`` is ``end`` times the learning rate. Keras: ``CosineDecay(decay_steps, alpha)``.
    optax: ``cosine_decay_schedule(decay_steps, alpha, exponent)``.

    Args:
        steps: n.
        end: the last value.
        exponent: the exponent of the cosine term.
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
    r"""Cosine decay with warm restarts: period i takes :math:`\mathrm{period} \cdot \mathrm{multiplier}^i` steps.

    Its height is :math:`\mathrm{height}^i`. Loshchilov and Hutter, SGDR (2017). PyTorch:
    ``CosineAnnealingWarmRestarts(T_0, T_mult, eta_min)``. Keras: ``CosineDecayRestarts(first_decay_steps, t_mul, m_mul,
    alpha)``.

    Args:
        period: the number of steps in the first period.
        multiplier: the length of a period relative to the previous one.
        height: the first value of a period relative to that of the previous one.
        end: the value that each period decays to; at its last step, the next period starts.
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
            # The rounded logarithm may be on the wrong side of a restart, and is compared with the restarts. These are rounded
            # too, so a step that is less than a relative 1e-12 before a restart counts as at it. Everything is multiplied by
            # m - 1 to avoid a division.
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
    r"""One cycle: from ``start`` up to 1, then down to ``end`` (Smith and Topin, Super-Convergence, 2018).

    The peak is at step peak_at · n − 1 and the end at step n − 1. With ``three_phase``, the value first falls to ``start``, in
    as many steps as it rose, and then to ``end``.

    PyTorch: ``OneCycleLR(total_steps, pct_start, anneal_strategy, div_factor=1/start, three_phase)``, with
    final_div_factor = start / end. It raises after its end, and by default changes β1 too. optax:
    ``cosine_onecycle_schedule``, whose phases end at peak_at · n and at n.

    Args:
        steps: n.
        peak_at: the fraction of the steps before the peak.
        start: the first value.
        end: the last value.
        shape: ``"cosine"`` or ``"linear"``.
        three_phase: whether the value falls to ``start`` before it falls to ``end``.
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
    r"""From ``low`` up to 1 and down again, repeated (Smith, Cyclical Learning Rates, 2017).

    PyTorch: ``CyclicLR(base_lr, max_lr, step_size_up, step_size_down, mode, gamma)``, with low = base_lr / max_lr.

    Args:
        up: the number of steps up.
        down: the number of steps down; the same as ``up`` if None.
        low: the lowest value.
        mode: ``"triangular"``: the peak is always 1; ``"triangular2"``: the height above ``low`` halves each cycle;
            ``"exp_range"``: the height decays as gammaᵗ.
        gamma: the decay of ``"exp_range"``.
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
    r""":math:`\sqrt{n / \max(t, n)}`: 1 for n steps, then proportional to the inverse square root of the step.

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
    r"""Warmup, stable, decay: linear from 0 to 1, constant at 1, and down to ``end``.

    Zhai et al., Scaling Vision Transformers (2022); Hu et al., MiniCPM (2024); Hägele et al. (2024) for the decay by
    1 − √x. optax: ``join_schedules`` of three.

    Args:
        steps: the total number of steps.
        warmup: the number of steps of the warmup.
        decay: the number of steps of the decay.
        end: the last value.
        shape: the shape of the decay: ``"linear"``, ``"cosine"`` or ``"sqrt"`` (1 − √x).
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
    r"""From ``start`` up to 1: linear (:math:`\mathrm{start} + (1 - \mathrm{start}) x`), half a cosine, or exponential.

    The exponential shape is :math:`\mathrm{start}^{1 - x}`. PyTorch: ``LinearLR(start_factor=start, total_iters=n)``.
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
        r"""The warmup that follows from Adam's β2: :math:`\min(1, (t + 1)(1 - \beta_2) / 2)`, over 2/(1−β2) steps.

        Ma and Yarats, On the adequacy of untuned warmup for adaptive optimization (2021), equation 8.
        """
        if not 0 <= beta2 < 1:
            raise ValueError(f"warmup.untuned: beta2 must be from 0 up to but not including 1, got {beta2!r}")
        return warmup(round(2 / (1 - beta2))).shift(-1)


@dataclass(frozen=True, repr=False)
class from_function(Schedule):  # noqa: N801
    """Any function of the step. Its ``repr`` has the function's name, and it cannot be written as JSON.

    PyTorch: ``LambdaLR``.

    Args:
        function: takes a step as a float, or as an array if the schedule is called with an array; returns the same type.
        steps: the step after which the value is constant; None if it never is.
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
