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
from adamas.lab.train.records import DivergedError, Evaluation, Listener, Summary, validation_name


def options_of(settings: Settings, trial: Trial) -> Options:
    """Return the options of the training run of a trial; ``adamas train`` could run the same for a final one.

    Only final trials are evaluated on the way, and those with a plateau: of the others, the value at the end counts.

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
        eval_every=settings.eval_every,
        seed=trial.seed,
        device=settings.device,
        threads=settings.threads,
    )
    if chosen.keys() & {"beta1", "beta2"}:
        beta1, beta2 = default_betas(options.spec)
        options = replace(options, betas=(chosen.get("beta1", beta1), chosen.get("beta2", beta2)))
    if trial.phase != "final" and not options.has_plateau:
        options = replace(options, eval_every=settings.steps)
    return options


def tuning_name(metric: str) -> str:
    """The name of a metric in tuning, where it is of the validation data. A task may have one that is called so anyway."""
    return metric if metric.startswith(validation_name("")) else validation_name(metric)


class Evaluations(Listener):
    """Keeps the evaluations of a run. If they are of the validation data, so are the names of the metrics."""

    def __init__(self, are_validation: bool) -> None:
        """Start without evaluations."""
        self.rows: list[dict[str, object]] = []
        self._are_validation = are_validation

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Keep it."""
        metrics = evaluation.metrics
        if self._are_validation:
            names = {name: tuning_name(name) for name in metrics}
            taken = metrics.keys() & {new for name, new in names.items() if new != name}
            metrics = {name if names[name] in taken else names[name]: value for name, value in metrics.items()}
        self.rows.append(replace(evaluation, metrics=metrics).row())


def run_trial(settings: Settings, trial: Trial) -> Outcome:
    """Run a trial. Divergence is an outcome; any other error is raised.

    Settings are chosen without the test data, which is for the final trials.
    """
    from adamas.lab.train.running import run

    task = _task_of(settings)
    if trial.phase != "final":
        task = task.choosing()
    evaluations = Evaluations(task.is_choosing)
    try:
        summary = run(options_of(settings, trial), evaluations, write=False, task=task)
    except DivergedError as error:
        return _outcome(error.summary, evaluations, str(error))
    if summary.interrupted:
        raise InterruptedError("the run was interrupted")
    is_finite = math.isfinite(summary.value)
    why = None if is_finite else f"{settings.metric_of(trial.phase)} is {summary.value} at the end"
    return _outcome(summary, evaluations, why)


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
