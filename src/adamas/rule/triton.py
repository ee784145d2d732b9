"""Generates Triton from the rules and the formats: the source of the kernel that steps tensors that are stored alike.

A launch steps any number of tensors. A program steps a tile of blocks of 128 elements of one of them. A table on the device
has a row of 64-bit integers for each tensor (``Kind.columns``), and ``tensors`` has the row of each program. The numbers of a
step are read from the device too: for each set of numbers the integers of ``HEADER``, of 32 bits, and the constants of the
rule (``adamas.rule.writing``) in the dtype of the computation.

The kernel computes what the engine does. Its integers have 32 bits, products and sums are fused where the engine fuses them
and nowhere else, and only what moves a weight and is not kept is estimated. This module needs neither a framework nor Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import lcm
from typing import Any, NamedTuple

from . import recorded_formats as formats_of
from .declaration import WEIGHT_DRAW, Numbers, Rule, State, as_written
from .formats import MOST_STORED, Width
from .layout import HALVES, WIDTHS
from .lowering import fused_sums
from .recorder import Recording, Value, is_number, record_cautious_decay, record_mask, record_penalties
from .statistics import NUMBERS, decay_of, numbers_of
from .writing import COMPARISONS, FIRST, OPERATORS, PENALTIES, WrittenRule, lines

PLACES = ("element", "run", "skip", "block", "run_of_blocks", "skip_of_blocks")
HEADER = ("forward", "runs", "moves", "_")  # the integers before the constants
_HEADER = {name: f"tl.load(at + {i})" for i, name in enumerate(HEADER)}
_INFINITY = 0x7F800000  # its bits
_FEW = 2  # the rows of a part of a tile that is not stepped as a whole
OF_STATISTICS = (*NUMBERS, "k_minus_one")  # the numbers that statistics depend on: the last constants


@cache
def written(rule: Rule) -> WrittenRule:
    """The rule, as it is written; the mask and cautious decay come after it."""
    return WrittenRule(as_written(rule))


class Kind(NamedTuple):
    """How tensors are stored that one kernel steps.

    Attributes:
        rule: the rule.
        penalized: whether penalties are added to the gradient.
        weight: the dtype of the weight.
        gradient: the dtype of the gradient.
        weights: how 16-bit weights are rounded; ``"nearest"`` for others.
        states: the format of each state of the rule: of ``adamas.rule.layout.FORMATS``, or ``"float64"``.
        in_order: whether the blocks of a tensor are consecutive blocks of the whole tensor, from the first element on.
        aligned: whether all tensors begin at multiples of 16 bytes.
        is_watched: whether the step has statistics (``adamas.rule.triton_statistics``).
    """

    rule: Rule
    penalized: bool
    weight: str
    gradient: str
    weights: str
    states: tuple[str, ...]
    in_order: bool
    aligned: bool
    is_watched: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether the arithmetic is in float64."""
        return self.weight == "float64"

    @property
    def has_codes(self) -> bool:
        """Whether a state has codes, so that the tensor has rows."""
        return any(form in WIDTHS for form in self.states)

    @property
    def is_coded(self) -> bool:
        """Whether all states have codes, and are read with their decay, as the engine reads them."""
        return bool(self.states) and not self.is_wide and all(form in WIDTHS for form in self.states)

    @property
    def pointers(self) -> tuple[str, ...]:
        """The tensors of a row of the table."""
        found = ["weight", "gradient"]
        if self.weights == "split":
            found.append("low")
        for state, form in zip(self.rule.states, self.states, strict=True):
            found += [state.role, f"{state.role}_scale"] if form in WIDTHS else [state.role]
        return tuple(found)

    @property
    def draws(self) -> tuple[int, ...]:
        """The draws of random numbers that round its tensors."""
        found = [WEIGHT_DRAW] if self.weights == "stochastic" else []
        for state, form in zip(self.rule.states, self.states, strict=True):
            draw = {"int8": state.code_draw, "int6": state.code_draw, "bfloat16": state.draw}.get(form)
            if draw is not None:
                found.append(draw)
        return tuple(found)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table.

        - the addresses of the tensors;
        - ``size``, the number of elements, or of blocks if there are codes; ``row``, the elements of a row; ``tile``, the
          first program; ``numbers``, the set of numbers;
        - the numbers of elements and of blocks in the whole tensor (``PLACES``): that of the first, and what the numbers skip
          after each run of consecutive ones, unless they are ``in_order``;
        - the halves of the keys of the random numbers.
        """
        keys = (f"{half}{draw}" for draw in self.draws for half in ("key", "other_key"))
        return (*self.pointers, "size", "row", "tile", "numbers", *PLACES, *keys)

    @property
    def constants(self) -> tuple[str, ...]:
        """The names of the constants after the header."""
        of_statistics = [f"statistics_{name}" for name in OF_STATISTICS] if self.is_watched else []
        return (*FIRST, *written(self.rule).constants, *of_statistics)

    @property
    def threads(self) -> int:
        """How many threads step a block. What is computed once for a block is computed by each of them."""
        # See ``_RUNS``. With statistics, 4 threads take too many registers.
        return 4 if self.has_codes and not self.is_watched else 8

    @property
    def words(self) -> int:
        """The integers of 32 bits that a set of numbers takes."""
        return len(HEADER) + (
            2 * len(self.constants) if self.is_wide else len(self.constants) + len(self.constants) % 2
        )


def constants_of_statistics(rule: Rule, numbers: Numbers) -> list[Any]:
    """The constants of ``OF_STATISTICS``, from the numbers of a step."""
    return [*numbers_of(numbers).values(), decay_of(rule, numbers)]


# ---- a recording in Triton

_INTEGERS = {"lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^"}
_CALLS = {
    "abs": "tl.abs({0})",
    "neg": "-{0}",
    "invert": "~{0}",
    "isfinite": 'tl.abs({0}) < float("inf")',
    "sign": "tl.where(tl.abs({0}) > 0, tl.where({0} > 0, 1.0, -1.0), {0} + 0.0)",
    "where": "tl.where({0}, {1}, {2})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "fused": "tl.fma({0}, {1}, {2})",
    "fused_less": "tl.fma({0}, {1}, -{2})",
    "fused_from": "tl.fma(-{0}, {1}, {2})",
    "full_like": "tl.full({0}.shape, {1}, {0}.dtype)",
    "block_sum": "tl.sum({0}, axis=1, keep_dims=True)",
    "block_max": "tl.max({0}, axis=1, keep_dims=True)",
    "block_any": "tl.max({0}.to(tl.int32), axis=1, keep_dims=True) > 0",
    "estimated_quotient": "{0} / {1}",
}
NARROW = {
    "truediv": "tl.div_rn({0}, {1})",
    "sqrt": "tl.sqrt_rn({0})",
    "decayed": "tl.where(({2} == 0) & (tl.abs({1}) < 2.0**-126), 0.0, {0} * {1})",
    "estimated_root": "tl.sqrt({0} + {1})",
}
_OF_CODES = {"truediv": "quotient({0}, {1})"}  # in the functions that write codes, of numbers of blocks
_CODED = {"decayed": "{0} * {1}", "estimated_root": "tl.sqrt({0} + tl.maximum({1}, 1e-37))"}  # as in engine/lanes.h
WIDE = {
    "truediv": "{0} / {1}",
    "sqrt": "tl.sqrt({0})",
    "decayed": "tl.where(({2} == 0) & (tl.abs({1}) < 2.0**-1022), 0.0, {0} * {1})",
    "estimated_root": "tl.sqrt({0} + {1})",
}


class Triton:
    """See ``adamas.rule.writing.Language``."""

    def __init__(self, spellings: Mapping[str, str]) -> None:
        self._spellings = {**_CALLS, **spellings}

    @staticmethod
    def literal(x: float) -> str:
        """A number that is known."""
        return repr(x) if abs(x) < float("inf") else f'float("{x}")'

    @staticmethod
    def variable(name: str) -> str:
        """What an input or an output is called."""
        return name

    def operation(self, value: Value, operands: list[str]) -> str:
        """An operation on arrays."""
        name = value.operation
        if name == "where" and is_number(value.operands[0]):
            operands = [f"({operands[0]} != 0)", *operands[1:]]
        if spelling := self._spellings.get(name):
            return spelling.format(*operands)
        if sign := (OPERATORS | COMPARISONS | _INTEGERS).get(name):
            return f"{operands[0]} {sign} {operands[1]}"
        what, _, dtype = name.partition("_")
        if what in ("view", "to"):
            return f"{operands[0]}.to(tl.{dtype}{', bitcast=True' if what == 'view' else ''})"
        raise ValueError(f"{name} has no Triton: add it to {__name__}")

    @staticmethod
    def line(value: Value, name: str, right: str) -> str:
        """The line that gives the result of an operation its name."""
        return f"{name} = {right}"

    @staticmethod
    def assignment(target: str, name: str) -> str:
        """The line that sets an output."""
        return f"{target} = {name}"


def function(name: str, parameters: Sequence[str], body: Iterable[str]) -> str:
    """A function of Triton."""
    return f"@triton.jit\ndef {name}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in body) + "\n\n"


def computed(recording: Recording, spellings: Mapping[str, str], name_of: Callable[[Value], str]) -> Iterator[str]:
    """The lines that compute a recording and return its outputs."""
    language = Triton(spellings)
    yield from lines(recording, name_of, language)
    yield f"return {', '.join(recording.outputs)}"


class Writer:
    """Writes kernels of one kind.

    Attributes:
        kind: the kind.
        rule: its rule.
        dtype: the dtype of the computation.
        parameters: what the kernel of the step takes, besides ``ROWS``.
        sums: what a tile returns, besides whether it is done: nothing, but see ``adamas.rule.triton_statistics``.
    """

    parameters: Sequence[str] = ("table", "tensors", "numbers")
    sums: Sequence[str] = ()

    def __init__(self, kind: Kind) -> None:
        self.kind, self.rule = kind, written(kind.rule)
        self.dtype = "tl.float64" if kind.is_wide else "tl.float32"
        self._functions: dict[str, str] = {}  # by name
        self._formats = dict(zip((state.role for state in kind.rule.states), kind.states, strict=True))

    def _call(
        self, name: str, recording: Recording, arguments: Mapping[str, str], spellings: Mapping[str, str] = NARROW
    ) -> str:
        """A call of the function of a recording, which is written once."""
        names = formats_of.inputs(recording)
        if name not in self._functions:
            body = computed(recording, spellings, lambda number: number.name)
            self._functions[name] = function(name, names, body)
        return f"{name}({', '.join(arguments[x] for x in names)})"

    def _either(
        self,
        name: str,
        usual: Recording,
        other: Recording,
        arguments: Mapping[str, str],
        spellings: Mapping[str, str] = NARROW,
    ) -> str:
        """A call of the function of the first recording for whole tiles, or else of the second."""
        of_usual = self._call(f"{name}_usual", usual, arguments, spellings)
        return f"{of_usual} if WHOLE else {self._call(name, other, arguments, spellings)}"

    def _of_weight(
        self,
        name: str,
        recorded: Callable[..., Recording],
        arguments: Mapping[str, str],
        *options: Any,
        in_step: bool = True,
    ) -> str:
        """A call of the function that reads or writes weights."""
        if in_step and self.kind.has_codes:
            return self._either(name, recorded(*options, is_usual=True), recorded(*options), arguments)
        return self._call(name, recorded(*options), arguments)

    # ---- the parts of a tile

    def _where(self) -> Iterator[str]:
        """The elements of the tile: ``i`` is their index from ``start`` on, and ``ok`` tells which there are."""
        kind = self.kind
        yield from ("block = tl.arange(0, ROWS)[:, None]", "position = tl.arange(0, 128)[None, :]")
        yield f"size = tl.load(row + {kind.columns.index('size')})"
        yield f"length = tl.load(row + {kind.columns.index('row')})"
        if not kind.has_codes:
            yield "first_row = tile * ROWS"
            yield "start = tile.to(tl.int64) * (ROWS * 128)"
            yield "i = block * 128 + position"
            yield "ok = i < tl.minimum(size - start, ROWS * 128).to(tl.int32)"
            return
        yield from (
            "first_row = tile * ROWS",
            "if WHOLE:",
            "    start = tile.to(tl.int64) * (ROWS * 128)",
            "    i = block * 128 + position",
            "    ok_block = block >= 0",
            "    ok = i >= 0",
            "else:",
            "    narrow = length.to(tl.int32)",
            "    per_row = (narrow + 127) // 128",
            "    ok_block = tile * ROWS + block < size",
            "    in_row = (tile * ROWS + block) // per_row",
            "    column = tile * ROWS + block - in_row * per_row",
            "    before = tile * ROWS // per_row",
            "    start = before.to(tl.int64) * length",
            "    i = (in_row - before) * narrow + column * 128 + position",
            "    ok = ok_block & (column * 128 + position < narrow)",
        )
        if "int6" in kind.states:
            yield from (
                "word = tl.arange(0, 32)[None, :]",
                "if WHOLE:",
                "    start_of_words = tile.to(tl.int64) * (ROWS * 96)",
                "    w = (block * 32 + word) * 3",
                "    ok_word = w >= 0",
                "else:",
                "    words = (narrow + 3) // 4",
                "    start_of_words = before.to(tl.int64) * words * 3",
                "    w = ((in_row - before) * words + column * 32 + word) * 3",
                "    ok_word = ok_block & (column * 32 + word < words)",
            )

    def _pointer(self, name: str, dtype: str) -> str:
        """The line that loads the address of a tensor."""
        index = self.kind.columns.index(name)
        address = f"tl.load(row + {index}).to(tl.pointer_type(tl.{dtype}))"
        return f"{name}_at = " + (f"tl.multiple_of({address}, 16)" if self.kind.aligned else address)

    def _load(self, name: str) -> str:
        """The elements of a tensor."""
        given = f"{name}_at + start + i, ok, WHOLE"
        return f"load_runs({given}, {self._run})" if self.kind.has_codes else f"load({given})"

    def _halves(self, name: str) -> str:
        """The codes of a tensor in 16 bits."""
        by_half = f"{self._load(name)}.to(tl.uint32)"
        by_word = f"loaded_halves({name}_at + start, ROWS, {self._run})"
        return f"{by_word} if WHOLE else {by_half}" if self._run > 1 else by_half

    def _store(self, name: str, value: str) -> str:
        """The line that stores the elements of a tensor."""
        given = f"{name}_at + start + i, {value}, ok, WHOLE"
        return f"store_runs({given}, {self._run})" if self.kind.has_codes else f"store({given})"

    @property
    def _run(self) -> int:
        """How many consecutive elements of a whole tile a thread takes: as many as have whole words of 64 bits."""
        widths = [WIDTHS[form].bits for form in self.kind.states if form in WIDTHS and self.kind.aligned]
        return max((lcm(bits, 64) // bits for bits in widths), default=1)

    def _loaded(self, name: str, dtype: str, target: str) -> Iterator[str]:
        """The lines that load numbers, in the dtype of the computation. 16-bit ones keep their codes."""
        if dtype not in HALVES:
            yield self._pointer(name, dtype)
            yield f"{target} = {self._load(name)}.to({self.dtype})"
            return
        yield self._pointer(name, "uint16")
        yield f"{target}_codes = {self._halves(name)}"
        call = self._call(f"decode_{dtype}", formats_of.decode_16_bits(dtype), {"codes": f"{target}_codes"})
        yield f"{target} = {call}.to({self.dtype})"

    def _weight(self, in_step: bool) -> Iterator[str]:
        kind = self.kind
        if kind.weights != "split":
            yield from self._loaded("weight", kind.weight, "p")
            return
        for name in ("weight", "low"):
            yield self._pointer(name, "uint16")
            yield f"{name}_codes = {self._halves(name)}"
        codes = {"high": "weight_codes", "low": "low_codes"}
        yield f"p = {self._of_weight(f'join_{kind.weight}', formats_of.join, codes, kind.weight, in_step=in_step)}"

    def _states(self) -> Iterator[str]:
        """The lines that load the states, and of those with codes what the decay alone makes of them: ``{role}_decayed``."""
        yield from self._values(self.kind.rule.states, in_step=True)
        for state in self.kind.rule.states:
            role, decay = state.role, _decay(state)
            is_read = role in self.rule.read
            if self._formats[role] in WIDTHS:
                yield f"{role}_decayed = {'' if is_read and self.kind.is_coded else f'{decay} * '}{role}"
            if is_read and not self.kind.is_coded:
                spelling = (WIDE if self.kind.is_wide else NARROW)["decayed"]
                yield f"{role} = {spelling.format(decay, role, 'g')}"

    def _values(self, states: Iterable[State], in_step: bool) -> Iterator[str]:
        """The lines that load states.

        In a step, whole tiles are read as if their blocks were usual, and what the rule reads is multiplied by its decay if
        all states have codes.
        """
        for state in states:
            role, form = state.role, self._formats[state.role]
            if form not in WIDTHS:
                yield from self._loaded(role, form, role)
                continue
            yield from self._codes(state, WIDTHS[form])
            factor = _decay(state) if in_step and self.kind.is_coded and role in self.rule.read else None
            name = f"decode_{_sign(state)}_{WIDTHS[form].bits}" + ("_times" if factor else "")
            given = {"codes": f"{role}_codes", "stored": f"{role}_stored", "factor": factor or ""}
            usual, other = (formats_of.decode(state.signed, WIDTHS[form], bool(factor), x) for x in (True, False))
            decoded = self._either(name, usual, other, given) if in_step else self._call(name, other, given)
            yield f"{role} = ({decoded}).to({self.dtype})"

    def _codes(self, state: State, width: Width) -> Iterator[str]:
        role, code = state.role, "int8" if state.signed else "uint8"
        yield self._pointer(role, code)
        yield self._pointer(f"{role}_scale", "float32")
        yield f"{role}_stored = load({role}_scale_at + first_row + block, ok_block, WHOLE)"
        by_word = f"loaded_words_{width.bits}({role}_at, tile, ROWS, {state.signed})"
        by_byte = f"{self._load(role)}.to(tl.int32)"
        if width.bits == 6:
            by_byte = f"unpacked({role}_at + start_of_words + w, ok_word, ROWS, {state.signed}, WHOLE)"
        yield f"{role}_codes = " + (f"{by_word} if WHOLE else {by_byte}" if self.kind.aligned else by_byte)

    def _constants(self) -> Iterator[str]:
        yield f"constants = (at + {len(HEADER)}).to(tl.pointer_type({self.dtype}))"
        for i, name in enumerate(self.kind.constants):
            yield f"{'first' if i < len(FIRST) else 'k'}_{name} = tl.load(constants + {i})"

    def _gradient(self) -> Iterator[str]:
        yield from self._loaded("gradient", self.kind.gradient, "g")
        if self.kind.penalized:
            recording, parameters = fused_sums(record_penalties()), [f"first_{name}" for name in PENALTIES]
            spellings = WIDE if self.kind.is_wide else NARROW
            body = computed(recording, spellings, lambda number: f"first_{number.name}")
            self._functions["penalized"] = function("penalized", ["p", "g", *parameters], body)
            yield f"g = penalized(p, g, {', '.join(parameters)})"

    def _moved(self) -> Iterator[str]:
        """The lines that apply the rule."""
        kind, roles = self.kind, [state.role for state in self.kind.rule.states]
        parameters = ["p", "g", *roles, *(f"k_{name}" for name in self.rule.constants)]
        spellings = WIDE if kind.is_wide else {**NARROW, **_CODED} if kind.is_coded else NARROW
        recording = self.rule.recording
        ordered = Recording(recording.states, recording.gradient, {x: recording.outputs[x] for x in ("p", *roles)})
        body = computed(ordered, spellings, lambda number: f"k_{self.rule.name_of(number)}")
        self._functions["rule"] = function("rule", parameters, body)
        if kind.rule.is_cautious or kind.rule.is_masked:
            yield "before = p"
        yield f"{', '.join(['p', *roles])} = rule({', '.join(parameters)})"
        if kind.rule.is_masked:
            body = computed(record_mask(), spellings, lambda number: number.name)
            self._functions["masked"] = function("masked", ["k", "p", "g", "q"], body)
            yield f"p = masked(first_k, before, {'g' if kind.penalized else 'first_s * g'}, p)"
        if kind.rule.is_cautious:
            body = computed(record_cautious_decay(), spellings, lambda number: number.name)
            self._functions["cautiously_decayed"] = function("cautiously_decayed", ["cautious", "p", "q"], body)
            yield "p = cautiously_decayed(first_cautious, before, p)"

    # ---- random numbers

    def _key(self, draw: int) -> Iterator[str]:
        for half in ("key", "other_key"):
            index = self.kind.columns.index(f"{half}{draw}")
            yield f"{half}{draw} = tl.load(row + {index}).to(tl.uint32)"

    def _first(self, draw: int, block: str) -> str:
        """The first thresholds of blocks with these numbers."""
        arguments = {"block": block, "key": f"key{draw}", "other_key": f"other_key{draw}", "forward": "forward"}
        return self._call("first_threshold", formats_of.first_threshold(), arguments)

    def _random(self, draw: int, target: str) -> Iterator[str]:
        """The lines that compute the 16-bit thresholds of the elements."""
        columns = self.kind.columns
        yield from self._key(draw)
        number, place = f"{target}_number", f"{target}_place"
        in_blocks = [
            f"{number} = (tl.load(row + {columns.index('block')}) + first_row).to(tl.uint32) + block.to(tl.uint32)",
            f"{place} = position.to(tl.uint32)",
        ]
        by_element = [
            "element = start + i",
            *self._in_whole("element", "element", "run", "skip"),
            f"{number} = (element >> 7).to(tl.uint32)",
            f"{place} = (element & 127).to(tl.uint32)",
        ]
        if not self.kind.in_order:
            yield from by_element
        elif not self.kind.has_codes:
            yield from in_blocks
        else:
            yield from ("if WHOLE:", *_indented(in_blocks), "else:", *_indented(by_element))
        yield f"{target}_first = {self._first(draw, number)}"
        recording, arguments = formats_of.thresholds_of_16_bits(), {"first": f"{target}_first", "position": place}
        yield f"{target}_random = {self._call('thresholds_of_16_bits', recording, arguments)}"

    def _in_whole(self, name: str, first: str, run: str, skip: str) -> Iterator[str]:
        """The lines that turn the numbers of elements or blocks of a part into those in the whole."""
        at = {x: f"tl.load(row + {self.kind.columns.index(x)})" for x in (first, run, skip)}
        if not self.kind.in_order:
            yield f"{name} = {name} + {name} // {at[run]} * {at[skip]}"
        yield f"{name} = {name} + {at[first]}"

    # ---- storing

    def _stored(self) -> Iterator[str]:
        """The lines that store the weight and the states without codes."""
        for state in self.kind.rule.states:
            role, form = state.role, self._formats[state.role]
            if form not in WIDTHS:
                yield from self._rounded(role, role, form, form in HALVES and state.draw is not None, state.draw)
        yield f"if {_HEADER['moves']} != 0:"
        yield from _indented(self._stored_weight())

    def _rounded(self, name: str, value: str, dtype: str, is_random: bool, draw: int | None) -> Iterator[str]:
        """The lines that store values in a dtype."""
        if dtype not in HALVES:
            yield self._store(name, f"{value}.to(tl.{dtype})")
            return
        arguments = {"x": f"{value}.to(tl.float32)", "random": f"{value}_random"}
        if is_random:
            assert draw is not None
            yield from self._random(draw, value)
        function_name = f"encode_{dtype}" + ("_random" if is_random else "")
        if name == "weight":
            call = self._of_weight(function_name, formats_of.encode_16_bits, arguments, dtype, is_random)
        else:
            call = self._call(function_name, formats_of.encode_16_bits(dtype, is_random), arguments)
        yield from self._stored_codes(name, f"({call}).to(tl.uint16)")

    def _stored_codes(self, name: str, codes: str) -> Iterator[str]:
        """The lines that store 16-bit numbers."""
        yield self._store(name, codes)

    @property
    def _coded(self) -> list[State]:
        """The states with codes: second moments first, since the grids of others depend on theirs."""
        states = (state for state in self.kind.rule.states if self._formats[state.role] in WIDTHS)
        return sorted(states, key=lambda state: state.signed)

    def _encoded(self) -> Iterator[str]:
        """The lines that store the states with codes."""
        kind = self.kind
        yield "number = (first_row + block).to(tl.int64)"
        yield from self._in_whole("number", "block", "run_of_blocks", "skip_of_blocks")
        for state in self._coded:
            role, width, draw = state.role, WIDTHS[self._formats[state.role]], state.code_draw
            counts, second = kind.rule.counts(state), kind.rule.second_of(state)
            if draw is not None:
                yield from self._key(draw)
                yield f"{role}_first = {self._first(draw, 'number.to(tl.uint32)')}"
            arguments = {
                "x": f"present({role}, ok, WHOLE).to(tl.float32)",
                "moved": f"present({role} != {role}_decayed, ok, WHOLE)",
                "codes": f"{role}_codes",
                "stored": f"{role}_stored",
                "first": f"{role}_first",
                "position": "position.to(tl.uint32)",
                "decay": _decay_of_codes(state),
                "second": f"{role}_choice",
            }
            if second is not None:
                yield self._choice(role, kind.rule.states[second], width)
            options = state.signed, width, draw is not None, second is not None, counts
            usual, other = (formats_of.encode(*options, x) for x in (True, False))
            of_codes = {**NARROW, **_OF_CODES}
            yield f"{role}_codes, {role}_stored = {self._either(f'encode_{role}', usual, other, arguments, of_codes)}"
        for state in self._coded:
            role, code = state.role, "int8" if state.signed else "uint8"
            yield f"store({role}_scale_at + first_row + block, {role}_stored, ok_block, WHOLE)"
            if self._formats[role] == "int8":
                yield self._store(role, f"{role}_codes.to(tl.{code})")
            else:
                packed = f"store_packed({role}_at + start_of_words + w, {role}_codes, ok_word, ROWS, tl.{code}, WHOLE)"
                words = f"store_words_6({role}_at, tile, {role}_codes, ROWS)"
                yield from ("if WHOLE:", f"    {words}", "else:", f"    {packed}") if kind.aligned else (packed,)

    def _choice(self, role: str, second: State, width: Width) -> str:
        """The line that has the choice of the second moment's grid, for a first moment of this width."""
        if WIDTHS.get(self._formats[second.role]) is width:
            call = self._call("choice", formats_of.choice(), {"stored": f"{second.role}_stored"})
        else:
            x = {"x": f"present({second.role}, ok, WHOLE).to(tl.float32)"}
            call = self._call(f"first_choice_{width.bits}", formats_of.first_choice(width), x)
        return f"{role}_choice = {call}"

    def _stored_weight(self) -> Iterator[str]:
        kind = self.kind
        if kind.weights != "split":
            yield from self._rounded("weight", "p", kind.weight, kind.weights == "stochastic", WEIGHT_DRAW)
            return
        yield f"high, low = {self._of_weight(f'split_{kind.weight}', formats_of.split, {'x': 'p'}, kind.weight)}"
        for name, part in (("weight", "high"), ("low", "low")):
            yield self._store(name, f"{part}.to(tl.uint16)")

    # ---- the kernels

    def _begin(self, tiles: str = "") -> Iterator[str]:
        """The lines that find the tensor of a program, and its tile, or the first of the ``tiles`` that it takes."""
        columns = self.kind.columns
        yield from (
            "program = tl.program_id(0)",
            f"row = table + tl.load(tensors + program).to(tl.int64) * {len(columns)}",
            f"at = numbers + tl.load(row + {columns.index('numbers')}) * {self.kind.words}",
            f"tile = (program - tl.load(row + {columns.index('tile')}).to(tl.int32)) {tiles}".rstrip(),
            f"size = tl.load(row + {columns.index('size')})",
            f"length = tl.load(row + {columns.index('row')})",
        )

    def _is_whole(self, tile: str) -> str:
        """Whether all elements of a tile are there."""
        if self.kind.has_codes:
            return f"(length % 128 == 0) & (size >= ({tile} + 1) * ROWS)"
        return f"size >= ({tile} + 1).to(tl.int64) * (ROWS * 128)"

    def _are_usual(self) -> str:
        """Whether all blocks of the tile are usual, as the bits of each state's values say.

        Those of a value that has only decayed are the same, so blocks that no step has moved are never taken for usual ones.
        Blocks in which no bit has changed in all states of one element may be usual, but are not taken for it.
        """
        roles = [state.role for state in self._coded]
        signs = " | ".join(f"{role}_stored.to(tl.int32, bitcast=True)" for role in roles)
        changed = " & ".join(f"changed({role}.to(tl.float32), {role}_decayed.to(tl.float32))" for role in roles)
        are_small = [f"(largest_bits({role}.to(tl.float32)) <= {MOST_STORED})" for role in roles]
        moved = f"(tl.max({changed}, axis=1, keep_dims=True) > 0)"
        return _all(" & ".join([f"(({signs}) >= 0)", *are_small, moved, *self._are_numbers()]))

    def _are_numbers(self) -> list[str]:
        """That no weight is NaN, where that is to be known."""
        return [f"(largest_bits(p) <= {_INFINITY})"] if self.kind.weight in HALVES else []

    def _kept(self) -> Iterator[str]:
        """The lines that only let the scales decay if no block of the tile has been moved, and tell whether they do."""
        can_keep, moved = list[str](), list[str]()
        for state in self._coded:
            role = state.role
            arguments = {"stored": f"{role}_stored", "decay": _decay_of_codes(state)}
            yield f"{role}_faded, {role}_can = {self._call('faded', formats_of.faded(), arguments)}"
            can_keep.append(f"{role}_can")
            moved.append(f"({role} != {role}_decayed)")
        are_kept = _all(" & ".join([*can_keep, *self._are_numbers()]))
        yield f"is_done = {are_kept} & (tl.max(({' | '.join(moved)}).to(tl.int32)) == 0)"
        yield "if is_done:"
        for state in self._coded:
            yield f"    store({state.role}_scale_at + first_row + block, {state.role}_faded, ok_block, WHOLE)"

    def _whole_source(self, kernel: str) -> str:
        kind = self.kind
        packed = (QUOTIENT + _RUNS + _USUAL if kind.has_codes else "") + (_PACKED if "int6" in kind.states else "")
        if kind.aligned:
            packed += "".join(_by_words(WIDTHS[form], self._run) for form in sorted({*kind.states} & {*WIDTHS}))
        return HEAD + packed + "".join(self._functions.values()) + kernel.rstrip() + "\n"

    def step(self) -> str:
        """The kernel ``step(table, tensors, numbers, ROWS)`` and what it calls.

        If there are codes, whole tiles are stepped as if all blocks were usual, or as if none was moved, and nothing is
        stored if neither is so. Then, and if they are not whole, they are stepped by parts of a few rows, which takes fewer
        registers.
        """
        has_codes, sums = self.kind.has_codes, self.sums
        of_part = ["_", *(f"more_{name}" for name in sums)] if sums else []
        body = [
            *self._where(),
            *self._constants(),
            f"forward = {_HEADER['forward']}.to(tl.uint32)",
            *self._weight(in_step=True),
            *self._gradient(),
            *self._states(),
            *self._moved(),
        ]
        if has_codes:
            body += [
                f"is_usual = {self._are_usual()} if WHOLE else True",
                "is_done = is_usual",
                "if WHOLE:",
                "    if not is_usual:",
                *_indented(_indented(self._kept())),
                *self._begun(),
                "if is_done:",
                *_indented(self._stored()),
                "if is_usual:",
                *_indented(self._encoded()),
                f"return {', '.join(['is_done', *sums])}",
            ]
            main = [
                "is_done = False",
                *self._begun(),
                f"if {self._is_whole('tile')}:",
                f"    {_named(['is_done', *sums])}step_tile(row, at, tile, ROWS, True)",
                "if not is_done:",
                f"    first = tile * (ROWS // {_FEW})",
                f"    count = (tl.minimum(size - tile * ROWS, ROWS) + {_FEW - 1}).to(tl.int32) // {_FEW}",
                "    for part in range(first, first + count):",
                f"        {_named(of_part)}step_tile(row, at, part, {_FEW}, False)",
                *_indented(_indented(self._added())),
            ]
        else:
            body += [*self._stored(), *([f"return {', '.join(sums)}"] if sums else [])]
            main = [
                f"if {self._is_whole('tile')}:",
                f"    {_named(sums)}step_tile(row, at, tile, ROWS, True)",
                "else:",
                f"    {_named(sums)}step_tile(row, at, tile, ROWS, False)",
            ]
        main += self._ended()
        tile = function("step_tile", ["row", "at", "tile", "ROWS: tl.constexpr", "WHOLE: tl.constexpr"], body)
        main = [*self._begin(), f"if {_HEADER['runs']} != 0:", *_indented(main)]
        return self._whole_source(tile + function("step", [*self.parameters, "ROWS: tl.constexpr"], main))

    def _begun(self) -> Iterable[str]:
        """The lines with which the ``sums`` begin."""
        return ()

    def _added(self) -> Iterable[str]:
        """The lines that add to the ``sums`` those of a part of a tile."""
        return ()

    def _ended(self) -> Iterable[str]:
        """The lines that end a program."""
        return ()


def _all(condition: str) -> str:
    return f"(tl.min(({condition}).to(tl.int32)) > 0)"


def _named(results: Sequence[str]) -> str:
    """What stands before a call with these results."""
    return f"{', '.join(results)} = " if results else ""


def _decay(state: State) -> str:
    return "1.0" if state.decay is None else f"k_{state.decay}"


def _decay_of_codes(state: State) -> str:
    return "1.0" if state.decay is None else f"{_decay(state)}.to(tl.float32)"


def _sign(state: State) -> str:
    return "signed" if state.signed else "unsigned"


def _indented(text: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in text)


HEAD = """# Written by adamas/rule/triton.py.
import triton
import triton.language as tl


@triton.jit
def load(at, ok, WHOLE: tl.constexpr):
    if WHOLE:
        return tl.load(at)
    else:
        return tl.load(at, ok, other=0)


@triton.jit
def present(x, ok, WHOLE: tl.constexpr):
    if WHOLE:
        return x
    else:
        return tl.where(ok, x, tl.zeros_like(x))


@triton.jit
def store(at, value, ok, WHOLE: tl.constexpr):
    if WHOLE:
        tl.store(at, value)
    else:
        tl.store(at, value, ok)


"""

# Which elements a thread takes is decided by the compiler, from the shape that is accessed: it gives consecutive ones to
# consecutive threads. Here, 4 threads (``Kind.threads``) take a block, each of them ``RUN`` consecutive elements at a time, by
# accesses of up to 128 bits. Where elements are accessed one by one, 32 threads take a block.
_RUNS = """@triton.jit
def spread(x, THREADS: tl.constexpr, RUN: tl.constexpr, VECTOR: tl.constexpr):
    TURNS: tl.constexpr = x.shape[1] // (THREADS * RUN)
    found = tl.reshape(x, (x.shape[0], TURNS, THREADS, RUN // VECTOR, VECTOR))
    return tl.reshape(tl.permute(found, (1, 3, 0, 2, 4)), (TURNS * (RUN // VECTOR) * x.shape[0], THREADS * VECTOR))


@triton.jit
def gathered(x, shape: tl.constexpr, THREADS: tl.constexpr, RUN: tl.constexpr, VECTOR: tl.constexpr):
    TURNS: tl.constexpr = shape[1] // (THREADS * RUN)
    found = tl.reshape(x, (TURNS, RUN // VECTOR, shape[0], THREADS, VECTOR))
    return tl.reshape(tl.permute(found, (2, 0, 3, 1, 4)), shape)


@triton.jit
def load_runs(at, ok, WHOLE: tl.constexpr, RUN: tl.constexpr):
    if WHOLE and RUN > 1:
        BITS: tl.constexpr = at.dtype.element_ty.primitive_bitwidth
        VECTOR: tl.constexpr = RUN if RUN * BITS < 128 else 128 // BITS
        found = tl.multiple_of(spread(at, 4, RUN, VECTOR), [1, VECTOR * BITS // 8])
        return gathered(tl.load(tl.max_contiguous(found, [1, VECTOR])), at.shape, 4, RUN, VECTOR)
    else:
        return gathered(load(spread(at, 32, 1, 1), spread(ok, 32, 1, 1), WHOLE), at.shape, 32, 1, 1)


@triton.jit
def loaded_halves(at, ROWS: tl.constexpr, RUN: tl.constexpr):
    words = tl.arange(0, ROWS)[:, None] * 64 + tl.arange(0, 64)[None, :]
    word = load_runs(at.to(tl.pointer_type(tl.uint32)) + words, words >= 0, True, RUN // 2)
    return tl.reshape(tl.join(word & 0xFFFF, word >> 16), (ROWS, 128))


@triton.jit
def store_runs(at, value, ok, WHOLE: tl.constexpr, RUN: tl.constexpr):
    if WHOLE and RUN > 1:
        BITS: tl.constexpr = at.dtype.element_ty.primitive_bitwidth
        VECTOR: tl.constexpr = RUN if RUN * BITS < 128 else 128 // BITS
        found = tl.multiple_of(spread(at, 4, RUN, VECTOR), [1, VECTOR * BITS // 8])
        tl.store(tl.max_contiguous(found, [1, VECTOR]), spread(value, 4, RUN, VECTOR))
    else:
        store(spread(at, 32, 1, 1), spread(value, 32, 1, 1), spread(ok, 32, 1, 1), WHOLE)


"""

# x/d, rounded to the nearest as by ``tl.div_rn``, which takes more instructions. After Newton's method the quotient is off by
# at most its last bit, so that its remainder is exact and corrects it (Markstein, 1990, Computation of elementary functions on
# the IBM RISC System/6000 processor). Either d is 0, or its reciprocal and the quotient are normal. Where x is 1, the mantissa
# of d must not be all ones: d is a scale then, and its last two bits are 0.
QUOTIENT = """@triton.jit
def quotient(x, d):
    r = tl.rsqrt(d)
    r = r * r
    r = tl.fma(tl.fma(-d, r, 1.0), r, r)
    q = x * r
    return tl.where(d > 0, tl.fma(tl.fma(-d, q, x), r, q), float("inf"))


"""

_USUAL = """@triton.jit
def largest_bits(x):
    return tl.max(tl.abs(x).to(tl.int32, bitcast=True).to(tl.uint32), axis=1, keep_dims=True)


@triton.jit
def changed(x, decayed):
    return (x.to(tl.int32, bitcast=True) ^ decayed.to(tl.int32, bitcast=True)) & 0x7FFFFFFF


"""

# Four codes in three bytes: see adamas.rule.layout.
_PACKED = """@triton.jit
def unpacked(at, ok, ROWS: tl.constexpr, HAS_SIGN: tl.constexpr, WHOLE: tl.constexpr):
    low, middle, high = load(at, ok, WHOLE), load(at + 1, ok, WHOLE), load(at + 2, ok, WHOLE)
    word = (low.to(tl.int32) & 255) | (middle.to(tl.int32) & 255) << 8 | (high.to(tl.int32) & 255) << 16
    even = tl.join(word & 63, word >> 12 & 63)
    odd = tl.join(word >> 6 & 63, word >> 18 & 63)
    codes = tl.reshape(tl.join(even, odd), (ROWS, 128))
    if HAS_SIGN:
        codes = codes - (codes >> 5 << 6)
    return codes


@triton.jit
def store_packed(at, codes, ok, ROWS: tl.constexpr, CODE: tl.constexpr, WHOLE: tl.constexpr):
    even, odd = tl.split(tl.reshape(codes & 63, (ROWS, 32, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    word = first | second << 6 | third << 12 | fourth << 18
    store(at, word.to(CODE), ok, WHOLE)
    store(at + 1, (word >> 8).to(CODE), ok, WHOLE)
    store(at + 2, (word >> 16).to(CODE), ok, WHOLE)


"""


# Whole tiles are read by words: the compiler takes a word apart in one step for each code, and extends bytes in several. Codes
# in 8 bits are stored by bytes, which it joins.
def _by_words(width: Width, run: int) -> str:
    """The functions that access the codes of whole tiles by words of 64 bits, in runs of ``run`` codes."""
    bits, bits_of_group = width.bits, lcm(width.bits, 64)
    words, count = bits_of_group // 64, bits_of_group // bits

    def code(k: int) -> str:
        """A code, shifted to the upper bits of half a word and back."""
        half, offset = divmod(bits * k, 32)
        over = bits + offset - 32  # the bits that are in the next half
        if over <= 0:
            return f"half{half} << {-over} >> {32 - bits}"
        mask = ((1 << bits - over) - 1) << 32 - bits
        return f"(half{half} >> {offset + bits - 32} & {mask} | half{half + 1} << {32 - over}) >> {32 - bits}"

    def joined(codes: Sequence[str]) -> str:
        return f"tl.join({joined(codes[::2])}, {joined(codes[1::2])})" if len(codes) > 1 else codes[0]

    def split(name: str, codes: Sequence[str]) -> Iterator[str]:
        if len(codes) > 1:
            names = (f"{name}_0", f"{name}_1") if len(codes) > 2 else codes
            yield f"{', '.join(names)} = tl.split({name})"
            for i in range(2):
                yield from split(names[i], codes[i::2])

    def half(j: int) -> str:
        places = ((k, bits * k - 32 * j) for k in range(count))
        return " | ".join(f"c{k} << {at}" if at >= 0 else f"c{k} >> {-at}" for k, at in places if -bits < at < 32)

    names = [f"c{k}" for k in range(count)]
    groups = 128 // count
    of_run = run // count
    runs = f"4, {of_run}, {min(2, of_run) if words == 1 else 1}"
    at = [
        f"group = tl.arange(0, ROWS)[:, None] * {groups} + tl.arange(0, {groups})[None, :]",
        f"words = at.to(tl.pointer_type(tl.uint64)) + tile.to(tl.int64) * (ROWS * {2 * bits}) + group * {words}",
        f"words = spread(words, {runs})",
    ]
    load = [
        "HALF: tl.constexpr = tl.int32 if HAS_SIGN else tl.uint32",
        *at,
        *(f"word{j} = gathered(tl.load(words + {j}), (ROWS, {groups}), {runs})" for j in range(words)),
        *(f"half{2 * j} = word{j}.to(tl.uint32).to(HALF, bitcast=True)" for j in range(words)),
        *(f"half{2 * j + 1} = (word{j} >> 32).to(tl.uint32).to(HALF, bitcast=True)" for j in range(words)),
        *(f"{name} = {code(k)}" for k, name in enumerate(names)),
        f"return tl.reshape({joined(names)}, (ROWS, 128)).to(tl.int32)",
    ]
    found = function(f"loaded_words_{bits}", ["at", "tile", "ROWS: tl.constexpr", "HAS_SIGN: tl.constexpr"], load)
    if bits == 8:
        return found
    halves = ", ".join("2" for _ in range(count.bit_length() - 1))
    store = [
        *at,
        f"c = tl.reshape(codes.to(tl.uint32) & {(1 << bits) - 1}, (ROWS, {groups}, {halves}))",
        *split("c", names),
        *(f"half{j} = {half(j)}" for j in range(2 * words)),
        *(f"word{j} = half{2 * j}.to(tl.uint64) | half{2 * j + 1}.to(tl.uint64) << 32" for j in range(words)),
        *(f"tl.store(words + {j}, spread(word{j}, {runs}))" for j in range(words)),
    ]
    return found + function(f"store_words_{bits}", ["at", "tile", "codes", "ROWS: tl.constexpr"], store)


@cache
def source(kind: Kind) -> str:
    """The source of the kernel that steps tensors of a kind that are not watched: ``step(table, tensors, numbers, ROWS)``."""
    return Writer(kind).step()
