"""The time of one step of ``adamas.numpy``, beside plain NumPy expressions and beside ``adamas.torch``.

    python benchmarks/bench_numpy.py            # all rows; or some: plain torch small

Both sides run in one process, in turn: a row is the median of the ratios of neighbouring steps after a warm-up. ``plain``
and ``torch`` step one array of 16 M float32 parameters by AdamW, ``small`` 2000 arrays of 64 × 64. The plain side is AdamW as
it is written by hand, with its temporaries. It wants a quiet machine, and says how busy this one was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

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


ROWS = {"plain": (plain, LARGE, 9), "torch": (torchs, LARGE, 25), "small": (torchs, SMALL, 25)}


def main(rows: list[str]) -> None:
    for row in rows or ROWS:
        theirs, shapes, rounds = ROWS[row]
        random = np.random.default_rng(0)
        grads = [random.standard_normal(shape, np.float32) for shape in shapes]
        # The same arrays on both sides: where memory lies changes a step by a third.
        params = [np.zeros(shape, np.float32) for shape in shapes]
        sides = ours(params, grads), theirs(params, grads)
        times: list[list[float]] = [[], []]
        for _ in range(rounds + 3):
            for side, record in zip(sides, times, strict=True):
                start = time.perf_counter()
                side()
                record.append(time.perf_counter() - start)
        pairs = list(zip(*(record[3:] for record in times), strict=True))
        ratio, first, second = (median(x) for x in (([a / b for a, b in pairs]), *zip(*pairs, strict=True)))
        print(f"{row:6} {1e3 * first:8.2f} ms beside {1e3 * second:8.2f} ms: {ratio:.3f}")
    print(f"load {os.getloadavg()[0]:.2f}, {adamas.engine_info()}")


if __name__ == "__main__":
    main(sys.argv[1:])
