"""The options that several commands have, and how their text is read.

May import typer and the modules of adamas.lab that import nothing slow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from adamas.lab.inputs import InputError
from adamas.lab.tasks import TASKS
from adamas.lab.train.optimizers import OPTIMIZERS

TASK = Annotated[
    str | None,
    typer.Argument(help=f"The task: {', '.join(TASKS)} (adamas tasks describes them), or a Python file with one."),
]
DATA_DIR = Annotated[
    Path | None, typer.Option(help="The folder of the data, for tasks that read any (see adamas tasks).")
]
MODEL = Annotated[str | None, typer.Option(help="Another network of the task, such as small for mnist.")]
OPTIMIZER = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(OPTIMIZERS)}; torch:AdamW, or module:Class of another library; with arguments as in "
        "'sgd(momentum=0.9)'. By default adam."
    ),
]
BATCH_SIZE = Annotated[int | None, typer.Option(help="Examples per step. By default the task's own.")]
SEED = Annotated[
    int | None, typer.Option(help="Determines the initial weights and the order of the examples. By default 0.")
]
CLIP = Annotated[
    str | None,
    typer.Option(metavar="NORM|auto", help="Largest norm of the gradient; auto clips unusual norms."),
]
THREADS = Annotated[int | None, typer.Option(help="Threads to use. By default depends on the task.")]


def number_or_auto(name: str, text: str | None) -> float | Literal["auto"] | None:
    """Read an option that is a number or auto.

    Raises:
        InputError: it is neither; names the option.
    """
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise InputError(name, f"must be a number or auto, got {text!r}") from error
