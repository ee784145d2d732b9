"""The executor for GPUs: a Triton kernel steps the parameters of a group in one launch for each way in which they are stored.

So is a sum over them, which takes a second launch to add up what the programs of the first have found; and so are the
statistics of a watched step.

Parameters that the kernels do not take, such as those that are not contiguous, are stepped over arrays. It imports
PyTorch, so it is imported only where a weight is to be stepped by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import torch

from .. import _engine
from ..rule import formats, layout
from ..rule.declaration import HOUSE_NUMBERS, Numbers, Rule
from ..rule.exact import in_parts
from ..rule.layout import LOW_BITS, scale_name
from ..rule.statistics import ROW
from ..rule.triton import Kind
from ..rule.triton_statistics import PARTIAL
from ..rule.triton_sums import SQUARES
from . import kernels
from .arrays import Parameter, Stored
from .arrays_executor import ArraysExecutor, Coming
from .executor import Executor, GroupSpec
from .gpu_numbers import DecidedSets, DeviceNumbers, Sets, numbers_kind
from .namespaces import torch as on_torch
from .record import Record, Tensor
from .table import UNREADY, Addresses, Part, Run, Share, Shares, Table, Upload, on, run_of, shared

_MOST_IN_ROW = 1 << 30  # elements of a row of codes, which kernels count in 32 bits
_GRADIENT = 1  # its index in ``_tensors``
_DTYPES = ("float32", "float64", "bfloat16", "float16")  # of weights and gradients
_FORMS = (*layout.FORMATS, "float64")  # of states
_ALIGNED = 16  # bytes that are loaded at a time

_Key = TypeVar("_Key", bound=tuple[Any, ...])
_L = TypeVar("_L")

_NO_SETS = [({**dict.fromkeys((*HOUSE_NUMBERS, "squares"), 0.0), "s": 1.0}, 0)]  # the numbers of the rule SQUARES


# ---- the executor


class _Launch:
    """The tensors of one kind on one device, in a table there."""

    def __init__(self, kind: Kind, device: torch.device, tiles: int = 1) -> None:
        self.kind, self.device = kind, device
        self.table = Table(device, kernels.ROWS * tiles)
        self._upload = Upload(device)

    def __call__(self, share: Share, addresses: Addresses, sets: Sets | DecidedSets) -> None:
        """Steps parts with these sets of numbers."""
        given = self._given(share, addresses, sets)
        with on(self.device):
            kernels.step_or_sum(self.kind)[(self.table.programs,)](*given, **kernels.launched(self.kind))

    def _given(self, share: Share, addresses: Addresses, sets: Sets | DecidedSets) -> tuple[Tensor, Tensor, Tensor]:
        """The table, the row of each program, and the numbers, on the device."""
        table = self.table.on_device(share, addresses, sets.take(share.sets), on_torch.is_capturing(self.device))
        return *table, sets.on_device(self._upload)


class _SumLaunch(_Launch):
    """The tensors of one kind on one device, over which a sum of their rule is computed.

    The bits of a sum depend on the tensors alone: neither on the order in which programs run nor on other sums of the launch.
    """

    def __init__(self, kind: Kind, device: torch.device, index: int) -> None:
        super().__init__(kind, device, kernels.TILES)
        self._index = index
        self._upload_starts = Upload(device)
        self._partial_sums = torch.empty(0)

    def sums(self, share: Share, addresses: Addresses, sets: Sets, together: bool) -> Tensor:
        """The sum over each part or, if ``together``, over all of them, on the device.

        It is a tensor of float64 with two numbers for each sum, to be added up.
        """
        given = self._given(share, addresses, sets)
        programs, first = self.table.programs, self.table.first
        if len(self._partial_sums) != 2 * programs:
            self._partial_sums = torch.empty(2 * programs, dtype=torch.float64, device=self.device)
        starts = np.append(first[:1] if together else first, programs).astype(np.int32)
        sums = torch.empty(len(starts) - 1, 2, dtype=torch.float64, device=self.device)
        with on(self.device):
            kernels.step_or_sum(self.kind, self._index)[(programs,)](*given, self._partial_sums, **kernels.SUMMED)
            kernels.adding_up()[(len(sums),)](self._partial_sums, self._upload_starts(starts), sums, **kernels.ADDED_UP)
        return sums

    def not_finite(self) -> list[int]:
        """The indices of the parts whose last sums are not finite. The host waits for them."""
        programs = np.flatnonzero(~np.isfinite(self._partial_sums[::2].cpu().numpy()))
        parts: list[int] = np.unique(np.searchsorted(self.table.first, programs, side="right") - 1).tolist()
        return parts


class _WatchedLaunch(_Launch):
    """The tensors of one kind on one device, whose step has statistics.

    Their bits depend on the tensors alone: the order of all additions is fixed.
    """

    def __init__(self, kind: Kind, device: torch.device) -> None:
        super().__init__(kind, device)
        self._upload_places = Upload(device)
        self._partial_sums = torch.empty(0)

    def __call__(
        self, share: Share, addresses: Addresses, sets: Sets | DecidedSets, statistics: Tensor | None = None
    ) -> None:
        """Steps parts with these sets of numbers, and writes their rows of ``statistics``."""
        table, tensors, numbers = self._given(share, addresses, sets)
        programs, first = self.table.programs, self.table.first
        if len(self._partial_sums) != len(PARTIAL) * programs:
            dtype = torch.float64 if self.kind.is_wide else torch.float32
            self._partial_sums = torch.empty(len(PARTIAL) * programs, dtype=dtype, device=self.device)
        last, counts = np.append(first[1:], programs), [part.elements for part in share.parts]
        places = self._upload_places(np.stack([first, last, share.indices, counts], axis=1).reshape(-1))
        partial_sums, grid = self._partial_sums, (len(share.parts), len(ROW))
        with on(self.device):
            kernels.step_or_sum(self.kind)[(programs,)](
                table, tensors, numbers, partial_sums, **kernels.launched(self.kind)
            )
            kernels.adding_up_statistics(self.kind)[grid](
                table, numbers, partial_sums, programs, places, statistics, **kernels.STATISTICS
            )


class _Looked:
    """What a look in full found. It holds as long as nothing changes but the addresses of tensors and the values of scalars.

    Args:
        found: the records of the parameters with gradients, each with its gradient and the index of its scalars.
        is_remembered: whether a snapshot tells if it still holds.

    Attributes:
        records: the records of the parameters with gradients.
        rows: the indices of their scalars.
        weights: their weights.
        is_remembered: the argument ``is_remembered``.
        parts: the parameters, as kernels step them; None for one that none steps. None until it is needed, as the following.
        left: the indices of those that none steps.
        chosen: the rules of the last step's sets of numbers, and the set of each parameter.
        shares: the launches of a step with these.
        square_parts: the gradients, as kernels square them; None for one that none squares.
        square_shares: the launches that square them.
        addresses: where the tensors were at the last step.
    """

    def __init__(self, found: Sequence[tuple[Record, Tensor, int]], is_remembered: bool) -> None:
        self.records, self.rows = [record for record, _, _ in found], [row for _, _, row in found]
        self.weights = [record.weight for record in self.records]
        self.is_remembered = is_remembered
        self.parts: list[Part | None] | None = None
        self.left: list[int] = []
        self.chosen: tuple[Sequence[Rule], Sequence[int]] = [], []
        self.shares: Shares = {}
        self.square_parts: list[Part | None] | None = None
        self.square_shares: Shares = {}
        self.addresses: Addresses | None = None


class GpuExecutor(ArraysExecutor):
    """The parameters of a group on a GPU."""

    _entries: list[tuple[Record, Tensor, int]] | None  # ``_found``; None until it is needed

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        super().__init__(spec, records, is_decayed)
        self._launches: dict[tuple[Kind, torch.device], _Launch] = {}
        self._watched_launches: dict[tuple[Kind, torch.device], _WatchedLaunch] = {}
        self._sum_launches: dict[tuple[Kind, torch.device, int], _SumLaunch] = {}
        self._uploads: dict[tuple[str, torch.device], Upload] = {}
        self._of_graphs: list[Any] = []
        self._statistics_on: dict[
            torch.device, Tensor
        ] = {}  # those of the coming step, by the device of the parameters
        names = [LOW_BITS if spec.weights == "split" else None]  # in the order of ``_tensors``
        for name in spec.state_names:
            names += [name, scale_name(name)]
        held = [(spec.tensors.engine_view(record.weight), record.state) for record in records]
        scalars = list(spec.scalar_names) if self._counted is None else []
        self._snapshot = _engine.Snapshot(held, names, scalars, spec.tensors.gradient_of)
        self._looked = _Looked([], is_remembered=False)

    @property
    def _found(self) -> list[tuple[Record, Tensor, int]]:
        """See ``ArraysExecutor``. It is made when it is needed: most steps do without."""
        if self._entries is None:
            gradients, looked = self._snapshot.gradients(), self._looked
            arrays = map(self.spec.tensors.gradient_array, gradients)
            self._entries = list(zip(looked.records, arrays, looked.rows, strict=True))
        return self._entries

    @_found.setter
    def _found(self, entries: list[tuple[Record, Tensor, int]]) -> None:
        self._entries = entries

    @property
    def _rows(self) -> list[int]:
        """See ``ArraysExecutor``."""
        return self._looked.rows

    def look(self, gradients: list[Tensor | None] | None) -> None:
        """See ``Executor.look``.

        As long as nothing changes but the addresses of tensors and the values of scalars, the last look in full holds.
        """
        scalars = self._snapshot.check(gradients)
        if scalars is None:
            self._look_in_full(gradients)
            return
        self._entries = None
        if self.spec.rule.sums:
            self._sums = [{} for _ in self._looked.records]
        if self._counted is None:
            self.scalars = scalars
        else:
            self._counted.adopt()

    def _look_in_full(self, gradients: list[Tensor | None] | None) -> None:
        super().look(gradients)
        # A pending sign is resolved into new memory, which has to last until the kernels have been launched.
        array = self.spec.tensors.gradient_array
        self._found = [(record, array(gradient), row) for record, gradient, row in self._found]
        row_of = {id(record): row if self._counted is None else 0 for record, _, row in self._found}
        rows = [row_of.get(id(record), -1) for record in self.records]
        self._looked = _Looked(self._found, self._snapshot.remember(gradients, rows))

    def release(self) -> None:
        """See ``Executor.release``."""
        super().release()
        self._snapshot.release()

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``Executor.square_sum``."""
        squares, suspects = list[float](), list[int]()
        parts, shares = self._square_shares()
        for index, part in enumerate(parts):
            if part is None:
                found = self._squares(index)
                squares += found
                if not all(map(math.isfinite, found)):
                    suspects.append(index)
        for launch, share, sums in self._launch_sums(shares, 0, _NO_SETS, together=True):
            found = in_parts(*sums.tolist()[0])
            squares += found
            if not math.isfinite(found[0]):
                suspects += [int(share.indices[i]) for i in launch.not_finite()]
        culprit = next((index for index in sorted(suspects) if not self._is_finite(index)), None)
        return squares, None if culprit is None else self._found[culprit][0].name

    def partial_sums(self, index: int, threads: int) -> list[list[float]]:
        """See ``Executor.partial_sums``."""
        unknown = {one.name: 0.0 for one in self.spec.rule.sums[index:]}  # no term depends on them
        numbers = [(known | unknown, count) for known, count in self._numbers()]
        found = [self._partial_sum(index, i) if part is None else [] for i, part in enumerate(self._parts())]
        for _, share, sums in self._launch_sums(self._shares_of(numbers), index, numbers, together=False):
            for i, numbers_of_sum in zip(share.indices, sums.tolist(), strict=True):
                found[i] = in_parts(*numbers_of_sum)
        return found

    def _launch_sums(
        self, shares: Shares, index: int, numbers: Sequence[tuple[Numbers, int]], together: bool
    ) -> list[tuple[_SumLaunch, Share, Tensor]]:
        """Launches the sum of the rules at an index over each share; the host waits for none of them here."""
        launched = []
        for (kind, device), share in shares.items():
            launch = self._ready(self._sum_launches, (kind, device, index), _SumLaunch)
            launched.append((launch, share, launch.sums(share, self._addresses(), Sets(kind, numbers), together)))
        return launched

    def _square_shares(self) -> tuple[list[Part | None], Shares]:
        """The gradients, as kernels square them, and the launches that do; None for one that none squares."""
        looked = self._looked
        if looked.square_parts is None:
            looked.square_parts = [self._square_part(gradient) for _, gradient, _ in self._found]
            looked.square_shares = shared(looked.square_parts, [0] * len(looked.square_parts))
        return looked.square_parts, looked.square_shares

    def _square_part(self, g: Tensor) -> Part | None:
        """The gradient as a kernel squares it; None if none does."""
        dtype = self.spec.tensors.dtype_name(g)
        if not g.is_contiguous() or dtype not in _DTYPES:
            return None
        kind = Kind(
            SQUARES, False, "float64", dtype, "nearest", (), in_order=True, aligned=g.data_ptr() % _ALIGNED == 0
        )
        size = g.numel()
        blocks = -(-size // formats.BLOCK)
        return Part(kind, g.device, (_GRADIENT, _GRADIENT), size, size, blocks, (0, size, 0) * 2, ())

    def warm_up(
        self, gradients: Sequence[Tensor], is_measured: bool, is_decided: bool, watched: Collection[bool]
    ) -> None:
        """Compiles the kernels that step the parameters, given gradients like these, without reading or writing a tensor.

        The kernels of sums are among them, and if the gradient ``is_measured``, those of its norm. ``watched`` says whether
        steps are watched: it has False, True, or both if some are.

        Where the rule leaves out one of its parts in some steps, the kernels of both are compiled, unless it ``is_decided`` on
        the device which step it is: then one kernel does both.
        """
        tensors, group = self.spec.tensors, self.spec.group
        wanted: dict[tuple[torch.device, Kind, int | None], None] = {}
        for record, gradient in zip(self.records, gradients, strict=True):
            part = self._part(record, gradient)
            device = tensors.array(record.weight).device
            if part is not None and part.size:
                for rule in [self.spec.rule] if is_decided else self.spec.rule.variants():
                    kind = part.kind._replace(rule=rule)
                    wanted |= {(device, kind, index): None for index in range(len(rule.sums))}
                    wanted |= {(device, kind._replace(is_watched=one), None): None for one in watched}
            squares = self._square_part(tensors.gradient_array(gradient))
            if is_measured and squares is not None and squares.size:
                wanted[device, squares.kind, 0] = None
        given = torch.int64, torch.int32, torch.int32
        for device, kind, index in wanted:
            with on(device):
                if index is None and is_decided:
                    numbers_kernel = kernels.computing(
                        numbers_kind(self.spec, group, kind, self.is_decayed), kind.words
                    )
                    numbers_kernel.warmup(*[torch.float64] * 3, torch.int32, 1, grid=(1,), **kernels.COMPUTED)
                if index is None:
                    self._warm_up_step(kind)
                    continue
                kernels.step_or_sum(kind, index).warmup(*given, torch.float64, grid=(1,), **kernels.SUMMED)
                kernels.adding_up().warmup(torch.float64, torch.int32, torch.float64, grid=(1,), **kernels.ADDED_UP)

    def _warm_up_step(self, kind: Kind) -> None:
        table, numbers, partial_sums = torch.int64, torch.int32, [torch.float64 if kind.is_wide else torch.float32]
        step, options = kernels.step_or_sum(kind), kernels.launched(kind)
        if not kind.is_watched:
            step.warmup(table, torch.int32, numbers, grid=(1,), **options)
            return
        step.warmup(table, torch.int32, numbers, *partial_sums, grid=(1,), **options)
        given = table, numbers, *partial_sums, 1, torch.int64, torch.float64
        kernels.adding_up_statistics(kind).warmup(*given, grid=(1, 1), **kernels.STATISTICS)

    def apply(self) -> None:
        """See ``Executor.apply``."""
        numbers = self._numbers()
        self._launch(self._shares_of(numbers), lambda kind: Sets(kind, numbers))
        self._make(self._looked.left, None)
        self._take_statistics()
        self._count()

    def measure(self, threads: int) -> Tensor:
        """See ``Executor.measure``: a kernel computes a step only when it makes it."""
        return Executor.measure(self, threads)

    def _launch(self, shares: Shares, sets_of: Callable[[Kind], Sets | DecidedSets]) -> None:
        """Launches the step of each share, with the sets of numbers of its kind."""
        self.spec.tensors.before_writing(self._looked.weights)
        self._statistics_on = {}
        for (kind, device), share in shares.items():
            key = kind._replace(is_watched=self.is_watched), device
            given = share, self._addresses(), sets_of(key[0])
            if self.is_watched:
                self._ready(self._watched_launches, key, _WatchedLaunch)(*given, self._statistics(device))
            else:
                self._ready(self._launches, key, _Launch)(*given)

    def _statistics(self, device: torch.device) -> Tensor:
        """The statistics of the coming step on a device: zeros, and rows of the parameters that are there."""
        if device not in self._statistics_on:
            shape = len(self._looked.records), len(ROW)
            self._statistics_on[device] = torch.zeros(shape, dtype=torch.float64, device=device)
        return self._statistics_on[device]

    def _take_statistics(self) -> None:
        """See ``ArraysExecutor``. Those that kernels have found are there."""
        if not self.is_watched or not self._looked.records:
            return
        for index, row in self._watched.items():
            self._statistics(row.device)[index] = row
        if not self._statistics_on:
            self._statistics(self.spec.tensors.array(self._looked.weights[0]).device)
        first, *others = self._statistics_on.values()
        self.statistics = reduce(torch.add, [other.to(first.device) for other in others], first)
        self._watched, self._statistics_on = {}, {}

    def _ready(self, launches: dict[_Key, _L], key: _Key, make: Callable[..., _L]) -> _L:
        """The launch with this key. That of a step that is captured in a CUDA graph belongs to the graph from then on.

        Raises:
            RuntimeError: a CUDA graph is being captured, and there is no launch for it.
        """
        if not on_torch.is_capturing(key[1]):
            if key not in launches:
                launches[key] = make(*key)
            return launches[key]
        if key not in launches:
            raise RuntimeError(UNREADY)
        launch = launches.pop(key)
        self._of_graphs.append(launch)
        return launch

    def squares_there(self, formulas: Any) -> list[tuple[Tensor, Tensor]]:
        """See ``DeviceExecutor.squares_there``."""
        parts, shares = self._square_shares()
        found = [self._squares_there(formulas, self._found[i][1]) for i, part in enumerate(parts) if part is None]
        for launch, share, sums in self._launch_sums(shares, 0, _NO_SETS, together=True):
            is_finite = sums[0, 0].isfinite()
            if launch.kind.gradient == "float64":  # the squares may have overflowed
                is_finite = formulas.stack([self._found[i][1].isfinite().all() for i in share.indices]).all()
            found.append((sums[0], is_finite))
        return found

    def apply_there(self, runs: Tensor | None) -> Tensor | None:
        """See ``DeviceExecutor.apply_there``."""
        coming = self._coming
        if coming is None:
            return None
        numbers = self._device_numbers(coming, runs)
        rules = [self.spec.rule.at(numbers.unknown)] * numbers.before.shape[1]
        self._launch(self._shares(rules, coming.position), lambda kind: DecidedSets(kind, numbers))
        if self._looked.left or numbers.after is None:
            there = self._numbers_there(coming, runs)
            self._make(self._looked.left, there, runs)
            numbers.after = there.after
        self._take_statistics()
        return self._count_there(numbers.after)

    def _device_numbers(self, coming: Coming, runs: Tensor | None) -> DeviceNumbers:
        """The numbers of the coming step, which kernels compute."""
        device = coming.formulas.device
        upload = self._ready(self._uploads, ("inputs", device), lambda _, device: Upload(device))
        return DeviceNumbers(self.spec, self.is_decayed, coming, self._before(), runs, upload)

    def _count(self) -> None:
        """See ``ArraysExecutor``."""
        if self._looked.is_remembered:
            self._snapshot.write([scalars for _, scalars in self.prepared])
        else:
            super()._count()

    def _numbers(self) -> list[tuple[Numbers, int]]:
        """The sets of numbers of the step, each with the number of the step.

        If the rule has sums, there is one for each parameter that was found, with the sums that are known.
        """
        prepared = [(numbers, int(scalars[0])) for numbers, scalars in self.prepared]
        if not self.spec.rule.sums:
            return prepared
        found = [prepared[row] for row in self._rows]
        return [(numbers | sums, count) for (numbers, count), sums in zip(found, self._sums, strict=True)]

    def _shares_of(self, numbers: Sequence[tuple[Numbers, int]]) -> Shares:
        """The launches of a step with the sets of ``_numbers``, or of its sums."""
        rule = self.spec.rule
        return self._shares([rule.at(own) for own, _ in numbers], range(len(numbers)) if rule.sums else self._rows)

    def _shares(self, rules: Sequence[Rule], sets: Sequence[int]) -> Shares:
        """The launches of a step, or of its sums.

        Args:
            rules: for each set of numbers, the rule of a step with them.
            sets: for each parameter that was found, the index of its set.
        """
        looked, chosen = self._looked, (rules, sets)
        parts = self._parts()
        if looked.chosen != chosen:
            looked.chosen, looked.shares = chosen, shared(parts, sets, rules)
        return looked.shares

    def _parts(self) -> list[Part | None]:
        """The parameters that were found, as kernels step them; None for one that none steps."""
        looked = self._looked
        if looked.parts is None:
            looked.parts = [self._part(record, gradient) for record, gradient, _ in self._found]
            looked.left = [index for index, part in enumerate(looked.parts) if part is None]
        return looked.parts

    def _addresses(self) -> Addresses:
        """Where the tensors are that were found."""
        looked, generation = self._looked, self._snapshot.generation
        if looked.addresses is None or looked.addresses.generation != generation:
            if looked.is_remembered:
                of = np.frombuffer(self._snapshot.addresses(), np.int64).reshape(len(looked.records), -1)
            else:
                found = (_tensors(self._parameter(record, gradient)) for record, gradient, _ in self._found)
                of = np.array([[0 if x is None else x.data_ptr() for x in tensors] for tensors in found], np.int64)
            looked.addresses = Addresses(of, generation)
        return looked.addresses

    def _part(self, record: Record, gradient: Tensor) -> Part | None:
        """The parameter as a kernel steps it, with the rule of the group; None if none does."""
        spec = self.spec
        one = self._parameter(record, gradient)
        assert one.weight is not None
        slots, tensors = zip(*((i, x) for i, x in enumerate(_tensors(one)) if x is not None), strict=True)
        dtypes = [spec.tensors.dtype_name(x) for x in (one.weight.high, one.g)]
        if not all(x.is_contiguous() and x.device == tensors[0].device and not x.is_neg() for x in tensors):
            return None
        if not set(dtypes) <= set(_DTYPES) or one.g.shape != one.weight.high.shape:
            return None
        shape = tuple(one.g.shape)
        forms = tuple([_form(spec, state, shape) for state in one.states])
        if not set(forms) <= set(_FORMS):
            return None
        weights = spec.weights if dtypes[0] in layout.HALVES else "nearest"
        kind = Kind(
            rule=spec.rule,
            penalized=self._penalized,
            weight=dtypes[0],
            gradient=dtypes[1],
            weights=weights,
            states=forms,
            in_order=True,
            aligned=not any(x.data_ptr() % _ALIGNED for x in tensors),
        )
        elements: Run | None = Run(0, one.g.numel(), 0)
        row, size = one.g.numel(), one.g.numel()
        if kind.has_codes:
            row, size = layout.in_rows(shape)[1], math.prod(layout.scale_shape(shape))
            if row > _MOST_IN_ROW:
                return None
        blocks: Run | None = Run(0, size, 0)
        if record.place is not None and size and kind.draws:
            elements = run_of(record.place, shape)
            if kind.has_codes:
                blocks = run_of(record.place.of_scales(shape), layout.scale_shape(shape))
        if elements is None or blocks is None:
            return None
        if not kind.has_codes:
            blocks = blocks._replace(first=elements.first // formats.BLOCK)
        kind = kind._replace(in_order=not (elements.skip or blocks.skip or elements.first % formats.BLOCK))
        keys = tuple([half for draw in kind.draws for half in formats.key_of(record.key, draw)])
        count = size if kind.has_codes else -(-size // formats.BLOCK)
        return Part(kind, tensors[0].device, slots, size, row, count, (*elements, *blocks), keys)


def _tensors(one: Parameter) -> list[Tensor | None]:
    """The tensors of a parameter, in the order of ``Kind.pointers``."""
    assert one.weight is not None
    return [one.weight.high, one.g, one.weight.low, *(x for state in one.states for x in (state.values, state.scale))]


def _form(spec: GroupSpec, state: Stored, shape: Sequence[int]) -> str:
    """The format of a state."""
    return spec.tensors.dtype_name(state.values) if state.scale is None else layout.form_of(state.values.shape, shape)
