"""One trial: a training run that writes no folder and returns its outcome.

May import adamas.lab.train; its loop, which imports PyTorch, only inside functions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

from adamas.lab.compare.space import default_betas
from adamas.lab.compare.study import Outcome, Settings, Trial
from adamas.lab.tasks import Task, load
from adamas.lab.train.options import Options
from adamas.lab.train.records import DivergedError, Evaluation, Listener, Summary


def options_of(settings: Settings, trial: Trial) -> Options:
    """Return the options of the training run of a trial; ``adamas train`` could run the same for a final one.

    Only final trials are evaluated on the way: of the others, the value at the end counts.

    Raises:
        InputError: the optimizer cannot be used with these options.
    """
    chosen = dict(trial.settings)
    options = Options(
        task=settings.task,
        data_dir=None if settings.data_dir is None else Path(settings.data_dir),
        model=settings.model,
        optimizer=trial.optimizer,
        lr=chosen["lr"],
        eps=chosen.get("eps"),
        weight_decay=chosen.get("weight_decay"),
        schedule=settings.schedule,
        clip=settings.clip,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        eval_every=settings.eval_every if trial.phase == "final" else settings.steps,
        seed=trial.seed,
        device=settings.device,
        threads=settings.threads,
    )
    if chosen.keys() & {"beta1", "beta2"}:
        beta1, beta2 = default_betas(options.spec)
        options = replace(options, betas=(chosen.get("beta1", beta1), chosen.get("beta2", beta2)))
    return options


class Evaluations(Listener):
    """Keeps the evaluations of a run."""

    def __init__(self) -> None:
        """Start without evaluations."""
        self.rows: list[dict[str, object]] = []

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Keep it."""
        self.rows.append(evaluation.row())


def run_trial(settings: Settings, trial: Trial) -> Outcome:
    """Run a trial. Divergence is an outcome; any other error is raised.

    Settings are chosen without the test data, which is for the final trials.
    """
    from adamas.lab.train.running import run

    evaluations = Evaluations()
    task = _task_of(settings)
    try:
        chosen = task if trial.phase == "final" else task.choosing()
        summary = run(options_of(settings, trial), evaluations, write=False, task=chosen)
    except DivergedError as error:
        return _outcome(error.summary, evaluations, str(error))
    if summary.interrupted:
        raise InterruptedError("the run was interrupted")
    return _outcome(summary, evaluations, None)


def _task_of(settings: Settings) -> Task:
    """The task. If it has data, a process reads it once for all of its trials."""
    name, data_dir = settings.task, None if settings.data_dir is None else Path(settings.data_dir)
    if (name, data_dir) not in _TASKS:
        task = load(name, data_dir)
        if not task.train:  # it makes its own, perhaps with objects that change
            return task
        _TASKS[name, data_dir] = task
    return _TASKS[name, data_dir]


_TASKS: dict[tuple[str, Path | None], Task] = {}


def _outcome(summary: Summary, evaluations: Evaluations, diverged: str | None) -> Outcome:
    if diverged is None and not math.isfinite(summary.value):
        diverged = f"{summary.metric} is {summary.value} at the end"
    return Outcome(
        status="done" if diverged is None else "diverged",
        value=summary.value if diverged is None else None,
        steps_to_target=summary.steps_to_target,
        seconds_to_target=summary.seconds_to_target,
        train_seconds=summary.train_seconds,
        memory=asdict(summary.memory),
        seconds=asdict(summary.seconds),
        evaluations=evaluations.rows,
        error=diverged,
    )
