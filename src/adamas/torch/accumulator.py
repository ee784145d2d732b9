"""Sums of gradients in bfloat16, for micro-batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import distributed
from .distributed import is_distributed, local_of
from .members import SGD


class Accumulator:
    """The sum of gradients of a parameter, in 2 bytes an element.

    A gradient is added by a step of gradient descent with a rate of 1 that rounds its weights stochastically, so the sum is
    right on average however many there are. The random numbers depend on the name and on the number of gradients added so far.

    Args:
        weight: the parameter.
        name: its name or, if it has none, its position among all.
        seed: the seed of its group.
        added: the number of gradients that have been added before.

    Attributes:
        is_empty: whether nothing has been added since ``take``.
    """

    def __init__(self, weight: Tensor, name: str, seed: int, added: float) -> None:
        total = torch.zeros_like(local_of(weight), dtype=torch.bfloat16, requires_grad=False)
        if is_distributed(weight):
            total = distributed.like(weight, total, weight.shape, f"the sum of gradients of parameter {name}")
        # Not the name of the parameter: the step that rounds its weights stochastically would have the same random numbers.
        self._sgd = SGD([(f"{name}.grad", nn.Parameter(total))], 1.0, maximize=True, weights="stochastic", seed=seed)
        self._total = self._sgd.param_groups[0]["params"][0]
        self._sgd._initialize_state(self._sgd.param_groups[0], 0, name)
        self._sgd.state[self._total]["step"].fill_(added)
        self.is_empty = True

    @property
    def total(self) -> Tensor:
        """The sum, or the part of it that this process has."""
        return local_of(self._total.detach())

    @property
    def added(self) -> Tensor:
        """The number of gradients that have been added ever."""
        added: Tensor = self._sgd.state[self._total]["step"]
        return added

    def add(self, weight: Tensor, threads: int) -> None:
        """Adds the gradient of the parameter."""
        self.is_empty = False
        self._sgd._step_all([[_local_gradient(weight)]], 1.0, threads)

    def take(self, weight: Tensor) -> None:
        """Adds the sum to the gradient of the parameter, and begins anew."""
        if self.is_empty:
            return
        if weight.grad is not None:
            _local_gradient(weight).add_(self.total)
        else:
            local = self.total.to(weight.dtype, copy=True)
            if is_distributed(weight):
                local = distributed.like(weight, local, weight.shape, "the gradient")
            weight.grad = local
        self.clear()

    def clear(self) -> None:
        """Begins anew."""
        if not self.is_empty:
            self.total.zero_()
            self.is_empty = True


def _local_gradient(weight: Tensor) -> Tensor:
    """The gradient or, of a DTensor, the part that this process has, after it was given the placements of the weight."""
    gradient = weight.grad
    assert gradient is not None
    if not is_distributed(weight):
        return gradient
    placed: Any = gradient  # a DTensor, as the weight is
    local = distributed.placed_as(weight, placed)
    if distributed.is_misplaced(weight, placed):
        weight.grad = distributed.like(weight, local, weight.shape, "the gradient")
    return local
