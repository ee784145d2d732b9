"""The time of one optimizer step in Keras, compared with Keras's own optimizers, on the backend in KERAS_BACKEND.

    KERAS_BACKEND=jax python benchmarks/bench_keras.py            # all rows; or some: adam, adamw, sgd, int8
    KERAS_BACKEND=tensorflow python benchmarks/bench_keras.py sparse-sgd sparse-adagrad

Both sides run in one process, in turn, and a row is the median of the ratios of neighbouring steps after a warm-up, over 4.7 M
float32 parameters, or 1% of the rows of an embedding of 1 000 000 × 64 (sparse). On JAX and TensorFlow the step is compiled as
``fit`` compiles it; on PyTorch it is called as it is there.
It needs a quiet machine, and prints how busy this one was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from turns import compare, timed

import adamas.keras

BACKEND = keras.backend.backend()
SHAPES = [(4096, 256), (256,), *[(256, 1024), (1024,), (1024, 256), (256,)] * 7]
ko, ak = keras.optimizers, adamas.keras
ROWS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "adam": (lambda: ak.Adam(1e-3), lambda: ko.Adam(1e-3)),
    "adamw": (lambda: ak.AdamW(1e-3), lambda: ko.AdamW(1e-3)),
    "sgd": (lambda: ak.SGD(1e-3, 0.9), lambda: ko.SGD(1e-3, 0.9)),
    "int8": (lambda: ak.Adam(1e-3, state="int8"), lambda: ko.Adam(1e-3)),
}
if BACKEND == "tensorflow":
    ROWS |= {
        "sparse-sgd": (lambda: ak.SGD(1e-3), lambda: ko.SGD(1e-3)),
        "sparse-adagrad": (lambda: ak.Adagrad(1e-3), lambda: ko.Adagrad(1e-3)),
    }
TABLE, COUNT = (1_000_000, 64), 10_000


def stepper(optimizer: Any, is_sparse: bool) -> Callable[[], float]:
    """A function that makes one step and returns its seconds."""
    rng = np.random.default_rng(0)
    values = [0.02 * rng.standard_normal(shape).astype(np.float32) for shape in ([TABLE] if is_sparse else SHAPES)]
    variables = [keras.Variable(value, name=f"v{i}") for i, value in enumerate(values)]
    gradients = [keras.ops.convert_to_tensor(0.5 * value[: COUNT if is_sparse else None]) for value in values]
    optimizer.build(variables)
    if BACKEND == "jax":
        import jax

        # As in Keras's trainer: donated arrays are returned in the same order, or XLA would copy all of them.
        compiled = jax.jit(lambda held: optimizer.stateless_apply(held[1], gradients, held[0]), donate_argnums=0)
        held = [[v.value for v in variables], [v.value + 0 for v in optimizer.variables]]

        def step() -> None:
            held[:] = jax.block_until_ready(compiled(tuple(held)))

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        if is_sparse:
            rows = tf.constant(rng.integers(0, TABLE[0], COUNT))
            gradients = [tf.IndexedSlices(gradient, rows, tf.constant(TABLE)) for gradient in gradients]
        step = tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=True)
    else:

        def step() -> None:
            optimizer.apply(gradients, variables)

    return timed(step)


def main(names: list[str]) -> None:
    n = sum(int(np.prod(shape)) for shape in SHAPES)
    print(f"keras {keras.__version__}, {BACKEND}, {n / 1e6:.1f} M parameters")
    for name in names or ROWS:
        ours, theirs = (stepper(make(), name.startswith("sparse")) for make in ROWS[name])
        compare(name, ours, "keras", theirs)


if __name__ == "__main__":
    main(sys.argv[1:])
