"""What ``--watch`` keeps of a whole run: its statistics, thinned, and what left its usual course.

May import NumPy, adamas.step and adamas.files; PyTorch only for checkpoints.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from adamas.files import check_archive
from adamas.step.watch import RATIO, Watch
from adamas.step.watching import COLUMNS, PER_STEP, Array, Options

if TYPE_CHECKING:
    from adamas.step.explaining import Finding
    from adamas.step.stepping import Stepping

MOST = 1000  # stretches of a history; an even number
STATISTICS = (*COLUMNS, RATIO)  # of each tensor
_CLIP = PER_STEP.index("clip")


class History:
    """The statistics of a run in at most ``MOST`` stretches of watched steps.

    All stretches have the same number of steps but the last, which may have fewer. Of each value the one that is largest in
    magnitude within the stretch is kept, so that no peak is lost; of the factors of clipping, the smallest; of the step, the
    last. When there are too many stretches, each two of them become one.

    Attributes:
        names: the names of the tensors.
        length: the number of watched steps of a stretch.
        count: the number of watched steps.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.length, self.count = 1, 0
        self._numbers: list[Array] = []  # PER_STEP of each stretch, in float64
        self._rows: list[Array] = []  # STATISTICS of each tensor in each stretch, in float32

    def __len__(self) -> int:
        """The number of stretches."""
        return len(self._numbers)

    @property
    def steps(self) -> list[int]:
        """The last step of each stretch."""
        return [int(numbers[0]) for numbers in self._numbers]

    @property
    def _shape(self) -> tuple[int, int, int]:
        return len(self), len(self.names), len(STATISTICS)

    def __getitem__(self, statistic: str) -> Array:
        """One of ``STATISTICS``, of shape (stretches, tensors)."""
        return np.array(self._rows, np.float32).reshape(self._shape)[:, :, STATISTICS.index(statistic)]

    def add(self, watch: Watch) -> None:
        """Adds the steps that came after those that are here."""
        self.names = watch.names
        is_new = watch.steps > (self._numbers[-1][0] if self._numbers else 0)
        columns = [watch.steps.astype(np.float64), *(watch.per_step[name] for name in PER_STEP[1:])]
        rows = np.stack([watch[name] for name in STATISTICS], axis=-1)
        for numbers, row in zip(np.column_stack(columns)[is_new], rows[is_new], strict=True):
            if self.count % self.length == 0:
                if len(self) == MOST:
                    self._halve()
                self._numbers.append(numbers)
                self._rows.append(row)
            else:
                self._numbers[-1] = _joined_numbers(self._numbers[-1], numbers)
                self._rows[-1] = _joined(self._rows[-1], row)
            self.count += 1

    def _halve(self) -> None:
        numbers, rows = self._numbers, self._rows
        self._numbers = [_joined_numbers(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
        self._rows = [_joined(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
        self.length *= 2

    def content(self) -> bytes:
        """The content of a file, which ``np.load`` reads."""
        file = io.BytesIO()
        np.savez(
            file,
            tensors=np.array(self.names, np.str_),
            statistics=np.array(STATISTICS),
            rows=np.array(self._rows, np.float32).reshape(self._shape),
            numbers=np.array(PER_STEP),
            steps=np.array(self._numbers, np.float64).reshape(len(self), len(PER_STEP)),
            watched_steps=np.array([self.length, self.count]),
        )
        return file.getvalue()

    @classmethod
    def parsed(cls, content: bytes) -> History:
        """Reads what ``content`` returned.

        Raises:
            ValueError: it is something else, or damaged.
        """
        try:
            check_archive(io.BytesIO(content))
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            names, steps, rows = found["tensors"], found["steps"], found["rows"]
            is_right = (
                (names.dtype.kind, steps.dtype, rows.dtype) == ("U", np.float64, np.float32)
                and (found["statistics"].tolist(), found["numbers"].tolist()) == ([*STATISTICS], [*PER_STEP])
                and steps.shape == (len(steps), len(PER_STEP))
                and rows.shape == (len(steps), len(names), len(STATISTICS))
                and np.isfinite(steps[:, 0]).all()
            )
            length, count = map(int, found["watched_steps"])
        except (KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"it cannot be read ({error})") from error
        if not is_right or not 0 < length <= count + 1:
            raise ValueError("it has other arrays than adamas writes")
        history = cls()
        history.names, history.length, history.count = names.tolist(), length, count
        history._numbers, history._rows = [*steps], [*rows]
        return history


def _joined(one: Array, other: Array) -> Array:
    """Of each two values, the one that is larger in magnitude; NaN only if both are."""
    found: Array = np.where(np.isnan(one) | (np.abs(other) > np.abs(one)), other, one)
    return found


def _joined_numbers(one: Array, other: Array) -> Array:
    """The same of the numbers of two steps, but the smaller factor of clipping."""
    found = _joined(one, other)
    found[_CLIP] = np.fmin(one[_CLIP], other[_CLIP])
    return found


class Watched:
    """What the optimizer of a run has done: its history, and what left its usual course.

    Args:
        optimizer: an optimizer with ``watch=``.
        options: what it watches.

    Attributes:
        history: the statistics of all watched steps.
    """

    def __init__(self, optimizer: Stepping, options: Options) -> None:
        self.history = History()
        self._optimizer = optimizer
        self._interval = options.every * (options.keep // 2 or 1)  # so that no watched step is overwritten unseen
        self._looked_at = 0  # the step of the run at which ``look`` was last called
        self._explained = 0  # the last watched step that was explained
        self._found: list[dict[str, Any]] = []

    def read(self) -> None:
        """Adds the steps that the optimizer has watched since the last time to the history."""
        watch = self._optimizer.watch
        assert watch is not None
        self.history.add(watch)

    def is_due(self, step: int) -> bool:
        """Whether it is time for ``look`` after this step of the run."""
        return step - self._looked_at >= self._interval

    def look(self, step: int) -> list[str]:
        """Reads and explains what was watched until this step of the run; returns a line for each new finding."""
        self.read()
        new = [finding for finding in self._optimizer.explain().findings if self._is_new(finding)]
        self._found += [
            {"pattern": one.pattern, "tensors": [*one.tensors], "text": " ".join(str(one).split())} for one in new
        ]
        self._looked_at, self._explained = step, max([0, *self.history.steps[-1:]])
        return [f"{one.title}: {one.text}" for one in new]

    def _is_new(self, finding: Finding) -> bool:
        """Whether it is none that was found before, and which in the steps that are still kept begins elsewhere."""
        known = [one["tensors"] for one in self._found if one["pattern"] == finding.pattern]
        is_known = any(not tensors or not {*tensors}.isdisjoint(finding.tensors) for tensors in known)
        return finding.step > self._explained or not is_known

    def sentences(self) -> list[str]:
        """What was found in the run."""
        steps = self.history.steps
        if not steps:
            return ["No step was watched."]
        count, tensors = self.history.count, len(self.history.names)
        looked = f"{count:,} watched step{'s' * (count != 1)} of {tensors:,} tensor{'s' * (tensors != 1)}"
        nothing = f"Nothing has left its usual course in {looked}; the last was step {steps[-1]:,}."
        return [one["text"] for one in self._found] or [nothing]

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        self.read()
        import torch

        history = torch.frombuffer(bytearray(self.history.content()), dtype=torch.uint8)
        return {"history": history, "found": self._found, "at": [self._looked_at, self._explained]}

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Continue from that of another run, which may have watched nothing.

        Raises:
            ValueError: it is something else.
        """
        if state is not None:
            self.history = History.parsed(state["history"].numpy().tobytes())
            self._found, (self._looked_at, self._explained) = list(state["found"]), state["at"]
