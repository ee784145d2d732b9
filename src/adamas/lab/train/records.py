"""The events of a run: its plan, its progress, samples, evaluations, and the summary.

May import the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Plan:
    """The plan of a run. ``lr_found`` explains the learning rate of ``lr="auto"``. ``steps`` and ``evaluations`` are those of
    the whole run, ``done`` the steps that a resumed run has already made. ``threads`` are those of each of its ``ranks``.
    ``plateau_follows`` has the metric that each plateau observes, and ``without_effect`` says why options cannot act."""

    task: str
    description: str
    optimizer: str
    learning_rate: float
    schedule: str
    lr_found: str | None
    metric: str
    mode: Literal["max", "min"]
    target: float
    epochs: int
    steps: int
    evaluations: int
    batch_size: int
    train_examples: int
    test_examples: int
    parameters: int
    device: str
    threads: int
    out: Path | None
    done: int = 0
    validation_examples: int = 0
    plateau_follows: Sequence[str] = ()
    without_effect: Sequence[str] = ()
    parallel: str | None = None
    ranks: int = 1


@dataclass(frozen=True)
class Progress:
    """The progress of training. ``loss`` is that of the last batch, ``epoch`` counts from 1, times are in seconds."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True)
class Sample:
    """The measurements of a sampled step: a line of steps.jsonl.

    ``loss`` is the mean over the steps since the last sample, ``learning_rate`` that of this step. ``grad_norm`` is the
    2-norm of the whole gradient before clipping, ``update_ratio`` the norm of the change of all weights over that of the
    weights; with optimizers of Adamas, before 16-bit weights are rounded.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    update_ratio: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: a line of metrics.jsonl, in which each of ``metrics`` has its own key.

    ``metrics`` are those of the test data and, under names with ``validation_``, those of the validation data, if there are
    any. ``epoch`` counts passes over the training data (with a fraction), ``learning_rate`` is that of the last batch,
    ``train_loss`` the mean over the examples since the last evaluation, during training, and ``train_seconds`` the total
    since the start, without evaluations. ``cut`` describes the cut of the rate by a plateau after this evaluation, if any;
    one after the last step of a run has an effect only if the run is resumed with more epochs.
    """

    epoch: float
    step: int
    learning_rate: float
    train_loss: float
    metrics: Mapping[str, float]
    train_seconds: float
    cut: str | None = None

    def row(self) -> dict[str, Any]:
        """Return it as the line of metrics.jsonl."""
        row = asdict(self)
        return {**row.pop("metrics"), **row}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Evaluation:
        """Read it from the line of metrics.jsonl."""
        own = {name.name for name in fields(cls)}
        metrics = {name: value for name, value in row.items() if name not in own}
        return cls(metrics=metrics, **{name: value for name, value in row.items() if name in own})


def validation_name(name: str) -> str:
    """The name of a metric of the test data, if it is computed for the validation data.

    >>> validation_name("test_loss"), validation_name("bits_per_character")
    ('validation_loss', 'validation_bits_per_character')
    """
    return f"validation_{name.removeprefix('test_')}"


@dataclass(frozen=True)
class Seconds:
    """Where the time of training went, by the part of a step."""

    data: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0
    evaluation: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights and of the optimizer's state, and the peak of the process or the device (None if the system does
    not report it)."""

    weights: int
    state: int
    peak: int | None


@dataclass(frozen=True)
class Summary:
    """The result of a run: the content of summary.json.

    ``metrics`` are those of the weights in model.safetensors, ``value`` is the main one. ``steps_to_target`` and
    ``seconds_to_target`` (of training) are those of the first evaluation that reached the target, None if none did.
    ``epochs`` counts finished epochs. ``train_seconds`` is training without evaluation and plotting. ``lr`` is the rate that
    the schedule's factor multiplies, ``lr_found`` the explanation of the rate of ``lr="auto"``, and ``cuts`` the cuts of the
    rate by plateaus that took effect. ``explanation`` says what the optimizer did, if it was watched.
    """

    task: str
    optimizer: str
    lr: float
    lr_found: str | None
    cuts: list[str]
    metric: str
    mode: Literal["max", "min"]
    target: float
    value: float
    metrics: dict[str, float]
    steps_to_target: int | None
    seconds_to_target: float | None
    epochs: int
    steps: int
    train_seconds: float
    seconds: Seconds
    memory: Memory
    parameters: int
    interrupted: bool
    diverged: bool
    out: Path | None
    explanation: list[str] | None = None

    @property
    def solved(self) -> bool:
        """Whether the final weights reach the target."""
        return self.value >= self.target if self.mode == "max" else self.value <= self.target


class DivergedError(ArithmeticError):
    """The loss was no longer a finite number. The files of the run until then are in ``summary.out``."""

    def __init__(self, message: str, summary: Summary) -> None:
        """Keep the summary of the run until then."""
        super().__init__(message)
        self.summary = summary


class RankLostError(RuntimeError):
    """Another process of the run has ended, and this one cannot continue without it. The last checkpoint remains."""


class Listener:
    """Receives the events of a run. These methods do nothing; a subclass overrides those that it needs."""

    def on_start(self, plan: Plan) -> None:
        """Called before training."""

    def on_progress(self, progress: Progress) -> None:
        """Called a few times a second, after a step."""

    def on_sample(self, sample: Sample) -> None:
        """Called for each sampled step, a few hundred times per run."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Called after each evaluation."""

    def on_finding(self, line: str) -> None:
        """Called when something has left its usual course in a run that is watched."""

    def on_end(self, summary: Summary) -> None:
        """Called when the run has ended and its files are written."""


class Listeners(Listener):
    """Passes the events on to several listeners."""

    def __init__(self, *listeners: Listener) -> None:
        """Take the listeners in the order of calls."""
        self.listeners = listeners

    def on_start(self, plan: Plan) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_start(plan)

    def on_progress(self, progress: Progress) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_progress(progress)

    def on_sample(self, sample: Sample) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_sample(sample)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_evaluation(evaluation)

    def on_finding(self, line: str) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_finding(line)

    def on_end(self, summary: Summary) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_end(summary)
