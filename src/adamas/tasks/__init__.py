"""What a model can be trained on: each task is one file of this folder, with its data, its network and its loss.

May import the standard library only, so that the command line can name the tasks without waiting for PyTorch. A task's
own module imports PyTorch, and whatever it reads its data with.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

TASKS = {
    "digits": "8×8 pictures of digits, from scikit-learn; needs no download",
    "mnist": "28×28 pictures of digits; give the folder of its four IDX files with data_dir",
}


class InputError(ValueError):
    """What the caller gave cannot be used. The text is one line: what is wrong and what would work.

    It begins with ``parameter``, as Python spells it; ``problem`` is the rest of the sentence. ``shown`` are lines that show
    where the mistake is, for a command line to print below it.
    """

    def __init__(self, parameter: str, problem: str, shown: str = "") -> None:
        """Make one sentence of the two."""
        super().__init__(f"{parameter} {problem}")
        self.parameter = parameter
        self.problem = problem
        self.shown = shown


def choose(parameter: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``; raise InputError with the nearest of them otherwise."""
    choices = list(choices)
    if name in choices:
        return name
    nearest = get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    suggestion = f"did you mean {nearest[0]}? " if nearest else ""
    raise InputError(parameter, f"{name!r} is unknown: {suggestion}There are {', '.join(choices)}")


@dataclass(frozen=True)
class Task:
    """A classification task, with its data in memory.

    ``train`` and ``test`` are (inputs, targets), both indexed by example along dimension 0. ``loss`` takes the model's
    outputs (examples × classes) and the targets and returns the mean over the examples. ``backpropagate`` takes the
    model, inputs and targets, sets the ``grad`` of every parameter to the gradient of that loss, and returns the loss.
    ``epochs``, ``batch_size`` and ``threads`` are what a run has that does not say otherwise; None leaves the threads to
    PyTorch.
    """

    name: str
    description: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    backpropagate: Callable[[Any, Tensor, Tensor], Tensor]
    epochs: int
    batch_size: int
    threads: int | None


def load(name: str, data_dir: Path | None) -> Task:
    """Read a task's data.

    Args:
        name: one of TASKS.
        data_dir: folder of the data files, for the tasks that read some; None for the others.

    Raises:
        InputError: the name is unknown, or the data is missing or damaged.
    """
    task: Task = importlib.import_module(f"adamas.tasks.{choose('task', name, TASKS)}").load(data_dir)
    return task
