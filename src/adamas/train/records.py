"""What a run tells about itself: its plan, its progress, each epoch, and the summary.

May import the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """What is about to happen. ``lr_found`` is why ``lr="auto"`` came to this learning rate."""

    task: str
    description: str
    optimizer: str
    learning_rate: float
    schedule: str
    lr_found: str | None
    epochs: int
    steps: int
    batch_size: int
    train_examples: int
    test_examples: int
    parameters: int
    threads: int
    out: Path


@dataclass(frozen=True)
class Progress:
    """Where training stands; ``loss`` is of the last batch, ``epoch`` counts from 1, times are in seconds."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: a line of metrics.jsonl.

    ``learning_rate`` is that of its last batch, ``train_loss`` the mean over its examples while the weights moved, and
    the seconds are totals since the start. ``cut`` says what a plateau did to the rate after it, and why.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    train_seconds: float
    optimizer_seconds: float
    cut: str | None = None


@dataclass(frozen=True)
class Summary:
    """What a run came to: the content of summary.json.

    ``test_loss`` and ``test_accuracy`` are those of the weights in model.safetensors. ``epochs`` counts the finished
    ones. ``train_seconds`` is training without evaluation and plotting, ``optimizer_seconds`` the part of it inside
    ``optimizer.step``. ``state_bytes`` is what the optimizer keeps between steps. ``lr`` is what the schedule's factor was
    multiplied by, ``lr_found`` why that was chosen where it was left open, and ``cuts`` what plateaus did to it.
    """

    task: str
    optimizer: str
    lr: float
    lr_found: str | None
    cuts: list[str]
    test_accuracy: float
    test_loss: float
    epochs: int
    steps: int
    train_seconds: float
    optimizer_seconds: float
    parameters: int
    state_bytes: int
    interrupted: bool
    diverged: bool
    out: Path


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

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch was finished and evaluated."""
