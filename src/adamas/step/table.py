"""The table of a launch: the tensors that a kernel goes through, on their device.

What does not change from step to step is kept. Like ``adamas.step.gpu``, this module imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from ..rule.declaration import Rule
from ..rule.formats import BLOCK
from ..rule.triton import Kind
from .namespaces import torch as on_torch
from .record import Place, Tensor

UNREADY = (
    "a CUDA graph is being captured, and nothing can be allocated for this step: make one outside of the capture before it, "
    "for the same parameters"
)

# ---- where parts of tensors lie


class Run(NamedTuple):
    """The numbers of elements or blocks in a whole tensor: that of the first, and what the numbers skip after each run."""

    first: int
    run: int
    skip: int


def run_of(place: Place, shape: Sequence[int]) -> Run | None:
    """The numbers of the elements of a part of this shape; None if there are runs of more than one length."""
    stride, levels = 1, [(1, 1)]  # the sizes and strides, from the inside to the outside
    first = 0
    for size, offset, whole in zip(reversed(shape), reversed(place.offset), reversed(place.shape), strict=True):
        inner, inner_stride = levels[-1]
        if size != 1 and stride == inner * inner_stride:
            levels[-1] = inner * size, inner_stride
        elif size != 1:
            levels.append((size, stride))
        first += offset * stride
        stride *= whole
    if len(levels) > 2:
        return None
    run = levels[0][0]
    return Run(first, run, levels[1][1] - run if len(levels) == 2 else 0)


# ---- the parts of a launch


class Part(NamedTuple):
    """A parameter as a kernel goes through it.

    Attributes:
        kind: its kind.
        device: its device.
        slots: the columns of ``Addresses`` that it takes.
        size: the column ``size`` of the table; and so on.
        row: likewise.
        blocks: its blocks of 128 elements, or of codes.
        places: the columns ``adamas.rule.triton.PLACES``.
        keys: the halves of its keys.
    """

    kind: Kind
    device: torch.device
    slots: tuple[int, ...]
    size: int
    row: int
    blocks: int
    places: tuple[int, ...]
    keys: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return self.size // -(-self.row // BLOCK) * self.row if self.kind.has_codes else self.size


class Addresses(NamedTuple):
    """Where the tensors of a step are.

    Attributes:
        of: int64, a row for each parameter that was found, a column for each of its tensors: ``Part.slots``.
        generation: differs if they do.
    """

    of: np.ndarray
    generation: int


class Share:
    """The parameters of a launch.

    Attributes:
        indices: their indices among those that were found.
        parts: the parameters.
        slots: their ``Part.slots``.
        sets: the sets of numbers that they take, each once, as indices among those of the step.
        set_of: of each part the index in ``sets``.
    """

    def __init__(self, indices: Sequence[int], parts: Sequence[Part], sets: Sequence[int]) -> None:
        self.indices, self.parts, self.slots = np.array(indices), parts, parts[0].slots
        self.sets, self.set_of = np.unique(sets, return_inverse=True)


Shares: TypeAlias = dict[tuple[Kind, torch.device], Share]


def shared(parts: Sequence[Part | None], sets: Sequence[int], rules: Sequence[Rule] | None = None) -> Shares:
    """The parts that kernels take, by launch, without empty ones.

    Args:
        parts: the parts; None for one that no kernel takes.
        sets: of each part the index of its set of numbers.
        rules: of each set, the rule of a step with these numbers; None if it is that of the part's kind.
    """
    found: dict[tuple[Kind, torch.device], list[tuple[int, Part, int]]] = {}
    for index, (part, one) in enumerate(zip(parts, sets, strict=True)):
        if part is None or not part.size:
            continue
        kind = part.kind if rules is None else part.kind._replace(rule=rules[one])
        found.setdefault((kind, part.device), []).append((index, part, one))
    return {key: Share(*zip(*share, strict=True)) for key, share in found.items()}


class Table:
    """The table of a launch, on its device.

    Args:
        device: the device.
        blocks: the blocks that a program goes through.

    Attributes:
        programs: the number of programs.
        first: the first program of each part.
    """

    def __init__(self, device: torch.device, blocks: int) -> None:
        self._blocks = blocks
        self._share: Share | None = None
        self._generation = 0
        self._rows = self._uploaded = np.empty((0, 0), np.int64)
        self._row_of = np.empty(0, np.int32)  # of each program
        self._upload, self._upload_rows = Upload(device), Upload(device)
        self._on_device: tuple[Tensor, Tensor] | None = None
        self.programs, self.first = 0, np.empty(0, np.int64)

    def on_device(self, share: Share, addresses: Addresses, sets: np.ndarray, anew: bool) -> tuple[Tensor, Tensor]:
        """The rows of these parts, and the row of each program.

        Args:
            share: the parts.
            addresses: where their tensors are.
            sets: for each of ``share.sets``, its index among the sets of the launch.
            anew: whether to upload them even if they are there.
        """
        slots = len(share.slots)
        is_new = share is not self._share
        if is_new:
            self._share = share
            programs = [-(-part.blocks // self._blocks) for part in share.parts]
            self.programs, self.first = sum(programs), np.cumsum([0, *programs[:-1]])
            self._row_of = np.repeat(np.arange(len(programs), dtype=np.int32), programs)
            self._rows = np.array(
                [
                    (*[0] * slots, part.size, part.row, first, 0, *part.places, *part.keys)
                    for part, first in zip(share.parts, self.first.tolist(), strict=True)
                ],
                np.int64,
            )
        if is_new or self._generation != addresses.generation:
            self._generation = addresses.generation
            self._rows[:, :slots] = addresses.of[share.indices[:, None], share.slots]
        self._rows[:, slots + 3] = sets[share.set_of]
        if self._on_device is None or anew or not np.array_equal(self._rows, self._uploaded):
            self._uploaded = self._rows.copy()
            self._on_device = self._upload(self._uploaded.reshape(-1)), self._upload_rows(self._row_of)
        return self._on_device


class Upload:
    """Copies arrays to a device, without waiting for it: by turns from two pinned buffers, each used again after its copy.

    While a CUDA graph is captured, it copies from a third buffer, since each replay copies again. No memory can be allocated
    then, and after that, the upload belongs to the graph.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._turn = device, 0
        self._buffers: list[Tensor | None] = [None, None]
        self._copied: list[Any] = [None, None]
        self._of_graph: Tensor | None = None
        self._target: Tensor | None = None

    def __call__(self, values: np.ndarray) -> Tensor:
        """The tensor there, which the next call overwrites."""
        given = torch.from_numpy(values)
        if self._device.type == "cpu":
            return given
        if on_torch.is_capturing(self._device):
            source, target = self._of_graph, self._target
            if source is None or target is None or source.numel() < given.numel():
                raise RuntimeError(UNREADY)
            source[: given.numel()].copy_(given)
            target[: given.numel()].copy_(source[: given.numel()], non_blocking=True)
            return target
        turn = self._turn = 1 - self._turn
        if self._target is None or self._target.numel() < given.numel():
            self._target = torch.empty(given.numel(), dtype=given.dtype, device=self._device)
        buffer = self._buffers[turn]
        if buffer is None or buffer.numel() < given.numel():
            buffer = self._buffers[turn] = torch.empty(given.numel(), dtype=given.dtype, pin_memory=True)
            if self._of_graph is None or self._of_graph.numel() < given.numel():
                self._of_graph = torch.empty_like(buffer, pin_memory=True)
            self._copied[turn] = torch.cuda.Event()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        else:
            self._copied[turn].synchronize()
        buffer[: given.numel()].copy_(given)
        with on(self._device):
            self._target[: given.numel()].copy_(buffer[: given.numel()], non_blocking=True)
            self._copied[turn].record()
        return self._target


def on(device: torch.device) -> AbstractContextManager[Any]:
    """The device, for launches on it."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)
