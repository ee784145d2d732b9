"""The executor for GPUs: a Triton kernel steps the parameters of a group in one launch for each way in which they are stored.

So is a sum over them, which takes a second launch to add up what the programs of the first have found.

Parameters that the kernels do not take, such as those that are not contiguous, are stepped over arrays. This module alone
imports Triton. It imports PyTorch too, so it is imported only where a weight is to be stepped by it.
"""

from __future__ import annotations

import linecache
import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch

from ..rule import formats, layout
from ..rule.declaration import HOUSE_NUMBERS, Numbers, Rule
from ..rule.exact import in_parts
from ..rule.triton import HEADER, Kind, source, written
from ..rule.triton_numbers import NumbersKind, fixed_of, numbers_source, values_of
from ..rule.triton_sums import SQUARES, add_up_source, sum_source
from ..rule.writing import constants_of
from .arrays import Parameter, Stored
from .arrays_executor import ArraysExecutor, Coming
from .executor import GroupSpec
from .record import Place, Record, Tensor

_ROWS = 16  # the blocks of 128 elements that a program steps
_TILES = 4  # the tiles that a program adds up
_LANES = 1024  # the partial sums that a program reads at a time
_SETS = 128  # the sets of numbers that a program computes
_WARP = 64 if torch.version.hip else 32  # threads
_WARPS = 128 // _WARP  # of a program that adds up or computes numbers
_MOST_IN_ROW = 1 << 30  # elements of a row of codes, which kernels count in 32 bits
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_ALIGNED = 16  # bytes that are loaded at a time
_OPTIONS = {"num_warps": _WARPS, "enable_fp_fusion": False}
_SUMMED = {"ROWS": _ROWS, "TILES": _TILES, **_OPTIONS}
_ADDED_UP = {"LANES": _LANES, **_OPTIONS}
_COMPUTED = {"LANES": _SETS, **_OPTIONS}


_Key = TypeVar("_Key", bound=tuple[Any, ...])
_L = TypeVar("_L")

_UNREADY = (
    "a CUDA graph is being captured, and nothing can be allocated for this step: make one outside of the capture before it, "
    "for the same parameters"
)
_NO_NUMBERS = {**dict.fromkeys((*HOUSE_NUMBERS, "squares"), 0.0), "s": 1.0}  # of the rule SQUARES


def _launched(kind: Kind) -> dict[str, Any]:
    """The constants and options of the kernel that steps tensors of a kind."""
    return {"ROWS": _ROWS, **_OPTIONS, "num_warps": _ROWS * kind.threads // _WARP}


@cache
def _kernel(kind: Kind, index: int | None = None) -> Any:
    """The kernel that steps tensors of a kind or, given an index, that adds up the sum of the rule there."""
    return _defined(source(kind))["step"] if index is None else _defined(sum_source(kind, index))["sum"]


@cache
def _add_up() -> Any:
    """The kernel that adds up partial sums."""
    return _defined(add_up_source())["add_up"]


@cache
def _numbers(kind: NumbersKind, words: int) -> Any:
    """The kernel that computes the numbers of a step."""
    return _defined(numbers_source(kind, words))["numbers"]


def _defined(text: str) -> dict[str, Any]:
    """What a source defines."""
    name = f"<kernel {len(linecache.cache)} of adamas>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # from here, Triton reads it
    module: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), module)
    return module


# ---- the numbers of a step

_OPERATORS = ("add", "sub", "mul", "truediv", "lt", "le", "gt", "ge", "eq", "ne", "neg")


@cache
def _functions(namespace: Any) -> dict[str, Callable[..., Any]]:
    """The functions of which recorded numbers are made, by the names of their operations."""
    named = {name: getattr(namespace, name) for name in ("sqrt", "log", "exp", "minimum", "maximum", "where")}
    return named | {name: getattr(operator, name) for name in _OPERATORS}


class _Sets:
    """The sets of numbers of one launch."""

    def __init__(self, kind: Kind) -> None:
        self._kind, self._index = kind, dict[Hashable, int]()
        self._words: list[np.ndarray] = []

    def add(self, one: tuple[Numbers, int]) -> int:
        """The index of the set that has these numbers, with the step's number."""
        kind, rule, (numbers, count) = self._kind, written(self._kind.rule), one
        key = (count, *(numbers[name] for name in (*rule.given, "eta", "k")))
        index = self._index.setdefault(key, len(self._index))
        if index == len(self._words):
            moves = numbers["eta"] != 0 or numbers["k"] != 1
            words = np.zeros(kind.words, np.int32)
            words[: len(HEADER)] = np.array([formats.moved_by(count), 1, moves, 0], np.uint32).view(np.int32)
            dtype = np.float64 if kind.is_wide else np.float32
            given = {name: np.float64(numbers[name]) for name in rule.given}
            with np.errstate(all="ignore"):
                found = constants_of(rule, given, kind.penalized, _functions(np))
            constants = np.array(found, np.float64).astype(dtype)
            words[len(HEADER) :][: constants.nbytes // 4] = constants.view(np.int32)
            self._words.append(words)
        return index

    def on_device(self, upload: _Upload) -> Tensor:
        """All sets on the device."""
        return upload(np.concatenate(self._words))


class _DeviceNumbers:
    """The numbers of the coming step, where the device decides about it: kernels compute them, for each set of scalars.

    Args:
        spec: what the parameters have in common.
        is_decayed: whether weight decay and the penalties apply to them.
        coming: the step.
        runs: whether it is made, a boolean tensor without dimensions; None if it is in any case.
        upload: copies the inputs that the host knows.

    Attributes:
        after: the scalars after the step, once a kernel has been launched.
        unknown: what stands for the numbers where the host would look at their values.
    """

    def __init__(self, spec: GroupSpec, is_decayed: bool, coming: Coming, runs: Tensor | None, upload: _Upload) -> None:
        self._spec, self._is_decayed, self._coming = spec, is_decayed, coming
        self.after: Tensor | None = None
        self.unknown = {"w": coming.before, "k": coming.before}
        f = coming.formulas
        values = [*values_of(spec.member, coming.hyper), coming.scale, 1.0 if runs is None else runs]
        known = upload(np.array([0.0 if f.has(x) else x for x in values], np.float64))
        self._inputs = known
        if any(map(f.has, values)):
            self._inputs = f.stack([f.number(x) if f.has(x) else known[i] for i, x in enumerate(values)])

    def words(self, kind: Kind) -> Tensor:
        """The words that the kernel of this kind reads."""
        before = self._coming.before
        kernel = _numbers(_numbers_kind(self._spec, self._coming.hyper, kind, self._is_decayed), kind.words)
        count = before.shape[1]
        self.after = torch.empty_like(before)
        words = torch.empty(count * kind.words, dtype=torch.int32, device=before.device)
        with _on(before.device):
            kernel[(-(-count // _SETS),)](before, self._inputs, self.after, words, count, **_COMPUTED)
        return words


def _numbers_kind(spec: GroupSpec, hyper: Mapping[str, Any], kind: Kind, is_decayed: bool) -> NumbersKind:
    """The kind of the numbers that a step of tensors of this kind takes."""
    fixed = fixed_of(spec.member, hyper)
    return NumbersKind(spec.member, fixed, kind.rule, kind.penalized, kind.is_wide, is_decayed)


class _DecidedSets:
    """The sets of numbers of one launch, where the device decides about the step and computes them: one for each parameter."""

    def __init__(self, kind: Kind, numbers: _DeviceNumbers) -> None:
        self._kind, self._numbers = kind, numbers

    def add(self, one: int) -> int:
        """The index of a set."""
        return one

    def on_device(self, upload: _Upload) -> Tensor:
        """See ``_Sets.on_device``."""
        return self._numbers.words(self._kind)


# ---- where parts of tensors lie


class _Run(NamedTuple):
    """The numbers of elements or blocks in a whole tensor: that of the first, and what the numbers skip after each run."""

    first: int
    run: int
    skip: int


def _run_of(place: Place, shape: Sequence[int]) -> _Run | None:
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
    return _Run(first, run, levels[1][1] - run if len(levels) == 2 else 0)


# ---- the executor


class _Part(NamedTuple):
    """A parameter as a kernel steps it: its kind, its device, and the columns of the table but for those of the launch."""

    kind: Kind
    device: torch.device
    addresses: tuple[int, ...]
    size: int
    row: int
    blocks: int
    places: tuple[int, ...]
    keys: tuple[int, ...]


class _Launch:
    """The tensors of one kind on one device, in a table there."""

    def __init__(self, kind: Kind, device: torch.device, tiles: int = 1) -> None:
        self.kind, self.device = kind, device
        self._blocks = _ROWS * tiles  # of a program
        self._table = np.empty(0, np.int64)
        self._on_device: tuple[Tensor, Tensor] | None = None
        self._uploads = [_Upload(device), _Upload(device), _Upload(device)]
        self._programs = 0

    def __call__(self, parts: Sequence[tuple[_Part, int]], sets: _Sets | _DecidedSets) -> None:
        """Steps parts, each with the index of its set of numbers."""
        given = self._given(parts, sets)
        with _on(self.device):
            _kernel(self.kind)[(self._programs,)](*given, **_launched(self.kind))

    def _given(self, parts: Sequence[tuple[_Part, int]], sets: _Sets | _DecidedSets) -> tuple[Tensor, Tensor, Tensor]:
        """The table, the row of each program, and the numbers, on the device."""
        rows, tensors, tile = [], [], 0
        for index, (part, numbers) in enumerate(parts):
            rows.append([*part.addresses, part.size, part.row, tile, numbers, *part.places, *part.keys])
            programs = -(-part.blocks // self._blocks)
            tensors.append(np.full(programs, index, np.int32))
            tile += programs
        table = np.array(rows, np.int64)
        if self._on_device is None or _is_capturing(self.device) or not np.array_equal(table, self._table):
            self._table, self._programs = table, tile
            self._on_device = (self._uploads[0](table.reshape(-1)), self._uploads[1](np.concatenate(tensors)))
        return *self._on_device, sets.on_device(self._uploads[2])


class _SumLaunch(_Launch):
    """The tensors of one kind on one device, over which a sum of their rule is computed.

    The bits of a sum depend on the tensors alone: neither on the order in which programs run nor on other sums of the launch.
    """

    def __init__(self, kind: Kind, device: torch.device, index: int) -> None:
        super().__init__(kind, device, _TILES)
        self._index = index
        self._starts = _Upload(device)
        self._partial_sums = torch.empty(0)

    def sums(self, parts: Sequence[tuple[_Part, int]], sets: _Sets | _DecidedSets, together: bool) -> Tensor:
        """The sum over each part or, if ``together``, over all of them, on the device.

        It is a tensor of float64 with two numbers for each sum, to be added up.
        """
        given = self._given(parts, sets)
        if len(self._partial_sums) != 2 * self._programs:
            self._partial_sums = torch.empty(2 * self._programs, dtype=torch.float64, device=self.device)
        first = self._table[:, self.kind.columns.index("tile")]
        starts = np.append(first[:1] if together else first, self._programs).astype(np.int32)
        sums = torch.empty(len(starts) - 1, 2, dtype=torch.float64, device=self.device)
        with _on(self.device):
            _kernel(self.kind, self._index)[(self._programs,)](*given, self._partial_sums, **_SUMMED)
            _add_up()[(len(sums),)](self._partial_sums, self._starts(starts), sums, **_ADDED_UP)
        return sums

    def not_finite(self) -> list[int]:
        """The indices of the parts whose last sums are not finite. The host waits for them."""
        programs = np.flatnonzero(~np.isfinite(self._partial_sums[::2].cpu().numpy()))
        first = self._table[:, self.kind.columns.index("tile")]
        parts: list[int] = np.unique(np.searchsorted(first, programs, side="right") - 1).tolist()
        return parts


class _Upload:
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
        if _is_capturing(self._device):
            source, target = self._of_graph, self._target
            if source is None or target is None or source.numel() < given.numel():
                raise RuntimeError(_UNREADY)
            source[: given.numel()].copy_(given)
            target[: given.numel()].copy_(source[: given.numel()], non_blocking=True)
            return target
        turn = self._turn = 1 - self._turn
        if self._target is None or self._target.numel() < given.numel():
            self._target = torch.empty(given.numel(), dtype=given.dtype, device=self._device)
        buffer = self._buffers[turn]
        if buffer is None or buffer.numel() < given.numel():
            buffer = self._buffers[turn] = torch.empty(given.numel(), dtype=given.dtype, pin_memory=True)
            self._of_graph = torch.empty_like(buffer, pin_memory=True)
            self._copied[turn] = torch.cuda.Event()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        else:
            self._copied[turn].synchronize()
        buffer[: given.numel()].copy_(given)
        with _on(self._device):
            self._target[: given.numel()].copy_(buffer[: given.numel()], non_blocking=True)
            self._copied[turn].record()
        return self._target


def _is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


class _Share:
    """The parameters of a launch: their indices, the parts with their sets of numbers, and these sets."""

    def __init__(self, sets: _Sets | _DecidedSets) -> None:
        self.indices: list[int] = []
        self.parts: list[tuple[_Part, int]] = []
        self.sets = sets


_Shares: TypeAlias = dict[tuple[Kind, torch.device], _Share]


def _shares(
    parts: Sequence[_Part | None],
    numbers: Sequence[Any],
    sets_of: Callable[[Kind], _Sets | _DecidedSets] = _Sets,
) -> _Shares:
    """The parts that kernels take, by launch, without empty ones.

    Args:
        parts: the parts; None for one that no kernel takes.
        numbers: the numbers of each, as its sets take them.
        sets_of: begins the sets of a kind.
    """
    shares: _Shares = {}
    for index, (part, own) in enumerate(zip(parts, numbers, strict=True)):
        if part is None or not part.size:
            continue
        share = shares.setdefault((part.kind, part.device), _Share(sets_of(part.kind)))
        share.indices.append(index)
        share.parts.append((part, share.sets.add(own)))
    return shares


class GpuExecutor(ArraysExecutor):
    """The parameters of a group on a GPU."""

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        self._launches: dict[tuple[Kind, torch.device], _Launch] = {}
        self._sum_launches: dict[tuple[Kind, torch.device, int], _SumLaunch] = {}
        self._uploads: dict[tuple[str, torch.device], _Upload] = {}
        self._of_graphs: list[Any] = []

    def look(self, gradients: list[Tensor | None] | None) -> None:
        """See ``Executor.look``."""
        super().look(gradients)
        # A pending sign is resolved into new memory, which has to last until the kernels have been launched.
        array = self.spec.tensors.gradient_array
        self._found = [(record, array(gradient), row) for record, gradient, row in self._found]

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``Executor.square_sum``."""
        squares, suspects = list[float](), list[int]()
        parts = [self._square_part(gradient) for _, gradient, _ in self._found]
        for index, part in enumerate(parts):
            if part is None:
                found = self._squares(index)
                squares += found
                if not all(map(math.isfinite, found)):
                    suspects.append(index)
        shares = _shares(parts, [(_NO_NUMBERS, 0)] * len(parts))
        for launch, share, sums in self._launch_sums(shares, 0, together=True):
            found = in_parts(*sums.tolist()[0])
            squares += found
            if not math.isfinite(found[0]):
                suspects += [share.indices[i] for i in launch.not_finite()]
        culprit = next((index for index in sorted(suspects) if not self._is_finite(index)), None)
        return squares, None if culprit is None else self._found[culprit][0].name

    def partial_sums(self, index: int, threads: int) -> list[list[float]]:
        """See ``Executor.partial_sums``."""
        unknown = {one.name: 0.0 for one in self.spec.rule.sums[index:]}  # no term depends on them
        numbers = [(known | unknown, 0) for known, _ in self._numbers()]
        parts = self._parts(numbers)
        found = [self._partial_sum(index, i) if part is None else [] for i, part in enumerate(parts)]
        for _, share, sums in self._launch_sums(_shares(parts, numbers), index, together=False):
            for i, numbers_of_sum in zip(share.indices, sums.tolist(), strict=True):
                found[i] = in_parts(*numbers_of_sum)
        return found

    def _launch_sums(self, shares: _Shares, index: int, together: bool) -> list[tuple[_SumLaunch, _Share, Tensor]]:
        """Launches the sum of the rules at an index over each share; the host waits for none of them here."""
        launched = []
        for (kind, device), share in shares.items():
            launch = self._ready(self._sum_launches, (kind, device, index), _SumLaunch)
            launched.append((launch, share, launch.sums(share.parts, share.sets, together)))
        return launched

    def _square_part(self, g: Tensor) -> _Part | None:
        """The gradient as a kernel squares it; None if none does."""
        dtype = self.spec.tensors.dtype_name(g)
        if not g.is_contiguous() or dtype not in _DTYPES:
            return None
        kind = Kind(
            SQUARES, False, "float64", dtype, "nearest", (), in_order=True, aligned=g.data_ptr() % _ALIGNED == 0
        )
        size = g.numel()
        blocks = -(-size // formats.BLOCK)
        return _Part(kind, g.device, (g.data_ptr(), g.data_ptr()), size, size, blocks, (0, size, 0) * 2, ())

    def warm_up(self, gradients: Sequence[Tensor], is_measured: bool, is_decided: bool) -> None:
        """Compiles the kernels that step the parameters, given gradients like these, without reading or writing a tensor.

        The kernels of sums are among them, and if the gradient ``is_measured``, those of its norm.

        Where the rule leaves out one of its parts in some steps, the kernels of both are compiled, unless it ``is_decided`` on
        the device which step it is: then one kernel does both.
        """
        tensors, member, group = self.spec.tensors, self.spec.member, self.spec.group
        numbers = member.numbers_of(group, member.advance(group, dict(member.scalars)), 1.0)
        numbers |= dict.fromkeys([one.name for one in self.spec.rule.sums], 0.0)
        kernels: dict[tuple[torch.device, Kind, int | None], None] = {}
        for record, gradient in zip(self.records, gradients, strict=True):
            part = self._part(record, gradient, numbers)
            device = tensors.array(record.weight).device
            if part is not None and part.size:
                for rule in [self.spec.rule] if is_decided else self.spec.rule.variants():
                    for index in (*range(len(rule.sums)), None):
                        kernels[device, part.kind._replace(rule=rule), index] = None
            squares = self._square_part(tensors.gradient_array(gradient))
            if is_measured and squares is not None and squares.size:
                kernels[device, squares.kind, 0] = None
        given = torch.int64, torch.int32, torch.int32
        for device, kind, index in kernels:
            with _on(device):
                if index is None and is_decided:
                    numbers_kernel = _numbers(_numbers_kind(self.spec, group, kind, self.is_decayed), kind.words)
                    numbers_kernel.warmup(*[torch.float64] * 3, torch.int32, 1, grid=(1,), **_COMPUTED)
                if index is None:
                    _kernel(kind).warmup(*given, grid=(1,), **_launched(kind))
                    continue
                _kernel(kind, index).warmup(*given, torch.float64, grid=(1,), **_SUMMED)
                _add_up().warmup(torch.float64, torch.int32, torch.float64, grid=(1,), **_ADDED_UP)

    def apply(self) -> None:
        """See ``Executor.apply``."""
        numbers = self._numbers()
        parts = self._parts(numbers)
        self._launch(_shares(parts, numbers))
        for index, part in enumerate(parts):
            if part is None:
                self._step(index)
        self._count()

    def _launch(self, shares: _Shares) -> None:
        self.spec.tensors.before_writing([record.weight for record, _, _ in self._found])
        for key, share in shares.items():
            self._ready(self._launches, key, _Launch)(share.parts, share.sets)

    def _ready(self, launches: dict[_Key, _L], key: _Key, make: Callable[..., _L]) -> _L:
        """The launch with this key. That of a step that is captured in a CUDA graph belongs to the graph from then on.

        Raises:
            RuntimeError: a CUDA graph is being captured, and there is no launch for it.
        """
        if not _is_capturing(key[1]):
            if key not in launches:
                launches[key] = make(*key)
            return launches[key]
        if key not in launches:
            raise RuntimeError(_UNREADY)
        launch = launches.pop(key)
        self._of_graphs.append(launch)
        return launch

    def squares_there(self, formulas: Any) -> list[tuple[Tensor, Tensor]]:
        """See ``DeviceExecutor.squares_there``."""
        gradients = [self.spec.tensors.gradient_array(gradient) for _, gradient, _ in self._found]
        parts = [self._square_part(g) for g in gradients]
        found = [self._squares_there(formulas, g) for g, part in zip(gradients, parts, strict=True) if part is None]
        shares = _shares(parts, [(_NO_NUMBERS, 0)] * len(parts))
        for launch, share, sums in self._launch_sums(shares, 0, together=True):
            is_finite = sums[0, 0].isfinite()
            if launch.kind.gradient == "float64":  # the squares may have overflowed
                is_finite = formulas.stack([gradients[i].isfinite().all() for i in share.indices]).all()
            found.append((sums[0], is_finite))
        return found

    def apply_there(self, runs: Tensor | None) -> Tensor | None:
        """See ``DeviceExecutor.apply_there``."""
        coming = self._coming
        if coming is None:
            return None
        numbers = self._device_numbers(coming, runs)
        parts = self._parts([(numbers.unknown, 0)] * len(self._found))
        self._launch(_shares(parts, coming.position, lambda kind: _DecidedSets(kind, numbers)))
        left = [index for index, part in enumerate(parts) if part is None]
        if left or numbers.after is None:
            there = self._numbers_there(coming, runs)
            for index in left:
                self._step_there(index, there, runs)
            numbers.after = there.after
        return self._count_there(numbers.after)

    def _device_numbers(self, coming: Coming, runs: Tensor | None) -> _DeviceNumbers:
        """The numbers of the coming step, which kernels compute."""
        device = coming.formulas.device
        upload = self._ready(self._uploads, ("inputs", device), lambda _, device: _Upload(device))
        return _DeviceNumbers(self.spec, self.is_decayed, coming, runs, upload)

    def _numbers(self) -> list[tuple[Numbers, int]]:
        """The numbers of the step of each parameter that was found, with the known sums, and the number of the step."""
        prepared = [(numbers, int(scalars[0])) for numbers, scalars in self.prepared]
        found = [prepared[row] for _, _, row in self._found]
        return [(numbers | sums, count) for (numbers, count), sums in zip(found, self._sums, strict=True)]

    def _parts(self, numbers: Sequence[tuple[Numbers, int]]) -> list[_Part | None]:
        """The parameters that were found, as kernels step them; None for one that none steps."""
        found = zip(self._found, numbers, strict=True)
        return [self._part(record, gradient, own) for (record, gradient, _), (own, _) in found]

    def _part(self, record: Record, gradient: Tensor, numbers: Numbers) -> _Part | None:
        """The parameter as a kernel steps it; None if none does."""
        spec = self.spec
        _, one = self._arrays(record, gradient, numbers)
        assert one.weight is not None
        tensors = [x for x in _tensors(one) if x is not None]
        dtypes = [spec.tensors.dtype_name(x) for x in (one.weight.high, one.g)]
        if not all(x.is_contiguous() and x.device == tensors[0].device and not x.is_neg() for x in tensors):
            return None
        if not set(dtypes) <= set(_DTYPES) or one.g.shape != one.weight.high.shape:
            return None
        shape = tuple(one.g.shape)
        forms = tuple([_form(spec, state, shape) for state in one.states])
        weights = spec.weights if dtypes[0] in layout.HALVES else "nearest"
        rule: Rule = spec.rule.at(numbers)
        addresses = [x.data_ptr() for x in tensors]
        kind = Kind(
            rule=rule,
            penalized=self._penalized,
            weight=dtypes[0],
            gradient=dtypes[1],
            weights=weights,
            states=forms,
            in_order=True,
            aligned=not any(x % _ALIGNED for x in addresses),
        )
        elements: _Run | None = _Run(0, one.g.numel(), 0)
        row, size = one.g.numel(), one.g.numel()
        if kind.has_codes:
            row, size = layout.in_rows(shape)[1], math.prod(layout.scale_shape(shape))
            if row > _MOST_IN_ROW:
                return None
        blocks: _Run | None = _Run(0, size, 0)
        if record.place is not None and size and kind.draws:
            elements = _run_of(record.place, shape)
            if kind.has_codes:
                blocks = _run_of(record.place.of_scales(shape), layout.scale_shape(shape))
        if elements is None or blocks is None:
            return None
        if not kind.has_codes:
            blocks = blocks._replace(first=elements.first // formats.BLOCK)
        kind = kind._replace(in_order=not (elements.skip or blocks.skip or elements.first % formats.BLOCK))
        keys = tuple([half for draw in kind.draws for half in formats.key_of(record.key, draw)])
        count = size if kind.has_codes else -(-size // formats.BLOCK)
        return _Part(kind, tensors[0].device, tuple(addresses), size, row, count, (*elements, *blocks), keys)


def _tensors(one: Parameter) -> list[Tensor | None]:
    """The tensors of a parameter, in the order of ``Kind.pointers``."""
    assert one.weight is not None
    return [one.weight.high, one.g, one.weight.low, *(x for state in one.states for x in (state.values, state.scale))]


def _form(spec: GroupSpec, state: Stored, shape: Sequence[int]) -> str:
    """The format of a state."""
    return spec.tensors.dtype_name(state.values) if state.scale is None else layout.form_of(state.values.shape, shape)
