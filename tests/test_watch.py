"""``watch=``: statistics of each tensor, from the pass of the step."""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import adamas.numpy
import adamas.torch
from adamas import schedules
from adamas.step.watching import COLUMNS, KEPT, Options, options_of, parsed

BETA1, BETA2, EPS = 0.9, 0.99, 1e-3


@pytest.fixture(autouse=True, params=["arrays", "engine"])
def _executor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", request.param)


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    shapes = {"wide": (33, 7), "long": (700,), "one": ()}
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def watched_steps(
    steps: int, **options: Any
) -> tuple[Any, list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """An optimizer after some steps, with the weights before each step and after the last, and the gradients."""
    params = tensors()
    optimizer = adamas.torch.AdamW(
        [*params.items()], betas=(BETA1, BETA2), eps=EPS, weight_decay=0.1, **{"lr": 0.1, "watch": True, **options}
    )
    weights, gradients = [], []
    for step in range(steps):
        weights.append({name: p.detach().double().clone() for name, p in params.items()})
        for p in params.values():
            p.grad = torch.randn(p.shape) * 10.0 ** -(step % 4)
        gradients.append({name: p.grad.double().clone() for name, p in params.items()})
        optimizer.step(loss=float(step))
    weights.append({name: p.detach().double().clone() for name, p in params.items()})
    return optimizer, weights, gradients


def test_statistics_are_those_of_the_definitions() -> None:
    optimizer, weights, gradients = watched_steps(6, max_grad_norm=3.0)
    watch = optimizer.watch
    assert watch.names == ["wide", "long", "one"]
    assert list(watch.steps) == [1, 2, 3, 4, 5, 6]
    assert list(watch.per_step["loss"]) == [0, 1, 2, 3, 4, 5]
    for i, name in enumerate(watch.names):
        m = v = torch.zeros_like(weights[0][name])
        for t, gradient in enumerate(gradients):
            norm = math.sqrt(sum(float((g * g).sum()) for g in gradient.values()))
            clip = min(1.0, 3.0 / (norm + 1e-6))
            g, p, u = clip * gradient[name], weights[t][name], weights[t + 1][name] - weights[t][name]
            m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
            v_hat = v / (1 - BETA2 ** (t + 1))
            expected = {
                "grad_norm": gradient[name].norm(),
                "weight_norm": p.norm(),
                "update_norm": u.norm(),
                "update_max": u.abs().max(),
                "m_dot_g": (m * gradient[name]).sum(),
                "rms": (g * g / v_hat.clamp(min=EPS**2)).mean().sqrt(),
                "under_eps": (v_hat.sqrt() < EPS).double().mean(),
                "behind": (v_hat < g * g / 10).double().mean(),
                "lost": 0.0,
                "decay_norm": 0.1 * 0.1 * p.norm(),
            }
            for column in COLUMNS:
                assert watch[column][t, i] == pytest.approx(float(expected[column]), rel=1e-4, abs=1e-6), column
            assert watch.per_step["grad_norm"][t] == pytest.approx(norm, rel=1e-6)
            assert watch.per_step["clip"][t] == pytest.approx(clip, rel=1e-6)


def test_it_changes_nothing() -> None:
    watched, plain = (watched_steps(5, watch=watch)[1][-1] for watch in (True, False))
    assert all(torch.equal(watched[name], plain[name]) for name in plain)


def test_the_learning_rate_is_that_of_the_step() -> None:
    optimizer, *_ = watched_steps(4, lr=0.1 * schedules.warmup(10))
    assert optimizer.watch.per_step["lr"] == pytest.approx([optimizer.lr_at(step) for step in range(4)])


def test_every_and_keep() -> None:
    watch = watched_steps(11, watch="every=2, keep=3")[0].watch
    assert list(watch.steps) == [7, 9, 11]
    assert watch["rms"].shape == (3, 3)


def test_a_step_that_is_asked_for_is_watched_too() -> None:
    params = tensors()
    optimizer = adamas.torch.AdamW([*params.items()], watch="every=5")
    for step in range(1, 12):
        for p in params.values():
            p.grad = torch.ones_like(p)
        if step in (3, 6):
            optimizer.watch_next()
        optimizer.step()
    assert list(optimizer.watch.steps) == [1, 3, 6, 11]
    with pytest.raises(ValueError, match=r"watch_next\(\) needs watch=, and this AdamW was made without it"):
        adamas.torch.AdamW([*params.items()]).watch_next()


def test_a_loaded_optimizer_watches_the_same_steps() -> None:
    optimizer, *_ = watched_steps(7, watch="every=5, save")
    other, *_ = watched_steps(3, watch="every=5, save")
    other.load_state_dict(optimizer.state_dict())
    for _ in range(6):
        other.step()
    assert list(other.watch.steps) == [1, 6, 11]


def test_a_step_that_is_skipped_is_told() -> None:
    optimizer, *_ = watched_steps(2, on_nonfinite="skip")
    params = optimizer.param_groups[0]["params"]
    params[0].grad[0, 0] = math.nan
    optimizer.step()
    watch = optimizer.watch
    assert list(watch.per_step["skipped"]) == [0, 0, 1]
    assert list(watch.steps) == [1, 2, 2]
    assert list(np.isnan(watch["update_norm"]).all(axis=1)) == [False, False, True]


def test_a_tensor_without_a_gradient_is_left_out() -> None:
    optimizer, *_ = watched_steps(1)
    optimizer.param_groups[0]["params"][1].grad = None
    optimizer.step()
    assert list(np.isnan(optimizer.watch["rms"][1])) == [False, True, False]


def test_what_is_lost_to_rounding() -> None:
    p = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    optimizer = adamas.torch.SGD([p], lr=1e-4, watch=True)
    p.grad = torch.ones(1000, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.watch["lost"][0, 0] == 1
    assert optimizer.watch["update_norm"][0, 0] == pytest.approx(1e-4 * math.sqrt(1000), rel=1e-3)


def test_a_copy_goes_on_by_itself() -> None:
    optimizer, *_ = watched_steps(3)
    other = copy.deepcopy(optimizer)
    for p in other.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    other.step()
    assert (len(optimizer.watch), len(other.watch)) == (3, 4)


def test_tensors_that_come_later() -> None:
    optimizer, *_ = watched_steps(2)
    late = torch.nn.Parameter(torch.ones(5))
    late.grad = torch.ones(5)
    optimizer.add_param_group({"params": [("late", late)]})
    optimizer.step()
    assert optimizer.watch.names == ["wide", "long", "one", "late"]
    assert list(np.isnan(optimizer.watch["rms"][:, 3])) == [True, True, False]
    assert not np.isnan(optimizer.watch["rms"][:, 0]).any()


def _equal(one: Any, other: Any) -> None:
    assert one.names == other.names
    assert list(one.steps) == list(other.steps)
    for column in COLUMNS:
        np.testing.assert_array_equal(one[column], other[column])


def test_memory() -> None:
    optimizer, *_ = watched_steps(1, watch="keep=10")
    assert optimizer.memory().bytes["watch"] == 10 * (4 * 3 * len(COLUMNS) + 8 * 6) + 8
    assert "watch" not in watched_steps(1, watch=False)[0].memory().bytes
    planned = adamas.torch.plan_memory([*tensors().items()], watch="keep=10")
    assert planned.bytes == {**optimizer.memory().bytes, "gradients": planned.bytes["gradients"]}


def test_saved_if_asked() -> None:
    optimizer, *_ = watched_steps(3, watch="save")
    state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    other, *_ = watched_steps(1, watch=True)
    other.load_state_dict(state)
    _equal(other.watch, optimizer.watch)
    other.step()
    assert list(other.watch.steps) == [1, 2, 3, 4]
    assert "watched" not in other.param_groups[0]
    assert "watched" not in watched_steps(3)[0].state_dict()["param_groups"][0]


def test_a_state_without_it_begins_anew() -> None:
    optimizer, *_ = watched_steps(3)
    other, *_ = watched_steps(2, watch=True)
    other.load_state_dict(optimizer.state_dict())
    assert len(other.watch) == 0


@pytest.mark.parametrize("text", ["?", "AAAA", 3])
def test_what_was_saved_is_checked(text: Any) -> None:
    optimizer, *_ = watched_steps(2, watch="save")
    state = optimizer.state_dict()
    state["param_groups"][0]["watched"] = text
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="watched"):
        optimizer.load_state_dict(state)
    assert str(optimizer.state_dict()) == str(before)


def test_numpy_arrays() -> None:
    generator = np.random.default_rng(0)
    params = {"w": generator.normal(size=(5, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
    options: Any = {"lr": 0.1, "watch": "save"}
    optimizer = adamas.numpy.AdamW(params, **options)
    for step in range(3):
        optimizer.step({"w": np.ones_like(params["w"])}, loss=step)
    watch = optimizer.watch
    assert watch is not None
    assert watch.names == ["w", "b"]
    assert watch["grad_norm"][:, 0] == pytest.approx(math.sqrt(15))
    assert np.isnan(watch["grad_norm"][:, 1]).all()
    assert list(watch.per_step["loss"]) == [0, 1, 2]
    other = adamas.numpy.AdamW({name: p.copy() for name, p in params.items()}, **options)
    other.load_state_dict(optimizer.state_dict())
    _equal(other.watch, watch)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": "auto", "state": "int8"}], ids=["plain", "clipped"])
def test_steps_in_the_backward_pass(options: dict[str, Any]) -> None:
    found = []
    for is_released in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(70, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3))
        groups = [{"params": [*one.named_parameters()], "lr": lr} for one, lr in ((model[0], 0.1), (model[2], 0.01))]
        optimizer = adamas.torch.AdamW(groups, watch="every=2", **options)
        if is_released:
            adamas.torch.release(optimizer)
        for step in range(5):
            model(torch.randn(8, 70)).square().sum().backward()
            optimizer.step(loss=step)
            optimizer.zero_grad()
        found.append(optimizer.watch)
    _equal(*found)
    assert list(found[0].steps) == [1, 3, 5]
    for name, values in found[0].per_step.items():
        np.testing.assert_allclose(found[1].per_step[name], values, rtol=1e-6, err_msg=name)


def test_the_number_of_a_step_is_that_of_the_most() -> None:
    """Also where the parameters that have made most get no gradients."""
    optimizer, *_ = watched_steps(30)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = None
    late = torch.nn.Parameter(torch.ones(5))
    late.grad = torch.ones(5)
    optimizer.add_param_group({"params": [("late", late)]})
    optimizer.step()
    late.grad = None
    optimizer.step()
    assert list(optimizer.watch.steps[-3:]) == [30, 30, 30]


@pytest.mark.parametrize("loss", [torch.ones(2), torch.ones(0), np.ones(2), "1", [1.0], 1j, torch.tensor(1j)], ids=str)
def test_a_loss_that_is_no_number_is_refused_before_the_step(loss: Any) -> None:
    optimizer, *_ = watched_steps(1)
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    with pytest.raises(TypeError, match="loss must be a single real number"):
        optimizer.step(loss=loss)
    assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))


@pytest.mark.parametrize("loss", [2, np.float32(2), np.array([2.0]), torch.tensor([[2]]), torch.tensor(2.0)], ids=repr)
def test_a_loss_of_any_type(loss: Any) -> None:
    optimizer, *_ = watched_steps(1)
    optimizer.step(loss=loss)
    assert optimizer.watch.per_step["loss"][-1] == 2
    optimizer.step(lambda: [loss, "of a closure, which may return anything"])
    assert np.isnan(optimizer.watch.per_step["loss"][-1])


def test_every_counts_on_after_loading() -> None:
    def steps(optimizer: Any, gradients: list[float]) -> None:
        (p,) = optimizer.param_groups[0]["params"]
        for gradient in gradients:
            p.grad = torch.full_like(p, gradient)
            optimizer.step()

    first, second = (
        adamas.torch.SGD([torch.nn.Parameter(torch.ones(4))], lr=0.1, on_spike="skip, last=4", watch="every=4")
        for _ in range(2)
    )
    steps(first, [99.0 if i == 8 else 1.0 for i in range(12)])
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        steps(optimizer, [1.0] * 12)
    assert list(first.watch.steps[-3:]) == list(second.watch.steps)


def test_an_overflow_of_a_loss_scaler_is_told() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = adamas.torch.AdamW([p], watch=True, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(p.sum() * (math.inf if step == 2 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    watch = optimizer.watch
    assert watch is not None
    assert list(watch.steps) == [1, 2, 2, 3]
    assert list(watch.per_step["skipped"]) == [0, 0, 1, 0]
    assert list(np.isnan(watch.per_step["grad_norm"])) == [False, False, True, False]


def test_tensors_of_the_same_name() -> None:
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    for i, p in enumerate(params):
        p.grad = torch.full((1,), float(i + 1))
    optimizer = adamas.torch.AdamW([("w", params[0])], watch=True)
    optimizer.add_param_group({"params": [("w", params[1])]})
    optimizer.step()
    optimizer.add_param_group({"params": [("x", params[2])]})
    optimizer.step()
    watch = optimizer.watch
    assert watch is not None
    assert watch.names == ["w", "w (1)", "x"]
    assert list(watch["grad_norm"][0, :2]) == [1, 2]


def test_damaged_bytes_are_one_kind_of_error() -> None:
    optimizer, *_ = watched_steps(2, watch="save")
    raw = base64.b64decode(optimizer.state_dict()["param_groups"][0]["watched"])
    for i in range(len(raw)):
        damaged = base64.b64encode(raw[:i] + bytes([raw[i] ^ 132]) + raw[i + 1 :]).decode()
        with contextlib.suppress(ValueError):
            parsed(damaged)


class TestReading:
    @pytest.fixture
    def watch(self) -> Any:
        return watched_steps(3)[0].watch

    def test_a_table_is_printed(self, watch: Any) -> None:
        title, heads, *rows = str(watch).splitlines()
        assert title.startswith("step 3, loss 2, grad_norm ")
        assert heads.split() == ["‖g‖", "‖p‖", "‖u‖/‖p‖", "max", "|u|", "RMS", "under", "ε", "behind", "lost"]
        assert [row.split()[0] for row in rows] == watch.names
        assert rows[0].split()[1] == f"{watch['grad_norm'][-1, 0]:.1e}"
        assert len({len(row) for row in (heads, *rows)}) == 1

    def test_rich_prints_it(self, watch: Any) -> None:
        console = Console(width=80, file=io.StringIO())
        console.print(watch)
        assert f"{watch['rms'][-1, 1]:.1e}" in console.file.getvalue()  # type: ignore[attr-defined]

    def test_before_the_first_step(self) -> None:
        watch = watched_steps(0)[0].watch
        assert str(watch) == "no step has been watched yet"
        assert watch.latest() == {}
        with pytest.raises(ValueError, match="no step with 'rms'"):
            watch.plot("rms")

    def test_the_ratio_of_updates(self, watch: Any) -> None:
        np.testing.assert_allclose(watch["update_ratio"], watch["update_norm"] / watch["weight_norm"])
        params = [torch.nn.Parameter(torch.zeros(3))]
        params[0].grad = torch.ones(3)
        optimizer = adamas.torch.SGD(params, lr=0.1, watch=True)
        optimizer.step()
        assert np.isnan(optimizer.watch["update_ratio"]).all()

    def test_pandas(self, watch: Any) -> None:
        frame = watch.to_pandas()
        assert frame.index.names == ["step", "tensor"]
        assert frame.loc[(2, "long"), "rms"] == watch["rms"][1, 1]

    def test_tensorboard(self, watch: Any) -> None:
        written: dict[str, tuple[float, int]] = {}

        class Writer:
            def add_scalar(self, name: str, value: float, step: int) -> None:
                written[name] = value, step

        watch.log_to(Writer())
        assert written["optimizer/loss"] == (2.0, 3)
        assert written["optimizer/rms/one"] == (float(watch["rms"][2, 2]), 3)

    def test_a_plot_has_a_row_for_each_tensor(self, watch: Any) -> None:
        axes = watch.plot("under_eps").axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == watch.names
        assert axes.images[0].get_array().shape == (3, 3)

    def test_an_unknown_statistic(self, watch: Any) -> None:
        with pytest.raises(KeyError, match="'norm': the statistics are grad_norm, "):
            watch["norm"]


@pytest.mark.parametrize("group", [{"watch": True}])
def test_it_is_no_option_of_a_group(group: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="watch is of the whole optimizer"):
        adamas.torch.AdamW([{"params": [torch.nn.Parameter(torch.ones(1))], **group}])
    with pytest.raises(TypeError, match="watch"):
        adamas.numpy.AdamW([{"params": [np.ones(1, np.float32)], **group}])


@pytest.mark.parametrize(
    ("watch", "options"),
    [
        (True, Options()),
        ("every=10", Options(every=10)),
        ("save, keep=5,every=2", Options(2, 5, True)),
        (False, None),
        (None, None),
    ],
)
def test_options(watch: Any, options: Any) -> None:
    assert options_of(watch) == options
    assert Options().keep == KEPT


@pytest.mark.parametrize("watch", ["", "every=0", "every", "always", "every=2, every=3", "keep=-1"])
def test_options_that_are_refused(watch: str) -> None:
    with pytest.raises(ValueError, match="watch"):
        options_of(watch)


def test_nothing_is_watched_by_default() -> None:
    assert adamas.torch.AdamW([torch.nn.Parameter(torch.ones(1))]).watch is None
