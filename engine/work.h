// The tensors of one parameter group, and the work on them shared among threads. No Python here.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace adamas {

// A tensor as its framework describes it. Strides are in elements.
struct View {
    char *data = nullptr;
    Format format = Format::f32;
    int64_t numel = 0;
    std::vector<int64_t> sizes, strides; // empty for a tensor that lies in row-major order
    float *scales = nullptr;             // of codes

    bool operator==(const View &) const = default;
};

// Jobs with the storage that their operands point into.
class Work {
    std::vector<Job> jobs_;
    std::vector<std::vector<int64_t>> layouts_; // not moved once a job points into one
    std::vector<int64_t> starts_;               // of each job in the concatenation of all
    int64_t total_ = 0;

    void place(Operand &operand, const View &view, const std::vector<int> &order);

  public:
    void clear();
    // `views` in the order of Slot, absent ones with data = null; `by_index` keeps the logical order of elements, which
    // random numbers and blocks are counted by, where otherwise any order will do.
    Job &add(const View *views, bool by_index);
    std::vector<Job> &jobs() { return jobs_; }

    void step(const Kernels &, int threads) const;

    struct Measure {
        SquareSum sum;
        int64_t first_nonfinite = -1; // index of the job
    };
    Measure square_sum(const Kernels &, int threads) const;

  private:
    template <class Body> void share(int threads, Body &&body) const;
    template <class Body> void each_part(int64_t from, int64_t to, Body &&body) const;
};

} // namespace adamas
