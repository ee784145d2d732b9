"""The bounds on time that Adamas keeps; the exit status is 1 if one is missed.

    python benchmarks/bench_bounds.py

They are not tests, since a slow or busy machine misses them without a fault of the code. Each figure is the minimum over many
turns.
"""

from __future__ import annotations

import subprocess
import sys
import timeit
from collections.abc import Callable

import torch
from bench_step import of_rows
from turns import timed

import adamas.torch
from adamas.schedules import Schedule, cosine, cosine_restarts, multistep, trapezoid, warmup

WARMUP_COSINE = 3e-4 * warmup(1000).then(cosine(9000))
COMPOSED = {
    "warmup, cosine": (WARMUP_COSINE, 5.0),
    "restarts": (3e-4 * warmup(1000).then(cosine_restarts(100, 2, 0.9)).clip(low=1e-5), 10.0),
    "product": ((0.1 * trapezoid(10_000, 100, 1000) * multistep([10, 100, 1000])).per_epoch(3), 10.0),
}
IMPORT = """
import time, numpy
start = time.perf_counter()
import adamas
adamas.engine_info()
print(time.perf_counter() - start)
"""


def parameters(count: int, *shape: int) -> list[torch.nn.Parameter]:
    found = [torch.nn.Parameter(torch.zeros(shape)) for _ in range(count)]
    for p in found:
        p.grad = torch.ones_like(p)
    return found


def importing() -> float:
    """Seconds of ``import adamas`` in a process that has NumPy."""
    done = (
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True) for _ in range(5)
    )
    return min(float(one.stdout) for one in done)


def asking(schedule: Schedule) -> float:
    """Seconds to evaluate a schedule at a step."""
    return max(min(timeit.repeat(lambda t=t: schedule(t), number=2000, repeat=20)) / 2000 for t in (500, 5000))


def stepping(lr: float | Schedule) -> Callable[[], float]:
    """Seconds of a step of one small tensor, the mean of a hundred."""
    optimizer = adamas.torch.SGD(parameters(1, 3), lr=lr)
    hundred = timed(lambda: [optimizer.step() for _ in range(100)])
    return lambda: hundred() / 100


def scheduled() -> float:
    """Seconds that a schedule adds to a step."""
    plain, with_schedule = stepping(1e-3), stepping(WARMUP_COSINE)
    turns = [(with_schedule(), plain()) for _ in range(500)]
    return min(turn[0] for turn in turns) - min(turn[1] for turn in turns)


def beside_default() -> float:
    """The time of a step of 300 tensors of 64 × 64, as a fraction of that of ``torch.optim.Adam`` by default."""
    steps = [timed(cls(parameters(300, 64, 64)).step) for cls in (adamas.torch.Adam, torch.optim.Adam)]
    turns = [[step() for step in steps] for _ in range(50)]
    ours, theirs = (min(side) for side in zip(*turns, strict=True))
    return ours / theirs


def sparse() -> float:
    """The time of a step of 1 % of the rows of an embedding, as a fraction of that of ``torch.optim.SparseAdam``."""
    steps = [of_rows(cls) for cls in (adamas.torch.Adam, torch.optim.SparseAdam)]
    turns = [[step() for step in steps] for _ in range(30)]
    ours, theirs = (min(side) for side in zip(*turns, strict=True))
    return ours / theirs


def first_step() -> float:
    """The extra seconds of a first step with 8-bit moments compared with a later one; the worst of three."""

    def extra() -> float:
        step = timed(adamas.torch.AdamW(parameters(1, 512, 512), state="int8").step)
        return step() - min(step() for _ in range(3))

    return max(extra() for _ in range(3))


def main() -> int:
    rows = [
        ("import adamas", importing() * 1e3, 100.0, "ms"),
        *(
            (f"a step of a schedule: {name}", asking(schedule) * 1e6, bound, "µs")
            for name, (schedule, bound) in COMPOSED.items()
        ),
        ("a schedule in a step", scheduled() * 1e6, 5.0, "µs"),
        ("compared with torch.optim's default", beside_default(), 0.5, "of its time"),
        ("1 % of an embedding, of SparseAdam's", sparse(), 0.5, "of its time"),
        ("first step in 8 bits, beyond a later one", first_step() * 1e3, 100.0, "ms"),
    ]
    for name, figure, bound, unit in rows:
        print(f"{name:42} {figure:8.2f} {unit:12} bound {bound:g}{'' if figure < bound else '  MISSED'}")
    return int(any(figure >= bound for _, figure, bound, _ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
