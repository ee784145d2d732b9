"""The time of one step of ``adamas.numpy``, compared with plain NumPy expressions and with ``adamas.torch``.

    python benchmarks/bench_numpy.py            # all rows; or some: plain torch small

Both sides run in one process, in turn: a row is the median of the ratios of neighbouring steps after a warm-up. ``plain``
and ``torch`` step one array of 16 M float32 parameters with AdamW, ``small`` 2000 arrays of 64 × 64. The plain side is a
hand-written AdamW, with its temporaries. It needs a quiet machine, and prints how busy this one was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from turns import compare, timed

import adamas.numpy
import adamas.torch

LARGE, SMALL = [(4096, 4096)], [(64, 64)] * 2000
BETA1, BETA2, EPS, LR, DECAY = 0.9, 0.999, 1e-8, 1e-3, 1e-2

Arrays = list[np.ndarray]


def plain(params: Arrays, grads: Arrays) -> Callable[[], None]:
    """AdamW in NumPy expressions."""
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            p *= 1 - LR * DECAY
            first[i] = BETA1 * first[i] + (1 - BETA1) * g
            second[i] = BETA2 * second[i] + (1 - BETA2) * g**2
            m, v = first[i] / (1 - BETA1**count), second[i] / (1 - BETA2**count)
            p -= LR * m / (np.sqrt(v) + EPS)

    return step


def ours(params: Arrays, grads: Arrays) -> Callable[[], None]:
    optimizer = adamas.numpy.AdamW(params, lr=LR, weight_decay=DECAY)
    return lambda: optimizer.step(grads)


def torchs(params: Arrays, grads: Arrays) -> Callable[[], None]:
    parameters = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = torch.from_numpy(g)
    return adamas.torch.AdamW(parameters, lr=LR, weight_decay=DECAY).step


ROWS = {"plain": (plain, LARGE, 10), "torch": (torchs, LARGE, 30), "small": (torchs, SMALL, 30)}


def main(rows: list[str]) -> None:
    print(f"numpy {np.__version__}, torch {torch.__version__}, {adamas.engine_info()}")
    for row in rows or ROWS:
        theirs, shapes, rounds = ROWS[row]
        random = np.random.default_rng(0)
        grads = [random.standard_normal(shape, np.float32) for shape in shapes]
        # The same arrays on both sides: where memory lies changes a step by a third.
        params = [np.zeros(shape, np.float32) for shape in shapes]
        other = "expressions" if theirs is plain else "adamas.torch"
        compare(row, timed(ours(params, grads)), other, timed(theirs(params, grads)), rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
