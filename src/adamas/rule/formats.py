"""How weights and moments are stored, as readable reference code over an array namespace.

Everything here works on NumPy arrays and on PyTorch tensors alike (``xp`` is ``numpy`` or ``torch``). Bits are held in int64
and masked explicitly, so the same code also works in uint32 (which ``adamas.optax`` uses with ``jax.numpy``). The engine
implements the same functions in C++ and returns the same bits; on devices that the engine has no kernel for, the functions of
this module run. Stored 16-bit values are codes, integers from 0 to 65535. This module imports no framework.
"""

from __future__ import annotations

import hashlib
from typing import Any

Array = Any

_MASK31 = 0x7FFFFFFF
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_QUIET_NAN = 0x7FC00000


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


def random_bits(xp: Any, index: Array, tensor_key: int, draw: int) -> Array:
    """32 random bits for each element of ``index`` (int64, below 2³²), as int64.

    ``tensor_key`` already contains the seed; ``draw`` numbers the independent draws of one tensor.
    """
    key = mix64(mix64(tensor_key + draw))  # the engine also adds the upper half of a 64-bit index here
    first, second = key & _MASK32, key >> 32
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


def thresholds(xp: Any, block: Array, position: Array, tensor_key: int, step: int, draw: int) -> Array:
    """The 32-bit thresholds that round the weight or a state tensor.

    ``block`` is the index of a block in the whole tensor and ``position`` that of an element in its block; both are int64
    and are broadcast. ``draw`` is the index of the draw (``adamas.rule.declaration.State.draw``).
    """
    start = random_bits(xp, block, tensor_key, draw) + (_STEP * step & _MASK32)
    return start + _POSITION * position & _MASK32


def random16(xp: Any, index: Array, tensor_key: int, step: int, draw: int) -> Array:
    """The 16-bit thresholds of the elements with these indices in the whole tensor (int64)."""
    return thresholds(xp, index >> 7, index & (BLOCK - 1), tensor_key, step, draw) >> 16


def random18(xp: Any, block: Array, position: Array, tensor_key: int, step: int, draw: int) -> Array:
    """The 18-bit thresholds of 8-bit codes; each block has one scale.

    14 bits are random. The others are constant, so that a value that differs from a code's only in its last bits is always
    rounded to that code.
    """
    return thresholds(xp, block, position, tensor_key, step, draw) >> 18 << 4 | 8


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
    units = xp.where(size < 2.0**-14, size, xp.zeros_like(size)) * 2.0**24
    if random is None:
        normal = (magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13
        subnormal = cast(xp.round(units), xp.int64)
    else:
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


# int8: a byte for each moment and a float32 scale for each block of a row.
#
# The value of a code c is grid(c) times the scale. The grid has eight segments of 32 codes, each with twice the spacing of
# the segment before, so small numbers are nearly as precise as large ones. It is the grid of floating-point numbers with a
# mantissa of 5 bits, shifted to begin at 0. Codes are therefore read and written with integer operations alone. The grid is
# linear between adjacent codes, so stochastic rounding is unbiased in the value itself.
#
# Signed states are scaled by the largest magnitude in the block, which is stored exactly; a code consists of the sign and
# the code of the magnitude. They are rounded to the nearest, except for slow averages, which are rounded stochastically: with
# β = 0.9999, a step adds 1/10000 of the gradient, while adjacent codes differ by at least 1/472 of the largest value, so
# rounding to the nearest would never change a code. Stochastic rounding changes a code only in some of the steps, and each
# change adds an error of the size of the spacing; evenly spread thresholds keep the sum of these errors small
# (benchmarks/slow_average.py). Keeping the scale from step to step would not reduce it further: the remaining error comes
# from the noise of the gradients.
#
# Unsigned states are read half a unit higher, so that a positive value is never read as 0. Their scale decays with them, by
# the rule's factor, and is doubled or halved when they no longer fit. While nothing is added, no code changes.
#
# The scale of a block with nonfinite values is negative; such a block is called marked. In a marked block of signed codes,
# -128 is NaN, ±127 is ±infinity, and the scale is chosen so that finite values need codes only up to ±126. Unsigned codes of
# finite values end at 253 in any block; in a marked block, 254 is NaN and 255 is infinity.

LARGEST_SIGNED = 472  # grid(127)
LARGEST_SIGNED_MARKED = 464  # grid(126)
LARGEST_UNSIGNED = 7680  # below grid(253) + 1/2, so that nothing rounds up to 254
_NAN_SIGNED, _INFINITY_SIGNED = -128, 127
_NAN_UNSIGNED, _INFINITY_UNSIGNED = 254, 255
_SHIFT = 18
_START = (127 + 5) << 23  # the bits of 32.0
_HALF = 1 << (_SHIFT - 1)
LEAST_ROW, LEAST_NUMEL = 32, 4096  # below these sizes, 8 bits would save next to nothing: the moments stay in float32
LEAST_SIGNED = 2.0**-100  # a block of signed values that are all smaller becomes a block of zeros
LEAST_SCALE = 2.0**-126
# A scale outside this range, or off from the needed one by a factor outside it, is computed from scratch.
_LEAST, _MOST = 2.0**-120, 2.0**120


def grid(xp: Any, codes: Array) -> Array:
    """(32 + c mod 32)·2^⌊c / 32⌋ − 32 for codes c from 0 to 255, as float32: 0, 1, 2, … 32, 34, 36, …"""
    return bits_float(xp, _START + (codes << _SHIFT)) - 32


def _codes_of(xp: Any, shifted: Array, threshold: Array | int) -> Array:
    """The codes of values in units of the scale, shifted to begin at 32. They round up where adding the threshold carries."""
    return cast((float_bits(xp, shifted) + threshold >> _SHIFT) - (_START >> _SHIFT), xp.int32)


def _largest(xp: Any, x: Array) -> Array:
    """The largest finite |x| of each block (the last dimension, kept with size 1)."""
    size = xp.where(xp.isfinite(x), xp.abs(x), xp.zeros_like(x))
    return xp.amax(size, -1, keepdims=True)


def _has_nonfinite(xp: Any, x: Array) -> Array:
    """Whether each block (the last dimension, kept with size 1) has nonfinite values."""
    return xp.any(~xp.isfinite(x), -1, keepdims=True)


def _is_marked(xp: Any, scale: Array) -> Array:
    """Whether the sign bit of the scale is set, including that of -0.0."""
    return float_bits(xp, scale) > _MASK31


def can_be_marked(xp: Any, codes: Array, has_sign: bool) -> Array:
    """Whether each block of codes (the last dimension) can have a negative scale.

    Such a block has a nonfinite value. In every block of signed codes, the largest magnitude has code ±127; only in a marked
    block is that an infinity, and then the largest finite magnitude has code ±126.
    """
    if not has_sign:
        return (codes >= _NAN_UNSIGNED).any(-1)
    size = xp.abs(codes)
    return (codes == _NAN_SIGNED).any(-1) | (
        (size == _INFINITY_SIGNED).any(-1) & (size == _INFINITY_SIGNED - 1).any(-1)
    )


def decode_signed(xp: Any, codes: Array, scale: Array) -> Array:
    """The float32 values of codes from -128 to 127 (int64), each block with its scale."""
    size = xp.abs(codes)
    value = grid(xp, size) * xp.abs(scale)
    marked = _is_marked(xp, scale)
    value = xp.where(marked & (size == _INFINITY_SIGNED), xp.full_like(value, float("inf")), value)
    value = xp.where(codes < 0, -value, value)
    return xp.where(marked & (codes == _NAN_SIGNED), xp.full_like(value, float("nan")), value)


def encode_signed(xp: Any, x: Array, threshold: Array | None = None) -> tuple[Array, Array]:
    """The codes of float32 values, and the scale of each block (the last dimension, kept with size 1).

    Values are rounded stochastically with ``threshold`` (18 bits per element), and to the nearest without it.
    """
    largest = _largest(xp, x)
    some = largest >= LEAST_SIGNED
    marked = _has_nonfinite(xp, x)
    most = xp.where(marked, xp.full_like(largest, LARGEST_SIGNED_MARKED), xp.full_like(largest, LARGEST_SIGNED))
    # A compiler may replace a division by a constant with a multiplication, which rounds differently. Adding 0 * largest
    # keeps the divisor from being a constant.
    scale = xp.where(some, largest / (most + 0 * largest), xp.zeros_like(largest))
    inverse = xp.where(some, 1 / xp.where(some, scale, xp.ones_like(scale)), scale)
    size = xp.where(xp.isfinite(x), xp.abs(x), xp.zeros_like(x))
    codes = _codes_of(xp, _separate(xp, size * inverse) + 32, _HALF if threshold is None else threshold)
    codes = xp.where(xp.isfinite(x), codes, xp.full_like(codes, _INFINITY_SIGNED))
    codes = xp.where(x < 0, -codes, codes)
    codes = xp.where(x != x, xp.full_like(codes, _NAN_SIGNED), codes)
    return codes, xp.where(marked, -scale, scale)


def decode_unsigned(xp: Any, codes: Array, scale: Array) -> Array:
    """The float32 values of codes from 0 to 255 (int64), each block with its scale."""
    value = (grid(xp, codes) + 0.5) * xp.abs(scale)
    marked = _is_marked(xp, scale)
    value = xp.where(marked & (codes == _INFINITY_UNSIGNED), xp.full_like(value, float("inf")), value)
    return xp.where(marked & (codes == _NAN_UNSIGNED), xp.full_like(value, float("nan")), value)


def encode_unsigned(xp: Any, x: Array, kept: Array, threshold: Array | None = None) -> tuple[Array, Array]:
    """The codes of nonnegative float32 values, and the scale of each block (the last dimension, kept with size 1).

    ``kept`` is the scales so far, after the decay, or 0 where there were none. Values are rounded stochastically with
    ``threshold`` (18 bits per element), and to the nearest without it.
    """
    largest = _largest(xp, x)
    need = largest * (1 / LARGEST_UNSIGNED)
    kept = xp.abs(kept)
    kept = xp.where((kept >= _LEAST) & (kept <= _MOST), kept, xp.ones_like(kept))
    ratio = need * (1 / kept)
    usable = (ratio >= _LEAST) & (ratio <= _MOST)
    kept, ratio = xp.where(usable, kept, xp.ones_like(kept)), xp.where(usable, ratio, need)
    doublings = float_bits(xp, ratio) >> 23  # the exponent's bits: 126 where the ratio is in [1/2, 1)
    scale = kept * bits_float(xp, doublings + 1 << 23)
    scale = xp.where(scale >= LEAST_SCALE, scale, xp.full_like(scale, LEAST_SCALE))
    some = largest > 0
    inverse = xp.where(some, 1 / scale, xp.zeros_like(scale))
    scale = xp.where(some, scale, xp.zeros_like(scale))
    size = xp.where(xp.isfinite(x), x, xp.zeros_like(x))
    shifted = _separate(xp, size * inverse) + 31.5
    shifted = xp.where(shifted > 32, shifted, xp.full_like(shifted, 32.0))
    codes = _codes_of(xp, shifted, _HALF if threshold is None else threshold)
    codes = xp.where(xp.isfinite(x), codes, xp.full_like(codes, _INFINITY_UNSIGNED))
    codes = xp.where(x != x, xp.full_like(codes, _NAN_UNSIGNED), codes)
    return codes, xp.where(_has_nonfinite(xp, x), -scale, scale)
