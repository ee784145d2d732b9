"""Factors that react to a metric: reduced when it stops improving, or set by a user's function. Imports no framework.

They are schedules, so they can be multiplied by any other schedule. They have the same value at every step, and only
``observe`` changes it. The observations are state: the optimizers save them in their state dict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from .schedule import Number, Schedule, check, refuse


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


# The state of an observed factor: for each name, a function that checks the value.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "value": lambda value: _is_finite(value) and value >= 0,
    "observations": _is_count,
    "ignored": _is_count,
    "history": _is_list(lambda words: isinstance(words, str)),
    "best": lambda value: value is None or _is_finite(value),
    "best_at": _is_count,
    "since": _is_list(_is_finite),
    "rest": _is_count,
    "metrics": _is_list(lambda metrics: isinstance(metrics, dict) and all(map(_is_finite, metrics.values()))),
}


class Observed(Schedule):
    """A factor that changes when a metric is observed.

    Attributes:
        history: one line for each change of the factor, with the reason.
        ignored: the number of observations that were not finite and therefore not counted.
    """

    _state: dict[str, Any]

    _listeners: WeakSet[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_state", {"value": 1.0, "observations": 0, "ignored": 0, "history": []})
        object.__setattr__(self, "_listeners", WeakSet())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_listeners"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _listeners=WeakSet())

    def tell(self, listener: Any) -> None:
        """Call ``listener.on_observation()`` after each observation, as long as the listener exists."""
        self._listeners.add(listener)

    def _length(self) -> float | None:
        return 0.0

    def _at(self, t: Number, xp: Any) -> Number:
        return xp.observed(self)

    @property
    def value(self) -> float:
        """The current factor."""
        return float(self._state["value"])

    @property
    def history(self) -> tuple[str, ...]:
        """One line for each change of the factor, with the reason."""
        return tuple(self._state["history"])

    @property
    def ignored(self) -> int:
        """The number of observations that were not finite and therefore not counted."""
        return int(self._state["ignored"])

    def _change(self, value: float, why: str) -> None:
        words = f"observation {self._state['observations']}: {self.value:g} → {value:g}, {why}"
        self._state["history"].append(words)
        self._state["value"] = value

    def _announce(self) -> None:
        for listener in tuple(self._listeners):
            listener.on_observation()

    def state_dict(self) -> dict[str, Any]:
        """The observations, as plain numbers, strings and lists."""
        return {name: list(value) if isinstance(value, list) else value for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that ``state_dict`` returned.

        Raises:
            ValueError: the state is not that of a factor of this type.
        """
        if state.keys() != self._state.keys():
            raise ValueError(f"not the state of a {type(self).__name__}: it has {sorted(map(str, state))}")
        for name, value in state.items():
            if not _KINDS[name](value):
                raise ValueError(f"not the state of a {type(self).__name__}: {name!r} is {value!r}")
        self._state.update({name: list(value) if isinstance(value, list) else value for name, value in state.items()})
        self._announce()


@dataclass(frozen=True, repr=False)
class Plateau(Observed, kind="Plateau"):
    """A factor that is reduced when a metric stops improving.

        >>> from adamas.schedules import Plateau, warmup
        >>> plateau = Plateau(factor=0.5, patience=2)
        >>> lr = 3e-4 * warmup(500) * plateau
        >>> [plateau.observe(loss) for loss in (1.0, 0.9, 0.9, float("nan"), 0.9, 0.9)]
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
        >>> print(*plateau.history)
        observation 5: 1 → 0.5, 3 observations in a row did not improve on 0.9 (observation 2)

    A metric improves if it is below the best value so far (above it, with ``mode="max"``) by at least ``threshold`` times the
    magnitude of that value. A loss that recovers from a spike counts as improving too, even if it has not reached its best
    value again: the factor is not reduced as long as all of the later half of the last ``patience + 1`` observations are
    better than all of the earlier half. NaN and infinity are counted in ``ignored`` and have no other effect.

    PyTorch: ``ReduceLROnPlateau``, which cannot be combined with other schedules. Keras: the callback of the same name. optax:
    ``contrib.reduce_on_plateau``.

    Args:
        factor: the factor of each reduction, above 0 and below 1.
        patience: the number of observations without improvement that are tolerated; the next one reduces the factor.
        threshold: the smallest improvement that counts, relative to the best value.
        cooldown: the number of observations after a reduction that are not counted.
        min_factor: the lower limit of the factor, below 1.
        mode: ``"min"`` if a lower metric is better, ``"max"`` if a higher one is.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_factor: float = 0.0
    mode: str = "min"

    def __post_init__(self) -> None:
        names = "patience threshold cooldown min_factor"
        check(self, above_zero="factor", finite=names, choices={"mode": ("min", "max")})
        for name in ("factor", "min_factor"):
            if getattr(self, name) >= 1:
                raise refuse(self, name, "below 1")
        for name in names.split():
            if getattr(self, name) < 0:
                raise refuse(self, name, "0 or above")
        for name in ("patience", "cooldown"):
            if not isinstance(getattr(self, name), int):
                raise refuse(self, name, "a whole number")
        super().__post_init__()
        self._state.update(best=None, best_at=0, since=[], rest=0)

    def observe(self, metric: float) -> float:
        """Record the metric and return the new factor.

        Args:
            metric: a number, or anything that ``float`` converts (such as a tensor of one element).
        """
        metric = float(metric)
        if math.isfinite(metric):
            self._count(metric)
        else:
            self._state["ignored"] += 1
        self._announce()
        return self.value

    def _count(self, metric: float) -> None:
        state = self._state
        state["observations"] += 1
        x = metric if self.mode == "min" else -metric
        since: list[float] = state["since"]
        if state["best"] is None or self._better(x, state["best"]):
            state["best"], state["best_at"] = x, state["observations"]
            since.clear()
        elif state["rest"]:
            since.clear()
        else:
            since.append(x)
        state["rest"] = max(state["rest"] - 1, 0)
        if len(since) > self.patience and not self._recovers(since):
            self._cut()
        del since[: -self.patience or len(since)]

    def _cut(self) -> None:
        state = self._state
        lower = max(self.value * self.factor, self.min_factor)
        if lower < self.value:
            best = state["best"] if self.mode == "min" else -state["best"]
            count = state["observations"] - state["best_at"]  # more than patience + 1 after a recovery, a cut or a rest
            counted = "1 observation" if count == 1 else f"{count} observations in a row"
            why = f"{counted} did not improve on {best:g} (observation {state['best_at']})"
            self._change(lower, why)
        state["since"].clear()
        state["rest"] = self.cooldown

    def _recovers(self, since: list[float]) -> bool:
        half = len(since) // 2
        return half > 0 and self._better(max(since[half:]), min(since[:half]))

    def _better(self, x: float, than: float) -> bool:
        return x < than - self.threshold * abs(than)


@dataclass(frozen=True, repr=False)
class Feedback(Observed, kind="Feedback"):
    """A factor that a user's function computes from the metrics.

        >>> from adamas.schedules import Feedback, constant
        >>> def rule(metrics, factor):  # halve it once validation is worse than training by half
        ...     last = metrics[-1]
        ...     return factor / 2 if last["test"] > 1.5 * last["train"] else factor
        >>> feedback = Feedback(rule)
        >>> feedback.observe(train=1.0, test=1.1), feedback.observe(train=0.5, test=1.0)
        (1.0, 0.5)

    The rule is code and is not saved: a resumed run calls the rule given at construction with the saved observations.

    Args:
        rule: a function of the observations so far (a list of dicts, the newest last) and the current factor. It returns the
            new factor, a nonnegative number, or a tuple of the factor and the reason.
        memory: the number of observations that are kept.
    """

    rule: Callable[[list[dict[str, float]], float], float | tuple[float, str]]
    memory: int = 100

    def __post_init__(self) -> None:
        check(self, above_zero="memory")
        if not isinstance(self.memory, int):
            raise refuse(self, "memory", "a whole number")
        if not callable(self.rule):
            raise refuse(self, "rule", "callable")
        super().__post_init__()
        self._state.update(metrics=[])

    def parts(self) -> Iterator[Schedule]:
        """See ``Schedule.parts``."""
        yield self

    def observe(self, **metrics: float) -> float:
        """Record the metrics, given by name, call the rule, and return the new factor.

        Raises:
            ValueError: the rule returned a value that is not a valid factor.
        """
        values = {name: float(value) for name, value in metrics.items()}
        try:
            if all(map(math.isfinite, values.values())):
                self._count(values)
            else:
                self._state["ignored"] += 1
        finally:  # the observation counts even if the value of the rule is refused
            self._announce()
        return self.value

    def _count(self, values: dict[str, float]) -> None:
        state = self._state
        state["observations"] += 1
        state["metrics"].append(values)
        del state["metrics"][: -self.memory]
        answer = self.rule(list(state["metrics"]), self.value)
        value, why = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "by the rule")
        try:
            is_factor = bool(0 <= value < math.inf)
        except (TypeError, ValueError, RuntimeError):  # the last two: an array or a tensor of several elements
            is_factor = False
        if not is_factor:
            words = " ".join(repr(value).split())
            raise ValueError(f"Feedback: the rule must return a nonnegative number, not {words}")
        if value != self.value:
            self._change(float(value), why)
