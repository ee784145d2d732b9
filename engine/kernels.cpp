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
#include "scaled.h"

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

int64_t blocks_of(int64_t row) { return (row + quantum - 1) / quantum; }

int64_t block_at(const Job &job, int64_t at) { return at / job.row * blocks_of(job.row) + at % job.row / quantum; }

// The random numbers of what is rounded: as adamas.rule.formats.DRAWS.
constexpr uint64_t draw_of[SLOTS] = {2, 0, 0, 1, 0, 3, 0};

// Where the thresholds of each of `count` blocks of the whole tensor begin.
void begin_thresholds(const Job &job, Slot slot, uint64_t first, uint32_t *starts, int count) {
    Key key = key_of(job.random_key, draw_of[slot], first >> 32);
    for (int b = 0; b < count; ++b) {
        const uint64_t index = first + uint64_t(b);
        if (b > 0 && uint32_t(index) == 0) key = key_of(job.random_key, draw_of[slot], index >> 32);
        starts[b] = random_bits(uint32_t(index), key) + uint32_t(job.step) * step_forward;
    }
}

// Calls body(first element, elements, first threshold) for the blocks that n elements lie in; their blocks are counted
// through the whole tensor.
template <class Body> void each_draw(const Job &job, Slot slot, int64_t at, int n, Body &&body) {
    const uint64_t begin = uint64_t(job.first + at);
    uint32_t position = uint32_t(begin % quantum);
    for (int done = 0; done < n; position = 0) {
        uint32_t start;
        begin_thresholds(job, slot, (begin + uint64_t(done)) / quantum, &start, 1);
        const int piece = std::min(n - done, quantum - int(position));
        body(done, piece, start + position * position_forward);
        done += piece;
    }
}

// One tensor's part of a block. After `load`, `stored` points at its n elements as stored, in order; `values` at the
// same as the rule computes, which is the same place where the format allows it.
template <class T, int capacity = block> struct Lane {
    alignas(64) T value_buffer[capacity];
    alignas(64) char stored_buffer[capacity * sizeof(double)];
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

    void store_stochastic(const Job &job, Slot slot, int64_t begin, int n) {
        each_draw(job, slot, begin, n, [&](int done, int piece, uint32_t threshold) {
            encode_stochastic(operand->format, values + done, stored + done * sizeof(uint16_t), piece, threshold);
        });
        put_back(begin, n);
    }

    void load_codes(const Operand &x, int64_t begin, int n, int64_t block_index) {
        operand = &x, stored = x.data + begin, values = value_buffer;
        for (int i = 0; i < n; ++i)
            values[i] = T(value_of(uint8_t(stored[i]), x.scales[block_index], is_signed(x.format)));
    }

    // `factor` is what the rule has multiplied the moments with.
    void store_codes(const Job &job, int n, int64_t block_index, bool stochastic, float factor) {
        alignas(64) float x[quantum] = {};
        alignas(64) uint8_t codes[quantum];
        for (int i = 0; i < n; ++i) x[i] = float(values[i]);
        float &scale = operand->scales[block_index];
        uint32_t start;
        begin_thresholds(job, V, uint64_t(job.first_block + block_index), &start, 1);
        encode_block(operand->format, stochastic, x, codes, scale, factor * magnitude_of(scale), start, padded(n));
        std::copy_n(codes, n, reinterpret_cast<uint8_t *>(stored));
    }
};

bool rounds(const Operand &x) { return x.format == Format::bf16 || x.format == Format::f16; }

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

bool lies_in_order(const Job &job, Slot slot, Format format) {
    return job.operands[slot].dims == 0 && job.operands[slot].format == format;
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

// The weight's part of a block: as the rule computes, and back again as it is stored.
template <class T, int capacity> struct WeightLane {
    Lane<T, capacity> weight, low; // of `low` only what is stored is used
    const Job &job;
    explicit WeightLane(const Job &job) : job(job) {}

    T *load(int64_t at, int n) {
        if (job.weights != Weights::split) {
            weight.load(job.operands[P], at, n);
            if (!job.move) weight.detach(n);
        } else {
            weight.locate(job.operands[P], at, n);
            low.locate(job.operands[LOW], at, n);
            weight.values = weight.value_buffer;
            decode_split(job.operands[P].format, weight.stored, low.stored, weight.values, n);
        }
        return weight.values;
    }

    void store(int64_t at, int n) {
        if (!job.move) return;
        if (job.weights == Weights::split) {
            encode_split(job.operands[P].format, weight.values, weight.stored, low.stored, n);
            weight.put_back(at, n), low.put_back(at, n);
        } else if (job.weights == Weights::stochastic && rounds(job.operands[P])) {
            weight.store_stochastic(job, P, at, n);
        } else {
            weight.store(at, n);
        }
    }
};

template <class T> void step_blocks(const Job &job, const Constants<T> &constants, int64_t begin, int64_t end) {
    Lane<T> lanes[LOW]; // that of the weight is its own
    WeightLane<T, block> weight(job);
    const Rule<T, T> apply = rules<T, T>[job.shape];
    const float factors[LOW] = {0, 0, float(constants.a1), float(constants.a2), 1, float(constants.q)};

    for (int64_t at = begin; at < end;) {
        int64_t next = std::min(end, (at / block + 1) * block), block_index = 0;
        if (job.row) {
            block_index = block_at(job, at);
            next = std::min(end, at + std::min<int64_t>(job.row - at % job.row, quantum));
        }
        const int n = int(next - at);
        T *values[LOW] = {weight.load(at, n)};
        for (int slot = G; slot < LOW; ++slot) {
            const Operand &x = job.operands[slot];
            if (x.data == nullptr) continue;
            if (is_scaled(x.format))
                lanes[slot].load_codes(x, at, n, block_index);
            else
                lanes[slot].load(x, at, n);
            values[slot] = lanes[slot].values;
        }

        apply(constants, values[P], values[G], values[M], values[V], values[H], values[R], n);

        // Averages are rounded without bias: nearest rounding would stop them (a step moves v by 1/1000, a bfloat16 has
        // 8 bits). The maximum is not an average, and takes the nearest.
        for (const Slot slot : {M, V, H, R}) {
            if (values[slot] == nullptr) continue;
            const Operand &x = job.operands[slot];
            if (is_scaled(x.format)) {
                lanes[slot].store_codes(job, n, block_index, slot == V && (job.shape & shape::square), factors[slot]);
            } else if (slot == H || !rounds(x)) {
                lanes[slot].store(at, n);
            } else {
                lanes[slot].store_stochastic(job, slot, at, n);
            }
        }
        weight.store(at, n);
        at = next;
    }
}

// ---- all moments in 8 bits

template <unsigned S> constexpr ScaledStep scaled_step_or_null() {
    if constexpr (can_be_scaled(S))
        return step_scaled_blocks<S>;
    else
        return nullptr;
}

template <unsigned... S> constexpr auto make_scaled_steps(std::integer_sequence<unsigned, S...>) {
    return std::array<ScaledStep, sizeof...(S)>{scaled_step_or_null<S>()...};
}

constexpr auto scaled_steps = make_scaled_steps(std::make_integer_sequence<unsigned, shape::count>());

bool all_scaled(const Job &job) {
    if (!job.row || job.wide || scaled_steps[job.shape & ~shape::penalty] == nullptr) return false;
    return std::all_of(job.operands + M, job.operands + LOW,
                       [](const Operand &x) { return x.data == nullptr || is_scaled(x.format); });
}

// `count` blocks that have n elements each and lie one behind the other.
void step_scaled_run(const Job &job, const Constants<Floats> &wide, float *p, const float *g, int64_t at, int n,
                     int count) {
    const ScaledStep apply = scaled_steps[job.shape & ~shape::penalty];
    const int64_t first = block_at(job, at);
    uint32_t starts[most_blocks];
    begin_thresholds(job, V, uint64_t(job.first_block + first), starts, count);
    ScaledBlocks x{};
    for (int part = 0; part < 4; ++part) {
        const Operand &operand = job.operands[M + part];
        if (operand.data == nullptr) continue;
        x.codes[part] = reinterpret_cast<uint8_t *>(operand.data) + at;
        x.scales[part] = operand.scales + first;
    }
    if (n % group == 0) return apply(*job.narrow_constants, wide, p, g, x, starts, n, count);

    for (int b = 0; b < count; ++b, p += n, g += n) { // one after the other, with zeros behind it
        alignas(64) float padded_p[quantum] = {}, padded_g[quantum] = {};
        alignas(64) uint8_t padded_codes[4][quantum] = {};
        ScaledBlocks one{};
        std::copy_n(p, n, padded_p), std::copy_n(g, n, padded_g);
        for (int part = 0; part < 4; ++part) {
            if (!x.codes[part]) continue;
            std::copy_n(x.codes[part] + b * n, n, padded_codes[part]);
            one.codes[part] = padded_codes[part], one.scales[part] = x.scales[part] + b;
        }
        apply(*job.narrow_constants, wide, padded_p, padded_g, one, starts + b, padded(n), 1);
        std::copy_n(padded_p, n, p);
        for (int part = 0; part < 4; ++part)
            if (x.codes[part]) std::copy_n(padded_codes[part], n, x.codes[part] + b * n);
    }
}

void step_scaled(const Job &job, int64_t begin, int64_t end) {
    WeightLane<float, stretch> weight(job);
    Lane<float, stretch> gradient;
    alignas(64) float penalized_gradient[stretch];
    const Constants<float> k = *job.narrow_constants;
    Constants<Floats> wide = Constants<Floats>::from(k, [](float x) { return splat(x); });
    wide.root = splat(larger(k.root, 1e-37f)); // no root is estimated of 0
    // Weights and gradients that are converted take as much of the first-level cache again.
    const bool in_place = lies_in_order(job, P, Format::f32) && lies_in_order(job, G, Format::f32);
    const int at_a_time = in_place ? stretch : stretch / 2;

    for (int64_t at = begin; at < end;) {
        // As many blocks of one length as there are: where rows end with a shorter block, only those of one row.
        const int64_t rest = job.row - at % job.row;
        const int n = int(std::min<int64_t>(rest, quantum));
        const bool even = job.row < quantum || job.row % quantum == 0;
        const int64_t alike = std::min<int64_t>(even ? end - at : rest, end - at) / n;
        const int count = int(std::min<int64_t>(alike, at_a_time / padded(n))), total = n * count;

        gradient.load(job.operands[G], at, total);
        float *p = weight.load(at, total);
        const float *g = gradient.values;
        if (job.shape & shape::penalty) {
            for (int i = 0; i < total; ++i) penalized_gradient[i] = penalized(k, g[i], p[i]);
            g = penalized_gradient;
        }
        step_scaled_run(job, wide, p, g, at, n, count);
        weight.store(at, total);
        at += total;
    }
}

template <class T> void step_as(const Job &job, const Constants<T> &constants, int64_t begin, int64_t end) {
    if (lies_ready<T>(job, native<T>)) return step_in_place<T, T>(job, constants, begin, end);
    if constexpr (sizeof(T) == 4)
        if (lies_ready<T>(job, Format::bf16)) return step_in_place<T, bf16>(job, constants, begin, end);
    if (all_scaled(job)) return step_scaled(job, begin, end);
    step_blocks<T>(job, constants, begin, end);
}

void step_once(const Job &job, int64_t begin, int64_t end) {
    if (job.wide)
        step_as<double>(job, *job.wide_constants, begin, end);
    else
        step_as<float>(job, *job.narrow_constants, begin, end);
}

void step(const Job &job, int64_t begin, int64_t end) {
    if (!(job.shape & shape::square) || job.wide_constants->sqrt_w != 0) return step_once(job, begin, end);
    // Without a denominator in this step (w = 0): v by itself, while the weight is what it was, and then the rest as if
    // there were no v. 0 times an infinite root would be NaN.
    constexpr unsigned sizes = shape::square | shape::maximum;
    Job of_second = job, rest = job;
    of_second.shape = (job.shape & (sizes | shape::penalty)) | shape::use_gradient;
    of_second.move = false;
    of_second.operands[M].data = of_second.operands[R].data = nullptr;
    rest.shape = job.shape & ~(sizes | shape::centered);
    rest.operands[V].data = rest.operands[H].data = nullptr;
    step_once(of_second, begin, end), step_once(rest, begin, end);
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
