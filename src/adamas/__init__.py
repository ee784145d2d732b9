"""Adamas: the Adam family of optimizers in one engine.

Importing this package imports only the standard library. Each adapter (``adamas.torch``, …) needs its framework, and only the
adapters that run on the engine need a compiled engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from . import moved as _moved  # noqa: F401  # for its effect: the modules' former names import

__all__ = ["EngineInfo", "__version__", "engine_info"]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # or any name would pass for an attribute

    def __getattr__(name: str) -> Any:
        """Import the engine on first use; if it is missing, the error says how to build it."""
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
    """The instruction set and the threads of the engine.

    Attributes:
        instruction_set: ``"avx512"``, ``"avx2"`` or ``"baseline"`` (SSE2 on x86-64, NEON on Arm).
        threads: the number of threads that a step uses: PyTorch's number if PyTorch is loaded, else OMP_NUM_THREADS, else the
            number of processors.
        thread_source: ``"OpenMP"`` if the process has an OpenMP runtime (PyTorch brings one), else ``"own"``. It is also
            ``"own"`` in a process made by ``fork``, where GCC's OpenMP runtime would wait for threads that only the parent
            has.
    """

    instruction_set: str
    threads: int
    thread_source: str


def engine_info() -> EngineInfo:
    """The instruction set that the engine chose on this processor, and the threads that it uses."""
    from . import _engine
    from .threads import threads

    return EngineInfo(_engine.instruction_set(), threads(), _engine.thread_source())
