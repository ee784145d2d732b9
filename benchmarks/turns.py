"""Times two sides in turn, in one process, for the benchmarks of the adapters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """A function that runs once and returns its seconds."""

    def seconds() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds


def compare(row: str, ours: Callable[[], float], other: str, theirs: Callable[[], float], rounds: int = 100) -> None:
    """Prints a row: the medians of both sides, and of the ratios of neighbouring runs after a warm-up.

    Args:
        row: the name of the row.
        ours, theirs: functions that run once and return their seconds.
        other: the name of the other side.
        rounds: the number of runs of each side.
    """
    for _ in range(5):
        ours(), theirs()
    pairs = []
    for i in range(rounds):  # the order alternates, because of what each side leaves in the caches
        if i % 2:
            pairs.append((ours(), theirs()))
        else:
            seconds = theirs()
            pairs.append((ours(), seconds))
    ratio = median(a / b for a, b in pairs)
    first, second = (1e3 * median(side) for side in zip(*pairs, strict=True))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{row:10} {first:7.2f} ms  {other} {second:7.2f} ms  ratio {ratio:.3f}  (load {load:.1f})", flush=True)
