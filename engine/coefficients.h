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

// The coefficients as the arithmetic takes them (X is a number, or a register of them), with what can be multiplied out
// beforehand, in float64, multiplied out: without a trace, eta goes into c and d; without penalties, the gradient's
// scale goes into what it is multiplied with; sqrt(w*v + root) is sqrt(w) * sqrt(v + root/w), which cannot overflow.
template <class X> struct Constants {
    X scale, l2, l1;          // of the gradient where there are penalties
    X s, a1, b1, a2, root_b2; // of the moments
    X c, d, sqrt_w, eps, root, minus_z, q, k, eta;

    template <class Y, class Convert> static Constants from(const Constants<Y> &x, Convert &&to) {
        return {to(x.scale), to(x.l2),      to(x.l1), to(x.s), to(x.a1),     to(x.b1),
                to(x.a2),    to(x.root_b2), to(x.c),  to(x.d), to(x.sqrt_w), to(x.eps),
                to(x.root),  to(x.minus_z), to(x.q),  to(x.k), to(x.eta)};
    }
};

template <class T> Constants<T> constants(const Coefficients &x, unsigned shape) {
    const double eta = shape & shape::trace ? 1 : x.eta, s = shape & shape::penalty ? 1 : x.s;
    const Constants<double> wide{x.s,
                                 x.l2,
                                 x.l1,
                                 s,
                                 x.a1,
                                 x.b1 * s,
                                 x.a2,
                                 std::sqrt(x.b2) * s,
                                 eta * x.c,
                                 eta * x.d * s,
                                 std::sqrt(x.w),
                                 x.eps,
                                 x.w > 0 ? x.root / x.w : 0,
                                 -x.z,
                                 x.q,
                                 x.k,
                                 x.eta};
    return Constants<T>::from(wide, [](double y) { return T(y); });
}

} // namespace adamas
