"""Moments in 8 bits: the reference and the engine agree, and the format keeps what it promises."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from members import CASES, Case, with_sums, with_sums_over_all

import adamas.torch as at
from adamas import _engine
from adamas.rule import formats, layout
from adamas.step import sums
from adamas.step.arrays_executor import ArraysExecutor
from adamas.step.executor import spec_of
from adamas.torch import storage
from adamas.torch.tensors import TENSORS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import slow_average

CODED = [case for case in CASES if case.name not in ("sgd",) and not case.options.get("centered")]
SHAPES = [(64, 256), (40, 200), (64, 64), (33, 784), (2, 4, 5, 128)]


@pytest.fixture(params=_engine.instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = _engine.instruction_set()
    _engine.use_instruction_set(request.param)
    yield request.param
    _engine.use_instruction_set(chosen)


def gradients(shape: tuple[int, ...], steps: int, seed: int = 0) -> Iterator[torch.Tensor]:
    """Rows of different sizes, columns that differ, and now and then an outlier."""
    generator = torch.Generator().manual_seed(seed)
    rows = 10.0 ** torch.empty(shape[0], *[1] * (len(shape) - 1)).uniform_(-6, 1, generator=generator)
    columns = 10.0 ** torch.empty(shape[1:]).uniform_(-1, 1, generator=generator)
    for _ in range(steps):
        g = torch.randn(shape, generator=generator) * rows * columns
        g[torch.rand(shape, generator=generator) < 1e-3] *= 30
        g[torch.rand(shape, generator=generator) < 0.05] = 0
        yield g


def codes_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x for name, x in state.items() if x.dtype in (torch.int8, torch.uint8)}


def values_of(state: dict[str, torch.Tensor], name: str, shape: Sequence[int]) -> torch.Tensor:
    x = state[name]
    return storage.decoded(x, state[layout.scale_name(name)], shape) if storage.is_coded(x) else x


def state_of(case: Case, state: str) -> Any:
    """The format of the moments; "mixed" is int6 and int8 in turn."""
    if state != "mixed":
        return state
    names = case.make([torch.nn.Parameter(torch.ones(1))], **case.options)._member.states
    return dict(zip(names, itertools.cycle(("int6", "int8")), strict=False))


def unpacked(codes: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The codes of a weight of this shape, as integers."""
    width = layout.WIDTHS[layout.form_of(codes.shape, shape)]
    return layout.unblocked(layout.unpacked(torch, codes, width, codes.dtype == torch.int8), shape)


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in state.items()}


# ---- the definition


CHOICES = range(formats.CHOICES)
WIDTHS = [pytest.param(width, id=form) for form, width in layout.WIDTHS.items()]


def grid(choice: int, width: formats.Width = formats.INT8) -> np.ndarray:
    """The units of all codes from 0 on, in float64."""
    return formats.grid(np, np.arange(1 << width.bits), np.array(choice), width).astype(np.float64)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("width", WIDTHS)
def test_each_stretch_of_a_grid_is_twice_as_wide_as_the_one_before(width: formats.Width, choice: int) -> None:
    codes, stretch = np.arange(1 << width.bits, dtype=np.int64), 1 << width.mantissas[choice]
    expected = ((stretch + codes % stretch) * 2.0 ** (codes // stretch)).astype(np.float32) - np.float32(stretch)
    np.testing.assert_array_equal(grid(choice, width), expected)
    assert grid(choice, width)[width.infinity_signed] == width.largest_signed[choice]
    assert grid(choice, width)[width.infinity_signed - 1] == width.largest_signed_marked[choice]
    assert (grid(choice, width)[width.nan_unsigned - 1] - 0.5) * (1 - 2.0**-12) >= width.largest_unsigned[choice]


@pytest.mark.parametrize("has_sign", [False, True])
@pytest.mark.parametrize("row", [33, 64, 130, 785])
def test_codes_in_6_bits_are_packed_as_the_layout_says(row: int, has_sign: bool) -> None:
    width, rows = formats.INT6, 3
    codes = np.random.default_rng(row).integers(-32 if has_sign else 0, 32 if has_sign else 64, (rows, row))
    packed = layout.packed(np, layout.blocks(np, codes), (rows, row), width, has_sign)
    assert packed.shape == layout.codes_shape((rows, row), width) == (rows, 3 * math.ceil(row / 4))
    stored = packed.astype(np.int8 if has_sign else np.uint8)
    np.testing.assert_array_equal(stored, packed)
    number = int.from_bytes(stored[1].tobytes(), "little")  # the words of a row follow one another
    assert [number >> 6 * i & 63 for i in range(row)] == [int(code) & 63 for code in codes[1]]
    assert number >> 6 * row == 0
    behind = layout.padding(np, stored, (rows, row), width, has_sign)
    assert behind.shape == (rows, -row % 4)
    assert not behind.any()
    read = layout.unpacked(np, stored, width, has_sign)
    np.testing.assert_array_equal(layout.unblocked(read, (rows, row)), codes)


def always(first: int) -> formats.Thresholds:
    """The same threshold for each element."""
    return formats.Thresholds(np.full((1, 1), first), np.zeros(1, np.int64))


def choice_and_scale(stored: np.ndarray) -> tuple[int, float]:
    """Of the only block."""
    return int(formats.choice_of(np, stored)[0, 0]), float(formats.scale_of(np, stored)[0, 0])


def test_the_scale_is_rounded_to_make_room_for_the_choice() -> None:
    x = np.random.default_rng(0).standard_normal((4096, 128)).astype(np.float32)
    x[:2048, :64] *= 1e-2
    x[:1024, 64:] *= 1e-6
    largest = np.abs(x).max(-1, keepdims=True).astype(np.float64)
    _, stored = formats.encode_signed(np, x)
    choice, scale = formats.choice_of(np, stored), formats.scale_of(np, stored)
    assert set(np.unique(choice)) == {0, 1, 2}
    off = scale * np.array(formats.INT8.largest_signed)[choice] / largest - 1
    assert np.abs(off).max() <= 2.0**-21
    assert (
        abs(off.mean()) <= 2.0**-26
    )  # without bias: a scale that fades for thousands of steps goes through this each time


@pytest.mark.parametrize("choice", CHOICES[:-1])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_block_takes_the_finest_grid_on_which_few_elements_are_coarse(width: formats.Width, choice: int) -> None:
    none = np.zeros((1, 1), np.float32)
    for tops, floor, share, encode in (
        (
            width.largest_signed,
            width.floor_signed,
            formats.SHARE_SIGNED,
            lambda x: formats.encode_signed(np, x, width=width),
        ),
        (
            width.largest_unsigned,
            width.floor_unsigned,
            formats.SHARE_UNSIGNED,
            lambda x: formats.encode_unsigned(np, x, none, width=width),
        ),
    ):
        for zeros in (0, 64):  # they don't count
            few = (128 - zeros) // share
            for under, wanted in ((few, choice), (few + 1, choice + 1)):
                x = np.ones((1, 128), np.float32)
                x[0, :under] = 0.99 * floor / tops[choice]
                x[0, under : 2 * under] = 1.01 * floor / tops[choice]
                x[0, 128 - zeros :] = 0
                assert choice_and_scale(encode(x)[1])[0] == wanted


def test_a_second_moment_returns_to_a_finer_grid_later_than_it_leaves_it() -> None:
    def after(small: float, before: int) -> int:
        x = np.ones((1, 128), np.float32)
        x[0, :3] = small * formats.INT8.floor_unsigned / formats.INT8.largest_unsigned[0]
        scale = np.array([[1 / formats.INT8.largest_unsigned[before]]], np.float32)
        stored = formats._stored(np, formats.rounded_scale(np, scale), np.array([[before]]), np.array([[False]]))
        return choice_and_scale(formats.encode_unsigned(np, x, stored, decay=0.999)[1])[0]

    assert [after(0.9, before) for before in CHOICES] == [1, 1, 1]
    assert [after(1.5, before) for before in CHOICES] == [0, 1, 1]
    assert [after(2.1, before) for before in CHOICES] == [0, 0, 0]


def test_a_second_moment_that_only_decayed_to_the_bottom_makes_no_grid_wider() -> None:
    x = np.ones((1, 128), np.float32)
    x[0, :64] = 1e-6
    codes, stored = formats.encode_unsigned(np, x, np.zeros((1, 1), np.float32))
    assert choice_and_scale(stored)[0] == 2
    for _ in range(300):
        value = np.float32(0.9) * formats.decode_unsigned(np, codes, stored)
        value[0, 64:] += np.float32(0.1)
        codes, stored = formats.encode_unsigned(np, value, stored, decay=0.9)
    assert choice_and_scale(stored)[0] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_moment_whose_gradient_stops_reaches_zero(width: formats.Width) -> None:
    """To the nearest, 0.9 of 1, 2, 3 or 4 units stays what it is, and so does 0.9 of 10 units on a wide grid."""
    decays, choices = (x.reshape(-1, 1) for x in np.meshgrid(np.float32([0.9, 0.95, 0.99]), CHOICES))  # of each block
    steps = np.where(decays < np.float32(0.96), 100 / (1 - decays), 2500)
    tops = np.float32(width.largest_signed)
    live = np.tile(tops[choices], 128)
    small = tops[choices] * (width.floor_signed - 1) / tops[choices - 1]
    live[:, :20] = np.where(choices > 0, small, tops[0])  # holds the block on the grid
    x = live.copy()
    x[:, 114:] = np.linspace(1, width.infinity_signed, 14)
    for step in range(int(steps.max())):
        thresholds = formats.thresholds(np, np.zeros((1, 1), np.int64), np.arange(128)[None], 7, step, 0)
        codes, stored = formats.encode_signed(np, x, thresholds, decays, width=width)
        assert (formats.choice_of(np, stored) == choices).all()
        x = decays * formats.decode_signed(np, codes, stored, width)
        x[:, :114] = live[:, :114]
        assert not x[:, 114:].any(where=step + 1 >= steps)


def test_a_small_first_moment_is_never_farther_from_zero_than_to_the_nearest() -> None:
    """Otherwise a hundredth of a unit would sometimes be read as a unit, and an update would be a hundred times too large."""
    x = np.linspace(0.01, 472, 128).astype(np.float32)[None]
    x[0, :20] = np.linspace(0.01, 8, 20)
    nearest, _ = formats.encode_signed(np, x)
    lowered = []
    for first in (0, 1 << 28, (1 << 29) - 1, 1 << 29, (1 << 32) - 1):
        codes, _ = formats.encode_signed(np, x, always(first), 0.9)
        assert (codes <= nearest).all()
        assert (codes >= nearest - (x < 7.5)).all()
        lowered.append(bool((codes < nearest).any()))
    assert lowered == [True, False, False, False, False]  # the first is below half, and the last two are not due
    slow, _ = formats.encode_signed(np, x, always((1 << 32) - 1), 0.99)
    assert (slow > nearest).any()


def test_a_first_moment_takes_a_grid_as_wide_as_its_second_moments() -> None:
    """Whatever the second moment is stored in: what counts is how its values differ."""
    g = torch.ones(64, 128)
    g[:, :8] = 1e-2  # large enough for the narrowest grid of a first moment by itself
    for name, state in (("int8", "int8"), ("float32", {"exp_avg": "int8"}), ("sgd", "int8")):
        p = torch.nn.Parameter(torch.zeros(64, 128))
        p.grad = g
        optimizer = at.SGD([p], momentum=0.9, state=state) if name == "sgd" else at.Adam([p], state=state)
        optimizer.step()
        first = "momentum_buffer" if name == "sgd" else "exp_avg"
        choice = formats.choice_of(torch, optimizer.state[p][layout.scale_name(first)])
        assert torch.equal(choice, torch.full_like(choice, 0 if name == "sgd" else 1))


blocks_of_floats = st.lists(
    st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100, allow_subnormal=False), min_size=1, max_size=128
)


@settings(max_examples=300, deadline=None)
@given(blocks_of_floats, st.sampled_from(list(layout.WIDTHS.values())))
def test_signed_codes_are_the_nearest(values: list[float], width: formats.Width) -> None:
    x = np.array(values, np.float32)[None]
    codes, scale = formats.encode_signed(np, x, width=width)
    assert np.abs(codes).max() <= width.infinity_signed
    got = formats.decode_signed(np, codes, scale, width).astype(np.float64)
    choice, unit = choice_and_scale(scale)
    codes_of_sizes = grid(choice, width)[: width.infinity_signed + 1]
    nearest = np.abs(np.abs(x.astype(np.float64))[..., None] - codes_of_sizes * unit).min(-1)
    assert (np.abs(got - x) <= nearest * (1 + 1e-5) + 1e-6 * np.abs(x)).all() or not scale.any()
    if not scale.any():
        assert np.abs(x).max() < formats.LEAST_SIGNED


positive_floats = st.lists(
    st.floats(width=32, min_value=2.0**-126, max_value=2.0**120, allow_subnormal=False), min_size=1, max_size=128
)


@settings(max_examples=300, deadline=None)
@given(
    positive_floats,
    st.one_of(st.just(0.0), st.floats(width=32, min_value=2.0**-126, max_value=2.0**120)),
    st.sampled_from(list(layout.WIDTHS.values())),
)
@example([23985991680.0], 2.349616288480103e-30, formats.INT8)  # 2^120.4 apart
@example([2.0**60], 1.3 * 2.0**-50, formats.INT8)
@example([2.0**99], 1.3 * 2.0**-99, formats.INT8)
def test_unsigned_codes_are_the_nearest_and_never_zero(values: list[float], kept: float, width: formats.Width) -> None:
    x = np.array(values, np.float32)[None]
    with np.errstate(under="ignore", over="ignore"):
        codes, scale = formats.encode_unsigned(np, x, np.full((1, 1), kept, np.float32), width=width)
        assert codes.max() < width.nan_unsigned
        got = formats.decode_unsigned(np, codes, scale, width).astype(np.float64)
    assert (got > 0).all()
    choice, unit = choice_and_scale(scale)
    nearest = np.abs(x.astype(np.float64)[..., None] - (grid(choice, width)[1 : width.nan_unsigned] - 0.5) * unit).min(
        -1
    )
    assert (np.abs(got - x) <= nearest * (1 + 1e-5) + 1e-6 * x).all()
    # A scale that fits is kept; another is a power of two away; one that is farther than 2^120 from what is needed, or
    # was none, is made anew, as a power of two. (At that border itself, rounding decides.)
    if 2.0**-100 < kept < 2.0**100 and 2.0**-100 < x.max() < 2.0**100:
        most = width.largest_unsigned[choice]
        before = float(formats.scale_of(np, np.full((1, 1), kept, np.float32))[0, 0])
        went_on = abs(math.log2(unit / before) % 1 - 0.5) > 0.4999
        made_anew = math.frexp(unit)[0] == 0.5
        apart = abs(math.log2(float(x.max()) / most / kept))
        assert went_on if apart < 119 else made_anew if apart > 121 else went_on or made_anew
        assert x.max() / unit * (1 + 1e-6) >= 0.5 * most
        assert x.max() / unit <= most * (1 + 1e-6)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120),
            st.sampled_from([math.nan, math.inf, -math.inf]),
        ),
        min_size=1,
        max_size=128,
    ),
    st.booleans(),
    st.sampled_from(list(layout.WIDTHS.values())),
)
@example([math.inf, math.nan], True, formats.INT8)  # no finite value
@example([-math.inf, 2.0**120, math.nan, -1e-45], True, formats.INT6)
def test_infinities_and_nan_are_read_back_as_what_they_were(
    values: list[float], dithered: bool, width: formats.Width
) -> None:
    x = np.array(values, np.float32)[None]
    thresholds = always((1 << 32) - 1) if dithered else None
    with np.errstate(all="ignore"):
        of_signed = formats.encode_signed(np, x, thresholds, 0.9999, width=width)
        of_unsigned = formats.encode_unsigned(np, np.abs(x), np.zeros((1, 1), np.float32), thresholds, width=width)
        signed = formats.decode_signed(np, *of_signed, width)
        unsigned = formats.decode_unsigned(np, *of_unsigned, width)
    finite = np.isfinite(x)
    assert np.isfinite(signed[finite]).all()
    assert np.isfinite(unsigned[finite]).all()
    np.testing.assert_array_equal(signed[~finite], x[~finite])
    np.testing.assert_array_equal(unsigned[~finite], np.abs(x)[~finite])


@pytest.mark.parametrize(
    ("width", "has_sign"),
    [(formats.INT8, False), (formats.INT8, True), (formats.INT6, False)],
    ids=["int8", "int8 signed", "int6"],
)
def test_stochastic_rounding_is_right_on_average(width: formats.Width, has_sign: bool) -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.001, 1, 128).astype(np.float32) ** 3)[None]
    if has_sign:
        x *= rng.choice([-1, 1], x.shape)
    steps = np.arange(4096)[:, None]  # a row for each
    thresholds = formats.thresholds(np, np.zeros((1, 1), np.int64), np.arange(128)[None], 7, steps, 4)  # type: ignore[arg-type]
    if has_sign:
        codes, scale = formats.encode_signed(np, x, thresholds, 0.9999, width=width)
        assert (np.abs(codes).max(-1) == width.infinity_signed).all()  # the largest, at every threshold
        values = formats.decode_signed(np, codes, scale, width)
    else:
        codes, scale = formats.encode_unsigned(np, x, np.zeros((1, 1), np.float32), thresholds, width=width)
        values = formats.decode_unsigned(np, codes, scale, width)
    choice, unit = choice_and_scale(scale)
    spacing = np.diff(grid(choice, width) * unit)[np.abs(codes[-1:])]
    above = has_sign | (x > unit * 0.5)  # a second moment below the smallest code is read as that
    assert (np.abs(values.mean(0, dtype=np.float64) - x) <= spacing * 0.005)[above].all()


def test_a_slow_average_with_a_sign_follows_its_mean() -> None:
    """Rounded to the nearest, it stands still: a step changes it by much less than half the distance of two codes."""
    error, wrong_signs = slow_average.error(beta=0.999, dithered=True, steps=5000)
    assert error <= 1e-2
    assert wrong_signs <= 0.02


# ---- the engine


def stepped_by_reference(
    optimizer: at.Optimizer, p: torch.nn.Parameter
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weight and the state after a step of the reference. The optimizer has not made it."""
    weight, state = p.detach().clone(), copied(optimizer.state[p])
    group, member = optimizer.param_groups[0], optimizer._member
    record = optimizer._current_plans()[0].records[0]._replace(weight=weight, state=state)
    executor = ArraysExecutor(spec_of(member, group, TENSORS, member.scalar_names), [record], is_decayed=True)
    executor.look([p.grad])
    executor.prepared = [optimizer._advance(group, scalars, 1.0, {}) for scalars in executor.scalars]
    sums.compute([SimpleNamespace(executors=[executor], sum_count=len(executor.spec.rule.sums))], None, 1)
    executor.apply()
    return weight, state


def stepped_by_each_set(optimizer: at.Optimizer, p: torch.nn.Parameter) -> Iterator[str]:
    """The instruction sets, after the optimizer has made the same step with each; that of the last one counts."""
    chosen, tensors = _engine.instruction_set(), [p.detach(), *optimizer.state[p].values()]
    before = [x.clone() for x in tensors]
    try:
        for isa in _engine.instruction_sets():
            for x, value in zip(tensors, before, strict=True):
                x.copy_(value)
            _engine.use_instruction_set(isa)
            optimizer.step()
            yield isa
    finally:
        _engine.use_instruction_set(chosen)


@pytest.mark.parametrize(
    ("state", "shape"),
    [*(("int8", shape) for shape in SHAPES), ("int6", (40, 200)), ("int6", (33, 785)), ("mixed", (160, 33))],
    ids=str,
)
@pytest.mark.parametrize("case", CODED, ids=str)
def test_the_engines_codes_are_the_references(case: Case, state: str, shape: tuple[int, ...]) -> None:
    p = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    optimizer = case.make([("w", p)], state=state_of(case, state), seed=3, **case.options)
    optimizer._initialize_state(optimizer.param_groups[0], 0, "0")
    different, compared = Counter[str](), 0
    for g in gradients(shape, 6):
        p.grad = g
        start = p.detach().clone()
        weight, expected = stepped_by_reference(optimizer, p)
        wanted = {name: unpacked(codes, shape) for name, codes in codes_of(expected).items()}
        compared += sum(x.numel() for x in wanted.values())
        # The update is estimated to 13 bits; adding it rounds to float32.
        allowed = 5e-4 * (weight - start).abs() + 4e-7 * start.abs() + 1e-12
        for isa in stepped_by_each_set(optimizer, p):
            for name, codes in codes_of(optimizer.state[p]).items():
                off = (unpacked(codes, shape) - wanted[name]).abs()
                assert off.max() <= 1, isa
                different[isa] += int((off > 0).sum())
                scale = layout.scale_name(name)
                rtol = 4e-6 if name == "exp_avg_diff" else 1e-6  # of differences that cancel
                torch.testing.assert_close(optimizer.state[p][scale], expected[scale], rtol=rtol, atol=0)
            assert ((p.detach() - weight).abs() <= allowed).all(), isa
    assert compared > 0
    assert max(different.values()) <= max(2, compared * 1e-4), different


def random_state(
    state: dict[str, torch.Tensor], shape: tuple[int, int], width: formats.Width, rng: np.random.Generator
) -> None:
    """Fills moments of a parameter of this shape with codes of every kind: on every grid, at scales near both ends of their
    range, with zeros, and in some blocks with infinities and NaN."""
    for name, codes in codes_of(state).items():
        stored = state[layout.scale_name(name)]
        has_sign = codes.dtype == torch.int8
        choice = rng.integers(0, 3, stored.shape)
        # The largest values stay below 2^127.
        most = (127 - np.ceil(np.log2(width.largest_signed if has_sign else width.largest_unsigned)))[choice]
        scale = np.exp2(
            np.where(rng.random(stored.shape) < 0.3, rng.choice([-119, 1], stored.shape), rng.uniform(-40, 0))
        )
        scale = np.where(scale > 1, np.exp2(most), scale * rng.uniform(1, 2, stored.shape)).astype(np.float32)
        largest = width.infinity_signed if has_sign else width.nan_unsigned - 1
        found = rng.integers(-largest if has_sign else 0, largest + 1, shape)
        if not has_sign:  # some rows are about to return to a finer grid
            least, end = (90, 125) if width is formats.INT8 else (26, 36)
            found = np.maximum(
                found, np.where(rng.random(len(found)) < 0.5, 0, rng.integers(least, end, len(found)))[:, None]
            )
        found[rng.random(shape) < 0.1] = 0
        marked = rng.random(stored.shape) < 0.05
        nonfinite = [width.nan_unsigned, width.infinity_unsigned]
        for row, block in zip(*marked.nonzero(), strict=True):
            one = found[row, 128 * block : 128 * (block + 1)]  # a view
            np.copyto(one, np.clip(one, 1 - largest, largest - 1 if has_sign else None))
            one[-1] = rng.choice([width.nan_signed, width.infinity_signed] if has_sign else nonfinite)
        codes.copy_(torch.from_numpy(layout.packed(np, layout.blocks(np, found), shape, width, has_sign)))
        bits = formats.rounded_scale(np, scale).view(np.int32) | choice.astype(np.int32)
        stored.copy_(torch.from_numpy(np.where(marked, -bits.view(np.float32), bits.view(np.float32))))


def stored_and_codes(state: dict[str, torch.Tensor], name: str, width: formats.Width) -> tuple[np.ndarray, np.ndarray]:
    """The bits of the stored numbers of a moment, and its codes in the shape (rows, blocks of a row, 128)."""
    codes = state[name]
    stored = formats.float_bits(np, state[layout.scale_name(name)].numpy())
    return stored, layout.unpacked(np, codes.numpy(), width, codes.dtype == torch.int8)


@pytest.mark.parametrize("beta", [0.9, 0.95, 0.99, 0.9999])
@pytest.mark.parametrize("row", [33, 65, 128, 512, 785])
@pytest.mark.parametrize("amsgrad", [False, True], ids=["adam", "amsgrad"])
@pytest.mark.parametrize("form", ["int8", "int6"])
def test_any_state_has_the_references_codes_after_a_step(form: str, row: int, beta: float, amsgrad: bool) -> None:
    """Small and large gradients beside the moments of a block, some zeros, and in some blocks nothing but zeros."""
    rng, width = np.random.default_rng(row), layout.WIDTHS[form]
    shape = (-(-4096 // row) + 60, row)
    p = torch.nn.Parameter(torch.zeros(shape))
    optimizer = at.Adam([("w", p)], state=form, betas=(beta, 0.999), amsgrad=amsgrad)
    optimizer._initialize_state(optimizer.param_groups[0], 0, "0")
    state = optimizer.state[p]
    seen, different, blocks = set(), Counter[str](), 0
    for _ in range(4):
        random_state(state, shape, width, rng)
        size = values_of(state, "exp_avg_sq", shape).sqrt().nan_to_num(1.0, posinf=1.0)
        factor = torch.from_numpy(10.0 ** rng.uniform(-4, rng.choice([0, 3], (shape[0], 1)), shape)).float()
        p.grad = size * factor * torch.from_numpy(rng.standard_normal(shape)).float()
        p.grad[torch.from_numpy(rng.random(shape) < 0.1)] = 0
        p.grad[torch.from_numpy(rng.random(shape[0]) < 0.3)] = 0
        p.grad = p.grad.clamp(-1e18, 1e18)
        _, after = stepped_by_reference(optimizer, p)
        expected = {name: stored_and_codes(after, name, width) for name in codes_of(after)}
        blocks += sum(stored.size for stored, _ in expected.values())
        seen |= {choice for stored, _ in expected.values() for choice in np.unique(stored & 3)}
        for isa in stepped_by_each_set(optimizer, p):
            for name, (wanted_stored, wanted) in expected.items():
                stored, codes = stored_and_codes(state, name, width)
                off = np.abs(codes - wanted)
                assert (off[np.abs(stored - wanted_stored) <= 8] <= 1).all(), (name, isa)
                different[isa] += int((off > 0).any(-1).sum())
    assert seen == {0, 1, 2}
    # Where the largest value of a block is as large as the scale allows, rounding decides whether the scale is doubled.
    assert max(different.values()) <= 5e-3 * blocks, different


HUGE: dict[str, tuple[Callable[..., at.Optimizer], float]] = {
    "adamax": (at.Adamax, 3.4e38),
    "amsgrad": (partial(at.Adam, betas=(0.9, 0.5), amsgrad=True), 1.84e19),
    "momentum": (partial(at.SGD, momentum=0.9, dampening=0.9), 3.4e38),
}


@pytest.mark.parametrize("member", HUGE)
@pytest.mark.parametrize("form", ["int8", "int6"])
def test_the_largest_numbers_of_float32_stay_finite(form: Any, member: str) -> None:
    """Three columns are huge, and the others so small that blocks take the widest grid, which rounds up by the most."""
    make, size = HUGE[member]
    shape = (64, 130)
    p = torch.nn.Parameter(torch.zeros(shape))
    optimizer = make([("w", p)], state=form, lr=1e-3)
    optimizer._initialize_state(optimizer.param_groups[0], 0, "0")
    columns = torch.where(torch.arange(130) % 50 == 0, 1.0, 1e-4)
    for _ in range(12):
        p.grad = size * columns * torch.empty(shape).uniform_(0.9, 1, generator=torch.Generator().manual_seed(0))
        _, expected = stepped_by_reference(optimizer, p)
        for isa in stepped_by_each_set(optimizer, p):
            for name, codes in codes_of(optimizer.state[p]).items():
                assert values_of(optimizer.state[p], name, shape).isfinite().all(), isa
                assert (unpacked(codes, shape) - unpacked(expected[name], shape)).abs().max() <= 1, isa
                scale = layout.scale_name(name)
                torch.testing.assert_close(optimizer.state[p][scale], expected[scale], rtol=1e-6, atol=0)
            assert p.isfinite().all(), isa


@pytest.mark.parametrize("state", ["float32", "int8", "int6"])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=["adamax", "amsgrad"])
def test_a_moment_that_was_NaN_stays_so(options: dict[str, bool], state: Any) -> None:
    p = torch.nn.Parameter(torch.ones(64, 130))
    optimizer = (at.Adam if options else at.Adamax)([("w", p)], state=state, **options)
    optimizer._initialize_state(optimizer.param_groups[0], 0, "0")
    was = torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.01
    for step in range(3):
        p.grad = torch.ones_like(p)
        if not step:
            p.grad[was] = math.nan
        weight, expected = stepped_by_reference(optimizer, p)
        assert (weight.isnan() == was).all()
        moments = [name for name in optimizer._member.states if name in expected]
        assert all((values_of(expected, name, p.shape).isnan() == was).all() for name in moments)
        for isa in stepped_by_each_set(optimizer, p):
            assert (p.isnan() == was).all(), isa
            assert all((values_of(optimizer.state[p], name, p.shape).isnan() == was).all() for name in moments), isa


@pytest.mark.parametrize("case", CODED, ids=str)
def test_any_thread_count_and_any_neighbours_give_the_same_bits(case: Case) -> None:
    shape = (70, 520)
    of_steps = list(gradients(shape, 3))

    def end(threads: int, neighbours: int) -> dict[str, torch.Tensor]:
        p = torch.nn.Parameter(torch.ones(shape))
        others = [torch.nn.Parameter(torch.ones(1000 + 7 * i)) for i in range(neighbours)]
        optimizer = case.make([*((f"o{i}", o) for i, o in enumerate(others)), ("w", p)], state="int8", **case.options)
        chosen = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for g in of_steps:
                p.grad = g
                for o in others:
                    o.grad = torch.ones_like(o)
                optimizer.step()
        finally:
            torch.set_num_threads(chosen)
        return {**copied(optimizer.state[p]), "weight": p.detach()}

    one = end(1, 0)
    for threads, neighbours in ((2, 0), (3, 1), (1, 5)):
        other = end(threads, 0 if with_sums_over_all(case) else neighbours)
        assert all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize(
    ("state", "weights"),
    [("int8", "nearest"), ("int8", "stochastic"), ("int8", "split"), ("int6", "nearest"), ("mixed", "split")],
)
@pytest.mark.parametrize("case", [case for case in CODED if not with_sums(case)], ids=str)
def test_rows_that_are_stepped_apart_are_stepped_as_one(case: Case, state: str, weights: str) -> None:
    shape, cuts = (64, 201 if state == "int6" else 200), (0, 1, 24, 64)
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    options: dict[str, Any] = {"state": state_of(case, state), "weights": weights, **case.options}
    one = torch.nn.Parameter(whole.clone())
    of_one = case.make([("w", one)], **options)
    parts = [torch.nn.Parameter(whole[a:b].clone()) for a, b in itertools.pairwise(cuts)]
    of_parts = [
        case.make([{"params": [("w", part)], "rows": [(first, 64)]}], **options)
        for part, first in zip(parts, cuts, strict=False)
    ]
    for g in gradients(shape, 6):
        one.grad = g.to(torch.bfloat16)
        of_one.step()
        for part, first, optimizer in zip(parts, cuts, of_parts, strict=False):
            part.grad = one.grad[first : first + len(part)].clone()
            optimizer.step()
    assert torch.equal(one, torch.cat([part.detach() for part in parts]))
    for name, x in of_one.state[one].items():
        if x.ndim:
            together = torch.cat([optimizer.state[part][name] for optimizer, part in zip(of_parts, parts, strict=True)])
            assert torch.equal(x, together), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("strided", ["weight", "gradient"])
def test_strides_and_dtypes_do_not_show(strided: str, dtype: torch.dtype) -> None:
    def end(transposed: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        start = torch.linspace(-1, 1, 48 * 160).reshape(48, 160).to(dtype)
        turn = transposed and strided == "weight"
        p = torch.nn.Parameter(start.t().contiguous().t() if turn else start)
        optimizer = at.AdamW([("w", p)], state="int8", weights="stochastic", lr=1e-2)
        for g in gradients((48, 160), 4):
            g = g.to(dtype)
            p.grad = g.t().contiguous().t() if transposed and strided == "gradient" else g.clone()
            optimizer.step()
        return p.detach(), optimizer.state[p]

    (plain, state), (other, other_state) = end(False), end(True)
    assert torch.equal(plain, other)
    assert all(torch.equal(x, other_state[name]) for name, x in state.items())


MIXED: list[dict[str, str]] = [
    {"exp_avg": "int8"},
    {"exp_avg_sq": "int8"},
    {"exp_avg": "int8", "exp_avg_sq": "bfloat16"},
    {"exp_avg": "bfloat16", "exp_avg_sq": "int8"},
    {"exp_avg": "int8", "exp_avg_sq": "int6"},
    {"exp_avg": "int6", "exp_avg_sq": "bfloat16"},
    {"exp_avg_sq": "int6"},
]


@pytest.mark.parametrize("state", MIXED, ids=str)
def test_formats_may_be_mixed(state: dict[str, str], isa: str) -> None:
    shape = (50, 200)
    p, q = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    mixed, exact = at.AdamW([p], state=state, lr=1e-2), at.AdamW([q], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        p.grad = torch.randn(shape, generator=generator)
        q.grad = p.grad.clone()
        mixed.step()
        exact.step()
    codes = (torch.int8, torch.uint8)
    kinds = {"int8": codes, "int6": codes, "bfloat16": (torch.bfloat16,), "float32": (torch.float32,)}
    for name in ("exp_avg", "exp_avg_sq"):
        assert mixed.state[p][name].dtype in kinds[state.get(name, "float32")]
    assert (p - q).norm() <= 0.05 * (q - 1).norm()


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CODED, ids=str)
def test_every_member_with_every_weight(case: Case, dtype: torch.dtype, weights: str, isa: str) -> None:
    """After ten steps, beside float32 moments: the weights have moved as there, within the format's error."""
    shape = (40, 160)
    start = torch.linspace(-1, 1, 40 * 160).reshape(shape).to(dtype)
    p, q = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.double().clone())
    lr = case.options["lr"] if case.declared.shared else 0.05  # that of Prodigy is relative to its estimate
    options = {**case.options, "lr": lr}
    coded = case.make([p], state="int8", weights=weights, **options)
    exact = case.make([q], **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        p.grad = torch.randn(shape, generator=generator).to(dtype)
        q.grad = p.grad.double()
        coded.step()
        exact.step()
    moved = (q - start.double()).detach()
    rounding = 0.02 if dtype in (torch.float32, torch.float64) or weights == "split" else 0.1
    assert (p.double() - q).norm() <= (rounding + 0.05) * moved.norm()


# ---- what the format promises


def test_moments_fade_as_they_should_and_never_grow() -> None:
    """2000 steps without a gradient, after a start that leaves very different values in each block."""
    shape = (64, 256)
    start = list(gradients(shape, 5))
    p = torch.nn.Parameter(torch.zeros(shape))
    optimizer = at.Adam([p], state="int8")
    for g in start:
        p.grad = g
        optimizer.step()
    m, v = (values_of(optimizer.state[p], name, shape).double() for name in ("exp_avg", "exp_avg_sq"))
    p.grad = torch.zeros(shape)
    total = float(v.sum())
    for step in range(1, 2001):
        optimizer.step()
        now = values_of(optimizer.state[p], "exp_avg_sq", shape).double()
        assert float(now.sum()) <= total
        total = float(now.sum())
        if step in (10, 100, 500, 2000):
            torch.testing.assert_close(now, v * 0.999**step, rtol=0.05, atol=0)
            read = values_of(optimizer.state[p], "exp_avg", shape).double()
            expected = m * 0.9**step
            kept = expected.abs().amax(-1, keepdim=True) > 1e-25  # smaller blocks of m are forgotten
            assert ((read - expected).abs() <= 0.05 * expected.abs())[kept.expand(shape)].all()
    assert not read.any()


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
def test_the_error_is_the_same_at_every_size(size: float) -> None:
    """Of the moments themselves, after 30 steps of gradients with a common scale."""

    def error(scale: float) -> tuple[float, float]:
        shape = (64, 256)
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.zeros(shape))
        optimizer = at.Adam([p], state="int8")
        m, v = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for _ in range(30):
            p.grad = torch.randn(shape, generator=generator) * scale
            m, v = 0.9 * m + 0.1 * p.grad.double(), 0.999 * v + 0.001 * p.grad.double() ** 2
            optimizer.step()
        state = optimizer.state[p]
        found = [values_of(state, name, shape).double() for name in ("exp_avg", "exp_avg_sq")]
        return float((found[0] - m).norm() / m.norm()), float((found[1] - v).norm() / v.norm())

    (m, v), (m_usual, v_usual) = error(size * 4), error(1.0)
    assert m <= 1.1 * m_usual
    assert v <= 1.1 * v_usual
    assert m_usual < 0.03
    assert v_usual < 0.03


@pytest.mark.filterwarnings("ignore:.*, overflows, so that the step may be 0:UserWarning")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e25])
@pytest.mark.parametrize("case", CODED, ids=str)
def test_what_is_not_finite_is_so_where_it_is_in_float32(case: Case, bad: float, isa: str) -> None:
    shape = (40, 160)
    p, q = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    coded, exact = case.make([p], state="int8", **case.options), case.make([q], **case.options)
    for step, g in enumerate(gradients(shape, 6)):
        g = g.sign()
        if step == 2:
            g[3, 5], g[3, 150], g[20, 100] = bad, bad, bad
        p.grad, q.grad = g, g.clone()
        coded.step()
        exact.step()
        assert torch.equal(torch.isfinite(p), torch.isfinite(q)), step
        if bad != 1e25:  # which is finite, and leaves no code for what is beside it
            error, moved = (p - q).detach(), (q - 1).detach()
            finite = torch.isfinite(q)
            if not finite.any():  # as the sums of the tensor
                return
            # All steps of Lion have the same size, and the sign of an average that nearly cancels may be another.
            assert error[finite].abs().max() <= (0.51 if case.name == "lion" else 0.35) * moved[finite].abs().max()


@pytest.mark.parametrize("case", CODED, ids=str)
def test_moments_that_are_not_finite_are_those_of_float32(case: Case, isa: str) -> None:
    shape = (40, 160)
    p, q = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    coded, exact = case.make([p], state="int8", **case.options), case.make([q], **case.options)
    for step, g in enumerate(gradients(shape, 4, seed=2)):
        if step == 2:
            g[3, :3], g[9, 150:153], g[20, 100], g[30, 7] = (
                *2 * [torch.tensor([math.inf, -math.inf, math.nan])],
                -math.inf,
                math.nan,
            )
            g[25] = math.inf  # no finite value beside it
        p.grad, q.grad = g, g.clone()
        coded.step()
        exact.step()
    for name in codes_of(coded.state[p]):
        found, expected = values_of(coded.state[p], name, shape), exact.state[q][name]
        nonfinite = ~torch.isfinite(expected)
        assert nonfinite.any() or name == "previous_grad"
        assert torch.isfinite(found[~nonfinite]).all()
        torch.testing.assert_close(found[nonfinite], expected[nonfinite], equal_nan=True)


def test_nonfinite_gradients_are_skipped_or_raised_as_in_float32() -> None:
    for choice in ("skip", "raise"):
        p = torch.nn.Parameter(torch.ones(64, 128))
        optimizer = at.AdamW([("w", p)], state="int8", on_nonfinite=choice)
        p.grad = torch.ones_like(p)
        optimizer.step()
        before, weight = copied(optimizer.state[p]), p.detach().clone()
        p.grad[5, 5] = math.nan
        if choice == "skip":
            optimizer.step()
            assert optimizer.skipped_steps == 1
        else:
            with pytest.raises(FloatingPointError, match="'w'"):
                optimizer.step()
        assert torch.equal(p, weight)
        assert all(torch.equal(x, before[name]) for name, x in optimizer.state[p].items())


# ---- which tensors


def test_trap_T26_the_whole_shape_decides() -> None:
    part = torch.nn.Parameter(torch.ones(2, 64))
    optimizer = at.Adam([{"params": [part], "rows": [(10, 64)]}], state="int8")
    part.grad = torch.ones_like(part)
    optimizer.step()
    assert optimizer.state[part]["exp_avg"].dtype == torch.int8


def test_a_part_without_rows_is_stepped_and_loaded() -> None:
    def part() -> tuple[at.Optimizer, torch.nn.Parameter]:
        p = torch.nn.Parameter(torch.ones(0, 64))
        return at.Adam([{"params": [p], "rows": [(10, 64)]}], state="int8"), p

    (optimizer, p), (other, q) = part(), part()
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["exp_avg_grid"].shape == (0, 1)
    with pytest.warns(UserWarning, match="moments are converted .* to int8"):
        other.load_state_dict(optimizer.state_dict(state="float32"))
    assert other.state[q]["exp_avg_grid"].shape == (0, 1)


@pytest.mark.parametrize(
    ("shape", "coded"),
    [
        ((4096,), False),
        ((64, 64), True),
        ((63, 65), False),
        ((200, 31), False),
        ((200, 2, 16), True),
        ((1, 4096), True),
    ],
    ids=str,
)
def test_small_tensors_stay_in_float32(shape: tuple[int, ...], coded: bool) -> None:
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = at.Adam([p], state="int8")
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state[p]
    assert (state["exp_avg"].dtype == torch.int8) == coded
    assert (state["exp_avg_sq"].dtype == torch.uint8) == coded
    if coded:
        blocks = -(-math.prod(shape[1:]) // 128)
        assert state["exp_avg_grid"].shape == state["exp_avg_sq_grid"].shape == (shape[0], blocks)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda p: at.Adam([p], state="int4"),
            r"state='int4' is unknown: use one of 'float32', 'bfloat16', 'int8', 'int6'",
        ),
        (lambda p: at.Adam([p], state={"exp_avg": "int4"}), r"state='int4' is unknown"),
        (lambda p: at.Adam([p], state={"momentum": "int8"}), r"there is no moment 'momentum'; the names are 'exp_avg'"),
        (lambda p: at.RMSprop([p], centered=True, state="int8"), r"centered=True needs state=.float32., not 'int8'"),
        (lambda p: at.RMSprop([p], centered=True, state={"square_avg": "int8"}), r"centered=True needs"),
        (lambda p: at.Adam([p.to(torch.complex64)], state="int8"), r"is complex, and there is no complex 'int8'"),
        (
            lambda p: at.Adam([{"params": [p], "rows": [(10, 20)]}]),
            r"rows of parameter 0: \(10, 20\) does not hold its 64",
        ),
        (lambda p: at.Adam([{"params": [p], "rows": []}]), r"rows has 0 entries for 1 parameters"),
    ],
)
def test_what_cannot_be_done_in_8_bits_is_refused_by_name(build: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(torch.nn.Parameter(torch.ones(64, 64)))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("exp_avg_grid", lambda x: None, r"parameter 0 .*'exp_avg_grid' is missing"),
        ("exp_avg_grid", lambda x: x[:, :0], r"'exp_avg_grid' has to be float32, of shape \(64, 1\)"),
        ("exp_avg_grid", lambda x: x.double(), r"has to be float32, of shape \(64, 1\)"),
        ("exp_avg", lambda x: x.to(torch.uint8), r"'exp_avg' has a dtype that it cannot have"),
        ("exp_avg_sq", lambda x: x.to(torch.int8), r"'exp_avg_sq' has a dtype that it cannot have"),
        ("exp_avg_sq", lambda x: x.t().contiguous().t(), r"'exp_avg_sq' has to lie in row-major order"),
    ],
)
def test_a_spoiled_state_in_8_bits_is_refused_by_name(name: str, spoil: Callable[..., Any], message: str) -> None:
    p = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = at.Adam([p], state="int8")
    p.grad = torch.ones_like(p)
    optimizer.step()
    spoiled = spoil(optimizer.state[p][name])
    if spoiled is None:
        del optimizer.state[p][name]
    else:
        optimizer.state[p][name] = spoiled
    with pytest.raises(ValueError, match=message):
        optimizer.step()


def test_trap_T29_the_first_step_does_not_compile_anything() -> None:
    """Nor loads anything, or starts a process: in a fresh one, so that nothing was loaded by another test."""
    program = """if True:
    import sys
    import torch
    import adamas.torch as at
    found = []
    p = torch.nn.Parameter(torch.ones(512, 512))
    p.grad = torch.ones_like(p)
    for state in ("float32", "bfloat16", "int8", "int6"):
        optimizer = at.AdamW([p], state=state)
        before = set(sys.modules)
        watched = ("compile", "exec", "import", "subprocess.Popen", "os.posix_spawn", "os.fork")
        sys.addaudithook(lambda event, arguments: found.append((event, arguments)) if event in watched else None)
        optimizer.step()
        found += set(sys.modules) - before
    print(found)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("state", ["int8", "bfloat16", {"exp_avg": "int8"}, {"exp_avg_sq": "int8"}], ids=str)
def test_radam_moves_where_squares_overflow(isa: str, state: Any, dtype: torch.dtype, weights: str) -> None:
    """Its first steps have no denominator, and so are those of momentum, in every format."""
    gradient = 10.0 ** torch.linspace(-3, 37, 150).repeat(40, 1)
    p = torch.nn.Parameter(torch.zeros(40, 150, dtype=dtype))
    optimizer = at.RAdam([p], lr=1e-3, state=state, weights=weights, weight_decay=0.1)
    for step in range(1, 6):
        p.grad = gradient.to(dtype)
        optimizer.step()
        assert torch.isfinite(p).all()
        # Rounding to 8 bits is as coarse as the largest number of a block.
        largest = gradient[:, [127, 149]].repeat_interleave(torch.tensor([128, 22]), dim=1)
        assert (
            (p.detach().float() + 1e-3 * step * gradient).abs() < 1e-3 * step * (0.02 * gradient + 0.01 * largest)
        ).all()
