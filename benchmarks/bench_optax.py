"""The time of one optimizer step under ``jax.jit``, compared with optax's.

    python benchmarks/bench_optax.py            # all rows; or some: adamw, adam, bfloat16, int8

Both sides run in one process, in turn: params and state are donated, and a row is the median of the ratios of neighbouring
steps after a warm-up, over 4.2 M float32 parameters. It needs a quiet machine, and prints how busy this one was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from turns import compare

import adamas.optax

SHAPES = {
    "embed": (4096, 256),
    "qkv": (768, 1024),
    "mlp": (2048, 512),
    "head": (1024, 1024),
    "norm": (512,),
    "b": (1024,),
}
ROWS: dict[str, tuple[Any, Any]] = {
    "adamw": (adamas.optax.adamw(1e-3), optax.adamw(1e-3)),
    "adam": (adamas.optax.adam(1e-3), optax.adam(1e-3)),
    "sgd": (adamas.optax.sgd(1e-3, 0.9), optax.sgd(1e-3, 0.9)),
    "bfloat16": (adamas.optax.adamw(1e-3, state="bfloat16"), optax.adamw(1e-3)),
    "int8": (adamas.optax.adamw(1e-3, state="int8"), optax.adamw(1e-3)),
}


def stepper(tx: optax.GradientTransformation) -> Callable[[], float]:
    """A function that makes one step and returns its seconds."""
    keys = dict(zip(SHAPES, jax.random.split(jax.random.key(0), len(SHAPES)), strict=True))
    params = {name: 0.02 * jax.random.normal(keys[name], shape) for name, shape in SHAPES.items()}
    gradients = jax.tree.map(lambda p: 0.5 * p, params)

    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    held = [params, jax.jit(tx.init)(params)]

    def run() -> float:
        start = time.perf_counter()
        held[:] = jax.block_until_ready(compiled(*held, gradients))
        return time.perf_counter() - start

    return run


def main(names: list[str]) -> None:
    n = sum(jnp.zeros(shape).size for shape in SHAPES.values())
    print(f"jax {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].platform}, {n / 1e6:.1f} M parameters")
    for name in names or ROWS:
        ours, theirs = map(stepper, ROWS[name])
        compare(name, ours, "optax", theirs)


if __name__ == "__main__":
    main(sys.argv[1:])
