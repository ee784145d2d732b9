"""The step over PyTorch's own operations (``adamas.step.arrays``), for tensors on devices that the engine has no kernel for.

Correct and unfused: it draws the same random numbers and stores in the same formats as the engine, with a temporary or two
for each operation.
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
    """The tensor, complex numbers as a last dimension of two."""
    return torch.view_as_real(x) if x.is_complex() else x


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 weights of which a 16-bit parameter and its low bits (int16) are the two halves."""
    value: Tensor = arrays.load_weight(Namespace(weight.device), arrays.Weight(weight, low), "float32")
    return value


def split(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float32 weights as 16-bit ones and the low bits (int16)."""
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
    """Steps one parameter in place, on whatever device it is.

    Args:
        rule: the rule.
        numbers: of the step.
        has_penalty: whether a penalty goes through the gradient.
        weight: the parameter.
        gradient: of its shape, in any floating dtype.
        state: of the parameter, by name.
        names: of the rule's states, in its order.
        weights: how weights in 16 bits are rounded.
        random_key: of the parameter (``adamas.rule.formats.tensor_key``).
        first_row: where its rows begin in the whole tensor that it is a part of.
        step_count: the steps done, with this one.
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
