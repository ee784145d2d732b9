"""Displays a comparison: a progress bar on a terminal or in a notebook, plain lines elsewhere, and the final table.

May import rich, adamas.lab.train.display and the rest of adamas.lab.compare that runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from adamas.lab.compare.comparison import Listener
from adamas.lab.compare.results import Judgement
from adamas.lab.compare.study import Outcome, Settings, Study, Trial
from adamas.lab.compare.words import chosen_by, count, decades, listed, number, reached, setting, spoken, spread
from adamas.lab.compare.workers import at_once
from adamas.lab.tasks import label
from adamas.lab.terminal import columns
from adamas.lab.train.display import console_for_a_bar, print_line

SHOWN = 2  # running trials that are named next to the bar

_PHASES = {"tune": "tuning", "sweep": "sweep", "final": "final"}


def heading(study: Study, done: int) -> str:
    """Return a few lines about what is compared, and how."""
    settings = study.settings
    threads = f"{count(settings.threads, 'thread')}{' each' if settings.jobs > 1 else ''}"
    fewer = (
        f" ({here} here, which has {count(here, 'processor')})" if (here := at_once(settings)) < settings.jobs else ""
    )
    sweep = f", {count(settings.budget, 'sweep trial')} each" if settings.tune != ["lr"] else ""
    ranges = {
        name: ", ".join(f"{part} {low:g} to {high:g}" for part, (low, high, _) in space.items())
        for name, space in settings.space.items()
    }
    longest = max(map(len, ranges))
    return "\n".join(
        [
            f"{label(settings.task)}: {settings.description}; {count(settings.epochs, 'epoch')} "
            f"({count(settings.steps, 'step')}) of batches of {settings.batch_size}, {settings.schedule}",
            f"{count(settings.budget, 'tuning trial')} each{sweep}, {count(len(settings.seeds), 'seed')} at the best; "
            f"{settings.jobs} at a time{fewer}, {threads}, to {study.path}",
            *(f"  {name:{longest}}  {text}" for name, text in ranges.items()),
            chosen_by(settings),
            *([f"Resuming after {count(done, 'trial')}."] if done else []),
        ]
    )


def row(settings: Settings, trial: Trial, outcome: Outcome) -> str:
    """Return the line of a finished trial."""
    metric = spoken(settings.metric_of(trial.phase))
    if outcome.status == "failed":
        return f"{_called(trial)}: failed: {outcome.error}"
    value = "diverged" if outcome.value is None else f"{metric} {number(outcome.value)}"
    return f"{_called(trial)}: {value}" + ("" if outcome.train_seconds is None else f", {outcome.train_seconds:.1f} s")


def _called(trial: Trial) -> str:
    seed = f" seed {trial.seed}" if trial.phase == "final" else ""
    return f"{_PHASES[trial.phase]} {trial.optimizer} {setting(trial.settings)}{seed}"


def table(judgement: Judgement, width: int | None = None) -> list[str]:
    """Return the lines of the table of standings, at most ``width`` characters long if that is given."""
    titles = [
        "rank",
        "optimizer",
        "best setting",
        spoken(judgement.metric),
        "steps to target",
        "seconds to target",
        "decades of lr",
    ]
    rows = [
        [
            str(standing.rank),
            standing.optimizer,
            setting(standing.settings) or "none",
            spread(standing),
            reached(standing.steps_to_target, ".0f"),
            reached(standing.seconds_to_target, ".2g"),
            decades(standing.sensitivity),
        ]
        for standing in judgement.standings
    ]
    return columns([titles, *rows], width)


class Lines(Listener):
    """Plain lines on standard output: a heading, then one line per trial."""

    def on_start(self, study: Study, done: int, total: int) -> None:
        """Print what is compared."""
        self.settings = study.settings
        print_line(heading(study, done))

    def on_trial_end(self, trial: Trial, outcome: Outcome, done: int, total: int) -> None:
        """Print its result."""
        print_line(f"{done:{len(str(total))}}/{total} {row(self.settings, trial, outcome)}")


class Live(Listener):
    """A progress bar at the bottom of a terminal with the running trials, and finished trials above it. Enter ``bar`` around
    the comparison."""

    def __init__(self, console: Console) -> None:
        """Prepare the bar; nothing is drawn yet."""
        self.console = console
        self.running: list[str] = []
        self.bar = Progress(
            SpinnerColumn(),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            expand=True,
        )

    def on_start(self, study: Study, done: int, total: int) -> None:
        """Print what is compared, and draw the bar."""
        self.settings = study.settings
        first, rest = heading(study, done).split("\n", 1)
        self.console.print(Text(first, style="bold"), Text(rest), sep="\n")
        self.task = self.bar.add_task("starting", total=total, completed=done)

    def on_trial_start(self, trial: Trial) -> None:
        """Show it next to the bar."""
        self.running.append(_called(trial))
        self.bar.update(self.task, description=self.under_way())

    def on_trial_end(self, trial: Trial, outcome: Outcome, done: int, total: int) -> None:
        """Print its result above the bar, and advance the bar."""
        self.running.remove(_called(trial))
        self.console.print(Text(row(self.settings, trial, outcome)))
        self.bar.update(self.task, completed=done, total=total, description=self.under_way())

    def under_way(self) -> str:
        """Return the names of the running trials, as far as they fit."""
        shown, more = self.running[:SHOWN], len(self.running) - SHOWN
        return listed([*shown, *([f"{more} more"] if more > 0 else [])])


@contextmanager
def display() -> Iterator[Listener]:
    """Choose the display by where standard output goes."""
    console = console_for_a_bar()
    if console is None:
        yield Lines()
        return
    live = Live(console)
    with live.bar:
        yield live
