"""Importing Adamas costs NumPy alone."""

from __future__ import annotations

import doctest
import subprocess
import sys


def test_importing_adamas_loads_no_framework_and_is_quick() -> None:
    program = (
        "import sys, time, numpy; start = time.perf_counter(); import adamas; adamas.engine_info();"
        "seconds = time.perf_counter() - start;"
        "loaded = {'torch', 'jax', 'keras', 'tensorflow', 'scipy', 'typer', 'rich', 'matplotlib'} & set(sys.modules);"
        "print(seconds, *loaded)"
    )
    best = min(float(line.split()[0]) for line in (run(program) for _ in range(3)))
    assert run(program).split()[1:] == []
    assert best < 0.1


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_engine_info_tells_what_runs() -> None:
    import torch

    import adamas
    from adamas import _engine

    info = adamas.engine_info()
    assert info.instruction_set in _engine.instruction_sets()
    assert info.threads == torch.get_num_threads()
    assert info.thread_source in ("OpenMP", "own")
    assert info.instruction_set in str(info)


def test_threads_follow_the_environment_without_torch() -> None:
    program = "import os; os.environ['OMP_NUM_THREADS'] = '7'; import adamas; print(adamas.engine_info().threads)"
    assert run(program) == "7"


def test_the_examples_in_the_docstrings() -> None:
    import adamas.torch
    from adamas.torch import members

    for module in (adamas.torch, members):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed
