"""``adamas.torch.release``: parameters are stepped in the backward pass, with the bits of steps after it."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from members import CASES, Case
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import adamas.torch as at
from adamas.schedules import cosine, linear, warmup
from adamas.torch.accumulator import Accumulator
from adamas.torch.release import Released

Options = dict[str, Any]


class Model(nn.Module):
    """A network with a weight that two layers share, and one that is used twice."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 140, dtype=dtype), nn.Linear(140, 140, dtype=dtype)
        self.scale = nn.Parameter(torch.ones(140, dtype=dtype))
        self.last, self.tied = nn.Linear(140, 24, bias=False, dtype=dtype), nn.Linear(140, 24, dtype=dtype)
        self.tied.weight = self.last.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.tanh(self.first(x)) * self.scale)
        h = self.second(torch.tanh(h)) * self.scale
        return self.last(h) + self.tied(torch.sin(h))


class Run:
    """A model that is trained: by steps after the backward pass or, if ``released`` has arguments for it, in it."""

    def __init__(
        self,
        released: Options | None = None,
        member: Callable[..., Any] = at.AdamW,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = Model(dtype)
        self.optimizer = member(self.model.named_parameters(), **options)
        self.handle = None if released is None else at.release(self.optimizer, **released)

    @property
    def params(self) -> list[nn.Parameter]:
        return [*self.model.parameters()]

    def loss(self, i: int) -> Tensor:
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(8, 24, generator=generator).to(self.params[0].dtype)
        return (self.model(x) - x).pow(2).mean() * (8 if i % 12 > 9 else 1 + i % 3)

    def step(self, *batches: int) -> None:
        """One step, with a backward pass for each of these numbers of batches."""
        for i in batches:
            self.loss(i).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, first: int, last: int) -> Run:
        for i in range(first, last):
            self.step(i)
        return self


def assert_same(one: Run, other: Run) -> None:
    """Weights, states and numbers of the coming step are the same."""
    for p, q in zip(one.params, other.params, strict=True):
        assert torch.equal(p, q)
        mine, its = one.optimizer.state[p], other.optimizer.state[q]
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            assert torch.equal(value, its[name]), name
    for a, b in zip(one.optimizer.param_groups, other.optimizer.param_groups, strict=True):
        assert (a["lr"], a["weight_decay"]) == (b["lr"], b["weight_decay"])


# ---- the same bits


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_member_steps_with_the_same_bits(case: Case) -> None:
    """The backward pass steps with the bits of the ordinary step, also where weights are shared or used twice."""
    runs = [Run(released, case.make, **case.options).train(0, 4) for released in (None, {})]
    assert_same(*runs)


FORMS: dict[str, Options] = {
    "int8": {"state": "int8"},
    "int6, split": {"state": "int6", "weights": "split", "dtype": torch.bfloat16},
    "stochastic": {"state": "bfloat16", "weights": "stochastic", "dtype": torch.bfloat16},
    "skipping": {"on_nonfinite": "skip"},
    "raising": {"on_nonfinite": "raise", "dtype": torch.float64},
    "scheduled": {
        "lr": 1e-2 * warmup(3).then(cosine(9)),
        "weight_decay": 0.1 * linear(9),
        "betas": (0.9 * linear(30), 0.99),
    },
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_every_form_steps_with_the_same_bits(options: Options) -> None:
    """So do all formats, and schedules have the same numbers."""
    one, other = (Run(released, **options).train(0, 6) for released in (None, {}))
    assert_same(one, other)
    assert (one.optimizer.grad_norm is None) == (other.optimizer.grad_norm is None)
    if one.optimizer.grad_norm is not None:
        assert other.optimizer.grad_norm == pytest.approx(one.optimizer.grad_norm, rel=1e-14)


def test_gradients_are_freed_in_the_backward_pass() -> None:
    """When a gradient arrives, all earlier ones are freed. Without release, they are all there at the end."""
    for released in (None, {}):
        run, alive = Run(), []
        most, seen = 0, 0

        def look(p: Tensor, alive: list[Any] = alive) -> None:
            nonlocal most, seen
            assert p.grad is not None
            alive.append((StorageWeakRef(p.grad.untyped_storage()), p.grad.nbytes))
            most, seen = max(most, sum(size for one, size in alive if not one.expired())), seen + 1

        for p in run.params:
            p.register_post_accumulate_grad_hook(look)  # before those of release, which are called later
        if released is not None:
            at.release(run.optimizer)
        for _ in range(2):
            run.step(0)
        sizes = [p.nbytes for p in run.params]
        assert seen == 2 * len(sizes)
        assert most == (sum(sizes) if released is None else max(sizes))


# ---- micro-batches


def test_micro_batches_are_added_up() -> None:
    """The last of the micro-batches steps. If there are fewer, or a parameter is used in fewer, ``step`` does."""
    one, other = Run(), Run({"micro_batches": 2})
    for run in (one, other):
        run.step(0, 1)
        run.step(2)
        run.loss(3).backward()
        (run.model.first.weight.sum() * 0.1).backward()  # only this one has a second gradient
        assert run.model.scale.grad is not None
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.step(4, 5)
    assert_same(one, other)


def test_dropped_micro_batches_do_not_count() -> None:
    """``zero_grad`` without a step begins the count anew."""
    one, other = Run(), Run({"micro_batches": 2})
    for run in (one, other):
        run.loss(0).backward()
        run.optimizer.zero_grad()
        run.step(1, 2)
    assert_same(one, other)


def gradient_of(count: int, accumulate: Any) -> tuple[Run, Tensor]:
    """A run after ``count`` micro-batches of one step of gradient descent, and what it took for the gradient of a weight."""
    run = Run({"micro_batches": count, "accumulate": accumulate}, at.SGD, lr=1.0)
    before = run.model.second.weight.detach().clone()
    run.step(*range(count))
    return run, before - run.model.second.weight.detach()


def test_micro_batches_are_added_up_in_bfloat16() -> None:
    """In 2 bytes an element, with an error of stochastic rounding."""
    exact, (run, found) = gradient_of(16, None)[1], gradient_of(16, "bfloat16")
    assert 1e-4 < (found - exact).norm() / exact.norm() < 0.01
    assert abs((found - exact).sum() / exact.abs().sum()) < 1e-3
    assert run.optimizer.memory().bytes["gradients"] == 2 * sum(p.numel() for p in run.params)


@pytest.mark.parametrize("executor", ["engine", "arrays"])
def test_sums_have_the_same_bits_for_any_number_of_threads(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And on any device."""
    found = []
    for name, threads in (("engine", 1), ("engine", 3), (executor, 1)):
        monkeypatch.setenv("ADAMAS_EXECUTOR", name)
        p, generator = nn.Parameter(torch.zeros(70_001)), torch.Generator().manual_seed(0)
        total = Accumulator(p, "p", 0, 0.0)
        for _ in range(3):
            p.grad = torch.randn(p.shape, generator=generator)
            total.add(p, threads)
        p.grad = torch.ones(p.shape)
        total.take(p)
        assert total.is_empty
        assert not total.total.any()
        found.append(p.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_sums_in_bfloat16_go_on() -> None:
    """After a saved state, with the same bits; if there are fewer micro-batches; and not after ``zero_grad``."""
    options: Options = {"micro_batches": 3, "accumulate": "bfloat16"}
    runs = [Run(options), Run(options)]
    for run in runs:
        run.step(0, 1, 2)
        run.step(3, 4)
        assert all(p.grad is None for p in run.params)
    one, other = runs
    saved, other = copy.deepcopy(one.optimizer.state_dict()), Run(options)
    assert saved["state"][0]["accumulated"] == 4
    other.optimizer.load_state_dict(saved)
    other.model.load_state_dict(one.model.state_dict())
    one.loss(5).backward()
    one.optimizer.zero_grad()
    for run, first in ((one, 5), (other, 6)):
        if first == 6:  # the sum that was dropped counts among the random numbers
            run.loss(5).backward()
            run.optimizer.zero_grad()
        run.step(6, 7, 8)
        run.optimizer.state_dict()
    assert_same(one, other)


def test_sums_of_two_steps_have_other_random_numbers() -> None:
    """The same gradients are rounded in another way in the next step."""
    p = nn.Parameter(torch.zeros(1000))
    optimizer = at.SGD([p], lr=1.0)
    at.release(optimizer, micro_batches=2, accumulate="bfloat16")
    found = []
    for _ in range(2):
        before = p.detach().clone()
        for _ in range(2):
            (p * 0.3).sum().backward()
        optimizer.step()
        found.append(before - p.detach())
    assert found[0].unique().numel() == 2
    assert not torch.equal(*found)


# ---- errors


def again(run: Run) -> str:
    with pytest.raises(RuntimeError) as caught:
        run.loss(1).backward()
    return str(caught.value)


def test_a_forgotten_step_is_an_error_and_so_is_all_that_follows() -> None:
    """A second backward pass is refused by name. Afterwards everything is, until a state is loaded."""
    run, other = Run({}).train(0, 2), Run().train(0, 2)
    saved = copy.deepcopy(run.optimizer.state_dict()), copy.deepcopy(run.model.state_dict())
    run.loss(0).backward()
    text = again(run)
    assert "parameter 'tied.bias': its gradient arrived for the 2nd time before step(), and micro_batches=1" in text
    assert "step() was not called" in text
    assert "use_reentrant=False" in text
    assert run.handle is not None
    stepped = run.handle.stepped
    assert sorted(stepped) == sorted(repr(name) for name, _ in run.model.named_parameters())
    refused: list[Callable[[], Any]] = [
        run.optimizer.step,
        run.optimizer.state_dict,
        lambda: copy.deepcopy(run.optimizer),
        run.handle.remove,
    ]
    for refuse in refused:
        with pytest.raises(
            RuntimeError, match=r"last step was not completed: parameters 'tied.bias'.*load_state_dict"
        ) as caught:
            refuse()
        assert "its gradient arrived for the 2nd time" in str(caught.value)
    run.optimizer.zero_grad()
    assert "last step was not completed" in again(run)
    run.optimizer.load_state_dict(saved[0])
    run.model.load_state_dict(saved[1])
    run.optimizer.zero_grad()
    assert_same(run.train(2, 4), other.train(2, 4))


def test_what_is_asked_between_the_backward_pass_and_the_step_is_refused() -> None:
    """Between the first stepped parameter and ``step()``, there is no state that a step has left behind."""
    run = Run({})
    run.loss(0).backward()
    for refuse in (
        run.optimizer.state_dict,
        run.optimizer.zero_grad,
        lambda: copy.deepcopy(run.optimizer),
        lambda: pickle.dumps(run.optimizer),
    ):
        with pytest.raises(
            RuntimeError, match=r"between backward\(\) and step\(\): parameters 'tied.bias', .* Call step"
        ):
            refuse()
    run.optimizer.step()
    run.optimizer.zero_grad()
    assert_same(run.train(1, 3), Run().train(0, 3))


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_a_gradient_that_is_not_finite(on_nonfinite: str) -> None:
    """It is refused by name in the backward pass, or leaves out its tensor, which is counted."""
    run = Run({}, on_nonfinite=on_nonfinite).train(0, 2)
    before = run.model.scale.detach().clone()
    run.model.scale.register_hook(lambda g: g * math.nan)
    if on_nonfinite == "raise":
        with pytest.raises(
            FloatingPointError, match=r"parameter 'scale' has a NaN or an infinity, and it was not stepped"
        ):
            run.loss(2).backward()
        with pytest.raises(RuntimeError, match="last step was not completed"):
            run.optimizer.step()
    else:
        run.step(2)
        assert run.optimizer.skipped_steps == 1
        assert math.isnan(run.optimizer.grad_norm)
        run.step(3)
        assert run.optimizer.skipped_steps == 2
        assert {float(s["step"]) for p, s in run.optimizer.state.items() if p is not run.model.scale} == {4.0}
        assert run.optimizer.state[run.model.scale]["step"] == 2
        assert run.optimizer.state_dict()["param_groups"][0]["skipped_steps"] == 2
    assert torch.equal(run.model.scale, before)


def test_an_error_before_anything_was_stepped_leaves_nothing_behind() -> None:
    """Where the first gradient is refused, the next batch goes on."""
    run = Run({}, on_nonfinite="raise").train(0, 1)
    bad = run.model.tied.bias.register_hook(lambda g: g * math.nan)
    with pytest.raises(FloatingPointError, match=r"tied\.bias"):
        run.loss(1).backward()
    bad.remove()
    run.optimizer.zero_grad()
    assert_same(run.train(1, 3), Run(on_nonfinite="raise").train(0, 3))


class _Sum:
    over = "all"


def of_torch() -> Any:
    return at.release(torch.optim.AdamW([nn.Parameter(torch.ones(1))]))  # type: ignore[arg-type]


def of_two() -> Any:
    return at.release(at.SGD(Run({}).model.named_parameters()))


def of_complex() -> Any:
    return at.release(at.SGD([nn.Parameter(torch.ones(1, dtype=torch.complex64))]), 2, accumulate="bfloat16")


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "of torch.optim": (of_torch, TypeError, "takes an optimizer of adamas"),
    "part of a batch": (lambda: Run({"micro_batches": 1.5}), TypeError, "micro_batches must be an int"),
    "no batch": (lambda: Run({"micro_batches": 0}), ValueError, "micro_batches must be 1 or more"),
    "global norm": (
        lambda: Run({}, max_grad_norm=1.0),
        ValueError,
        '=1.0 limits the norm of all.*="auto".*per_tensor=True',
    ),
    "scheduled": (lambda: Run({}, max_grad_norm=1.0 * linear(3)), ValueError, "max_grad_norm=1.0 limits"),
    "twice": (lambda: at.release(Run({}).optimizer), RuntimeError, "released already"),
    "two optimizers": (of_two, RuntimeError, "parameter 'scale' is stepped by another"),
}


@pytest.mark.parametrize(("make", "kind", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_released_is_refused(make: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        make()


def test_flat_parameters_and_rules_with_global_sums_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """So are those that a group brings later, which is not added, and limits that are set later."""
    flat = nn.Parameter(torch.ones(3))
    flat._is_flat_param = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="parameter 0 is flattened"):
        at.release(at.SGD([flat]))
    run = Run({})
    for group in ({"params": [("flat", flat)]}, {"params": [nn.Parameter(torch.ones(1))], "max_grad_norm": 1.0}):
        with pytest.raises(ValueError, match=r"parameter flat is flattened|max_grad_norm=1.0 limits"):
            run.optimizer.add_param_group(group)
    assert len(run.optimizer.param_groups) == 1
    run.optimizer.param_groups[0]["max_grad_norm"] = 1.0
    with pytest.raises(ValueError, match=r"max_grad_norm=1\.0 limits"):
        run.loss(0).backward()
    monkeypatch.setattr(type(at.AdamW._member.rule(run.optimizer.param_groups[0])), "sums", (_Sum,))
    with pytest.raises(ValueError, match="sums over all gradients"):
        at.release(Run().optimizer)


def test_closures_and_loss_scaling_are_refused() -> None:
    run = Run({})
    with pytest.raises(RuntimeError, match="takes no closure"):
        run.optimizer.step(lambda: 0.0)
    run.train(0, 1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(run.loss(0)).backward()
    with pytest.raises(RuntimeError, match="cannot be stepped by GradScaler"):
        scaler.step(run.optimizer)
    with pytest.raises(RuntimeError, match="last step was not completed"):
        run.optimizer.state_dict()


def test_a_search_for_the_rate_is_refused() -> None:
    run = Run({})
    with pytest.raises(ValueError, match=r"released.*remove\(\)"):
        at.find_lr(run.model, run.optimizer, lambda model, batch: run.loss(0), [0, 1])


# ---- clipping


class Apart:
    """The parameters of a run, each with an ordinary optimizer of its own."""

    def __init__(self, **options: Any) -> None:
        self.run = Run()
        self.optimizers = [at.AdamW([(name, p)], **options) for name, p in self.run.model.named_parameters()]

    def train(self, first: int, last: int) -> Apart:
        for i in range(first, last):
            self.run.loss(i).backward()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return self

    def assert_same(self, other: Run) -> None:
        for p, q in zip(self.run.params, other.params, strict=True):
            assert torch.equal(p, q)
        for name in ("clipped_steps", "skipped_steps"):
            assert getattr(other.optimizer, name) == sum(getattr(one, name) for one in self.optimizers)


@pytest.mark.parametrize("limit", ["auto", 0.1, 0.1 * linear(40)], ids=["auto", "number", "schedule"])
def test_each_tensor_is_clipped_by_itself(limit: Any) -> None:
    """As if it had an optimizer of its own."""
    other = Run({"per_tensor": limit != "auto"}, max_grad_norm=limit).train(0, 16)
    Apart(max_grad_norm=limit).train(0, 16).assert_same(other)
    assert 0 < other.optimizer.clipped_steps < 16 * len(other.params)
    exact = Run(on_nonfinite="skip").train(0, 16)
    assert other.optimizer.grad_norm == pytest.approx(exact.optimizer.grad_norm, rel=0.3)
    assert other.optimizer.grad_norm_limit < math.inf


def test_histories_and_counts_are_saved() -> None:
    """A run goes on with the same bits; a state passes between released and ordinary optimizers."""
    options: Options = {"max_grad_norm": "auto", "on_nonfinite": "skip"}
    whole, one = Run({}, **options).train(0, 24), Run({}, **options).train(0, 12)
    file = io.BytesIO()
    torch.save(one.optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert saved["state"][0]["grad_norms"].shape == (128,)
    assert saved["state"][0]["grad_norms"].dtype == torch.float64
    assert saved["param_groups"][0]["clipped_steps"] == one.optimizer.clipped_steps > 0

    other, ordinary = Run({}, **options), Run(**options)
    for run in (other, ordinary):
        run.optimizer.load_state_dict(saved)
        run.model.load_state_dict(one.model.state_dict())
        assert run.optimizer.clipped_steps == one.optimizer.clipped_steps
    other.train(12, 24)
    whole.optimizer.state_dict()
    other.optimizer.state_dict()
    assert_same(whole, other)
    assert other.optimizer.clipped_steps == whole.optimizer.clipped_steps > one.optimizer.clipped_steps
    ordinary.train(12, 24)
    back = Run({}, **options)
    back.optimizer.load_state_dict(ordinary.optimizer.state_dict())
    back.model.load_state_dict(ordinary.model.state_dict())
    back.train(24, 26)
    memory = other.optimizer.memory().bytes
    assert memory["grad_norms"] == 1024 * len(other.params)
    assert memory["gradients"] == 0


# ---- copies, and what comes and goes


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_a_copy_steps_as_usual(copied: Callable[[Any], Any]) -> None:
    """A copy of the model and its optimizer is not released, and goes on with the same bits."""
    run, other = Run({}).train(0, 3), Run()
    other.model, other.optimizer = copied((run.model, run.optimizer))
    assert other.optimizer._released is None
    other.loss(3).backward()
    assert all(p.grad is not None for p in other.params)
    other.optimizer.zero_grad()
    assert_same(run.train(3, 5), other.train(3, 5))


def test_remove_makes_steps_ordinary_again() -> None:
    """Also after a step in part of the micro-batches. Then it can be released anew."""
    run, other = Run({"micro_batches": 2}, max_grad_norm="auto"), Run(max_grad_norm="auto")
    run.step(0)
    assert isinstance(run.handle, Released)
    run.handle.remove()
    run.handle.remove()
    assert run.optimizer._released is None
    assert not hasattr(run.optimizer, "_step_supports_amp_scaling")
    run.loss(1).backward()
    assert all(p.grad is not None for p in run.params)
    run.optimizer.step()
    run.optimizer.zero_grad()
    other.train(0, 2)
    for p, q in zip(run.params, other.params, strict=True):
        assert torch.equal(p, q)
    at.release(run.optimizer)
    run.loss(2).backward()
    assert all(p.grad is None for p in run.params)
    run.optimizer.step()
