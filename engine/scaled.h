// Moments in 8 or 6 bits: a code for each element and a scale for each block of a row. adamas/rule/formats.py defines
// and explains the codes; this file implements the same with vector registers.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels.h"
#include "lanes.h"
#include "steps.h"

namespace adamas::ADAMAS_ISA {

constexpr int padded(int n) { return (n + group - 1) / group * group; }

// A grid as floating-point numbers from 2 on: the upper bits of the mantissa and the lowest of the exponent are the
// code, so that decoding only shifts a code into place. The grid is their excess over 2, in units.
struct Grid {
    float unit, segment; // the latter is the number of codes in a segment
    int shift;           // of a code, to its place
    float largest_signed_marked;
    float floor_signed, floor_unsigned; // as parts of the largest number
};

// The number at a code, in units.
constexpr double units(int mantissa, int code) {
    const int segment = 1 << mantissa;
    return double(int64_t(segment + code % segment) << (code / segment)) - segment;
}

constexpr Grid grid_of(int mantissa, int last, double largest_unsigned, double floor_signed, double floor_unsigned) {
    return {2.0f / float(1 << mantissa),
            float(1 << mantissa),
            23 - mantissa,
            float(units(mantissa, last - 1)),
            float(floor_signed / units(mantissa, last)),
            float(floor_unsigned / largest_unsigned)};
}

// The grids that blocks of codes of one width choose from, the largest number on each, and the codes of nonfinite
// values in a marked block, one whose stored number has its sign set.
struct Grids {
    Grid of[3];
    float largest_signed[4], per_largest_unsigned[4]; // a register of them is looked up among four
    uint8_t nan_signed, infinity_signed, negative_infinity, nan_unsigned, infinity_unsigned;
    constexpr const Grid &operator[](int choice) const { return of[choice]; }
};
constexpr int last_choice = 2;

// The finest grid has a mantissa of `finest` bits, and each other one has one bit less than the one before.
constexpr Grids grids_with(int bits, int finest, const double (&largest_unsigned)[3], double floor_signed,
                           double floor_unsigned) {
    const int last = (1 << (bits - 1)) - 1, last_unsigned = (1 << bits) - 1;
    Grids grids{{},
                {},
                {},
                uint8_t(-last - 1),
                uint8_t(last),
                uint8_t(-last),
                uint8_t(last_unsigned - 1),
                uint8_t(last_unsigned)};
    for (int i = 0; i <= last_choice; ++i) {
        grids.of[i] = grid_of(finest - i, last, largest_unsigned[i], floor_signed, floor_unsigned);
        grids.largest_signed[i] = float(units(finest - i, last));
        grids.per_largest_unsigned[i] = float(1 / largest_unsigned[i]);
    }
    return grids;
}
constexpr Grids grids_of_8_bits = grids_with(8, 5, {7680, 917504, 26843545600}, 4, 8);
constexpr Grids grids_of_6_bits = grids_with(6, 3, {1655, 163776, 3220176896}, 1.9, 4);
inline const Grids &grids_of(Format format) { return is_packed(format) ? grids_of_6_bits : grids_of_8_bits; }

constexpr uint32_t grid_start = 0x40000000u;
constexpr float grid_zero = 2;
constexpr float least_signed = 0x1p-100f, least_scale = 0x1p-126f, least_kept = 0x1p-120f, most_kept = 0x1p120f;
constexpr int infinity_bits = 0x7f800000;
constexpr float most_stored = 0x1p127f; // larger numbers could be rounded up to infinity
constexpr int most_stored_bits = 0x7f000000;

constexpr bool is_signed(Format format) { return format == Format::i8 || format == Format::i6; }

template <class Body> inline void four_times(Body &&body) {
    body.template operator()<0>(), body.template operator()<1>(), body.template operator()<2>(),
        body.template operator()<3>();
}

// ---- scales

// A block stores its choice of a grid in the two lowest bits of its scale.
inline int choice_of(float stored) { return std::min(int(float_bits(stored) & 3), last_choice); }
constexpr uint32_t scale_bits = 0x7ffffffcu;
inline float scale_of(float stored) { return bits_float(float_bits(stored) & scale_bits); }
inline float stored_as(float scale, int choice) { return bits_float(float_bits(scale) | uint32_t(choice)); }

// Rounds a scale to the nearest with room for a choice, ties to even.
inline float with_room(float scale) {
    const uint32_t bits = float_bits(scale);
    return bits_float((bits + 1 + (bits >> 2 & 1)) >> 2 << 2);
}

inline Floats with_room(Floats scale) {
    const Ints bits = bits_of(scale);
    return from_bits(shifted<2>(shifted<-2>(bits + splat(1u) + (shifted<-2>(bits) & splat(1u)))));
}

// A scale, its reciprocal and the choice of the grid; all are 0 for a block of zeros.
struct Scale {
    float scale, inverse;
    int choice;
    float stored() const { return stored_as(scale, choice); }
};

// The scale for numbers of at most `largest`.
inline Scale signed_scale(const Grids &grids, float largest, int choice, bool is_marked) {
    const float on_grid = is_marked ? grids[choice].largest_signed_marked : grids.largest_signed[choice];
    const float scale = with_room(largest / on_grid);
    return {scale, 1 / scale, choice};
}

// `kept` is the scale so far, after the decay.
inline Scale unsigned_scale(const Grids &grids, float largest, int choice, float kept) {
    const float need = largest * grids.per_largest_unsigned[choice];
    if (!(kept >= least_kept && kept <= most_kept)) kept = 1;
    float inverse = 1 / kept, ratio = need * inverse;
    if (!(ratio >= least_kept && ratio <= most_kept)) kept = inverse = 1, ratio = need;
    const uint32_t doublings = float_bits(ratio) >> 23; // the exponent's bits: 126 if the ratio is in [1/2, 1)
    if (doublings == 126 && kept >= least_scale) return {kept, inverse, choice};
    const float scale = larger(kept * bits_float((doublings + 1) << 23), least_scale);
    return {scale, 1 / scale, choice};
}

// ---- packed codes

// Eight packed codes are 48 bits, and eight bytes once they are spread.
inline uint64_t spread(uint64_t x) {
    x = (x & 0xffffff) | (x & 0xffffff000000) << 8;
    x = (x & 0x00000fff00000fff) | (x & 0x00fff00000fff000) << 4;
    return (x & 0x003f003f003f003f) | (x & 0x0fc00fc00fc00fc0) << 2;
}
inline uint64_t gathered(uint64_t x) {
    x = (x & 0x003f003f003f003f) | (x & 0x3f003f003f003f00) >> 2;
    x = (x & 0x00000fff00000fff) | (x & 0x0fff00000fff0000) >> 4;
    return (x & 0xffffff) | (x & 0xffffff00000000) >> 8;
}

#ifdef __AVX2__
// 32 codes at a time, two in each 16 bits.
template <bool with_sign> inline void unpack_32(const uint8_t *from, uint8_t *to) {
    const auto half = [&](int at) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + at)); };
    const auto both = [](uint32_t x) { return _mm256_set1_epi32(int(x)); };
    const __m256i order = _mm256_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11, 4, 5, 5, 6, 7, 8, 8, 9,
                                           10, 11, 11, 12, 13, 14, 14, 15);
    __m256i x = _mm256_shuffle_epi8(_mm256_set_m128i(half(8), half(0)), order);
    x = _mm256_blend_epi16(x, _mm256_srli_epi16(x, 4), 0xaa); // the second 12 bits begin in the middle of a byte
    x = _mm256_or_si256(_mm256_and_si256(x, both(0x003f003f)),
                        _mm256_and_si256(_mm256_slli_epi16(x, 2), both(0x3f003f00)));
    if (with_sign) x = _mm256_sub_epi8(_mm256_xor_si256(x, both(0x20202020)), both(0x20202020));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), x);
}
inline void pack_32(const uint8_t *from, uint8_t *to) {
    const __m256i order = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1, 0, 1, 2, 4, 5, 6, 8,
                                           9, 10, 12, 13, 14, -1, -1, -1, -1);
    __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    x = _mm256_and_si256(x, _mm256_set1_epi8(0x3f));
    x = _mm256_maddubs_epi16(x, _mm256_set1_epi16(64 << 8 | 1));
    x = _mm256_madd_epi16(x, _mm256_set1_epi32(4096 << 16 | 1));
    x = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, order), _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm256_castsi256_si128(x));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(to + 16), _mm256_extracti128_si256(x, 1));
}
#endif

// Codes with a sign get the upper bits of their byte from the sixth.
template <bool with_sign> inline void unpack_codes(const uint8_t *from, uint8_t *to, int n) {
#ifdef __AVX2__
    for (; n >= 32; n -= 32, from += 24, to += 32) unpack_32<with_sign>(from, to);
#endif
    const auto unpacked = [](uint64_t x) {
        x = spread(x);
        return with_sign ? x | (x & 0x2020202020202020) * 6 : x;
    };
    for (; n >= 8; n -= 8, from += 6, to += 8) { // in two loads: one of six bytes would go through memory
        uint32_t low;
        uint16_t high;
        std::memcpy(&low, from, sizeof(low)), std::memcpy(&high, from + sizeof(low), sizeof(high));
        const uint64_t x = unpacked(low | uint64_t(high) << 32);
        std::memcpy(to, &x, sizeof(x));
    }
    if (n > 0) {
        uint64_t x = 0;
        std::memcpy(&x, from, size_t(packed_bytes(n)));
        x = unpacked(x);
        std::memcpy(to, &x, size_t(n));
    }
}
inline void pack_codes(const uint8_t *from, uint8_t *to, int n) {
#ifdef __AVX2__
    for (; n >= 32; n -= 32, from += 32, to += 24) pack_32(from, to);
#endif
    for (; n >= 8; n -= 8, from += 8, to += 6) {
        uint64_t x;
        std::memcpy(&x, from, sizeof(x));
        x = gathered(x);
        const uint32_t low = uint32_t(x);
        const uint16_t high = uint16_t(x >> 32);
        std::memcpy(to, &low, sizeof(low)), std::memcpy(to + sizeof(low), &high, sizeof(high));
    }
    if (n > 0) {
        uint64_t x = 0;
        std::memcpy(&x, from, size_t(n));
        x = gathered(x);
        std::memcpy(to, &x, size_t(packed_bytes(n)));
    }
}

// ---- from codes

// Reads the codes of a block as values, multiplied by a factor.
class Reader {
    bool with_sign;
    int shift;
    float factor, offset;

  public:
    Reader(const Grids &grids, float number, float stored, bool with_sign) : with_sign(with_sign) {
        const Grid &grid = grids[choice_of(stored)];
        shift = grid.shift;
        factor = number * scale_of(stored) * (grid.segment / 2); // divided by the unit
        offset = factor * -(with_sign ? grid_zero : grid_zero + grid.unit / 2);
    }

    // A single code.
    float operator()(uint8_t code) const {
        const uint32_t magnitude = with_sign ? uint32_t(std::abs(int8_t(code))) : code;
        const float size = fused(bits_float(grid_start + (magnitude << shift)), factor, offset);
        return with_sign ? (int8_t(code) < 0 ? -size : size) : larger(size, 0.0f);
    }

    // The same with registers.
    struct Wide {
        Floats factor, offset;
        Ints shift;
        explicit Wide(const Reader &one)
            : factor(splat(one.factor)), offset(splat(one.offset)), shift(splat(uint32_t(one.shift))) {}
        template <bool with_sign> Floats read(const uint8_t *from) const {
            const Ints codes = load_codes<with_sign>(from), magnitudes = with_sign ? magnitude(codes) : codes;
            const Floats on_grid = from_bits(shifted_left(magnitudes, shift) | splat(grid_start));
            const Floats size = fused(on_grid, factor, offset);
            if constexpr (!with_sign) return larger(size, splat(0.0f)); // code 0 is 0
            return from_bits(or_masked(bits_of(size), codes, splat(0x80000000u)));
        }
    };
};

// The code of a nonfinite value in a marked block.
inline uint8_t nonfinite_code(const Grids &grids, float x, bool with_sign) {
    if (std::isnan(x)) return with_sign ? grids.nan_signed : grids.nan_unsigned;
    return !with_sign ? grids.infinity_unsigned : x < 0 ? grids.negative_infinity : grids.infinity_signed;
}

// The value of a single code in a marked block.
inline float value_in_marked_block(const Grids &grids, uint8_t code, float stored, bool with_sign) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    if (code == (with_sign ? grids.nan_signed : grids.nan_unsigned)) return nan;
    if (code == (with_sign ? grids.infinity_signed : grids.infinity_unsigned)) return infinity;
    if (with_sign && code == grids.negative_infinity) return -infinity;
    return Reader(grids, 1, stored, with_sign)(code);
}

// Reads n codes, a multiple of `group`.
template <bool with_sign>
inline void read_codes(const Grids &grids, const uint8_t *codes, float stored, float *x, int n) {
    const Reader::Wide reader(Reader(grids, 1, stored, with_sign));
    for (int i = 0; i < n; i += group) {
        four_times([&]<int j>() {
            const int at = i + j * width;
            store(x + at, reader.template read<with_sign>(codes + at));
        });
    }
}

// Decodes a block to values. There is room for padded(n) of them.
inline void decode_block(Format format, const uint8_t *codes, float stored, float *x, int n) {
    const Grids &grids = grids_of(format);
    if (std::signbit(stored)) [[unlikely]] {
        for (int i = 0; i < n; ++i) x[i] = value_in_marked_block(grids, codes[i], stored, is_signed(format));
        return;
    }
    const auto read = is_signed(format) ? read_codes<true> : read_codes<false>;
    const int whole = n - n % group;
    read(grids, codes, stored, x, whole);
    if (whole == n) return;
    alignas(64) uint8_t rest[group] = {};
    std::copy(codes + whole, codes + n, rest);
    read(grids, rest, stored, x + whole, group);
}

// ---- the choice of a grid

template <bool with_sign> inline Floats size_of_values(const float *x) {
    return with_sign ? magnitude(load(x)) : load(x);
}

inline int largest_bits(const float *x, int n) {
    Ints most = splat(0u);
    for (int i = 0; i < n; i += width) most = larger(most, bits_of(magnitude(load(x + i))));
    return largest(most);
}

// How many numbers have a magnitude below a limit. Here and below, `n` is a multiple of `group`.
template <bool with_sign> inline int count_below(const float *x, float limit, int n) {
    const Floats end = splat(limit);
    Counter counter;
    for (int i = 0; i < n; i += group)
        four_times([&]<int j>() { counter.add(size_of_values<with_sign>(x + i + j * width) < end); });
    return counter.total();
}
template <bool with_sign> inline int count_up_to(const float *x, float limit, int n) {
    const Floats end = splat(limit);
    Counter counter;
    for (int i = 0; i < n; i += group)
        four_times([&]<int j>() { counter.add(size_of_values<with_sign>(x + i + j * width) <= end); });
    return counter.total();
}

// The finest grid from `finest` on, on which at most 1/8 (signed) or 1/64 (unsigned) of the elements that count are
// below the floor. Those up to `bottom` do not count. The floor of unsigned states is twice as high on grids that
// are finer than `present`.
template <bool with_sign>
inline int chosen_grid(const Grids &grids, const float *x, float largest, float bottom, int present, int finest,
                       int n) {
    constexpr int share = with_sign ? 8 : 64;
    int passive = -1;
    for (int choice = finest; choice < last_choice; ++choice) {
        float floor = with_sign ? grids[choice].floor_signed : grids[choice].floor_unsigned;
        if (!with_sign && choice < present) floor *= 2;
        const int below = count_below<with_sign>(x, largest * floor, n);
        if (below * share <= n) return choice; // so few that it does not matter which of them count
        if (passive < 0) passive = count_up_to<with_sign>(x, bottom, n);
        if ((below - passive) * share <= n - passive) return choice;
    }
    return last_choice;
}

// The choice of unsigned values that are encoded for the first time.
inline int first_choice(const Grids &grids, const float *x, int most, int n) {
    return chosen_grid<false>(grids, x, bits_float(uint32_t(std::min(most, most_stored_bits))), 0, 0, 0, n);
}

// How the values of a block are rounded: to the nearest, or with thresholds that begin at `start`, which is 0 without
// them. `decay` is the factor of the step. A block is due in one step of eight.
struct Rounding {
    bool is_dithered;
    uint32_t start;
    float decay;
    // Without random numbers, a block is due in each step.
    bool is_due() const { return start >> 29 == 0; }
};

// What the scale of a block depends on, besides its values: the stored number so far, its scale after the decay,
// whether an unsigned state is due to choose its grid, the grid of a signed state's second moment, and whether the
// signed state makes a choice of its own, too.
struct Before {
    float stored, kept;
    bool is_due;
    int second = 0;
    bool counts = true;
    Before(float stored, const Rounding &rounding)
        : stored(stored), kept(with_room(rounding.decay * scale_of(stored))), is_due(rounding.is_due()) {}
    // After a step that adds nothing, the block can keep its codes with this number.
    bool can_fade() const { return kept >= least_kept && !std::signbit(stored); }
    float faded() const { return stored_as(kept, choice_of(stored)); }
};

// The scale and the grid for values of which the largest has the bits `most`.
template <bool with_sign>
[[gnu::always_inline]] inline Scale scale_for(const Grids &grids, const float *x, int most, const Before &before, int n,
                                              bool is_marked = false) {
    const float largest = bits_float(uint32_t(most));
    if constexpr (with_sign) {
        if (!(largest >= least_signed)) return {};
        const int choice = before.counts ? chosen_grid<true>(grids, x, largest, 0, 0, before.second, n) : before.second;
        return signed_scale(grids, largest, choice, is_marked);
    } else {
        if (!(largest > 0)) return {};
        const int present = choice_of(before.stored);
        const Scale found = unsigned_scale(grids, largest, present, before.kept);
        const bool stays = found.scale == before.kept && before.kept >= least_kept && before.kept <= most_kept;
        if (stays && !before.is_due) [[likely]]
            return found;
        const float bottom = before.kept * float(0.5 * (1 + 1e-5)); // of the grid, with room for rounding errors
        const int choice = chosen_grid<false>(grids, x, largest, bottom, present, 0, n);
        return choice == present ? found : unsigned_scale(grids, largest, choice, before.kept);
    }
}

// ---- to codes

// What is added before the lowest bits are cut off has 14 random bits, or 1/2. The bits below are constant, so that a
// value that differs only in its last bits from a code, or from the middle of two, is always rounded in the same way.
constexpr uint32_t below_random = 1u << 17; // before the shift
// The start of the grid is subtracted with it, so that only the code is left.
constexpr uint32_t minus_start = 0u - grid_start;

class ToNearest {
    Ints half;

  public:
    explicit ToNearest(const Grid &grid)
        : half(splat(((0x80000000u | below_random) >> (32 - grid.shift)) + minus_start)) {}
    template <int j> Ints of_register(Floats) const { return half; }
    void go_on() {}
};

// Thresholds that advance evenly within a block. The start of the grid stays in codes without a sign: storing them cuts
// it off.
template <bool with_sign> class Thresholds {
    static constexpr uint32_t forward = uint32_t(code_forward) << 18;
    static constexpr auto ramp = [] {
        std::array<uint32_t, width> positions{};
        for (uint32_t l = 0; l < width; ++l) positions[l] = l * forward;
        return positions;
    }();
    Ints next, count;

  public:
    Thresholds(const Grid &grid, uint32_t start)
        : next(load(ramp.data()) + splat((start >> 18 << 18) + below_random)),
          count(splat(uint32_t(32 - grid.shift))) {}
    template <int j> Ints of_register(Floats) const {
        const Ints threshold = shifted_right(next + splat(uint32_t(j * width) * forward), count);
        return with_sign ? threshold + splat(minus_start) : threshold;
    }
    void go_on() { next = next + splat(uint32_t(group) * forward); }
};

// To the nearest, but below a limit not up where the threshold is against it.
class NearestOrDown {
    Thresholds<true> thresholds;
    ToNearest nearest;
    Floats limit;

  public:
    NearestOrDown(const Grid &grid, uint32_t start, float limit)
        : thresholds(grid, start), nearest(grid), limit(splat(limit)) {}
    template <int j> Ints of_register(Floats size) const {
        return smaller_where(size < limit, thresholds.of_register<j>(size), nearest.of_register<j>(size));
    }
    void go_on() { thresholds.go_on(); }
};

template <class Rounding>
[[gnu::always_inline]] inline void write_signed(const Grid &grid, const float *x, uint8_t *codes, const Scale &scale,
                                                int n, Rounding add) {
    const Floats factor = splat(scale.inverse * grid.unit), zero = splat(grid_zero);
    const Ints shift = splat(uint32_t(grid.shift));
    for (int i = 0; i < n; i += group, add.go_on()) {
        Floats values[4];
        Ints parts[4];
        four_times([&]<int j>() {
            values[j] = load(x + i + j * width);
            const Floats size = magnitude(values[j]);
            const Ints bits = bits_of(fused(size, factor, zero));
            parts[j] = shifted_right(bits + add.template of_register<j>(size), shift);
        });
        store_signed_codes(parts, values, codes + i);
    }
}

template <class Rounding>
[[gnu::always_inline]] inline void write_unsigned(const Grid &grid, const float *x, uint8_t *codes, const Scale &scale,
                                                  int n, Rounding add) {
    const Floats factor = splat(scale.inverse * grid.unit), half = splat(grid_zero + grid.unit / 2);
    const Ints shift = splat(uint32_t(grid.shift));
    for (int i = 0; i < n; i += group, add.go_on()) {
        Floats values[4];
        Ints parts[4];
        four_times([&]<int j>() {
            values[j] = load(x + i + j * width);
            const Ints bits = bits_of(fused(values[j], factor, half));
            parts[j] = shifted_right(bits + add.template of_register<j>(values[j]), shift);
        });
        store_unsigned_codes(parts, values, codes + i);
    }
}

// Signed values are rounded to the nearest, except where the decay of a step is less than half the distance to the next
// code: there, they would stop before they reach 0. It is enough to prevent this in one step of eight. Always inlined,
// so that the step has no branches for format and rounding: they take 3 % of its time.
template <bool with_sign>
[[gnu::always_inline]] inline void write_codes(const Grids &grids, const float *x, uint8_t *codes, const Scale &scale,
                                               int n, const Rounding &rounding) {
    const Grid &grid = grids[scale.choice];
    if constexpr (!with_sign) {
        if (rounding.is_dithered)
            return write_unsigned(grid, x, codes, scale, n, Thresholds<false>(grid, rounding.start));
        return write_unsigned(grid, x, codes, scale, n, ToNearest(grid));
    } else {
        if (!rounding.is_dithered) return write_signed(grid, x, codes, scale, n, ToNearest(grid));
        const float limit = 0.75f / (1 - rounding.decay), segment = grid.segment;
        if (limit > segment) return write_signed(grid, x, codes, scale, n, Thresholds<true>(grid, rounding.start));
        if (!rounding.is_due()) return write_signed(grid, x, codes, scale, n, ToNearest(grid));
        const float reach = limit > segment / 2 ? 4 * limit : limit; // the next segments have wider spacings
        write_signed(grid, x, codes, scale, n, NearestOrDown(grid, rounding.start << 3, reach * scale.scale));
    }
}

inline float capped(float x) { return std::clamp(x, -most_stored, most_stored); }

// Encodes a block with nonfinite numbers: these have special codes, and the sign of the stored number marks the block.
// Never inlined: it is large and rarely called.
template <bool with_sign>
[[gnu::noinline]] inline void encode_nonfinite_block(const Grids &grids, float *x, uint8_t *codes, float &stored,
                                                     const Before &before, int n, const Rounding &rounding) {
    uint8_t nonfinite[quantum]; // the codes of nonfinite numbers, and 0 elsewhere
    for (int i = 0; i < n; ++i) {
        nonfinite[i] = std::isfinite(x[i]) ? 0 : nonfinite_code(grids, x[i], with_sign);
        x[i] = nonfinite[i] ? 0 : capped(x[i]);
    }
    const Scale found = scale_for<with_sign>(grids, x, largest_bits(x, n), before, n, true);
    write_codes<with_sign>(grids, x, codes, found, n, rounding);
    for (int i = 0; i < n; ++i)
        if (nonfinite[i]) codes[i] = nonfinite[i];
    stored = -found.stored();
}

// Whether each value is what was read, times a factor: then a step added nothing to the block.
template <bool with_sign>
[[gnu::noinline]] inline bool only_decayed(const float *x, const uint8_t *codes, const Reader &reader, float factor,
                                           int n) {
    const Reader::Wide wide(reader);
    for (int i = 0; i < n; i += group) {
        bool differs = false;
        four_times([&]<int j>() {
            const int at = i + j * width;
            differs |= any(load(x + at) != splat(factor) * wide.template read<with_sign>(codes + at));
        });
        if (differs) return false;
    }
    return true;
}
// The largest number of elements that are stepped at a time: their values stay in the first-level cache between reading
// and writing, and no block has to wait for the scale of the block before it.
constexpr int stretch = 512, most_blocks = stretch / group;

// The scales of the blocks of a stretch. Usual blocks need no examination: an unsigned one keeps its scale and its
// grid, and a signed one takes the grid of its second moment. Their scales are found without branches, those of four
// blocks at a time in the first lanes of registers; the other lanes, and those of blocks that do not exist, are not
// used.
class Scales {
    static constexpr int room = most_blocks + width;
    alignas(64) float scales[room], inverses[room];
    alignas(64) uint32_t choices[room] = {};
    uint32_t usual = 0; // a bit for each block

    void put(int b, Floats scale, Ints choice, Mask is_usual) {
        store(scales + b, scale), store(inverses + b, splat(1.0f) / scale), store(choices + b, choice);
        usual |= (bits_of(is_usual) & 15) << b;
    }

  public:
    bool is_usual(int b) const { return usual >> b & 1; }
    Scale operator[](int b) const { return {scales[b], inverses[b], int(choices[b])}; }
    void set(int b, float scale, float inverse, int choice) {
        scales[b] = scale, inverses[b] = inverse;
        // A register of choices is read soon, which would have to wait for a number stored alone.
        if (choices[b] != uint32_t(choice)) [[unlikely]]
            choices[b] = uint32_t(choice);
    }

    // Of an unsigned state, before the step, on which they do not depend. Blocks that are due are not usual.
    void keep(const float *stored, const uint32_t *starts, float decay, int count) {
        for (int b = 0; b < count; b += 4) {
            const Ints bits = bits_of(load_first(stored + b, count - b));
            const Floats kept = with_room(splat(decay) * from_bits(bits & splat(scale_bits)));
            const Ints first = bits_of(load_first(reinterpret_cast<const float *>(starts) + b, count - b));
            const Mask in_range = (kept >= splat(least_kept)) & (kept <= splat(most_kept));
            put(b, kept, bits & splat(3u), in_range & !is_zero(shifted<-29>(first)));
        }
    }
    // After the step: which of the kept scales still fit. `tops` has the bits of the largest values of each block.
    void confirm(const Grids &grids, const Ints *tops, int count) {
        for (int b = 0; b < count; b += 4) {
            const Floats largest = from_bits(largest_of_four(tops + b));
            const Floats need = largest * looked_up(grids.per_largest_unsigned, load(choices + b));
            const Floats ratio = need * load(inverses + b);
            const Mask fits = (ratio >= splat(0.5f)) & (ratio < splat(1.0f)) & (largest <= splat(most_stored));
            usual &= bits_of(fits) << b | ~(15u << b);
        }
    }
    // Of a signed state that takes the choices of its second moment.
    void take(const Grids &grids, const Ints *tops, const Scales &second, int count) {
        for (int b = 0; b < count; b += 4) {
            const Floats largest = from_bits(largest_of_four(tops + b));
            const Ints choice = load(second.choices + b);
            put(b, with_room(largest / looked_up(grids.largest_signed, choice)), choice,
                (largest >= splat(least_signed)) & (largest <= splat(most_stored)));
        }
    }
    void examine(uint32_t blocks) { usual &= ~blocks; }
};

// Encodes `count` blocks with n values each, which a step has multiplied by `decay`, and finds the scales of those that
// are not usual. `top(b)` has the bits of the largest value of a block, `second(b)` is the grid of its second moment,
// and `has_faded(b)` whether the step added nothing. The thresholds of dithered codes begin at `starts`.
template <bool with_sign, class Top, class Second, class HasFaded>
[[gnu::always_inline]] inline void encode_blocks(Scales &scales, const Grids &grids, float *x, uint8_t *codes,
                                                 float *stored, int n, int count, const State &state,
                                                 const uint32_t *starts, float decay, Top &&top, Second &&second,
                                                 HasFaded &&has_faded) {
    const auto rounding = [&](int b) { return Rounding{state.is_dithered, state.is_dithered ? starts[b] : 0, decay}; };
    for (int b = 0; b < count; ++b) {
        if (scales.is_usual(b)) [[likely]] {
            stored[b] = scales[b].stored();
            continue;
        }
        Before before(stored[b], rounding(b));
        before.counts = state.counts;
        int most = top(b);
        Scale found{0, -1, 0}; // written already
        if (most >= infinity_bits) [[unlikely]] {
            before.second = second(b);
            encode_nonfinite_block<with_sign>(grids, x + b * n, codes + b * n, stored[b], before, n, rounding(b));
        } else if (before.can_fade() && has_faded(b)) {
            stored[b] = before.faded();
        } else {
            before.second = second(b);
            if (most > most_stored_bits) [[unlikely]] {
                std::transform(x + b * n, x + b * n + n, x + b * n, capped);
                most = most_stored_bits;
            }
            found = scale_for<with_sign>(grids, x + b * n, most, before, n);
            stored[b] = found.stored();
        }
        scales.set(b, found.scale, found.inverse, choice_of(stored[b]));
    }
    for (int b = 0; b < count; ++b)
        if (scales[b].inverse >= 0) write_codes<with_sign>(grids, x + b * n, codes + b * n, scales[b], n, rounding(b));
}

// ---- the step if every state has codes

// The states of consecutive blocks, with a byte for each code, and the first threshold of each block for states with
// dithered codes.
struct ScaledBlocks {
    const Grids *grids[most_states];
    uint8_t *codes[most_states];
    float *scales[most_states];
    const uint32_t *starts[most_states];
    float *kept[most_states]; // where the values after the step are copied to before they are encoded; null for none
};

// Calls body with the indices of the rule's states as template arguments: all at once, or one after the other.
template <int rule, class Body> inline decltype(auto) with_states(Body &&body) {
    return [&]<int... i>(std::integer_sequence<int, i...>) -> decltype(auto) {
        return body.template operator()<i...>();
    }(std::make_integer_sequence<int, rules[rule].state_count>());
}
template <int rule, class Body> inline void each_state(Body &&body) {
    with_states<rule>([&]<int... i>() { (body.template operator()<i>(), ...); });
}

// The values of a stretch between reading and writing.
template <int states> struct Between {
    alignas(64) float values[states][stretch];
    Ints tops[states][most_blocks];       // the bits of the largest value in each block
    uint32_t may_have_faded[states] = {}; // a bit for each block to which the step may have added nothing
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
        return std::array{Reader::Wide(Reader(*x.grids[s], factors[s], scales[s], rules[rule].states[s].is_signed))...};
    });
    Ints tops[states];
    Mask has_moved[states];
    each_state<rule>([&]<int s>() { tops[s] = splat(0u); });
    for (int i = 0; i < n; i += group) {
        four_times([&]<int j>() {
            const int at = i + j * width;
            Floats weight = load(p + at), values[states], decayed[states];
            each_state<rule>([&]<int s>() {
                values[s] = readers[s].template read<rules[rule].states[s].is_signed>(x.codes[s] + b * n + at);
                decayed[s] = Step<rule>::decays_in_read[s] ? values[s] : Step<rule>::template decay<s>(k) * values[s];
            });
            with_states<rule>([&]<int... s>() { Step<rule>::step(k, weight, load(g + at), values[s]...); });
            store(p + at, weight);
            each_state<rule>([&]<int s>() {
                if constexpr (j == 3) has_moved[s] = decayed[s] != values[s];
                store(between.values[s] + b * n + at, values[s]);
                tops[s] = larger(tops[s], bits_of(rules[rule].states[s].is_signed ? magnitude(values[s]) : values[s]));
            });
        });
    }
    each_state<rule>([&]<int s>() {
        between.tops[s][b] = tops[s];
        between.may_have_faded[s] |= uint32_t(!any(has_moved[s])) << b;
    });
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
            constexpr bool with_sign = rules[rule].states[s].is_signed;
            const uint8_t code = x.codes[s][b * n + i];
            const Grids &grids = *x.grids[s];
            values[s] = std::signbit(scales[s]) ? factors[s] * value_in_marked_block(grids, code, scales[s], with_sign)
                                                : Reader(grids, factors[s], scales[s], with_sign)(code);
        });
        with_states<rule>([&]<int... s>() { Step<rule>::step(k, p[i], g[i], values[s]...); });
        each_state<rule>([&]<int s>() { between.values[s][b * n + i] = values[s]; });
    }
    each_state<rule>([&]<int s>() {
        between.tops[s][b] = splat(uint32_t(largest_bits(between.values[s] + b * n, n)));
        between.may_have_faded[s] |= 1u << b;
    });
}

// Whether a state's usual blocks keep their scales, and whether they take the grids of another state.
constexpr bool keeps(const State &state) { return !state.is_signed && state.is_dithered; }
constexpr bool takes(const State &state) { return state.is_signed && state.second >= 0 && !state.counts; }

// Blocks of full length have code of their own, since it is 2 % faster if the compiler knows their length; with four
// lanes it is not (GCC 12).
constexpr bool has_code_for_full_blocks = width > 4;

// One step of `count` blocks with n elements each, of which the first `length` are no padding. `wide` has the constants
// in registers. There is only one block if some are padding.
template <int rule, bool is_full>
void step_scaled_blocks(const float *constants, const Floats *wide, float *p, const float *g, const ScaledBlocks &x,
                        int padded_length, int count, int length) {
    constexpr int states = rules[rule].state_count;
    const int n = is_full ? quantum : padded_length;
    Between<states> between;
    float decays[states], factors[states];
    each_state<rule>([&]<int s>() {
        constexpr int decay = rules[rule].states[s].decay;
        decays[s] = decay < 0 ? 1 : constants[decay];
        factors[s] = Step<rule>::decays_in_read[s] ? decays[s] : 1;
    });
    Scales scales[states];
    each_state<rule>([&]<int s>() {
        if constexpr (keeps(rules[rule].states[s])) scales[s].keep(x.scales[s], x.starts[s], decays[s], count);
    });
    for (int b = 0; b < count; ++b) {
        float stored[states];
        bool has_nonfinite = false;
        each_state<rule>([&]<int s>() {
            stored[s] = x.scales[s][b];
            has_nonfinite |= std::signbit(stored[s]);
        });
        if (has_nonfinite) [[unlikely]]
            move_nonfinite_block<rule>(constants, factors, stored, x, p + b * n, g + b * n, between, b, n);
        else
            move_block<rule>(wide, factors, stored, x, p + b * n, g + b * n, between, b, n);
        if (!is_full && length < n) // a rule can make the padding's states positive, as Adamax does
            each_state<rule>([&]<int s>() {
                float *values = between.values[s] + b * n;
                std::fill(values + length, values + n, 0.0f);
                between.tops[s][b] = splat(uint32_t(largest_bits(values, n)));
                between.may_have_faded[s] |= 1u << b;
            });
    }
    each_state<rule>([&]<int s>() {
        if constexpr (s == rules[rule].first || s == rules[rule].second)
            if (x.kept[s] != nullptr) std::copy_n(between.values[s], length * count, x.kept[s]);
    });
    const auto write = [&]<int s>() {
        constexpr State state = rules[rule].states[s];
        constexpr bool with_sign = state.is_signed;
        const auto top = [&](int b) { return largest(between.tops[s][b]); };
        const Grids &grids = *x.grids[s];
        const auto second = [&](int b) {
            if constexpr (state.second < 0) {
                return 0;
            } else {
                if (x.grids[state.second] == &grids) return choice_of(x.scales[state.second][b]);
                const float *values = between.values[state.second] + b * n;
                return first_choice(grids, values, largest_bits(values, n), n);
            }
        };
        const auto has_faded = [&](int b) {
            if (!(between.may_have_faded[s] >> b & 1)) [[likely]]
                return false;
            return only_decayed<with_sign>(between.values[s] + b * n, x.codes[s] + b * n,
                                           Reader(grids, factors[s], x.scales[s][b], with_sign),
                                           Step<rule>::decays_in_read[s] ? 1 : decays[s], n);
        };
        if constexpr (keeps(state)) scales[s].confirm(grids, between.tops[s], count);
        if constexpr (takes(state))
            if (x.grids[state.second] == &grids) scales[s].take(grids, between.tops[s], scales[state.second], count);
        scales[s].examine(between.may_have_faded[s]);
        encode_blocks<with_sign>(scales[s], grids, between.values[s], x.codes[s], x.scales[s], n, count, state,
                                 x.starts[s], decays[s], top, second, has_faded);
    };
    // The grids of signed states depend on those of others.
    each_state<rule>([&]<int s>() {
        if constexpr (!rules[rule].states[s].is_signed) write.template operator()<s>();
    });
    each_state<rule>([&]<int s>() {
        if constexpr (rules[rule].states[s].is_signed) write.template operator()<s>();
    });
}

using ScaledStep = void (*)(const float *, const Floats *, float *, const float *, const ScaledBlocks &, int, int, int);

} // namespace adamas::ADAMAS_ISA
