"""The base class of the NumPy optimizers: NumPy's conventions, and no arithmetic.

A step passes the arrays and their gradients to the engine, with the numbers of the step from ``adamas.rule``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..rule import former, hyperparameters
from ..rule.declaration import has_penalty
from ..rule.formats import tensor_key
from ..rule.names import suggestion
from ..rule.shared import defaults, schedulable
from ..step.engine import same_objects
from ..step.evaluation import begun
from ..step.locks import step_lock
from ..step.memory import Memory, counted
from ..step.plan import GroupPlan
from ..step.record import Record, begin_state, rows_of
from ..step.resuming import COUNTS
from ..step.scheduled import OBSERVED, separated, steps_done
from ..step.stepping import WHOLE_OPTIONS, Stepping
from ..threads import threads
from . import arrays
from .arrays import Array
from .state_dict import loaded, saved
from .tensors import TENSORS

Params: TypeAlias = Sequence[Array] | Mapping[str, Array] | Sequence[Mapping[str, Any]]
Gradients: TypeAlias = Sequence[Any] | Mapping[str, Any]


class Optimizer(Stepping):
    """The base class of the optimizers of ``adamas.numpy``. Use one of them: ``Adam``, ``AdamW``, …

    ``lr``, ``weight_decay``, ``max_grad_norm`` and, in most members, each of ``betas`` may be a schedule
    (``adamas.schedules``). The group then contains the value for the next step. The step is the largest step count in the
    state of any parameter.

    ``adamas.engine_info()`` shows how many threads a step uses.

    Attributes:
        param_groups: the groups: dictionaries with the arrays under ``"params"``, their names under ``"param_names"``, and
            the group's hyperparameters, which may be changed between steps.
        state: the moments and counts of each parameter that has had a gradient, as arrays under PyTorch's names. The key is
            the parameter's name or, if it has none, its position among all parameters.
        grad_norm: the 2-norm of the last step's gradient before clipping, if ``max_grad_norm``, ``on_nonfinite`` or
            ``on_spike`` required it; else None.
        grad_norm_limit: the lowest ``max_grad_norm`` of the last step; None if there was none.
    """

    _plans: list[GroupPlan] | None

    def __init__(self, params: Params, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """``arguments`` are the ``locals()`` of the member's ``__init__``, and ``options`` its ``**options``."""
        own = ("self", "params", "options", "__class__")
        given = {**{name: value for name, value in arguments.items() if name not in own}, **options}
        known = defaults(self._member, "numpy")
        if unknown := sorted(options.keys() - known.keys() - {*WHOLE_OPTIONS}):
            hint = suggestion(self._member, unknown, [*known, *WHOLE_OPTIONS])
            raise TypeError(f"{type(self).__name__} has no option {', '.join(unknown)}{hint and f': {hint}'}")
        self._take_whole_options(given)
        self._lock = step_lock()
        self._schedules = []
        self.defaults = {**known, **given, **COUNTS, **begun(self._member)}
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[str, dict[str, Array]] = {}
        self._begin()
        self._bounds = arrays.bounds_of([])  # the bounds of the arrays that were added
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
            param_group: the arrays under ``"params"``, as a list or a dict, and their own hyperparameters, if any.

        Raises:
            TypeError: a parameter is not a NumPy array.
            ValueError: an array cannot be stepped in place or shares memory with another, or an option has an invalid value.
        """
        self._add([param_group])

    def _add(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Adds groups, all of them or none."""
        groups, schedules = list(self.param_groups), []
        first = sum(map(len, (group["params"] for group in groups)))
        for one in given:
            if "params" not in one:
                raise ValueError(
                    f"a parameter group must have its arrays under 'params', but this one has {sorted(one)}"
                )
            if unknown := sorted(one.keys() - self.defaults.keys() - {"params", "base_lr"}):
                hint = suggestion(self._member, unknown, defaults(self._member, "numpy"))
                raise TypeError(f"{type(self).__name__} has no option {', '.join(unknown)}{hint and f': {hint}'}")
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
            raise ValueError(f"two parameters are called {twice!r}: names must be unique")
        self._refuse_different(groups)
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
        """Creates the missing entries of a parameter's state: all of them at its first gradient."""
        name, p = group["param_names"][index], group["params"][index]
        begin_state(TENSORS, self._member, group, p, rows_of(group, index), self.state.setdefault(name, {}))

    def _current_plans(self) -> list[GroupPlan]:
        """The plans of all groups, made again if a tensor, a state or an option that they depend on was replaced."""
        if (
            self._plans is None
            or len(self._plans) != len(self.param_groups)
            or not all(self._is_fresh(plan, group) for plan, group in zip(self._plans, self.param_groups, strict=True))
        ):
            # Arrays that were replaced are checked as in the constructor.
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
        """Whether everything in the group that the plan depends on is unchanged."""
        signature, params, states = plan.basis
        return (
            bool(signature == _signature(self, group))
            and same_objects(params, group["params"])
            and same_objects(states, [self.state.get(name) for name in group["param_names"]])
        )

    def _plan(self, group: dict[str, Any], first: int) -> GroupPlan:
        """The plan of a group; ``first`` is the position of its first parameter."""
        records = []
        states = [self.state.get(name) for name in group["param_names"]]
        for i, (p, name, state) in enumerate(zip(group["params"], group["param_names"], states, strict=True)):
            if state is not None:
                self._initialize_state(group, i)  # adds what a changed option requires
            key = tensor_key(group["seed"], name if group["named"] else first + i)
            records.append(
                Record(p, {} if state is None else state, repr(name), key, rows_of(group, i), position=first + i)
            )
        basis = _signature(self, group), list(group["params"]), states
        return GroupPlan(self._member, group, records, TENSORS, basis)

    def _labels(self) -> list[str]:
        """See ``Stepping._labels``."""
        return [name for group in self.param_groups for name in group["param_names"]]

    def memory(self) -> Memory:
        """The bytes that weights and state take now, by kind; ``print`` shows a table. Gradients are not included."""
        params = [p for group in self.param_groups for p in group["params"]]
        with self._lock:
            states = [(state, False) for state in self.state.values()]
            return counted(self._member, params, [], states, {}, self._bytes_kept())

    # ---- the step

    def step(self, grads: Gradients, *, loss: float | None = None) -> None:
        """Performs one optimization step: changes the arrays in place.

        If a signal handler raises an exception (``KeyboardInterrupt``, …), the step is either complete or not begun.

        Args:
            grads: the gradient of each parameter, with its shape and any floating-point dtype: a dict by the parameters'
                names, or a list in their order. A parameter whose gradient is None or missing from the dict does not change.
                Gradients are only read.
            loss: the loss of this step, for ``watch=`` and ``on_spike=``.

        Raises:
            TypeError: ``loss`` is not a single number. Nothing was changed.
            FloatingPointError: a gradient is not finite and ``on_nonfinite="raise"``. Nothing was changed.
            ValueError: a gradient or a state array cannot be used; the message names it. Nothing was changed.
        """
        given = self._by_group(grads)
        self._expect_loss(loss)
        self._check_loss()
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
        """Everything that a later run needs to continue, as arrays by name, for ``np.savez(path, **optimizer.state_dict())``.

        A moment is named ``state/<parameter>/<moment>``. A bfloat16 moment is stored as its codes (uint16), an 8-bit moment
        as two arrays, the codes and ``…_grid``. The hyperparameters are one JSON string under ``param_groups``. All arrays
        are copies. If another thread is in a step, the call waits for it, so that the state is consistent. Nothing needs
        pickle.
        """
        with self._lock:
            first, *others = self.param_groups
            return saved([{**first, **self._kept_entries()}, *others], self.state)

    def load_state_dict(self, state_dict: Mapping[str, Any], hyperparameters: str = "saved") -> None:
        """Loads the result of ``state_dict()``, or of ``np.load`` for the file that it was saved to.

        Arrays are copied. Parameters are matched by name if both sides have names, else by position. Moments are stored in
        the format of this optimizer's ``state=``: those saved in another format are converted, and a warning says which.

        Args:
            state_dict: the arrays by name.
            hyperparameters: ``"saved"`` takes the learning rate, decay and all other options from the state dict; ``"given"``
                keeps those of this optimizer.

        Raises:
            ValueError: the state dict does not fit; the message names the parameter. Nothing was changed.
        """
        with self._lock:
            schedules = self._schedules_now()
            groups, state, saved_groups = loaded(
                self._member, schedules, self.defaults, self._check, state_dict, hyperparameters, type(self).__name__
            )
            kept = self._kept_in(saved_groups)
            self._restore(groups, state)
            self._take_kept(kept)
            for one, saved_group in zip(self._schedules, saved_groups, strict=True):
                one.load_observed(saved_group.get(OBSERVED))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled, including the arrays."""
        return {
            name: value for name, value in vars(self).items() if name not in ("_lock", "_plans", "_bounds", "_counted")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores what was copied or pickled."""
        self._begin()
        vars(self).update(state)
        for entry in self.state.values():
            former.convert_state(np, entry, self._member.states)  # of an optimizer that a former version pickled
        self._lock = step_lock()
        self._restore(self.param_groups, self.state)

    def _restore(self, groups: list[dict[str, Any]], state: dict[str, dict[str, Array]]) -> None:
        """Takes over what was loaded and checked."""
        self.param_groups, self.state, self._plans = groups, state, None
        self._bounds = arrays.bounds_of([p for group in groups for p in group["params"]])
        self._counted = None, steps_done(state.values())
        for schedules in self._schedules_now():
            schedules.member = self._member  # it is not copied with them
            schedules.separate(state.values())
            self._listen(schedules)


def _signature(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[Any, ...]:
    """The hyperparameters that a plan depends on, and options that are strings, so that a changed one is checked again."""
    words = (group.get(name) for name in ("weights", "decay", "on_nonfinite", "eps_mode", "state", "seed", "rows"))
    kinds = (type(group.get(name)) for name in schedulable(optimizer._member))
    return optimizer._member.rule(group), has_penalty(group), *words, *kinds


def _check_apart(groups: Sequence[Mapping[str, Any]], known: Array) -> Array:
    """Raises ValueError if two arrays of the groups share memory; returns the bounds of all arrays. ``known`` has the first
    of these."""
    params = [p for group in groups for p in group["params"]]
    bounds = np.concatenate([known, arrays.bounds_of(params[len(known) :])])
    if (pair := arrays.shared(params, bounds)) is not None:
        names = [name for group in groups for name in group["param_names"]]
        raise ValueError(
            f"parameters {names[pair[0]]!r} and {names[pair[1]]!r} share memory, which would be stepped twice: pass only one "
            "of them, or a copy"
        )
    return bounds


def _groups(params: Any) -> list[Mapping[str, Any]]:
    """The arguments ``params`` as parameter groups."""
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
