// The engine's description of a tensor: the memory and the storage format of its elements. No arithmetic, no Python.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adamas {

// The storage format of an element. A new format needs one decoder and one encoder in formats.h. i8 and u8 are codes
// of 8 bits with a scale for each block of a row; i6 and u6 are codes of 6 bits, four in three bytes.
enum class Format : uint8_t { f32, f64, bf16, f16, i16, i8, u8, i6, u6 };

// The maximum number of elements that share a scale. They belong to one row.
constexpr int quantum = 128;

constexpr bool is_packed(Format format) { return format == Format::i6 || format == Format::u6; }
constexpr bool is_scaled(Format format) { return format == Format::i8 || format == Format::u8 || is_packed(format); }

// The blocks of a row.
constexpr int64_t blocks_of(int64_t row) { return (row + quantum - 1) / quantum; }

// The number of dimensions that number the rows of a tensor (adamas.rule.layout).
constexpr int row_dims(int dims, const int64_t *sizes) {
    return dims > 2 && sizes[dims - 1] % quantum == 0 ? dims - 1 : 1;
}

// The bytes of a row of packed codes. A row is padded with codes of 0 to a multiple of four.
constexpr int64_t packed_bytes(int64_t row) { return (row + 3) / 4 * 3; }

constexpr size_t size_of(Format format) {
    switch (format) {
    case Format::f64: return 8;
    case Format::f32: return 4;
    case Format::i8:
    case Format::u8:
    case Format::i6:
    case Format::u6: return 1;
    default: return 2;
    }
}

// The tensors of one parameter in a step: the weight, its gradient, the low 16 bits of a split weight, and the states
// of the rule in its order.
enum Slot : int { WEIGHT, GRADIENT, LOW_BITS, STATES };

// The positions of elements in iteration order. With `dims` = 0 they are consecutive; otherwise sizes and strides (in
// elements, outermost first) give them.
struct Layout {
    int dims = 0;
    const int64_t *sizes = nullptr, *strides = nullptr;
};

// A tensor for the kernels.
struct Operand : Layout {
    char *data = nullptr;
    Format format = Format::f32;
    float *scales = nullptr; // for codes: one for each block, row by row
    Layout scale_layout;
};

} // namespace adamas
