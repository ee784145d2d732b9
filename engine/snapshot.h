// What the tensors of a parameter group looked like, for kernels that take addresses: those of GPUs.
#pragma once

#include <nanobind/nanobind.h>

namespace adamas {

void define_snapshot(nanobind::module_ &);

} // namespace adamas
