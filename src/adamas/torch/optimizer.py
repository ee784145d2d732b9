"""The base class of the PyTorch optimizers: PyTorch's conventions, and no arithmetic.

It makes a record of each parameter, and ``adamas.step`` does the rest.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT, _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..rule import former, layout
from ..rule.declaration import Rule, has_penalty
from ..rule.formats import tensor_key
from ..rule.hyperparameters import check_rows
from ..rule.layout import LOW_BITS
from ..rule.names import suggestion
from ..rule.shared import defaults as defaults_of
from ..rule.shared import schedulable
from ..step.devices import can_decide
from ..step.engine import holds, same_objects
from ..step.evaluation import begun
from ..step.locks import step_lock
from ..step.memory import Memory, counted
from ..step.namespaces.torch import Formulas, formulas_of
from ..step.plan import GroupPlan
from ..step.record import Record, begin_state, check_place
from ..step.resuming import COUNTS, check_choice
from ..step.scheduled import OBSERVED, refuse_lr_scale, separated, steps_done
from ..step.stepping import WHOLE_OPTIONS, Stepping
from . import distributed, exchange, storage
from .distributed import is_cut, is_distributed, is_here, local_of
from .edges import edges_of
from .groups import canonical_name
from .offload import HomeTensors, bring
from .options import as_number, check, check_flat, check_parameter, is_flat, refuse_offload, refuse_wrapper
from .ranks import Exchanged, Ranks
from .state_dict import exported, loaded, with_whole_scales
from .tensors import TENSORS, Tensors

_stepping: set[tuple[int, int]] = set()  # the optimizers that are inside step(), each with the thread that called it


RELEASED = "each parameter is stepped by itself (adamas.torch.release)"  # why the hosts of several processes decide

_Signature: TypeAlias = tuple[Rule, bool, str, int, bool, bool]


class _Basis(NamedTuple):
    """What the plan of a parameter group was made from.

    Attributes:
        signature: the rule, whether there is a penalty, ``weights=``, ``seed=``, whether its device may have to count, and
            ``offload=``.
        params: the parameters.
        dtypes: the dtypes of the parameters.
        bare: the parameters whose state is missing or lacks entries that the options require now. When one of them has a
            gradient, the plan is made again.
        divided: the parameters, with a state or not, whose cuts divide blocks of codes.
    """

    signature: _Signature
    params: list[Tensor]
    dtypes: list[torch.dtype]
    bare: list[Tensor]
    divided: list[exchange.Divided]


def given_names(group: dict[str, Any]) -> list[str] | None:
    """The names of the group's parameters; None unless each has one."""
    names = group.get("param_names")
    return [str(name) for name in names] if names is not None and len(names) == len(group["params"]) else None


def parameter_names(group: dict[str, Any], first: int) -> list[str]:
    """The names of the parameters in error messages: their own, or their positions among all parameters."""
    if (names := given_names(group)) is not None:
        return [repr(name) for name in names]
    return [
        f"{first + i}" if is_lazy(p) else f"{first + i} (of shape {tuple(p.shape)})"
        for i, p in enumerate(group["params"])
    ]


def _exchange(name: str, weight: Any, where: Any = None) -> Exchanged:
    """The exchange that gives the weight's gradient the placements of the weight."""
    gradient = weight.grad
    text = f"the gradient of parameter {name} with the placements {gradient.placements}"
    return Exchanged(text, weight.device_mesh, where)


def _may_skip(group: dict[str, Any]) -> bool:
    """Whether a step may be skipped for a reason that the device learns before the host, or is replayed without the host."""
    return group["on_nonfinite"] == "skip" or bool(group.get("fused")) or bool(group.get("capturable"))


def _random_key(group: dict[str, Any], index: int, position: int) -> int:
    """The key of a parameter's random numbers, from its name or, if it has none, its position among all."""
    # The parts of a flat parameter have the same name on all ranks, but different elements.
    names = None if is_flat(group["params"][index]) else given_names(group)
    return tensor_key(group["seed"], position if names is None else canonical_name(names[index]))


class Optimizer(Stepping, torch.optim.Optimizer):
    """The base class of the optimizers of ``adamas.torch``. Use one of them: ``Adam``, ``AdamW``, …

    A step changes every parameter that has a gradient and ``requires_grad``. A frozen parameter does not change, even if it
    still has a gradient. (PyTorch's optimizers change it.)

    ``lr``, ``weight_decay``, ``max_grad_norm`` and, in most members, each of ``betas`` may be a schedule
    (``adamas.schedules``), separately for each group. The group then contains the value for the next step, and
    ``optimizer.schedules[i]`` contains the schedules of group i. The step is the largest step count in the state of any
    parameter: when a run is resumed, it is loaded with the state, while the schedule is the one given at construction. As in
    PyTorch, the bias correction treats a scheduled β as if it had always had its present value.

    Attributes:
        grad_norm: the 2-norm of the last step's gradient before clipping, if ``max_grad_norm``, ``on_nonfinite`` or
            ``on_spike`` required it; else None.
        grad_norm_limit: the lowest ``max_grad_norm`` of the last step; None if there was none.
    """

    _plans: list[GroupPlan] | None
    _peers: Ranks | None
    _known: tuple[list[Tensor], list[Any]]  # the parameters and states that the plans were made for
    _device: Formulas | None  # the functions of the device of all parameters, if it could decide about steps
    _reason: str  # if not, why
    _may_be_captured: bool  # whether a parameter is on a device with CUDA graphs
    _captured: list[Any]  # what CUDA graphs read and write
    _homes: HomeTensors  # the operations on parameters whose state is on the host, while they are on a device
    _released: Any  # what steps the parameters in the backward pass (``adamas.torch.release.Released``), or None

    def __init__(self, params: ParamsT | nn.Module, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """``arguments`` are the ``locals()`` of the member's ``__init__``, and ``options`` its ``**options``."""
        own = ("self", "params", "options", "__class__")
        given = {**{name: value for name, value in arguments.items() if name not in own}, **options}
        if isinstance(params, nn.Module):
            params = self._of_model(params, given)
        known = defaults_of(self._member, "torch")
        others = ("process_group", "offload", *WHOLE_OPTIONS)
        if unknown := sorted(options.keys() - known.keys() - {*others}):
            hint = suggestion(self._member, unknown, [*known, *others])
            raise TypeError(f"{type(self).__name__} has no option {', '.join(unknown)}{hint and f': {hint}'}")
        if "process_group" in given:
            self._peers = Ranks.given(given.pop("process_group"))
        self._take_whole_options(given)
        if given.pop("decoupled_weight_decay", False) and given.setdefault("decay", "decoupled") != "decoupled":
            raise ValueError(
                f"decoupled_weight_decay=True and decay={given['decay']!r} contradict each other: give only decay"
            )
        defaults = {**known, "offload": False, **given, **COUNTS, **begun(self._member)}
        numbers = dict(defaults)
        separated(self._member, numbers, ())
        check(numbers, type(self).__name__, self._member)
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

    def _of_model(self, model: nn.Module, given: dict[str, Any]) -> ParamsT:
        """The parameters or groups of a model, for members that take one. May change what is given besides.

        Raises:
            TypeError: the member takes parameters alone.
        """
        raise TypeError(f"{type(self).__name__} takes parameters, not a model: pass model.parameters()")

    def _begin(self) -> None:
        super()._begin()
        self._device, self._reason, self._may_be_captured = None, "", False
        vars(self).setdefault("_captured", [])
        vars(self).setdefault("_homes", HomeTensors())
        vars(self).setdefault("_released", None)

    def _begin_scaling(self) -> None:
        """Includes loss scaling in the step if ``fused=True``, as ``torch.optim`` does."""
        if self.defaults.get("fused"):
            self._step_supports_amp_scaling = True  # what GradScaler reads

    # ---- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; may be called at any time. See ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ValueError: a parameter is given twice or cannot be optimized, or an option has an invalid value.
        """
        if isinstance(param_group, dict):
            params = param_group["params"]
            if not isinstance(params, Tensor | set):
                param_group["params"] = params = list(params)
                self._refuse_twice(params)
            group = {**self.defaults, **param_group}
            schedules = separated(self._member, group, self.state.values())
            check(group, type(self).__name__, self._member)
            self._refuse_different([*self.param_groups, group])
            named: list[tuple[Any, Any]] = [
                item if isinstance(item, tuple) else (i, item)
                for i, item in enumerate([params] if isinstance(params, Tensor) else params)
            ]
            shapes = [p.shape if isinstance(p, Tensor) and not is_lazy(p) else None for _, p in named]
            check_rows(group["rows"], [repr(name) for name, _ in named], shapes)
            for name in ("process_group", *WHOLE_OPTIONS):
                if name in param_group:
                    raise ValueError(f"{name} is of the whole optimizer, not of a parameter group")
            for i, (name, parameter) in enumerate(named):
                self._check_parameter(parameter, repr(name), group)
                if group["rows"] is not None and group["rows"][i] is not None and is_distributed(parameter):
                    raise ValueError(
                        f"rows of parameter {name!r}: it is a DTensor, which tells itself where its rows lie; give None"
                    )
            if self._released is not None:
                self._released.check_group(group)
            lr = schedules.schedules.get("lr")
            if lr is not None:
                refuse_lr_scale(group, lr)
            param_group.setdefault("base_lr", float(group["lr"]) if lr is None else lr.unit)
            param_group.update({name: group[name] for name in (*schedulable(self._member), OBSERVED)})
        try:
            super().add_param_group(param_group)  # raises unless it is a dictionary
        except ValueError:
            self._refuse_again(param_group)
            raise
        schedules.group = self.param_groups[-1]
        self._schedules.append(schedules)
        self._listen(schedules)
        if self._released is not None:
            try:
                self._released.register()
            except RuntimeError:
                del self.param_groups[-1], self._schedules[-1]
                raise

    def _check_parameter(self, parameter: Any, name: str, group: Mapping[str, Any]) -> None:
        """Raises if a parameter cannot be optimized with the hyperparameters of a group, to which it is about to be added."""
        check_parameter(parameter, name, group, self._peers is None)

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
        """Raises ValueError, naming it, if a parameter of the new group is in an earlier group."""
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

    def _labels(self) -> list[str]:
        """See ``Stepping._labels``."""
        found: list[str] = []
        for group in self.param_groups:
            names, count = given_names(group), len(group["params"])
            found += names if names is not None else map(str, range(len(found), len(found) + count))
        if len({*found}) < len(found):  # groups may have the same names
            found = [name if found.index(name) == i else f"{name} ({i})" for i, name in enumerate(found)]
        return found

    # ---- the device

    def _decides_there(self, overflow: Any) -> bool:
        """See ``Stepping._decides_there``.

        Raises:
            RuntimeError: a CUDA graph is being captured, which the host would have to decide about.
        """
        if super()._decides_there(overflow):
            return True
        if self._may_be_captured and torch.cuda.is_current_stream_capturing():
            self._check_capture()
        return False

    def _formulas(self) -> Formulas | None:
        """See ``Stepping._formulas``. If processes decide together, all of their devices have to be able to."""
        if self._plans is None:
            self._find_peers()
            self._device, self._reason = self._find_device()
        return self._on_device

    @property
    def _on_device(self) -> Formulas | None:
        """What ``_formulas`` has returned last."""
        return self._device if self._peers is None or self._together is not None else None

    def _find_device(self) -> tuple[Formulas | None, str]:
        """The functions of the device that could decide about steps of the present parameters; None if the host has to, and
        why.
        """
        groups = [(group, p) for group in self.param_groups for p in group["params"]]
        params = [p for _, p in groups if p.requires_grad and not is_lazy(p)]
        self._may_be_captured = any(p.is_cuda for p in params)
        devices = {p.device for p in params}
        if len(devices) != 1:
            return None, f"its parameters are on {len(devices)} devices"
        device = devices.pop()
        if any(self._is_offloaded(group, p) for group, p in groups):
            return None, "offload=True makes the step on the host"
        if any(self._member.rule(group).sums for group in self.param_groups):
            return None, f"the rule of {self._member.name} or cautious=True needs sums, which the host adds up"
        if not all(can_decide(TENSORS, p) for p in params):
            return None, f"its parameters are on the device {device}, where the engine makes the step"
        if self._peers is not None and self._peers.has_shares:
            return None, "the ranks of process_group= have different parameters"
        if self._peers is not None and self._exchanges_parts():
            return None, "ranks exchange parts of matrices, or the blocks of codes that they share"
        formulas = formulas_of(device)
        return formulas, "" if formulas is not None else f"the device {device} has no float64"

    def _why_on_host(self) -> str:
        """Why the host decides about a step of this optimizer, and not the device of its parameters; empty if it need not."""
        if self._device is None or self._peers is None:
            return self._reason
        for i, group in enumerate(self.param_groups):
            if group["on_nonfinite"] == "raise":
                return f'on_nonfinite="raise" of parameter group {i} has to name the parameter on all ranks'
        if self._released is not None:
            return RELEASED
        if self._watching is not None:
            return "watch= adds up over the ranks"
        if self._on_spike is not None and "exact" in self._on_spike.of:
            return "on_spike= with of=exact adds up over the ranks, after the gradients are known"
        if self._has_zero_rates():
            return "all learning rates are 0, so that the step may only create the state"
        return ""

    def _formulas_together(self) -> Formulas | None:
        """See ``Stepping._formulas_together``."""
        return None if self._peers is None or self._why_on_host() else self._device

    def _will_decide_there(self) -> bool:
        """Whether steps will be decided about on the device, also if processes have yet to agree on it in the first."""
        may_agree = (
            self._is_measured() or self._on_spike is not None or any(group.get("fused") for group in self.param_groups)
        )
        return self._decides_there(None) or (may_agree and self._formulas_together() is not None)

    def _counts_there(self) -> bool:
        """See ``Stepping._counts_there``."""
        if self._on_device is None:
            return False
        return self._together is not None or any(map(self._wants_count_there, self.param_groups))

    def _wants_count_there(self, group: dict[str, Any]) -> bool:
        """Whether the device has to count the steps of a group: it may skip some, or know alone the rate that is counted."""
        if _may_skip(group) or self._may_skip_spikes():
            return True
        shortens = self._on_spike is not None and self._on_spike.shortens_updates
        return self._member.offset is not None and (shortens or isinstance(group["lr"], Tensor))

    def _check_capture(self) -> None:
        """See ``Stepping._check_capture``. Nothing is allocated in a capture, and no decision is left to the host."""
        start = "a CUDA graph is being captured, and"
        if reason := self._why_on_host():
            raise RuntimeError(f"{start} the host decides about this step: {reason}")
        if self._peers is not None:
            raise RuntimeError(
                f"{start} several processes decide about this step: the host of each has to learn whether one of them could "
                "not make it, which it would not learn of a replay"
            )
        for i, group in enumerate(self.param_groups):
            if not group.get("capturable"):
                raise RuntimeError(
                    f"{start} parameter group {i} has capturable=False: give the optimizer capturable=True"
                )
            if group["on_nonfinite"] == "raise":
                raise RuntimeError(
                    f'{start} on_nonfinite="raise" of parameter group {i} has to wait for the device: use "skip"'
                )
        for name, p in self._named_parameters():
            if p.requires_grad and p.grad is None:
                raise RuntimeError(f"{start} parameter {name} has no gradient, so no replay would step it")
        if self._plans is None or self._decisions is None:
            raise RuntimeError(f"{start} there is no state yet: make a step before the capture, which creates it")
        if not self._are_current(self._plans):
            raise RuntimeError(
                f"{start} options, parameters or states were replaced since the last step: make a step before the capture"
            )
        schedules = [one.tensors_there for one in self._schedules]
        self._captured.append((self._plans, self._decisions, schedules))

    # ---- state

    def _initialize_state(self, group: dict[str, Any], index: int, name: str) -> None:
        """Creates the missing entries of a parameter's state: all of them at its first gradient.

        Raises:
            ValueError: the parameter is a part that cannot have its moments in codes; the message has its ``name``.
        """
        p, place = group["params"][index], distributed.place_in(group, index)
        is_divided = edges_of(self._member, group, index) is not None
        tensors = self._tensors_of(group)
        check_place(tensors, self._member, group, p, place, name, is_divided)
        begin_state(tensors, self._member, group, p, place, self.state[p], is_divided)

    def _tensors_of(self, group: Mapping[str, Any]) -> Tensors:
        """The operations on the tensors of the group's parameters."""
        return self._homes if group.get("offload") else TENSORS

    def _expect_homes(self) -> None:
        """Allocates the copies of all offloaded weights at once."""
        groups = [group for group in self.param_groups if group.get("offload")]
        self._homes.expect([p for group in groups for p in group["params"] if p.requires_grad and not is_lazy(p)])

    def _home_of(self, group: Mapping[str, Any], p: Tensor) -> Tensor:
        """The tensor that is stepped, whose device and dtype the state has: the parameter or, on the host, its copy."""
        return self._homes.at_home(p) if self._is_offloaded(group, p) else p

    def _is_offloaded(self, group: Mapping[str, Any], p: Tensor) -> bool:
        """Whether the parameter is on a device, and its state and its step are on the host."""
        return bool(group.get("offload")) and not is_lazy(p) and self._homes.is_away(p)

    def _settle_states(self) -> None:
        """Removes states without a step whose parameters are in no group: sharding replaces parameters, in accelerate too.

        Raises:
            ValueError: all parameters that made steps were replaced, and the present ones have no state.
        """
        here = [p for group in self.param_groups for p in group["params"]]
        known = set(map(id, here))
        for p in [p for p in self.state if isinstance(p, Tensor) and id(p) not in known]:
            if steps_done([self.state[p]]) == 0:
                del self.state[p]
            elif here and not any(one in self.state for one in here):
                raise ValueError(
                    f"all parameters that have state (one of shape {tuple(p.shape)}) were replaced by others, as by sharding: "
                    "load the state after that, or call optimizer.state.clear() to begin again"
                )

    def _signature(self, group: dict[str, Any]) -> _Signature:
        return (
            self._member.rule(group),
            has_penalty(group),
            group["weights"],
            group["seed"],
            self._wants_count_there(group) if self._peers is None else self._together is not None,
            bool(group.get("offload")),
        )

    def _current_plans(self) -> list[GroupPlan]:
        """The plans of all groups, made again if any tensor, state or option that they depend on was replaced."""
        plans = self._plans
        if plans is not None and self._are_current(plans):
            return plans
        for plan in plans or ():
            self._forget_low_bits(plan.basis)
        self._settle_states()
        self._expect_homes()
        self._plans = None
        self._formulas()
        made, first, positions = [], 0, self._parameter_positions()
        for group in self.param_groups:
            made.append(self._plan(group, first, positions))
            first += len(group["params"])
        self._plans = made  # before _known: if interrupted between the two, the plans are made again
        self._known = (list(self.state.keys()), list(self.state.values()))
        return made

    def _are_current(self, plans: list[GroupPlan]) -> bool:
        """Whether nothing that the plans depend on was replaced."""
        if len(plans) != len(self.param_groups):
            return False
        for plan, group in zip(plans, self.param_groups, strict=True):
            if not self._is_fresh(plan, group):
                return False
        return holds(self.state, *self._known)

    def _own_parameters(self) -> int:
        assert self._peers is not None
        return self._peers.own(p for group in self.param_groups for p in group["params"])

    def _find_peers(self) -> None:
        """Finds the processes that share the present parameters, if ``process_group=`` does not say so.

        Raises:
            ValueError: this process shares parameters with others and has no part of their DTensors.
        """
        if self._peers is not None and self._peers.has_shares:
            return
        self._peers = Ranks.of_weights(p for group in self.param_groups for p in group["params"])
        if self._together is not None and (self._peers is None or self._peers.ranks != self._together.peers.ranks):
            self._together = None
        if self._peers is None and self._is_measured():
            named = [*self._named_parameters()]
            elsewhere = next((name for name, p in named if is_distributed(p)), None)
            here = next((name for name, p in named if p.requires_grad and not is_distributed(p)), None)
            if elsewhere is not None and here is not None:
                raise ValueError(
                    f"parameter {here} is here, and parameter {elsewhere} lies on other processes, whose gradients would be "
                    "measured without this process: give the optimizer process_group=, the processes that decide together"
                )

    def _parameter_positions(self) -> list[int]:
        """The position of each parameter among those of all processes that share the model."""
        params = [p for group in self.param_groups for p in group["params"]]
        if self._peers is None or not self._positions:
            return list(range(len(params)))
        return self._peers.positions(params, self._positions)

    def _is_fresh(self, plan: GroupPlan, group: dict[str, Any]) -> bool:
        """Whether everything in the group that the plan depends on is unchanged."""
        signature, params, dtypes, bare, _ = plan.basis
        if signature != self._signature(group) or not same_objects(params, group["params"]):
            return False
        for p in bare:
            if p.requires_grad and p.grad is not None:
                return False
        return not (signature[2] == "split" and dtypes != [p.dtype for p in params])

    def _forget_low_bits(self, basis: _Basis) -> None:
        """Removes the low bits of weights that have since been cast (``model.half()``), as they belong to another dtype."""
        if basis.signature[2] == "split":
            for p, dtype in zip(basis.params, basis.dtypes, strict=True):
                if p.dtype != dtype and p in self.state:
                    self.state[p].pop(LOW_BITS, None)

    def _plan(self, group: dict[str, Any], first: int, positions: Sequence[int]) -> GroupPlan:
        """The plan of a group.

        Args:
            group: the parameter group.
            first: the position of its first parameter in this process.
            positions: the position of each parameter of this process among those of all.
        """
        params, names, peers = list(group["params"]), parameter_names(group, first), self._peers
        scalars, is_alone = self._member.scalar_names, peers is None
        records: list[Record] = []
        bare: list[Tensor] = []
        all_divided: list[exchange.Divided] = []
        for i, p in enumerate(params):
            if not is_here(p):
                continue
            if p.grad is not None and p.requires_grad:
                # Checked again: when the group was added, it may have had no gradient, or other options.
                refuse_wrapper(p, f"parameter {names[i]}")
                check_flat(p, f"parameter {names[i]}", group, is_alone)
                self._initialize_state(group, i, names[i])
            state = self.state.get(p)
            is_offloaded = self._is_offloaded(group, p)
            if is_offloaded:
                refuse_offload(p, names[i], self._member, group)
            divided = exchange.divided(self._member, group, i, names[i])
            if divided is not None:
                all_divided.append(divided)
            if state is not None:
                former.convert_state(torch, state, self._member.states)  # ZeroRedundancyOptimizer loads it without us
                if is_offloaded or self._homes.has(p):
                    bring(state, self._home_of(group, p).device)
                if is_distributed(p):
                    assert peers is not None
                    peers.check_mesh(p.device_mesh, names[i])
                key = _random_key(group, i, positions[first + i])
                place = distributed.place_in(group, i)
                record = Record(p, state, names[i], key, place, is_flat=is_flat(p), position=first + i)
                is_counted = peers is None or peers.counts(p)
                records.append(record._replace(is_counted=is_counted, is_divided=divided is not None))
            needed = {*scalars, *self._member.state_names(group, p.shape)}
            is_split = layout.is_split(group, storage.dtype_name(p.dtype))
            if state is None or not needed <= state.keys() or (is_split and LOW_BITS not in state):
                bare.append(p)
        basis = _Basis(self._signature(group), params, [p.dtype for p in params], bare, all_divided)
        counts_on = self._on_device if self._counts_there() else None
        kind_of = self._homes.executor_of if group.get("offload") else None
        return GroupPlan(self._member, group, records, self._tensors_of(group), basis, True, counts_on, kind_of)

    def _decides_alone(self, overflow: bool | None, misplaced: Sequence[Exchanged]) -> bool:
        """See ``Stepping._decides_alone``.

        DTensors of one mesh have the same numbers of steps everywhere. Only what is measured has to be communicated, what a
        loss scaler found, and whether a step with a rate of 0 is to create the state and nothing else. If blocks of codes are
        to be exchanged, all processes have to know of an error before.
        """
        if self._plans is None or overflow:  # after an overflow, no plans are made
            self._find_peers()
        peers = self._peers
        if peers is None or peers.has_shares:
            return peers is None
        if misplaced and not peers.is_uneven:
            return False
        if overflow is not None or self._is_measured() or self._has_zero_rates() or self._on_spike is not None:
            return False
        if self._exchanges_parts():
            return False
        return not (peers.is_uneven and any(one.schedules for one in self._schedules_now()))

    def _exchanges_parts(self) -> bool:
        """Whether processes exchange something in a step: blocks of codes, or parts of matrices."""
        if any(
            is_cut(p) and not self._member.rule(group, p.shape).is_elementwise
            for group in self.param_groups
            for p in group["params"]
        ):
            return True
        if self._plans is not None:
            return any(plan.basis.divided for plan in self._plans)
        return any(
            edges_of(self._member, group, i) is not None
            for group in self.param_groups
            for i in range(len(group["params"]))
        )

    def _misplaced(self, plans: Sequence[GroupPlan] | None) -> list[Exchanged]:
        """See ``Stepping._misplaced``. What is exchanged are gradients of other placements than the weights'."""
        found = []
        if plans is None:
            for name, p in self._named_parameters():
                if p.requires_grad and is_distributed(p) and distributed.is_misplaced(p, p.grad):
                    found.append(_exchange(name, p))
            return found
        for i, plan in enumerate(plans):
            for j, record in enumerate(plan.records):
                p = record.weight
                if p.requires_grad and p.grad is not None and is_distributed(p):
                    distributed.check_gradient(p, record.name)
                    if distributed.is_misplaced(p, p.grad):
                        found.append(_exchange(record.name, p, (i, j)))
        return found

    def _exchanged(
        self, plans: Sequence[GroupPlan], misplaced: Sequence[Exchanged]
    ) -> Sequence[list[Tensor | None] | None] | None:
        """See ``Stepping._exchanged``."""
        placed: list[dict[int, Tensor]] = [{} for _ in plans]
        for _, _, (i, j) in misplaced:
            weight = plans[i].records[j].weight
            placed[i][j] = distributed.placed_as(weight, weight.grad)
        found: list[list[Tensor | None] | None] = [None] * len(plans)
        for i, plan in enumerate(plans):
            if placed[i]:
                found[i] = [
                    placed[i][j] if j in placed[i] else TENSORS.gradient_of(record.weight)
                    for j, record in enumerate(plan.records)
                ]
        return found if misplaced else None

    def _shared_parts(self, plans: Sequence[GroupPlan]) -> list[Exchanged]:
        """See ``Stepping._shared_parts``."""
        blocks = [
            Exchanged(f"blocks of codes of parameter {one.name}", one.weight.device_mesh)
            for plan in plans
            if plan.basis.divided
            for one, _ in exchange.with_gradients(plan.basis.divided, plan)
        ]
        matrices = [
            Exchanged(f"the direction of parameter {record.name}", record.weight.device_mesh)
            for plan in plans
            for executor in plan.executors
            if not executor.spec.rule.is_elementwise
            for record in executor.found()
            if is_cut(record.weight)
        ]
        return blocks + matrices

    def _step_divided(self, plans: Sequence[GroupPlan], threads: int) -> None:
        """See ``Stepping._step_divided``."""
        for plan in plans:
            if plan.basis.divided:
                exchange.step(plan.basis.divided, plan, threads)

    def _finish_step(self) -> None:
        """See ``Stepping._finish_step``."""
        self._homes.flush(torch.get_num_threads())

    def _check_spikes(self) -> None:
        """See ``Stepping._check_spikes``."""
        super()._check_spikes()
        has_others = self._peers is not None and (self._peers.has_shares or self._peers.is_uneven)
        if has_others and self._on_spike is not None and not {"update_norm", "exact"}.isdisjoint(self._on_spike.of):
            raise ValueError(
                "on_spike: the norm of the update over all parameters is not known here, since processes have different ones; "
                "use of=grad_norm or of=loss"
            )

    def _over_ranks(self, plans: Sequence[GroupPlan], f: Any, sums: Any) -> Any:
        """See ``Stepping._over_ranks``. With ``process_group=`` each process watches what it has."""
        peers = self._peers
        if peers is None or peers.has_shares:
            return sums
        counted = np.zeros(len(sums))
        for plan in plans:
            for record in plan.records:
                counted[record.position] = record.is_counted
        return peers.joined(f, sums, counted, self._labels())

    # ---- what was counted

    @property
    def clipped_steps(self) -> int:
        """The number of steps that ``max_grad_norm`` has shortened; saved in the state dict.

        With ``adamas.torch.release``, each tensor counts by itself.
        """
        return super().clipped_steps + (0 if self._released is None else self._released.counted()[0])

    @property
    def skipped_steps(self) -> int:
        """The number of steps that ``on_nonfinite="skip"`` has skipped; saved in the state dict.

        With ``adamas.torch.release``, each tensor counts by itself.
        """
        return super().skipped_steps + (0 if self._released is None else self._released.counted()[1])

    # ---- memory

    def memory(self) -> Memory:
        """The bytes that weights, gradients and state take in this process now, by kind; ``print`` shows a table.

        A parameter's state is created at its first gradient (Adagrad's at construction). ``adamas.torch.plan_memory``
        predicts its size.
        """
        params = [p for group in self.param_groups for p in group["params"] if not is_lazy(p)]
        gradients = [part for p in params if p.grad is not None for part in storage.parts_of(local_of(p.grad))]
        away = {p for group in self.param_groups for p in group["params"] if self._is_offloaded(group, p)}
        states = [
            ({name: local_of(value) for name, value in state.items()}, p in away) for p, state in self.state.items()
        ]
        if self._released is not None:
            gradients += self._released.sums()
            states += self._released.histories()
        on_host, kept = self._homes.bytes if away else {}, self._bytes_kept()
        return counted(self._member, map(local_of, params), gradients, states, on_host, kept)

    # ---- the step

    @overload
    def step(self, closure: None = None, *, loss: Any = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, loss: Any = None) -> float: ...

    def step(self, closure: Callable[[], float] | None = None, *, loss: Any = None) -> float | None:
        """Performs one optimization step.

        If a signal handler raises an exception (``KeyboardInterrupt``, …), the step is either complete or not begun.
        Parameters on devices other than the CPU are an exception: they are stepped first and one after the other, so some of
        them may have been stepped. If their step is on the host (``offload=True``), the optimizer then refuses to step or be
        saved until a state dict is loaded.

        Args:
            closure: reevaluates the model and returns the loss.
            loss: the loss of this step, a number or a tensor with one element, for ``watch=`` and ``on_spike=``. On a GPU,
                nothing waits for it. By default what ``closure`` returns.

        Raises:
            TypeError: ``loss``, or what was written into a group as a hyperparameter, is not a number. Nothing was changed.
            FloatingPointError: a gradient is not finite and ``on_nonfinite="raise"``. Nothing was changed.
            RuntimeError: a gradient is sparse, and the optimizer or the device does not support that; or several processes
                share the model, and all of them skipped the last step because one of them raised an error. Nothing was
                changed.
            ValueError: a gradient or a state tensor cannot be used; the message names it. Nothing was changed.
        """
        self._homes.refuse_broken()
        if self._released is not None:
            self._expect_loss(loss)
            self._check_loss()
            self._released.finish(closure)
            return None
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
        # What a closure returns may be anything; without a single number, the loss is not known.
        self._expect_loss(found if loss is None and self._has_single(found) else loss)
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        scale = 1.0 if grad_scale is None else 1 / grad_scale.detach().to(torch.float64).reshape(())
        # After an overflow, GradScaler lowers its scale; neither step count nor moments advance.
        overflow = None if found_inf is None else found_inf.detach().reshape(())
        with self._lasting(), self._lock, self._homes.flushed(torch.get_num_threads()):
            self._step_all(None, scale, torch.get_num_threads(), overflow)
        self._homes.join()
        return found

    def _expect_loss(self, loss: Any) -> None:
        """See ``Stepping._expect_loss``."""
        super()._expect_loss(loss)
        if isinstance(loss, Tensor) and self._has_single(loss):
            self._loss = loss.detach().reshape(())

    @staticmethod
    def _has_single(loss: Any) -> bool:
        """See ``Stepping._has_single``."""
        if isinstance(loss, Tensor):
            return loss.numel() == 1 and not loss.is_complex() and not loss.is_meta
        return Stepping._has_single(loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients: see ``torch.optim.Optimizer.zero_grad``."""
        if self._released is not None:
            self._released.discard()
        super().zero_grad(set_to_none)

    def _lasting(self) -> AbstractContextManager[Any]:
        """A context in which later steps can write the tensors that are made, if this one is within ``torch.inference_mode``.

        Weights that were made there themselves can only be written there, and so can their state.
        """
        if not torch.is_inference_mode_enabled():
            return nullcontext()
        is_bound = any(p.is_inference() for group in self.param_groups for p in group["params"])
        return nullcontext() if is_bound else torch.inference_mode(False)

    def _is_observed(self) -> bool:
        """Whether a hook or the profiler observes steps. Entering its context takes as long as a small step."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        )

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps ``step`` with the profiler's mark and the step hooks, only once if a subclass calls ``super().step()``."""
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
        vars(self).setdefault(
            "_lock", step_lock()
        )  # a loaded optimizer keeps its lock, as other threads may be waiting for it
        self._begin()
        self._begin_scaling()
        self._counted = None, steps_done(self.state.values())
        for group, schedules in zip(self.param_groups, self._schedules_now(), strict=True):
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            schedules.member = self._member  # it is not copied with them
            schedules.separate(self.state.values())
            self._listen(schedules)
            group.setdefault("base_lr", float(group["lr"]))
        for p, entry in self.state.items():
            if isinstance(p, Tensor):
                former.convert_state(torch, entry, self._member.states)  # of an optimizer that a former version pickled

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled. The copy of a released optimizer steps as usual."""
        self._homes.refuse_broken()
        if self._released is not None:
            self._released.save()
        self._save_decisions()
        shared = {"_peers": self._peers} if self._peers is not None and self._peers.has_shares else {}
        names = ("_watching", "_on_spike", "_spikes")
        kept = {"_schedules": self._schedules_now(), **{name: getattr(self, name) for name in names}}
        return {**super().__getstate__(), **shared, **kept}

    @_disable_dynamo
    def state_dict(self, state: Literal["float32"] | None = None) -> dict[str, Any]:
        """The state as tensors under PyTorch's names, and the hyperparameters: see ``torch.optim.Optimizer``.

        An 8-bit moment is two tensors: codes with the shape of the weight (int8, or uint8 for an unsigned moment) and
        ``…_grid``, float32 of shape (rows, blocks of a row). In 6 bits the codes are packed, four in three bytes, in the shape
        (rows, 3·⌈row/4⌉). The first dimension numbers the rows; in a weight of three or more dimensions whose last is a
        multiple of 128, all but the last do.

        If another thread is in a step, the call waits for it, so that the state is consistent. As in ``torch.optim``, the
        tensors are the optimizer's own, and the next step writes to them. To save while another thread steps, copy the
        optimizer first: ``copy.deepcopy(optimizer).state_dict()``, which is consistent too.

        Args:
            state: None returns the moments as they are stored; ``"float32"`` returns all of them in float32, which
                ``torch.optim`` loads, and leaves out the low bits of split weights.
        """
        with self._lock:
            self._homes.refuse_broken()
            if self._released is not None:
                self._released.save()
            self._settle_states()
            for group in self.param_groups:
                group["decoupled_weight_decay"] = group["decay"] == "decoupled"  # what torch.optim reads
            self._save_decisions()
            packed = super().state_dict()
            for group, schedules in zip(packed.get("param_groups", ()), self._schedules_now(), strict=False):
                group.update(schedules.in_numbers(group))
            for group in packed.get("param_groups", ())[:1]:
                group.update(self._kept_entries())
            for group in packed.get("param_groups", ()):  # a hook may have wrapped them
                # As text: torch.distributed.checkpoint takes tuples apart, and broadcasts no more numbers than are here.
                group["grad_norms"] = json.dumps(group["grad_norms"])
            if state is None:
                return with_whole_scales(self._member, self.param_groups, packed)
            return exported(self._member, self.param_groups, packed, state)

    @_disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any], hyperparameters: str = "saved") -> None:
        """Loads a state dict of this class, or of the class of the same name in ``torch.optim``.

        Tensors are copied and never shared with their source. Parameters are matched by name if both sides have names, else
        by position. Moments are stored in the format of this optimizer's ``state=``: those saved in another format are
        converted, and a warning says which. The state of the 8-bit optimizers of bitsandbytes and torchao can be loaded too;
        the saved hyperparameters of bitsandbytes keep their meaning.

        The state of parameters that are DTensors may be DTensors of any mesh and placements, or whole plain tensors. All
        processes of the meshes call this together, and if it raises in one of them, it raises in all.

        Args:
            state_dict: the result of ``state_dict()``.
            hyperparameters: ``"saved"`` takes the learning rate, decay and all other options from the state dict, as
                ``torch.optim`` does; ``"given"`` keeps those of this optimizer.

        Raises:
            ValueError: the state dict does not fit; the message names the parameter. Nothing was changed.
        """
        with self._lock, self._lasting():
            with self._all_or_none() as agree:
                check_choice(hyperparameters)
                if not isinstance(state_dict, Mapping):
                    raise TypeError(f"load_state_dict: expected a state dict, not a {type(state_dict).__name__}")
                state_dict = dict(state_dict)
                for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
                    replaced = pre_hook(self, state_dict)
                    state_dict = state_dict if replaced is None else replaced
                groups, state, saved_groups = loaded(
                    self._member,
                    self._schedules_now(),
                    {p: name for name, p in self._named_parameters()},
                    self.defaults,
                    state_dict,
                    hyperparameters,
                    type(self).__name__,
                    # AdamW's decay is decoupled, whatever a checkpoint of torch.optim says.
                    defaults_of(self._member, "torch")["decay"] != "decoupled",
                    agree,
                    self._home_of,
                )
                kept = self._kept_in(saved_groups)
            self.__setstate__({"state": defaultdict(dict, state), "param_groups": groups})
            if self._released is not None:
                self._released.restart()
            self._homes.broken = None
            self._take_kept(kept)
            for one, saved in zip(self._schedules_now(), saved_groups, strict=True):
                one.load_observed(saved.get(OBSERVED))
            for post_hook in self._optimizer_load_state_dict_post_hooks.values():
                post_hook(self)

    @contextmanager
    def _all_or_none(self) -> Iterator[Callable[[Sequence[Exchanged]], None]]:
        """If loading raises in one of the processes that share DTensors, it raises in all of them.

        Yields a function that the block calls with what this process is to exchange with others, before it does so.
        """
        params = [p for group in self.param_groups for p in group["params"]]
        peers = None
        if any(map(is_distributed, params)):
            self._find_peers()
            peers = self._peers
        if peers is None:
            yield lambda exchanged: None
            return
        problem, is_agreeing = None, False

        def agree(exchanged: Sequence[Exchanged]) -> None:
            nonlocal is_agreeing
            is_agreeing = True
            peers.check_all(None, exchanged)
            is_agreeing = False

        try:
            yield agree
        except Exception as error:
            if is_agreeing:
                raise  # as in all other processes
            problem = error
        peers.check_all(problem)


class EagerOptimizer(Optimizer):
    """An optimizer that creates the state of a parameter when it is added, as ``torch.optim.Adagrad`` does."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group and creates its state at once: see ``share_memory``."""
        super().add_param_group(param_group)
        self._settle_states()

    def _settle_states(self) -> None:
        """Also creates the state of parameters that have replaced others."""
        super()._settle_states()
        first = 0
        for group in self.param_groups:
            names = parameter_names(group, first)
            for i, p in enumerate(group["params"]):
                if p.requires_grad and not is_lazy(p) and is_here(p) and p not in self.state:
                    self._initialize_state(group, i, names[i])
            first += len(group["params"])

    def share_memory(self) -> None:
        """Moves the moments to shared memory, for training in several processes at once."""
        for state in self.state.values():
            for name in self._member.states:
                state[name].share_memory_()
