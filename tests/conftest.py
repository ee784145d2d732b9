"""What the tests share: the members with their hyperparameters, and where the data is."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
gc.set_threshold(20_000, 20, 20)  # looking for garbage less often takes less time
# Programs of JAX that are the same as in an earlier run are not compiled again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / "build" / "tests" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Nor does eSpeak NG say again what the task speech keeps.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).resolve().parents[1] / "build" / "tests" / "cache")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a process for each processor already: more threads would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background with Ctrl-C ignored, and so would be the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def keras_backend() -> None:
    """One backend of Keras in all tests of a process, whoever imports it first: TensorBoard brings it with TensorFlow."""
    os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to ``sys.path`` is gone after it: the folder of a task that was loaded may hold a ``random.py``."""
    monkeypatch.setattr(sys, "path", sys.path.copy())


@pytest.fixture
def exact_engine() -> Iterator[None]:
    """The engine with exact quotients and roots: with AVX-512 it estimates those of updates."""
    from adamas import _engine

    chosen = _engine.instruction_set()
    _engine.use_instruction_set("avx2" if "avx2" in _engine.instruction_sets() else chosen)
    yield
    _engine.use_instruction_set(chosen)


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave an empty picture: painting one takes longer than most runs here, and ``test_charts`` looks at one."""
    from adamas.lab.train import curves

    monkeypatch.setattr(curves, "png", SimpleNamespace(draw=lambda charts, title, columns: b""))


@pytest.fixture
def trials_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons start no processes, which takes seconds; those of ``test_compare`` do."""
    from adamas.lab.compare.trial import run_trial
    from adamas.lab.compare.workers import Workers

    def run(self: Workers, trials: Sequence[Any], on_start: Callable[[Any], None]) -> Iterator[tuple[Any, Any]]:
        for trial in trials:
            on_start(trial)
            yield trial, run_trial(self._settings, trial)

    monkeypatch.setattr(Workers, "run", run)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder that holds ``mnist/``: $ADAMAS_DATA, or ``shared/data`` beside the checkout."""
    given = os.environ.get("ADAMAS_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST under {folder}: set ADAMAS_DATA to a folder that holds mnist/")
    return folder
