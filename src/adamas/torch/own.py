"""Optimizers for members that users declare."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from ..step.own import ForOwnMember
from .optimizer import Optimizer


class OwnOptimizer(ForOwnMember, Optimizer):
    """The base class of optimizers for members of your own, which you declare with ``adamas.own``.

    Derive a class from it, and give it the declaration: ``class AdaBelief(OwnOptimizer, member=ADABELIEF)``. It is
    used and saved like all other optimizers of ``adamas.torch``, in every storage format. On GPUs, a step is one kernel, which
    is generated from the declaration. On CPUs, a step takes longer: it consists of separate PyTorch operations, because the
    engine was compiled before the declaration was known.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        foreach: accepted, but has no effect.
        capturable: allows the step to be captured in a CUDA graph.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler``.
        **hyperparameters: those of the declaration, by their names, and those of ``adamas.torch.options.Options``.

    Raises:
        TypeError: a hyperparameter is unknown.
        ValueError: a hyperparameter has an invalid value; or, when a class is derived, its declaration contradicts itself.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **hyperparameters: Any,
    ) -> None:
        self._refuse_without_member()
        given = {"foreach": foreach, "capturable": capturable, "differentiable": differentiable, "fused": fused}
        super().__init__(params, given, hyperparameters)
