// The kernels, which work on a range of elements of one parameter. They are compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "random.h"
#include "rules.h"
#include "tensor.h"

namespace adamas {

enum class Weights : uint8_t { nearest, stochastic, split };

constexpr int slot_count = STATES + most_states;

// A row of a gradient that has only some: its index in the weight, and its elements.
struct Row {
    int64_t index;
    const char *gradient;
};

// The input of a kernel: one parameter.
struct Job {
    Operand operands[slot_count];
    int64_t numel;
    int64_t row; // elements in a row if a moment has codes, else 0
    // The rows of a gradient that has only some, and the elements of each. The elements of the job are theirs, one row
    // after the other; the kernels get runs of consecutive rows (adamas::each_run). Null for a gradient that has all.
    const Row *gradient_rows;
    int64_t gradient_row;
    // Whether something comes between two rows: in the numbers of blocks, or in the memory of codes or scales.
    bool rows_apart;
    // The numbers of the elements and blocks in the whole tensor, if this is a part of one.
    int64_t first_element, first_block;
    Layout elements, blocks; // from the first one on
    int rule;                // its index in `rules`
    bool penalized;          // whether penalties are added to the gradient
    bool cautious;           // whether the weight decays only where the update does not enlarge it
    bool masked;             // whether the weight moves only where the update agrees with the gradient
    bool wide;               // whether the arithmetic is in float64
    bool move;               // false if lr = 0: the moments are updated and the weight does not change
    bool dry;                // whether nothing is written, and the step is only computed for its statistics
    Weights weights;
    uint64_t random_key; // seed and tensor
    uint64_t step;
    const float *narrow_constants; // the result of `Rule::fold`
    const double *wide_constants;  // the same in float64
    const double *watched_numbers; // those that statistics depend on, if the step is watched
};

// A part of a sum as an unevaluated sum of two doubles: more than 100 bits, so that the result does not depend on the
// order of the sum. `finite` is whether every gradient is, where that is asked for.
struct Sum {
    double high = 0, low = 0;
    bool finite = true;
};

static inline Sum sum_of(const Sum &a, const Sum &b) {
    const double total = a.high + b.high, part = total - a.high; // two-sum (Knuth)
    return {total, (a.high - (total - part)) + (b.high - part) + a.low + b.low, a.finite && b.finite};
}

// What `watch=` measures of a parameter: see adamas.rule.statistics.
struct Statistics {
    Sum sums[statistics_sums];
    double largest = 0; // of |u|; NaN if one of them is

    void add(const Statistics &other) {
        for (int i = 0; i < statistics_sums; ++i) sums[i] = sum_of(sums[i], other.sums[i]);
        if (!(other.largest <= largest)) largest = largest != largest ? largest : other.largest;
    }
};

struct Kernels {
    const char *name;
    // Adds statistics of the step, unless they are null.
    void (*step)(const Job &, int64_t begin, int64_t end, Statistics *);
    Sum (*square_sum)(const Job &, int64_t begin, int64_t end);
    Sum (*rule_sum)(const Job &, int sum, int64_t begin, int64_t end); // the rule's sum of this index
    // Σ of `count` rows of `length` elements, in order, rounded once to the format of the rows.
    void (*sum_rows)(const Row *, int64_t count, Format, int64_t length, char *to);
};

const Kernels &best_kernels();                  // chosen once, for this processor
const Kernels *kernels_named(const char *name); // null if the name is unknown or this processor does not support it

} // namespace adamas
