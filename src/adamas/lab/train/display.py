"""Displays a run: a progress bar on a terminal or in a notebook, plain lines elsewhere. May import rich."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from adamas.lab import launch
from adamas.lab.train import records

MOST_ROWS = 60  # rows of evaluations within epochs


def heading(plan: records.Plan) -> str:
    """Return two lines on the plan of a run, and further ones on a learning rate that was found, a plateau, options that
    have no effect, and resuming."""
    parts = {"training": plan.train_examples, "validation": plan.validation_examples, "test": plan.test_examples}
    data = ", ".join(f"{number:,} {part} examples" for part, number in parts.items() if number)
    batches = f", batches of {plan.batch_size}" * bool(plan.train_examples)
    to = f", to {plan.out}" * (plan.out is not None)
    return (
        f"{plan.task}: {plan.description}, {_count(plan.parameters, 'parameter')}{'; ' * bool(data)}{data}\n"
        f"{plan.optimizer}: learning rate {plan.learning_rate:g} ({plan.schedule}){batches}, "
        f"{_count(plan.epochs, 'epoch')} ({_count(plan.steps, 'step')}), {_processes(plan)}{to}"
        + (f"\n{plan.lr_found}" if plan.lr_found else "")
        + _followed(plan)
        + "".join(f"\n{line}" for line in plan.without_effect)
        + _resumed(plan)
    )


def _followed(plan: records.Plan) -> str:
    if not plan.plateau_follows:
        return ""
    followed = " and ".join(name.replace("_", " ") for name in dict.fromkeys(plan.plateau_follows))
    return (
        f"\nThe plateau follows {followed}, on examples that are kept for validation and left out of training."
        if plan.validation_examples
        else f"\nThe plateau follows {followed}: the task has no validation data."
    )


def _processes(plan: records.Plan) -> str:
    threads = _count(plan.threads, "thread")
    return threads if plan.parallel is None else f"{_count(plan.ranks, 'rank')} ({plan.parallel}) of {threads}"


def _resumed(plan: records.Plan) -> str:
    if not plan.done:
        return ""
    if plan.done < plan.steps:
        return f"\nResuming after step {plan.done:,}."
    return (
        "\nAll steps are done. More epochs train on: "
        f"adamas train --resume {shlex.quote(str(plan.out))} --epochs {2 * plan.epochs}"
    )


class Table:
    """Formats evaluations as rows of a table, with a column for each metric of the task.

    If there are many within an epoch, only those at its end are shown.
    """

    def __init__(self) -> None:
        """Start without columns; the first evaluation determines them."""
        self.columns: dict[str, str] = {}
        self.whole_epochs, self.steps = False, 0

    def heading(self, plan: records.Plan) -> str:
        """The lines above the table."""
        self.whole_epochs, self.steps = plan.evaluations > max(MOST_ROWS, plan.epochs), plan.steps
        return heading(plan)

    def lines(self, evaluation: records.Evaluation) -> list[str]:
        """The row of an evaluation, with the titles above the first one; a cut by a plateau that takes effect has its own
        line."""
        cut = evaluation.cut if evaluation.step < self.steps else None
        if self.whole_epochs and evaluation.epoch % 1 and not cut:
            return []
        first = not self.columns
        self.columns = self.columns or {name: name.replace("_", " ") for name in evaluation.metrics}
        epoch = f"{evaluation.epoch:5.4g}" if evaluation.epoch % 1 else f"{evaluation.epoch:5.0f}"
        values = "".join(
            f"  {figure(evaluation.metrics.get(name, math.nan)):>{max(len(title), 9)}}"
            for name, title in self.columns.items()
        )
        titles = "".join(f"  {title:>9}" for title in self.columns.values())
        return [
            *([f"epoch  learning rate  train loss{titles}"] if first else []),
            f"{epoch}  {evaluation.learning_rate:13.3g}  {figure(evaluation.train_loss):>10}{values}",
            *([f"       plateau: {cut}"] if cut else []),
        ]


def figure(value: float) -> str:
    """Format with four decimals, or with three significant digits if the number is too small or too large for that."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Lines(records.Listener):
    """Plain lines on standard output: a heading, then one line per evaluation."""

    def __init__(self) -> None:
        """Prepare the table."""
        self.table = Table()

    def on_start(self, plan: records.Plan) -> None:
        """Print the plan."""
        print_line(self.table.heading(plan))

    def on_evaluation(self, evaluation: records.Evaluation) -> None:
        """Print the evaluation's row."""
        for line in self.table.lines(evaluation):
            print_line(line)

    def on_finding(self, line: str) -> None:
        """Print it."""
        print_line(line)


class Live(records.Listener):
    """A progress bar at the bottom of a terminal, and the rows above it. Enter ``bar`` around the run."""

    def __init__(self, console: Console) -> None:
        """Prepare the bar; nothing is drawn yet."""
        self.console = console
        self.table = Table()
        # Refreshed when the loop reports, not by a thread, which would compete with the loop for the interpreter.
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

    def on_start(self, plan: records.Plan) -> None:
        """Print the plan."""
        first, rest = self.table.heading(plan).split("\n", 1)
        self.console.print(Text(first, style="bold"), Text(rest), sep="\n")
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

    def on_evaluation(self, evaluation: records.Evaluation) -> None:
        """Print the evaluation's row above the bar."""
        for line in self.table.lines(evaluation):
            self.console.print(Text(line))

    def on_finding(self, line: str) -> None:
        """Print it above the bar."""
        self.console.print(Text(line))


@contextmanager
def display() -> Iterator[records.Listener]:
    """Choose the display by where standard output goes. If several processes share a run, rank 0 has one."""
    if launch.rank() != 0:
        yield records.Listener()
        return
    console = console_for_a_bar()
    if console is None:
        yield Lines()
        return
    live = Live(console)
    with live.bar:
        yield live


def console_for_a_bar() -> Console | None:
    """The console, if it is a terminal, or a notebook with the widgets that rich needs; otherwise None."""
    console = Console(highlight=False)
    terminal = console.file.isatty() and not console.is_dumb_terminal
    return console if terminal or (console.is_jupyter and find_spec("ipywidgets") is not None) else None


def print_line(line: str) -> None:
    """Print a line and flush. If the reader is gone, as after ``| head``, further output is dropped and the run continues."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
