"""Comparisons of optimizers: ``compare`` from Python, ``adamas compare`` from the command line.

May import adamas.lab.tasks, adamas.lab.train, SciPy and the standard library. Importing this package alone imports neither
PyTorch nor SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adamas.extras import needs
from adamas.schedules import Schedule

if TYPE_CHECKING:
    from adamas.lab.compare.comparison import Listener
    from adamas.lab.compare.results import Judgement

__all__ = ["compare"]


@needs("train")
def compare(
    task: str | PathLike[str],
    optimizers: str | Sequence[str] = (),
    *,
    budget: int = 8,
    seeds: int = 3,
    tune: Sequence[str] = ("lr",),
    lr_range: tuple[float, float] | None = None,
    data_dir: str | PathLike[str] | None = None,
    model: str | None = None,
    epochs: int | None = None,
    eval_every: int | None = None,
    batch_size: int | None = None,
    schedule: str | Schedule = "constant",
    clip: float | Literal["auto"] | None = None,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    out: str | PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Judgement:
    """Tune several optimizers with the same budget, train each at its best with the same seeds, and judge them.

    Each trial is recorded in a study, one SQLite file, as it ends. The same call resumes an incomplete study; of a complete
    one, given as ``out``, it returns the judgement.

    Args:
        task: the name or the file of a task; or the file of a study, which has all other settings.
        optimizers: at least one, written as for ``adamas train --optimizer``; a sequence, or a string with commas.
        budget: tuning trials for each optimizer.
        seeds: training runs of each at its best setting, 3 or more.
        tune: what is tuned besides lr: any of ``weight_decay``, ``beta1``, ``beta2`` and ``eps``, where an optimizer has it.
        lr_range: the lowest and the highest rate for all, instead of a factor of 30 around the default of each.
        data_dir: folder of the data files, for the tasks that read some.
        model: another network of the task.
        epochs: passes over the training data in a trial; by default the task's own.
        eval_every: steps between the evaluations of a run at the best setting; by default a 20th of its steps.
        batch_size: examples a step; by default the task's own.
        schedule: a factor on the learning rate; see ``adamas.lab.train.fit``.
        clip: clips the gradient's norm; see ``adamas.lab.train.fit``.
        jobs: trials that run at the same time, each in its own process.
        threads: of each trial; by default the processors are divided among the jobs.
        device: the device to train on.
        out: the file of the study; by default a new ``studies/<task>-<time>.sqlite``, or an incomplete one there with the
            same settings.
        listener: receives the events of the comparison.

    Returns:
        Which optimizers are better or tied, with what confidence, and how sensitive they are to the learning rate.

    Raises:
        InputError: an argument, the data or the study cannot be used.
        OSError: the study cannot be written.
        KeyboardInterrupt: Ctrl-C; finished trials are kept.
    """
    from adamas.lab.compare.comparison import Listener, Request, carry_out, open_study
    from adamas.lab.compare.judgement import judge
    from adamas.lab.train.optimizers import split_optimizers

    request = Request(
        task=str(task),
        optimizers=tuple(split_optimizers(optimizers) if isinstance(optimizers, str) else optimizers),
        budget=budget,
        seeds=seeds,
        tune=tuple(tune),
        lr_range=lr_range,
        data_dir=None if data_dir is None else Path(data_dir),
        model=model,
        epochs=epochs,
        eval_every=eval_every,
        batch_size=batch_size,
        schedule=str(schedule),
        clip=clip,
        jobs=jobs,
        threads=threads,
        device=device,
        out=None if out is None else Path(out),
    )
    with open_study(request) as study:
        carry_out(study, listener or Listener())
        return judge(study)
