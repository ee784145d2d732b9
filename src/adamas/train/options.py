"""What a training run can be told, checked before anything slow is imported.

May import the standard library, NumPy, adamas.tasks and adamas.schedules.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adamas.schedules import Plateau, Schedule, ScheduleError, parse
from adamas.tasks import TASKS, InputError, choose
from adamas.train.schedules import choose_schedule

POINTS_CHECKED = 10_000  # of the rate, over the planned steps


@dataclass(frozen=True)
class Member:
    """One optimizer of the family as ``adamas train`` offers it: a class of adamas.torch and what it is given.

    ``lr`` is the default rate, ``options`` are those that the optimizer has besides it, ``fixed`` what makes this
    member of the class.
    """

    class_name: str
    lr: float
    options: frozenset[str]
    fixed: dict[str, Any]


_DECAY = frozenset({"weight_decay"})
_SCALED = _DECAY | {"eps"}
_ADAM = _SCALED | {"betas"}

OPTIMIZERS = {
    "sgd": Member("SGD", 0.1, _DECAY, {}),
    "momentum": Member("SGD", 0.03, _DECAY, {"momentum": 0.9}),
    "nesterov": Member("SGD", 0.03, _DECAY, {"momentum": 0.9, "nesterov": True}),
    "adagrad": Member("Adagrad", 0.01, _SCALED, {}),
    "rmsprop": Member("RMSprop", 1e-3, _SCALED, {}),
    "adam": Member("Adam", 1e-3, _ADAM, {}),
    "adamw": Member("AdamW", 1e-3, _ADAM, {}),
    "amsgrad": Member("Adam", 1e-3, _ADAM, {"amsgrad": True}),
    "adamax": Member("Adamax", 2e-3, _ADAM, {}),
    "nadam": Member("NAdam", 1e-3, _ADAM, {}),
    "radam": Member("RAdam", 1e-3, _ADAM, {}),
}


@dataclass(frozen=True)
class Options:
    """A run as it was asked for; None stands for the default of the task, the optimizer or the machine.

    Raises:
        InputError: a value is out of range, a name is unknown, or the optimizer does not have the option.
    """

    task: str = "digits"
    data_dir: Path | None = None
    optimizer: str = "adam"
    lr: float | Literal["auto"] | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    schedule: str = "constant"
    plateau: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    threads: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check every value, and that the optimizer has what was given."""
        choose("task", self.task, TASKS)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule_is_rate and self.lr is not None:
            problem = (
                f"has a rate in it ({self.learning_rate:g}), and lr is given too ({self.lr}): leave one of them out"
            )
            raise InputError("schedule", problem)
        if self.plateau is not None:
            self._plateau()
        for name in ("betas", "eps", "weight_decay"):
            if getattr(self, name) is not None and name not in self.member.options:
                have = ", ".join(sorted({"lr", *self.member.options}))
                raise InputError(name, f"is not an option of {self.optimizer}, which has {have}: leave it out")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value not in (None, "auto") and not 0 <= value < math.inf:
                raise InputError(name, f"must be a number from 0 up, got {value}")
        if self.eps is not None and not 0 < self.eps < math.inf:
            # Zero would be valid arithmetic, but 0/0 where a pixel is never lit.
            raise InputError("eps", f"must be a number above 0, got {self.eps}")
        if self.betas is not None and not (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)):
            raise InputError("betas", f"must be two numbers from 0 up to but not including 1, got {self.betas}")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, f"must be a whole number from 1 up, got {value}")
        processors = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= processors:
            raise InputError("threads", f"must be from 1 to the {processors} of this machine, got {self.threads}")
        if not 0 <= self.seed < 2**63:
            raise InputError("seed", f"must be a whole number from 0 to 2**63-1, got {self.seed}")

    @property
    def member(self) -> Member:
        """The optimizer as an entry of OPTIMIZERS."""
        return OPTIMIZERS[self.optimizer]

    @property
    def learning_rate(self) -> float:
        """``lr``, or the number in the schedule, or the optimizer's default; what a factor is multiplied by."""
        if self.schedule_is_rate:
            return choose_schedule(self.schedule, 1).unit
        return self.member.lr if self.lr is None or self.lr == "auto" else self.lr

    @property
    def schedule_is_rate(self) -> bool:
        """Whether the schedule has the learning rate in it."""
        return choose_schedule(self.schedule, 1).is_rate

    def rate(self, steps: int) -> Schedule:
        """The learning rate over a run of that many steps, with the plateau where one is asked for.

        Raises:
            InputError: it is negative or infinite at some step.
        """
        schedule = choose_schedule(self.schedule, steps)
        rate = schedule if schedule.is_rate else self.learning_rate * schedule
        at = np.linspace(0, steps, min(steps + 1, POINTS_CHECKED)).round()
        wrong = ~((rate(at) >= 0) & (rate(at) < math.inf))
        if wrong.any():
            step = int(at[wrong.argmax()])
            raise InputError(
                "schedule", f"gives a rate of {rate(step):g} at step {step}: it must be a number from 0 up"
            )
        return rate if self.plateau is None else rate * self._plateau()

    def _plateau(self) -> Plateau:
        try:
            plateau = parse("Plateau()" if self.plateau == "default" else self.plateau or "")
        except ScheduleError as error:
            raise InputError("plateau", f"cannot be read: {error.problem}", error.marked) from error
        if not isinstance(plateau, Plateau):
            raise InputError(
                "plateau", f"must be default, or such as 'Plateau(factor=0.5, patience=2)', got {self.plateau!r}"
            )
        return plateau

    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for the optimizer's class; what was not given is left to the class."""
        given = {name: getattr(self, name) for name in sorted(self.member.options)}
        present = {name: value for name, value in given.items() if value is not None}
        return {"lr": self.learning_rate, **self.member.fixed, **present}

    def command(self) -> list[str]:
        """The words of the command line that asks for this run, without the defaults."""
        words = ["adamas", "train", self.task]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "task" and value != field.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [f"--{field.name.replace('_', '-')}", text]
        return words
