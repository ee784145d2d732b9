"""``adamas.torch.release``: parameters are stepped in the backward pass, with the bits of steps after it."""

from __future__ import annotations

import copy
import io
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from members import WITH_FACTORED, Case, with_sums_over_all
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import adamas.torch as at
from adamas.schedules import Plateau, cosine, linear, warmup
from adamas.torch.accumulator import Accumulator
from adamas.torch.release import Released
from adamas.torch.single import Single

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
        is_named: bool = True,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = Model(dtype)
        params = self.model.named_parameters() if is_named else self.model.parameters()
        self.optimizer = member(params, **options)
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


@pytest.mark.parametrize("case", [case for case in WITH_FACTORED if not with_sums_over_all(case)], ids=str)
def test_every_member_steps_with_the_same_bits(case: Case) -> None:
    """The backward pass steps with the bits of the ordinary step, also where weights are shared or used twice."""
    runs = [Run(released, case.make, **case.options).train(0, 4) for released in (None, {})]
    assert_same(*runs)


FORMS: dict[str, Options] = {
    "int8": {"state": "int8"},
    "int6, split": {"state": "int6", "weights": "split", "dtype": torch.bfloat16},
    "stochastic": {"state": "bfloat16", "weights": "stochastic", "dtype": torch.bfloat16},
    "unnamed": {"state": "int8", "is_named": False},
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


def test_trap_T63_micro_batches_are_added_up() -> None:
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


def test_dropped_sums_are_gone_and_others_are_given_back() -> None:
    """By ``zero_grad``, and by ``remove``, which gives the gradients of a sum back."""
    run, other = Run({"micro_batches": 3, "accumulate": "bfloat16"}, at.SGD), Run()
    before = [p.detach().clone() for p in run.params]
    run.loss(0).backward()
    run.optimizer.zero_grad()
    run.optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(run.params, before, strict=True))
    for one in (run, other):
        one.loss(1).backward()
    assert run.handle is not None
    run.handle.remove()
    for p, q in zip(run.params, other.params, strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=0.01, atol=0)


def test_a_sparse_gradient_is_not_added_up() -> None:
    """The sum is dense; the message names the parameter."""
    layer = nn.Embedding(9, 3, sparse=True)
    optimizer = at.SGD(layer.named_parameters())
    at.release(optimizer, 2, accumulate="bfloat16")
    with pytest.raises(RuntimeError, match="accumulate= adds up dense gradients, and that of parameter 'weight' is"):
        layer(torch.tensor([1, 2])).sum().backward()


def test_sums_have_random_numbers_of_their_own() -> None:
    """They are not those that round the weight itself."""
    p, generator = nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16)), torch.Generator().manual_seed(0)
    optimizer, total = at.SGD([("p", p)], lr=1.0, maximize=True, weights="stochastic"), Accumulator(p, "p", 0, 0.0)
    for _ in range(2):
        p.grad = torch.randn(1000, generator=generator).bfloat16()
        total.add(p, 1)
        optimizer.step()
    assert not torch.equal(p, total.total)
    torch.testing.assert_close(p.detach(), total.total, rtol=0.02, atol=0.02)


# ---- errors


def again(run: Run) -> str:
    with pytest.raises(RuntimeError) as caught:
        run.loss(1).backward()
    return str(caught.value)


def test_trap_T63_a_forgotten_step_is_an_error_and_so_is_all_that_follows() -> None:
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
    run.model.scale.grad = torch.ones(140)  # what has arrived of the broken step is dropped
    run.optimizer.load_state_dict(saved[0])
    run.model.load_state_dict(saved[1])
    assert all(p.grad is None for p in run.params)
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
    run = Run({})
    return at.release(at.SGD(run.model.named_parameters()))


def of_complex() -> Any:
    return at.release(at.SGD([nn.Parameter(torch.ones(1, dtype=torch.complex64))]), 2, accumulate="bfloat16")


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "of torch.optim": (of_torch, TypeError, "takes an optimizer of adamas"),
    "part of a batch": (lambda: Run({"micro_batches": 1.5}), TypeError, "micro_batches must be an int"),
    "no batch": (lambda: Run({"micro_batches": 0}), ValueError, "micro_batches must be 1 or more"),
    "wide sums": (lambda: Run({"accumulate": "float32"}), ValueError, 'accumulate must be None or "bfloat16", not'),
    "complex sums": (of_complex, ValueError, "parameter 0 is complex"),
    "twice": (lambda: at.release(Run({}).optimizer), RuntimeError, "released already"),
    "two optimizers": (of_two, RuntimeError, "parameter 'scale' is stepped by another"),
}


@pytest.mark.parametrize(("make", "kind", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_released_is_refused(make: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        make()


def test_a_refused_release_leaves_nothing_behind() -> None:
    """No parameter has a hook, also where the second of them is the problem."""
    shared, own = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    first = at.SGD([shared])
    at.release(first)
    with pytest.raises(RuntimeError, match=r"parameter 1 .of shape .2,.. is stepped by another"):
        at.release(at.SGD([own, shared]))
    (own * 2).sum().backward()
    assert own.grad is not None


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


@pytest.mark.parametrize("unscales", [False, True])
def test_closures_and_loss_scaling_are_refused(unscales: bool) -> None:
    """A closure before anything is changed; loss scaling when it is known, after which a state can be loaded."""
    run = Run({})
    run.loss(0).backward()
    with pytest.raises(RuntimeError, match="takes no closure"):
        run.optimizer.step(lambda: 0.0)
    run.optimizer.step()
    saved = copy.deepcopy(run.optimizer.state_dict())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(run.loss(0)).backward()
    if unscales:
        scaler.unscale_(run.optimizer)
    with pytest.raises(RuntimeError, match="cannot be stepped by GradScaler"):
        scaler.step(run.optimizer)
    with pytest.raises(RuntimeError, match="last step was not completed"):
        run.optimizer.state_dict()
    run.optimizer.load_state_dict(saved)
    run.train(1, 2)


def test_a_search_for_the_rate_is_refused() -> None:
    run = Run({})
    with pytest.raises(ValueError, match=r"released.*remove\(\)"):
        at.find_lr(run.model, run.optimizer, lambda model, batch: run.loss(0), [0, 1])


# ---- clipping


@pytest.mark.parametrize("limit", [1.0, 1.0 * linear(3)], ids=["number", "schedule"])
def test_trap_T64_a_limit_of_the_global_norm_is_refused(limit: Any) -> None:
    """With the reason, and what would work."""
    with pytest.raises(ValueError, match=r'=1\.0 limits the norm of all.*max_grad_norm="auto".*per_tensor=True'):
        Run({}, max_grad_norm=limit)


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


@pytest.mark.parametrize("limit", ["auto", 1, 0.1 * linear(40)], ids=["auto", "number", "schedule"])
def test_trap_T64_each_tensor_is_clipped_by_itself(limit: Any) -> None:
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


def test_parameters_come_and_go() -> None:
    """A parameter may be unused, frozen, unfrozen, added or given a shape later, or get its gradient by hand."""
    runs = [Run(), Run({})]
    for run in runs:
        model, optimizer = run.model, run.optimizer
        model.first.requires_grad_(False)
        run.train(0, 2)
        model.first.requires_grad_(True)
        model.second.bias.requires_grad_(False)
        run.train(2, 4)
        model.more = nn.Linear(24, 24)
        nn.init.ones_(model.more.weight)
        nn.init.ones_(model.more.bias)
        optimizer.add_param_group({"params": model.more.named_parameters(prefix="more"), "lr": 1e-2})
        for i in range(3):
            loss = run.loss(i)
            if i != 1:
                loss = loss + model.more(torch.ones(24)).square().sum()
            loss.backward()
            if i == 1:
                model.more.bias.grad = torch.ones(24)
            optimizer.step()
            optimizer.zero_grad()
        assert [float(optimizer.state[p]["step"]) for p in model.more.parameters()] == [2, 3]
    assert_same(*runs)
    assert all(p.grad is None for p in runs[1].params)

    lazy = []
    for released in (None, {}):
        torch.manual_seed(0)
        layer = nn.LazyLinear(5)
        optimizer = at.AdamW(layer.named_parameters())
        if released is not None:
            at.release(optimizer)
        for _ in range(3):
            layer(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        lazy.append(layer.weight.detach().clone())
        layer(torch.ones(2, 3)).sum().backward()
        assert all((p.grad is None) == (released is not None) for p in layer.parameters())  # they have hooks now
    assert torch.equal(*lazy)


def test_a_first_step_with_a_rate_and_a_gradient_of_zero_counts() -> None:
    """As in the warmup of an adapter (LoRA), one of whose matrices is 0; only if nothing is to be stepped, no step is made."""
    runs = [Run(released, lr=1e-2 * warmup(3).then(cosine(9))) for released in (None, {})]
    for run in runs:
        assert run.optimizer.param_groups[0]["lr"] == 0
        with torch.no_grad():
            run.model.scale.zero_()  # so all gradients before it are 0
        run.train(0, 3)
        assert {float(state["step"]) for state in run.optimizer.state.values()} == {3.0}
    assert_same(*runs)


def test_asking_for_the_state_is_no_step() -> None:
    """What ``torch.distributed.checkpoint`` does before the first step creates the state, and nothing else."""
    runs = [Run(released, lr=1e-2 * cosine(9), max_grad_norm="auto") for released in (None, {})]
    for run in runs:
        before = [p.detach().clone() for p in run.params]
        for p in run.params:
            p.grad = torch.zeros_like(p)
        rate, run.optimizer.param_groups[0]["lr"] = run.optimizer.param_groups[0]["lr"], torch.tensor(0.0)
        run.optimizer.step()
        run.optimizer.param_groups[0]["lr"] = rate
        run.optimizer.zero_grad()
        assert all(torch.equal(p, q) for p, q in zip(run.params, before, strict=True))
        assert all(state["step"] == 0 for state in run.optimizer.state.values())
        state = run.optimizer.state_dict()["state"]
        assert len(state) == len(run.params)
    assert state[0]["grad_norms"].shape == (128,)
    run.train(0, 2)
    assert run.optimizer.param_groups[0]["lr"] == cosine(9)(2) * 1e-2


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations(use_reentrant: bool) -> None:
    """They work, except where a weight is shared or used twice and each use gives a gradient of its own (reentrant)."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.once, self.twice = nn.Linear(9, 9), nn.Linear(9, 9)

        def forward(self, x: Tensor) -> Tensor:
            for layer in (self.twice, self.once, self.twice):
                x = checkpoint(lambda x, layer=layer: torch.tanh(layer(x)), x, use_reentrant=use_reentrant)
            return x

    found, x = [], torch.ones(3, 9, requires_grad=True)
    for released in (None, {}):
        model = Twice()
        optimizer = at.AdamW(model.named_parameters())
        if released is not None:
            at.release(optimizer)
        if released is not None and use_reentrant:
            with pytest.raises(
                RuntimeError, match=r"parameter 'twice\.\w+': its gradient arrived for the 2nd.*use_reentrant=False"
            ):
                model(x).sum().backward()
            return
        for _ in range(2):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


def test_several_losses() -> None:
    """A backward pass for each loss: the other network has to be frozen meanwhile, or to say so by ``micro_batches``."""
    found = []
    for released in (None, {}):
        torch.manual_seed(0)
        one, other = nn.Linear(4, 4), nn.Linear(4, 1)
        optimizers = [at.AdamW(net.named_parameters()) for net in (one, other)]
        if released is not None:
            handles = [*map(at.release, optimizers)]
        for i in range(2):
            x = torch.full((2, 4), 1.0 + i)
            other.requires_grad_(False)
            other(one(x)).sum().backward()
            optimizers[0].step()
            optimizers[0].zero_grad()
            other.requires_grad_(True)
            other(one(x).detach()).square().sum().backward()
            optimizers[1].step()
            optimizers[1].zero_grad()
        found.append([p.detach().clone() for net in (one, other) for p in net.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))
    other(one(x)).sum().backward()
    optimizers[0].step()
    with pytest.raises(RuntimeError, match=r"parameter '\w+': .*several losses.*requires_grad_\(False\)"):
        other(one(x).detach()).sum().backward()
    assert sorted(handles[1].stepped) == ["'bias'", "'weight'"]


def test_schedulers_and_metrics() -> None:
    """PyTorch's schedulers, ours that follows, and a metric set the rate of the coming step, as without release."""
    for make in (
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        lambda optimizer: at.LRScheduler(optimizer, cosine(6)),
    ):
        runs = [Run(), Run({})]
        for run in runs:
            scheduler = make(run.optimizer)
            for i in range(4):
                run.step(i)
                scheduler.step()
        assert_same(*runs)
        assert runs[0].optimizer.param_groups[0]["lr"] < 1e-3
    rates = []
    for released in (None, {}):
        plateau = Plateau(factor=0.5, patience=0)
        run = Run(released, lr=1e-2 * warmup(2).then(cosine(9)) * plateau)
        for i in range(5):
            run.step(i)
            plateau.observe(1.0)
            rates.append(run.optimizer.param_groups[0]["lr"])
        assert run.optimizer.lr_at(5) == rates[-1]
    assert rates[:5] == rates[5:]
    assert rates[4] < 1e-3


def test_a_scheduled_rate_that_something_else_sets_is_refused() -> None:
    """In the backward pass, before anything is stepped."""
    run = Run({}, lr=1e-2 * cosine(9)).train(0, 1)
    run.optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"was set to 0\.5 by something else"):
        run.loss(1).backward()
    assert run.handle is not None
    assert run.handle.stepped == []


def test_a_state_that_is_replaced_is_noticed() -> None:
    runs = [Run(released, lr=1e-2 * cosine(9)) for released in (None, {})]
    for run in runs:
        run.train(0, 2)
        run.optimizer.state.clear()
        run.train(2, 4)
        assert {float(state["step"]) for state in run.optimizer.state.values()} == {2.0}
    assert_same(*runs)


def test_step_hooks_are_called_once_a_step() -> None:
    run, seen = Run({}), []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    run.optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    run.train(0, 2)
    assert seen == ["before", "after"] * 2


def test_an_interrupted_backward_pass_is_not_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the user interrupts while a parameter is stepped, what follows is refused."""
    run, calls = Run({}), 0
    step_now = Single.step_now

    def interrupted(single: Single, threads: int) -> None:
        nonlocal calls
        step_now(single, threads)
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Single, "step_now", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.loss(0).backward()
    assert run.handle is not None
    assert len(run.handle.stepped) == 3
    with pytest.raises(RuntimeError, match=r"not completed: parameters .*, .*, .* had been stepped.*KeyboardInterrupt"):
        run.optimizer.step()


def test_an_error_in_step_leaves_it_incomplete() -> None:
    """Where ``step`` cannot step what is left, such as a sparse gradient."""
    run = Run({}, on_nonfinite="raise")
    run.model.unused = nn.Parameter(torch.ones(3, 1))
    run.optimizer.add_param_group({"params": [("unused", run.model.unused)]})
    run.loss(0).backward()
    run.model.unused.grad = torch.ones(3, 1).to_sparse()
    with pytest.raises(RuntimeError, match=r"steps the rows of sparse gradients .* parameter 'unused'"):
        run.optimizer.step()
    with pytest.raises(RuntimeError, match=r"not completed: parameters 'tied\.bias'"):
        run.optimizer.state_dict()


def test_a_gradient_that_is_set_after_its_parameter_was_stepped_is_refused() -> None:
    run = Run({})
    run.loss(0).backward()
    run.model.scale.grad = torch.ones(140)
    with pytest.raises(RuntimeError, match=r"parameter 'scale' has been stepped .* and has another gradient"):
        run.optimizer.step()


def test_an_optimizer_of_several_groups_measures_all_gradients() -> None:
    """The norm is over all groups, also those that do not ask for it."""
    norms = []
    for released in (None, {}):
        torch.manual_seed(0)
        model = Model()
        optimizer = at.AdamW(
            [{"params": [*model.first.parameters()], "on_nonfinite": "skip"}, {"params": [*model.second.parameters()]}]
        )
        if released is not None:
            at.release(optimizer)
        model(torch.ones(2, 24)).sum().backward()
        optimizer.step()
        norms.append(optimizer.grad_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-14)


def test_a_model_whose_optimizer_is_released_is_saved_and_copied() -> None:
    """Hooks are no part of it."""
    run = Run({}).train(0, 1)
    file = io.BytesIO()
    torch.save(run.model, file)
    file.seek(0)
    for model in (copy.deepcopy(run.model), torch.load(file, weights_only=False)):
        model(torch.ones(2, 24)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())


def test_an_optimizer_that_is_gone_does_not_step() -> None:
    """When nothing uses the optimizer, its hooks are gone too, and another one can be released."""
    run = Run({}, max_grad_norm="auto").train(0, 2)
    reference = weakref.ref(run.optimizer)
    handle, run.handle, run.optimizer = run.handle, None, None
    assert reference() is None
    handle.remove()
    run.loss(2).backward()
    assert all(p.grad is not None for p in run.params)
    run.optimizer = at.AdamW(run.model.named_parameters())
    at.release(run.optimizer)
    run.optimizer.zero_grad()
    run.train(2, 3)


def test_a_group_of_another_released_optimizer_is_not_added() -> None:
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    first, second = (at.SGD([one], lr=0.5) for one in (p, q))
    handles = [at.release(optimizer) for optimizer in (first, second)]
    with pytest.raises(RuntimeError, match=r"parameter 1 .* is stepped by another released optimizer"):
        second.add_param_group({"params": [p]})
    assert len(second.param_groups) == len(second.schedules) == 1
    (p.sum() + q.sum()).backward()
    first.step()
    second.step()
    assert p.tolist() == q.tolist() == [0.5] * 3
    assert handles[1].stepped == []
