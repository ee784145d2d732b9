"""Parts of a tensor, cut along any dimension, are stepped as the whole is: to the bit, by the engine and over arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from members import CASES, Case, has, with_sums
from torch import Tensor

from adamas.rule import layout
from adamas.rule.shared import defaults
from adamas.step.plan import GroupPlan, look, step
from adamas.step.record import Place, Record, State, begin_state, check_place
from adamas.torch import storage
from adamas.torch.tensors import TENSORS

Cuts = Sequence[Sequence[int]]  # where each dimension is cut, with both ends

MATRIX, STACK, KERNEL = (12, 401), (7, 3, 256), (12, 8, 96)  # the rows of a stack of matrices are those of the matrices
ROWS = {
    MATRIX: ((0, 1, 7, 12), (0, 401)),
    STACK: ((0, 1, 7), (0, 2, 3), (0, 256)),
    KERNEL: ((0, 1, 12), (0, 8), (0, 96)),
}
COLUMNS = {
    MATRIX: ((0, 12), (0, 128, 384, 401)),
    STACK: ((0, 7), (0, 3), (0, 128, 256)),
    KERNEL: ((0, 12), (0, 4, 8), (0, 96)),
}
BOTH = {
    MATRIX: ((0, 5, 5, 12), (0, 256, 256, 401)),
    STACK: ((0, 0, 4, 7), (0, 1, 1, 3), (0, 128, 128, 256)),
    KERNEL: ((0, 5, 5, 12), (0, 4, 4, 8), (0, 96)),
}
ANYWHERE = {
    MATRIX: ((0, 5, 12), (0, 1, 60, 130, 401)),
    STACK: ((0, 4, 7), (0, 2, 3), (0, 1, 50, 256)),
    KERNEL: ((0, 5, 12), (0, 1, 7, 8), (0, 95, 96)),
}
STATES = ["float32", "bfloat16", "int8", "int6", "mixed"]
WEIGHTS = [
    (torch.float32, "nearest"),
    (torch.bfloat16, "stochastic"),
    (torch.bfloat16, "split"),
    (torch.float64, "nearest"),
]

ADAMW, ADEMAMIX = (next(case for case in CASES if case.name == name) for name in ("adamw", "ademamix"))


def options_of(case: Case, state: str, weights: str = "nearest") -> dict[str, Any]:
    """The hyperparameters of a group. "mixed" stores the moments as codes and in bfloat16 in turn."""
    names = case.declared.states
    formats = dict(zip(names, itertools.cycle(("int8", "bfloat16", "int6")), strict=False))
    given = {"state": formats if state == "mixed" else state, "weights": weights, "lr": 0.1, "weight_decay": 0.1}
    return {**defaults(case.declared, "torch"), **given, **case.options}


class Stepper:
    """A weight and the parts of copies of it, one for each way of cutting it, all stepped with the same gradient."""

    def __init__(self, case: Case, options: dict[str, Any], whole: Tensor, ways: Sequence[Cuts]) -> None:
        self.case, self.options = case, options
        self.weight, self.ways = whole.clone(), [list(parts_of(cuts)) for cuts in ways]
        self.records = [self._record(self.weight, None)]
        for index, offset in itertools.chain(*self.ways):
            self.records.append(self._record(whole[index].clone(), Place(offset, tuple(whole.shape))))
        self.plan = GroupPlan(case.declared, options, self.records, TENSORS, None)

    def _record(self, weight: Tensor, place: Place | None) -> Record:
        state: State = {}
        begin_state(TENSORS, self.case.declared, self.options, weight, place, state)
        return Record(weight, state, "'w'", 77, place)

    def step(self, gradient: Tensor, threads: int = 1) -> None:
        member, options = self.case.declared, self.options

        def advance(before: Sequence[float]) -> Any:
            scalars = member.advance(options, dict(zip(member.scalar_names, before, strict=True)))
            return member.numbers_of(options, scalars), tuple(scalars.values())

        gradients = [gradient, *[gradient[index] for index, _ in itertools.chain(*self.ways)]]
        look([self.plan], [gradients])
        self.plan.prepare(advance)
        step([self.plan], threads, [])
        self.plan.release()

    def check(self) -> None:
        """Each way's parts, put together, have the bits of the whole."""
        whole, *parts = self.records
        for way in self.ways:
            found, parts = parts[: len(way)], parts[len(way) :]
            for what in ("weight", *self.case.declared.states):
                together = torch.empty_like(values_of(whole, what))
                for (index, _), part in zip(way, found, strict=True):
                    together[index] = values_of(part, what)
                assert torch.equal(together, values_of(whole, what)), what
            for name in map(layout.scale_name, self.case.declared.states):
                if name in whole.state:
                    grids = torch.full_like(whole.state[name], torch.nan)
                    rows = grids.ndim - 1
                    for (_, offset), part in zip(way, found, strict=True):
                        column = sum(o * n for o, n in zip(offset[rows:], whole.weight.stride()[rows:], strict=True))
                        first, sizes = (*offset[:rows], column // 128), part.state[name].shape
                        grids[tuple(slice(o, o + n) for o, n in zip(first, sizes, strict=True))] = part.state[name]
                    assert torch.equal(grids, whole.state[name]), name


def parts_of(cuts: Cuts) -> Any:
    """The index of each part in the whole, and the offset of its first element."""
    for pairs in itertools.product(*map(itertools.pairwise, cuts)):
        yield tuple(slice(*pair) for pair in pairs), tuple(first for first, _ in pairs)


def values_of(record: Record, what: str) -> Tensor:
    """The weight with its low bits; or a moment, as values, or codes of 8 bits each; in the weight's shape."""
    if what == "weight":
        weight = record.weight.to(torch.float64)
        low = record.state.get(layout.LOW_BITS)
        return torch.stack([weight, weight if low is None else storage.as_int16(low).to(torch.float64)], -1)
    moment = record.state.get(what, torch.zeros(record.weight.shape))
    if layout.scale_name(what) not in record.state:
        return moment
    width = layout.WIDTHS[layout.form_of(moment.shape, record.weight.shape)]
    return layout.unblocked(layout.unpacked(torch, moment, width, moment.dtype == torch.int8), record.weight.shape)


def start(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def gradients(whole: Tensor, count: int) -> list[Tensor]:
    """Gradients with columns of very different sizes, so that blocks take different grids, and with zeros."""
    generator = torch.Generator().manual_seed(2)
    sizes = torch.logspace(-3, 3, whole.shape[-1])[torch.randperm(whole.shape[-1], generator=generator)]
    found = [torch.randn(whole.shape, generator=generator) * sizes for _ in range(count)]
    return [(g * (torch.rand(whole.shape, generator=generator) > 0.1)).to(whole.dtype) for g in found]


def ways_of(case: Case, options: dict[str, Any], shape: Sequence[int]) -> list[Cuts]:
    shape, ways = tuple(shape), [ROWS, COLUMNS, BOTH]
    is_coded = any(slot.scale_shape for slot in layout.slots(case.declared, options, shape, "float32"))
    return [way[shape] for way in (ways if is_coded else [*ways, ANYWHERE])]


def compare(case: Case, state: str, dtype: torch.dtype, weights: str, steps: int, threads: int = 1) -> None:
    for shape in (MATRIX, STACK, KERNEL):
        options, whole = options_of(case, state, weights), start(shape, dtype)
        stepper = Stepper(case, options, whole, ways_of(case, options, shape))
        for gradient in gradients(whole, steps):
            stepper.step(gradient, threads)
        stepper.check()
        assert not torch.equal(stepper.weight, whole)


STORED = [(case, state) for case in CASES for state in STATES if has(case, {"state": state}) and not with_sums(case)]


# Every member with every state and every kind of weight; all combinations of the three are nightly.
@pytest.mark.parametrize(
    ("case", "state", "dtype", "weights"),
    [
        pytest.param(case, state, *weights, marks=[] if (i + j) % len(WEIGHTS) == 0 else pytest.mark.nightly)
        for i, (case, state) in enumerate(STORED)
        for j, weights in enumerate(WEIGHTS)
    ],
    ids=str,
)
def test_parts_are_stepped_as_the_whole_by_the_engine(case: Case, state: str, dtype: torch.dtype, weights: str) -> None:
    compare(case, state, dtype, weights, 2)


@pytest.mark.parametrize("state", STATES)
def test_parts_are_stepped_as_the_whole_over_arrays(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
    compare(ADEMAMIX, state, torch.bfloat16, "stochastic", 2)


@pytest.mark.parametrize(
    ("state", "columns"), [("bfloat16", (0, 1, 700, 1999, 2000)), ("int8", (0, 128, 1408, 2000))], ids=str
)
def test_threads_do_not_show_in_parts(state: str, columns: Sequence[int]) -> None:
    whole = start((40, 2000), torch.bfloat16)
    options = options_of(ADAMW, state, "stochastic")
    stepper = Stepper(ADAMW, options, whole, [((0, 3, 40), columns)])
    for gradient in gradients(whole, 3):
        stepper.step(gradient, 3)
    stepper.check()


@pytest.mark.parametrize(
    ("shape", "offset", "whole", "state", "problem"),
    [
        (
            (64, 100),
            (0, 100),
            (64, 400),
            "int8",
            "it has the elements from 100 up to 200 of rows of 400, not whole blocks",
        ),
        ((64, 100), (0, 128), (64, 400), "int6", "it has the elements from 128 up to 228 of rows of 400"),
        ((64, 144), (0, 256), (64, 400), "int8", ""),
        ((64, 100), (0, 100), (64, 400), "bfloat16", ""),
        ((2, 100), (0, 100), (2, 400), "int8", ""),
        ((64, 0), (0, 400), (64, 400), "int8", ""),
        ((0, 100), (64, 100), (64, 400), "int8", ""),
        ((8, 4, 128), (0, 0, 128), (8, 4, 256), "int8", ""),
        ((8, 3, 256), (0, 1, 0), (8, 4, 256), "int8", ""),
        (
            (8, 4, 64),
            (0, 0, 128),
            (8, 4, 256),
            "int8",
            "its rows of 256 elements run along other dimensions than those of the tensor, of 256",
        ),
        ((8, 4, 100), (0, 0, 100), (8, 4, 200), "int8", "its rows of 800 elements are cut into several pieces"),
        ((8, 0, 100), (0, 4, 100), (8, 4, 200), "int8", ""),
        ((8, 1, 72), (0, 0, 128), (8, 1, 200), "int8", ""),
        ((32, 1, 128), (0, 0, 0), (32, 1, 200), "int8", "its rows of 128 elements .* than those of the tensor, of 200"),
        ((8, 4, 0), (0, 0, 200), (8, 4, 200), "int8", "its rows of 0 elements .* than those of the tensor, of 800"),
        ((64, 3), (0, 384), (64, 387), "int6", "packed rows of 3 codes have the length of rows that are not packed"),
        ((64, 3), (0, 384), (64, 387), "int8", ""),
    ],
    ids=str,
)
def test_codes_take_whole_blocks(
    shape: tuple[int, ...], offset: tuple[int, ...], whole: tuple[int, ...], state: str, problem: str
) -> None:
    options, part, place = options_of(ADAMW, state), torch.ones(shape), Place(offset, whole)
    if not problem:
        check_place(TENSORS, ADAMW.declared, options, part, place, "'w'")
        return
    with pytest.raises(ValueError, match="^parameter 'w' is the part of shape .*" + problem) as raised:
        GroupPlan(ADAMW.declared, options, [Record(part, {}, "'w'", 77, place)], TENSORS, None)
    assert str(shape) in str(raised.value)
    assert str(offset) in str(raised.value)
    assert str(whole) in str(raised.value)
    assert 'Use "float32" or "bfloat16"' in str(raised.value)


def test_the_whole_tensor_decides_how_moments_are_stored() -> None:
    """A part of a large tensor may have rows that are too short for codes in a tensor of their own."""
    options, place = options_of(ADAMW, "int8"), Place((0, 384), (64, 400))
    state: State = {}
    begin_state(TENSORS, ADAMW.declared, options, torch.ones(2, 16), place, state)
    assert state["exp_avg"].dtype == torch.int8
    assert state["exp_avg_grid"].shape == (2, 1)


def test_a_part_with_other_dimensions_than_the_whole_is_refused() -> None:
    options, whole = options_of(ADAMW, "bfloat16"), start((12, 400), torch.float32)
    stepper = Stepper(ADAMW, options, whole, [((0, 12), (0, 400))])
    record = stepper.records[1]
    record.weight.resize_(4800)
    with pytest.raises(ValueError, match="parameter 'w': it has 1 dimensions, but is a part of a tensor of 2"):
        look([stepper.plan], [[torch.ones(12, 400), torch.ones(4800)]])


@pytest.mark.parametrize(("dtype", "weights"), WEIGHTS, ids=str)
@pytest.mark.parametrize("state", ["int8", {"exp_avg": "bfloat16", "exp_avg_sq": "int8"}], ids=["int8", "mixed"])
@pytest.mark.parametrize("shape", [(12, 256), (9, 401), (3, 4, 128)])
def test_weights_and_states_may_be_columns_of_larger_tensors(
    shape: tuple[int, ...], state: Any, dtype: torch.dtype, weights: str
) -> None:
    """As the parts of a weight are whose other columns are stepped separately. Nothing around them is written to."""
    member = ADAMW.declared
    options = {**defaults(member, "torch"), "state": state, "weights": weights, "lr": 0.1}
    generator = torch.Generator().manual_seed(0)
    apart, among = ({}, {})  # type: dict[str, Tensor], dict[str, Tensor]
    weight = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    begin_state(TENSORS, member, options, weight, None, apart)
    apart["weight"] = weight
    around: dict[str, Tensor] = {}
    for name, x in apart.items():
        around[name] = (
            torch.full((*x.shape[:-1], x.shape[-1] + 7), 3, dtype=x.dtype) if x.ndim == weight.ndim else x.clone()
        )
        among[name] = around[name][..., 4:-3].copy_(x) if x.ndim == weight.ndim else around[name]
    plans = [
        GroupPlan(member, options, [Record(entries.pop("weight"), entries, "'w'", 77)], TENSORS, None)
        for entries in (apart, among)
    ]

    def advance(before: Sequence[float]) -> Any:
        scalars = member.advance(options, dict(zip(member.scalar_names, before, strict=True)))
        return member.numbers_of(options, scalars), tuple(scalars.values())

    for _ in range(4):
        gradient = torch.randn(shape, generator=generator)
        for plan in plans:
            plan.look([gradient])
            plan.prepare(advance)
            step([plan], 2, [])
            plan.release()
    for name, x in [("weight", weight), *apart.items()]:
        if x.ndim == weight.ndim:
            assert torch.equal(around[name][..., 4:-3], x), name
            assert bool((around[name][..., :4] == 3).all() and (around[name][..., -3:] == 3).all()), name
        else:
            assert torch.equal(around[name], x), name
