"""``adamas train``: reads the command line, trains, and prints the result.

May import typer and adamas.lab.train; rich and PyTorch only inside the command, so that ``--help`` does not wait for them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from adamas.lab import launch, terminal
from adamas.lab.commands.ending import stop
from adamas.lab.commands.options import (
    BATCH_SIZE,
    CLIP,
    DATA_DIR,
    MODEL,
    OPTIMIZER,
    SEED,
    TASK,
    THREADS,
    number_or_auto,
)
from adamas.lab.inputs import InputError
from adamas.lab.tasks import TASKS
from adamas.lab.train.config import gather
from adamas.lab.train.named_schedules import SCHEDULES
from adamas.lab.train.optimizers import OPTIMIZERS, decaying, having
from adamas.lab.train.options import MOST_SEED, Options
from adamas.lab.train.records import DivergedError, RankLostError, Summary

EVERY_STEP = "every=1"
_RATES = ", ".join(f"{name} {spec.lr:g}" for name, spec in OPTIMIZERS.items())
_SCHEDULES = "; ".join(f"{name}: {schedule.explanation}" for name, schedule in SCHEDULES.items())


def train(
    task: TASK = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Resume the run in this folder from its last checkpoint, bit for bit."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options from a file; those on the command line take precedence."),
    ] = None,
    data_dir: DATA_DIR = None,
    model: MODEL = None,
    optimizer: OPTIMIZER = None,
    lr: Annotated[
        str | None,
        typer.Option(metavar="RATE|auto", help=f"Learning rate; auto searches for one first. By default: {_RATES}."),
    ] = None,
    betas: Annotated[
        str | None,
        typer.Option(
            metavar="B1,B2",
            help=f"Decay rates of the two moments, such as 0.9,0.999. Only in {', '.join(having('betas'))}.",
        ),
    ] = None,
    eps: Annotated[
        float | None, typer.Option(help=f"What is added to the denominator. Only in {', '.join(having('eps'))}.")
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help=f"Weight decay: part of the gradient (L2) in {', '.join(decaying('l2'))}; part of the update in "
            f"{', '.join(decaying('update'))}; decoupled in others."
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|EXPR",
            help="How the learning rate changes: a name, over the planned epochs, or an expression in optimizer steps, "
            f"such as 'warmup(100).then(cosine(900))', which adamas schedule draws. {_SCHEDULES}. By default constant.",
        ),
    ] = None,
    plateau: Annotated[
        str | None,
        typer.Option(
            metavar="default|EXPR",
            help="Cut the rate when the validation loss stops improving, on a tenth of the training data: default, or e.g. "
            "'Plateau(factor=0.5, patience=2)'.",
        ),
    ] = None,
    clip: CLIP = None,
    state: Annotated[
        str | None, typer.Option(help="How the moments are stored: float32, bfloat16, int8 or int6.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="How bfloat16 weights are stored: split (as exact as float32, the default), stochastic or nearest."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training data. By default the task's own.")
    ] = None,
    batch_size: BATCH_SIZE = None,
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations. By default depends on the task, usually an epoch.")
    ] = None,
    seed: SEED = None,
    device: Annotated[str | None, typer.Option(help="Where to train, such as cuda. By default cpu.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the network and its weights: float32 (the default) or bfloat16.")
    ] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Run the network through torch.compile, or not.")
    ] = None,
    threads: THREADS = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            metavar="ddp|fsdp",
            help="Share the run among the processes of torchrun --nproc-per-node 4 -m adamas train TASK --parallel ddp. With "
            "ddp each has the whole network, with fsdp a part of it.",
        ),
    ] = None,
    log: Annotated[str | None, typer.Option(help="tensorboard also writes TensorBoard's event files.")] = None,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="[every=N]",
            help="Keep statistics of each tensor's updates (of one step in N), explain what left its usual course, and show "
            "both in adamas report. Only with Adamas's optimizers.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files of the run. By default runs/TASK-TIME.")
    ] = None,
) -> None:
    """Train a network on a task and print the result.

    Writes config.json, metrics.jsonl, steps.jsonl, summary.json, curves.png, model.safetensors and checkpoint.pt.
    Ctrl-C ends the run early and keeps its files; --resume continues it. The same seed and threads give the same weights.
    """
    asked = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__}
    asked |= {
        "lr": number_or_auto("lr", lr),
        "clip": number_or_auto("clip", clip),
        "betas": None if betas is None else _parse_betas(betas),
    }
    asked["watch"] = True if watch == EVERY_STEP else watch
    options = gather({name: value for name, value in asked.items() if value is not None}, config=config, resume=resume)
    try:
        from adamas.lab.train.display import display
        from adamas.lab.train.running import run

        with display() as listener:
            summary = run(options, listener, resume=resume)
    except DivergedError as error:
        stop(1, f"{error} (--lr). Files until then: {error.summary.out}")
    except RankLostError as error:
        stop(1, str(error))
    except KeyboardInterrupt:
        # Before the first step, when nothing has been written, or a second time while the files were written.
        stop(130, "interrupted")
    if summary.interrupted:
        again = launch.command(["train", "--resume", str(summary.out)], options.parallel)
        stop(
            130,
            f"interrupted after {summary.steps} steps ({summary.epochs} whole epochs): {_metrics(summary)}. "
            f"To resume: {launch.typed(again)}",
        )
    if launch.rank() != 0:
        return
    typer.echo(terminal.filled(_outcome(summary), terminal.width()))
    typer.echo(_advice(replace(options, lr=summary.lr) if options.lr == "auto" else options))


class TrainCommand(TyperCommand):
    """``adamas train``, in which ``--watch`` may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        return super().parse_args(ctx, _with_watch_spelled_out(args))


def _with_watch_spelled_out(words: list[str]) -> list[str]:
    """The words, with a text after each ``--watch`` that has none."""
    found = []
    for i, word in enumerate(words):
        found.append(word)
        if word == "--watch" and "=" not in "".join(words[i + 1 : i + 2]).partition("--")[0]:
            found.append(EVERY_STEP)
    return found


def _parse_betas(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(","))
    except ValueError as error:
        raise InputError("betas", f"must be two numbers and a comma, such as 0.9,0.999, got {text!r}") from error
    return first, second


def _metrics(summary: Summary) -> str:
    """The main metric, followed by the other metrics."""
    from adamas.lab.train.display import figure

    figures = {name: f"{name.replace('_', ' ')} {figure(value)}" for name, value in summary.metrics.items()}
    counts = figures.pop(summary.metric)
    return f"{counts} ({', '.join(figures.values())})" if figures else counts


def _outcome(summary: Summary) -> str:
    share = summary.seconds.optimizer / summary.train_seconds if summary.train_seconds else 0.0
    aim = f"{'at least' if summary.mode == 'max' else 'at most'} {summary.target:g}"
    target = (
        f"The target, {aim}, was reached after {summary.steps_to_target:,} steps ({summary.seconds_to_target:.1f} s)."
        if summary.steps_to_target is not None
        else f"The target, {aim}, was not reached."
    )
    return (
        f"\nAt the end: {_metrics(summary)}, after {summary.train_seconds:.1f} s of training, {share:.0%} of it in "
        f"{summary.optimizer}. {target}\n"
        + "".join(f"Plateau: {cut}\n" for cut in summary.cuts)
        + f"Files: {summary.out}/ has summary.json, metrics.jsonl, steps.jsonl, config.json, curves.png, model.safetensors"
        + (" and checkpoint.pt." if summary.explanation is None else ", checkpoint.pt and watch.npz.")
    )


def suggestions(options: Options) -> list[tuple[list[str], str]]:
    """Return the commands that are worth running next, as words, each with its reason."""
    fresh = replace(options, out=None)
    ideas = []
    if options.schedule == "constant":
        ideas.append((replace(fresh, schedule="cosine"), "lowers the rate: often a better result"))
    other = "nadam" if options.optimizer == "adam" else "adam"
    schedule = Options.schedule if options.schedule_is_rate else options.schedule  # a rate suits only one member
    ideas.append((replace(fresh, optimizer=other, lr=None, schedule=schedule), "another member of the family"))
    if _is_random(options):
        ideas.append((replace(fresh, seed=(options.seed + 1) % MOST_SEED), "shows how much depends on the seed"))
    return [(idea.command(), why) for idea, why in ideas]


def _is_random(options: Options) -> bool:
    """Whether the seed has any effect: on the initial weights, the data, or the rounding of the optimizer."""
    arguments = options.optimizer_arguments()
    rounds = arguments.get("state", "float32") != "float32" or arguments.get("weights") == "stochastic"
    known = options.task in TASKS and (options.spec.is_adamas or options.spec.module == "torch.optim")
    return not known or TASKS[options.task].random or rounds


def _advice(options: Options) -> str:
    commands = [(launch.typed(words), why) for words, why in suggestions(options)]
    return "\n".join(["Next:", *terminal.commands(commands, terminal.width())])
