// Vector registers: a small wrapper for each instruction set, so that an algorithm is written once. They are used where
// plain loops are not fast enough: for 8-bit moments, which are limited by arithmetic, not by memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "formats.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace adamas::ADAMAS_ISA {

// ---- a single number

// a·b + c, rounded once if the hardware supports it. It is explicit, because a compiler could contract differently in a
// loop's body and in its remainder, and then the bits would depend on where a block ends.
template <class T> inline T fused(T a, T b, T c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}
template <class T> inline T fused_less(T a, T b, T c) { return fused(a, b, -c); } // a·b - c
template <class T> inline T fused_from(T a, T b, T c) { return fused(-a, b, c); } // c - a·b
template <class T> inline T larger(T a, T b) { return a > b ? a : b; }            // b if either is NaN
template <class T> inline T magnitude(T a) { return std::fabs(a); }
template <class T> inline T sign(T a) { return std::fabs(a) > 0 ? std::copysign(T(1), a) : a + T(0); } // NaN of NaN
template <class T> inline T choose(bool condition, T a, T b) { return condition ? a : b; }
template <class T> inline T maximum(T a, T b) { return choose(a == a, larger(a, b), a); } // NaN if either is
template <class T> inline T root(T a) { return std::sqrt(a); }
template <class T> inline T estimated_root(T x, T a) { return root(x + a); }
template <class T> inline T estimated_quotient(T a, T b) { return a / b; }

// The decayed state, but zero if the gradient is zero and the state is below the smallest normal number. Otherwise a
// decaying state would stay at the smallest subnormal numbers because of rounding, which slows x86 processors down
// several times.
template <class T> inline T decayed(T decay, T state, T gradient) {
    const bool faded = (gradient == 0) & (std::fabs(state) < std::numeric_limits<T>::min());
    return faded ? T(0) : decay * state;
}

// ---- a vector register

// Codes are stored one byte each, in order. A group is as many as fit in one register: four registers of integers.
// `store_signed_codes` gives them the signs of the values x. `store_unsigned_codes` stores the lowest byte of each, but
// at least 1, and 0 where the value is 0; no value is negative. `largest_of_four` has the largest number of each of
// four registers in the first four lanes.

#if defined(__AVX512F__)

struct Floats {
    __m512 x;
};
struct Ints {
    __m512i x;
};
struct Mask {
    __mmask16 x;
};
constexpr int width = 16;

inline Floats splat(float x) { return {_mm512_set1_ps(x)}; }
inline Ints splat(uint32_t x) { return {_mm512_set1_epi32(int(x))}; }
inline Floats load(const float *from) { return {_mm512_loadu_ps(from)}; }
inline Ints load(const uint32_t *from) { return {_mm512_loadu_si512(from)}; }
inline void store(float *to, Floats a) { _mm512_storeu_ps(to, a.x); }
inline void store(uint32_t *to, Ints a) { _mm512_storeu_si512(to, a.x); }
inline Floats load_first(const float *from, int n) { // 0 in the other lanes
    return {_mm512_maskz_loadu_ps(__mmask16((1u << std::min(n, width)) - 1), from)};
}
inline Floats looked_up(const float (&table)[4], Ints index) {
    return {_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(table)), index.x)};
}

inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.x, b.x)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.x, b.x)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.x, b.x)}; }
inline Floats fused(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.x, b.x)}; }
inline Floats fused_less(Floats a, Floats b, Floats c) { return {_mm512_fmsub_ps(a.x, b.x, c.x)}; }
inline Floats fused_from(Floats a, Floats b, Floats c) { return {_mm512_fnmadd_ps(a.x, b.x, c.x)}; }
inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.x, b.x)}; }
inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.x)}; }
inline Floats root(Floats a) { return {_mm512_sqrt_ps(a.x)}; }
inline Mask operator<(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.x, b.x, _CMP_LT_OQ)}; }
inline Mask operator<=(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.x, b.x, _CMP_LE_OQ)}; }
inline Mask operator==(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.x, b.x, _CMP_EQ_OQ)}; }
inline Mask operator!=(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.x, b.x, _CMP_NEQ_UQ)}; }
inline Floats choose(Mask condition, Floats a, Floats b) { return {_mm512_mask_blend_ps(condition.x, b.x, a.x)}; }

inline Ints bits_of(Floats a) { return {_mm512_castps_si512(a.x)}; }
inline Floats from_bits(Ints a) { return {_mm512_castsi512_ps(a.x)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.x, b.x)}; }
inline Ints operator&(Ints a, Ints b) { return {_mm512_and_si512(a.x, b.x)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.x, b.x)}; }
template <int n> Ints shifted(Ints a) { // to the left, or by a negative n to the right
    if constexpr (n >= 0)
        return {_mm512_slli_epi32(a.x, n)};
    else
        return {_mm512_srli_epi32(a.x, -n)};
}
inline Ints shifted_left(Ints a, Ints n) { return {_mm512_sllv_epi32(a.x, n.x)}; }
inline Ints shifted_right(Ints a, Ints n) { return {_mm512_srlv_epi32(a.x, n.x)}; }
inline Ints larger(Ints a, Ints b) { return {_mm512_max_epi32(a.x, b.x)}; }
inline Ints smaller_where(Mask condition, Ints a, Ints b) { // b elsewhere
    return {_mm512_mask_min_epu32(b.x, condition.x, a.x, b.x)};
}
inline Mask is_zero(Ints a) { return {_mm512_testn_epi32_mask(a.x, a.x)}; }
inline Mask operator&(Mask a, Mask b) { return {_mm512_kand(a.x, b.x)}; }
inline Mask operator!(Mask a) { return {_mm512_knot(a.x)}; }
inline uint32_t bits_of(Mask a) { return a.x; } // one for each lane
inline Ints or_masked(Ints a, Ints b, Ints mask) { return {_mm512_ternarylogic_epi32(a.x, b.x, mask.x, 0xF8)}; }
inline int largest(Ints a) { return _mm512_reduce_max_epi32(a.x); }
inline float sum(Floats a) { return _mm512_reduce_add_ps(a.x); }
inline Ints largest_of_four(const Ints *a) {
    const auto quarters = [](__m512i x, __m512i y) { // the larger ones of neighbours, those of x and y in turn
        return _mm512_max_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
    };
    __m512i x = quarters(quarters(a[0].x, a[2].x), quarters(a[1].x, a[3].x));
    x = _mm512_max_epi32(x, _mm512_shuffle_i64x2(x, x, 0x0e));
    return {_mm512_max_epi32(x, _mm512_shuffle_i64x2(x, x, 0x01))};
}

// An accuracy of 14 bits is far finer than a code. The root requires a > 0; the root of infinity is infinite.
inline Floats estimated_positive_root(Floats a) {
    return {_mm512_mul_ps(a.x, _mm512_rsqrt14_ps(_mm512_min_ps(a.x, _mm512_set1_ps(0x1.fffffep127f))))};
}
inline Floats estimated_quotient(Floats a, Floats b) { return {_mm512_mul_ps(a.x, _mm512_rcp14_ps(b.x))}; }

template <bool with_sign> Ints load_codes(const uint8_t *from) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return {with_sign ? _mm512_cvtepi8_epi32(codes) : _mm512_cvtepu8_epi32(codes)};
}
// Packing works on quarters.
inline void store_packed(__m512i bytes, uint8_t *to) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
}
inline void store_signed_codes(const Ints (&a)[4], const Floats (&x)[4], uint8_t *to) {
    const auto packed = [](Ints a, Ints b, Ints c, Ints d) {
        return _mm512_packs_epi16(_mm512_packs_epi32(a.x, b.x), _mm512_packs_epi32(c.x, d.x));
    };
    const __m512i codes = packed(a[0], a[1], a[2], a[3]);
    const __mmask64 negative = _mm512_movepi8_mask(packed(bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])));
    store_packed(_mm512_mask_sub_epi8(codes, negative, _mm512_setzero_si512(), codes), to);
}
inline void store_unsigned_codes(const Ints (&a)[4], const Floats (&x)[4], uint8_t *to) {
    const auto cut = [](Ints a, Ints b) {
        return _mm512_and_si512(_mm512_packus_epi32(a.x, b.x), _mm512_set1_epi16(255));
    };
    const auto saturated = [](Floats a, Floats b) { return _mm512_packs_epi32(bits_of(a).x, bits_of(b).x); };
    const __m512i codes = _mm512_packus_epi16(cut(a[0], a[1]), cut(a[2], a[3]));
    const __m512i positive = _mm512_packus_epi16(saturated(x[0], x[1]), saturated(x[2], x[3]));
    store_packed(_mm512_min_epu8(_mm512_max_epu8(codes, _mm512_set1_epi8(1)), positive), to);
}
inline Ints magnitude(Ints a) { return {_mm512_abs_epi32(a.x)}; }

// Counts the lanes for which conditions hold.
struct Counter {
    int count = 0;
    void add(Mask a) { count += std::popcount(uint32_t(a.x)); }
    int total() const { return count; }
};

#elif defined(__AVX2__)

struct Floats {
    __m256 x;
};
struct Ints {
    __m256i x;
};
struct Mask {
    __m256 x;
};
constexpr int width = 8;

inline Floats splat(float x) { return {_mm256_set1_ps(x)}; }
inline Ints splat(uint32_t x) { return {_mm256_set1_epi32(int(x))}; }
inline Floats load(const float *from) { return {_mm256_loadu_ps(from)}; }
inline Ints load(const uint32_t *from) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))}; }
inline void store(float *to, Floats a) { _mm256_storeu_ps(to, a.x); }
inline void store(uint32_t *to, Ints a) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), a.x); }
inline Floats load_first(const float *from, int n) { // 0 in the other lanes
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes))};
}
inline Floats looked_up(const float (&table)[4], Ints index) {
    return {_mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128 *>(table)), index.x)};
}

inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.x, b.x)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.x, b.x)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.x, b.x)}; }
inline Floats fused(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.x, b.x, c.x)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.x, b.x)}; }
inline Floats fused_less(Floats a, Floats b, Floats c) { return {_mm256_fmsub_ps(a.x, b.x, c.x)}; }
inline Floats fused_from(Floats a, Floats b, Floats c) { return {_mm256_fnmadd_ps(a.x, b.x, c.x)}; }
inline Floats larger(Floats a, Floats b) { return {_mm256_max_ps(a.x, b.x)}; }
inline Floats root(Floats a) { return {_mm256_sqrt_ps(a.x)}; }
inline Floats estimated_positive_root(Floats a) { return root(a); }
inline Mask operator<(Floats a, Floats b) { return {_mm256_cmp_ps(a.x, b.x, _CMP_LT_OQ)}; }
inline Mask operator<=(Floats a, Floats b) { return {_mm256_cmp_ps(a.x, b.x, _CMP_LE_OQ)}; }
inline Mask operator==(Floats a, Floats b) { return {_mm256_cmp_ps(a.x, b.x, _CMP_EQ_OQ)}; }
inline Mask operator!=(Floats a, Floats b) { return {_mm256_cmp_ps(a.x, b.x, _CMP_NEQ_UQ)}; }
inline Floats choose(Mask condition, Floats a, Floats b) { return {_mm256_blendv_ps(b.x, a.x, condition.x)}; }

inline Ints bits_of(Floats a) { return {_mm256_castps_si256(a.x)}; }
inline Floats from_bits(Ints a) { return {_mm256_castsi256_ps(a.x)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.x, b.x)}; }
inline Ints operator&(Ints a, Ints b) { return {_mm256_and_si256(a.x, b.x)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm256_or_si256(a.x, b.x)}; }
template <int n> Ints shifted(Ints a) { // to the left, or by a negative n to the right
    if constexpr (n >= 0)
        return {_mm256_slli_epi32(a.x, n)};
    else
        return {_mm256_srli_epi32(a.x, -n)};
}
inline Ints shifted_left(Ints a, Ints n) { return {_mm256_sllv_epi32(a.x, n.x)}; }
inline Ints shifted_right(Ints a, Ints n) { return {_mm256_srlv_epi32(a.x, n.x)}; }
inline Floats magnitude(Floats a) { return from_bits(bits_of(a) & splat(0x7fffffffu)); }
inline Ints larger(Ints a, Ints b) { return {_mm256_max_epi32(a.x, b.x)}; }
inline Ints smaller_where(Mask condition, Ints a, Ints b) { // b elsewhere
    return {_mm256_blendv_epi8(b.x, _mm256_min_epu32(a.x, b.x), _mm256_castps_si256(condition.x))};
}
inline Mask is_zero(Ints a) { return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.x, _mm256_setzero_si256()))}; }
inline Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.x, b.x)}; }
inline Mask operator!(Mask a) { return {_mm256_xor_ps(a.x, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
inline uint32_t bits_of(Mask a) { return uint32_t(_mm256_movemask_ps(a.x)); } // one for each lane
inline Ints or_masked(Ints a, Ints b, Ints mask) { return a | (b & mask); }
inline int largest(Ints a) {
    alignas(32) int x[width];
    _mm256_store_si256(reinterpret_cast<__m256i *>(x), a.x);
    return *std::max_element(x, x + width);
}
inline float sum(Floats a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.x), _mm256_extractf128_ps(a.x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline Ints largest_of_four(const Ints *a) {
    const auto halves = [](__m256i x, __m256i y) { // the larger ones of neighbours, those of x and y in turn
        return _mm256_max_epi32(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
    };
    const __m256i x = halves(halves(a[0].x, a[2].x), halves(a[1].x, a[3].x));
    return {_mm256_max_epi32(x, _mm256_permute2x128_si256(x, x, 0x01))};
}

template <bool with_sign> Ints load_codes(const uint8_t *from) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return {with_sign ? _mm256_cvtepi8_epi32(codes) : _mm256_cvtepu8_epi32(codes)};
}
// Packing works on halves.
inline void store_packed(__m256i bytes, uint8_t *to) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm256_permutevar8x32_epi32(bytes, order));
}
inline void store_signed_codes(const Ints (&a)[4], const Floats (&x)[4], uint8_t *to) {
    const auto with_sign = [&](int j) { return _mm256_sign_epi32(a[j].x, bits_of(x[j]).x); }; // 0 where x is 0
    store_packed(_mm256_packs_epi16(_mm256_packs_epi32(with_sign(0), with_sign(1)),
                                    _mm256_packs_epi32(with_sign(2), with_sign(3))),
                 to);
}
inline void store_unsigned_codes(const Ints (&a)[4], const Floats (&x)[4], uint8_t *to) {
    const auto cut = [](Ints a, Ints b) {
        return _mm256_and_si256(_mm256_packus_epi32(a.x, b.x), _mm256_set1_epi16(255));
    };
    const auto saturated = [](Floats a, Floats b) { return _mm256_packs_epi32(bits_of(a).x, bits_of(b).x); };
    const __m256i codes = _mm256_packus_epi16(cut(a[0], a[1]), cut(a[2], a[3]));
    const __m256i positive = _mm256_packus_epi16(saturated(x[0], x[1]), saturated(x[2], x[3]));
    store_packed(_mm256_min_epu8(_mm256_max_epu8(codes, _mm256_set1_epi8(1)), positive), to);
}
inline Ints magnitude(Ints a) { return {_mm256_abs_epi32(a.x)}; }

// Counts the lanes for which conditions hold.
struct Counter {
    __m256i lanes = _mm256_setzero_si256();
    void add(Mask a) { lanes = _mm256_sub_epi32(lanes, _mm256_castps_si256(a.x)); }
    int total() const {
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
        const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
    }
};

#else

// Any processor: four numbers at a time.
constexpr int width = 4;

#ifdef __GNUC__
typedef float FourFloats __attribute__((vector_size(16)));
typedef uint32_t FourInts __attribute__((vector_size(16)));
typedef int32_t FourSigned __attribute__((vector_size(16)));
#else
template <class T> struct FourOf {
    T x[width];
    T &operator[](int l) { return x[l]; }
    T operator[](int l) const { return x[l]; }
};
using FourFloats = FourOf<float>;
using FourInts = FourOf<uint32_t>;
#endif

struct Floats {
    FourFloats x;
};
struct Ints {
    FourInts x;
};
struct Mask {
    Ints bits; // for each lane, all bits are set or none
};

template <class Result, class Function> inline Result each_lane(Function &&f) {
    using Four = decltype(Result::x);
    return Result{Four{f(0), f(1), f(2), f(3)}};
}
#define ADAMAS_LANES(Result, expression) each_lane<Result>([&]([[maybe_unused]] int l) { return expression; })
#ifdef __GNUC__
#define ADAMAS_VECTOR(Result, vector, expression)                                                                      \
    Result { vector }
#else
#define ADAMAS_VECTOR(Result, vector, expression) ADAMAS_LANES(Result, expression)
#endif

inline Floats splat(float x) { return {FourFloats{x, x, x, x}}; }
inline Ints splat(uint32_t x) { return {FourInts{x, x, x, x}}; }
inline Floats load(const float *from) { return {FourFloats{from[0], from[1], from[2], from[3]}}; }
inline Ints load(const uint32_t *from) { return {FourInts{from[0], from[1], from[2], from[3]}}; }
inline void store(float *to, Floats a) { std::memcpy(to, &a.x, sizeof a.x); }
inline void store(uint32_t *to, Ints a) { std::memcpy(to, &a.x, sizeof a.x); }
inline Floats load_first(const float *from, int n) { return ADAMAS_LANES(Floats, l < n ? from[l] : 0.0f); }
inline Floats looked_up(const float (&table)[4], Ints index) { return ADAMAS_LANES(Floats, table[index.x[l]]); }

inline Floats operator+(Floats a, Floats b) { return ADAMAS_VECTOR(Floats, a.x + b.x, a.x[l] + b.x[l]); }
inline Floats operator-(Floats a, Floats b) { return ADAMAS_VECTOR(Floats, a.x - b.x, a.x[l] - b.x[l]); }
inline Floats operator*(Floats a, Floats b) { return ADAMAS_VECTOR(Floats, a.x * b.x, a.x[l] * b.x[l]); }
inline Floats larger(Floats a, Floats b) {
    return ADAMAS_VECTOR(Floats, a.x > b.x ? a.x : b.x, larger(a.x[l], b.x[l]));
}
inline Floats fused(Floats a, Floats b, Floats c) {
#ifdef __aarch64__
    return ADAMAS_LANES(Floats, fused(a.x[l], b.x[l], c.x[l]));
#else
    return a * b + c;
#endif
}
inline Floats operator/(Floats a, Floats b) { return ADAMAS_VECTOR(Floats, a.x / b.x, a.x[l] / b.x[l]); }
inline Floats fused_less(Floats a, Floats b, Floats c) { return fused(a, b, splat(-1.0f) * c); }
inline Floats fused_from(Floats a, Floats b, Floats c) { return fused(splat(-1.0f) * a, b, c); }
inline Floats root(Floats a) { return ADAMAS_LANES(Floats, std::sqrt(a.x[l])); }
inline Floats estimated_positive_root(Floats a) { return root(a); }

inline Ints bits_of(Floats a) { return std::bit_cast<Ints>(a); }
inline Floats from_bits(Ints a) { return std::bit_cast<Floats>(a); }
inline Ints operator+(Ints a, Ints b) { return ADAMAS_VECTOR(Ints, a.x + b.x, a.x[l] + b.x[l]); }
inline Ints operator-(Ints a, Ints b) { return ADAMAS_VECTOR(Ints, a.x - b.x, a.x[l] - b.x[l]); }
inline Ints operator&(Ints a, Ints b) { return ADAMAS_VECTOR(Ints, a.x & b.x, a.x[l] & b.x[l]); }
inline Ints operator|(Ints a, Ints b) { return ADAMAS_VECTOR(Ints, a.x | b.x, a.x[l] | b.x[l]); }
inline Ints operator^(Ints a, Ints b) { return ADAMAS_VECTOR(Ints, a.x ^ b.x, a.x[l] ^ b.x[l]); }
template <int n> inline Ints shifted(Ints a) { // to the left, or by a negative n to the right
    if constexpr (n >= 0)
        return ADAMAS_VECTOR(Ints, a.x << n, a.x[l] << n);
    else
        return ADAMAS_VECTOR(Ints, a.x >> -n, a.x[l] >> -n);
}
inline Ints shifted_left(Ints a, Ints n) { return ADAMAS_VECTOR(Ints, a.x << n.x[0], a.x[l] << n.x[l]); }
inline Ints shifted_right(Ints a, Ints n) { return ADAMAS_VECTOR(Ints, a.x >> n.x[0], a.x[l] >> n.x[l]); }
inline Ints larger(Ints a, Ints b) {
    return ADAMAS_VECTOR(Ints, (FourSigned)a.x > (FourSigned)b.x ? a.x : b.x,
                         uint32_t(std::max(int32_t(a.x[l]), int32_t(b.x[l]))));
}
inline Floats magnitude(Floats a) { return from_bits(bits_of(a) & splat(0x7fffffffu)); }
inline Ints or_masked(Ints a, Ints b, Ints mask) { return a | (b & mask); }
inline Ints select(Ints mask, Ints a, Ints b) { return (mask & (a ^ b)) ^ b; }
inline int largest(Ints a) { return std::max({int32_t(a.x[0]), int32_t(a.x[1]), int32_t(a.x[2]), int32_t(a.x[3])}); }
inline float sum(Floats a) { return (a.x[0] + a.x[2]) + (a.x[1] + a.x[3]); }
inline Ints largest_of_four(const Ints *a) { return ADAMAS_LANES(Ints, uint32_t(largest(a[l]))); }

#define ADAMAS_COMPARISON(sign)                                                                                        \
    inline Mask operator sign(Floats a, Floats b) {                                                                    \
        return {ADAMAS_VECTOR(Ints, (FourInts)(a.x sign b.x), a.x[l] sign b.x[l] ? ~0u : 0u)};                         \
    }
ADAMAS_COMPARISON(<)
ADAMAS_COMPARISON(<=)
ADAMAS_COMPARISON(==)
ADAMAS_COMPARISON(!=)
#undef ADAMAS_COMPARISON
inline Mask is_zero(Ints a) { return {ADAMAS_VECTOR(Ints, (FourInts)(a.x == 0), a.x[l] == 0 ? ~0u : 0u)}; }
inline Floats choose(Mask condition, Floats a, Floats b) {
    return from_bits(select(condition.bits, bits_of(a), bits_of(b)));
}
inline Ints smaller_where(Mask condition, Ints a, Ints b) { // b elsewhere
    return select(condition.bits, ADAMAS_VECTOR(Ints, a.x < b.x ? a.x : b.x, std::min(a.x[l], b.x[l])), b);
}
inline Mask operator&(Mask a, Mask b) { return {a.bits & b.bits}; }
inline Mask operator!(Mask a) { return {a.bits ^ splat(~0u)}; }
inline uint32_t bits_of(Mask a) { // one for each lane
    return (a.bits.x[0] & 1) | (a.bits.x[1] & 2) | (a.bits.x[2] & 4) | (a.bits.x[3] & 8);
}

// Counts the lanes for which conditions hold.
struct Counter {
    Ints lanes = splat(0u);
    void add(Mask a) { lanes = lanes - a.bits; }
    int total() const { return int(lanes.x[0] + lanes.x[1] + lanes.x[2] + lanes.x[3]); }
};

inline Ints magnitude(Ints a) {
    return ADAMAS_VECTOR(Ints, (FourInts)((FourSigned)a.x < 0 ? -a.x : a.x), int32_t(a.x[l]) < 0 ? -a.x[l] : a.x[l]);
}
inline Ints negated_where_negative(Ints a, Floats x) {
    const Ints all = splat(0u) - shifted<-31>(bits_of(x));
    return (a ^ all) - all;
}
template <bool with_sign> Ints load_codes(const uint8_t *from) {
#ifdef __GNUC__
    using Code = std::conditional_t<with_sign, int8_t, uint8_t>;
    typedef Code FourCodes __attribute__((vector_size(4)));
    FourCodes codes;
    std::memcpy(&codes, from, sizeof codes);
    return {(FourInts) __builtin_convertvector(codes, FourSigned)};
#else
    return ADAMAS_LANES(Ints, with_sign ? uint32_t(int8_t(from[l])) : from[l]);
#endif
}
inline void store_bytes(Ints a, uint8_t *to) {
    for (int l = 0; l < width; ++l) to[l] = uint8_t(a.x[l]);
}
inline void store_signed_codes(const Ints (&a)[4], const Floats (&x)[4], uint8_t *to) {
    for (int j = 0; j < 4; ++j) store_bytes(negated_where_negative(a[j], x[j]), to + j * width);
}
inline void store_unsigned_codes(const Ints (&a)[4], const Floats (&x)[4], uint8_t *to) {
    for (int j = 0; j < 4; ++j) {
        const Ints code = a[j] & splat(255u), at_least_1 = code - is_zero(code).bits;
        store_bytes((splat(0.0f) < x[j]).bits & at_least_1, to + j * width);
    }
}

#undef ADAMAS_LANES
#undef ADAMAS_VECTOR

#endif

constexpr int group = 4 * width; // elements

// ---- common to all instruction sets

// The number, or a register with the number in every lane.
template <class X> inline X of(double x) {
    if constexpr (std::is_same_v<X, Floats>)
        return splat(float(x));
    else
        return X(x);
}

inline bool any(Mask a) { return bits_of(a) != 0; }
inline Mask operator>(Floats a, Floats b) { return b < a; }
inline Mask operator>=(Floats a, Floats b) { return b <= a; }

inline Floats sign(Floats a) {
    const Floats zero = splat(0.0f);
    const Ints one = or_masked(bits_of(splat(1.0f)), bits_of(a), splat(0x80000000u));
    return choose(magnitude(a) > zero, from_bits(one), a + zero);
}

// Nothing is flushed to zero: these states are decoded from codes, which have no subnormal numbers.
inline Floats decayed(Floats decay, Floats state, Floats) { return decay * state; }

// At least 1e-37 is added, since the estimate of the root of 0 is not defined.
inline Floats estimated_root(Floats x, Floats a) { return estimated_positive_root(x + larger(a, splat(1e-37f))); }

} // namespace adamas::ADAMAS_ISA
