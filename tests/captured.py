"""CUDA graphs of a step: real ones on a GPU, and elsewhere a recording of all operations and launches that can be repeated.

The recording fails where the host would have to wait for a value, as a capture does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adamas.step import kernels
from adamas.step.namespaces import torch as on_torch

_WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


class Recording(TorchDispatchMode):
    """Records operations, and refuses those for which the host waits.

    Args:
        on_host: tensors that are on the CPU wherever the parameters are.

    Attributes:
        calls: repeat the operations.
        used: the tensors that they use and that were there before.
    """

    def __init__(self, on_host: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []
        self.used: list[weakref.ref[Tensor]] = []
        self._made: set[int] = set()  # by their ids, which stay theirs since ``calls`` keep them
        self._on_host = {x.data_ptr() for x in on_host}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = func in _WAITING and args[0].data_ptr() not in self._on_host
        assert not waits, f"the host waits for the device in {func}"
        kwargs = kwargs or {}
        found = (x for x in tree_leaves(args) if isinstance(x, Tensor) and id(x) not in self._made)
        self.used += map(weakref.ref, found)
        out = func(*args, **kwargs)
        self._made |= {id(x) for x in tree_leaves(out)}
        self.calls.append(lambda: self._repeat(func, args, kwargs, out))
        return out

    @staticmethod
    def _repeat(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        outs = (out,) if isinstance(out, Tensor) else out or ()
        written = tuple(x for x in (*args, *outs) if isinstance(x, Tensor))
        with torch.autograd._unsafe_preserve_version_counter(written):  # as a graph does, which only the device sees
            new = func(*args, **kwargs)
            news = (new,) if isinstance(out, Tensor) else new or ()
            for result, target, value in zip(func._schema.returns, outs, news, strict=False):
                if result.alias_info is None and isinstance(target, Tensor):
                    target.copy_(value)


class Captured:
    """A step that was captured, and has been made once.

    Args:
        step: makes the step.

    Attributes:
        used: the tensors that its operations use and that were there before; none on a GPU.
    """

    def __init__(self, step: Callable[[], Any]) -> None:
        self._graph: Any = None
        self.used: list[weakref.ref[Tensor]] = []
        if torch.cuda.is_available():
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                step()
            self._graph.replay()
            return
        self._recording = Recording()
        with ExitStack() as stack:
            stack.enter_context(patch.object(on_torch, "is_capturing", lambda device: True))
            self._record_launches(stack)
            stack.enter_context(self._recording)
            step()
        self.used = self._recording.used

    def _record_launches(self, stack: ExitStack) -> None:
        calls = self._recording.calls

        class Kernel:
            def __init__(self, kernel: Any) -> None:
                self.kernel = kernel

            def __getitem__(self, grid: Any) -> Any:
                def launch(*arguments: Any, **options: Any) -> None:
                    calls.append(lambda: self.kernel[grid](*arguments, **options))
                    with torch.utils._python_dispatch._disable_current_modes():
                        self.kernel[grid](*arguments, **options)

                return launch

        for name in ("step_or_sum", "computing", "adding_up", "adding_up_statistics"):
            found = getattr(kernels, name)
            stack.enter_context(patch.object(kernels, name, lambda *kind, found=found: Kernel(found(*kind))))

    def replay(self) -> None:
        """Makes the step again."""
        if self._graph is not None:
            self._graph.replay()
            return
        with torch.no_grad():
            for call in self._recording.calls:
                call()
