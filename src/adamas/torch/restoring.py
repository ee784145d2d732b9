"""Restores a model, an optimizer and their data after a block of code, bit for bit.

What is restored: weights, buffers and every other attribute of the modules (including their modes), ``requires_grad`` and
``.grad``, the optimizer's state, groups and attributes, the random numbers of PyTorch, NumPy and Python, and the position in
the data. Tensors keep their identity, so references to them stay valid.
"""

from __future__ import annotations

import copy
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Undo = Callable[[], None]


@contextmanager
def restored(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> Iterator[Undo]:
    """Lets a block use ``model``, ``optimizer`` and ``batches`` freely, and restores them at its end.

    Yields a function that resets the model and the optimizer to the start within the block: the optimizer then works on copies
    of its state, and gradients are None. It must also be called before the first use. At the end of the block everything is
    restored, even if an exception ends it. Ctrl-C does not interrupt the restoring.

    Raises:
        ValueError: a parameter has no values yet.
    """
    undo_model, rewind_model = _lend_model(model, optimizer)
    undo_optimizer, rewind_optimizer = _lend_optimizer(optimizer)
    undo_random = _lend_random(model)
    undo_data = _lend_data(batches)

    def rewind() -> None:
        rewind_model()
        rewind_optimizer()

    try:
        yield rewind
    finally:
        with _uninterrupted():
            for undo in (undo_data, undo_optimizer, undo_model, undo_random):
                undo()


def _lend_model(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Undo, Undo]:
    owners = [vars(module) for module in model.modules()]
    tables = [owner[name] for owner in owners for name in ("_parameters", "_buffers", "_modules")]
    undo_attributes = _lend_attributes([*owners, *tables])
    tensors = {
        id(value): value for table in [*tables, *owners] for value in table.values() if isinstance(value, Tensor)
    }
    tensors |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
    if any(is_lazy(tensor) for tensor in tensors.values()):
        raise ValueError("the model has parameters without a shape: run one batch through it first")
    # An expanded tensor, whose elements share memory, cannot be written in place and need not be restored.
    kept = [
        (t, t.detach().clone(), t.requires_grad, t.grad if t.is_leaf else None)
        for t in tensors.values()
        if not any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True))
    ]

    def values() -> None:
        undo_attributes()
        with torch.no_grad():
            for tensor, content, requires_grad, _ in kept:
                tensor.copy_(content)
                if tensor.is_leaf and tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)

    def undo() -> None:
        values()
        for tensor, _, _, grad in kept:
            if tensor.is_leaf:
                tensor.grad = grad

    def rewind() -> None:
        values()
        for tensor, *_ in kept:
            if tensor.is_leaf:
                tensor.grad = None

    return undo, rewind


def _lend_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Undo, Undo]:
    undo_attributes = _lend_attributes([vars(optimizer), *optimizer.param_groups])
    groups = list(optimizer.param_groups)
    state = dict(optimizer.state)

    def undo() -> None:
        undo_attributes()
        optimizer.param_groups[:] = groups
        optimizer.state.clear()
        optimizer.state.update(state)

    def rewind() -> None:
        undo()
        memo: dict[int, Any] = {}
        # The keys are parameters, and stay the same objects. The values are copied, so that steps cannot change the originals.
        optimizer.state.update({key: copy.deepcopy(value, memo) for key, value in state.items()})

    return undo, rewind


def _lend_attributes(tables: list[dict[str, Any]]) -> Undo:
    """Remembers the objects in the tables and their names."""
    kept = [(table, dict(table)) for table in tables]

    def undo() -> None:
        for table, content in kept:
            if list(table) != list(content) or any(table[name] is not value for name, value in content.items()):
                table.clear()
                table.update(content)

    return undo


def _lend_random(model: nn.Module) -> Undo:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    undos: list[Undo] = []
    for module in accelerators(model):
        if hasattr(module, "get_rng_state_all"):
            undos.append(_call(module.set_rng_state_all, module.get_rng_state_all()))
        else:
            undos.append(_call(module.set_rng_state, module.get_rng_state()))

    def undo() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for other in undos:
            other()

    return undo


def accelerators(model: nn.Module) -> list[Any]:
    """The modules (``torch.cuda``, …) of the model's devices other than the CPU, and ``torch.cuda`` if it is initialized."""
    types = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} - {"cpu", "meta"}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        types.add("cuda")
    return [torch.get_device_module(kind) for kind in sorted(types)]


def _lend_data(batches: Any) -> Undo:
    """Remembers the position in the data: attributes and generators of the loader, its samplers and its dataset."""
    seen: list[Any] = []
    todo = [batches]
    while todo:
        item = todo.pop()
        if hasattr(item, "__dict__") and not any(item is other for other in seen):
            seen.append(item)
            todo += [vars(item)[name] for name in ("sampler", "batch_sampler", "dataset") if name in vars(item)]
    undo_attributes = _lend_attributes([vars(item) for item in seen if isinstance(vars(item), dict)])
    undos: list[Undo] = []
    for item in seen:
        for value in vars(item).values():
            if isinstance(value, torch.Generator):
                undos.append(_call(value.set_state, value.get_state()))
            elif isinstance(value, np.random.Generator):
                undos.append(_call(setattr, value.bit_generator, "state", value.bit_generator.state))
            elif isinstance(value, np.random.RandomState):
                undos.append(_call(value.set_state, value.get_state()))
            elif isinstance(value, random.Random):
                undos.append(_call(value.setstate, value.getstate()))
        if isinstance(item, torch.utils.data.DataLoader):
            # The iterator of persistent workers: iterating the loader would restart it, and its position would be lost.
            vars(item)["_iterator"] = None

    def undo() -> None:
        undo_attributes()
        for other in undos:
            other()

    return undo


def _call(function: Callable[..., Any], *arguments: Any) -> Undo:
    return lambda: function(*arguments)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block. Does nothing outside the main thread, where Python delivers no signals."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    pressed: list[Any] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed and callable(handler):
            handler(*pressed[0])
