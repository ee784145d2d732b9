"""Optimizers for members that users declare."""

from __future__ import annotations

from typing import Any

from ..step.own import ForOwnMember
from .optimizer import Optimizer, Params


class OwnOptimizer(ForOwnMember, Optimizer):
    """The base class of optimizers for members of your own, which you declare with ``adamas.own``.

    Derive a class from it, and give it the declaration: ``class AdaBelief(OwnOptimizer, member=ADABELIEF)``. Its steps
    consist of separate NumPy operations, because the engine was compiled before the declaration was known.

    Args:
        params: the arrays; see ``adamas.numpy.members``.
        **hyperparameters: those of the declaration, by their names, and those of ``adamas.rule.options.Options``.

    Raises:
        TypeError: a hyperparameter is unknown.
        ValueError: a hyperparameter has an invalid value; or, when a class is derived, its declaration contradicts itself.
    """

    def __init__(self, params: Params, **hyperparameters: Any) -> None:
        self._refuse_without_member()
        super().__init__(params, {}, hyperparameters)
