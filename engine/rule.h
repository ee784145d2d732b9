// The one rule of the Adam family, in plain code that reads like the paper and that the compiler vectorises. Compiled
// once per instruction set: everything lies in the namespace ADAMAS_ISA, so that no two builds are mixed.
#pragma once

#include <limits>

#include "coefficients.h"
#include "formats.h"
#include "lanes.h"

namespace adamas::ADAMAS_ISA {

// The rule, up to the weight: X is a number or a register of them. The moments come as what the decay has left of them
// (a1·m, a2·v) and leave as the new ones; the result is the update, to be subtracted from the weight. Without penalties
// the constants have the gradient's scale in them, and `grad` is as it came.
template <unsigned S, class X> inline X update_of(const Constants<X> &k, X grad, X &m, X &v, X &h, X &r) {
    X size{}, update{};
    if constexpr (S & shape::first) m = fused(k.b1, grad, m);
    if constexpr (S & shape::square) {
        const X part = k.root_b2 * grad;
        v = size = fused(part, part, v);
    }
    if constexpr (S & shape::absolute) v = size = larger(v, magnitude(k.s * grad) + k.eps);
    if constexpr (S & shape::maximum) h = size = larger(h, size);
    if constexpr (S & shape::centered) {
        const X variance = fused(k.minus_z * m, m, size);
        size = size < std::numeric_limits<X>::infinity() ? variance : size; // also where m*m overflows with it
        size = size < 0 ? X(0) : size;                                      // NaN stays NaN
    }

    if constexpr (S & shape::use_first) update = k.c * m;
    if constexpr ((S & shape::use_gradient) && (S & shape::use_first)) update = fused(k.d, grad, update);
    if constexpr ((S & shape::use_gradient) && !(S & shape::use_first)) update = k.d * grad;
    // What is stored has to be exact; what only moves the weight may be estimated, where X has estimates.
    constexpr bool is_stored = S & shape::trace;
    if constexpr (S & shape::square) {
        const X length = is_stored ? root(size + k.root) : estimated_root(size + k.root);
        const X denominator = fused(length, k.sqrt_w, k.eps);
        update = is_stored ? quotient(update, denominator) : estimated_quotient(update, denominator);
    }
    if constexpr (S & shape::absolute) update = is_stored ? quotient(update, size) : estimated_quotient(update, size);
    if constexpr (is_stored) {
        r = update = r + update;
        update = k.eta * update;
    }
    return update;
}

// What the decay leaves of a moment; but zero where the gradient is zero and the moment below the smallest normal
// number. Rounding would keep a moment that fades at the last few subnormal numbers for good, where x86 processors take
// several times as long.
template <class T> inline T decayed(T a, T moment, T gradient) {
    const bool faded = (gradient == 0) & (std::fabs(moment) < std::numeric_limits<T>::min());
    return faded ? T(0) : a * moment;
}

template <class T> inline T sign(T x) { return T(x > 0) - T(x < 0); }

// The gradient that the user meant, where there are penalties.
template <class T> inline T penalized(const Constants<T> &k, T grad, T weight) {
    return fused(k.l2, weight, k.scale * grad) + k.l1 * sign(weight);
}

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
        T grad = get(g[i]), first{}, second{}, most{}, trace{};
        if constexpr (S & shape::penalty) grad = penalized(k, grad, weight);
        if constexpr (S & shape::first) first = decayed(k.a1, m[i], grad);
        if constexpr (S & shape::square) second = decayed(k.a2, v[i], grad);
        if constexpr (S & shape::absolute) second = k.a2 * v[i];
        if constexpr (S & shape::maximum) most = h[i];
        if constexpr (S & shape::trace) trace = decayed(k.q, r[i], grad);
        const T update = update_of<S>(k, grad, first, second, most, trace);
        if constexpr (S & shape::first) m[i] = first;
        if constexpr (S & (shape::square | shape::absolute)) v[i] = second;
        if constexpr (S & shape::maximum) h[i] = most;
        if constexpr (S & shape::trace) r[i] = trace;
        put(p[i], fused_less(k.k, weight, update));
    }
}

template <class T, class Stored>
using Rule = void (*)(const Constants<T> &, Stored *, const Stored *, T *, T *, T *, T *, int);

} // namespace adamas::ADAMAS_ISA
