"""The step on PyTorch: the engine takes all variables in one call. Those that are not on the CPU go through
``adamas.torch.unfused``, the same rule over PyTorch's own operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version

from .. import _engine
from ..rule import formats
from ..rule.declaration import Member, Numbers, Rule, has_penalty
from ..rule.layout import LOW_BITS, scale_name
from ..step.engine import EngineRule
from ..torch import unfused
from ..torch.storage import dtype_name
from .traced import without_decay

if TYPE_CHECKING:
    from .optimizer import Optimizer

_ENGINE_DEVICE = "cpu"  # the devices that the engine has kernels for


class Plan:
    """The variables of a step as the engine takes them, for as long as they and the options stay the same.

    Args:
        tensors: the weights.
        states: for each its state by name.
        names: what messages call them.
        keys: for each the key of its random numbers.
        decayed: for each whether it has the decay and the penalties.
        member: the member.
        hyper: its hyperparameters.
        weights: how 16-bit weights are rounded.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        names: Sequence[str],
        keys: Sequence[int],
        decayed: Sequence[bool],
        member: Member,
        hyper: Mapping[str, Any],
        weights: str,
    ) -> None:
        self.tensors, self.options = list(tensors), (member.rule(hyper), has_penalty(hyper), weights)
        self._states, self._keys, self._decayed = states, keys, decayed
        self._rule, self._slots = EngineRule(member.rule(hyper)), member.state_names(hyper)
        self._elsewhere = [i for i, tensor in enumerate(tensors) if tensor.device.type != _ENGINE_DEVICE]
        self._groups = [
            (indices, is_decayed, self._group(indices, is_decayed, names))
            for is_decayed in (True, False)
            if (
                indices := [
                    i
                    for i, tensor in enumerate(tensors)
                    if tensor.device.type == _ENGINE_DEVICE and decayed[i] is is_decayed
                ]
            )
        ]

    def _group(self, indices: list[int], is_decayed: bool, names: Sequence[str]) -> _engine.Group:
        _, penalized, weights = self.options
        return _engine.Group(
            [(self.tensors[i], self._states[i], names[i], self._keys[i], 0) for i in indices],
            self._rule.index,
            is_decayed and penalized,
            weights,
            list(self._slots),
            [scale_name(name) for name in self._slots],
            LOW_BITS if weights == "split" else None,
            [],
            None,
        )

    def holds(self, tensors: list[Tensor], options: tuple[Rule, bool, str]) -> bool:
        """Whether it is the plan of these weights, with these options."""
        return self.options == options and _engine.same_objects(self.tensors, tensors)

    @torch.no_grad()
    def step(self, gradients: list[Tensor], numbers: Mapping[bool, Numbers], count: int) -> None:
        """Steps all variables in place.

        Args:
            gradients: one for each.
            numbers: the numbers of the step for variables with decay and penalties (True), and without.
            count: steps done, with this one.

        Raises:
            ValueError: a gradient cannot be used; the message names it. Nothing was changed.
        """
        threads = torch.get_num_threads()
        try:
            for indices, _, group in self._groups:
                group.collect([gradients[i] for i in indices])
            for _, _, group in self._groups:
                # Autograd has to know, or a graph that was built before the step would be differentiated with new weights.
                increment_version(group.collected())
            # All in one call, so that an exception from a signal handler does not come between the groups.
            _engine.step(
                [group for _, _, group in self._groups],
                [[self._rule.at(numbers[is_decayed])] for _, is_decayed, _ in self._groups],
                [[(float(count),)]] * len(self._groups),
                threads,
                [],
            )
        finally:
            for _, _, group in self._groups:
                group.discard()
        for i in self._elsewhere:
            state, is_decayed = self._states[i], self._decayed[i]
            rule, penalized, weights = self.options
            unfused.step(
                rule,
                numbers[is_decayed],
                is_decayed and penalized,
                self.tensors[i],
                gradients[i],
                tuple(state[name] for name in self._slots),
                tuple(state.get(scale_name(name)) for name in self._slots),
                state.get(LOW_BITS),
                weights,
                self._keys[i],
                0,
                count,
            )


@_disable_dynamo  # a compiled training step has a graph break here
def step(optimizer: Optimizer, gradients: Sequence[Tensor], variables: Sequence[Any], rate: Any) -> None:
    """Steps the variables of an optimizer in place.

    Args:
        optimizer: has been built.
        gradients: one for each variable.
        variables: those that have a gradient.
        rate: the learning rate, a number or what ``float`` makes one of.
    """
    member, hyper = optimizer._member, {**optimizer.hyperparameters(), "lr": float(rate)}
    before = {"step": float(optimizer.iterations), **{name: float(value) for name, value in optimizer._scalars.items()}}
    now = member.advance(hyper, before)
    numbers = member.numbers_of(hyper, now)
    plan = _current_plan(optimizer, variables, hyper)
    plan.step(list(gradients), {True: numbers, False: without_decay(numbers)}, int(now["step"]))
    for name, variable in optimizer._scalars.items():
        optimizer.assign(variable, now[name])


def _current_plan(optimizer: Optimizer, variables: Sequence[Any], hyper: Mapping[str, Any]) -> Plan:
    """The plan of these variables, made anew where a tensor or an option is another than it was."""
    tensors = [variable.value for variable in variables]
    options = optimizer._member.rule(hyper), has_penalty(hyper), optimizer.weights
    plan: Plan | None = optimizer._plan
    if plan is None or not plan.holds(tensors, options):
        indices = [optimizer._get_variable_index(variable) for variable in variables]
        plan = optimizer._plan = Plan(
            tensors,
            [{name: state.value for name, state in optimizer._states[i].items()} for i in indices],
            [repr(variable.path) for variable in variables],
            [optimizer._keys[i] for i in indices],
            [optimizer._decayed[i] for i in indices],
            optimizer._member,
            hyper,
            optimizer.weights,
        )
    return plan


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 weights of which a 16-bit variable and its low bits are the two halves."""
    return unfused.joined(weight.detach(), low)


def split(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float32 weights as 16-bit ones and the low bits (int16)."""
    high, low = formats.SPLIT[dtype_name(dtype)](torch, value.detach().contiguous())
    return high.to(torch.int16).view(dtype), low.to(torch.int16)
