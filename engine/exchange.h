// Access to a framework's tensors without copies: through DLPack's C exchange interface (version 1.3), a table of
// functions that a tensor type offers as the capsule `__dlpack_c_exchange_api__`; or through Python's buffer protocol,
// which NumPy arrays support. A lookup takes tens of nanoseconds, so every step looks up every tensor again, and
// nothing can be stale.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "work.h"

namespace adamas {

// The problem with a tensor, as text that follows its name: "has dtype int64; …".
struct Unusable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The description of a tensor. `sizes` and `strides` point into the tensor, or into the `Buffers` that hold it.
struct TensorView {
    char *data;
    int64_t numel;
    int dims;
    const int64_t *sizes, *strides; // strides in elements
    Format format;
    bool is_complex;
    bool is_writable;
};

// The buffers in use. The owner of a buffer cannot move or resize it until it is released.
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

// Whether the object supports the buffer protocol.
inline bool is_buffer(PyObject *object) { return PyObject_CheckBuffer(object) != 0; }

// What DLPack says of a tensor, on whatever device it is.
void dlpack_view(PyObject *tensor, nanobind::dlpack::dltensor &view);

// The tensor, which has to be in the memory of the CPU.
TensorView view_of(PyObject *tensor, Buffers &);

// Whether the format stores floating-point numbers, not codes or bits.
constexpr bool is_floating(Format format) { return format < Format::i16; }

// Converts the description to the engine's: complex numbers become a last dimension of two.
void describe(const TensorView &tensor, View &view);

bool same_shape(const TensorView &a, const TensorView &b);

// Whether two elements share memory, so that writing one changes the other.
bool overlaps_itself(const View &view);

// The range of memory that contains the elements.
struct Extent {
    const char *begin, *end;
};
Extent extent_of(const TensorView &tensor);

// PyTorch may leave a negation or a conjugation of a tensor pending; returns the tensor with it resolved.
nanobind::object without_pending_signs(nanobind::handle tensor);

// A scalar of the state is float64, which can count past 2**24; float32 cannot.
bool is_scalar(const TensorView &tensor);
double read_scalar(const TensorView &tensor);
constexpr double uncounted = 0x1p53; // from this count on, float64 cannot represent the next one
void write_scalar(const TensorView &tensor, double value);

} // namespace adamas
