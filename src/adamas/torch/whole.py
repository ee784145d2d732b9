"""Functions of whole matrices of which several processes have parts, as of DTensors.

Each matrix whose rows are cut is whole on one of the processes: they take turns, exchange the parts, and give the results
back. Of a matrix that is cut otherwise, each process gathers the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from .distributed import is_distributed, like, part_in

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


def group_of(weight: Tensor) -> ProcessGroup | None:
    """The processes that have the rows of a matrix; None if it is not cut between rows alone."""
    if not is_distributed(weight):
        return None
    from torch.distributed.tensor import Shard

    cut = [i for i, placement in enumerate(weight.placements) if not placement.is_replicate()]
    if len(cut) != 1 or type(weight.placements[cut[0]]) is not Shard or not weight.placements[cut[0]].is_shard(0):
        return None
    return weight.device_mesh.get_group(cut[0])


def results_of(
    weights: Sequence[Tensor], parts: Sequence[Tensor], function: Callable[[Sequence[Tensor]], Sequence[Tensor]]
) -> Sequence[Tensor]:
    """The parts that this process has of the results of a function of whole tensors.

    Args:
        weights: weights of one shape on one mesh, with the same placements.
        parts: the part of a tensor of the weight's shape and placements, for each.
        function: returns a tensor of the same shape for each.
    """
    if not is_distributed(weights[0]):
        return function(parts)
    group = group_of(weights[0])
    if group is not None:
        return _in_turns(weights[0].shape, group, parts, function)
    wholes = [
        like(weight, part, weight.shape, "its direction").full_tensor() for weight, part in _pairs(weights, parts)
    ]
    shape, offset = part_in(weights[0].shape, weights[0])
    here = tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))
    return [result[here] for result in function(wholes)]


def _pairs(weights: Sequence[Tensor], parts: Sequence[Tensor]) -> Sequence[tuple[DTensor, Tensor]]:
    return [(weight, part) for weight, part in zip(weights, parts, strict=True) if is_distributed(weight)]


def _in_turns(
    shape: Sequence[int],
    group: ProcessGroup,
    parts: Sequence[Tensor],
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
) -> list[Tensor]:
    """See ``results_of``. Tensor i is whole on process i, counted modulo the number of processes."""
    count, rank, (total, *row) = dist.get_world_size(group), dist.get_rank(group), shape
    most = -(-total // count)
    rows = [max(0, min(most, total - most * i)) for i in range(count)]
    turns = [range(i, len(parts), count) for i in range(count)]
    own, like_row = len(turns[rank]), parts[0].new_empty((0, *row))
    sizes = [rows[rank] * len(turn) for turn in turns]  # rows that the others have of what is sent, and then come back
    joined = torch.cat([like_row, *(parts[i] for turn in turns for i in turn)])
    received = joined.new_empty((total * own, *row))
    dist.all_to_all_single(received, joined, [own * n for n in rows], sizes, group=group)
    pieces = torch.split(received, [own * n for n in rows])
    wholes = torch.cat([x.reshape(own, n, *row) for x, n in zip(pieces, rows, strict=True)], 1)
    results = torch.stack(list(function(list(wholes)))) if own else wholes
    sent = torch.cat([x.flatten(0, 1) for x in torch.split(results, rows, 1)])
    dist.all_to_all_single(joined, sent, sizes, [own * n for n in rows], group=group)
    found = dict(zip([i for turn in turns for i in turn], joined.reshape(len(parts), rows[rank], *row), strict=True))
    return [found[i] for i in range(len(parts))]
