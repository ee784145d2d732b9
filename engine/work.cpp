#include "work.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <numeric>

#include "threads.h"

namespace adamas {
namespace {

// The number of elements that a thread takes at a time from the concatenation of all tensors: small tensors are
// batched, and large ones are cut.
constexpr int64_t portion = 16384;
// A tensor is cut at multiples of this, which are whole cache lines in every format.
constexpr int64_t grain = 1024;
// Waking a thread takes microseconds; for fewer elements than this, one thread is faster.
constexpr int64_t least_per_thread = 4096;

int64_t cut(int64_t at, const Job &job) {
    if (at >= job.numel || at <= 0) return at <= 0 ? 0 : job.numel;
    at = at / grain * grain;
    return job.row ? at - at % job.row % quantum : at; // between two blocks
}

// The dimensions from the first to the last.
std::vector<int> in_order(const std::vector<int64_t> &sizes) {
    std::vector<int> order(sizes.size());
    std::iota(order.begin(), order.end(), 0);
    return order;
}

// The dimensions from the slowest to the fastest in memory.
std::vector<int> memory_order(const View &view) {
    std::vector<int> order = in_order(view.sizes);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return std::abs(view.strides[a]) > std::abs(view.strides[b]); });
    return order;
}

std::vector<int64_t> row_major(const std::vector<int64_t> &sizes) {
    std::vector<int64_t> strides(sizes.size());
    int64_t next = 1;
    for (size_t d = sizes.size(); d-- > 0; next *= sizes[d]) strides[d] = next;
    return strides;
}

// Hints for the processor, which fetches what a step reads of a row before the row's turn: rows of an embedding are far
// apart and short, and a step would wait for each of them.
class RowFetch {
    struct Span {
        const char *data;
        int64_t bytes; // of a row
    };
    Span spans[2 * slot_count];
    int count = 0;
    int64_t gradient_bytes;

    static void fetch([[maybe_unused]] const char *data, int64_t bytes) {
        constexpr int64_t line = 64, most = 16 * line; // what follows is fetched by the processor itself
        for (int64_t at = 0; at < std::min(bytes, most); at += line) {
#ifdef __GNUC__
            __builtin_prefetch(data + at, 1);
#endif
        }
    }

  public:
    static constexpr int ahead = 4; // rows

    explicit RowFetch(const Job &job) {
        const int64_t length = job.gradient_row;
        gradient_bytes = length * int64_t(size_of(job.operands[GRADIENT].format));
        for (int slot = 0; slot < slot_count; ++slot) {
            const Operand &x = job.operands[slot];
            if (slot == GRADIENT || x.data == nullptr || x.dims != 0) continue;
            const int64_t rows = job.row ? length / job.row : 1;
            spans[count++] = {x.data,
                              is_packed(x.format) ? rows * packed_bytes(job.row) : length * int64_t(size_of(x.format))};
            if (is_scaled(x.format) && x.scale_layout.dims == 0)
                spans[count++] = {reinterpret_cast<const char *>(x.scales),
                                  rows * blocks_of(job.row) * int64_t(sizeof(float))};
        }
    }

    void operator()(const Row &row) const {
        fetch(row.gradient, gradient_bytes);
        for (int i = 0; i < count; ++i) fetch(spans[i].data + row.index * spans[i].bytes, spans[i].bytes);
    }
};

// Calls body(job, begin, end) for the elements [begin, end) of a job. If its gradient has only some rows, that is for
// each run of consecutive ones, with the job and the elements of the whole parameter, of which they are a part; so the
// numbers of elements and blocks are those of the whole, and with them the random numbers.
template <class Body> void each_run(const Job &job, int64_t begin, int64_t end, Body &&body) {
    if (job.gradient_rows == nullptr) return body(job, begin, end);
    Job run = job;
    Operand &gradient = run.operands[GRADIENT];
    const int64_t length = job.gradient_row, bytes = int64_t(size_of(gradient.format));
    const RowFetch fetch(job);
    const Row *const rows_end = job.gradient_rows + (end + length - 1) / length;
    for (int64_t at = begin, next; at < end; at = next) {
        const Row *row = job.gradient_rows + at / length, *last = row;
        if (rows_end - row > fetch.ahead) fetch(row[fetch.ahead]);
        for (next = at - at % length + length; next < end; next += length, ++last)
            if (last[1].index != last->index + 1 || last[1].gradient != last->gradient + length * bytes) break;
        next = std::min(next, end);
        gradient.data = const_cast<char *>(row->gradient) - row->index * length * bytes;
        const int64_t first = row->index * length + at % length;
        body(run, first, first + (next - at));
    }
}

} // namespace

void Work::clear() {
    jobs_.clear(), layouts_.clear(), starts_.clear();
    total_ = 0;
}

// The dimensions in `order`; neighbouring ones that are contiguous are merged.
Layout Work::layout(const std::vector<int64_t> &sizes, const std::vector<int64_t> &strides,
                    const std::vector<int> &order) {
    std::vector<int64_t> merged, steps;
    for (const int d : order) {
        if (sizes[d] == 1) continue;
        if (!merged.empty() && steps.back() == strides[d] * sizes[d]) {
            merged.back() *= sizes[d], steps.back() = strides[d];
        } else {
            merged.push_back(sizes[d]), steps.push_back(strides[d]);
        }
    }
    Layout result;
    if (merged.empty() || (merged.size() == 1 && steps[0] == 1)) return result;
    result.dims = int(merged.size());
    layouts_.push_back(std::move(merged)), result.sizes = layouts_.back().data();
    layouts_.push_back(std::move(steps)), result.strides = layouts_.back().data();
    return result;
}

void Work::place(Operand &operand, const View &view, const std::vector<int> &order) {
    operand.data = view.data, operand.format = view.format, operand.scales = view.scales;
    static_cast<Layout &>(operand) = layout(view.sizes, view.strides, order);
    operand.scale_layout = layout(view.scale_sizes, view.scale_strides, in_order(view.scale_sizes));
}

Job &Work::add(const View *views, bool by_index) {
    Job &job = jobs_.emplace_back();
    job.numel = views[WEIGHT].numel;
    const bool all_in_order =
        std::all_of(views, views + slot_count, [](const View &v) { return v.data == nullptr || v.sizes.empty(); });
    if (all_in_order) {
        for (int slot = 0; slot < slot_count; ++slot) place(job.operands[slot], views[slot], {});
    } else {
        const View *shaped = std::find_if(views, views + slot_count, [](const View &v) { return !v.sizes.empty(); });
        std::vector<int> order = in_order(shaped->sizes);
        if (!by_index && !views[WEIGHT].sizes.empty()) order = memory_order(views[WEIGHT]);
        for (int slot = 0; slot < slot_count; ++slot) {
            if (views[slot].data == nullptr) continue;
            if (views[slot].sizes.empty()) {
                View view = views[slot];
                view.sizes = shaped->sizes, view.strides = row_major(shaped->sizes);
                place(job.operands[slot], view, order);
            } else {
                place(job.operands[slot], views[slot], order);
            }
        }
    }
    starts_.push_back(total_);
    total_ += job.numel;
    return job;
}

void Work::place_last(const std::vector<int64_t> &sizes, const std::vector<int64_t> &offset,
                      const std::vector<int64_t> &whole) {
    Job &job = jobs_.back();
    const std::vector<int64_t> strides = row_major(whole);
    job.first_element = std::inner_product(offset.begin(), offset.end(), strides.begin(), int64_t(0));
    job.elements = layout(sizes, strides, in_order(sizes));
    if (job.row == 0) return; // no codes, or no elements
    const int rows = row_dims(int(whole.size()), whole.data());
    const auto of_blocks = [&](const std::vector<int64_t> &of, int64_t row) {
        std::vector<int64_t> result(of.begin(), of.begin() + rows);
        result.push_back(row);
        return result;
    };
    const int64_t row = strides[rows - 1]; // elements in a row of the whole
    const std::vector<int64_t> part = of_blocks(sizes, blocks_of(job.row)),
                               steps = row_major(of_blocks(whole, blocks_of(row)));
    const std::vector<int64_t> from = of_blocks(offset, job.first_element % row / quantum);
    job.first_block = std::inner_product(from.begin(), from.end(), steps.begin(), int64_t(0));
    job.blocks = layout(part, steps, in_order(part));
}

void Work::restrict_last(const std::vector<Row> &rows, int64_t total) {
    Job &job = jobs_.back();
    total_ -= job.numel;
    job.gradient_rows = rows.data(), job.gradient_row = total == 0 ? 0 : job.numel / total;
    job.numel = int64_t(rows.size()) * job.gradient_row;
    total_ += job.numel;
}

// Calls body(job, begin, end) for ranges that together cover every job once. Every thread has its own range of
// portions, since memory is fastest in long runs; a thread that finishes early takes portions from the others.
template <class Body> void Work::share(int threads, Body &&body) const {
    const int64_t portions = (total_ + portion - 1) / portion;
    threads = int(std::min<int64_t>({threads, portions, std::max<int64_t>(1, total_ / least_per_thread)}));
    struct alignas(64) Range {
        std::atomic<int64_t> next;
        int64_t end;
    };
    struct Shared {
        const Work &work;
        Body &body;
        std::vector<Range> ranges;
        std::atomic<size_t> threads{0};
    } shared{*this, body, std::vector<Range>(size_t(std::max(threads, 1)))};
    for (int t = 0; t < threads; ++t)
        shared.ranges[t].next = portions * t / threads, shared.ranges[t].end = portions * (t + 1) / threads;
    run_on_threads(
        threads,
        [](void *argument) {
            auto &[work, body, ranges, threads] = *static_cast<Shared *>(argument);
            const size_t me = threads.fetch_add(1, std::memory_order_relaxed);
            for (size_t i = 0; i < ranges.size(); ++i) {
                Range &range = ranges[(me + i) % ranges.size()];
                for (int64_t mine; (mine = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;)
                    work.each_part(mine * portion, (mine + 1) * portion, body);
            }
        },
        &shared);
}

// Calls body for the parts of the jobs in the range [from, to) of their concatenation.
template <class Body> void Work::each_part(int64_t from, int64_t to, Body &&body) const {
    const auto first = std::upper_bound(starts_.begin(), starts_.end(), from) - 1;
    for (size_t j = size_t(first - starts_.begin()); j < jobs_.size() && starts_[j] < to; ++j) {
        const int64_t begin = cut(from - starts_[j], jobs_[j]), end = cut(to - starts_[j], jobs_[j]);
        if (begin < end) body(j, begin, end);
    }
}

void Work::step(const Kernels &kernels, int threads, Statistics *statistics) const {
    std::mutex mutex;
    share(threads, [&](size_t job, int64_t begin, int64_t end) {
        const auto step = [&](Statistics *part) {
            each_run(jobs_[job], begin, end,
                     [&](const Job &run, int64_t first, int64_t last) { kernels.step(run, first, last, part); });
        };
        if (statistics == nullptr) return step(nullptr);
        Statistics part;
        step(&part);
        const std::lock_guard lock(mutex);
        statistics[job].add(part);
    });
}

Work::Measure Work::square_sum(const Kernels &kernels, int threads) const {
    Measure result;
    std::mutex mutex;
    share(threads, [&](size_t job, int64_t begin, int64_t end) {
        Sum part;
        each_run(jobs_[job], begin, end, [&](const Job &run, int64_t first, int64_t last) {
            part = sum_of(part, kernels.square_sum(run, first, last));
        });
        const std::lock_guard lock(mutex);
        result.sum = sum_of(result.sum, part);
        if (!part.finite && (result.first_nonfinite < 0 || int64_t(job) < result.first_nonfinite))
            result.first_nonfinite = int64_t(job);
    });
    return result;
}

std::vector<Sum> Work::rule_sums(const Kernels &kernels, int sum, int threads) const {
    std::vector<Sum> result(jobs_.size());
    std::mutex mutex;
    share(threads, [&](size_t job, int64_t begin, int64_t end) {
        const Sum part = kernels.rule_sum(jobs_[job], sum, begin, end);
        const std::lock_guard lock(mutex);
        result[job] = sum_of(result[job], part);
    });
    return result;
}

} // namespace adamas
