"""The executors, and which of them steps a parameter."""

from __future__ import annotations

import os

from .arrays_executor import ArraysExecutor
from .engine import EngineExecutor
from .executor import Executor, GroupSpec
from .record import Record

_FORCED = "ADAMAS_EXECUTOR"  # the environment variable with which tests force one executor for all parameters

EXECUTORS: dict[str, type[Executor]] = {"engine": EngineExecutor, "arrays": ArraysExecutor}


def executor_of(spec: GroupSpec, record: Record) -> type[Executor]:
    """The executor that steps the parameter: the engine if its weight is on the CPU.

    Raises:
        ValueError: the environment asks for an unknown executor.
    """
    forced = os.environ.get(_FORCED)
    if forced is None:
        return EngineExecutor if spec.tensors.is_on_cpu(record.weight) else ArraysExecutor
    if forced not in EXECUTORS:
        raise ValueError(f"{_FORCED}={forced!r} is unknown: use {' or '.join(map(repr, EXECUTORS))}")
    return EXECUTORS[forced]
