"""Runs that are killed, interrupted or cannot write, and go on: to the same bits, and with nothing lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import torch
from command_line import adamas

from adamas.lab.train import Evaluation, InputError, Listener, fit, folder, running
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.repeatable import random_state, set_random_state
from adamas.lab.train.run_checkpoint import load as load_checkpoint
from adamas.lab.train.run_checkpoint import save as save_checkpoint

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unpainted")]
ENVIRONMENT = {**command_line.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
QUIET = Listener()

# Draws from every generator in each step, so that one which is not restored shows.
# Where STOP_AFTER is in the environment, it stands still after as many losses, until it is killed.
NOISY = """
import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from adamas.lab.tasks import Task, digits


losses = 0


def loss(model, inputs, targets):
    global losses
    losses += 1
    while losses > float(os.environ.get("STOP_AFTER", "inf")):
        time.sleep(0.02)
    noise = torch.randn_like(inputs) * random.random() + np.random.rand()
    return F.cross_entropy(model(inputs + 0.1 * noise), targets)


def model():
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Dropout(0.2), nn.ReLU(), nn.Linear(128, 10))


def load(data_dir):
    known = digits.load(data_dir)
    return Task(
        description="digits with noise", model=model, loss=loss, evaluate=known.evaluate, metric="test_accuracy",
        mode="max", target=0.97, epochs=40, train=known.train, test=known.test, threads=1,
    )
"""

# Kills a run at random moments and goes on with it, each time in a process of its own. They are forked from one that has
# imported all there is to import, but has no threads: else its starts would take most of the time.
KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from adamas.lab.train import Listener, curves, fit, running

curves.png = SimpleNamespace(draw=lambda charts, title, columns: b"")
running.SECONDS_BETWEEN_CHECKPOINTS, running.CHECKPOINT_SHARE = 0.02, 1
wanted = int(sys.argv[2])
options = dict(task="noisy.py", optimizer=sys.argv[1], schedule="cosine", plateau="Plateau(patience=3)", clip=1.0)
fit("noisy.py", epochs=1, out="warm", listener=Listener())


def begin(function):
    process = os.fork()
    if process == 0:
        try:
            function()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return process


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


began = time.perf_counter()
assert ended(begin(lambda: fit(out="whole", listener=Listener(), **options))) == 0
longest = 0.3 * (time.perf_counter() - began)
moments, kills, run = random.Random(7), 0, Path("killed")
while True:
    begun = (run / "config.json").exists()
    process = begin(lambda: fit(resume=run, listener=Listener()) if begun else fit(out=run, listener=Listener(), **options))
    if kills < wanted:
        time.sleep(moments.uniform(0, longest))
        os.kill(process, signal.SIGKILL)  # nothing happens to one that has ended
    status = ended(process)
    assert status in (0, -signal.SIGKILL), status
    kills += status == -signal.SIGKILL
    if status == 0:
        assert (run / "model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
        if kills == wanted:
            break
        shutil.rmtree(run)  # it was done too soon: another one is killed
print(kills)
"""


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, but for the seconds."""
    found = [json.loads(line) for line in (run / folder.METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "train_seconds"} for row in found]


@pytest.fixture
def noisy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task in it, which is the present one."""
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Interrupt(Listener):
    """Presses Ctrl-C at an evaluation."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_evaluation(self, evaluation: Evaluation) -> None:
        if evaluation.step >= self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
@pytest.mark.parametrize(
    ("optimizer", "kills"),
    [
        ("adamw(state='int8')", 2),
        pytest.param("adamw(state='int8')", 20, marks=pytest.mark.nightly),
        pytest.param("torch:NAdam", 20, marks=pytest.mark.nightly),
    ],
)
def test_a_run_killed_many_times_ends_with_the_bits_of_one_that_was_not(
    noisy: Path, optimizer: str, kills: int
) -> None:
    line = [sys.executable, "-c", KILLER, optimizer, str(kills)]
    done = subprocess.run(line, cwd=noisy, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == kills
    assert (noisy / "whole" / folder.MODEL).read_bytes() == (noisy / "killed" / folder.MODEL).read_bytes()
    assert (noisy / "whole" / folder.STEPS).read_bytes() == (noisy / "killed" / folder.STEPS).read_bytes()
    assert rows(noisy / "whole") == rows(noisy / "killed")
    assert not list(noisy.glob("killed/.*.partial"))


def test_the_command_goes_on_with_a_killed_run_in_a_later_process(noisy: Path) -> None:
    fit("noisy.py", epochs=4, out="whole", listener=QUIET)
    program = """
from adamas.lab.commands.main import main
from adamas.lab.train import running
running.SECONDS_BETWEEN_CHECKPOINTS = running.CHECKPOINT_SHARE = 0
main()
"""
    words = ["train", "noisy.py", "--epochs", "4", "--out", "killed"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={**ENVIRONMENT, "STOP_AFTER": "110"},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        while not (noisy / "killed" / folder.CHECKPOINT).exists():
            assert process.stdout.readline()
        process.kill()
    assert not (noisy / "killed" / folder.SUMMARY).exists()
    done = adamas("train", "--resume", "killed", cwd=noisy)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Resuming after step " in done.stdout
    assert (noisy / "whole" / folder.MODEL).read_bytes() == (noisy / "killed" / folder.MODEL).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd(momentum=0.9)", "eval_every": 7},
        {"optimizer": "adam", "precision": "bfloat16", "weights": "stochastic", "state": "bfloat16"},
        {"optimizer": "torch:SGD(momentum=0.9)", "lr": 0.1, "schedule": "one_cycle", "eval_every": 45},
        {"lr": "auto", "clip": "auto"},
        {"plateau": "Plateau(factor=0.5, patience=0, threshold=0.5)", "eval_every": 7},
        {"optimizer": "adamw_schedule_free", "eval_every": 7},
        {"optimizer": "adamw_schedule_free", "precision": "bfloat16", "state": "int8", "eval_every": 45},
        {"optimizer": "sgd_schedule_free", "precision": "bfloat16", "weights": "stochastic", "state": "bfloat16"},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(noisy: Path, options: dict[str, Any]) -> None:
    whole = fit("noisy.py", epochs=4, out="whole", listener=QUIET, **options)
    for at in (1, 45, 100):
        out = noisy / f"part-{at}"
        part = fit("noisy.py", epochs=4, out=out, listener=Interrupt(at), **options)
        assert part.interrupted
        assert at <= part.steps < whole.steps
        rest = fit(resume=out, listener=QUIET)
        assert (rest.steps, rest.metrics, rest.lr_found) == (whole.steps, whole.metrics, whole.lr_found)
        assert (noisy / "whole" / folder.MODEL).read_bytes() == (out / folder.MODEL).read_bytes()
        assert rows(noisy / "whole") == rows(out)


def test_a_run_interrupted_twice_in_an_epoch_goes_on_in_the_same_order(noisy: Path) -> None:
    """The second checkpoint has the shuffling that the epoch began with, which this process did not see."""
    fit("noisy.py", epochs=3, out="whole", eval_every=7, listener=QUIET)
    first = fit("noisy.py", epochs=3, out="part", eval_every=7, listener=Interrupt(56))
    second = fit(resume="part", listener=Interrupt(70))
    assert 45 < first.steps < second.steps < 90
    fit(resume="part", listener=QUIET)
    assert (noisy / "whole" / folder.MODEL).read_bytes() == (noisy / "part" / folder.MODEL).read_bytes()


def test_generators_of_normal_numbers_go_on_with_the_one_that_they_hold() -> None:
    """NumPy's and Python's make two at a time: the second one is part of their state."""
    before = random_state()
    try:
        np.random.randn(), random.gauss()
        held = random_state()
        expected = np.random.randn(), random.gauss(), np.random.randn(), random.gauss()
        set_random_state(held)
        assert (np.random.randn(), random.gauss(), np.random.randn(), random.gauss()) == expected
    finally:
        set_random_state(before)


def test_more_epochs_go_on_from_the_end(noisy: Path) -> None:
    fit("noisy.py", epochs=4, out="whole", listener=QUIET)
    fit("noisy.py", epochs=2, out="part", listener=QUIET)
    longer = fit(resume="part", epochs=4, listener=QUIET)
    assert longer.epochs == 4
    assert (noisy / "whole" / folder.MODEL).read_bytes() == (noisy / "part" / folder.MODEL).read_bytes()


def test_a_finished_run_is_left_as_it_is(noisy: Path) -> None:
    first = fit("noisy.py", epochs=1, out="run", listener=QUIET)
    model = (noisy / "run" / folder.MODEL).read_bytes()
    assert fit(resume="run", listener=QUIET).metrics == first.metrics
    assert (noisy / "run" / folder.MODEL).read_bytes() == model
    assert json.loads((noisy / "run" / folder.CONFIG).read_text())["resumed_after"] == []


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


def test_a_run_that_has_ended_and_lost_its_checkpoint_is_not_begun_anew_over_its_files(noisy: Path) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    (noisy / "run" / folder.CHECKPOINT).unlink()
    before = contents(noisy / "run")
    with pytest.raises(
        InputError, match=r"resume 'run' has ended, and has no checkpoint\.pt to resume from: begin a new"
    ):
        fit(resume="run", epochs=2, listener=QUIET)
    assert contents(noisy / "run") == before


@pytest.mark.parametrize("name", ["adamas", "torch"])
def test_a_run_of_another_version_is_not_gone_on_with(noisy: Path, name: str) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    path = noisy / "run" / folder.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), name: "0.0.9"}))
    before = contents(noisy / "run")
    with pytest.raises(InputError, match=rf"trained with other versions: {name} was 0\.0\.9, is .*: install those, or"):
        fit(resume="run", epochs=2, listener=QUIET)
    assert contents(noisy / "run") == before


def test_the_threads_of_a_run_stay_and_are_no_option_that_was_given(noisy: Path) -> None:
    fit("noisy.py", epochs=1, threads=1, out="given", listener=QUIET)
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    for run, said in (("given", True), ("run", False)):
        fit(resume=run, epochs=2, listener=QUIET)
        config = json.loads((noisy / run / folder.CONFIG).read_text())
        assert config["threads"] == 1
        assert ("--threads" in config["command"]) is said


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(noisy: Path) -> None:
    fit("noisy.py", epochs=2, out="run", listener=QUIET)
    model = (noisy / "run" / folder.MODEL).read_bytes()
    for name in {*folder.FILES} - {folder.CONFIG}:
        (noisy / "run" / name).unlink()
    fit(resume="run", listener=QUIET)
    assert (noisy / "run" / folder.MODEL).read_bytes() == model


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task": "mnist"}, "task is {folder}/noisy.py in run, but mnist here: leave it out, or begin a new run"),
        ({"epochs": 1}, "epochs is 1, but the run has done 2 already: give more"),
        ({"model": "small"}, "model is the default in run, but small here: leave it out, or begin a new run"),
        ({"optimizer": "sgd"}, "optimizer is adam in run, but sgd here"),
        ({"seed": 3}, "seed is 0 in run, but 3 here"),
        ({"lr": 0.5}, "lr is the default in run, but 0.5 here"),
        ({"out": "other"}, "out is given, but a resumed run stays in its folder, run: leave it out"),
        ({"data_dir": "."}, "data_dir is not an option of digits"),
    ],
)
def test_what_would_make_it_another_run_is_refused(noisy: Path, given: dict[str, Any], says: str) -> None:
    fit("noisy.py", epochs=2, out="run", listener=QUIET)
    before = {path.name: path.read_bytes() for path in (noisy / "run").iterdir()}
    with pytest.raises(InputError) as raised:
        fit(resume="run", listener=QUIET, **given)
    assert str(raised.value).startswith(says.format(folder=noisy))
    assert {path.name: path.read_bytes() for path in (noisy / "run").iterdir()} == before


def test_what_is_said_again_may_be_said(noisy: Path) -> None:
    fit("noisy.py", lr="auto", seed=2, epochs=1, out="run", listener=QUIET)
    options: dict[str, Any] = {"lr": "auto", "seed": 2, "optimizer": "adam", "schedule": "constant", "out": "run"}
    assert fit("noisy.py", resume="run", epochs=2, listener=QUIET, **options).epochs == 2
    config = json.loads((noisy / "run" / folder.CONFIG).read_text())
    assert config["resumed_after"] == [45]


def test_a_run_goes_on_from_another_folder_and_with_its_task_elsewhere(
    noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    (noisy / "other").mkdir()
    monkeypatch.chdir(noisy / "other")
    assert fit(resume="../run", epochs=2, listener=QUIET).epochs == 2
    (noisy / "noisy.py").rename(noisy / "other" / "noisy.py")
    with pytest.raises(InputError, match=r"noisy\.py' is not a file"):
        fit(resume="../run", epochs=3, listener=QUIET)
    assert fit("noisy.py", resume="../run", epochs=3, listener=QUIET).epochs == 3


def test_on_a_machine_with_fewer_processors_the_threads_are_given(noisy: Path) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    path = noisy / "run" / folder.CONFIG
    config = json.loads(path.read_text())
    config["threads"] = 10**6
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="resume 'run' cannot be resumed here: its threads must be from 1 to"):
        fit(resume="run", epochs=2, listener=QUIET)
    assert fit(resume="run", epochs=2, threads=1, listener=QUIET).epochs == 2


def test_two_processes_do_not_write_to_one_run(noisy: Path) -> None:
    class Meddle(Listener):
        def on_evaluation(self, evaluation: Evaluation) -> None:
            with pytest.raises(InputError, match="resume 'run' is being written by another process: let it end first"):
                fit(resume="run", listener=QUIET)
            with pytest.raises(InputError, match="out 'run' already holds a run"):
                fit("noisy.py", out="run", listener=QUIET)

    assert fit("noisy.py", epochs=1, out="run", listener=Meddle()).epochs == 1
    assert sorted(path.name for path in (noisy / "run").iterdir()) == sorted(folder.FILES)


def test_a_run_that_another_process_left_there_since_it_was_looked_is_not_written_over(tmp_path: Path) -> None:
    folder.check_out(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / folder.CONFIG).write_text("{}")
    with pytest.raises(InputError, match="already holds a run"), folder.hold(tmp_path / "run", "noisy"):
        raise AssertionError("it was taken")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [folder.CONFIG]


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder.time, "strftime", lambda layout: "now")
    with folder.hold(None, "noisy") as one, folder.hold(None, "noisy") as other:
        assert (one, other) == (Path("runs/noisy-now"), Path("runs/noisy-now-2"))
    assert not (noisy / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Linear(64, 128)", "Linear(64, 128, bias=False)", "resume has another model: "),
        ("BatchNorm1d(128)", "LayerNorm(128)", "resume has another model: "),
        (
            "train=known.train",
            "train=tuple(part[:900] for part in known.train)",
            "resume was trained on different data",
        ),
    ],
)
def test_a_task_that_has_changed_is_told_from_the_one_that_was_trained(
    noisy: Path, old: str, new: str, says: str
) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    (noisy / "noisy.py").write_text(NOISY.replace(old, new))
    with pytest.raises(InputError) as raised:
        fit(resume="run", listener=QUIET, epochs=2)
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off", None])
def test_a_damaged_checkpoint_is_named(noisy: Path, content: bytes | None) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    path = noisy / "run" / folder.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-3000] if content is None else content)
    with pytest.raises(InputError, match=r"resume has a checkpoint that cannot be read, run/checkpoint\.pt: "):
        fit(resume="run", listener=QUIET)


def test_a_checkpoint_that_is_damaged_anywhere_is_refused_or_read_as_it_was(noisy: Path) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    path = noisy / "run" / folder.CHECKPOINT
    content, drawn, refused = path.read_bytes(), random.Random(30), 0
    whole = load_checkpoint(path)
    for number in range(60):
        damaged = bytearray(content)
        place = len(content) * number // 60 + drawn.randrange(len(content) // 60)
        size = 64 if number % 2 else 1
        damaged[place : place + size] = bytes(byte ^ 0xFF for byte in damaged[place : place + size])
        path.write_bytes(damaged)
        try:  # what is no one's content, such as the date of a member, changes nothing
            assert repr(load_checkpoint(path)) == repr(whole)
        except InputError as error:
            refused += "has a checkpoint that cannot be read" in str(error)
    assert refused > 50
    path.write_bytes(content)
    with open(path, "r+b") as stream:
        stream.seek(len(content) // 2)
        middle = stream.read(64)
        stream.seek(len(content) // 2)
        stream.write(bytes(byte ^ 0xFF for byte in middle))
    before = contents(noisy / "run")
    with pytest.raises(InputError, match=r"run/checkpoint\.pt: BadZipFile: .* does not have its checksum"):
        fit(resume="run", epochs=2, listener=QUIET)
    assert contents(noisy / "run") == before


def test_a_checkpoint_has_checksums_also_where_torch_is_told_to_leave_them_out(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(tmp_path / "checkpoint.pt", {"x": torch.arange(5)})
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["x"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"options": 3}',
        '{"options": {}, "threads": "x", "lr_found": null, "resumed_after": []}',
        '{"options": {}, "threads": 1, "lr_found": null, "resumed_after": [null]}',
        "[" * 100_000,
        "9" * 6000,
    ],
)
def test_a_damaged_configuration_is_named(noisy: Path, content: str) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    (noisy / "run" / folder.CONFIG).write_text(content)
    with pytest.raises(InputError, match=r"resume 'run' has a damaged config\.json"):
        fit(resume="run", listener=QUIET)


def test_a_checkpoint_is_read_without_running_code(noisy: Path) -> None:
    fit("noisy.py", epochs=1, out="run", listener=QUIET)
    content = load_checkpoint(noisy / "run" / folder.CHECKPOINT)
    assert content["at"]["step"] == 45
    assert isinstance(content["model"]["0.weight"], torch.Tensor)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of a megabyte."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_on_a_full_disk_it_is_one_line_and_the_last_checkpoint_stays(noisy: Path, small_disk: Path) -> None:
    """The disk fills while the run goes on; when there is room again, so does the run, to the same bits."""
    fit("noisy.py", epochs=6, out="whole", listener=QUIET)
    fit("noisy.py", epochs=3, out=small_disk / "run", listener=QUIET)
    run = small_disk / "run"
    before = (run / folder.CHECKPOINT).read_bytes()
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    done = adamas("train", "--resume", str(run), "--epochs", "6", cwd=noisy)
    assert done.returncode != 0
    assert done.stderr.startswith("adamas: ")
    assert f"{run}' cannot be written (No space left on device): make room" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (run / folder.CHECKPOINT).read_bytes() == before
    (small_disk / "filler").unlink()
    again = adamas("train", "--resume", str(run), "--epochs", "6", cwd=noisy)
    assert (again.returncode, again.stderr) == (0, "")
    assert (run / folder.MODEL).read_bytes() == (noisy / "whole" / folder.MODEL).read_bytes()


def test_on_a_disk_that_is_read_only_the_run_is_to_be_copied(noisy: Path, small_disk: Path) -> None:
    fit("noisy.py", epochs=1, out=small_disk / "run", listener=QUIET)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    says = r"run' cannot be written \(Read-only file system\): copy it to where it can be written, and resume the copy"
    with pytest.raises(InputError, match=f"^resume .*{says}"):
        fit(resume=small_disk / "run", epochs=2, listener=QUIET)


def test_a_disk_that_fills_while_it_trains_loses_no_checkpoint(
    noisy: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    monkeypatch.setattr(running, "CHECKPOINT_SHARE", 0)

    class Fill(Listener):
        def on_evaluation(self, evaluation: Evaluation) -> None:
            if evaluation.epoch == 2:
                free = shutil.disk_usage(small_disk).free
                (small_disk / "filler").write_bytes(bytes(free))

    with pytest.raises(OSError, match=r"No space left on device: '.*run/"):
        fit("noisy.py", epochs=4, out=small_disk / "run", listener=Fill())
    assert load_checkpoint(small_disk / "run" / folder.CHECKPOINT)["at"]["step"] >= 45
    (small_disk / "filler").unlink()
    fit("noisy.py", epochs=4, out="whole", listener=QUIET)
    fit(resume=small_disk / "run", listener=QUIET)
    assert (small_disk / "run" / folder.MODEL).read_bytes() == (noisy / "whole" / folder.MODEL).read_bytes()


def test_a_run_keeps_the_rate_that_it_began_with_when_the_default_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = fit("quadratic", epochs=1, out=tmp_path / "run", listener=QUIET).lr
    monkeypatch.setitem(OPTIMIZERS, "adam", replace(OPTIMIZERS["adam"], lr=2 * OPTIMIZERS["adam"].lr))
    assert fit(resume=tmp_path / "run", epochs=2, listener=QUIET).lr == began
    assert fit(resume=tmp_path / "run", epochs=3, listener=QUIET).lr == began
    assert fit("quadratic", epochs=1, listener=QUIET).lr == 2 * began
