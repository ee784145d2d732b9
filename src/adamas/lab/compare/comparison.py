"""Sets up a comparison from a request, runs its trials, and reports to a listener.

May import the rest of adamas.lab.compare, adamas.lab.tasks and adamas.lab.train; PyTorch comes with the task.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import adamas
from adamas.lab.compare import design
from adamas.lab.compare.space import check_had, check_tune, quasi_random, state_space, tunable
from adamas.lab.compare.study import SUFFIX, Finished, Outcome, Settings, Study, Trial, check_exists, choose_path
from adamas.lab.compare.trial import options_of, tuning_name
from adamas.lab.compare.workers import RUN_TRIAL, Workers
from adamas.lab.inputs import InputError, choose
from adamas.lab.tasks import TASKS, Task, is_file, label, load
from adamas.lab.train.named_schedules import choose_schedule
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.options import Options

BUDGET, SEEDS, FEWEST_SEEDS, EVALUATIONS = 8, 3, 3, 20
MOST = 10_000  # the limit of trials and seeds


@dataclass(frozen=True)
class Request:
    """The arguments of a comparison. None stands for the default of the task or the machine.

    ``task`` may also be the file of a study, which has all other settings.

    Raises:
        InputError: a number is out of range, the task is unknown, or nothing is to be compared.
    """

    task: str
    optimizers: tuple[str, ...] = ()
    budget: int = BUDGET
    seeds: int = SEEDS
    tune: tuple[str, ...] = ("lr",)
    lr_range: tuple[float, float] | None = None
    data_dir: Path | None = None
    model: str | None = None
    epochs: int | None = None
    eval_every: int | None = None
    batch_size: int | None = None
    schedule: str = "constant"
    clip: float | Literal["auto"] | None = None
    jobs: int = 1
    threads: int | None = None
    device: str = "cpu"
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check what does not need the task."""
        if self.names_study:
            if given := [field.name for field in fields(self)[1:] if getattr(self, field.name) != field.default]:
                raise InputError(given[0], f"is determined by the study {self.task!r}: leave it out")
            return
        check_task(self.task)
        if not self.optimizers:
            raise InputError("optimizers", "is missing: name them with commas between, such as adam,sgd,torch:AdamW")
        if twice := [name for name in self.optimizers if self.optimizers.count(name) > 1]:
            raise InputError("optimizers", f"has {twice[0]!r} twice")
        for name, least, why in (
            ("budget", 1, ""),
            ("seeds", FEWEST_SEEDS, ": fewer do not show the variation between seeds"),
        ):
            if not least <= getattr(self, name) <= MOST:
                asked = f"from {least} to {MOST:,}, got {getattr(self, name)}"
                raise InputError(name, f"must be a whole number {asked}{why if getattr(self, name) < least else ''}")
        processors = os.cpu_count() or 1
        if not 1 <= self.jobs <= processors:
            raise InputError("jobs", f"must be from 1 to the {processors} processors of this machine, got {self.jobs}")
        if self.lr_range is not None and not 0 < self.lr_range[0] < self.lr_range[1] < math.inf:
            low, high = self.lr_range
            raise InputError("lr_range", f"must be two rising numbers above 0, such as 1e-4,0.1, got {low:g},{high:g}")
        if self.out is not None and self.out.suffix != SUFFIX:
            raise InputError(
                "out", f"must be the name of a study, such as {self.out.stem}{SUFFIX}, got {str(self.out)!r}"
            )
        object.__setattr__(self, "tune", tuple(check_tune(self.tune)))
        if choose_schedule(self.schedule, 1).is_rate:
            raise InputError(
                "schedule", f"{self.schedule!r} contains a rate, and the rate is tuned: give a factor, such as cosine"
            )

    @property
    def names_study(self) -> bool:
        """Whether ``task`` is the file of a study."""
        return self.task.endswith(SUFFIX)

    def command(self) -> str:
        """Return the command line for this request, without the defaults."""
        words = ["adamas", "compare", self.task]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [f"--{field.name.replace('_', '-')}", text]
        return shlex.join(words)


def check_task(task: str) -> None:
    """Check that there is such a task, or such a study.

    Raises:
        InputError: there is neither; names ``task``.
    """
    if task.endswith(SUFFIX):
        check_exists(Path(task), "task")
    elif Path(task).is_dir() and task not in TASKS:
        problem = f"{task!r} is a folder: give a task, or a study that adamas compare wrote, which is a file"
        raise InputError("task", f"{problem}; adamas report shows the runs of several folders in one page")
    elif not is_file(task):
        choose("task", task, TASKS)


class Listener:
    """Receives the events of a comparison. These methods do nothing; a subclass overrides those that it needs."""

    def on_start(self, study: Study, done: int, total: int) -> None:
        """Called before the first trial; some may be done already."""

    def on_trial_start(self, trial: Trial) -> None:
        """Called when a trial begins."""

    def on_trial_end(self, trial: Trial, outcome: Outcome, done: int, total: int) -> None:
        """Called when a trial is finished and recorded."""


def open_study(request: Request) -> Study:
    """Create the requested study, or open it if it exists: as ``out``, as ``task``, or as an incomplete study in the default
    folder with the same settings.

    Raises:
        InputError: the request cannot be carried out, or the existing study has other settings.
    """
    if request.names_study:
        study = Study.open(Path(request.task), parameter="task", write=True)
        try:
            study.check_same(replace(study.settings, **_versions()))
            _try_out_all(study.settings)
        except InputError:
            study.close()
            raise
        return study
    settings = _settings(request)
    if request.out is None:
        return _unfinished(settings) or Study.create(choose_path(label(request.task)), settings)
    if not request.out.exists():
        return Study.create(request.out, settings)
    study = Study.open(request.out, write=True)
    try:
        study.check_same(settings)
    except InputError:
        study.close()
        raise
    return study


def carry_out(study: Study, listener: Listener, run: str = RUN_TRIAL) -> None:
    """Run all missing trials of a study.

    Args:
        study: open for writing.
        listener: receives the events.
        run: see ``workers.Workers``.

    Raises:
        OSError: the study cannot be written, or no process can be started.
        KeyboardInterrupt: Ctrl-C; the running trials are lost.
    """
    settings = study.settings
    finished = study.finished()
    listener.on_start(study, len(finished), design.total(settings, finished))
    with Workers(settings, run) as workers:
        while trials := design.missing(settings, finished):
            for trial, outcome in workers.run(trials, listener.on_trial_start):
                study.record(trial, outcome)
                finished.append(Finished(trial, outcome))
                listener.on_trial_end(trial, outcome, len(finished), design.total(settings, finished))


def _settings(request: Request) -> Settings:
    """Fill in every default, and check that each optimizer can be made and trained."""
    options = {name: _options(request, name) for name in request.optimizers}
    tune = list(request.tune)
    has = {name: tunable(run.spec) for name, run in options.items()}
    check_had(tune, has)
    task = load(request.task, request.data_dir)
    chosen_by = task.choosing()
    epochs = request.epochs or task.epochs
    batch_size = request.batch_size or task.batch_size
    has_plateau = any(run.has_plateau for run in options.values())
    steps = epochs * (task.with_validation() if has_plateau else task).steps_in_epoch(batch_size)
    settings = Settings(
        task=str(Path(request.task).resolve()) if is_file(request.task) else request.task,
        description=task.description,
        metric=task.metric,
        tuning_metric=tuning_name(task.metric) if chosen_by.validation else task.metric,
        mode=task.mode,
        target=task.target,
        optimizers=list(request.optimizers),
        budget=request.budget,
        seeds=design.final_seeds(request.seeds),
        tune=tune,
        hyperparameters=has,
        space={
            name: state_space(name, usual_rate(task, run), [own for own in has[name] if own in tune], request.lr_range)
            for name, run in options.items()
        },
        points=quasi_random(request.budget, tune),
        data_dir=None if request.data_dir is None else str(request.data_dir.resolve()),
        model=request.model,
        epochs=epochs,
        batch_size=batch_size,
        steps=steps,
        eval_every=request.eval_every or math.ceil(steps / EVALUATIONS),
        schedule=request.schedule,
        clip=request.clip,
        device=request.device,
        jobs=request.jobs,
        threads=request.threads or _threads(task, request.jobs),
        command=request.command(),
        **_versions(),
        python=platform.python_version(),
    )
    _try_out_all(settings, chosen_by)
    return settings


def usual_rate(task: Task, options: Options) -> float | None:
    """Return the middle of the range of rates: the default rate, or that of the namesake here for another library's class.

    Otherwise the same method could be searched in two ranges: the default of PyTorch's SGD is 0.001.
    """
    namesake = options.spec.class_name.lower()
    if options.spec.is_adamas or namesake not in OPTIMIZERS:
        return options.spec.usual_lr(task)
    return OPTIMIZERS[namesake].usual_lr(task)


def _try_out_all(settings: Settings, chosen_by: Task | None = None) -> None:
    """Make the models and optimizers of the trials, so that a mistake is an error now, not a study of failed trials."""
    import adamas.lab.train.running  # noqa: F401 - every trial imports it
    from adamas.lab.train.interruption import Interruption
    from adamas.lab.train.repeatable import seed_and_threads
    from adamas.lab.train.training import Training

    if chosen_by is None:
        chosen_by = load(settings.task, None if settings.data_dir is None else Path(settings.data_dir)).choosing()
    for trial in design.tuning_trials(settings)[: len(settings.optimizers)]:
        options = options_of(settings, trial)
        with _named_optimizers(), seed_and_threads(options.seed, options.threads, options.device):
            training = Training(chosen_by, options, Interruption())
            if is_file(settings.task):
                training.rehearse()


@contextmanager
def _named_optimizers() -> Iterator[None]:
    """Make errors of training name the option of this command."""
    try:
        yield
    except InputError as error:
        if error.parameter != "optimizer":
            raise
        problem = error.problem
        if error.other:  # what a run has as an option of its own, and a comparison has not
            problem = f"{problem.partition(': give it')[0]}, which a comparison determines: leave it out"
        raise InputError("optimizers", problem, error.shown) from error


def _options(request: Request, optimizer: str) -> Options:
    """Make the options of a training run, which checks them; the rate is a placeholder."""
    with _named_optimizers():
        return Options(
            task=request.task,
            data_dir=request.data_dir,
            model=request.model,
            optimizer=optimizer,
            lr=1.0,
            schedule=request.schedule,
            clip=request.clip,
            epochs=request.epochs,
            eval_every=request.eval_every,
            batch_size=request.batch_size,
            device=request.device,
            threads=request.threads,
        )


def _threads(task: Task, jobs: int) -> int:
    """Divide the processors among the jobs, but give no trial more threads than the task asks for."""
    share = max(1, (os.cpu_count() or 1) // jobs)
    return min(share, task.threads or share)


def _versions() -> dict[str, Any]:
    import torch

    return {"adamas": adamas.__version__, "torch": str(torch.__version__)}


def _unfinished(settings: Settings) -> Study | None:
    """Open the newest study of the default folder that has these settings and is not complete."""
    for path in sorted(Path("studies").glob(f"{label(settings.task)}-*{SUFFIX}"), reverse=True):
        try:
            study = Study.open(path, write=True)
        except InputError:
            continue  # damaged, or in use by another process
        if not study.settings.differences(settings) and design.missing(study.settings, study.finished()):
            return study
        study.close()
    return None
