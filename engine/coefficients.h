// The numbers of the rule for one step, and the shapes that the rule can take.
#pragma once

#include <cmath>

namespace adamas {

// Which sentences of the rule a member has. Mirrors adamas.family.Shape.
namespace shape {
constexpr unsigned first = 1, square = 2, absolute = 4, maximum = 8, centered = 16, trace = 32, use_first = 64,
                   use_gradient = 128, penalty = 256, count = 512;

constexpr bool valid(unsigned s) {
    if ((s & square) && (s & absolute)) return false;
    if ((s & maximum) && !(s & square)) return false;
    if ((s & centered) && !((s & square) && (s & first))) return false;
    if ((s & use_first) && !(s & first)) return false;
    return (s & (use_first | use_gradient)) != 0;
}
} // namespace shape

// In the order of adamas.family.Coefficients.
struct Coefficients {
    double s, l2, l1, a1, b1, a2, b2, c, d, w, eps, root, z, q, k, eta;
};
constexpr int coefficient_count = sizeof(Coefficients) / sizeof(double);

// The coefficients in the precision of the arithmetic, with what can be multiplied out beforehand, in float64,
// multiplied out: without a trace, eta goes into c and d; sqrt(w*v + root) is sqrt(w) * sqrt(v + root/w), which cannot
// overflow.
template <class T> struct Constants {
    T s, l2, l1, a1, b1, a2, b2, c, d, sqrt_w, eps, root, z, q, k, eta;

    Constants() = default;
    Constants(const Coefficients &x, bool trace)
        : s(T(x.s)),
          l2(T(x.l2)),
          l1(T(x.l1)),
          a1(T(x.a1)),
          b1(T(x.b1)),
          a2(T(x.a2)),
          b2(T(x.b2)),
          c(T(trace ? x.c : x.eta * x.c)),
          d(T(trace ? x.d : x.eta * x.d)),
          sqrt_w(T(std::sqrt(x.w))),
          eps(T(x.eps)),
          root(T(x.w > 0 ? x.root / x.w : 0)),
          z(T(x.z)),
          q(T(x.q)),
          k(T(x.k)),
          eta(T(x.eta)) {}
};

} // namespace adamas
