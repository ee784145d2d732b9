"""Runs that several processes share: torchrun starts ``train_on_ranks.py`` once, and the tests look at what it leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import command_line
import pytest
import ranks
import safetensors.torch
import torch
from command_line import adamas
from train_on_ranks import DIGITS, FOREIGN, NO_PICTURES, PARALLEL, REFUSED, SMALL, TASKS

from adamas.lab.train import Listener, curves, fit, folder
from adamas.lab.train.run_checkpoint import load as load_checkpoint

SCRIPT = Path(__file__).with_name("train_on_ranks.py")
QUIET = Listener()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.usefixtures("unpainted"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs."""
    return ranks.once("train_on_ranks", tmp_path_factory, make_runs)


def make_runs(folder: Path) -> None:
    """Makes the runs of one process here, and those that processes share in some that torchrun starts."""
    for name, text in TASKS.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", sys.path.copy())  # a task's folder is added to it
        patch.setattr(curves, "png", NO_PICTURES)
        fit("digits", out="one", listener=QUIET, **DIGITS)
        for parallel in PARALLEL:
            fit("digits", out=f"digits resumed by {parallel}", listener=QUIET, **DIGITS | {"epochs": 1})
        fit("plain.py", out="plain", listener=QUIET, **SMALL)
        fit("normal.py", out="normal", listener=QUIET, **SMALL)
        fit("plain.py", out="foreign", listener=QUIET, **SMALL | FOREIGN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(SCRIPT), str(folder)],
        env={**command_line.ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (folder / "0.stderr").exists(), done.stderr


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl and steps.jsonl, but for the seconds."""
    lines = [line for name in (folder.METRICS, folder.STEPS) for line in (run / name).read_text().splitlines()]
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("train_seconds", "cut")}
        for line in lines
    ]


def weights(run: Path) -> torch.Tensor:
    """All weights of a run."""
    return torch.cat([value.flatten() for value in safetensors.torch.load_file(run / folder.MODEL).values()])


def assert_same(run: Path, other: Path) -> None:
    """Two runs have come to the same, but for how sums are rounded."""
    for one, two in zip(rows(run), rows(other), strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(weights(run), weights(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_ranks_train_as_one_process_does(runs: Path, parallel: str) -> None:
    assert_same(runs / f"digits {parallel}", runs / "one")
    assert_same(runs / f"plain {parallel}", runs / "plain")
    assert_same(runs / f"normal {parallel}", runs / "normal")
    assert_same(runs / f"foreign {parallel}", runs / "foreign")


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_run_goes_on_with_another_number_of_ranks(
    runs: Path, parallel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(runs / f"digits resumed by {parallel}", runs / "one")
    config = json.loads((runs / f"digits {parallel}" / folder.CONFIG).read_text())
    assert (config["parallel"], config["ranks"]) == (parallel, 2)
    monkeypatch.chdir(tmp_path)
    for run in (f"digits {parallel}", "one"):
        shutil.copytree(runs / run, run)
        fit(resume=run, epochs=3, listener=QUIET)
    assert_same(Path(f"digits {parallel}"), Path("one"))
    assert json.loads(Path(f"digits {parallel}", folder.CONFIG).read_text())["parallel"] is None


@pytest.mark.parametrize("parallel", PARALLEL)
def test_an_interrupted_run_goes_on_to_the_same_bits(runs: Path, parallel: str) -> None:
    whole, resumed = runs / f"random {parallel}", runs / f"random resumed by {parallel}"
    assert torch.equal(weights(resumed), weights(whole))
    assert rows(resumed) == rows(whole)


def shapes(state: Any) -> Any:
    """A state dict with the shapes of its tensors in their place."""
    if isinstance(state, Mapping):
        return {key: shapes(value) for key, value in state.items()}
    return (type(state), state.shape) if isinstance(state, torch.Tensor) else state


def test_the_checkpoint_is_that_of_one_process(runs: Path) -> None:
    """Also with FSDP, where each rank has parts of the weights and of the state."""
    one, ddp, fsdp = (load_checkpoint(runs / run / folder.CHECKPOINT) for run in ("plain", "plain ddp", "plain fsdp"))
    for part in ("model", "optimizer"):
        assert shapes(one[part]) == shapes(ddp[part]) == shapes(fsdp[part])


@pytest.mark.parametrize("line", REFUSED)
def test_rank_0_refuses_in_one_line_what_cannot_be_shared(runs: Path, line: str) -> None:
    (status, printed), other = (json.loads((runs / f"{rank}.json").read_text())[line] for rank in (0, 1))
    assert printed.startswith("adamas: ")
    assert REFUSED[line] in printed
    assert printed.count("\n") == 1
    assert (status, other) == (2, [2, ""])


def test_a_rank_that_is_killed_ends_all_in_one_line(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "adamas: another process has ended, and the run with it: resume it from its last checkpoint\n"
    assert [(runs / f"{rank}.stderr").read_text() for rank in (0, 1)] == [line, ""]
    assert not list((runs / "killed").glob(".*.partial"))
    assert not (runs / "killed" / folder.SUMMARY).exists()
    assert 0 < load_checkpoint(runs / "killed" / folder.CHECKPOINT)["at"]["step"] < 5
    monkeypatch.chdir(runs)
    assert fit(resume="killed", listener=QUIET).steps == 9


def test_without_torchrun_it_says_what_to_type(tmp_path: Path) -> None:
    done = adamas("train", "digits", "--epochs", "3", "--parallel", "ddp", cwd=tmp_path)
    typed = "torchrun --nproc-per-node 2 -m adamas train digits --epochs 3 --parallel ddp"
    assert (done.returncode, done.stderr) == (
        2,
        f"adamas: --parallel shares a run among the processes that torchrun starts: type {typed}\n",
    )
