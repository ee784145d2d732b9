"""What holds where the parameters' device decides about steps, for each executor that lets it: over arrays, and by kernels."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from captured import Captured, Recording
from torch import Tensor

import adamas.torch as at
from adamas.schedules import Plateau, cosine, linear, warmup
from adamas.step.plan import GroupPlan

SHAPES = ((5, 7), (130,), (3, 128))
CODED = ((5, 7), (32, 128))  # the second is large enough for codes
BAD = (3, 6)  # the steps with a gradient that is not finite
SPIKE = 12  # the step with a gradient that is unusually large
STEPS = 14

Options = dict[str, Any]


def scheduled() -> Options:
    return {"lr": 1e-2 * warmup(3).then(cosine(20)), "weight_decay": 0.1 * linear(9), "on_nonfinite": "skip"}


OPTIONS: dict[str, Callable[[], Options]] = {
    "clipped": lambda: {"max_grad_norm": 20.0},
    "by history": lambda: {"max_grad_norm": "auto"},
    "skipped": lambda: {"on_nonfinite": "skip"},
    "skipped and clipped": lambda: {"on_nonfinite": "skip", "max_grad_norm": "auto"},
    "capturable": lambda: {"capturable": True, "decay": "l2"},
    "scheduled": scheduled,
    "clipped by a schedule": lambda: {"max_grad_norm": 30.0 * linear(20), "lr": 1e-2 * cosine(30)},
    "scheduled betas": lambda: {"betas": (0.9 * linear(40), 0.99), "capturable": True},
    "int8": lambda: {"capturable": True, "state": "int8"},
    "cautious": lambda: {"capturable": True, "weight_decay": 0.1, "decay": "cautious"},
}


SPOILED: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("exp_avg", lambda x: None, "is missing"),
    ("exp_avg", lambda x: x[1:], "has another shape than the parameter"),
    ("exp_avg", lambda x: x.to(torch.int32), "has a dtype that"),
    ("exp_avg", lambda x: x.new_ones(()).expand(x.shape), "has elements that share memory"),
    ("exp_avg", lambda x: x.tolist(), "is of (type list|a type)"),
    (
        "exp_avg",
        lambda x: x.to("meta"),
        "(is on the device meta, and has to be on|is not in|cannot be read)",
    ),
    ("step", lambda x: -1 * x, r"is -1\.0, and has to be a number from 0 up, below 2\*\*53"),
    ("step", lambda x: math.nan * x, "is nan, and has to be a number from 0 up"),
    ("step", lambda x: 2.0**53 * x, r"is 9007199254740992\.0, and has to be a number from 0 up"),
    ("step", lambda x: torch.stack([x, x]), r"is tensor\(.*, and has to be a single number"),
]

CODES_SPOILED: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("exp_avg", lambda x: x[:, 1:], "has another shape than the parameter"),
    ("exp_avg", lambda x: x.view(torch.uint8), "has a dtype that it cannot have"),
    ("exp_avg", lambda x: x[:1].expand(x.shape), "has elements that share memory"),
    ("exp_avg_grid", lambda x: None, "is missing"),
    ("exp_avg_grid", lambda x: x[1:], r"has to be float32, of shape \(32, 1\)"),
    ("exp_avg_grid", lambda x: x.double(), r"has to be float32, of shape \(32, 1\)"),
    ("exp_avg_grid", lambda x: x[:1].expand(x.shape), "has elements that share memory"),
    ("weight_low_bits", lambda x: None, "is missing"),
    ("weight_low_bits", lambda x: x[1:], "has another shape than the parameter"),
    ("weight_low_bits", lambda x: x[..., :1], "(is not made up of pairs of bytes|has another shape)"),
]


def gradients(
    steps: int, bad: tuple[int, ...] = (), shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> Iterator[list[Tensor]]:
    """Gradients of sizes that differ between steps."""
    generator = torch.Generator().manual_seed(1)
    for i in range(steps):
        found = [torch.randn(shape, generator=generator) * (1 + i % 5) for shape in shapes]
        if i in bad:
            found[1][3] = math.nan
        if i == SPIKE:
            found[0] *= 100
        yield found


class Run:
    """An optimizer and its parameters.

    Args:
        monkeypatch: chooses the executor.
        executor: its name.
        device: the device.
        member: the class of the optimizer.
        shapes: the shapes of the parameters.
        dtype: their dtype.
        options: the options of the optimizer.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        executor: str,
        device: str = "cpu",
        member: Any = at.AdamW,
        shapes: tuple[tuple[int, ...], ...] = SHAPES,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        self._monkeypatch, self._executor = monkeypatch, executor
        generator = torch.Generator().manual_seed(2)
        self.params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(device, dtype)) for s in shapes]
        self.optimizer = member([(f"p{i}", p) for i, p in enumerate(self.params)], **options)

    def give(self, given: list[Tensor | None]) -> None:
        """Sets gradients, in place where there are some."""
        for p, g in zip(self.params, given, strict=True):
            if g is None or p.grad is None:
                p.grad = None if g is None else g.to(p.device, copy=True)
            else:
                p.grad.copy_(g)

    def step(self, given: list[Any] | None = None) -> None:
        if given is not None:
            self.give(given)
        with self._monkeypatch.context() as patch:
            patch.setenv("ADAMAS_EXECUTOR", self._executor)
            self.optimizer.step()

    def backward(self, given: list[Any]) -> None:
        """A backward pass that has these gradients, and the step; None leaves out a parameter."""
        with self._monkeypatch.context() as patch:
            patch.setenv("ADAMAS_EXECUTOR", self._executor)
            terms = ((p * g.to(p.device)).sum() for p, g in zip(self.params, given, strict=True) if g is not None)
            sum(terms, torch.zeros((), device=self.params[0].device)).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()

    def captured(self) -> Captured:
        return Captured(self.step)

    def stepper(self, first: int = 1) -> Iterator[Callable[[list[Any]], None]]:
        """Functions that make the steps: ``first`` ones as usual; the next is captured, and the others are replays of it."""
        yield from [self.step] * first
        captured: list[Captured] = []

        def capture(given: list[Any]) -> None:
            self.give(given)
            captured.append(self.captured())

        def replay(given: list[Any]) -> None:
            self.give(given)
            captured[0].replay()

        yield capture
        while True:
            yield replay


def assert_alike(one: Run, other: Run, with_norms: bool = True) -> None:
    """Weights, states and whatever was decided are alike."""
    a, b = one.optimizer, other.optimizer
    for p, q in zip(one.params, other.params, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2e-6, atol=1e-6)
        assert a.state[p].keys() == b.state[q].keys()
        for name, x in a.state[p].items():
            y = b.state[q][name]
            if x.is_floating_point():
                torch.testing.assert_close(x.cpu(), y, rtol=2e-6, atol=1e-6)
            else:
                assert torch.equal(x.cpu(), y)
    assert (a.skipped_steps, a.clipped_steps) == (b.skipped_steps, b.clipped_steps)
    for name in ("lr", "weight_decay", "betas"):
        x, y = (optimizer.param_groups[0].get(name, 0.0) for optimizer in (a, b))
        assert x == pytest.approx(y, rel=1e-12)
    if with_norms:
        for x, y in ((a.grad_norm, b.grad_norm), (a.grad_norm_limit, b.grad_norm_limit)):
            assert (x is None) == (y is None)
            assert x is None or float(x) == pytest.approx(float(y), rel=1e-14, nan_ok=True)


def check_steps(monkeypatch: pytest.MonkeyPatch, executor: str, device: str, options: str, member: Any) -> None:
    """Steps are those of the engine, also where a gradient is missing or not finite."""
    other, one = (
        Run(monkeypatch, name, where, member, **OPTIONS[options]())
        for name, where in (("engine", "cpu"), (executor, device))
    )
    may_skip = "skip" in OPTIONS[options]().values()
    for i, given in enumerate(gradients(STEPS, BAD if may_skip else ())):
        some: list[Any] = [None, *given[1:]] if i == 5 else [*given]
        one.step(some)
        other.step(some)
        assert_alike(one, other, with_norms=not (may_skip and i in BAD))
    assert one.optimizer.skipped_steps == (len(BAD) if may_skip else 0)
    saved, expected = one.optimizer.state_dict(), other.optimizer.state_dict()
    for mine, its in zip(saved["param_groups"], expected["param_groups"], strict=True):
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            assert type(value) is type(its[name]), name


def check_rate_in_a_tensor(monkeypatch: pytest.MonkeyPatch, executor: str, device: str) -> None:
    """A rate in a tensor is read at each replay."""
    rate = torch.tensor(1e-2, device=device)
    one = Run(monkeypatch, executor, device, lr=rate, capturable=True)
    other = Run(monkeypatch, "engine", lr=float(rate))
    for i, (given, step) in enumerate(zip(gradients(8), one.stepper(), strict=False)):
        other.optimizer.param_groups[0]["lr"] = float(rate.fill_(1e-2 / (1 + i)))
        other.step(given)
        step(given)
        assert_alike(one, other)


def check_refused(run: Run, given: list[Tensor], name: str, change: Callable[[Tensor], Any], words: str) -> None:
    """The last parameter's state is refused by name after this change of a tensor, and nothing is stepped."""
    state = run.optimizer.state[run.params[-1]]
    state[name] = change(state[name])
    if state[name] is None:
        del state[name]
    others = [run.params, *(run.optimizer.state[p].values() for p in run.params[:-1])]
    before = [x.detach().clone() for some in others for x in some]
    with pytest.raises(ValueError, match=f"parameter 'p{len(run.params) - 1}': its state '{name}' {words}"):
        run.step(given)
    after = [x.detach() for some in others for x in some]
    assert all(map(torch.equal, before, after))


class Decided:
    """The tests for one executor.

    Attributes:
        WHERE: its name, and the device of the parameters.
    """

    WHERE: ClassVar[tuple[str, str]]

    def test_copies_and_loaded_states_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Copies and loaded states go on as if nothing had happened, on the device and on the engine."""
        given = list(gradients(STEPS, BAD))
        runs = [
            Run(monkeypatch, *where, **scheduled(), max_grad_norm="auto")
            for where in (self.WHERE, self.WHERE, ("engine", "cpu"))
        ]
        one, other, on_engine = runs
        for g in given[:9]:
            one.step(g)
        copied = Run(monkeypatch, *self.WHERE)
        copied.optimizer = copy.deepcopy(one.optimizer)
        copied.params = copied.optimizer.param_groups[0]["params"]
        for run in (other, on_engine):
            run.optimizer.load_state_dict(one.optimizer.state_dict())
            for p, q in zip(run.params, one.params, strict=True):
                p.data.copy_(q.data)
        for g in given[9:]:
            for run in (one, copied, other, on_engine):
                run.step(g)
        for run in (one, copied, other):
            assert_alike(run, on_engine)
        assert one.optimizer.skipped_steps == 2

    def test_a_captured_step_is_replayed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A captured step is repeated with other gradients, schedules, an observed metric, clipping and skipping."""
        plateaus = [Plateau(factor=0.5, patience=0), Plateau(factor=0.5, patience=0)]
        one, other = (
            Run(
                monkeypatch,
                *where,
                lr=1e-2 * warmup(5).then(cosine(20)) * plateau,
                max_grad_norm="auto",
                on_nonfinite="skip",
                capturable=True,
            )
            for plateau, where in zip(plateaus, (self.WHERE, ("engine", "cpu")), strict=True)
        )
        for i, (given, step) in enumerate(zip(gradients(STEPS, BAD), one.stepper(first=2), strict=False)):
            other.step(given)
            step(given)
            if i in (1, 4, 7, 8):
                for plateau in plateaus:
                    plateau.observe(1.0)
            assert_alike(one, other, with_norms=i not in BAD)
        assert one.optimizer.skipped_steps == 2
        assert one.optimizer.clipped_steps == 1
        assert plateaus[0].value == 0.125

    def test_the_host_does_not_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An optimizer that was not made to be captured does not wait for the device either, once it has its state."""
        run = Run(monkeypatch, *self.WHERE, lr=torch.tensor(1e-2, device=self.WHERE[1]), max_grad_norm="auto")
        given = list(gradients(3))
        run.step(given[0])
        if self.WHERE[1] == "cpu":
            run.give(given[1])
            with Recording([state["step"] for state in run.optimizer.state.values()]):
                run.step()
        else:
            torch.cuda.set_sync_debug_mode("error")
            try:
                run.give(given[1])
                run.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("options", ["by history", "skipped and clipped", "scheduled"])
    def test_release_decides_on_the_device(self, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Steps in the backward pass are the engine's, and the host does not wait for what is decided about each tensor."""
        one, other = (Run(monkeypatch, *where, **OPTIONS[options]()) for where in (self.WHERE, ("engine", "cpu")))
        for run in (one, other):
            at.release(run.optimizer)
        bad = BAD if options != "by history" else ()
        for i, given in enumerate(gradients(STEPS, bad)):
            some: list[Any] = [None, *given[1:]] if i == 5 else [*given]
            other.backward(some)
            if i < 2 or self.WHERE[1] != "cpu":
                one.backward(some)
            else:
                with Recording([state["step"] for state in one.optimizer.state.values()] if not bad else ()):
                    one.backward(some)
            assert all(p.grad is None for p in one.params)
            assert_alike(one, other, with_norms=i not in bad)
        assert isinstance(one.optimizer.grad_norm, Tensor)
        assert one.optimizer.skipped_steps == len(bad)
        saved, expected = one.optimizer.state_dict(), other.optimizer.state_dict()
        counted = one.optimizer.skipped_steps, one.optimizer.clipped_steps
        for mine, its in zip(saved["param_groups"], expected["param_groups"], strict=True):
            assert (
                (mine["skipped_steps"], mine["clipped_steps"])
                == (its["skipped_steps"], its["clipped_steps"])
                == counted
            )
        again = Run(monkeypatch, *self.WHERE, **OPTIONS[options]())
        at.release(again.optimizer)
        again.optimizer.load_state_dict(saved)
        for p, q in zip(again.params, one.params, strict=True):
            p.data.copy_(q.data)
        for given in gradients(3):
            again.backward([*given])
            one.backward([*given])
            other.backward([*given])
        assert_alike(one, other)
        assert_alike(again, other)
        assert one.optimizer.memory().bytes["grad_norms"] > 0

    def test_the_device_and_the_host_decide_by_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The device and the host count by turns, as options change; steps without a gradient change nothing."""
        runs = [
            Run(monkeypatch, *where, lr=1e-2 * cosine(20), on_nonfinite="skip")
            for where in (self.WHERE, ("engine", "cpu"))
        ]
        for run in runs:
            run.optimizer.param_groups[0]["own"] = torch.ones(3)  # which is no hyperparameter
        changes: dict[int, Options] = {
            2: {"on_nonfinite": "propagate"},
            4: {"on_nonfinite": "skip"},
            5: {"max_grad_norm": 20.0},
            7: {"on_nonfinite": "propagate"},
            8: {"on_nonfinite": "skip"},
            9: {"on_nonfinite": "propagate", "max_grad_norm": None},
            10: {"capturable": True},
        }
        rates: dict[Run, list[float]] = {run: [] for run in runs}
        for i, given in enumerate(gradients(12)):
            for run in runs:
                rates[run].append(float(run.optimizer.param_groups[0]["lr"]))
                run.optimizer.param_groups[0].update(changes.get(i, {}))
                if i in (6, 11):  # as what lends the rate does, and gives it back before or after a step
                    run.optimizer.param_groups[0]["lr"] = rates[run][5 if i == 6 else 11]
                if i in (1, 4):
                    run.optimizer.param_groups[0] = {**run.optimizer.param_groups[0]}
                if i in (0, 5):
                    run.optimizer.zero_grad()
                    run.step()
                run.step(given)
            assert_alike(*runs)

    def test_loss_scaling_is_read_on_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What ``torch.amp.GradScaler`` gives a fused optimizer is read on the device."""
        one = Run(monkeypatch, *self.WHERE, fused=True, max_grad_norm="auto", lr=1e-2 * cosine(20))
        other = Run(monkeypatch, "engine", max_grad_norm="auto", lr=1e-2 * cosine(20))
        for i, given in enumerate(gradients(6)):
            one.give([g * 2.0**i for g in given])
            found = torch.tensor(float(i == 3), device=self.WHERE[1])
            one.optimizer.grad_scale, one.optimizer.found_inf = torch.tensor([2.0**i], device=self.WHERE[1]), found
            if i == 0 or self.WHERE[1] != "cpu":
                one.step()
            else:
                with Recording():
                    one.step()
            if i != 3:
                other.step(given)
                assert_alike(one, other)
        assert all(state["step"] == 5 for state in one.optimizer.state.values())
        assert one.optimizer.skipped_steps == 0
        assert len(json.loads(one.optimizer.state_dict()["param_groups"][0]["grad_norms"])) == 5
        one.optimizer.param_groups[0]["on_nonfinite"] = "raise"  # which is not for what the scaler has found
        one.optimizer.found_inf = torch.ones_like(found)
        one.step([g * math.inf for g in given])
        assert all(state["step"] == 5 for state in one.optimizer.state.values())

    @pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip"}], ids=str)
    @pytest.mark.parametrize(("name", "change", "words"), SPOILED)
    def test_a_state_that_does_not_fit_is_refused(
        self, name: str, change: Callable[[Tensor], Any], words: str, options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By name, as on the engine, before anything is stepped."""
        for where in (self.WHERE, ("engine", "cpu")):
            run, (first, second) = Run(monkeypatch, *where, **options), gradients(2)
            run.step(first)
            check_refused(run, second, name, change, words)

    @pytest.mark.parametrize(("name", "change", "words"), CODES_SPOILED)
    def test_codes_that_do_not_fit_are_refused(
        self, name: str, change: Callable[[Tensor], Any], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same for codes, scales and low bits."""
        for where in (self.WHERE, ("engine", "cpu")):
            run = Run(monkeypatch, *where, shapes=CODED, dtype=torch.bfloat16, state="int8", weights="split")
            first, second = ([g.bfloat16() for g in given] for given in gradients(2, shapes=CODED))
            run.step(first)
            check_refused(run, second, name, change, words)

    def test_values_may_replace_codes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The scales of codes that are no longer there are not used."""
        runs = [Run(monkeypatch, *where, shapes=CODED, state="int8") for where in (self.WHERE, ("engine", "cpu"))]
        for i, given in enumerate(gradients(3, shapes=CODED)):
            for run in runs:
                if i == 1:
                    state = run.optimizer.state[run.params[1]]
                    state["exp_avg"] = given[1].to(run.params[1].device, copy=True)
                run.step(given)
        one, other = runs
        for p, q in zip(one.params, other.params, strict=True):
            torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip"}, {"max_grad_norm": 5.0}], ids=str)
    @pytest.mark.parametrize("number", [np.float64, np.float32, np.array, torch.tensor], ids=lambda f: f.__name__)
    def test_numbers_of_any_type_are_taken(
        self, number: Callable[[float], Any], options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Hyperparameters that code outside of the optimizer sets may be NumPy's numbers, or tensors."""
        one, other = Run(monkeypatch, *self.WHERE, **options), Run(monkeypatch, "engine", **options)
        values = {"lr": 2.0**-7, "weight_decay": 0.25, "eps": 2.0**-20, "betas": (0.5, 0.75)}
        if "max_grad_norm" in options:
            values["max_grad_norm"] = 4.0
        for i, given in enumerate(gradients(3)):
            if i == 1:
                other.optimizer.param_groups[0].update(values)
                one.optimizer.param_groups[0].update(
                    {name: tuple(map(number, x)) if isinstance(x, tuple) else number(x) for name, x in values.items()}
                )
            one.step(given)
            other.step(given)
            assert_alike(one, other)

    @pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip"}], ids=str)
    @pytest.mark.parametrize(
        ("name", "value"), [("weight_decay", None), ("eps", "1"), ("lr", torch.ones(2)), ("betas[1]", None)]
    )
    def test_what_is_no_number_is_refused(
        self, name: str, value: Any, options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By name, and nothing is stepped."""
        run, (first, second) = Run(monkeypatch, *self.WHERE, **options), gradients(2)
        run.step(first)
        before = [p.detach().clone() for p in run.params]
        run.optimizer.param_groups[0].update({"betas": (0.9, value)} if name == "betas[1]" else {name: value})
        with pytest.raises(
            (TypeError, RuntimeError),
            match=rf"{re.escape(name)} of a parameter group must be a number|more than one value",
        ):
            run.step(second)
        assert all(map(torch.equal, before, (p.detach() for p in run.params)))

    def test_what_cannot_be_captured_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What cannot be captured is an error that says why."""

        def refusal(run: Run) -> str:
            with pytest.raises(RuntimeError) as caught:
                run.captured()
            return str(caught.value)

        given = next(gradients(1))
        run = Run(monkeypatch, *self.WHERE, capturable=True)
        run.give(given)
        assert "make a step before the capture" in refusal(run)
        run.step(given)
        run.params[1].grad = None
        assert "parameter 'p1' has no gradient" in refusal(run)
        changes: list[tuple[str, Callable[[Run], Any]]] = [
            (
                "options, parameters or states were replaced",
                lambda run: run.optimizer.param_groups[0].update(decay="l2"),
            ),
            ("options, parameters or states were replaced", lambda run: run.optimizer.state.clear()),
            (
                "the 'step' of a state was replaced",
                lambda run: run.optimizer.state[run.params[0]].update(step=torch.tensor(9.0)),
            ),
            (
                "scheduled numbers, parameters or states have changed",
                lambda run: run.optimizer.param_groups[0]["lr"].fill_(1.0),
            ),
            (
                "scheduled numbers, parameters or states have changed",
                lambda run: run.optimizer.param_groups.__setitem__(0, {**run.optimizer.param_groups[0]}),
            ),
        ]
        for reason, change in changes:
            run = Run(monkeypatch, *self.WHERE, capturable=True, lr=1e-2 * cosine(20))
            run.step(given)
            change(run)
            assert reason in refusal(run)
        plateau = Plateau(factor=0.5, patience=0)
        run = Run(monkeypatch, *self.WHERE, capturable=True, lr=1e-2 * cosine(20) * plateau)
        run.step(given)
        with pytest.raises(RuntimeError, match="a schedule has observed a metric in it"):
            Captured(lambda: [plateau.observe(1.0) for _ in range(2)])
        run.step(given)
        assert run.optimizer.param_groups[0]["lr"] == pytest.approx(run.optimizer.lr_at(2), rel=1e-12)
        run = Run(monkeypatch, *self.WHERE, max_grad_norm=1.0)
        run.step(given)
        assert "parameter group 0 has capturable=False" in refusal(run)
        run = Run(monkeypatch, *self.WHERE, capturable=True, on_nonfinite="raise")
        run.step(given)
        assert 'on_nonfinite="raise" of parameter group 0 has to wait' in refusal(run)

    @pytest.mark.parametrize("options", [{"on_nonfinite": "skip"}, {"capturable": True}, {"fused": True}], ids=str)
    def test_parameters_that_become_trainable_are_stepped_at_once(
        self, options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No step is lost where nothing was trainable in the step before."""
        run = Run(monkeypatch, *self.WHERE, **options)
        given = next(gradients(1))
        for p in run.params:
            p.requires_grad_(False)
        run.step(given)
        for p in run.params:
            p.requires_grad_(True)
        before = [p.detach().clone() for p in run.params]
        run.step(given)
        assert all((p != q).any() for p, q in zip(run.params, before, strict=True))
        assert all(state["step"] == 1 for state in run.optimizer.state.values())

    def test_a_step_that_fails_counts_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the device counts stays as it was if the step cannot be made."""

        def refuse(*arguments: Any) -> None:
            raise TypeError("no number")

        run = Run(monkeypatch, *self.WHERE, on_nonfinite="skip", max_grad_norm="auto")
        good, bad = gradients(2, (1,))
        run.step(good)
        before = run.optimizer.state_dict()["param_groups"]
        monkeypatch.setattr(GroupPlan, "prepare_there", refuse)
        for given in (good, bad):
            with pytest.raises(TypeError, match="no number"):
                run.step(given)
        assert run.optimizer.state_dict()["param_groups"] == before

    def test_counts_go_on_from_the_most_of_all_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The device counts on from the group that has counted most, as the host does."""
        run = Run(monkeypatch, *self.WHERE, on_nonfinite="skip")
        first = run.optimizer.param_groups[0]
        run.optimizer.param_groups.append({**first, "params": [], "param_names": [], "skipped_steps": 3})
        run.step(next(gradients(1, (0,))))
        assert run.optimizer.skipped_steps == 4

    def test_steps_go_on_outside_of_inference_mode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a first step makes within ``torch.inference_mode``, or loading there, a later step outside can write."""
        one, loaded, other = runs = [
            Run(monkeypatch, *where, **scheduled()) for where in (self.WHERE, self.WHERE, ("engine", "cpu"))
        ]
        first, *following = gradients(4)
        with torch.inference_mode():
            for run in (one, other):
                run.step(first)
            loaded.optimizer.load_state_dict(one.optimizer.state_dict())
        for p, q in zip(loaded.params, one.params, strict=True):
            p.data.copy_(q.data)
        for given in following:
            for run in runs:
                run.optimizer.zero_grad()
                run.step(given)
        assert_alike(one, other)
        assert_alike(loaded, other)
        with torch.inference_mode():  # where nothing is ever written outside of it
            run = Run(monkeypatch, *self.WHERE, **scheduled())
            for given in following:
                run.step(given)
        assert all(state["step"] == 3 for state in run.optimizer.state.values())

    def test_a_schedule_goes_back_with_the_state(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An optimizer whose state was emptied begins again, and so do its schedules."""
        runs = [
            Run(monkeypatch, *where, lr=1e-2 * linear(10), capturable=True) for where in (self.WHERE, ("engine", "cpu"))
        ]
        for i, given in enumerate(gradients(8)):
            for run in runs:
                if i == 5:
                    run.optimizer.state.clear()
                run.step(given)
            assert_alike(*runs)

    def test_a_scheduled_number_that_something_else_writes_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scheduler of PyTorch writes into the tensor of the rate: an error, unless that changes nothing."""
        run = Run(monkeypatch, *self.WHERE, lr=1e-2 * cosine(20), capturable=True)
        given = list(gradients(5))
        run.step(given[0])
        rate = run.optimizer.param_groups[0]["lr"]
        rate.fill_(float(rate))
        run.step(given[1])
        run.captured()
        torch.optim.lr_scheduler.StepLR(run.optimizer, 1, 0.1)  # which writes the rate that is there
        run.step(given[2])
        rate.fill_(0.5)
        before = [p.detach().clone() for p in run.params]
        for _ in range(2):
            with pytest.raises(ValueError, match=r"lr is given by .* and was set to 0.5 by something else"):
                run.step(given[3])
        assert all(map(torch.equal, run.params, before))
        rate.fill_(run.optimizer.lr_at(4))
        run.step(given[4])

    def test_scheduled_numbers_out_of_range_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A step after which the rate is negative says so, and the next changes nothing; skipped steps do not count."""
        runs = [
            Run(monkeypatch, *where, lr=1e-2 * linear(10, end=-1), on_nonfinite="skip")
            for where in (self.WHERE, ("engine", "cpu"))
        ]
        refusals: dict[Run, list[str]] = {run: [] for run in runs}
        for i, given in enumerate(gradients(10, BAD)):
            for run in runs:
                try:
                    run.step(given)
                except ValueError as error:
                    refusals[run].append(f"{i}: {error}")
            for p, q in zip(*(run.params for run in runs), strict=True):
                torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2e-6, atol=1e-6)
        assert refusals[runs[0]] == refusals[runs[1]]
        assert [refusal[:1] for refusal in refusals[runs[0]]] == ["7", "8", "9"]

    def test_what_a_hook_writes_into_the_state_dict_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hook may replace a scheduled number in the state dict, though the device computes it."""
        run = Run(monkeypatch, *self.WHERE, betas=(0.9 * linear(40), 0.99), lr=1e-2 * cosine(20), capturable=True)
        run.step(next(gradients(1)))
        assert isinstance(run.optimizer.state_dict()["param_groups"][0]["lr"], float)

        def hook(optimizer: Any, packed: dict[str, Any]) -> None:
            packed["param_groups"][0]["lr"] = 3.0

        run.optimizer.register_state_dict_post_hook(hook)
        (group,) = run.optimizer.state_dict()["param_groups"]
        assert group["lr"] == 3.0
        assert group["betas"] == (pytest.approx(0.9 * 39 / 40), 0.99)
