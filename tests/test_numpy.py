"""``adamas.numpy``: the members against the oracle and ``adamas.torch``; what it refuses; what it saves."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
from members import CASES, WITH_FACTORED, Case, has, with_sums_over_all

import adamas.numpy as an
import adamas.torch as at
from adamas.rule import formats, layout
from adamas.schedules import Plateau, cosine, warmup
from adamas.step.namespaces.torch import Namespace

Arrays = dict[str, np.ndarray]

SHAPES = {"w": (40, 150), "b": (150,), "scalar": (), "empty": (0, 3), "k": (3, 2, 5, 7)}


def make(case: Case, params: Any, **options: Any) -> an.Optimizer:
    kind: type[an.Optimizer] = getattr(an, case.make.__name__)
    return kind(params, **{**case.options, **options})


def arrays(seed: int, dtype: Any = np.float32) -> Arrays:
    """Arrays of many shapes, with values over several orders of magnitude."""
    random = np.random.default_rng(seed)
    return {
        name: np.asarray((random.normal(size=shape) + 0.3) * 10.0 ** random.integers(-3, 1, shape)).astype(dtype)
        for name, shape in SHAPES.items()
    }


def as_tensor(x: np.ndarray) -> torch.Tensor:
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def bits(x: Any) -> bytes:
    """The bits of an array or a tensor, bfloat16 as its codes."""
    if isinstance(x, torch.Tensor):
        x = x.detach()
        return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy().tobytes()
    return np.asarray(x).tobytes()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decoupled": {"weight_decay": 0.1, "decay": "decoupled"},
    "l2-l1-maximize": {"weight_decay": 0.1, "decay": "l2", "l1": 0.01, "maximize": True},
    "clipped": {"max_grad_norm": 1.0},
    "bfloat16": {"state": "bfloat16"},
    "int8": {"state": "int8", "seed": 5},
    "int6": {"state": "int6", "seed": 5},
    "scheduled": {"lr": 0.1 * warmup(3).then(cosine(5)), "weight_decay": 0.1 * cosine(6)},
}


@pytest.fixture(params=["engine", "arrays"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are made by the engine, or over arrays: PyTorch's roots may be off by an ulp, and are replaced by NumPy's."""
    monkeypatch.setenv("ADAMAS_EXECUTOR", request.param)
    monkeypatch.setattr(Namespace, "sqrt", lambda _, x: torch.from_numpy(np.asarray(np.sqrt(x.numpy()))), raising=False)


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_and_state_are_those_of_adamas_torch_to_the_bit(case: Case, options: dict[str, Any]) -> None:
    if not has(case, options):
        pytest.skip("centered moments stay in float32")
    params = arrays(0)
    parameters = {name: torch.nn.Parameter(as_tensor(x)) for name, x in params.items()}
    ours, theirs = make(case, params, **options), case.make(parameters.items(), **{**case.options, **options})
    for step in range(6):
        grads = arrays(10 + step)
        if step == 2:
            del grads["b"]
        ours.step(grads)
        for name, p in parameters.items():
            p.grad = as_tensor(grads[name]) if name in grads else None
        theirs.step()
    for name, p in parameters.items():
        assert bits(params[name]) == bits(p), name
        assert ours.state[name].keys() == theirs.state[p].keys()
        assert all(bits(value) == bits(theirs.state[p][key]) for key, value in ours.state[name].items())
    assert ours.grad_norm == theirs.grad_norm


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_16_bit_weights_are_those_of_adamas_torch_to_the_bit(case: Case, dtype: Any, weights: str) -> None:
    params = arrays(0, dtype)
    parameters = {name: torch.nn.Parameter(as_tensor(x)) for name, x in params.items()}
    ours = make(case, params, weights=weights)
    theirs = case.make(parameters.items(), **case.options, weights=weights)
    for step in range(4):
        grads = arrays(10 + step, dtype)
        ours.step(grads)
        for name, p in parameters.items():
            p.grad = as_tensor(grads[name])
        theirs.step()
    assert all(bits(params[name]) == bits(p) for name, p in parameters.items())


@pytest.mark.parametrize(
    "case", [case for case in CASES if not with_sums_over_all(case)], ids=str
)  # the oracle has one tensor
def test_float64_weights_are_the_oracles(case: Case) -> None:
    params = arrays(1, np.float64)
    optimizer = make(case, params, weight_decay=0.01)
    group, member = optimizer.param_groups[0], optimizer._member
    expected = {name: x.copy() for name, x in params.items()}
    moments = {name: oracle.start(member, group, x.shape) for name, x in params.items()}
    scalars = dict(member.scalars)
    for step in range(8):
        grads = arrays(20 + step, np.float64)
        optimizer.step(grads)
        scalars = member.advance(group, scalars)
        for name, g in grads.items():
            expected[name], moments[name] = oracle.step(member, group, scalars, expected[name], g, moments[name])
    for name, x in params.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_complex_weights_are_those_of_adamas_torch_to_the_bit(case: Case, dtype: Any) -> None:
    def drawn(seed: int) -> Arrays:
        return {name: np.asarray(x + 1j * arrays(seed + 100)[name], dtype) for name, x in arrays(seed).items()}

    params = drawn(0)
    parameters = {name: torch.nn.Parameter(as_tensor(x)) for name, x in params.items()}
    ours, theirs = make(case, params), case.make(parameters.items(), **case.options)
    for step in range(3):
        grads = drawn(10 + step)
        ours.step(grads)
        for name, p in parameters.items():
            p.grad = as_tensor(grads[name])
        theirs.step()
    assert all(bits(params[name]) == bits(p) for name, p in parameters.items())


def test_without_names_random_numbers_go_by_position_as_in_adamas_torch() -> None:
    params = [arrays(seed, ml_dtypes.bfloat16)["w"] for seed in range(3)]
    parameters = [torch.nn.Parameter(as_tensor(x)) for x in params]
    ours = an.Adam([{"params": params[:1]}, {"params": params[1:]}], weights="stochastic")
    theirs = at.Adam([{"params": parameters[:1]}, {"params": parameters[1:]}], weights="stochastic")
    for p, x in zip(parameters, params, strict=True):
        p.grad = as_tensor(x)
    ours.step([x.copy() for x in params])
    theirs.step()
    assert all(bits(x) == bits(p) for x, p in zip(params, parameters, strict=True))


@pytest.mark.parametrize(
    "change",
    [{"amsgrad": True}, {"weight_decay": 0.1}, {"seed": 7}, {"weights": "nearest"}, {"state": "int8"}, {"lr": 0.5}],
    ids=str,
)
def test_options_may_be_changed_between_steps_as_in_adamas_torch(change: dict[str, Any]) -> None:
    x = arrays(0, ml_dtypes.bfloat16)["w"]
    p = torch.nn.Parameter(as_tensor(x))
    ours = an.Adam({"w": x}, lr=0.01, weights="stochastic", state="bfloat16")
    theirs = at.Adam([("w", p)], lr=0.01, weights="stochastic", state="bfloat16")
    for step in range(4):
        if step == 2:
            ours.param_groups[0].update(change)
            theirs.param_groups[0].update(change)
        gradient = arrays(step, ml_dtypes.bfloat16)["w"]
        ours.step([gradient])
        p.grad = as_tensor(gradient)
        theirs.step()
        assert bits(x) == bits(p)


def test_arrays_and_states_may_be_replaced_between_steps() -> None:
    x, y = np.ones(2), np.full(2, 5.0)
    optimizer = an.SGD({"x": x}, lr=1.0, momentum=0.5)
    optimizer.step([np.ones(2)])
    optimizer.param_groups[0]["params"][0] = y
    optimizer.step([np.ones(2)])
    assert (x.tolist(), y.tolist()) == ([0.0, 0.0], [3.5, 3.5])
    del optimizer.state["x"]
    optimizer.step([np.ones(2)])
    assert y.tolist() == [2.5, 2.5]
    y.flags.writeable = False
    optimizer.param_groups[0]["params"][0] = y[::-1]
    with pytest.raises(ValueError, match="'x' is read-only"):
        optimizer.step([np.ones(2)])
    optimizer.param_groups[0]["params"].append(np.ones(2))
    with pytest.raises(ValueError, match="group 0 has 2 arrays and 1 names: add arrays by add_param_group"):
        optimizer.step([np.ones(2)])


def test_a_group_that_cannot_be_stepped_leaves_the_others_as_they_are() -> None:
    x, y = np.ones(2), np.ones(2)
    optimizer = an.Adam([{"params": [x]}, {"params": [y]}])
    optimizer.step([np.ones(2), np.ones(2)])
    before = x.copy()
    for change in ({"lr": None}, {"betas": (0.9, 1.0)}, {"decay": "decouplde"}, {"eps_mode": "hut"}, {"state": "int4"}):
        kept = dict(optimizer.param_groups[1])
        optimizer.param_groups[1].update(change)
        with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
            optimizer.step([np.ones(2), np.ones(2)])
        optimizer.param_groups[1].update(kept)
        assert (x == before).all()
        assert optimizer.state["0"]["step"] == 1


def test_two_threads_step_one_after_the_other_from_the_first_step_on() -> None:
    for _ in range(30):
        x = np.zeros(20_000)
        optimizer = an.Adagrad({"x": x}, lr=1.0, initial_accumulator_value=0.5)
        start = threading.Barrier(4)

        def work(optimizer: an.Optimizer = optimizer, start: threading.Barrier = start) -> None:
            start.wait()
            optimizer.step({"x": np.ones(20_000)})

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert optimizer.state["x"]["step"] == 4
        assert (optimizer.state["x"]["sum"] == 4.5).all()


def test_any_strides_of_weights_and_gradients_give_the_same_numbers() -> None:
    def ways(x: np.ndarray) -> list[np.ndarray]:
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        return [x.copy(), np.asfortranarray(x), x[::-1, ::-1].copy()[::-1, ::-1], wide[..., ::2]]

    start, gradient = arrays(3)["w"], arrays(4)["w"]
    ends = set()
    for p in ways(start):
        for g in ways(gradient):
            weight, before = p.copy(order="K") if p.flags.forc else p, g.copy()
            weight[...] = start
            optimizer = an.AdamW([weight], lr=0.1)
            for _ in range(3):
                optimizer.step([g])
            ends.add(np.ascontiguousarray(weight).tobytes())
            assert (g == before).all()
    assert len(ends) == 1


def test_gradients_may_be_of_any_floating_dtype_constant_or_no_arrays_at_all() -> None:
    ends = []
    for gradient in (
        np.float16([1, -2, 3]),
        np.float64([1, -2, 3]),
        np.array([1, -2, 3], ml_dtypes.bfloat16),
        [1.0, -2.0, 3.0],
        torch.tensor([1.0, -2.0, 3.0]),
        np.broadcast_to(np.float32([1, -2, 3]), (2, 3))[0],
    ):
        x = np.ones(3, np.float32)
        an.Adam([x], lr=0.1).step([gradient])
        ends.append(x.tobytes())
    assert len(set(ends)) == 1


def test_a_list_a_dict_and_groups_are_all_taken() -> None:
    x, y, z = (np.ones(2) for _ in range(3))
    an.SGD([x], lr=1.0).step([np.ones(2)])
    an.SGD({"y": y}, lr=1.0).step({"y": np.ones(2)})
    optimizer = an.SGD([{"params": [z], "lr": 0.5}, {"params": {"x": x}}], lr=1.0)
    optimizer.step([np.ones(2), None])
    assert x.tolist() == y.tolist() == [0.0, 0.0]
    assert z.tolist() == [0.5, 0.5]
    optimizer.add_param_group({"params": {"y": y}, "lr": 2.0})
    optimizer.step({"0": np.ones(2), "y": np.ones(2)})
    assert (z.tolist(), x.tolist(), y.tolist()) == ([0.0, 0.0], [0.0, 0.0], [-2.0, -2.0])


class TestRefusals:
    """What cannot be stepped in place is refused by name, and nothing is changed."""

    def test_a_read_only_array(self) -> None:
        x = np.ones(3)
        x.flags.writeable = False
        with pytest.raises(ValueError, match="parameter 'weights' is read-only"):
            an.Adam({"weights": x})

    def test_an_array_that_became_read_only(self) -> None:
        x, y = np.ones(3), np.ones(3)
        optimizer = an.Adam({"x": x, "y": y})
        y.flags.writeable = False
        with pytest.raises(ValueError, match=r"'y'.* is read-only"):
            optimizer.step([np.ones(3), np.ones(3)])
        assert x.tolist() == [1, 1, 1]

    @pytest.mark.parametrize(
        "array",
        [
            *(np.array([1.0, None]), np.ones(2, int), np.ones(2, ">f4"), np.ones(2, np.uint16)),
            pytest.param(
                np.ones(2, np.longdouble),
                marks=pytest.mark.skipif(np.finfo(np.longdouble).bits == 64, reason="it is float64 on this platform"),
            ),
        ],
        ids=["object", "int", "byte-order", "uint16", "longdouble"],
    )
    def test_another_dtype(self, array: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"parameter 'w' has dtype .*: only float16, float32"):
            an.Adam({"w": array})
        if array.dtype != object:
            with pytest.raises(ValueError, match="the gradient of parameter 'w' has dtype"):
                an.Adam({"w": np.ones(2)}).step([array])

    @pytest.mark.parametrize("given", [[1.0], 1.0, np.float32(1), np.ma.array([1.0]), torch.ones(1)], ids=repr)
    def test_no_array(self, given: Any) -> None:
        with pytest.raises(TypeError, match=r"parameter 'w' is a .*only NumPy arrays"):
            an.Adam({"w": given})

    def test_a_single_array(self) -> None:
        with pytest.raises(TypeError, match="put it in a list"):
            an.Adam(np.ones(3))  # type: ignore[arg-type]

    def test_arrays_that_share_memory(self) -> None:
        x = np.ones((4, 4))
        with pytest.raises(ValueError, match="parameters 'row' and 'all' share memory"):
            an.Adam({"row": x[1], "other": np.ones(3), "all": x})
        with pytest.raises(ValueError, match="share memory"):
            an.Adam([x]).add_param_group({"params": {"again": x}})
        an.Adam([x[::2], x[1::2]]).step([np.ones((2, 4))] * 2)  # interleaved, and apart
        with pytest.raises(ValueError, match="parameters '0' and '2' share memory"):
            an.Adam([x, np.ones(1), x[3:], np.ones(1)])
        flat = np.ones(9)
        with pytest.raises(ValueError, match="parameters '0' and '2' share memory"):
            an.Adam([flat[::2], flat[1:8:2], flat[4:5]])

    def test_an_array_whose_elements_share_memory(self) -> None:
        x = np.lib.stride_tricks.as_strided(np.ones(4), (3, 2), (8, 8))
        with pytest.raises(
            ValueError, match=r"'x': it has elements that share memory, .*; use a copy of it \(.*, copy\(\) in NumPy\)"
        ):
            an.Adam({"x": x}).step([np.ones((3, 2))])

    def test_a_gradient_in_the_memory_of_another_weight(self) -> None:
        x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
        with pytest.raises(ValueError, match="'x': its gradient lies in the memory of parameter 'y'"):
            an.SGD({"x": x, "y": y}, lr=1.0).step({"x": y, "y": -x})
        with pytest.raises(ValueError, match="'x': its gradient lies in the memory of parameter 'x'"):
            an.SGD({"x": x}, lr=1.0).step([x[::-1]])
        with pytest.raises(ValueError, match="'y': its gradient lies in the memory of parameter 'x'"):
            an.SGD([{"params": {"x": x}}, {"params": {"y": y}}], lr=1.0).step([y.copy(), x])
        an.SGD({"x": x, "y": y}, lr=0.5).step({"x": x, "y": y})  # each its own
        assert (x.tolist(), y.tolist()) == ([0.5, 1.0], [1.5, 2.0])

    def test_a_gradient_in_the_memory_of_a_state(self) -> None:
        x, y = np.ones(4), np.ones(4)
        optimizer = an.Adam({"x": x, "y": y})
        optimizer.step([np.ones(4), np.ones(4)])
        for gradient in (optimizer.state["x"]["exp_avg"], optimizer.state["x"]["exp_avg_sq"][::-1]):
            with pytest.raises(ValueError, match="'y': its gradient lies in the memory of parameter 'x' or its state"):
                optimizer.step({"x": np.ones(4), "y": gradient})

    @pytest.mark.parametrize(
        ("gradient", "words"),
        [
            (np.ma.array([1.0, 99.0], mask=[0, 1]), "is a MaskedArray, whose mask would be lost"),
            ([[1.0], [1.0, 2.0]], "cannot be converted to an array"),
            (torch.ones(2, requires_grad=True), "cannot be converted to an array"),
        ],
    )
    def test_a_gradient_that_is_no_array(self, gradient: Any, words: str) -> None:
        with pytest.raises(TypeError, match=f"the gradient of parameter 'x' {words}"):
            an.Adam({"x": np.ones(2)}).step([gradient])

    @pytest.mark.parametrize(
        ("group", "error", "words"),
        [
            ({"lr": 1.0}, ValueError, r"must have its arrays under 'params', but this one has \['lr'\]"),
            ({"params": [np.ones(1)], "learning_rate": 1.0}, TypeError, "Adam has no option learning_rate"),
        ],
    )
    def test_a_group(self, group: Any, error: Any, words: str) -> None:
        optimizer = an.Adam([np.ones(1)])
        with pytest.raises(error, match=words):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 1

    @pytest.mark.parametrize(
        ("grads", "words"),
        [
            ([np.ones(2)], "1 entries for 2 parameters"),
            ({"z": np.ones(2)}, "there is no parameter 'z'; the parameters are 'x', 'y'"),
            ([np.ones(3), None], r"the gradient of parameter 'x' has shape \(3,\), but the parameter has \(2,\)"),
            ([np.ones(2), np.ones(2, complex)], "'y': its gradient has another shape than the parameter, or only one"),
        ],
    )
    def test_gradients_that_do_not_fit(self, grads: Any, words: str) -> None:
        x, y = np.ones(2), np.ones(2)
        with pytest.raises(ValueError, match=words):
            an.Adam({"x": x, "y": y}).step(grads)
        assert (x == 1).all()
        assert (y == 1).all()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"lr": -1}, "lr must be a nonnegative number or a schedule, not -1"),
            ({"betas": (0.9, 1.0)}, r"betas\[1\] must be from 0 up to but not including 1"),
            ({"state": "int4"}, "state='int4' is unknown: use one of"),
            ({"weights": "none"}, "weights='none' is unknown"),
            ({"max_grad_norm": 0}, "max_grad_norm must be above 0"),
            ({"seed": 1.5}, "seed must be an int"),
            ({"rows": [(3, 4)]}, "rows of parameter '0': .* does not hold its 3 rows"),
        ],
    )
    def test_options(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            an.Adam([np.ones((3, 2))], **options)
        with pytest.raises(ValueError, match=words):
            an.Adam([{"params": [np.ones((3, 2))], **options}])

    def test_an_unknown_option(self) -> None:
        with pytest.raises(TypeError, match="Adam has no option momentum"):
            an.Adam([np.ones(1)], momentum=0.9)  # type: ignore[call-arg]

    def test_two_parameters_of_one_name(self) -> None:
        with pytest.raises(ValueError, match="two parameters are called '0'"):
            an.Adam([{"params": [np.ones(1)]}, {"params": {"0": np.ones(1)}}])


def test_trap_T32_memory_that_is_promised_to_be_constant_is_refused() -> None:
    jnp = pytest.importorskip("jax.numpy")
    constant = jnp.ones(3)
    for array in (constant, np.asarray(constant), np.from_dlpack(constant), np.frombuffer(constant, np.float32)):
        with pytest.raises((TypeError, ValueError), match=r"parameter 'x'.*(must never change|is read-only)"):
            an.Adam({"x": array}, lr=1.0)
    x = np.ones(3, np.float32)
    an.Adam([x], lr=1.0).step([constant])
    assert constant.tolist() == [1, 1, 1]
    assert x.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_trap_T37_a_first_step_of_rate_0_without_a_gradient_counts_nothing(case: Case) -> None:
    """As ``torch.distributed.checkpoint`` has state made; also where a gradient is -0 in bfloat16."""
    options = {"weight_decay": 0.1, "decay": "l2", "max_grad_norm": "auto"}
    some, asked = (arrays(0) for _ in range(2))
    one, two = make(case, some, **options), make(case, asked, **options)
    two.param_groups[0]["lr"] = 0.0
    two.step({name: np.full(x.shape, -0.0, ml_dtypes.bfloat16) for name, x in asked.items()})
    assert all(state["step"] == 0 for state in two.state.values())
    two.param_groups[0]["lr"] = one.param_groups[0]["lr"]
    for step in range(3):
        one.step(arrays(10 + step)), two.step(arrays(10 + step))
    saved, other = one.state_dict(), two.state_dict()
    assert saved.keys() == other.keys()
    assert all(bits(saved[name]) == bits(other[name]) for name in saved if name != "param_groups")
    assert str(saved["param_groups"]) == str(other["param_groups"])
    assert all(bits(some[name]) == bits(asked[name]) for name in some)


def test_nonfinite_gradients_are_skipped_counted_or_raised() -> None:
    x = np.ones(2)
    optimizer = an.Adam({"x": x}, on_nonfinite="skip")
    optimizer.step([np.array([1.0, np.nan])])
    assert optimizer.skipped_steps == 1
    assert (x == 1).all()
    assert optimizer.state["x"]["step"] == 0
    with pytest.raises(FloatingPointError, match="the gradient of parameter 'x' has a NaN"):
        an.Adam({"x": x}, on_nonfinite="raise").step([np.array([np.inf, 0])])


# ---- saving and loading


def through_a_file(saved: dict[str, np.ndarray]) -> Any:
    file = io.BytesIO()
    np.savez(file, **saved)
    file.seek(0)
    return np.load(file, allow_pickle=False)


@pytest.mark.parametrize("options", [*OPTIONS.values(), {"weights": "split"}], ids=[*OPTIONS, "split"])
@pytest.mark.parametrize("case", WITH_FACTORED, ids=str)
def test_a_run_goes_on_from_a_file_to_the_bit(case: Case, options: dict[str, Any]) -> None:
    if not has(case, options):
        pytest.skip("centered moments stay in float32")
    dtype = ml_dtypes.bfloat16 if "weights" in options else np.float32
    params = arrays(0, dtype)
    optimizer = make(case, params, **options)
    for step in range(3):
        optimizer.step(arrays(30 + step))
    kept = {name: x.copy() for name, x in params.items()}
    file = through_a_file(optimizer.state_dict())
    resumed = make(case, kept, **{**options, **({} if "lr" in options else {"lr": 7.0})})
    resumed.load_state_dict(file)
    for step in range(3, 6):
        for one in (optimizer, resumed):
            one.step(arrays(30 + step))
    assert all(bits(params[name]) == bits(kept[name]) for name in params)


def test_given_hyperparameters_stay_when_asked() -> None:
    saved = an.Adam([np.ones(1)], lr=0.5).state_dict()
    optimizer = an.Adam([np.ones(1)], lr=0.25)
    optimizer.load_state_dict(saved, hyperparameters="given")
    assert optimizer.param_groups[0]["lr"] == 0.25
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="hyperparameters='all' is unknown"):
        optimizer.load_state_dict(saved, hyperparameters="all")


def test_what_was_saved_and_what_was_loaded_share_nothing() -> None:
    def made() -> an.Optimizer:
        return an.Adam({"x": np.ones((64, 64), np.float16)}, weights="split", state="int8")

    optimizer, gradient = made(), np.full((64, 64), 0.3)
    optimizer.step([gradient])
    saved = optimizer.state_dict()
    before = {name: value.copy() for name, value in saved.items()}
    other = made()
    other.load_state_dict(saved)
    for one in (optimizer, other):
        one.step([10 * gradient])
    assert all((saved[name] == before[name]).all() for name in saved)


@pytest.mark.parametrize("wanted", layout.FORMATS)
@pytest.mark.parametrize("saved_as", layout.FORMATS)
def test_moments_saved_in_another_format_are_converted_with_a_warning(saved_as: Any, wanted: Any) -> None:
    x = arrays(0)["w"]
    optimizer = an.Adam({"x": x.copy()}, state=saved_as)
    for step in range(4):
        optimizer.step([arrays(step)["w"]])
    other = an.Adam({"x": x.copy()}, state=wanted)
    if saved_as == wanted:
        other.load_state_dict(optimizer.state_dict())
    else:
        with pytest.warns(UserWarning, match=f"exp_avg.* from {saved_as} to {wanted}"):
            other.load_state_dict(optimizer.state_dict())

    def values(one: an.Optimizer, moment: str) -> np.ndarray:
        state = one.state["x"]
        stored = state[moment]
        if stored.dtype == np.uint16:
            return np.asarray(formats.decode_bfloat16(np, stored.astype(np.int64)))
        if stored.dtype == np.float32:
            return stored
        result = np.empty(one.param_groups[0]["params"][0].shape, np.float32)
        layout.decode(np, stored, state[layout.scale_name(moment)], result)
        return result

    for moment in ("exp_avg", "exp_avg_sq"):
        first, second = values(optimizer, moment), values(other, moment)
        # The mantissas of the widest grids have 3 bits and 1.
        share, part = (3, 200) if wanted == "int6" else (15, 800)
        assert (np.abs(first - second) <= np.abs(first) / share + np.abs(first).max() / part).all()
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > (0.99 if wanted == "int6" else 0.999)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved.pop("param_groups"), "not an optimizer's state dict"),
        (lambda saved: saved.update({"state/x/exp_avg": np.ones(4)}), "'exp_avg' of parameter 'x' is float64 of shape"),
        (lambda saved: saved.update({"state/x/exp_avg": np.ones(3, int)}), "'exp_avg' of parameter 'x' is int64"),
        (lambda saved: saved.pop("state/x/exp_avg_sq"), "'exp_avg_sq' of parameter 'x' is missing"),
        (lambda saved: saved.pop("state/x/step"), "'step' of parameter 'x' must be one number"),
        (lambda saved: saved.update({"state/x/sum": np.ones(3)}), "'sum' of parameter 'x' is unknown to Adam"),
        (
            lambda saved: saved.update(param_groups=np.array(json.dumps([{"params": ["y"], "named": True}]))),
            r"it lacks \['x'\] and has \['y'\]",
        ),
        (lambda saved: saved.update(param_groups=np.array("[]")), "has 0 parameter groups, but this optimizer has 1"),
        (lambda saved: saved.update(param_groups=np.array("[3]")), "its 'param_groups' cannot be read"),
        (lambda saved: saved.update(param_groups=np.array("garbage")), "its 'param_groups' cannot be read"),
        (
            lambda saved: saved.update({"state/x/step": np.array(np.nan)}),
            "parameter 'x': 'step' must be a finite, nonnegative number of steps, not nan",
        ),
        (
            lambda saved: saved.update({"state/y/step": np.array(1.0)}),
            "it has 'step' of parameter 'y', but there is no such parameter",
        ),
        (lambda saved: saved.update({"state/x/exp_avg": np.ones(3, np.int8)}), "whose scales must be float32"),
        (
            lambda saved: saved.update(an.SGD({"x": np.ones(3)}).state_dict()),
            "'dampening', which Adam does not have: it belongs to another optimizer",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(change: Any, words: str) -> None:
    x = np.ones(3)
    optimizer = an.Adam({"x": x}, lr=0.1)
    optimizer.step([np.ones(3)])
    saved = optimizer.state_dict()
    change(saved)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert all((before[name] == after[name]).all() for name in before)


WRONG = [
    None,
    "x",
    b"x",
    [],
    {},
    5,
    -5,
    -1,
    np.nan,
    -np.inf,
    1j,
    object(),
    np.zeros((2, 2)),
    np.array(["a"]),
    [[1], [2, 3]],
]
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("key", ["param_groups", "state/x/step", "state/x/exp_avg", "state/x/exp_avg_grid", "state/x"])
def test_anything_in_the_place_of_an_array_is_loaded_or_refused_in_a_line_and_whole(key: str) -> None:
    def made() -> an.Optimizer:
        optimizer = an.Adam(
            {"x": np.ones((32, 128), np.float32)}, lr=0.1 * Plateau(), state="int8", max_grad_norm="auto"
        )
        optimizer.step([np.full((32, 128), 0.5)])
        return optimizer

    optimizer = made()
    saved = before = optimizer.state_dict()
    groups = json.loads(str(saved["param_groups"]))
    changed: list[tuple[str, Any]] = [(key, {**saved, key: value}) for value in WRONG]
    if key == "param_groups":
        changed += [
            (name, json.dumps([{**groups[0], name: x}]))
            for name in groups[0]
            for x in (None, "x", [], [None], {}, 5, -1, np.nan)
        ]
        changed += [("param_groups", DEEP), ("param_groups", "[null]"), ("param_groups", "5"), ("state dict", [1, 2])]
        changed = [(name, {**saved, key: np.array(x)} if isinstance(x, str) else x) for name, x in changed]
    for name, state_dict in changed:
        try:
            optimizer.load_state_dict(state_dict)
        except (TypeError, ValueError) as error:
            message = str(error)
        else:
            message = ""
        if message:
            assert "\n" not in message
            word = name.rpartition("/")[2].removesuffix("_grid").replace("param_groups", "group").removesuffix("s")
            assert word in message, (name, message)
            after = optimizer.state_dict()
            assert all((before[entry] == after[entry]).all() for entry in before)
        else:
            optimizer.step([np.full((32, 128), 0.5)])
            assert np.isfinite(optimizer.param_groups[0]["params"][0]).all(), name
            optimizer = made()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"state/x/step": np.array(-5.0)},
            "parameter 'x': 'step' must be a finite, nonnegative number of steps, not -5",
        ),
        ({"state/x/step": np.array(np.inf)}, "parameter 'x': 'step' must be a finite, nonnegative number of steps"),
        ({"state/x/exp_avg": np.array([1, np.nan, 1])}, "parameter 'x': 'exp_avg' has a NaN"),
        ({"state/x/exp_avg": np.array([1, np.inf, 1])}, "parameter 'x': 'exp_avg' has an infinity"),
        ({"state/x/exp_avg_sq": np.array([1, -1e-9, 1])}, "parameter 'x': 'exp_avg_sq' has a negative number"),
    ],
)
def test_trap_T38_a_state_that_cannot_be_is_refused(change: Any, words: str) -> None:
    optimizer = an.Adam({"x": np.ones(3)})
    optimizer.step([np.ones(3)])
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict({**before, **change})
    after = optimizer.state_dict()
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", [case for case in CASES if not case.options.get("centered")], ids=str)
def test_trap_T38_squares_saved_in_float16_are_mended_as_in_adamas_torch(case: Case, state: str) -> None:
    generator = np.random.default_rng(0)
    x = np.ones((32, 128), np.float32)
    optimizer = make(case, {"x": x})
    for _ in range(20):
        optimizer.step([1e-4 * generator.random(x.shape)])
    saved = optimizer.state_dict()
    states = case.make._member.states
    halved = [name for name, one in states.items() if not one.signed and f"state/x/{name}" in saved]
    for name in halved:
        saved[f"state/x/{name}"] = saved[f"state/x/{name}"].astype(np.float16).astype(np.float32)
    p = torch.nn.Parameter(torch.from_numpy(x.copy()))
    one, other = make(case, {"x": x.copy()}, state=state), case.make([("x", p)], **{**case.options, "state": state})
    entry = {name.rpartition("/")[2]: torch.from_numpy(value.copy()) for name, value in saved.items() if "/" in name}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one.load_state_dict(saved)
        said = [str(warning.message) for warning in caught]
        other.load_state_dict({"state": {0: entry}, "param_groups": other.state_dict()["param_groups"]})
    assert sorted(said) == sorted(str(warning.message) for warning in caught[len(said) :])
    for name, value in one.state["x"].items():
        assert bits(value) == bits(other.state[p][name]), name


def test_low_bits_that_do_not_fit_are_refused() -> None:
    def made() -> an.Optimizer:
        return an.Adam({"x": np.ones(3, np.float16)}, weights="split")

    optimizer = made()
    optimizer.step([np.ones(3)])
    for low in (np.zeros(4, np.int16), np.zeros(3, np.int32)):
        with pytest.raises(ValueError, match="'weight_low_bits' of parameter 'x' must be int16"):
            made().load_state_dict({**optimizer.state_dict(), "state/x/weight_low_bits": low})


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(9, np.uint8)[1:].view(np.float32), "parameter 'x' is not aligned in memory"),
        (np.lib.stride_tricks.as_strided(np.zeros(1), (3,), (0,)), "parameter 'x' is a broadcast array"),
    ],
    ids=["unaligned", "broadcast"],
)
def test_memory_that_cannot_be_stepped_is_refused_at_construction(x: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        an.Adam({"x": x})


def test_a_gradient_may_be_unaligned() -> None:
    x, y = np.ones(2, np.float32), np.ones(2, np.float32)
    unaligned = np.zeros(9, np.uint8)[1:].view(np.float32)
    unaligned[:] = 0.5
    an.Adam([x]).step([unaligned]), an.Adam([y]).step([unaligned.copy()])
    assert (x == y).all()


def test_groups_with_other_parameters_are_refused() -> None:
    def made(*names: str) -> an.Optimizer:
        return an.SGD([{"params": {name: np.ones(1)}, "lr": i + 1.0} for i, name in enumerate(names)])

    with pytest.raises(ValueError, match=r"has \['x'\] in parameter group 0, but this optimizer has \['y'\]"):
        made("y", "x").load_state_dict(made("x", "y").state_dict())


def test_without_names_parameters_are_matched_by_position() -> None:
    optimizer = an.Adam({"a": np.ones(1), "b": np.ones(1)})
    optimizer.step([np.ones(1), np.full(1, 2.0)])
    other = an.Adam([np.ones(1), np.ones(1)])
    other.load_state_dict(optimizer.state_dict())
    assert other.state["1"]["exp_avg"] == optimizer.state["b"]["exp_avg"]


def test_the_norms_that_auto_clipping_remembers_go_on_from_a_file() -> None:
    def made() -> an.Optimizer:
        return an.SGD({"x": np.ones(1)}, max_grad_norm="auto", seed=np.int64(3))

    optimizer = made()
    for _ in range(12):
        optimizer.step([np.ones(1)])
    resumed = made()
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for one in (optimizer, resumed):
        one.step([np.full(1, 100.0)])
    assert resumed.clipped_steps == optimizer.clipped_steps == 1
    assert resumed.grad_norm_limit == optimizer.grad_norm_limit


def test_a_plateau_goes_on_from_a_file() -> None:
    def made() -> tuple[an.Optimizer, Plateau]:
        plateau = Plateau(factor=0.5, patience=0)
        return an.SGD({"x": np.ones(1)}, lr=1.0 * plateau), plateau

    optimizer, plateau = made()
    for loss in (1.0, 2.0, 3.0):
        optimizer.step([np.ones(1)])
        plateau.observe(loss)
    lr = optimizer.param_groups[0]["lr"]
    assert lr < 1
    resumed, _ = made()
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert resumed.param_groups[0]["lr"] == lr


# ---- the rest


def test_a_copy_and_a_pickle_go_on_with_arrays_of_their_own() -> None:
    x = arrays(0)["w"]
    optimizer = an.AdamW({"x": x}, lr=0.1 * cosine(10), state="int8")
    optimizer.step([arrays(1)["w"]])
    others = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    before = x.copy()
    for other in others:
        other.step([arrays(2)["w"]])
    assert (x == before).all()
    optimizer.step([arrays(2)["w"]])
    for other in others:
        assert (other.param_groups[0]["params"][0] == x).all()
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_parts_by_rows_are_stepped_as_the_whole() -> None:
    whole = arrays(0)["w"]
    parts = whole[:15].copy(), whole[15:].copy()
    optimizers = [
        an.Adam([{"params": {"w": part}, "rows": [(first, 40)]}], state="int8")
        for part, first in zip(parts, (0, 15), strict=True)
    ]
    one = an.Adam({"w": whole}, state="int8")
    for step in range(3):
        g = arrays(step)["w"]
        one.step([g])
        optimizers[0].step([g[:15]])
        optimizers[1].step([g[15:]])
    assert bits(whole) == bits(np.concatenate(parts))


def test_memory_tells_the_bytes_by_kind() -> None:
    optimizer = an.AdamW({"w": np.ones((64, 128), np.float32)}, state="int8")
    optimizer.step([np.ones((64, 128), np.float32)])
    memory = optimizer.memory()
    assert memory.bytes == {
        "weights": 4 * 64 * 128,
        "gradients": 0,
        "exp_avg": 64 * 128,
        "exp_avg_sq": 64 * 128,
        "scales": 2 * 64 * 4,
        "step counts": 8,
    }
    assert "exp_avg_sq" in str(memory)


def test_a_step_allocates_nothing_of_an_arrays_size() -> None:
    import tracemalloc

    x, g = np.ones(1 << 20, np.float32), np.ones(1 << 20, np.float32)
    optimizer = an.Adam([x])
    optimizer.step([g])
    tracemalloc.start()
    optimizer.step([g])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_it_needs_numpy_alone() -> None:
    program = """
        import sys
        for name in ("torch", "jax", "scipy", "keras", "tensorflow", "optax", "ml_dtypes", "typing_extensions"):
            sys.modules[name] = None
        import numpy as np, adamas.numpy
        x = np.ones(3)
        optimizer = adamas.numpy.AdamW([x], lr=0.1, state="bfloat16")
        optimizer.step([x])
        optimizer.load_state_dict(optimizer.state_dict())
        assert x[0] < 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_the_examples_in_the_docstrings() -> None:
    import doctest

    from adamas.numpy import members

    for module in (an, members):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_the_same_defaults_as_in_adamas_torch() -> None:
    for name in an.members.__all__:
        ours = getattr(an, name)([np.ones((1, 1))]).defaults
        theirs = getattr(at, name)([torch.nn.Parameter(torch.ones(1, 1))]).defaults
        for key, value in ours.items():
            assert value == theirs[key], (name, key)
