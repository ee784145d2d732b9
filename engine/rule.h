// The one rule of the Adam family, in plain code that reads like the paper and that the compiler vectorises. Compiled
// once per instruction set: everything lies in the namespace ADAMAS_ISA, so that no two builds are mixed.
#pragma once

#include <cmath>
#include <limits>

#include "coefficients.h"
#include "formats.h"

namespace adamas::ADAMAS_ISA {

// a·b + c with one rounding where the hardware has it. Written out, because a compiler that chose for itself might
// choose differently in a loop's body and in its remainder, and the bits would depend on where a block ends.
template <class T> inline T fused(T a, T b, T c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

// a·moment + fed; but zero where the gradient is zero and the moment below the smallest normal number. Rounding would
// keep a moment that fades at the last few subnormal numbers for good, where x86 processors take several times as long.
template <class T> inline T fading(T a, T moment, T fed, T gradient) {
    const bool faded = (gradient == 0) & (std::fabs(moment) < std::numeric_limits<T>::min());
    return faded ? T(0) : fused(a, moment, fed);
}

template <class T> inline T sign(T x) { return T(x > 0) - T(x < 0); }
template <class T> inline T larger(T a, T b) { return a > b ? a : b; } // b where either is NaN

inline void put(float &to, float x) { to = x; }
inline void put(double &to, double x) { to = x; }
inline float get(float x) { return x; }
inline double get(double x) { return x; }
inline void put(bf16 &to, float x) { to.bits = to_bf16(x); }
inline float get(bf16 x) { return from_bf16(x.bits); }

// n elements. `Stored` is how weight and gradient lie in memory: as T, or as what `get` and `put` convert.
template <class T, class Stored, unsigned S>
void rule(const Constants<T> &shared, Stored *__restrict p, const Stored *__restrict g, T *__restrict m,
          T *__restrict v, T *__restrict h, T *__restrict r, int n) {
    const Constants<T> k = shared; // one's own, so that the compiler knows that no store changes them
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        const T weight = get(p[i]);
        T grad = k.s * get(g[i]);
        if constexpr (S & shape::penalty) grad = fused(k.l2, weight, grad) + k.l1 * sign(weight);

        T first = 0, size = 0, update = 0;
        if constexpr (S & shape::first) m[i] = first = fading(k.a1, m[i], k.b1 * grad, grad);
        if constexpr (S & shape::square) v[i] = size = fading(k.a2, v[i], k.b2 * grad * grad, grad);
        if constexpr (S & shape::absolute) v[i] = size = larger(k.a2 * v[i], std::fabs(grad) + k.eps);
        if constexpr (S & shape::maximum) h[i] = size = larger(h[i], size);
        if constexpr (S & shape::centered) {
            size = fused(-(k.z * first), first, size);
            size = size < 0 ? T(0) : size; // NaN stays NaN
        }

        if constexpr (S & shape::use_first) update = k.c * first;
        if constexpr (S & shape::use_gradient) update = fused(k.d, grad, update);
        if constexpr (S & shape::square) update = update / fused(std::sqrt(size + k.root), k.sqrt_w, k.eps);
        if constexpr (S & shape::absolute) update = update / size;
        if constexpr (S & shape::trace) {
            r[i] = update = fading(k.q, r[i], update, grad);
            update = k.eta * update;
        }
        put(p[i], fused(k.k, weight, -update));
    }
}

template <class T, class Stored>
using Rule = void (*)(const Constants<T> &, Stored *, const Stored *, T *, T *, T *, T *, int);

} // namespace adamas::ADAMAS_ISA
