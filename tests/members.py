"""The table of members that the tests run over: a new member is tested by a row here.

Imports PyTorch alone: ``keras`` and ``optax`` are told by name, so that a process has only the frameworks that it tests.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import references
import torch

import adamas.torch
from adamas.rule.declaration import Member, Numbers, Rule, has_penalty
from adamas.rule.members import MEMBERS
from adamas.rule.names import arguments
from adamas.rule.shared import declared


@dataclass(frozen=True)
class There:
    """A member in another framework.

    Attributes:
        name: of our optimizer there, and of the framework's own.
        arguments: what makes it the member of the row.
        hyper: the hyperparameters of the declaration that these mean, where they are not its defaults.
        own: whether the framework has one of that name.
        own_arguments: its arguments, where they are others.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    hyper: dict[str, Any] = field(default_factory=dict)
    own: bool = True
    own_arguments: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """A member with the hyperparameters that make it one.

    Attributes:
        name: of the row.
        make: our class.
        reference: its namesake in ``torch.optim``; where there is none, a class or function of the same use that steps as the
            paper says (another library's, or one of the tests).
        options: of both.
        keras, optax: the member there, where its tests run over it.
    """

    name: str
    make: Callable[..., adamas.torch.Optimizer]
    reference: Callable[..., torch.optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    keras: There | None = None
    optax: There | None = None

    @property
    def declared(self) -> Member:
        return MEMBERS[self.make.__name__]

    def __str__(self) -> str:
        return self.name


def hyperparameters(member: Member, **given: Any) -> dict[str, Any]:
    """All hyperparameters of a member: those given, and the defaults of its declaration."""
    common = {"weight_decay": 0.0, "decay": "l2", "l1": 0.0, "maximize": False}
    return {**common, **{one.name: one.default for one in member.hyperparameters}, **given}


at, tt = adamas.torch, torch.optim
KERAS_ADAM = {"eps": 1e-7, "eps_mode": "hat"}
KERAS_RMSPROP = {"alpha": 0.9, "eps": 0.0, "eps_root": 1e-7}
OPTAX_RMSPROP = {"alpha": 0.9, "eps": 0.0, "eps_root": 1e-8}
MOMENTUM, NESTEROV = {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
CENTERED = {"centered": True, "momentum": 0.8}
ROOT = {"eps": 0.0, "eps_root": 1e-7}
CASES = [
    Case("sgd", at.SGD, tt.SGD, {"lr": 0.05}, There("SGD"), There("sgd")),
    Case(
        "momentum",
        at.SGD,
        tt.SGD,
        {"lr": 0.02, "momentum": 0.9, "dampening": 0.1},
        There("SGD", MOMENTUM, MOMENTUM),
        There("sgd", MOMENTUM, MOMENTUM),
    ),
    Case(
        "nesterov",
        at.SGD,
        tt.SGD,
        {"lr": 0.02, **NESTEROV},
        There("SGD", NESTEROV, NESTEROV),
        There("sgd", NESTEROV, NESTEROV),
    ),
    Case(
        "adagrad",
        at.Adagrad,
        tt.Adagrad,
        {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1},
        There("Adagrad", {}, ROOT),
        There("adagrad", {}, ROOT),
    ),
    Case(
        "rmsprop",
        at.RMSprop,
        tt.RMSprop,
        {"lr": 0.01},
        There("RMSprop", {}, KERAS_RMSPROP),
        There("rmsprop", {}, OPTAX_RMSPROP),
    ),
    Case(
        "rmsprop-momentum",
        at.RMSprop,
        tt.RMSprop,
        {"lr": 0.003, "momentum": 0.8},
        optax=There("rmsprop", {"momentum": 0.8}, {**OPTAX_RMSPROP, "momentum": 0.8}),
    ),
    Case("rmsprop-centered", at.RMSprop, tt.RMSprop, {"lr": 0.01, "centered": True}),
    Case(
        "rmsprop-centered-momentum",
        at.RMSprop,
        tt.RMSprop,
        {"lr": 0.003, **CENTERED},
        There("RMSprop", CENTERED, {**KERAS_RMSPROP, **CENTERED}),
        There("rmsprop", {**CENTERED, "eps_in_sqrt": False}, {"alpha": 0.9, "eps": 1e-8, **CENTERED}),
    ),
    Case("adam", at.Adam, tt.Adam, {"lr": 0.02}, There("Adam", {}, KERAS_ADAM), There("adam")),
    Case(
        "adamw",
        at.AdamW,
        tt.AdamW,
        {"lr": 0.02, "weight_decay": 0.05},
        There("AdamW", {"weight_decay": 0.1}, {**KERAS_ADAM, "weight_decay": 0.1, "decay": "decoupled"}),
        There("adamw", {"weight_decay": 0.1}, {"weight_decay": 0.1, "decay": "decoupled"}),
    ),
    Case(
        "amsgrad",
        at.Adam,
        tt.Adam,
        {"lr": 0.02, "amsgrad": True},
        There("Adam", {"amsgrad": True}, {**KERAS_ADAM, "amsgrad": True}),
        There(
            "amsgrad",
            {"bias_correction": False},
            {"amsgrad": True, "bias_correction": False},
            own_arguments={"bias_correction_mu": False, "bias_correction_nu": False},
        ),
    ),
    Case("adamax", at.Adamax, tt.Adamax, {"lr": 0.02}, There("Adamax", {}, {"eps": 1e-7}), There("adamax")),
    Case(
        "nadam",
        at.NAdam,
        tt.NAdam,
        {"lr": 0.02},
        There("Nadam", {}, {"eps": 1e-7, "momentum_decay": 1.0}),
        There("nadam", {}, {"momentum_decay": math.inf}),
    ),
    Case(
        "radam",
        at.RAdam,
        tt.RAdam,
        {"lr": 0.02},
        There("RAdam", {}, KERAS_ADAM, own=False),
        There("radam", {}, {"eps_mode": "torch"}),
    ),
    Case(
        "lion",
        at.Lion,
        references.Lion,
        {"lr": 0.01},
        There("Lion", {"weight_decay": 0.0}, {}),
        There("lion", {"weight_decay": 0.0}, {}),
    ),
    Case(
        "signum",
        at.Signum,
        references.Signum,
        {"lr": 0.01},
        There("Signum", {}, {}, own=False),
        There("signum", {}, {}),
    ),
    Case(
        "laprop",
        at.LaProp,
        references.LaProp,
        {"lr": 0.02},
        There("LaProp", {}, {}, own=False),
        There("laprop", {}, {}, own=False),
    ),
    Case(
        "lars",
        at.LARS,
        references.LARS,
        {"lr": 0.02, "trust_coefficient": 1.0, "weight_decay": 0.05},
        There("LARS", {}, {}, own=False),
        There("lars", {"weight_decay": 0.1}, {"weight_decay": 0.1, "decay": "l2"}),
    ),
    Case(
        "lamb",
        at.LAMB,
        references.LAMB,
        {"lr": 0.02, "weight_decay": 0.05},
        There("Lamb", {}, {"eps": 1e-7, "decay": "decoupled", "weight_decay": 0.0}),
        There("lamb", {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ),
    Case(
        "stableadamw",
        at.StableAdamW,
        references.StableAdamW,
        {"lr": 0.02, "weight_decay": 0.05},
        There("StableAdamW", {}, {"weight_decay": 0.0}, own=False),
        There("stableadamw", {}, {"weight_decay": 0.0}, own=False),
    ),
    Case(
        "adamh",
        at.AdamH,
        references.AdamH,
        {"lr": 0.02},
        There("AdamH", {}, {}, own=False),
        There("adamh", {}, {}, own=False),
    ),
    Case(
        "mars",
        at.MARS,
        references.MARS,
        {"lr": 0.02},
        There("MARS", {}, {}, own=False),
        There("mars", {}, {}, own=False),
    ),
    Case(
        "adan",
        at.Adan,
        references.Adan,
        {"lr": 0.02},
        There("Adan", {}, {}, own=False),
        There("adan", {}, {"eps_root": 1e-8}, own=False),
    ),
    Case(
        "sgd-schedule-free",
        at.SGDScheduleFree,
        references.SGDScheduleFree,
        {"lr": 0.05, "weight_decay": 0.05, "warmup_steps": 3},
        optax=There("schedule_free_sgd", {}, {}),
    ),
    Case(
        "adamw-schedule-free",
        at.AdamWScheduleFree,
        references.AdamWScheduleFree,
        {"lr": 0.02, "weight_decay": 0.05, "warmup_steps": 3, "r": 0.5},
        optax=There("schedule_free_adamw", {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ),
    Case(
        "prodigy",
        at.Prodigy,
        references.Prodigy,
        {"lr": 1.0, "weight_decay": 0.05, "d0": 0.01, "safeguard_warmup": True},
        There("Prodigy", {"d0": 0.01}, {"d0": 0.01}, own=False),
        There("prodigy", {"estim_lr0": 0.01}, {"d0": 0.01, "use_bias_correction": True}),
    ),
    Case("adopt", at.ADOPT, references.ADOPT, {"lr": 0.02}, There("ADOPT", {}, {}, own=False), There("adopt", {}, {})),
    Case(
        "ademamix",
        at.AdEMAMix,
        references.AdEMAMix,
        {"lr": 0.02, "alpha_warmup": 7.0, "beta3_warmup": 5.0},
        There("AdEMAMix", {}, KERAS_ADAM, own=False),
        There("ademamix", {}, {"alpha": 5.0}),
    ),
]
# Adafactor, for the tests that suit it. The state of its matrices is float32 and has not their shape, so there are no storage
# formats, no conversions between frameworks and no complex weights; and its sums are the framework's, in its order.
WITH_FACTORED = [*CASES, Case("adafactor", at.Adafactor, tt.Adafactor, {"lr": 0.02, "weight_decay": 0.05})]
# Those that torch.optim has as well: state dicts pass between the two, and signatures begin alike.
IN_TORCH = [case for case in CASES if case.reference is getattr(torch.optim, case.make.__name__, None)]


def arguments_of(case: Case, framework: str, make: Callable[..., Any]) -> dict[str, Any] | None:
    """The arguments with which another framework's member is that of the row; None where it cannot be."""
    found: dict[str, Any] = {}
    for name, one in declared(case.declared).items():
        value, names = case.options.get(name, one.default), arguments(framework, case.declared)[name]
        if name == "lr" or value != one.default_in(framework):
            found.update(zip(names, value if len(names) > 1 else [value], strict=True))
    if "eps_in_sqrt" in found:  # of optax's RMSprop
        found["eps_in_sqrt"] = found["eps_in_sqrt"] == "root"
    taken = inspect.signature(make).parameters
    for name in ("amsgrad", "eps_mode"):  # optax's amsgrad is so by its name; the ε of Adagrad is too small to tell
        if name not in taken:
            found.pop(name, None)
    return found if found.keys() <= taken.keys() else None


def moved_to(framework: str) -> dict[Case, Callable[[], Any]]:
    """A row for each set of state tensors, and what makes its member in another framework; none where that is missing."""
    if importlib.util.find_spec(framework) is None:
        return {}
    module = importlib.import_module(f"adamas.{framework}")
    found: dict[tuple[str, ...], tuple[Case, Callable[[], Any]]] = {}
    for case in CASES:
        there = getattr(case, framework)
        make = None if there is None else getattr(module, there.name)
        given = None if make is None else arguments_of(case, framework, make)
        if make is not None and given is not None:
            kept = case.declared.state_names(hyperparameters(case.declared, **case.options))
            found.setdefault((*kept, *dict(case.declared.scalars)), (case, partial(make, **given)))
    return dict(found.values())


def has(case: Case, options: dict[str, Any]) -> bool:
    """Whether the member has these options: a centered one keeps its moments in float32, some have no masked update, and
    some options contradict each other."""
    member = case.declared
    if (options.get("cautious") and member.no_mask) or member.conflict(
        hyperparameters(member, **{**case.options, **options})
    ):
        return False
    return not (case.options.get("centered") and options.get("state", "float32") != "float32")


def with_sums(case: Case) -> bool:
    """Whether its rule needs sums, so that a part of a tensor is not stepped as the whole is without the other parts."""
    return bool(case.declared.rule(hyperparameters(case.declared, **case.options)).sums)


def with_sums_over_all(case: Case) -> bool:
    """Whether its rule needs sums over all tensors, so that none of them is stepped as it would be alone."""
    rule = case.declared.rule(hyperparameters(case.declared, **case.options))
    return any(one.over == "all" for one in rule.sums)


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
