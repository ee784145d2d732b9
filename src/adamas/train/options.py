"""What a training run can be told, checked before anything slow is imported.

May import the standard library and adamas.tasks.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamas.tasks import TASKS, InputError, choose
from adamas.train.schedules import SCHEDULES


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
    lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    schedule: str = "constant"
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    threads: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check every value, and that the optimizer has what was given."""
        choose("task", self.task, TASKS)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("schedule", self.schedule, SCHEDULES)
        for name in ("betas", "eps", "weight_decay"):
            if getattr(self, name) is not None and name not in self.member.options:
                have = ", ".join(sorted({"lr", *self.member.options}))
                raise InputError(name, f"is not an option of {self.optimizer}, which has {have}: leave it out")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
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
        """``lr``, or the optimizer's default."""
        return self.member.lr if self.lr is None else self.lr

    def optimizer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for the optimizer's class; what was not given is left to the class."""
        given = {name: getattr(self, name) for name in sorted(self.member.options)}
        present = {name: value for name, value in given.items() if value is not None}
        return {"lr": self.learning_rate, **self.member.fixed, **present}
