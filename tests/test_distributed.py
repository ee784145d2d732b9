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
    return ranks.failed_checks(four_ranks.__file__, 4, [check_of(item) for item in here], tmp_path_factory)


def check_of(item: pytest.Item) -> str:
    """The check of a test: its parameter, or that of the test's name."""
    assert isinstance(item, pytest.Function)
    return item.callspec.params["check"] if hasattr(item, "callspec") else item.name.removeprefix("test_")


CHECKS = [
    pytest.param(name, marks=pytest.mark.nightly if name in four_ranks.check.nightly else (), id=name)
    for name in four_ranks.check
    if not name.startswith("trap_")
]


@pytest.mark.parametrize("check", CHECKS)
def test_on_four_ranks(check: str, failed: ranks.Failed) -> None:
    ranks.passes(check, failed)


def test_trap_T41_the_state_lies_as_the_weights_do(request: pytest.FixtureRequest, failed: ranks.Failed) -> None:
    ranks.passes(check_of(request.node), failed)


def test_trap_T42_weights_of_which_some_ranks_have_less_or_nothing_are_stepped_and_saved(
    request: pytest.FixtureRequest, failed: ranks.Failed
) -> None:
    ranks.passes(check_of(request.node), failed)


def test_trap_T43_a_model_is_sharded_after_its_optimizer_was_made(
    request: pytest.FixtureRequest, failed: ranks.Failed
) -> None:
    ranks.passes(check_of(request.node), failed)


def test_trap_T49_memory_and_objects_stand_still(request: pytest.FixtureRequest, failed: ranks.Failed) -> None:
    ranks.passes(check_of(request.node), failed)


def test_trap_T50_the_norm_over_several_meshes_counts_each_element_once(
    request: pytest.FixtureRequest, failed: ranks.Failed
) -> None:
    ranks.passes(check_of(request.node), failed)
