"""Models whose weights lie on several processes: four of them make the checks of ``four_ranks.py``."""

from __future__ import annotations

import four_ranks
import pytest
import ranks
import torch

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


@pytest.fixture(scope="module")
def failed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ranks.Failed:
    """What failed of the selected checks."""
    here = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["check"] for item in here if isinstance(item, pytest.Function)]
    return ranks.failed_checks(four_ranks.__file__, 4, names, tmp_path_factory)


CHECKS = [
    pytest.param(name, marks=pytest.mark.nightly if name in four_ranks.nightly else (), id=name)
    for name in four_ranks.check
]


@pytest.mark.parametrize("check", CHECKS)
def test_on_four_ranks(check: str, failed: ranks.Failed) -> None:
    ranks.passes(check, failed)
