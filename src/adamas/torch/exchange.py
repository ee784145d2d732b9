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
        """What this process has of these, in the shape (\\*rows, columns).

        Raises:
            ValueError: a tensor is missing, or has another shape or dtype.
        """
        edges, found = self.edges, {_WEIGHT: self.edges.in_columns(self.weight._local_tensor, f"parameter {self.name}")}
        found[_GRADIENT] = edges.in_columns(gradient.contiguous(), f"the gradient of parameter {self.name}")
        for slot in self.slots:
            found[slot.name] = edges.in_columns(self._entry(state, slot.name), self._what(slot.name))
            if slot.scale_shape is not None:
                codes, scales = found[slot.name], self._entry(state, slot.scale_name)
                if codes.dtype != storage.dtype_of(slot):
                    raise ValueError(f"{self._what(slot.name)} has to be {slot.dtype}, not {dtype_name(codes.dtype)}")
                if scales.dtype != torch.float32 or tuple(scales.shape) != slot.scale_shape:
                    raise ValueError(
                        f"{self._what(slot.scale_name)} has to be float32, of shape {slot.scale_shape}, not "
                        f"{dtype_name(scales.dtype)} of shape {tuple(scales.shape)}"
                    )
        if self.is_split:
            low = storage.as_int16(self._entry(state, LOW_BITS))
            found[LOW_BITS] = edges.in_columns(low, self._what(LOW_BITS))
        return found

    def _entry(self, state: Mapping[str, Any], name: str) -> Tensor:
        found = local_of(state[name]) if name in state else None
        if not isinstance(found, Tensor):
            raise ValueError(f"{self._what(name)} is {'missing' if found is None else 'no tensor'}")
        return found

    def _what(self, name: str) -> str:
        return f"parameter {self.name}: its state {name!r}"

    def bytes_of(self, columns: int) -> int:
        """The bytes of what is exchanged of so many columns."""
        return math.prod(self.edges.rows_here) * columns * sum(dtype.itemsize for dtype in self.dtypes().values())


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


class _Ready(NamedTuple):
    """What a step needs of a weight with edges that has a gradient."""

    executor: DividedExecutor
    record: Record
    tensors: Mapping[str, Tensor]


def with_gradients(divided: Sequence[Divided], plan: GroupPlan) -> list[tuple[Divided, _Ready]]:
    """Those of a plan that have a gradient, each with what a step needs.

    Raises:
        ValueError: a tensor cannot be used; the message names the parameter.
    """
    stepped = {
        id(record.weight): (executor, record, gradient)
        for executor in plan.executors
        if isinstance(executor, DividedExecutor)
        for record, gradient in zip(executor.found(), executor.gradients(), strict=True)
    }
    found = []
    with torch.no_grad():
        for one in divided:
            if (its := stepped.get(id(one.weight))) is not None:
                executor, record, gradient = its
                found.append((one, _Ready(executor, record, one.tensors(record.state, gradient))))
    return found


def step(divided: Sequence[Divided], plan: GroupPlan, threads: int) -> None:
    """Makes the prepared step of the weights with edges of a plan.

    The processes of their meshes call this together, with gradients of the same weights.
    """
    with torch.no_grad():
        for batch in _batches(with_gradients(divided, plan)):
            for (one, ready), blocks in zip(batch, _exchange(batch), strict=True):
                _step_one(one, ready, blocks, threads)


def _batches(ready: Sequence[tuple[Divided, _Ready]]) -> Iterator[list[tuple[Divided, _Ready]]]:
    """The weights in batches whose blocks are exchanged at a time; those of a batch have the same processes."""
    batch: list[tuple[Divided, _Ready]] = []
    taken = 0
    for one, its in ready:
        size = one.bytes_of(2 * BLOCK)  # the same on all processes
        if batch and (taken + size > _BATCH or batch[0][0].edges.group != one.edges.group):
            yield batch
            batch, taken = [], 0
        batch.append((one, its))
        taken += size
    if batch:
        yield batch


def _exchange(batch: Sequence[tuple[Divided, _Ready]]) -> list[dict[int, list[tuple[range, dict[str, Tensor]]]]]:
    """What the others have of the blocks that they share with this process, for each weight, by the block's first column."""
    group = batch[0][0].edges.group
    sent: list[list[Tensor]] = [[] for _ in range(group.size())]
    coming = [0] * group.size()
    for one, its in batch:
        for rank, block in one.edges.shared():
            sent[rank] += _packed(one, its.tensors, one.edges.own(block))
            coming[rank] += one.bytes_of(len(one.edges.of_rank(rank, block)))
    outgoing = [sum(x.numel() for x in to_one) for to_one in sent]
    received = torch.empty(sum(coming), dtype=torch.uint8, device=batch[0][0].weight._local_tensor.device)
    parts = [x for to_one in sent for x in to_one]
    joined = torch.cat(parts) if parts else received.new_empty(0)
    dist.all_to_all_single(received, joined, coming, outgoing, group=group)
    from_each = list(torch.split(received, coming))
    found: list[dict[int, list[tuple[range, dict[str, Tensor]]]]] = []
    for one, _ in batch:
        blocks: dict[int, list[tuple[range, dict[str, Tensor]]]] = {}
        for rank, block in one.edges.shared():
            columns = one.edges.of_rank(rank, block)
            size = one.bytes_of(len(columns))
            blocks.setdefault(block.start, []).append((columns, _unpacked(one, from_each[rank][:size], len(columns))))
            from_each[rank] = from_each[rank][size:]
        found.append(blocks)
    return found


def _packed(one: Divided, tensors: Mapping[str, Tensor], columns: range) -> list[Tensor]:
    """Some columns of all tensors as bytes."""
    parts = [one.edges.part(tensors[name], columns).to(dtype) for name, dtype in one.dtypes().items()]
    return [part.contiguous().view(-1).view(torch.uint8) for part in parts]


def _unpacked(one: Divided, received: Tensor, columns: int) -> dict[str, Tensor]:
    """The inverse of ``_packed``."""
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
    ready: _Ready,
    received: Mapping[int, Sequence[tuple[range, Mapping[str, Tensor]]]],
    threads: int,
) -> None:
    """Makes the step of one weight: of the blocks that this process has alone, and of those that it shares."""
    edges, whole_blocks, tensors, record = one.edges, one.edges.whole_blocks(), ready.tensors, ready.record
    pieces, shared, are_counted = [], [], []
    if whole_blocks or not edges.columns:  # an empty part counts the step, too
        alone = {name: edges.part(x, whole_blocks or edges.columns) for name, x in tensors.items()}
        pieces.append(_piece(one, record, alone, whole_blocks or edges.columns))
        are_counted.append(True)
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
        are_counted.append(block.start in edges.columns)  # where the block begins
    ready.executor.step_pieces(pieces, threads, are_counted)
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
