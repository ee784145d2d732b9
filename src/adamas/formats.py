"""How weights and moments are stored, as readable reference code over an array namespace.

Everything here works on NumPy arrays and on PyTorch tensors alike (``xp`` is ``numpy`` or ``torch``), in 64-bit integers
with explicit masks. The engine has the same functions in C++ and returns the same bits; on devices that the engine has no
kernel for, these are what runs. Stored 16-bit values are codes, integers from 0 to 65535. This module imports no framework.
"""

from __future__ import annotations

from typing import Any

Array = Any

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_QUIET_NAN = 0x7FC00000


def cast(x: Array, dtype: Any) -> Array:
    """``x`` as ``dtype``, whichever library it is of."""
    return x.to(dtype) if hasattr(x, "to") else x.astype(dtype)


def float_bits(xp: Any, x: Array) -> Array:
    """The bits of a float32 array, as int64 from 0 to 2³² − 1."""
    return cast(x.view(xp.int32), xp.int64) & _MASK32


def bits_float(xp: Any, bits: Array) -> Array:
    """The float32 array with these bits."""
    return cast(bits - ((bits >> 31) << 32), xp.int32).view(xp.float32)


# Randomness: a function of (seed, tensor, step, draw, element), never a stream.


def mix64(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def random_bits(xp: Any, index: Array, tensor_key: int, step: int, draw: int) -> Array:
    """32 random bits for each element of ``index`` (int64, below 2³²), as int64.

    ``tensor_key`` has the seed in it already; ``draw`` numbers the independent draws of one step.
    """
    key = mix64(mix64(mix64(tensor_key ^ mix64(step)) + draw))  # the engine adds the index's high half here
    first, second = key & _MASK32, key >> 32
    x = index ^ first
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK32
    x = (x + second) & _MASK32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK32
    return x ^ (x >> 16)


# Which 16 bits of which draw round what: (number of the draw, shift).
DRAWS = {"first": (0, 0), "second": (0, 16), "weight": (1, 0), "trace": (1, 16)}


def random16(xp: Any, index: Array, tensor_key: int, step: int, what: str) -> Array:
    """The 16 random bits that round the weight or a moment (``what`` is a key of ``DRAWS``)."""
    draw, shift = DRAWS[what]
    return random_bits(xp, index, tensor_key, step, draw) >> shift & 0xFFFF


# bfloat16: the upper half of a float32.


def decode_bfloat16(xp: Any, codes: Array) -> Array:
    """The float32 values of bfloat16 codes."""
    return bits_float(xp, codes << 16)


def encode_bfloat16(xp: Any, x: Array, random: Array | None = None) -> Array:
    """The bfloat16 codes of float32 values: to the nearest, ties to even, or stochastically.

    With ``random`` (16 bits an element) a value is rounded up with the probability of the fraction that it has above the
    lower neighbour, so that the result is right on average.
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
    """The distance of float16's neighbours at |x| (float32)."""
    exponent = float_bits(xp, magnitude) & 0x7F800000
    least, most = (127 - 14) << 23, (127 + 16) << 23
    exponent = xp.where(exponent < least, xp.full_like(exponent, least), exponent)
    exponent = xp.where(exponent > most, xp.full_like(exponent, most), exponent)
    return bits_float(xp, exponent - (10 << 23))


def encode_float16(xp: Any, x: Array, random: Array | None = None) -> Array:
    """The float16 codes of float32 values: to the nearest, ties to even, or stochastically.

    Of ``random``, 13 bits count: as many as a normal number loses.
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


# Split weights: the parameter is the float32 weight rounded to 16 bits, and `low` is what that left out.


def split_bfloat16(xp: Any, x: Array) -> tuple[Array, Array]:
    """Codes of the bfloat16 nearest to each float32 (ties away from zero), and the 16 bits that were cut off."""
    bits = float_bits(xp, x)
    bits = xp.where(x != x, xp.full_like(bits, _QUIET_NAN), bits)
    return (bits + 0x8000) >> 16 & 0xFFFF, bits & 0xFFFF


def join_bfloat16(xp: Any, high: Array, low: Array) -> Array:
    """The float32 that ``split_bfloat16`` split, bit for bit; near ``high`` where that was changed in between."""
    signed = low - ((low >> 15) << 16)
    # Nothing splits into a zero and a rest that takes away: the weight was set to zero from outside.
    signed = xp.where((high & 0x7FFF == 0) & (signed < 0), 0 * signed, signed)
    return bits_float(xp, ((high << 16) + signed) & _MASK32)


def split_float16(xp: Any, x: Array) -> tuple[Array, Array]:
    """Codes of the nearest float16, and what is left in units of 2⁻¹⁵ of the spacing there.

    All 24 bits of a float32 are kept down to 2⁻¹⁴; below that the unit is an absolute 2⁻³⁹.
    """
    high = encode_float16(xp, x)
    value = decode_float16(xp, high)
    rest = (x - value) / (float16_spacing(xp, xp.abs(value)) * 2.0**-15)
    rest = xp.where(xp.abs(rest) <= 16384, rest, xp.zeros_like(rest))
    half = xp.where(rest < 0, xp.full_like(rest, -0.5), xp.full_like(rest, 0.5))
    return high, cast(rest + half, xp.int64) & 0xFFFF


def join_float16(xp: Any, high: Array, low: Array) -> Array:
    """The float32 that ``split_float16`` split."""
    value = decode_float16(xp, high)
    signed = low - ((low >> 15) << 16)
    return value + cast(signed, xp.float32) * (float16_spacing(xp, xp.abs(value)) * 2.0**-15)
