"""The kernels for GPUs on a GPU: tests, memcheck, and the time of one optimizer step. ``make bench-gpu`` runs all of it.

    python benchmarks/bench_gpu.py              # all; or some: tests, memcheck, offload, gpt2, billion, small
    python benchmarks/bench_gpu.py --rehearse   # runs the rows with times without a GPU; their figures mean nothing

``tests`` runs the tests marked ``gpu``, ``memcheck`` most of them again in NVIDIA's compute-sanitizer, if it is installed, and
``offload`` the rows of ``bench_offload.py``. The other rows compare AdamW with PyTorch's, fused and foreach, and with those of
bitsandbytes, torchao and flashoptim where they are installed, and with itself under ``watch=``. All sides step the same
weights in one process, in turn, and are timed by CUDA events around a few steps. A ratio is the median of the ratios of
neighbouring runs after a warm-up. The bandwidth of a step (weights and state read and written, gradients read) is given as a
share of that of a copy on the device.

Without a GPU, it says so and exits with status 2. The status is 1 if a test fails. ``--rehearse`` steps tiny tensors on the
CPU, in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import bench_offload
import torch
from bench_step import SMALL, gpt2_small, in_turn
from torch import Tensor

import adamas
import adamas.torch

TESTS = Path(__file__).parents[1] / "tests" / "gpu"


class Scale(NamedTuple):
    """How much is measured, and where.

    Attributes:
        device: the device.
        steps: the steps between two looks at the clock.
        repeats: the runs of each side after the warm-up.
        copied: the bytes of the copy that measures the bandwidth.
        left_out: sides that are not compared.
    """

    device: str
    steps: int
    repeats: int
    copied: int
    left_out: tuple[str, ...] = ()


ON_GPU = Scale("cuda", 5, 21, 1 << 30)
REHEARSED = Scale("cpu", 1, 1, 1 << 12, left_out=("torchao",))  # which compiles for minutes


def billion() -> list[tuple[int, ...]]:
    """The 146 tensors of a language model of 1.2 B parameters, with the shapes of Llama 3.2."""
    d, kv, up = 2048, 512, 8192
    block = [(d, d), (kv, d), (kv, d), (d, d), (up, d), (up, d), (d, up), (d,), (d,)]
    return [(128256, d), *block * 16, (d,)]


SHAPES: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "gpt2": ("GPT-2 small", gpt2_small()),
    "billion": ("1.2 B parameters", billion()),
    "small": ("2000 tensors of 64x64", SMALL),
}
TINY: list[tuple[int, ...]] = [(3, 130), (16, 128), (5,)]

# By the dtype of weights and gradients: the options of adamas, and the most that its time may be of another side's.
Options = dict[str, Any]
OURS: dict[torch.dtype, dict[str, Options]] = {
    torch.float32: {"float32": {}, "int8": {"state": "int8"}, "int6": {"state": "int6"}},
    torch.bfloat16: {
        "bfloat16": {"state": "bfloat16", "weights": "stochastic"},
        "split, int8": {"state": "int8", "weights": "split"},
    },
}
WATCHED = "watched"  # what is added to the name of a side with `watch=`
BANDWIDTH = 0.9  # the least share
GOALS = {
    ("gpt2", "float32"): 0.9,
    ("gpt2", "bfloat16"): 0.9,
    ("gpt2", "int8"): 0.65,
    ("billion", "float32"): 0.9,
    ("billion", "bfloat16"): 0.9,
    ("billion", "int8"): 0.65,
    ("small", "float32"): 0.7,
}

Make = Callable[[list[Tensor]], torch.optim.Optimizer]


def bitsandbytes(params: list[Tensor]) -> torch.optim.Optimizer:
    import bitsandbytes

    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(params)
    return made


def torchao(params: list[Tensor]) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(params)
    return made


def flashoptim(params: list[Tensor]) -> torch.optim.Optimizer:
    from flashoptim import FlashAdamW

    made: torch.optim.Optimizer = FlashAdamW(params, master_weight_bits=32 if params[0].itemsize == 2 else 24)
    return made


OTHERS: dict[str, Make] = {
    "fused": lambda params: torch.optim.AdamW(params, fused=True),
    "foreach": lambda params: torch.optim.AdamW(params, foreach=True),
    "bitsandbytes": bitsandbytes,
    "torchao": torchao,
    "flashoptim": flashoptim,
}


def seconds(run: Callable[[], object], scale: Scale) -> float:
    """The seconds of a run on the device."""
    if scale.device == "cpu":
        start = time.perf_counter()
        for _ in range(scale.steps):
            run()
        return (time.perf_counter() - start) / scale.steps
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(scale.steps):
        run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3 / scale.steps


def bandwidth(scale: Scale) -> float:
    """The bytes that a copy reads and writes in a second."""
    one, other = (torch.zeros(scale.copied // 4, device=scale.device) for _ in range(2))
    return 2 * scale.copied / median(seconds(lambda: other.copy_(one), scale) for _ in range(scale.repeats + 3))


def moved(optimizer: adamas.torch.Optimizer) -> int:
    """The bytes that a step has to read and write."""
    memory = optimizer.memory()
    return 2 * (memory.total - memory.bytes["gradients"]) + memory.bytes["gradients"]


def begun(sides: dict[str, Make], params: list[Tensor]) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """The optimizers that can be imported and can make a step here; the others are named, with the reason."""
    for name, make in sides.items():
        try:
            optimizer = make(params)
            optimizer.step()
        except Exception as error:
            if name not in OTHERS and not isinstance(error, torch.OutOfMemoryError):
                raise
            print(f"    {name} is left out: {type(error).__name__}: {error}".splitlines()[0])
        else:
            yield name, optimizer


def said(goal: str, is_met: bool) -> str:
    return f"goal {goal} {'met' if is_met else 'MISSED'}"


def compare(row: str, dtype: torch.dtype, shapes: list[tuple[int, ...]], scale: Scale, copied: float) -> None:
    """Prints the times of all sides for these shapes, with weights and gradients of this dtype."""
    generator = torch.Generator(scale.device).manual_seed(0)
    params: list[Tensor] = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, generator=generator, device=scale.device).mul_(0.02).to(dtype))
        p.grad = torch.randn(shape, generator=generator, device=scale.device).mul_(0.01).to(dtype)
        params.append(p)
    ours: dict[str, Make] = {
        name: lambda params, options=options: adamas.torch.AdamW(params, **options)
        for name, options in OURS[dtype].items()
    }
    watched: dict[str, Make] = {
        f"{name}, {WATCHED}": lambda params, options=options: adamas.torch.AdamW(params, watch=True, **options)
        for name, options in OURS[dtype].items()
    }
    others = {name: make for name, make in OTHERS.items() if name not in scale.left_out}
    optimizers = dict(begun({**ours, **watched, **others}, params))
    times = in_turn({name: lambda o=o: seconds(o.step, scale) for name, o in optimizers.items()}, scale.repeats)
    for name in [one for one in ours if one in times]:
        taken = median(times[name])
        optimizer = optimizers[name]
        assert isinstance(optimizer, adamas.torch.Optimizer)
        share = moved(optimizer) / taken / copied
        goal = said(f">= {BANDWIDTH:.0%}", share >= BANDWIDTH) if (row, name) in GOALS and row != "small" else ""
        print(f"  adamas {name:12} {taken * 1e3:9.3f} ms  {share:6.1%} of the bandwidth of a copy  {goal}")
        if (its := f"{name}, {WATCHED}") in times:
            ratio = median(a / b for a, b in zip(times[its], times[name], strict=True))
            print(f"    {WATCHED + ' / this':16} {median(times[its]) * 1e3:9.3f} ms  ratio {ratio:.3f}")
        for other in [one for one in others if one in times]:
            ratio = median(a / b for a, b in zip(times[name], times[other], strict=True))
            most = GOALS.get((row, name)) if other == "fused" else None
            goal = "" if most is None else said(f"<= {most}", ratio <= most)
            print(f"    / {other:14} {median(times[other]) * 1e3:9.3f} ms  ratio {ratio:.3f}  {goal}", flush=True)


def passes(selection: str, *tool: str, **variables: str) -> bool:
    """Whether the tests with these marks pass, run by a tool if one is given, with these environment variables."""
    command = [*tool, sys.executable, "-m", "pytest", "-m", selection, str(TESTS)]
    return subprocess.run(command, cwd=TESTS.parents[1], env={**os.environ, **variables}).returncode == 0


def tests() -> bool:
    return passes("gpu")


def memcheck() -> bool:
    """Each tensor is allocated by itself, so that access beyond it is found."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("memcheck is left out: compute-sanitizer, which comes with NVIDIA's CUDA toolkit, is not installed")
        return True
    options = ("--tool", "memcheck", "--error-exitcode", "1")
    return passes("gpu and kernels and not nightly", tool, *options, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def offloaded() -> bool:
    bench_offload.on_gpu()
    return True


def versions() -> str:
    found = [f"adamas {adamas.__version__}", f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    for name in ("triton", "bitsandbytes", "torchao", "flashoptim", "deepspeed"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def main(arguments: list[str]) -> int:
    checks = {"tests": tests, "memcheck": memcheck, "offload": offloaded}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join([*checks, *SHAPES]))
    parser.add_argument("--rehearse", action="store_true", help="time tiny tensors on the CPU")
    given = parser.parse_args(arguments)
    if unknown := {*given.rows} - {*checks, *SHAPES}:
        parser.error(f"there is no row {', '.join(sorted(unknown))}: choose from {', '.join([*checks, *SHAPES])}")
    if given.rehearse:
        os.environ |= {"TRITON_INTERPRET": "1", "ADAMAS_EXECUTOR": "gpu"}  # read when the first step imports Triton
        scale, name = REHEARSED, "REHEARSAL in Triton's interpreter on the CPU: these figures mean nothing"
    elif torch.cuda.is_available():
        scale, name = ON_GPU, torch.cuda.get_device_name()
    else:
        print("bench_gpu.py needs a GPU, and PyTorch sees none here", file=sys.stderr)
        return 2
    print(f"{name}\n{versions()}", flush=True)
    rows = given.rows or [*([] if given.rehearse else checks), *SHAPES]
    passed = [checks[row]() for row in rows if row in checks]
    copied = bandwidth(scale)
    print(f"a copy on the device: {copied / 1e9:.0f} GB/s read and written", flush=True)
    for row in rows:
        if row in SHAPES:
            title, shapes = SHAPES[row]
            for dtype in OURS:
                print(f"{title}, weights and gradients in {str(dtype).removeprefix('torch.')}", flush=True)
                compare(row, dtype, TINY if given.rehearse else shapes, scale, copied)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
