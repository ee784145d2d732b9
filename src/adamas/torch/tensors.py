"""The operations on PyTorch's tensors that a step needs: see ``adamas.step.record.Tensors``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..rule.declaration import Member
from ..rule.layout import LOW_BITS, Part
from ..step.namespaces.torch import Namespace
from ..step.record import TensorView, Wholes
from . import distributed, storage, whole
from .distributed import is_distributed, local_of
from .options import refuse_alone, refuse_sparse, refuse_wrapper


class Tensors:
    """See ``adamas.step.record.Tensors``."""

    dtype_name = staticmethod(storage.dtype_name_of)
    scalar = staticmethod(storage.scalar)
    as_scalar = staticmethod(storage.as_scalar)
    refuse_alone = staticmethod(refuse_alone)

    @staticmethod
    def is_on_cpu(weight: Tensor) -> bool:
        """See ``adamas.step.record.Tensors.is_on_cpu``."""
        return weight.device.type == "cpu"

    @staticmethod
    def is_on_gpu(weight: Tensor) -> bool:
        """On one of NVIDIA or AMD: PyTorch calls both cuda."""
        return weight.device.type == "cuda"

    @staticmethod
    def shape_of(weight: Tensor) -> tuple[int, ...]:
        """The shape of the part of the weight that this process has."""
        return tuple(local_of(weight).shape)

    @staticmethod
    def view_of(tensor: object) -> TensorView | None:
        """See ``adamas.step.record.Tensors.view_of``."""
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return None
        local = local_of(tensor)
        return TensorView(tuple(local.shape), local.stride(), storage.dtype_name_of(local), local.device)

    def state_device(self, weight: Tensor) -> torch.device:
        """That of the weight."""
        return weight.device

    def full(self, weight: Tensor, part: Part, whole: tuple[int, ...] | None) -> Tensor:
        """See ``adamas.step.record.Tensors.full``."""
        tensor = storage.full(local_of(weight), part)
        if whole is None:
            return tensor
        if part.name == LOW_BITS:
            tensor, whole = storage.as_bytes(tensor), (*whole, 2)
        return distributed.like(weight, tensor, whole, repr(part.name)) if is_distributed(weight) else tensor

    @staticmethod
    def gradient_of(weight: Tensor) -> Tensor | None:
        """The gradient; of a DTensor that of the part that this process has.

        Raises:
            ValueError: the weight is a DTensor, and the gradient lies elsewhere than it does.
        """
        gradient = weight.grad if weight.requires_grad else None
        if gradient is None or not is_distributed(weight):
            return gradient
        if not distributed.is_placed_as(weight, gradient):
            raise ValueError("the gradient of a DTensor has other placements than the parameter")
        return distributed.waited_for(local_of(gradient))

    @staticmethod
    def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor, int] | None:
        """See ``adamas.step.record.Tensors.rows_of``."""
        if gradient.layout != torch.sparse_coo or gradient.sparse_dim() != 1 or gradient.device.type != "cpu":
            return None
        # Not coalesced, which copies all values: the engine sorts the indices, and adds up the rows that are there twice.
        values = gradient._values().resolve_conj().resolve_neg().contiguous()
        return gradient._indices()[0].contiguous(), values, gradient.shape[0]

    @staticmethod
    def wholes_of(weight: Tensor) -> Wholes:
        """See ``adamas.step.record.Tensors.wholes_of``."""
        if not is_distributed(weight):
            return Wholes(tuple(weight.shape), None, 1)
        group = whole.group_of(weight)
        where = weight.device_mesh, weight.placements
        return Wholes(tuple(weight.shape), where, 1 if group is None else group.size())

    results_of = staticmethod(whole.results_of)

    @staticmethod
    def piece_of(tensor: Tensor, piece: tuple[slice, ...]) -> Tensor:
        """See ``adamas.step.record.Tensors.piece_of``."""
        return local_of(tensor).detach()[piece]

    @staticmethod
    def check_gradient(gradient: Tensor, name: str, member: Member) -> None:
        """Refuses sparse gradients, and tensors that have their values in other tensors."""
        if gradient.layout != torch.strided:
            refuse_sparse(gradient, f"that of parameter {name}", member)
        if is_distributed(gradient):
            raise ValueError(
                f"the gradient of parameter {name} is a DTensor, but must be a plain tensor, as the parameter is"
            )
        refuse_wrapper(gradient, f"the gradient of parameter {name}")

    @staticmethod
    def before_writing(weights: list[Tensor]) -> None:
        """Tells autograd, so that it does not use the new weights to differentiate a graph from before the step."""
        increment_version(weights)

    @staticmethod
    def engine_view(weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight

    @staticmethod
    def namespace(weight: Tensor) -> Namespace:
        """PyTorch on the weight's device."""
        return Namespace(weight.device)

    @staticmethod
    def array(tensor: Tensor) -> Tensor:
        """The part of the tensor that this process has, with complex numbers as a last dimension of size 2."""
        tensor = local_of(tensor)
        return torch.view_as_real(tensor) if tensor.is_complex() else tensor

    @staticmethod
    def low_bits(tensor: Tensor) -> Tensor:
        """Here the state has them as bytes, since collectives take no 16-bit integers; in Keras it has integers."""
        return storage.as_int16(local_of(tensor))

    @classmethod
    def gradient_array(cls, gradient: Tensor) -> Tensor:
        """The part of the gradient that this process has, as ``array``."""
        return cls.array(gradient.resolve_conj().resolve_neg())


TENSORS = Tensors()
