"""The array namespaces of ``adamas.step.arrays``: a class ``Namespace`` for each framework, each in its own module.

A namespace has the functions that the rules and ``adamas.rule.formats`` call, under their names in ``numpy`` or ``torch``, and
the few operations that differ between frameworks:

- ``cast(x, dtype)`` and ``dtype_name(x)``, where dtypes are names;
- ``bits(x)``, the bits of 16-bit numbers as integers from 0 to 65535, and ``from_bits(bits, dtype)``;
- ``index(shape, first)``, consecutive integers from ``first`` on in this shape, and ``counter(count)``, a count, both in the
  type that the formats take;
- ``separate(x)`` (optional), which keeps a compiler from fusing a product with the sum that follows;
- ``plus_diagonal(x, number)`` (optional), matrices with a number added on their diagonals, for which it may change ``x``;
- ``prefers_bfloat16`` (optional), whether the device is much faster with products of matrices in bfloat16 than in float32;
- ``computing()``, the context of these operations: 32-bit integers and float64 are not converted to narrower types (JAX), no
  gradients are recorded (PyTorch), and infinities raise no warnings (NumPy).

If the step is compiled, there are also ``double(x)`` and ``narrowed(x, dtype)``, for the numbers of a step, which are computed
in float64, and ``sum(x)``. Each module imports its framework, and nothing from Adamas but ``adamas.rule``.
"""
