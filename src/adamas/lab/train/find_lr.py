"""``adamas find-lr``: looks for a learning rate for a task, and says how to train with it.

May import typer and adamas.lab.train; PyTorch only inside the functions, so that ``--help`` does not wait for it.
"""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adamas.lab.tasks import InputError
from adamas.lab.train import folder, terminal
from adamas.lab.train.command import BATCH_SIZE, DATA_DIR, MODEL, OPTIMIZER, SEED, TASK
from adamas.lab.train.options import Options
from adamas.schedules import constant

if TYPE_CHECKING:
    from adamas.torch import LRFinding

SWEEPS, STEPS, FEWEST_STEPS = 3, 100, 20
LOW, HIGH = 1e-7, 10.0  # as in adamas.torch.find_lr


def find_for_task(options: Options, *, sweeps: int = SWEEPS, steps: int = STEPS) -> LRFinding:
    """Look for a learning rate with the network, the data and the optimizer of a training run.

    The first weights are those that the run begins with. Of the options, ``lr``, ``schedule`` and ``epochs`` do not matter.

    Args:
        options: the run.
        sweeps: how often the sweep is repeated.
        steps: batches in a sweep.

    Returns:
        See ``adamas.torch.find_lr``.

    Raises:
        InputError: the data cannot be used, or there is no rate to be found; the text says why.
    """
    from adamas.torch import LRFindingError

    try:
        return _find(options, sweeps, steps, LOW, HIGH)
    except LRFindingError as error:
        raise InputError("lr", f"cannot be found: {error}") from error


def find_lr(
    task: TASK = None,
    data_dir: DATA_DIR = None,
    model: MODEL = None,
    optimizer: OPTIMIZER = None,
    batch_size: BATCH_SIZE = None,
    seed: SEED = None,
    sweeps: Annotated[
        int, typer.Option(help="How often the sweep of the rate is repeated, with other batches.")
    ] = SWEEPS,
    steps: Annotated[int, typer.Option(help=f"Batches in a sweep, {FEWEST_STEPS} or more.")] = STEPS,
    low: Annotated[float, typer.Option(help="The first rate, at which the loss must not move yet.")] = LOW,
    high: Annotated[float, typer.Option(help="The last rate, at which it should diverge.")] = HIGH,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Where to draw the curve. By default nowhere.")
    ] = None,
) -> None:
    """Look for a learning rate: raise it batch by batch, and see where the loss falls and where it diverges.

    Prints the rate, how much it is to be trusted, and the command that trains with it.
    """
    asked = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__ and name != "out"}
    options = Options(**{name: value for name, value in asked.items() if value is not None})
    if sweeps < 1:
        raise InputError("sweeps", f"must be a whole number from 1 up, got {sweeps}")
    if steps < FEWEST_STEPS:
        raise InputError("steps", f"must be a whole number from {FEWEST_STEPS} up, got {steps}")
    if not 0 < low < high < math.inf:
        raise InputError("high", f"must be above low, and both above 0, got {low:g} and {high:g}")
    if out is not None:
        folder.check_picture(out)
        import matplotlib  # noqa: F401 - where it is missing, that is said before the sweeps
    try:
        from adamas.torch import LRFindingError

        try:
            finding = _find(options, sweeps, steps, low, high)
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
    typer.echo(f"Next:\n  {shlex.join(replace(options, lr=float(f'{finding.lr:.2g}')).command())}")


def _find(options: Options, sweeps: int, steps: int, low: float, high: float) -> LRFinding:
    import torch
    from torch import nn

    import adamas.torch
    from adamas.lab.tasks import load
    from adamas.lab.train.repeatable import seed_and_threads
    from adamas.lab.train.training import make_model, make_optimizer

    task = load(options.task, options.data_dir)
    size = options.batch_size or task.batch_size

    def batches(seed: int) -> Iterator[Any]:
        return task.batches(size, torch.Generator().manual_seed(seed))

    def loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return task.loss(model, *batch)

    with seed_and_threads(options.seed, options.threads or task.threads):
        network = make_model(task, options)
        rate = constant() * (options.usual_rate(task.rates) or 1e-3)
        optimizer = make_optimizer(list(network.parameters()), options, rate)
        return adamas.torch.find_lr(
            network, optimizer, loss, batches, low=low, high=high, steps=steps, sweeps=sweeps, seed=options.seed
        )
