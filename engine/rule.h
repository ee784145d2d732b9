// The one rule of the Adam family, in code that reads like the paper. Compiled once per instruction set: everything
// lies in the namespace ADAMAS_ISA, so that no two builds are mixed.
#pragma once

#include "coefficients.h"
#include "lanes.h"

namespace adamas::ADAMAS_ISA {

// The elements [i, i + left) of one block, as many as `N` holds at most.
template <class N, class T, unsigned S>
inline void rule_at(const Constants<T> &k, T *__restrict p, const T *__restrict g, T *__restrict m, T *__restrict v,
                    T *__restrict h, T *__restrict r, int i, int left) {
    const N weight = N::load(p + i, left);
    N grad = N(k.s) * N::load(g + i, left);
    if constexpr (S & shape::penalty) grad = fused(N(k.l2), weight, grad) + N(k.l1) * sign(weight);

    N first(0), size(0), update(0);
    if constexpr (S & shape::first) {
        first = fading(N(k.a1), N::load(m + i, left), N(k.b1) * grad, grad);
        first.store(m + i, left);
    }
    if constexpr (S & shape::square) size = fading(N(k.a2), N::load(v + i, left), (N(k.b2) * grad) * grad, grad);
    if constexpr (S & shape::absolute) size = larger(N(k.a2) * N::load(v + i, left), absolute(grad) + N(k.eps));
    if constexpr (S & (shape::square | shape::absolute)) size.store(v + i, left);
    if constexpr (S & shape::maximum) {
        size = larger(N::load(h + i, left), size);
        size.store(h + i, left);
    }
    if constexpr (S & shape::centered) size = not_below_zero(fused(-(N(k.z) * first), first, size));

    if constexpr (S & shape::use_first) update = N(k.c) * first;
    if constexpr (S & shape::use_gradient) update = fused(N(k.d), grad, update);
    if constexpr (S & shape::square) update = update / fused(root(size + N(k.root)), N(k.sqrt_w), N(k.eps));
    if constexpr (S & shape::absolute) update = update / size;
    if constexpr (S & shape::trace) {
        update = fading(N(k.q), N::load(r + i, left), update, grad);
        update.store(r + i, left);
        update = N(k.eta) * update;
    }
    fused(N(k.k), weight, -update).store(p + i, left);
}

template <class T, unsigned S>
void rule(const Constants<T> &k, T *__restrict p, const T *__restrict g, T *__restrict m, T *__restrict v,
          T *__restrict h, T *__restrict r, int n) {
    using N = Lanes<T>;
    const int whole = n - n % N::width;
#pragma omp simd
    for (int i = 0; i < whole; i += N::width) rule_at<N, T, S>(k, p, g, m, v, h, r, i, N::width);
    if (whole < n) rule_at<N, T, S>(k, p, g, m, v, h, r, whole, n - whole);
}

template <class T> using Rule = void (*)(const Constants<T> &, T *, const T *, T *, T *, T *, T *, int);

} // namespace adamas::ADAMAS_ISA
