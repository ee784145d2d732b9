"""Blocks of codes that the cuts of a DTensor divide: which processes have what of them, and what state dicts have.

A row of 11 008 columns has 86 blocks, of which each of eight processes has 10.75. A process has the codes of its own columns
and the scales of all blocks that it has elements of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..rule import layout
from ..rule.declaration import Member
from ..rule.formats import BLOCK, INT6
from ..step.record import Place, blocks_with, slots_of
from .distributed import is_distributed, place_in
from .tensors import TENSORS

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Edges:
    """A weight whose cuts divide blocks, as this process has it.

    Tensors have the shape (\\*rows, columns) here, whatever the dimensions of the weight.

    Args:
        weight: the weight.
        place: where the part of this process lies.
        dimension: the dimension of the mesh that cuts the columns.

    Attributes:
        place: the argument ``place``.
        columns: the columns of this process.
        blocks: the blocks of which it has elements.
    """

    def __init__(self, weight: DTensor, place: Place, dimension: int) -> None:
        self._weight, self.place, self._dimension = weight, place, dimension
        self._shape = tuple(weight._local_tensor.shape)
        self._rows = place.row_dimensions
        self._length = layout.in_rows(place.shape)[1]
        size, ranks = place.shape[self._rows], weight.device_mesh.size(dimension)
        a_rank, in_one = -(-size // ranks), self._length // size
        self._ranges = [
            range(min(r * a_rank, size) * in_one, min((r + 1) * a_rank, size) * in_one) for r in range(ranks)
        ]
        self._rank = weight.device_mesh.get_local_rank(dimension)
        self.columns, self.blocks = self._ranges[self._rank], place.blocks(self._shape)
        assert not self.columns or self.columns == place.columns(self._shape)

    @property
    def group(self) -> dist.ProcessGroup:
        """The processes that have parts of the same rows."""
        return self._weight.device_mesh.get_group(self._dimension)

    @property
    def rows_here(self) -> tuple[int, ...]:
        """The dimensions that number the rows of the part."""
        return self._shape[: self._rows]

    def shared(self) -> Iterator[tuple[int, range]]:
        """The numbers in the group of processes that have elements of the same blocks, each with the columns of the block."""
        for rank, columns in enumerate(self._ranges):
            if rank == self._rank or not columns:
                continue
            theirs = blocks_with(columns)
            both = range(max(theirs.start, self.blocks.start), min(theirs.stop, self.blocks.stop))
            for block in both:  # one at most
                yield rank, self.of_block(block)

    def of_block(self, block: int) -> range:
        """The columns of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self._length))

    def of_rank(self, rank: int, block: range) -> range:
        """The columns of a block that a process has."""
        columns = self._ranges[rank]
        return range(max(columns.start, block.start), min(columns.stop, block.stop))

    def own(self, block: range) -> range:
        """The columns of a block that this process has."""
        return self.of_rank(self._rank, block)

    def whole_blocks(self) -> range:
        """The columns of this process in blocks that it has alone."""
        inside = [block for block in self.blocks if self.own(self.of_block(block)) == self.of_block(block)]
        return range(inside[0] * BLOCK, self.of_block(inside[-1]).stop) if inside else range(0)

    def divided_blocks(self) -> list[int]:
        """The blocks that this process shares with others."""
        return [block for block in self.blocks if self.own(self.of_block(block)) != self.of_block(block)]

    def in_columns(self, tensor: Tensor, name: str) -> Tensor:
        """A local tensor of the weight's shape in the shape (\\*rows, columns), in the same memory.

        Raises:
            ValueError: it has another shape, or does not lie in row-major order.
        """
        if tuple(tensor.shape) != self._shape:
            raise ValueError(
                f"{name} has to have the shape {self._shape}, as the parameter here has, not {tuple(tensor.shape)}"
            )
        try:
            return tensor.view(self._in_columns(tensor))
        except RuntimeError:
            raise ValueError(
                f"{name} has to lie in row-major order (contiguous), since processes share blocks of its codes"
            ) from None

    def _in_columns(self, tensor: Tensor) -> tuple[int, ...]:
        return (*self.rows_here, len(self.columns), *tensor.shape[len(self._shape) :])

    def part(self, tensor: Tensor, columns: range) -> Tensor:
        """Some columns of a tensor that has those of this process."""
        first = columns.start - self.columns.start
        return tensor.narrow(self._rows, first, len(columns))

    def place_of(self, first_column: int) -> Place:
        """Where a piece lies that begins at this column."""
        rows = self._rows
        return Place((*self.place.offset[:rows], first_column), (*self.place.shape[:rows], self._length))

    # ---- state dicts

    def widened(self, whole: Tensor) -> Tensor:
        """Of a saved tensor, whole or placed anywhere, what belongs to the rows and the blocks of this process, as a copy."""
        whole = whole.full_tensor() if is_distributed(whole) else whole
        rows = tuple(
            slice(at, at + size) for at, size in zip(self.place.offset[: self._rows], self.rows_here, strict=True)
        )
        for shape, in_a_block in (
            (layout.scale_shape(self.place.shape), 1),
            (layout.codes_shape(self.place.shape, INT6), layout.codes_shape((1, BLOCK), INT6)[1]),
        ):
            if tuple(whole.shape) == shape:
                return whole[rows][..., self.blocks.start * in_a_block : self.blocks.stop * in_a_block].clone()
        if tuple(whole.shape[: len(self.place.shape)]) != self.place.shape:
            return whole  # of another parameter, which an error will tell
        beyond = tuple(whole.shape[len(self.place.shape) :])  # the two bytes of low bits
        part = whole.reshape(*self.place.shape[: self._rows], self._length, *beyond)[rows]
        wide = self._wide
        return part.narrow(self._rows, wide.start, len(wide)).clone()

    @property
    def _wide(self) -> range:
        """The columns of the blocks of which this process has elements."""
        if not self.columns:
            return self.columns
        return range(self.blocks.start * BLOCK, min(self.blocks.stop * BLOCK, self._length))

    def narrowed(self, wide: Tensor) -> Tensor:
        """The columns of this process, in the weight's shape, of a result of ``widened`` with a column for each element."""
        first = self.columns.start - self._wide.start
        part = wide.narrow(self._rows, first, len(self.columns))
        return part.reshape(*self._shape, *part.shape[self._rows + 1 :])

    def widened_here(self, local: Tensor) -> Tensor:
        """A local tensor with zeros for those columns of its blocks that others have, in the shape of ``widened``."""
        wide = local.new_zeros(*self.rows_here, len(self._wide))
        first = self.columns.start - self._wide.start
        wide.narrow(self._rows, first, len(self.columns)).copy_(local.reshape(self._in_columns(local)))
        return wide

    @property
    def wide_place(self) -> Place:
        """Where the blocks of which this process has elements lie."""
        return self.place_of(self._wide.start)

    def wide_weight(self) -> Tensor:
        """An uninitialized tensor of the dtype of the weight in the shape of ``widened``."""
        local = self._weight._local_tensor
        return local.new_empty(*self.rows_here, len(self._wide))

    def gathered_scales(self, scales: Tensor) -> Tensor:
        """Scales as a state dict has them: placed as the weight is. All processes of the mesh call this together."""
        from torch.distributed.tensor import DTensor, Partial

        shape = layout.scale_shape(self.place.shape)
        # As integers, since the sum of a zero and a negative zero has no sign. Each is counted where its block begins.
        whole = scales.new_zeros(*self.rows_here, shape[-1], dtype=torch.int32)
        begins = [block for block in self.blocks if block * BLOCK in self.columns]
        if begins:
            first, count = begins[0] - self.blocks.start, len(begins)
            whole.narrow(-1, begins[0], count).copy_(scales.narrow(-1, first, count).view(torch.int32))
        placements = list(self._weight.placements)
        placements[self._dimension] = Partial()
        stride = torch.empty(shape, device="meta").stride()
        mesh = self._weight.device_mesh
        summed = DTensor.from_local(
            whole, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
        ).redistribute(placements=self._weight.placements)
        return DTensor.from_local(
            summed.to_local().view(torch.float32),
            mesh,
            summed.placements,
            run_check=False,
            shape=summed.shape,
            stride=stride,
        )

    def are_divided(self) -> bool:
        """Whether a cut divides a block, here or between other processes, or the scales lie otherwise than a DTensor."""
        if any(columns.stop % BLOCK != 0 and columns.stop != self._length for columns in self._ranges):
            return True
        return self._lie_otherwise([len(blocks_with(columns)) for columns in self._ranges])

    def divide_packed_codes(self) -> bool:
        """Whether codes in 6 bits are cut otherwise than the packed tensor is."""
        return self._lie_otherwise([layout.codes_shape((1, len(columns)), INT6)[1] for columns in self._ranges])

    def _lie_otherwise(self, counts: Sequence[int]) -> bool:
        """Whether so many columns of each process are not those that it has of a DTensor with these columns in all."""
        total, ranks = sum(counts), len(counts)
        a_rank = -(-total // ranks)
        return any(count != max(0, min(a_rank, total - i * a_rank)) for i, count in enumerate(counts))


def edges_at(group: Mapping[str, Any], index: int) -> Edges | None:
    """The edges of a parameter of the group, by its index, if its codes would lie otherwise than a DTensor; else None.

    It is None too if the blocks cannot be exchanged. All processes of the parameter's mesh find the same.
    """
    edges = _edges_at(group, index)
    return edges if edges is not None and (edges.are_divided() or edges.divide_packed_codes()) else None


def _edges_at(group: Mapping[str, Any], index: int) -> Edges | None:
    """The edges of a parameter of the group, by its index, if one dimension of the mesh cuts its columns; else None."""
    weight = group["params"][index]
    if not is_distributed(weight) or (place := place_in(group, index)) is None:
        return None
    rows = place.row_dimensions
    cutting = [d for d, placement in enumerate(weight.placements) if getattr(placement, "dim", -1) >= rows]
    if len(cutting) != 1 or not weight.placements[cutting[0]].is_shard(rows):
        return None
    return Edges(weight, place, cutting[0])


def edges_of(member: Member, group: Mapping[str, Any], index: int) -> Edges | None:
    """The same for the codes that the parameter has; None if it has none."""
    edges = _edges_at(group, index)
    if edges is None:
        return None
    slots = slots_of(TENSORS, member, group, group["params"][index], edges.place)
    formats = {layout.format_of(group["state"], slot.name) for slot in slots if slot.scale_shape is not None}
    return edges if formats and (edges.are_divided() or ("int6" in formats and edges.divide_packed_codes())) else None
