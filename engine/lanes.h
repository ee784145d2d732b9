// The numbers that the rule computes with. Plain ones, which the compiler vectorises; and, where the compiler's code
// would wait for the square root, vectors by hand. The rule itself is written once, for either.
#pragma once

#include <cmath>
#include <limits>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace adamas::ADAMAS_ISA {

// One number at a time: `Lanes<T>::width` is 1, and the loop around it is left to the compiler.
template <class T> struct Plain {
    static constexpr int width = 1;
    T x;

    Plain(T x) : x(x) {}
    static Plain load(const T *from, int) { return *from; }
    void store(T *to, int) const { *to = x; }

    friend Plain operator+(Plain a, Plain b) { return a.x + b.x; }
    friend Plain operator-(Plain a) { return -a.x; }
    friend Plain operator*(Plain a, Plain b) { return a.x * b.x; }
    friend Plain operator/(Plain a, Plain b) { return a.x / b.x; }
    // a·b + c with one rounding where the hardware has it. Written out, because a compiler that chose for itself might
    // choose differently in a loop's body and in its remainder, and the bits would depend on where a block ends.
    friend Plain fused(Plain a, Plain b, Plain c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
        return std::fma(a.x, b.x, c.x);
#else
        return a.x * b.x + c.x;
#endif
    }
    // a·moment + fed; but zero where the gradient is zero and the moment below the smallest normal number. Rounding
    // would keep a moment that fades at the last few subnormal numbers for good, where x86 processors take several
    // times as long.
    friend Plain fading(Plain a, Plain moment, Plain fed, Plain gradient) {
        const bool faded = (gradient.x == 0) & (std::fabs(moment.x) < std::numeric_limits<T>::min());
        return faded ? Plain(0) : fused(a, moment, fed);
    }
    friend Plain root(Plain a) { return std::sqrt(a.x); }
    friend Plain absolute(Plain a) { return std::fabs(a.x); }
    friend Plain sign(Plain a) { return T(a.x > 0) - T(a.x < 0); }
    friend Plain larger(Plain a, Plain b) { return a.x > b.x ? a.x : b.x; } // b where either is NaN
    friend Plain not_below_zero(Plain a) { return a.x < 0 ? T(0) : a.x; }   // NaN stays NaN
};

#ifdef __AVX512F__
// Sixteen float32 at a time. The root costs a third of the hardware's exact one (which would leave the step waiting for
// the divider): the 14-bit estimate of 1/√x and one step of Newton's method, within 1 ulp.
struct Wide {
    static constexpr int width = 16;
    __m512 x;

    Wide(__m512 x) : x(x) {}
    Wide(float x) : x(_mm512_set1_ps(x)) {}
    static __mmask16 first(int count) { return count >= width ? __mmask16(-1) : __mmask16((1u << count) - 1); }
    static Wide load(const float *from, int count) { return _mm512_maskz_loadu_ps(first(count), from); }
    void store(float *to, int count) const { _mm512_mask_storeu_ps(to, first(count), x); }

    friend Wide operator+(Wide a, Wide b) { return _mm512_add_ps(a.x, b.x); }
    friend Wide operator-(Wide a) { return _mm512_xor_ps(a.x, _mm512_set1_ps(-0.0f)); }
    friend Wide operator*(Wide a, Wide b) { return _mm512_mul_ps(a.x, b.x); }
    friend Wide operator/(Wide a, Wide b) { return _mm512_div_ps(a.x, b.x); }
    friend Wide fused(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a.x, b.x, c.x); }
    friend Wide fading(Wide a, Wide moment, Wide fed, Wide gradient) {
        const __m512i exponent = _mm512_set1_epi32(0x7f800000), magnitude = _mm512_set1_epi32(0x7fffffff);
        constexpr int either_or_second = 0xec; // both where the third has ones, else the second
        const __m512i bits = _mm512_ternarylogic_epi32(_mm512_castps_si512(moment.x), _mm512_castps_si512(gradient.x),
                                                       exponent, either_or_second);
        return _mm512_maskz_fmadd_ps(_mm512_test_epi32_mask(bits, magnitude), a.x, moment.x, fed.x);
    }
    friend Wide root(Wide a) {
        const __m512 inverse = _mm512_rsqrt14_ps(a.x), half = _mm512_set1_ps(0.5f);
        const __m512 estimate = _mm512_mul_ps(a.x, inverse);
        const __m512 error = _mm512_fnmadd_ps(estimate, _mm512_mul_ps(inverse, half), half);
        constexpr int zero_or_infinity = 0x02 | 0x04 | 0x08; // their own roots, and not the estimate's
        return _mm512_mask_mov_ps(_mm512_fmadd_ps(estimate, error, estimate),
                                  _mm512_fpclass_ps_mask(a.x, zero_or_infinity), a.x);
    }
    friend Wide absolute(Wide a) { return _mm512_abs_ps(a.x); }
    friend Wide sign(Wide a) {
        const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
        const __m512 positive = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.x, zero, _CMP_GT_OQ), one);
        return _mm512_mask_sub_ps(positive, _mm512_cmp_ps_mask(a.x, zero, _CMP_LT_OQ), zero, one);
    }
    friend Wide larger(Wide a, Wide b) { return _mm512_max_ps(a.x, b.x); } // b where either is NaN
    friend Wide not_below_zero(Wide a) {
        return _mm512_mask_mov_ps(a.x, _mm512_cmp_ps_mask(a.x, _mm512_setzero_ps(), _CMP_LT_OQ), _mm512_setzero_ps());
    }
};
#endif

template <class T> struct LanesOf {
    using type = Plain<T>;
};
#ifdef __AVX512F__
template <> struct LanesOf<float> {
    using type = Wide;
};
#endif
template <class T> using Lanes = typename LanesOf<T>::type;

} // namespace adamas::ADAMAS_ISA
