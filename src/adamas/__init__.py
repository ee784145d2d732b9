"""Adamas: the Adam family of optimizers as one engine.

Importing this package costs NumPy alone. The adapters (``adamas.torch``, …) are imported by those who have the framework.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from . import _engine

__all__ = ["EngineInfo", "__version__", "engine_info"]
__version__ = "0.1.0"


class EngineInfo(NamedTuple):
    """What the engine runs on.

    Attributes:
        instruction_set: ``"avx512"``, ``"avx2"`` or ``"baseline"`` (SSE2 on x86-64, NEON on Arm).
        threads: how many threads a step uses: PyTorch's number where PyTorch is loaded, else OMP_NUM_THREADS, else as many
            as there are processors.
        thread_source: ``"OpenMP"`` where the process has an OpenMP runtime (PyTorch brings one), else ``"own"``; ``"own"`` in
            a process made by ``fork`` too, where GCC's OpenMP runtime would wait for threads that only the parent has.
    """

    instruction_set: str
    threads: int
    thread_source: str


def engine_info() -> EngineInfo:
    """Tells which instruction set the engine chose on this processor, and which threads it uses."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else _engine.default_threads()
    return EngineInfo(_engine.instruction_set(), threads, _engine.thread_source())
