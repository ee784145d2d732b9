// 8-bit moments: a code for each element and a scale for each block of a row. adamas/rule/formats.py defines and
// explains the codes; this file implements the same with vector registers.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels.h"
#include "lanes.h"
#include "steps.h"

namespace adamas::ADAMAS_ISA {

constexpr int padded(int n) { return (n + group - 1) / group * group; }

// The grid as floating-point numbers from 512 on: the three lowest bits of the exponent and the five highest bits of
// the mantissa are the code, so that decoding only shifts a code into place. The grid is their excess over 512, in
// sixteenths.
constexpr uint32_t grid_start = uint32_t(127 + 9) << 23, code_mask = 0xffu << 18, half_code = 1u << 17;
constexpr float grid_zero = 512, grid_unit = 16;
constexpr float largest_signed = 472, largest_signed_marked = 464, largest_unsigned = 7680;
constexpr float least_signed = 0x1p-100f, least_scale = 0x1p-126f, least_kept = 0x1p-120f, most_kept = 0x1p120f;
constexpr int infinity_bits = 0x7f800000;
// The codes of nonfinite values in a marked block, one whose scale has its sign set.
constexpr uint8_t nan_signed = 0x80, infinity_signed = 0x7f, negative_infinity = 0x81;
constexpr uint8_t nan_unsigned = 0xfe, infinity_unsigned = 0xff;

constexpr bool is_signed(Format format) { return format == Format::i8; }

// ---- scales

// The scale for numbers of at most `largest`, and its reciprocal; both are 0 for a block of zeros.
struct Scale {
    float scale, inverse;
};

inline Scale signed_scale(float largest, bool is_marked) {
    if (!(largest >= least_signed)) return {0, 0};
    const float scale = largest / (is_marked ? largest_signed_marked : largest_signed);
    return {scale, 1 / scale};
}

// `kept` is the scale so far, after the decay.
inline Scale unsigned_scale(float largest, float kept) {
    if (!(largest > 0)) return {0, 0};
    const float need = largest * (1 / largest_unsigned);
    if (!(kept >= least_kept && kept <= most_kept)) kept = 1;
    float inverse = 1 / kept, ratio = need * inverse;
    if (!(ratio >= least_kept && ratio <= most_kept)) kept = inverse = 1, ratio = need;
    const uint32_t doublings = float_bits(ratio) >> 23; // the exponent's bits: 126 if the ratio is in [1/2, 1)
    if (doublings == 126 && kept >= least_scale) return {kept, inverse};
    const float scale = larger(kept * bits_float((doublings + 1) << 23), least_scale);
    return {scale, 1 / scale};
}

// ---- from codes

// The code of a nonfinite value in a marked block.
inline uint8_t nonfinite_code(float x, bool with_sign) {
    if (std::isnan(x)) return with_sign ? nan_signed : nan_unsigned;
    return !with_sign ? infinity_unsigned : x < 0 ? negative_infinity : infinity_signed;
}

// The value of a single code, for blocks next to marked ones.
inline float value_of(uint8_t code, float scale, bool with_sign) {
    const int c = with_sign ? int8_t(code) : code;
    const uint32_t size = uint32_t(c < 0 ? -c : c);
    const float above = bits_float(grid_start + (size << 18)) - grid_zero, unit = magnitude_of(scale) / grid_unit;
    return with_sign ? (c < 0 ? -above : above) * unit : (above + grid_unit / 2) * unit;
}

// The same in a marked block.
inline float value_in_marked_block(uint8_t code, float scale, bool with_sign) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    if (code == (with_sign ? nan_signed : nan_unsigned)) return nan;
    if (code == (with_sign ? infinity_signed : infinity_unsigned)) return infinity;
    if (with_sign && code == negative_infinity) return -infinity;
    return value_of(code, scale, with_sign);
}

// The codes of a group's register j, shifted to their place in the bits of a float.
template <int j> inline Ints on_grid(Ints codes) {
    return masked_or(shifted<18 - 8 * j>(codes), splat(code_mask), splat(grid_start));
}

// The sizes with the signs of the codes of a group's register j.
template <int j> inline Floats with_signs(Floats sizes, Ints codes) {
    return from_bits(or_masked(bits_of(sizes), shifted<24 - 8 * j>(codes), splat(0x80000000u)));
}

// Reads the codes of a block as values, multiplied by a factor.
struct Reader {
    Floats factor, offset;
    Reader(float number, float scale, bool with_sign)
        : factor(splat(number * scale / grid_unit)),
          offset(splat(number * scale / grid_unit * ((with_sign ? 0 : grid_unit / 2) - grid_zero))) {}
    // `magnitudes` has the magnitudes of signed codes.
    template <bool with_sign, int j> Floats read(Ints codes, Ints magnitudes) const {
        if constexpr (!with_sign) return fused(from_bits(on_grid<j>(codes)), factor, offset);
        return with_signs<j>(fused(from_bits(on_grid<j>(magnitudes)), factor, offset), codes);
    }
};

template <class Body> inline void four_times(Body &&body) {
    body.template operator()<0>(), body.template operator()<1>(), body.template operator()<2>(),
        body.template operator()<3>();
}

// Decodes n codes, a multiple of `group`, to the values of `value_of`.
template <bool with_sign> inline void read_codes(const uint8_t *codes, float scale, float *x, int n) {
    const Floats zero = splat(with_sign ? grid_zero : grid_zero - grid_unit / 2), unit = splat(scale / grid_unit);
    for (int i = 0; i < n; i += group) {
        const Ints four = unpack(codes + i), magnitudes = with_sign ? magnitudes_of_bytes(four) : four;
        four_times([&]<int j>() {
            const Floats sizes = (from_bits(on_grid<j>(magnitudes)) - zero) * unit;
            store(x + i + j * width, with_sign ? with_signs<j>(sizes, four) : sizes);
        });
    }
}

// Decodes a block to values. There is room for padded(n) of them.
inline void decode_block(Format format, const uint8_t *codes, float scale, float *x, int n) {
    if (std::signbit(scale)) [[unlikely]] {
        for (int i = 0; i < n; ++i) x[i] = value_in_marked_block(codes[i], scale, is_signed(format));
        return;
    }
    const auto read = is_signed(format) ? read_codes<true> : read_codes<false>;
    const int whole = n - n % group;
    read(codes, scale, x, whole);
    if (whole == n) return;
    alignas(64) uint8_t rest[group] = {};
    std::copy(codes + whole, codes + n, rest);
    read(rest, scale, x + whole, group);
}

// ---- to codes

// Combines the four registers of a group, each with its codes in place, into one.
inline Ints joined(const Ints (&parts)[4]) {
    const Ints low = select(splat(0xffu), parts[0], parts[1]), high = select(splat(0xff0000u), parts[2], parts[3]);
    return select(splat(0xffffu), low, high);
}

// What is added before the lowest bits are cut off: thresholds that advance evenly within a block, or one half.
class Thresholds {
    static constexpr auto ramp = [] {
        std::array<uint32_t, width> positions{};
        for (uint32_t l = 0; l < width; ++l) positions[l] = l * position_forward;
        return positions;
    }();
    Ints next, forward[4];

  public:
    explicit Thresholds(uint32_t start) : next(load(ramp.data()) + splat(start)) {
        for (int j = 0; j < 4; ++j) forward[j] = splat(uint32_t(j * width) * position_forward);
    }
    // 14 bits are random. The others are constant, so that a value that differs from a code's only in its last bits is
    // always rounded to that code.
    template <int j> Ints of_register() const {
        return masked_or(shifted<-14>(next + forward[j]), splat(0x3fff0u), splat(8u));
    }
    void go_on() { next = next + splat(uint32_t(group) * position_forward); }
};

struct ToNearest {
    template <int j> Ints of_register() const { return splat(half_code); }
    void go_on() {}
};

// Here and below, `n` is a multiple of `group`.
template <class Rounding> inline void write_signed(const float *x, uint8_t *codes, float inverse, int n, Rounding add) {
    const Floats factor = splat(inverse * grid_unit), zero = splat(grid_zero);
    for (int i = 0; i < n; i += group, add.go_on()) {
        Ints parts[4];
        Signs negative;
        four_times([&]<int j>() {
            const Floats value = load(x + i + j * width);
            const Ints on_grid = bits_of(fused(magnitude(value), factor, zero));
            parts[j] = shifted<8 * j - 18>(on_grid + add.template of_register<j>());
            negative.template take<j>(value);
        });
        pack(joined(parts), negative, codes + i);
    }
}

template <class Rounding>
inline void write_unsigned(const float *x, uint8_t *codes, float inverse, int n, Rounding add) {
    const Floats factor = splat(inverse * grid_unit), zero = splat(grid_zero),
                 lowest = splat(grid_zero - grid_unit / 2);
    for (int i = 0; i < n; i += group, add.go_on()) {
        Ints parts[4];
        four_times([&]<int j>() {
            const Floats on_grid = larger(fused(load(x + i + j * width), factor, lowest), zero);
            parts[j] = shifted<8 * j - 18>(bits_of(on_grid) + add.template of_register<j>());
        });
        pack(joined(parts), codes + i);
    }
}

inline int largest_bits(const float *x, int n) {
    Ints most = splat(0u);
    for (int i = 0; i < n; i += width) most = larger(most, bits_of(magnitude(load(x + i))));
    return largest(most);
}

// Writes the codes of numbers, given the reciprocal of their scale. They are rounded with thresholds that begin at
// `start`, or to the nearest. Always inlined, so that the step has no branches for format and rounding: they take 3 %
// of its time.
[[gnu::always_inline]] inline void write_codes(Format format, bool is_dithered, const float *x, uint8_t *codes,
                                               float inverse, uint32_t start, int n) {
    if (is_signed(format))
        is_dithered ? write_signed(x, codes, inverse, n, Thresholds(start))
                    : write_signed(x, codes, inverse, n, ToNearest());
    else
        is_dithered ? write_unsigned(x, codes, inverse, n, Thresholds(start))
                    : write_unsigned(x, codes, inverse, n, ToNearest());
}

inline Scale scale_for(Format format, int most, float kept, bool is_marked = false) {
    const float largest = bits_float(uint32_t(most));
    return is_signed(format) ? signed_scale(largest, is_marked) : unsigned_scale(largest, kept);
}

// Encodes a block with nonfinite numbers: these have special codes, and the sign of the scale marks the block. Never
// inlined: it is large and rarely called.
[[gnu::noinline]] inline void encode_nonfinite_block(Format format, bool is_dithered, float *x, uint8_t *codes,
                                                     float &scale, float kept, uint32_t start, int n) {
    uint8_t nonfinite[quantum]; // the codes of nonfinite numbers, and 0 elsewhere
    for (int i = 0; i < n; ++i) {
        nonfinite[i] = std::isfinite(x[i]) ? 0 : nonfinite_code(x[i], is_signed(format));
        if (nonfinite[i]) x[i] = 0;
    }
    const Scale found = scale_for(format, largest_bits(x, n), kept, true);
    write_codes(format, is_dithered, x, codes, found.inverse, start, n);
    for (int i = 0; i < n; ++i)
        if (nonfinite[i]) codes[i] = nonfinite[i];
    scale = -found.scale;
}

// Encodes the values of a block to codes and scale. `kept` is the scale so far, after the decay.
inline void encode_block(Format format, bool is_dithered, float *x, uint8_t *codes, float &scale, float kept,
                         uint32_t start, int n) {
    const int most = largest_bits(x, n);
    if (most >= infinity_bits) return encode_nonfinite_block(format, is_dithered, x, codes, scale, kept, start, n);
    const Scale found = scale_for(format, most, kept);
    write_codes(format, is_dithered, x, codes, found.inverse, start, n);
    scale = found.scale;
}

// ---- the step if every state is in 8 bits

// The states of consecutive blocks, and the first threshold of each block for states with dithered codes.
struct ScaledBlocks {
    uint8_t *codes[most_states];
    float *scales[most_states];
    const uint32_t *starts[most_states];
};

constexpr Format format_of(const State &state) { return state.is_signed ? Format::i8 : Format::u8; }

// Calls body with the indices of the rule's states as template arguments: all at once, or one after the other.
template <int rule, class Body> inline decltype(auto) with_states(Body &&body) {
    return [&]<int... i>(std::integer_sequence<int, i...>) -> decltype(auto) {
        return body.template operator()<i...>();
    }(std::make_integer_sequence<int, rules[rule].state_count>());
}
template <int rule, class Body> inline void each_state(Body &&body) {
    with_states<rule>([&]<int... i>() { (body.template operator()<i>(), ...); });
}

// The largest number of elements that are stepped at a time: their values stay in the first-level cache between reading
// and writing, and no block has to wait for the scale of the block before it.
constexpr int stretch = 512, most_blocks = stretch / group;

// The values of a stretch between reading and writing.
template <int states> struct Between {
    alignas(64) float values[states][stretch];
    Ints tops[states][most_blocks]; // the bits of the largest value in each block
    float inverses[states][most_blocks];
};

// One block, from the codes to the weight and the new states. `factors` multiply the states when they are read. Always
// inlined: a call for each block takes 6 % of the step.
template <int rule, int states>
[[gnu::always_inline]] inline void move_block(const Floats *constants, const float *factors, const float *scales,
                                              const ScaledBlocks &x, float *p, const float *g, Between<states> &between,
                                              int b, int n) {
    // Copied, so that the compiler knows that no store changes them.
    const auto k = Step<rule>::template numbers<Floats>(constants, [](Floats number) { return number; });
    const auto readers = with_states<rule>([&]<int... s>() {
        return std::array<Reader, states>{Reader(factors[s], scales[s], rules[rule].states[s].is_signed)...};
    });
    Ints tops[states];
    each_state<rule>([&]<int s>() { tops[s] = splat(0u); });
    for (int i = 0; i < n; i += group) {
        Ints codes[states], magnitudes[states] = {};
        each_state<rule>([&]<int s>() {
            codes[s] = unpack(x.codes[s] + b * n + i);
            if constexpr (rules[rule].states[s].is_signed) magnitudes[s] = magnitudes_of_bytes(codes[s]);
        });
        four_times([&]<int j>() {
            const int at = i + j * width;
            Floats weight = load(p + at), values[states];
            each_state<rule>([&]<int s>() {
                values[s] = readers[s].template read<rules[rule].states[s].is_signed, j>(codes[s], magnitudes[s]);
            });
            with_states<rule>([&]<int... s>() { Step<rule>::step(k, weight, load(g + at), values[s]...); });
            store(p + at, weight);
            each_state<rule>([&]<int s>() {
                store(between.values[s] + b * n + at, values[s]);
                tops[s] = larger(tops[s], bits_of(rules[rule].states[s].is_signed ? magnitude(values[s]) : values[s]));
            });
        });
    }
    each_state<rule>([&]<int s>() { between.tops[s][b] = tops[s]; });
}

// The same, one element after the other and without estimates, for blocks with a marked scale. Never inlined: it is
// rarely called.
template <int rule, int states>
[[gnu::noinline]] void move_nonfinite_block(const float *constants, const float *factors, const float *scales,
                                            const ScaledBlocks &x, float *p, const float *g, Between<states> &between,
                                            int b, int n) {
    const auto k = Step<rule>::template numbers<float>(constants, [](float number) { return number; });
    for (int i = 0; i < n; ++i) {
        float values[states];
        each_state<rule>([&]<int s>() {
            const auto value = std::signbit(scales[s]) ? value_in_marked_block : value_of;
            values[s] = factors[s] * value(x.codes[s][b * n + i], scales[s], rules[rule].states[s].is_signed);
        });
        with_states<rule>([&]<int... s>() { Step<rule>::step(k, p[i], g[i], values[s]...); });
        each_state<rule>([&]<int s>() { between.values[s][b * n + i] = values[s]; });
    }
    each_state<rule>(
        [&]<int s>() { between.tops[s][b] = splat(uint32_t(largest_bits(between.values[s] + b * n, n))); });
}

// One step of `count` blocks with n elements each. `wide` has the constants in registers.
template <int rule>
void step_scaled_blocks(const float *constants, const Floats *wide, float *p, const float *g, const ScaledBlocks &x,
                        int n, int count) {
    constexpr int states = rules[rule].state_count;
    Between<states> between;
    float decays[states], factors[states];
    each_state<rule>([&]<int s>() {
        constexpr int decay = rules[rule].states[s].decay;
        decays[s] = decay < 0 ? 1 : constants[decay];
        factors[s] = Step<rule>::decays_in_read[s] ? decays[s] : 1;
    });
    for (int b = 0; b < count; ++b) {
        float scales[states];
        bool has_nonfinite = false;
        each_state<rule>([&]<int s>() {
            scales[s] = x.scales[s][b];
            has_nonfinite |= std::signbit(scales[s]);
        });
        if (has_nonfinite) [[unlikely]]
            move_nonfinite_block<rule>(constants, factors, scales, x, p + b * n, g + b * n, between, b, n);
        else
            move_block<rule>(wide, factors, scales, x, p + b * n, g + b * n, between, b, n);
    }
    each_state<rule>([&]<int s>() {
        constexpr State state = rules[rule].states[s];
        constexpr Format format = format_of(state);
        const auto start = [&](int b) { return state.is_dithered ? x.starts[s][b] : 0; };
        for (int b = 0; b < count; ++b) {
            float &scale = x.scales[s][b];
            const float kept = decays[s] * magnitude_of(scale);
            const int most = largest(between.tops[s][b]);
            if (most >= infinity_bits) [[unlikely]] {
                encode_nonfinite_block(format, state.is_dithered, between.values[s] + b * n, x.codes[s] + b * n, scale,
                                       kept, start(b), n);
                between.inverses[s][b] = -1;
                continue;
            }
            const Scale found = scale_for(format, most, kept);
            scale = found.scale, between.inverses[s][b] = found.inverse;
        }
        for (int b = 0; b < count; ++b)
            if (between.inverses[s][b] >= 0)
                write_codes(format, state.is_dithered, between.values[s] + b * n, x.codes[s] + b * n,
                            between.inverses[s][b], start(b), n);
    });
}

using ScaledStep = void (*)(const float *, const Floats *, float *, const float *, const ScaledBlocks &, int, int);

} // namespace adamas::ADAMAS_ISA
