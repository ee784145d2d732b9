"""Which tests of the kernels run. Those that step tensors run on a GPU, or in Triton's interpreter over tensors on the CPU.

The interpreter is chosen once for a process, before Triton is imported: ``TRITON_INTERPRET=1``. Nothing is compiled then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

COMPILED = "test_compiled.py"
collect_ignore = [COMPILED] if IS_INTERPRETED else []
if not (IS_INTERPRETED or torch.cuda.is_available()):
    collect_ignore += [file.name for file in Path(__file__).parent.glob("test_*.py") if file.name != COMPILED]


@pytest.fixture(autouse=True)
def _exact(exact_engine: None) -> None:
    """All tests here compare with the exact engine."""


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls a function with the kernels, also over tensors on the CPU."""

    def run(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("ADAMAS_EXECUTOR", "gpu")
            return function(*arguments, **keywords)

    return run
