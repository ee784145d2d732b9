"""How many threads a step on the engine uses. Imports the engine alone."""

from __future__ import annotations

import sys

from . import _engine


def threads() -> int:
    """As many as PyTorch uses where PyTorch is loaded, else OMP_NUM_THREADS, else as many as there are processors."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else _engine.default_threads()
