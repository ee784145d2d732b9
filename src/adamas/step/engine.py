"""The executor for the CPU: the compiled engine takes the parameters of a group in one call.

Only this module uses the engine's groups and its names for the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .. import _engine
from ..rule.declaration import HOUSE_NUMBERS, Masked, Numbers, Rule, as_written, maskable
from ..rule.exact import in_parts
from ..rule.layout import LOW_BITS, scale_name
from ..rule.members import RULES
from ..rule.recorder import digest
from ..rule.statistics import NUMBERS, ROW, decay_of, numbers_of
from .executor import Executor, GroupSpec, check_gradients, steps_rows
from .record import Change, Record, Tensor

holds, same_objects = _engine.holds, _engine.same_objects

_STALE = (
    "the engine, adamas._engine, was built from other rules than those of adamas.rule: run pip install . in the source tree "
    "again (needs a C++20 compiler)"
)


@cache
def _indices() -> dict[Rule, int]:
    """The index of each rule in the engine.

    Raises:
        ImportError: the engine was built from other rules.
    """
    if _engine.rules_digest() != digest(map(maskable, RULES)):
        raise ImportError(_STALE)
    return {rule: index for index, rule in enumerate(RULES)}


def has_rule(rule: Rule) -> bool:
    """Whether the engine has the rule, because a member of the family has it."""
    return all(_base(variant) in _indices() for variant in rule.variants())


def _base(rule: Rule) -> Rule:
    return as_written(rule.base if isinstance(rule, Masked) else rule)


class EngineRule:
    """A rule as the engine takes it.

    Args:
        rule: a member's rule.

    Attributes:
        index: the engine's index of the rule, or of one of its variants, which have the same states.

    Raises:
        ImportError: the engine was built from other rules.
        ValueError: the rule belongs to no member of ``adamas.rule.members``.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._use(next(iter(rule.variants())))

    def _use(self, variant: Rule) -> None:
        index = _indices().get(_base(variant))
        if index is None:
            raise ValueError(
                f"the engine was built without the rule {variant.name!r}: no member of adamas.rule.members has it"
            )
        self._last, self.index, self._names = variant, index, (*HOUSE_NUMBERS, *variant.numbers)

    def at(self, numbers: Numbers) -> tuple[int, list[float]]:
        """The rule of a step with these numbers, and the numbers in the engine's order."""
        variant = self._rule.at(numbers)
        if variant is not self._last:
            self._use(variant)
        return self.index, [numbers[name] for name in self._names]


class EngineExecutor(Executor):
    """The parameters of a group on the CPU.

    Attributes:
        rule: the rule as the engine takes it.
        group: the engine's group of these parameters.
    """

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        self._given: list[Tensor | None] | None = None
        self.rule = EngineRule(spec.rule)
        view = spec.tensors.engine_view
        self.group = _engine.Group(
            [(view(record.weight), record.state, record.name, record.key, record.place) for record in records],
            self.rule.index,
            is_decayed and spec.penalized,
            is_decayed and spec.rule.is_cautious,
            spec.rule.is_masked,
            spec.weights,
            list(spec.state_names),
            [scale_name(name) for name in spec.state_names],
            LOW_BITS if spec.weights == "split" else None,
            list(spec.scalar_names),
            spec.tensors.as_scalar,
            spec.tensors.gradient_of,
            spec.tensors.rows_of if steps_rows(spec) else None,
        )

    def look(self, gradients: list[Tensor | None] | None) -> None:
        """See ``Executor.look``."""
        self._given = gradients
        try:
            self.scalars = self.group.collect(gradients)
        except ValueError:
            if gradients is None:
                gradient_of = self.spec.tensors.gradient_of
                gradients = [gradient_of(record.weight) for record in self.records]
            if not check_gradients(self.spec, self.records, gradients, takes_rows=True):
                raise
            self.scalars = self.group.collect(self._given)

    def release(self) -> None:
        """See ``Executor.release``."""
        self.group.discard()
        self._given = None

    def found(self) -> list[Record]:
        """See ``Executor.found``."""
        return [self.records[i] for i in self.group.collected_positions()]

    def gradients(self) -> list[Tensor]:
        """See ``Executor.gradients``. Of a sparse gradient, these are the values."""
        gradients = self._given
        if gradients is None:
            gradients = [self.spec.tensors.gradient_of(weight) for weight in self.group.collected()]
        present = [gradient for gradient in gradients if gradient is not None]
        rows = map(self.spec.tensors.rows_of, present)
        return [gradient if found is None else found[1] for gradient, found in zip(present, rows, strict=True)]

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``Executor.square_sum``."""
        high, low, culprit = self.group.square_sum(threads)
        return in_parts(high, low), culprit

    def partial_sums(self, index: int, threads: int) -> list[list[float]]:
        """See ``Executor.partial_sums``."""
        found = self.group.rule_sums(index, [self.rule.at(numbers) for numbers, _ in self.prepared], threads)
        return [in_parts(high, low) for high, low in found]

    def take_sums(self, index: int, sums: Sequence[float]) -> None:
        """See ``Executor.take_sums``."""
        self.group.take_sums(index, list(sums))

    def watched_numbers(self) -> list[list[float]]:
        """The numbers that statistics of the step depend on, and the decay, for each of ``scalars``."""
        found = [(numbers_of(numbers), decay_of(self.spec.rule, numbers)) for numbers, _ in self.prepared]
        return [[*(of[name] for name in NUMBERS), decay] for of, decay in found]

    def measure(self, threads: int) -> NDArray[np.float64]:
        """See ``Executor.measure``."""
        rows = _engine_rows([self], threads, [], is_dry=True)
        assert rows is not None
        return rows

    def join(self, last: list[EngineExecutor]) -> None:
        """See ``Executor.join``."""
        last.append(self)

    def apply(self) -> None:
        """Tells the framework which weights are about to change; the function ``apply`` changes them."""
        self.spec.tensors.before_writing(self.group.written())


def apply(executors: Sequence[EngineExecutor], threads: int, changes: list[Change]) -> None:
    """Makes the prepared steps and the changes in one call, so that a signal handler's exception comes before or after it."""
    rows = _engine_rows(executors, threads, changes)
    if rows is not None:
        _give_statistics(executors, rows)


def _engine_rows(
    executors: Sequence[EngineExecutor], threads: int, changes: list[Change], is_dry: bool = False
) -> NDArray[np.float64] | None:
    """Makes the prepared steps, or only computes them, and returns their statistics; None if none is watched."""
    is_watched = is_dry or any(executor.is_watched for executor in executors)
    rows = _engine.step(
        [executor.group for executor in executors],
        [[executor.rule.at(numbers) for numbers, _ in executor.prepared] for executor in executors],
        [[scalars for _, scalars in executor.prepared] for executor in executors],
        threads,
        changes,
        [executor.watched_numbers() for executor in executors] if is_watched else None,
        is_dry,
    )
    return None if rows is None else np.frombuffer(rows).reshape(-1, len(ROW))


def _give_statistics(executors: Sequence[EngineExecutor], rows: NDArray[np.float64]) -> None:
    """Gives the executors the rows of their parameters, which are in order."""
    for executor in executors:
        count = len(executor.found())
        if executor.is_watched and count:
            executor.statistics = rows[:count]
        rows = rows[count:]


def refuse_shared_memory(executors: Sequence[EngineExecutor]) -> None:
    """Raises ValueError if a gradient overlaps a weight or a state in memory, which the step would overwrite.

    A weight may be its own gradient, element by element.
    """
    _engine.refuse_shared_memory([executor.group for executor in executors])
