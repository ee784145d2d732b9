"""Generates Triton for the sums of rules: the source of the kernel that adds up a sum over tensors that are stored alike.

It takes the table of a step (``adamas.rule.triton``). Each program stores what it has added up: a float64, and its rounding
errors (``adamas.rule.exact``). A further launch adds these up. The order of all additions is fixed: there are no atomic ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from . import exact
from .declaration import OwnRule, Sum
from .recorder import Recording, Value
from .triton import HEAD, NARROW, WIDE, Kind, Writer, computed, function

# The rule whose sum is Σg². It reads no weight: where this is said to be in float64, so are the squares.
SQUARES = OwnRule("squares", (), (), lambda k, xp, p, g: (g,), (Sum("squares", "all", lambda k, xp, p, g: g * g),))


class _SumWriter(Writer):
    """Writes the kernels of the sums of one kind."""

    def _term(self, index: int) -> Iterator[str]:
        """The lines that compute the terms of a sum of the rule, from the stored tensors."""
        kind, term = self.kind, self.rule.terms[index]
        read = [x.name for x in term.operations if x.operation == "input" and not x.is_number]
        if "p" in read or (kind.penalized and "g" in read):
            yield from self._weight(in_step=False)
        if "g" in read:
            yield from self._gradient()
        yield from self._values([state for state in kind.rule.states if state.role in read], in_step=False)
        parameters = [*read, *(f"k_{name}" for name in self.rule.constants)]
        spellings = WIDE if kind.is_wide else NARROW
        body = computed(term, spellings, lambda number: f"k_{self.rule.name_of(number)}")
        self._functions["term"] = function("term", parameters, body)
        yield f"return present(term({', '.join(parameters)}), ok, WHOLE).to(tl.float64)"

    def kernel(self, index: int) -> str:
        """The kernel ``sum(table, tensors, numbers, partial_sums, ROWS, TILES)`` and what it calls."""
        body = [*self._where(), *self._constants(), *self._term(index)]
        tile = function("term_tile", ["row", "at", "tile", "ROWS: tl.constexpr", "WHOLE: tl.constexpr"], body)
        unit = "ROWS" if self.kind.has_codes else "(ROWS * 128)"
        main = [
            *self._begin("* TILES"),
            f"count = tl.minimum(TILES, ((size + {unit} - 1) // {unit}).to(tl.int32) - tile)",
            "high = tl.zeros((ROWS, 128), tl.float64)",
            "low = tl.zeros((ROWS, 128), tl.float64)",
            "for i in range(count):",
            f"    if {self._is_whole('(tile + i)')}:",
            "        x = term_tile(row, at, tile + i, ROWS, True)",
            "    else:",
            "        x = term_tile(row, at, tile + i, ROWS, False)",
            "    high, error = two_sum(high, x)",
            "    low = low + error",
            "store_sum(partial_sums + 2 * program, high, low)",
        ]
        parameters = ["table", "tensors", "numbers", "partial_sums", "ROWS: tl.constexpr", "TILES: tl.constexpr"]
        return self._whole_source(_additions() + tile + function("sum", parameters, main))


# The lanes of a program are added up in two parts. The upper parts are multiples of 2⁻⁵³ of a power of two that is larger than
# all sums of them, so that no addition rounds (Rump, Ogita and Oishi, 2008, Accurate floating-point summation, part I,
# algorithm 3.2). The sums of the others are below 2⁻²⁹ of the largest lane. Up to 2048 lanes.
_STORE_SUM = """@triton.jit
def store_sum(at, high, low):
    largest = tl.max(tl.abs(high))
    unit = (largest.to(tl.int64, bitcast=True) >> 52 << 52).to(tl.float64, bitcast=True) * 8192.0
    upper = tl.where(unit < float("inf"), (unit + high) - unit, high)
    tl.store(at, tl.sum(upper))
    tl.store(at + 1, tl.sum(low) + tl.sum(high - upper))


"""

_ADD_UP = """@triton.jit
def add_up(partial_sums, starts, sums, LANES: tl.constexpr):
    program = tl.program_id(0)
    start, end = tl.load(starts + program), tl.load(starts + program + 1)
    lane = tl.arange(0, LANES)
    high = tl.zeros((LANES,), tl.float64)
    low = tl.zeros((LANES,), tl.float64)
    for first in range(start, end, LANES):
        at = partial_sums + 2 * (first + lane)
        ok = first + lane < end
        high, low = added(high, low, tl.load(at, ok, other=0.0), tl.load(at + 1, ok, other=0.0))
    store_sum(sums + 2 * program, high, low)
"""


def _additions() -> str:
    """The functions ``two_sum``, ``added`` and ``store_sum``."""
    x, lost, y, more_lost = (Value("input", (), False, name) for name in ("x", "lost", "y", "more_lost"))
    of_two = dict(zip(("total", "error"), exact.two_sum(x, y), strict=True))
    of_sums = dict(zip(("total", "all_lost"), exact.added(x, lost, y, more_lost), strict=True))
    text = ""
    for name, outputs, parameters in (
        ("two_sum", of_two, ["x", "y"]),
        ("added", of_sums, ["x", "lost", "y", "more_lost"]),
    ):
        text += function(name, parameters, computed(Recording((), x, outputs), WIDE, lambda number: number.name))
    return text + _STORE_SUM


@cache
def sum_source(kind: Kind, index: int) -> str:
    """The source of the kernel that adds up a sum of the rule over tensors of a kind.

    ``sum(table, tensors, numbers, partial_sums, ROWS, TILES)``: a program takes ``TILES`` tiles, and stores two numbers.
    """
    return _SumWriter(kind).kernel(index)


@cache
def add_up_source() -> str:
    """The source of the kernel that adds up the partial sums from each start to the next: two numbers for each.

    ``add_up(partial_sums, starts, sums, LANES)``
    """
    return HEAD + _additions() + _ADD_UP
