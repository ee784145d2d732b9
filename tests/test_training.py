"""Training: the loss with 8-bit moments is that with float32 moments.

A third of it is nightly; all of it, half an hour, is ``make test-training``.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_formats


@pytest.mark.parametrize("network", bench_formats.NETWORKS)
@pytest.mark.parametrize(
    ("share", "settings"),
    [
        pytest.param(1 / 3, ["float32 weights, int8"], marks=pytest.mark.nightly),
        pytest.param(1, ["float32 weights, int8", 'bfloat16 weights, "split", int8'], marks=pytest.mark.training),
    ],
)
def test_the_final_loss_is_that_of_float32(
    network: str, share: float, settings: list[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over five seeds: within half a percent, or the standard error."""
    if network == "MNIST":
        monkeypatch.setenv("ADAMAS_DATA", str(request.getfixturevalue("data_dir")))
    exact = bench_formats.final_losses(network, "float32", share)
    for setting in settings:
        losses = bench_formats.final_losses(network, setting, share)
        difference = statistics.mean(losses) - statistics.mean(exact)
        assert abs(difference) <= bench_formats.allowed_difference(exact), (setting, losses, exact)
