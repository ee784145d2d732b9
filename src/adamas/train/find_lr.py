"""``adamas find-lr``: looks for a learning rate for a task, and says how to train with it.

May import typer and adamas.train; PyTorch only inside the functions, so that ``--help`` does not wait for it.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adamas.tasks import TASKS, InputError
from adamas.train import folder
from adamas.train.options import OPTIMIZERS, Options

if TYPE_CHECKING:
    from adamas.torch import LRFinding

SWEEPS, STEPS, FEWEST_STEPS = 3, 100, 20

_TASKS = "; ".join(f"{name}: {explanation}" for name, explanation in TASKS.items())


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
        return _find(options, sweeps, steps)
    except LRFindingError as error:
        raise InputError("lr", f"cannot be found: {error}") from error


def find_lr(
    task: Annotated[str, typer.Argument(help=f"What to train on. {_TASKS}.")] = "digits",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data files (mnist: the four IDX files, gzipped or not).")
    ] = None,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = "adam",
    batch_size: Annotated[int | None, typer.Option(help="Examples a step. By default the task's own.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the first weights and the order of the examples.")] = 0,
    sweeps: Annotated[
        int, typer.Option(help="How often the sweep of the rate is repeated, with other batches.")
    ] = SWEEPS,
    steps: Annotated[int, typer.Option(help=f"Batches in a sweep, {FEWEST_STEPS} or more.")] = STEPS,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Where to draw the curve. By default nowhere.")
    ] = None,
) -> None:
    """Look for a learning rate: raise it batch by batch, and see where the loss falls and where it diverges.

    Prints the rate, how much it is to be trusted, and the command that trains with it.
    """
    options = Options(task=task, data_dir=data_dir, optimizer=optimizer, batch_size=batch_size, seed=seed)
    if sweeps < 1:
        raise InputError("sweeps", f"must be a whole number from 1 up, got {sweeps}")
    if steps < FEWEST_STEPS:
        raise InputError("steps", f"must be a whole number from {FEWEST_STEPS} up, got {steps}")
    if out is not None:
        folder.check_picture(out)
    try:
        from adamas.torch import LRFindingError

        try:
            finding = _find(options, sweeps, steps)
        except LRFindingError as error:
            typer.echo(f"adamas: no learning rate was found: {error}", err=True)
            raise typer.Exit(1) from error
        if out is not None:
            picture = io.BytesIO()
            finding.plot(picture)
            folder.write(out, picture.getvalue())
    except KeyboardInterrupt as error:
        typer.echo("adamas: interrupted", err=True)
        raise typer.Exit(130) from error
    typer.echo(finding)
    if out is not None:
        typer.echo(f"Picture: {out}")
    typer.echo(f"Next:\n  {shlex.join(replace(options, lr=float(f'{finding.lr:.2g}')).command())}")


def _find(options: Options, sweeps: int, steps: int) -> LRFinding:
    import torch

    import adamas.torch
    from adamas.tasks import load
    from adamas.train.repeatable import seed_and_threads

    task = load(options.task, options.data_dir)
    inputs, targets = task.train
    size = options.batch_size or task.batch_size

    def batches(seed: int) -> Iterator[Any]:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        for chosen in torch.split(order, size):
            yield inputs.index_select(0, chosen), targets.index_select(0, chosen)

    with seed_and_threads(options.seed, options.threads or task.threads):
        model = task.model()
        optimizer_class = getattr(adamas.torch, options.member.class_name)
        optimizer = optimizer_class(model.parameters(), **{**options.optimizer_arguments(), "lr": options.member.lr})
        return adamas.torch.find_lr(
            model,
            optimizer,
            lambda model, batch: task.loss(model(batch[0]), batch[1]),
            batches,
            steps=steps,
            sweeps=sweeps,
            seed=options.seed,
        )
