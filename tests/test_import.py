"""Importing Adamas costs NumPy alone."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys

import pytest

FRAMEWORKS = {"torch", "jax", "optax", "flax", "keras", "tensorflow", "scipy", "typer", "rich", "matplotlib"}


def test_importing_adamas_loads_no_framework_and_is_quick() -> None:
    program = (
        "import sys, time, numpy; start = time.perf_counter(); import adamas; adamas.engine_info();"
        "seconds = time.perf_counter() - start;"
        f"print(seconds, *({FRAMEWORKS} & set(sys.modules)))"
    )
    best = min(float(line.split()[0]) for line in (run(program) for _ in range(3)))
    assert run(program).split()[1:] == []
    assert best < 0.1


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("numpy", set()),
        ("convert", set()),
        ("schedules", set()),
        ("family, adamas.rule, adamas.formats, adamas.layout, adamas.hyperparameters, adamas.stepping", set()),
        ("scipy", {"scipy"}),
        ("torch", {"torch"}),
        ("optax", {"jax", "optax"}),
        ("keras", {"keras", "jax"}),
    ],
)
def test_an_adapter_loads_its_own_framework_alone(module: str, needs: set[str]) -> None:
    if module in ("optax", "keras"):
        pytest.importorskip(module)
    program = (
        f"import sys; {''.join(f'import {name};' for name in sorted(needs))} own = {FRAMEWORKS} & set(sys.modules);"
        f"import adamas.{module}; print(*({FRAMEWORKS} & set(sys.modules) - own))"
    )
    assert run(program) == ""


def run(program: str) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


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
