"""The number of threads that a step on the engine uses. Imports only the engine."""

from __future__ import annotations

import sys

from . import _engine


def threads() -> int:
    """PyTorch's number of threads if PyTorch is loaded, else OMP_NUM_THREADS, else the number of processors."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else _engine.default_threads()
