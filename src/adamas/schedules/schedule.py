"""The base class of schedules, and the operations that combine them. Imports only NumPy.

A schedule is an immutable value: a function of the step in closed form that can be printed, compared, pickled and written as
JSON. Its formula is written once, over a namespace of array functions, and works for Python numbers, NumPy and JAX arrays.
"""

from __future__ import annotations

import math
import operator
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np

Number: TypeAlias = Any  # a float, or an array of the namespace in use

# Limits on nested schedules: Python recurses through them, and each costs time at every step.
DEEPEST, LARGEST = 150, 1000
LAST_STEP = MOST_TURNS = 2.0**126  # larger numbers are clipped to this one, which float32 can represent
_LARGEST_FLOAT = sys.float_info.max
_EXACT = 2**53  # larger integers become floats


class Scalars:
    """The array functions that the formulas use, for Python numbers: a hundred times as fast as NumPy's on a single number.

    Each runs in constant time, returns a float and raises nothing. (A power of two Python integers would be an exact integer
    of any length.)
    """

    cos, sqrt, log, log1p = math.cos, math.sqrt, math.log, math.log1p
    minimum, maximum = min, max

    @staticmethod
    def floor(t: float) -> float:
        """The largest whole number that is at most t."""
        return t // 1.0

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        """``yes`` if the condition holds, else ``no``."""
        return yes if condition else no

    @staticmethod
    def either(condition: bool, yes: Callable[[], float], no: Callable[[], float]) -> float:
        """Like ``where``, but evaluates only the branch that is needed, if possible."""
        return yes() if condition else no()

    @staticmethod
    def divide(t: float, by: float) -> float:
        """t / by, rounded correctly: a whole number if ``by`` divides t."""
        return t / by

    @staticmethod
    def turns(t: float, by: float) -> float:
        """Like ``divide``, but clipped to a finite number if ``by`` is so small that the quotient overflows."""
        turns = t / by
        return MOST_TURNS if turns > MOST_TURNS else turns

    @staticmethod
    def times(a: float, b: float) -> float:
        """a · b, but 0 if one is 0 and the other is infinite."""
        product = a * b
        return 0.0 if product != product and (a == 0 or b == 0) else product

    @staticmethod
    def power(base: float, exponent: float) -> float:
        """``base`` to the power of ``exponent``; infinite on overflow, as with arrays."""
        try:
            return float(float(base) ** exponent)
        except OverflowError:
            return math.inf

    @staticmethod
    def count(edges: tuple[float, ...], t: float) -> float:
        """The number of edges that are at most t."""
        return float(bisect_right(edges, t))

    @staticmethod
    def pick(values: tuple[float, ...], edges: tuple[float, ...], t: float) -> float:
        """The value of the interval that contains t; an edge belongs to the later interval."""
        return float(values[bisect_right(edges, t)])

    def observed(self, factor: Any) -> float:
        """The value of a factor that reacts to a metric. (In a compiled step it comes from a variable instead.)"""
        return float(factor.value)


class Arrays:
    """The same functions for arrays of a namespace: NumPy, ``jax.numpy``, or another of the array API standard."""

    def __init__(self, xp: Any) -> None:
        self.where, self.cos, self.floor, self.sqrt = xp.where, xp.cos, xp.floor, xp.sqrt
        self.log, self.log1p, self.minimum, self.maximum = xp.log, xp.log1p, xp.minimum, xp.maximum

    def observed(self, factor: Any) -> Number:
        """See ``Scalars.observed``."""
        return float(factor.value)

    def either(self, condition: Number, yes: Callable[[], Number], no: Callable[[], Number]) -> Number:
        """See ``Scalars.either``."""
        return self.where(condition, yes(), no())

    @staticmethod
    def divide(t: Number, by: float) -> Number:
        """See ``Scalars.divide``. JAX multiplies instead of dividing by a constant: 55 · (1 / 55) is 0.99999994 in float32."""
        return t / (by + 0.0 * t)

    def turns(self, t: Number, by: float) -> Number:
        """See ``Scalars.turns``."""
        return self.minimum(self.divide(t, by), MOST_TURNS)

    def times(self, a: Number, b: Number) -> Number:
        """See ``Scalars.times``."""
        return self.where(a == 0, 0.0, self.where(b == 0, 0.0, a * b))

    @staticmethod
    def power(base: Number, exponent: Number) -> Number:
        """See ``Scalars.power``."""
        return float(base) ** exponent if isinstance(base, int) else base**exponent

    def count(self, edges: tuple[float, ...], t: Number) -> Number:
        """See ``Scalars.count``."""
        return self.pick(tuple(map(float, range(len(edges) + 1))), edges, t)

    def pick(self, values: tuple[float, ...], edges: tuple[float, ...], t: Number) -> Number:
        """See ``Scalars.pick``."""
        result = 0.0 * t + float(values[0])
        for edge, value in zip(edges, values[1:], strict=True):
            result = self.where(t >= edge, float(value), result)
        return result


class Traced(Arrays):
    """The same functions where the factors that react to a metric are arrays too.

    Args:
        xp: the namespace.
        factors: these factors, each with its value.
    """

    def __init__(self, xp: Any, factors: Sequence[tuple[Any, Number]]) -> None:
        super().__init__(xp)
        self._factors = factors

    def observed(self, factor: Any) -> Number:
        """See ``Scalars.observed``."""
        return next(value for part, value in self._factors if part is factor)


_SCALARS, _arrays = Scalars(), cache(Arrays)
_NUMBERS = (int, float, np.integer, np.floating)


class Schedule(ABC):
    """A function from the step to a number.

    Call it with a step (an int or float, or a NumPy or JAX array of steps) to get the value. Steps count from 0: step t is the
    one after t steps. A schedule can be evaluated at any step, in any order. Before step 0 it has its first value, and after
    its end it keeps its last value.

    Schedules are combined by ``then``, ``*``, ``clip``, ``shift``, ``per_epoch`` and ``repeat``, nested up to 150 levels and
    1000 schedules. A schedule alone is a factor; multiplied by a number it is a learning rate.

    The time to evaluate a schedule does not depend on the step. A value that overflows is infinite.
    """

    _depth = _size = 1  # levels of nesting, and the number of schedules that this one is made of
    _name: ClassVar[str]
    _registry: ClassVar[dict[str, type[Schedule]]] = {}
    __array_ufunc__ = None  # so that a NumPy number times a schedule is a schedule

    # The keyword is not "name": in Python 3.10 the metaclass has a parameter of that name.
    def __init_subclass__(cls, kind: str | None = None) -> None:
        cls._name = cls.__name__.lower() if kind is None else kind
        Schedule._registry[cls._name] = cls

    @abstractmethod
    def _at(self, t: Number, xp: Any) -> Number:
        """The value at ``t`` ≥ 0, computed with the functions of ``xp``."""

    def _length(self) -> float | None:
        return None

    def _endless(self) -> Schedule | None:
        """The part without a length that the schedule ends with; None if there is a step for another one to begin at."""
        return None if self.length else self

    def _unit(self) -> float:
        return 1.0

    @cached_property
    def length(self) -> float | None:
        """The number of steps after which the value is constant; None if it never is."""
        found = self._length()
        return None if found is None else min(found, _LARGEST_FLOAT)

    @property
    def unit(self) -> float:
        """The number that the factor is multiplied by, or 1 without one; in a sequence of rates, the largest."""
        return self._unit()

    @property
    def is_rate(self) -> bool:
        """Whether the schedule is multiplied by a number."""
        return any(isinstance(part, Scaled) for part in self.parts())

    def __call__(self, step: Any) -> Any:
        """The value at a step: a float for a number, an array of floats for an array."""
        if isinstance(step, _NUMBERS):
            try:
                t = float(step)
            except OverflowError:  # an int beyond all floats
                t = math.inf if step > 0 else 0.0
            return self._at(0.0 if t < 0.0 else LAST_STEP if t > LAST_STEP else t, _SCALARS)
        if isinstance(step, np.ndarray | np.generic):
            steps = np.clip(np.asarray(step, np.float64), 0.0, LAST_STEP)
            with np.errstate(all="ignore"):
                return self._at(steps, _arrays(np)) + 0.0 * steps
        namespace = getattr(step, "__array_namespace__", None)
        if namespace is None:
            raise TypeError(f"a schedule takes a number, a NumPy or a JAX array of steps, not {type(step).__name__}")
        return self.over(step, _arrays(namespace()))

    def over(self, step: Number, functions: Arrays) -> Number:
        """The values at an array of steps, computed with the functions of its namespace."""
        steps = functions.minimum(functions.maximum(step * 1.0, 0.0), LAST_STEP)
        return self._at(steps, functions) + 0.0 * steps

    # ---- combining

    def then(self, other: Schedule, at: float | None = None) -> Schedule:
        """This schedule for its length, or until step ``at``, and then the other one from its start.

        Raises:
            ValueError: this schedule, or the part that it ends with, has no length (it has no end, or is constant), and
                ``at`` was not given.
        """
        return Then(self, other, at)

    def __mul__(self, other: Any) -> Schedule:
        """The product with a number (which makes it a learning rate) or with another schedule."""
        if isinstance(other, Schedule):
            return Product(self, other)
        if isinstance(other, int | float):
            return Scaled(other, self)
        return Scaled(float(other), self) if isinstance(other, np.number) else NotImplemented

    __rmul__ = __mul__

    def clip(self, low: float | None = None, high: float | None = None) -> Schedule:
        """The schedule limited to the range from ``low`` to ``high``."""
        return Clip(self, low, high)

    def shift(self, steps: float) -> Schedule:
        """The schedule delayed by ``steps``, with its first value until then; a negative number skips the first steps."""
        return Shift(self, steps)

    def per_epoch(self, steps: float, smooth: bool = False) -> Schedule:
        """The schedule as a function of the epoch; ``steps`` is the number of steps in an epoch.

        The value changes once an epoch, as with a PyTorch scheduler that is stepped once an epoch; with ``smooth``, it changes
        at every step.
        """
        return Per_Epoch(self, steps, smooth)

    def repeat(self, times: float | None = None) -> Schedule:
        """The schedule repeated from its start, forever or ``times`` times.

        Raises:
            ValueError: the schedule, or the part that it ends with, has no end.
        """
        return Repeat(self, times)

    # ---- as a value

    def _arguments(self) -> Iterator[tuple[str, Any, bool]]:
        """Name and value of each argument, and whether it is required."""
        for field in fields(self):  # type: ignore[arg-type]
            value, needed = getattr(self, field.name), field.default is MISSING
            if needed or value != field.default:
                yield field.name, value, needed

    def _words(self, skip: int = 0) -> str:
        """The arguments as source text, without the first ``skip``."""
        given = list(self._arguments())[skip:]
        return ", ".join(_written(value) if needed else f"{name}={_written(value)}" for name, value, needed in given)

    def __repr__(self) -> str:
        return f"{self._name}({self._words()})"

    def to_json(self) -> dict[str, Any]:
        """The schedule as plain JSON values, which ``from_json`` reads.

        Raises:
            TypeError: the schedule contains a Python function.
        """
        return {"kind": self._name, **{name: _plain(value) for name, value, _ in self._arguments()}}

    def parts(self) -> Iterator[Schedule]:
        """The schedule and all schedules that it is made of."""
        yield self
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Schedule):
                yield from value.parts()


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if callable(value) and not isinstance(value, Schedule):
        return getattr(value, "__name__", repr(value))
    return repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is a Python function and cannot be written as JSON: write the schedule as a formula")


def from_json(value: dict[str, Any]) -> Schedule:
    """The schedule that ``Schedule.to_json`` wrote.

    Raises:
        ValueError: the value is not a schedule.
    """
    kinds = {kind: cls for kind, cls in Schedule._registry.items() if is_dataclass(cls)}  # the rest are base classes
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"not a schedule: {value!r} (a dict whose 'kind' is one of {sorted(kinds)})")
    try:
        arguments: dict[str, Any] = {
            name: from_json(item) if isinstance(item, dict) else item for name, item in value.items() if name != "kind"
        }
        return kinds[kind](**arguments)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a schedule: {error}") from error


def refuse(schedule: Schedule, name: str, needs: str) -> ValueError:
    """The error for an argument with an invalid value."""
    return ValueError(f"{schedule._name}: {name} must be {needs}, got {getattr(schedule, name)!r}")


def _number(value: Any) -> float | None:
    """The value as a finite Python number, or None. Integers that float64 cannot represent exactly become floats."""
    value = value.item() if isinstance(value, np.number) else value
    try:
        if type(value) not in (int, float) or not math.isfinite(value):
            return None
    except OverflowError:  # an int beyond all floats
        return None
    return value if abs(value) <= _EXACT else float(value)


def check(
    schedule: Schedule,
    *,
    above_zero: str = "",
    finite: str = "",
    flags: str = "",
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Check that the named arguments are numbers above 0, finite numbers, True or False, or among the choices.

    NumPy numbers are converted to Python numbers, so that equal schedules have the same ``repr`` and JSON.

    Raises:
        ValueError: an argument is not.
    """
    for name in above_zero.split() + finite.split():
        value = _number(getattr(schedule, name))
        if value is None:
            raise refuse(schedule, name, "a finite number")
        object.__setattr__(schedule, name, value)
    for name in above_zero.split():
        if not getattr(schedule, name) > 0:
            raise refuse(schedule, name, "above 0")
    for name in flags.split():
        if not isinstance(getattr(schedule, name), bool):
            raise refuse(schedule, name, "True or False")
    for name, allowed in (choices or {}).items():
        if getattr(schedule, name) not in allowed:
            raise refuse(schedule, name, f"one of {', '.join(map(repr, allowed))}")


def check_distance(schedule: Schedule, name: str, other: str) -> None:
    """Raise ValueError unless the difference of the two numbers is finite."""
    start = getattr(schedule, other)
    if not math.isfinite(float(getattr(schedule, name)) - float(start)):
        raise refuse(schedule, name, f"less than {_LARGEST_FLOAT:.2g} away from {other}={start!r}")


def numbers(schedule: Schedule, name: str, *, rising: bool = False) -> None:
    """Make the named argument a tuple; raise ValueError unless it holds finite and, with ``rising``, increasing numbers."""
    value = getattr(schedule, name)
    items = [_number(item) for item in value] if isinstance(value, tuple | list | np.ndarray) else [None]
    found = tuple(item for item in items if item is not None)
    if len(found) < len(items):
        raise refuse(schedule, name, "a list of finite numbers")
    if rising and any(map(operator.ge, found, found[1:])):
        raise refuse(schedule, name, "a list of rising numbers")
    object.__setattr__(schedule, name, found)


def _group(schedule: Schedule) -> str:
    """The ``repr`` of a schedule, in parentheses if a method call or a multiplication could not follow it otherwise."""
    return f"({schedule!r})" if isinstance(schedule, Scaled | Product) else repr(schedule)


class _Method(Schedule):
    """A schedule whose ``repr`` is a method call on another schedule."""

    def __repr__(self) -> str:
        (_, inner, _), *_ = self._arguments()
        return f"{_group(inner)}.{self._name}({self._words(skip=1)})"


def _is_schedule(schedule: Schedule, *names: str) -> None:
    """Raise ValueError unless the named arguments are schedules that are not too large to be combined."""
    depth, size = 0, 1
    for name in names:
        part = getattr(schedule, name)
        if not isinstance(part, Schedule):
            raise refuse(schedule, name, "a schedule")
        depth, size = max(depth, part._depth), size + part._size
    if depth >= DEEPEST:
        raise ValueError(
            f"{schedule._name}: schedules must be nested at most {DEEPEST} deep: use piecewise for many values, and join the "
            "halves of a long chain: a.then(b).then(c.then(d))"
        )
    if size > LARGEST:
        raise ValueError(f"{schedule._name}: a schedule can combine at most {LARGEST} others, not {size}")
    object.__setattr__(schedule, "_depth", depth + 1)
    object.__setattr__(schedule, "_size", size)


@dataclass(frozen=True, repr=False)
class Scaled(Schedule):
    """A number times a schedule: a learning rate."""

    number: float
    schedule: Schedule

    def __post_init__(self) -> None:
        check(self, finite="number")
        _is_schedule(self, "schedule")

    def _length(self) -> float | None:
        return self.schedule.length

    def _endless(self) -> Schedule | None:
        return super()._endless() or self.schedule._endless()

    def _unit(self) -> float:
        return self.number * self.schedule.unit

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.times(self.number, self.schedule._at(t, xp))

    def __repr__(self) -> str:
        return f"{self.number!r} * {_group(self.schedule)}"


@dataclass(frozen=True, repr=False)
class Product(Schedule):
    """One schedule times another."""

    first: Schedule
    second: Schedule

    def __post_init__(self) -> None:
        _is_schedule(self, "first", "second")

    def _length(self) -> float | None:
        one, other = self.first.length, self.second.length
        return None if one is None or other is None else max(one, other)

    def _endless(self) -> Schedule | None:
        # The longer one decides, so a constant or Plateau() times a schedule that ends is not endless.
        longer = [part for part in (self.first, self.second) if part.length == self.length]
        found = [part._endless() for part in longer]
        return super()._endless() or (found[0] if all(found) else None)

    def _unit(self) -> float:
        return self.first.unit * self.second.unit

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.times(self.first._at(t, xp), self.second._at(t, xp))

    def __repr__(self) -> str:
        return f"{self.first!r} * {_group(self.second)}"


@dataclass(frozen=True, repr=False)
class Then(_Method):
    """One schedule after the other; see ``Schedule.then``."""

    first: Schedule
    second: Schedule
    at: float | None = None

    def __post_init__(self) -> None:
        _is_schedule(self, "first", "second")
        if self.at is not None:
            check(self, finite="at")
            if self.at < 0:
                raise refuse(self, "at", "0 or above")
        elif part := self.first._endless():
            raise ValueError(f"then: {part!r} has no length: give the step at which the next one begins (at=)")

    @property
    def _boundary(self) -> float:
        return self.first.length if self.at is None else self.at  # type: ignore[return-value]

    def _length(self) -> float | None:
        return None if self.second.length is None else self._boundary + self.second.length

    def _endless(self) -> Schedule | None:
        return super()._endless() or self.second._endless()

    def _unit(self) -> float:
        return max(self.first.unit, self.second.unit)

    def _at(self, t: Number, xp: Any) -> Number:
        at = self._boundary
        return xp.either(t < at, lambda: self.first._at(t, xp), lambda: self.second._at(xp.maximum(t - at, 0.0), xp))


class _Changed(_Method):
    """A schedule that modifies one other schedule."""

    schedule: Schedule

    def _length(self) -> float | None:
        return self.schedule.length

    def _endless(self) -> Schedule | None:
        return super()._endless() or self.schedule._endless()

    def _unit(self) -> float:
        return self.schedule.unit


@dataclass(frozen=True, repr=False)
class Clip(_Changed):
    """See ``Schedule.clip``."""

    schedule: Schedule
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _is_schedule(self, "schedule")
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                check(self, finite=name)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise refuse(self, "low", f"at most high={self.high!r}")

    def _at(self, t: Number, xp: Any) -> Number:
        value = self.schedule._at(t, xp)
        if self.low is not None:
            value = xp.maximum(value, float(self.low))
        return value if self.high is None else xp.minimum(value, float(self.high))


@dataclass(frozen=True, repr=False)
class Shift(_Changed):
    """See ``Schedule.shift``."""

    schedule: Schedule
    steps: float

    def __post_init__(self) -> None:
        _is_schedule(self, "schedule")
        check(self, finite="steps")

    def _length(self) -> float | None:
        inner = self.schedule.length
        return None if inner is None else max(inner + self.steps, 0)

    def _at(self, t: Number, xp: Any) -> Number:
        return self.schedule._at(xp.maximum(t - self.steps, 0.0), xp)


@dataclass(frozen=True, repr=False)
class Per_Epoch(_Changed):  # noqa: N801 - its name is the method's
    """See ``Schedule.per_epoch``."""

    schedule: Schedule
    steps: float
    smooth: bool = False

    def __post_init__(self) -> None:
        _is_schedule(self, "schedule")
        check(self, above_zero="steps", flags="smooth")

    def _length(self) -> float | None:
        inner = self.schedule.length
        return None if inner is None else (inner if self.smooth else math.ceil(inner)) * self.steps

    def _at(self, t: Number, xp: Any) -> Number:
        epoch = xp.turns(t, self.steps)
        return self.schedule._at(epoch if self.smooth else xp.floor(epoch), xp)


@dataclass(frozen=True, repr=False)
class Repeat(_Changed):
    """See ``Schedule.repeat``."""

    schedule: Schedule
    times: float | None = None

    def __post_init__(self) -> None:
        _is_schedule(self, "schedule")
        if self.times is not None:
            check(self, above_zero="times")
        if part := self.schedule._endless():
            raise ValueError(f"repeat: {part!r} has no end, so it cannot be repeated")

    def _length(self) -> float | None:
        return None if self.times is None else self.times * self.schedule.length  # type: ignore[operator]

    def _at(self, t: Number, xp: Any) -> Number:
        period = self.schedule.length
        inside = xp.minimum(t - xp.floor(xp.turns(t, period)) * period, period)
        if self.times is not None:
            last = (self.times - math.ceil(self.times) + 1) * period  # type: ignore[operator]
            inside = xp.where(t >= self.length, last, inside)
        return self.schedule._at(xp.maximum(inside, 0.0), xp)
