#include "exchange.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <numeric>
#include <string_view>

namespace nb = nanobind;

namespace adamas {
namespace {

// The layout is that of the DLPack specification.
struct ExchangeTable {
    uint32_t major, minor;
    ExchangeTable *previous;
    void *allocate, *managed_from_object, *object_from_managed;
    int (*view_of_object)(void *object, nb::dlpack::dltensor *out);
    void *current_stream;
};

// The table of a type. The last two are cached: a model's tensors are of two types by turns, in PyTorch weights of
// Parameter, and gradients and states of Tensor.
const ExchangeTable &table_of(PyObject *tensor) {
    struct Known {
        PyTypeObject *type;
        const ExchangeTable *table;
    };
    static Known last = {}, before = {};
    PyTypeObject *type = Py_TYPE(tensor);
    if (type == last.type) return *last.table;
    if (type == before.type) return *before.table;

    const nb::object capsule =
        nb::getattr(nb::handle(reinterpret_cast<PyObject *>(type)), "__dlpack_c_exchange_api__", nb::none());
    auto *table = capsule.is_none()
                      ? nullptr
                      : static_cast<const ExchangeTable *>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (table != nullptr && table->major != 1) table = table->previous;
    if (table == nullptr) {
        PyErr_Clear();
        throw Unusable("is of a type that does not offer DLPack's C exchange interface, version 1");
    }
    Py_INCREF(reinterpret_cast<PyObject *>(type)); // so that no other type gets its address
    before = last, last = {type, table};
    return *table;
}

constexpr char unknown_dtype[] = "has a dtype that the engine does not store: it takes float32, float64, bfloat16, "
                                 "float16, complex64 and complex128, in the machine's byte order";

Format format_of(const nb::dlpack::dtype &dtype) {
    if (dtype.lanes == 1) {
        switch (dtype.code << 8 | dtype.bits) {
        case 2 << 8 | 16: return Format::f16;
        case 2 << 8 | 32:
        case 5 << 8 | 64: return Format::f32;
        case 2 << 8 | 64:
        case 5 << 8 | 128: return Format::f64;
        case 4 << 8 | 16: return Format::bf16;
        case 0 << 8 | 16: return Format::i16;
        case 0 << 8 | 8: return Format::i8;
        case 1 << 8 | 8: return Format::u8;
        }
    }
    throw Unusable(unknown_dtype);
}

// The format of a buffer: a letter of the `struct` module, preceded by Z for complex numbers. NumPy has no bfloat16, so
// its codes are passed as unsigned 16-bit integers. Its longdouble is float64 on Windows and on macOS on Arm.
Format format_of(const char *format, bool &is_complex) {
    if (format == nullptr) return Format::u8; // the default of the buffer protocol
    if (*format == '=' || *format == '@' || *format == (std::endian::native == std::endian::little ? '<' : '>'))
        ++format;
    is_complex = *format == 'Z';
    const std::string_view rest(is_complex ? format + 1 : format);
    if (rest == "f") return Format::f32;
    if (rest == "d" || (rest == "g" && sizeof(long double) == sizeof(double))) return Format::f64;
    if (!is_complex) {
        if (rest == "e") return Format::f16;
        if (rest == "H") return Format::bf16;
        if (rest == "h") return Format::i16;
        if (rest == "b") return Format::i8;
        if (rest == "B") return Format::u8;
    }
    throw Unusable(unknown_dtype);
}

} // namespace

void Buffers::clear() {
    for (Lent &one : lent) PyBuffer_Release(&one.buffer);
    lent.clear();
}

TensorView Buffers::view_of(PyObject *array) {
    Lent &one = lent.emplace_back();
    Py_buffer &buffer = one.buffer;
    if (PyObject_GetBuffer(array, &buffer, PyBUF_RECORDS_RO) != 0) {
        lent.pop_back();
        nb::python_error error;
        throw Unusable(std::string("cannot be read: ") + error.what());
    }
    TensorView view{
        static_cast<char *>(buffer.buf), 1, buffer.ndim, nullptr, nullptr, Format::f32, false, !buffer.readonly};
    view.format = format_of(buffer.format, view.is_complex);
    one.layout.reserve(size_t(2 * buffer.ndim));
    one.layout.assign(buffer.shape, buffer.shape + buffer.ndim);
    bool in_units = true; // whether strides and address are multiples of the element size
    for (int d = 0; d < buffer.ndim; ++d) {
        view.numel *= buffer.shape[d];
        in_units &= buffer.strides[d] % buffer.itemsize == 0;
        one.layout.push_back(buffer.strides[d] / buffer.itemsize);
    }
    view.sizes = one.layout.data(), view.strides = one.layout.data() + buffer.ndim;
    in_units &= reinterpret_cast<uintptr_t>(view.data) % size_of(view.format) == 0;
    if (!in_units && view.numel > 0) throw Unusable("is not aligned in memory; pass a copy of it");
    return view;
}

void dlpack_view(PyObject *object, nb::dlpack::dltensor &view) {
    if (table_of(object).view_of_object(object, &view) == 0) return;
    nb::python_error error;
    throw Unusable(std::string("cannot be read: ") + error.what());
}

TensorView view_of(PyObject *object, Buffers &buffers) {
    if (is_buffer(object)) return buffers.view_of(object);
    nb::dlpack::dltensor tensor;
    dlpack_view(object, tensor);
    constexpr int cpu = 1, cuda_host = 3;
    if (tensor.device.device_type != cpu && tensor.device.device_type != cuda_host)
        throw Unusable("is not in the memory of the CPU");
    TensorView view{static_cast<char *>(tensor.data) + tensor.byte_offset,
                    1,
                    int(tensor.ndim),
                    tensor.shape,
                    tensor.strides,
                    format_of(tensor.dtype),
                    tensor.dtype.code == 5,
                    true};
    for (int d = 0; d < view.dims; ++d) view.numel *= view.sizes[d];
    if (view.numel > 0 && tensor.data == nullptr)
        throw Unusable("has no memory of its own (it is a fake tensor, or a wrapper around others)");
    return view;
}

void describe(const TensorView &tensor, View &view) {
    view.data = tensor.data, view.format = tensor.format, view.scales = nullptr;
    view.numel = tensor.numel * (tensor.is_complex ? 2 : 1);
    for (auto *empty : {&view.sizes, &view.strides, &view.scale_sizes, &view.scale_strides}) empty->clear();
    int64_t expected = 1;
    bool in_order = true;
    for (int d = tensor.dims - 1; d >= 0 && in_order; expected *= tensor.sizes[d--])
        in_order = tensor.sizes[d] == 1 || tensor.strides[d] == expected;
    if (in_order || tensor.numel == 0) return;
    const int64_t parts = tensor.is_complex ? 2 : 1;
    view.sizes.assign(tensor.sizes, tensor.sizes + tensor.dims);
    for (int d = 0; d < tensor.dims; ++d) view.strides.push_back(tensor.strides[d] * parts);
    if (tensor.is_complex) view.sizes.push_back(2), view.strides.push_back(1);
}

bool same_shape(const TensorView &a, const TensorView &b) {
    return a.dims == b.dims && a.is_complex == b.is_complex && std::equal(a.sizes, a.sizes + a.dims, b.sizes);
}

bool overlaps_itself(const View &view) {
    std::vector<size_t> order(view.sizes.size());
    std::iota(order.begin(), order.end(), size_t(0));
    const auto distance = [&](size_t d) { return std::abs(view.strides[d]); };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return distance(a) < distance(b); });
    int64_t reach = 0; // the largest offset of the dimensions so far
    for (const size_t d : order) {
        if (view.sizes[d] == 1) continue;
        if (distance(d) <= reach) return true;
        reach += distance(d) * (view.sizes[d] - 1);
    }
    return false;
}

Extent extent_of(const TensorView &view) {
    const auto bytes = ptrdiff_t(size_of(view.format) * (view.is_complex ? 2 : 1));
    Extent extent{view.data, view.data + (view.numel > 0 ? bytes : 0)};
    for (int d = 0; d < view.dims && view.numel > 0; ++d) {
        const ptrdiff_t reach = view.strides[d] * (view.sizes[d] - 1) * bytes;
        (reach < 0 ? extent.begin : extent.end) += reach;
    }
    return extent;
}

nb::object without_pending_signs(nb::handle tensor) { return tensor.attr("resolve_conj")().attr("resolve_neg")(); }

bool is_scalar(const TensorView &view) { return view.numel == 1 && view.format == Format::f64 && !view.is_complex; }
double read_scalar(const TensorView &view) { return *reinterpret_cast<const double *>(view.data); }
void write_scalar(const TensorView &view, double value) { *reinterpret_cast<double *>(view.data) = value; }

} // namespace adamas
