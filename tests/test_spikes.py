"""``on_spike=``: what counts as a spike, and what is done then."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import adamas.numpy
import adamas.torch
from adamas.step.namespaces.torch import formulas_of
from adamas.step.spikes import Options, Spikes, options_of, parsed
from adamas.step.watching import Host

FORMULAS = [Host, formulas_of(torch.device("cpu"))]


def filled(f: Any, values: Any, on_spike: str = "skip, last=10", of: str = "grad_norm") -> Spikes:
    options = options_of(on_spike)
    assert options is not None
    spikes = Spikes(options, f)
    for value in values:
        took(spikes, value, of)
    return spikes


def took(spikes: Spikes, value: float, of: str = "grad_norm", runs: Any = None) -> Any:
    spike = spikes.decide({of: value})
    if spikes.f is Host:
        for dictionary, name, new in spikes.changes(spike, runs):
            dictionary[name] = new
    else:
        spikes.count(spike, runs)
    return spike


@pytest.mark.parametrize("f", FORMULAS, ids=["host", "device"])
class TestDecisions:
    def test_a_spike_begins_sigma_deviations_above_the_mean(self, f: Any) -> None:
        values = [1.0, 2.0, 3.0, 2.0, 1.5, 2.5, 1.0, 3.0, 2.0, 2.0]
        limit = np.mean(values) + 6 * np.std(values)
        assert float(filled(f, values).limits()[0]) == pytest.approx(limit)
        assert not bool(took(filled(f, values), limit * 0.999).is_spike)
        assert bool(took(filled(f, values), limit * 1.001).is_spike)

    def test_or_at_a_multiple_of_a_quantile(self, f: Any) -> None:
        spikes = filled(f, [float(x) for x in range(1, 11)], "skip, quantile=0.9, last=10")
        assert float(spikes.limits()[0]) == pytest.approx(1.5 * 9)

    def test_half_of_the_values_have_to_be_known(self, f: Any) -> None:
        assert math.isinf(filled(f, [1.0] * 4).limits()[0])
        assert float(filled(f, [1.0] * 5).limits()[0]) == 1

    def test_only_the_last_values_count(self, f: Any) -> None:
        spikes = filled(f, [1000.0] * 10 + [1.0] * 10)
        assert float(spikes.limits()[0]) == 1

    def test_the_factor_brings_the_norm_to_the_limit(self, f: Any) -> None:
        spikes = filled(f, [1.0, 3.0] * 5, "clip, last=10")
        assert float(took(spikes, 80.0).gradient) == pytest.approx((2 + 6) / 80)
        assert float(took(filled(f, [1.0] * 10), 1.0).gradient) == 1

    def test_updates_are_shortened_by_the_rate(self, f: Any) -> None:
        spikes = filled(f, [1.0, 3.0] * 5, "clip, of=update_norm, last=10", "update_norm")
        spike = took(spikes, 80.0, "update_norm")
        assert (float(spike.gradient), float(spike.rate)) == (1, pytest.approx(0.1))

    def test_a_spike_raises_the_limit_slowly_and_is_counted(self, f: Any) -> None:
        spikes = filled(f, [1.0, 3.0] * 5)
        assert bool(took(spikes, 1e9).is_spike)
        assert 8 < float(spikes.limits()[0]) < 20
        for _ in range(12):
            took(spikes, 100.0)
        assert not bool(took(spikes, 100.0).is_spike), "a lasting change has to be accepted"
        assert 2 <= spikes.number < 13

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_a_spike_and_not_remembered(self, f: Any, value: float) -> None:
        spikes = filled(f, [1.0] * 10)
        spike = took(spikes, value)
        assert bool(spike.is_spike)
        assert float(spike.gradient) == 1
        assert float(spikes.limits()[0]) == 1
        assert bool(took(filled(f, []), value).is_spike)

    def test_steps_that_are_left_out_say_nothing(self, f: Any) -> None:
        spikes = filled(f, [1.0] * 10)
        runs = np.bool_(False) if f is Host else torch.tensor(False)
        took(spikes, 1e9, runs=runs)
        assert spikes.number == 0
        assert float(spikes.limits()[0]) == 1

    def test_a_negative_loss(self, f: Any) -> None:
        spikes = filled(f, [-5.0, -4.0] * 5, "skip, of=loss, last=10", "loss")
        assert float(spikes.limits()[0]) == pytest.approx(-4.5 + 6 * 0.5)
        assert bool(took(spikes, -1.0, "loss").is_spike)

    def test_one_of_several_measures_is_enough(self, f: Any) -> None:
        options = options_of("skip, of=loss+grad_norm, last=2")
        assert options is not None
        spikes = Spikes(options, f)
        for _ in range(3):
            spike = spikes.decide({"loss": 1.0, "grad_norm": 5.0})
            spikes.count(spike) if f is not Host else vars(spikes).update({n: x for _, n, x in spikes.changes(spike)})
        assert not bool(spikes.decide({"loss": 1.0, "grad_norm": 5.0}).is_spike)
        assert bool(spikes.decide({"loss": 1.0, "grad_norm": 6.0}).is_spike)
        assert bool(spikes.decide({"loss": 2.0, "grad_norm": 5.0}).is_spike)
        assert bool(spikes.decide({"loss": 2.0}).is_spike)

    def test_saved_and_loaded(self, f: Any) -> None:
        spikes = filled(f, [float(x) for x in range(13)])
        other = Spikes(spikes.options, f)
        other.load(parsed(spikes.saved()))
        for value in (50.0, 7.0, 8.0):
            assert float(other.limits()[0]) == float(spikes.limits()[0])
            assert bool(took(spikes, value).is_spike) == bool(took(other, value).is_spike)
        assert other.number == spikes.number > 0

    def test_another_number_of_values(self, f: Any) -> None:
        spikes = filled(f, [float(x) for x in range(13)])
        for last, known in ((4, [9, 10, 11, 12]), (20, range(3, 13))):
            other = Spikes(spikes.options._replace(last=last), f)
            other.load(parsed(spikes.saved()))
            assert float(other.limits()[0]) == pytest.approx(np.mean(known) + 6 * np.std(known))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("skip", Options("skip")),
        ("clip, of=exact", Options("clip", ("exact",))),
        ("skip, of=loss + grad_norm, sigma=4.5", Options("skip", ("loss", "grad_norm"), 4.5)),
        ("clip,quantile=.95,last=64", Options("clip", quantile=0.95, last=64)),
        (None, None),
    ],
)
def test_options(text: Any, options: Any) -> None:
    assert options_of(text) == options


@pytest.mark.parametrize(
    "text",
    [
        *("", "stop", "skip, sigma=0", "skip, quantile=1", "skip, last=1", "skip, last=2.5", "skip, of=norm"),
        *("skip, of=loss+loss", "skip, sigma=1, sigma=2", "skip, sigma=3, quantile=0.9", "clip, of=loss"),
        *("skip, of=loss, quantile=0.9", "skip, fast"),
    ],
)
def test_options_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="on_spike="):
        options_of(text)
    with pytest.raises(TypeError, match="on_spike must be"):
        options_of(True)


SAVED = '{"number": %d, "update_norm": %s, "values": %s}'
WRONG = [
    *((-1, 0, "{}"), (2**53, 0, "{}"), (1, "NaN", "{}"), (1, -1, "{}"), (1, 0, '{"x": [1]}')),
    *((1, 0, '{"loss": [0, 1]}'), (1, 0, '{"loss": [5]}'), (1, 0, '{"grad_norm": [1, -1]}'), (1, 0, "[" * 10**5)),
]


@pytest.mark.parametrize("text", ["", "3", "{}", None, *(SAVED % wrong for wrong in WRONG)], ids=range(13))
def test_what_was_saved_is_checked(text: Any) -> None:
    with pytest.raises(ValueError, match="spikes"):
        parsed(text)


EXECUTORS = ["engine", "arrays"]
LAST = 8  # values that are remembered in the runs below


def run(steps: int, spikes: dict[int, float], losses: dict[int, float] | None = None, **options: Any) -> Any:
    """An optimizer after some steps, of which some have a gradient or a loss of another size; and the weights after each."""
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.nn.Parameter(torch.ones(40, 5)), "b": torch.nn.Parameter(torch.zeros(3))}
    optimizer = adamas.torch.AdamW([*params.items()], lr=0.1, weight_decay=0.1, **options)
    weights = []
    for step in range(steps):
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=generator) * spikes.get(step, 1.0)
        optimizer.step(loss=(losses or {}).get(step, 1.0 + 0.1 * (step % 2)))
        weights.append([p.detach().clone() for p in params.values()])
    return optimizer, weights


def moved(weights: Any, step: int) -> float:
    """How far a step has moved the weights."""
    return math.sqrt(
        sum(float((a - b).double().square().sum()) for a, b in zip(weights[step], weights[step - 1], strict=True))
    )


@pytest.mark.parametrize("executor", EXECUTORS)
class TestSteps:
    @pytest.fixture(autouse=True)
    def _executor(self, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ADAMAS_EXECUTOR", executor)

    def test_a_spike_is_skipped_and_counted(self) -> None:
        optimizer, weights = run(12, {8: 1e3}, on_spike=f"skip, last={LAST}")
        assert optimizer.spikes == 1
        assert moved(weights, 8) == 0
        assert moved(weights, 9) > 0
        state = optimizer.state[optimizer.param_groups[0]["params"][0]]
        assert state["step"] == 11
        assert optimizer.skipped_steps == 0

    def test_a_step_that_was_skipped_leaves_no_trace(self) -> None:
        _, weights = run(12, {8: 1e3}, on_spike=f"skip, last={LAST}")
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.ones(40, 5)), torch.nn.Parameter(torch.zeros(3))]
        optimizer = adamas.torch.AdamW(params, lr=0.1, weight_decay=0.1)
        for step in range(12):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            if step != 8:
                optimizer.step()
        assert all(map(torch.equal, weights[-1], params))

    def test_a_gradient_is_clipped_to_the_limit(self) -> None:
        optimizer, _ = run(9, {8: 1e3}, on_spike=f"clip, last={LAST}", watch=True)
        assert optimizer.spikes == 1
        clip = optimizer.watch.per_step["clip"]
        norms = optimizer.watch.per_step["grad_norm"]
        limit = norms[:8].mean() + 6 * norms[:8].std()
        assert clip[8] == pytest.approx(limit / norms[8])
        assert list(clip[:8]) == [1.0] * 8

    def test_a_loss(self) -> None:
        optimizer, weights = run(12, {}, {9: 5.0, 10: math.nan}, on_spike=f"skip, of=loss, last={LAST}")
        assert optimizer.spikes == 2
        assert [moved(weights, step) > 0 for step in (8, 9, 10, 11)] == [True, False, False, True]

    def test_a_step_that_exact_skips_is_not_clipped(self) -> None:
        p = torch.nn.Parameter(torch.zeros(4))
        optimizer = adamas.torch.SGD([p], lr=0.1, on_spike="skip, of=exact, last=4", max_grad_norm=100.0)
        for step in range(8):
            p.grad = torch.full((4,), 1e4 if step == 7 else 1.0 + 0.1 * (step % 2))
            optimizer.step()
        assert (optimizer.spikes, optimizer.clipped_steps) == (1, 0)

    def test_what_is_not_finite_cannot_be_clipped(self) -> None:
        optimizer, _ = run(10, {9: math.nan}, on_spike=f"clip, last={LAST}", on_nonfinite="skip")
        assert (optimizer.spikes, optimizer.skipped_steps) == (0, 1)
        assert run(10, {9: math.nan}, on_spike=f"clip, last={LAST}")[0].spikes == 0

    def test_the_update_before_is_known_after_loading(self) -> None:
        options: Any = {"lr": 0.1, "on_spike": "skip, of=update_norm, last=4", "watch": True}
        params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
        first, second = (adamas.torch.SGD([p], **options) for p in params)

        def step(optimizer: Any, p: Any, gradient: float) -> None:
            p.grad = torch.full((4,), gradient)
            optimizer.step()

        for i in range(9):
            step(first, params[0], 99.0 if i == 8 else 1.0)
        second.load_state_dict(first.state_dict())
        for optimizer, p in zip((first, second), params, strict=True):
            before = p.detach().clone()
            step(optimizer, p, 1.0)
            assert torch.equal(p, before)
            assert optimizer.spikes == 1

    def test_a_closure_gives_the_loss(self) -> None:
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = adamas.torch.AdamW([p], on_spike="skip, of=loss, last=2")
        for loss in (1.0, 1.0, 9.0):

            def closure(loss: float = loss) -> torch.Tensor:
                p.grad = torch.ones(3)
                return torch.tensor(loss)

            optimizer.step(closure)
        assert optimizer.spikes == 1

    def test_a_loss_that_is_not_given(self) -> None:
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = adamas.torch.AdamW([p], on_spike="skip, of=loss")
        with pytest.raises(ValueError, match=r"step\(loss=loss\)"):
            optimizer.step()
        assert torch.equal(p, torch.ones(3))

    def test_the_update_before(self) -> None:
        optimizer, weights = run(
            11, {8: 1e3}, on_spike=f"clip, of=update_norm, last={LAST}", watch=True, betas=(0.9, 0.9)
        )
        updates = [moved(weights, step) for step in range(1, 11)]
        assert optimizer.spikes <= 2
        assert optimizer.watch.per_step["skipped"].sum() == 0
        assert len(updates) == 10

    def test_this_update(self) -> None:
        options: Any = {"lr": 1e-3, "momentum": 0.9}
        found = []
        for on_spike in (None, "clip, of=exact, last=8", "skip, of=exact, last=8"):
            p = torch.nn.Parameter(torch.zeros(50))
            optimizer = adamas.torch.SGD([("p", p)], on_spike=on_spike, **options)
            before = p.detach().clone()
            for step in range(10):
                before = p.detach().clone()
                p.grad = torch.full((50,), 1000.0 if step == 9 else 1.0 + 0.1 * (step % 2))
                optimizer.step()
            found.append(float((p.detach() - before).norm()))
            assert optimizer.spikes == (on_spike is not None)
        assert found[0] > 5
        assert 0 < found[1] < 0.2
        assert found[2] == 0

    def test_saved_and_loaded_goes_on_as_without(self) -> None:
        on_spike = f"skip, of=loss+grad_norm, last={LAST}"
        optimizer, _ = run(11, {9: 50.0}, {7: 3.0}, on_spike=on_spike)
        state = pickle.loads(pickle.dumps(optimizer.state_dict()))
        other, _ = run(2, {}, on_spike=on_spike)
        other.load_state_dict(state)
        assert other.spikes == optimizer.spikes > 0
        assert "spikes" not in other.param_groups[0]
        assert other._spikes.saved() == optimizer._spikes.saved()
        twin = copy.deepcopy(optimizer)
        assert twin._spikes.saved() == optimizer._spikes.saved()

    def test_of_update_norm_needs_a_watch(self) -> None:
        with pytest.raises(ValueError, match="watch=True"):
            run(0, {}, on_spike="skip, of=update_norm")
        with pytest.raises(ValueError, match="watch=True"):
            run(0, {}, on_spike="skip, of=update_norm", watch="every=2")

    def test_beside_a_limit_the_shorter_counts(self) -> None:
        for limit, is_shorter in ((1.0, True), (1e4, False)):
            optimizer, _ = run(9, {8: 1e3}, on_spike=f"clip, last={LAST}", max_grad_norm=limit, watch=True)
            norms, clip = optimizer.watch.per_step["grad_norm"], optimizer.watch.per_step["clip"]
            usual = norms[:8].mean() + 6 * norms[:8].std()
            assert clip[8] == pytest.approx(min(limit, usual) / norms[8], rel=1e-5)
            assert optimizer.clipped_steps == (9 if is_shorter else 1)

    def test_creating_the_state_needs_no_loss(self) -> None:
        """As ``torch.distributed.checkpoint`` does, by a step with rates and gradients of 0."""
        model = torch.nn.Linear(2, 2)
        optimizer = adamas.torch.AdamW(model.parameters(), on_spike="skip, of=loss", watch=True)
        state = get_optimizer_state_dict(model, optimizer)
        assert "weight" in state["state"]
        assert len(optimizer.watch) == 0

    def test_pickled(self) -> None:
        optimizer, _ = run(3, {}, on_spike="skip", watch=True, max_grad_norm=1.0)
        other = pickle.loads(pickle.dumps(optimizer))
        assert list(other.watch.steps) == [1, 2, 3]
        assert other._watching.ring.f is optimizer._watching.ring.f

    def test_memory(self) -> None:
        optimizer, _ = run(1, {}, on_spike="skip")
        assert optimizer.memory().bytes["spikes"] == 8 * (128 + 1 + 1 + 1 + 128)


def test_numpy_arrays() -> None:
    p = np.ones(5, np.float32)
    optimizer = adamas.numpy.AdamW([p], on_spike="skip, of=loss+grad_norm, last=4")
    for step in range(6):
        before = p.copy()
        optimizer.step([np.full(5, 100.0 if step == 5 else 1.0 + 0.1 * (step % 2), np.float32)], loss=1.0)
    assert optimizer.spikes == 1
    np.testing.assert_array_equal(p, before)


def test_it_needs_whole_steps() -> None:
    optimizer = adamas.torch.AdamW([torch.nn.Parameter(torch.ones(3))], on_spike="skip")
    with pytest.raises(ValueError, match="on_spike= cannot be released"):
        adamas.torch.release(optimizer)
