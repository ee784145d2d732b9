"""The command line: its output, its exit status and what it leaves behind."""

from __future__ import annotations

import codecs
import dataclasses
import importlib.util
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import ENVIRONMENT, PROCESS, adamas
from report_material import make_run

import adamas as package
from adamas.lab import launch
from adamas.lab.commands.main import application
from adamas.lab.commands.train import suggestions
from adamas.lab.train import Listener, folder, running
from adamas.lab.train.options import Options

FILES = sorted(folder.FILES)


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )


def test_version(tmp_path: Path) -> None:
    done = adamas("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"adamas {package.__version__}\n", "")


def test_the_package_can_be_run(tmp_path: Path) -> None:
    for words, status, out, error in (
        (["--version"], 0, f"adamas {package.__version__}\n", ""),
        (["train", "--epochs", "x"], 2, "", "adamas: --epochs must be a whole number, got 'x'\n"),
    ):
        line = [*PROCESS, *words]
        done = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stdout, done.stderr) == (status, out, error)


def test_help_explains_every_option(tmp_path: Path) -> None:
    done = adamas("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    options = [field.name.replace("_", "-") for field in dataclasses.fields(Options) if field.name != "task"]
    for option in options:
        _, explanation = done.stdout.split(f"  --{option} ", 1)
        assert len(explanation.split("  --")[0].split()) > 4, option
    for word in ("digits", "mnist", "nesterov", "radam", "exponential", "cosine"):
        assert word in done.stdout


def test_help_names_those_whose_weight_decay_is_a_penalty(tmp_path: Path) -> None:
    words = " ".join(adamas("train", "--help", cwd=tmp_path).stdout.split())
    assert "part of the update in lamb, lars, " in words
    assert "stableadamw; decoupled in others" in words
    assert "Weight decay: part of the gradient (L2) in adagrad, adam, amsgrad, adamax, nadam, radam, " in words


def test_help_names_those_that_have_an_option(tmp_path: Path) -> None:
    words = " ".join(adamas("train", "--help", cwd=tmp_path).stdout.split())
    assert "What is added to the denominator. Only in adagrad, adam, " in words  # the eps of adafactor is a pair


def test_without_arguments_there_is_help(tmp_path: Path) -> None:
    done = adamas(cwd=tmp_path)
    assert done.returncode == 0
    assert "train" in done.stdout


def test_help_does_not_wait_for_slow_libraries(tmp_path: Path) -> None:
    code = """
import sys
from adamas.lab.commands.main import main
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


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("train", "typer"),
        ("train", "torch"),
        ("train", "safetensors"),
        ("find-lr", "torch"),
        ("find-lr --out curve.png", "matplotlib"),
        ("compare quadratic --optimizers adam,sgd --budget 2", "safetensors"),
        ("schedule cosine --steps 9", "matplotlib"),
    ],
)
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, line: str, missing: str) -> None:
    done = python(without([missing], line), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"adamas: {missing} is not installed: pip install 'adamas[train]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["schedule cosine --steps 9", "tasks", "report run --png pictures --out page.html"])
def test_what_trains_nothing_needs_neither_pytorch_nor_the_engine(tmp_path: Path, line: str) -> None:
    make_run(tmp_path / "run")
    done = python(without(["torch", "adamas._engine"], line), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def without(missing: list[str], line: str) -> str:
    """The program that runs the command where these modules cannot be imported."""
    return f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from missing import missing
sys.argv = ["adamas", *{line.split()!r}]
with missing(*{missing!r}):
    from adamas.lab.commands.main import main
    main()
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trian", "train"),
        ("train mnits", "task 'mnits' is unknown: did you mean mnist?"),
        ("train --optimizer adm", "--optimizer 'adm' is unknown: did you mean adam?"),
        ("train --optimizer torch:Adamw", "--optimizer 'torch:Adamw' is unknown: did you mean torch:AdamW?"),
        ("train --epochs 1.5", "--epochs must be a whole number, got '1.5'"),
        ("train --eps=x", "--eps must be a number, got 'x'"),
        ("train --schedule cos", "--schedule 'cos' is unknown: did you mean cosine?"),
        ("train own.py", "own.py' is not a file: give the path of a Python file, or the name of a task"),
        ("train --lr -1", "--lr must be a nonnegative number, got -1.0"),
        ("train --lr fast", "--lr must be a number or auto, got 'fast'"),
        ("train --plateau cosine(9)", "--plateau must be default, or such as"),
        ("train --schedule 1e-3*cosine(9) --lr 1", "--schedule contains a rate (0.001), and --lr is given too (1.0): "),
        ("schedule", "EXPR"),
        ("schedule cos --steps 9", "expression 'cos' is unknown: did you mean cosine?"),
        ("schedule cosine", "--steps is missing: cosine has no end, so"),
        ("schedule exponential(0.5)", "--steps is missing: exponential(0.5) has no end, so"),
        ("schedule constant()", "--steps is missing: constant() has no end, so"),
        ("schedule cosine(1e300)", "--steps is missing: cosine(1e300) has 1e+300, give the number to draw"),
        ("schedule cosine(9) --steps 0", "--steps must be a whole number from 1 to"),
        ("schedule cosine(9) --lr -1", "--lr must be a nonnegative number, got -1.0"),
        ("schedule 3*cosine(9) --lr 1", "--lr is given, and the expression contains a rate (3)"),
        ("schedule cosine(9) --out held", "--out must be the name of a picture, such as held.png"),
        ("schedule cosine(9) --out no/a.png", "--out 'no/a.png' cannot be written: 'no' is not a writable folder"),
        ("train --epochs 0", "--epochs must be a whole number from 1 to 1,000,000,000, got 0"),
        ("train --epochs", "--epochs"),
        ("train --betas 0.9", "--betas must be two numbers and a comma, such as 0.9,0.999, got '0.9'"),
        ("train --betas 0.9,1", "--betas must be two numbers from 0 up to but not including 1, got (0.9, 1.0)"),
        ("train --optimizer sgd --betas 0.9,0.9", "--betas is not an option of sgd"),
        ("train --weight-decay -1", "--weight-decay must be a nonnegative number"),
        ("train --momentum 0.9", "--momentum"),
        ("train --config no.toml", "--config 'no.toml' cannot be read: No such file or directory"),
        ("train --config held/summary.json", "--config 'held/summary.json' is not TOML: "),
        ("train --resume no", "--resume 'no' holds no run, it has no readable config.json: give the folder of a run"),
        ("train --resume held", "--resume 'held' holds no run, it has no readable config.json"),
        ("train --model small", "--model is not an option of digits, which has one network"),
        ("train --state int4", "--state must be 'float32' or 'bfloat16' or 'int8' or 'int6', got 'int4'"),
        ("train --clip much", "--clip must be a number or auto, got 'much'"),
        ("train --eval-every 0", "--eval-every must be a whole number from 1 to 1,000,000,000, got 0"),
        ("compare mnits --optimizers adam", "task 'mnits' is unknown: did you mean mnist?"),
        ("compare digits", "--optimizers is missing: name them with commas between"),
        (
            "compare digits adamw adamw(state='int8')",
            "--optimizers takes the names with commas and no spaces between: --optimizers \"adamw,adamw(state='int8')\"",
        ),
        ("compare digits --optimizers adam, sgd", "no spaces between: --optimizers adam,sgd\n"),
        ("compare digits --optimizers adam sgd nadam", "unexpected extra arguments (sgd nadam) (see --help)"),
        ("compare held held", "task 'held' is a folder: give a task, or a study that adamas compare wrote"),
        ("report held", "runs 'held' holds no run, it has no config.json"),
        (
            "train --out held",
            "--out 'held' already holds a run: choose another folder, remove that one, or resume it (--resume)\n",
        ),
        ("train --weights split", "how bfloat16 weights are stored: give --precision bfloat16 too, or leave it out"),
        ("train --optimizer adam(lr=1)", "'adam(lr=1)' has lr as an argument: give it as the option --lr\n"),
        (
            "compare digits --optimizers adam(lr=1)",
            "--optimizers 'adam(lr=1)' has lr as an argument, which a comparison determines: leave it out\n",
        ),
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


def test_commands_are_typed_with_the_simpler_quotes() -> None:
    given = ["adamas", "m:A(state='int8')", "it's $HOME", "a b", '"', "x"]
    line = launch.typed(given)
    assert line.startswith("adamas \"m:A(state='int8')\" ")
    assert shlex.split(line) == given
    assert shlex.join(given[2:]) in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--schedule", "3e-4 * cosin(100)"], "--schedule cannot be read: unknown schedule 'cosin'"),
        (["train", "--plateau", "3e-4 * cosin(100)"], "--plateau cannot be read: unknown schedule 'cosin'"),
        (["schedule", "3e-4 * cosin(100)"], "expression cannot be read: unknown schedule 'cosin'"),
    ],
)
def test_a_mistake_in_an_expression_is_a_line_and_the_place(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = adamas(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    line, shown, mark = done.stderr.splitlines()
    assert line.startswith(f"adamas: {says}: did you mean cosine?")
    assert shown == "  3e-4 * cosin(100)"
    assert mark == "         ^^^^^"
    assert list(tmp_path.iterdir()) == []


# --- adamas schedule ------------------------------------------------------------------------------------------------


def test_a_schedule_is_drawn_and_told(tmp_path: Path) -> None:
    done = adamas("schedule", "warmup(20).then(cosine(80, end=0.1))", "--lr", "0.5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "0.5 * warmup(20).then(cosine(80, end=0.1))"
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.split(" value\n")[1].split("\n\n")[0].splitlines()]
    told = {name: (int(step), float(value)) for name, step, value in rows}
    assert list(told) == ["first", "peak", "quarter", "half", "three quarters", "last"]
    assert told["first"] == (0, 0)
    assert told["peak"] == (20, 0.5)
    assert told["last"] == (99, pytest.approx(0.05, rel=0.01))
    plot = [line for line in done.stdout.splitlines() if "\u2800" < max(line, default="") < "\u28ff"]
    assert len(plot) == 12
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]
    image = (tmp_path / "schedule.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", image[16:24]) == (1080, 480)


def test_the_plot_shows_where_a_schedule_is(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    line = [*PROCESS, "schedule", "multistep([50], factor=0.5)", "--steps", "100", "--out", "a.png"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.isascii()
    rows = [line for line in done.stdout.splitlines() if "|" in line]
    stars = [[at - row.index("|") - 1 for at, mark in enumerate(row) if mark == "*"] for row in rows]
    columns = len(stars[0]) * 2
    assert 50 <= columns <= 60
    assert stars[0] == list(range(columns // 2))
    assert stars[1:6] == [[columns // 2]] * 5  # a jump is a line
    assert set(stars[6]) >= set(range(columns // 2 + 1, columns))  # at half the height
    assert not any(stars[7:])
    assert [row.split("|")[0].strip() for row in rows] == ["1", *[""] * 5, "0.5", *[""] * 4, "0"]


def test_a_name_is_drawn_over_the_steps_without_torch(tmp_path: Path) -> None:
    code = """
import sys
from adamas.lab.commands.main import main
sys.argv = ["adamas", "schedule", "one_cycle", "--steps", "1000000000", "--out", "a.png"]
try:
    main()
except SystemExit as end:
    assert not end.code
sys.exit("imported torch" if "torch" in sys.modules else 0)
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "one_cycle(1000000000)" in done.stdout
    assert "three quarters  749,999,7" in done.stdout
    assert "last            999,999,999  4e-06\n" in done.stdout


def test_a_picture_is_left_as_it_was_where_the_schedule_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "schedule.png").write_text("mine")
    for expression in ("cosine(", "exponential(1e300).shift(-9)", "1e308 * constant(1e308)"):
        done = adamas("schedule", expression, "--steps", "10", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), expression
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("schedule.png", "mine")]
    (tmp_path / "folder.png").mkdir()
    done = adamas("schedule", "cosine(9)", "--out", "folder.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "adamas: --out 'folder.png' is a folder: choose another name\n")


# --- adamas train ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    done = adamas("train", "--epochs", "3", "--schedule", "cosine", "--out", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.isprintable() for line in done.stdout.splitlines())
    heading, rows = done.stdout.splitlines()[:3], done.stdout.splitlines()[3:6]
    assert heading[2].split("  ")[0] == "epoch"
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert float(rows[2].split()[4]) == pytest.approx(summary["value"], abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    assert f"test accuracy {summary['value']:.4f}" in done.stdout
    suggestions = [line.split("#")[0].split() for line in done.stdout.splitlines() if line.startswith("  adamas train")]
    assert suggestions
    assert all(words[-1] != "run" for words in suggestions)


def test_the_suggested_commands_ask_for_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Options(
        "digits", optimizer="radam", betas=(0.8, 0.9), eps=1e-7, weight_decay=0.1, batch_size=32, out=Path("run")
    )
    asked: list[Options] = []

    def run(options: Options, listener: Listener, resume: Path | None) -> None:
        asked.append(options)
        raise typer.Exit

    monkeypatch.setattr(running, "run", run)
    for words, _ in suggestions(given):
        application()(words[1:], standalone_mode=False)
    fresh = dataclasses.replace(given, out=None)
    changes: list[dict[str, Any]] = [{"schedule": "cosine"}, {"optimizer": "adam"}, {"seed": 1}]
    assert asked == [dataclasses.replace(fresh, **change) for change in changes]


@pytest.mark.parametrize(
    ("options", "suggested"),
    [
        (Options("digits"), True),
        (Options("quadratic"), False),
        (Options("quadratic", optimizer="torch:Adam", model="rosenbrock"), False),
        (Options("quadratic", precision="bfloat16", weights="stochastic"), True),
        (Options("quadratic", state="int8"), True),
        (Options("quadratic.py"), True),
    ],
)
def test_another_seed_is_suggested_where_the_seed_decides_anything(options: Options, suggested: bool) -> None:
    assert any("--seed" in words for words, _ in suggestions(options)) is suggested


def test_the_suggested_commands_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    expression, plateau = (
        "warmup(9).then(cosine(90), at=9).clip(high=0.5)",
        "Plateau(factor=0.5, patience=0, mode='max')",
    )
    done = adamas("train", "--epochs", "2", "--schedule", expression, "--plateau", plateau, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("  #")[0] for line in done.stdout.splitlines() if line.startswith("  adamas train")]
    assert lines
    for line in lines:
        words = subprocess.run(f"printf '%s\\n' {line}", shell=True, capture_output=True, text=True, check=True).stdout
        assert expression in words.splitlines()
        assert plateau in words.splitlines()


def test_another_member_is_suggested_at_its_own_rate() -> None:
    given = Options(optimizer="sgd", schedule="0.1 * cosine(100)")
    words = {why: words for words, why in suggestions(given)}
    assert words["another member of the family"] == ["adamas", "train", "digits"]
    assert "0.1 * cosine(100)" in words["shows how much depends on the seed"]


def test_what_a_plateau_cut_is_a_line_under_the_epoch_and_at_the_end(tmp_path: Path) -> None:
    plateau = "Plateau(patience=0, threshold=0.9)"
    done = adamas("train", "--epochs", "3", "--plateau", plateau, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[2].startswith("The plateau follows validation loss, ")
    assert lines[4].split()[0] == "1"
    assert lines[5].split()[0] == "2"
    assert lines[6].startswith("       plateau: learning rate 0.001 → 0.0001 from step 83: ")
    assert lines[7].split()[:2] == ["3", "0.0001"]
    assert lines[8] == ""  # the cut after the last step has no line
    (last,) = [line for line in lines if line.startswith("Plateau: ")]
    assert last == f"Plateau: {lines[6].partition('plateau: ')[2]}"
    (end,) = [line for line in lines if line.startswith("At the end: test accuracy 0.")]
    assert end.endswith("The target, at least 0.97, was not reached.")


def test_a_run_that_is_done_says_how_to_train_on(tmp_path: Path) -> None:
    first = adamas("train", "quadratic", "--epochs", "2", "--out", "a run", cwd=tmp_path)
    assert first.stdout.splitlines()[0] == "quadratic: f(x) = x² from x = 5, 1 parameter"
    again = adamas("train", "--resume", "a run", cwd=tmp_path)
    (line,) = [line for line in again.stdout.splitlines() if line.startswith("All steps are done.")]
    command = line.partition("train on: ")[2]
    assert command == "adamas train --resume 'a run' --epochs 4"
    longer = adamas(*shlex.split(command)[1:], cwd=tmp_path)
    assert (longer.returncode, "Resuming after step 20." in longer.stdout) == (0, True)


def test_what_cannot_be_shown_is_no_reason_to_end_a_run(tmp_path: Path) -> None:
    plateau = "Plateau(patience=0, threshold=0.9)"
    done = adamas("train", "--epochs", "2", "--plateau", plateau, cwd=tmp_path, encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "8?8 digits" in done.stdout


def test_on_a_terminal_there_is_a_bar_and_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    text, parts, interrupted = "", ("/1000000", "loss ", "rate 1.00e-03", "left", "━", "    2  "), False
    with subprocess.Popen(
        [*PROCESS, "train", "--epochs", "1000000", "--out", "run"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        reader = codecs.getincrementaldecoder("utf-8")()
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not chunk:
                break
            text += reader.decode(chunk).replace("\r", "\n")
            if not interrupted and (all(part in text for part in parts) or "  900  " in text):
                process.send_signal(signal.SIGINT)
                interrupted = True
        error = process.stderr.read()
    os.close(ours)
    for part in parts:
        assert part in text, part
    assert process.returncode == 130
    assert error.startswith("adamas: interrupted after ")
    assert error.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["epochs"] == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 2
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back
    assert "\x1b[2K" in text.rsplit("left", 1)[1]  # the bar is wiped away at the end
    rows = re.findall(r"^ +(\d+)  +0\.001 [ 0-9.]+$", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text), re.MULTILINE)
    assert rows == [str(epoch) for epoch in range(1, summary["epochs"] + 1)]


def test_a_run_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    """And TensorBoard, which logs it, says nothing and brings no TensorFlow."""
    code = """
import atexit, sys
from adamas.lab.commands.main import main
atexit.register(lambda: "tensorflow" in sys.modules and print("TensorFlow was imported", file=sys.stderr))
main()
"""
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    words = ["train", "--epochs", "8", "--out", "run", *(["--log", "tensorboard"] if has_tensorboard else [])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as ``| head -1`` does
        assert (process.stderr.read(), process.wait()) == (b"", 0)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 8
    assert not has_tensorboard or list((tmp_path / "run" / "tensorboard").iterdir())


def test_ctrl_c_before_the_first_step_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: Options, listener: Listener, resume: Path | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", run)
    with pytest.raises(SystemExit) as end:
        application()(["train"], standalone_mode=False)
    assert end.value.code == 130
    assert capsys.readouterr().err == "adamas: interrupted\n"


def test_a_run_that_diverges_says_where(tmp_path: Path) -> None:
    done = adamas("train", "--optimizer", "sgd", "--lr", "1e30", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("adamas: the loss became nan in epoch 1, batch ")
    assert "--lr" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted({*FILES} - {folder.CHECKPOINT})
