"""The command line, run as a user runs it: its output, its exit status and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

import adamas as package
from adamas.cli import application
from adamas.train import Listener, loop
from adamas.train.command import suggestions
from adamas.train.options import Options

FILES = ["config.json", "curves.png", "metrics.jsonl", "model.safetensors", "summary.json"]
ADAMAS = [sys.executable, "-m", "adamas.cli"]
# The command runs in other folders than ours, and must find the package that is being tested.
SOURCE = str(Path(package.__file__).resolve().parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE, "TERM": "xterm-256color"}


def adamas(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ADAMAS, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def test_version(tmp_path: Path) -> None:
    done = adamas("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"adamas {package.__version__}\n", "")


def test_help_explains_every_option(tmp_path: Path) -> None:
    done = adamas("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    options = [field.name.replace("_", "-") for field in dataclasses.fields(Options) if field.name != "task"]
    for option in options:
        _, explanation = done.stdout.split(f"  --{option} ", 1)
        assert len(explanation.split("  --")[0].split()) > 4, option
    for word in ("digits", "mnist", "nesterov", "radam", "exponential", "cosine"):
        assert word in done.stdout


def test_without_arguments_there_is_help(tmp_path: Path) -> None:
    done = adamas(cwd=tmp_path)
    assert done.returncode == 0
    assert "train" in done.stdout


def test_help_does_not_wait_for_slow_libraries(tmp_path: Path) -> None:
    code = """
import sys
from adamas.cli import main
sys.argv = ["adamas", "train", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
slow = {"torch", "matplotlib", "sklearn", "numpy"} & set(sys.modules)
sys.exit(f"imported {slow}" if slow - {"numpy"} else 0)
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", ["typer", "torch", "safetensors"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from adamas.cli import main; main()"
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"adamas: {missing} not installed: pip install 'adamas[train]'\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trian", "train"),
        ("train mnits", "task 'mnits' is unknown: did you mean mnist?"),
        ("train --optimizer adm", "--optimizer 'adm' is unknown: did you mean adam?"),
        ("train --schedule cos", "--schedule 'cos' is unknown: did you mean cosine?"),
        ("train --lr -1", "--lr must be a number from 0 up, got -1.0"),
        ("train --lr fast", "--lr"),
        ("train --epochs 0", "--epochs must be a whole number from 1 up, got 0"),
        ("train --epochs", "--epochs"),
        ("train --betas 0.9", "--betas must be two numbers and a comma, such as 0.9,0.999, got '0.9'"),
        ("train --betas 0.9,1", "--betas must be two numbers from 0 up to but not including 1, got (0.9, 1.0)"),
        ("train --optimizer sgd --betas 0.9,0.9", "--betas is not an option of sgd"),
        ("train --weight-decay -1", "--weight-decay must be a number from 0 up"),
        ("train --momentum 0.9", "--momentum"),
        ("train --out held", "--out 'held' already holds a run"),
        ("train mnist --data-dir held", "--data-dir 'held' has no train-images-idx3-ubyte"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "summary.json").write_text("mine")
    done = adamas(*line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith("adamas: ")
    assert done.stderr.count("\n") == 1
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["held", "held/summary.json"]


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    done = adamas("train", "--epochs", "3", "--schedule", "cosine", "--out", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.isprintable() for line in done.stdout.splitlines())
    heading, rows = done.stdout.splitlines()[:3], done.stdout.splitlines()[3:6]
    assert heading[2].split("  ")[0] == "epoch"
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert float(rows[2].split()[4]) == pytest.approx(summary["test_accuracy"], abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    assert f"test accuracy of {summary['test_accuracy']:.4f}" in done.stdout
    suggestions = [line.split("#")[0].split() for line in done.stdout.splitlines() if line.startswith("  adamas train")]
    assert suggestions
    assert all(words[-1] != "run" for words in suggestions)


def test_the_suggested_commands_ask_for_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Options(
        "digits", optimizer="radam", betas=(0.8, 0.9), eps=1e-7, weight_decay=0.1, batch_size=32, out=Path("run")
    )
    asked: list[Options] = []

    def run(options: Options, listener: Listener) -> None:
        asked.append(options)
        raise typer.Exit

    monkeypatch.setattr(loop, "run", run)
    for words, _ in suggestions(given):
        application()(words[1:], standalone_mode=False)
    fresh = dataclasses.replace(given, out=None)
    changes: list[dict[str, Any]] = [{"schedule": "cosine"}, {"optimizer": "adam"}, {"seed": 1}]
    assert asked == [dataclasses.replace(fresh, **change) for change in changes]


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(
        [*ADAMAS, "train", "--epochs", "40", "--out", "run"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not chunk:
                break
            shown += chunk
    os.close(ours)
    text = shown.decode().replace("\r", "\n")
    assert process.returncode == 0
    for part in ("/40", "loss ", "rate 1.00e-03", "left", "━"):
        assert part in text, part
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back
    assert "\x1b[2K" in text.rsplit("left", 1)[1]  # the bar is wiped away at the end
    rows = re.findall(r"^ +(\d+)  +0\.001 [ 0-9.]+$", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text), re.MULTILINE)
    assert rows == [str(epoch) for epoch in range(1, 41)]


def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*ADAMAS, "train", "--epochs", "1000000", "--out", "run"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not (line := process.stdout.readline()).startswith("    2"):
            assert line, process.stderr.read()
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - sent < 20
    assert error.startswith("adamas: interrupted after ")
    assert error.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["epochs"] == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 2


def test_ctrl_c_before_the_first_step_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: Options, listener: Listener) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run", run)
    assert application()(["train"], standalone_mode=False) == 130
    assert capsys.readouterr().err == "adamas: interrupted\n"


def test_a_run_that_diverges_says_where(tmp_path: Path) -> None:
    done = adamas("train", "--optimizer", "sgd", "--lr", "1e30", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("adamas: the loss became nan in epoch 1, batch ")
    assert "--lr" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
