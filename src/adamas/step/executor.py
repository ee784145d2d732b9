"""What executors have in common.

An executor has the parameters of a group that are stepped by the same code. Its duties are to look up tensors, to reduce
gradients to sums, and to apply the step. ``adamas.step.devices`` chooses one for each parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..rule.declaration import Limit, Member, Number, Numbers, Rule, Several, has_penalty
from ..rule.hyperparameters import shown
from ..rule.shared import declared
from .record import Record, Scalars, Tensor, Tensors, begin_state


class GroupSpec(NamedTuple):
    """What the parameters of a group have in common.

    Attributes:
        member: the member of the family.
        group: the hyperparameters.
        rule: the member's rule for these hyperparameters.
        penalized: whether a penalty is added to the gradient.
        weights: how 16-bit weights are rounded.
        state_names: the names of the rule's states, in its order.
        scalar_names: the names of the single numbers in each parameter's state, its step count first. Empty if the
            adapter keeps them elsewhere.
        tensors: the framework's operations on tensors.
        counts_on: the functions of the device that counts the steps (``adamas.step.deciding``); None if the host does.
    """

    member: Member
    group: Mapping[str, Any]
    rule: Rule
    penalized: bool
    weights: str
    state_names: tuple[str, ...]
    scalar_names: tuple[str, ...]
    tensors: Tensors
    counts_on: Any = None

    @property
    def needs_sums(self) -> str:
        """What needs the sums of the rule, for error messages."""
        return "cautious=True" if self.rule.is_masked else self.member.name


def spec_of(
    member: Member,
    group: Mapping[str, Any],
    tensors: Tensors,
    scalar_names: Iterable[str],
    counts_on: Any = None,
    shape: Sequence[int] = (),
) -> GroupSpec:
    """The ``GroupSpec`` of a group with these hyperparameters, for parameters of this shape."""
    rule, names = member.rule(group, shape), member.state_names(group, shape)
    return GroupSpec(
        member, group, rule, has_penalty(group), group["weights"], names, tuple(scalar_names), tensors, counts_on
    )


def hyperparameters(member: Member, group: Mapping[str, Any], formulas: Any = None) -> dict[str, Any]:
    """The hyperparameters of a group, with numbers of any type, such as NumPy's, as floats.

    Args:
        member: the member of the family.
        group: the hyperparameters.
        formulas: the functions of the device that computes the numbers of the step, if it does. Numbers that are there stay
            there, as tensors without dimensions in float64, if schedules may stand for them. For others the host waits.

    Raises:
        TypeError: a value is not a number.
    """
    found = dict(group)
    for name, h in declared(member).items():
        if not isinstance(h, Number) or isinstance(h, Limit) or name not in group:
            continue
        value = group[name]
        if isinstance(h, Several):
            numbers = zip(value, h.default, strict=True)
            found[name] = tuple(
                [
                    share if share is None is default else _number(h, f"{name}[{i}]", share, formulas)
                    for i, (share, default) in enumerate(numbers)
                ]
            )
        elif value is not None or h.default is not None:
            found[name] = _number(h, name, value, formulas)
    return found


def _number(h: Number, name: str, value: Any, formulas: Any) -> Any:
    if type(value) is float:
        return value
    if formulas is not None and h.may_be_scheduled and formulas.has_number(value):
        return formulas.hyperparameter(value)
    try:
        return math.ldexp(value, 0)  # as float(value), but for text
    except (TypeError, ValueError):
        hint = ": only the constructor and add_param_group take a schedule" if h.may_be_scheduled else ""
        raise TypeError(f"{name} of a parameter group must be a number, not {shown(value)}{hint}") from None


class Executor(ABC):
    """The parameters of a group that are stepped by the same code.

    Args:
        spec: what the parameters of the group have in common.
        records: the records of these parameters.
        is_decayed: whether weight decay and the penalties apply to them.

    Attributes:
        spec: the argument ``spec``.
        records: the argument ``records``.
        is_decayed: the argument ``is_decayed``.
        is_counted: whether these parameters count in sums over all processes; it is the same for all of them.
        scalars: the distinct scalars of the parameters that ``look`` found to have a gradient.
        prepared: for each of them the numbers of the coming step, and the scalars after it.
        is_watched: whether the coming step has statistics.
        statistics: those of the last step that had: for each parameter of ``found`` the sums in
            ``adamas.rule.statistics.ROW``, in float64; None if there was no parameter.
    """

    statistics: Tensor | None

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        self.spec, self.records, self.is_decayed = spec, records, is_decayed
        self.is_counted = all(record.is_counted for record in records)
        self.scalars: Sequence[Scalars] = ()
        self.prepared: Sequence[tuple[Numbers, Scalars]] = ()
        self.is_watched, self.statistics = False, None

    @abstractmethod
    def look(self, gradients: list[Tensor | None] | None) -> None:
        """Looks up the tensors of all parameters that have a gradient: one of these or, if None, the parameter's own.

        Raises:
            ValueError: a tensor cannot be used; the message names the parameter.
        """

    @abstractmethod
    def release(self) -> None:
        """Releases the tensors that ``look`` found."""

    @abstractmethod
    def found(self) -> Sequence[Record]:
        """The records of the parameters that ``look`` found to have a gradient."""

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The gradients that ``look`` found."""

    @abstractmethod
    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """Σg² as a list of numbers to be added, and the name of the first parameter with a nonfinite gradient, or None."""

    @abstractmethod
    def partial_sums(self, index: int, threads: int) -> Sequence[Sequence[float]]:
        """The sum of the rule at ``index`` over each parameter of ``found``, as numbers to be added.

        It is called after ``prepare`` and, for each preceding sum, ``take_sums``.
        """

    @abstractmethod
    def take_sums(self, index: int, sums: Sequence[float]) -> None:
        """Stores the sum of the rule at ``index`` for each parameter of ``found``."""

    @abstractmethod
    def join(self, last: list[Any]) -> None:
        """Appends this executor to ``last``, if the engine makes its step (``adamas.step.engine.apply``)."""

    @abstractmethod
    def apply(self) -> None:
        """Makes the prepared step, or prepares the framework for the call in which the engine makes it."""

    def measure(self, threads: int) -> Tensor:
        """The statistics that the prepared step would have; nothing is changed.

        Raises:
            ValueError: the step cannot be computed without making it.
        """
        raise ValueError(
            f"parameter {self.records[0].name}: on_spike with of=exact computes a step before it makes it, which cannot be "
            "done for parameters that are offloaded, that kernels for GPUs step, or whose blocks of codes several processes "
            "share: use of=update_norm"
        )

    def take_statistics(self) -> Tensor | None:
        """Returns ``statistics``, which are then None, when the step has been made."""
        found, self.statistics = self.statistics, None
        return found


class DeviceExecutor(Executor):
    """An executor whose parameters' device can decide about a step (``adamas.step.deciding``), while the host goes on."""

    @abstractmethod
    def squares_there(self, formulas: Any) -> list[tuple[Tensor, Tensor]]:
        """Sums whose sum is Σg², each in a float64 tensor with what it has lost (``adamas.rule.exact.added``); and whether all
        gradients that it is of are finite."""

    @abstractmethod
    def steps_there(self) -> Tensor | None:
        """The most steps that a parameter with a gradient has made; None if none has one, or the host counts them."""

    @abstractmethod
    def prepare_there(self, formulas: Any, hyper: Mapping[str, Any], scale: Any) -> None:
        """Prepares the coming step.

        Args:
            formulas: the functions of the device.
            hyper: the hyperparameters; those that only the device knows are float64 tensors without dimensions.
            scale: the factor of the gradients, a float or such a tensor.
        """

    @abstractmethod
    def apply_there(self, runs: Tensor | None) -> Tensor | None:
        """Makes the prepared step, if it ``runs``: a boolean tensor without dimensions; None if it does in any case.

        Returns the most steps that a parameter has made; None if none has a gradient, or the host counts them.
        """

    @abstractmethod
    def culprit(self) -> str | None:
        """The name of the first parameter with a nonfinite gradient, for which the host waits."""


def steps_rows(spec: GroupSpec) -> bool:
    """Whether the parameters of a group can be stepped by sparse gradients. Sums over tensors need all rows."""
    return spec.member.steps_rows and not spec.rule.sums


def check_gradients(
    spec: GroupSpec, records: Sequence[Record], gradients: Sequence[Tensor | None], takes_rows: bool = False
) -> bool:
    """Raises if a gradient is of an unsupported kind, and initializes states that were emptied.

    ``takes_rows`` is whether the executor steps the rows of sparse gradients. Returns whether a state was initialized.
    """
    begun = False
    for record, gradient in zip(records, gradients, strict=True):
        if gradient is not None:
            if not (takes_rows and steps_rows(spec) and spec.tensors.rows_of(gradient) is not None):
                spec.tensors.check_gradient(gradient, record.name, spec.member)
            if not record.state:
                begin_state(
                    spec.tensors, spec.member, spec.group, record.weight, record.place, record.state, record.is_divided
                )
                begun = True
    return begun
