"""The optimizer that all members share: it speaks NumPy's habits and holds no arithmetic.

A step hands the arrays and their gradients to the engine, with the numbers of this step from ``adamas.rule``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import _engine
from ..rule import hyperparameters, layout
from ..rule.declaration import has_penalty
from ..rule.formats import tensor_key
from ..step import Memory, Plan, Stepping
from ..step.locks import step_lock
from ..step.memory import counted
from ..step.resuming import COUNTS
from ..step.scheduled import HYPERPARAMETERS, separated, steps_done
from ..threads import threads
from . import arrays, checkpoint
from .arrays import Array

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

    _plans: list[_GroupPlan] | None

    def __init__(self, params: Params, defaults: dict[str, Any], options: Any, allowed: Any) -> None:
        if unknown := options.keys() - allowed.__annotations__.keys():
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        self._lock = step_lock()
        self._schedules = []
        self.defaults = {**hyperparameters.COMMON, **defaults, **options, **COUNTS}
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
            found = separated(group, self.state.values())
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
        """Raises if an option has a value that it cannot have; makes NumPy's numbers Python's."""
        group.update(hyperparameters.checked(group))
        hyperparameters.check_options(group, self._member.states)
        names = [repr(name) for name in group["param_names"]]
        hyperparameters.check_rows(group["rows"], names, [p.shape for p in group["params"]])

    # ---- state

    def _initialize_state(self, group: Mapping[str, Any], index: int) -> None:
        """Creates what the state of the group's parameter lacks: all of it at its first gradient."""
        p, state = group["params"][index], self.state.setdefault(group["param_names"][index], {})
        for name, value in self._member.scalars:
            if name not in state:
                state[name] = np.array(value, np.float64)  # counts past 2²⁴, where float32 stops
        start = group.get("initial_accumulator_value")
        for slot in self._slots(group, index):
            if slot.name not in state:
                state.update(arrays.filled(slot, p, start) if start else arrays.zeros(slot, p))
        if is_split(p, group) and layout.LOW_BITS not in state:
            state[layout.LOW_BITS] = np.zeros_like(p, dtype=np.int16, subok=False)

    def _slots(self, group: Mapping[str, Any], index: int) -> Iterable[layout.Slot]:
        p, rows = group["params"][index], group["rows"]
        whole = None if rows is None or rows[index] is None else rows[index][1]
        return layout.slots(self._member, group, p.shape, p.dtype.name, whole)

    def _current_plans(self) -> list[_GroupPlan]:
        """The plans of all groups, made anew if a tensor, a state or an option that they rest on was replaced."""
        if (
            self._plans is None
            or len(self._plans) != len(self.param_groups)
            or not all(plan.is_fresh(self, group) for plan, group in zip(self._plans, self.param_groups, strict=True))
        ):
            # Whatever was put there since is looked at as at the beginning.
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
                plans.append(_GroupPlan(self, group, first))
                first += len(group["params"])
            self._plans = plans
        return self._plans

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
            return checkpoint.saved(self)

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
            checkpoint.load(self, state_dict, hyperparameters)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the arrays with it."""
        return {
            name: value for name, value in vars(self).items() if name not in ("_lock", "_plans", "_bounds", "_counted")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes it a copy's, or what was pickled."""
        self._begin()
        vars(self).update(state)
        self._lock = step_lock()
        self._restore(self.param_groups, self.state)

    def _restore(self, groups: list[dict[str, Any]], state: dict[str, dict[str, Array]]) -> None:
        """Takes what was loaded, of which every part is checked."""
        self.param_groups, self.state, self._plans = groups, state, None
        self._bounds = arrays.bounds_of([p for group in groups for p in group["params"]])
        self._counted = None, steps_done(state.values())
        for schedules in self._schedules_now():
            schedules.separate(state.values())
            self._listen(schedules)


class _GroupPlan(Plan):
    """One parameter group as the engine takes it."""

    _gradients: list[Array | None]  # those that were collected

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], first: int) -> None:
        self._params, self._names = list(group["params"]), list(group["param_names"])
        self._signature = _signature(optimizer, group)
        self._states = [optimizer.state.get(name) for name in self._names]
        for i, state in enumerate(self._states):
            if state is not None:
                optimizer._initialize_state(group, i)  # what an option asks for since
        super().__init__(
            optimizer._member,
            group,
            [arrays.engine_view(p) for p in self._params],
            [{} if state is None else state for state in self._states],
            [repr(name) for name in self._names],
            [tensor_key(group["seed"], name if group["named"] else first + i) for i, name in enumerate(self._names)],
            [0 if not group["rows"] or not (rows := group["rows"][i]) else rows[0] for i in range(len(self._params))],
            arrays.as_scalar,
        )

    def collect(self, gradients: list[Any] | None = None) -> None:
        """See ``Plan.collect``."""
        super().collect(gradients)
        self._gradients = gradients or []

    def has_zero_gradients(self) -> bool:
        """See ``Plan.has_zero_gradients``."""
        return not any(gradient is not None and arrays.has_nonzero(gradient) for gradient in self._gradients)

    def discard(self) -> None:
        """See ``Plan.discard``."""
        super().discard()
        self._gradients = []

    def is_fresh(self, optimizer: Optimizer, group: dict[str, Any]) -> bool:
        """Whether the plan can be used as it is."""
        return (
            self._signature == _signature(optimizer, group)
            and _engine.same_objects(self._params, group["params"])
            and _engine.same_objects(self._states, [optimizer.state.get(name) for name in self._names])
        )


def is_split(p: Array, group: Mapping[str, Any]) -> bool:
    """Whether the parameter keeps the low bits of its weights in the state."""
    return group["weights"] == "split" and p.dtype.name in layout.HALVES


def _signature(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a plan rests on; and the options that are words, so that one that was changed is checked."""
    words = (group.get(name) for name in ("weights", "decay", "on_nonfinite", "eps_mode", "state", "seed", "rows"))
    kinds = (type(group.get(name)) for name in HYPERPARAMETERS)
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
