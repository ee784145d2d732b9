"""``adamas train``: reads the command line, calls ``fit`` and says what came of it.

May import typer and adamas.train; rich and PyTorch only inside the command, so that ``--help`` does not wait for them.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from adamas.tasks import TASKS, InputError
from adamas.train.options import OPTIMIZERS, Options
from adamas.train.records import DivergedError, Summary
from adamas.train.schedules import SCHEDULES

_TASKS = "; ".join(f"{name}: {explanation}" for name, explanation in TASKS.items())
_RATES = ", ".join(f"{name} {member.lr:g}" for name, member in OPTIMIZERS.items())
_SCHEDULES = "; ".join(f"{name}: {schedule.explanation}" for name, schedule in SCHEDULES.items())


def _having(option: str) -> str:
    return ", ".join(name for name, member in OPTIMIZERS.items() if option in member.options)


def train(
    task: Annotated[str, typer.Argument(help=f"What to train on. {_TASKS}.")] = "digits",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data files (mnist: the four IDX files, gzipped or not).")
    ] = None,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = "adam",
    lr: Annotated[
        str | None,
        typer.Option(metavar="RATE|auto", help=f"Learning rate; auto looks for one first. By default: {_RATES}."),
    ] = None,
    betas: Annotated[
        str | None,
        typer.Option(
            metavar="B1,B2", help=f"Decay rates of the two moments, such as 0.9,0.999. Only in {_having('betas')}."
        ),
    ] = None,
    eps: Annotated[
        float | None, typer.Option(help=f"What is added to the denominator. Only in {_having('eps')}.")
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Pull of the weights towards 0: decoupled in adamw, part of the gradient (L2) elsewhere."),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="NAME|EXPR",
            help="How the learning rate goes: a name, over the planned epochs, or an expression in optimizer steps, "
            f"such as 'warmup(100).then(cosine(900))', which adamas schedule draws. {_SCHEDULES}.",
        ),
    ] = "constant",
    plateau: Annotated[
        str | None,
        typer.Option(
            metavar="default|EXPR",
            help="Cut the rate when the test loss stops improving: default, or such as 'Plateau(factor=0.5, patience=2)'.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training data. By default the task's own.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step. By default the task's own.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the first weights and the order of the examples.")] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads to use. By default what suits the task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for what the run leaves behind. By default runs/TASK-TIME.")
    ] = None,
) -> None:
    """Train a small network and say what it reached.

    Leaves behind config.json, metrics.jsonl (a line an epoch), summary.json, curves.png and model.safetensors.
    Ctrl-C ends the run early and keeps what there is. The same seed and threads give the same weights.
    """
    options = Options(
        task=task,
        data_dir=data_dir,
        optimizer=optimizer,
        lr=None if lr is None else _parse_lr(lr),
        betas=None if betas is None else _parse_betas(betas),
        eps=eps,
        weight_decay=weight_decay,
        schedule=schedule,
        plateau=plateau,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        threads=threads,
        out=out,
    )
    try:
        from adamas.train.display import display
        from adamas.train.loop import run

        with display() as listener:
            summary = run(options, listener)
    except DivergedError as error:
        typer.echo(f"adamas: {error} (--lr). What there is: {error.summary.out}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        # Before the first step, when nothing has been written, or pressed again while the files were.
        typer.echo("adamas: interrupted", err=True)
        raise typer.Exit(130) from error
    if summary.interrupted:
        done = f"after {summary.steps} steps ({summary.epochs} whole epochs): test accuracy {summary.test_accuracy:.4f}"
        typer.echo(f"adamas: interrupted {done}. What there is: {summary.out}", err=True)
        raise typer.Exit(130)
    typer.echo(_outcome(summary))
    typer.echo(_advice(replace(options, lr=summary.lr) if options.lr == "auto" else options))


def _parse_lr(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise InputError("lr", f"must be a number or auto, got {text!r}") from error


def _parse_betas(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(","))
    except ValueError as error:
        raise InputError("betas", f"must be two numbers and a comma, such as 0.9,0.999, got {text!r}") from error
    return first, second


def _outcome(summary: Summary) -> str:
    share = summary.optimizer_seconds / summary.train_seconds
    return (
        f"\nReached a test accuracy of {summary.test_accuracy:.4f} (test loss {summary.test_loss:.4f}) "
        f"in {summary.train_seconds:.1f} s of training, {share:.0%} of it in {summary.optimizer}.\n"
        + "".join(f"Plateau: {cut}\n" for cut in summary.cuts)
        + f"Files: {summary.out}/ has summary.json, metrics.jsonl, config.json, curves.png and model.safetensors."
    )


def suggestions(options: Options) -> list[tuple[list[str], str]]:
    """Return the commands that are worth running next, as words, each with its reason."""
    fresh = replace(options, out=None)
    ideas = []
    if options.schedule == "constant":
        ideas.append((replace(fresh, schedule="cosine"), "let the rate fall: often a better end"))
    other = "nadam" if options.optimizer == "adam" else "adam"
    schedule = Options.schedule if options.schedule_is_rate else options.schedule  # a rate that suits one member alone
    ideas.append((replace(fresh, optimizer=other, lr=None, schedule=schedule), "another member of the family"))
    ideas.append((replace(fresh, seed=options.seed + 1), "how much of it was luck"))
    return [(idea.command(), why) for idea, why in ideas]


def _advice(options: Options) -> str:
    commands = [(shlex.join(words), why) for words, why in suggestions(options)]
    width = max(len(command) for command, _ in commands)
    return "Next:\n" + "\n".join(f"  {command:{width}}  # {why}" for command, why in commands)
