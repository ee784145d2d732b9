// What the engine knows of a tensor: where its elements lie and how each is stored. No arithmetic and no Python here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adamas {

// How one element is stored. Adding a format means adding one decode and one encode in formats.h. i8 and u8 are codes
// with a scale for each block of a row.
enum class Format : uint8_t { f32, f64, bf16, f16, i16, i8, u8 };

// Elements that have a scale in common, at most: they lie in one row.
constexpr int quantum = 128;

constexpr bool is_scaled(Format format) { return format == Format::i8 || format == Format::u8; }

constexpr size_t size_of(Format format) {
    switch (format) {
    case Format::f64: return 8;
    case Format::f32: return 4;
    case Format::i8:
    case Format::u8: return 1;
    default: return 2;
    }
}

// The tensors that the step of one parameter touches: the weight, its gradient, the low 16 bits of a split weight, and
// the states of the rule one after the other.
enum Slot : int { WEIGHT, GRADIENT, LOW_BITS, STATES };

// One tensor as the kernels see it. With `dims` = 0 the elements lie one after the other in iteration order; otherwise
// sizes and strides (in elements, outermost first) tell where they are.
struct Operand {
    char *data = nullptr;
    Format format = Format::f32;
    int dims = 0;
    const int64_t *sizes = nullptr, *strides = nullptr;
    float *scales = nullptr; // of codes: one for each block, row after row
};

} // namespace adamas
