"""Kernels for GPUs: ``tests/gpu`` in Triton's interpreter, in a process of its own, and what the compiler makes of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.long
@pytest.mark.parametrize(
    "selection",
    ["kernels and not nightly", pytest.param("kernels and nightly", marks=pytest.mark.nightly)],
)
def test_the_kernels_in_the_interpreter(selection: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", selection, str(Path(__file__).parent / "gpu")],
        env={**environment, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
