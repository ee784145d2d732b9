"""The random numbers and the threads of a run, which decide its bits. May import PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seed_and_threads(seed: int, threads: int | None) -> Iterator[None]:
    """Seed PyTorch and set its threads, unless None; put both back as the caller had them."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
