"""Which tests of the kernels run. Those that step tensors run on a GPU, or in Triton's interpreter over tensors on the CPU.

The interpreter is chosen once for a process, before Triton is imported: ``TRITON_INTERPRET=1``. Nothing is compiled then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adamas import _engine

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

COMPILED = "test_compiled.py"
collect_ignore = [COMPILED] if IS_INTERPRETED else []
if not (IS_INTERPRETED or torch.cuda.is_available()):
    collect_ignore += [file.name for file in Path(__file__).parent.glob("test_*.py") if file.name != COMPILED]


@pytest.fixture(autouse=True)
def exact_engine() -> Iterator[None]:
    """The engine fuses products and sums, and estimates nothing, as the kernels do in the interpreter."""
    chosen = _engine.instruction_set()
    _engine.use_instruction_set("avx2" if "avx2" in _engine.instruction_sets() else chosen)
    yield
    _engine.use_instruction_set(chosen)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls a function with the kernels, also over tensors on the CPU."""

    def run(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("ADAMAS_EXECUTOR", "gpu")
            return function(*arguments, **keywords)

    return run
