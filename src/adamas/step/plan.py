"""One parameter group, ready to be stepped: its records, distributed among the executors of their devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..rule.declaration import FactoredRule, MatrixRule, Member, Rule, undecayed
from . import arrays
from .devices import executor_of
from .divided import DividedExecutor
from .engine import EngineExecutor, apply, refuse_shared_memory
from .executor import DeviceExecutor, Executor, GroupSpec, hyperparameters, spec_of
from .factored_executor import FactoredExecutor
from .matrix_executor import MatrixExecutor
from .record import Advance, Change, Record, Scalars, Tensor, Tensors, check_place, whole_shape

_NO_SCALARS: tuple[str, ...] = ()


class GroupPlan:
    """The plan of one parameter group. It is valid while the group's tensors and options stay the same.

    Args:
        member: the member of the family.
        group: the hyperparameters.
        records: the records of the parameters.
        tensors: the framework's operations on tensors.
        basis: what the plan was made from; the adapter compares it to tell whether the plan is still valid.
        has_scalars: whether each parameter's state has the member's scalars. If not, the adapter keeps them elsewhere.
        counts_on: the functions of the device that counts the steps; None if the host does.
        kind_of: returns the executor that steps a weight; None goes by its device (``adamas.step.devices``).

    Raises:
        ValueError: a part of a tensor cannot have its moments in codes (``adamas.step.record.check_place``).

    Attributes:
        records: the records of the parameters.
        basis: the argument ``basis``.
        executors: the executors of the records.
    """

    def __init__(
        self,
        member: Member,
        group: Mapping[str, Any],
        records: Sequence[Record],
        tensors: Tensors,
        basis: Any,
        has_scalars: bool = True,
        counts_on: Any = None,
        kind_of: Callable[[Tensor], type[Executor]] | None = None,
    ) -> None:
        names = member.scalar_names if has_scalars else _NO_SCALARS
        self.records, self.basis, self._tensors = list(records), basis, tensors
        self._spec = spec_of(member, group, tensors, names, counts_on)
        kind_of = partial(executor_of, tensors, rule=self._spec.rule) if kind_of is None else kind_of
        for record in self.records:
            check_place(tensors, member, group, record.weight, record.place, record.name, record.is_divided)
        specs: dict[Rule, GroupSpec] = {}
        shares: dict[tuple[type[Executor], Rule, bool, bool, Any], list[int]] = {}
        for i, record in enumerate(self.records):
            rule = member.rule(group, shape := whole_shape(tensors, record.weight, record.place))
            if rule not in specs:
                specs[rule] = spec_of(member, group, tensors, names, counts_on, shape)
            kind, where = DividedExecutor if record.is_divided else kind_of(record.weight), None
            if isinstance(rule, FactoredRule):
                kind = FactoredExecutor
            elif isinstance(rule, MatrixRule):
                # Of those on other processes, other records may count: each place has executors of its own, in the same order.
                kind, where = MatrixExecutor, tensors.wholes_of(record.weight).where
            shares.setdefault((kind, rule, record.is_decayed, record.is_counted, where), []).append(i)
        self.executors: list[Executor] = []
        self._shares: list[tuple[Executor, list[int] | None, bool]] = []
        for (kind, rule, is_decayed, *_), indices in shares.items():
            executor = kind(specs[rule], [self.records[i] for i in indices], is_decayed)
            self.executors.append(executor)
            self._shares.append((executor, None if len(shares) == 1 else indices, is_decayed))
        self._has_device = any(isinstance(executor, DeviceExecutor) for executor in self.executors)
        self._flat = next((record.name for record in self.records if record.is_flat), None)

    def look(self, gradients: list[Tensor | None] | None = None) -> None:
        """Looks up the tensors of all parameters that have a gradient: one of these or, if None, the parameter's own.

        Raises:
            ValueError: a tensor cannot be used; the message names the parameter.
        """
        for executor, indices, _ in self._shares:
            executor.look(gradients if gradients is None or indices is None else [gradients[i] for i in indices])

    def release(self) -> None:
        """Releases the tensors that ``look`` found."""
        for executor in self.executors:
            executor.release()
            executor.prepared = ()

    @property
    def sum_count(self) -> int:
        """The number of sums that a step needs, whether or not this process has parameters."""
        return len(self._spec.rule.sums)

    @property
    def counted(self) -> list[Executor]:
        """The executors of the records that count in sums over all processes."""
        return [executor for executor in self.executors if executor.is_counted]

    def most_steps(self) -> float:
        """The most steps that a parameter with a gradient has made; -1 if none has one."""
        return max((scalars[0] for executor in self.executors for scalars in executor.scalars), default=-1.0)

    def has_zero_gradients(self) -> bool:
        """Whether every gradient is 0 everywhere."""
        return not any(self._has_nonzero(gradient) for executor in self.executors for gradient in executor.gradients())

    def _has_nonzero(self, gradient: Tensor) -> bool:
        xp, g = self._tensors.namespace(gradient), self._tensors.gradient_array(gradient)
        with xp.computing():
            return bool((xp.cast(g, arrays.compute_dtype(xp, g)) != 0).any())

    def square_sum(self, threads: int, alone: bool) -> tuple[list[float], str | None]:
        """Σg² of what is counted here as a list of numbers to be added, and the name of the first parameter with a
        nonfinite gradient, or None.

        ``alone`` is whether no other process shares the model.

        Raises:
            ValueError: a parameter is a part of a flat one, and the other parts are unknown.
        """
        if alone:
            self._refuse_flat()
        parts, first = [], None
        for executor in self.counted:
            more, culprit = executor.square_sum(threads)
            parts += more
            first = culprit if first is None else first
        return parts, first

    def _refuse_flat(self) -> None:
        if self._flat is not None:
            self._tensors.refuse_alone(f"parameter {self._flat}", "max_grad_norm= and on_nonfinite=")

    def hyperparameters(self, group: Mapping[str, Any], formulas: Any = None) -> Mapping[str, Any]:
        """The hyperparameters of the group for the coming step: see ``adamas.step.executor.hyperparameters``.

        The engine takes numbers of any type itself.
        """
        return hyperparameters(self._spec.member, group, formulas) if self._has_device else group

    def prepare(self, advance: Advance) -> None:
        """Computes the numbers of the coming step."""
        for executor, _, is_decayed in self._shares:
            prepared = [advance(scalars) for scalars in executor.scalars]
            if not is_decayed:
                prepared = [(undecayed(numbers), scalars) for numbers, scalars in prepared]
            executor.prepared = prepared

    # ---- steps that the device decides about (``adamas.step.deciding``)

    @property
    def _on_device(self) -> list[DeviceExecutor]:
        return [executor for executor in self.executors if isinstance(executor, DeviceExecutor)]

    def squares_there(self, formulas: Any) -> list[tuple[Tensor, Tensor]]:
        """See ``DeviceExecutor.squares_there``. Only what counts in sums over all processes is among them.

        Raises:
            ValueError: a parameter is a part of a flat one, and the other parts are unknown.
        """
        self._refuse_flat()
        counted = (executor for executor in self._on_device if executor.is_counted)
        return [found for executor in counted for found in executor.squares_there(formulas)]

    def steps_there(self) -> list[Tensor]:
        """See ``DeviceExecutor.steps_there``."""
        return [most for executor in self._on_device if (most := executor.steps_there()) is not None]

    def culprit(self) -> str | None:
        """The name of the first parameter with a nonfinite gradient, for which the host waits."""
        return next(filter(None, (executor.culprit() for executor in self._on_device)), None)

    def prepare_there(
        self, formulas: Any, hyper: Mapping[str, Any], scale: Any, advance: Callable[[Scalars], Scalars]
    ) -> None:
        """Prepares the coming step: see ``DeviceExecutor.prepare_there``.

        ``advance`` computes the scalars after the step, for those that the host counts.
        """
        for executor in self._on_device:
            executor.prepared = [({}, advance(scalars)) for scalars in executor.scalars]  # the device has the numbers
            executor.prepare_there(formulas, hyper, scale)

    def apply_there(self, runs: Tensor | None) -> list[Tensor]:
        """Makes the prepared step: see ``DeviceExecutor.apply_there``."""
        return [most for executor in self._on_device if (most := executor.apply_there(runs)) is not None]

    # ---- what is watched (``adamas.step.watching``)

    def watch(self, is_watched: bool) -> None:
        """Says whether the coming step has statistics."""
        for executor in self.executors:
            executor.is_watched = is_watched

    def statistics(self) -> Iterator[tuple[list[int], Tensor]]:
        """The statistics of the step that was made: of the parameters at these positions (``Record.position``), a row each."""
        for executor in self.executors:
            if (statistics := executor.take_statistics()) is not None:
                yield [record.position for record in executor.found()], statistics

    def measured(self, threads: int) -> Iterator[tuple[list[int], Tensor]]:
        """The statistics that the prepared step would have, as ``statistics`` gives them. It is not made.

        Raises:
            ValueError: a parameter's step cannot be computed without making it.
        """
        for executor in self.executors:
            if executor.found():
                yield [record.position for record in executor.found()], executor.measure(threads)

    def reached(self) -> int:
        """The highest step that a parameter will have reached; 0 if nothing was prepared."""
        most = 0.0
        for executor in self.executors:
            for _, scalars in executor.prepared:
                if scalars[0] > most:
                    most = scalars[0]
        return int(most)


def look(plans: Sequence[GroupPlan], gradients: Sequence[list[Tensor | None] | None] | None) -> None:
    """Looks up all tensors before any of them is changed. ``gradients`` has the gradients of each group."""
    if gradients is None:
        for plan in plans:
            plan.look()
        return
    for plan, given in zip(plans, gradients, strict=True):
        plan.look(given)
    on_engine: list[EngineExecutor] = []
    for plan in plans:
        for executor in plan.executors:
            executor.join(on_engine)
    refuse_shared_memory(on_engine)


def step(plans: Sequence[GroupPlan], threads: int, changes: list[Change]) -> None:
    """Makes the prepared steps and the changes.

    The engine makes all of its steps and the changes in one call, so that an exception from a signal handler comes before or
    after all of them. The other parameters are stepped before that, one after the other.
    """
    on_engine: list[EngineExecutor] = []
    for plan in plans:
        for executor in plan.executors:
            if executor.prepared:
                executor.apply()
                executor.join(on_engine)
    apply(on_engine, threads, changes)
