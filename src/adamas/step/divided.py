"""Parts of weights whose cuts divide blocks of codes: stepped in pieces of whole blocks.

The codes of a block depend on all of its values. The processes that share a block therefore exchange their parts of it, and
each makes the step of the whole block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        if spec.rule.sums:
            raise ValueError(
                f"parameter {records[0].name}: {spec.member.name} needs sums over each tensor, and cuts divide its blocks of "
                'codes: use state="float32" or "bfloat16" for its group'
            )

    def apply(self) -> None:
        """Does nothing: see ``step_pieces``."""

    def step_pieces(self, pieces: Sequence[tuple[Record, Tensor]], threads: int) -> None:
        """Makes the prepared step for pieces of these parameters.

        Args:
            pieces: the records of the pieces, each with the scalars of its parameter, and their gradients.
            threads: the number of threads.
        """
        prepared = dict(zip(self.scalars, self.prepared, strict=True))
        kinds: dict[type[Executor], list[tuple[Record, Tensor]]] = {}
        for record, gradient in pieces:
            kinds.setdefault(executor_of(self.spec.tensors, record.weight), []).append((record, gradient))
        for kind, of_kind in kinds.items():
            executor: Any = kind(self.spec, [record for record, _ in of_kind], self.is_decayed)
            executor.look([gradient for _, gradient in of_kind])
            executor.prepared = [prepared[scalars] for scalars in executor.scalars]
            on_engine: list[EngineExecutor] = []
            executor.apply()
            executor.join(on_engine)
            apply(on_engine, threads, [])
            executor.release()
