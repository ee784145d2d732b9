"""The command ``adamas``, run in the process of the tests.

A process of its own takes seconds to import PyTorch. A test that needs one (of signals, terminals, pipes or missing packages)
starts ``PROCESS``, and each command is started so at least once.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import adamas as package
from adamas.lab.commands.main import main

PROCESS = [sys.executable, "-m", "adamas"]
# The command runs in other folders than ours, and must find the package that is being tested.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).resolve().parents[1]), "TERM": "xterm-256color"}


@dataclass(frozen=True)
class Done:
    """What a command has come to."""

    returncode: int
    stdout: str
    stderr: str


def adamas(*words: str, cwd: Path, encoding: str = "utf-8", columns: int = 80) -> Done:
    """Run a command line in a folder, with its output going into files of this encoding."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(sys, "argv", ["adamas", *words])
        with pytest.raises(SystemExit) as end:
            main()
    printed, told = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return Done(end.value.code or 0, printed, told)  # type: ignore[arg-type]
