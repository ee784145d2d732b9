#include "exchange.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <numeric>

namespace nb = nanobind;

namespace adamas {
namespace {

// The layout that the DLPack specification gives.
struct ExchangeTable {
    uint32_t major, minor;
    ExchangeTable *previous;
    void *allocate, *managed_from_object, *object_from_managed;
    int (*view_of_object)(void *object, nb::dlpack::dltensor *out);
    void *current_stream;
};

// The table of a type; the last answer is kept, since nearly all tensors of a model have one type.
const ExchangeTable &table_of(PyObject *tensor) {
    static PyTypeObject *last_type = nullptr;
    static const ExchangeTable *last_table = nullptr;
    PyTypeObject *type = Py_TYPE(tensor);
    if (type == last_type) return *last_table;

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
    Py_INCREF(type); // so that its address is not given to another type
    last_type = type, last_table = table;
    return *table;
}

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
    throw Unusable(
        "has a dtype that the engine does not store: it takes float32, float64, bfloat16, float16, complex64 "
        "and complex128");
}

} // namespace

Sight see(PyObject *object) {
    nb::dlpack::dltensor tensor;
    if (table_of(object).view_of_object(object, &tensor) != 0) {
        nb::python_error error;
        throw Unusable(std::string("cannot be looked at: ") + error.what());
    }
    constexpr int cpu = 1, cuda_host = 3;
    if (tensor.device.device_type != cpu && tensor.device.device_type != cuda_host)
        throw Unusable("is not in the memory of the CPU");
    Sight sight{static_cast<char *>(tensor.data) + tensor.byte_offset,
                1,
                int(tensor.ndim),
                tensor.shape,
                tensor.strides,
                format_of(tensor.dtype),
                tensor.dtype.code == 5};
    for (int d = 0; d < sight.dims; ++d) sight.numel *= sight.sizes[d];
    if (sight.numel > 0 && tensor.data == nullptr)
        throw Unusable("has no memory of its own (it is a fake tensor, or a wrapper around others)");
    return sight;
}

void describe(const Sight &sight, View &view) {
    view.data = sight.data, view.format = sight.format, view.scales = nullptr;
    view.numel = sight.numel * (sight.is_complex ? 2 : 1);
    view.sizes.clear(), view.strides.clear();
    int64_t expected = 1;
    bool in_order = true;
    for (int d = sight.dims - 1; d >= 0 && in_order; expected *= sight.sizes[d--])
        in_order = sight.sizes[d] == 1 || sight.strides[d] == expected;
    if (in_order || sight.numel == 0) return;
    const int64_t parts = sight.is_complex ? 2 : 1;
    view.sizes.assign(sight.sizes, sight.sizes + sight.dims);
    for (int d = 0; d < sight.dims; ++d) view.strides.push_back(sight.strides[d] * parts);
    if (sight.is_complex) view.sizes.push_back(2), view.strides.push_back(1);
}

bool same_shape(const Sight &a, const Sight &b) {
    return a.dims == b.dims && a.is_complex == b.is_complex && std::equal(a.sizes, a.sizes + a.dims, b.sizes);
}

bool overlaps_itself(const View &view) {
    std::vector<size_t> order(view.sizes.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return view.strides[a] < view.strides[b]; });
    int64_t reach = 0; // the farthest element that the dimensions so far can address
    for (const size_t d : order) {
        if (view.sizes[d] == 1) continue;
        if (view.strides[d] <= reach) return true;
        reach += view.strides[d] * (view.sizes[d] - 1);
    }
    return false;
}

nb::object without_pending_signs(nb::handle tensor) { return tensor.attr("resolve_conj")().attr("resolve_neg")(); }

double read_scalar(const Sight &sight) {
    if (sight.numel != 1 || sight.is_complex || (sight.format != Format::f32 && sight.format != Format::f64))
        throw Unusable("is not a single float32 or float64 number");
    return sight.format == Format::f64 ? *reinterpret_cast<double *>(sight.data)
                                       : *reinterpret_cast<float *>(sight.data);
}

void write_scalar(const Sight &sight, double value) {
    if (sight.format == Format::f64)
        *reinterpret_cast<double *>(sight.data) = value;
    else
        *reinterpret_cast<float *>(sight.data) = float(value);
}

} // namespace adamas
