"""The stored step over an array namespace, by itself; the adapters' tests have the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from adamas.rule.declaration import OwnRule
from adamas.rule.members import MEMBERS
from adamas.step import arrays
from adamas.step.namespaces.torch import Namespace

HYPER = {
    "lr": 0.1,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "eps_root": 0.0,
    "eps_mode": "torch",
    "amsgrad": False,
    "bias_correction": True,
    "weight_decay": 0.0,
    "decay": "l2",
    "l1": 0.0,
    "maximize": False,
}


class WithoutIndex(Namespace):
    def index(self, shape: Sequence[int], first: int) -> torch.Tensor:
        raise AssertionError(f"an index of shape {tuple(shape)}")


def step(dtype: torch.dtype, state: torch.dtype, weights: str) -> None:
    """A step of Adam in a namespace that makes no index."""
    xp, adam = WithoutIndex(torch.device("cpu")), MEMBERS["Adam"]
    p = torch.ones(40, 130, dtype=dtype)
    numbers = adam.numbers_of(HYPER, {"step": 1.0})
    one = arrays.Step(xp, adam.rule(HYPER), numbers, has_penalty=False, has_decay=False)
    scale = torch.zeros(40, 2) if state in (torch.int8, torch.uint8) else None
    states = [arrays.Stored(torch.zeros(p.shape, dtype=state), scale) for _ in range(2)]
    rounding = arrays.Rounding(xp, 0, 1, p.shape)
    one.weight(arrays.Parameter(arrays.Weight(p), torch.ones_like(p), states), weights, rounding, by_change=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_index_is_made_where_nothing_is_rounded_by_random_numbers(dtype: torch.dtype) -> None:
    step(dtype, torch.float32, "nearest")
    step(torch.float32, torch.float32, "stochastic")


@pytest.mark.parametrize(
    ("dtype", "state", "weights"),
    [
        (torch.float32, torch.bfloat16, "nearest"),
        (torch.float32, torch.uint8, "nearest"),
        (torch.bfloat16, torch.float32, "stochastic"),
    ],
)
def test_the_index_is_what_rounds(dtype: torch.dtype, state: torch.dtype, weights: str) -> None:
    with pytest.raises(AssertionError, match="an index"):
        step(dtype, state, weights)


def test_without_decay_the_change_of_a_weight_does_not_depend_on_it() -> None:
    """It may be infinite, also where a penalty is in the gradient: of that, this rule takes the sign alone."""
    rule = OwnRule("sign", (), (), lambda k, xp, p, g: (xp.sign(g),))
    numbers = {"s": 1.0, "l2": 0.1, "l1": 0.0, "k": 1.0, "k_minus_one": 0.0, "eta": 0.5}
    xp, p = Namespace(torch.device("cpu")), torch.tensor([math.inf, -math.inf, 2.0])
    one = arrays.Step(xp, rule, numbers, has_penalty=True, has_decay=False)
    rounding = arrays.Rounding(xp, 0, 1, p.shape)
    parameter = arrays.Parameter(arrays.Weight(p), torch.ones(3), [])
    change, _ = one.change(parameter, rounding)
    assert change.tolist() == [-0.5, 0.5, -0.5]
    after, _ = one.weight(parameter, "nearest", rounding, by_change=True)
    assert after.high.tolist() == [math.inf, -math.inf, 1.5]
