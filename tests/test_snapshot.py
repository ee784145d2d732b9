"""The engine's snapshot of a group's tensors: it tells everything that changes but addresses and scalars."""

from __future__ import annotations

import gc
import weakref
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adamas import _engine
from adamas.torch.tensors import TENSORS

NAMES = ["low", "m", "m_scale"]


class Group:
    """Three parameters with their snapshot. The first has low bits too, and the second has steps of its own."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.params = [torch.nn.Parameter(torch.zeros(n, 8, dtype=dtype)) for n in (2, 3, 4)]
        self.states: list[dict[str, Any]] = []
        for i, p in enumerate(self.params):
            p.grad_dtype = None
            p.grad = torch.zeros_like(p)
            self.states.append(
                {"m": torch.zeros_like(p), "step": torch.tensor([5.0, 7.0, 5.0][i], dtype=torch.float64)}
            )
        self.states[0]["low"] = torch.zeros(2, 8, 2, dtype=torch.uint8)
        records = list(zip(self.params, self.states, strict=True))
        self.snapshot = _engine.Snapshot(records, [None, *NAMES], ["step"], TENSORS.gradient_of)
        assert self.snapshot.remember(None, [0, 1, 0])

    def addresses(self) -> list[list[int]]:
        return np.frombuffer(self.snapshot.addresses(), np.int64).reshape(-1, 2 + 1 + len(NAMES)).tolist()

    def expected(self) -> list[list[int]]:
        tensors = [[p, p.grad, None, *map(state.get, NAMES)] for p, state in zip(self.params, self.states, strict=True)]
        return [[0 if x is None else x.data_ptr() for x in row] for row in tensors]


def aligned(x: Tensor, offset: int = 0) -> Tensor:
    """A copy that begins so many elements after a multiple of 16 bytes."""
    whole = x.new_empty(x.numel() + 16)
    assert whole.data_ptr() % 16 == 0
    return whole[offset : offset + x.numel()].view(x.shape).copy_(x)


def test_nothing_has_changed() -> None:
    group = Group()
    generation = group.snapshot.generation
    assert group.snapshot.check(None) == [(5.0,), (7.0,)]
    assert group.snapshot.generation == generation
    assert group.addresses() == group.expected()
    assert all(g is p.grad for g, p in zip(group.snapshot.gradients(), group.params, strict=True))


def set_weight(group: Group) -> None:
    group.params[1].data = aligned(group.params[1].detach())


def set_gradient(group: Group) -> None:
    group.params[2].grad = aligned(group.params[2].detach())


def set_gradient_data(group: Group) -> None:
    assert group.params[0].grad is not None
    group.params[0].grad.data = aligned(group.params[0].detach())


def set_state(group: Group) -> None:
    group.states[2]["m"] = aligned(group.states[2]["m"])


def set_state_data(group: Group) -> None:
    group.states[0]["m"].data = aligned(group.states[0]["m"])


def set_low_bits(group: Group) -> None:
    group.states[0]["low"] = aligned(group.states[0]["low"])


@pytest.mark.parametrize(
    "change", [set_weight, set_gradient, set_gradient_data, set_state, set_state_data, set_low_bits]
)
def test_addresses_are_followed(change: Callable[[Group], None]) -> None:
    group = Group()
    for dtype in (torch.float32, torch.complex64):
        group = Group(dtype)
        generation, before = group.snapshot.generation, group.expected()
        change(group)
        assert group.expected() != before
        assert group.snapshot.check(None) == [(5.0,), (7.0,)]
        assert group.snapshot.generation > generation
        assert group.addresses() == group.expected()
        generation = group.snapshot.generation
        assert group.snapshot.check(None) is not None
        assert group.snapshot.generation == generation


def test_scalars_are_read_and_written() -> None:
    group = Group()
    for i, count in enumerate((8.0, 2.0, 8.0)):
        group.states[i]["step"] = torch.tensor(count, dtype=torch.float64)
    assert group.snapshot.check(None) == [(8.0,), (2.0,)]
    group.snapshot.write([(9.0,), (3.0,)])
    assert [state["step"].item() for state in group.states] == [9.0, 3.0, 9.0]
    group.snapshot.release()
    with pytest.raises(ValueError, match="no step is under way"):
        group.snapshot.write([(9.0,), (3.0,)])


def gradient(change: Callable[[Tensor], Tensor | None], index: int = 1) -> Callable[[Group], None]:
    def apply(group: Group) -> None:
        p = group.params[index]
        assert p.grad is not None
        p.grad = change(p.grad)

    return apply


def gradient_data(change: Callable[[Tensor], Tensor]) -> Callable[[Group], None]:
    def apply(group: Group) -> None:
        g = group.params[2].grad
        assert g is not None
        g.data = change(g)

    return apply


def weight(change: Callable[[Tensor], Tensor]) -> Callable[[Group], None]:
    def apply(group: Group) -> None:
        group.params[0].data = change(group.params[0].detach())

    return apply


def state(name: str, change: Callable[[Any], Any], index: int = 0) -> Callable[[Group], None]:
    def apply(group: Group) -> None:
        group.states[index][name] = change(group.states[index].pop(name, None))
        if group.states[index][name] is None:
            del group.states[index][name]

    return apply


def state_data(change: Callable[[Tensor], Tensor]) -> Callable[[Group], None]:
    def apply(group: Group) -> None:
        group.states[1]["m"].data = change(group.states[1]["m"])

    return apply


class Subclass(torch.Tensor):
    pass


CHANGES = {
    "no gradient": gradient(lambda g: None),
    "frozen": lambda group: group.params[1].requires_grad_(False),
    "gradient's dtype": gradient(lambda g: g.to(torch.bfloat16)),
    "gradient's strides": gradient_data(lambda g: torch.zeros(8, 4).t()),
    "gradient's sign": gradient_data(torch._neg_view),
    "gradient's type": gradient(lambda g: g.as_subclass(Subclass)),
    "gradient's alignment": gradient(lambda g: aligned(g, 1)),
    "sparse gradient": gradient(lambda g: g.to_sparse()),
    "weight's dtype": weight(lambda p: p.to(torch.float64)),
    "weight's shape": weight(lambda p: p.view(4, 4)),
    "weight's rows": weight(lambda p: p[:1]),
    "weight's dimensions": weight(lambda p: p.view(2, 2, 4)),
    "weight's strides": weight(lambda p: torch.zeros(8, 2).t()),
    "weight's sign": weight(lambda p: torch._neg_view(aligned(p))),
    "weight's alignment": weight(lambda p: aligned(p, 2)),
    "state's dtype": state("m", lambda m: m.to(torch.int32)),
    "state's device": state("m", lambda m: m.to("meta")),
    "state's shape": state_data(lambda m: m.view(8, 3)),
    "state's strides": state_data(lambda m: torch.zeros(8, 3).t()),
    "state's sign": state_data(lambda m: torch._neg_view(aligned(m))),
    "state's alignment": state_data(lambda m: aligned(m, 3)),
    "no state": state("m", lambda m: None),
    "another state": state("m_scale", lambda none: torch.zeros(2, 1)),
    "no low bits": state("low", lambda low: None),
    "low bits": state("low", lambda none: torch.zeros(3, 8, 2, dtype=torch.uint8), 1),
    "no tensor": state("m", lambda m: m.tolist()),
    "own step": lambda group: group.states[2]["step"].fill_(6.0),
    "no step": state("step", lambda step: None),
    "integer step": state("step", lambda step: torch.tensor(5)),
    "number as step": state("step", lambda step: 5.0),
    "array as step": state("step", lambda step: np.array(5.0)),
    "steps": state("step", lambda step: torch.full((2,), 5.0, dtype=torch.float64)),
    "negative step": lambda group: group.states[1]["step"].fill_(-1.0),
    "uncountable step": lambda group: group.states[1]["step"].fill_(2.0**53),
    "step that is no number": lambda group: group.states[1]["step"].fill_(float("nan")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told(name: str) -> None:
    group = Group()
    assert group.snapshot.check(None) is not None
    CHANGES[name](group)
    assert group.snapshot.check(None) is None


def test_what_has_changed_has_to_be_remembered_again() -> None:
    group = Group()
    group.params[1].requires_grad_(False)
    assert group.snapshot.check(None) is None
    group.params[1].requires_grad_(True)
    assert group.snapshot.check(None) is None
    assert group.snapshot.remember(None, [0, 1, 0])
    assert group.snapshot.check(None) is not None


@pytest.mark.parametrize(
    "change",
    [
        gradient_data(torch.conj),
        weight(torch.conj),
        state_data(torch.conj),
        gradient_data(lambda g: torch._neg_view(g.conj())),
    ],
)
def test_pending_conjugations_are_told_and_not_remembered(change: Callable[[Group], None]) -> None:
    group = Group(torch.complex64)
    assert group.snapshot.check(None) is not None
    change(group)
    assert group.snapshot.check(None) is None
    assert not group.snapshot.remember(None, [0, 1, 0])
    assert group.snapshot.check(None) is None


def test_a_parameter_without_a_gradient_is_left_out_until_it_has_one() -> None:
    group = Group()
    first, group.params[0].grad = group.params[0].grad, None
    assert group.snapshot.remember(None, [-1, 0, 1])
    assert group.snapshot.check(None) == [(7.0,), (5.0,)]
    assert group.addresses() == group.expected()[1:]
    group.params[0].grad = first
    assert group.snapshot.check(None) is None


def test_what_does_not_fit_is_not_remembered() -> None:
    group = Group()
    assert not group.snapshot.remember(None, [0, 0, 0])  # these have not all the same step
    assert not group.snapshot.remember(None, [-1, 1, 0])  # the first has a gradient
    assert group.snapshot.check(None) is None
    with pytest.raises(ValueError, match="one index for each parameter"):
        group.snapshot.remember(None, [0, 1])


def test_other_mappings_than_dictionaries_are_not_remembered() -> None:
    group = Group()
    records: list[Any] = [(p, UserDict(state)) for p, state in zip(group.params, group.states, strict=True)]
    snapshot = _engine.Snapshot(records, [None, *NAMES], ["step"], TENSORS.gradient_of)
    assert not snapshot.remember(None, [0, 1, 0])


def test_gradients_can_be_given() -> None:
    group = Group()
    given = [torch.zeros_like(p) for p in group.params]
    assert group.snapshot.check(given) is not None
    assert [row[1] for row in group.addresses()] == [g.data_ptr() for g in given]
    assert group.snapshot.check([*given[:2], None]) is None


def test_tensors_are_released() -> None:
    group = Group()
    assert group.snapshot.check(None) is not None
    held = weakref.ref(group.params[0].grad)
    group.params[0].grad = None
    assert held() is not None
    group.snapshot.release()
    assert held() is None


def test_a_snapshot_in_a_cycle_is_collected() -> None:
    group = Group()
    group.states[0]["of"] = group
    gone = weakref.ref(group)
    del group
    gc.collect()
    assert gone() is None
