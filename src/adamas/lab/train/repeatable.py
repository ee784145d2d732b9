"""The random numbers and the threads of a run, which decide its bits. May import PyTorch and adamas.lab.train.checkpoint."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from adamas.lab.train.checkpoint import random_state, set_random_state


@contextmanager
def seed_and_threads(seed: int, threads: int | None, device: str = "cpu") -> Iterator[None]:
    """Seed every generator and set PyTorch's threads, unless None; put all back as the caller had it.

    On an accelerator PyTorch is told to use operations that give the same bits every time, and to warn where there is none.
    """
    threads_before, generators_before = torch.get_num_threads(), random_state()
    exact_before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    torch.set_num_threads(threads or threads_before)
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        set_random_state(generators_before)
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(exact_before[0], warn_only=exact_before[1])
