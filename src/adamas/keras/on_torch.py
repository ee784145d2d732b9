"""The step on PyTorch: the engine takes all variables in one call. Those that are not on the CPU go through
``adamas.torch.unfused``, the same rule over PyTorch's own operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version

from .. import _engine, formats
from ..family import Coefficients
from ..layout import LOW_BITS, scale_name
from ..torch import unfused
from ..torch.storage import dtype_name

_ENGINE_DEVICE = "cpu"  # the devices that the engine has kernels for


class Plan:
    """The variables of a step as the engine takes them, for as long as they and the options stay the same.

    Args:
        tensors: the weights.
        states: for each its state by name.
        names: what messages call them.
        keys: for each the key of its random numbers.
        decayed: for each whether it has the decay and the penalties.
        shapes: the shape of the rule for those that have, and for those that have not.
        weights: how 16-bit weights are rounded.
        slots: the names of the moments, in the engine's order.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        names: Sequence[str],
        keys: Sequence[int],
        decayed: Sequence[bool],
        shapes: tuple[int, int],
        weights: str,
        slots: Sequence[str | None],
    ) -> None:
        self.tensors, self.options = list(tensors), (shapes, weights)
        self._states, self._keys, self._decayed = states, keys, decayed
        self._shapes, self._weights, self._slots = shapes, weights, list(slots)
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
        return _engine.Group(
            [self.tensors[i] for i in indices],
            [self._states[i] for i in indices],
            [names[i] for i in indices],
            [self._keys[i] for i in indices],
            [0] * len(indices),
            self._shapes[0 if is_decayed else 1],
            self._weights,
            [*self._slots, LOW_BITS if self._weights == "split" else None],
            [*(None if name is None else scale_name(name) for name in self._slots), None],
            [],
        )

    def holds(self, tensors: list[Tensor], options: tuple[tuple[int, int], str]) -> bool:
        """Whether it is the plan of these weights, with these options."""
        return self.options == options and _engine.same_objects(self.tensors, tensors)

    @_disable_dynamo
    @torch.no_grad()
    def step(self, gradients: list[Tensor], numbers: Mapping[bool, Coefficients], count: int) -> None:
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
            for _, is_decayed, group in self._groups:
                group.step([numbers[is_decayed]], [(float(count),)], threads)
                # Autograd has to know, or a graph that was built before the step would be differentiated with new weights.
                increment_version(group.collected())
        finally:
            for _, _, group in self._groups:
                group.discard()
        for i in self._elsewhere:
            state, is_decayed = self._states[i], self._decayed[i]
            unfused.step(
                numbers[is_decayed],
                self._shapes[0 if is_decayed else 1],
                self.tensors[i],
                gradients[i],
                tuple(None if name is None else state[name] for name in self._slots),
                tuple(None if name is None else state.get(scale_name(name)) for name in self._slots),
                state.get(LOW_BITS),
                self._weights,
                self._keys[i],
                0,
                count,
            )


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 weights of which a 16-bit variable and its low bits are the two halves."""
    return unfused.joined(weight.detach(), low)


def split(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float32 weights as 16-bit ones and the low bits (int16)."""
    high, low = formats.SPLIT[dtype_name(dtype)](torch, value.detach().contiguous())
    return high.to(torch.int16).view(dtype), low.to(torch.int16)
