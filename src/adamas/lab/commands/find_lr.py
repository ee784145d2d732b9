"""``adamas find-lr``: searches for a learning rate for a task, and prints the command that trains with it.

May import typer and adamas.lab.train; PyTorch only inside the command, so that ``--help`` does not wait for it.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adamas.lab import launch, terminal
from adamas.lab.commands.options import BATCH_SIZE, DATA_DIR, MODEL, OPTIMIZER, SEED, TASK
from adamas.lab.inputs import InputError
from adamas.lab.train import folder
from adamas.lab.train.options import Options

SWEEPS, STEPS, FEWEST_STEPS = 3, 100, 20
LOW, HIGH = 1e-7, 10.0  # as in adamas.torch.find_lr


def find_lr(
    task: TASK = None,
    data_dir: DATA_DIR = None,
    model: MODEL = None,
    optimizer: OPTIMIZER = None,
    batch_size: BATCH_SIZE = None,
    seed: SEED = None,
    sweeps: Annotated[int, typer.Option(help="The number of sweeps, each with other batches.")] = SWEEPS,
    steps: Annotated[int, typer.Option(help=f"Batches in a sweep, at least {FEWEST_STEPS}.")] = STEPS,
    low: Annotated[float, typer.Option(help="The first rate, too low for the loss to change.")] = LOW,
    high: Annotated[float, typer.Option(help="The last rate, at which the loss should diverge.")] = HIGH,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Where to draw the curve. By default it is not drawn.")
    ] = None,
) -> None:
    """Find a learning rate: raise it batch by batch, and see where the loss falls and where it diverges.

    Prints the rate, its confidence, and the command that trains with it.
    """
    asked = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__ and name != "out"}
    options = Options(**{name: value for name, value in asked.items() if value is not None})
    if sweeps < 1:
        raise InputError("sweeps", f"must be a positive whole number, got {sweeps}")
    if steps < FEWEST_STEPS:
        raise InputError("steps", f"must be a whole number of at least {FEWEST_STEPS}, got {steps}")
    if not 0 < low < high < math.inf:
        raise InputError("high", f"must be above low, and both above 0, got {low:g} and {high:g}")
    if out is not None:
        folder.check_picture(out)
        import matplotlib  # noqa: F401 - if it is missing, fail before the sweeps
    try:
        from adamas.lab.train.auto_lr import find_for_task
        from adamas.torch import LRFindingError

        try:
            finding = find_for_task(options, sweeps=sweeps, steps=steps, low=low, high=high)
        except LRFindingError as error:
            typer.echo(f"adamas: no learning rate was found: {error}", err=True)
            raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo("adamas: interrupted", err=True)
        raise typer.Exit(130) from error
    typer.echo(terminal.filled(str(finding), terminal.width()))
    if out is not None:
        picture = io.BytesIO()
        finding.plot(picture)
        with folder.output("out", out):
            folder.write(out, picture.getvalue())
        typer.echo(f"Picture: {out}")
    typer.echo(f"Next:\n  {launch.typed(replace(options, lr=float(f'{finding.lr:.2g}')).command())}")
