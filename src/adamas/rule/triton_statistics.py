"""Generates Triton for the statistics of watched steps (``adamas.rule.statistics``).

The kernel of a watched step has what each program adds up, in the dtype of the computation, stored too. A further launch adds
these up for each tensor, in float64. The order of all additions is fixed: there are no atomic ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from . import recorded_formats as formats_of
from .layout import HALVES
from .lowering import estimates
from .recorder import record_statistics
from .statistics import LARGEST, NUMBERS, ROW, SUMS, first_of, second_of, watched
from .triton import HEAD, HEADER, NARROW, WIDE, Kind, Writer, computed, function

PARTIAL = (*SUMS, LARGEST)  # what programs store: for each of them as many numbers as there are programs
PLACE = ("first", "last", "index", "count")  # of a tensor: its programs, its row of the statistics, and its elements

# ``largest_of`` takes numbers from 0 up, whose bits have their order, with NaN above all.
_REDUCED = """@triton.jit
def sum_of(x):
    return tl.sum(tl.reshape(x, (x.shape[0] * x.shape[1],)))


@triton.jit
def largest_of(x):
    BITS: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    found = tl.max(tl.reshape(x.to(BITS, bitcast=True), (x.shape[0] * x.shape[1],)))
    return found.to(x.dtype, bitcast=True)


"""


class _WatchedWriter(Writer):
    """Writes the kernels of the watched steps of one kind."""

    parameters = (*Writer.parameters, "partial_sums")

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._terms = estimates(record_statistics(watched(kind.rule)))
        self.sums = list(self._terms.outputs)
        self._functions["sum_of"] = _REDUCED

    def _weight(self, in_step: bool) -> Iterator[str]:
        yield from super()._weight(in_step)
        yield "p_before = p"

    def _loaded(self, name: str, dtype: str, target: str) -> Iterator[str]:
        yield from super()._loaded(name, dtype, target)
        if name == "gradient":
            yield f"given = {target}"  # without penalties

    def _stored(self) -> Iterator[str]:
        yield "p_after, p_stored = p_before, p_before"
        yield from super()._stored()
        yield from self._statistics()

    def _stored_weight(self) -> Iterator[str]:
        yield from super()._stored_weight()
        yield f"p_after, p_stored = p, {self._weight_as_stored()}"

    def _stored_codes(self, name: str, codes: str) -> Iterator[str]:
        if name == "weight":
            yield f"high = {codes}"
            codes = "high"
        yield from super()._stored_codes(name, codes)

    def _weight_as_stored(self) -> str:
        """The weight, read from what ``_stored_weight`` has stored."""
        dtype = self.kind.weight
        if dtype not in HALVES:
            return "p"
        if self.kind.weights == "split":
            return self._of_weight(f"join_{dtype}", formats_of.join, {"high": "high", "low": "low"}, dtype)
        return self._call(f"decode_{dtype}", formats_of.decode_16_bits(dtype), {"codes": "high.to(tl.uint32)"})

    def _statistics(self) -> Iterator[str]:
        """The lines that add up the statistics of a tile."""
        rule, recording = self.kind.rule, self._terms
        arrays = {"p": "p_before", "g": "given", "q": "p_after", "r": "p_stored"}
        for name, index in (("m", first_of(rule)), ("v", second_of(rule))):
            if index is not None:
                arrays[name] = rule.states[index].role
        read = [value.name for value in recording.operations if value.operation == "input" and not value.is_number]
        numbers = [f"k_statistics_{name}" for name in NUMBERS]
        body = computed(recording, WIDE if self.kind.is_wide else NARROW, lambda number: f"k_statistics_{number.name}")
        self._functions["terms"] = function("terms", [*read, *numbers], body)
        yield f"{', '.join(self.sums)} = terms({', '.join([*(arrays[name] for name in read), *numbers])})"
        for name in self.sums:
            reduced = "largest_of" if name == LARGEST else "sum_of"
            yield f"{name} = {reduced}(present({name}, ok, WHOLE).to({self.dtype}))"

    def _begun(self) -> Iterator[str]:
        yield from (f"{name} = tl.full((), 0.0, {self.dtype})" for name in self.sums)

    def _added(self) -> Iterator[str]:
        for name in self.sums:
            largest = f"tl.maximum({name}, more_{name}, propagate_nan=tl.PropagateNan.ALL)"
            yield f"{name} = " + (largest if name == LARGEST else f"{name} + more_{name}")

    def _ended(self) -> Iterator[str]:
        for name in self.sums:
            yield f"tl.store(partial_sums + {PARTIAL.index(name)} * tl.num_programs(0) + program, {name})"


@cache
def watched_source(kind: Kind) -> str:
    """The source of the kernel that steps tensors of a kind that are watched.

    ``step(table, tensors, numbers, partial_sums, ROWS)``: see ``adamas.rule.triton.source`` and ``PARTIAL``.
    """
    return _WatchedWriter(kind).step()


@cache
def add_up_statistics_source(kind: Kind) -> str:
    """The source of ``add_up(table, numbers, partial_sums, programs, places, statistics, LANES)``.

    It is launched for each tensor and each of ``adamas.rule.statistics.ROW``. ``places`` has the integers of ``PLACE`` for
    each tensor, and ``programs`` is the number of all programs.
    """
    column = {name: ROW.index(name) for name in ROW}
    known = record_statistics(watched(kind.rule)).outputs
    unknown = sum(1 << column[name] for name in PARTIAL if name not in known)
    nothing = unknown | 1 << column["count"]
    k_minus_one = kind.constants.index("statistics_k_minus_one")
    dtype = "tl.float64" if kind.is_wide else "tl.float32"
    body = [
        "part, column = tl.program_id(0), tl.program_id(1)",
        *(f"{name} = tl.load(places + part * {len(PLACE)} + {i})" for i, name in enumerate(PLACE)),
        f"row = table + part * {len(kind.columns)}",
        f"at = numbers + tl.load(row + {kind.columns.index('numbers')}) * {kind.words} + {len(HEADER)}",
        f"k_minus_one = tl.load(at.to(tl.pointer_type({dtype})) + {k_minus_one}).to(tl.float64)",
        f"of = tl.where(column == {column['decay']}, {column['weight']}, column)",
        f"last = tl.where({nothing} >> column & 1 != 0, first, last)",
        "partial_sum = partial_sums + of.to(tl.int64) * programs",
        "total = tl.zeros((LANES,), tl.float64)",
        "for start in range(first, last, LANES):",
        "    program = start + tl.arange(0, LANES)",
        "    x = tl.load(partial_sum + program, program < last, other=0.0).to(tl.float64)",
        f"    if column == {column[LARGEST]}:",
        "        total = tl.maximum(total, x, propagate_nan=tl.PropagateNan.ALL)",
        "    else:",
        "        total = total + x",
        f"if column == {column[LARGEST]}:",
        "    found = tl.max(total.to(tl.int64, bitcast=True)).to(tl.float64, bitcast=True)",
        "else:",
        "    found = tl.sum(total)",
        f"found = tl.where(column == {column['decay']}, k_minus_one * k_minus_one * found, found)",
        f"found = tl.where(column == {column['count']}, count.to(tl.float64), found)",
        f'found = tl.where({unknown} >> column & 1 != 0, float("nan"), found)',
        f"tl.store(statistics + index * {len(ROW)} + column, found)",
    ]
    parameters = ["table", "numbers", "partial_sums", "programs", "places", "statistics", "LANES: tl.constexpr"]
    text = function("add_up", parameters, body).rstrip() + "\n"
    return HEAD + text.replace("@triton.jit", '@triton.jit(do_not_specialize=["programs"])')
