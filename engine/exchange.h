// How the engine sees a framework's tensor without copying it: DLPack's C exchange interface (version 1.3), a table of
// functions that a tensor type offers as the capsule `__dlpack_c_exchange_api__`. One look costs tens of nanoseconds
// and takes no reference, so every tensor is looked up anew at every step and nothing can go stale.
#pragma once

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <string>

#include "work.h"

namespace adamas {

// What is wrong with a tensor, in words that follow its name: "has dtype int64; …".
struct Unusable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A look at one tensor. `sizes` points into the tensor and is valid as long as it is.
struct Sight {
    char *data;
    int64_t numel;
    int dims;
    const int64_t *sizes, *strides;
    Format format;
    bool is_complex;
};

Sight see(PyObject *tensor);

// Whether the format is one of numbers, not of codes or bits.
constexpr bool is_floating(Format format) { return format < Format::i16; }

// The view of what was seen, as the engine takes it: complex numbers become a last dimension of two.
void describe(const Sight &sight, View &view);

bool same_shape(const Sight &a, const Sight &b);

// Whether two elements share memory, so that writing one changes the other.
bool overlaps_itself(const View &view);

// PyTorch may leave a sign or a conjugation pending on a tensor; returns the tensor with it carried out.
nanobind::object without_pending_signs(nanobind::handle tensor);

double read_scalar(const Sight &sight);
void write_scalar(const Sight &sight, double value);

} // namespace adamas
