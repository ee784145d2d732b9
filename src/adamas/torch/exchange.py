"""The step of DTensors whose cuts divide blocks of codes (``adamas.torch.edges``).

The processes that share a block exchange what they have of it: weights, gradients and moments. Each of them makes the step of
the whole block, with the same result, and keeps its own part and the scales.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..rule import layout
from ..rule.declaration import Member
from ..rule.formats import BLOCK
from ..rule.layout import LOW_BITS, Slot
from ..step.divided import DividedExecutor
from ..step.plan import GroupPlan
from ..step.record import Record, blocks_with, slots_of
from . import storage
from .distributed import local_of
from .edges import Edges, edges_of
from .storage import dtype_name
from .tensors import TENSORS

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_WEIGHT, _GRADIENT = "weight", "gradient"
_BATCH = 1 << 26  # the bytes of exchanged blocks that a process has at a time


class Divided(NamedTuple):
    """A weight with edges in a plan.

    Attributes:
        edges: its edges.
        weight: the weight.
        name: its name in messages.
        slots: its moments.
        is_split: whether the state has the low bits of the weight.
    """

    edges: Edges
    weight: DTensor
    name: str
    slots: Sequence[Slot]
    is_split: bool

    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtypes of what is exchanged of an element, by name."""
        weight = self.weight.dtype
        states = {slot.name: storage.dtype_of(slot) for slot in self.slots}
        low = {LOW_BITS: torch.int16} if self.is_split else {}
        gradient = torch.float64 if weight == torch.float64 else torch.float32
        return {_WEIGHT: weight, _GRADIENT: gradient, **states, **low}

    def tensors(self, state: Mapping[str, Any], gradient: Tensor) -> dict[str, Tensor]:
        """What this process has of these, in the shape (\\*rows, columns)."""
        local = {_WEIGHT: self.weight._local_tensor, _GRADIENT: gradient}
        local |= {name: local_of(state[name]) for name in self.dtypes() if name in state}
        if self.is_split:
            local[LOW_BITS] = storage.as_int16(local[LOW_BITS])
        local[_GRADIENT] = gradient.contiguous()
        return {name: self.edges.in_columns(x, self._what(name)) for name, x in local.items()}

    def _what(self, name: str) -> str:
        return {_WEIGHT: "parameter"}.get(name, f"{name!r} of parameter") + f" {self.name}"

    def bytes_of(self, columns: int) -> int:
        """The bytes of what is exchanged of so many columns, and whether there is a gradient."""
        rows = math.prod(self.edges.rows_here)
        return 1 + rows * columns * sum(dtype.itemsize for dtype in self.dtypes().values())


def divided(member: Member, group: Mapping[str, Any], index: int, name: str) -> Divided | None:
    """A parameter of the group, by its index, if it has codes and cuts divide blocks of them; else None.

    Raises:
        ValueError: it does not lie in row-major order.
    """
    edges = edges_of(member, group, index)
    if edges is None:
        return None
    weight = group["params"][index]
    edges.in_columns(weight._local_tensor, f"parameter {name}")
    slots = slots_of(TENSORS, member, group, weight, edges.place)
    return Divided(edges, weight, name, slots, layout.is_split(group, dtype_name(weight.dtype)))


def step(divided: Sequence[Divided], plan: GroupPlan, threads: int) -> None:
    """Makes the prepared step of the weights with edges of a plan. The processes of their meshes call this together.

    Raises:
        ValueError: a weight has a gradient here and none where the rest of a block is, or the other way round.
    """
    stepped = {
        id(record.weight): (executor, record, gradient)
        for executor in plan.executors
        if isinstance(executor, DividedExecutor)
        for record, gradient in zip(executor.found(), executor.gradients(), strict=True)
    }
    with torch.no_grad():
        for batch in _batches(divided):
            found = [stepped.get(id(one.weight)) for one in batch]
            here = [
                None if its is None else one.tensors(its[1].state, its[2])
                for one, its in zip(batch, found, strict=True)
            ]
            received = _exchange(batch, here)
            for one, its, tensors, blocks in zip(batch, found, here, received, strict=True):
                if its is not None and tensors is not None:
                    executor, record, _ = its
                    _step_one(one, executor, record, tensors, blocks, threads)


def _batches(divided: Sequence[Divided]) -> Iterator[list[Divided]]:
    """The weights in batches whose blocks are exchanged at a time; those of a batch have the same processes."""
    batch: list[Divided] = []
    taken = 0
    for one in divided:
        size = one.bytes_of(2 * BLOCK)  # the same on all processes
        if batch and (taken + size > _BATCH or batch[0].edges.group != one.edges.group):
            yield batch
            batch, taken = [], 0
        batch.append(one)
        taken += size
    if batch:
        yield batch


def _exchange(
    batch: Sequence[Divided], here: Sequence[Mapping[str, Tensor] | None]
) -> list[dict[int, list[tuple[range, dict[str, Tensor]]]]]:
    """What the others have of the blocks that they share with this process, for each weight, by the block's first column."""
    group = batch[0].edges.group
    sent: list[list[Tensor]] = [[] for _ in range(group.size())]
    coming = [0] * group.size()
    device = batch[0].weight._local_tensor.device
    for one, tensors in zip(batch, here, strict=True):
        for rank, block in one.edges.shared():
            sent[rank] += _packed(one, tensors, one.edges.own(block), device)
            coming[rank] += one.bytes_of(len(one.edges.of_rank(rank, block)))
    outgoing = [sum(x.numel() for x in to_one) for to_one in sent]
    received = torch.empty(sum(coming), dtype=torch.uint8, device=device)
    parts = [x for to_one in sent for x in to_one]
    joined = torch.cat(parts) if parts else received.new_empty(0)
    dist.all_to_all_single(received, joined, coming, outgoing, group=group)
    from_each = list(torch.split(received, coming))
    found: list[dict[int, list[tuple[range, dict[str, Tensor]]]]] = []
    for one, tensors in zip(batch, here, strict=True):
        blocks: dict[int, list[tuple[range, dict[str, Tensor]]]] = {}
        for rank, block in one.edges.shared():
            columns = one.edges.of_rank(rank, block)
            size = one.bytes_of(len(columns))
            mine, from_each[rank] = from_each[rank][:size], from_each[rank][size:]
            has_gradient = bool(mine[0])
            if has_gradient != (tensors is not None):
                ranks = dist.get_process_group_ranks(group)
                with_one, without = (ranks[rank], dist.get_rank()) if has_gradient else (dist.get_rank(), ranks[rank])
                raise ValueError(
                    f"parameter {one.name} has a gradient on rank {with_one} and none on rank {without}, and both have parts "
                    "of a block of its codes: compute it on both, or on none"
                )
            if has_gradient:
                blocks.setdefault(block.start, []).append((columns, _unpacked(one, mine[1:], len(columns))))
        found.append(blocks)
    return found


def _packed(one: Divided, tensors: Mapping[str, Tensor] | None, columns: range, device: torch.device) -> list[Tensor]:
    """Some columns of all tensors as bytes, or zeros without a gradient; the first byte is whether there is one."""
    if tensors is None:
        return [torch.zeros(one.bytes_of(len(columns)), dtype=torch.uint8, device=device)]
    parts = [torch.ones(1, dtype=torch.uint8, device=device)]
    for name, dtype in one.dtypes().items():
        part = one.edges.part(tensors[name], columns).to(dtype).contiguous()
        parts.append(part.view(-1).view(torch.uint8))
    return parts


def _unpacked(one: Divided, received: Tensor, columns: int) -> dict[str, Tensor]:
    """The inverse of ``_packed``, without the first byte."""
    found, at = {}, 0
    shape = (*one.edges.rows_here, columns)
    for name, dtype in one.dtypes().items():
        size = math.prod(shape) * dtype.itemsize
        part = received[at : at + size].clone()  # aligned
        found[name] = part.view(dtype).view(shape)
        at += size
    return found


def _step_one(
    one: Divided,
    executor: DividedExecutor,
    record: Record,
    tensors: Mapping[str, Tensor],
    received: Mapping[int, Sequence[tuple[range, Mapping[str, Tensor]]]],
    threads: int,
) -> None:
    """Makes the step of one weight: of the blocks that this process has alone, and of those that it shares."""
    edges, whole_blocks = one.edges, one.edges.whole_blocks()
    pieces, shared = [], []
    if whole_blocks or not edges.columns:  # an empty part counts the step, too
        alone = {name: edges.part(x, whole_blocks or edges.columns) for name, x in tensors.items()}
        pieces.append(_piece(one, record, alone, whole_blocks or edges.columns))
    for block in map(edges.of_block, edges.divided_blocks()):
        wide = {
            name: torch.empty((*edges.rows_here, len(block)), dtype=dtype, device=tensors[name].device)
            for name, dtype in one.dtypes().items()
        }
        own = edges.own(block), {name: edges.part(x, edges.own(block)) for name, x in tensors.items()}
        for columns, parts in (own, *received[block.start]):
            for name, part in parts.items():
                wide[name].narrow(-1, columns.start - block.start, len(columns)).copy_(part)
        shared.append((block, own, wide))
        pieces.append(_piece(one, record, wide, block))
    executor.step_pieces(pieces, threads)
    TENSORS.before_writing([one.weight, one.weight._local_tensor])
    for block, (columns, parts), wide in shared:
        for name, part in parts.items():
            if name != _GRADIENT:
                part.copy_(wide[name].narrow(-1, columns.start - block.start, len(columns)))


def _piece(one: Divided, record: Record, tensors: Mapping[str, Tensor], columns: range) -> tuple[Record, Tensor]:
    """The record of a piece of whole blocks, and its gradient."""
    edges, blocks = one.edges, blocks_with(columns)
    state = dict(record.state)  # the step count stays that of the whole
    for slot in one.slots:
        state[slot.name] = tensors[slot.name]
        if slot.scale_shape is not None:
            scales = local_of(record.state[slot.scale_name])
            state[slot.scale_name] = scales.narrow(-1, blocks.start - edges.blocks.start, len(blocks))
    if one.is_split:
        state[LOW_BITS] = tensors[LOW_BITS]
    place = edges.place_of(columns.start)
    return record._replace(weight=tensors[_WEIGHT], state=state, place=place, is_divided=False), tensors[_GRADIENT]
