"""The base class of schedule-free optimizers, whose weights are others for evaluation than while training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..step.arrays import Stored
from ..step.evaluation import Evaluated, refuse_interrupted, stored
from ..step.record import State
from .arrays import Array
from .optimizer import Optimizer
from .tensors import TENSORS


class ScheduleFreeOptimizer(Evaluated, Optimizer):
    """A schedule-free optimizer."""

    def _offsets(self, group: Mapping[str, Any]) -> Iterator[tuple[Any, Array, State, Stored]]:
        """See ``Evaluated._offsets``."""
        name = str(self._member.offset)
        for p, key in zip(group["params"], group["param_names"], strict=True):
            state = self.state.get(key)
            if state is not None and name in state:
                yield TENSORS, p, state, stored(TENSORS, state, name)

    def state_dict(self) -> dict[str, Array]:
        """See ``Optimizer.state_dict``. ``train_mode`` of its groups says which weights belong to it."""
        refuse_interrupted(self.param_groups)
        return super().state_dict()
