// The Python interface of the engine: `Group`, the tensors of one parameter group, and information about the engine.

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "exchange.h"
#include "rows.h"
#include "snapshot.h"
#include "threads.h"
#include "trail.h"
#include "work.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace adamas {
namespace {

constexpr const char *another_shape = "has another shape than the parameter, or only one is complex";
constexpr const char *shares_memory = "has elements that share memory, as after expand(), broadcast_to() or "
                                      "as_strided(), and cannot be updated in place; use "
                                      "a copy of it (clone() in PyTorch, copy() in NumPy)";

const Kernels *chosen_kernels = &best_kernels();

std::string text_of(nb::handle object) { return nb::cast<std::string>(nb::repr(object)); }

// The numbers of a step: the index of the rule, and the numbers that all rules have followed by those of the rule.
using Numbers = std::pair<int, std::vector<double>>;

const Rule &rule_at(int index) {
    if (index < 0 || index >= rule_count) throw nb::value_error("there is no such rule");
    return rules[index];
}

bool is_rounded(const View &view) {
    return view.data != nullptr && (view.format == Format::bf16 || view.format == Format::f16);
}

// Memory that a step reads or writes, and its parameter.
struct Use {
    Extent extent;
    const std::string *parameter;
    bool is_own; // whether a weight and its gradient are the same memory, element by element
};

// The parameters of one group with their state. It holds the dictionaries, not the tensors in them: these are looked up
// at each step, so that replaced tensors are noticed.
class Group {
    struct Parameter {
        nb::object tensor;
        nb::object state;
        std::string name;
        uint64_t random_key;
        std::vector<int64_t> offset, whole; // the place of a part in a tensor of this shape; empty for a whole tensor
        Trail trail;
        bool is_distributed = nb::hasattr(tensor, "_local_tensor"); // a DTensor of PyTorch
        nb::object gradient_spec;           // the specification of the last gradient that lay as such a weight does
        std::unique_ptr<GradientRows> rows; // of the last gradient that had only some
    };
    std::vector<Parameter> parameters;
    std::array<nb::object, slot_count> slot_names;  // invalid for tensors that the group doesn't have
    std::array<nb::object, slot_count> scale_names; // for states with codes
    std::vector<nb::object> scalar_names;           // "step" first
    nb::object as_scalar;                           // converts any number to a scalar of the state; None if it is none
    nb::object gradient_of; // the gradient of a weight, of a DTensor the part here; raises if it lies otherwise
    nb::object rows_of;     // the rows of a sparse gradient, or None if it is dense; None if no sparse ones are taken
    nb::object grad = nb::steal(PyUnicode_InternFromString("grad"));
    nb::object requires_grad = nb::steal(PyUnicode_InternFromString("requires_grad"));
    nb::object is_neg = nb::steal(PyUnicode_InternFromString("is_neg"));
    nb::object local_tensor = nb::steal(PyUnicode_InternFromString("_local_tensor"));
    nb::object spec = nb::steal(PyUnicode_InternFromString("_spec"));
    const Rule &rule;
    bool penalized, cautious, masked;
    Weights weights;

    // The result of `collect`, until `step` has used it.
    Work work;
    std::vector<size_t> parameter_of_job, scalars_of_job;
    std::vector<std::vector<double>> distinct_scalars;
    std::vector<TensorView> scalars; // of all jobs in order
    std::vector<nb::object> kept;    // keeps tensors alive for the kernels, even if another thread releases them
    Buffers buffers;                 // does the same for arrays that are read through the buffer protocol
    std::array<View, slot_count> views;
    bool has_some_rows = false;          // whether the gradient has only some rows of
    std::vector<int64_t> shape;          // the weight, whose shape this is,
    int rows = 0;                        // the dimensions that number its rows,
    int64_t row = 0;                     // and the elements in a row
    std::vector<double> current_scalars; // of the parameter that is being collected
    bool given = false;                  // whether gradients were passed to `collect`
    std::vector<Use> reads, writes;      // the memory of passed gradients, and of everything else
    // For each distinct set of scalars, or for each job if the rule has sums, as long as the kernels run.
    std::vector<std::array<float, most_constants>> narrow_constants;
    std::vector<std::array<double, most_constants>> wide_constants;
    std::vector<std::vector<double>> new_scalars;
    std::vector<double> sums; // the rule's, of each job in turn; NaN until they are known
    // The numbers that statistics depend on, and k - 1, for each distinct set of scalars, as long as the kernels run.
    std::vector<std::vector<double>> watched_numbers;
    std::vector<Statistics> statistics; // of each job in a step that is watched

    // The number of sums that a step needs: without a mask, not the last one of the rule.
    size_t sum_count() const { return size_t(rule.sum_count - !masked); }

    // The tensor that is being looked up, for the error message.
    const char *looking_at = "";
    nb::handle looking_at_key;

    // A tensor, kept alive for the kernels.
    PyObject *keep(nb::object tensor) {
        kept.push_back(std::move(tensor));
        return kept.back().ptr();
    }

    // The part of a tensor that this process has: of a DTensor its local tensor, and else the tensor itself.
    PyObject *local(Parameter &parameter, nb::handle tensor) {
        if (!parameter.is_distributed || Py_TYPE(tensor.ptr()) != Py_TYPE(parameter.tensor.ptr()))
            return keep(nb::borrow(tensor));
        parameter.trail.leave_tensor(tensor.ptr());
        return keep(tensor.attr(local_tensor));
    }

    // The local tensor of a DTensor's own gradient. The gradient lies as the weight does if their specifications are
    // the same object; else `gradient_of` compares what they say, and raises ValueError if it lies otherwise.
    PyObject *local_gradient(Parameter &parameter, nb::handle gradient, PyObject *local_weight) {
        if (Py_TYPE(gradient.ptr()) != Py_TYPE(parameter.tensor.ptr())) return keep(gradient_of(parameter.tensor));
        parameter.trail.leave_tensor(gradient.ptr());
        const nb::object own = gradient.attr(spec);
        nb::object found = gradient.attr(local_tensor);
        const bool is_alike = own.is(parameter.gradient_spec) || own.is(parameter.tensor.attr(spec));
        if (!is_alike || Py_TYPE(found.ptr()) != Py_TYPE(local_weight)) {
            found = gradient_of(parameter.tensor);
            parameter.gradient_spec = own;
        }
        return keep(std::move(found));
    }

    // Whether the gradient is sparse and has only some rows of the weight. If so, `view` then is their values, and
    // `parameter.rows` has the rows.
    bool find_rows(Parameter &parameter, nb::handle gradient, const TensorView &weight, TensorView &view) {
        if (rows_of.is_none() || parameter.is_distributed || weight.dims == 0) return false;
        const nb::object found = rows_of(gradient);
        if (found.is_none()) return false;
        const auto [indices, values, rows_there] = nb::cast<std::tuple<nb::object, nb::object, int64_t>>(found);
        nb::dlpack::dltensor list;
        dlpack_view(keep(indices), list);
        view = view_of(keep(values), buffers);
        const bool fits = rows_there == weight.sizes[0] && view.dims == weight.dims &&
                          view.is_complex == weight.is_complex &&
                          std::equal(weight.sizes + 1, weight.sizes + weight.dims, view.sizes + 1);
        if (!fits) throw Unusable(another_shape);
        if (!is_floating(view.format)) throw Unusable("has an integer dtype");
        const auto *from = reinterpret_cast<const int64_t *>(static_cast<char *>(list.data) + list.byte_offset);
        const int64_t count = view.sizes[0], total = weight.sizes[0];
        const int64_t *wrong = std::find_if(from, from + count, [&](int64_t i) { return i < 0 || i >= total; });
        if (wrong != from + count)
            throw Unusable("has the row " + std::to_string(*wrong) + ", and the parameter has " +
                           std::to_string(total) + " rows");
        const int64_t length = view.numel * (view.is_complex ? 2 : 1) / std::max<int64_t>(count, 1);
        if (parameter.rows == nullptr) parameter.rows = std::make_unique<GradientRows>();
        parameter.rows->assign(*chosen_kernels, from, view.data, count, total, view.format, length);
        return true;
    }

    TensorView view_of_state(Parameter &parameter, const nb::object &key) {
        looking_at = "state", looking_at_key = key;
        PyObject *found = PyDict_GetItemWithError(parameter.state.ptr(), key.ptr());
        if (found == nullptr) throw Unusable("is missing");
        found = local(parameter, found);
        const TensorView tensor = view_of(found, buffers);
        if (!tensor.is_writable) throw Unusable("is read-only");
        if (given) writes.push_back({extent_of(tensor), &parameter.name, false});
        parameter.trail.leave(found, tensor.sizes);
        return tensor;
    }

    void collect_tensors(Parameter &parameter, nb::handle gradient) {
        looking_at = "it";
        PyObject *own = local(parameter, parameter.tensor);
        const TensorView weight = view_of(own, buffers);
        parameter.trail.leave(own, weight.sizes);
        if (!is_floating(weight.format)) throw Unusable("has an integer dtype");
        if (!weight.is_writable) throw Unusable("is read-only");
        shape.assign(weight.sizes, weight.sizes + weight.dims);
        rows = row_dims(weight.dims, weight.sizes), row = 1;
        for (int d = rows; d < weight.dims; ++d) row *= weight.sizes[d];
        if (!parameter.whole.empty() && parameter.whole.size() != shape.size())
            throw Unusable("has " + std::to_string(shape.size()) + " dimensions, but is a part of a tensor of " +
                           std::to_string(parameter.whole.size()));
        describe(weight, views[WEIGHT]);
        if (overlaps_itself(views[WEIGHT])) throw Unusable(shares_memory);

        looking_at = "its gradient";
        gradient =
            parameter.is_distributed && !given ? local_gradient(parameter, gradient, own) : keep(nb::borrow(gradient));
        if (!is_buffer(gradient.ptr()) && (weight.is_complex || nb::cast<bool>(gradient.attr(is_neg)()))) {
            kept.push_back(without_pending_signs(gradient));
            gradient = kept.back();
        }
        // A sparse gradient cannot be read as an array. Asking every gradient whether it is sparse would slow down the
        // step of small tensors; the exception takes a millisecond, so a parameter that has had one is asked first.
        TensorView seen;
        has_some_rows = parameter.rows != nullptr && find_rows(parameter, gradient, weight, seen);
        if (!has_some_rows) {
            try {
                seen = view_of(gradient.ptr(), buffers);
            } catch (const Unusable &) {
                has_some_rows = find_rows(parameter, gradient, weight, seen);
                if (!has_some_rows) throw;
            }
        }
        if (!has_some_rows) {
            parameter.trail.leave(gradient.ptr(), seen.sizes);
            if (!same_shape(weight, seen)) throw Unusable(another_shape);
            if (!is_floating(seen.format)) throw Unusable("has an integer dtype");
        }
        describe(seen, views[GRADIENT]);
        if (given) {
            reads.push_back({extent_of(seen), &parameter.name, views[GRADIENT] == views[WEIGHT]});
            writes.push_back({extent_of(weight), &parameter.name, views[GRADIENT] == views[WEIGHT]});
        }

        for (int slot = LOW_BITS; slot < slot_count; ++slot) {
            views[slot].data = nullptr;
            if (!slot_names[slot].is_valid() || (slot == LOW_BITS && !is_rounded(views[WEIGHT]))) continue;
            const TensorView state = view_of_state(parameter, slot_names[slot]);
            if (slot == LOW_BITS) {
                describe_low_bits(weight, state);
                continue;
            }
            const bool packed =
                is_scaled(state.format) && !same_shape(weight, state) && has_rows_of(state, packed_bytes(row));
            if (!packed && !same_shape(weight, state)) throw Unusable("has another shape than the parameter");
            if (!can_be_stored_as(state.format, slot)) throw Unusable("has a dtype that it cannot have");
            describe(state, views[slot]);
            if (packed) views[slot].format = state.format == Format::i8 ? Format::i6 : Format::u6;
            if (is_scaled(views[slot].format)) {
                collect_scales(parameter, slot, weight);
            } else if (overlaps_itself(views[slot])) {
                throw Unusable(shares_memory);
            }
        }
    }

    // Low bits are 16-bit integers in the shape of the weight, or their two bytes in a last dimension.
    void describe_low_bits(const TensorView &weight, TensorView low) {
        const bool is_bytes = low.format == Format::u8 && low.dims == weight.dims + 1 && low.sizes[weight.dims] == 2;
        std::vector<int64_t> strides(low.strides, low.strides + low.dims);
        if (is_bytes) {
            bool in_pairs = strides.back() == 1 && reinterpret_cast<uintptr_t>(low.data) % 2 == 0;
            strides.pop_back();
            for (size_t d = 0; d < strides.size(); strides[d++] /= 2)
                in_pairs &= strides[d] % 2 == 0 || low.sizes[d] == 1;
            if (!in_pairs && low.numel > 0) throw Unusable("is not made up of pairs of bytes");
            --low.dims, low.numel /= 2, low.format = Format::i16, low.strides = strides.data();
        }
        if (!same_shape(weight, low)) throw Unusable("has another shape than the parameter");
        if (low.format != Format::i16) throw Unusable("has a dtype that it cannot have");
        describe(low, views[LOW_BITS]);
        if (overlaps_itself(views[LOW_BITS])) throw Unusable(shares_memory);
    }

    // Whether a tensor has the weight's rows, each of this length. Rows that are long enough for codes are longer than
    // packed ones, so codes of a byte never have the shape of packed ones.
    bool has_rows_of(const TensorView &tensor, int64_t length) const {
        return !shape.empty() && tensor.dims == rows + 1 &&
               std::equal(shape.begin(), shape.begin() + rows, tensor.sizes) && tensor.sizes[rows] == length;
    }

    bool can_be_stored_as(Format format, int slot) const {
        return is_floating(format) || format == (rule.states[slot - STATES].is_signed ? Format::i8 : Format::u8);
    }

    // Raises unless each row lies in one piece. Packed rows lie in one piece all together.
    void check_rows(const View &view) const {
        bool in_order = view.sizes.empty() || !is_packed(view.format);
        int64_t expected = 1;
        for (size_t d = view.sizes.size(); d-- > size_t(rows); expected *= view.sizes[d])
            in_order &= view.sizes[d] == 1 || view.strides[d] == expected;
        if (!in_order) throw Unusable("has to lie in row-major order (contiguous)");
        if (overlaps_itself(view)) throw Unusable(shares_memory);
    }

    void collect_scales(Parameter &parameter, int slot, const TensorView &weight) {
        check_rows(views[slot]);
        if (weight.dims < 1 || weight.is_complex) throw Unusable("is in codes, which the parameter cannot have");
        const TensorView scales = view_of_state(parameter, scale_names[slot]);
        if (scales.format != Format::f32 || !has_rows_of(scales, blocks_of(row))) {
            std::string text;
            for (int d = 0; d < rows; ++d) text += std::to_string(shape[size_t(d)]) + ", ";
            throw Unusable("has to be float32, of shape (" + text + std::to_string(blocks_of(row)) + ")");
        }
        View view;
        describe(scales, view);
        check_rows(view);
        views[slot].scales = reinterpret_cast<float *>(view.data);
        views[slot].scale_sizes = std::move(view.sizes), views[slot].scale_strides = std::move(view.strides);
    }

    // A scalar of the state. A number of another type, set by the user, is replaced by one that the step can write to.
    TensorView view_of_scalar(Parameter &parameter, const nb::object &name) {
        PyObject *found = PyDict_GetItemWithError(parameter.state.ptr(), name.ptr());
        if (found != nullptr) {
            try {
                const TensorView tensor = view_of_state(parameter, name);
                if (is_scalar(tensor)) return tensor;
            } catch (const Unusable &) {
            }
            const nb::object given = nb::borrow(found), scalar = as_scalar(given);
            if (scalar.is_none()) throw Unusable("is " + text_of(given) + ", and has to be a single number");
            if (PyDict_SetItem(parameter.state.ptr(), name.ptr(), scalar.ptr()) != 0) throw nb::python_error();
        }
        return view_of_state(parameter, name);
    }

    // The index of a parameter's scalars among the distinct ones.
    size_t find_scalars(Parameter &parameter) {
        current_scalars.clear();
        for (const nb::object &name : scalar_names) {
            scalars.push_back(view_of_scalar(parameter, name));
            const double value = read_scalar(scalars.back());
            if (current_scalars.empty() && !(value >= 0 && value < uncounted)) // the step
                throw Unusable("is " + text_of(nb::float_(value)) + ", and has to be a number from 0 up, below 2**53");
            current_scalars.push_back(value);
        }
        for (size_t i = distinct_scalars.size(); i-- > 0;)
            if (distinct_scalars[i] == current_scalars) return i;
        distinct_scalars.push_back(current_scalars);
        return distinct_scalars.size() - 1;
    }

    [[noreturn]] void explain(const Parameter &parameter, const Unusable &problem) const {
        std::string text = "parameter " + parameter.name + ": ";
        if (std::string_view(looking_at) == "state")
            text += "its state '" + nb::cast<std::string>(nb::str(looking_at_key)) + "'";
        else
            text += looking_at;
        throw nb::value_error((text + " " + problem.what()).c_str());
    }

  public:
    Group(nb::list records, int rule_index, bool penalized, bool cautious, bool masked, const std::string &weights_mode,
          nb::list slots, nb::list scales, nb::object low_bits, nb::list scalar_names_, nb::object as_scalar,
          nb::object gradient_of, nb::object rows_of)
        : as_scalar(std::move(as_scalar)),
          gradient_of(std::move(gradient_of)),
          rows_of(std::move(rows_of)),
          rule(rule_at(rule_index)),
          penalized(penalized),
          cautious(cautious),
          masked(masked) {
        weights = weights_mode == "split"        ? Weights::split
                  : weights_mode == "stochastic" ? Weights::stochastic
                                                 : Weights::nearest;
        if (slots.size() != size_t(rule.state_count) || scales.size() != slots.size())
            throw nb::value_error(
                ("rule " + std::string(rule.name) + " has " + std::to_string(rule.state_count) + " states").c_str());
        for (nb::handle handle : records) {
            const auto record = nb::cast<nb::tuple>(handle);
            parameters.push_back(
                {record[0], record[1], nb::cast<std::string>(record[2]), nb::cast<uint64_t>(record[3]), {}, {}, {}});
            if (record[4].is_none()) continue;
            std::tie(parameters.back().offset, parameters.back().whole) =
                nb::cast<std::pair<std::vector<int64_t>, std::vector<int64_t>>>(record[4]);
        }
        if (!low_bits.is_none()) slot_names[LOW_BITS] = low_bits;
        for (size_t i = 0; i < slots.size(); ++i)
            slot_names[STATES + i] = slots[i], scale_names[STATES + i] = scales[i];
        for (nb::handle name : scalar_names_) scalar_names.push_back(nb::borrow(name));
    }

    // Looks up the tensors of every parameter that has a gradient. The gradients are the ones that are passed (None for
    // a parameter without one), or else the parameters' own, except those of frozen parameters. Returns the distinct
    // sets of scalars.
    nb::list collect(nb::object gradients) {
        discard();
        parameter_of_job.clear(), scalars_of_job.clear(), distinct_scalars.clear(), scalars.clear();
        reads.clear(), writes.clear();
        given = !gradients.is_none();
        nb::list list;
        if (given) list = nb::cast<nb::list>(gradients);
        if (given && list.size() != parameters.size())
            throw nb::value_error(("there are " + std::to_string(list.size()) + " gradients for " +
                                   std::to_string(parameters.size()) + " parameters")
                                      .c_str());
        for (size_t i = 0; i < parameters.size(); ++i) {
            if (i + look_ahead < parameters.size()) parameters[i + look_ahead].trail.prefetch();
            parameters[i].trail.clear();
            const nb::object gradient = given ? nb::object(list[i]) : nb::object(parameters[i].tensor.attr(grad));
            if (gradient.is_none() || (!given && !nb::cast<bool>(parameters[i].tensor.attr(requires_grad)))) continue;
            try {
                collect_tensors(parameters[i], gradient);
                scalars_of_job.push_back(find_scalars(parameters[i]));
            } catch (const Unusable &problem) {
                explain(parameters[i], problem);
            }
            bool scaled = false, draws = weights == Weights::stochastic && is_rounded(views[WEIGHT]);
            for (int s = 0; s < rule.state_count; ++s) {
                const View &view = views[STATES + s];
                if (view.data == nullptr) continue;
                scaled |= is_scaled(view.format);
                draws |= rule.states[s].draw >= 0 && is_rounded(view);
            }
            Job &job = work.add(views.data(), draws || scaled || has_some_rows);
            job.row = scaled ? row : 0;
            if ((draws || scaled) && !parameters[i].whole.empty())
                work.place_last(shape, parameters[i].offset, parameters[i].whole);
            if (has_some_rows) work.restrict_last(parameters[i].rows->rows(), shape[0]);
            job.rows_apart = job.blocks.dims != 0;
            for (int s = 0; s < rule.state_count; ++s) {
                const Operand &state = job.operands[STATES + s];
                if (is_scaled(state.format)) job.rows_apart |= state.dims != 0 || state.scale_layout.dims != 0;
            }
            job.penalized = penalized, job.cautious = cautious, job.masked = masked;
            job.weights = is_rounded(views[WEIGHT]) ? weights : Weights::nearest; // wider weights are not rounded
            job.wide = views[WEIGHT].format == Format::f64;
            job.random_key = parameters[i].random_key;
            parameter_of_job.push_back(i);
        }
        sums.assign(work.jobs().size() * sum_count(), std::numeric_limits<double>::quiet_NaN());
        nb::list result;
        for (const std::vector<double> &values : distinct_scalars) result.append(nb::tuple(nb::cast(values)));
        return result;
    }

    // Visits all objects that are held, for Python's garbage collector.
    int traverse(visitproc visit, void *arg) const {
        for (const Parameter &parameter : parameters) {
            Py_VISIT(parameter.tensor.ptr());
            Py_VISIT(parameter.state.ptr());
        }
        for (const nb::object &object : kept) Py_VISIT(object.ptr());
        Py_VISIT(as_scalar.ptr());
        Py_VISIT(gradient_of.ptr());
        Py_VISIT(rows_of.ptr());
        return 0;
    }

    // Releases all parameters.
    void clear() {
        discard();
        parameter_of_job.clear();
        // Releasing an object may run arbitrary code that uses this group, so the group is emptied first.
        const std::vector<Parameter> last = std::move(parameters);
        parameters.clear();
    }

    const std::vector<Use> &collected_reads() const { return reads; }
    const std::vector<Use> &collected_writes() const { return writes; }

    // Discards the result of `collect`.
    void discard() { work.clear(), kept.clear(), buffers.clear(); }

    // The tensors of the parameters that were collected.
    nb::list collected() const {
        nb::list tensors;
        for (const size_t i : parameter_of_job) tensors.append(parameters[i].tensor);
        return tensors;
    }

    // The tensors that a step of the collected parameters writes to: their weights, and the local tensors of DTensors.
    nb::list written() const {
        nb::list tensors = collected();
        for (const size_t i : parameter_of_job)
            if (parameters[i].is_distributed) tensors.append(parameters[i].tensor.attr(local_tensor));
        return tensors;
    }

    // Σg² of the collected gradients as an unevaluated sum of two doubles, and the name of the first parameter whose
    // gradient is not finite, or None.
    nb::tuple square_sum(int threads) {
        Work::Measure measure;
        {
            nb::gil_scoped_release release;
            measure = work.square_sum(*chosen_kernels, threads);
        }
        nb::object culprit = nb::none();
        if (measure.first_nonfinite >= 0)
            culprit = nb::cast(parameters[parameter_of_job[size_t(measure.first_nonfinite)]].name);
        return nb::make_tuple(measure.sum.high, measure.sum.low, culprit);
    }

    // The positions of the parameters that were collected among all of the group.
    const std::vector<size_t> &collected_positions() const { return parameter_of_job; }

    // One of the rule's sums over each of the collected parameters, as an unevaluated sum of two doubles. `numbers` are
    // those of the step.
    std::vector<std::pair<double, double>> rule_sums(int index, const std::vector<Numbers> &numbers, int threads) {
        if (index < 0 || size_t(index) >= sum_count()) throw nb::value_error("the rule has no such sum");
        set_numbers(numbers);
        std::vector<Sum> found;
        {
            nb::gil_scoped_release release;
            found = work.rule_sums(*chosen_kernels, index, threads);
        }
        std::vector<std::pair<double, double>> pairs;
        for (const Sum &sum : found) pairs.push_back({sum.high, sum.low});
        return pairs;
    }

    // Sets one of the rule's sums, for each of the collected parameters.
    void take_sums(int index, const std::vector<double> &values) {
        if (index < 0 || size_t(index) >= sum_count()) throw nb::value_error("the rule has no such sum");
        if (values.size() != work.jobs().size()) throw nb::value_error("one sum for each collected parameter");
        for (size_t j = 0; j < values.size(); ++j) sums[j * sum_count() + size_t(index)] = values[j];
    }

    // Sets the numbers of the step: for each set of scalars that `collect` returned, the rule with its numbers.
    void set_numbers(const std::vector<Numbers> &numbers) {
        if (numbers.size() != distinct_scalars.size())
            throw nb::value_error("one set of numbers for each set of scalars that was collected");
        const size_t known = sum_count(), sets = known ? work.jobs().size() : numbers.size();
        narrow_constants.resize(sets), wide_constants.resize(sets);
        for (size_t i = 0; i < sets; ++i) {
            const auto &[index, values] = numbers[known ? scalars_of_job[i] : i];
            const Rule &step_rule = rule_at(index);
            if (step_rule.state_count != rule.state_count || step_rule.sum_count != rule.sum_count)
                throw nb::value_error("the rule of a step has other states or sums than that of its group");
            if (values.size() != size_t(step_rule.number_count))
                throw nb::value_error(("rule " + std::string(step_rule.name) + " takes " +
                                       std::to_string(step_rule.number_count) + " numbers, not " +
                                       std::to_string(values.size()))
                                          .c_str());
            std::vector<double> with_sums(values.begin(), values.end());
            const auto first = sums.begin() + std::ptrdiff_t(i * known);
            with_sums.insert(with_sums.end(), first, first + std::ptrdiff_t(known));
            if (!masked) with_sums.push_back(1);
            step_rule.fold(with_sums.data(), penalized, wide_constants[i].data());
            std::copy(wide_constants[i].begin(), wide_constants[i].end(), narrow_constants[i].begin());
        }
        for (size_t j = 0; j < work.jobs().size(); ++j) {
            Job &job = work.jobs()[j];
            const auto &[index, values] = numbers[scalars_of_job[j]];
            const size_t i = known ? j : scalars_of_job[j];
            job.rule = index;
            job.narrow_constants = narrow_constants[i].data(), job.wide_constants = wide_constants[i].data();
            job.move = values[house_k] != 1 || values[house_eta] != 0;
        }
    }

    // Sets the numbers of the step and the new scalars, for each set of scalars that `collect` returned.
    void prepare(const std::vector<Numbers> &numbers, std::vector<std::vector<double>> scalars_after) {
        if (scalars_after.size() != distinct_scalars.size())
            throw nb::value_error("one set of new scalars for each that was collected");
        set_numbers(numbers);
        new_scalars = std::move(scalars_after);
        for (size_t j = 0; j < work.jobs().size(); ++j)
            work.jobs()[j].step = uint64_t(new_scalars[scalars_of_job[j]][0]);
    }

    // Prepares statistics of the coming step. `numbers` are those that they depend on, and k - 1, for each set of
    // scalars that `collect` returned.
    void watch(std::vector<std::vector<double>> numbers) {
        const auto is_right = [](const std::vector<double> &x) { return x.size() == size_t(statistics_numbers + 1); };
        if (numbers.size() != distinct_scalars.size() || !std::all_of(numbers.begin(), numbers.end(), is_right))
            throw nb::value_error("one set of numbers for each set of scalars that was collected");
        watched_numbers = std::move(numbers);
        statistics.assign(work.jobs().size(), {});
        for (size_t j = 0; j < work.jobs().size(); ++j)
            work.jobs()[j].watched_numbers = watched_numbers[scalars_of_job[j]].data();
    }

    // Makes the prepared step, or only computes it if it is `dry`, without Python.
    void step(int threads, bool is_watched, bool dry) {
        for (Job &job : work.jobs()) job.dry = dry;
        work.step(*chosen_kernels, threads, is_watched ? statistics.data() : nullptr);
    }

    // The number of parameters that were collected.
    size_t collected_count() const { return parameter_of_job.size(); }

    // Writes the statistics of each of them, a row of adamas.rule.statistics.ROW. Returns the end.
    double *write_statistics(double *to) {
        for (size_t j = 0; j < collected_count(); ++j) {
            const Job &job = work.jobs()[j];
            const auto total = [&](int i) {
                if (!(statistics_known[rules[job.rule].watched] >> i & 1))
                    return std::numeric_limits<double>::quiet_NaN();
                const Sum &sum = statistics[j].sums[i];
                return std::isfinite(sum.high) ? sum.high + sum.low : sum.high;
            };
            for (int i = 0; i < statistics_sums; ++i) *to++ = total(i);
            const double k_minus_one = job.watched_numbers[statistics_numbers];
            *to++ = statistics[j].largest;
            *to++ = k_minus_one * k_minus_one * total(statistics_weight);
            *to++ = double(job.numel);
        }
        return to;
    }

    void write_scalars() const {
        for (size_t j = 0; j < scalars_of_job.size(); ++j)
            for (size_t s = 0; s < scalar_names.size(); ++s)
                write_scalar(scalars[j * scalar_names.size() + s], new_scalars[scalars_of_job[j]][s]);
    }
};

// A group holds tensors, and a hook of a tensor may hold the optimizer that holds the group. With these functions, the
// garbage collector finds such cycles.
int traverse_group(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<Group>(self)->traverse(visit, arg) : 0;
}
int clear_group(PyObject *self) {
    if (nb::inst_ready(self)) nb::inst_ptr<Group>(self)->clear();
    return 0;
}
PyType_Slot group_slots[] = {{Py_tp_traverse, reinterpret_cast<void *>(traverse_group)},
                             {Py_tp_clear, reinterpret_cast<void *>(clear_group)},
                             {0, nullptr}};

// Throws if a collected gradient overlaps memory that the step writes, since a write could change elements before they
// are read. A gradient may be the same memory as its weight, element by element.
void refuse_shared_memory(nb::list groups) {
    std::vector<Use> reads, writes;
    for (nb::handle handle : groups) {
        const auto &group = nb::cast<const Group &>(handle);
        reads.insert(reads.end(), group.collected_reads().begin(), group.collected_reads().end());
        writes.insert(writes.end(), group.collected_writes().begin(), group.collected_writes().end());
    }
    std::sort(writes.begin(), writes.end(), [](const Use &a, const Use &b) { return a.extent.begin < b.extent.begin; });
    std::vector<const char *> reach; // the end of the writes up to this one
    for (const Use &write : writes)
        reach.push_back(reach.empty() ? write.extent.end : std::max(reach.back(), write.extent.end));
    for (const Use &read : reads) {
        size_t i = size_t(std::upper_bound(reach.begin(), reach.end(), read.extent.begin) - reach.begin());
        for (; i < writes.size() && writes[i].extent.begin < read.extent.end; ++i) {
            const Use &write = writes[i];
            const bool own = read.is_own && write.is_own && read.parameter == write.parameter;
            if (own || write.extent.end <= read.extent.begin) continue;
            throw nb::value_error(("parameter " + *read.parameter + ": its gradient lies in the memory of parameter " +
                                   *write.parameter + " or its state, which this step changes; pass a copy of it")
                                      .c_str());
        }
    }
}

// Steps the groups with their numbers (see `Group::prepare`), and then sets dictionary entries given as (dictionary,
// key, value). All errors are raised before the first change, and no Python code runs after it, so an exception from a
// signal handler leaves either all changes done or none.
//
// If `watched` is not None, it has for each group what `Group::watch` takes, and the rows of all groups are returned as
// bytes (see `Group::write_statistics`). If the step is `dry` too, nothing but that is done.
nb::object step(nb::list groups, nb::list numbers, nb::list new_rows, int threads, nb::list changes, nb::object watched,
                bool dry) {
    const bool is_watched = !watched.is_none();
    std::vector<Group *> found;
    size_t count = 0;
    for (size_t i = 0; i < groups.size(); ++i) {
        found.push_back(nb::cast<Group *>(groups[i]));
        found.back()->prepare(nb::cast<std::vector<Numbers>>(numbers[i]),
                              nb::cast<std::vector<std::vector<double>>>(new_rows[i]));
        if (is_watched) found.back()->watch(nb::cast<std::vector<std::vector<double>>>(watched[i]));
        count += found.back()->collected_count();
    }
    nb::object rows = nb::none();
    if (is_watched) {
        const size_t size = count * statistics_row * sizeof(double);
        rows = nb::steal(PyBytes_FromStringAndSize(nullptr, Py_ssize_t(size)));
        if (!rows.is_valid()) throw nb::python_error();
    }
    std::vector<nb::tuple> set;
    for (nb::handle change : changes) {
        set.push_back(nb::cast<nb::tuple>(change));
        if (set.back().size() != 3 || !PyDict_Check(nb::handle(set.back()[0]).ptr()))
            throw nb::value_error("a change is a dictionary, a key and a value");
    }
    {
        nb::gil_scoped_release release;
        for (Group *group : found) group->step(threads, is_watched, dry);
    }
    if (is_watched) {
        std::vector<double> written(count * statistics_row);
        double *to = written.data();
        for (Group *group : found) to = group->write_statistics(to);
        std::memcpy(PyBytes_AsString(rows.ptr()), written.data(), written.size() * sizeof(double));
    }
    if (dry) return rows;
    for (Group *group : found) group->write_scalars();
    for (const nb::tuple &change : set) {
        const nb::handle dictionary = change[0], key = change[1], value = change[2];
        if (PyDict_SetItem(dictionary.ptr(), key.ptr(), value.ptr()) != 0) throw nb::python_error();
    }
    return rows;
}

// Whether the dictionary has exactly these keys and values (the same objects) in this order.
bool holds(nb::handle dictionary, nb::list keys, nb::list values) {
    PyObject *key, *value;
    Py_ssize_t position = 0;
    size_t i = 0;
    while (PyDict_Next(dictionary.ptr(), &position, &key, &value)) {
        if (i >= keys.size() || keys[i].ptr() != key || values[i].ptr() != value) return false;
        ++i;
    }
    return i == keys.size();
}

// Whether both lists hold the same objects in the same order.
bool same_objects(nb::list a, nb::list b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i)
        if (a[i].ptr() != b[i].ptr()) return false;
    return true;
}

} // namespace
} // namespace adamas

NB_MODULE(_engine, m) {
    using namespace adamas;
    m.doc() = "The compiled engine of Adamas.";
    // Objects that are alive at exit are not a leak of the user's script: for example, a global model with hooks.
    nb::set_leak_warnings(false);
    nb::class_<Group>(m, "Group", nb::type_slots(group_slots))
        .def(nb::init<nb::list, int, bool, bool, bool, const std::string &, nb::list, nb::list, nb::object, nb::list,
                      nb::object, nb::object, nb::object>(),
             "records"_a, "rule"_a, "penalized"_a, "cautious"_a, "masked"_a, "weights"_a, "slots"_a, "scale_names"_a,
             "low_bits"_a.none(), "scalars"_a, "as_scalar"_a.none(), "gradient_of"_a, "rows_of"_a.none())
        .def("collect", &Group::collect, "gradients"_a = nb::none())
        .def("collected", &Group::collected)
        .def("written", &Group::written)
        .def("discard", &Group::discard)
        .def("collected_positions", &Group::collected_positions)
        .def("square_sum", &Group::square_sum, "threads"_a)
        .def("rule_sums", &Group::rule_sums, "index"_a, "numbers"_a, "threads"_a)
        .def("take_sums", &Group::take_sums, "index"_a, "values"_a);
    define_snapshot(m);
    m.def("step", &step, "groups"_a, "numbers"_a, "new_rows"_a, "threads"_a, "changes"_a, "watched"_a = nb::none(),
          "dry"_a = false);
    m.def("refuse_shared_memory", &refuse_shared_memory, "groups"_a);
    m.def("holds", &holds, "dictionary"_a, "keys"_a, "values"_a);
    m.def("same_objects", &same_objects, "a"_a, "b"_a);
    m.def("instruction_set", [] { return chosen_kernels->name; });
    m.def("instruction_sets", [] {
        nb::list names;
        for (const char *name : {"baseline", "avx2", "avx512"})
            if (kernels_named(name)) names.append(name);
        return names;
    });
    m.def(
        "use_instruction_set",
        [](const std::string &name) {
            const Kernels *kernels = kernels_named(name.c_str());
            if (kernels == nullptr)
                throw nb::value_error("this processor, or this build, cannot run that instruction set");
            chosen_kernels = kernels;
        },
        "name"_a);
    m.def("rules_digest", [] { return rules_digest; });
    m.def("thread_source", &thread_source);
    m.def("use_openmp", &use_openmp, "allowed"_a);
    m.def("default_threads", &default_threads);
}
