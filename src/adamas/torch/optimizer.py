"""The optimizer that all members share: it speaks PyTorch's habits and holds no arithmetic.

A step looks up the tensors, asks ``adamas.rule`` for the numbers of this step, and hands both to the engine, or, for
tensors that are not on the CPU, to ``adamas.torch.unfused``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, overload
from weakref import ref

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .. import _engine
from ..rule import layout
from ..rule.declaration import Numbers, Rule, has_penalty
from ..rule.formats import tensor_key
from ..rule.hyperparameters import COMMON, check_rows
from ..rule.layout import LOW_BITS
from ..step import Memory, Plan, Stepping
from ..step.locks import step_lock
from ..step.plan import Advance, Row
from ..step.resuming import COUNTS
from ..step.scheduled import HYPERPARAMETERS, OBSERVED, refuse_lr_scale, separated, steps_done
from . import checkpoint, storage, unfused
from .memory import counted
from .options import as_number, check, check_flat, check_parameter, is_flat, refuse_alone, refuse_wrapper
from .ranks import Ranks

_ENGINE_DEVICE = "cpu"  # the devices that the engine has kernels for

_stepping: set[tuple[int, int]] = set()  # the optimizers that are inside step(), each with the thread that called it

# What has to stay the same for a plan to be used again: the rule, whether there is a penalty, weights= and seed=.
Signature = tuple[Rule, bool, str, int]


class GroupPlan(Plan):
    """One parameter group as the engine and the fallback take it."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], first: int) -> None:
        self.params: list[Tensor] = list(group["params"])
        self._dtypes = [p.dtype for p in self.params]
        self.signature = optimizer._signature(group)
        self._optimizer = type(optimizer).__name__
        self._owner, self._options = (
            ref(optimizer),
            group,
        )  # weak, so that an optimizer is freed without the garbage collector
        self._names = parameter_names(group, first)
        self.keys = [_random_key(group, i, first + optimizer._position) for i in range(len(self.params))]
        # The first parameter of which other processes have parts whose gradients are not seen here.
        self._part = next((i for i, p in enumerate(self.params) if optimizer._sharers is None and is_flat(p)), None)
        self._slots = optimizer._member.state_names(group)
        self._scalars = optimizer._scalar_names
        self._first_rows = [rows.first if (rows := storage.rows_of(group, i)) else 0 for i in range(len(self.params))]
        self._states: list[dict[str, Any]] = []
        for i, p in enumerate(self.params):
            if p.grad is not None and p.requires_grad:
                # Which may have had no gradient, or other options, when the group was added.
                refuse_wrapper(p, f"parameter {self._names[i]}")
                check_flat(p, f"parameter {self._names[i]}", group, optimizer._sharers is None)
                optimizer._initialize_state(group, i)
            self._states.append(optimizer.state.get(p, {}))
        needed = (*self._scalars, *self._slots)
        # Without a gradient so far, and hence without state, or without the part of it that an option asks for since.
        self.bare = [
            i
            for i, (p, state) in enumerate(zip(self.params, self._states, strict=True))
            if any(name not in state for name in needed) or (storage.is_split(p, group) and LOW_BITS not in state)
        ]
        self._elsewhere = [i for i, p in enumerate(self.params) if p.device.type != _ENGINE_DEVICE]
        self._others: list[tuple[int, Tensor]] = []  # index and gradient of what is stepped elsewhere
        self._advanced_elsewhere: list[tuple[Numbers, Row]] = []
        here = [i for i, p in enumerate(self.params) if p.device.type == _ENGINE_DEVICE]
        super().__init__(
            optimizer._member,
            group,
            [self.params[i] for i in here],
            [self._states[i] for i in here],
            [self._names[i] for i in here],
            [self.keys[i] for i in here],
            [self._first_rows[i] for i in here],
            storage.as_scalar,
        )

    def forget_low_bits(self) -> bool:
        """Whether a parameter has another dtype than it had, and then takes the low bits of its weights out of the state."""
        dtypes = [p.dtype for p in self.params]
        if dtypes == self._dtypes:
            return False
        for before, now, state in zip(self._dtypes, dtypes, self._states, strict=True):
            if now != before:
                state.pop(LOW_BITS, None)
        self._dtypes = dtypes
        return True

    def collect(self, gradients: list[Any] | None = None) -> None:
        """See ``Plan.collect``; sparse gradients are refused, and state that was emptied begins anew, as in PyTorch."""
        self._others = [
            (i, gradient)
            for i in self._elsewhere
            if self.params[i].requires_grad and (gradient := self.params[i].grad) is not None
        ]
        for i, gradient in self._others:
            self._refuse_sparse(i, gradient)
            if not self._states[i]:
                self._begin_state(i)
        try:
            super().collect(gradients)
        except ValueError:
            for i, p in enumerate(self.params):
                if p.grad is not None:
                    self._refuse_sparse(i, p.grad)
                    refuse_wrapper(p.grad, f"the gradient of parameter {self._names[i]}")
            emptied = [
                i for i, p in enumerate(self.params) if p.grad is not None and p.requires_grad and not self._states[i]
            ]
            if not emptied:
                raise
            for i in emptied:
                self._begin_state(i)
            super().collect(gradients)

    def _begin_state(self, index: int) -> None:
        optimizer = self._owner()
        assert optimizer is not None  # it is what steps
        optimizer._initialize_state(self._options, index)

    def most_steps(self) -> float:
        """See ``Plan.most_steps``."""
        return max([super().most_steps(), *(float(self._states[i]["step"]) for i, _ in self._others)])

    def has_zero_gradients(self) -> bool:
        """See ``Plan.has_zero_gradients``."""
        here = (p.grad for p in self.collected())
        return not any(bool(gradient.any()) for gradient in (*here, *(gradient for _, gradient in self._others)))

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``Plan.square_sum``."""
        if self._part is not None:
            refuse_alone(f"parameter {self._names[self._part]}", "max_grad_norm= and on_nonfinite=")
        parts, culprit = super().square_sum(threads)
        total, index = unfused.square_sum([gradient for _, gradient in self._others])
        if culprit is None and index is not None:
            culprit = self._names[self._others[index][0]]
        return [*parts, total], culprit

    def prepare(self, advance: Advance) -> None:
        """See ``Plan.prepare``."""
        super().prepare(advance)
        self._advanced_elsewhere = [
            advance(tuple(self._scalar_of(i, name) for name in self._scalars)) for i, _ in self._others
        ]

    def _scalar_of(self, i: int, name: str) -> float:
        """A single number of the state of what is stepped elsewhere; the engine looks at those of the others."""
        state, what = self._states[i], f"parameter {self._names[i]}: its state '{name}'"
        if name not in state:
            raise ValueError(f"{what} is missing")
        scalar = storage.as_scalar(given := state[name])
        if scalar is None:
            raise ValueError(f"{what} is {given!r}, and has to be a single number")
        state[name], number = scalar, float(scalar)
        if not 0 <= number < 2**53:
            raise ValueError(f"{what} is {number}, and has to be a number from 0 up, below 2**53")
        return number

    def reached(self) -> int:
        """See ``Plan.reached``."""
        most = 0.0
        for advanced in (self._advanced, self._advanced_elsewhere):
            for _, row in advanced:
                if row[0] > most:
                    most = row[0]
        return int(most)

    def step_elsewhere(self) -> None:
        """See ``Plan.step_elsewhere``."""
        for (i, gradient), advanced in zip(self._others, self._advanced_elsewhere, strict=True):
            self._step_elsewhere(i, gradient, *advanced)
        if self.rows:
            # Autograd has to know, or a graph that was built before the step would be differentiated with new weights.
            increment_version(self.collected())

    def _step_elsewhere(self, i: int, gradient: Tensor, numbers: Numbers, row: Row) -> None:
        """Steps a parameter that the engine has no kernel for."""
        if gradient.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "an Adamas step computes its coefficients on the host and cannot be captured in a CUDA graph"
            )
        state = self._states[i]
        rule, penalized, weights, _ = self.signature
        unfused.step(
            rule,
            numbers,
            penalized,
            self.params[i],
            gradient,
            tuple(state[name] for name in self._slots),
            tuple(state.get(layout.scale_name(name)) for name in self._slots),
            state.get(LOW_BITS) if weights == "split" else None,
            weights,
            self.keys[i],
            self._first_rows[i],
            int(row[0]),
        )
        for name, value in zip(self._scalars, row, strict=True):
            state[name].fill_(value)

    def _refuse_sparse(self, index: int, gradient: Tensor) -> None:
        if gradient.layout != torch.strided:
            raise RuntimeError(
                f"{self._optimizer} does not support sparse gradients, and that of parameter {self._names[index]} is "
                f"{gradient.layout}: make it dense (for an embedding: sparse=False), or give it to torch.optim.SparseAdam"
            )


def given_names(group: dict[str, Any]) -> list[str] | None:
    """The names of the group's parameters, where each has one."""
    names = group.get("param_names")
    return [str(name) for name in names] if names is not None and len(names) == len(group["params"]) else None


def parameter_names(group: dict[str, Any], first: int) -> list[str]:
    """What error messages call the parameters: their names, or their positions among all parameters."""
    if (names := given_names(group)) is not None:
        return [repr(name) for name in names]
    return [
        f"{first + i}" if is_lazy(p) else f"{first + i} (of shape {tuple(p.shape)})"
        for i, p in enumerate(group["params"])
    ]


def _random_key(group: dict[str, Any], index: int, first: int) -> int:
    """Seed and identity of a parameter, for its random numbers: by its name where there is one, so that order is free."""
    # The parts of a flat parameter have one name on all ranks, and are different elements.
    names = None if is_flat(group["params"][index]) else given_names(group)
    return tensor_key(group["seed"], first + index if names is None else names[index])


class Optimizer(Stepping, torch.optim.Optimizer):
    """What the optimizers of ``adamas.torch`` share. Use one of those: ``Adam``, ``AdamW``, …

    A step moves every parameter that has a gradient, unless its ``requires_grad`` is False: a frozen parameter stays where
    it is, also where a gradient from before is left over. (PyTorch's optimizers move it.)

    ``lr``, ``weight_decay``, each of ``betas`` and ``max_grad_norm`` may be a schedule (``adamas.schedules``), for each group
    its own. The group then holds the number of the coming step, and ``optimizer.schedules[i]`` what group i takes it from. The
    step is the most that any parameter's state has counted: on resume it comes with the state, and the schedule is the one
    given here. A bias correction takes a scheduled β as if it had always been what it is, as PyTorch does.

    Attributes:
        grad_norm: 2-norm of the last step's gradient before clipping, where ``max_grad_norm`` or ``on_nonfinite`` had it
            measured, else None.
        grad_norm_limit: the lowest ``max_grad_norm`` of the last step, where there was one, else None.
    """

    _reads_decoupled_flag: ClassVar[bool] = True  # of a checkpoint of torch.optim; AdamW is decoupled whatever it says
    _plans: list[GroupPlan] | None
    _known: tuple[list[Tensor], list[Any]]  # the parameters and states that the plans are of

    def __init__(self, params: ParamsT, defaults: dict[str, Any], options: Any, allowed: Any) -> None:
        if unknown := options.keys() - allowed.__annotations__.keys():
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        if "process_group" in options:
            self._sharers = Ranks(options.pop("process_group"))
        defaults = {**COMMON, **defaults, **options, **COUNTS}
        numbers = dict(defaults)
        separated(numbers, ())
        check(numbers, type(self).__name__, self._member.states)
        for name in ("weight_decay", "momentum"):
            if name in defaults:
                defaults[name] = as_number(defaults[name])
        if "betas" in defaults:
            defaults["betas"] = tuple(as_number(beta) for beta in defaults["betas"])
        self._lock = step_lock()
        self._begin()
        self._schedules = []
        super().__init__(params, defaults)
        self._begin_scaling()

    def _begin_scaling(self) -> None:
        """Takes loss scaling into the step where ``fused=True`` asks for it, as ``torch.optim`` does."""
        if self.defaults.get("fused"):
            self._step_supports_amp_scaling = True  # what GradScaler reads

    # ---- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; may be called at any time. See ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ValueError: for a parameter given twice, one that cannot be optimized, or an option with a wrong value.
        """
        if isinstance(param_group, dict):
            params = param_group["params"]
            if not isinstance(params, Tensor | set):
                param_group["params"] = params = list(params)
                self._refuse_twice(params)
            group = {**self.defaults, **param_group}
            schedules = separated(group, self.state.values())
            check(group, type(self).__name__, self._member.states)
            named: list[tuple[Any, Any]] = [
                item if isinstance(item, tuple) else (i, item)
                for i, item in enumerate([params] if isinstance(params, Tensor) else params)
            ]
            shapes = [p.shape if isinstance(p, Tensor) and not is_lazy(p) else None for _, p in named]
            check_rows(group["rows"], [repr(name) for name, _ in named], shapes)
            if "process_group" in param_group:
                raise ValueError("process_group is of the whole optimizer, not of a parameter group")
            for name, parameter in named:
                check_parameter(parameter, repr(name), group, self._sharers is None)
            lr = schedules.schedules.get("lr")
            if lr is not None:
                refuse_lr_scale(group, lr)
            param_group.setdefault("base_lr", float(group["lr"]) if lr is None else lr.unit)
            param_group.update({name: group[name] for name in (*HYPERPARAMETERS, OBSERVED) if name in group})
        try:
            super().add_param_group(param_group)  # which refuses what is no dictionary
        except ValueError:
            self._refuse_again(param_group)
            raise
        schedules.group = self.param_groups[-1]
        self._schedules.append(schedules)
        self._listen(schedules)

    @staticmethod
    def _refuse_twice(params: list[Any]) -> None:
        here: dict[int, str] = {}
        for i, item in enumerate(params):
            name, parameter = item if isinstance(item, tuple) else (f"number {i}", item)
            if id(parameter) in here:
                raise ValueError(
                    f"optimizer contains a parameter group with duplicate parameters: {name} is {here[id(parameter)]} "
                    "again, and would be stepped twice"
                )
            here[id(parameter)] = str(name)

    def _refuse_again(self, group: dict[str, Any]) -> None:
        """Says which parameter of the new group is one of an earlier group's, if any is."""
        earlier = {id(p): name for name, p in self._named_parameters()}
        names = given_names(group) or [f"number {i}" for i in range(len(group["params"]))]
        for name, p in zip(names, group["params"], strict=True):
            if id(p) in earlier:
                raise ValueError(
                    f"some parameters appear in more than one parameter group: {name} of the new group is parameter "
                    f"{earlier[id(p)]}, and would be stepped twice"
                ) from None

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        first = 0
        for group in self.param_groups:
            yield from zip(parameter_names(group, first), group["params"], strict=True)
            first += len(group["params"])

    # ---- state

    def _signature(self, group: dict[str, Any]) -> Signature:
        return self._member.rule(group), has_penalty(group), group["weights"], group["seed"]

    def _initialize_state(self, group: dict[str, Any], index: int) -> None:
        """Creates what the state of the group's parameter lacks: all of it at its first gradient."""
        p = group["params"][index]
        state = self.state[p]
        for name, value in self._member.scalars:
            if name not in state:
                state[name] = torch.tensor(
                    value, dtype=torch.float64, device="cpu"
                )  # counts past 2²⁴, where float32 stops
        start = group.get("initial_accumulator_value")
        for slot in storage.slots_of(self._member, group, p, storage.rows_of(group, index)):
            if slot.name not in state:
                state.update(storage.filled(slot, p, start) if start else storage.zeros(slot, p))
        if storage.is_split(p, group) and LOW_BITS not in state:
            state[LOW_BITS] = torch.zeros_like(p, dtype=torch.int16, memory_format=torch.preserve_format)

    def _current_plans(self) -> list[GroupPlan]:
        """The plans of all groups, made anew if any tensor, state or option that they rest on was replaced."""
        if self._plans is not None and len(self._plans) == len(self.param_groups):
            # Low bits are those of one dtype: a model that was cast since begins with others (``model.half()``).
            cast = [plan.forget_low_bits() for plan in self._plans if plan.signature[2] == "split"]
            fresh = not any(cast) and all(
                plan.signature == self._signature(group)
                and _engine.same_objects(plan.params, group["params"])
                and not any(plan.params[i].requires_grad and plan.params[i].grad is not None for i in plan.bare)
                for plan, group in zip(self._plans, self.param_groups, strict=True)
            )
            if fresh and _engine.holds(self.state, *self._known):
                return self._plans
        plans, first = [], 0
        for group in self.param_groups:
            plans.append(GroupPlan(self, group, first))
            first += len(group["params"])
        self._plans = plans  # first: with what is known from before, an interrupt here has them made anew
        self._known = (list(self.state.keys()), list(self.state.values()))
        return plans

    # ---- memory

    def memory(self) -> Memory:
        """The bytes that weights, gradients and state take now, by kind: ``print`` shows a table.

        State comes with a parameter's first gradient (Adagrad's at construction); ``adamas.torch.plan_memory`` tells it
        before.
        """
        return counted(self)

    # ---- the step

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Performs one optimization step.

        An exception from a signal handler (``KeyboardInterrupt``, …) leaves all of it done or nothing. Parameters on other
        devices than the CPU are stepped one after the other before those on it: there, an exception may leave some of them
        stepped.

        Args:
            closure: reevaluates the model and returns the loss.

        Raises:
            FloatingPointError: a gradient is not finite and ``on_nonfinite="raise"``. Nothing was changed.
            RuntimeError: a gradient is sparse. Nothing was changed.
            ValueError: a gradient or a state tensor cannot be used; the message names it. Nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        # GradScaler lowers its scale then; neither step count nor moments advance.
        overflow = found_inf is not None and float(found_inf) != 0
        scale = 1.0 if grad_scale is None else 1 / float(grad_scale)
        self._step_all(None, scale, torch.get_num_threads(), overflow)
        return loss

    def _is_observed(self) -> bool:
        """Whether a hook or the profiler wants to know of a step: entering its context takes as long as a small step."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        )

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps ``step`` with the profiler's mark and the step hooks, once even where a subclass calls ``super().step()``."""
        hooked = torch.optim.Optimizer.profile_hook_step(func)

        @_disable_dynamo  # a compiled training step has a graph break here
        @functools.wraps(func)
        def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
            this = id(self), threading.get_ident()
            if this in _stepping:
                return func(self, *args, **kwargs)
            try:
                _stepping.add(this)
                return hooked(self, *args, **kwargs) if self._is_observed() else func(self, *args, **kwargs)
            finally:
                _stepping.discard(this)

        return step

    # ---- saving and loading

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        vars(self).setdefault("_lock", step_lock())  # a loaded optimizer keeps the lock that others may wait for
        self._begin()
        self._begin_scaling()
        self._counted = None, steps_done(self.state.values())
        for group, schedules in zip(self.param_groups, self._schedules_now(), strict=True):
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            schedules.separate(self.state.values())
            self._listen(schedules)
            group.setdefault("base_lr", float(group["lr"]))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled."""
        shared = {} if self._sharers is None else {"_sharers": self._sharers}
        return {**super().__getstate__(), **shared, "_schedules": self._schedules_now()}

    @_disable_dynamo
    def state_dict(self, state: Literal["float32"] | None = None) -> dict[str, Any]:
        """The state as plain tensors under PyTorch's names, and the hyperparameters: see ``torch.optim.Optimizer``.

        Moments in 8 bits are two tensors: codes with the shape of the weight (int8, or uint8 where there is no sign) and
        ``…_scale``, float32 of shape (rows, blocks of a row).

        A step that another thread makes is waited for, so that what is returned is of one step. As with ``torch.optim``, the
        tensors are the optimizer's own, which the next step writes to: a thread that saves while another one steps copies the
        optimizer (``copy.deepcopy(optimizer).state_dict()``, which is of one step too).

        Args:
            state: None for the moments as they are stored; ``"float32"`` for all of them in float32, which
                ``torch.optim`` loads. The low bits of split weights, which it has no use for, are then left out.
        """
        with self._lock:
            for group in self.param_groups:
                group["decoupled_weight_decay"] = group["decay"] == "decoupled"  # what torch.optim reads
            packed = super().state_dict()
            return packed if state is None else checkpoint.exported(self, packed, state)

    @_disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any], hyperparameters: str = "saved") -> None:
        """Loads a state dict of this class, or of the class of the same name in ``torch.optim``.

        Tensors are copied and never shared with their source. Parameters are matched by name where both sides have names,
        else by position. Moments are stored as ``state=`` of this optimizer says: those saved in another format are
        converted, and a warning says which. The state of the 8-bit optimizers of bitsandbytes and torchao is read too, and
        the saved hyperparameters of bitsandbytes become what they meant there.

        Args:
            state_dict: what ``state_dict()`` returned.
            hyperparameters: ``"saved"``: learning rate, decay and all other options become what they were when saved, as
                in ``torch.optim``; ``"given"``: those of this optimizer stay.

        Raises:
            ValueError: what was saved does not fit; the message names the parameter. Nothing was changed.
        """
        with self._lock:
            checkpoint.load(self, state_dict, hyperparameters)
