"""Recordings of ``adamas.rule.formats``: how a kernel reads and writes stored tensors.

The functions of ``formats`` are run over recording values, as rules are (``adamas.rule.recorder``). Arrays have a row for each
block, with its elements or with one number that holds for the block. The recordings are lowered: their integers have 32 bits,
and products and sums are rounded once where the engine rounds them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from typing import Any

from . import formats
from .formats import Width
from .lowering import fused_sums
from .recorder import Namespace, Operand, Recording, Value, recorded

_WHOLE = 0xFFFFFFFF
_OF_BLOCKS = ("stored", "second")  # the inputs with one number for each block
_OF_FLOATS = ("x", "stored", "decay", "factor")  # other inputs are integers
_OF_INTEGERS = ("lshift", "rshift", "or", "xor", "to_uint32", "to_int32", "view_int32")


class _Formats(Namespace):
    """The namespace that the formats are recorded with. Its integers have 32 bits and no sign, as those of ``optax``."""

    int16, int32, int64, float16, float32 = "int16", "int32", "uint32", "float16", "float32"

    @staticmethod
    def separate(product: Value) -> Value:
        """The product itself: the engine fuses it with the sum that follows, as ``fused_sums`` does."""
        return product

    @staticmethod
    def full_like(like: Value, value: float) -> Value:
        """A constant of the shape and the dtype of ``like``."""
        return recorded("full_like", like, value)

    def zeros_like(self, like: Value) -> Value:
        """Zeros."""
        return self.full_like(like, 0)

    def ones_like(self, like: Value) -> Value:
        """Ones."""
        return self.full_like(like, 1)

    @staticmethod
    def sum(x: Value, axis: int, keepdims: bool) -> Value:
        """The sum of each block."""
        return recorded("block_sum", x)

    @staticmethod
    def amax(x: Value, axis: int, keepdims: bool) -> Value:
        """The largest element of each block."""
        return recorded("block_max", x)

    @staticmethod
    def any(x: Value, axis: int, keepdims: bool) -> Value:
        """Whether a condition holds for an element of each block."""
        return recorded("block_any", x)


_XP = _Formats()


def _recording(outputs: Mapping[str, Any], is_usual: bool = False) -> Recording:
    recording = Recording((), Value("input", (), False, "g"), outputs)
    if is_usual:
        recording = _if_usual(recording)
    recording = _without_repetitions(recording.rewritten(_by_sign).rewritten(_in_32_bits))
    recording = _counts_in_one(_numbers_of_blocks(recording))
    return fused_sums(recording, _integers(recording))


def _without_repetitions(recording: Recording) -> Recording:
    """The recording with equal operations on the same operands made once."""
    known: dict[Any, Value] = {}

    def rewrite(_: Value, new: Value) -> Operand:
        operands = (id(x) if isinstance(x, Value) else (type(x), repr(x)) for x in new.operands)
        return known.setdefault((new.operation, new.name, *operands), new)

    return recording.rewritten(rewrite)


def _if_usual(recording: Recording) -> Recording:
    """The recording for blocks that have been moved and are not marked, all of whose values are finite and below 2¹²⁷.

    No weight is NaN, so none was set to 0 from outside: together with a negative remainder, 0 would be NaN.
    """

    def is_known(old: Value) -> bool | None:
        a, *b = old.operands or (None,)
        limit = b[0] if b and not isinstance(b[0], Value) else None
        if (old.operation, limit) in (("gt", formats.MOST_STORED), ("gt", _WHOLE >> 1)) or (
            old.operation == "ne" and a is b[0]
        ):
            return False
        is_moved = old.operation == "block_any" and isinstance(a, Value) and a.name == "moved"
        return True if old.operation == "isfinite" or is_moved else None

    def rewrite(old: Value, new: Value) -> Operand:
        known, operands = is_known(old), new.operands
        if known is not None:
            return known
        if old.operation == "where" and _is(old.operands[1], "mul", 0):
            return operands[2]
        constants = [x for x in operands if isinstance(x, bool)]
        if not constants:
            return new
        if new.operation == "where":
            return operands[1 if constants[0] else 2]
        if new.operation in ("invert", "block_any"):
            return constants[0] != (new.operation == "invert")
        others = [x for x in operands if not isinstance(x, bool)]
        decides = {"and": False, "or": True}[new.operation]
        return decides if decides in constants or not others else others[0]

    return recording.rewritten(rewrite)


def _is(x: Operand, operation: str, constant: int) -> bool:
    """Whether an operand is such an operation with this constant."""
    return (
        isinstance(x, Value) and x.operation == operation and constant in (y for y in x.operands if isinstance(y, int))
    )


def _by_sign(old: Value, new: Value) -> Operand:
    """−x where codes are negative by the sign bit, and 0 where they are 0 by a maximum: other values are not negative."""
    if old.operation != "where":
        return new
    condition, x = old.operands[0], new.operands[-1]
    codes = condition.operands[0] if isinstance(condition, Value) else None
    if not isinstance(codes, Value) or codes.name != "codes":
        return new
    if _is(condition, "eq", 0):
        return recorded("maximum", x, 0.0)
    if _is(condition, "lt", 0):
        return recorded("view_float32", recorded("xor", recorded("view_int32", x), recorded("and", codes, -1 << 31)))
    return new


def _integers(recording: Recording) -> set[Value]:
    found: set[Value] = set()
    for value in recording.operations:
        if value.operation == "input":
            is_integer = value.name not in _OF_FLOATS
        elif value.operation in ("add", "sub", "mul"):
            is_integer = any(x in found for x in value.operands if isinstance(x, Value))
        else:
            is_integer = value.operation in _OF_INTEGERS
        if is_integer:
            found.add(value)
    return found


def _in_32_bits(_: Value, new: Value) -> Operand:
    """What masks of 32 bits and shifts past them do to integers of 32 bits."""
    constant = None if not new.operands or isinstance(new.operands[-1], Value) else new.operands[-1]
    if (new.operation, constant) in (("and", _WHOLE), ("sub", 0)):
        return new.operands[0]
    return 0 if (new.operation, constant) == ("lshift", 32) else new


def _numbers_of_blocks(recording: Recording) -> Recording:
    """What is computed of numbers c, f and s of blocks, once for each block.

    (x − c)·f becomes x·f − c·f, rounded once. c + (x << s) becomes c + x·2ˢ, which is one instruction. 2ˢ is converted from a
    float: the compiler would make a shift of a product with what it knows to be a power of two.
    """
    of_blocks: dict[Value, bool] = {}

    def is_of_block(x: Operand) -> bool:
        return not isinstance(x, Value) or x.is_number or of_blocks[x]

    for value in recording.operations:
        if value.operation == "input":
            of_blocks[value] = value.name in _OF_BLOCKS
        else:
            of_blocks[value] = value.operation.startswith("block_") or all(map(is_of_block, value.operands))

    def rewrite(old: Value, new: Value) -> Operand:
        if old.operation == "mul":
            (difference, factor), (changed, _) = old.operands, new.operands
            if isinstance(difference, Value) and difference.operation == "sub" and is_of_block(factor):
                x, c = difference.operands
                if not is_of_block(x) and is_of_block(c) and isinstance(changed, Value):
                    x, c = changed.operands
                    return recorded("fused_less", x, new.operands[1], recorded("mul", c, new.operands[1]))
        if old.operation == "add" and isinstance(shifted := old.operands[1], Value) and shifted.operation == "lshift":
            x, s = shifted.operands
            if (
                not is_of_block(x)
                and is_of_block(s)
                and is_of_block(old.operands[0])
                and isinstance(new.operands[1], Value)
            ):
                x, s = new.operands[1].operands
                power = recorded("view_float32", recorded("lshift", recorded("add", s, 127), 23))
                return recorded("add", new.operands[0], recorded("mul", x, recorded("to_uint32", power)))
        return new

    return recording.rewritten(rewrite)


def _counts_in_one(recording: Recording) -> Recording:
    """Counts of the elements of a block, at most 128 each, are summed in the bytes of one integer."""
    counts = [x for x in recording.operations if x.operation == "block_sum"]
    if not 1 < len(counts) <= 4:
        return recording
    conditions = [x.operands[0].operands[0] for x in counts if isinstance(x.operands[0], Value)]
    ones = [recorded("where", x, 1 << 8 * i, 0) for i, x in enumerate(conditions)]
    summed = recorded("block_sum", reduce(lambda a, b: recorded("add", a, b), ones))
    found = {x: recorded("and", recorded("rshift", summed, 8 * i), 255) for i, x in enumerate(counts)}
    return recording.rewritten(lambda old, new: found.get(old, new))


def _array(name: str) -> Value:
    return Value("input", (), False, name)


def _number(name: str) -> Value:
    return Value("input", (), True, name)


_RANDOM = formats.Thresholds(_array("first"), _array("position"))


@cache
def first_threshold() -> Recording:
    """``first``: the first threshold of each ``block``, of which the key's halves are ``key`` and ``other_key``."""
    bits = formats.random_bits(_array("block"), _number("key"), _number("other_key"))
    return _recording({"first": formats.advanced(bits, _array("position"), _number("forward")).first})


@cache
def thresholds_of_16_bits() -> Recording:
    """``random``: the thresholds of elements at ``position`` in blocks whose thresholds begin with ``first``."""
    return _recording({"random": _RANDOM.in_16_bits()})


@cache
def decode_16_bits(dtype: str) -> Recording:
    """``x`` from ``codes``."""
    return _recording({"x": formats.DECODE[dtype](_XP, _array("codes"))})


@cache
def encode_16_bits(dtype: str, is_random: bool, is_usual: bool = False) -> Recording:
    """``codes`` from ``x`` and, where rounding ``is_random``, ``random``; where ``is_usual``, of what is not NaN."""
    codes = formats.ENCODE[dtype](_XP, _array("x"), _array("random") if is_random else None)
    return _recording({"codes": codes}, is_usual)


@cache
def join(dtype: str, is_usual: bool = False) -> Recording:
    """``x`` from ``high`` and ``low``. Where ``is_usual``, weights that were set to 0 from outside may become NaN."""
    return _recording({"x": formats.JOIN[dtype](_XP, _array("high"), _array("low"))}, is_usual)


@cache
def split(dtype: str, is_usual: bool = False) -> Recording:
    """``high`` and ``low`` from ``x``; where ``is_usual``, of what is not NaN."""
    high, low = formats.SPLIT[dtype](_XP, _array("x"))
    return _recording({"high": high, "low": low}, is_usual)


@cache
def decode(has_sign: bool, width: Width, has_factor: bool, is_usual: bool) -> Recording:
    """``x`` from ``codes``, ``stored`` and, if there is one, ``factor``; where ``is_usual``, of blocks that are not marked."""
    factor = _number("factor") if has_factor else None
    return _recording({"x": formats.decode(_XP, _array("codes"), _array("stored"), has_sign, width, factor)}, is_usual)


@cache
def encode(has_sign: bool, width: Width, is_random: bool, has_second: bool, counts: bool, is_usual: bool) -> Recording:
    """``codes`` and ``stored`` after a step; see ``formats.encode_next`` for the inputs.

    Where ``is_usual``, of blocks that have been moved and are not marked, all of whose values are finite and below 2¹²⁷.
    """
    codes, stored = formats.encode_next(
        _XP,
        _array("x"),
        _array("moved"),
        _array("codes"),
        _array("stored"),
        has_sign,
        _RANDOM if is_random else None,
        _number("decay"),
        _array("second") if has_second else None,
        counts,
        width,
    )
    return _recording({"codes": codes, "stored": stored}, is_usual)


@cache
def faded() -> Recording:
    """``lower`` from ``stored``, after a step that only decays, and whether a block ``can_keep`` its codes then."""
    lower, can_keep = formats.faded(_XP, _array("stored"), _number("decay"))
    return _recording({"lower": lower, "can_keep": can_keep})


@cache
def choice() -> Recording:
    """``choice`` from ``stored``."""
    return _recording({"choice": formats.choice_of(_XP, _array("stored"))})


@cache
def first_choice(width: Width) -> Recording:
    """``choice``, as values ``x`` take it that are encoded for the first time."""
    return _recording({"choice": formats.chosen_unsigned(_XP, _array("x"), width)})


def inputs(recording: Recording) -> list[str]:
    """The names of the inputs of a recording."""
    return list(dict.fromkeys(value.name for value in recording.operations if value.operation == "input"))
