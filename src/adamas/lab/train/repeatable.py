"""The random numbers and the threads of a run, which determine its result. May import PyTorch and NumPy."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seed_and_threads(seed: int, threads: int | None, device: str = "cpu") -> Iterator[None]:
    """Seed every generator and set PyTorch's threads (unless None); restore all of them at the end.

    On an accelerator PyTorch uses deterministic operations, and warns if there is none.
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


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed every generator for a step of one rank, with numbers that no other step or rank has."""
    drawn = random.Random(f"{seed} {rank} {step}").getrandbits(63)
    torch.manual_seed(drawn)
    np.random.seed(drawn % 2**32)
    random.seed(drawn)


def random_state() -> dict[str, Any]:
    """The state of every generator that a task may draw from."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # a tuple, as legacy says
    version, internal, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "devices": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "python": (version, list(internal), next_gauss),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the state of every generator."""
    torch.set_rng_state(state["torch"])
    if state["devices"]:
        torch.cuda.set_rng_state_all(state["devices"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, next_gauss = state["python"]
    random.setstate((version, tuple(internal), next_gauss))
