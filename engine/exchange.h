// How the engine sees a framework's tensor without copying it. Either by DLPack's C exchange interface (version 1.3), a
// table of functions that a tensor type offers as the capsule `__dlpack_c_exchange_api__`; or by Python's buffer
// protocol, which NumPy's arrays have. That costs tens of nanoseconds, so every tensor is looked up anew at every
// step and nothing can go stale.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "work.h"

namespace adamas {

// What is wrong with a tensor, in words that follow its name: "has dtype int64; …".
struct Unusable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What a tensor says of itself. `sizes` and `strides` point into the tensor, or into the `Buffers` that it was seen
// with.
struct TensorView {
    char *data;
    int64_t numel;
    int dims;
    const int64_t *sizes, *strides; // strides in elements
    Format format;
    bool is_complex;
    bool is_writable;
};

// The buffers that are being looked at. Whoever lends one may not move it until it is let go.
class Buffers {
    struct Lent {
        Py_buffer buffer;
        std::vector<int64_t> layout; // sizes, then strides
    };
    std::deque<Lent> lent;

  public:
    Buffers() = default;
    Buffers(const Buffers &) = delete;
    ~Buffers() { clear(); }
    void clear();
    TensorView view_of(PyObject *array);
};

// Whether the object is seen by the buffer protocol.
inline bool is_buffer(PyObject *object) { return PyObject_CheckBuffer(object) != 0; }

TensorView view_of(PyObject *tensor, Buffers &);

// Whether the format is one of numbers, not of codes or bits.
constexpr bool is_floating(Format format) { return format < Format::i16; }

// The same as the engine takes it: complex numbers become a last dimension of two.
void describe(const TensorView &tensor, View &view);

bool same_shape(const TensorView &a, const TensorView &b);

// Whether two elements share memory, so that writing one changes the other.
bool overlaps_itself(const View &view);

// The stretch of memory that the elements lie in.
struct Extent {
    const char *begin, *end;
};
Extent extent_of(const TensorView &tensor);

// PyTorch may leave a sign or a conjugation pending on a tensor; returns the tensor with it carried out.
nanobind::object without_pending_signs(nanobind::handle tensor);

// A single number of a state is float64, which counts past 2**24, where float32 stops.
bool is_scalar(const TensorView &tensor);
double read_scalar(const TensorView &tensor);
void write_scalar(const TensorView &tensor, double value);

} // namespace adamas
