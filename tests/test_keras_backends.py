"""``tests/keras`` on each backend of Keras, which is chosen once for a process: each has one of its own.

For one backend alone: ``KERAS_BACKEND=jax python -m pytest -m keras tests/keras``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("backend", "selection"),
    [
        *((backend, "keras and not nightly") for backend in ("jax", "tensorflow", "torch")),
        *(pytest.param(backend, "keras and nightly", marks=pytest.mark.nightly) for backend in ("jax", "tensorflow")),
    ],
)
def test_adamas_keras_on(backend: str, selection: str) -> None:
    for package in ("keras", backend):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", selection, str(Path(__file__).parent / "keras")],
        env={**environment, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
