"""The executor for rules of whole matrices (``adamas.rule.declaration.MatrixRule``), on any device.

What is elementwise in the step is that of ``adamas.step.arrays``. Between its two halves, the matrices of one shape are taken
together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..rule.declaration import Array, MatrixRule, Member, Rule
from . import arrays
from .arrays_executor import ArraysExecutor, NumbersThere
from .executor import GroupSpec
from .record import Record

MOST_TOGETHER = 1 << 24  # elements of the matrices that are taken together, unless a single one has more
_MOST_ON_CPU = 1 << 20  # there, products of large matrices gain nothing by it


class MatrixExecutor(ArraysExecutor):
    """The matrices of a group.

    Raises:
        ValueError: a parameter is complex, has fewer than two dimensions, or is a part of a matrix.
    """

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        for record in records:
            shape, dtype = spec.tensors.shape_of(record.weight), spec.tensors.dtype_name(record.weight)
            is_part = record.place is not None and spec.tensors.wholes_of(record.weight).where is None
            check_matrix(spec.member, shape, dtype, record.name, record.is_flat or is_part)
            if record.is_divided:
                raise ValueError(
                    f"parameter {record.name} is cut inside of blocks of codes, which {spec.member.name} does not exchange: "
                    'use state="float32" or "bfloat16" for its group'
                )

    def _steps(
        self, indices: Sequence[int], there: NumbersThere | None
    ) -> Iterator[tuple[int, arrays.Step, arrays.Parameter]]:
        """See ``ArraysExecutor._steps``."""
        rule = self.spec.rule
        assert isinstance(rule, MatrixRule)
        for together in self._together(indices):
            made = [self._step_of(index, there) for index in together]
            found = self._updates(rule, together, made)
            for index, (step, one), (update, after) in zip(together, made, found, strict=True):
                yield index, replace(step, rule=_Followed(rule, update, after)), one

    def _together(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        """Parts of the indices, each of parameters whose matrices have one shape, dtype and device."""
        tensors, alike = self.spec.tensors, dict[tuple[Any, ...], list[int]]()
        for index in indices:
            weight = self._found[index][0].weight
            kind = tensors.wholes_of(weight), tensors.dtype_name(weight), tensors.state_device(weight)
            alike.setdefault(kind, []).append(index)
        for (wholes, *_), found in alike.items():
            on_cpu = tensors.is_on_cpu(self._found[found[0]][0].weight)
            count = max(1, _most_together(on_cpu) // max(1, math.prod(wholes.shape))) * wholes.turns
            for first in range(0, len(found), count):
                yield found[first : first + count]

    def _updates(
        self, rule: MatrixRule, indices: Sequence[int], made: Sequence[tuple[arrays.Step, arrays.Parameter]]
    ) -> Iterator[tuple[Array, Sequence[Array]]]:
        """The updates of parameters whose matrices have one shape, and their new states."""
        xp = made[0][0].xp

        def of_wholes(directions: Sequence[Array]) -> Sequence[Array]:
            shape = rule.matrices_in(directions[0].shape)
            stacks = [direction.reshape(shape) for direction in directions]
            found = self._products(rule, xp, stacks[0] if len(stacks) == 1 else xp.concatenate(stacks))
            found = found.reshape((len(directions), *directions[0].shape))
            return [found[i] for i in range(len(directions))]

        with xp.computing():
            directed = [step.term(one, rule.direction) for step, one in made]
            weights = [self._found[index][0].weight for index in indices]
            updates = self.spec.tensors.results_of(weights, [direction for direction, *_ in directed], of_wholes)
        return zip(updates, [after for _, *after in directed], strict=True)

    def _products(self, rule: MatrixRule, xp: Any, matrices: Array) -> Array:
        """The updates of matrices, of shape (matrices, rows, columns), which are taken together in batches."""
        on_cpu = self.spec.tensors.is_on_cpu(self._found[0][0].weight)
        count = max(1, _most_together(on_cpu) // max(1, math.prod(matrices.shape[1:])))
        if len(matrices) and (count == 1 or len(matrices) == 1):  # a product of two dimensions is faster than of three
            found = [rule.of_matrices(xp, matrices[i])[None] for i in range(len(matrices))]
        else:
            batches = range(0, max(1, len(matrices)), count)
            found = [rule.of_matrices(xp, matrices[first : first + count]) for first in batches]
        return found[0] if len(found) == 1 else xp.concatenate(found)


def _most_together(on_cpu: bool) -> int:
    """The elements of the matrices that are taken together."""
    return _MOST_ON_CPU if on_cpu else MOST_TOGETHER


class _Followed(Rule):
    """A rule of matrices whose update and new states are known."""

    def __init__(self, rule: MatrixRule, update: Array, after: Sequence[Array]) -> None:
        self._update, self._after = update, after
        self.name, self.states, self.numbers = rule.name, rule.states, rule.numbers
        self.is_cautious = rule.is_cautious

    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``."""
        return self._update, *self._after


def check_matrix(member: Member, shape: Sequence[int], dtype: str, name: str, is_part: bool) -> None:
    """Raises ValueError unless the parameter of this name is a matrix of real numbers.

    Args:
        member: the member.
        shape: its shape.
        dtype: the name of its dtype.
        name: its name.
        is_part: whether it is a part of a tensor, the other parts of which are unknown.
    """
    if is_part:
        raise ValueError(
            f"parameter {name} is a part of a matrix, the other parts of which are unknown, and {member.name} orthogonalizes "
            "whole matrices: keep the matrix in one piece, shard it as a DTensor (fully_shard), or give its group "
            "use_muon=False, which AdamW steps"
        )
    if len(shape) < 2:
        raise ValueError(
            f"parameter {name} has the shape {tuple(shape)}, and {member.name} orthogonalizes matrices: give it a group with "
            "use_muon=False, which AdamW steps"
        )
    if dtype.startswith("complex"):
        raise ValueError(
            f"parameter {name} is complex, and {member.name} orthogonalizes matrices of real numbers: give it a group with "
            "use_muon=False, which AdamW steps"
        )
