// Moments in 8 bits: a code for each element and a scale for each block of a row. What a code means, and why, stands in
// adamas/rule/formats.py; here is the same, a register at a time.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels.h"
#include "lanes.h"
#include "rule.h"

namespace adamas::ADAMAS_ISA {

constexpr int padded(int n) { return (n + group - 1) / group * group; }

// The grid as floating-point numbers from 512 on: the three lowest bits of the exponent and the five highest of the
// mantissa are the code, so that a code only has to be put into place. The grid is what they are above 512, in
// sixteenths.
constexpr uint32_t grid_start = uint32_t(127 + 9) << 23, code_mask = 0xffu << 18, half_code = 1u << 17;
constexpr float grid_zero = 512, grid_unit = 16;
constexpr float largest_signed = 472, largest_unsigned = 7680;
constexpr float least_signed = 0x1p-100f, least_scale = 0x1p-126f, least_kept = 0x1p-120f, most_kept = 0x1p120f;
constexpr uint8_t nan_code = 0x80, infinity_code = 0xff;
constexpr int infinity_bits = 0x7f800000;

constexpr bool is_signed(Format format) { return format == Format::i8; }

// ---- scales

// A scale for numbers of at most `largest`, and one over it; both 0 where there is nothing to scale.
struct Scale {
    float scale, inverse;
};

inline Scale signed_scale(float largest) {
    if (!(largest >= least_signed)) return {0, 0};
    const float scale = largest / largest_signed;
    return {scale, 1 / scale};
}

// `kept` is what the decay has left of the scale so far.
inline Scale unsigned_scale(float largest, float kept) {
    if (!(largest > 0)) return {0, 0};
    const float need = largest * (1 / largest_unsigned);
    if (!(kept >= least_kept && kept <= most_kept)) kept = 1;
    float inverse = 1 / kept, ratio = need * inverse;
    if (!(ratio >= least_kept && ratio <= most_kept)) kept = inverse = 1, ratio = need;
    const uint32_t doublings = float_bits(ratio) >> 23; // 126 where the ratio is under 1, and at least 1/2
    if (doublings == 126 && kept >= least_scale) return {kept, inverse};
    const float scale = larger(kept * bits_float((doublings + 1) << 23), least_scale);
    return {scale, 1 / scale};
}

// ---- from codes

// The value of one code, where it is read alone: in mixed formats, and in blocks that are not finite.
inline float value_of(uint8_t code, float scale, bool with_sign) {
    const int c = with_sign ? int8_t(code) : code;
    const uint32_t size = uint32_t(c < 0 ? -c : c);
    const float above = bits_float(grid_start + (size << 18)) - grid_zero, unit = magnitude_of(scale) / grid_unit;
    if (with_sign) return code == nan_code ? std::numeric_limits<float>::quiet_NaN() : (c < 0 ? -above : above) * unit;
    return code == infinity_code ? std::numeric_limits<float>::infinity() : (above + grid_unit / 2) * unit;
}

// Where the codes of a group's register j belong.
template <int j> inline Ints on_grid(Ints codes) {
    return masked_or(shifted<18 - 8 * j>(codes), splat(code_mask), splat(grid_start));
}

// What a factor leaves of a block's moments: code after code, times the factor and the scale.
struct SignedReader {
    Floats factor, offset;
    SignedReader(float factor, float scale)
        : factor(splat(factor * scale / grid_unit)), offset(splat(factor * scale / grid_unit * -grid_zero)) {}
    template <int j> Floats read(Ints codes, Ints magnitudes) const {
        const Floats size = fused(from_bits(on_grid<j>(magnitudes)), factor, offset);
        return from_bits(or_masked(bits_of(size), shifted<24 - 8 * j>(codes), splat(0x80000000u)));
    }
};

struct UnsignedReader {
    Floats factor, offset;
    UnsignedReader(float factor, float scale)
        : factor(splat(factor * scale / grid_unit)),
          offset(splat(factor * scale / grid_unit * (grid_unit / 2 - grid_zero))) {}
    template <int j> Floats read(Ints codes) const { return fused(from_bits(on_grid<j>(codes)), factor, offset); }
};

// ---- to codes

// Puts the four registers of a group, each with its codes in place, into one.
inline Ints joined(const Ints (&parts)[4]) {
    const Ints low = select(splat(0xffu), parts[0], parts[1]), high = select(splat(0xff0000u), parts[2], parts[3]);
    return select(splat(0xffffu), low, high);
}

template <class Body> inline void four_times(Body &&body) {
    body.template operator()<0>(), body.template operator()<1>(), body.template operator()<2>(),
        body.template operator()<3>();
}

// `n` is a multiple of a group, here and below.
inline void write_signed(const float *x, uint8_t *codes, float inverse, int n) {
    const Floats factor = splat(inverse * grid_unit), zero = splat(grid_zero);
    for (int i = 0; i < n; i += group) {
        Ints parts[4];
        Signs negative;
        four_times([&]<int j>() {
            const Floats value = load(x + i + j * width);
            const Ints on_grid = bits_of(fused(magnitude(value), factor, zero)) + splat(half_code);
            parts[j] = shifted<8 * j - 18>(on_grid);
            negative.template take<j>(value);
        });
        pack(joined(parts), negative, codes + i);
    }
}

// What is to be added before the lowest bits are cut off: random numbers that go on evenly inside a block, or half.
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
    // 14 bits are random; the others keep a number that is a code's, but for its last bits, from becoming another.
    template <int j> Ints of_register() const {
        return masked_or(shifted<-14>(next + forward[j]), splat(0x3fff0u), splat(8u));
    }
    void go_on() { next = next + splat(uint32_t(group) * position_forward); }
};

struct ToNearest {
    template <int j> Ints of_register() const { return splat(half_code); }
    void go_on() {}
};

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

// The codes of numbers with the scale that was found for them.
inline void write_codes(Format format, bool stochastic, const float *x, uint8_t *codes, float inverse, uint32_t start,
                        int n) {
    if (is_signed(format))
        write_signed(x, codes, inverse, n);
    else if (stochastic)
        write_unsigned(x, codes, inverse, n, Thresholds(start));
    else
        write_unsigned(x, codes, inverse, n, ToNearest());
}

inline Scale scale_for(Format format, int most, float kept) {
    const float largest = bits_float(uint32_t(most));
    return is_signed(format) ? signed_scale(largest) : unsigned_scale(largest, kept);
}

// One block in which some numbers are not finite: they have a code of their own, and the scale has its sign set.
inline void encode_spoiled_block(Format format, bool stochastic, float *x, uint8_t *codes, float &scale, float kept,
                                 uint32_t start, int n) {
    bool spoiled[quantum];
    for (int i = 0; i < n; ++i) {
        spoiled[i] = !std::isfinite(x[i]);
        if (spoiled[i]) x[i] = 0;
    }
    const Scale found = scale_for(format, largest_bits(x, n), kept);
    write_codes(format, stochastic, x, codes, found.inverse, start, n);
    for (int i = 0; i < n; ++i)
        if (spoiled[i]) codes[i] = is_signed(format) ? nan_code : infinity_code;
    scale = -found.scale;
}

// One block, from the values to codes and scale. `kept` is what the decay has left of the scale; `start` begins the
// thresholds, where there are to be any.
inline void encode_block(Format format, bool stochastic, float *x, uint8_t *codes, float &scale, float kept,
                         uint32_t start, int n) {
    const int most = largest_bits(x, n);
    if (most >= infinity_bits) return encode_spoiled_block(format, stochastic, x, codes, scale, kept, start, n);
    const Scale found = scale_for(format, most, kept);
    write_codes(format, stochastic, x, codes, found.inverse, start, n);
    scale = found.scale;
}

// ---- the rule, where every moment is in 8 bits

// The moments of blocks that lie one behind the other. In `codes` and `scales` the parts that the shape lacks are null.
struct ScaledBlocks {
    uint8_t *codes[4];
    float *scales[4];
};
enum Part { first_part, second_part, maximum_part, trace_part };

constexpr bool has_part(unsigned shape, int part) {
    constexpr unsigned bits[] = {shape::first, shape::square | shape::absolute, shape::maximum, shape::trace};
    return shape & bits[part];
}
constexpr Format format_of(int part) { return part == first_part || part == trace_part ? Format::i8 : Format::u8; }

// Whether there is a kernel for it: members with penalties come with them in the gradient.
constexpr bool can_be_scaled(unsigned shape) {
    if (!shape::valid(shape) || (shape & (shape::centered | shape::penalty))) return false;
    if ((shape & shape::first) && !(shape & shape::use_first)) return false;
    return has_part(shape, first_part) || has_part(shape, second_part) || has_part(shape, trace_part);
}

template <unsigned S, class Body> inline void each_part(Body &&body) {
    if constexpr (has_part(S, first_part)) body.template operator()<first_part>();
    if constexpr (has_part(S, second_part)) body.template operator()<second_part>();
    if constexpr (has_part(S, maximum_part)) body.template operator()<maximum_part>();
    if constexpr (has_part(S, trace_part)) body.template operator()<trace_part>();
}

// At most so many elements are stepped at a time: what is kept of them between reading and writing lies in the
// first-level cache, and no block has to wait for the scale of the one before it.
constexpr int stretch = 512, most_blocks = stretch / group;

// What a stretch leaves between reading and writing.
struct Between {
    alignas(64) float values[4][stretch];
    Ints tops[4][most_blocks]; // the bits of the largest in each block
    float inverses[4][most_blocks];
};

// One block, from the codes to the weight and the new moments. `shared` are the constants with a root above 0, so that
// a v of 0 has an estimate of its root.
template <unsigned S>
inline void move_block(const Constants<Floats> &shared, const float *factors, const float *scales,
                       const ScaledBlocks &x, float *p, const float *g, Between &between, int b, int n) {
    const Constants<Floats> k = shared; // one's own, so that the compiler knows that no store changes them
    const SignedReader first(factors[0], scales[0]), trace(factors[3], scales[3]);
    const UnsignedReader second(factors[1], scales[1]), maximum(factors[2], scales[2]);
    Ints tops[4] = {splat(0u), splat(0u), splat(0u), splat(0u)};
    for (int i = 0; i < n; i += group) {
        Ints codes[4] = {}, magnitudes[4] = {};
        each_part<S>([&]<int part>() {
            codes[part] = unpack(x.codes[part] + b * n + i);
            if constexpr (is_signed(format_of(part))) magnitudes[part] = magnitudes_of_bytes(codes[part]);
        });
        four_times([&]<int j>() {
            const int at = i + j * width;
            Floats m{}, v{}, h{}, r{};
            if constexpr (has_part(S, first_part)) m = first.template read<j>(codes[0], magnitudes[0]);
            if constexpr (has_part(S, second_part)) v = second.template read<j>(codes[1]);
            if constexpr (has_part(S, maximum_part)) h = maximum.template read<j>(codes[2]);
            if constexpr (has_part(S, trace_part)) r = trace.template read<j>(codes[3], magnitudes[3]);
            const Floats update = update_of<S>(k, load(g + at), m, v, h, r);
            store(p + at, fused_less(k.k, load(p + at), update));
            each_part<S>([&]<int part>() {
                const Floats value = part == 0 ? m : part == 1 ? v : part == 2 ? h : r;
                store(between.values[part] + b * n + at, value);
                tops[part] = larger(tops[part], bits_of(is_signed(format_of(part)) ? magnitude(value) : value));
            });
        });
    }
    each_part<S>([&]<int part>() { between.tops[part][b] = tops[part]; });
}

// The same one element after the other and without estimates, for blocks with values that are not finite.
template <unsigned S>
void move_spoiled_block(const Constants<float> &k, const float *factors, const float *scales, const ScaledBlocks &x,
                        float *p, const float *g, Between &between, int b, int n) {
    for (int i = 0; i < n; ++i) {
        float values[4] = {};
        each_part<S>([&]<int part>() {
            values[part] = factors[part] * value_of(x.codes[part][b * n + i], scales[part], is_signed(format_of(part)));
        });
        p[i] = fused_less(k.k, p[i], update_of<S>(k, g[i], values[0], values[1], values[2], values[3]));
        each_part<S>([&]<int part>() { between.values[part][b * n + i] = values[part]; });
    }
    each_part<S>(
        [&]<int part>() { between.tops[part][b] = splat(uint32_t(largest_bits(between.values[part] + b * n, n))); });
}

// One step of `count` blocks that have n elements each. `starts` begin the thresholds of each block.
template <unsigned S>
void step_scaled_blocks(const Constants<float> &k, const Constants<Floats> &wide, float *p, const float *g,
                        const ScaledBlocks &x, const uint32_t *starts, int n, int count) {
    Between between;
    const float factors[4] = {k.a1, k.a2, 1, k.q};
    for (int b = 0; b < count; ++b) {
        float scales[4] = {};
        bool is_spoiled = false;
        each_part<S>([&]<int part>() {
            scales[part] = x.scales[part][b];
            is_spoiled |= std::signbit(scales[part]);
        });
        if (is_spoiled) [[unlikely]]
            move_spoiled_block<S>(k, factors, scales, x, p + b * n, g + b * n, between, b, n);
        else
            move_block<S>(wide, factors, scales, x, p + b * n, g + b * n, between, b, n);
    }
    each_part<S>([&]<int part>() {
        constexpr Format format = format_of(part);
        constexpr bool stochastic = part == second_part && (S & shape::square);
        for (int b = 0; b < count; ++b) {
            float &scale = x.scales[part][b];
            const float kept = factors[part] * magnitude_of(scale);
            const int most = largest(between.tops[part][b]);
            if (most >= infinity_bits) [[unlikely]] {
                encode_spoiled_block(format, stochastic, between.values[part] + b * n, x.codes[part] + b * n, scale,
                                     kept, starts[b], n);
                between.inverses[part][b] = -1;
                continue;
            }
            const Scale found = scale_for(format, most, kept);
            scale = found.scale, between.inverses[part][b] = found.inverse;
        }
        for (int b = 0; b < count; ++b)
            if (between.inverses[part][b] >= 0)
                write_codes(format, stochastic, between.values[part] + b * n, x.codes[part] + b * n,
                            between.inverses[part][b], starts[b], n);
    });
}

using ScaledStep = void (*)(const Constants<float> &, const Constants<Floats> &, float *, const float *,
                            const ScaledBlocks &, const uint32_t *, int, int);

} // namespace adamas::ADAMAS_ISA
