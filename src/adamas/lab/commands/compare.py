"""``adamas compare``: tunes and trains several optimizers under equal conditions, and says which are better or tied.

May import typer, adamas.lab.tasks and adamas.lab.train; rich, SciPy and PyTorch only inside the command, so that ``--help``
does not wait for them.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from adamas.lab import launch, terminal
from adamas.lab.commands.options import BATCH_SIZE, CLIP, DATA_DIR, MODEL, number_or_auto
from adamas.lab.compare.space import LR_FACTOR, TUNABLE
from adamas.lab.inputs import InputError
from adamas.lab.tasks import TASKS
from adamas.lab.train.named_schedules import SCHEDULES
from adamas.lab.train.optimizers import OPTIMIZERS, split_optimizers


def compare(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK|STUDY.sqlite",
            help=f"The task: {', '.join(TASKS)} (adamas tasks describes them), or a Python file with one. Or the study of an "
            "interrupted comparison, to resume it.",
        ),
    ],
    optimizers: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,…",
            help=f"The optimizers: {', '.join(OPTIMIZERS)}; torch:AdamW, or module:Class of another library; arguments as in "
            "'sgd(momentum=0.9)'.",
        ),
    ] = "",
    budget: Annotated[int, typer.Option(help="Tuning trials for each optimizer.")] = 8,
    seeds: Annotated[int, typer.Option(help="Training runs of each at its best setting, 3 or more.")] = 3,
    tune: Annotated[
        str,
        typer.Option(metavar="NAME,…", help=f"What to tune, in the optimizers that have it: {', '.join(TUNABLE)}."),
    ] = "lr",
    lr_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help=f"The range of rates, for all. By default a factor of {LR_FACTOR:g} to either side of each one's default.",
        ),
    ] = None,
    data_dir: DATA_DIR = None,
    model: MODEL = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training data in a trial. By default the task's own.")
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(help="Steps between the evaluations of a final trial. By default a 20th of its steps."),
    ] = None,
    batch_size: BATCH_SIZE = None,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="NAME|EXPR",
            help=f"How the rate changes, as a factor: {', '.join(SCHEDULES)}, or an expression in optimizer steps.",
        ),
    ] = "constant",
    clip: CLIP = None,
    jobs: Annotated[int, typer.Option(help="Trials at the same time, each in its own process.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each trial. By default the processors are divided among the trials.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cuda.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY.sqlite",
            help="The study, which is resumed if it exists. By default studies/TASK-TIME.sqlite.",
        ),
    ] = None,
) -> None:
    """Compare optimizers fairly: the same tuning budget for each, then the same seeds at the best setting of each.

    Every trial is recorded in the study, one SQLite file. If the comparison is interrupted, the same command resumes it.
    """
    from adamas.lab.compare.comparison import Request, carry_out, open_study
    from adamas.lab.compare.display import display, table
    from adamas.lab.compare.judgement import judge

    request = Request(
        task=task,
        optimizers=tuple(split_optimizers(optimizers)),
        budget=budget,
        seeds=seeds,
        tune=tuple(name.strip() for name in tune.split(",") if name.strip()),
        lr_range=None if lr_range is None else _parse_range(lr_range),
        data_dir=data_dir,
        model=model,
        epochs=epochs,
        eval_every=eval_every,
        batch_size=batch_size,
        schedule=schedule,
        clip=number_or_auto("clip", clip),
        jobs=jobs,
        threads=threads,
        device=device,
        out=out,
    )
    try:
        with open_study(request) as study:
            try:
                with display() as listener:
                    carry_out(study, listener)
            except KeyboardInterrupt as error:
                done, path = len(study.finished()), shlex.quote(str(study.path))
                trials = f"{done} trial{'' if done == 1 else 's'}"
                typer.echo(f"adamas: interrupted after {trials}. To resume: adamas compare {path}", err=True)
                raise typer.Exit(130) from error
            judgement = judge(study)
    except KeyboardInterrupt as error:  # before the first trial
        typer.echo("adamas: interrupted", err=True)
        raise typer.Exit(130) from error
    width = terminal.width()
    typer.echo("\n" + "\n".join(table(judgement, width)))
    typer.echo(terminal.filled("\n" + "\n".join(judgement.sentences), width))
    typer.echo(terminal.filled("".join(f"\nNote: {warning}" for warning in judgement.warnings), width))
    typer.echo(f"\nNext:\n  adamas report {shlex.quote(str(study.path))}")


class CompareCommand(TyperCommand):
    """``adamas compare``, which says how optimizers are named if they stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        ctx.allow_extra_args = True
        extra: list[str] = super().parse_args(ctx, args)
        given = ctx.params.get("optimizers") or ""
        if extra and (not given or given.rstrip().endswith(",")):
            from adamas.lab.compare.comparison import check_task

            check_task(ctx.params["task"])
            named = launch.typed([",".join(split_optimizers(",".join([given, *extra])))])
            problem = f"takes the names with commas and no spaces between: --optimizers {named}"
            raise InputError("optimizers", problem)
        if extra:
            ctx.fail(f"Got unexpected extra argument{'s' * (len(extra) > 1)} ({' '.join(extra)})")
        return extra


def _parse_range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise InputError("lr_range", f"must be two numbers and a comma, such as 1e-4,0.1, got {text!r}") from error
    return low, high
