// The storage formats: one decoder and one encoder per format, each a plain loop over a block. The reference is
// adamas/rule/formats.py, which gives the same bits. All arithmetic is on integers, so that it can be vectorised for
// every instruction set.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "random.h"
#include "tensor.h"

namespace adamas::ADAMAS_ISA {

inline float bits_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t float_bits(float x) { return std::bit_cast<uint32_t>(x); }

// ---- bfloat16: the upper half of a float32

struct bf16 {
    uint16_t bits;
};

inline float from_bf16(uint16_t x) { return bits_float(uint32_t(x) << 16); }

inline uint16_t to_bf16(float x) {
    const uint32_t bits = float_bits(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return x != x ? uint16_t(0x7fc0) : uint16_t(rounded);
}

// Rounds up with the probability of the discarded fraction: unbiased. `random` has 16 bits.
inline uint16_t to_bf16(float x, uint32_t random) {
    return x != x ? uint16_t(0x7fc0) : uint16_t((float_bits(x) + random) >> 16);
}

// ---- float16: 1 sign, 5 exponent and 10 mantissa bits; below 2^-14 the spacing stays 2^-24

inline float from_f16(uint16_t x) {
    const uint32_t magnitude = x & 0x7fff, sign = uint32_t(x & 0x8000) << 16;
    const uint32_t special = magnitude >= 0x7c00 ? 112u << 23 : 0u; // infinity and NaN keep their mantissa
    const uint32_t normal = (magnitude << 13) + (112u << 23) + special;
    const uint32_t subnormal = float_bits(float(int32_t(magnitude)) * 0x1p-24f);
    return bits_float((magnitude < 0x400 ? subnormal : normal) | sign);
}

inline float magnitude_of(float x) { return bits_float(float_bits(x) & 0x7fffffffu); }

inline uint16_t pack_f16(float x, uint32_t magnitude) {
    magnitude = magnitude > 0x7c00u ? 0x7c00u : magnitude; // beyond the largest number: infinity
    magnitude = x != x ? 0x7e00u : magnitude;
    return uint16_t(magnitude | (float_bits(x) >> 16 & 0x8000u));
}

constexpr float f16_least_normal = 0x1p-14f;
constexpr uint32_t f16_bias = 112u << 10; // between the exponents of float32 and of float16

inline uint16_t to_f16(float x) {
    const float size = magnitude_of(x);
    const uint32_t bits = float_bits(size);
    const uint32_t normal = ((bits + 0xfffu + ((bits >> 13) & 1u)) >> 13) - f16_bias;
    // The sum with 1/2 has a spacing of 2^-24, so that the addition rounds.
    const uint32_t subnormal = float_bits(size + 0.5f) - float_bits(0.5f);
    return pack_f16(x, size < f16_least_normal ? subnormal : normal);
}

// Only the upper 13 bits of `random` are used, as many as are cut off.
inline uint16_t to_f16(float x, uint32_t random) {
    const float size = magnitude_of(x);
    const uint32_t normal = ((float_bits(size) + (random >> 3)) >> 13) - f16_bias;
    const float limited = size < f16_least_normal ? size : 0.0f;
    const uint32_t subnormal = uint32_t(int32_t(limited * 0x1p24f + float(int32_t(random >> 3)) * 0x1p-13f));
    return pack_f16(x, size < f16_least_normal ? subnormal : normal);
}

// The spacing of float16 numbers at |x|.
inline float f16_spacing(float size) {
    const uint32_t exponent = float_bits(size) & 0x7f800000u;
    const uint32_t least = uint32_t(127 - 14) << 23; // the smallest normal number
    const uint32_t most = uint32_t(127 + 16) << 23;  // infinity
    const uint32_t raised = exponent < least ? least : exponent;
    return bits_float((raised > most ? most : raised) - (uint32_t(10) << 23));
}

// ---- split weights: the parameter is the float32 weight rounded to 16 bits, and `low` is the remainder

inline float join_bf16(uint16_t high, uint16_t low) {
    const uint32_t upper = uint32_t(high) << 16;
    const int32_t size = int32_t(upper & 0x7fffffffu) + int16_t(low);
    // No weight is split into a zero and a negative remainder: the weight was set to zero from outside.
    return bits_float(uint32_t(size > 0 ? size : 0) | (upper & 0x80000000u));
}

inline void split_bf16(float x, uint16_t &high, uint16_t &low) {
    const uint32_t bits = x != x ? 0x7fc00000u : float_bits(x);
    high = uint16_t((bits + 0x8000u) >> 16);
    low = uint16_t(bits);
}

// For float16, the unit of the remainder is 2^-15 of the parameter's spacing. That keeps all 24 bits of a float32 down
// to 2^-14; below, the unit is an absolute 2^-39.
inline float join_f16(uint16_t high, uint16_t low) {
    const float value = from_f16(high), unit = f16_spacing(magnitude_of(value)) * 0x1p-15f;
    return value + float(int16_t(low)) * unit;
}

inline void split_f16(float x, uint16_t &high, uint16_t &low) {
    high = to_f16(x);
    const float value = from_f16(high), unit = f16_spacing(magnitude_of(value)) * 0x1p-15f;
    const float rest = (x - value) / unit; // at most 2^14, or not finite if the weight is not
    low = uint16_t(int16_t(magnitude_of(rest) <= 16384.0f ? rest + (rest < 0 ? -0.5f : 0.5f) : 0.0f));
}

// ---- whole blocks

template <class T> void decode(Format format, const char *from, T *to, int n) {
    const auto loop = [&](auto *source, auto &&convert) {
#pragma omp simd
        for (int i = 0; i < n; ++i) to[i] = T(convert(source[i]));
    };
    switch (format) {
    case Format::f32: return loop(reinterpret_cast<const float *>(from), [](float x) { return x; });
    case Format::f64: return loop(reinterpret_cast<const double *>(from), [](double x) { return x; });
    case Format::bf16: return loop(reinterpret_cast<const uint16_t *>(from), [](uint16_t x) { return from_bf16(x); });
    case Format::f16: return loop(reinterpret_cast<const uint16_t *>(from), [](uint16_t x) { return from_f16(x); });
    case Format::i16: return;
    }
}

template <class T> void encode(Format format, const T *from, char *to, int n) {
    const auto loop = [&](auto *target, auto &&convert) {
#pragma omp simd
        for (int i = 0; i < n; ++i) target[i] = convert(from[i]);
    };
    switch (format) {
    case Format::f32: return loop(reinterpret_cast<float *>(to), [](T x) { return float(x); });
    case Format::f64: return loop(reinterpret_cast<double *>(to), [](T x) { return double(x); });
    case Format::bf16: return loop(reinterpret_cast<uint16_t *>(to), [](T x) { return to_bf16(float(x)); });
    case Format::f16: return loop(reinterpret_cast<uint16_t *>(to), [](T x) { return to_f16(float(x)); });
    case Format::i16: return;
    }
}

// bfloat16 and float16. The thresholds advance by a constant from the first one; the upper half of each is used.
template <class T> void encode_stochastic(Format format, const T *from, char *to, int n, uint32_t threshold) {
    const auto loop = [&](auto *__restrict target, auto &&convert) {
        // Added up, since a vectorised multiplication of 32 bits is slow.
        for (int i = 0; i < n; ++i, threshold += position_forward) target[i] = convert(float(from[i]), threshold >> 16);
    };
    auto *target = reinterpret_cast<uint16_t *>(to);
    if (format == Format::bf16)
        loop(target, [](float x, uint32_t random) { return to_bf16(x, random); });
    else
        loop(target, [](float x, uint32_t random) { return to_f16(x, random); });
}

template <class T> void decode_split(Format format, const char *high, const char *low, T *to, int n) {
    const auto *upper = reinterpret_cast<const uint16_t *>(high), *lower = reinterpret_cast<const uint16_t *>(low);
    if (format == Format::bf16) {
#pragma omp simd
        for (int i = 0; i < n; ++i) to[i] = T(join_bf16(upper[i], lower[i]));
    } else {
#pragma omp simd
        for (int i = 0; i < n; ++i) to[i] = T(join_f16(upper[i], lower[i]));
    }
}

template <class T> void encode_split(Format format, const T *from, char *high, char *low, int n) {
    auto *__restrict upper = reinterpret_cast<uint16_t *>(high);
    auto *__restrict lower = reinterpret_cast<uint16_t *>(low);
    if (format == Format::bf16) {
#pragma omp simd
        for (int i = 0; i < n; ++i) split_bf16(float(from[i]), upper[i], lower[i]);
    } else {
#pragma omp simd
        for (int i = 0; i < n; ++i) split_f16(float(from[i]), upper[i], lower[i]);
    }
}

} // namespace adamas::ADAMAS_ISA
