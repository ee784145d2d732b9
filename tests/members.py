"""The table of members that the tests run over: a new member is tested by a row here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import adamas.torch
from adamas.rule.declaration import Numbers, Rule, has_penalty


@dataclass(frozen=True)
class Case:
    """A member with the hyperparameters that make it one."""

    name: str
    make: Callable[..., adamas.torch.Optimizer]
    reference: Callable[..., torch.optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


at, tt = adamas.torch, torch.optim
CASES = [
    Case("sgd", at.SGD, tt.SGD, {"lr": 0.05}),
    Case("momentum", at.SGD, tt.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.1}),
    Case("nesterov", at.SGD, tt.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    Case("adagrad", at.Adagrad, tt.Adagrad, {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    Case("rmsprop", at.RMSprop, tt.RMSprop, {"lr": 0.01}),
    Case("rmsprop-momentum", at.RMSprop, tt.RMSprop, {"lr": 0.003, "momentum": 0.8}),
    Case("rmsprop-centered", at.RMSprop, tt.RMSprop, {"lr": 0.01, "centered": True}),
    Case("rmsprop-centered-momentum", at.RMSprop, tt.RMSprop, {"lr": 0.003, "momentum": 0.8, "centered": True}),
    Case("adam", at.Adam, tt.Adam, {"lr": 0.02}),
    Case("adamw", at.AdamW, tt.AdamW, {"lr": 0.02, "weight_decay": 0.05}),
    Case("amsgrad", at.Adam, tt.Adam, {"lr": 0.02, "amsgrad": True}),
    Case("adamax", at.Adamax, tt.Adamax, {"lr": 0.02}),
    Case("nadam", at.NAdam, tt.NAdam, {"lr": 0.02}),
    Case("radam", at.RAdam, tt.RAdam, {"lr": 0.02}),
]


def has(case: Case, options: dict[str, Any]) -> bool:
    """Whether the member has these options: a centered one keeps its moments in float32."""
    return not (case.options.get("centered") and options.get("state", "float32") != "float32")


def moments_of(optimizer: adamas.torch.Optimizer, p: torch.Tensor) -> dict[str, np.ndarray]:
    """The moments of a parameter in float64 by their roles, as they begin before its first step."""
    group, member, state = optimizer.param_groups[0], optimizer._member, optimizer.state[p]
    return {
        one.role: state[name].detach().to(torch.float64).numpy().copy()
        if (name := member.names[one.role]) in state
        else np.full(p.shape, member.start_of(name, group))
        for one in member.rule(group).states
    }


def next_numbers(optimizer: adamas.torch.Optimizer, p: torch.Tensor, scale: float = 1.0) -> tuple[Rule, Numbers, bool]:
    """The rule of the parameter's next step, its numbers, and whether it has penalties."""
    group, member = optimizer.param_groups[0], optimizer._member
    state = optimizer.state[p]
    scalars = {name: float(state[name]) if name in state else value for name, value in member.scalars}
    numbers = member.numbers_of(group, member.advance(group, scalars), scale)
    return member.rule(group).at(numbers), numbers, has_penalty(group)


def ulp(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """The distance from |x| to the next number of ``dtype``, and never less than the least normal number.

    What is smaller than that one counts as zero.
    """
    info = np.finfo(dtype)
    return np.maximum(np.abs(x) * math.ldexp(1.0, -info.nmant), float(info.tiny))
