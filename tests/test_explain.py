"""``optimizer.explain()``: what goes wrong in small training runs is named rightly, with its tensor and its step."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adamas.numpy
import adamas.torch
from adamas.step import course, patterns
from adamas.step.course import LEAST, SIGMAS, WINDOW, YOUNG, Course, lasting, standing
from adamas.step.explaining import Explanation
from adamas.step.patterns import PATTERNS
from adamas.step.watch import Watch
from adamas.step.watching import COLUMNS, PER_STEP

AT = 100  # the step at which something goes wrong
STEPS = 140
LAYERS = ("first", "second", "last")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(nn.Module):
    """Classifies points of 16 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return out


@dataclass
class Moment:
    """A step of a run, which a plant may change: before the forward pass, or after the backward pass."""

    step: int
    model: Network
    optimizer: Any
    x: Tensor
    y: Tensor
    scale: float = 1.0  # of the loss


Plant = Callable[[Moment], Any]


def run(
    plant: Plant | None = None,
    plant_gradient: Plant | None = None,
    member: str = "AdamW",
    dtype: torch.dtype = torch.float32,
    own_group: str = "",
    steps: int = STEPS,
    gives_loss: bool = True,
    seed: int = 0,
    **options: Any,
) -> Any:
    """The optimizer after a run. The layer ``own_group`` has a group of its own."""
    torch.manual_seed(seed)
    teacher, model = Network(), Network().to(dtype)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(3)
    named = [*model.named_parameters()]
    apart = [one for one in named if own_group and one[0].startswith(own_group)]
    groups = [{"params": [one for one in named if one not in apart]}, *([{"params": apart}] if apart else [])]
    optimizer = getattr(adamas.torch, member)(groups, **{"lr": 1e-2, "watch": True, **options})
    for step in range(1, steps + 1):
        x = torch.randn(64, 16)
        moment = Moment(step, model, optimizer, x, teacher(x).argmax(1))
        if plant is not None:
            plant(moment)
        optimizer.zero_grad()
        loss = moment.scale * F.cross_entropy(model(moment.x.to(dtype)).float(), moment.y)
        loss.backward()  # type: ignore[no-untyped-call]
        if plant_gradient is not None:
            plant_gradient(moment)
        optimizer.step(loss=loss.item() if gives_loss else None)
    return optimizer


# ---- What is planted.


def bad_batch(now: Moment) -> None:
    if now.step == AT:
        now.x, now.y = 30 * now.x, now.y.flip(0)


def labels_are_huge(now: Moment) -> None:
    if now.step == AT:
        now.scale = 1e4
        now.x = now.x * (torch.arange(16) < 8)  # half of the first layer's elements have a gradient of 0


def rate_jumps(now: Moment) -> None:
    if now.step == AT:
        now.optimizer.param_groups[0]["lr"] = 1.0


def rate_of_second_jumps(now: Moment) -> None:
    if now.step == AT:
        now.optimizer.param_groups[1]["lr"] = 10.0


def rate_climbs(now: Moment) -> None:
    now.optimizer.param_groups[0]["lr"] = 1e-3 * 1.04**now.step


def loss_is_scaled(now: Moment) -> None:
    now.scale = 20.0 if now.step >= AT else 1.0


def gradient_of_second(factor: Callable[[int], float]) -> Plant:
    def change(now: Moment) -> None:
        if now.step >= AT:
            now.model.second.weight.grad *= factor(now.step - AT)  # type: ignore[operator]

    return change


def gradients_turn_around(now: Moment) -> None:
    k = now.step - AT
    if k == 0:
        now.model.kept = [p.grad.clone() for p in now.model.parameters()]  # type: ignore[union-attr,assignment]
    if k >= 0:
        for p, g in zip(now.model.parameters(), now.model.kept, strict=True):  # type: ignore[arg-type]
            p.grad = g * (-1.2) ** k


def second_dies(now: Moment) -> None:
    if now.step == AT:
        with torch.no_grad():
            now.model.second.bias.fill_(1e4)  # tanh is saturated


def second_moment_is_lost(now: Moment) -> None:
    if now.step == AT:
        for state in now.optimizer.state.values():
            state["exp_avg_sq"].zero_()


def second_moment_of_another_run(now: Moment) -> None:
    if now.step == AT:
        for state in now.optimizer.state.values():
            state["exp_avg_sq"].mul_(1e4)


def state_is_dropped(now: Moment) -> None:
    if now.step == AT:
        now.optimizer.state.clear()


def gradient_has_nan(now: Moment) -> None:
    if now.step == AT:
        now.model.second.weight.grad[0, 0] = math.nan  # type: ignore[index]


@dataclass
class Case:
    """A run, and what has to be found in it first."""

    pattern: str
    step: int
    options: dict[str, Any]
    tensors: set[str] = field(default_factory=set)  # some of those that are named; none named if empty
    within: int = 0


WHOLE = {f"{layer}.weight" for layer in LAYERS}
SECOND = {"second.weight"}
CASES = {
    "a bad batch": Case("bad_batch", AT, {"plant": bad_batch}, {"first.weight"}),
    "a bad batch, without the loss": Case("bad_batch", AT, {"plant": bad_batch, "gives_loss": False}, {"first.weight"}),
    "a huge loss of one batch": Case("bad_batch", AT, {"plant": labels_are_huge}, WHOLE),
    "a huge gradient of one step": Case(
        "bad_batch", AT, {"plant_gradient": gradient_of_second(lambda k: 1.0 if k else 1e5)}, SECOND
    ),
    "clipping because of one layer": Case(
        "clipped_with_others", AT, {"plant_gradient": gradient_of_second(lambda _: 1e4), "max_grad_norm": 2.0}, SECOND
    ),
    "a rate that jumps": Case("rate_too_high", AT, {"plant": rate_jumps}, {"second.weight", "last.weight"}),
    "a rate that climbs": Case("rate_too_high", 110, {"plant": rate_climbs, "steps": 200}, WHOLE, within=40),
    "a rate that was too high from the start": Case("rate_too_high", 1, {"lr": 1.0}, WHOLE),
    "SGD with a rate that was too high": Case("rate_too_high", 1, {"lr": 20.0, "member": "SGD"}, WHOLE),
    "one layer": Case("layer_ahead", AT, {"plant": rate_of_second_jumps, "own_group": "second"}, SECOND, within=1),
    "v too slow in a layer": Case(
        "second_moment_too_slow", AT, {"plant_gradient": gradient_of_second(lambda _: 30.0)}, SECOND
    ),
    "v too slow everywhere": Case("second_moment_too_slow", AT, {"plant": loss_is_scaled}, WHOLE),
    "another loss": Case("loss_rose", AT, {"plant": loss_is_scaled, "member": "Lion", "lr": 1e-3}),
    "overshooting": Case(
        "steps_overshoot",
        AT,
        {
            "plant": lambda now: setattr(now, "scale", 1.1 ** max(0, now.step - AT)),
            "plant_gradient": gradients_turn_around,
        },
        WHOLE,
        within=4,
    ),
    "an exploding layer": Case(
        "exploding_layer", AT, {"plant_gradient": gradient_of_second(lambda k: 1.3**k)}, SECOND, within=12
    ),
    "NaN": Case("nonfinite_gradient", AT, {"plant_gradient": gradient_has_nan}, SECOND),
    "v is 0": Case("moments_changed", AT, {"plant_gradient": second_moment_is_lost}, WHOLE),
    "v of another run": Case("moments_changed", AT, {"plant_gradient": second_moment_of_another_run}, WHOLE),
    "no state": Case("moments_changed", 1, {"plant_gradient": state_is_dropped}, WHOLE),
    "ε": Case("eps_too_large", 1, {"eps": 0.1}, WHOLE, within=2),
    "a low limit": Case("clipped_at_every_step", 1, {"max_grad_norm": 0.01}),
    "a limit below ε": Case("clipped_under_eps", 1, {"max_grad_norm": 1e-9}, WHOLE, within=2),
    "bfloat16": Case("lost_to_rounding", 1, {"dtype": torch.bfloat16, "lr": 1e-4}, {"first.weight"}, within=2),
    "a dead layer": Case("dead_layer", AT, {"plant": second_dies}, {"second.weight", "first.weight"}),
    "decay": Case("decay_outweighs", 1, {"weight_decay": 30.0}, {"last.weight"}, within=20),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_planted_is_named_first(name: str) -> None:
    case = CASES[name]
    explanation = run(**case.options).explain()
    assert explanation, "nothing was found"
    first = explanation.findings[0]
    assert first.pattern == case.pattern, str(explanation)
    assert abs(first.step - case.step) <= case.within, str(explanation)
    assert case.tensors <= {*first.tensors}, str(explanation)
    if case.tensors == SECOND:
        assert {*first.tensors} <= {"second.weight", "second.bias"}
    assert len(explanation.findings) == 1, str(explanation)


def test_trap_T55_a_limit_that_pushes_gradients_under_eps_is_named() -> None:
    def enlarge(now: Moment) -> None:
        now.model.second.weight.grad *= 1e9  # type: ignore[operator]

    explanation = run(max_grad_norm=1.0, plant_gradient=enlarge).explain()
    (found,) = explanation.findings
    assert found.pattern == "clipped_under_eps"
    assert {"first.weight", "last.weight"} <= {*found.tensors}
    assert "second.weight" not in found.tensors
    assert "because clipping shortens the gradient to" in str(explanation)


def test_every_pattern_is_planted() -> None:
    assert {case.pattern for case in CASES.values()} == {pattern.name for pattern in PATTERNS}


HEALTHY: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "SGD": {"member": "SGD", "lr": 0.1, "momentum": 0.9},
    "Lion": {"member": "Lion", "lr": 3e-4},
    "Adagrad": {"member": "Adagrad", "lr": 1e-2},
    "RMSprop": {"member": "RMSprop", "lr": 1e-3},
    "Adamax": {"member": "Adamax", "lr": 1e-3},
    "warm-up": {"plant": lambda now: now.optimizer.param_groups[0].update(lr=1e-2 * min(now.step / 100, 1.0))},
    "clipping of outliers": {"max_grad_norm": "auto"},
    "stochastic rounding": {"dtype": torch.bfloat16, "lr": 1e-4, "weights": "stochastic"},
    "one step in ten": {"watch": "every=10", "steps": 300},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_gets_no_warning(name: str) -> None:
    explanation = run(**HEALTHY[name]).explain()
    assert not explanation, str(explanation)
    assert str(explanation).startswith("Nothing has left its usual course. Looked at ")


def test_what_follows_is_told_with_its_cause() -> None:
    explanation = run(rate_jumps).explain()
    (cause,) = explanation.findings
    followed = [one.pattern for one in cause.consequences]
    assert "loss_rose" in followed
    assert len(set(followed)) == len(followed)
    assert all(one.step >= cause.step for one in cause.consequences)
    assert "What followed: Step 10" in str(explanation)
    (cause,) = run(loss_is_scaled).explain().findings
    assert [one.pattern for one in cause.consequences] == ["loss_rose"]  # no bad batch in what is unusual for long


def test_two_causes_are_told_in_their_order() -> None:
    def both(now: Moment) -> None:
        bad_batch(now)
        if now.step == AT + 30:
            with torch.no_grad():
                now.model.second.bias.fill_(1e4)

    patterns_found = [one.pattern for one in run(both, steps=AT + 60).explain().findings]
    assert patterns_found == ["bad_batch", "dead_layer"]


def test_several_bad_batches_are_one_finding() -> None:
    def every_twentieth(now: Moment) -> None:
        if now.step >= AT and now.step % 20 == 0:
            now.x, now.y = 30 * now.x, now.y.flip(0)

    (finding,) = run(every_twentieth, steps=AT + 60).explain().findings
    assert (finding.pattern, finding.step, finding.figures["batches"]) == ("bad_batch", AT, 4)
    assert "So did 3 more, at step 120, 140, 160." in finding.text


@pytest.mark.parametrize("save", [False, True])
def test_a_state_that_lost_its_second_moment(save: bool) -> None:
    """Whether the statistics from before are saved or not."""
    watch = "save" if save else True
    before = run(steps=AT, watch=watch)
    state = before.state_dict()
    for one in state["state"].values():
        one["exp_avg"].mul_(0.03)  # v = 0 is mended to exp_avg² at loading
        one["exp_avg_sq"].mul_(1e-4)
    (finding,) = (
        run(lambda now: now.optimizer.load_state_dict(state) if now.step == 1 else None, watch=watch).explain().findings
    )
    assert (finding.pattern, finding.step) == ("moments_changed", AT + 1)
    assert {*finding.tensors} >= WHOLE


def test_the_text_has_figures_and_advice() -> None:
    explanation = run(bad_batch).explain()
    text, (finding,) = str(explanation), explanation.findings
    pattern = next(one for one in PATTERNS if one.name == "bad_batch")
    assert text.startswith("Step 100, bad batch: The gradient jumped for one batch: its norm was ")
    for figure in ("grad_norm", "usual"):
        assert f"{finding.figures[figure]:.3g}" in finding.text
    assert pattern.means in text
    assert pattern.advice in text
    assert text.endswith("Looked at 140 watched steps, from 1 to 140, of 6 tensors.")


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda one: one.name)
def test_the_table_of_patterns(pattern: patterns.Pattern) -> None:
    for text in (pattern.seen, pattern.means, pattern.advice):
        assert text.endswith(".")
        assert "  " not in text
        assert "\n" not in text


def test_what_cannot_be_seen_is_said() -> None:
    text = str(run(steps=40, watch="every=10", gives_loss=False).explain())
    assert "Looked at 4 watched steps, from 1 to 31, of 6 tensors." in text
    assert "A usual course needs more than 16 of them after the first 64 steps of training." in text
    assert "One step in 10 was watched: what happened between them, and was over, is not seen." in text
    assert "The loss is not known: give it as step(loss=…)." in text
    assert str(run(steps=0).explain()).endswith("No step has been watched yet.")


def test_one_step_in_five_sees_what_lasts() -> None:
    def slow(now: Moment) -> None:
        if now.step >= 201:
            now.model.second.weight.grad *= 50  # type: ignore[operator]

    (finding,) = run(plant_gradient=slow, watch="every=5", steps=260).explain().findings
    assert (finding.pattern, finding.step, {*finding.tensors}) == ("second_moment_too_slow", 201, SECOND)


def test_steps_that_were_skipped() -> None:
    explanation = run(plant_gradient=gradient_has_nan, on_nonfinite="skip").explain()
    assert not explanation
    assert explanation.looked_at == "Looked at 139 watched steps, from 1 to 139, of 6 tensors. 1 more were skipped."


def test_without_watch() -> None:
    optimizer = adamas.torch.AdamW([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="AdamW was made without it: give watch=True"):
        optimizer.explain()


def test_a_loss_that_can_be_negative_is_not_judged() -> None:
    watch = watch_of({"loss": after(100) - 2})
    explanation = Explanation.of(watch, [], True)
    assert not explanation
    assert str(explanation).endswith("The loss can be negative: it was not judged.")


def test_numpy_arrays() -> None:
    generator = np.random.default_rng(0)
    params = {"a": generator.normal(size=50).astype(np.float32), "b": generator.normal(size=50).astype(np.float32)}
    optimizer = adamas.numpy.AdamW(params, watch=True)  # type: ignore[call-arg]
    for step in range(1, 121):
        gradients = {name: generator.normal(size=50).astype(np.float32) for name in params}
        gradients["b"] *= 30 if step >= AT else 1
        optimizer.step(gradients)
    (finding,) = optimizer.explain().findings
    assert (finding.pattern, finding.step, finding.tensors) == ("second_moment_too_slow", AT, ("b",))


# ---- Thresholds, at their edges.


def watch_of(per_step: dict[str, Any] | None = None, steps: int = 60, **columns: Any) -> Watch:
    """What a run of two tensors has, in which nothing varies, with some columns in its place: of both, or of each."""
    usual = {"grad_norm": 1.0, "weight_norm": 1.0, "update_norm": 1e-3, "m_dot_g": 0.1, "rms": 1.0}
    rows = np.zeros((steps, 2, len(COLUMNS)), np.float32)
    for i, name in enumerate(COLUMNS):
        values = np.asarray(columns.get(name, usual.get(name, 0.0)))
        rows[:, :, i] = values if values.ndim == 2 else values.reshape(-1, 1)
    numbers = {
        "step": np.arange(1001, steps + 1001),
        "loss": 1.0,
        "grad_norm": 1.0,
        "clip": 1.0,
        "lr": 1e-3,
        **(per_step or {}),
    }
    return Watch(["a", "b"], np.stack([np.broadcast_to(numbers.get(name, 0.0), steps) for name in PER_STEP], 1), rows)


def found(watch: Watch, **options: Any) -> list[str]:
    return [one.pattern for one in Explanation.of(watch, [(watch.names, options)], True).findings]


def after(value: float, since: int = 40, steps: int = 60) -> Any:
    return np.where(np.arange(steps) >= since, value, 1.0)


def growing(times: float, since: int = 40, steps: int = 60) -> Any:
    return times ** (np.clip(np.arange(steps) - since + 1, 0, None) / (steps - since))


def last(value: float) -> Any:
    return after(value, 59)


@pytest.mark.parametrize(
    ("pattern", "below", "above"),
    [
        ("eps_too_large", {"under_eps": 0.49}, {"under_eps": 0.5}),
        ("lost_to_rounding", {"lost": 0.49}, {"lost": 0.5}),
        (
            "decay_outweighs",
            {"decay_norm": 0.70e-3, "weight_norm": np.linspace(2.0, 0.9, 60)},
            {"decay_norm": 0.72e-3, "weight_norm": np.linspace(2.0, 0.9, 60)},
        ),
        (
            "second_moment_too_slow",
            {"grad_norm": after(3.1), "rms": after(2.29)},
            {"grad_norm": after(3.1), "rms": after(2.31)},
        ),
        (
            "second_moment_too_slow",
            {"grad_norm": after(2.9), "rms": after(3)},
            {"grad_norm": after(3.1), "rms": after(3)},
        ),
        ("exploding_layer", {"grad_norm": growing(99)}, {"grad_norm": growing(101)}),
        ("moments_changed", {"rms": after(3.9)}, {"rms": after(4.1)}),
        ("dead_layer", {"grad_norm": 1e-9}, {"grad_norm": 0.0}),
    ],
)
def test_thresholds(pattern: str, below: dict[str, Any], above: dict[str, Any]) -> None:
    assert found(watch_of()) == []
    assert found(watch_of(**below)) == []
    assert found(watch_of(**above)) == [pattern]


@pytest.mark.parametrize(
    ("pattern", "below", "above"),
    [
        ("bad_batch", {"grad_norm": last(2.9), "loss": last(2)}, {"grad_norm": last(3.1), "loss": last(2)}),
        ("bad_batch", {"grad_norm": last(9), "loss": last(1.2)}, {"grad_norm": last(9), "loss": last(1.3)}),
        ("loss_rose", {"loss": after(2.4)}, {"loss": after(2.6)}),
        ("nonfinite_gradient", {"grad_norm": after(1e30)}, {"grad_norm": after(math.inf)}),
    ],
)
def test_thresholds_of_steps(pattern: str, below: dict[str, Any], above: dict[str, Any]) -> None:
    if pattern == "nonfinite_gradient":
        assert pattern not in found(watch_of(below))
    else:
        assert found(watch_of(below)) == []
    assert found(watch_of(above)) == [pattern]


def at_row(value: float, then: float = 1.0, steps: int = 60) -> Any:
    """1 up to row 40, which has the value, and another one after it."""
    return np.where(np.arange(steps) == 40, value, after(then, 40, steps))


@pytest.mark.parametrize(("height", "is_found"), [(9.0, False), (1e4, True)])
def test_what_a_jump_leaves_is_little_beside_it(height: float, is_found: bool) -> None:
    watch = watch_of({"grad_norm": at_row(height, then=1.8), "loss": at_row(2.0)})
    assert found(watch) == ["bad_batch"] * is_found


def test_second_moments_that_remember_a_huge_gradient_were_not_changed() -> None:
    rms = at_row(13.0, then=1e-3)
    rms[42:] = 0.02  # of elements that the batch had not lit
    assert found(watch_of({"grad_norm": at_row(1e4), "loss": at_row(1e4)}, grad_norm=at_row(1e4), rms=rms)) == [
        "bad_batch"
    ]


@pytest.mark.parametrize(("height", "causes"), [(9.0, ["bad_batch", "decay_outweighs"]), (1e4, ["bad_batch"])])
def test_updates_that_a_huge_gradient_made_small_follow_from_it(height: float, causes: list[str]) -> None:
    per_step = {"grad_norm": at_row(height, steps=140), "loss": at_row(2.0, steps=140)}
    decayed = np.arange(140) >= 80
    watch = watch_of(
        per_step, steps=140, decay_norm=0.9e-3 * decayed, weight_norm=np.interp(np.arange(140), [80, 139], [2.0, 0.9])
    )
    assert found(watch) == causes


@pytest.mark.parametrize(("last", "is_found"), [(1.0, False), (0.51, False), (0.49, True)])
def test_decay_outweighs_what_has_halved(last: float, is_found: bool) -> None:
    watch = watch_of(decay_norm=1e-3, weight_norm=np.linspace(1.0, last, 60))
    findings = Explanation.of(watch, [(watch.names, {"weight_decay": 0.1})], True).findings
    assert [one.pattern for one in findings] == ["decay_outweighs"] * is_found
    assert all(one.text.endswith("at weight_decay = 0.1: the norm of a went from 1 to 0.49.") for one in findings)


@pytest.mark.parametrize(
    ("clip", "others", "whole", "is_found"),
    [(1e-4, 1.0, 1e4, True), (1.0, 1.0, 1e4, False), (1e-4, 1e4, 1e4, False), (1e-4, 1.0, 1e5, False)],
    ids=["clipped", "not clipped", "all tensors", "little of the whole"],
)
def test_clipping_because_of_one_tensor_shortens_the_others(
    clip: float, others: float, whole: float, is_found: bool
) -> None:
    gradients, rms = (np.stack([after(one), after(other)], 1) for one, other in ((1e4, others), (1.0, clip * others)))
    watch = watch_of({"clip": after(clip), "grad_norm": after(whole)}, grad_norm=gradients, rms=rms)
    assert found(watch) == ["clipped_with_others"] * is_found


def test_updates_have_to_double_before_the_loss_rises() -> None:
    loss = {"loss": after(3, 42)}
    assert found(watch_of(loss, update_norm=1e-3 * after(1.9))) == ["loss_rose"]
    assert found(watch_of(loss, update_norm=1e-3 * after(2.1))) == ["rate_too_high"]
    assert found(watch_of(loss, update_norm=1e-3 * after(2.1), grad_norm=after(2.1))) == ["loss_rose"]  # SGD


def test_gradients_that_turn_around_have_to_raise_the_loss() -> None:
    """(1 - β1)/(1 + β1) is 0.053 where the gradient turns around at every step, and 1 - β1 where it is unrelated."""
    adam = {"betas": (0.9, 0.999), "eps": 1e-8}
    turned, rises = 0.1 - 0.047 * (np.arange(60) >= 30), {"loss": after(2.6)}
    assert found(watch_of(rises, m_dot_g=turned), **adam) == ["steps_overshoot"]
    assert found(watch_of(rises, m_dot_g=turned)) == ["loss_rose"]  # SGD, whose m·g is of another size
    assert found(watch_of(rises, m_dot_g=turned), **adam, d0=1e-6) == ["loss_rose"]  # Prodigy, likewise
    assert found(watch_of(rises, m_dot_g=0.08), **adam) == ["loss_rose"]
    assert found(watch_of(rises, m_dot_g=np.where(np.arange(60) >= 45, 0.053, 0.1)), **adam) == ["loss_rose"]
    assert found(watch_of({"loss": after(2.4)}, m_dot_g=turned), **adam) == []
    fallen = {"loss": np.where(np.arange(60) < 20, 3, rises["loss"])}  # a rise to less than before
    assert "steps_overshoot" not in found(watch_of(fallen, m_dot_g=turned), **adam)
    clipped = {"clip": 0.5, **rises}
    assert found(watch_of(clipped, m_dot_g=turned / 2), **adam) == ["steps_overshoot"]


def test_a_real_spike_of_adam() -> None:
    """Full batches and a small loss: the gradients turn around ten steps before the loss rises."""
    script = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "spikes.py"))
    (finding,) = script["run"](script["whole"], 400)[1].explain().findings
    assert finding.pattern == "steps_overshoot"
    assert len(finding.tensors) == 6
    assert finding.figures["peak"] > 10 * finding.figures["grad_norm"]


def test_the_limit_is_the_cause_if_rms_would_be_above_one_without_it() -> None:
    for rms, pattern in ((0.09, "eps_too_large"), (0.11, "clipped_under_eps")):
        assert found(watch_of({"clip": 0.1}, under_eps=0.9, rms=rms)) == [pattern]


def test_clipping_is_told_after_128_steps() -> None:
    for steps, expected in ((WINDOW - 1, []), (WINDOW, ["clipped_at_every_step"])):
        assert found(watch_of({"clip": 0.5}, steps)) == expected


def test_what_stands_may_be_interrupted_now_and_then() -> None:
    share = np.full(60, 0.9)
    share[5::11] = 0.0
    assert found(watch_of(under_eps=share)) == ["eps_too_large"]
    share[5::9] = 0.0
    assert found(watch_of(under_eps=share)) == []
    assert found(watch_of(under_eps=after(0.0, 50) * 0.9)) == []  # it has ended


def test_rounding_errors_of_a_gradient_that_is_zero_are_no_matter() -> None:
    varying = np.where(np.arange(60) % 20 == 0, 1e-7, 2e-6)
    for norm, expected in ((1e-7, []), (varying, []), (2e-6, ["eps_too_large"])):
        gradient = np.stack([np.ones(60), np.broadcast_to(norm, 60)], 1)
        assert found(watch_of(grad_norm=gradient, under_eps=[[0.0, 1.0]])) == expected


@pytest.mark.parametrize(
    ("eps", "said"), [(1e-8, "ε = 1e-08 in 100%"), ((1e-30, 1e-3), "ε = 1e-30 in 100%"), ((None, 1e-3), "ε in 100%")]
)
def test_an_eps_that_is_a_pair_as_of_adafactor(eps: Any, said: str) -> None:
    watch = watch_of(under_eps=1.0)
    (finding,) = Explanation.of(watch, [(watch.names, {"eps": eps})], True).findings
    assert f"√v is below {said} of the elements of all 2 tensors" in finding.text
    assert ("eps" in finding.figures) == (eps != (None, 1e-3))


@pytest.mark.parametrize(
    ("every", "rms", "beta2", "is_found"),
    [
        (1, 0.2, 0.999, True),
        (10, 0.2, 0.999, False),  # a gradient that was not watched has enlarged v
        (10, 5.0, 0.999, True),
        (40, 5.0, 0.9, False),  # v has fallen to 0.9⁴⁰ of what it was
    ],
)
def test_second_moments_between_watched_steps(every: int, rms: float, beta2: float, is_found: bool) -> None:
    watch = watch_of({"step": 1001 + every * np.arange(60)}, rms=after(rms))
    assert found(watch, betas=(0.9, beta2)) == ["moments_changed"] * is_found


def test_second_moments_are_not_judged_while_they_remember_a_huge_gradient() -> None:
    watch = watch_of({"grad_norm": at_row(1e3), "loss": at_row(1e3)}, grad_norm=at_row(1e3), rms=after(5.0, 55))
    (finding,) = Explanation.of(watch, [(watch.names, {})], True).findings
    assert finding.pattern == "bad_batch"
    assert not finding.consequences


@pytest.mark.parametrize(
    ("options", "is_found"),
    [
        ({"alpha": 0.99}, False),
        ({"betas": (0.9, 0.99, 0.9999), "alpha": 5.0}, True),  # AdEMAMix
        ({"betas": (0.9, 0.99), "bias_correction": False}, False),
        ({"betas": (0.9, 0.99), "bias_correction": True}, True),
    ],
)
def test_a_second_moment_whose_bias_is_not_corrected_is_small_after_a_few_steps(
    options: dict[str, Any], is_found: bool
) -> None:
    steps = np.arange(3, 63)
    watch = watch_of({"step": steps}, rms=1 / np.sqrt(1 - 0.99**steps))
    assert found(watch, **options) == ["moments_changed"] * is_found


@pytest.mark.parametrize(("began", "is_found"), [(0.0, False), (1e-3, True)])
def test_what_begins_at_zero_is_replaced_at_any_rate(began: float, is_found: bool) -> None:
    watch = watch_of({"step": np.arange(1, 61)}, weight_norm=began + 1e-3 * np.arange(60))
    assert found(watch) == ["rate_too_high"] * is_found


def test_a_gradient_that_jumped_before_and_varies_does_not_explode() -> None:
    norm = np.ones(300)
    norm[200:], norm[235:255] = 5000.0, 1000.0
    assert found(watch_of(steps=300, grad_norm=np.stack([norm, np.ones(300)], 1))) == []


def test_a_layer_with_a_gradient_now_and_then_is_not_dead() -> None:
    norm = np.where(np.arange(60) % 15 == 5, 1.0, 0.0)
    assert found(watch_of(grad_norm=np.stack([norm, np.ones(60)], 1))) == []
    norm[40:] = 0.0
    assert found(watch_of(grad_norm=np.stack([norm, np.ones(60)], 1))) == ["dead_layer"]


def test_a_loss_that_is_rarely_given_is_not_compared() -> None:
    loss = np.where(np.arange(60) % 10 == 0, 1.0, np.nan)
    watch = watch_of({"grad_norm": at_row(1e3), "loss": loss})
    (finding,) = Explanation.of(watch, [(watch.names, {})], True).findings
    assert finding.pattern == "bad_batch"
    assert "nan" not in finding.text


def test_only_rounding_to_the_nearest_number_loses_updates() -> None:
    assert found(watch_of(lost=1.0), weights="stochastic") == []


def test_the_yardstick() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(400, 1))
    usual = Course(noise)
    assert np.isnan(usual.median[:LEAST]).all()
    assert usual.median[-1, 0] == pytest.approx(np.median(noise[392 - WINDOW : 392]))
    assert usual.spread[-1, 0] == pytest.approx(1.0, rel=0.25)
    assert not usual.rose.any()
    noise[300] = usual.median[300] + (SIGMAS + 0.01) * usual.spread[300]
    assert list(np.flatnonzero(Course(noise).rose)) == [300]
    noise[300] = usual.median[300] + (SIGMAS - 0.01) * usual.spread[300]
    assert not Course(noise).rose.any()


def test_a_ramp_does_not_leave_its_course() -> None:
    """A warm-up, or anything that grows steadily."""
    for steps in (np.arange(1, 600.0), 1.05 ** np.arange(600)):
        assert not Course(np.log(steps)[:, None]).rose.any()


def test_the_first_steps_of_training_are_no_yardstick() -> None:
    """Where a run that goes on from a checkpoint has left its course, a run that has just begun has not yet found it."""
    grown = growing(101, 24)
    for first, expected in ((1, []), (YOUNG - 23, []), (YOUNG + 1, ["exploding_layer"])):
        assert found(watch_of({"step": np.arange(first, first + 60)}, grad_norm=grown)) == expected
    steps = np.append(np.arange(1001, 1051), np.arange(1, 31))  # the count begins again
    grown = np.append(growing(101, 24, 50), np.ones(30))
    assert found(watch_of({"step": steps}, 80, grad_norm=grown))[0] == "exploding_layer"
    assert not np.isfinite(Course(np.zeros((90, 1)), YOUNG).median[: YOUNG + LEAST]).any()


def test_a_loss_that_stays_up_when_the_rate_has_fallen_did_not_turn_with_it() -> None:
    climb = np.clip(np.arange(800) / 400, 0, 1)
    rate, loss = 4**climb, 3**climb
    fall = np.clip((np.arange(800) - 400) / 300, 0, 1)
    for rates, losses, expected in (
        (rate, loss, ["rate_too_high"]),
        (rate / 5**fall, loss, []),
        (rate / 5**fall, loss / 3**fall, ["rate_too_high"]),
    ):
        assert found(watch_of({"lr": 1e-3 * rates, "loss": losses}, 800)) == expected


def test_values_that_are_not_known_are_left_out() -> None:
    values = np.zeros((60, 2))
    values[::2, 0] = np.nan
    values[:50, 1] = np.nan
    assert (Course(values).median[-1] == 0).tolist() == [True, False]
    assert course.medians(values[:31])[0] != 0  # 15 numbers are too few


def test_what_lasts_and_what_stands() -> None:
    for count, expected in ((3, False), (4, True)):
        there = np.zeros(40, bool)
        there[20 : 20 + count] = True
        assert lasting(there)[20] == expected
    assert not lasting(np.arange(10) == 9)[9]
    there = np.arange(40)[:, None] >= 40 - LEAST
    assert standing(there, np.ones_like(there)) == {0: 40 - LEAST}
    assert standing(np.arange(40)[:, None] > 40 - LEAST, np.ones_like(there)) == {}
