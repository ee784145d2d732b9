"""``adamas.convert``: a run that was begun in one framework goes on in another as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from members import CASES, Case, moved_to
from torch import nn

import adamas.numpy
import adamas.torch
from adamas import convert

STEPS = 100
COLUMNS = {
    "1:1000": np.random.default_rng(0).permutation(np.geomspace(1e-3, 1, 256)),
    "one in 16 at 1/1000": np.where(np.arange(256) % 16, 1, 1e-3),
}
Arrays = dict[str, np.ndarray]

draw = np.random.default_rng(0)
INPUTS = draw.normal(size=(STEPS, 16, 6)).astype(np.float32)
TARGETS = np.tanh(INPUTS @ draw.normal(size=(6, 3))).astype(np.float32)


class Network(nn.Module):
    """Two layers, whose weights begin the same each time."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 40, dtype=dtype), nn.Linear(40, 3, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def by_torch(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        dtype = next(model.parameters()).dtype
        outputs = model(torch.from_numpy(INPUTS[step]).to(dtype)).float()
        nn.functional.mse_loss(outputs, torch.from_numpy(TARGETS[step])).backward()
        optimizer.step()


def gradients(params: Arrays, step: int) -> Arrays:
    """By hand, for weights as PyTorch has them."""
    hidden = np.tanh(INPUTS[step] @ params["first.weight"].T + params["first.bias"])
    error = hidden @ params["second.weight"].T + params["second.bias"] - TARGETS[step]
    error *= 2 / error.size
    inner = (error @ params["second.weight"]) * (1 - hidden**2)
    return {
        "first.weight": inner.T @ INPUTS[step],
        "first.bias": inner.sum(0),
        "second.weight": error.T @ hidden,
        "second.bias": error.sum(0),
    }


def by_numpy(params: Arrays, optimizer: adamas.numpy.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.step(gradients(params, step))


def of_columns(columns: str) -> convert.Checkpoint:
    """Moments in float32 of gradients whose columns differ in size."""
    model = nn.ParameterDict({"weight": torch.zeros(32, 256)})
    optimizer = adamas.torch.Adam(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        model["weight"].grad = torch.randn(32, 256, generator=generator) * torch.from_numpy(COLUMNS[columns]).float()
        optimizer.step()
    return convert.from_torch(model, optimizer)


def weights(model: nn.Module) -> Arrays:
    return {name: p.detach().float().numpy().copy() for name, p in model.named_parameters()}


@cache
def whole_run(case: Case) -> Arrays:
    model = Network()
    by_torch(model, case.make(model.parameters(), **case.options), range(STEPS))
    return weights(model)


def assert_close(ours: Arrays, theirs: Arrays, tolerance: float = 2e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        np.testing.assert_allclose(x, theirs[name], rtol=tolerance, atol=tolerance)


def in_numpy(case: Case, params: Arrays | None = None) -> tuple[Arrays, adamas.numpy.Optimizer]:
    params = {name: np.zeros_like(x) for name, x in weights(Network()).items()} if params is None else params
    return params, getattr(adamas.numpy, case.make.__name__)(params, **case.options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fifty_steps_in_torch_and_fifty_in_numpy_are_a_hundred_in_torch(case: Case) -> None:
    model = Network()
    optimizer = case.make(model.parameters(), **case.options)
    by_torch(model, optimizer, range(50))
    params, other = in_numpy(case)
    convert.to_numpy(convert.from_torch(model, optimizer), other)
    by_numpy(params, other, range(50, STEPS))
    assert_close(params, whole_run(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fifty_steps_in_numpy_and_fifty_in_torch_are_a_hundred_in_torch(case: Case) -> None:
    params, optimizer = in_numpy(case, weights(Network()))
    by_numpy(params, optimizer, range(50))
    model = Network()
    other = case.make(model.parameters(), **case.options)
    convert.to_torch(convert.from_numpy(optimizer), model, other)
    by_torch(model, other, range(50, STEPS))
    assert_close(weights(model), whole_run(case))


def kernels(params: Arrays) -> dict[str, Arrays]:
    """Weights of PyTorch as Flax has them."""
    return {
        layer: {"kernel": params[f"{layer}.weight"].T.copy(), "bias": params[f"{layer}.bias"]}
        for layer in ("first", "second")
    }


def as_torch(params: Any) -> Arrays:
    """The weights by PyTorch's names."""
    return {
        f"{layer}.{name}": np.asarray(part[leaf].T if leaf == "kernel" else part[leaf], np.float32)
        for layer, part in params.items()
        for leaf, name in (("kernel", "weight"), ("bias", "bias"))
    }


def by_jax(tx: Any, params: Any, state: Any, steps: range) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    def loss(params: Any, x: Any, y: Any) -> Any:
        hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
        return ((hidden @ params["second"]["kernel"] + params["second"]["bias"] - y) ** 2).mean()

    @jax.jit
    def one(params: Any, state: Any, x: Any, y: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    for step in steps:
        params, state = one(params, state, INPUTS[step], TARGETS[step])
    return params, state


def started(tx: Any) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    params = jax.tree.map(jnp.asarray, kernels(weights(Network())))
    return params, tx.init(params)


IN_OPTAX = moved_to("optax")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if i % 3 == 0 else pytest.mark.nightly) for i, case in enumerate(IN_OPTAX)],
    ids=str,
)
def test_a_run_that_goes_to_jax_and_back_is_that_in_torch(case: Case) -> None:
    tx, model = IN_OPTAX[case](), Network()
    optimizer = case.make(model.parameters(), **case.options)
    by_torch(model, optimizer, range(25))
    params, state = convert.to_optax(convert.from_torch(model, optimizer), *started(tx))
    params, state = by_jax(tx, params, state, range(25, 75))
    convert.to_torch(convert.from_optax(params, state), model, optimizer)
    by_torch(model, optimizer, range(75, STEPS))
    assert_close(weights(model), whole_run(case), 5e-5)


def test_the_state_of_optaxs_own_adam_goes_both_ways_in_a_chain() -> None:
    optax = pytest.importorskip("optax")
    tx = optax.chain(optax.clip_by_global_norm(1e6), optax.adam(0.02))
    case = next(case for case in CASES if case.name == "adam")
    params, state = by_jax(tx, *started(tx), range(50))
    model = Network()
    optimizer = case.make(model.parameters(), **case.options)
    convert.to_torch(convert.from_optax(params, state), model, optimizer)
    by_torch(model, optimizer, range(50, 75))
    params, state = convert.to_optax(convert.from_torch(model, optimizer), *started(tx))
    params, _ = by_jax(tx, params, state, range(75, STEPS))
    assert_close(as_torch(params), whole_run(case), 1e-4)


def test_torch_optims_own_optimizers_are_moved_too() -> None:
    case = next(case for case in CASES if case.name == "adamw")
    model = Network()
    theirs = case.reference(model.parameters(), **case.options)
    by_torch(model, theirs, range(50))
    other_model = Network()
    ours = case.make(other_model.parameters(), **case.options)
    convert.to_torch(convert.from_torch(model, theirs), other_model, ours)
    by_torch(other_model, ours, range(50, 75))
    model = Network()
    theirs = case.reference(model.parameters(), **case.options)
    convert.to_torch(convert.from_torch(other_model, ours), model, theirs)
    by_torch(model, theirs, range(75, STEPS))
    assert_close(weights(model), whole_run(case))


@pytest.mark.parametrize("state", ["bfloat16", "int8", "int6"])
def test_moments_are_stored_as_the_optimizer_that_has_them_then_says(state: Any) -> None:
    source = Network()
    optimizer = adamas.torch.AdamW(source.parameters(), lr=0.02)
    by_torch(source, optimizer, range(20))
    checkpoint = convert.from_torch(source, optimizer)
    large = {"first.weight": np.zeros((64, 80), np.float32)}
    moment = np.resize(checkpoint.parameters["first.weight"].state["exp_avg"], (64, 80))
    checkpoint.parameters = {
        "first.weight": convert.Parameter(
            large["first.weight"], {"step": np.array(20.0), "exp_avg": moment, "exp_avg_sq": moment**2}
        )
    }
    other = adamas.numpy.AdamW(large, state=state)
    with pytest.warns(UserWarning, match="converted"):
        convert.to_numpy(checkpoint, other)
    stored = other.state["first.weight"]["exp_avg"].dtype
    assert stored == (np.uint16 if state == "bfloat16" else np.int8)
    back = convert.from_numpy(other).parameters["first.weight"].state["exp_avg"]
    assert np.abs(back - moment).max() < (0.1 if state == "int6" else 0.02) * np.abs(moment).max()


@pytest.mark.parametrize(
    "state", ["int8", "int6", {"exp_avg": "int8"}, {"exp_avg": "int6", "exp_avg_sq": "int8"}], ids=str
)
@pytest.mark.parametrize("columns", COLUMNS)
def test_small_first_moments_are_kept_wherever_they_are_converted_into_codes(columns: str, state: Any) -> None:
    ao = pytest.importorskip("adamas.optax")
    checkpoint = of_columns(columns)
    exact = checkpoint.parameters["weight"].state["exp_avg"]
    source = {"weight": np.zeros_like(exact)}

    arrays = {"weight": np.zeros_like(exact)}
    in_numpy = adamas.numpy.Adam(arrays, state=state)
    model = nn.ParameterDict({"weight": torch.zeros(exact.shape)})
    in_torch = adamas.torch.Adam(model.named_parameters(), state=state)
    with pytest.warns(UserWarning, match="converted"):
        convert.to_numpy(checkpoint, in_numpy)
    with pytest.warns(UserWarning, match="converted"):
        convert.to_torch(checkpoint, model, in_torch)
    tx = ao.adam(1e-3, state=state)
    found = [
        convert.from_numpy(in_numpy),
        convert.from_torch(model, in_torch),
        convert.from_optax(*convert.to_optax(checkpoint, source, tx.init(source))),
    ]
    for one in found:
        stored = one.parameters["weight"].state["exp_avg"]
        assert ((stored == 0) & (exact != 0)).mean() <= 2e-3  # on grids of its own, 7% of those of one in 16
        assert (stored == found[0].parameters["weight"].state["exp_avg"]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_split_weights_lose_nothing_on_the_way(dtype: torch.dtype, tmp_path: Path) -> None:
    model = Network(dtype)
    optimizer = adamas.torch.AdamW(model.parameters(), lr=0.01, weights="split")
    by_torch(model, optimizer, range(20))
    convert.from_torch(model, optimizer).save(tmp_path / "run.npz")
    checkpoint = convert.load(tmp_path / "run.npz")
    assert all(p.weight.dtype == np.float32 for p in checkpoint.parameters.values())
    again = Network(dtype)
    resumed = adamas.torch.AdamW(again.parameters(), lr=0.01, weights="split")
    convert.to_torch(checkpoint, again, resumed)
    params, half = {name: x.astype(np.float16) for name, x in weights(model).items()}, dtype == torch.float16
    if half:
        other = adamas.numpy.AdamW(params, lr=0.01, weights="split")
        convert.to_numpy(checkpoint, other)
        for name, p in convert.from_numpy(other).parameters.items():
            assert (p.weight == checkpoint.parameters[name].weight).all()
    for one, its in ((model, optimizer), (again, resumed)):
        by_torch(one, its, range(20, 40))
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_in_jax_split_weights_and_8_bits_are_kept() -> None:
    ao = pytest.importorskip("adamas.optax")
    import jax
    import jax.numpy as jnp

    params = {"w": jnp.asarray(draw.normal(size=(64, 80)), jnp.bfloat16)}
    tx = ao.adamw(0.01, state="int8", weights="split")
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(5):
        updates, state = update({"w": jnp.full((64, 80), 0.1 * step, jnp.bfloat16)}, state, params)
        params = ao.apply_updates(params, updates)
    checkpoint = convert.from_optax(params, state)
    params2, state2 = convert.to_optax(checkpoint, {"w": jnp.zeros((64, 80), jnp.bfloat16)}, tx.init(params))
    assert (params2["w"] == params["w"]).all()
    assert (state2.low_bits["w"] == state.low_bits["w"]).all()
    assert int(state2.count) == 5
    for name, moment in state.moments.items():
        assert state2.moments[name]["w"].dtype == moment["w"].dtype
        assert np.abs(np.asarray(state2.moments[name]["w"], float) - np.asarray(moment["w"], float)).max() <= (
            1 if moment["w"].dtype != jnp.float32 else 1e-4
        )


# ---- names


def checkpoint_of(*names: str, shape: tuple[int, ...] = (2,)) -> convert.Checkpoint:
    return convert.Checkpoint({name: convert.Parameter(np.full(shape, float(i))) for i, name in enumerate(names)})


@pytest.mark.parametrize(
    ("here", "there", "names"),
    [
        (["a.weight", "a.bias"], ["a.weight", "a.bias"], None),
        (["net/a/kernel", "net/a/bias", "net/b/bias"], ["a.weight", "a.bias", "b.bias"], None),
        (["params.a.scale", "params.b.embedding"], ["model.a.weight", "model.b.weight"], None),
        (["dense/gamma", "dense_1/beta"], ["0.weight", "2.bias"], {"dense": "0", "dense_1": "2"}),
        (["x", "y"], ["y", "x"], {"x": "y", "y": "x"}),
        (["A.weight"], ["a.weight"], str.lower),
        (["net.b.kernel", "net.a.kernel"], ["x.weight", "y.weight"], {"b/kernel": "x.weight", "a": "y"}),
        (["a.b.weight", "a.c.weight"], ["1.weight", "2.c.weight"], {"a": "2", "a.b": "1"}),
        (["a.kernel.value"], ["a.weight"], None),
        (["weight", "bias"], ["dense.weight", "dense.bias"], None),
    ],
)
def test_names_are_matched(here: list[str], there: list[str], names: Any) -> None:
    params = {name: np.full(2, -1.0) for name in here}
    convert.to_numpy(checkpoint_of(*there), adamas.numpy.SGD(params), names)
    assert [x[0] for x in params.values()] == list(range(len(here)))


def test_what_has_no_counterpart_is_listed_and_nothing_is_changed() -> None:
    x = np.ones(2)
    with pytest.raises(ValueError, match=r"for \['a.weight'\] of the model and \['b.weight'\] of the checkpoint: give"):
        convert.to_numpy(checkpoint_of("b.weight", "c.bias"), adamas.numpy.SGD({"a.weight": x, "c.bias": np.ones(2)}))
    with pytest.raises(ValueError, match=r"'a' has shape \(2,\), but in the checkpoint \('a'\) has shape \(3,\)"):
        convert.to_numpy(checkpoint_of("a", shape=(3,)), adamas.numpy.SGD({"a": x}))
    assert (x == 1).all()


@pytest.mark.parametrize(
    ("here", "there", "names", "words"),
    [
        (
            ["hidden.weight"],
            ["out.weight"],
            None,
            r"for \['hidden.weight'\] of the model and \['out.weight'\] of the checkpoint",
        ),
        (["a", "b"], ["x", "y"], {"a": "x", "b": "x"}, r"counterpart found for \['y'\] of the checkpoint:"),
        (["a", "b"], ["x"], {"a": "x", "b": "x"}, "two parameters of the model are mapped to the same"),
        (["m.scale", "m.weight"], ["m.weight", "n.weight"], None, "two parameters are called 'm.weight' here"),
        (
            ["net.a.weight", "net.head.weight"],
            ["model.a.weight", "model.tail.weight"],
            None,
            r"for \['net.head.weight'\] of the model and \['model.tail.weight'\] of the checkpoint",
        ),
    ],
)
def test_names_that_do_not_go_one_to_one_are_refused(here: Any, there: Any, names: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convert.to_numpy(checkpoint_of(*there), adamas.numpy.SGD({name: np.ones(2) for name in here}), names)


def test_two_parameters_of_one_name_are_refused_on_the_way_out() -> None:
    optimizer = adamas.numpy.SGD({"m/scale": np.ones(1), "m/weight": np.ones(1)})
    with pytest.raises(ValueError, match=r"two parameters are called 'm\.weight'"):
        convert.from_numpy(optimizer)


def test_complex_weights_do_not_become_real_ones() -> None:
    checkpoint = convert.Checkpoint({"a": convert.Parameter(np.ones(2, complex))})
    with pytest.raises(ValueError, match="'a' is float64, but complex128 in the checkpoint"):
        convert.to_numpy(checkpoint, adamas.numpy.SGD({"a": np.ones(2)}))


def test_a_state_of_another_shape_than_its_weight_is_refused() -> None:
    checkpoint = convert.Checkpoint(
        {"a": convert.Parameter(np.ones(2), {"step": np.array(1.0), "exp_avg": np.ones(3)})}
    )
    with pytest.raises(ValueError, match=r"'a' has shape \(2,\), but its 'exp_avg' in the checkpoint"):
        convert.to_numpy(checkpoint, adamas.numpy.Adam({"a": np.ones(2)}))


def test_an_array_that_cannot_be_written_is_refused_before_anything_is_changed() -> None:
    x, y = np.zeros(2), np.zeros(2)
    optimizer = adamas.numpy.Adam({"x": x, "y": y})
    y.flags.writeable = False
    with pytest.raises(ValueError, match="'y' is read-only"):
        convert.to_numpy(checkpoint_of("x", "y"), optimizer)
    assert not optimizer.state


def test_frozen_parameters_and_those_of_another_optimizer() -> None:
    model = Network()
    model.first.requires_grad_(False)
    optimizer = adamas.torch.Adam(model.second.parameters())
    checkpoint = convert.from_torch(model, optimizer)
    assert set(checkpoint.parameters) == {"second.weight", "second.bias"}
    other = Network()
    whole = convert.from_torch(other, adamas.torch.Adam(other.parameters()))
    half = adamas.torch.Adam(other.second.parameters())
    with pytest.raises(ValueError, match=r"'first\.weight' of the model is not one of the optimizer's"):
        convert.to_torch(whole, other, half)


def test_a_state_of_no_moments_is_refused() -> None:
    model = nn.Linear(3, 4)
    optimizer = torch.optim.Adafactor(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="'row_var' of parameter 'weight' has shape"):
        convert.from_torch(model, optimizer)


def test_torchs_sgd_that_does_not_count_goes_on_after_its_first_step() -> None:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, dampening=0.1)
    by_torch(model, optimizer, range(50))
    params = {name: np.zeros_like(x) for name, x in weights(model).items()}
    other = adamas.numpy.SGD(params, lr=0.02, momentum=0.9, dampening=0.1)
    convert.to_numpy(convert.from_torch(model, optimizer), other)
    by_numpy(params, other, range(50, STEPS))
    assert_close(params, whole_run(next(case for case in CASES if case.name == "momentum")))


def test_without_a_step_split_weights_lose_nothing_either() -> None:
    exact = np.float32([1.001, 2.003])
    checkpoint = convert.Checkpoint({"a": convert.Parameter(exact)})
    optimizer = adamas.numpy.Adam({"a": np.zeros(2, np.float16)}, weights="split")
    convert.to_numpy(checkpoint, optimizer)
    assert (convert.from_numpy(optimizer).parameters["a"].weight == exact).all()
    optimizer.param_groups[0]["weights"] = "nearest"  # the low bits that are left are out of date from now on
    assert (convert.from_numpy(optimizer).parameters["a"].weight == exact.astype(np.float16)).all()

    model = nn.ParameterDict({"a": nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))})
    in_torch = adamas.torch.Adam(model.parameters(), weights="split")
    convert.to_torch(checkpoint, model, in_torch)
    assert (convert.from_torch(model, in_torch).parameters["a"].weight == exact).all()


def test_8_bit_moments_of_torch_are_moved_as_their_values() -> None:
    model = nn.Linear(80, 64)
    optimizer = adamas.torch.Adam(model.parameters(), state="int8")
    model(torch.randn(8, 80)).square().sum().backward()
    optimizer.step()
    state = convert.from_torch(model, optimizer).parameters["weight"].state
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert model.weight.grad is not None
    gradient = model.weight.grad.numpy()
    assert np.abs(state["exp_avg"] - 0.1 * gradient).max() < np.abs(0.1 * gradient).max() / 15  # 3 bits or more


def test_what_else_counts_steps_in_optax_goes_on() -> None:
    optax = pytest.importorskip("optax")
    import jax.numpy as jnp

    params, gradient = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    for tx in (
        optax.adam(optax.linear_schedule(1.0, 0.0, 10)),
        optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1.0, 0.0, 10)),
    ):
        p, state = params, tx.init(params)
        for _ in range(8):
            updates, state = tx.update(gradient, state, p)
            p = optax.apply_updates(p, updates)
        _, moved = convert.to_optax(convert.from_optax(p, state), params, tx.init(params))
        first, second = (tx.update(gradient, one, p)[0]["a"] for one in (state, moved))
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_a_state_that_is_not_fresh_does_not_stay() -> None:
    ao = pytest.importorskip("adamas.optax")
    import jax.numpy as jnp

    params = {"a": jnp.ones(2)}
    tx = ao.adam(0.1)
    _, state = tx.update(params, tx.init(params), params)
    with pytest.raises(
        ValueError, match="'a' has no state in the checkpoint, but 1 steps here: give the state that init"
    ):
        convert.to_optax(checkpoint_of("a"), params, state)


def test_nadams_product_is_moved_in_jax() -> None:
    ao = pytest.importorskip("adamas.optax")
    import jax.numpy as jnp

    params = {"a": jnp.ones(2)}
    tx = ao.nadam(0.1)
    state = tx.init(params)
    for _ in range(5):
        _, state = tx.update(params, state, params)
    _, moved = convert.to_optax(convert.from_optax(params, state), params, tx.init(params))
    assert moved.scalars == state.scalars
    for name, moment in state.moments.items():
        assert (moved.moments[name]["a"] == moment["a"]).all()


def test_two_optimizers_and_masks_in_a_state_are_refused() -> None:
    optax = pytest.importorskip("optax")
    import jax.numpy as jnp

    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    two = optax.chain(optax.scale_by_adam(), optax.scale_by_adam())
    with pytest.raises(ValueError, match="the state has 2 optimizers in it"):
        convert.from_optax(params, two.init(params))
    masked = optax.masked(optax.adam(0.1), {"a": True, "b": False})
    with pytest.raises(ValueError, match="the state leaves parameters out"):
        convert.from_optax(params, masked.init(params))


OF_NNX = {
    "adamw": lambda optax, ao: ao.adamw(0.1, weights="split"),
    "nadam": lambda optax, ao: optax.chain(optax.clip_by_global_norm(10.0), ao.nadam(0.1)),
    "optax": lambda optax, ao: optax.adam(optax.linear_schedule(0.1, 0.0, 10)),
    "injected": lambda optax, ao: optax.inject_hyperparams(ao.adamw)(optax.linear_schedule(0.1, 0.0, 10)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if i % 2 else pytest.mark.nightly) for i, name in enumerate(OF_NNX)]
)
def test_an_optimizer_of_flax_goes_both_ways_as_it_is(name: str) -> None:
    """Its state has variables of another kind than the model has parameters; plain arrays are the same checkpoint."""
    nnx = pytest.importorskip("flax.nnx")
    import jax
    import jax.numpy as jnp
    import optax

    import adamas.optax

    def made() -> tuple[Any, Any]:
        model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
        return model, nnx.Optimizer(model, OF_NNX[name](optax, adamas.optax), wrt=nnx.Param)

    def step(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(lambda model: (model(jnp.ones((3, 5))) ** 2).sum())(model))

    model, optimizer = made()
    for _ in range(3):
        step(model, optimizer)
    trees = nnx.state(model, nnx.Param), optimizer.opt_state
    checkpoint = convert.from_optax(*trees)
    assert {name: p.weight.shape for name, p in checkpoint.parameters.items()} == {
        "layers.0.weight": (4, 5),
        "layers.0.bias": (4,),
        "layers.1.weight": (2, 4),
        "layers.1.bias": (2,),
    }
    for same in (convert.from_optax(*map(nnx.as_pure, trees)), convert.from_optax(model, optimizer)):
        for path, p in checkpoint.parameters.items():
            np.testing.assert_equal(same.parameters[path].weight, p.weight)
            np.testing.assert_equal(same.parameters[path].state, p.state)

    other, fresh = made()
    params, fresh.opt_state = convert.to_optax(checkpoint, nnx.state(other, nnx.Param), fresh.opt_state)
    nnx.update(other, params)
    step(model, optimizer)
    step(other, fresh)
    for one, two in zip(
        *(jax.tree.leaves(nnx.as_pure((nnx.state(m), o.opt_state))) for m, o in ((model, optimizer), (other, fresh))),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_a_module_of_equinox_goes_both_ways() -> None:
    eqx, ao = pytest.importorskip("equinox"), pytest.importorskip("adamas.optax")
    import jax

    model = eqx.nn.MLP(3, 2, 4, 1, activation=jax.numpy.tanh, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    tx = ao.adamw(0.1)
    _, state = tx.update(params, tx.init(params), params)
    checkpoint = convert.from_optax(params, state)
    assert "layers.0.weight" in checkpoint.parameters
    moved, after = convert.to_optax(checkpoint, params, tx.init(params))
    for one, two in zip(jax.tree.leaves((moved, after)), jax.tree.leaves((params, state)), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"'activation' in params is a .*, not an array: .*eqx\.filter"):
        convert.from_optax(model, state)


def test_a_state_of_other_parameters_is_refused() -> None:
    ao = pytest.importorskip("adamas.optax")
    tx = ao.adam(0.1)
    state = tx.init({"a": 1.0, "b": 2.0})
    assert convert.from_optax({"a": 1.0, "b": 2.0}, state).parameters["b"].weight == 2
    with pytest.raises(ValueError, match=r"\['c'\] are only in params, and \['b'\] only in the state"):
        convert.from_optax({"a": 1.0, "c": 2.0}, state)
    with pytest.raises(ValueError, match="the state has no optimizer in it: give what init returned"):
        convert.from_optax({"a": 1.0, "b": 2.0}, {"count": 1})


def test_counts_that_differ_are_refused_where_there_is_one() -> None:
    ao = pytest.importorskip("adamas.optax")
    import jax.numpy as jnp

    params = {"a": np.ones(2), "b": np.ones(2)}
    optimizer = adamas.numpy.Adam(params)
    optimizer.step({"a": np.ones(2)})
    optimizer.step({"a": np.ones(2), "b": np.ones(2)})
    tx = ao.adam(0.1)
    tree = {name: jnp.ones(2) for name in params}
    with pytest.raises(ValueError, match=r"'a' and 'b' have the counts .*2.* and .*1"):
        convert.to_optax(convert.from_numpy(optimizer), tree, tx.init(tree))


def test_a_state_of_another_optimizer_is_refused() -> None:
    ao = pytest.importorskip("adamas.optax")
    params = {"a": np.ones(2)}
    optimizer = adamas.numpy.SGD(params, momentum=0.9)
    optimizer.step([np.ones(2)])
    with pytest.raises(ValueError, match="'momentum_buffer' of parameter 'a' is unknown to Adam"):
        convert.to_numpy(convert.from_numpy(optimizer), adamas.numpy.Adam({"a": np.ones(2)}))
    with pytest.raises(ValueError, match="no 'exp_avg'"):
        convert.to_optax(convert.from_numpy(optimizer), params, ao.adam(0.1).init(params))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2d(3, 5, (2, 4)), (2, 4, 3, 5)),
        (lambda: nn.Linear(3, 5), (3, 5)),
        (lambda: nn.Conv1d(3, 5, 2), (2, 3, 5)),
    ],
    ids=["conv2d", "linear", "conv1d"],
)
def test_kernels_are_turned_with_their_moments(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = nn.ModuleDict({"layer": layer()})
    optimizer = adamas.torch.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    kernel = np.zeros(shape, np.float32)
    params = {"layer/kernel": kernel, "layer/bias": np.zeros(5, np.float32)}
    other = adamas.numpy.Adam(params)
    convert.to_numpy(convert.from_torch(model, optimizer), other)
    weight = model["layer"].weight  # (out, in, …) there, (…, in, out) here
    found, moment = weight.detach().numpy(), optimizer.state[weight]["exp_avg"].numpy()
    for index in np.ndindex(shape):
        *spatial, i, o = index
        assert kernel[index] == found[(o, i, *spatial)]
        assert other.state["layer/kernel"]["exp_avg"][index] == moment[(o, i, *spatial)]


def test_another_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    with pytest.raises(ValueError, match="it is not a checkpoint"):
        convert.load(tmp_path / "other.npz")


def test_a_file_that_is_damaged_anywhere_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    weight, moment = np.arange(90, dtype=np.float32), np.ones(90, np.float32)
    convert.Checkpoint({"w": convert.Parameter(weight, {"exp_avg": moment, "step": np.float32(3)})}).save(path)
    content, drawn, refused = path.read_bytes(), np.random.default_rng(30), 0
    for number in range(200):
        damaged = bytearray(content)
        place = len(content) * number // 200
        size = 16 if number % 2 else 1
        for at in range(place, min(place + size, len(damaged))):
            damaged[at] ^= int(drawn.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = convert.load(path).parameters["w"]
        except ValueError as error:
            refused += str(path) in str(error)
            continue
        assert (found.weight == weight).all()
        assert (found.state["exp_avg"] == moment).all()
    assert refused > 150
    for cut in (1, 10, 30, len(content) // 2, len(content)):
        path.write_bytes(content[:-cut])
        with pytest.raises(ValueError, match=r"run\.npz is damaged, or is not a checkpoint of adamas\.convert: "):
            convert.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert.load(tmp_path / "nowhere.npz")


def test_the_examples_in_the_docstrings() -> None:
    import doctest

    assert doctest.testmod(convert).attempted
    assert not doctest.testmod(convert).failed


def halved(case: str = "Adam") -> tuple[convert.Checkpoint, nn.Module]:
    """A checkpoint whose squares of gradients are 0, as after saving in float16."""
    model = Network()
    optimizer = getattr(adamas.torch, case)(model.parameters())
    for _ in range(20):
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e-4)
        optimizer.step()
    checkpoint = convert.from_torch(model, optimizer)
    for p in checkpoint.parameters.values():
        p.state["exp_avg_sq"] = p.state["exp_avg_sq"].astype(np.float16).astype(np.float32)
        assert not p.state["exp_avg_sq"].any()
    return checkpoint, model


@pytest.mark.parametrize("case", ["Adam", "AdamW", "NAdam", "RAdam"])
def test_trap_T38_squares_saved_in_float16_are_mended_for_torch_optim(case: str) -> None:
    """As for ``adamas.torch``, to the same numbers and with the same words."""
    checkpoint, model = halved(case)
    said, squares = [], []
    for module in (adamas.torch, torch.optim):
        optimizer = getattr(module, case)(model.parameters())
        with pytest.warns(UserWarning, match="exp_avg_sq was too small for the first moment in 403 elements") as caught:
            convert.to_torch(checkpoint, model, optimizer)
        said.append([str(warning.message) for warning in caught])
        squares.append([state["exp_avg_sq"] for state in optimizer.state.values()])
    assert len(said[0]) == len(said[1]) == 1
    assert all(torch.equal(a, b) for a, b in zip(*squares, strict=True))


@pytest.mark.parametrize(
    ("moment", "value", "words"),
    [
        ("exp_avg", np.nan, "'exp_avg' has a NaN"),
        ("exp_avg_sq", -1.0, "'exp_avg_sq' has a negative number"),
        ("step", -1.0, "'step' must be a finite, nonnegative number of steps"),
    ],
)
@pytest.mark.parametrize("target", ["torch.optim", "optax"])
def test_trap_T38_a_state_that_cannot_be_is_refused(target: str, moment: str, value: float, words: str) -> None:
    def put(checkpoint: convert.Checkpoint, model: nn.Module) -> None:
        if target == "torch.optim":
            convert.to_torch(checkpoint, model, torch.optim.Adam(model.parameters()))
            return
        params = {name: p.weight for name, p in checkpoint.parameters.items()}
        convert.to_optax(checkpoint, params, pytest.importorskip("optax").adam(1e-3).init(params))

    checkpoint, model = halved()
    for p in checkpoint.parameters.values():
        p.state[moment] = np.full_like(p.state[moment], value)
    with pytest.raises(ValueError, match=f"parameter '.*' in the checkpoint: {words}"):
        put(checkpoint, model)


def test_trap_T38_squares_saved_in_float16_are_refused_for_optax_whose_state_has_no_hyperparameters() -> None:
    optax = pytest.importorskip("optax")
    checkpoint, _ = halved()
    params = {name: p.weight for name, p in checkpoint.parameters.items()}
    state = optax.adam(1e-3).init(params)
    with pytest.raises(ValueError, match=r"too small for the first moment in 403 elements .* \(to_numpy\)"):
        convert.to_optax(checkpoint, params, state)
    optimizer = adamas.numpy.Adam({name: p.weight.copy() for name, p in checkpoint.parameters.items()})
    with pytest.warns(UserWarning, match="403 elements"):
        convert.to_numpy(checkpoint, optimizer)
    convert.to_optax(convert.from_numpy(optimizer), params, state)
