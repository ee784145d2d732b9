"""The time and memory of one optimizer step, compared with PyTorch's.

    python benchmarks/bench_step.py            # all rows of the README's table except the last
    python benchmarks/bench_step.py small      # some: gpt2, small, bfloat16, loop, int8, sparse, own, watched, first, memory

Both sides run in one process, in turn, on two threads; a row is the median of the ratios of neighbouring runs after a warm-up.
It needs a quiet machine: a second busy process makes every figure several times larger, and the ratios meaningless.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import adamas
import adamas.torch
from adamas.rule.members import MEMBERS
from adamas.rule.members.lion import RULE as LION

THREADS = 2
MNIST = [(512, 784), (512,), (256, 512), (256,), (10, 256), (10,)]
SMALL = [(64, 64)] * 2000


def gpt2_small() -> list[tuple[int, ...]]:
    """The 148 tensors of GPT-2 small, 124 M parameters."""
    d = 768
    block = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(50257, d), (1024, d), *block * 12, (d,), (d,)]


Make = Callable[[list[Tensor]], torch.optim.Optimizer]


def fused(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, fused=True)


def default(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params)


def ours(params: list[Tensor]) -> torch.optim.Optimizer:
    return adamas.torch.AdamW(params)


def with_gradients(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    params: list[Tensor] = [torch.nn.Parameter(torch.randn(shape).mul_(0.02).to(dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p).mul_(0.01)
    return params


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turn(sides: dict[str, Callable[[], float]], repeats: int, warm_up: int = 3) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(warm_up + repeats):
        for name, run in sides.items():
            taken = run()
            if i >= warm_up:
                times[name].append(taken)
    return times


def report(row: str, times: dict[str, list[float]], bounds: dict[str, float]) -> None:
    for other, bound in bounds.items():
        ratio = median(a / b for a, b in zip(times["adamas"], times[other], strict=True))
        figures = f"{median(times['adamas']) * 1e3:8.3f} ms, {other} {median(times[other]) * 1e3:8.3f} ms"
        print(f"{row:44} {figures:44} ratio {ratio:.3f} (bound {bound}): {1 / ratio:.2f} × faster", flush=True)


def steps(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, sides: dict[str, Make], repeats: int
) -> dict[str, list[float]]:
    params = with_gradients(shapes, dtype)  # the same for all sides: where tensors lie changes a step by a third
    optimizers = {name: make(params) for name, make in sides.items()}
    return in_turn({name: lambda o=o: seconds(o.step) for name, o in optimizers.items()}, repeats)


def gpt2() -> None:
    times = steps(gpt2_small(), torch.float32, {"adamas": ours, "fused": fused, "default": default}, 9)
    report("float32, GPT-2 small", times, {"fused": 0.95, "default": 0.22})


def small() -> None:
    report(
        "float32, 2000 tensors of 64x64",
        steps(SMALL, torch.float32, {"adamas": ours, "fused": fused}, 31),
        {"fused": 0.40},
    )


def bfloat16() -> None:
    times = steps(gpt2_small(), torch.bfloat16, {"adamas": ours, "fused": fused}, 11)
    report("bfloat16 weights and gradients, GPT-2 small", times, {"fused": 0.75})


def int8() -> None:
    """8-bit moments, always compared with fused AdamW in float32."""
    shapes = {"GPT-2 small": gpt2_small(), "2000 tensors of 64x64": SMALL}
    cases: list[tuple[str, torch.dtype, dict[str, Any], str, float]] = [
        ("float32", torch.float32, {}, "GPT-2 small", 0.85),
        ("bfloat16 split", torch.bfloat16, {"weights": "split"}, "GPT-2 small", 0.90),
        ("bfloat16 stochastic", torch.bfloat16, {"weights": "stochastic"}, "GPT-2 small", 0.90),
        ("float32", torch.float32, {}, "2000 tensors of 64x64", 0.45),
    ]
    for name, dtype, options, on, bound in cases:
        params = with_gradients(shapes[on], torch.float32)
        own = params if dtype == torch.float32 else with_gradients(shapes[on], dtype)
        optimizers = {"adamas": adamas.torch.AdamW(own, state="int8", **options), "fused": fused(params)}
        sides = {side: lambda o=o: seconds(o.step) for side, o in optimizers.items()}
        report(f"int8, {name}, {on}", in_turn(sides, 11 if on == "GPT-2 small" else 31), {"fused": bound})


def of_rows(make: Make, vocabulary: int = 1_000_000, width: int = 64) -> Callable[[], float]:
    """A function that steps 1 % of the rows of an embedding, drawn anew each time, and returns its seconds."""
    p = torch.nn.Parameter(torch.randn(vocabulary, width).mul_(0.02))
    optimizer, count = make([p]), vocabulary // 100
    # Before the first step of all of its rows, the system would have to find memory for the state.
    p.grad = sparse_gradient(torch.arange(vocabulary), torch.full_like(p, 1e-3))
    optimizer.step()

    def step() -> float:
        p.grad = sparse_gradient(torch.randint(vocabulary, (count,)), torch.randn(count, width).mul_(0.01), vocabulary)
        return seconds(optimizer.step)

    return step


def sparse_gradient(rows: Tensor, values: Tensor, total: int | None = None) -> Tensor:
    """What the backward pass of an embedding gives: rows in any order, some of them several times."""
    size = (total or len(rows), *values.shape[1:])
    return torch.sparse_coo_tensor(rows[None], values, size, check_invariants=False)


def sparse() -> None:
    """1 % of the rows of an embedding, compared with ``torch.optim.SparseAdam``."""
    for width in (64, 512):
        sizes = 64_000_000 // width, width
        for state, bound in (("float32", 0.5), ("int8", 0.5)):
            sides: dict[str, Make] = {
                "adamas": lambda params, state=state: adamas.torch.Adam(params, state=state),
                "SparseAdam": torch.optim.SparseAdam,
            }
            times = in_turn({name: of_rows(make, *sizes) for name, make in sides.items()}, 31)
            report(f"{state}, 1 % of {sizes[0]} rows of {width}", times, {"SparseAdam": bound})


def own() -> None:
    """Lion as a member that a user declares, which the engine does not have, compared with the family's."""
    declared = replace(MEMBERS["Lion"], name="OwnLion", make_rule=lambda hyper: replace(LION, name="own_lion"))

    class OwnLion(adamas.torch.OwnOptimizer, member=declared):
        """Lion."""

    for state in ("float32", "int8"):
        params = with_gradients([(4096, 1024)], torch.float32)
        optimizers = {kind.__name__: kind(params, lr=1e-4, state=state) for kind in (OwnLion, adamas.torch.Lion)}
        sides = {name: lambda o=o: seconds(o.step) for name, o in optimizers.items()}
        ours, theirs = (median(side) for side in in_turn(sides, 15).values())
        each = 1e9 / (4096 * 1024)
        print(f"own, {state:37} {each * ours:8.2f} ns a parameter, on the engine {each * theirs:8.2f}", flush=True)


def watched() -> None:
    """A step with ``watch=True``, compared with one without."""
    for state, bound in (("float32", 1.05), ("int8", 1.10)):
        params = with_gradients(gpt2_small(), torch.float32)
        optimizers = {watch: adamas.torch.AdamW(params, state=state, watch=watch) for watch in (True, False)}
        sides = {str(watch): lambda o=o: seconds(o.step) for watch, o in optimizers.items()}
        pairs = list(zip(*in_turn(sides, 15).values(), strict=True))
        figures = [median(side) * 1e3 for side in zip(*pairs, strict=True)]
        ratio = median(on / off for on, off in pairs)
        row = f"watched, {state}, GPT-2 small"
        print(
            f"{row:44} {figures[0]:8.3f} ms, without {figures[1]:8.3f} ms  ratio {ratio:.3f} (bound {bound})",
            flush=True,
        )


def loop() -> None:
    """The step inside a training loop, where forward and backward have just used the caches and the threads."""
    sides: dict[str, Callable[[], float]] = {}
    images, labels = torch.rand(64, 784), torch.randint(0, 10, (64,))
    for name, make in (("adamas", ours), ("fused", fused)):
        model = torch.nn.Sequential(
            torch.nn.Linear(784, 512),
            torch.nn.ReLU(),
            torch.nn.Linear(512, 256),
            torch.nn.ReLU(),
            torch.nn.Linear(256, 10),
        )
        optimizer = make(list(model.parameters()))

        def batches(model: torch.nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> float:
            taken = []
            for _ in range(50):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                taken.append(seconds(optimizer.step))
            return median(taken)

        sides[name] = batches
    report("float32, MNIST network inside its loop", in_turn(sides, 15, 2), {"fused": 0.80})


def first() -> None:
    """How much longer the first step after construction takes than the second, in a fresh process."""
    for state, bound in (("float32", 50), ("int8", 100)):
        program = (
            "import time, torch, adamas.torch; torch.set_num_threads(2);"
            f"p = [torch.nn.Parameter(torch.randn(s)) for s in {MNIST}]; o = adamas.torch.AdamW(p, state={state!r});\n"
            "for q in p: q.grad = torch.randn_like(q)\n"
            "t = time.perf_counter(); o.step(); a = time.perf_counter() - t; t = time.perf_counter(); o.step();"
            "print(a - (time.perf_counter() - t))"
        )
        runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(7)]
        extra = median(float(run.stdout) for run in runs) * 1e3
        print(
            f"{f'first step, MNIST network, {state}':44} {extra:8.3f} ms more than the second (bound {bound})",
            flush=True,
        )


def memory() -> None:
    """The growth of the peak resident memory during a step, after the state was created; each case in a new process."""
    for name, shapes, dtype, state in (
        ("gpt2", "gpt2_small()", "float32", "float32"),
        ("small", "SMALL", "float32", "float32"),
        ("mnist", "MNIST", "float32", "float32"),
        ("bfloat16", "gpt2_small()", "bfloat16", "float32"),
        ("gpt2 int8", "gpt2_small()", "float32", "int8"),
        ("small int8", "SMALL", "float32", "int8"),
    ):
        program = (
            f"import sys; sys.path.insert(0, 'benchmarks'); from bench_step import *; torch.set_num_threads({THREADS});"
            f"o = adamas.torch.AdamW(with_gradients({shapes}, torch.{dtype}), state={state!r}); o.step();"
            "print(peak_growth(o.step))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        print(f"{'peak memory of a step, ' + name:44} {float(done.stdout):8.3f} MB more (bound 4)", flush=True)


def peak_growth(run: Callable[[], object]) -> float:
    """MB by which the peak of resident memory during `run` exceeds what was resident before (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak to what is resident now
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


ROWS = {row.__name__: row for row in (gpt2, small, bfloat16, loop, int8, sparse, own, watched, first, memory)}

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(f"{adamas.engine_info()}, torch {torch.__version__}")
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
