"""Optimizers that share a model over the ranks of a process group: two processes make the checks of ``two_ranks.py``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = Path(__file__).with_name("two_ranks.py")

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str | None]]:
    """What failed on each rank, by check. Both processes start once, since that takes most of the time."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen(
            [sys.executable, str(CHECKS), str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, said, strict=True):
        assert process.returncode == 0, text
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("check", re.findall(r"^@check\ndef (\w+)", CHECKS.read_text(encoding="utf-8"), re.MULTILINE))
def test_on_two_ranks(check: str, failures: list[dict[str, str | None]]) -> None:
    for rank, found in enumerate(failures):
        if check not in found:
            pytest.skip("a check before this one has failed")
        assert found[check] is None, f"rank {rank}: {found[check]}"
