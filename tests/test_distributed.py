"""Models whose weights lie on several processes: four of them make the checks of ``four_ranks.py``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import four_ranks
import killed_while_saving
import pytest
import ranks
import torch
import torch.distributed.checkpoint as dcp

import adamas.torch as at

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


@pytest.fixture(scope="module")
def failed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ranks.Failed:
    """What failed of the selected checks."""
    here = [item for item in request.session.items if item.path == request.path and "failed" in item.fixturenames]
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


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_rank_that_is_killed_while_it_saves_leaves_the_last_checkpoint_good(tmp_path: Path) -> None:
    command = [sys.executable, killed_while_saving.__file__]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        for rank in range(2)
    ]
    try:
        statuses = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert statuses == [1, -signal.SIGKILL]

    def loaded(name: str) -> tuple[torch.nn.Parameter, at.AdamW]:
        p = torch.nn.Parameter(torch.zeros(killed_while_saving.SHAPE))
        optimizer = at.AdamW([("w", p)], lr=0.1, state="int8")
        p.grad = torch.zeros_like(p)
        with torch.no_grad():
            optimizer.param_groups[0]["lr"] = 0.0  # creates the state, and counts nothing
            optimizer.step()
        saved = {"w": p.detach(), "optimizer": optimizer.state_dict()}
        dcp.load(saved, checkpoint_id=tmp_path / name, no_dist=True)
        optimizer.load_state_dict(saved["optimizer"])
        return p, optimizer

    assert list((tmp_path / "half").iterdir())  # something was written
    with pytest.raises(dcp.CheckpointException, match="metadata"):
        loaded("half")
    p, optimizer = loaded("good")
    q = torch.nn.Parameter(torch.zeros(killed_while_saving.SHAPE))
    alone = at.AdamW([("w", q)], lr=0.1, state="int8")
    for step in range(2 * killed_while_saving.STEPS):
        for own, tensor, first in ((optimizer, p, killed_while_saving.STEPS), (alone, q, 0)):
            if step >= first:
                tensor.grad = killed_while_saving.gradient(step)
                own.step()
    assert torch.equal(p, q)
    for name, value in alone.state[q].items():
        assert torch.equal(optimizer.state[p][name], value), name
