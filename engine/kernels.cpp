// A block passes through: decode, rule, encode. Blocks are small enough for the first-level cache; a tensor that is
// stored as the rule computes, and lies in order, is used where it lies. This file is compiled once for each
// instruction set.

#include "kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "formats.h"
#include "rule.h"

#define ADAMAS_STRING_(x) #x
#define ADAMAS_STRING(x) ADAMAS_STRING_(x)

namespace adamas::ADAMAS_ISA {
namespace {

constexpr int block = 256; // what seven tensors have of it lies in any first-level cache

template <class T> constexpr Format native = sizeof(T) == 4 ? Format::f32 : Format::f64;

// Calls piece(offset of the first element, elements, stride) for each run of the innermost dimension in [begin,
// begin+n).
template <class Piece> void for_each_run(const Operand &x, int64_t begin, int n, Piece &&piece) {
    const int last = x.dims - 1;
    while (n > 0) {
        int64_t rest = begin, offset = 0;
        for (int d = last; d >= 0; --d) {
            offset += rest % x.sizes[d] * x.strides[d];
            rest /= x.sizes[d];
        }
        const int run = int(std::min<int64_t>(n, x.sizes[last] - begin % x.sizes[last]));
        piece(offset, run, x.strides[last]);
        begin += run, n -= run;
    }
}

template <class Element> void gather(const Operand &x, int64_t begin, int n, char *to) {
    auto *target = reinterpret_cast<Element *>(to);
    for_each_run(x, begin, n, [&](int64_t offset, int run, int64_t stride) {
        const auto *source = reinterpret_cast<const Element *>(x.data) + offset;
        for (int i = 0; i < run; ++i) target[i] = source[i * stride];
        target += run;
    });
}

template <class Element> void scatter(const Operand &x, int64_t begin, int n, const char *from) {
    const auto *source = reinterpret_cast<const Element *>(from);
    for_each_run(x, begin, n, [&](int64_t offset, int run, int64_t stride) {
        auto *target = reinterpret_cast<Element *>(x.data) + offset;
        for (int i = 0; i < run; ++i) target[i * stride] = source[i];
        source += run;
    });
}

// One tensor's part of a block. After `load`, `stored` points at its n elements as stored, in order; `values` at the
// same as the rule computes, which is the same place where the format allows it.
template <class T> struct Lane {
    alignas(64) T value_buffer[block];
    alignas(64) char stored_buffer[block * sizeof(double)];
    const Operand *operand;
    char *stored;
    T *values;

    void locate(const Operand &x, int64_t begin, int n) {
        operand = &x;
        if (x.dims == 0) {
            stored = x.data + begin * int64_t(size_of(x.format));
            return;
        }
        stored = stored_buffer;
        switch (size_of(x.format)) {
        case 2: return gather<uint16_t>(x, begin, n, stored);
        case 4: return gather<uint32_t>(x, begin, n, stored);
        default: return gather<uint64_t>(x, begin, n, stored);
        }
    }

    void load(const Operand &x, int64_t begin, int n) {
        locate(x, begin, n);
        if (x.format == native<T>) {
            values = reinterpret_cast<T *>(stored);
        } else {
            values = value_buffer;
            decode(x.format, stored, values, n);
        }
    }

    // The rule writes the weight; where it must not move, it writes a copy.
    void detach(int n) {
        if (values != value_buffer) std::copy_n(values, n, value_buffer);
        values = value_buffer;
    }

    void put_back(int64_t begin, int n) {
        if (operand->dims == 0) return;
        switch (size_of(operand->format)) {
        case 2: return scatter<uint16_t>(*operand, begin, n, stored);
        case 4: return scatter<uint32_t>(*operand, begin, n, stored);
        default: return scatter<uint64_t>(*operand, begin, n, stored);
        }
    }

    void store(int64_t begin, int n) {
        if (operand->format != native<T>) encode(operand->format, values, stored, n);
        put_back(begin, n);
    }

    void store_stochastic(int64_t begin, int n, const uint32_t *draws, int shift) {
        if (operand->format != native<T>) encode_stochastic(operand->format, values, stored, n, draws, shift);
        put_back(begin, n);
    }
};

bool rounds(const Operand &x) { return x.format == Format::bf16 || x.format == Format::f16; }

// Which 16 bits of which draw round which tensor. Pairs that often occur together share one draw.
struct Draw {
    int number, shift;
};
constexpr Draw draw_of[SLOTS] = {{1, 0}, {}, {0, 0}, {0, 16}, {}, {1, 16}, {}};

// The random numbers of one block, made when they are first asked for.
class Draws {
    alignas(64) uint32_t bits[2][block];
    bool made[2] = {false, false};
    const Job &job;
    int64_t begin;
    int n;

  public:
    Draws(const Job &job, int64_t begin, int n) : job(job), begin(begin), n(n) {}

    const uint32_t *get(int number) {
        if (!made[number]) {
            // Blocks begin at multiples of the block's length, so the high half of the index is the same throughout.
            const Key key = key_of(job.random_key, job.step, uint64_t(number), uint64_t(begin) >> 32);
            const uint32_t first = uint32_t(begin);
            uint32_t *to = bits[number];
#pragma omp simd
            for (int i = 0; i < n; ++i) to[i] = random_bits(first + uint32_t(i), key);
            made[number] = true;
        }
        return bits[number];
    }
};

template <class T, class Stored, unsigned S> constexpr Rule<T, Stored> rule_or_null() {
    if constexpr (shape::valid(S))
        return rule<T, Stored, S>;
    else
        return nullptr;
}

template <class T, class Stored, unsigned... S> constexpr auto make_rules(std::integer_sequence<unsigned, S...>) {
    return std::array<Rule<T, Stored>, sizeof...(S)>{rule_or_null<T, Stored, S>()...};
}

template <class T, class Stored>
constexpr auto rules = make_rules<T, Stored>(std::make_integer_sequence<unsigned, shape::count>());

// Whether the rule can read and write every tensor where it lies: in order, the moments as they are computed, weight
// and gradient in `stored`.
template <class T> bool lies_ready(const Job &job, Format stored) {
    if (!job.move || (job.weights != Weights::nearest && stored != native<T>)) return false;
    for (int slot = P; slot < SLOTS; ++slot) {
        const Operand &x = job.operands[slot];
        if (x.data != nullptr && (x.dims != 0 || x.format != (slot <= G ? stored : native<T>))) return false;
    }
    return true;
}

template <class Element> Element *elements(const Job &job, Slot slot, int64_t begin) {
    char *data = job.operands[slot].data;
    return data == nullptr ? nullptr : reinterpret_cast<Element *>(data) + begin;
}

template <class T, class Stored>
void step_in_place(const Job &job, const Constants<T> &constants, int64_t begin, int64_t end) {
    rules<T, Stored>[job.shape](constants, elements<Stored>(job, P, begin), elements<Stored>(job, G, begin),
                                elements<T>(job, M, begin), elements<T>(job, V, begin), elements<T>(job, H, begin),
                                elements<T>(job, R, begin), int(end - begin));
}

template <class T> void step_blocks(const Job &job, const Constants<T> &constants, int64_t begin, int64_t end) {
    Lane<T> lanes[LOW];
    Lane<T> low; // only its `stored` is used
    const Rule<T, T> apply = rules<T, T>[job.shape];
    const bool split = job.weights == Weights::split;

    for (int64_t at = begin; at < end;) {
        const int64_t next = std::min(end, (at / block + 1) * block);
        const int n = int(next - at);
        T *values[LOW] = {};
        for (int slot = P; slot < LOW; ++slot) {
            if (job.operands[slot].data == nullptr || (slot == P && split)) continue;
            lanes[slot].load(job.operands[slot], at, n);
            values[slot] = lanes[slot].values;
        }
        if (split) {
            lanes[P].locate(job.operands[P], at, n);
            low.locate(job.operands[LOW], at, n);
            lanes[P].values = lanes[P].value_buffer;
            decode_split(job.operands[P].format, lanes[P].stored, low.stored, lanes[P].values, n);
        } else if (!job.move) {
            lanes[P].detach(n);
        }
        values[P] = lanes[P].values;

        apply(constants, values[P], values[G], values[M], values[V], values[H], values[R], n);

        Draws draws(job, at, n);
        // Averages are rounded without bias: nearest rounding would stop them (a step moves v by 1/1000, a bfloat16 has
        // 8 bits). The maximum is not an average, and takes the nearest.
        for (const Slot slot : {M, V, R}) {
            if (values[slot] == nullptr) continue;
            const Draw draw = draw_of[slot];
            const uint32_t *bits = rounds(job.operands[slot]) ? draws.get(draw.number) : nullptr;
            lanes[slot].store_stochastic(at, n, bits, draw.shift);
        }
        if (values[H] != nullptr) lanes[H].store(at, n);
        if (job.move) {
            if (split) {
                encode_split(job.operands[P].format, lanes[P].values, lanes[P].stored, low.stored, n);
                lanes[P].put_back(at, n);
                low.put_back(at, n);
            } else if (job.weights == Weights::stochastic && rounds(job.operands[P])) {
                lanes[P].store_stochastic(at, n, draws.get(draw_of[P].number), draw_of[P].shift);
            } else {
                lanes[P].store(at, n);
            }
        }
        at = next;
    }
}

template <class T> void step_as(const Job &job, const Constants<T> &constants, int64_t begin, int64_t end) {
    if (lies_ready<T>(job, native<T>)) return step_in_place<T, T>(job, constants, begin, end);
    if constexpr (sizeof(T) == 4)
        if (lies_ready<T>(job, Format::bf16)) return step_in_place<T, bf16>(job, constants, begin, end);
    step_blocks<T>(job, constants, begin, end);
}

void step(const Job &job, int64_t begin, int64_t end) {
    if (job.wide)
        step_as<double>(job, *job.wide_constants, begin, end);
    else
        step_as<float>(job, *job.narrow_constants, begin, end);
}

// ---- the gradient's norm

template <class T> SquareSum square_sum_blocks(const Job &job, int64_t begin, int64_t end) {
    constexpr int lanes = 16;
    alignas(64) double high[lanes] = {}, low[lanes] = {};
    alignas(64) double squares[block + lanes];
    Lane<T> lane;
    for (int64_t at = begin; at < end;) {
        const int64_t next = std::min(end, (at / block + 1) * block);
        const int n = int(next - at);
        lane.load(job.operands[G], at, n);
        const T *values = lane.values;
#pragma omp simd
        for (int i = 0; i < n; ++i) squares[i] = double(values[i]) * double(values[i]);
        std::fill_n(squares + n, lanes, 0.0);
        for (int i = 0; i < n; i += lanes) {
#pragma omp simd
            for (int l = 0; l < lanes; ++l) { // two-sum (Knuth): what the addition rounds off goes to `low`
                const double x = squares[i + l], total = high[l] + x, part = total - high[l];
                low[l] += (high[l] - (total - part)) + (x - part);
                high[l] = total;
            }
        }
        at = next;
    }
    SquareSum sum;
    for (int l = 0; l < lanes; ++l) sum = sum_of(sum, {high[l], low[l], true});
    if (!std::isfinite(sum.high)) { // a square can overflow where the gradient does not
        for (int64_t at = begin; at < end && sum.finite; at += block) {
            const int n = int(std::min<int64_t>(block, end - at));
            lane.load(job.operands[G], at, n);
            for (int i = 0; i < n; ++i) sum.finite &= bool(std::isfinite(lane.values[i]));
        }
    }
    return sum;
}

SquareSum square_sum(const Job &job, int64_t begin, int64_t end) {
    return job.operands[G].format == Format::f64 ? square_sum_blocks<double>(job, begin, end)
                                                 : square_sum_blocks<float>(job, begin, end);
}

} // namespace

extern const Kernels kernels;
const Kernels kernels = {ADAMAS_STRING(ADAMAS_ISA), step, square_sum};

} // namespace adamas::ADAMAS_ISA
