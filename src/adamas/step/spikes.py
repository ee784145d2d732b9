"""``on_spike=``: steps whose loss, gradient or update is far larger than usual are skipped or shortened."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..rule.hyperparameters import shown
from .clipping import MULTIPLE
from .record import Change, Tensor

MEASURES = ("loss", "grad_norm", "update_norm", "exact")
_UNCOUNTED = 2**53  # from here on, float64 cannot count another step
SPIKES = "spikes"  # where the first saved group has what is remembered
_WORDS = (
    'None, "skip" or "clip", and after it, separated by commas, "of=grad_norm" (or loss, update_norm, exact; several are '
    'joined by +), "sigma=6" or "quantile=0.99", and "last=128"'
)


class Options(NamedTuple):
    """What ``on_spike=`` says.

    Attributes:
        action: what is done in a spike.
        of: what is measured, names of ``MEASURES``.
        sigma: how many standard deviations above the mean of the last values a spike begins. 6 is that of OLMo-core.
        quantile: if given, a spike begins at 1.5 times this quantile of the last values instead.
        last: the number of values that are remembered. Half of them have to be known before anything is a spike.
    """

    action: Literal["skip", "clip"]
    of: tuple[str, ...] = ("grad_norm",)
    sigma: float = 6.0
    quantile: float | None = None
    last: int = 128

    @property
    def shortens_updates(self) -> bool:
        """Whether the update of a spike is shortened, rather than its gradient."""
        return self.action == "clip" and not {"update_norm", "exact"}.isdisjoint(self.of)


def options_of(on_spike: Any) -> Options | None:
    """The options in an argument ``on_spike``; None if nothing is done.

    Raises:
        TypeError: it is not text.
        ValueError: the text says something else than it can.
    """
    if on_spike is None or isinstance(on_spike, Options):
        return on_spike
    if not isinstance(on_spike, str):
        raise TypeError(f"on_spike must be {_WORDS}, not {shown(on_spike)}")
    action, *parts = (part.strip() for part in on_spike.split(","))
    if action not in ("skip", "clip"):
        raise ValueError(f"on_spike={on_spike!r} begins with {action!r}; on_spike must be {_WORDS}")
    found: dict[str, Any] = {}
    for part in parts:
        name, _, text = (word.strip() for word in part.partition("="))
        value = _value(name, text)
        if value is None or name in found:
            problem = f"has {name} twice" if name in found else f"has {part!r}, which is not known here"
            raise ValueError(f"on_spike={on_spike!r} {problem}; on_spike must be {_WORDS}")
        found[name] = value
    if {"sigma", "quantile"} <= found.keys():
        raise ValueError(f"on_spike={on_spike!r} has sigma and quantile, which exclude each other: give one of them")
    options = Options("skip" if action == "skip" else "clip", **found)
    if options.action == "clip" and "loss" in options.of:
        raise ValueError(
            f'on_spike={on_spike!r}: a loss cannot be clipped; use "skip", or "clip" with of=grad_norm, update_norm or exact'
        )
    if options.quantile is not None and "loss" in options.of:
        raise ValueError(
            f"on_spike={on_spike!r}: a multiple of a quantile says nothing of losses, which may be negative; use sigma"
        )
    return options


def _value(name: str, text: str) -> Any:
    """The value of an option; None if it cannot have that."""
    if name == "of":
        of = tuple(word.strip() for word in text.split("+"))
        return of if {*of} <= {*MEASURES} and len({*of}) == len(of) else None
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        return None
    number = float(text)
    if name == "sigma":
        return number if number > 0 else None
    if name == "quantile":
        return number if 0 < number < 1 else None
    return int(number) if name == "last" and number == int(number) and 2 <= number <= 1_000_000 else None


class Spike(NamedTuple):
    """What is decided about a step. Numbers may be tensors on the device.

    Attributes:
        is_spike: whether a measure is far above its usual values.
        gradient: the factor by which the gradient is shortened, so that its norm is at the limit.
        rate: the same for the update.
        values: what is remembered of the measures after the step.
        counts: how many values of each are.
    """

    is_spike: Any
    gradient: Any
    rate: Any
    values: Tensor
    counts: Tensor


class Spikes:
    """Decides which steps are spikes, by the last values of each measure.

    The state is in arrays of the host or tensors of a device, which are written in place.

    Args:
        options: what ``on_spike=`` says.
        f: ``adamas.step.watching.Host``, or the functions of the device.

    Attributes:
        options: the argument ``options``.
        update_norm: the norm of the last update over all tensors; 0 before the first, and after a step that was left out.
    """

    def __init__(self, options: Options, f: Any) -> None:
        self.options, self.f = options, f
        self._values = f.uploaded(np.full((len(options.of), options.last), np.inf))
        self._counts = f.uploaded(np.zeros(len(options.of)))
        self._number = f.uploaded(np.zeros(()))
        self.update_norm = f.uploaded(np.zeros(()))
        self._positions = f.uploaded(np.arange(options.last, dtype=np.float64))

    @property
    def number(self) -> int:
        """The number of steps that were skipped or shortened. On a device, the host waits for it."""
        return int(self._number)

    @property
    def nbytes(self) -> int:
        """The bytes of its state."""
        kept = (self._values, self._counts, self._number, self.update_norm, self._positions)
        return sum(int(x.nbytes) for x in kept)

    def limits(self) -> Tensor:
        """For each measure, the value at which a spike begins; infinite while fewer than half of ``last`` are known."""
        f, options = self.f, self.options
        is_known = self._positions < self._counts[:, None]
        count = f.maximum(f.minimum(self._counts, float(options.last)), 1.0)[:, None]
        if options.quantile is not None:
            at = self._positions == f.ceil(options.quantile * count) - 1
            limit = MULTIPLE * f.where(at, f.sorted(self._values), 0.0).sum(1)
        else:
            known = f.where(is_known, self._values, 0.0)
            mean = known.sum(1) / count[:, 0]
            distance = f.where(is_known, known - mean[:, None], 0.0)
            limit = mean + options.sigma * f.sqrt((distance * distance).sum(1) / count[:, 0])
        return f.where(self._counts < options.last // 2, math.inf, limit)

    def decide(self, values: Mapping[str, Any], before: Spike | None = None) -> Spike:
        """Decides about a step, given the values of some measures, and what was decided ``before`` by others.

        A value that is not finite is a spike if spikes are skipped; it cannot be clipped to a limit. It is not remembered,
        nor is a norm of 0, which says nothing of what is usual. Of others what is remembered is at most the limit, so that a
        lasting change raises the limit slowly.
        """
        f, of = self.f, self.options.of
        limits, zero = self.limits(), f.number(0.0)
        if before is None:
            before = Spike(zero > 0, f.number(1.0), f.number(1.0), self._values, self._counts)
        is_spike, gradient, rate = before[:3]
        rows, counts = list(before.values), list(before.counts)
        for i, name in enumerate(of):
            if name not in values:
                continue
            value = f.number(values[name])
            is_finite = f.isfinite(value)
            is_over = ~((value <= limits[i]) & is_finite)
            is_shortened = is_over & is_finite & (not self.skips)
            is_spike = is_spike | (is_over if self.skips else is_shortened)
            factor = f.where(is_shortened, limits[i], 1.0) / f.where(is_shortened, value, 1.0)
            if name == "grad_norm":
                gradient = gradient * factor
            else:
                rate = rate * factor
            is_usual = is_finite if name == "loss" else is_finite & (value > 0)
            is_next = (self._positions == self._counts[i] % self.options.last) & is_usual
            rows[i] = f.where(is_next, f.minimum(value, limits[i]), rows[i])
            counts[i] = counts[i] + f.where(is_usual, 1.0, 0.0)
        return Spike(is_spike, gradient, rate, f.stack(rows), f.stack(counts))

    def changes(self, spike: Spike, runs: Any = None) -> list[Change]:
        """The changes after a step that the host has decided about. ``runs``: see ``count``."""
        new = self._after(spike, runs)
        return [(vars(self), name, value) for name, value in new.items()]

    def count(self, spike: Spike, runs: Any = None) -> None:
        """Remembers a step, on the device.

        Args:
            spike: what was decided about it.
            runs: whether it would have been made otherwise; None if in any case. A step that was left out for another reason
                says nothing.
        """
        for name, value in self._after(spike, runs).items():
            getattr(self, name).copy_(value)

    def _after(self, spike: Spike, runs: Any) -> dict[str, Tensor]:
        f = self.f
        number = self._number + f.where(spike.is_spike, 1.0, 0.0)
        new = {"_values": spike.values, "_counts": spike.counts, "_number": number}
        return new if runs is None else {name: f.where(runs, x, getattr(self, name)) for name, x in new.items()}

    @property
    def skips(self) -> bool:
        """Whether spikes are skipped."""
        return self.options.action == "skip"

    # ---- saving and loading

    def saved(self) -> str:
        """Its state as text."""
        values, counts = map(self.f.downloaded, (self._values, self._counts))
        rows = zip(self.options.of, values, map(int, counts), strict=True)
        # In the circle, so that sums are the same.
        state = {name: [count, *row[:count].tolist()] for name, row, count in rows}
        return json.dumps({"number": self.number, "update_norm": float(self.update_norm), "values": state})

    def load(self, kept: Mapping[str, Any]) -> None:
        """Takes over what ``parsed`` has read; measures that were not taken begin anew."""
        f, last = self.f, self.options.last
        values, counts = np.full((len(self.options.of), last), np.inf), np.zeros(len(self.options.of))
        for i, name in enumerate(self.options.of):
            count, *known = kept["values"].get(name, [0])
            if len(known) > last or (len(known) < last and count > len(known)):
                known = _in_order(known, count)[-last:]
                count = len(known)
            values[i, : len(known)], counts[i] = known, count
        self._values, self._counts = f.uploaded(values), f.uploaded(counts)
        self._number = f.uploaded(np.array(float(kept["number"])))
        self.update_norm = f.uploaded(np.array(float(kept["update_norm"])))


def _in_order(row: Sequence[float], count: int) -> list[float]:
    """The values of a row that was written in a circle, the oldest first; ``count`` were written."""
    first = count % len(row)
    return [*row[first:], *row[:first]]


def parsed(text: Any) -> Mapping[str, Any]:
    """What ``Spikes.saved`` has written.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        kept: Mapping[str, Any] = json.loads(text)
        number, values, update = kept["number"], kept["values"], kept["update_norm"]
        is_right = isinstance(number, int) and 0 <= number < _UNCOUNTED and 0 <= update < math.inf
        is_right = is_right and {*values} <= {*MEASURES}
        counts = ((count, len(row)) for count, *row in values.values())
        is_right = is_right and all(
            isinstance(count, int) and count >= length >= min(count, 1) for count, length in counts
        )
        least = {name: -math.inf if name == "loss" else 0.0 for name in values}
        are_possible = (math.isfinite(x) and x >= least[name] for name, row in values.items() for x in row)
        if not is_right or not all(are_possible):
            raise ValueError("it has other entries than it can have")
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"loaded state dict: {SPIKES!r} cannot be read: {error}") from error
    return kept
