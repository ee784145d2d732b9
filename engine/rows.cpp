#include "rows.h"

#include <algorithm>
#include <array>
#include <utility>

namespace adamas {

void GradientRows::assign(const Kernels &kernels, const int64_t *indices, const char *values, int64_t count,
                          int64_t total, Format format, int64_t length) {
    const int64_t bytes = length * int64_t(size_of(format));
    rows_.resize(size_t(count));
    for (int64_t i = 0; i < count; ++i) rows_[size_t(i)] = {indices[i], values + i * bytes};
    const auto by_index = [](const Row &a, const Row &b) { return a.index < b.index; };
    if (!std::is_sorted(rows_.begin(), rows_.end(), by_index)) sort(total);
    add_up(kernels, format, length);
}

// Sorts by index, one digit after the other from the lowest on; rows of the same index stay in order.
void GradientRows::sort(int64_t total) {
    constexpr int bits = 11;
    constexpr int64_t base = int64_t(1) << bits;
    sorted_.resize(rows_.size());
    for (int shift = 0; (total - 1) >> shift > 0; shift += bits) {
        const auto digit = [shift](const Row &row) { return size_t(row.index >> shift & (base - 1)); };
        std::array<size_t, base> next{};
        for (const Row &row : rows_) ++next[digit(row)];
        size_t first = 0;
        for (size_t &count : next) first += std::exchange(count, first);
        for (const Row &row : rows_) sorted_[next[digit(row)]++] = row;
        rows_.swap(sorted_);
    }
}

// Replaces rows of the same index by their sum.
void GradientRows::add_up(const Kernels &kernels, Format format, int64_t length) {
    const auto end_of = [this](size_t first) {
        size_t end = first + 1;
        while (end < rows_.size() && rows_[end].index == rows_[first].index) ++end;
        return end;
    };
    const size_t bytes = size_t(length) * size_of(format);
    size_t sums = 0;
    for (size_t i = 0; i < rows_.size(); i = end_of(i)) sums += end_of(i) > i + 1;
    if (sums == 0) return;
    sums_.resize(sums * bytes);
    char *to = sums_.data();
    size_t kept = 0;
    for (size_t i = 0, end; i < rows_.size(); i = end) {
        end = end_of(i);
        Row row = rows_[i];
        if (end > i + 1) {
            kernels.sum_rows(&rows_[i], int64_t(end - i), format, length, to);
            row.gradient = to, to += bytes;
        }
        rows_[kept++] = row;
    }
    rows_.resize(kept);
}

} // namespace adamas
