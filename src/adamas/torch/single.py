"""An optimizer's step for one of its parameters alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..step.clipping import GRAD_NORMS, MOST
from ..step.locks import step_lock
from ..step.plan import GroupPlan
from ..step.watching import Part
from .optimizer import RELEASED, Optimizer, parameter_names

_OF_EACH = ("rows", "param_names")  # the entries of a group that are lists with an entry for each parameter
_COUNTS = ("clipped_steps", "skipped_steps")
_OWN = ("params", GRAD_NORMS, *_COUNTS, *_OF_EACH)


class Position(NamedTuple):
    """Where a parameter is in its optimizer: the index of its group, its index there, and its position among all."""

    group: int
    in_group: int
    among_all: int


class Single(Optimizer):
    """Steps one parameter of an optimizer, with the numbers of its group and the same state.

    What it measures, clips, skips and counts is of this parameter alone.

    Args:
        whole: the optimizer.
        position: where the parameter is in it.
    """

    def __init__(self, whole: Optimizer, position: Position) -> None:
        # The constructor of the base would check the options again, and install hooks of its own.
        vars(self).update(_member=whole._member, _lock=step_lock(), _homes=whole._homes, defaults=whole.defaults)
        self._reference, self._reported = weakref.ref(whole), (0, 0)
        weight = whole.param_groups[position.group]["params"][position.in_group]
        norms = _norms_of(whole.state.get(weight, {}))
        own = {"params": [weight], GRAD_NORMS: norms, **dict.fromkeys(_COUNTS, 0)}
        self.param_groups, self.state, self._schedules = [own], {}, []
        self._begin()
        self.move(position)

    @property
    def _whole(self) -> Optimizer:
        whole = self._reference()
        assert whole is not None
        return whole

    @property
    def parameter(self) -> Tensor:
        """The parameter."""
        weight: Tensor = self.param_groups[0]["params"][0]
        return weight

    @property
    def name(self) -> str:
        """The name of the parameter in messages."""
        return parameter_names(self.param_groups[0], self.position.among_all)[0]

    def move(self, position: Position) -> None:
        """Takes note of where the parameter is in the optimizer now."""
        self.position, group = position, self._whole.param_groups[position.group]
        self._plans = None
        self.param_groups[0].update({name: [group[name][position.in_group]] for name in _OF_EACH if group.get(name)})

    def follow(self) -> None:
        """Takes over the present options of the group, and the present state."""
        group = self._whole.param_groups[self.position.group]
        self.param_groups[0].update({name: value for name, value in group.items() if name not in _OWN})
        self._watching = self._whole._watching
        state = self._whole.state[self.parameter]
        if self.state.get(self.parameter) is not state:
            self.state = {self.parameter: state}

    def step_now(self, threads: int, gradient: Tensor | None = None) -> None:
        """Steps the parameter as ``follow`` has found it. See ``Optimizer.step`` for what is raised.

        If its step is on the host, that is made at the end of a context of ``HomeTensors.flushed``.

        Args:
            threads: the number of threads of the engine.
            gradient: its gradient; None for the one that it has.
        """
        self._step_all(None if gradient is None else [[gradient]], 1.0, threads)

    def counted(self) -> tuple[int, int]:
        """How often the parameter was clipped and skipped since ``report``. If a device counts, the host waits for it."""
        clipped, skipped = self._reported
        return self.clipped_steps - clipped, self.skipped_steps - skipped

    def report(self) -> tuple[int, int]:
        """Returns ``counted()``, which then begins anew."""
        found = clipped, skipped = self.counted()
        self._reported = self._reported[0] + clipped, self._reported[1] + skipped
        return found

    def remembered(self) -> Tensor:
        """The norms for ``max_grad_norm="auto"``, filled up with zeros: the size is always the same."""
        self._save_decisions()
        norms = self.param_groups[0][GRAD_NORMS]
        return torch.tensor([*norms, *[0.0] * (MOST - len(norms))], dtype=torch.float64, device="cpu")

    # ---- the step

    def _begin_ring(self) -> None:
        """See ``Stepping._begin_ring``. The whole has it."""

    def _end_watching(
        self, plans: Sequence[GroupPlan] | None, steps: Any, clips: Sequence[Any] | None, runs: Any
    ) -> None:
        """See ``Stepping._end_watching``. The whole counts the step."""
        if plans is not None:
            super()._end_watching(plans, steps, clips, runs)

    def _record_watched(
        self, plans: Sequence[GroupPlan], parts: Sequence[Part], steps: Any, clip: Any, runs: Any
    ) -> None:
        """See ``Stepping._record_watched``. The whole writes them, when all parameters have been stepped."""
        assert self._watching is not None
        self._watching.parts += parts

    def _plan(self, group: dict[str, Any], first: int, positions: Sequence[int]) -> GroupPlan:
        """The plan of the parameter, with the name and the random numbers that it has in the whole."""
        position = self.position.among_all
        self._initialize_state(group, 0, self.name)  # also if the gradient is passed to it
        return super()._plan(group, position, range(position + 1))

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield self.name, self.parameter

    def _why_on_host(self) -> str:
        """See ``Optimizer._why_on_host``."""
        return super()._why_on_host() if self._peers is None else RELEASED

    def _is_measured(self) -> bool:
        """See ``Stepping._is_measured``. All parameters are measured if one of them is, for the norm over all."""
        return self._whole._is_measured()

    def _is_query(self, plans: Sequence[GroupPlan]) -> bool:
        """See ``Stepping._is_query``. A single parameter whose gradient is 0 says nothing about the others."""
        return False

    def _not_finite(self, name: str | None) -> FloatingPointError:
        """See ``Stepping._not_finite``."""
        return FloatingPointError(
            f"the gradient of parameter {name} has a NaN or an infinity, and it was not stepped; parameters whose gradients "
            'came earlier in this backward pass were (on_nonfinite="skip" would leave out such tensors and count them)'
        )


def _norms_of(state: dict[str, Any]) -> tuple[float, ...]:
    """The norms that a state remembers, without the zeros that fill it up."""
    saved = state.get(GRAD_NORMS)
    return tuple(norm for norm in saved.tolist() if norm > 0) if isinstance(saved, Tensor) else ()
