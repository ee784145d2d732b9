// The work on one stretch of one parameter, compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "random.h"
#include "rules.h"
#include "tensor.h"

namespace adamas {

enum class Weights : uint8_t { nearest, stochastic, split };

constexpr int slot_count = STATES + most_states;

// All that a kernel needs to step one parameter.
struct Job {
    Operand operands[slot_count];
    int64_t numel;
    int64_t row;                // elements in a row, where a moment is stored in 8 bits; else 0
    int64_t first, first_block; // element and block of the whole tensor that this part of it begins with
    int rule;                   // its index in `rules`
    bool penalized;             // whether penalties go through the gradient
    bool wide;                  // arithmetic in float64
    bool move;                  // false where lr = 0: the moments are updated and the weight is left alone
    Weights weights;
    uint64_t random_key; // seed and tensor
    uint64_t step;
    const float *narrow_constants; // as `Rule::fold` leaves them
    const double *wide_constants;  // the same in float64
};

// Part of Σg², kept as an unevaluated sum of two doubles: over 100 bits, so the order of adding does not show in the
// result. `finite` tells whether every gradient was.
struct SquareSum {
    double high = 0, low = 0;
    bool finite = true;
};

static inline SquareSum sum_of(const SquareSum &a, const SquareSum &b) {
    const double total = a.high + b.high, part = total - a.high; // two-sum (Knuth)
    return {total, (a.high - (total - part)) + (b.high - part) + a.low + b.low, a.finite && b.finite};
}

struct Kernels {
    const char *name;
    void (*step)(const Job &, int64_t begin, int64_t end);
    SquareSum (*square_sum)(const Job &, int64_t begin, int64_t end);
};

const Kernels &best_kernels();                  // chosen once, by what this processor can do
const Kernels *kernels_named(const char *name); // null where the name is unknown or the processor cannot

} // namespace adamas
