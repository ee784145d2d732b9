"""Kernels for GPUs: ``tests/gpu``, in processes of their own, in Triton's interpreter and compiled."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
APART = Path(sys.prefix) / "triton"  # where `make` installs Triton: a process cannot load it and TensorFlow
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not APART.exists() and importlib.util.find_spec("triton") is None, reason="Triton is not installed"
    ),
]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, which finds Triton and what is beside this file."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join(filter(None, [str(APART), str(HERE), environment.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("interpreted", ["1", "0"], ids=["interpreted", "compiled"])
@pytest.mark.parametrize(
    "selection",
    ["kernels and not nightly", pytest.param("kernels and nightly", marks=pytest.mark.nightly)],
)
def test_the_kernels(selection: str, interpreted: str) -> None:
    plugin = ["-p", "interpreted"] if interpreted == "1" and "not nightly" in selection else []
    done = run("-m", "pytest", *plugin, "-m", selection, str(HERE / "gpu"), TRITON_INTERPRET=interpreted)
    assert done.returncode == 0, done.stdout + done.stderr


BENCHMARK = str(HERE.parent / "benchmarks" / "bench_gpu.py")


def test_the_benchmark_runs_all_sides_in_a_rehearsal() -> None:
    done = run(BENCHMARK, "--rehearse")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("REHEARSAL")
    for side in ("float32", "int8", "int6", "bfloat16", "split, int8"):
        assert len(re.findall(rf"^  adamas {side} ", done.stdout, re.MULTILINE)) == 3, (
            side
        )  # one for each list of shapes
    for side in ("fused", "foreach"):
        assert len(re.findall(rf"^    / {side} .* ratio ", done.stdout, re.MULTILINE)) == 15, side
    assert len(re.findall(r"^    watched / this .* ratio ", done.stdout, re.MULTILINE)) == 15
    assert len(re.findall(r"goal <= 0\.\d+ (?:met|MISSED)", done.stdout)) == 7


def test_the_benchmark_needs_a_gpu() -> None:
    done = run(BENCHMARK, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == "bench_gpu.py needs a GPU, and PyTorch sees none here\n"
    assert done.stdout == ""
