"""Carries out a run from its options to its files: load, train, checkpoint, write.

May import PyTorch, safetensors, adamas.rule, adamas.step, adamas.lab.tasks and adamas.torch.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import adamas
import adamas.torch
from adamas.lab import launch
from adamas.lab.inputs import InputError
from adamas.lab.tasks import Task, is_file, load
from adamas.lab.train import folder, measures, run_checkpoint, tensorboard
from adamas.lab.train.auto_lr import find_for_task
from adamas.lab.train.curves import draw_curves
from adamas.lab.train.interruption import Interruption
from adamas.lab.train.named_schedules import too_patient
from adamas.lab.train.options import Options
from adamas.lab.train.ranks import join
from adamas.lab.train.records import DivergedError, Listener, Listeners, Plan, Seconds, Summary
from adamas.lab.train.repeatable import seed_and_threads
from adamas.lab.train.training import Training, find_device
from adamas.rule import formats, layout
from adamas.step.stepping import Stepping
from adamas.torch import LRFindingError

# The shortest time between two checkpoints, and how many times longer than writing the last one a run has to train before
# the next: checkpoints take at most a thirtieth of the time.
SECONDS_BETWEEN_CHECKPOINTS = 1.0
CHECKPOINT_SHARE = 30
SECONDS_BETWEEN_ROWS = 0.5


def run(
    options: Options, listener: Listener, *, resume: Path | None = None, write: bool = True, task: Task | None = None
) -> Summary:
    """Carry out a run; see ``adamas.lab.train.fit``.

    Args:
        options: the options of the run.
        listener: receives its events, on rank 0 if there are several.
        resume: the folder of a run to resume; None begins a new one.
        write: whether to write a folder.
        task: the task, if it has been loaded already.

    Raises:
        RankLostError: another process of the run has ended.
    """
    previous: Mapping[str, Any] = {}
    content = None
    if resume is not None:
        previous = folder.read_config(resume)
        _check_versions(resume, previous)
        if (resume / folder.CHECKPOINT).exists():
            content = run_checkpoint.load(resume / folder.CHECKPOINT)
        elif (resume / folder.SUMMARY).exists():
            problem = f"{str(resume)!r} has ended, and has no {folder.CHECKPOINT} to resume from: begin a new run"
            raise InputError("resume", problem)
    elif write and options.out is not None:
        folder.check_out(options.out)
    if options.log is not None:
        tensorboard.check()
    if task is None:
        task = load(options.task, options.data_dir)
    # A run of an earlier version, which does not say how many examples validate, goes on without them.
    if options.has_plateau and (resume is None or "validation_examples" in previous):
        task = task.with_validation()
    lr_found = previous.get("lr_found")
    if options.lr is None and previous.get("lr") not in (None, options.learning_rate(task)):
        options = replace(options, lr=previous["lr"])  # the default may have changed since the run began
    if options.lr == "auto":
        options, lr_found = _with_lr_found(options)
    ranks = join(options.parallel, find_device(options.device).type)
    if ranks.rank != 0:
        listener = Listener()
    # With another number of ranks the sums round otherwise, whatever their threads.
    threads_then = previous.get("threads") if previous.get("ranks", 1) == ranks.size else None
    with (
        seed_and_threads(options.seed, options.threads or threads_then or task.threads, options.device),
        Interruption() as interruption,
        ranks.watched(interruption),
    ):
        training = Training(task, options, interruption, ranks)
        if is_file(options.task):
            training.rehearse()
        if content is not None:
            training.load_state(content)
        held = folder.hold(resume or options.out, options.task_label, resumed=resume is not None)
        with held if write and ranks.rank == 0 else nullcontext() as out:
            plan = _plan(options, training, lr_found, out)
            if out is not None:
                resumed_after = [*previous.get("resumed_after", [])]
                if resume is not None and not training.finished:
                    resumed_after.append(plan.done)
                configuration = {**_configuration(options, plan, training), "resumed_after": resumed_after}
                folder.write_config(out, configuration, resumed=resume is not None)
                if options.log is not None:
                    listener = Listeners(listener, tensorboard.TensorBoard(out))
            listener.on_start(plan)
            _train(training, listener, out)
            training.look(listener)
            summary = _summary(options, training, lr_found, out)
            with training.evaluated():
                weights = training.weights()
            if out is not None:
                _write_results(out, plan, training, weights, summary)
            listener.on_end(summary)
        ranks.wait()  # torchrun ends all processes when one has failed, so none ends before the files are written
    if training.diverged_at is not None:
        raise DivergedError(training.diverged_at, summary)
    return summary


def _check_versions(run: Path, previous: Mapping[str, Any]) -> None:
    """Raise InputError if the versions have changed, because the bits would differ; a study does the same."""
    changed = [f"{name} was {previous.get(name)}, is {now}" for name, now in _versions() if previous.get(name) != now]
    if changed:
        problem = (
            f"{str(run)!r} was trained with other versions: {'; '.join(changed)}: install those, or begin a new run"
        )
        raise InputError("resume", problem)


def _versions() -> tuple[tuple[str, str], ...]:
    return ("adamas", adamas.__version__), ("torch", str(torch.__version__))


def _write_results(out: Path, plan: Plan, training: Training, weights: Mapping[str, Any], summary: Summary) -> None:
    # Copies, because tied weights share their memory, which the file format refuses.
    copies = {name: value.contiguous().clone() for name, value in weights.items() if isinstance(value, Tensor)}
    folder.write(out / folder.MODEL, safetensors.torch.save(copies))
    rows = [row.row() for row in training.history]
    chart = training.task.chart(rows) if training.task.chart is not None and rows else None
    if chart is not None:
        folder.write(out / folder.CHART, folder.to_json(asdict(chart), indent=2))
    folder.write(out / folder.CURVES, draw_curves(plan, training.history, training.samples, chart, summary.diverged))
    if training.watched is not None:
        folder.write(out / folder.WATCH, training.watched.history.content())
    folder.write(out / folder.SUMMARY, folder.to_json(asdict(summary), indent=2))


def _train(training: Training, listener: Listener, out: Path | None) -> None:
    """Train to the end, with regular checkpoints, and one at the end."""
    now = perf_counter()
    checkpoint_due, rows_due = now + SECONDS_BETWEEN_CHECKPOINTS, now
    for evaluation in training.train(listener):
        if evaluation is not None:
            listener.on_evaluation(evaluation)
        is_foreign = training.scheduler is not None
        if training.at.step == 1 and is_foreign and (state := _state(training, out)) is not None:
            run_checkpoint.check(state["optimizer"])
        began = perf_counter()
        if out is not None and evaluation is not None and began >= rows_due:
            _write_rows(training, out)
            rows_due = began + SECONDS_BETWEEN_ROWS
        if training.ranks.agreed("save", out is not None and began >= checkpoint_due):
            _save(training, out)
            now = perf_counter()
            checkpoint_due = now + max(SECONDS_BETWEEN_CHECKPOINTS, CHECKPOINT_SHARE * (now - began))
    if out is not None:
        _write_rows(training, out)
    if training.diverged_at is None:
        _save(training, out)


def _save(training: Training, out: Path | None) -> None:
    """Write a checkpoint."""
    state = _state(training, out)
    if out is not None and state is not None:
        run_checkpoint.save(out / folder.CHECKPOINT, state)


def _state(training: Training, out: Path | None) -> dict[str, Any] | None:
    """The state of the run, for which all ranks work together, on the one that writes."""
    if out is None and training.ranks.size == 1:
        return None
    state = training.state()
    return state if out is not None else None


def _write_rows(training: Training, out: Path) -> None:
    folder.write_lines(out / folder.METRICS, [row.row() for row in training.history])
    folder.write_lines(out / folder.STEPS, [asdict(sample) for sample in training.samples])


def _with_lr_found(options: Options) -> tuple[Options, str]:
    """Return the options with a number for ``lr="auto"``, and the explanation of that number."""
    try:
        finding = find_for_task(options)
    except LRFindingError as error:
        raise InputError("lr", f"cannot be found: {error}") from error
    return replace(options, lr=float(f"{finding.lr:.2g}")), str(
        finding
    )  # two significant digits are all that a sweep supports


def _plan(options: Options, training: Training, lr_found: str | None, out: Path | None) -> Plan:
    task = training.task
    evaluations = -(-training.steps // (training.eval_every or training.steps_in_epoch))
    return Plan(
        task=options.task_label,
        description=task.description,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate(task),
        schedule=options.schedule if options.plateau is None else f"{options.schedule} * {training.plateaus[-1]}",
        lr_found=lr_found,
        metric=task.metric,
        mode=task.mode,
        target=task.target,
        epochs=training.epochs,
        steps=training.steps,
        evaluations=evaluations,
        batch_size=training.batch_size,
        train_examples=len(task.train[0]) if task.train else 0,
        test_examples=len(task.test[0]) if task.test else 0,
        validation_examples=len(task.validation[0]) if task.validation else 0,
        plateau_follows=[training.followed(plateau) for plateau in training.plateaus],
        without_effect=[line for line in (too_patient(training.rate, evaluations), _too_small(training)) if line],
        parameters=training.parameter_count,
        device=str(training.device),
        threads=torch.get_num_threads(),
        out=out,
        done=training.at.step,
        parallel=options.parallel,
        ranks=training.ranks.size,
    )


def _too_small(training: Training) -> str | None:
    """Say which codes of ``state=`` no parameter is large enough for, if there are any, and if there are no moments."""
    optimizer = training.optimizer
    if not isinstance(optimizer, Stepping):
        return None
    moments = [(group["state"], name) for group in optimizer.param_groups for name in optimizer._member.states]
    stored = training.options.optimizer_arguments().get("state", "float32")
    if stored != "float32" and not any(optimizer._member.rule(group).states for group in optimizer.param_groups):
        return f"{training.options.optimizer} keeps no moments: their format, {stored}, has no effect."
    codes = sorted(layout.WIDTHS.keys() & {layout.format_of(state, name) for state, name in moments})
    if not codes or any(layout.has_blocks(parameter.shape) for parameter in training.parameters):
        return None
    return (
        f"No moment is stored in {' or '.join(codes)}: that takes a parameter of at least {formats.LEAST_NUMEL:,} elements in "
        f"rows of at least {formats.LEAST_ROW}. They stay in float32."
    )


def _summary(options: Options, training: Training, lr_found: str | None, out: Path | None) -> Summary:
    task, last = training.task, training.history[-1] if training.history else None
    metrics = last.metrics if last is not None and last.step == training.at.step else training.evaluate()
    reached = next((row for row in training.history if task.solved(row.metrics[task.metric])), None)
    return Summary(
        task=options.task_label,
        optimizer=options.optimizer,
        lr=options.learning_rate(task),
        lr_found=lr_found,
        cuts=[row.cut for row in training.history if row.cut and row.step < training.at.step],
        metric=task.metric,
        mode=task.mode,
        target=task.target,
        value=metrics[task.metric],
        metrics=dict(metrics),
        steps_to_target=reached.step if reached else None,
        seconds_to_target=reached.train_seconds if reached else None,
        epochs=training.at.epoch,
        steps=training.at.step,
        train_seconds=training.train_seconds,
        seconds=Seconds(**training.seconds),
        memory=measures.memory(training.model, training.optimizer, training.device),
        parameters=training.parameter_count,
        interrupted=training.diverged_at is None and not training.finished,
        diverged=training.diverged_at is not None,
        out=out,
        explanation=None if training.watched is None else training.watched.sentences(),
    )


def _configuration(options: Options, plan: Plan, training: Training) -> Mapping[str, Any]:
    """Everything needed to repeat the run, with every default filled in; ``options`` are those that were given."""
    spec, defaults = options.spec, training.optimizer.defaults
    names = [*spec.options, *spec.arguments, *(("state", "weights") if spec.is_adamas else ())]
    return {
        **options.resolved(),
        **{name: defaults[name] for name in names if name in defaults},
        "task": plan.task,
        "description": plan.description,
        "lr": plan.learning_rate,
        "lr_found": plan.lr_found,
        "lr_schedule": {"text": repr(training.rate), "json": training.rate.to_json()},
        "metric": plan.metric,
        "mode": plan.mode,
        "target": plan.target,
        "validation_examples": plan.validation_examples,
        "plateau_follows": plan.plateau_follows,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "threads": plan.threads,
        "ranks": plan.ranks,
        "out": plan.out,
        "command": launch.typed(options.command()),
        "options": options.given(),
        **dict(_versions()),
        "python": platform.python_version(),
    }
