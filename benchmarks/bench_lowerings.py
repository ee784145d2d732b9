"""The time that each lowering of the recorded rules (``adamas.rule.lowering``) saves: steps an engine built without it.

    python benchmarks/bench_lowerings.py              # all of them
    python benchmarks/bench_lowerings.py fused_sums   # some

Builds an engine for each (a minute of CPU), and prints the time of a step as a multiple of that with all lowerings: the median
over rounds in which both step in turn, on one thread, with tensors that stay in the cache. Each starts several times, since
where its tensors lie in memory matters too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

STARTS, ROUNDS = 5, 5
ROOT = Path(__file__).resolve().parents[1]
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "AdamW": ("AdamW", (256, 128), {}),
    "Adam, L2 penalty": ("Adam", (256, 128), {"weight_decay": 0.1}),
    "NAdam": ("NAdam", (256, 128), {}),
    "RMSprop, momentum": ("RMSprop", (256, 128), {"momentum": 0.9}),
    "AdamW, gradient 0, fading": ("AdamW", (256, 128), {"betas": (0.9, 0.9)}),
    "AdamW, int8": ("AdamW", (128, 512), {"state": "int8"}),
    "Adamax, int8": ("Adamax", (128, 512), {"state": "int8"}),
}


def work() -> None:
    """Reads the names of cases, and writes the time of a step for each, in nanoseconds of this thread."""
    import torch

    import adamas.torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    optimizers = {}
    for case, (name, shape, options) in CASES.items():
        p = torch.nn.Parameter(torch.randn(shape))
        p.grad = torch.randn(shape)
        optimizers[case] = getattr(adamas.torch, name)([p], **options)
        if "fading" in case:
            optimizers[case].step()
            p.grad.zero_()
            for _ in range(1200):  # until the moments are below the smallest normal number
                optimizers[case].step()
    for line in sys.stdin:
        optimizer = optimizers[line.strip()]
        times = []
        for _ in range(7):
            begin = time.thread_time_ns()
            for _ in range(50):
                optimizer.step()
            times.append((time.thread_time_ns() - begin) / 50)
        print(min(times), flush=True)


def built(folder: Path, without: str | None) -> Path:
    """Makes a copy of the package whose engine is built without one of the lowerings; returns the path to import it from."""
    folder.mkdir()
    for name in ("engine", "src", "CMakeLists.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for stale in (folder / "src" / "adamas").glob("_engine.*.so"):
        stale.unlink()
    if without is not None:
        lowerings = folder / "src" / "adamas" / "rule" / "lowering.py"
        lowerings.write_text(
            re.sub(rf"^    {without},\n", "", lowerings.read_text(encoding="utf-8"), flags=re.M), "utf-8"
        )
    nanobind = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True, check=True
    )
    cmake = Path(sys.executable).with_name("cmake")
    ninja = f"-DCMAKE_MAKE_PROGRAM={Path(sys.executable).with_name('ninja')}"
    options = [
        "-G",
        "Ninja",
        ninja,
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dnanobind_DIR={nanobind.stdout.strip()}",
    ]
    subprocess.run([cmake, "-S", folder, "-B", folder / "build", *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", folder / "build"], check=True, stdout=subprocess.DEVNULL)
    for engine in (folder / "build").glob("_engine.*"):
        shutil.copy(engine, folder / "src" / "adamas")
    return folder / "src"


def worker(path: Path) -> subprocess.Popen[str]:
    """A process that steps with the package at this path."""
    command = [sys.executable, __file__, "work"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(path)}, **pipes)


def ask(process: subprocess.Popen[str], case: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{case}\n")
    return float(process.stdout.readline())


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        full = built(Path(folder) / "full", None)
        for name in names:
            without = built(Path(folder) / name, name)
            ratios: dict[str, list[float]] = {case: [] for case in CASES}
            for _ in range(STARTS):
                with worker(full) as one, worker(without) as other:
                    for case in CASES:
                        ratios[case] += [ask(other, case) / ask(one, case) for _ in range(ROUNDS)]
                    one.communicate()
                    other.communicate()
            print(f"without {name}")
            for case in CASES:
                print(f"    {case:26} {median(ratios[case]):.3f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        from adamas.rule.lowering import LOWERINGS

        main(sys.argv[1:] or [lowering.__name__ for lowering in LOWERINGS])
