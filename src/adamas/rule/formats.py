"""How weights and moments are stored, as readable reference code over an array namespace.

Everything here works on NumPy arrays and on PyTorch tensors alike (``xp`` is ``numpy`` or ``torch``). Bits are held in int64
and masked explicitly, so the same code also works in uint32 (which ``adamas.optax`` uses with ``jax.numpy``). The engine
implements the same functions in C++ and returns the same bits; on devices that the engine has no kernel for, the functions of
this module run. Stored 16-bit values are codes, integers from 0 to 65535. This module imports no framework.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Array = Any

_MASK31 = 0x7FFFFFFF
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_QUIET_NAN = 0x7FC00000
_HALF = 0x3F000000  # the bits of 1/2


def cast(x: Array, dtype: Any) -> Array:
    """``x`` converted to ``dtype``, for arrays of any library."""
    return x.to(dtype) if hasattr(x, "to") else x.astype(dtype)


def float_bits(xp: Any, x: Array) -> Array:
    """The bits of a float32 array, as int64 from 0 to 2³² − 1."""
    return cast(x.view(xp.int32), xp.int64) & _MASK32


def bits_float(xp: Any, bits: Array) -> Array:
    """The float32 array with these bits."""
    return cast(bits - ((bits >> 31) << 32), xp.int32).view(xp.float32)


def _separate(xp: Any, product: Array) -> Array:
    """The rounded product, kept from a compiler that would fuse it with the sum that follows."""
    return xp.separate(product) if hasattr(xp, "separate") else product


# Randomness: a function of (seed, tensor, step, draw, element), never a stream.


def mix64(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def tensor_key(seed: int, identity: int | str) -> int:
    """The key of a tensor's random numbers: from the seed, and the tensor's name or its position."""
    mixed = mix64(seed & _MASK64)
    if isinstance(identity, int):
        return mix64(mixed + identity)
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return mix64(mixed ^ int.from_bytes(digest, "little"))


def key_of(tensor_key: int, draw: int) -> tuple[int, int]:
    """The two halves, of 32 bits each, of the key of one of the independent draws of a tensor.

    ``tensor_key`` already contains the seed. (The engine has other keys for the elements from 2³² on, too.)
    """
    key = mix64(mix64(tensor_key + draw))
    return key & _MASK32, key >> 32


def random_bits(index: Array, first: Array | int, second: Array | int) -> Array:
    """32 random bits for each element of ``index`` (int64, below 2³²), as int64, for the halves of a key."""
    x = index ^ first
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK32
    x = (x + second) & _MASK32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK32
    return x ^ (x >> 16)


# A threshold decides whether a number is rounded up or down. The first threshold of each block of 128 elements is random.
# From element to element and from step to step the threshold advances by an irrational fraction of the interval (a Kronecker
# sequence), so the thresholds of a block, and those of one element over time, fill the interval evenly. Each rounding is
# unbiased, as with independent thresholds, but the errors that accumulate in an average are smaller.

BLOCK = 128
_STEP = 0x9E3779B9  # 2³²·(√5 − 1)/2
_POSITION = 0x6A09E667  # 2³²·(√2 − 1)
_POSITION_14 = 6787  # 2¹⁴·(√2 − 1)
_EVERY = 8  # a block is due in one of so many steps


class Thresholds(NamedTuple):
    """The thresholds that round a weight or a state tensor.

    Attributes:
        first: the first threshold of each element's block: 32 bits, in the integers of the namespace.
        position: the position of each element in its block. The two are broadcast.
    """

    first: Array
    position: Array

    def in_16_bits(self) -> Array:
        """The thresholds of numbers in 16 bits."""
        return (self.first + _POSITION * self.position & _MASK32) >> 16

    def in_14_bits(self) -> Array:
        """The thresholds of codes in 8 or 6 bits."""
        return self.upper_14_bits() >> 18

    def upper_14_bits(self) -> Array:
        """The same, as the upper bits of 32, and in the others what is constant: see ``_added``."""
        return (self.first >> 18 << 18) + (1 << 17) + (_POSITION_14 << 18) * self.position & _MASK32

    def are_due(self) -> Array:
        """Whether each block is among one in ``_EVERY``: each block is so in evenly spread steps."""
        return self.first < (1 << 32) // _EVERY

    def of_due_blocks(self) -> Thresholds:
        """The thresholds of the blocks that are due, which fill the interval again."""
        return self._replace(first=_EVERY * self.first & _MASK32)


def thresholds(xp: Any, block: Array, position: Array, tensor_key: int, step: int, draw: int) -> Thresholds:
    """The thresholds of elements.

    Args:
        xp: the namespace.
        block: the index of each element's block in the whole tensor, an int64.
        position: its position in the block, an int64.
        tensor_key: the key of the tensor.
        step: the number of steps, including this one.
        draw: the index of the draw (``adamas.rule.declaration.State.draw``).
    """
    return advanced(random_bits(block, *key_of(tensor_key, draw)), position, moved_by(step))


def moved_by(step: Any) -> Any:
    """How far the thresholds have advanced after some steps, an int or an array of integers of 64 bits."""
    return _STEP * step & _MASK32


def advanced(first: Array, position: Array, forward: Array | int) -> Thresholds:
    """The thresholds that begin at the random numbers ``first``, after they have advanced by ``moved_by``."""
    return Thresholds(first + forward & _MASK32, position)


def random16(xp: Any, index: Array, tensor_key: int, step: int, draw: int) -> Array:
    """The 16-bit thresholds of the elements with these indices in the whole tensor (int64)."""
    return thresholds(xp, index >> 7, index & (BLOCK - 1), tensor_key, step, draw).in_16_bits()


# bfloat16: the upper half of a float32.


def decode_bfloat16(xp: Any, codes: Array) -> Array:
    """The float32 values of bfloat16 codes."""
    return bits_float(xp, codes << 16)


def encode_bfloat16(xp: Any, x: Array, random: Array | None = None) -> Array:
    """The bfloat16 codes of float32 values: to the nearest, ties to even, or stochastically.

    With ``random`` (16 bits per element), the probability of rounding up is the value's distance from its lower neighbour,
    as a fraction of the spacing, so the result is unbiased.
    """
    bits = float_bits(xp, x)
    add = 0x7FFF + (bits >> 16 & 1) if random is None else random
    return xp.where(x != x, xp.full_like(bits, _QUIET_NAN >> 16), (bits + add) >> 16 & 0xFFFF)


# float16: 1 sign, 5 exponent and 10 mantissa bits; below 2⁻¹⁴ the spacing stays 2⁻²⁴.


def decode_float16(xp: Any, codes: Array) -> Array:
    """The float32 values of float16 codes."""
    signed = cast(codes - ((codes >> 15) << 16), xp.int16)
    return cast(signed.view(xp.float16), xp.float32)


def float16_spacing(xp: Any, magnitude: Array) -> Array:
    """The distance between adjacent float16 values at |x| (float32)."""
    exponent = float_bits(xp, magnitude) & 0x7F800000
    least, most = (127 - 14) << 23, (127 + 16) << 23
    exponent = xp.where(exponent < least, xp.full_like(exponent, least), exponent)
    exponent = xp.where(exponent > most, xp.full_like(exponent, most), exponent)
    return bits_float(xp, exponent - (10 << 23))


def encode_float16(xp: Any, x: Array, random: Array | None = None) -> Array:
    """The float16 codes of float32 values: to the nearest, ties to even, or stochastically.

    Only 13 bits of ``random`` are used: as many as a normal number loses.
    """
    bits = float_bits(xp, x)
    sign, magnitude = bits >> 16 & 0x8000, bits & 0x7FFFFFFF
    size = bits_float(xp, magnitude)
    if random is None:
        normal = (magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13
        # The sum with 1/2 has a spacing of 2⁻²⁴, so the addition rounds.
        subnormal = float_bits(xp, size + 0.5) - _HALF
    else:
        units = xp.where(size < 2.0**-14, size, xp.zeros_like(size)) * 2.0**24
        normal = (magnitude + (random >> 3)) >> 13
        subnormal = cast(units + cast(random >> 3, xp.float32) * 2.0**-13, xp.int64)
    codes = xp.where(size < 2.0**-14, subnormal, normal - (112 << 10))
    codes = xp.where(codes > 0x7C00, xp.full_like(codes, 0x7C00), codes)
    return xp.where(x != x, xp.full_like(codes, 0x7E00), codes) | sign


# Split weights: the parameter is the float32 weight rounded to 16 bits, and `low` holds the remainder.


def split_bfloat16(xp: Any, x: Array) -> tuple[Array, Array]:
    """The codes of the bfloat16 nearest to each float32 (ties away from zero), and the lower 16 bits."""
    bits = float_bits(xp, x)
    bits = xp.where(x != x, xp.full_like(bits, _QUIET_NAN), bits)
    return (bits + 0x8000) >> 16 & 0xFFFF, bits & 0xFFFF


def join_bfloat16(xp: Any, high: Array, low: Array) -> Array:
    """The inverse of ``split_bfloat16``, bit for bit. Where ``high`` was changed in between, the result is close to it."""
    signed = low - ((low >> 15) << 16)
    # No float32 splits into a zero and a negative remainder: the weight was set to zero from outside.
    signed = xp.where((high & 0x7FFF == 0) & (low & 0x8000 != 0), 0 * signed, signed)
    return bits_float(xp, ((high << 16) + signed) & _MASK32)


def split_float16(xp: Any, x: Array) -> tuple[Array, Array]:
    """The codes of the nearest float16, and the remainder in units of 2⁻¹⁵ of the spacing there.

    All 24 bits of a float32 are kept down to 2⁻¹⁴; below that the unit is an absolute 2⁻³⁹.
    """
    high = encode_float16(xp, x)
    value = decode_float16(xp, high)
    rest = (x - value) / (float16_spacing(xp, xp.abs(value)) * 2.0**-15)
    rest = xp.where(xp.abs(rest) <= 16384, rest, xp.zeros_like(rest))
    half = xp.where(rest < 0, xp.full_like(rest, -0.5), xp.full_like(rest, 0.5))
    return high, cast(cast(rest + half, xp.int32), xp.int64) & 0xFFFF


def join_float16(xp: Any, high: Array, low: Array) -> Array:
    """The inverse of ``split_float16``."""
    value = decode_float16(xp, high)
    signed = low - ((low >> 15) << 16)
    return value + cast(cast(signed, xp.int32), xp.float32) * (float16_spacing(xp, xp.abs(value)) * 2.0**-15)


# By the name of the dtype.

ENCODE = {"bfloat16": encode_bfloat16, "float16": encode_float16}
DECODE = {"bfloat16": decode_bfloat16, "float16": decode_float16}
SPLIT = {"bfloat16": split_bfloat16, "float16": split_float16}
JOIN = {"bfloat16": join_bfloat16, "float16": join_float16}


# int8 and int6: 8 or 6 bits for each moment and a float32 for each block of a row.
#
# The value of a code c is grid(c) times the scale of its block. A grid has segments of 2ⁿ codes, each with twice the spacing
# of the segment before, so small numbers are nearly as precise as large ones. It is the grid of floating-point numbers with a
# mantissa of n bits, shifted to begin at 0. Codes are therefore read and written with integer operations alone. The grid is
# linear between adjacent codes, so stochastic rounding is unbiased in the value itself.
#
# Each block chooses among three grids, with n = 5, 4 and 3 in 8 bits, or 3, 2 and 1 in 6 bits: the finer a grid is, the
# smaller its range. It takes the finest on which only few of its elements are so small that the grid is coarse for them. Zeros
# do not count, so neither padding nor a column without gradients makes a block take a wider grid; nor do second moments that
# have decayed to the smallest code. Unsigned states are kept from step to step, so to return to a finer grid, a block has to
# fit it better than to stay there. Their elements sink slowly, so an average chooses only in one step of eight, or where its
# scale is doubled or halved.
#
# A block stores its scale and its choice in one float32: the choice in the two low bits, and the scale rounded to the others.
# This number is called `stored` below.
#
# Signed states are scaled by the largest magnitude in the block; a code consists of the sign and the code of the magnitude.
# They are rounded to the nearest, except where the decay of a step would not change a code: 0.9 of 1, 2, 3 or 4 units is
# rounded to 1, 2, 3 or 4, so an element would stop there before it reaches 0. Below 0.75/(1 − β) units, an element is
# therefore rounded up only if a random threshold says so too, in one step of eight. (If the threshold alone decided, a
# hundredth of a unit would sometimes be read as a unit, and an update would be a hundred times too large.) If that limit lies
# past the middle of the first segment, it is four times as high, since the spacing grows. If it lies past the segment, the
# average is slow, and the threshold alone decides in the whole block and in each step: with β = 0.9999, a step adds 1/10000
# of the gradient, which rounding to the nearest would always lose. Evenly spread thresholds keep the sum of the rounding
# errors small (benchmarks/slow_average.py).
#
# An average of the gradient takes the grid of the mean square that divides it, and one that is at least as wide as that of a
# decaying maximum. Otherwise the second moment of a small element would be known and its average not, and their quotient could
# be of any size.
#
# In unsigned states, code 0 is exactly 0, and the others are read half a unit lower, so that a positive value is never read
# as 0. Their scale decays with them, by the rule's factor, and is doubled or halved when they no longer fit.
#
# A block to which a step adds nothing keeps its codes: only its scale decays.
#
# The scale of a block with nonfinite values is negative; such a block is called marked. In a marked block of signed codes in
# 8 bits, -128 is NaN, ±127 is ±infinity, and the scale is chosen so that finite values need codes only up to ±126. Unsigned
# codes of finite values end at 253 in any block; in a marked block, 254 is NaN and 255 is infinity. Codes in 6 bits use the
# last of theirs likewise.


@dataclass(frozen=True)
class Width:
    """Codes with a number of bits, and the grids that their blocks choose from.

    Attributes:
        bits: the number of bits of a code.
        mantissas: the mantissa n of each grid.
        largest_unsigned: the largest number of units on each grid: below the last finite code, so that nothing rounds up
            past it.
        floor_signed, floor_unsigned: a grid is fine enough if at most 1/``SHARE_SIGNED`` or 1/``SHARE_UNSIGNED`` of the
            elements that count are smaller than this many units.
    """

    bits: int
    mantissas: tuple[int, int, int]
    largest_unsigned: tuple[float, float, float]
    floor_signed: float
    floor_unsigned: float

    @property
    def infinity_signed(self) -> int:
        """The code of infinity in a marked block, and the largest signed code in any other."""
        return (1 << self.bits - 1) - 1

    @property
    def nan_signed(self) -> int:
        """The code of NaN in a marked block of signed codes."""
        return -(1 << self.bits - 1)

    @property
    def infinity_unsigned(self) -> int:
        """The code of infinity in a marked block of unsigned codes."""
        return (1 << self.bits) - 1

    @property
    def nan_unsigned(self) -> int:
        """The code of NaN in a marked block of unsigned codes."""
        return (1 << self.bits) - 2

    @property
    def largest_signed(self) -> list[float]:
        """The largest number of units on each grid, for signed codes."""
        return [_units(n, self.infinity_signed) for n in self.mantissas]

    @property
    def largest_signed_marked(self) -> list[float]:
        """The largest number of units on each grid in a marked block."""
        return [_units(n, self.infinity_signed - 1) for n in self.mantissas]


def _units(n: int, code: int) -> float:
    return float((((1 << n) + code % (1 << n)) << (code >> n)) - (1 << n))


INT8 = Width(8, (5, 4, 3), (7680.0, 917504.0, 26843545600.0), floor_signed=4.0, floor_unsigned=8.0)
# The floor lies between two codes: rounding errors do not decide which elements are below it.
INT6 = Width(6, (3, 2, 1), (1655.0, 163776.0, 3220176896.0), floor_signed=1.9, floor_unsigned=4.0)
CHOICES = 3  # the number of grids of each width
SHARE_SIGNED, SHARE_UNSIGNED = 8, 64
RETURN = 2.0  # the factor by which the floor of an unsigned state is higher on grids that are finer than its own
LEAST_ROW, LEAST_NUMEL = 32, 4096  # below these sizes, codes would save next to nothing: the moments stay in float32
MOST_STORED = (
    0x7F000000  # the bits of 2¹²⁷: larger finite values, which could be rounded up to infinity, are stored as this
)
LEAST_SIGNED = 2.0**-100  # a block of signed values that are all smaller becomes a block of zeros
LEAST_SCALE = 2.0**-126
# A scale outside this range, or off from the needed one by a factor outside it, is computed from scratch.
_LEAST, _MOST = 2.0**-120, 2.0**120
_NO_DOUBLING = 126  # the exponent's bits of numbers in [1/2, 1)
_BOTTOM = 0.5 * (1 + 1e-5)  # units: the smallest unsigned code, with room for rounding errors


def _of_choice(xp: Any, choice: Array, like: Array, values: Sequence[float]) -> Array:
    """The value that belongs to the choice of each block, in the dtype of ``like``."""
    found = xp.full_like(like, values[-1])
    for i, value in enumerate(values[:-1]):
        found = xp.where(choice == i, xp.full_like(like, value), found)
    return found


def choice_of(xp: Any, grid: Array) -> Array:
    """The choice of each block (0, 1 or 2), from its stored number."""
    return float_bits(xp, grid) & 3


def scale_of(xp: Any, grid: Array) -> Array:
    """The scale of each block, without its sign, from its stored number."""
    return bits_float(xp, float_bits(xp, grid) & 0x7FFFFFFC)


def is_marked(xp: Any, grid: Array) -> Array:
    """Whether the sign bit of the stored number is set, including that of -0.0."""
    return float_bits(xp, grid) > _MASK31


def rounded_scale(xp: Any, scale: Array) -> Array:
    """Nonnegative scales with room for a choice: to the nearest, ties to even."""
    bits = float_bits(xp, scale)
    return bits_float(xp, (bits + 1 + (bits >> 2 & 1)) >> 2 << 2)


def _stored(xp: Any, scale: Array, choice: Array, marked: Array) -> Array:
    """The stored number of each block."""
    bits = float_bits(xp, scale) | xp.where(scale > 0, choice, xp.zeros_like(choice))
    return bits_float(xp, xp.where(marked, bits | 0x80000000, bits))


def _shift_and_start(choice: Array, width: Width) -> tuple[Array, Array]:
    """How far the codes of each block are shifted to their place in the bits of a float32, 23 − n; and the bits of 2ⁿ."""
    finest = width.mantissas[0]  # each other grid has one bit less than the one before
    return choice + (23 - finest), (127 + finest - choice) << 23


def grid(xp: Any, codes: Array, choice: Array, width: Width = INT8, lower: float = 0.0) -> Array:
    """(2ⁿ + c mod 2ⁿ)·2^⌊c / 2ⁿ⌋ − 2ⁿ for nonnegative codes c, less ``lower``, as float32.

    For n = 5, these are 0, 1, 2, … 32, 34, 36, …
    """
    shift, start = _shift_and_start(choice, width)
    return bits_float(xp, start + (cast(codes, xp.int64) << shift)) - (bits_float(xp, start) + lower)


def _added(xp: Any, choice: Array, width: Width, thresholds: Thresholds | None) -> Array:
    """What is added to the bits of a value before the lowest are cut off: one half, or 14 bits of a threshold.

    The bits below those are constant, so that a value that differs only in its last bits from a code, or from the middle of
    two, is always rounded in the same way.
    """
    shift, _ = _shift_and_start(choice, width)
    upper = xp.full_like(choice, 1 << 31 | 1 << 17) if thresholds is None else thresholds.upper_14_bits()
    return upper >> 32 - shift


def _codes_of(xp: Any, units: Array, choice: Array, width: Width, added: Array, higher: float = 0.0) -> Array:
    """The codes of values in units of the scale, plus ``higher``. They round up where adding carries."""
    shift, start = _shift_and_start(choice, width)
    bits = float_bits(xp, units + (bits_float(xp, start) + higher))
    return cast(bits - start + added >> shift, xp.int32)


def _count(xp: Any, condition: Array) -> Array:
    """The number of elements of each block (the last dimension, kept with size 1) for which the condition holds."""
    return xp.sum(cast(condition, xp.int32), -1, keepdims=True)


def _chosen(
    xp: Any, size: Array, counts: Array, largest: Array, tops: Sequence[float], floor: float, share: int, before: Array
) -> Array:
    """The choice of each block: the finest grid on which at most 1/``share`` of the elements that count are below the floor.

    Args:
        xp: the namespace.
        size: the magnitudes, 0 for nonfinite values.
        counts: which elements count.
        largest: the largest of each block (the last dimension, kept with size 1).
        tops: the largest number of units on each grid.
        floor: the floor in units of each grid, with the scale that just fits.
        share: the share.
        before: the choice so far; on finer grids the floor is higher by ``RETURN``.
    """
    live = _count(xp, counts)
    chosen = xp.full_like(before, len(tops) - 1)
    for i in reversed(range(len(tops) - 1)):
        stays = _of_choice(
            xp, before, largest, [floor / tops[i] * (RETURN if i < j else 1.0) for j in range(len(tops))]
        )
        under = _count(xp, counts & (size < largest * stays))
        chosen = xp.where(under * share <= live, xp.full_like(before, i), chosen)
    return chosen


def _finite_sizes(xp: Any, x: Array) -> tuple[Array, Array, Array]:
    """The magnitudes, at most 2¹²⁷, with 0 for nonfinite values; the largest of each block (the last dimension,
    kept with size 1); and whether the block has nonfinite values.

    Compilers may take subnormal numbers for 0; comparisons of the bits do not.
    """
    finite = xp.isfinite(x)
    size = xp.where(finite, xp.abs(x), xp.zeros_like(x))
    bits = float_bits(xp, size)
    bits = xp.where(bits > MOST_STORED, xp.full_like(bits, MOST_STORED), bits)
    largest = bits_float(xp, xp.amax(bits, -1, keepdims=True))
    return bits_float(xp, bits), largest, xp.any(~finite, -1, keepdims=True)


def can_be_marked(xp: Any, codes: Array, has_sign: bool, width: Width = INT8) -> Array:
    """Whether each block of codes (the last dimension) can have a negative scale.

    Such a block has a nonfinite value. In every block of signed codes, the largest magnitude has the largest code; only in a
    marked block is that an infinity, and then the largest finite magnitude has the code before it.
    """
    if not has_sign:
        return (codes >= width.nan_unsigned).any(-1)
    size = xp.abs(codes)
    return (codes == width.nan_signed).any(-1) | (
        (size == width.infinity_signed).any(-1) & (size == width.infinity_signed - 1).any(-1)
    )


def decode_signed(xp: Any, codes: Array, stored: Array, width: Width = INT8, factor: Array | None = None) -> Array:
    """The float32 values of signed codes, each block with its stored number, times a factor if there is one."""
    size = xp.abs(codes)
    value = grid(xp, size, choice_of(xp, stored), width) * _times(scale_of(xp, stored), factor)
    marked = is_marked(xp, stored)
    value = xp.where(marked & (size == width.infinity_signed), xp.full_like(value, float("inf")), value)
    value = xp.where(codes < 0, -value, value)
    return xp.where(marked & (codes == width.nan_signed), xp.full_like(value, float("nan")), value)


def encode_signed(
    xp: Any,
    x: Array,
    thresholds: Thresholds | None = None,
    decay: Array | float = 0.0,
    second: Array | None = None,
    counts: bool = True,
    width: Width = INT8,
) -> tuple[Array, Array]:
    """The codes of float32 values, and the stored number of each block (the last dimension, kept with size 1).

    Args:
        xp: the namespace.
        x: the values.
        thresholds: for the values that are not rounded to the nearest; without them, all are.
        decay: the factor by which the rule multiplied the values.
        second: the choice of the second moment's block, which this one is not finer than.
        counts: whether a block makes a choice of its own. If not, it takes ``second``.
        width: the width of the codes.
    """
    size, largest, marked = _finite_sizes(xp, x)
    some = largest >= LEAST_SIGNED
    choice = _chosen_signed(xp, size, largest, width) if counts else second
    if counts and second is not None:
        choice = xp.maximum(choice, second)
    most = xp.where(
        marked,
        _of_choice(xp, choice, largest, width.largest_signed_marked),
        _of_choice(xp, choice, largest, width.largest_signed),
    )
    scale = xp.where(some, rounded_scale(xp, largest / most), xp.zeros_like(largest))
    inverse = xp.where(some, 1.0 / xp.where(some, scale, xp.ones_like(scale)), scale)
    added = _added(xp, choice, width, None)
    if thresholds is not None:
        segment = _of_choice(xp, choice, largest, [float(1 << n) for n in width.mantissas])
        limit = 0.75 / (1.0 - cast(xp.zeros_like(largest) + decay, xp.float32))
        is_slow = limit > segment
        reach = xp.where(limit > 0.5 * segment, 4 * limit, limit) * scale
        reach = xp.where(thresholds.are_due(), reach, xp.zeros_like(reach))
        may_stop = size < xp.where(is_slow, xp.full_like(reach, float("inf")), reach)
        first = xp.where(is_slow, thresholds.first, thresholds.of_due_blocks().first)
        threshold = _added(xp, choice, width, thresholds._replace(first=first))
        most = xp.where(is_slow, xp.full_like(added, _MASK32), added)
        added = xp.where(may_stop, xp.minimum(most, threshold), added)
    codes = _codes_of(xp, _separate(xp, size * inverse), choice, width, added)
    codes = xp.where(xp.isfinite(x), codes, xp.full_like(codes, width.infinity_signed))
    codes = xp.where(x < 0, -codes, codes)
    codes = xp.where(x != x, xp.full_like(codes, width.nan_signed), codes)
    return codes, _stored(xp, scale, choice, marked)


def decode_unsigned(xp: Any, codes: Array, stored: Array, width: Width = INT8, factor: Array | None = None) -> Array:
    """The float32 values of unsigned codes, each block with its stored number, times a factor if there is one."""
    value = grid(xp, codes, choice_of(xp, stored), width, lower=0.5) * _times(scale_of(xp, stored), factor)
    value = xp.where(codes == 0, xp.zeros_like(value), value)
    marked = is_marked(xp, stored)
    value = xp.where(marked & (codes == width.infinity_unsigned), xp.full_like(value, float("inf")), value)
    return xp.where(marked & (codes == width.nan_unsigned), xp.full_like(value, float("nan")), value)


def encode_unsigned(
    xp: Any,
    x: Array,
    before: Array,
    thresholds: Thresholds | None = None,
    decay: Array | float = 1.0,
    width: Width = INT8,
) -> tuple[Array, Array]:
    """The codes of nonnegative float32 values, and the stored number of each block (the last dimension, kept with size 1).

    Args:
        xp: the namespace.
        x: the values.
        before: the stored numbers so far, or 0 where there were none.
        thresholds: to round stochastically; without them, values are rounded to the nearest.
        decay: the factor by which the rule multiplied the values.
        width: the width of the codes.
    """
    size, largest, marked = _finite_sizes(xp, x)
    kept, present = _kept(xp, before, decay), choice_of(xp, before)
    choice = _chosen_unsigned(xp, size, largest, kept, present, width)
    if thresholds is not None:
        base, doublings = _base_and_doublings(xp, largest, present, kept, width)
        stays = (base == kept) & (doublings == _NO_DOUBLING)
        choice = xp.where(stays & ~thresholds.are_due(), present, choice)
    base, doublings = _base_and_doublings(xp, largest, choice, kept, width)
    scale = base * bits_float(xp, doublings + 1 << 23)
    some = largest > 0
    scale = xp.where(scale >= LEAST_SCALE, scale, xp.full_like(scale, LEAST_SCALE))
    scale = xp.where(some, scale, xp.zeros_like(scale))
    inverse = xp.where(some, 1.0 / xp.where(some, scale, xp.ones_like(scale)), scale)
    added = _added(xp, choice, width, thresholds)
    codes = _codes_of(xp, _separate(xp, size * inverse), choice, width, added, higher=0.5)
    # Zeros alone have code 0. The bits of other numbers are at least their code: below 2⁸ they are those of numbers far below
    # one unit, which have code 1.
    codes = xp.minimum(xp.maximum(codes, xp.ones_like(codes)), cast(float_bits(xp, size), xp.int32))
    codes = xp.where(xp.isfinite(x), codes, xp.full_like(codes, width.infinity_unsigned))
    codes = xp.where(x != x, xp.full_like(codes, width.nan_unsigned), codes)
    return codes, _stored(xp, scale, choice, marked)


def _times(scale: Array, factor: Array | None) -> Array:
    return scale if factor is None else factor * scale


def decode(xp: Any, codes: Array, stored: Array, has_sign: bool, width: Width, factor: Array | None = None) -> Array:
    """The float32 values of codes, each block with its stored number, times a factor if there is one."""
    return (decode_signed if has_sign else decode_unsigned)(xp, codes, stored, width, factor)


def encode_next(
    xp: Any,
    x: Array,
    moved: Array,
    codes: Array,
    stored: Array,
    has_sign: bool,
    thresholds: Thresholds | None,
    decay: Array | float,
    second: Array | None,
    counts: bool,
    width: Width,
) -> tuple[Array, Array]:
    """The codes and stored numbers of a state after a step.

    Args:
        xp: the namespace.
        x: the float32 values.
        moved: whether the step has done more to each of them than to decay.
        codes: the codes before the step.
        stored: the stored numbers before the step.
        has_sign: whether the codes have a sign.
        thresholds: those of ``encode_signed`` and ``encode_unsigned``, as are the other arguments.
        decay: the factor by which the rule multiplied the values.
        second: the choice of the second moment's block.
        counts: whether a block makes a choice of its own.
        width: the width of the codes.
    """
    if has_sign:
        after, found = encode_signed(xp, x, thresholds, decay, second, counts, width)
    else:
        after, found = encode_unsigned(xp, x, stored, thresholds, decay, width)
    lower, can_keep = faded(xp, stored, decay)
    is_kept = can_keep & ~xp.any(moved, -1, keepdims=True)
    return xp.where(is_kept, codes, after), xp.where(is_kept, lower, found)


def encode_anew(
    xp: Any, x: Array, has_sign: bool, width: Width, second: Array | None = None, counts: bool = True
) -> tuple[Array, Array]:
    """The codes and stored numbers of float32 values that had none before, rounded to the nearest.

    ``second`` and ``counts`` are those of ``encode_signed``.
    """
    return (
        encode_signed(xp, x, second=second, counts=counts, width=width)
        if has_sign
        else encode_unsigned(xp, x, xp.zeros_like(x[..., :1]), width=width)
    )


def chosen_unsigned(xp: Any, x: Array, width: Width = INT8) -> Array:
    """The choice that blocks of nonnegative float32 values take if they are encoded for the first time."""
    size, largest, _ = _finite_sizes(xp, x)
    none = xp.zeros_like(largest)
    return _chosen_unsigned(xp, size, largest, none, choice_of(xp, none), width)


def _chosen_signed(xp: Any, size: Array, largest: Array, width: Width) -> Array:
    counts, none = float_bits(xp, size) > 0, xp.zeros_like(float_bits(xp, largest))
    return _chosen(xp, size, counts, largest, width.largest_signed, width.floor_signed, SHARE_SIGNED, none)


def _chosen_unsigned(xp: Any, size: Array, largest: Array, kept: Array, before: Array, width: Width) -> Array:
    counts = float_bits(xp, size) > float_bits(xp, kept * _BOTTOM)
    return _chosen(xp, size, counts, largest, width.largest_unsigned, width.floor_unsigned, SHARE_UNSIGNED, before)


def _base_and_doublings(xp: Any, largest: Array, choice: Array, kept: Array, width: Width) -> tuple[Array, Array]:
    """What a scale is a power of two times, and how often it is doubled, as the exponent's bits of a float32.

    The base is the scale so far, or 1 if that is out of range or far from what is needed.
    """
    need = largest * _of_choice(xp, choice, largest, [1 / top for top in width.largest_unsigned])
    base = xp.where((kept >= _LEAST) & (kept <= _MOST), kept, xp.ones_like(kept))
    ratio = need * (1.0 / base)
    usable = (ratio >= _LEAST) & (ratio <= _MOST)
    base, ratio = xp.where(usable, base, xp.ones_like(base)), xp.where(usable, ratio, need)
    return base, float_bits(xp, ratio) >> 23


def _kept(xp: Any, before: Array, decay: Array | float) -> Array:
    """The scales so far, after the decay."""
    scale = scale_of(xp, before)
    return rounded_scale(xp, scale * cast(xp.zeros_like(scale) + decay, xp.float32))


def faded(xp: Any, before: Array, decay: Array | float) -> tuple[Array, Array]:
    """The stored number of each block after a step that adds nothing to it, and whether the block can keep its codes."""
    scale, marked = _kept(xp, before, decay), is_marked(xp, before)
    return _stored(xp, scale, choice_of(xp, before), marked), ~marked & (scale >= _LEAST)
