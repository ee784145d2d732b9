"""Training runs: ``fit`` from Python, ``adamas train`` from the command line.

May import adamas.tasks and adamas.torch, and the libraries of the ``train`` extra. Importing this package costs none of
them: options are checked first, and PyTorch is imported when there is something to train.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal

from adamas.schedules import Schedule
from adamas.tasks import InputError
from adamas.train.options import Options
from adamas.train.records import DivergedError, Epoch, Listener, Plan, Progress, Summary

__all__ = ["DivergedError", "Epoch", "InputError", "Listener", "Plan", "Progress", "Summary", "fit"]


def fit(
    task: str = "digits",
    *,
    data_dir: str | PathLike[str] | None = None,
    optimizer: str = "adam",
    lr: float | Literal["auto"] | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float | None = None,
    schedule: str | Schedule = "constant",
    plateau: str | Schedule | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    out: str | PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Train a task's network and write the run's folder. The same seed and threads give the same weights, bit for bit.

    Args:
        task: ``"digits"`` or ``"mnist"``.
        data_dir: folder of the data files, for the tasks that read some.
        optimizer: a key of ``adamas.train.options.OPTIMIZERS``.
        lr: learning rate; by default the optimizer's own. ``"auto"`` looks for one first (``find_lr.find_for_task``).
        betas: decay rates of the two moments, each from 0 up to but not including 1.
        eps: what is added to the denominator.
        weight_decay: decoupled in adamw, a penalty on the gradient (L2) in the others.
        schedule: how the rate goes: a key of ``adamas.train.schedules.SCHEDULES``, stretched over the planned epochs; or a
            schedule, or one as text, in optimizer steps. A factor is multiplied by ``lr``; a rate replaces it.
        plateau: ``"default"``, or a Plateau, or one as text: cuts the rate when the test loss stops improving (with
            ``mode="max"``, the test accuracy), once an epoch. The run has one of its own, made anew from this; what it did
            is in ``cuts`` of the summary.
        epochs: passes over the training data; by default the task's own.
        batch_size: examples a step; by default the task's own. The last batch of an epoch may be smaller.
        seed: decides the first weights and the order of the examples.
        threads: how many PyTorch may use; by default what suits the task: one where a step is tiny, else as now.
        out: folder for config.json, metrics.jsonl, summary.json, curves.png and model.safetensors; by default a fresh
            ``runs/<task>-<time>``.
        listener: is told how the run goes.

    Returns:
        The content of summary.json. After Ctrl-C it says ``interrupted``, and covers what was done until then.

    Raises:
        InputError: an argument or the data cannot be used; nothing has been written.
        DivergedError: the loss was no longer finite; the files of what was done until then are written.
    """
    options = Options(
        task=task,
        data_dir=None if data_dir is None else Path(data_dir),
        optimizer=optimizer,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        schedule=str(schedule),
        plateau=None if plateau is None else str(plateau),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        threads=threads,
        out=None if out is None else Path(out),
    )
    from adamas.train.loop import run

    return run(options, listener or Listener())
