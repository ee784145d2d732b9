"""The reference formats: what they promise, and that the engine stores the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adamas.torch as at
from adamas import _engine
from adamas.rule import formats
from adamas.rule.declaration import WEIGHT_DRAW
from adamas.rule.sentence import SECOND
from adamas.torch.storage import as_int16

floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
normal_floats = st.floats(width=32, min_value=2.0**-14, max_value=60000.0)


def array(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=50))
def test_nearest_is_that_of_torch(values: list[float]) -> None:
    x = array(values)
    for dtype, encode, decode in (
        (torch.bfloat16, formats.encode_bfloat16, formats.decode_bfloat16),
        (torch.float16, formats.encode_float16, formats.decode_float16),
    ):
        with np.errstate(over="ignore"):
            got = decode(np, encode(np, x))
        np.testing.assert_array_equal(got, torch.from_numpy(x).to(dtype).float().numpy())


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=50))
def test_a_split_bfloat16_weight_joins_to_its_bits(values: list[float]) -> None:
    x = array(values)
    joined = formats.join_bfloat16(np, *formats.split_bfloat16(np, x))
    np.testing.assert_array_equal(joined, x)
    finite = np.isfinite(x)
    assert (joined.view(np.int32)[finite] == x.view(np.int32)[finite]).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(normal_floats, min_size=1, max_size=50))
def test_a_split_float16_weight_joins_to_its_bits_where_it_is_normal(values: list[float]) -> None:
    for x in (array(values), -array(values)):
        assert (formats.join_float16(np, *formats.split_float16(np, x)).view(np.int32) == x.view(np.int32)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, min_value=-(2.0**-14), max_value=2.0**-14), min_size=1, max_size=50))
def test_a_split_float16_weight_below_that_is_within_2_to_the_minus_40(values: list[float]) -> None:
    x = array(values)
    assert np.abs(formats.join_float16(np, *formats.split_float16(np, x)) - x).max() <= 2.0**-40


@pytest.mark.parametrize("encode", [formats.encode_bfloat16, formats.encode_float16])
@pytest.mark.parametrize("value", [1.001, -0.3333, 1e-6, 777.7, 0.0, 1.0])
def test_stochastic_rounding_is_right_on_average(encode, value: float) -> None:  # type: ignore[no-untyped-def]
    decode = formats.decode_bfloat16 if encode is formats.encode_bfloat16 else formats.decode_float16
    n = 1 << 16
    x = np.full(n, value, np.float32)
    random = formats.random16(np, np.arange(n, dtype=np.int64), tensor_key=5, step=3, draw=WEIGHT_DRAW)
    got = decode(np, encode(np, x, random)).astype(np.float64)
    neighbours = np.unique(got)
    assert len(neighbours) <= 2
    spacing = np.ptp(neighbours) if len(neighbours) == 2 else 0.0
    assert abs(got.mean() - float(x[0])) <= 5 * 0.5 * spacing / np.sqrt(n) + 1e-12


def test_random_bits_are_uniform_and_independent() -> None:
    index = np.arange(1 << 16, dtype=np.int64)
    draws = [formats.random_bits(index, *formats.key_of(key, draw)) for key, draw in ((1, 0), (2, 0), (1, 1))]
    for bits in draws:
        ones = np.array([(bits >> i & 1).mean() for i in range(32)])
        assert np.abs(ones - 0.5).max() < 0.01
        unit = bits / 2.0**32
        assert abs(np.corrcoef(unit[:-1], unit[1:])[0, 1]) < 0.02
    first, *others = (bits / 2.0**32 for bits in draws)
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.02


def test_thresholds_are_uniform_over_the_elements_and_even_in_time() -> None:
    index = np.arange(1 << 16, dtype=np.int64)
    for step in (1, 2, 10**9):
        found = formats.random16(np, index, 1, step, SECOND.draw)
        assert abs(np.histogram(found, 16, (0, 1 << 16))[0] / len(index) - 1 / 16).max() < 0.005
    one = np.array([formats.random16(np, index[:50], 1, step, WEIGHT_DRAW) for step in range(100)])
    counts = np.apply_along_axis(lambda x: np.histogram(x, 10, (0, 1 << 16))[0], 0, one)
    assert counts.min() >= 8  # of 10; independent numbers would leave some with 2 or 3
    assert counts.max() <= 12


@pytest.mark.parametrize("isa", _engine.instruction_sets())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
def test_the_engine_stores_the_references_bits(weights: str, dtype: torch.dtype, isa: str) -> None:
    """A decay by 1/2 alone is exact in float32, so every difference would be one of storage."""
    chosen = _engine.instruction_set()
    _engine.use_instruction_set(isa)
    try:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3001, generator=generator) * 10.0 ** torch.randint(-7, 4, (3001,), generator=generator)
        p = torch.nn.Parameter(x.to(dtype))
        codes = p.detach().view(torch.int16).numpy().astype(np.int64) & 0xFFFF
        optimizer = at.SGD([("w", p)], lr=0.5, weight_decay=2 * 0.34375, decay="decoupled", weights=weights, seed=11)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        key, index = optimizer._plans[0].records[0].key, np.arange(3001, dtype=np.int64)
        random = formats.random16(np, index, key, 1, WEIGHT_DRAW)
        name = str(dtype).removeprefix("torch.")
        join = getattr(formats, f"join_{name}")
        start = join(np, codes, 0 * codes) if weights == "split" else getattr(formats, f"decode_{name}")(np, codes)
        value = start * np.float32(1 - 0.34375)
        if weights == "split":
            high, low = getattr(formats, f"split_{name}")(np, value)
            stored = as_int16(optimizer.state[p]["weight_low_bits"]).numpy()
            np.testing.assert_array_equal(stored.astype(np.int64) & 0xFFFF, low)
        else:
            high = getattr(formats, f"encode_{name}")(np, value, random if weights == "stochastic" else None)
        np.testing.assert_array_equal(p.detach().view(torch.int16).numpy().astype(np.int64) & 0xFFFF, high)
    finally:
        _engine.use_instruction_set(chosen)


def test_a_name_keeps_its_random_numbers_in_any_order() -> None:
    def end(order: tuple[str, ...]) -> dict[str, torch.Tensor]:
        named = {name: torch.nn.Parameter(torch.ones(500, dtype=torch.bfloat16)) for name in order}
        optimizer = at.Adam(named.items(), weights="stochastic")
        for p in named.values():
            p.grad = torch.ones_like(p)
        optimizer.step()
        return {name: p.detach() for name, p in named.items()}

    one, two = end(("a", "b")), end(("b", "a"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["a"], one["b"])
