"""The executors, and which of them steps a parameter."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..rule.declaration import Rule
from .arrays_executor import ArraysExecutor
from .engine import EngineExecutor, has_rule
from .executor import DeviceExecutor, Executor
from .record import Tensor, Tensors

if TYPE_CHECKING:
    from .gpu import GpuExecutor

_FORCED = "ADAMAS_EXECUTOR"  # the environment variable with which tests force one executor for all parameters


def _gpu() -> type[GpuExecutor]:
    from .gpu import GpuExecutor  # imports Triton

    return GpuExecutor


EXECUTORS: dict[str, Callable[[], type[Executor]]] = {
    "engine": lambda: EngineExecutor,
    "arrays": lambda: ArraysExecutor,
    "gpu": _gpu,
}


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


@cache
def _say_arrays(has_gpu: bool) -> None:
    """Says once why there are no kernels."""
    reason = "Triton is not installed" if has_gpu else "there is no kernel for their device"
    logging.getLogger(__name__).warning("parameters are stepped by operations of their framework, unfused: %s", reason)


def executor_of(tensors: Tensors, weight: Tensor, rule: Rule | None = None) -> type[Executor]:
    """The executor that steps a parameter by a rule, according to the device of its weight. None is a rule of the family.

    Raises:
        ValueError: the environment asks for an unknown executor.
    """
    forced = os.environ.get(_FORCED)
    if forced is None:
        if tensors.is_on_cpu(weight):
            return EngineExecutor if rule is None or has_rule(rule) else ArraysExecutor
        is_on_gpu = tensors.is_on_gpu(weight)
        if is_on_gpu and has_triton():
            return _gpu()
        _say_arrays(is_on_gpu)
        return ArraysExecutor
    if forced not in EXECUTORS:
        raise ValueError(f"{_FORCED}={forced!r} is unknown: use {' or '.join(map(repr, EXECUTORS))}")
    return EXECUTORS[forced]()


def compiled_executor_of(tensors: Tensors, weight: Tensor) -> type[GpuExecutor] | None:
    """The executor that steps the parameter, if it is one whose kernels are compiled when they are first needed; else None."""
    return None if executor_of(tensors, weight) in (EngineExecutor, ArraysExecutor) else _gpu()


def can_decide(tensors: Tensors, weight: Tensor) -> bool:
    """Whether the device of a parameter can decide about its steps (``adamas.step.deciding``)."""
    return issubclass(executor_of(tensors, weight), DeviceExecutor)
