"""Batch normalization over the examples of all ranks. ``torch.nn.SyncBatchNorm`` is the same, but only for GPUs.

May import PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all ranks."""

    @staticmethod
    def forward(context: Any, group: dist.ProcessGroup, values: Tensor) -> Tensor:
        context.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """Each rank's values are in the sum of every rank, so their gradient is the sum of all ranks' gradients."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=context.group)
        return None, total


def _summed(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    total: Tensor = _Sum.apply(group, values)  # type: ignore[no-untyped-call]
    return total


class OverRanks(_BatchNorm):
    """A batch normalization whose mean and variance are those of the inputs of all ranks, while it trains.

    All ranks call it together, and again in the backward pass.
    """

    group: dist.ProcessGroup

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``, examples × channels × any others, and update the running averages.

        Raises:
            ValueError: ``x`` has other dimensions than the layer, or all ranks together have one value for each channel.
        """
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        sums = torch.cat([values.sum(others), values.new_tensor([values.numel() / values.shape[1]])])
        total = _summed(sums, self.group)
        count = total[-1].detach()
        if count.item() < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        mean = total[:-1] / count
        centered = values - mean.view(shape)
        variance = _summed(centered.square().sum(others), self.group) / count
        self._observe(mean.detach(), variance.detach() * count / (count - 1))
        normal: Tensor = (centered * (variance + self.eps).rsqrt().view(shape)).to(x.dtype)
        return normal if self.weight is None else normal * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _observe(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running averages as ``torch.nn.BatchNorm1d`` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def over_ranks(model: nn.Module) -> None:
    """Let the batch normalizations of a model work over all ranks; their names and weights stay the same."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return
    group = dist.new_group()  # of their own, since a backward pass averages gradients meanwhile
    for layer in layers:
        if not isinstance(layer, nn.SyncBatchNorm):
            layer.__class__ = type(type(layer).__name__, (OverRanks, type(layer)), {"group": group})
