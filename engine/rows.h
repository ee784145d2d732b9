// The rows of a sparse gradient: a list of row indices with a row of values for each. No Python here.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace adamas {

// The rows of one gradient in ascending order, each once. Its memory is used again from step to step.
class GradientRows {
    std::vector<Row> rows_, sorted_;
    std::vector<char> sums_;

    void sort(int64_t total);
    void add_up(const Kernels &, Format, int64_t length);

  public:
    // `count` rows of `length` elements, in any order; a row that is there several times is summed up, in the order of
    // `values`. Every index is below `total`. The rows point into `values`, but for the sums.
    void assign(const Kernels &, const int64_t *indices, const char *values, int64_t count, int64_t total, Format,
                int64_t length);
    const std::vector<Row> &rows() const { return rows_; }
};

} // namespace adamas
