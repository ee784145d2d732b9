"""Shows a run while it goes: a live bar on a terminal, plain lines elsewhere. May import rich."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from adamas.train import records

HEADING = "epoch  learning rate  train loss  test loss  test accuracy"


def heading(plan: records.Plan) -> str:
    """Say in two lines what is about to happen, and in more why at that rate if it was left open."""
    return (
        f"{plan.task}: {plan.description}, {plan.parameters:,} parameters; "
        f"{plan.train_examples:,} examples to train on, {plan.test_examples:,} to test on\n"
        f"{plan.optimizer}: learning rate {plan.learning_rate:g} ({plan.schedule}), batches of {plan.batch_size}, "
        f"{_count(plan.epochs, 'epoch')} ({_count(plan.steps, 'step')}), {_count(plan.threads, 'thread')}, to {plan.out}"
        + (f"\n{plan.lr_found}" if plan.lr_found else "")
    )


def row(epoch: records.Epoch) -> str:
    """Lay an epoch out under HEADING; what a plateau did after it is a line of its own."""
    return (
        f"{epoch.epoch:5}  {epoch.learning_rate:13.3g}  {epoch.train_loss:10.4f}  {epoch.test_loss:9.4f}  "
        f"{epoch.test_accuracy:13.4f}"
    ) + (f"\n       plateau: {epoch.cut}" if epoch.cut else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Lines(records.Listener):
    """Plain lines on standard output: a heading, then one line an epoch."""

    def __enter__(self) -> Lines:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def on_start(self, plan: records.Plan) -> None:
        """Print what is about to happen."""
        print(heading(plan), HEADING, sep="\n", flush=True)

    def on_epoch(self, epoch: records.Epoch) -> None:
        """Print the epoch's row."""
        print(row(epoch), flush=True)


class Live(records.Listener):
    """A bar at the foot of a terminal, and the rows above it. Enter it around the run, so that the bar goes away."""

    def __init__(self, console: Console) -> None:
        """Prepare the bar; nothing is drawn yet."""
        self.console = console
        # Drawn when the loop reports, not by a thread of its own, which would take the interpreter from the loop.
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("rate {task.fields[rate]:.2e}"),
            TextColumn("{task.fields[left]} left"),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )

    def __enter__(self) -> Live:
        """Begin."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self.bar.stop()

    def on_start(self, plan: records.Plan) -> None:
        """Print what is about to happen."""
        first, rest = heading(plan).split("\n", 1)
        self.console.print(Text(first, style="bold"), Text(rest), Text(HEADING, style="dim"), sep="\n")
        self.epochs = plan.epochs
        self.steps = plan.steps

    def on_progress(self, progress: records.Progress) -> None:
        """Move the bar."""
        fields: dict[str, Any] = {
            "epoch": f"{progress.epoch}/{self.epochs}",
            "loss": progress.loss,
            "rate": progress.learning_rate,
            "left": _clock(progress.seconds_left),
        }
        if self.bar.tasks:
            self.bar.update(self.bar.task_ids[0], completed=progress.step, refresh=True, **fields)
        else:
            self.bar.add_task("train", total=self.steps, completed=progress.step, **fields)

    def on_epoch(self, epoch: records.Epoch) -> None:
        """Print the epoch's row above the bar."""
        self.console.print(Text(row(epoch)))


def display() -> Lines | Live:
    """Choose by where standard output goes."""
    console = Console(highlight=False)
    return Live(console) if console.file.isatty() and not console.is_dumb_terminal else Lines()
