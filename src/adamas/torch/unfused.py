"""The step with PyTorch's operations (``adamas.step.arrays``), for tensors on devices that the engine has no kernel for.

It is correct but unfused: it draws the same random numbers and stores in the same formats as the engine, but allocates one or
two temporaries for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..rule.declaration import Numbers, Rule
from ..rule.layout import LOW_BITS, scale_name
from ..step import arrays
from ..step.namespaces.torch import Namespace
from . import storage


def real(x: Tensor) -> Tensor:
    """The tensor, with complex numbers as a last dimension of size 2."""
    return torch.view_as_real(x) if x.is_complex() else x


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 weights, given a 16-bit parameter and its low bits (int16)."""
    value: Tensor = arrays.load_weight(Namespace(weight.device), arrays.Weight(weight, low), "float32")
    return value


def split(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float32 weights as 16-bit weights and their low bits (int16)."""
    return arrays.split(Namespace(value.device), value, storage.dtype_name(dtype))


@torch.no_grad()
def step(
    rule: Rule,
    numbers: Numbers,
    has_penalty: bool,
    weight: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    weights: str,
    random_key: int,
    first_row: int,
    step_count: int,
) -> None:
    """Steps one parameter in place, on any device.

    Args:
        rule: the rule.
        numbers: the numbers of the step.
        has_penalty: whether a penalty is added to the gradient.
        weight: the parameter.
        gradient: its gradient, of the same shape, in any floating-point dtype.
        state: the state of the parameter, by name.
        names: the names of the rule's states, in its order.
        weights: how 16-bit weights are rounded.
        random_key: the key of the parameter's random numbers (``adamas.rule.formats.tensor_key``).
        first_row: the index of its first row in the whole tensor, if it is a part of one.
        step_count: the number of steps, including this one.
    """
    how, before, gradient, states = _of(rule, numbers, has_penalty, weight, gradient, state, names, weights)
    rounding = arrays.Rounding(how.xp, random_key, step_count, before.high.shape, first_row)
    after = how.weight(before, gradient, states, weights, rounding, by_change=False)
    for target, value in zip(_tensors(before, states), _tensors(*after), strict=True):
        if target is not value:
            target.copy_(value)


@torch.no_grad()
def term(
    rule: Rule,
    numbers: Numbers,
    has_penalty: bool,
    weight: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    weights: str,
    function: Callable[..., Tensor],
) -> Tensor:
    """The terms of a sum (``adamas.rule.declaration.Sum``). The arguments are those of ``step``."""
    how, before, gradient, states = _of(rule, numbers, has_penalty, weight, gradient, state, names, weights)
    found: Tensor = how.term(before, gradient, states, function)
    return found


def _of(
    rule: Rule,
    numbers: Numbers,
    has_penalty: bool,
    weight: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    weights: str,
) -> tuple[arrays.Step, arrays.Weight, Tensor, list[arrays.Stored]]:
    """The step of a parameter, and its weight, gradient and states as arrays of real numbers."""
    how = arrays.Step(Namespace(weight.device), rule, numbers, has_penalty, numbers["k"] != 1)
    stored = arrays.Weight(real(weight), state.get(LOW_BITS) if weights == "split" else None)
    states = [arrays.Stored(real(state[name]), state.get(scale_name(name))) for name in names]
    return how, stored, real(gradient.resolve_conj().resolve_neg()), states


def _tensors(weight: arrays.Weight, states: Sequence[arrays.Stored]) -> list[Tensor]:
    return [tensor for stored in (weight, *states) for tensor in stored if tensor is not None]
