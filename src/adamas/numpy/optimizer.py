"""The base of the NumPy optimizers: NumPy's conventions, and no arithmetic.

A step hands the arrays and their gradients to the engine, with the numbers of this step from ``adamas.rule``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..rule import hyperparameters
from ..rule.declaration import has_penalty
from ..rule.formats import tensor_key
from ..rule.shared import defaults, schedulable
from ..step.engine import same_objects
from ..step.locks import step_lock
from ..step.memory import Memory, counted
from ..step.plan import GroupPlan
from ..step.record import Record, begin_state, rows_of
from ..step.resuming import COUNTS
from ..step.scheduled import OBSERVED, separated, steps_done
from ..step.stepping import Stepping
from ..threads import threads
from . import arrays
from .arrays import Array
from .state_dict import loaded, saved
from .tensors import TENSORS

Params: TypeAlias = Sequence[Array] | Mapping[str, Array] | Sequence[Mapping[str, Any]]
Gradients: TypeAlias = Sequence[Any] | Mapping[str, Any]


class Optimizer(Stepping):
    """What the optimizers of ``adamas.numpy`` share. Use one of those: ``Adam``, ``AdamW``, …

    ``lr``, ``weight_decay``, each of ``betas`` and ``max_grad_norm`` may be a schedule (``adamas.schedules``). The group then
    holds the number of the coming step; the step is the most that any parameter's state has counted.

    ``adamas.engine_info()`` tells how many threads a step uses.

    Attributes:
        param_groups: the groups: dictionaries with the arrays under ``"params"``, their names under ``"param_names"``, and
            the group's hyperparameters, which may be changed between two steps.
        state: for the name of each parameter (its position among all, where it was given none) that has had a gradient, its
            moments and counts as arrays, by PyTorch's names.
        grad_norm: 2-norm of the last step's gradient before clipping, where ``max_grad_norm`` or ``on_nonfinite`` had it
            measured, else None.
        grad_norm_limit: the lowest ``max_grad_norm`` of the last step, where there was one, else None.
    """

    _plans: list[GroupPlan] | None

    def __init__(self, params: Params, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """``arguments`` are ``locals()`` of the member's ``__init__``, and ``options`` what it was given beside."""
        own = ("self", "params", "options", "__class__")
        given = {**{name: value for name, value in arguments.items() if name not in own}, **options}
        known = defaults(self._member, "numpy")
        if unknown := options.keys() - known.keys():
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        self._lock = step_lock()
        self._schedules = []
        self.defaults = {**known, **given, **COUNTS}
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[str, dict[str, Array]] = {}
        self._begin()
        self._bounds = arrays.bounds_of([])  # of the arrays that were added
        self._add(_groups(params))

    def __repr__(self) -> str:
        lines = [
            f"  group {i}: {len(group['params'])} arrays, lr={schedules.get('lr', group['lr'])!r}"
            for i, (group, schedules) in enumerate(zip(self.param_groups, self.schedules, strict=True))
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    # ---- groups

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Adds a group; may be called at any time.

        Args:
            param_group: the arrays under ``"params"``, a list or a dict, and hyperparameters of their own, if any.

        Raises:
            TypeError: what is given is no NumPy array.
            ValueError: an array cannot be stepped in place, or shares memory with another; or an option has a wrong value.
        """
        self._add([param_group])

    def _add(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Adds groups, all of them or none."""
        groups, schedules = list(self.param_groups), []
        first = sum(map(len, (group["params"] for group in groups)))
        for one in given:
            if "params" not in one:
                raise ValueError(f"a parameter group has its arrays under 'params', and this one has {sorted(one)}")
            if unknown := sorted(one.keys() - self.defaults.keys() - {"params", "base_lr"}):
                raise TypeError(f"{type(self).__name__} has no option {', '.join(unknown)}")
            params = one["params"]
            named = list(params.items()) if isinstance(params, Mapping) else list(enumerate(_listed(params), first))
            group: dict[str, Any] = {**self.defaults, **one}
            group["params"], group["param_names"] = [p for _, p in named], [str(name) for name, _ in named]
            group["named"] = isinstance(params, Mapping)
            for p, name in zip(group["params"], group["param_names"], strict=True):
                arrays.check_parameter(p, repr(name))
            found = separated(self._member, group, self.state.values())
            self._check(group)
            lr = found.schedules.get("lr")
            group.setdefault("base_lr", float(group["lr"]) if lr is None else lr.unit)
            groups.append(group)
            schedules.append(found)
            first += len(named)
        names = [name for group in groups for name in group["param_names"]]
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"two parameters are called {twice!r}: each needs a name of its own")
        bounds = _check_apart(groups, self._bounds)
        for added in schedules:
            self._listen(added)
        self._schedules += schedules
        self.param_groups, self._plans, self._bounds = groups, None, bounds

    def _check(self, group: dict[str, Any]) -> None:
        """Raises if an option has an invalid value. Converts NumPy's numbers to Python's."""
        group.update(hyperparameters.checked(self._member, group))
        names = [repr(name) for name in group["param_names"]]
        hyperparameters.check_rows(group["rows"], names, [p.shape for p in group["params"]])

    # ---- state

    def _initialize_state(self, group: Mapping[str, Any], index: int) -> None:
        """Creates what the state of the group's parameter lacks: all of it at its first gradient."""
        name, p = group["param_names"][index], group["params"][index]
        begin_state(TENSORS, self._member, group, p, rows_of(group, index), self.state.setdefault(name, {}))

    def _current_plans(self) -> list[GroupPlan]:
        """The plans of all groups, made anew if a tensor, a state or an option that they rest on was replaced."""
        if (
            self._plans is None
            or len(self._plans) != len(self.param_groups)
            or not all(self._is_fresh(plan, group) for plan, group in zip(self._plans, self.param_groups, strict=True))
        ):
            # What was replaced since is checked as in the constructor.
            states = self.state.values()
            for schedules in self._schedules_now():
                group = schedules.group
                for p, name in zip(group["params"], group["param_names"], strict=True):
                    arrays.check_parameter(p, repr(name))
                schedules.verify()
                schedules.separate(states)
                self._check(group)
            self._bounds = _check_apart(self.param_groups, arrays.bounds_of([]))
            plans, first = [], 0
            for group in self.param_groups:
                plans.append(self._plan(group, first))
                first += len(group["params"])
            self._plans = plans
        return self._plans

    def _is_fresh(self, plan: GroupPlan, group: dict[str, Any]) -> bool:
        """Whether everything in the group that the plan rests on is still there."""
        signature, params, states = plan.basis
        return (
            bool(signature == _signature(self, group))
            and same_objects(params, group["params"])
            and same_objects(states, [self.state.get(name) for name in group["param_names"]])
        )

    def _plan(self, group: dict[str, Any], first: int) -> GroupPlan:
        """The plan of a group, whose parameters come after ``first`` others."""
        records = []
        states = [self.state.get(name) for name in group["param_names"]]
        for i, (p, name, state) in enumerate(zip(group["params"], group["param_names"], states, strict=True)):
            if state is not None:
                self._initialize_state(group, i)  # what an option asks for since
            key = tensor_key(group["seed"], name if group["named"] else first + i)
            records.append(Record(p, {} if state is None else state, repr(name), key, rows_of(group, i)))
        basis = _signature(self, group), list(group["params"]), states
        return GroupPlan(self._member, group, records, TENSORS, basis)

    def memory(self) -> Memory:
        """The bytes that weights and state take now, by kind: ``print`` shows a table. Gradients are the caller's."""
        params = [p for group in self.param_groups for p in group["params"]]
        with self._lock:
            return counted(self._member, params, [], self.state.values())

    # ---- the step

    def step(self, grads: Gradients) -> None:
        """Performs one optimization step: changes the arrays in place.

        An exception from a signal handler (``KeyboardInterrupt``, …) leaves all of it done or nothing.

        Args:
            grads: the gradient of each parameter, of its shape and any floating-point dtype: a dict by the parameters'
                names, or a list in their order. A parameter whose gradient is None, or is not in the dict, is left as it
                is. They are only read.

        Raises:
            FloatingPointError: a gradient is not finite and ``on_nonfinite="raise"``. Nothing was changed.
            ValueError: a gradient or a state array cannot be used; the message names it. Nothing was changed.
        """
        given = self._by_group(grads)
        with self._lock:
            for group, gradients in zip(self.param_groups, given, strict=True):
                for i, gradient in enumerate(gradients):
                    if gradient is not None and group["param_names"][i] not in self.state:
                        self._initialize_state(group, i)
            self._step_all(given, 1.0, threads())

    def _by_group(self, grads: Gradients) -> list[list[Any]]:
        for i, group in enumerate(self.param_groups):
            if len(group["params"]) != len(group["param_names"]):
                raise ValueError(
                    f"parameter group {i} has {len(group['params'])} arrays and {len(group['param_names'])} names: add "
                    "arrays by add_param_group"
                )
        names = [name for group in self.param_groups for name in group["param_names"]]
        if isinstance(grads, Mapping):
            by_name = {str(name): gradient for name, gradient in grads.items()}
            if unknown := sorted(by_name.keys() - set(names)):
                raise ValueError(f"grads: there is no parameter {unknown[0]!r}; the parameters are {_shortened(names)}")
            flat = [by_name.get(name) for name in names]
        else:
            flat = _listed(grads, "grads")
            if len(flat) != len(names):
                raise ValueError(
                    f"grads has {len(flat)} entries for {len(names)} parameters; give None for those without"
                )
        shapes = [np.shape(p) for group in self.param_groups for p in group["params"]]
        views = (
            None if gradient is None else arrays.gradient_view(gradient, shape, repr(name))
            for name, shape, gradient in zip(names, shapes, flat, strict=True)
        )
        return [[next(views) for _ in group["param_names"]] for group in self.param_groups]

    # ---- saving and loading

    def state_dict(self) -> dict[str, Array]:
        """Everything that a later run needs to go on, as arrays by name: for ``np.savez(path, **optimizer.state_dict())``.

        A moment is called ``state/<parameter>/<moment>``. Moments in bfloat16 are their codes, uint16; those in 8 bits are
        two arrays, the codes and ``…_scale``. The hyperparameters are one string, JSON, under ``param_groups``. All arrays
        are copies, all of one step: one that another thread makes is waited for. Nothing needs pickle.
        """
        with self._lock:
            return saved(self.param_groups, self.state)

    def load_state_dict(self, state_dict: Mapping[str, Any], hyperparameters: str = "saved") -> None:
        """Loads what ``state_dict()`` returned, or ``np.load`` of the file that it was saved to.

        Arrays are copied. Parameters are matched by name where both sides have names, else by position. Moments are stored
        as ``state=`` of this optimizer says: those saved in another format are converted, and a warning says which.

        Args:
            state_dict: the arrays by name.
            hyperparameters: ``"saved"``: learning rate, decay and all other options become what they were when saved;
                ``"given"``: those of this optimizer stay.

        Raises:
            ValueError: what was saved does not fit; the message names the parameter. Nothing was changed.
        """
        with self._lock:
            schedules = self._schedules_now()
            groups, state, saved_groups = loaded(
                self._member, schedules, self.defaults, self._check, state_dict, hyperparameters, type(self).__name__
            )
            self._restore(groups, state)
            for one, saved_group in zip(self._schedules, saved_groups, strict=True):
                one.load_observed(saved_group.get(OBSERVED))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the arrays with it."""
        return {
            name: value for name, value in vars(self).items() if name not in ("_lock", "_plans", "_bounds", "_counted")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores what was copied or pickled."""
        self._begin()
        vars(self).update(state)
        self._lock = step_lock()
        self._restore(self.param_groups, self.state)

    def _restore(self, groups: list[dict[str, Any]], state: dict[str, dict[str, Array]]) -> None:
        """Takes over what was loaded and checked."""
        self.param_groups, self.state, self._plans = groups, state, None
        self._bounds = arrays.bounds_of([p for group in groups for p in group["params"]])
        self._counted = None, steps_done(state.values())
        for schedules in self._schedules_now():
            schedules.separate(state.values())
            self._listen(schedules)


def _signature(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a plan depends on. Options that are words are among it, so that a changed one is checked."""
    words = (group.get(name) for name in ("weights", "decay", "on_nonfinite", "eps_mode", "state", "seed", "rows"))
    kinds = (type(group.get(name)) for name in schedulable(optimizer._member))
    return optimizer._member.rule(group), has_penalty(group), *words, *kinds


def _check_apart(groups: Sequence[Mapping[str, Any]], known: Array) -> Array:
    """Raises ValueError if two arrays of the groups share memory; returns the bounds of all, of which ``known`` are the
    first."""
    params = [p for group in groups for p in group["params"]]
    bounds = np.concatenate([known, arrays.bounds_of(params[len(known) :])])
    if (pair := arrays.shared(params, bounds)) is not None:
        names = [name for group in groups for name in group["param_names"]]
        raise ValueError(
            f"parameters {names[pair[0]]!r} and {names[pair[1]]!r} share memory, which would be stepped twice: pass one of "
            "them, or a copy"
        )
    return bounds


def _groups(params: Any) -> list[Mapping[str, Any]]:
    """What was given as parameter groups."""
    if isinstance(params, Mapping):
        return [{"params": params}]
    items = _listed(params)
    if items and all(isinstance(item, Mapping) and "params" in item for item in items):
        return items
    return [{"params": items}]


def _listed(items: Any, what: str = "params") -> list[Any]:
    if isinstance(items, np.ndarray) or not isinstance(items, Iterable):
        raise TypeError(
            f"{what} must be a list or a dict of arrays, not a single {type(items).__name__}: put it in a list"
        )
    return list(items)


def _shortened(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
