#include "snapshot.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "exchange.h"
#include "trail.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace adamas {
namespace {

constexpr uintptr_t alignment = 16; // bytes that a kernel loads at a time

nb::object interned(const char *name) { return nb::steal(PyUnicode_InternFromString(name)); }

nb::object attribute(PyObject *object, const nb::object &name) {
    PyObject *found = PyObject_GetAttr(object, name.ptr());
    if (found == nullptr) throw nb::python_error();
    return nb::steal(found);
}

bool answer(PyObject *object, const nb::object &method) {
    const nb::object found = nb::steal(PyObject_VectorcallMethod(method.ptr(), &object, 1, nullptr));
    if (!found.is_valid()) throw nb::python_error();
    return found.ptr() == Py_True;
}

// What the tensors of the parameters of a group looked like when they were last looked up in full: which parameters had
// a gradient, and types, dtypes, shapes, strides and devices. Each step looks at every tensor again. While all of that
// is the same, only addresses and scalars have to be read.
class Snapshot {
    struct Parameter {
        nb::object weight, state;
        Trail trail;
        bool is_distributed = nb::hasattr(weight, "_local_tensor"); // a DTensor of PyTorch
    };

    // A tensor, but for its address. Its sizes and strides are in `layouts`.
    struct Seen {
        PyTypeObject *type = nullptr; // null if there is no tensor
        nb::dlpack::dtype dtype{};
        int32_t device_type = 0, device_id = 0, dims = 0;

        bool operator==(const Seen &other) const {
            return type == other.type && dtype == other.dtype && device_type == other.device_type &&
                   device_id == other.device_id && dims == other.dims;
        }
    };

    std::vector<Parameter> parameters;
    std::vector<nb::object> names;        // of the tensors of a state
    std::vector<nb::object> scalar_names; // of its single numbers
    nb::object gradient_of;               // the gradient of a DTensor's part here
    nb::object grad = interned("grad"), requires_grad = interned("requires_grad"), is_neg = interned("is_neg"),
               is_conj = interned("is_conj"), local_tensor = interned("_local_tensor");

    bool is_known = false;        // whether the following describes a look
    std::vector<int64_t> rows_of; // of each parameter the index of its set of scalars; -1 if it has no gradient
    std::vector<Seen> tensors; // of the parameters with gradients, in order: weight, gradient, and those of the state
    std::vector<int64_t> layouts;   // the sizes of each tensor, then its strides
    std::vector<int64_t> addresses; // as `tensors`
    int64_t generation = 0;         // of `addresses`: higher after each change
    std::vector<std::vector<double>> sets;
    std::vector<bool> is_read; // of each set, whether the present look has read it

    // Of the present step. The objects are held, so that another thread cannot release them.
    std::vector<nb::object> gradients, scalars;
    std::vector<TensorView> targets; // the scalars
    Buffers buffers;                 // none are lent: see `visit_scalars`

    bool learns = false;                 // whether the present look is remembered, not compared
    size_t tensor_count = 0, layout = 0; // what the present look has gone through

    // The part of a tensor that this process has.
    nb::object local(const Parameter &parameter, PyObject *tensor) const {
        return parameter.is_distributed && Py_TYPE(tensor) == Py_TYPE(parameter.weight.ptr())
                   ? attribute(tensor, local_tensor)
                   : nb::borrow(tensor);
    }

    nb::object gradient_of_parameter(const Parameter &parameter) const {
        if (parameter.is_distributed) return gradient_of(parameter.weight);
        nb::object gradient = attribute(parameter.weight.ptr(), grad);
        if (gradient.is_none() || attribute(parameter.weight.ptr(), requires_grad).ptr() == Py_True) return gradient;
        return nb::none();
    }

    bool has_pending_sign(PyObject *tensor, bool is_complex) const {
        return answer(tensor, is_neg) || (is_complex && answer(tensor, is_conj));
    }

    // Whether the tensor is as it was, but for its address; a null pointer stands for no tensor. Pending signs are
    // asked for where there can be new ones: of gradients, of complex tensors, and of what lies elsewhere than before.
    // A real weight or state gets one only if its `data` are assigned, with the imaginary part of a conjugated tensor.
    bool visit(Parameter &parameter, PyObject *tensor, bool is_gradient) {
        Seen seen;
        nb::dlpack::dltensor view{};
        if (tensor != nullptr) {
            dlpack_view(tensor, view);
            seen = {Py_TYPE(tensor), view.dtype, int32_t(view.device.device_type), view.device.device_id, view.ndim};
            if (view.strides == nullptr && view.ndim > 0) return false;
        }
        const size_t bytes = size_t(view.ndim) * sizeof(int64_t), first = layout, index = tensor_count++;
        layout += size_t(2 * view.ndim);
        const int64_t address = reinterpret_cast<int64_t>(view.data) + int64_t(view.byte_offset);
        if (learns) {
            tensors.push_back(seen), addresses.push_back(address);
            layouts.insert(layouts.end(), view.shape, view.shape + view.ndim);
            layouts.insert(layouts.end(), view.strides, view.strides + view.ndim);
            if (tensor != nullptr) parameter.trail.leave_view(tensor, view.shape);
        } else if (index >= tensors.size() || !(tensors[index] == seen) ||
                   (bytes > 0 && (std::memcmp(&layouts[first], view.shape, bytes) != 0 ||
                                  std::memcmp(&layouts[first + size_t(view.ndim)], view.strides, bytes) != 0))) {
            return false;
        }
        if (tensor == nullptr) return true;
        const bool is_complex = view.dtype.code == 5, has_moved = address != addresses[index];
        if ((learns || is_gradient || is_complex || has_moved) && has_pending_sign(tensor, is_complex)) return false;
        if (has_moved) {
            if ((address ^ addresses[index]) & int64_t(alignment - 1)) return false;
            addresses[index] = address, ++generation;
        }
        return true;
    }

    bool visit_state(Parameter &parameter, const nb::object &name) {
        PyObject *found = name.is_none() ? nullptr : PyDict_GetItemWithError(parameter.state.ptr(), name.ptr());
        if (found == nullptr || !parameter.is_distributed) return visit(parameter, found, false);
        return visit(parameter, local(parameter, found).ptr(), false);
    }

    // Reads the scalars of a parameter. Whether they are those of the others of their set.
    bool visit_scalars(Parameter &parameter, int64_t row) {
        if (row >= int64_t(sets.size())) sets.resize(size_t(row) + 1), is_read.resize(sets.size());
        std::vector<double> &set = sets[size_t(row)];
        if (set.size() != scalar_names.size()) set.resize(scalar_names.size());
        bool is_alike = true;
        for (size_t i = 0; i < scalar_names.size(); ++i) {
            PyObject *found = PyDict_GetItemWithError(parameter.state.ptr(), scalar_names[i].ptr());
            if (found == nullptr || is_buffer(found)) return false;
            scalars.push_back(local(parameter, found));
            const TensorView view = view_of(scalars.back().ptr(), buffers);
            if (!is_scalar(view)) return false;
            if (learns) parameter.trail.leave_view(scalars.back().ptr(), view.sizes);
            targets.push_back(view);
            const double value = read_scalar(view);
            if (i == 0 && !(value >= 0 && value < uncounted)) return false; // the step
            if (!is_read[size_t(row)]) set[i] = value;
            is_alike &= set[i] == value;
        }
        is_read[size_t(row)] = true;
        return is_alike;
    }

    bool visit_parameter(size_t index, nb::handle given) {
        Parameter &parameter = parameters[index];
        if (!PyDict_Check(parameter.state.ptr())) return false;
        if (index + look_ahead < parameters.size()) parameters[index + look_ahead].trail.prefetch();
        if (learns) parameter.trail.clear(), parameter.trail.leave_dictionary(parameter.state.ptr());
        nb::object gradient = given.is_valid() ? nb::borrow(given) : gradient_of_parameter(parameter);
        const int64_t row = rows_of[index];
        if (gradient.is_none() || row < 0) return gradient.is_none() && row < 0;
        gradients.push_back(std::move(gradient));
        const bool is_same = parameter.is_distributed
                                 ? visit(parameter, local(parameter, parameter.weight.ptr()).ptr(), false)
                                 : visit(parameter, parameter.weight.ptr(), false);
        if (!is_same || !visit(parameter, gradients.back().ptr(), true)) return false;
        for (const nb::object &name : names)
            if (!visit_state(parameter, name)) return false;
        return visit_scalars(parameter, row);
    }

    // Whether all parameters are as they were, or could be remembered.
    bool visit_all(nb::object given) {
        release();
        tensor_count = layout = 0;
        std::fill(is_read.begin(), is_read.end(), false);
        const nb::list list = given.is_none() ? nb::list() : nb::cast<nb::list>(given);
        if (!given.is_none() && list.size() != parameters.size()) return false;
        try {
            for (size_t i = 0; i < parameters.size(); ++i)
                if (!visit_parameter(i, given.is_none() ? nb::handle() : list[i])) return false;
        } catch (const Unusable &) {
            return false;
        } catch (nb::python_error &error) { // the look in full raises it again
            if (!error.matches(PyExc_Exception)) throw;
            return false;
        }
        return true;
    }

  public:
    Snapshot(nb::list records, nb::list names_, nb::list scalar_names_, nb::object gradient_of)
        : gradient_of(std::move(gradient_of)) {
        for (nb::handle handle : records) {
            const auto record = nb::cast<nb::tuple>(handle);
            parameters.push_back({record[0], record[1], {}});
        }
        for (nb::handle name : names_) names.push_back(nb::borrow(name));
        for (nb::handle name : scalar_names_) scalar_names.push_back(nb::borrow(name));
    }

    // Remembers the tensors, after a look in full that found the gradients of these parameters and their sets of
    // scalars: for each parameter the index of its set, or -1. Returns whether it is possible.
    bool remember(nb::object given, std::vector<int64_t> rows) {
        if (rows.size() != parameters.size()) throw nb::value_error("one index for each parameter");
        is_known = false;
        rows_of = std::move(rows);
        tensors.clear(), layouts.clear(), addresses.clear(), sets.clear(), is_read.clear();
        ++generation;
        learns = true;
        const bool done = visit_all(std::move(given));
        learns = false;
        if (!done) release();
        return is_known = done;
    }

    // The sets of scalars, if everything but addresses and scalars is as it was remembered; else None.
    nb::object check(nb::object given) {
        if (!is_known) return nb::none();
        is_known = learns = false; // unless it goes through
        if (!visit_all(std::move(given))) {
            release();
            return nb::none();
        }
        is_known = true;
        nb::list found;
        for (const std::vector<double> &set : sets) found.append(nb::tuple(nb::cast(set)));
        return found;
    }

    int64_t current_generation() const { return generation; }

    // The addresses of the tensors, as integers of 64 bits: a row for each parameter with a gradient, and 0 where it
    // has no such tensor.
    nb::bytes current_addresses() const {
        return nb::bytes(reinterpret_cast<const char *>(addresses.data()), addresses.size() * sizeof(int64_t));
    }

    // The gradients of the present step.
    nb::list current_gradients() const {
        nb::list found;
        for (const nb::object &gradient : gradients) found.append(gradient);
        return found;
    }

    // Writes the scalars after the step: a set for each that there was before it.
    void write(const std::vector<std::vector<double>> &after) const {
        if (after.size() != sets.size()) throw nb::value_error("one set of scalars for each that was found");
        const size_t found = tensors.size() / (2 + names.size());
        if (!is_known || targets.size() != found * scalar_names.size()) throw nb::value_error("no step is under way");
        const TensorView *target = targets.data();
        for (const int64_t row : rows_of) {
            if (row < 0) continue;
            for (size_t i = 0; i < scalar_names.size(); ++i) write_scalar(*target++, after[size_t(row)].at(i));
        }
    }

    // Ends the present step.
    void release() {
        targets.clear();
        // Releasing an object may run arbitrary code.
        const std::vector<nb::object> first = std::move(gradients), second = std::move(scalars);
        gradients.clear(), scalars.clear();
    }

    // Visits all objects that are held, for Python's garbage collector.
    int traverse(visitproc visit, void *arg) const {
        for (const Parameter &parameter : parameters) {
            Py_VISIT(parameter.weight.ptr());
            Py_VISIT(parameter.state.ptr());
        }
        for (const nb::object &object : gradients) Py_VISIT(object.ptr());
        for (const nb::object &object : scalars) Py_VISIT(object.ptr());
        Py_VISIT(gradient_of.ptr());
        return 0;
    }

    void clear() {
        is_known = false;
        release();
        const std::vector<Parameter> last = std::move(parameters);
        parameters.clear(), rows_of.clear();
    }
};

int traverse_snapshot(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<Snapshot>(self)->traverse(visit, arg) : 0;
}
int clear_snapshot(PyObject *self) {
    if (nb::inst_ready(self)) nb::inst_ptr<Snapshot>(self)->clear();
    return 0;
}
PyType_Slot snapshot_slots[] = {{Py_tp_traverse, reinterpret_cast<void *>(traverse_snapshot)},
                                {Py_tp_clear, reinterpret_cast<void *>(clear_snapshot)},
                                {0, nullptr}};

} // namespace

void define_snapshot(nb::module_ &m) {
    nb::class_<Snapshot>(m, "Snapshot", nb::type_slots(snapshot_slots))
        .def(nb::init<nb::list, nb::list, nb::list, nb::object>(), "records"_a, "names"_a, "scalars"_a, "gradient_of"_a)
        .def("remember", &Snapshot::remember, "gradients"_a.none(), "rows"_a)
        .def("check", &Snapshot::check, "gradients"_a.none())
        .def_prop_ro("generation", &Snapshot::current_generation)
        .def("addresses", &Snapshot::current_addresses)
        .def("gradients", &Snapshot::current_gradients)
        .def("write", &Snapshot::write, "scalars"_a)
        .def("release", &Snapshot::release);
}

} // namespace adamas
