"""The executor for devices without a kernel: steps one parameter after the other with the framework's operations
(``adamas.step.arrays``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..rule.declaration import Host, Numbers, PartlyTraced, Rule, undecayed
from ..rule.exact import sum_of_sums, summed
from ..rule.layout import CODES, HALVES, LOW_BITS, pieces, scale_name
from ..rule.statistics import LARGEST, SUMS, decay_of, first_of, numbers_of, second_of, terms, watched
from . import arrays
from .checks import check_tensors
from .counting import DeviceScalars, check_count
from .executor import DeviceExecutor, GroupSpec, check_gradients
from .record import Place, Record, Scalars, State, Tensor

_MOST_ON_CPU = 1 << 18  # elements of a parameter that are stepped together, if it can be cut between rows
_MOST_ELSEWHERE = 1 << 24


class ArraysExecutor(DeviceExecutor):
    """The parameters of a group on devices without a kernel."""

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        self._penalized = is_decayed and spec.penalized
        self._found: list[tuple[Record, Tensor, int]] = []  # records with gradients, and the indices of their scalars
        self._sums: list[dict[str, float]] = []  # the sums of each of them, by name
        self._watched: dict[int, Tensor] = {}  # the statistics of those that were stepped
        self._coming: Coming | None = None  # the step that is prepared, if the device computes its numbers
        self._counted: DeviceScalars | None = None  # the scalars, if the device counts the steps
        if spec.counts_on is not None:
            self._counted = DeviceScalars(spec.counts_on, spec.scalar_names, records, self._scalar_of)

    def look(self, gradients: list[Tensor | None] | None) -> None:
        """See ``Executor.look``."""
        if gradients is None:
            gradients = [self.spec.tensors.gradient_of(record.weight) for record in self.records]
        check_gradients(self.spec, self.records, gradients)
        for record, gradient in zip(self.records, gradients, strict=True):
            if gradient is not None:
                check_tensors(self.spec, record, gradient)
        if self._counted is not None:
            self._counted.adopt()
            found = zip(self.records, gradients, range(len(self.records)), strict=True)
            self._found = [one for one in found if one[1] is not None]
            self._sums = [{} for _ in self._found]
            return
        distinct: dict[Scalars, int] = {}
        self._found = [
            (record, gradient, distinct.setdefault(self._scalars_of(record), len(distinct)))
            for record, gradient in zip(self.records, gradients, strict=True)
            if gradient is not None
        ]
        self._sums = [{} for _ in self._found]
        self.scalars = list(distinct)

    @property
    def _rows(self) -> list[int]:
        """For each parameter that was found, the index of its scalars or, if the device counts the steps, its own."""
        return [row for _, _, row in self._found]

    def _scalars_of(self, record: Record) -> Scalars:
        return tuple([self._scalar_of(record, name) for name in self.spec.scalar_names])

    def _scalar_of(self, record: Record, name: str) -> float:
        """A scalar of the state. A number of another type, set by the user, is replaced by one that the step can write to."""
        what = f"parameter {record.name}: its state '{name}'"
        if name not in record.state:
            raise ValueError(f"{what} is missing")
        scalar = self.spec.tensors.as_scalar(given := record.state[name])
        if scalar is None:
            raise ValueError(f"{what} is {given!r}, and has to be a single number")
        record.state[name], number = scalar, float(scalar)
        check_count(record, name, number)
        return number

    def release(self) -> None:
        """See ``Executor.release``."""
        self._found, self._coming, self._watched = [], None, {}

    def found(self) -> list[Record]:
        """See ``Executor.found``."""
        return [record for record, _, _ in self._found]

    def gradients(self) -> list[Tensor]:
        """See ``Executor.gradients``."""
        return [gradient for _, gradient, _ in self._found]

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``Executor.square_sum``."""
        squares, culprit = [], None
        for index, (record, _, _) in enumerate(self._found):
            parts = self._squares(index)
            squares += parts
            if culprit is None and not all(map(math.isfinite, parts)) and not self._is_finite(index):
                culprit = record.name
        return squares, culprit

    def _squares(self, index: int) -> list[float]:
        """Σg² of a parameter that was found, as numbers to be added."""
        record, gradient, _ = self._found[index]
        xp = self.spec.tensors.namespace(record.weight)
        with xp.computing():
            g = xp.cast(self.spec.tensors.gradient_array(gradient), "float64").reshape(-1)
            return summed(g * g)

    def _is_finite(self, index: int) -> bool:
        """Whether the gradient of a parameter that was found is finite: the terms of a sum that is not may have overflowed."""
        record, gradient, _ = self._found[index]
        xp = self.spec.tensors.namespace(record.weight)
        with xp.computing():
            return bool(xp.isfinite(xp.cast(self.spec.tensors.gradient_array(gradient), "float64")).all())

    def partial_sums(self, index: int, threads: int) -> list[list[float]]:
        """See ``Executor.partial_sums``."""
        return [self._partial_sum(index, i) for i in range(len(self._found))]

    def _partial_sum(self, index: int, i: int) -> list[float]:
        """The sum of the rule at ``index`` over the parameter at ``i`` of ``found``, as numbers to be added."""
        record, gradient, row = self._found[i]
        numbers = self.prepared[row][0] | self._sums[i]
        wanted = self.spec.rule.at(numbers).sums[index]
        numbers = vars(wanted.given(numbers, Host))
        step, one = self._arrays(record, gradient, numbers)
        with step.xp.computing():
            term = step.term(one, wanted.term)
            return summed(step.xp.cast(term, "float64").reshape(-1))

    def take_sums(self, index: int, sums: Sequence[float]) -> None:
        """See ``Executor.take_sums``."""
        name = self.spec.rule.sums[index].name
        for known, value in zip(self._sums, sums, strict=True):
            known[name] = value

    def join(self, last: list[Any]) -> None:
        """Does nothing: the engine does not make this executor's step."""

    def apply(self) -> None:
        """See ``Executor.apply``."""
        self._make(self._all, None)
        self._take_statistics()
        self._count()

    def measure(self, threads: int) -> Tensor:
        """See ``Executor.measure``."""
        self.is_watched = True
        there = None if self._coming is None else self._numbers_there(self._coming, None)
        self._make(self._all, there, is_made=False)
        self._take_statistics()
        return self.take_statistics()

    @property
    def _all(self) -> Sequence[int]:
        """The indices of the parameters that were found."""
        return range(len(self._found))

    def _make(
        self, indices: Sequence[int], there: NumbersThere | None, runs: Tensor | None = None, is_made: bool = True
    ) -> None:
        """Makes the steps of parameters that were found, but for their scalars; or only computes them, for the statistics.

        Args:
            indices: their indices.
            there: the numbers of the step, if the device computes them.
            runs: whether the device makes the step; None if it does in any case.
            is_made: whether anything is written.
        """
        for index, step, one in self._steps(indices, there):
            record, _, row = self._found[index]
            count = int(self.prepared[row][1][0]) if there is None else there.counts[self._position(index)]
            watch, xp = self._watch(index, step, one), step.xp
            parts = [(one, record.place)] if watch is not None else self._cut(record, one)
            with xp.computing():
                for piece, place in parts:
                    rounding = arrays.Rounding(xp, record.key, count, piece.g.shape, place)
                    after, new = step.weight(piece, self.spec.weights, rounding, False, watch)
                    for target, value in zip(_flat(piece.weight, piece.states), _flat(after, new), strict=True):
                        if is_made and value is not target:
                            target[...] = value if runs is None else xp.where(runs, value, target)

    def _cut(self, record: Record, one: arrays.Parameter) -> Iterator[tuple[arrays.Parameter, Place | None]]:
        """Parts of a parameter and where they lie, which are stepped one after the other: their temporary arrays, not its own,
        are what a step needs, and on a CPU they stay in the cache."""
        shape = tuple(one.g.shape)
        most = _MOST_ON_CPU if self.spec.tensors.is_on_cpu(record.weight) else _MOST_ELSEWHERE
        if math.prod(shape) <= most or not self.spec.rule.is_elementwise:
            yield one, record.place
            return
        assert one.weight is not None
        place = Place((0,) * len(shape), shape) if record.place is None else record.place
        for rows in pieces(shape, most):
            weight = arrays.Weight(*_sliced(one.weight, rows))
            states = [arrays.Stored(*_sliced(state, rows)) for state in one.states]
            offset = (place.offset[0] + rows.start, *place.offset[1:])
            yield arrays.Parameter(weight, one.g[rows], states), Place(offset, place.shape)

    def _steps(
        self, indices: Sequence[int], there: NumbersThere | None
    ) -> Iterator[tuple[int, arrays.Step, arrays.Parameter]]:
        """The index of each of the parameters, its step, and itself as arrays, in the order in which they are stepped.

        The arguments are those of ``_make``.
        """
        for index in indices:
            yield index, *self._step_of(index, there)

    def _step_of(self, index: int, there: NumbersThere | None) -> tuple[arrays.Step, arrays.Parameter]:
        """The step of a parameter that was found, and the parameter as arrays; ``there``: see ``_make``."""
        record, gradient, row = self._found[index]
        if there is None:
            numbers, sums = self.prepared[row][0], self._sums[index]
            return self._arrays(record, gradient, _with_sums(self.spec.rule, numbers | sums) if sums else numbers)
        step, one = self._arrays(record, gradient, there.sets[self._position(index)])
        compute = one.compute_dtype(step.xp)
        narrowed = {name: step.xp.narrowed(x, compute) for name, x in step.numbers.items()}
        return replace(step, numbers=narrowed), one

    def _position(self, index: int) -> int:
        """The set of numbers of a parameter that was found, if the device computes them."""
        assert self._coming is not None
        return self._coming.position[index]

    def _take_statistics(self) -> None:
        """Joins what ``_watch`` has found."""
        if self._watched:
            rows = [self._watched[index] for index in self._all]
            self.statistics, self._watched = self.spec.tensors.namespace(self._found[0][0].weight).stack(rows), {}

    def _watch(self, index: int, step: arrays.Step, one: arrays.Parameter) -> Callable[..., None] | None:
        """What ``adamas.step.arrays.Step.weight`` calls; None if the step is not watched."""
        if not self.is_watched:
            return None
        rule = self.spec.rule
        g = step.xp.cast(one.g, one.compute_dtype(step.xp))

        def watch(p: Tensor, q: Tensor, r: Tensor, states: Sequence[Tensor]) -> None:
            first, second = first_of(rule), second_of(rule)
            m, v = (None if i is None else states[i] for i in (first, second))
            k = SimpleNamespace(**numbers_of(step.numbers))
            found = terms(watched(rule), k, step.xp, p, g, q, r, m, v)
            self._watched[index] = _row(step.xp, found, decay_of(rule, step.numbers))

        return watch

    def _count(self) -> None:
        """Writes the scalars after the step."""
        for record, _, row in self._found:
            for name, value in zip(self.spec.scalar_names, self.prepared[row][1], strict=False):
                record.state[name][...] = value

    # ---- steps that the device decides about

    def squares_there(self, formulas: Any) -> list[tuple[Tensor, Tensor]]:
        """See ``DeviceExecutor.squares_there``."""
        gradients = (self.spec.tensors.gradient_array(gradient) for _, gradient, _ in self._found)
        return [self._squares_there(formulas, array) for array in gradients if 0 not in array.shape]

    def _squares_there(self, formulas: Any, array: Tensor) -> tuple[Tensor, Tensor]:
        """Σg², and whether the gradient is finite: the squares of float64 may overflow, those of others do not."""
        xp = self.spec.tensors.namespace(array)
        with xp.computing():
            g = xp.cast(array, "float64")
            squares = (g * g).reshape(-1)
            total, lost = sum_of_sums(squares, 0 * squares)
            is_finite = formulas.isfinite(g if xp.dtype_name(array) == "float64" else total).all()
            return formulas.stack([total, lost]), is_finite

    def steps_there(self) -> Tensor | None:
        """See ``DeviceExecutor.steps_there``."""
        if self._counted is None or not self._rows:
            return None
        most: Tensor = self._counted.of(self._rows)[0].max()
        return most

    def prepare_there(self, formulas: Any, hyper: Mapping[str, Any], scale: Any) -> None:
        """See ``DeviceExecutor.prepare_there``."""
        position = self._rows if self._counted is None else range(len(self._rows))
        self._coming = Coming(formulas, hyper, scale, position) if position else None

    def _before(self) -> Tensor:
        """The scalars before the step on the device, a row for each of their names and a column for each set of numbers."""
        assert self._coming is not None
        if self._counted is not None:
            return self._counted.of(self._rows)
        before: Tensor = self._coming.formulas.uploaded(np.array(self.scalars, np.float64).T.copy())
        return before

    def apply_there(self, runs: Tensor | None) -> Tensor | None:
        """See ``DeviceExecutor.apply_there``."""
        if self._coming is None:
            return None
        self.spec.tensors.before_writing([record.weight for record, _, _ in self._found])
        numbers = self._numbers_there(self._coming, runs)
        self._make(self._all, numbers, runs)
        self._take_statistics()
        return self._count_there(numbers.after)

    def _numbers_there(self, coming: Coming, runs: Tensor | None) -> NumbersThere:
        """The numbers of the coming step, and the scalars after it. What depends on the host's counts alone are floats."""
        f, names = coming.formulas, self.spec.scalar_names
        if self._counted is None:
            assert runs is None, "the device can only skip a step whose count is there"
            sets = [self._numbers_after(coming, dict(zip(names, known, strict=True))) for _, known in self.prepared]
            return NumbersThere(sets, [int(known[0]) for _, known in self.prepared], None)
        before = self._before()
        now = self.spec.member.advance(coming.hyper, dict(zip(names, before, strict=True)), PartlyTraced(f))
        numbers, after = self._numbers_after(coming, now), f.stack([now[name] for name in names])
        sets = [{name: x[i] if f.has(x) and x.ndim else x for name, x in numbers.items()} for i in range(len(after[0]))]
        return NumbersThere(sets, now["step"], after if runs is None else f.where(runs, after, before))

    def _numbers_after(self, coming: Coming, scalars: Mapping[str, Any]) -> Numbers:
        numbers = self.spec.member.numbers_of(coming.hyper, scalars, coming.scale, PartlyTraced(coming.formulas))
        return numbers if self.is_decayed else undecayed(numbers)

    def culprit(self) -> str | None:
        """See ``DeviceExecutor.culprit``."""
        names = (record.name for i, (record, _, _) in enumerate(self._found) if not self._is_finite(i))
        return next(names, None)

    def _count_there(self, after: Tensor | None) -> Tensor | None:
        """Writes the scalars after the step; returns the most steps that a parameter has made, if the device counts them."""
        if self._counted is None or after is None:
            self._count()
            return None
        self._counted.write(self._rows, after)
        most: Tensor = after[0].max()
        return most

    def _arrays(self, record: Record, gradient: Tensor, numbers: Numbers) -> tuple[arrays.Step, arrays.Parameter]:
        """The step of a parameter with these numbers, and the parameter as arrays of real numbers."""
        xp = self.spec.tensors.namespace(record.weight)
        step = arrays.Step(xp, self.spec.rule, numbers, self._penalized, _is_not_one(numbers["k"]))
        return step, self._parameter(record, gradient)

    def _parameter(self, record: Record, gradient: Tensor) -> arrays.Parameter:
        """The parameter as arrays of real numbers."""
        tensors, spec, state = self.spec.tensors, self.spec, record.state
        is_split = spec.weights == "split" and tensors.dtype_name(record.weight) in HALVES
        low = tensors.low_bits(state[LOW_BITS]) if is_split else None
        states = [self._stored(state, name) for name in spec.state_names]
        return arrays.Parameter(
            arrays.Weight(tensors.array(record.weight), low), tensors.gradient_array(gradient), states
        )

    def _stored(self, state: State, name: str) -> arrays.Stored:
        """A tensor of a state; its scale only if it has codes: other code may have replaced these by values."""
        tensors, values = self.spec.tensors, state[name]
        is_coded = tensors.dtype_name(values) in CODES
        return arrays.Stored(tensors.array(values), tensors.array(state[scale_name(name)]) if is_coded else None)


class Coming(NamedTuple):
    """A step that is prepared, whose numbers the device computes.

    Attributes:
        formulas: the functions of the device.
        hyper: the hyperparameters; those that only the device knows are float64 tensors without dimensions.
        scale: the factor of the gradients, a float or such a tensor.
        position: the set of numbers of each parameter that was found.
    """

    formulas: Any
    hyper: Mapping[str, Any]
    scale: Any
    position: Sequence[int]


class NumbersThere(NamedTuple):
    """The numbers of a step on its device.

    Attributes:
        sets: the sets of numbers: floats, or float64 tensors without dimensions.
        counts: the number of the step, for each set.
        after: the scalars after the step, which are those before it if it is skipped; None if the host counts them.
    """

    sets: Sequence[Numbers]
    counts: Any
    after: Tensor | None


def _row(xp: Any, found: Mapping[str, Tensor], decay: Any) -> Tensor:
    """The sums of what ``adamas.rule.statistics.terms`` returned, in the order of ``ROW``."""
    sums = {name: xp.cast(term, "float64").sum() for name, term in found.items() if name != LARGEST}
    weight, largest = sums["weight"], found[LARGEST]
    unknown = xp.full_like(weight, math.nan)
    most = xp.cast(largest.max(), "float64") if math.prod(largest.shape) else xp.zeros_like(weight)
    count = xp.full_like(weight, math.prod(largest.shape))
    return xp.stack([*(sums.get(name, unknown) for name in SUMS), most, decay * decay * weight, count])


def _is_not_one(number: Any) -> bool:
    """Whether a number is not 1. One that only the device knows counts as another."""
    return not isinstance(number, Real) or number != 1


def _with_sums(rule: Rule, numbers: Numbers) -> Numbers:
    """The numbers of a step and its sums, with the numbers that the rule computes from these."""
    return numbers | rule.from_sums(SimpleNamespace(**numbers), Host)


def _sliced(stored: Sequence[Any], rows: slice) -> list[Any]:
    """These rows of the arrays of a weight or of a state."""
    return [None if array is None else array[rows] for array in stored]


def _flat(weight: arrays.Weight | None, states: Sequence[arrays.Stored]) -> list[Any]:
    """The arrays of a weight and of states."""
    return [array for stored in (weight or (), *states) for array in stored if array is not None]
