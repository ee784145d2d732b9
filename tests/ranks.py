"""Checks that several processes make together: ``failed_checks`` starts the processes, and each of them calls ``main``."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

Failed = list[dict[str, "str | None"]]  # for each rank: the checks made there, each with its traceback if it failed


class Checks(dict[str, Callable[[int], None]]):
    """The checks of a script, in order. Each is a function of the rank.

    Attributes:
        nightly: the names of those that only ``make test-nightly`` makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nightly: set[str] = set()

    def take(self, other: Checks) -> None:
        """Adds other checks."""
        self.update(other)
        self.nightly |= other.nightly

    def __call__(self, function: Callable[[int], None]) -> Callable[[int], None]:
        """Adds a function under its own name."""
        self[function.__name__] = function
        return function

    def each(
        self, cases: Mapping[str, tuple[Any, ...]], quick: Container[str] = ()
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Adds a function once for each of these cases, whose values follow the rank; those not in ``quick`` are nightly."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            for case, values in cases.items():
                name = f"{function.__name__}: {case}"
                self[name] = lambda rank, values=values: function(rank, *values)
                if case not in quick:
                    self.nightly.add(name)
            return function

        return add


def once(name: str, folders: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """A folder of this name, with what ``make`` puts there: once for a run of the tests, however many processes it has."""
    root = folders.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "begun").exists():
            (folder / "begun").touch()
            make(folder)
    return folder


def failed_checks(script: str, ranks: int, names: Sequence[str], folders: pytest.TempPathFactory) -> Failed:
    """The checks of these names, made by a process of ``script`` for each rank."""

    def make(folder: Path) -> None:
        (folder / "names.json").write_text(json.dumps(list(names)))
        _start(script, ranks, folder)

    folder = once(Path(script).stem, folders, make)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def _start(script: str, ranks: int, folder: Path) -> None:
    outputs = [folder / f"{rank}.txt" for rank in range(ranks)]
    started = []
    for rank, output in enumerate(outputs):
        command = [sys.executable, script, str(rank), str(ranks), str(folder)]
        with output.open("w") as file:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment))
    try:
        for process in started:
            process.wait(timeout=3600)  # the nightly products take long
    finally:
        for process in started:
            process.kill()
    said = "\n".join(f"rank {rank}: {output.read_text()}" for rank, output in enumerate(outputs))
    assert all(process.returncode == 0 for process in started), said


def passes(check: str, failed: Failed) -> None:
    """Fails if the check failed on a rank; skips the test if it was not made."""
    for rank, found in enumerate(failed):
        if check not in found:
            pytest.skip("a check before this one has failed on some of the ranks")
        assert found[check] is None, f"rank {rank}: {found[check]}"


def main(checks: Checks) -> None:
    """``python SCRIPT RANK RANKS FOLDER`` makes the checks that FOLDER/names.json names, and writes FOLDER/RANK.json."""
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=5))
    found: dict[str, str | None] = {}
    for name in json.loads((folder / "names.json").read_text()):
        try:
            checks[name](rank)
            failed = None
        except Exception:  # the other checks are made all the same
            failed = traceback.format_exc()
            print(f"{name}: {failed}", flush=True)  # is shown if the other ranks wait in vain
        found[name] = failed
        failures = torch.tensor(float(failed is not None))
        dist.all_reduce(failures)
        if 0 < failures < ranks:
            break  # the ranks may be at different places now
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    # A thread of gloo that still holds a tensor while the interpreter shuts down aborts the process (PyTorch issue 190489).
    sys.stdout.flush()
    os._exit(0)


class raises:  # noqa: N801 - as in pytest
    """Like ``pytest.raises``. ``at_rank`` is where the error comes from; elsewhere the message names that rank."""

    def __init__(
        self, kind: type[Exception], words: str, rank: int, at_rank: int | None = None, group: str = "process_group"
    ) -> None:
        elsewhere = f"rank {at_rank} of {group} cannot (make this|load the) .*, so no rank (makes|loads) it: .*"
        self._kind, self._words = kind, words if at_rank in (None, rank) else elsewhere + words

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        assert kind is not None, f"nothing was raised, not {self._words}"
        assert issubclass(kind, self._kind), error
        assert re.search(self._words, str(error), re.DOTALL), f"{error} is not {self._words}"
        return True
