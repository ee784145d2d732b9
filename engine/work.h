// The tensors of one parameter group, and the distribution of the work among threads. No Python here.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace adamas {

// A tensor as described by its framework. Strides are in elements.
struct View {
    char *data = nullptr;
    Format format = Format::f32;
    int64_t numel = 0;
    std::vector<int64_t> sizes, strides;             // empty for a tensor in row-major order
    float *scales = nullptr;                         // for codes
    std::vector<int64_t> scale_sizes, scale_strides; // likewise

    bool operator==(const View &) const = default;
};

// Jobs, and the storage that their operands point to.
class Work {
    std::vector<Job> jobs_;
    std::vector<std::vector<int64_t>> layouts_; // the inner vectors never move, since jobs point into them
    std::vector<int64_t> starts_;               // the start of each job in the concatenation of all
    int64_t total_ = 0;

    Layout layout(const std::vector<int64_t> &sizes, const std::vector<int64_t> &strides,
                  const std::vector<int> &order);
    void place(Operand &operand, const View &view, const std::vector<int> &order);

  public:
    void clear();
    // `views` are in the order of Slot; absent ones have data = null. `by_index` keeps the logical order of elements,
    // which numbers blocks and random numbers; without it, any order is possible.
    Job &add(const View *views, bool by_index);
    // Makes the last job a part, of the shape `sizes`, of a tensor of the shape `whole`, from the element at `offset`
    // on.
    void place_last(const std::vector<int64_t> &sizes, const std::vector<int64_t> &offset,
                    const std::vector<int64_t> &whole);
    // Restricts the last job to the rows of a gradient that has only some of `total`; `rows` has to stay valid.
    void restrict_last(const std::vector<Row> &rows, int64_t total);
    std::vector<Job> &jobs() { return jobs_; }

    // Adds statistics of each job, unless they are null.
    void step(const Kernels &, int threads, Statistics *) const;

    struct Measure {
        Sum sum;
        int64_t first_nonfinite = -1; // index of the job
    };
    Measure square_sum(const Kernels &, int threads) const;
    // The rule's sum of this index, of each job.
    std::vector<Sum> rule_sums(const Kernels &, int sum, int threads) const;

  private:
    template <class Body> void share(int threads, Body &&body) const;
    template <class Body> void each_part(int64_t from, int64_t to, Body &&body) const;
};

} // namespace adamas
