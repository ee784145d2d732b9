"""Parameters on a device whose state and step are on the host.

Gradients go to the host through a ring of buffers, the engine steps a copy of the weights there, and the new weights go back.
A tensor that is larger than a buffer goes in pieces, and while one is stepped, the next ones are on their way.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, deque
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from ..rule import layout
from ..rule.declaration import Numbers
from ..rule.exact import summed
from ..rule.formats import BLOCK
from ..rule.layout import LOW_BITS, Part, scale_name
from ..rule.members import MEMBERS
from ..rule.statistics import joined
from ..step.arrays_executor import ArraysExecutor
from ..step.devices import executor_of
from ..step.engine import EngineExecutor, apply, same_objects
from ..step.executor import Executor, GroupSpec
from ..step.memory import COPIES, RING
from ..step.record import Place, Record, Scalars, State
from .tensors import Tensors
from .transfer import Transfer, transfer_of

SLOTS = 4  # the number of buffers of the ring
SLOT_BYTES = 32 << 20  # the size of each
_ALIGNED = 64  # bytes; where tensors begin in a buffer
_CHUNK = 1 << 22  # elements whose squares are summed at a time

_SCALES = {scale_name(moment) for member in MEMBERS.values() for moment in member.states}

Area: TypeAlias = tuple[slice, slice]  # rows and columns of a parameter


class OnHostError(RuntimeError):
    """A step on the host has failed."""


class Home:
    """The copy of a weight on the host, where it is stepped.

    Args:
        buffer: what the copy is in, perhaps with others.
        copy: the copy, whose values are not there yet.
    """

    def __init__(self, buffer: Tensor, copy: Tensor) -> None:
        self._buffer, self.copy = buffer, copy
        self._known: tuple[Any, ...] | None = None  # what the weight was when the copy was equal to it
        self._version = 0  # the version that the step knows of

    def begin(self, weight: Tensor) -> bool:
        """Begins a step. Returns whether anything but the step before has written the weight, which has to be fetched then."""
        is_changed, self._known = self._known != _identity_of(weight), None
        self._version = weight._version
        return is_changed

    def is_written(self, weight: Tensor) -> bool:
        """Whether anything else has written the weight, or a part of it, since the step began."""
        return self._version != weight._version

    def write(self, weight: Tensor) -> None:
        """Remembers that the step has written the weight, or a part of it."""
        self._version = weight._version

    def end(self, weight: Tensor) -> None:
        """Ends the step: the copy is equal to the weight."""
        self._known = _identity_of(weight)


def _identity_of(weight: Tensor) -> tuple[Any, ...]:
    """What differs if anything but ``.data`` has written the weight, or its memory or its dtype is another.

    It keeps the address of the memory from being used again, but not the memory.
    """
    memory: Any = StorageWeakRef  # has no annotations
    return weight._version, weight.storage_offset(), weight.dtype, memory(weight.untyped_storage())


class Piece:
    """A part of a parameter that is stepped at once.

    Args:
        spec: what the parameters of the group have in common.
        record: the record of the part, whose weight and state are on the host.
        is_decayed: whether weight decay and the penalties apply to it.
        area: the rows and the columns that it has of the parameter; None if it is the whole parameter.
    """

    def __init__(self, spec: GroupSpec, record: Record, area: Area | None, is_decayed: bool) -> None:
        self.name, self.weight, self._area = record.name, record.weight, area
        self.executor = EngineExecutor(spec, [record], is_decayed)

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor of the parameter's shape."""
        return tensor if self._area is None else _in_rows(tensor, tensor.shape)[self._area]


class Task(NamedTuple):
    """The step of a piece.

    Attributes:
        piece: the piece.
        weight: the part of the weight on the device.
        home: the copy of the whole weight.
        is_fetched: whether the weight has to be fetched too.
        gradient: the part of the gradient on the device.
        numbers: the numbers of the step.
        scalars: the scalars after it.
    """

    piece: Piece
    weight: Tensor
    home: Home
    is_fetched: bool
    gradient: Tensor
    numbers: Numbers
    scalars: Scalars


class Offload:
    """What an optimizer needs for the parameters on one device whose step is on the host.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._transfer: Transfer = transfer_of(device)
        self._homes: MutableMapping[Tensor, Home] = WeakTensorKeyDictionary()
        self._ring: Tensor | None = None  # the buffers, one after the other
        self._known = 0  # the number of weights for which they are large enough
        self._sent: set[Home] = set()  # what was sent, or in part, since the host waited for it to arrive

    def home(self, weight: Tensor) -> Home:
        """The copy of a weight on the host."""
        self.expect([weight])
        return self._homes[weight]

    def expect(self, weights: Sequence[Tensor]) -> None:
        """Allocates the copies of these weights, in one buffer, if there are none yet."""
        missing = [weight for weight in weights if not self._fits(weight)]
        buffer, used = self._transfer.host_buffer(sum(map(_bytes, missing))) if missing else None, 0
        for weight in missing:
            assert buffer is not None
            self._homes[weight] = Home(buffer, _placed(buffer[used:], weight.dtype, weight))
            used += _bytes(weight)

    def _fits(self, weight: Tensor) -> bool:
        home = self._homes.get(weight)
        return home is not None and (home.copy.dtype, home.copy.shape) == (weight.dtype, weight.shape)

    def has(self, weight: Tensor) -> bool:
        """Whether there is a copy of a weight on the host."""
        return weight in self._homes

    @property
    def slot_bytes(self) -> int:
        """The size of a buffer of the ring."""
        sizes = [_bytes(home.copy) for home in self._homes.values()]
        whole = (_bytes(home.copy) for weight, home in self._homes.items() if not weight.is_contiguous())
        return max(min(SLOT_BYTES, sum(sizes)), *whole, 0)

    @property
    def bytes(self) -> dict[str, int]:
        """The bytes on the host for the copies of the weights and for the ring."""
        return {COPIES: sum(_bytes(home.copy) for home in self._homes.values()), RING: self.ring_bytes}

    @property
    def ring_bytes(self) -> int:
        """The size of the ring."""
        return SLOTS * self.slot_bytes

    def run(self, tasks: Sequence[Task], threads: int, stepped: list[str]) -> None:
        """Makes steps. The device has the new weights for what it is given after ``join``.

        Args:
            tasks: the steps.
            threads: the number of threads of the engine.
            stepped: the names of the parameters that were stepped are added to it.

        Raises:
            RuntimeError: a step has failed; the message names the parameter.
        """
        if not self._sent.isdisjoint(task.home for task in tasks):  # the device may still be reading the copies
            self.settle()
        mark = self._transfer.mark()
        slots = self._slots_for(tasks)
        coming, under_way = deque(_batches(tasks, len(slots[0]))), deque[_Arrival]()
        try:
            while coming or under_way:
                while coming and slots:
                    under_way.append(self._fetch(coming.popleft(), slots.pop(), mark))
                arrival = under_way.popleft()
                self._step(arrival, threads, stepped)
                slots.append(arrival.slot)
        finally:
            for arrival in under_way:
                self._transfer.wait(arrival.ticket)

    def join(self) -> None:
        """Lets the device wait for the new weights before what it is given from now on."""
        self._transfer.join()

    def settle(self) -> None:
        """Waits until all new weights are on the device."""
        self._transfer.settle()
        self._sent.clear()

    def mark(self) -> Any:
        """See ``Transfer.mark``."""
        return self._transfer.mark()

    def after(self, marks: Sequence[Any]) -> AbstractContextManager[None]:
        """See ``Transfer.after``."""
        return self._transfer.after(marks)

    def _slots_for(self, tasks: Sequence[Task]) -> list[Tensor]:
        """The buffers of the ring, each large enough for each of these gradients."""
        largest = max((_bytes(task.gradient) for task in tasks), default=0)
        if self._ring is None or len(self._homes) != self._known or SLOTS * largest > len(self._ring):
            self._known, size = len(self._homes), SLOTS * max(self.slot_bytes, largest)
            if self._ring is None or size > len(self._ring):
                self._ring = self._transfer.host_buffer(size)
        size = len(self._ring) // SLOTS
        return [self._ring[size * i : size * (i + 1)] for i in range(SLOTS)]

    def _fetch(self, batch: Sequence[Task], slot: Tensor, mark: Any) -> _Arrival:
        gradients, pairs, used = list[Tensor](), list[tuple[Tensor, Tensor]](), 0
        for task in batch:
            gradients.append(_placed(slot[used:], task.gradient.dtype, task.piece.weight))
            pairs.append((task.gradient, gradients[-1]))
            if task.is_fetched:
                pairs.append((task.weight, task.piece.weight))
            used += _bytes(task.gradient)
        return _Arrival(batch, gradients, slot, self._transfer.fetch(pairs, mark))

    def _step(self, arrival: _Arrival, threads: int, stepped: list[str]) -> None:
        executors, name = [task.piece.executor for task in arrival.batch], arrival.batch[0].piece.name
        try:
            self._transfer.wait(arrival.ticket)
            for task, gradient in zip(arrival.batch, arrival.gradients, strict=True):
                name = task.piece.name
                task.piece.executor.look([gradient])
                task.piece.executor.prepared = [(task.numbers, task.scalars)]
            apply(executors, threads, [])
            stepped += [task.piece.name for task in arrival.batch]
            for task in arrival.batch:
                name = task.piece.name
                if task.home.is_written(task.weight):
                    raise RuntimeError("something else has written the weight meanwhile")
            self._sent.update(task.home for task in arrival.batch)
            self._transfer.send([(task.piece.weight, task.weight) for task in arrival.batch])
            for task in arrival.batch:
                task.home.write(task.weight)
        except Exception as error:
            raise OnHostError(f"the step of parameter {name} on the host has failed: {error}") from error
        finally:
            for executor in executors:
                executor.release()
                executor.prepared = ()


def _batches(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    """The tasks in batches whose gradients fit into a buffer of this size."""
    batches, used = list[list[Task]](), 0
    for task in tasks:
        needed = _bytes(task.gradient)
        if not batches or used + needed > size:
            batches.append([])
            used = 0
        batches[-1].append(task)
        used += needed
    return batches


class _Arrival(NamedTuple):
    """A batch on its way to the host.

    Attributes:
        batch: the tasks, which keep what is copied until it has arrived.
        gradients: their gradients on the host.
        slot: the buffer that these are in.
        ticket: what the transfer gave for it.
    """

    batch: Sequence[Task]
    gradients: Sequence[Tensor]
    slot: Tensor
    ticket: Any


class HomeTensors(Tensors):
    """The operations on parameters whose state is on the host, while they are on a device.

    A parameter that is on the host itself is as any other.
    """

    broken: str | None  # why no step can be made: one was broken off, and some parameters have made it

    def __init__(self) -> None:
        self.broken = None
        self._offloads: dict[torch.device, Offload] = {}
        self._coming: list[tuple[Tensor, Sequence[Task]]] = []  # the weights that are to be stepped
        self._stepped: list[str] = []  # the names of the parameters of those that were stepped

    def is_away(self, weight: Tensor) -> bool:
        """Whether the weight is on a device; a plan has weights on the meta device."""
        return weight.is_meta or executor_of(self, weight) is not EngineExecutor

    def offload_of(self, weight: Tensor) -> Offload:
        """What its device needs."""
        if weight.device not in self._offloads:
            self._offloads[weight.device] = Offload(weight.device)
        return self._offloads[weight.device]

    def home(self, weight: Tensor) -> Home:
        """The copy of the weight on the host."""
        return self.offload_of(weight).home(weight)

    def expect(self, weights: Sequence[Tensor]) -> None:
        """Allocates the copies of the weights that are on a device, if there are none yet."""
        of_device: dict[Offload, list[Tensor]] = {}
        for weight in weights:
            if self.is_away(weight):
                of_device.setdefault(self.offload_of(weight), []).append(weight)
        for offload, away in of_device.items():
            offload.expect(away)

    def at_home(self, weight: Tensor) -> Tensor:
        """The weight, or its copy on the host if it is on a device; the copy does not always have its values."""
        return self.home(weight).copy if self.is_away(weight) else weight

    def state_device(self, weight: Tensor) -> torch.device:
        """See ``Tensors.state_device``."""
        return self.at_home(weight).device

    def full(self, weight: Tensor, part: Part, whole: tuple[int, ...] | None) -> Tensor:
        """See ``Tensors.full``."""
        return super().full(self.at_home(weight), part, whole)

    def executor_of(self, weight: Tensor) -> type[Executor]:
        """The executor that steps the weight."""
        return OffloadExecutor if self.is_away(weight) else EngineExecutor

    def has(self, weight: Tensor) -> bool:
        """Whether there is a copy of the weight on the host."""
        return any(offload.has(weight) for offload in self._offloads.values())

    @property
    def bytes(self) -> dict[str, int]:
        """The bytes on the host for the copies of the weights and for the rings."""
        return dict(sum((Counter(offload.bytes) for offload in self._offloads.values()), Counter()))

    def add(self, weight: Tensor, tasks: Sequence[Task]) -> None:
        """Adds the step of a weight to those that ``flushed`` makes."""
        self._coming.append((weight, tasks))

    def join(self) -> None:
        """Lets the devices wait for the new weights before what they are given from now on."""
        for offload in self._offloads.values():
            offload.join()

    def settle(self) -> None:
        """Waits until all new weights are on their devices."""
        for offload in self._offloads.values():
            offload.settle()

    def refuse_broken(self) -> None:
        """Raises RuntimeError if a step was broken off, and nothing has been loaded since."""
        if self.broken is not None:
            raise RuntimeError(self.broken)

    @contextmanager
    def flushed(self, threads: int) -> Iterator[None]:
        """A context at whose end the steps that were added in it are made. The devices have the new weights after ``join``.

        If an exception comes before that, some parameters may have made the step and others not: see ``broken``.

        Raises:
            RuntimeError: a step has failed; the message names its parameter, and those that were stepped.
        """
        self._stepped = []
        try:
            yield
            self.flush(threads)
        except BaseException as error:
            if self._coming:
                self.broken = _broken(error, self._stepped)
                with suppress(Exception):
                    self.settle()
                if isinstance(error, OnHostError):
                    raise OnHostError(self.broken) from error
            raise
        finally:
            self._coming = []

    def flush(self, threads: int) -> None:
        """Makes the steps that were added, before the end of a context of ``flushed``."""
        if not self._coming:
            return
        weights = [weight for weight, _ in self._coming]
        tasks: dict[Offload, list[Task]] = {}
        for weight, of_weight in self._coming:
            tasks.setdefault(self.offload_of(weight), []).extend(of_weight)
        for offload, of_device in tasks.items():
            offload.run(of_device, threads, self._stepped)
        self.before_writing(weights)
        for weight in weights:
            self.home(weight).end(weight)
        self._coming = []


class OffloadExecutor(ArraysExecutor):
    """The parameters of a group whose step is on the host, while they are on a device.

    The host decides about the step, with norms that the device computes.

    Raises:
        ValueError: a parameter cannot be stepped on the host.
    """

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        if spec.rule.sums:
            raise ValueError(
                f"parameter {records[0].name}: {spec.needs_sums} needs sums over each tensor, which cannot be offloaded: "
                "use offload=False for its group"
            )
        self._homes: Any = spec.tensors
        # Of each record, with the number of elements and the tensors that they were made for.
        self._pieces: dict[int, tuple[int, list[Tensor], list[Piece]]] = {}

    def apply(self) -> None:
        """Leaves the prepared step to ``HomeTensors.flushed``."""
        for record, gradient, row in self._found:
            tasks = self._tasks(record, gradient, row)
            for task in tasks:
                task.piece.executor.is_watched = self.is_watched
            self._homes.add(record.weight, tasks)
        self._count()

    def measure(self, threads: int) -> Any:
        """See ``Executor.measure``."""
        return Executor.measure(self, threads)

    def take_statistics(self) -> Any:
        """See ``Executor.take_statistics``. Those of a parameter are the sums over its pieces."""
        if not self.is_watched or not self._found:
            return None
        rows: list[Any] = []
        for record, _, _ in self._found:
            _, _, pieces = self._pieces[id(record)]
            parts = (piece.executor.take_statistics() for piece in pieces)
            rows.append(functools.reduce(functools.partial(joined, np), parts))
        return np.concatenate(rows)

    def _tasks(self, record: Record, gradient: Tensor, row: int) -> list[Task]:
        weight, home = record.weight.detach(), self._homes.home(record.weight)
        is_fetched, gradient = home.begin(record.weight), gradient.resolve_conj().resolve_neg()
        pieces = self._pieces_of(record, home.copy, gradient)
        if len(pieces) > 1:
            gradient = gradient.contiguous()
        return [
            Task(piece, piece.of(weight), home, is_fetched, piece.of(gradient), *self.prepared[row]) for piece in pieces
        ]

    def _pieces_of(self, record: Record, copy: Tensor, gradient: Tensor) -> list[Piece]:
        """The pieces of a parameter. One that does not lie in row-major order is not divided."""
        state = {name: x for name, x in record.state.items() if name not in self.spec.scalar_names}
        most, tensors = SLOT_BYTES // max(gradient.element_size(), copy.element_size()), [copy, *state.values()]
        known_most, known, pieces = self._pieces.get(id(record), (0, [], []))
        if most != known_most or not same_objects(known, tensors):
            spec, whole = self.spec._replace(scalar_names=(), counts_on=None), record._replace(weight=copy, state=state)
            is_divided = copy.numel() > most and record.weight.is_contiguous()
            parts = _parts(whole, most) if is_divided else [(whole, None)]
            pieces = [Piece(spec, part, area, self.is_decayed) for part, area in parts]
            self._pieces[id(record)] = most, tensors, pieces
        return pieces

    def _squares(self, index: int) -> list[float]:
        """See ``ArraysExecutor``. The device holds the squares of a part at a time, since memory is short there."""
        _, gradient, _ = self._found[index]
        elements = self.spec.tensors.gradient_array(gradient).reshape(-1)
        xp = self.spec.tensors.namespace(gradient)
        squares: list[float] = []
        with xp.computing():
            for part in elements.split(_CHUNK):
                g = xp.cast(part, "float64")
                squares += summed(g * g)
        return squares


def bring(state: State, device: torch.device) -> None:
    """Moves the tensors of a state to a device, if they are elsewhere."""
    for name, x in state.items():
        if isinstance(x, Tensor) and x.ndim > 0 and x.device != device:
            state[name] = x.to(device)


def _broken(error: BaseException, stepped: Sequence[str]) -> str:
    names = ", ".join(dict.fromkeys(stepped)) or "none"
    return (
        f"a step was broken off ({type(error).__name__}: {error}). The parameters that had made it: {names}. Load a state "
        "dict, and then the weights that belong to it"
    )


def _parts(record: Record, most: int) -> list[tuple[Record, Area | None]]:
    """The records of the parts of a parameter, of at most ``most`` elements each, and where they lie in it.

    Parts have whole rows or, if a row is longer than that, whole blocks of one.
    """
    weight, shape = record.weight, tuple(record.weight.shape)
    rows, length = layout.in_rows(shape)
    offset, whole = ((0, 0), shape) if record.place is None else (record.place.offset, record.place.shape)
    first = 0
    for at, size in zip(offset[: len(rows)], whole, strict=False):
        first = first * size + at
    whole_rows = math.prod(whole[: len(rows)])
    parts: list[tuple[Record, Area | None]] = []
    for area in _areas(math.prod(rows), length, most):
        state = {name: _part_of_state(name, x, shape, area) for name, x in record.state.items()}
        place = Place((first + area[0].start, area[1].start), (whole_rows, length))
        parts.append((record._replace(weight=_in_rows(weight, shape)[area], state=state, place=place), area))
    return parts


def _areas(rows: int, length: int, most: int) -> list[Area]:
    if length <= most:
        count = most // length
        return [(slice(i, min(i + count, rows)), slice(0, length)) for i in range(0, rows, count)]
    count = max(1, most // BLOCK - 1) * BLOCK
    cuts = [*range(0, max(1, length - BLOCK), count), length]  # no part has less than a block
    return [(slice(i, i + 1), slice(a, b)) for i in range(rows) for a, b in pairwise(cuts)]


def _part_of_state(name: str, tensor: Tensor, shape: Sequence[int], area: Area) -> Tensor:
    """The part of a tensor of the state of a parameter of this shape."""
    rows, (first, last) = area[0], (area[1].start, area[1].stop)
    if name == LOW_BITS or tuple(tensor.shape) == tuple(shape):
        return _in_rows(tensor, shape)[area]
    matrix = tensor.reshape(-1, tensor.shape[-1])
    if name in _SCALES:
        return matrix[rows, first // BLOCK : -(-last // BLOCK)]
    return matrix[rows, 3 * first // 4 : 3 * -(-last // 4)]  # packed codes, four in three bytes


def _in_rows(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of a parameter of this shape as a matrix of its rows; if it has another dimension, with that as a last one."""
    rows, length = layout.in_rows(shape)
    return tensor.reshape(math.prod(rows), length, *tensor.shape[len(shape) :])


def _bytes(tensor: Tensor) -> int:
    """The bytes that a tensor takes in a buffer."""
    return -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED


def _placed(buffer: Tensor, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A tensor at the beginning of a buffer, with the shape of another and, if that is dense, its order in memory."""
    size = like.numel() * dtype.itemsize
    strides = torch.empty_like(like, device="meta").stride()
    return buffer[:size].view(dtype).as_strided(like.shape, strides)
