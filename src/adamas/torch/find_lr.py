"""The learning-rate finder: sweeps the rate over many batches, and leaves everything as it was.

This module has the sweep. ``adamas.lr_finding`` reads the curve, and ``restoring`` puts everything back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..lr_finding import LRFinding, LRFindingError, Sweep, check_sweep, conclude
from ..step.stepping import Stepping
from .distributed import is_distributed
from .optimizer import Optimizer
from .restoring import accelerators, restored

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]


def find_lr(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Batches,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    sweeps: int = 3,
    seed: int = 0,
) -> LRFinding:
    """Suggests a learning rate: sweeps it from ``low`` to ``high``, one step per batch, and finds where the loss falls.

    Three rules read the curve: the rate at which it falls fastest, the rate at which it has fallen by three quarters, and a
    tenth of the rate at which it diverges. The suggestion is their median, and comes with a confidence; see ``LRFinding``.
    Sources: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; Smith and Topin,
    Super-Convergence (2018).

    Afterwards everything is as it was, bit for bit, even if an exception or Ctrl-C ends the search: weights, buffers, modes,
    gradients and ``requires_grad``, the optimizer's state (a fresh one has none) and rates, random numbers, and the position
    in the data. During the sweep, a schedule of the optimizer's rate is suspended. The search needs memory for one more copy
    of the weights and two of the optimizer's state.

    >>> import adamas.torch, torch
    >>> from torch.nn import functional as F
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(8, 1)
    >>> inputs = torch.randn(64, 32, 8)
    >>> batches = [(x, x.sum(1, keepdim=True)) for x in inputs]
    >>> optimizer = adamas.torch.Adam(model.parameters())
    >>> def loss_fn(model, batch):
    ...     x, y = batch
    ...     return F.mse_loss(model(x), y)
    >>> finding = adamas.torch.find_lr(model, optimizer, loss_fn, batches)
    >>> 0.01 < finding.lr < 1
    True
    >>> optimizer.state_dict()["state"]
    {}

    Args:
        model: is put into training mode for the sweep.
        optimizer: an optimizer of ``adamas.torch`` or ``torch.optim`` over parameters of the model. Each sweep begins with the
            given weights and state. Groups keep the ratios of their rates (of ``initial_lr``, if there is one); the rate that
            is swept and suggested is that of the group with the highest.
        loss_fn: takes the model and a batch, and returns the loss, a tensor of one element that depends on the parameters;
            it may be negative. A batch is whatever ``batches`` yields.
        batches: an iterable that can be iterated repeatedly, such as a list or a DataLoader, or a function that takes a seed
            and returns one. If there are fewer than ``steps * sweeps`` batches, they are repeated. A sequence is shuffled.
            Each sweep continues in the data where the last one ended.
        low: the first rate. It must be too low for the loss to change.
        high: the last rate, at which the loss should diverge. In between, every step multiplies the rate by the same factor.
        steps: the number of batches in a sweep, at least 20.
        sweeps: the number of sweeps, each with other batches and other random numbers.
        seed: determines the order of a sequence, and the random numbers. The same seed gives the same finding.

    Raises:
        LRFindingError: no rate can be suggested: the loss never fell, fell or diverged at the lowest rates, is not finite, or
            does not depend on the parameters; or there are no batches. The message says what to change.
        ValueError: an argument has an invalid value, parameters are DTensors, or the optimizer is released.
        TypeError: ``batches`` can be iterated only once, as a generator can: its position could not be restored.
    """
    _check(model, optimizer, batches, low, high, steps, sweeps)
    rates = np.geomspace(low, high, steps).tolist()
    with restored(model, optimizer, batches) as rewind, torch.enable_grad():
        _seed(seed, model)
        losses = []
        with closing(_endless(batches, seed)) as source:
            for _ in range(sweeps):
                rewind()
                model.train()
                losses.append(_sweep(model, optimizer, loss_fn, source, rates))
    return conclude(rates, losses)


def _check(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    low: float,
    high: float,
    steps: int,
    sweeps: int,
) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be one of adamas.torch or torch.optim, not {type(optimizer).__name__}")
    check_sweep(low, high, steps, sweeps)
    if any(is_distributed(p) for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer has DTensors, and each process would sweep rates of its own: find the rate in one process, before "
            "the model is sharded"
        )
    if isinstance(optimizer, Optimizer) and optimizer._released is not None:
        raise ValueError(
            "the optimizer is released and steps in the backward pass: find the rate before adamas.torch.release, or after "
            "remove() on its handle"
        )
    if isinstance(batches, Iterator):
        raise TypeError(
            f"batches is a {type(batches).__name__}, which can be iterated only once: the batches that the sweep takes would "
            "be missing from it afterwards. Give a list, a DataLoader, or a function that takes a seed and returns one"
        )
    if not isinstance(batches, Iterable) and not callable(batches):
        raise TypeError(f"batches must be iterable, or a function that takes a seed, not {type(batches).__name__}")


def _seed(seed: int, model: nn.Module) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    for module in accelerators(model):
        getattr(module, "manual_seed_all", module.manual_seed)(seed)


def _endless(batches: Batches, seed: int) -> Generator[Any, None, None]:
    """An endless stream of batches: after the last, it starts again, in another order if possible."""
    order = random.Random(seed)
    while True:
        if isinstance(batches, Sequence):
            chosen: Iterable[Any] = (batches[i] for i in order.sample(range(len(batches)), len(batches)))
        elif callable(batches) and not isinstance(batches, Iterable):
            chosen, seed = batches(seed), seed + 1
        else:
            chosen = batches
        empty = True
        for batch in chosen:
            empty = False
            yield batch
        if empty:
            raise LRFindingError("there are no batches. Give at least one, preferably as many as steps")


def _sweep(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    source: Iterator[Any],
    rates: Sequence[float],
) -> list[float]:
    """The loss before the step at each rate, up to the rate at which it diverges."""
    shares = _proportions(optimizer)
    sweep = Sweep()
    for number, rate in enumerate(rates):
        loss = loss_fn(model, next(source))
        _check_loss(loss, first=number == 0)
        if not sweep.add(float(loss.detach())):
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if number == 0:
            _check_gradients(optimizer)
        _set_rate(optimizer, rate, shares)
        optimizer.step()
    return sweep.losses


def _proportions(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's rate as a fraction of the highest."""
    rates = []
    schedules = optimizer.schedules if isinstance(optimizer, Stepping) else [{} for _ in optimizer.param_groups]
    for group, scheduled in zip(optimizer.param_groups, schedules, strict=True):
        if "lr" not in group:
            raise ValueError(f"{type(optimizer).__name__} has no learning rate (no 'lr' in its groups)")
        schedule = scheduled.get("lr")
        rate = group.get("initial_lr", group["lr"]) if schedule is None else schedule.unit
        rates.append(float(rate) if isinstance(rate, int | float | Tensor) else 1.0)
    highest = max(rates, default=0.0)
    return [rate / highest if highest > 0 else 1.0 for rate in rates]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, shares: Sequence[float]) -> None:
    if isinstance(optimizer, Stepping):
        optimizer._drop_schedules()
    for group, share in zip(optimizer.param_groups, shares, strict=True):
        lr = group["lr"]
        group["lr"] = torch.full_like(lr, rate * share) if isinstance(lr, Tensor) else rate * share
        if "base_lr" in group:
            group["base_lr"] = rate * share  # as if it had been constructed with this rate


def _check_loss(loss: Any, first: bool) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TypeError(f"loss_fn must return the loss as a tensor of one element, not {given}")
    if first and not loss.requires_grad:
        raise LRFindingError(
            "the loss does not depend on the parameters: it has no gradient. Return it from loss_fn as it is computed from "
            "model(…), without .item(), .detach() or torch.no_grad()"
        )


def _check_gradients(optimizer: torch.optim.Optimizer) -> None:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        raise LRFindingError(
            "the loss does not depend on the parameters of the optimizer: none of them has a gradient. Make the optimizer "
            "over the parameters of this model"
        )
    if all(gradient.layout == torch.strided and not torch.count_nonzero(gradient) for gradient in gradients):
        raise LRFindingError(
            "the loss does not depend on the parameters: every gradient is 0 at the first batch, so no rate can lower it"
        )
