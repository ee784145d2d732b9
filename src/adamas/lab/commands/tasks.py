"""``adamas tasks``: lists the tasks. May import typer, rich, adamas.lab.tasks and adamas.lab.terminal."""

from __future__ import annotations

import typer

from adamas.lab import terminal
from adamas.lab.tasks import TASKS


def tasks() -> None:
    """List the tasks, with the size of their networks, the time of a default run on two cores, and their targets."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    texts = [(name, about.summary, about.target, about.needs) for name, about in TASKS.items()]
    for title, cells in zip(("task", "what", "target", "needs"), zip(*texts, strict=True), strict=True):
        longest = max(len(word) for cell in cells for word in cell.split())  # no word is broken
        table.add_column(title, overflow="fold", min_width=longest)
    for title in ("parameters", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, about in TASKS.items():
        seconds = f"{about.seconds} s" if about.seconds < 120 else f"{about.seconds / 60:.0f} min"
        table.add_row(name, about.summary, about.target, about.needs, f"{about.parameters:,}", seconds)
    Console(highlight=False).print(table)
    hint = "Train on one with: adamas train TASK. Your own task is a Python file: adamas train path/to/task.py"
    typer.echo(terminal.filled(hint, terminal.width()))
