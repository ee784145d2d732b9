// The one rule of the Adam family, as scalar code that reads like the paper; the compiler vectorises it.
// Compiled once per instruction set: everything lies in the namespace ADAMAS_ISA, so that no two builds are mixed.
#pragma once

#include <cmath>

#include "coefficients.h"

namespace adamas::ADAMAS_ISA {

// One rounding where the hardware has it. Written out, because a compiler that chose for itself might choose
// differently in a loop's body and in its remainder, and the bits would depend on where a block ends.
template <class T> inline T fused(T a, T b, T c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

template <class T> inline T sign(T x) { return T(x > 0) - T(x < 0); }

template <class T, unsigned S>
void rule(const Constants<T> &k, T *__restrict p, const T *__restrict g, T *__restrict m, T *__restrict v,
          T *__restrict h, T *__restrict r, int n) {
#pragma omp simd
    for (int i = 0; i < n; ++i) {
        T grad = k.s * g[i];
        if constexpr (S & shape::penalty) grad = fused(k.l2, p[i], grad) + k.l1 * sign(p[i]);

        if constexpr (S & shape::first) m[i] = fused(k.a1, m[i], k.b1 * grad);

        T size{};
        if constexpr (S & shape::square) size = v[i] = fused(k.a2, v[i], (k.b2 * grad) * grad);
        if constexpr (S & shape::absolute) {
            const T decayed = k.a2 * v[i], now = std::fabs(grad) + k.eps;
            size = v[i] = decayed > now ? decayed : now;
        }
        if constexpr (S & shape::maximum) size = h[i] = h[i] > size ? h[i] : size;
        if constexpr (S & shape::centered) {
            const T variance = fused(-k.z * m[i], m[i], size);
            size = variance < 0 ? T(0) : variance; // below zero by rounding alone; NaN stays NaN
        }

        T update{};
        if constexpr (S & shape::use_first) update = k.c * m[i];
        if constexpr (S & shape::use_gradient) update = fused(k.d, grad, update);
        if constexpr (S & shape::square) update /= fused(std::sqrt(size + k.root), k.sqrt_w, k.eps);
        if constexpr (S & shape::absolute) update /= size;
        if constexpr (S & shape::trace) update = k.eta * (r[i] = fused(k.q, r[i], update));
        p[i] = fused(k.k, p[i], -update);
    }
}

template <class T> using Rule = void (*)(const Constants<T> &, T *, const T *, T *, T *, T *, T *, int);

} // namespace adamas::ADAMAS_ISA
