"""Training to the end: the loss with small moments is that with float32 moments. Half an hour: ``make test-training``."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_formats

pytestmark = pytest.mark.training


@pytest.mark.parametrize("network", bench_formats.NETWORKS)
def test_the_final_loss_is_that_of_float32(
    network: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if network == "MNIST":
        monkeypatch.setenv("ADAMAS_DATA", str(request.getfixturevalue("data_dir")))
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        exact = bench_formats.final_losses(network, "float32")
        for setting in ("float32 weights, int8", 'bfloat16 weights, "split", int8'):
            losses = bench_formats.final_losses(network, setting)
            difference = statistics.mean(losses) - statistics.mean(exact)
            assert abs(difference) <= bench_formats.allowed_difference(exact), (setting, losses, exact)
    finally:
        torch.set_num_threads(threads)
