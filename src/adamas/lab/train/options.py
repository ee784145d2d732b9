"""The options of a training run, checked before anything slow is imported.

May import the standard library, NumPy, adamas.lab.tasks, adamas.schedules and adamas.step.watching.
"""

from __future__ import annotations

import math
import os
import sys
import types
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from adamas.lab import launch
from adamas.lab.inputs import InputError, choose
from adamas.lab.tasks import TASKS, Task, is_file, label
from adamas.lab.train.named_schedules import choose_schedule, plateaus
from adamas.lab.train.optimizers import OptimizerSpec, choose_optimizer
from adamas.schedules import Plateau, Schedule, ScheduleError, parse
from adamas.step import watching

MOST_SEED = 2**63  # seeds are below this
MOST_STEPS = 10**9  # the limit of every number of steps, epochs or examples
MOST_SHOWN = 80  # characters of an invalid value in a message
POINTS_CHECKED = 10_000  # steps of a run at which the rate is checked

Precision = Literal["float32", "bfloat16"]
State = Literal["float32", "bfloat16", "int8", "int6"]
Weights = Literal["nearest", "stochastic", "split"]


@dataclass(frozen=True)
class Options:
    """The options of a run. None stands for the default of the task, the optimizer or the machine.

    Raises:
        InputError: a value has the wrong type or is out of range, a name is unknown, or the optimizer does not have the
            option.
    """

    task: str = "digits"
    data_dir: Path | None = None
    model: str | None = None
    optimizer: str = "adam"
    lr: float | Literal["auto"] | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    schedule: str = "constant"
    plateau: str | None = None
    clip: float | Literal["auto"] | None = None
    state: State | None = None
    weights: Weights | None = None
    epochs: int | None = None
    batch_size: int | None = None
    eval_every: int | None = None
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    threads: int | None = None
    parallel: Literal["ddp", "fsdp"] | None = None
    log: Literal["tensorboard"] | None = None
    watch: bool | str = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check every value, and that the optimizer has the options that are given."""
        self._check_kinds()
        if not is_file(self.task):
            choose("task", self.task, TASKS)
        self._check_optimizer()
        if self.schedule_is_rate and self.lr is not None:
            unit = choose_schedule(self.schedule, 1).unit
            problem = f"contains a rate ({unit:g}), and lr is given too ({self.lr}): leave one of them out"
            raise InputError("schedule", problem, other="lr")
        if self.plateau not in (None, "default"):
            self._plateau("min")
        if self.parallel is not None and ":" in self.device:
            raise InputError("device", f"is {self.device}, but each rank has a device of its own: leave the number out")
        if self.parallel is not None and self.lr == "auto":
            problem = "auto is searched by one process, not with parallel: run adamas find-lr, and give its rate"
            raise InputError("lr", problem, other="parallel")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value not in (None, "auto") and not 0 <= value < math.inf:
                raise InputError(name, f"must be a nonnegative number, got {value}")
        for name in ("eps", "clip"):  # eps = 0 would be 0/0 for the weights of a pixel that is never lit
            value = getattr(self, name)
            if value not in (None, "auto") and not 0 < value < math.inf:
                raise InputError(name, f"must be a number above 0, got {value}")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise InputError("betas", f"must be two numbers from 0 up to but not including 1, got {self.betas}")
        for name in ("epochs", "batch_size", "eval_every"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_STEPS:
                raise InputError(name, f"must be a whole number from 1 to {MOST_STEPS:,}, got {value}")
        try:
            watching.options_of(self.watch)
        except ValueError as error:
            problem = f"must be every=10, keep=256, both with a comma, or nothing, got {self.watch!r}"
            raise InputError("watch", problem) from error
        processors = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= processors:
            raise InputError("threads", f"must be from 1 to the {processors} of this machine, got {self.threads}")
        if not 0 <= self.seed < MOST_SEED:
            raise InputError("seed", f"must be a whole number from 0 to 2**63-1, got {self.seed}")
        if self.precision == "float32" and (self.weights is not None or "weights" in self.spec.arguments):
            problem = "determines how bfloat16 weights are stored: give precision bfloat16 too, or leave it out"
            raise InputError("weights", problem, other="precision")

    def _check_kinds(self) -> None:
        """Check the types. An int counts as a float; text is converted to paths, and lists to tuples."""
        for name, hint in get_type_hints(Options).items():
            value = plain(getattr(self, name))
            object.__setattr__(self, name, value)
            kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
            if Path in kinds and isinstance(value, str) and value:
                object.__setattr__(self, name, Path(value))
            if not any(_is(getattr(self, name), kind) for kind in kinds):
                raise InputError(name, f"must be {' or '.join(filter(None, map(_called, kinds)))}, got {_shown(value)}")

    def _check_optimizer(self) -> None:
        for name in ("betas", "eps", "weight_decay"):
            if getattr(self, name) is not None and name not in self.spec.options:
                have = ", ".join(sorted({"lr", *self.spec.options}))
                problem = f"is not an option of {self.optimizer}, which has {have}: leave it out"
                if (form := self.spec.other_form(name)) is not None:
                    problem += f", or give it as an argument of the optimizer, such as {name}={form!r}"
                raise InputError(name, problem)
        for name in ("state", "weights", "watch"):
            if getattr(self, name) not in (None, False) and not self.spec.is_adamas:
                raise InputError(
                    name, f"is not an option of {self.optimizer}, only of Adamas's optimizers: leave it out"
                )
        for name, argument in (("state", "state"), ("weights", "weights"), ("clip", "max_grad_norm")):
            if getattr(self, name) is not None and argument in self.spec.arguments:
                raise InputError(name, f"is given twice, also as {argument} in {self.optimizer}: leave one of them out")
        if self.clip == "auto" and not self.spec.is_adamas:
            raise InputError(
                "clip", f"auto is not an option of {self.optimizer}, only of Adamas's optimizers: give a number"
            )
        if self.spec.lr is None and self.lr is None and not self.schedule_is_rate:
            raise InputError("lr", f"is missing: {self.optimizer} has no default")

    @cached_property
    def spec(self) -> OptimizerSpec:
        """The parsed optimizer."""
        return choose_optimizer(self.optimizer)

    @property
    def watched(self) -> watching.Options | None:
        """What the optimizer watches, which is saved with the checkpoint; None without ``watch``."""
        options = watching.options_of(self.watch)
        return options and options._replace(save=True)

    @cached_property
    def schedule_is_rate(self) -> bool:
        """Whether the schedule contains the learning rate."""
        return choose_schedule(self.schedule, 1).is_rate

    @cached_property
    def has_plateau(self) -> bool:
        """Whether the learning rate reacts to a metric."""
        return self.plateau is not None or bool(plateaus(choose_schedule(self.schedule, 1)))

    @property
    def task_label(self) -> str:
        """The task's name, or that of its file."""
        return label(self.task)

    def learning_rate(self, task: Task) -> float:
        """The number that a factor is multiplied by: ``lr``, or the number in the schedule, or the default on the task."""
        if self.schedule_is_rate:
            return choose_schedule(self.schedule, 1).unit
        if self.lr is None or self.lr == "auto":
            return self.spec.usual_lr(task) or 0.0
        return self.lr

    def rate(self, steps: int, task: Task, plateau_mode: Literal["max", "min"] = "min") -> Schedule:
        """The learning rate over a run of that many steps, times the plateau if there is one.

        ``plateau_mode`` is the mode of the default plateau.

        Raises:
            InputError: it is negative or infinite at some step.
        """
        schedule = choose_schedule(self.schedule, steps)
        rate = schedule if schedule.is_rate else self.learning_rate(task) * schedule
        at = np.linspace(0, steps, min(steps + 1, POINTS_CHECKED)).round()
        wrong = ~((rate(at) >= 0) & (rate(at) < math.inf))
        if wrong.any():
            step = int(at[wrong.argmax()])
            raise InputError(
                "schedule", f"gives a rate of {rate(step):g} at step {step}: it must be a finite nonnegative number"
            )
        return rate if self.plateau is None else rate * self._plateau(plateau_mode)

    def _plateau(self, mode: Literal["max", "min"]) -> Plateau:
        if self.plateau == "default":
            return Plateau() if mode == "min" else Plateau(mode=mode)
        try:
            plateau = parse(self.plateau or "")
        except ScheduleError as error:
            raise InputError("plateau", f"cannot be read: {error.problem}", error.marked) from error
        if not isinstance(plateau, Plateau):
            raise InputError(
                "plateau", f"must be default, or such as 'Plateau(factor=0.5, patience=2)', got {self.plateau!r}"
            )
        return plateau

    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for the optimizer's class besides lr, without those that are left to its defaults."""
        given: dict[str, Any] = {name: getattr(self, name) for name in sorted(self.spec.options)}
        if self.spec.is_adamas:
            kept = "split" if self.precision == "bfloat16" and "weights" not in self.spec.arguments else None
            given |= {
                "seed": self.seed,
                "state": self.state,
                "weights": self.weights or kept,
                "max_grad_norm": self.clip,
            }
        return {**{name: value for name, value in given.items() if value is not None}, **self.spec.arguments}

    def given(self) -> dict[str, Any]:
        """The options that differ from the defaults, as values for JSON and TOML; ``Options(**given)`` is equal."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value != Options.__dataclass_fields__[name].default
        }

    def command(self) -> list[str]:
        """The words of the command line of this run, without the defaults."""
        words = ["train", self.task]
        for name, value in self.given().items():
            if name not in ("task", "parallel"):
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [text])]
        return launch.command(words, self.parallel)

    def resolved(self) -> dict[str, Any]:
        """Every option by name."""
        return asdict(self)


def plain(value: Any) -> Any:
    """Convert numbers and arrays of NumPy and PyTorch to Python's, and lists to tuples."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a type hint of Options."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_is, value, parts))
    if kind in (int, float):
        too_large = kind is float and isinstance(value, int) and abs(value) > sys.float_info.max
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and not too_large
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _called(kind: Any) -> str:
    """The name of a type in an error message."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "two numbers"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return names.get(kind, "")
