"""What a run tells about itself: its plan, its progress, each evaluation, and the summary.

May import the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Plan:
    """What is about to happen. ``lr_found`` is why ``lr="auto"`` came to this learning rate. ``steps`` and ``evaluations`` are
    those of the whole run, ``done`` the steps that a resumed one has behind it."""

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


@dataclass(frozen=True)
class Progress:
    """Where training stands; ``loss`` is of the last batch, ``epoch`` counts from 1, times are in seconds."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True)
class Sample:
    """What was looked at in one step of a few hundred: a line of steps.jsonl.

    ``loss`` is the mean over the steps since the last sample, ``learning_rate`` that of this step. ``grad_norm`` is the
    2-norm of the whole gradient before clipping, ``update_ratio`` the norm of the change of all weights over that of the
    weights.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    update_ratio: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: a line of metrics.jsonl, where each of ``metrics`` has a key of its own.

    ``epoch`` counts passes over the training data (a fraction within one), ``learning_rate`` is that of the last batch,
    ``train_loss`` the mean over the examples since the last evaluation, while the weights moved, and ``train_seconds`` the
    total since the start, without evaluations. ``cut`` says what a plateau did to the rate after it, and why.
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
    """Bytes of the weights, of what the optimizer keeps between steps, and the most that the process, or the device, held
    (None where the system does not say)."""

    weights: int
    state: int
    peak: int | None


@dataclass(frozen=True)
class Summary:
    """What a run came to: the content of summary.json.

    ``metrics`` are those of the weights in model.safetensors, ``value`` the one that counts. ``steps_to_target`` and
    ``seconds_to_target`` (of training) are those of the first evaluation that reached the target, None where none did.
    ``epochs`` counts the finished ones. ``train_seconds`` is training without evaluation and plotting. ``lr`` is what the
    schedule's factor was multiplied by, ``lr_found`` why that was chosen where it was left open, and ``cuts`` what plateaus
    did to it.
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

    @property
    def solved(self) -> bool:
        """Whether the final weights reach the target."""
        return self.value >= self.target if self.mode == "max" else self.value <= self.target


class DivergedError(ArithmeticError):
    """The loss was no longer a finite number. The files of what was done until then are in ``summary.out``."""

    def __init__(self, message: str, summary: Summary) -> None:
        """Say where it happened, and what was reached."""
        super().__init__(message)
        self.summary = summary


class Listener:
    """Is told how a run goes. These methods do nothing; a subclass says what it wants to hear."""

    def on_start(self, plan: Plan) -> None:
        """Training is about to begin."""

    def on_progress(self, progress: Progress) -> None:
        """A step was made; called a few times a second."""

    def on_sample(self, sample: Sample) -> None:
        """A step was looked at; called a few hundred times a run."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The model was evaluated."""

    def on_end(self, summary: Summary) -> None:
        """The run is over, and its files are written."""


class Listeners(Listener):
    """Tells several."""

    def __init__(self, *listeners: Listener) -> None:
        """In the order in which they are told."""
        self.listeners = listeners

    def on_start(self, plan: Plan) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_start(plan)

    def on_progress(self, progress: Progress) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_progress(progress)

    def on_sample(self, sample: Sample) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_sample(sample)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_evaluation(evaluation)

    def on_end(self, summary: Summary) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_end(summary)
