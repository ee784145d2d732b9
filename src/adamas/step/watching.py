"""What ``watch=`` keeps: statistics of each tensor in the last steps, where the step was made until they are read."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..rule.hyperparameters import shown
from ..rule.statistics import LARGEST, ROW
from .record import Tensor

COLUMNS = (
    *("grad_norm", "weight_norm", "update_norm", "update_max", "m_dot_g"),
    *("rms", "under_eps", "behind", "lost", "decay_norm"),
)  # of each tensor
WATCHED = "watched"  # where the first saved group has what was watched,
CALLS = "watched_calls"  # and the number of steps that ``every=`` goes by
PER_STEP = ("step", "loss", "grad_norm", "clip", "lr", "skipped")
KEPT = 512  # steps, by default
_AT = {name: i for i, name in enumerate(ROW)}
Array: TypeAlias = "np.ndarray[Any, Any]"
_WORDS = 'True, False, or text such as "every=10", "every=10, keep=256" or "save"'


class Options(NamedTuple):
    """What ``watch=`` says.

    Attributes:
        every: the distance of watched steps.
        keep: the number of watched steps that are kept.
        save: whether they are saved in the state dict.
    """

    every: int = 1
    keep: int = KEPT
    save: bool = False

    def __str__(self) -> str:
        return f"every={self.every}, keep={self.keep}" + ", save" * self.save


def options_of(watch: Any) -> Options | None:
    """The options in an argument ``watch``; None if nothing is watched.

    Raises:
        TypeError: it is neither a bool nor text.
        ValueError: the text says something else than it can.
    """
    if watch is None or isinstance(watch, bool | np.bool_):
        return Options() if watch else None
    if isinstance(watch, Options):
        watch = str(watch)
    if not isinstance(watch, str):
        raise TypeError(f"watch must be {_WORDS}, not {shown(watch)}")
    found: dict[str, Any] = {}
    for part in (part.strip() for part in watch.split(",")):
        match = re.fullmatch(r"(every|keep)\s*=\s*([1-9]\d{0,8})", part)
        if part != "save" and match is None:
            raise ValueError(f"watch={watch!r}: {part!r} is not known here; watch must be {_WORDS}")
        name, value = ("save", True) if match is None else (match[1], int(match[2]))
        if name in found:
            raise ValueError(f"watch={watch!r} has {name} twice")
        found[name] = value
    return Options(**found)


class Host:
    """NumPy in the part of the functions of a device (``adamas.step.namespaces.torch.Formulas``)."""

    sqrt, where, minimum, maximum = np.sqrt, np.where, np.minimum, np.maximum
    stack, concat, number = np.stack, np.concatenate, float
    ceil, isfinite, sorted = np.ceil, np.isfinite, np.sort

    @staticmethod
    def hyperparameter(x: Any) -> float:
        """A number of any type as a float."""
        return float(x)

    @staticmethod
    def uploaded(array: Array) -> Array:
        """The array itself."""
        return array

    @staticmethod
    def downloaded(x: Any) -> Array:
        """An array, or a tensor of any framework, as an array."""
        return x if isinstance(x, np.ndarray) else np.array(x.tolist())


def finished(f: Any, sums: Tensor, clip: Any) -> Tensor:
    """What ``COLUMNS`` says of tensors, one row each.

    Args:
        f: ``Host``, or the functions of the device of the sums.
        sums: a row of ``adamas.rule.statistics.ROW`` for each tensor, over all of its parts.
        clip: the factor by which clipping has shortened the gradients.
    """
    of = {name: sums[:, i] for name, i in _AT.items()}
    count = f.maximum(of["count"], 1.0)
    columns = [
        *(f.sqrt(of["gradient"]) / clip, f.sqrt(of["weight"]), f.sqrt(of["update"]), of[LARGEST]),
        *(of["alignment"] / clip, f.sqrt(of["ratio"] / count)),
        *(of["under_eps"] / count, of["behind"] / count, of["lost"] / count, f.sqrt(of["decay"])),
    ]
    return f.stack(columns).T


def update_norm(f: Any, sums: Tensor) -> Any:
    """The norm of the updates of all tensors, given the sums of each."""
    return f.sqrt(sums[:, _AT["update"]].sum())


class Kept(NamedTuple):
    """What was watched and saved.

    Attributes:
        names: the names of the tensors.
        steps: ``PER_STEP`` of each step, the oldest first.
        rows: ``COLUMNS`` of each tensor at each step.
    """

    names: Sequence[str]
    steps: Array
    rows: Array


def parsed(text: Any) -> Kept:
    """What ``Ring.saved`` has written.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as arrays:
            names, steps, rows = (arrays[name] for name in Kept._fields)
    except Exception as error:  # of zipfile, zlib, NumPy and base64, which raise whatever damaged files lead to
        raise ValueError(f"loaded state dict: what was watched ({WATCHED!r}) cannot be read: {error}") from error
    is_right = steps.dtype == np.float64 and rows.dtype == np.float32 and names.dtype.kind == "U"
    if not is_right or steps.shape[1:] != (len(PER_STEP),) or rows.shape != (len(steps), len(names), len(COLUMNS)):
        raise ValueError(
            f"loaded state dict: what was watched ({WATCHED!r}) has arrays of shapes {steps.shape} and {rows.shape} for "
            f"{len(names)} tensors, and statistics are {len(PER_STEP)} a step and {len(COLUMNS)} a tensor"
        )
    return Kept(names.tolist(), steps, rows)


class Ring:
    """The last rows, in the memory of one device.

    Args:
        f: ``Host``, or the functions of the device.
        names: the names of the tensors.
        keep: the number of steps that are kept.
    """

    def __init__(self, f: Any, names: Sequence[str], keep: int) -> None:
        self.f, self.names, self.keep = f, list(names), keep
        shape = (keep, len(self.names), len(COLUMNS))
        self._rows = f.uploaded(np.full(shape, np.nan, np.float32))
        self._steps = f.uploaded(np.full((keep, len(PER_STEP)), np.nan, np.float64))
        self._count = f.uploaded(np.zeros(1, np.int64))  # of the rows that were written so far

    def write(self, numbers: Sequence[Any], rows: Tensor) -> None:
        """Writes the next row: ``PER_STEP``, and ``COLUMNS`` of every tensor."""
        at = self._count % self.keep
        if self.f is Host:
            self._steps[at], self._rows[at] = np.array([float(x) for x in numbers]), rows
        else:
            self._steps.index_copy_(0, at, self.f.stack([self.f.number(x) for x in numbers])[None])
            self._rows.index_copy_(0, at, rows.to(self._rows.dtype)[None])
        self._count += 1

    def read(self) -> tuple[Array, Array]:
        """The numbers of the steps that are kept, the oldest first, and the rows of their tensors. Both are copies."""
        steps, rows, (count,) = map(self.f.downloaded, (self._steps, self._rows, self._count))
        order = np.arange(max(0, count - self.keep), count) % self.keep
        return steps[order], rows[order]

    def saved(self) -> str:
        """All of it as text: an npz file in base64, which every format of checkpoints can hold."""
        steps, rows = self.read()
        file = io.BytesIO()
        np.savez_compressed(file, names=np.array(self.names, np.str_), steps=steps, rows=rows)
        return base64.b64encode(file.getvalue()).decode()

    def load(self, kept: Kept) -> None:
        """Takes over rows that were read elsewhere, by the names of their tensors."""
        steps, found = kept.steps[-self.keep :], kept.rows[-self.keep :]
        rows = np.full((len(steps), len(self.names), len(COLUMNS)), np.nan, np.float32)
        before = {name: i for i, name in enumerate(kept.names)}
        for i, name in enumerate(self.names):
            if name in before:
                rows[:, i] = found[:, before[name]]
        padding = ((0, self.keep - len(steps)), (0, 0))
        self._steps = self.f.uploaded(np.pad(steps, padding, constant_values=np.nan))
        self._rows = self.f.uploaded(np.pad(rows, (*padding, (0, 0)), constant_values=np.nan))
        self._count = self.f.uploaded(np.array([len(steps)]))


class Part(NamedTuple):
    """Statistics of some tensors. Numbers may be tensors on the device.

    Attributes:
        positions: the positions of the tensors.
        sums: a row of ``adamas.rule.statistics.ROW`` for each.
        clip: the factor by which clipping has shortened their gradients.
        runs: whether their step was made; None if it was in any case.
    """

    positions: Sequence[int]
    sums: Tensor
    clip: Any = 1.0
    runs: Any = None


class Assembly:
    """Puts the parts of a step together.

    Args:
        f: ``Host``, or the functions of the device.
        count: the number of tensors.
    """

    def __init__(self, f: Any, count: int) -> None:
        self._f, self._count = f, count
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def of(self, parts: Sequence[Part]) -> tuple[Tensor, Any, Any]:
        """The sums, factors of clipping and runs of all tensors. The sums have zeros for those that were not stepped."""
        f, count = self._f, self._count
        positions = [i for part in parts for i in part.positions]
        rows = [_placed(f, part.sums) for part in parts]
        is_all = positions == list(range(count))
        if is_all and len(parts) == 1:
            return rows[0], parts[0].clip, parts[0].runs
        sums = f.concat(rows) if is_all else f.uploaded(np.zeros((count, len(ROW))))
        if parts and not is_all:
            sums[self._index(positions)] = f.concat(rows)
        part_of = [len(parts)] * count  # the last is of tensors that were not stepped
        for i, part in enumerate(parts):
            for position in part.positions:
                part_of[position] = i
        clips, runs = [*(part.clip for part in parts), 1.0], [*(part.runs for part in parts), None]
        at = self._index(part_of)
        clip = f.stack([f.number(x) for x in clips])[at]
        if all(x is None for x in runs):
            return sums, clip, None
        return sums, clip, f.stack([f.number(1.0 if x is None else x) for x in runs])[at] > 0

    def _index(self, positions: Sequence[int]) -> Tensor:
        """The positions as an array, copied to the device once."""
        key = tuple(positions)
        if key not in self._indices:
            if len(self._indices) > 8:
                self._indices.clear()
            self._indices[key] = self._f.uploaded(np.array(positions, np.int64))
        return self._indices[key]


class Step(NamedTuple):
    """What is known of a step besides its statistics. Numbers may be tensors on the device.

    Attributes:
        number: the steps that were made, with this one.
        lr: the learning rate of the first group.
        clip: the smallest factor by which clipping has shortened gradients.
        runs: whether the step was made; None if it was in any case.
        grad_norm: the norm of the gradient before clipping; None if it was not measured.
        loss: the loss; None if it is not known.
    """

    number: Any
    lr: Any
    clip: Any
    runs: Any
    grad_norm: Any
    loss: Any


class Watching:
    """Watches the steps of one optimizer.

    Args:
        options: what ``watch=`` says.

    Attributes:
        options: the argument ``options``.
        ring: what is kept; None before the first step that is watched.
        lr: the learning rate of the step that is made, a number or a tensor.
        parts: the statistics of the coming step, of parameters that are stepped one after the other.
        is_asked: whether the coming step is watched whatever ``every`` says.
    """

    ring: Ring | None
    lr: Any
    _assembly: Assembly

    def __init__(self, options: Options) -> None:
        self.options, self.ring, self.lr = options, None, math.nan
        self.parts: list[Part] = []
        self.is_asked = False
        self.number = 0  # of the last step, as the host knows it
        self.calls = 0  # the steps so far, with those that were skipped

    @property
    def is_due(self) -> bool:
        """Whether the coming step is watched."""
        return self.is_asked or self.calls % self.options.every == 0

    def begin(self, f: Any, names: Sequence[str]) -> None:
        """Prepares the ring for these tensors. Those that it had before keep their rows, by name."""
        if self.ring is not None and self.ring.f is f and self.ring.names == names:
            return
        kept = None if self.ring is None else Kept(self.ring.names, *self.ring.read())
        self.resume(f, names, kept)

    def restart(self, f: Any, names: Sequence[str], kept: Kept | None, calls: int, number: int) -> None:
        """Begins with what was kept before these calls and the step of this number; with nothing if that is None."""
        self.calls, self.number = calls, number
        self.resume(f, names, kept)

    def resume(self, f: Any, names: Sequence[str], kept: Kept | None) -> None:
        """Goes on with what was kept before; with nothing if that is None."""
        self.ring, self._assembly = Ring(f, names, self.options.keep), Assembly(f, len(names))
        if kept is not None:
            self.ring.load(kept)

    def nbytes(self, names: Sequence[str]) -> int:
        """The bytes of the ring, also before it is there, if these tensors are watched."""
        return _bytes_of(len(names), self.options.keep)

    def record(self, parts: Sequence[Part], step: Step, over_ranks: Callable[[Any, Tensor], Tensor]) -> Any:
        """Writes the row of a step that was made or skipped, and returns the norm of the updates of all tensors.

        Args:
            parts: its statistics.
            step: the step.
            over_ranks: adds up the sums of all processes that have parts of the tensors.
        """
        assert self.ring is not None
        f = self.ring.f
        sums, clip, runs = self._assembly.of(parts)
        sums = over_ranks(f, sums)
        is_there = sums[:, _AT["count"]] > 0
        is_known = is_there if runs is None else is_there & runs
        rows = f.where(is_known[:, None], finished(f, sums, clip), math.nan)
        skipped = 0.0 if step.runs is None else f.where(step.runs, 0.0, 1.0)
        norm = step.grad_norm
        if norm is None:
            norm = f.sqrt(f.where(is_known, rows[:, 0] * rows[:, 0], 0.0).sum())
            norm = f.where(is_known.any() | (skipped == 0), norm, math.nan)  # of no elements, it is 0
        loss = math.nan if step.loss is None else step.loss
        loss, lr = f.hyperparameter(loss), f.hyperparameter(step.lr)
        self.ring.write([step.number, loss, norm, step.clip, lr, skipped], rows)
        return update_norm(f, f.where(is_known[:, None], sums, 0.0))

    def end(self) -> None:
        """Counts a step that was made or skipped."""
        self.calls += 1
        self.parts, self.is_asked = [], False


def _placed(f: Any, sums: Tensor) -> Tensor:
    """The sums as an array of the host, or as a tensor of the device."""
    if f is Host:
        return Host.downloaded(sums)
    return f.uploaded(sums) if isinstance(sums, np.ndarray) else sums


def _bytes_of(tensors: int, keep: int) -> int:
    """The bytes of a ring: rows in float32, the numbers of its steps in float64, and their count."""
    return keep * (4 * tensors * len(COLUMNS) + 8 * len(PER_STEP)) + 8
