"""What ``adamas.step.arrays`` computes with: one class ``Namespace`` for each framework, each in a module of its own.

A namespace has what the rules and ``adamas.rule.formats`` call (the functions of ``numpy`` or ``torch`` by those names), and
the few operations that differ between frameworks:

- ``cast(x, dtype)`` and ``dtype_name(x)``, where dtypes are names;
- ``bits(x)``, the bits of 16-bit numbers as integers from 0 to 65535, and ``from_bits(bits, dtype)``;
- ``index(shape, first)``, the numbers from ``first`` on, of that shape, and ``counter(count)``, as the formats take them;
- ``separate(x)`` (optional), which keeps a compiler from joining a product with the sum that follows;
- ``exactly()``, a context in which integers of 32 bits and float64 are what they are called.

Where the step is compiled, there are also ``double(x)`` and ``narrowed(x, dtype)``, for the numbers of a step, which are
computed in float64. Each module imports its framework and nothing of Adamas.
"""
