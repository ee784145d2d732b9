"""Kernels for GPUs: ``tests/gpu``, in processes of their own, in Triton's interpreter and compiled."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

APART = Path(sys.prefix) / "triton"  # where `make` installs Triton: a process cannot load it and TensorFlow
pytestmark = pytest.mark.skipif(
    not APART.exists() and importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.mark.long
@pytest.mark.parametrize("interpreted", ["1", "0"], ids=["interpreted", "compiled"])
@pytest.mark.parametrize(
    "selection",
    ["kernels and not nightly", pytest.param("kernels and nightly", marks=pytest.mark.nightly)],
)
def test_the_kernels(selection: str, interpreted: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join(filter(None, [str(APART), environment.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", selection, str(Path(__file__).parent / "gpu")],
        env={**environment, "PYTHONPATH": path, "TRITON_INTERPRET": interpreted, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
