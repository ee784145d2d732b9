"""The order of a step: plans, gradients, clipping, the numbers of the step, sums, schedules, and the call that applies it."""

from __future__ import annotations

import copy
import functools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..rule.declaration import Member, Numbers
from ..rule.hyperparameters import shown
from ..schedules import Schedule
from . import clipping, spikes, sums
from .deciding import Decision, Decisions
from .evaluation import refuse_evaluated
from .executor import hyperparameters
from .explaining import Explanation
from .inspection import Inspection, Peers
from .plan import GroupPlan, look, step
from .record import Change, Scalars, Tensor
from .scheduled import GroupSchedules, steps_done
from .spikes import Spikes
from .together import Shared, Together
from .watch import Watch
from .watching import CALLS, WATCHED, Assembly, Host, Kept, Part, Step, Watching, options_of, parsed, update_norm

_NOTHING = Inspection()
WHOLE_OPTIONS = ("watch", "on_spike")  # the options of an optimizer that are none of its groups


class KeptBeside(NamedTuple):
    """What is kept beside the state, as a state dict has it; None for what that does not have.

    Attributes:
        watched: what was watched.
        calls: the number of steps that ``every=`` goes by.
        spikes: what spikes go by.
    """

    watched: Kept | None
    calls: int | None
    spikes: Mapping[str, Any] | None


class Stepping:
    """The base of optimizers over ``param_groups``, for the tensors of any framework.

    Attributes:
        param_groups: dictionaries of hyperparameters, with the parameters of the group under ``"params"``.
        state: the state of each parameter, with its step.
        grad_norm: the 2-norm of the last step's gradient before clipping, if ``max_grad_norm``, ``on_nonfinite`` or
            ``on_spike`` required it; else None. If the device of the parameters decided about the step, a tensor there.
        grad_norm_limit: the lowest ``max_grad_norm`` of the last step; None if there was none. A tensor likewise.
    """

    _member: ClassVar[Member]
    param_groups: list[dict[str, Any]]
    state: Any  # a mapping from each parameter to its state; its type depends on the framework
    # These are attributes of the instances: values in the class would hide the __getattr__ of wrappers that derive from it.
    grad_norm: Any
    grad_norm_limit: Any
    _decisions: Decisions | None  # of the device of the parameters, if it has decided about a step
    _lock: Any  # one step at a time
    _plans: Any  # the plans of the last step, or None
    _schedules: list[GroupSchedules]  # of the groups that there were at the last look: see ``_schedules_now``
    _counted: tuple[
        Sequence[GroupPlan] | None, int
    ]  # the steps done, and the plans whose states they were counted from
    _held: bool  # whether the rate of the last step was 0 instead of the schedule's
    _together: Together | None  # the processes whose devices have decided about the last step together
    _skipped: str  # why the last step was skipped, to be raised at the coming one; empty if it was not
    _peers: Peers | None  # None if this process has all parameters of the model
    _watching: Watching | None  # what ``watch=`` keeps
    _on_spike: spikes.Options | None  # what ``on_spike=`` says
    _spikes: Spikes | None  # what it remembers; None before the first step
    _loss: Any  # of the coming step; None if it is not known
    _positions: Sequence[int]  # of each peer's first parameter among those of all; empty if they have the same

    def _begin(self) -> None:
        """Sets the attributes of an optimizer that has made no step since it was made or unpickled."""
        self.grad_norm = self.grad_norm_limit = None
        self._plans, self._counted, self._held, self._positions = None, (None, 0), False, ()
        self._decisions = None
        self._together, self._skipped = None, ""
        vars(self).setdefault("_peers", None)
        for name in ("_watching", "_on_spike", "_spikes"):
            vars(self).setdefault(name, None)
        self._loss = None

    @property
    def clipped_steps(self) -> int:
        """The number of steps that ``max_grad_norm`` has shortened; saved in the state dict."""
        if self._decisions is not None:
            return self._decisions.clipped_steps
        return self._most("clipped_steps")

    @property
    def skipped_steps(self) -> int:
        """The number of steps that ``on_nonfinite="skip"`` has skipped; saved in the state dict."""
        if self._decisions is not None:
            return self._decisions.skipped_steps
        return self._most("skipped_steps")

    @property
    def d(self) -> float:
        """The estimate of Prodigy that the next step uses; it is in the state of each parameter.

        Raises:
            AttributeError: this is another member.
        """
        if "d" not in self._member.shared:
            raise AttributeError(f"{type(self).__name__} has no d: only Prodigy estimates one")
        known = [(float(state["k"]), float(state["d"])) for state in self.state.values() if "d" in state]
        _, d = max(known, default=(0.0, 0.0))
        return max(d, float(self.param_groups[0]["d0"]))

    def _most(self, count: str) -> int:
        """The largest count of this name in the groups."""
        return max((group[count] for group in self.param_groups), default=0)

    def _formulas(self) -> Any:
        """The functions of the device that can decide about steps (``adamas.step.deciding``); None if the host does."""
        return None

    def _counts_there(self) -> bool:
        """Whether that device counts the steps, since it may skip one."""
        return False

    @abstractmethod
    def _current_plans(self) -> Sequence[GroupPlan]:
        """The plans of all groups, for their present tensors and options."""

    def _decides_alone(self, overflow: bool | None, misplaced: Sequence[Any]) -> bool:
        """Whether this process decides on the coming step alone. All processes have the same answer."""
        return self._peers is None

    def _misplaced(self, plans: Sequence[GroupPlan] | None) -> Sequence[Any]:
        """The gradients that processes have to exchange before the step.

        If ``plans`` is None, there is a problem already, and none is raised.

        Raises:
            ValueError: a gradient lies on other processes than its parameter; the message names the parameter.
        """
        return ()

    def _exchanged(self, plans: Sequence[GroupPlan], misplaced: Sequence[Any]) -> Sequence[list[Any] | None] | None:
        """The gradients of each group after the exchange; None for a group whose parameters have their own.

        The result is None if none was misplaced.
        """
        return None

    def _look(self, plans: Sequence[GroupPlan], gradients: Sequence[list[Any] | None] | None) -> Sequence[Any]:
        """Looks up all tensors, unless gradients are misplaced; returns these."""
        try:
            look(plans, gradients)
        except Exception:
            misplaced = self._misplaced(plans) if gradients is None else ()
            if not misplaced:
                raise
            return misplaced
        return ()

    def _shared_parts(self, plans: Sequence[GroupPlan]) -> Sequence[Any]:
        """What the step exchanges with other processes; what it is, the adapter knows.

        Raises:
            ValueError: a tensor cannot be used; the message names the parameter.
        """
        return ()

    def _step_divided(self, plans: Sequence[GroupPlan], threads: int) -> None:
        """Makes the prepared step for parameters with blocks that several processes share (``adamas.step.divided``)."""

    def _own_parameters(self) -> int:
        """The number of parameters, without those that another process counts (``adamas.step.inspection.Peers``)."""
        return sum(len(group["params"]) for group in self.param_groups)

    # ---- schedules

    def lr_at(self, step: int, group: int = 0) -> float:
        """The learning rate of a step, past or future.

        Args:
            step: the number of steps before it; 0 for the first.
            group: the index of the parameter group.
        """
        return self._schedules_now()[group].value_at("lr", step)

    @property
    def schedules(self) -> list[dict[str, Schedule]]:
        """The schedules of each parameter group, by the names of their hyperparameters (``"lr"``, ``"betas[0]"``, …)."""
        return [dict(schedules.schedules) for schedules in self._schedules_now()]

    def _drop_schedules(self) -> None:
        """Removes all schedules; the groups keep their present numbers."""
        self._schedules = [GroupSchedules(self._member, group) for group in self.param_groups]

    def on_observation(self) -> None:
        """Recomputes the scheduled numbers of all groups for the coming step; called when a ``Plateau`` has observed."""
        for schedules in self._schedules_now():
            schedules.verify()
        for schedules in self._schedules:
            schedules.write_observed()
        plans, steps = self._counted
        self._counted = None, steps  # if this is interrupted, the next step repeats it
        if self._decisions is not None and steps is self._decisions.steps:
            formulas = self._decisions.formulas
            formulas.refuse_capture("a schedule has observed a metric in it")
            for schedules in self._schedules:
                schedules.begin_there(formulas, steps)
            self._counted = plans, steps  # a captured step must not write the factors that it knows
        self._refresh()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy. If another thread is stepping, the copy is made after that step."""
        this: Any = self  # each framework's optimizer has a __getstate__ and a __setstate__
        with self._lock:
            other: Any = type(self).__new__(type(self))
            memo[id(self)] = other
            other.__setstate__(copy.deepcopy(this.__getstate__(), memo))
        return other

    def _schedules_now(self) -> list[GroupSchedules]:
        """The schedules of the present groups.

        A group whose dictionary was replaced keeps its schedules: they go to the dictionary in its place.
        """
        found, groups = self._schedules, self.param_groups
        if len(found) == len(groups):
            for one, group in zip(found, groups, strict=True):
                if one.group is not group:
                    break
            else:
                return found
        left, here = {id(one.group): one for one in found}, {id(group) for group in groups}
        orphans = {i: one.schedules for i, one in enumerate(found) if id(one.group) not in here}
        found[:] = [
            left.get(id(group)) or GroupSchedules(self._member, group, orphans.get(i)) for i, group in enumerate(groups)
        ]
        return found

    def _refresh(self) -> None:
        for schedules in self._schedules:
            schedules.refresh(self._counted[1])

    def _listen(self, schedules: GroupSchedules) -> None:
        for part in schedules.observed():
            part.tell(self)

    def _scheduled(self, plans: Sequence[GroupPlan], steps: int | None) -> Sequence[GroupPlan]:
        """The plans, after the scheduled numbers of the coming step were written.

        ``steps`` is the number of steps done; if None, it is read from the states.
        """
        if self._counted[0] is plans and (steps is None or steps == self._counted[1]) and self._is_untouched():
            return plans
        self._settle_schedules(steps_done(self.state.values()) if steps is None else steps)
        plans = self._current_plans()
        self._counted = plans, self._counted[1]
        return plans

    def _settle_schedules(self, steps: int) -> None:
        """Writes the scheduled numbers of the step after ``steps`` of them."""
        for schedules in self._schedules:
            if steps == self._counted[1]:
                schedules.verify(may_hold=not self._held)
            else:  # whatever replaced the state (ZeroRedundancyOptimizer, …) has also written the numbers of its step
                schedules.forget()
        self._counted = None, steps
        for schedules in self._schedules:
            schedules.end_there()
            schedules.read_observed()
        self._refresh()

    def _is_untouched(self) -> bool:
        """Whether nothing else has written the scheduled numbers."""
        for one in self._schedules:  # noqa: SIM110 - all() takes 0.3 µs more
            if not one.is_untouched():
                return False
        return True

    # ---- the step

    def _step_all(
        self, gradients: Sequence[list[Any] | None] | None, scale: Any, threads: int, overflow: Any = None
    ) -> None:
        """Steps every parameter that has a gradient: one of ``gradients``, given for each group, or, if None, its own.

        ``scale`` is a factor for the gradients. If there was an ``overflow`` in them, nothing is done; None if no loss scaler
        has looked for one. Both may be tensors on the device that ``_formulas`` names.
        """
        self.grad_norm = self.grad_norm_limit = None
        with self._lock:
            refuse_evaluated(self.param_groups)
            self._look_back()
            is_decided_there = self._decides_there(overflow)
            if is_decided_there and self._step_there(gradients, scale, overflow):
                return
            self._together = None
            if self._decisions is not None and not self._decides_there(overflow):
                self._stop_deciding()
            given = scale, overflow
            scale, overflow = float(scale), None if overflow is None else bool(overflow != 0)
            plans: Sequence[GroupPlan] = ()
            misplaced: Sequence[Any] = ()
            problem: Exception | None = None
            has_schedules = False
            try:
                try:
                    if not overflow:
                        plans = self._current_plans()
                        # The parameters may have become trainable, or come to the device, since the last plans.
                        is_late = not is_decided_there and self._decides_there(overflow)
                        if is_late and self._step_there(gradients, scale, None):
                            return
                        has_schedules = any(one.schedules for one in self._schedules_now())
                        misplaced = self._look(plans, gradients)
                except Exception as error:
                    problem, misplaced = error, self._misplaced(None)
                seen = self._seen(plans, threads, has_schedules, overflow, misplaced, problem)
                if seen.exchange and not seen.overflow:
                    _release(plans)
                    try:
                        gradients = self._exchanged(plans, misplaced)
                        look(plans, gradients)
                    except Exception as error:
                        problem = error
                    seen = self._seen(plans, threads, has_schedules, overflow, (), problem, is_placed=True)
                if seen.overflow:
                    self._end_skipped()
                    return
                if seen.is_for_devices:
                    self._begin_together()
                    _release(plans)
                    self._step_all(gradients, given[0], threads, given[1])
                    return
                settled = self._settled(plans, seen, has_schedules)
                if settled is not plans:
                    _release(plans)
                    plans = settled
                    look(plans, gradients)
                self._step_seen(plans, seen, has_schedules, scale, threads)
            finally:
                _release(plans)

    # ---- steps that are made in parts, each a step of an optimizer of some of the parameters

    def _begin_parts(self) -> None:
        """Writes the scheduled numbers of the coming step, whose parameters are stepped one after the other."""
        self._look_back()
        if self._watching is not None:
            self._watching.parts = []
            if self._is_watched():
                self._begin_ring()
        self.grad_norm = self.grad_norm_limit = None
        if not any(one.schedules for one in self._schedules_now()):
            return
        if self._decides_there(None) and self._counts_there():
            steps = self._start_deciding().steps
            self._settle_schedules_there(None if self._counted[1] is steps else steps_done(self.state.values()))
            return
        if self._decisions is not None:
            self._stop_deciding()
        self._settle_schedules(steps_done(self.state.values()))

    def _end_parts(self, parts: Sequence[Stepping]) -> None:
        """Writes the scheduled numbers of the following step, when all parameters have been stepped.

        Args:
            parts: the optimizers of the parameters that were.

        Raises:
            Exception: a schedule has raised it.
        """
        if self._watching is not None:
            self._end_watching_parts()
        if not any(one.schedules for one in self._schedules_now()):
            return
        if self._decisions is not None:
            reached = [part._decisions.steps for part in parts if part._decisions is not None]
            self._decisions.count(Decision((), None), reached)
            self._look_ahead_there()
            return
        changes: list[Change] = []
        seen = Inspection(reached=steps_done(self.state.values()))
        problem = self._look_ahead((), seen, True, changes)
        for dictionary, key, value in changes:
            dictionary[key] = value
        if problem is not None:
            raise problem

    def _creates_state(self) -> bool:
        """Creates the state if a step would do nothing else (``_is_query``); returns whether it did."""
        if not self._has_zero_rates():
            return False
        plans = self._current_plans()
        try:
            look(plans, None)
            return self._is_query(plans)
        finally:
            _release(plans)
            self._plans = None

    def _count_parts(self, clipped: int, skipped: int) -> None:
        """Adds what the optimizers of the parameters have counted."""
        if self._decisions is not None:
            self._decisions.add(clipped, skipped)
        for group in self.param_groups:
            group["clipped_steps"] += clipped
            group["skipped_steps"] += skipped

    # ---- steps that the parameters' device decides about (adamas.step.deciding)

    def _decides_there(self, overflow: Any) -> bool:
        """Whether there is something about the coming step that the device decides."""
        formulas = self._formulas()
        if formulas is None:
            return False
        if self._counts_there():
            return True
        # A step that the device skips needs a count there.
        return overflow is None and (
            self._is_measured()
            or self._on_spike is not None
            or any(formulas.has(group["lr"]) for group in self.param_groups)
        )

    def _check_capture(self) -> None:
        """Raises RuntimeError if the coming step cannot be captured in a CUDA graph."""

    def _step_there(self, gradients: Sequence[list[Any] | None] | None, scale: Any, overflow: Any) -> bool:
        """Makes the step without waiting for the device; returns whether it did.

        The host waits only if ``on_nonfinite="raise"``.
        """
        if self._formulas().is_capturing():
            self._check_capture()
        together = self._together_in(overflow)
        plans: Sequence[GroupPlan] = ()
        try:
            try:
                plans = self._current_plans()
                counts_there = self._counts_there()
                if not self._decides_there(overflow):  # parameters have come, or options have changed
                    return False
                if self._look(plans, gradients):  # the processes exchange gradients first
                    return False
                has_schedules = any(one.schedules for one in self._schedules_now())
                if self._is_query(plans):
                    return False
                decisions, counted = self._start_deciding(), self._counted
                if has_schedules:
                    settled = self._scheduled_there(plans) if counts_there else self._scheduled(plans, None)
                    if settled is not plans:
                        _release(plans)
                        plans = settled
                        look(plans, gradients)
                self._check_loss()
                self._check_spikes()
                squares, is_skipped = self._measured_there(plans, overflow)
                hypers = [
                    plan.hyperparameters(group, decisions.formulas)
                    for group, plan in zip(self.param_groups, plans, strict=True)
                ]
                if together is not None:
                    made = [most for plan in plans for most in plan.steps_there()]
                    loss = None if self._loss is None else decisions.formulas.hyperparameter(self._loss)
                    row = together.row(squares or (), is_skipped, overflow, decisions.steps, made, loss)
            except Exception:
                if together is not None:
                    if self._misplaced(None):
                        return False
                    together.give_up()
                raise
            shared = None
            if together is not None:
                shared = together.share(row)
                decisions.steps.copy_(shared.steps)
                if counted is not self._counted:  # the scheduled numbers were those after the steps that are known here
                    for one in self._schedules:
                        one.compute_there()
            decision = self._decided(squares, is_skipped, scale, overflow, shared)
            self._prepare_there(plans, hypers, decision)
            if self._on_spike is not None and "exact" in self._on_spike.of:
                decision = self._decided_exactly(plans, decision)
                self._prepare_there(plans, hypers, decision)
            problem = None
            changes: list[Change] = []
            if has_schedules and not counts_there:
                problem = self._look_ahead(plans, _NOTHING, True, changes)
            is_watched = self._begin_watching(plans)
            reached = [most for plan in plans for most in plan.apply_there(decision.runs)]
            if shared is not None:
                reached = [decisions.formulas.where(decision.runs, shared.reached, 0.0)]
            decisions.count(decision, reached)
            if self._spikes is not None and decision.spike is not None:
                self._spikes.count(decision.spike, decision.would_run)
            if self._watching is not None:
                is_clipped = self.grad_norm_limit is not None or decision.spike is not None
                clips = [one / scale for one in decision.scales] if is_clipped else None
                steps = decisions.steps if counts_there else max(plan.reached() for plan in plans)
                self._end_watching(plans if is_watched else None, steps, clips, decision.runs)
            for dictionary, key, value in changes:
                dictionary[key] = value
            if has_schedules and counts_there:
                self._look_ahead_there()
            if problem is not None:
                raise problem
            return True
        finally:
            _release(plans)

    def _formulas_together(self) -> Any:
        """The functions of the device that could decide about steps together with those of other processes; None if the host
        has to.
        """
        return None

    def _together_in(self, overflow: Any) -> Together | None:
        """The processes whose devices decide about the coming step together; None if this process decides alone."""
        is_alone = self._decides_alone(None if overflow is None else False, ())
        return None if is_alone else self._together

    def _begin_together(self) -> None:
        """Leaves the decisions to the devices of all processes, which have agreed on it."""
        assert self._peers is not None
        self._together = Together(self._formulas_together(), self._peers)

    def _look_back(self) -> None:
        """Returns if the last step was made; ends deciding on the devices if this process no longer can.

        Raises:
            RuntimeError: the last step was skipped by all processes, since one of them could not make it. All of them raise,
                before they exchange anything.
        """
        skipped, self._skipped = self._skipped, ""
        if self._together is not None:
            if self._together.formulas.is_capturing():
                self._check_capture()
            skipped = self._together.failure() or skipped
            if skipped or self._formulas_together() is None:
                self._together = None
        if skipped:
            raise RuntimeError(f"{skipped}, and none makes this one. The next call makes a step again")

    def _start_deciding(self) -> Decisions:
        """Gives the device what it decides by, and what was counted so far."""
        if self._decisions is None:
            counted = *map(self._most, ("clipped_steps", "skipped_steps")), self.param_groups[0]["grad_norms"]
            self._decisions = Decisions(self._formulas(), steps_done(self.state.values()), *counted)
        return self._decisions

    def _stop_deciding(self) -> None:
        """Leaves the decisions to the host, with what the device has counted so far."""
        self._save_decisions()
        self._decisions = None

    def _measured_there(
        self, plans: Sequence[GroupPlan], overflow: Any
    ) -> tuple[Sequence[Tensor] | None, Tensor | None]:
        """What the device measures: see the arguments ``squares`` and ``is_skipped`` of ``Decisions.decide``.

        Raises:
            FloatingPointError: a gradient is not finite, and its group has ``on_nonfinite="raise"``.
        """
        if not self._is_measured():
            return None, None
        f, squares, skip = self._formulas(), list[Tensor](), None
        for group, plan in zip(self.param_groups, plans, strict=True):
            found = plan.squares_there(f)
            squares += [square for square, _ in found]
            if group["on_nonfinite"] == "propagate" or not found:
                continue
            is_not_finite = ~f.stack([is_finite for _, is_finite in found]).all()
            if group["on_nonfinite"] == "skip":
                skip = is_not_finite if skip is None else skip | is_not_finite
            elif is_not_finite if overflow is None else is_not_finite & (overflow == 0):
                raise self._not_finite(plan.culprit())
        return squares, skip

    def _decided(
        self,
        squares: Sequence[Tensor] | None,
        is_skipped: Tensor | None,
        scale: Any,
        overflow: Any,
        shared: Shared | None,
    ) -> Decision:
        """What the device decides about the coming step, from what this process has measured or, if several decide together,
        from what they have ``shared``.
        """
        decisions, is_measured = self._decisions, squares is not None
        assert decisions is not None
        if shared is not None:
            squares = shared.squares if is_measured else None
            may_skip = any(group["on_nonfinite"] == "skip" for group in self.param_groups)
            is_skipped, overflow = shared.is_skipped if may_skip else None, shared.is_stopped
        limits = [decisions.formulas.hyperparameter(group["max_grad_norm"]) for group in self.param_groups]
        has_limit = is_measured and any(limit is not None for limit in limits)
        self.grad_norm = decisions.grad_norm if is_measured else None
        self.grad_norm_limit = decisions.grad_norm_limit if has_limit else None
        norm = None if squares is None else decisions.norm_of(squares) * scale
        spiking, spike = self._present_spikes(), None
        if spiking is not None:
            spike = spiking.decide(self._measures(norm, None if shared is None else shared.loss))
        skips = spiking is not None and spiking.skips
        return decisions.decide(norm, is_skipped, limits, scale, overflow, spike, skips)

    def _decided_exactly(self, plans: Sequence[GroupPlan], decision: Decision) -> Decision:
        """The decision about the prepared step, with what its update would be (``on_spike`` with ``of=exact``)."""
        spiking, decisions = self._spikes, self._decisions
        assert spiking is not None
        assert decisions is not None
        spike = spiking.decide({"exact": self._coming_update_norm(plans, 1)}, decision.spike)
        return decisions.without_spike(decision, spike) if spiking.skips else decision._replace(spike=spike)

    def _prepare_there(
        self, plans: Sequence[GroupPlan], hypers: Sequence[Mapping[str, Any]], decision: Decision
    ) -> None:
        """Prepares the step on the device, with the hyperparameters of each group."""
        decisions, names = self._decisions, self._member.scalar_names
        assert decisions is not None
        f, spike = decisions.formulas, decision.spike
        if spike is not None and self._on_spike is not None and self._on_spike.shortens_updates:
            hypers = [{**hyper, "lr": f.number(hyper["lr"]) * spike.rate} for hyper in hypers]
        for hyper, plan, scale in zip(hypers, plans, decision.scales, strict=True):

            def advance(before: Scalars, hyper: Mapping[str, Any] = hyper) -> Scalars:
                return tuple(self._member.advance(hyper, dict(zip(names, before, strict=True))).values())

            plan.prepare_there(f, hyper, scale, advance)

    def _scheduled_there(self, plans: Sequence[GroupPlan]) -> Sequence[GroupPlan]:
        """As ``_scheduled``, where the device counts the steps."""
        decisions = self._decisions
        assert decisions is not None
        are_there = all(one.are_there for one in self._schedules)  # a replaced group begins again
        if self._counted[0] is plans and self._counted[1] is decisions.steps and are_there and self._is_untouched():
            return plans
        decisions.formulas.refuse_capture("scheduled numbers, parameters or states have changed since the last step")
        self._settle_schedules_there(steps_done(self.state.values()))
        plans = self._current_plans()
        self._counted = plans, decisions.steps
        return plans

    def _settle_schedules_there(self, steps: int | None) -> None:
        """As ``_settle_schedules``, where the device counts the steps. If ``steps`` is None, its count is still right."""
        decisions = self._decisions
        assert decisions is not None
        is_next = steps is None or bool(steps == self._counted[1])
        if steps is not None:
            decisions.set_steps(steps)
        for one in self._schedules:
            if is_next:
                one.verify(may_hold=not self._held)
            else:
                one.forget()
        self._counted = None, decisions.steps
        for one in self._schedules:
            one.read_observed()
        self._check_schedules(decisions)
        for one in self._schedules:
            one.begin_there(decisions.formulas, decisions.steps)
        self._refresh()

    def _look_ahead_there(self) -> None:
        """As ``_look_ahead``, where the device counts the steps.

        Raises:
            ValueError: a schedule gives a number out of range for the following step.
        """
        decisions = self._decisions
        assert decisions is not None
        self._held = any(one.is_held() for one in self._schedules)
        for one in self._schedules:
            one.compute_there()
        if self._held:
            self._counted = None, decisions.steps
            self._refresh()
        if decisions.formulas.is_capturing():
            return
        decisions.attempted += 1
        try:
            self._check_schedules(decisions)
        except Exception:
            self._counted = None, decisions.steps  # the next step checks them again, before it changes anything
            raise

    def _check_schedules(self, decisions: Decisions) -> None:
        """Raises ValueError if a schedule gives a number out of range for the coming step.

        The host waits for the device, which may have skipped steps, only if one does at the step that would come without that.
        """
        try:
            for one in self._schedules:
                one.check_at(decisions.attempted)
        except Exception:
            decisions.attempted = int(decisions.steps)
            for one in self._schedules:
                one.check_at(decisions.attempted)

    def _save_decisions(self) -> None:
        """Writes what the device has counted into the groups. The host waits for it.

        Raises:
            RuntimeError: the last step was skipped, since one of the processes that decide together could not make it.
        """
        if self._together is not None:
            self._together.tell()
        decisions = self._decisions
        if decisions is not None:
            for group in self.param_groups:
                group.update(clipped_steps=decisions.clipped_steps, skipped_steps=decisions.skipped_steps)
            self.param_groups[0]["grad_norms"] = decisions.grad_norms

    def _seen(
        self,
        plans: Sequence[GroupPlan],
        threads: int,
        has_schedules: bool,
        overflow: bool | None,
        misplaced: Sequence[Any],
        problem: Exception | None,
        is_placed: bool = False,
    ) -> Inspection:
        """Inspects the parameters, together with the processes that share the model.

        If gradients are misplaced, the processes only agree on the exchange. ``is_placed`` is whether that was done.

        Raises:
            Exception: the step cannot be made, because of ``problem`` or otherwise.
        """
        alone, seen = self._decides_alone(overflow, misplaced), None
        shared: Sequence[Any] = ()
        try:
            if problem is not None:
                raise problem
            if overflow:
                seen = Inspection(overflow=True)
            elif not misplaced:
                seen = self._inspect(plans, threads, has_schedules, alone)
                shared = self._shared_parts(plans)
        except Exception as error:
            if alone:
                raise
            problem = error
        if alone or self._peers is None:
            return Inspection(exchange=True) if seen is None else seen
        is_willing = not misplaced and not is_placed and self._formulas_together() is not None
        found = self._peers.agree(seen, problem, self._own_parameters(), misplaced, shared, is_willing)
        if found.apart:
            self._skipped = found.apart
            raise RuntimeError(found.apart) if problem is None else problem
        return found

    def _inspect(self, plans: Sequence[GroupPlan], threads: int, has_schedules: bool, alone: bool) -> Inspection:
        """Inspects the parameters with gradients, before anything is changed. ``alone``: see ``_decides_alone``.

        Raises:
            FloatingPointError: a gradient is not finite, and its group has ``on_nonfinite="raise"``.
        """
        self._check_loss()
        is_query, is_measured, skip = self._is_query(plans), self._is_measured(), False
        if not is_query:
            self._check_spikes()
        if alone and not (is_query or is_measured):
            return _NOTHING
        square_sums: list[float] | None = None
        if is_measured:
            square_sums = []
            for group, plan in zip(self.param_groups, plans, strict=True):
                parts, culprit = plan.square_sum(threads, alone)
                square_sums += parts
                if culprit is not None and group["on_nonfinite"] == "raise":
                    raise self._not_finite(culprit)
                skip |= culprit is not None and group["on_nonfinite"] == "skip"
        steps, reached = None, 0
        if has_schedules and not alone:
            steps = self._counted[1] if self._counted[0] is plans else steps_done(self.state.values())
            reached = 1 + int(max((plan.most_steps() for plan in plans), default=-1))
        loss = None
        if not (alone or is_query) and self._on_spike is not None and "loss" in self._on_spike.of:
            loss = float(self._loss)
        return Inspection(False, is_query, skip, steps, reached, square_sums, loss=loss)

    def _settled(self, plans: Sequence[GroupPlan], seen: Inspection, has_schedules: bool) -> Sequence[GroupPlan]:
        """The plans of the coming step, given what all processes know together."""
        if seen.positions != self._positions:
            self._positions, self._plans = seen.positions, None
            plans = self._current_plans()
        return self._scheduled(plans, seen.steps) if has_schedules else plans

    def _step_seen(
        self, plans: Sequence[GroupPlan], seen: Inspection, has_schedules: bool, scale: float, threads: int
    ) -> None:
        """Steps the parameters with gradients. Nothing is changed before the last call, which changes everything at once."""
        changes: list[Change] = []
        clips = None if seen.is_query else self._prepare(plans, seen, scale, threads, changes)
        moves = clips is not None
        problem = self._look_ahead(plans, seen, moves, changes) if has_schedules else None
        is_watched = self._begin_watching(plans)
        if moves:
            self._step_divided(plans, threads)
        step(plans if moves else (), threads, changes)
        if self._watching is not None and not seen.is_query:
            steps = max((plan.reached() if moves else int(plan.most_steps()) for plan in plans), default=0)
            self._end_watching(plans if is_watched else None, steps, clips, None if moves else False)
        if problem is not None:
            raise problem

    # ---- what is watched

    @property
    def watch(self) -> Watch | None:
        """The statistics of the last steps, read now; None without ``watch=``. On a device, the host waits for them."""
        if self._watching is None:
            return None
        with self._lock:
            return Watch.of(self._watching.ring)

    def explain(self) -> Explanation:
        """What went wrong in the steps that were watched: in which tensor and at which step things first left their usual
        course, what that means, and what to do. ``print`` shows it in plain sentences; it is true if anything was found.

        The usual course of a statistic is its median and spread in the 128 watched steps before; 16 of them are enough.
        ``adamas.step.patterns.PATTERNS`` lists what is recognized. With ``watch="every=10"``, an event that lasts less than 10
        steps is seen only if it falls on a watched step, and 128 watched steps are 1280 steps.

        Raises:
            ValueError: the optimizer was made without ``watch=``.
        """
        watching = self._watching
        if watching is None:
            raise ValueError(
                f"explain() needs what watch= keeps, and this {type(self).__name__} was made without it: give watch=True, or "
                'watch="every=10" for one step in ten'
            )
        with self._lock:
            watch, groups = Watch.of(watching.ring), [{**group} for group in self.param_groups]
            labels = iter(self._labels())
        named = [([next(labels) for _ in group["params"]], group) for group in groups]
        return Explanation.of(watch, named, len(watch) < watching.options.keep)

    def watch_next(self) -> None:
        """Watches the next step, even if ``every=`` would leave it out.

        Raises:
            ValueError: the optimizer was made without ``watch=``.
        """
        if self._watching is None:
            raise ValueError(f"watch_next() needs watch=, and this {type(self).__name__} was made without it")
        self._watching.is_asked = True

    def _take_whole_options(self, given: dict[str, Any]) -> None:
        """Takes the ``WHOLE_OPTIONS`` out of an optimizer's arguments.

        Raises:
            TypeError: an option is of another type.
            ValueError: an option has a value that it cannot have.
        """
        options = options_of(given.pop("watch", None))
        self._watching = None if options is None else Watching(options)
        self._on_spike = spikes.options_of(given.pop("on_spike", None))
        if self._on_spike is not None and "update_norm" in self._on_spike.of and (options is None or options.every > 1):
            raise ValueError(
                "on_spike with of=update_norm goes by the statistics of the step before: give watch=True as well"
            )

    def _bytes_kept(self) -> dict[str, int]:
        """The bytes of what is kept beside the state, by kind."""
        watched = {} if self._watching is None else {"watch": self._watching.nbytes(self._labels())}
        return watched if self._spikes is None else {**watched, "spikes": self._spikes.nbytes}

    @abstractmethod
    def _labels(self) -> list[str]:
        """The name of each parameter of this process, in order, in what is watched."""

    def _kept_entries(self) -> dict[str, Any]:
        """What is kept beside the state, as entries of the first saved group."""
        found, watching = dict[str, Any](), self._watching
        if watching is not None and watching.ring is not None and watching.options.save:
            found[WATCHED] = watching.ring.saved()
        if watching is not None and watching.options.every > 1:
            found[CALLS] = watching.calls
        if self._spikes is not None:
            found[spikes.SPIKES] = self._spikes.saved()
        return found

    def _kept_in(self, saved_groups: Sequence[Mapping[str, Any]]) -> KeptBeside:
        """What was kept beside the state, as saved groups have it.

        Raises:
            ValueError: it cannot be read.
        """
        names = (WATCHED, CALLS, spikes.SPIKES)
        entries = {name: group[name] for group in saved_groups for name in names if name in group}
        is_watched, has_spikes = self._watching is not None, self._on_spike is not None
        calls = entries.get(CALLS)
        if is_watched and calls is not None and not (isinstance(calls, int) and calls >= 0):
            raise ValueError(f"loaded state dict: {CALLS!r} must be a number of steps, not {shown(calls)}")
        return KeptBeside(
            parsed(entries[WATCHED]) if is_watched and WATCHED in entries else None,
            calls,
            spikes.parsed(entries[spikes.SPIKES]) if has_spikes and spikes.SPIKES in entries else None,
        )

    def _take_kept(self, kept: KeptBeside) -> None:
        """Takes over what was kept beside the state that is loaded."""
        f = self._formulas() or Host
        if self._watching is not None:
            steps = int(steps_done(self.state.values()))
            calls = steps + int(self.skipped_steps) if kept.calls is None else kept.calls
            self._watching.restart(f, self._labels(), kept.watched, calls, steps)
        self._spikes = None
        if self._on_spike is not None and kept.spikes is not None:
            self._spikes = Spikes(self._on_spike, f)
            self._spikes.load(kept.spikes)

    def _expect_loss(self, loss: Any) -> None:
        """Takes the loss of the coming step; ``_check_loss`` checks it, where all processes learn of an error."""
        self._loss = loss.item() if isinstance(loss, np.ndarray) and loss.size == 1 else loss

    def _check_loss(self) -> None:
        """Raises TypeError if the loss is not a single number."""
        if self._loss is not None and not self._has_single(self._loss):
            raise TypeError(
                f"loss must be a single real number, of any type, not {shown(self._loss)}; no step was made"
            )

    @staticmethod
    def _has_single(loss: Any) -> bool:
        """Whether it is a single real number, also as a tensor."""
        return isinstance(loss, Real)

    # ---- spikes

    def _coming_update_norm(self, plans: Sequence[GroupPlan], threads: int) -> Any:
        """The norm of the update that the prepared step would make, over all tensors."""
        f = self._formulas() or Host
        parts = [Part(*found) for plan in plans for found in plan.measured(threads)]
        sums, _, _ = Assembly(f, len(self._labels())).of(parts)
        return update_norm(f, self._over_ranks(plans, f, sums))

    @property
    def spikes(self) -> int:
        """The number of steps that ``on_spike=`` has skipped or shortened; saved in the state dict. On a device, the host
        waits for it."""
        return 0 if self._spikes is None else self._spikes.number

    def _present_spikes(self) -> Spikes | None:
        """What spikes go by, where the coming step is decided; None without ``on_spike=``."""
        if self._on_spike is None:
            return None
        f, before = self._formulas() or Host, self._spikes
        if before is None or before.f is not f:
            self._spikes = Spikes(self._on_spike, f)
            if before is not None:
                self._spikes.load(spikes.parsed(before.saved()))
        return self._spikes

    def _may_skip_spikes(self) -> bool:
        """Whether a step may be skipped as a spike."""
        return self._on_spike is not None and self._on_spike.action == "skip"

    def _check_spikes(self) -> None:
        """Raises ValueError if spikes go by something that is not known."""
        if self._on_spike is not None and "loss" in self._on_spike.of and self._loss is None:
            raise ValueError(
                "on_spike goes by the loss, which this step was not given: pass it with step(loss=loss), or a closure that "
                "returns it"
            )

    def _measures(self, grad_norm: Any, loss: Any) -> dict[str, Any]:
        """What spikes go by, as far as it is known before the step.

        Args:
            grad_norm: the norm of the gradient; None if it was not measured.
            loss: the mean of the losses that all processes have; None if this one has no others.
        """
        assert self._on_spike is not None
        found = {}
        if "loss" in self._on_spike.of:
            found["loss"] = (self._formulas() or Host).hyperparameter(self._loss if loss is None else loss)
        if "grad_norm" in self._on_spike.of:
            found["grad_norm"] = grad_norm
        if "update_norm" in self._on_spike.of and self._spikes is not None:
            found["update_norm"] = self._spikes.update_norm
        return found

    def _watched(self) -> tuple[bool, ...]:
        """Whether steps are watched: False, True, or both if some are."""
        if self._watching is None:
            return (False,)
        return (True,) if self._watching.options.every == 1 else (False, True)

    def _is_watched(self) -> bool:
        """Whether the coming step is watched: if it is due, or captured in a CUDA graph, whose replays are all alike."""
        f = self._formulas()
        return self._watching is not None and (self._watching.is_due or (f is not None and f.is_capturing()))

    def _begin_watching(self, plans: Sequence[GroupPlan]) -> bool:
        """Prepares the executors for the coming step; returns whether it is watched."""
        is_watched = self._is_watched()
        if self._watching is not None and is_watched:
            self._watching.lr = self.param_groups[0]["lr"]  # a schedule writes that of the following step with this one
            self._begin_ring()
        for plan in plans:
            plan.watch(is_watched)
        return is_watched

    def _begin_ring(self) -> None:
        """Prepares what the statistics of the coming step are kept in."""
        assert self._watching is not None
        self._watching.begin(self._formulas() or Host, self._labels())

    def _end_watching(
        self, plans: Sequence[GroupPlan] | None, steps: Any, clips: Sequence[Any] | None, runs: Any
    ) -> None:
        """Keeps the statistics of the step that was made or skipped, unless ``plans`` is None.

        Args:
            plans: the plans.
            steps: the steps that were made, with this one.
            clips: the factor by which clipping has shortened the gradients of each group; None if it has not.
            runs: whether the step was made; None if it was in any case.
        """
        watching = self._watching
        assert watching is not None
        if plans is None:
            watching.end()
            return
        self._finish_step()
        factors = [1.0] * len(plans) if clips is None else clips
        parts = [
            Part(positions, sums, clip, runs)
            for plan, clip in zip(plans, factors, strict=True)
            for positions, sums in plan.statistics()
        ]
        lowest = functools.reduce((self._formulas() or Host).minimum, factors) if factors else 1.0
        self._record_watched(plans, parts, steps, lowest, runs)

    def _end_skipped(self) -> None:
        """Keeps that a step was left out because of what a loss scaler has found."""
        watching = self._watching
        if watching is None:
            return
        if not self._begin_watching(()):
            watching.end()
            return
        self._record_watched((), (), watching.number, 1.0, False)

    def _end_watching_parts(self) -> None:
        """Keeps the statistics of the parameters that were stepped one after the other."""
        watching = self._watching
        assert watching is not None
        if not self._is_watched():
            watching.end()
            return
        f, watching.lr = self._formulas() or Host, self.param_groups[0]["lr"]
        clips = [part.clip for part in watching.parts]
        lowest = functools.reduce(f.minimum, clips) if clips else 1.0
        self._record_watched(self._current_plans(), watching.parts, steps_done(self.state.values()), lowest, None)

    def _finish_step(self) -> None:
        """Makes what an executor has left of the step for later, whose statistics are needed now."""

    def _record_watched(
        self, plans: Sequence[GroupPlan], parts: Sequence[Part], steps: Any, clip: Any, runs: Any
    ) -> None:
        """Writes a step to the ring.

        Args:
            plans: the plans.
            parts: its statistics.
            steps: the steps that were made, with this one.
            clip: the smallest factor by which clipping has shortened gradients.
            runs: whether the step was made; None if it was in any case.
        """
        watching = self._watching
        assert watching is not None
        loss = self._loss if self._has_single(self._loss) else None
        step = Step(self._number_of(steps), watching.lr, clip, runs, self.grad_norm, loss)
        updates = watching.record(parts, step, functools.partial(self._over_ranks, plans))
        if self._spikes is not None:
            self._spikes.update_norm[...] = updates
        watching.end()

    def _number_of(self, steps: Any) -> Any:
        """The most steps that any parameter has made, if those with gradients have made ``steps``."""
        watching = self._watching
        assert watching is not None
        if isinstance(steps, int):
            if steps < watching.number:  # others have made more, unless the state was replaced
                steps = int(steps_done(self.state.values()))
            watching.number = steps
        return steps

    def _over_ranks(self, plans: Sequence[GroupPlan], f: Any, sums: Any) -> Any:
        """The statistics over all parts of the tensors, from those of the parts that are here.

        Args:
            plans: the plans.
            f: ``adamas.step.watching.Host``, or the functions of the device of the sums.
            sums: a row for each parameter of this process, with zeros for those that were not stepped.
        """
        return sums

    def _prepare(
        self, plans: Sequence[GroupPlan], seen: Inspection, scale: float, threads: int, changes: list[Change]
    ) -> Sequence[float] | None:
        """Computes the numbers and the counts of the step.

        Returns the factors by which clipping shortens the gradients of each group; None if the step is to be skipped.
        """
        factors = [1.0] * len(plans)
        if seen.square_sums is not None:
            self.grad_norm = math.sqrt(math.fsum(seen.square_sums)) * scale
            if seen.skip:
                changes += [(group, "skipped_steps", group["skipped_steps"] + 1) for group in self.param_groups]
                return None
        spiking, spike = self._present_spikes(), None
        if spiking is not None:
            spike = spiking.decide(self._measures(self.grad_norm, seen.loss))
            if spiking.skips and spike.is_spike:
                changes += spiking.changes(spike)
                return None
        clipped: list[Change] = []
        if seen.square_sums is not None:
            factors = self._clip(self.grad_norm, clipped)
        rate = 1.0
        if spike is not None:
            factors = [min(factor, float(spike.gradient)) for factor in factors]
            rate = float(spike.rate)
        self._compute_numbers(plans, factors, rate, scale, threads)
        if spiking is not None and spike is not None:
            if "exact" in spiking.options.of:
                spike = spiking.decide({"exact": self._coming_update_norm(plans, threads)}, spike)
            changes += spiking.changes(spike)
            if spiking.skips and spike.is_spike:
                return None
            if spike.rate != rate:
                self._compute_numbers(plans, factors, float(spike.rate), scale, threads)
        changes += clipped
        return factors

    def _compute_numbers(
        self, plans: Sequence[GroupPlan], factors: Sequence[float], rate: float, scale: float, threads: int
    ) -> None:
        """Computes the numbers of the step.

        Args:
            plans: the plans.
            factors: the factor by which clipping shortens the gradients of each group.
            rate: the factor by which a spike shortens the update.
            scale: the factor of all gradients.
            threads: how many threads the engine may use.

        Raises:
            TypeError: a hyperparameter that was written into a group is not a number.
            ValueError: groups have different values of a hyperparameter that they share (``Member.same``).
        """
        self._refuse_different(self.param_groups)
        shared = sums.latest(self._member, plans, self._peers)
        for group, plan, factor in zip(self.param_groups, plans, factors, strict=True):
            try:
                hyper = plan.hyperparameters(group)
                if rate != 1:
                    hyper = {**hyper, "lr": rate * float(hyper["lr"])}  # decoupled decay is a part of the update

                def advance(before: Scalars, hyper: Mapping[str, Any] = hyper, clip: float = scale * factor) -> Any:
                    return self._advance(hyper, before, clip, shared)

                plan.prepare(advance)
            except (TypeError, ValueError):
                hyperparameters(self._member, group)  # raises the error that names the hyperparameter, if it is one
                raise
        sums.compute(plans, self._peers, threads)

    def _refuse_different(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raises ValueError if groups have different values of a hyperparameter that they share (``Member.same``)."""
        for name in self._member.same:
            values = [group[name] for group in groups]
            if (other := next((i for i, value in enumerate(values) if value != values[0]), None)) is not None:
                raise ValueError(
                    f"{name} is {values[0]} in parameter group 0 and {values[other]} in group {other}, and all groups of "
                    f"{self._member.name} share it: give them the same {name}"
                )

    def _look_ahead(
        self, plans: Sequence[GroupPlan], seen: Inspection, moves: bool, changes: list[Change]
    ) -> Exception | None:
        """Adds the scheduled numbers of the following step to the changes, so that loggers see what the next step will use.

        Returns the exception that a schedule raises, to be raised after this step.
        """
        # Plain loops: generators take a microsecond more.
        held, done, problem = False, self._counted[1], None
        for one in self._schedules:
            held = held or one.is_held()  # before the changes below overwrite the rate
        if moves:
            done = max(done, seen.reached)
            for plan in plans:
                done = max(done, plan.reached())
        scheduled: list[Change] = []
        try:
            for one in self._schedules:
                scheduled += one.refreshed(done)
            changes += scheduled
        except Exception as error:
            problem = error
        # Without plans, the next step counts again.
        own = vars(self)
        changes.append((own, "_counted", (None if held or problem else plans, done)))
        if held is not self._held:
            changes.append((own, "_held", held))
        return problem

    def _not_finite(self, name: str | None) -> FloatingPointError:
        """The error about the gradient of the parameter of this name."""
        return FloatingPointError(
            f"the gradient of parameter {name} has a NaN or an infinity; nothing was changed "
            '(on_nonfinite="skip" would leave out such steps and count them)'
        )

    def _is_measured(self) -> bool:
        """Whether an option of a group depends on the norm of the gradient, or on whether it is finite."""
        for group in self.param_groups:
            if group["max_grad_norm"] is not None or group["on_nonfinite"] != "propagate":
                return True
        return self._on_spike is not None and "grad_norm" in self._on_spike.of

    def _is_query(self, plans: Sequence[GroupPlan]) -> bool:
        """Whether this step is to create the state and nothing else, as ``torch.distributed.checkpoint`` does before the first
        step, with all rates and gradients 0."""
        if not self._has_zero_rates() or any(plan.most_steps() > 0 for plan in plans):
            return False
        return steps_done(self.state.values()) == 0 and all(plan.has_zero_gradients() for plan in plans)

    def _has_zero_rates(self) -> bool:
        """Whether the rates of all groups are 0, as far as the host knows without waiting for the device."""
        for group in self.param_groups:  # noqa: SIM110 - all() takes 0.3 µs more
            if self._knows_alone(group["lr"]) or group["lr"] != 0:
                return False
        return True

    def _knows_alone(self, number: Any) -> bool:
        """Whether only the device knows the number, and it has decided about a step, so that the host need not wait for it."""
        return self._decisions is not None and bool(self._decisions.formulas.has(number))

    def _advance(
        self, hyper: Mapping[str, Any], before: Scalars, scale: float, shared: Mapping[str, float]
    ) -> tuple[Numbers, Scalars]:
        """The numbers of the next step for parameters with these scalars, and the scalars after it.

        ``shared``: those that all parameters share, as they are before it.
        """
        member = self._member
        scalars = member.advance(hyper, {**dict(zip(member.scalar_names, before, strict=True)), **shared})
        return member.numbers_of(hyper, scalars, scale), tuple(scalars.values())

    def _clip(self, norm: float, changes: list[Change]) -> list[float]:
        """The factor of each group's gradients, for this norm. Adds the change that counts a shortened step."""
        limits = [group["max_grad_norm"] for group in self.param_groups]
        if "auto" in limits:
            first = self.param_groups[0]
            usual = clipping.usual_limit(first["grad_norms"])
            changes.append((first, "grad_norms", clipping.remember(first["grad_norms"], norm, usual)))
            limits = [usual if limit == "auto" else limit for limit in limits]
        self.grad_norm_limit = min((limit for limit in limits if limit is not None), default=None)
        # As torch.nn.utils.clip_grad_norm_: 0 for inf, NaN for NaN.
        factors = [1.0 if limit is None else limit / (norm + 1e-6) for limit in limits]
        factors = [1.0 if factor > 1 else factor for factor in factors]
        if any(factor != 1 for factor in factors):
            changes += [(group, "clipped_steps", group["clipped_steps"] + 1) for group in self.param_groups]
        return factors


def _release(plans: Sequence[GroupPlan]) -> None:
    for plan in plans:
        plan.release()
