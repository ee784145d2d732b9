"""Adamas: the Adam family of optimizers as one engine.

Importing this package imports the standard library alone. The adapters (``adamas.torch``, …) are imported by those who have
the framework, and only those that step on the engine need it to be built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from . import moved as _moved  # noqa: F401  # for its effect: the modules' former names import

__all__ = ["EngineInfo", "__version__", "engine_info"]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # or any name would pass for an attribute

    def __getattr__(name: str) -> Any:
        """Import the engine when it is first asked for, and say how to build it where it is missing."""
        if name != "_engine":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return import_module("adamas._engine")
        except ModuleNotFoundError as error:
            if error.name != "adamas._engine":
                raise
            message = "the engine, adamas._engine, is not built: run pip install . in the source tree (needs a C++20 compiler)"
            raise ModuleNotFoundError(message, name=error.name) from error


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
    from . import _engine
    from .threads import threads

    return EngineInfo(_engine.instruction_set(), threads(), _engine.thread_source())
