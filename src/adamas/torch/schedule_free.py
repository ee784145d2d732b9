"""The base class of schedule-free optimizers, whose weights are others for evaluation than while training."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT

from ..step.arrays import Stored
from ..step.evaluation import TRAIN_MODE, Evaluated, refuse_interrupted, stored
from ..step.record import State
from . import storage
from .distributed import is_here, local_of
from .edges import edges_of
from .optimizer import Optimizer
from .tensors import TENSORS, Tensors


class ScheduleFreeOptimizer(Evaluated, Optimizer):
    """A schedule-free optimizer. Given the model, it warns if that is used in another mode than the weights are in."""

    def _of_model(self, model: nn.Module, given: dict[str, Any]) -> ParamsT:
        """See ``Optimizer._of_model``."""
        weakref.finalize(self, model.register_forward_pre_hook(_ModeCheck(self)).remove)
        return model.named_parameters()

    def _offsets(self, group: Mapping[str, Any]) -> Iterator[tuple[Tensors, Tensor, State, Stored]]:
        """See ``Evaluated._offsets``."""
        name = str(self._member.offset)
        for i, p in enumerate(group["params"]):
            state = None if is_lazy(p) or not is_here(p) else self.state.get(p)
            if state is None or name not in state:
                continue
            offset, edges = stored(TENSORS, state, name), edges_of(self._member, group, i)
            if edges is not None and offset.is_coded(TENSORS.namespace(p)):
                wide = edges.widened_here(local_of(state[name]))
                offset = Stored(edges.narrowed(storage.decoded(wide, offset.scale, wide.shape)))
            yield TENSORS, p, state, offset

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See ``Optimizer.state_dict``. ``train_mode`` of its groups says which weights belong to it."""
        refuse_interrupted(self.param_groups)
        return super().state_dict(*args, **kwargs)


class _ModeCheck:
    """Warns, once for each mode, before a forward pass of a model whose mode is not that of its weights.

    A copy of the model checks nothing.
    """

    def __init__(self, optimizer: ScheduleFreeOptimizer | None) -> None:
        self._optimizer = (lambda: None) if optimizer is None else weakref.ref(optimizer)
        self._told: set[bool] = set()

    def __reduce__(self) -> Any:
        return _ModeCheck, (None,)

    def __call__(self, model: nn.Module, _: Any) -> None:
        """Called before the forward pass."""
        if torch.compiler.is_compiling():
            return
        optimizer = self._optimizer()
        if optimizer is None or not optimizer.state or model.training in self._told:
            return
        if all(group[TRAIN_MODE] is model.training for group in optimizer.param_groups):
            return
        self._told.add(model.training)
        method, use = ("train", "training") if model.training else ("eval", "evaluation")
        warnings.warn(
            f"the model is in {use} mode (model.{method}()), and its weights are not those for {use}: call "
            f"optimizer.{method}() as well",
            stacklevel=2,
        )
