"""The operations on PyTorch's tensors that a step needs: see ``adamas.step.record.Tensors``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..rule.declaration import Numbers
from ..step.executor import GroupSpec
from ..step.record import Record
from . import storage, unfused
from .options import refuse_alone, refuse_wrapper


class _Tensors:
    """See ``adamas.step.record.Tensors``."""

    dtype_name = staticmethod(storage.dtype_name_of)
    scalar = staticmethod(storage.scalar)
    as_scalar = staticmethod(storage.as_scalar)
    filled = staticmethod(storage.filled)
    refuse_alone = staticmethod(refuse_alone)

    @staticmethod
    def is_on_cpu(weight: Tensor) -> bool:
        return weight.device.type == "cpu"

    @staticmethod
    def gradient_of(weight: Tensor) -> Tensor | None:
        return weight.grad if weight.requires_grad else None

    @staticmethod
    def check_gradient(gradient: Tensor, name: str, optimizer: str) -> None:
        """Refuses sparse gradients, and tensors that have their values in other tensors."""
        if gradient.layout != torch.strided:
            raise RuntimeError(
                f"{optimizer} does not support sparse gradients, and that of parameter {name} is {gradient.layout}: make it "
                "dense (for an embedding: sparse=False), or use torch.optim.SparseAdam for this parameter"
            )
        refuse_wrapper(gradient, f"the gradient of parameter {name}")

    @staticmethod
    def has_nonzero(gradient: Tensor) -> bool:
        return bool(gradient.any())

    @staticmethod
    def before_writing(weights: list[Tensor]) -> None:
        """Tells autograd, so that it does not use the new weights to differentiate a graph from before the step."""
        increment_version(weights)

    @staticmethod
    def engine_view(weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight

    @staticmethod
    def write_scalar(scalar: Tensor, value: float) -> None:
        scalar.fill_(value)

    @staticmethod
    def low_bits(weight: Tensor) -> Tensor:
        return torch.zeros_like(weight, dtype=torch.int16, memory_format=torch.preserve_format)

    @staticmethod
    def step(spec: GroupSpec, record: Record, gradient: Tensor, numbers: Numbers, penalized: bool, count: int) -> None:
        """Steps a parameter in place with PyTorch's operations.

        Raises:
            RuntimeError: a CUDA graph is being captured.
        """
        if gradient.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "an Adamas step computes its coefficients on the host and cannot be captured in a CUDA graph"
            )
        unfused.step(
            spec.rule,
            numbers,
            penalized,
            record.weight,
            gradient,
            record.state,
            spec.state_names,
            spec.weights,
            record.key,
            record.first_row,
            count,
        )

    @staticmethod
    @torch.no_grad()
    def squares(gradient: Tensor) -> Tensor:
        return unfused.real(gradient).to(torch.float64).square().flatten()

    @staticmethod
    def is_finite(gradient: Tensor) -> bool:
        return bool(torch.isfinite(unfused.real(gradient)).all())

    @staticmethod
    @torch.no_grad()
    def terms(
        spec: GroupSpec,
        record: Record,
        gradient: Tensor,
        numbers: Numbers,
        penalized: bool,
        term: Callable[..., Tensor],
    ) -> Tensor:
        found = unfused.term(
            spec.rule,
            numbers,
            penalized,
            record.weight,
            gradient,
            record.state,
            spec.state_names,
            spec.weights,
            term,
        )
        return found.to(torch.float64).flatten()


TENSORS = _Tensors()
