"""Parts of weights whose cuts divide blocks of codes: stepped in pieces of whole blocks.

The codes of a block depend on all of its values. The processes that share a block therefore exchange their parts of it, and
each makes the step of the whole block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..rule.statistics import joined
from .arrays_executor import ArraysExecutor
from .devices import executor_of
from .engine import EngineExecutor, apply
from .executor import Executor, GroupSpec
from .record import Record, Tensor


class DividedExecutor(ArraysExecutor):
    """The parameters of a group with blocks that several processes share.

    The adapter, which exchanges these blocks, calls ``step_pieces``.
    """

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        self._of_pieces: dict[str, Tensor] = {}  # the statistics of each record, by its name
        if spec.rule.sums:
            raise ValueError(
                f"parameter {records[0].name}: {spec.needs_sums} needs sums over each tensor, and cuts divide its blocks of "
                'codes: use state="float32" or "bfloat16" for its group'
            )

    def apply(self) -> None:
        """Completes the statistics; ``step_pieces`` has made the step."""
        if self._of_pieces:
            rows = [self._of_pieces[record.name] for record in self.found()]
            xp: Any = np if isinstance(rows[0], np.ndarray) else self.spec.tensors.namespace(self.records[0].weight)
            self.statistics, self._of_pieces = xp.stack(rows), {}

    def measure(self, threads: int) -> Tensor:
        """See ``Executor.measure``."""
        return Executor.measure(self, threads)

    def step_pieces(self, pieces: Sequence[tuple[Record, Tensor]], threads: int, are_counted: Sequence[bool]) -> None:
        """Makes the prepared step for pieces of these parameters.

        Args:
            pieces: the records of the pieces, each with the scalars of its parameter, and their gradients.
            threads: the number of threads.
            are_counted: whether each counts in the statistics here: not on another process.
        """
        prepared = dict(zip(self.scalars, self.prepared, strict=True))
        counted = {id(record) for (record, _), is_counted in zip(pieces, are_counted, strict=True) if is_counted}
        kinds: dict[type[Executor], list[tuple[Record, Tensor]]] = {}
        for record, gradient in pieces:
            kinds.setdefault(executor_of(self.spec.tensors, record.weight, self.spec.rule), []).append(
                (record, gradient)
            )
        for kind, of_kind in kinds.items():
            executor: Any = kind(self.spec, [record for record, _ in of_kind], self.is_decayed)
            executor.look([gradient for _, gradient in of_kind])
            executor.is_watched = self.is_watched
            executor.prepared = [prepared[scalars] for scalars in executor.scalars]
            on_engine: list[EngineExecutor] = []
            executor.apply()
            executor.join(on_engine)
            apply(on_engine, threads, [])
            if executor.statistics is not None:
                self._join(executor.found(), executor.statistics, counted)
            executor.release()

    def _join(self, records: Sequence[Record], statistics: Tensor, counted: Collection[int]) -> None:
        """Adds the statistics of pieces to those of their parameters; of those that are not ``counted``, by ``id``, zeros."""
        xp: Any = np if isinstance(statistics, np.ndarray) else self.spec.tensors.namespace(records[0].weight)
        for record, row in zip(records, statistics, strict=True):
            found = row if id(record) in counted else xp.zeros_like(row)
            known = self._of_pieces.get(record.name)
            self._of_pieces[record.name] = found if known is None else joined(xp, known, found)
