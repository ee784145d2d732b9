"""Optimizers that share a model over the ranks of a process group: two processes make the checks of ``two_ranks.py``."""

from __future__ import annotations

import pytest
import ranks
import torch
import two_ranks

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> ranks.Failed:
    return ranks.failed_checks(two_ranks.__file__, 2, list(two_ranks.check), tmp_path_factory)


@pytest.mark.parametrize("check", two_ranks.check)
def test_on_two_ranks(check: str, failed: ranks.Failed) -> None:
    ranks.passes(check, failed)
