// One step of a block: decode, rule, encode. Blocks are small enough for the first-level cache. A contiguous tensor
// that is stored in the dtype of the computation is used in place. This file is compiled once for each instruction set.

#include "kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "formats.h"
#include "scaled.h"

#define ADAMAS_STRING_(x) #x
#define ADAMAS_STRING(x) ADAMAS_STRING_(x)

namespace adamas::ADAMAS_ISA {
namespace {

constexpr int block = 512; // the blocks of seven tensors fit in any first-level cache

template <class T> constexpr Format native = sizeof(T) == 4 ? Format::f32 : Format::f64;

// The position of an element.
int64_t offset_of(const Layout &x, int64_t element) {
    if (x.dims == 0) return element;
    int64_t offset = 0;
    for (int d = x.dims - 1; d >= 0; --d) {
        offset += element % x.sizes[d] * x.strides[d];
        element /= x.sizes[d];
    }
    return offset;
}

// Calls piece(offset of the first element, elements, stride) for each run of the innermost dimension in [begin,
// begin+n).
template <class Piece> void for_each_run(const Layout &x, int64_t begin, int n, Piece &&piece) {
    const int last = x.dims - 1;
    while (n > 0) {
        const int run = int(std::min<int64_t>(n, x.sizes[last] - begin % x.sizes[last]));
        piece(offset_of(x, begin), run, x.strides[last]);
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

// The codes from an element on, and the scales from a block on, as far as they lie in one piece.
uint8_t *codes_at(const Operand &x, int64_t at) { return reinterpret_cast<uint8_t *>(x.data) + offset_of(x, at); }
float *scales_at(const Operand &x, int64_t block) { return x.scales + offset_of(x.scale_layout, block); }

int64_t block_at(const Job &job, int64_t at) { return at / job.row * blocks_of(job.row) + at % job.row / quantum; }

// The number of a block in the whole tensor.
uint64_t number_of_block(const Job &job, int64_t block) {
    return uint64_t(job.first_block + offset_of(job.blocks, block));
}

// The first thresholds of `count` blocks of the whole tensor; `draw` is the index of its random numbers. They are
// computed four at a time, so there is room for three more. Always inlined: a call takes 1 % of the step of states in
// 8 bits.
[[gnu::always_inline]] inline void begin_thresholds(const Job &job, int draw, uint64_t first, uint32_t *starts,
                                                    int count) {
    const uint32_t forward = uint32_t(job.step) * step_forward;
    while (count > 0) {
        const uint32_t index = uint32_t(first);
        const Key key = key_of(job.random_key, uint64_t(draw), first >> 32);
        const int alike = int(std::min<uint64_t>(uint64_t(count), (uint64_t(1) << 32) - index)); // with the same key
        for (int b = 0; b < alike; b += 4)
            for (int i = 0; i < 4; ++i) starts[b + i] = random_bits(index + uint32_t(b + i), key) + forward;
        first += uint64_t(alike), starts += alike, count -= alike;
    }
}

// Calls body(first element, elements, first threshold) for the blocks that contain n elements; blocks are numbered
// through the whole tensor.
template <class Body> void each_block_of_thresholds(const Job &job, int draw, int64_t at, int n, Body &&body) {
    int done = 0;
    const auto run = [&](uint64_t number, int length) { // of elements with consecutive numbers
        for (const int end = done + length; done < end;) {
            const uint32_t position = uint32_t(number % quantum);
            uint32_t starts[4];
            begin_thresholds(job, draw, number / quantum, starts, 1);
            const int piece = std::min(end - done, quantum - int(position));
            body(done, piece, starts[0] + position * position_forward);
            done += piece, number += uint64_t(piece);
        }
    };
    if (job.elements.dims == 0) return run(uint64_t(job.first_element + at), n);
    for_each_run(job.elements, at, n, [&](int64_t offset, int length, int64_t stride) {
        if (stride == 1) return run(uint64_t(job.first_element + offset), length);
        for (int i = 0; i < length; ++i) run(uint64_t(job.first_element + offset + i * stride), 1);
    });
}

// Consecutive blocks of codes of the same length; the first is block `first` of the tensor.
struct Blocks {
    int64_t first;
    int length, count;
};

// Calls body(packed codes, codes, number of codes) for the packed codes of blocks of which the first begins at element
// `begin`, as far as they lie in one piece; `codes` has a byte for each.
template <class Codes, class Body>
void each_packed_piece(const Job &job, const Operand &x, int64_t begin, const Blocks &blocks, Codes *codes,
                       Body &&body) {
    uint8_t *packed = reinterpret_cast<uint8_t *>(x.data);
    const int n = blocks.length;
    if (job.row % 4 == 0) return body(packed + packed_bytes(begin), codes, n * blocks.count); // no row is padded
    for (int b = 0; b < blocks.count; ++b) {
        const int64_t at = begin + b * n;
        body(packed + at / job.row * packed_bytes(job.row) + packed_bytes(at % job.row), codes + b * n, n);
    }
}
void unpack_blocks(const Job &job, const Operand &x, int64_t begin, const Blocks &blocks, uint8_t *codes) {
    each_packed_piece(job, x, begin, blocks, codes, x.format == Format::i6 ? unpack_codes<true> : unpack_codes<false>);
}
void pack_blocks(const Job &job, const Operand &x, int64_t begin, const Blocks &blocks, const uint8_t *codes) {
    each_packed_piece(job, x, begin, blocks, codes,
                      [](uint8_t *packed, const uint8_t *from, int n) { pack_codes(from, packed, n); });
}

// Whether n elements from `begin` on are consecutive in memory.
bool are_consecutive(const Layout &x, int64_t begin, int n) {
    if (x.dims == 0) return true;
    const int last = x.dims - 1;
    return x.strides[last] == 1 && begin % x.sizes[last] + n <= x.sizes[last];
}

// One tensor's part of a block. After `load`, `stored` points to its n elements in their storage format, in order: in
// the tensor itself if they are consecutive there. `values` points to the same elements in the dtype of the
// computation; both are the same memory if the formats are the same.
template <class T, int capacity = block> struct Lane {
    alignas(64) T value_buffer[capacity];
    alignas(64) char stored_buffer[capacity * sizeof(double)];
    const Operand *operand;
    bool is_copied;
    char *stored;
    T *values;

    void locate(const Operand &x, int64_t begin, int n) {
        operand = &x, is_copied = !are_consecutive(x, begin, n);
        if (!is_copied) {
            stored = x.data + offset_of(x, begin) * int64_t(size_of(x.format));
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

    // The rule writes the weight; if the weight must not change, the rule writes to a copy.
    void detach(int n) {
        if (values != value_buffer) std::copy_n(values, n, value_buffer);
        values = value_buffer;
    }

    void put_back(int64_t begin, int n) {
        if (!is_copied) return;
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

    void store_stochastic(const Job &job, int draw, int64_t begin, int n) {
        each_block_of_thresholds(job, draw, begin, n, [&](int done, int piece, uint32_t threshold) {
            encode_stochastic(operand->format, values + done, stored + done * sizeof(uint16_t), piece, threshold);
        });
        put_back(begin, n);
    }

    // The elements of consecutive blocks of codes.
    void load_codes(const Job &job, const Operand &x, int64_t begin, const Blocks &blocks) {
        operand = &x, stored = reinterpret_cast<char *>(codes_at(x, begin)), values = value_buffer;
        if (is_packed(x.format)) {
            stored = stored_buffer;
            unpack_blocks(job, x, begin, blocks, reinterpret_cast<uint8_t *>(stored));
        }
        const auto *codes = reinterpret_cast<const uint8_t *>(stored);
        const float *scales = scales_at(x, blocks.first);
        const int n = blocks.length;
        for (int b = 0; b < blocks.count; ++b) {
            if constexpr (sizeof(T) == sizeof(float)) {
                decode_block(x.format, codes + b * n, scales[b], values + b * n, n);
            } else {
                alignas(64) float decoded[quantum];
                decode_block(x.format, codes + b * n, scales[b], decoded, n);
                std::copy_n(decoded, n, values + b * n);
            }
        }
    }

    // `decay` is the factor by which the rule has multiplied the state. `second` is its second moment, or null.
    template <bool with_sign>
    void store_codes(const Job &job, const State &state, int64_t begin, const Blocks &blocks, T decay,
                     const Lane *second) {
        encode_codes<with_sign>(job, state, blocks, decay, second);
        if (is_packed(operand->format))
            pack_blocks(job, *operand, begin, blocks, reinterpret_cast<const uint8_t *>(stored));
    }

    template <bool with_sign>
    void encode_codes(const Job &job, const State &state, const Blocks &blocks, T decay, const Lane *second) {
        const Grids &grids = grids_of(operand->format);
        const int n = blocks.length, count = blocks.count, row = padded(n);
        auto *codes = reinterpret_cast<uint8_t *>(stored);
        float *scales = scales_at(*operand, blocks.first);
        uint32_t starts[most_blocks + 3];
        if (state.is_dithered) begin_thresholds(job, state.draw, number_of_block(job, blocks.first), starts, count);
        const auto choice = [&](int b) { return second == nullptr ? 0 : second->choice_of_block(grids, blocks, b); };
        const auto has_faded = [&](int b) {
            const Reader reader(grids, 1, scales[b], with_sign);
            int decayed = 0;
            while (decayed < n && values[b * n + decayed] == decay * T(reader(codes[b * n + decayed]))) ++decayed;
            return decayed == n;
        };
        const auto encode = [&](float *x, uint8_t *to) {
            Scales all;
            encode_blocks<with_sign>(
                all, grids, x, to, scales, row, count, state, starts, float(decay),
                [&](int b) { return largest_bits(x + b * row, row); }, choice, has_faded);
        };
        if constexpr (sizeof(T) == sizeof(float))
            if (n == row) return encode(values, codes);
        alignas(64) float padded_values[capacity] = {};
        alignas(64) uint8_t padded_codes[capacity];
        for (int b = 0; b < count; ++b) {
            std::copy_n(values + b * n, n, padded_values + b * row);
            std::copy_n(codes + b * n, n, padded_codes + b * row);
        }
        encode(padded_values, padded_codes);
        for (int b = 0; b < count; ++b) std::copy_n(padded_codes + b * row, n, codes + b * n);
    }

    // The choice of a block among these grids; without codes on them, the one that it would take.
    int choice_of_block(const Grids &grids, const Blocks &blocks, int b) const {
        if (is_scaled(operand->format) && &grids_of(operand->format) == &grids)
            return choice_of(scales_at(*operand, blocks.first)[b]);
        const int n = blocks.length, row = padded(n);
        const T *from = values + b * n;
        if constexpr (sizeof(T) == sizeof(float))
            if (n == row)
                if (const int most = largest_bits(from, n); most < infinity_bits)
                    return first_choice(grids, from, most, n);
        alignas(64) float x[quantum] = {};
        for (int i = 0; i < n; ++i) x[i] = std::isfinite(float(from[i])) ? float(from[i]) : 0;
        return first_choice(grids, x, largest_bits(x, row), row);
    }
};

bool rounds(const Operand &x) { return x.format == Format::bf16 || x.format == Format::f16; }

// ---- the step of contiguous elements

void put(float &to, float x) { to = x; }
void put(double &to, double x) { to = x; }
void put(bf16 &to, float x) { to.bits = to_bf16(x); }
float get(float x) { return x; }
double get(double x) { return x; }
float get(bf16 x) { return from_bf16(x.bits); }

template <int rule, int i, class T, class Numbers> T read_state(const Numbers &k, T state, T gradient) {
    if constexpr (Step<rule>::decays_in_read[i])
        return decayed(Step<rule>::template decay<i>(k), state, gradient);
    else
        return state;
}

template <class T, int> using Each = T; // T for each of several indices

// The step of n elements. `Stored` is the type of weight and gradient in memory: T, or a type that `get` and `put`
// convert.
template <int rule, bool has_penalties, class T, class Stored, int... i>
void step_elements(const T *constants, Stored *__restrict p, const Stored *__restrict g, int n,
                   Each<T, i> *__restrict... states) {
    // Copied, so that the compiler knows that no store changes the constants.
    const auto k = Step<rule>::template numbers<T>(constants, [](T number) { return number; });
    const Penalties<T> penalties{constants[0], constants[1], constants[2]};
#pragma omp simd
    for (int at = 0; at < n; ++at) {
        T weight = get(p[at]), gradient = get(g[at]);
        if constexpr (has_penalties) gradient = penalized(penalties, weight, gradient);
        [&](auto... state) {
            Step<rule>::step(k, weight, gradient, state...);
            ((states[at] = state), ...);
        }(read_state<rule, i, T>(k, states[at], gradient)...);
        put(p[at], weight);
    }
}

template <class T, class Stored> using Loop = void (*)(const T *, Stored *, const Stored *, T *const *, int);

template <int rule, bool has_penalties, class T, class Stored>
void step_loop(const T *constants, Stored *p, const Stored *g, T *const *states, int n) {
    with_states<rule>(
        [&]<int... i>() { step_elements<rule, has_penalties, T, Stored, i...>(constants, p, g, n, states[i]...); });
}

template <class T, class Stored, int... rule> constexpr auto make_loops(std::integer_sequence<int, rule...>) {
    return std::array<std::array<Loop<T, Stored>, 2>, sizeof...(rule)>{
        {{step_loop<rule, false, T, Stored>, step_loop<rule, true, T, Stored>}...}};
}

// For each rule, the loops without and with penalties.
template <class T, class Stored>
constexpr auto loops = make_loops<T, Stored>(std::make_integer_sequence<int, rule_count>());

template <class T, class Stored> Loop<T, Stored> loop_of(const Job &job) {
    return loops<T, Stored>[size_t(job.rule)][job.penalized];
}

int slots_of(const Job &job) { return STATES + rules[job.rule].state_count; }

// Whether the rule can read and write every tensor in place: all are contiguous, the states in the dtype of the
// computation, and weight and gradient in the format `stored`.
template <class T> bool lies_ready(const Job &job, Format stored) {
    if (!job.move || job.cautious || job.masked || (job.weights != Weights::nearest && stored != native<T>))
        return false;
    for (int slot = WEIGHT; slot < slots_of(job); ++slot) {
        const Operand &x = job.operands[slot];
        if (x.data != nullptr && (x.dims != 0 || x.format != (slot <= GRADIENT ? stored : native<T>))) return false;
    }
    return true;
}

bool lies_in_order(const Job &job, Slot slot, Format format) {
    return job.operands[slot].dims == 0 && job.operands[slot].format == format;
}

template <class Element> Element *elements(const Job &job, int slot, int64_t begin) {
    return reinterpret_cast<Element *>(job.operands[slot].data) + begin;
}

template <class T, class Stored> void step_in_place(const Job &job, const T *constants, int64_t begin, int64_t end) {
    T *states[most_states];
    for (int i = 0; i < rules[job.rule].state_count; ++i) states[i] = elements<T>(job, STATES + i, begin);
    loop_of<T, Stored>(job)(constants, elements<Stored>(job, WEIGHT, begin), elements<Stored>(job, GRADIENT, begin),
                            states, int(end - begin));
}

// The weight's part of a block, decoded to the dtype of the computation and encoded again.
template <class T, int capacity> struct WeightLane {
    Lane<T, capacity> weight, low; // only the `stored` of `low` is used
    const Job &job;
    explicit WeightLane(const Job &job) : job(job) {}

    T *load(int64_t at, int n) {
        if (job.weights != Weights::split) {
            weight.load(job.operands[WEIGHT], at, n);
            if (!job.move) weight.detach(n);
        } else {
            weight.locate(job.operands[WEIGHT], at, n);
            low.locate(job.operands[LOW_BITS], at, n);
            weight.values = weight.value_buffer;
            decode_split(job.operands[WEIGHT].format, weight.stored, low.stored, weight.values, n);
        }
        return weight.values;
    }

    void store(int64_t at, int n) {
        if (!job.move) return;
        if (job.weights == Weights::split) {
            encode_split(job.operands[WEIGHT].format, weight.values, weight.stored, low.stored, n);
            weight.put_back(at, n), low.put_back(at, n);
        } else if (job.weights == Weights::stochastic && rounds(job.operands[WEIGHT])) {
            weight.store_stochastic(job, weight_draw, at, n);
        } else {
            weight.store(at, n);
        }
    }

    // From now on, the rule writes to a copy.
    T *detach(int n) {
        weight.detach(n);
        return weight.values;
    }

    // The elements as they were stored. There is room for them in `decoded`, in case that they were rounded.
    const T *stored(T *decoded, int n) const {
        const Format format = job.operands[WEIGHT].format;
        if (format == native<T>) return weight.values;
        if (job.weights == Weights::split)
            decode_split(format, weight.stored, low.stored, decoded, n);
        else
            decode(format, weight.stored, decoded, n);
        return decoded;
    }
};

// Calls body(first element, elements, their blocks of codes if there are codes) for the parts of a range. A part has
// room for `capacity` elements, also if its blocks are padded.
template <class Body> void each_part(const Job &job, int64_t begin, int64_t end, int capacity, Body &&body) {
    for (int64_t at = begin; at < end;) {
        Blocks blocks{};
        int64_t n = std::min(end, (at / capacity + 1) * capacity) - at;
        if (job.row) {
            // As many blocks of the same length as there are. If rows end with a shorter block, or the numbers of
            // blocks or the codes skip from one row to the next, these are blocks of one row.
            const int64_t rest = job.row - at % job.row;
            const bool even = (job.row < quantum || job.row % quantum == 0) && !job.rows_apart;
            const int64_t alike = std::min<int64_t>(even ? end - at : rest, end - at);
            blocks.first = block_at(job, at);
            blocks.length = int(std::min<int64_t>(rest, quantum));
            blocks.count = int(std::min<int64_t>(alike / blocks.length, capacity / padded(blocks.length)));
            n = blocks.length * blocks.count;
        }
        body(at, int(n), blocks);
        at += n;
    }
}

// ---- what is watched of a step

template <class T>
using WatchLoop = void (*)(const double *, const T *, const T *, const T *, const T *, const T *, const T *, int,
                           Statistics &);

// Fetches the cache line n elements on, in time for the copy of the next block's weights, which would wait for memory:
// without it, a step that is watched takes a quarter longer with 8-bit states (benchmarks/bench_step.py watched; Zen
// 4).
inline void fetch([[maybe_unused]] const float *x, [[maybe_unused]] int n) {
#ifdef __GNUC__
    __builtin_prefetch(reinterpret_cast<const char *>(x) + size_t(n) * sizeof(float));
#endif
}

// Adds the statistics of n elements, at most a block, whose weights may have been rounded when they were stored. The
// arrays are those of adamas.rule.statistics.terms. Sums are made in the dtype of the computation, in lanes, whose
// order is fixed.
template <int kind, bool rounded, class T>
void watch_elements(const double *numbers, const T *p, const T *g, const T *q, const T *r, const T *m, const T *v,
                    int n, Statistics &to) {
    constexpr int lanes = int(width * sizeof(float) / sizeof(T)), count = statistics_sums;
    constexpr auto has = [](int j) { // whether there is such a sum, and it is not always 0
        return j < count && (statistics_known[kind] >> j & 1) && (rounded || j != statistics_lost);
    };
    if (const int rest = n % lanes; rest != 0) { // zeros add nothing
        alignas(64) T padded[6][lanes] = {};
        const T *const from[6] = {p, g, q, r, m, v};
        for (int i = 0; i < 6; ++i) std::copy_n(from[i] + n - rest, rest, padded[i]);
        watch_elements<kind, rounded, T>(numbers, padded[0], padded[1], padded[2], padded[3], padded[4], padded[5],
                                         lanes, to);
        n -= rest;
    }
    Statistics found;
    if constexpr (sizeof(T) == sizeof(float)) {
        const WatchedNumbers<Floats> k{splat(float(numbers[0])), splat(float(numbers[1])), splat(float(numbers[2]))};
        // Indices are constants, so that the totals stay in registers.
        [&]<int... j>(std::integer_sequence<int, j...>) {
            Floats totals[] = {splat(0.0f * j)...};
            for (int i = 0; i < n; i += lanes) {
                fetch(q + i, n), fetch(g + i, n); // of the next block
                Watched<kind>::add(k, load(p + i), load(g + i), load(q + i), load(r + i), load(m + i), load(v + i),
                                   totals);
            }
            const auto take = [&]<int i>() {
                if constexpr (has(i)) found.sums[i].high = sum(totals[i]);
            };
            (take.template operator()<j>(), ...);
            found.largest = std::bit_cast<float>(largest(bits_of(totals[count])));
        }(std::make_integer_sequence<int, count + 1>());
    } else {
        const WatchedNumbers<T> k{numbers[0], numbers[1], numbers[2]};
        alignas(64) T totals[count + 1][lanes] = {};
        for (int i = 0; i < n; i += lanes) {
#pragma omp simd
            for (int l = 0; l < lanes; ++l) {
                T lane[count + 1];
                for (int j = 0; j <= count; ++j) lane[j] = totals[j][l];
                Watched<kind>::add(k, p[i + l], g[i + l], q[i + l], r[i + l], m[i + l], v[i + l], lane);
                for (int j = 0; j <= count; ++j) totals[j][l] = lane[j];
            }
        }
        for (int l = 0; l < lanes; ++l) {
            for (int j = 0; j < count; ++j)
                if (has(j)) found.sums[j].high += totals[j][l];
            found.largest = larger(found.largest, totals[count][l]);
        }
    }
    if (std::isnan(found.sums[statistics_update].high)) found.largest = found.sums[statistics_update].high;
    to.add(found);
}

// For each kind of rules, without and with weights that are rounded.
template <class T>
constexpr auto watch_loops = []<int... kind>(std::integer_sequence<int, kind...>) {
    return std::array<std::array<WatchLoop<T>, 2>, sizeof...(kind)>{
        {{watch_elements<kind, false, T>, watch_elements<kind, sizeof(T) == sizeof(float), T>}...}};
}(std::make_integer_sequence<int, int(std::size(statistics_known))>());

// What needs the weights before the step: the mask, cautious decay, and what `watch=` measures of the step of each
// block, between the rule and what is encoded.
template <class T, int capacity> class Watch {
    const Job &job;
    Statistics *to; // null if the step is not watched
    const WatchLoop<T> add;
    const bool fixed; // whether a block begins at the same element wherever its range begins
    const T *gradient = nullptr;
    alignas(64) T before[capacity], decoded[capacity];

  public:
    Watch(const Job &job, Statistics *to)
        : job(job),
          to(to),
          add(watch_loops<T>[size_t(rules[job.rule].watched)][job.operands[WEIGHT].format != native<T>]),
          fixed(job.row % quantum == 0 && !job.rows_apart) {}

    // Takes n elements of the weight and the gradient before the step.
    void begin(const T *p, const T *g, int n) {
        if (to == nullptr && !job.cautious && !job.masked) return;
        std::copy_n(p, n, before);
        gradient = g == p ? before : g; // a weight may be its own gradient
    }

    // Masks and decays n elements of the weight, which the update has changed.
    void finish(const T *constants, T *p, int n) const {
        if (job.masked) mask(constants, p, n);
        if (!job.cautious) return;
        const T cautious = constants[first_cautious];
#pragma omp simd
        for (int i = 0; i < n; ++i) p[i] = cautiously_decayed(cautious, before[i], p[i]);
    }

  private:
    void mask(const T *constants, T *p, int n) const {
        const T k = constants[first_k];
        const Penalties<T> penalties{constants[0], constants[1], constants[2]};
        const bool is_penalized = job.penalized;
#pragma omp simd
        for (int i = 0; i < n; ++i) {
            const T g = is_penalized ? penalized(penalties, before[i], gradient[i]) : penalties.s * gradient[i];
            p[i] = masked(k, before[i], g, p[i]);
        }
    }

  public:
    // Takes the states after the step, and the weight, which was stored.
    void end(const WeightLane<T, capacity> &weight, T *const *states, int n, const Blocks &blocks) {
        if (to == nullptr) return;
        const Rule &rule = rules[job.rule];
        const T *after = job.move ? weight.weight.values : before;
        const T *stored = job.dry || !job.move ? after : weight.stored(decoded, n);
        const T *m = rule.first < 0 ? before : states[rule.first], *v = rule.second < 0 ? before : states[rule.second];
        const int unit = fixed ? n : blocks.length;
        for (int i = 0; i < n; i += unit)
            add(job.watched_numbers, before + i, gradient + i, after + i, stored + i, m + i, v + i, unit, *to);
    }
};

// ---- the step of blocks

template <class T>
T *load_state(const Job &job, Lane<T> &lane, const Operand &x, int64_t at, int n, const Blocks &blocks) {
    if (is_scaled(x.format))
        lane.load_codes(job, x, at, blocks);
    else
        lane.load(x, at, n);
    return lane.values;
}

template <class T>
void step_blocks(const Job &job, const T *constants, int64_t begin, int64_t end, Statistics *statistics) {
    const Rule &rule = rules[job.rule];
    Lane<T> gradient, lanes[most_states];
    WeightLane<T, block> weight(job);
    Watch<T, block> watch(job, statistics);
    const Loop<T, T> apply = loop_of<T, T>(job);

    each_part(job, begin, end, block, [&](int64_t at, int n, const Blocks &blocks) {
        T *p = weight.load(at, n), *states[most_states];
        gradient.load(job.operands[GRADIENT], at, n);
        for (int i = 0; i < rule.state_count; ++i)
            states[i] = load_state(job, lanes[i], job.operands[STATES + i], at, n, blocks);

        watch.begin(p, gradient.values, n);
        if (job.dry) {
            p = weight.detach(n);
            for (int i = 0; i < rule.state_count; ++i) lanes[i].detach(n), states[i] = lanes[i].values;
        }
        apply(constants, p, gradient.values, states, n);
        watch.finish(constants, p, n);
        if (!job.dry) weight.store(at, n);
        watch.end(weight, states, n, blocks);
        if (job.dry) return;

        // Averages are rounded without bias. Rounding to the nearest would stop them: a step changes v by 1/1000, and a
        // bfloat16 has 8 bits.
        const auto store = [&](int i) {
            const Operand &x = job.operands[STATES + i];
            const State &state = rule.states[i];
            if (is_scaled(x.format)) {
                const T decay = state.decay < 0 ? 1 : constants[state.decay];
                if (state.is_signed)
                    lanes[i].template store_codes<true>(job, state, at, blocks, decay,
                                                        state.second < 0 ? nullptr : &lanes[state.second]);
                else
                    lanes[i].template store_codes<false>(job, state, at, blocks, decay, nullptr);
            } else if (state.draw < 0 || !rounds(x)) {
                lanes[i].store(at, n);
            } else {
                lanes[i].store_stochastic(job, state.draw, at, n);
            }
        };
        // The grids of signed states depend on those of others.
        for (bool with_sign : {false, true})
            for (int i = 0; i < rule.state_count; ++i)
                if (rule.states[i].is_signed == with_sign) store(i);
    });
}

// ---- all states with codes

bool all_scaled(const Job &job) {
    if (!job.row || job.wide) return false;
    return std::all_of(job.operands + STATES, job.operands + slots_of(job),
                       [](const Operand &x) { return is_scaled(x.format); });
}

// The step of blocks whose length is no multiple of a group: one at a time, padded with zeros.
void step_padded_blocks(ScaledStep step, int states, const float *constants, const Floats *wide, float *p,
                        const float *g, const ScaledBlocks &x, int n, int count) {
    for (int b = 0; b < count; ++b, p += n, g += n) {
        alignas(64) float padded_p[quantum] = {}, padded_g[quantum] = {};
        alignas(64) uint8_t padded_codes[most_states][quantum] = {};
        ScaledBlocks one;
        std::copy_n(p, n, padded_p), std::copy_n(g, n, padded_g);
        for (int s = 0; s < states; ++s) {
            std::copy_n(x.codes[s] + b * n, n, padded_codes[s]);
            one.grids[s] = x.grids[s];
            one.codes[s] = padded_codes[s], one.scales[s] = x.scales[s] + b, one.starts[s] = x.starts[s] + b;
            one.kept[s] = x.kept[s] == nullptr ? nullptr : x.kept[s] + b * n;
        }
        step(constants, wide, padded_p, padded_g, one, padded(n), 1, n);
        std::copy_n(padded_p, n, p);
        for (int s = 0; s < states; ++s) std::copy_n(padded_codes[s], n, x.codes[s] + b * n);
    }
}

// The step of consecutive blocks. `kept` is for each state where its values are copied to, or null.
template <int rule>
void step_scaled_run(const Job &job, const Floats *wide, float *p, const float *g, int64_t at, const Blocks &blocks,
                     float *const *kept) {
    const auto [first, n, count] = blocks;
    uint32_t starts[most_states][most_blocks + 3];
    alignas(64) uint8_t unpacked[most_states][stretch];
    ScaledBlocks x;
    each_state<rule>([&]<int s>() {
        constexpr State state = rules[rule].states[s];
        const Operand &operand = job.operands[STATES + s];
        x.grids[s] = &grids_of(operand.format);
        x.codes[s] = codes_at(operand, at);
        if (is_packed(operand.format)) unpack_blocks(job, operand, at, blocks, x.codes[s] = unpacked[s]);
        x.scales[s] = scales_at(operand, first);
        x.starts[s] = starts[s], x.kept[s] = kept[s];
        if constexpr (state.is_dithered)
            begin_thresholds(job, state.draw, number_of_block(job, first), starts[s], count);
    });
    if (n == quantum)
        step_scaled_blocks<rule, has_code_for_full_blocks>(job.narrow_constants, wide, p, g, x, n, count, n);
    else if (n % group == 0)
        step_scaled_blocks<rule, false>(job.narrow_constants, wide, p, g, x, n, count, n);
    else
        step_padded_blocks(step_scaled_blocks<rule, false>, rules[rule].state_count, job.narrow_constants, wide, p, g,
                           x, n, count);
    each_state<rule>([&]<int s>() {
        const Operand &operand = job.operands[STATES + s];
        if (is_packed(operand.format)) pack_blocks(job, operand, at, blocks, unpacked[s]);
    });
}

using ScaledRun = void (*)(const Job &, const Floats *, float *, const float *, int64_t, const Blocks &,
                           float *const *);

template <int rule> constexpr ScaledRun scaled_run_or_null() {
    if constexpr (rules[rule].state_count > 0)
        return step_scaled_run<rule>;
    else
        return nullptr;
}

template <int... rule> constexpr auto make_scaled_runs(std::integer_sequence<int, rule...>) {
    return std::array<ScaledRun, sizeof...(rule)>{scaled_run_or_null<rule>()...};
}

constexpr auto scaled_runs = make_scaled_runs(std::make_integer_sequence<int, rule_count>());

void step_scaled(const Job &job, int64_t begin, int64_t end, Statistics *statistics) {
    WeightLane<float, stretch> weight(job);
    Watch<float, stretch> watch(job, statistics);
    const Rule &rule = rules[job.rule];
    alignas(64) float first[stretch], second[stretch];
    float *kept[most_states] = {};
    if (statistics != nullptr) {
        if (rule.first >= 0) kept[rule.first] = first;
        if (rule.second >= 0) kept[rule.second] = second;
    }
    Lane<float, stretch> gradient;
    alignas(64) float penalized_gradient[stretch];
    const float *constants = job.narrow_constants;
    const Penalties<float> penalties{constants[0], constants[1], constants[2]};
    Floats wide[most_constants];
    for (int i = 0; i < most_constants; ++i) wide[i] = splat(constants[i]);
    // Converted weights and gradients take the same amount of the first-level cache again.
    const bool in_place = lies_in_order(job, WEIGHT, Format::f32) && lies_in_order(job, GRADIENT, Format::f32);
    const int at_a_time = in_place ? stretch : stretch / 2;

    each_part(job, begin, end, at_a_time, [&](int64_t at, int n, const Blocks &blocks) {
        gradient.load(job.operands[GRADIENT], at, n);
        float *p = weight.load(at, n);
        const float *g = gradient.values;
        watch.begin(p, g, n);
        if (job.penalized) {
            for (int i = 0; i < n; ++i) penalized_gradient[i] = penalized(penalties, p[i], g[i]);
            g = penalized_gradient;
        }
        scaled_runs[size_t(job.rule)](job, wide, p, g, at, blocks, kept);
        watch.finish(constants, p, n);
        weight.store(at, n);
        watch.end(weight, kept, n, blocks);
    });
}

template <class T>
void step_as(const Job &job, const T *constants, int64_t begin, int64_t end, Statistics *statistics) {
    if (statistics == nullptr) { // a step that is watched needs its blocks in the cache
        if (lies_ready<T>(job, native<T>)) return step_in_place<T, T>(job, constants, begin, end);
        if constexpr (sizeof(T) == 4)
            if (lies_ready<T>(job, Format::bf16)) return step_in_place<T, bf16>(job, constants, begin, end);
    }
    if (all_scaled(job) && !job.dry) return step_scaled(job, begin, end, statistics);
    step_blocks<T>(job, constants, begin, end, statistics);
}

void step(const Job &job, int64_t begin, int64_t end, Statistics *statistics) {
    if (job.wide)
        step_as<double>(job, job.wide_constants, begin, end, statistics);
    else
        step_as<float>(job, job.narrow_constants, begin, end, statistics);
}

// ---- sums

// Adds numbers up lane by lane, and their rounding errors separately. Always inlined, so that the
// sums stay in registers.
class Adder {
    static constexpr int lanes = 16;
    alignas(64) double high[lanes] = {}, low[lanes] = {};

  public:
    static constexpr int capacity = block + lanes;

    // Adds n numbers. There is room for `capacity`.
    [[gnu::always_inline]] void add(double *terms, int n) {
        std::fill_n(terms + n, lanes, 0.0);
        for (int i = 0; i < n; i += lanes) {
#pragma omp simd
            for (int l = 0; l < lanes; ++l) { // two-sum (Knuth): `low` collects the rounding errors
                const double x = terms[i + l], total = high[l] + x, part = total - high[l];
                low[l] += (high[l] - (total - part)) + (x - part);
                high[l] = total;
            }
        }
    }

    [[gnu::always_inline]] Sum sum() const {
        Sum result;
        for (int l = 0; l < lanes; ++l) result = sum_of(result, {high[l], low[l], true});
        return result;
    }
};

template <class T> Sum square_sum_blocks(const Job &job, int64_t begin, int64_t end) {
    Adder adder;
    alignas(64) double squares[Adder::capacity];
    Lane<T> lane;
    for (int64_t at = begin; at < end;) {
        const int64_t next = std::min(end, (at / block + 1) * block);
        const int n = int(next - at);
        lane.load(job.operands[GRADIENT], at, n);
        const T *values = lane.values;
#pragma omp simd
        for (int i = 0; i < n; ++i) squares[i] = double(values[i]) * double(values[i]);
        adder.add(squares, n);
        at = next;
    }
    Sum sum = adder.sum();
    if (!std::isfinite(sum.high)) { // the square of a finite gradient can overflow
        for (int64_t at = begin; at < end && sum.finite; at += block) {
            const int n = int(std::min<int64_t>(block, end - at));
            lane.load(job.operands[GRADIENT], at, n);
            for (int i = 0; i < n; ++i) sum.finite &= bool(std::isfinite(lane.values[i]));
        }
    }
    return sum;
}

Sum square_sum(const Job &job, int64_t begin, int64_t end) {
    return job.operands[GRADIENT].format == Format::f64 ? square_sum_blocks<double>(job, begin, end)
                                                        : square_sum_blocks<float>(job, begin, end);
}

// Whether the terms of a rule's sum depend on a tensor.
constexpr bool reads(const Rule &rule, int sum, int slot) { return rule.terms[sum] >> slot & 1; }
bool reads_weight(const Job &job, int sum) {
    const Rule &rule = rules[job.rule];
    return reads(rule, sum, WEIGHT) || (job.penalized && reads(rule, sum, GRADIENT));
}

// The terms of n elements. Tensors that they do not depend on are null.
template <int rule, int sum, bool has_penalties, class T, int... i>
void sum_terms(const T *constants, const T *p, const T *g, int n, double *terms, Each<const T, i> *...states) {
    constexpr auto has = [](int slot) { return reads(rules[rule], sum, slot); };
    const auto k = Step<rule>::template numbers<T>(constants, [](T number) { return number; });
    const Penalties<T> penalties{constants[0], constants[1], constants[2]};
#pragma omp simd
    for (int at = 0; at < n; ++at) {
        const T weight = has(WEIGHT) || (has_penalties && has(GRADIENT)) ? p[at] : T(0);
        T gradient = has(GRADIENT) ? g[at] : T(0);
        if constexpr (has_penalties) gradient = penalized(penalties, weight, gradient);
        terms[at] = double(Step<rule>::template term<sum>(k, weight, gradient, has(STATES + i) ? states[at] : T(0)...));
    }
}

template <class T> using Terms = void (*)(const T *, const T *, const T *, T *const *, int, double *);

template <int rule, int sum, bool has_penalties, class T>
void terms_loop(const T *constants, const T *p, const T *g, T *const *states, int n, double *terms) {
    with_states<rule>(
        [&]<int... i>() { sum_terms<rule, sum, has_penalties, T, i...>(constants, p, g, n, terms, states[i]...); });
}

// The loops of a rule's sums, each without and with penalties.
template <class T, int rule> constexpr auto make_terms() {
    return []<int... sum>(std::integer_sequence<int, sum...>) {
        return std::array<std::array<Terms<T>, 2>, std::max(most_sums, 1)>{
            {{terms_loop<rule, sum, false, T>, terms_loop<rule, sum, true, T>}...}};
    }(std::make_integer_sequence<int, rules[rule].sum_count>());
}

template <class T>
constexpr auto terms_loops = []<int... rule>(std::integer_sequence<int, rule...>) {
    return std::array{make_terms<T, rule>()...};
}(std::make_integer_sequence<int, rule_count>());

template <class T> Sum sum_blocks(const Job &job, const T *constants, int sum, int64_t begin, int64_t end) {
    const Rule &rule = rules[job.rule];
    const Terms<T> terms = terms_loops<T>[size_t(job.rule)][size_t(sum)][job.penalized];
    Lane<T> gradient, lanes[most_states];
    WeightLane<T, block> weight(job);
    Adder adder;
    alignas(64) double found[Adder::capacity];
    each_part(job, begin, end, block, [&](int64_t at, int n, const Blocks &blocks) {
        T *p = nullptr, *g = nullptr, *states[most_states] = {};
        if (reads_weight(job, sum)) p = weight.load(at, n);
        if (reads(rule, sum, GRADIENT)) gradient.load(job.operands[GRADIENT], at, n), g = gradient.values;
        for (int i = 0; i < rule.state_count; ++i)
            if (reads(rule, sum, STATES + i))
                states[i] = load_state(job, lanes[i], job.operands[STATES + i], at, n, blocks);
        terms(constants, p, g, states, n, found);
        adder.add(found, n);
    });
    return adder.sum();
}

// A template, so that nothing of it is built where no rule has sums.
template <int sums>
Sum rule_sum([[maybe_unused]] const Job &job, [[maybe_unused]] int sum, [[maybe_unused]] int64_t begin,
             [[maybe_unused]] int64_t end) {
    if constexpr (sums > 0)
        return job.wide ? sum_blocks<double>(job, job.wide_constants, sum, begin, end)
                        : sum_blocks<float>(job, job.narrow_constants, sum, begin, end);
    else
        return {};
}

// ---- rows of sparse gradients

template <class T> void sum_rows_as(const Row *rows, int64_t count, Format format, int64_t length, char *to) {
    alignas(64) T total[block], added[block];
    for (int64_t at = 0; at < length; at += block) {
        const int n = int(std::min<int64_t>(block, length - at));
        const int64_t offset = at * int64_t(size_of(format));
        std::fill_n(total, n, T(0));
        for (int64_t i = 0; i < count; ++i) {
            const T *terms = added;
            if (format == native<T>)
                terms = reinterpret_cast<const T *>(rows[i].gradient + offset);
            else
                decode(format, rows[i].gradient + offset, added, n);
#pragma omp simd
            for (int j = 0; j < n; ++j) total[j] += terms[j];
        }
        encode(format, total, to + offset, n);
    }
}

void sum_rows(const Row *rows, int64_t count, Format format, int64_t length, char *to) {
    if (format == Format::f64)
        sum_rows_as<double>(rows, count, format, length, to);
    else
        sum_rows_as<float>(rows, count, format, length, to);
}

} // namespace

extern const Kernels kernels;
const Kernels kernels = {ADAMAS_STRING(ADAMAS_ISA), step, square_sum, rule_sum<most_sums>, sum_rows};

} // namespace adamas::ADAMAS_ISA
