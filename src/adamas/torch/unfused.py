"""The rule over PyTorch's own operations, for tensors on devices that the engine has no kernel for.

Correct and unfused: it draws the same random numbers and stores in the same formats as the engine, with a temporary or two
for each operation. It holds no arithmetic of its own: that is in ``adamas.rule``.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from ..rule import formats, house, layout
from ..rule.declaration import WEIGHT_DRAW, Numbers, Rule
from . import storage


def _codes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int16).to(torch.int64) & 0xFFFF


def _store(codes: Tensor, target: Tensor) -> None:
    target.copy_(codes.to(torch.int16).view(target.dtype))


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


class Namespace:
    """PyTorch's functions as rules use them."""

    abs, sqrt, where, maximum = torch.abs, torch.sqrt, torch.where, torch.maximum

    @staticmethod
    def sign(x: Tensor) -> Tensor:
        """The sign, and NaN of NaN, which ``torch.sign`` calls 0."""
        return torch.where(x.isnan(), x, x.sign())


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The float32 weights of which a 16-bit parameter and its low bits (int16) are the two halves."""
    value: Tensor = formats.JOIN[storage.dtype_name(weight.dtype)](torch, _codes(weight), low.to(torch.int64) & 0xFFFF)
    return value


@torch.no_grad()
def step(
    rule: Rule,
    numbers: Numbers,
    penalized: bool,
    weight: Tensor,
    gradient: Tensor,
    state: tuple[Tensor, ...],
    scales: tuple[Tensor | None, ...],
    low: Tensor | None,
    weights: str,
    random_key: int,
    first_row: int,
    step_count: int,
) -> None:
    """Steps one parameter in place, on whatever device it is.

    ``state`` holds the tensors of the rule's states, ``scales`` those of the ones in 8 bits, ``low`` the low bits of a split
    weight (int16) or None.
    """
    p, g = _real(weight), _real(gradient.resolve_conj().resolve_neg())
    stored = [_real(x) for x in state]
    compute = torch.float64 if p.dtype == torch.float64 else torch.float32
    row = p[:1].numel() if p.ndim else 1
    index = (torch.arange(p.numel(), device=p.device) + first_row * row).reshape(p.shape)

    def round_into(target: Tensor, value: Tensor, draw: int | None) -> None:
        encode = formats.ENCODE.get(storage.dtype_name(target.dtype))
        if encode is None or draw is None:
            target.copy_(value)
        else:
            random = formats.random16(torch, index, random_key, step_count, draw)
            _store(encode(torch, value.to(torch.float32).contiguous(), random), target)

    def load(x: Tensor, scale: Tensor | None) -> Tensor:
        if not storage.is_coded(x):
            return x.to(compute)
        assert scale is not None
        return storage.decoded(x, scale).to(compute)

    def code_into(target: Tensor, scale: Tensor, value: Tensor, factor: float, draw: int | None) -> None:
        values = layout.blocks(torch, value.to(torch.float32))
        threshold = None
        if draw is not None:
            block = torch.arange(scale.numel(), device=p.device).reshape(*scale.shape, 1) + first_row * scale.shape[1]
            position = torch.arange(formats.BLOCK, device=p.device)
            threshold = formats.random18(torch, block, position, random_key, step_count, draw)
        if target.dtype == torch.int8:
            codes, scales = formats.encode_signed(torch, values, threshold)
        else:
            kept = factor * scale.abs().unsqueeze(-1)
            codes, scales = formats.encode_unsigned(torch, values, kept, threshold)
        target.copy_(layout.unblocked(codes, target.shape).to(target.dtype))
        scale.copy_(scales.squeeze(-1))

    value = joined(p, low) if low is not None else p.to(compute)
    old = tuple(load(x, scale) for x, scale in zip(stored, scales, strict=True))
    value, new = house.step(
        rule.at(numbers), SimpleNamespace(**numbers), Namespace, value, g.to(compute), old, penalized
    )
    for target, scale, moment, kind in zip(stored, scales, new, rule.states, strict=True):
        if storage.is_coded(target):
            assert scale is not None
            factor = 1.0 if kind.decay is None else numbers[kind.decay]
            code_into(target, scale, moment, factor, kind.code_draw)
        else:
            round_into(target, moment, kind.draw)
    if numbers["eta"] == 0 and numbers["k"] == 1:
        return
    if low is not None:
        high_codes, low_codes = formats.SPLIT[storage.dtype_name(p.dtype)](torch, value.contiguous())
        _store(high_codes, p)
        low.copy_(low_codes.to(torch.int16))
    else:
        round_into(p, value, WEIGHT_DRAW if weights == "stochastic" else None)
