"""The executor for rules that keep a second moment by rows and columns (``adamas.rule.declaration.FactoredRule``).

It adds up the rows and columns with the framework's operations. The rest is elementwise: the executor of the parameters'
device makes it in pieces, for each of which the second moment is written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..rule.declaration import Array, FactoredRule, with_caution
from ..rule.exact import summed
from ..rule.layout import LOW_BITS
from ..rule.statistics import joined
from .arrays_executor import ArraysExecutor
from .devices import executor_of
from .engine import EngineExecutor, apply
from .executor import Executor, GroupSpec
from .record import Place, Record, Tensor

MOST_TOGETHER = 1 << 21  # elements of a piece, unless a single row has more

Piece = tuple[slice, ...]


class Means(NamedTuple):
    """The second moment of a parameter after the step.

    Attributes:
        rows: the means of rows.
        columns: the means of columns.
        shares: what the mean of a row is multiplied by in each column.
    """

    rows: Array
    columns: Array
    shares: Array


class FactoredExecutor(ArraysExecutor):
    """The matrices of a group.

    Raises:
        ValueError: a parameter is complex.
    """

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        assert isinstance(spec.rule, FactoredRule)
        self._rule: FactoredRule = spec.rule
        whole = with_caution(spec.rule.whole, spec.rule.is_cautious, False)
        names = tuple(spec.member.names[state.role] for state in whole.states)
        self._whole = spec._replace(rule=whole, state_names=names, scalar_names=())
        self._means: list[Means] = []  # of the parameters that were found, in the prepared step
        self._partial: list[list[list[float]]] = []  # the sums of each of them, as numbers to be added
        self._product: Tensor | None = None  # the second moment of a piece, in memory that the next piece uses again
        self._threads = 1
        for record in records:
            if spec.tensors.dtype_name(record.weight).startswith("complex"):
                raise ValueError(
                    f"parameter {record.name} is complex, and {spec.member.name} is for real numbers: use AdamW for it"
                )

    def release(self) -> None:
        """See ``Executor.release``."""
        super().release()
        self._means, self._partial, self._product = [], [], None

    def partial_sums(self, index: int, threads: int) -> list[list[float]]:
        """See ``Executor.partial_sums``. With the first sum come the means of the coming step, and all other sums."""
        self._threads = threads
        if index == 0:
            self._means = [self._means_of(i) for i in self._all]
            self._partial = [self._sums_of(i) for i in self._all]
        return [sums[index] for sums in self._partial]

    def take_sums(self, index: int, sums: Sequence[float]) -> None:
        """See ``Executor.take_sums``."""
        super().take_sums(index, sums)
        if index == 0 and not self.is_counted:  # another process has added up the sums
            self._means = [self._means_of(i) for i in self._all]

    def _sums_of(self, i: int) -> list[list[float]]:
        """The sums over a parameter that was found, as numbers to be added. None of them depends on another."""
        found: list[list[float]] = [[] for _ in self.spec.rule.sums]
        for piece in self._pieces(i):
            for index, parts in enumerate(found):
                parts += piece.partial_sums(index, self._threads)[0]
        return found

    def apply(self) -> None:
        """See ``Executor.apply``."""
        rows = [self._apply(i) for i in self._all]
        self._take_rows(rows)
        self._count()

    def measure(self, threads: int) -> Tensor:
        """See ``Executor.measure``."""
        pieces = ((piece.measure(threads)[0] for piece in self._pieces(i)) for i in self._all)
        self._take_rows([self._joined(found) for found in pieces])
        return self.take_statistics()

    def _apply(self, i: int) -> Tensor | None:
        """Makes the step of a parameter that was found; returns its statistics, if it is watched."""
        record, _, _ = self._found[i]
        found = []
        for piece in self._pieces(i):
            piece.is_watched, on_engine = self.is_watched, list[EngineExecutor]()
            piece.apply()
            piece.join(on_engine)
            apply(on_engine, self._threads, [])
            if (statistics := piece.take_statistics()) is not None:
                found.append(statistics[0])
        for name, value in zip(self.spec.state_names, self._means[i], strict=False):
            self.spec.tensors.array(record.state[name])[...] = value
        return self._joined(iter(found)) if found else None

    def _joined(self, rows: Iterator[Tensor]) -> Tensor:
        """The statistics of a parameter, from those of its pieces."""
        total = next(rows)
        for row in rows:
            total = joined(self._namespace_of(row), total, row)
        return total

    def _take_rows(self, rows: Sequence[Tensor | None]) -> None:
        """Takes the statistics of the parameters that were found, of which all or none have some."""
        present = [row for row in rows if row is not None]
        self.statistics = self._namespace_of(present[0]).stack(present) if present else None

    def _namespace_of(self, statistics: Tensor) -> Any:
        return np if isinstance(statistics, np.ndarray) else self.spec.tensors.namespace(self.records[0].weight)

    def _pieces(self, i: int) -> Iterator[Executor]:
        """An executor for each piece of a parameter that was found, with the prepared step and the sums that are known."""
        record, gradient, row = self._found[i]
        (numbers, scalars), means = self.prepared[row], self._means[i]
        numbers = vars(self._rule.held(SimpleNamespace(**numbers)))
        xp = self.spec.tensors.namespace(record.weight)
        for piece in pieces_of(self.spec.tensors.shape_of(record.weight)):
            with xp.computing():
                part, g = self._part(record, piece), self.spec.tensors.piece_of(gradient, piece)
                part.state[self._whole.state_names[0]] = self._product_of(xp, means, piece)
            executor = executor_of(self.spec.tensors, part.weight)(self._whole, [part], self.is_decayed)
            executor.look([g])
            executor.prepared = [(numbers, scalars)]
            for index, wanted in enumerate(self.spec.rule.sums):
                if wanted.name in self._sums[i]:
                    executor.take_sums(index, [self._sums[i][wanted.name]])
            yield executor

    def _product_of(self, xp: Any, means: Means, piece: Piece) -> Tensor:
        """The second moment of a piece."""
        rows, shares = (x[_over(x, piece)] for x in (means.rows, means.shares))
        size, known = tuple(one.stop - one.start for one in piece), self._product
        if known is not None and tuple(known.shape) == size and known.dtype == rows.dtype:
            xp.multiply(rows, shares, out=known)
        else:
            self._product = rows * shares
        return self._product

    def _part(self, record: Record, piece: Piece) -> Record:
        """The record of a piece of a parameter, with its part of the low bits."""
        tensors = self.spec.tensors
        shape = tensors.shape_of(record.weight)
        low = {LOW_BITS: tensors.piece_of(record.state[LOW_BITS], piece)} if LOW_BITS in record.state else {}
        place = Place(tuple(one.start for one in piece), shape)
        return record._replace(weight=tensors.piece_of(record.weight, piece), state=low, place=place)

    def _means_of(self, i: int) -> Means:
        """The means after the prepared step of a parameter that was found."""
        record, gradient, row = self._found[i]
        tensors, rule = self.spec.tensors, self._rule
        numbers = self.prepared[row][0]
        xp, k = tensors.namespace(record.weight), SimpleNamespace(**numbers)
        rows, columns = (tensors.array(record.state[name]) for name in self.spec.state_names)
        with xp.computing():
            of_rows, of_columns = xp.zeros_like(rows), xp.zeros_like(columns)
            for piece in pieces_of(tensors.shape_of(record.weight)):
                part = self._part(record, piece)
                part.state.update(zip(self.spec.state_names, (rows, columns), strict=True))
                step, one = self._arrays(part, tensors.piece_of(gradient, piece), numbers)
                square = step.term(one, _square)
                of_rows[_over(of_rows, piece)] += square.sum(-1)[..., None]
                of_columns[_over(of_columns, piece)] += square.sum(-2)[..., None, :]
            counts = max(1, columns.shape[-1]), max(1, rows.shape[-2])
            after = rule.averaged(k, xp, of_rows / counts[0], of_columns / counts[1], rows, columns)
            return Means(*after, rule.shares(k, xp, *after))

    def _squares(self, index: int) -> list[float]:
        """See ``ArraysExecutor._squares``."""
        record, gradient, _ = self._found[index]
        tensors, found = self.spec.tensors, list[float]()
        xp = tensors.namespace(record.weight)
        with xp.computing():
            for piece in pieces_of(tensors.shape_of(record.weight)):
                part = tensors.gradient_array(tensors.piece_of(gradient, piece))
                g = xp.cast(part, "float64").reshape(-1)
                found += summed(g * g)
        return found


def pieces_of(shape: Sequence[int], most: int = MOST_TOGETHER) -> Iterator[Piece]:
    """Parts of a tensor of this shape in row-major order, each of whole rows: at most so many elements, or one row."""
    count, *others = shape
    inner = math.prod(others)
    if not inner * count:
        return
    if inner <= most or len(others) == 1:
        step = max(1, most // inner)
        for first in range(0, count, step):
            yield slice(first, min(first + step, count)), *(slice(0, size) for size in others)
    else:
        for i in range(count):
            for rest in pieces_of(others, most):
                yield slice(i, i + 1), *rest


def _over(means: Array, piece: Piece) -> Piece:
    """The part of the means of rows or of columns that belongs to a piece."""
    return tuple(slice(0, 1) if size == 1 else one for size, one in zip(means.shape, piece, strict=True))


def _square(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
    return g * g
