"""Parameters on a device whose state and step are on the host: the same bits as without that, whatever arrives when.

Tensors on the CPU stand for those on a device, and ``transfers.Late`` for the way between.
"""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from members import CASES, Case, with_sums
from torch import Tensor, nn
from transfers import Late

import adamas.torch as at
from adamas.schedules import cosine, warmup
from adamas.step.namespaces.torch import Namespace
from adamas.torch import offload

# Cut between rows, and inside of rows that are longer than a buffer; a bias, a scalar, nothing, and not in row-major order.
# ``parameters`` adds one with gaps between its rows.
SHAPES = [(40, 128), (3, 2000), (16, 2, 8, 16), (300,), (), (0, 64), (2, 3, 4, 128)]
STEPS = 4
SLOT = 4096  # bytes
OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "clipped": lambda: {"max_grad_norm": 20.0},
    "by history": lambda: {"max_grad_norm": "auto", "on_nonfinite": "raise"},
    "skipped": lambda: {"on_nonfinite": "skip"},
    "scheduled": lambda: {"lr": 1e-2 * warmup(3).then(cosine(20)), "max_grad_norm": 10.0 * cosine(30)},
    "int8": lambda: {"state": "int8", "weight_decay": 0.1},
    "int6": lambda: {"state": "int6", "decay": "l2", "weight_decay": 0.1},
    "bfloat16": lambda: {"state": "bfloat16", "maximize": True},
}


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(2)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    params[2].data = params[2].data.to(memory_format=torch.channels_last)
    wider = torch.randn(2, 3, 5, 128, generator=generator).to(dtype)
    return [*params, nn.Parameter(wider[:, :, :4])]  # with gaps between its rows


def give_gradients(params: list[nn.Parameter], step: int, is_bad: bool = False) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    if is_bad:
        params[0].grad[3, 4] = torch.nan


class Away:
    """An optimizer whose parameters are on a device, by the name of it.

    Args:
        monkeypatch: replaces the way to the device.
        seed: of the order in which copies arrive.
        slots: the number of buffers.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int = 0, slots: int = 3) -> None:
        self._monkeypatch = monkeypatch
        self.late = Late(random.Random(seed))
        monkeypatch.setattr(offload, "SLOT_BYTES", SLOT)
        monkeypatch.setattr(offload, "SLOTS", slots)
        monkeypatch.setattr(offload, "transfer_of", lambda device: self.late)

    def __enter__(self) -> Late:
        self._monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")
        return self.late

    def __exit__(self, *exception: object) -> None:
        self._monkeypatch.delenv("ADAMAS_EXECUTOR")


def train(make: Callable[..., at.Optimizer], dtype: torch.dtype, bad: int | None = None, **options: Any) -> Any:
    params = parameters(dtype)
    optimizer = make([(f"p{i}", p) for i, p in enumerate(params)], **options)
    for step in range(STEPS):
        give_gradients(params, step, step == bad)
        optimizer.step()
        assert all(torch.isfinite(p).all() for p in params), "the device has weights that have not arrived"
    return optimizer


def assert_same(one: at.Optimizer, other: at.Optimizer) -> None:
    for mine, yours in zip(one.param_groups, other.param_groups, strict=True):
        for p, q in zip(mine["params"], yours["params"], strict=True):
            assert torch.equal(p, q)
            assert one.state[p].keys() == other.state[q].keys()
            for name, value in one.state[p].items():
                assert torch.equal(value, other.state[q][name]), name
        theirs = {"params", "offload", "decoupled_weight_decay"}  # the last is written where a state dict is made
        assert {k: x for k, x in mine.items() if k not in theirs} == {k: x for k, x in yours.items() if k not in theirs}
    assert one.grad_norm == other.grad_norm


@pytest.mark.parametrize("case", [case for case in CASES if not with_sums(case) and not case.declared.offset], ids=str)
def test_every_member_steps_as_without_it(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    there = train(case.make, torch.float32, **case.options)
    with Away(monkeypatch):
        away = train(case.make, torch.float32, offload=True, **case.options)
    assert_same(there, away)


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_steps_as_without_it(name: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, bad = OPTIONS[name](), 2 if name == "skipped" else None
    there = train(at.AdamW, torch.bfloat16, bad, weights=weights, **options)
    for seed, slots in itertools.product(range(2), (1, 3)):
        with Away(monkeypatch, seed, slots):
            away = train(at.AdamW, torch.bfloat16, bad, weights=weights, offload=True, **OPTIONS[name]())
        assert_same(there, away)
    assert there.skipped_steps == away.skipped_steps == (name == "skipped")


def test_trap_T51_it_is_an_optimizer_that_clips_and_whose_weights_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def losses(is_away: bool) -> list[float]:
        network = model()
        optimizer = at.AdamW(network.parameters(), lr=1e-2, max_grad_norm=0.1, offload=is_away)
        assert isinstance(optimizer, torch.optim.Optimizer)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        found = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(network, step)  # with NaN in it if the weights of the last step have not arrived
            loss.backward()
            optimizer.step()
            scheduler.step()
            found.append(loss.item())
        assert optimizer.clipped_steps > 0
        return [*found, optimizer.param_groups[0]["lr"]]

    there = losses(is_away=False)
    with Away(monkeypatch):
        assert losses(is_away=True) == there


@pytest.mark.parametrize("options", [{"weights": "stochastic"}, {"state": "int8"}], ids=str)
def test_parts_of_larger_tensors(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(10, 60), (4, 9), (0, 16), (500, 1000), *[None] * (len(parameters(torch.float32)) - 4)]
    there = train(at.AdamW, torch.bfloat16, rows=rows, **options)
    with Away(monkeypatch):
        assert_same(there, train(at.AdamW, torch.bfloat16, rows=rows, offload=True, **options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_wide_and_complex_weights(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    there = train(at.AdamW, dtype, max_grad_norm=3.0)
    with Away(monkeypatch):
        assert_same(there, train(at.AdamW, dtype, offload=True, max_grad_norm=3.0))


def test_the_next_buffers_are_under_way_while_one_is_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch, slots=3) as late:
        train(at.AdamW, torch.float32, offload=True)
    first = [what for what in late.log[: late.log.index("join")] if what != "buffer"]
    assert first[:5] == ["mark", "fetch", "fetch", "fetch", "wait"]
    assert first.count("fetch") == first.count("wait") == first.count("send") > 3
    most = max(first[:i].count("fetch") - first[:i].count("wait") for i in range(len(first)))
    assert most == 3


def test_the_norm_takes_no_memory_of_a_tensor_s_size(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most, cast = 0, Namespace.cast

    def counted(x: Tensor, dtype: str) -> Tensor:
        nonlocal most
        alive.append(weakref.ref(found := cast(x, dtype)))
        most = max(most, sum(reference() is not None for reference in alive))
        return found

    monkeypatch.setattr(offload, "_CHUNK", 100)
    monkeypatch.setattr(Namespace, "cast", staticmethod(counted))
    with Away(monkeypatch):
        train(at.AdamW, torch.float32, offload=True, max_grad_norm=3.0)
    assert len(alive) > 100
    assert most <= 2  # one, and the one before it


def test_pieces_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted(offload.EngineExecutor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(offload, "EngineExecutor", Counted)
    with Away(monkeypatch):
        optimizer = train(at.AdamW, torch.float32, offload=True)
        assert len(made) > len(SHAPES)
        made.clear()
        optimizer.step()
        assert not made
        p = optimizer.param_groups[0]["params"][0]
        optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].clone()
        optimizer.step()
        assert 0 < len(made) < len(SHAPES)


def test_a_weight_that_something_else_has_written_is_stepped_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**options: Any) -> at.Optimizer:
        params = parameters(torch.float32)
        optimizer, memory = at.AdamW(params, **options), params[1].detach().numpy().copy()
        params[1].data = torch.from_numpy(memory)
        for step in range(STEPS):
            give_gradients(params, step)
            with torch.no_grad():
                if step == 1:
                    params[0].mul_(2)
                if step == 2:
                    memory *= 2
                    params[1].data = torch.from_numpy(memory)  # another tensor at the same address
            optimizer.step()
        return optimizer

    there = run()
    with Away(monkeypatch) as late:
        away = run(offload=True)
    assert_same(there, away)
    first, second, third, last = late.pairs
    assert first == 2 * last  # all weights, besides the gradients
    assert second > last < third < first


def test_weights_that_are_cast_between_steps_are_stepped_in_their_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**options: Any) -> at.Optimizer:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), lr=1e-2, **options)
        for step in range(STEPS):
            if step == 2:
                network.double()
            loss_of(network, step).backward()
            optimizer.step()
            optimizer.zero_grad()
        return optimizer

    there = run()
    with Away(monkeypatch):
        assert_same(there, run(offload=True))


def test_gradients_and_weights_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        params = parameters(torch.float32)
        optimizer = at.AdamW(params, offload=True)
        give_gradients(params, 0)
        optimizer.step()
        references = [weakref.ref(p.grad) for p in params]
        optimizer.zero_grad()
        assert not any(reference() is not None for reference in references)
        copies = optimizer._homes.bytes
        optimizer.param_groups[0]["params"] = params[1:]
        optimizer.state.pop(params[0])
        give_gradients(params, 1)
        optimizer.step()
        del params[0]
        gc.collect()
        assert optimizer._homes.bytes != copies


# ---- saving, loading, copies


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("state", ["float32", "int6"])
def test_trap_T52_a_run_goes_on_with_the_low_bits_of_its_weights(
    before: bool, after: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"state": state, "weights": "split", "lr": 1e-2 * cosine(9)}
    params = parameters(torch.bfloat16)
    whole = at.AdamW([(f"p{i}", p) for i, p in enumerate(params)], **options)
    for step in range(2 * STEPS):
        give_gradients(params, step)
        whole.step()
    with Away(monkeypatch) if before else nullcontext():
        first = train(at.AdamW, torch.bfloat16, offload=before, **options)
        saved = copy.deepcopy(first.state_dict())
    with Away(monkeypatch) if after else nullcontext():
        params = [nn.Parameter(p.detach().clone()) for p in first.param_groups[0]["params"]]
        second = at.AdamW([(f"p{i}", p) for i, p in enumerate(params)], offload=after, **options)
        second.load_state_dict(saved)
        assert second.param_groups[0]["offload"] is after
        for step in range(STEPS, 2 * STEPS):
            give_gradients(params, step)
            second.step()
    for p, q in zip(whole.param_groups[0]["params"], params, strict=True):
        assert torch.equal(p, q)


def test_a_state_is_brought_to_where_the_step_is() -> None:
    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(3), "other": 1}
    offload.bring(state, torch.device("meta"))
    assert [value.device.type for value in (state["step"], state["exp_avg"])] == ["cpu", "meta"]


def test_it_is_turned_on_and_off_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    there = train(at.AdamW, torch.float32)
    with Away(monkeypatch):
        params = parameters(torch.float32)
        optimizer = at.AdamW([(f"p{i}", p) for i, p in enumerate(params)])
        for step in range(STEPS):
            optimizer.param_groups[0]["offload"] = step % 2 == 1
            give_gradients(params, step)
            optimizer.step()
            assert bool(optimizer.memory().host) is (step % 2 == 1)
    for p, q in zip(there.param_groups[0]["params"], params, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-7)  # another executor makes every other step


def test_copies_step_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        optimizer = train(at.AdamW, torch.float32, offload=True)
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            params, theirs = optimizer.param_groups[0]["params"], other.param_groups[0]["params"]
            before = [p.detach().clone() for p in params]
            give_gradients(theirs, 9)
            other.step()
            assert all(torch.equal(p, x) for p, x in zip(params, before, strict=True))
            assert not torch.equal(theirs[0], before[0])


# ---- failures


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_step_that_breaks_off_is_told_and_nothing_half_done_is_saved(
    fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Away(monkeypatch, slots=2) as late:
        optimizer = train(at.AdamW, torch.float32, offload=True)
        params = optimizer.param_groups[0]["params"]
        saved, weights = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
        give_gradients(params, STEPS)
        late.fails_at = late.count + fails_at
        stepped = "none" if fails_at == 1 else "'p0'"
        failure = rf"the step of parameter '\w+' on the host has failed: the link is down.*that had made it: {stepped}"
        with pytest.raises(RuntimeError, match=failure):
            optimizer.step()
        for refused in (
            optimizer.step,
            optimizer.state_dict,
            lambda: copy.deepcopy(optimizer),
            lambda: pickle.dumps(optimizer),
        ):
            with pytest.raises(
                RuntimeError, match=f"a step was broken off .*that had made it: {stepped}.*Load a state dict"
            ):
                refused()
        late.recover()
        with torch.no_grad():
            for p, x in zip(params, weights, strict=True):
                p.copy_(x)
        optimizer.load_state_dict(saved)
        optimizer.step()
    there = train(at.AdamW, torch.float32)
    give_gradients(there.param_groups[0]["params"], STEPS)
    there.step()
    assert_same(there, optimizer)


def test_an_error_before_the_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        optimizer = train(at.AdamW, torch.float32, offload=True, on_nonfinite="raise")
        give_gradients(optimizer.param_groups[0]["params"], 9, is_bad=True)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(FloatingPointError, match="'p0'"):
            optimizer.step()
        after = optimizer.state_dict()
        assert all(torch.equal(x, after["state"][i][name]) for i, s in before["state"].items() for name, x in s.items())


def test_a_sparse_gradient_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(4, 2))
        optimizer = at.Adam([("p", p), ("q", q)], offload=True)
        p.grad = torch.ones(2)
        q.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (4, 2), check_invariants=True)
        with pytest.raises(
            RuntimeError, match=r"^Adam steps the rows of sparse gradients .* on the CPU.* parameter 'q'"
        ):
            optimizer.step()
        q.grad = None
        optimizer.step()
    assert torch.equal(q, torch.ones(4, 2))
    assert (p < 1).all()


def test_an_interrupt_in_the_middle_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch) as late:
        optimizer = train(at.AdamW, torch.float32, offload=True)

        def interrupted(pairs: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(late, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
        with pytest.raises(RuntimeError, match=r"a step was broken off \(KeyboardInterrupt"):
            optimizer.state_dict()


def test_a_weight_that_something_else_writes_during_the_step_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Away(monkeypatch) as late:
        optimizer = train(at.AdamW, torch.float32, offload=True)
        p, arrive = optimizer.param_groups[0]["params"][0], late.wait

        def written(ticket: int) -> None:
            arrive(ticket)
            with torch.no_grad():
                p.fill_(7)

        monkeypatch.setattr(late, "wait", written)
        with pytest.raises(
            RuntimeError, match="parameter 'p0' on the host has failed: something else has written the weight"
        ):
            optimizer.step()
        assert (p == 7).all()
        with pytest.raises(RuntimeError, match="a step was broken off"):
            optimizer.step()


def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        p = nn.Parameter(torch.ones(300))
        p._is_flat_param = True
        p.grad = torch.ones_like(p)
        with pytest.raises(ValueError, match=r"parameter 0 .* is sharded, and offload=True takes whole tensors"):
            at.SGD([p], offload=True).step()


@pytest.mark.parametrize(
    ("member", "options", "match"),
    [
        (at.Adafactor, {}, r"parameter 'w' .*Adafactor, which takes whole matrices .*: use offload=False$"),
        (at.Muon, {}, r"parameter 'w' .*Muon, which takes whole matrices .*: give .* use_muon=False$"),
        (at.AdamWScheduleFree, {}, r"parameter 'w' .*AdamWScheduleFree, whose eval\(\) .*: use offload=False$"),
        (at.LAMB, {}, r"parameter 'w': LAMB needs sums over each tensor.*: use offload=False"),
        (
            at.AdamW,
            {"cautious": True},
            r"parameter 'w': cautious=True needs sums over each tensor.*: use offload=False",
        ),
    ],
)
def test_members_whose_step_cannot_be_on_the_host(
    monkeypatch: pytest.MonkeyPatch, member: Any, options: dict[str, Any], match: str
) -> None:
    with Away(monkeypatch):
        p = nn.Parameter(torch.ones(4, 6))
        p.grad = torch.ones_like(p)
        with pytest.raises(ValueError, match=match):
            member([("w", p)], lr=0.1, offload=True, **options).step()
        assert (p == 1).all()


def test_the_option_is_checked() -> None:
    with pytest.raises(TypeError, match="offload must be True or False, not 'cpu'"):
        at.AdamW([nn.Parameter(torch.ones(3))], offload="cpu")


# ---- steps in the backward pass


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, 200), nn.Tanh(), nn.Linear(200, 3)).to(dtype)


def train_released(dtype: torch.dtype, steps: int = STEPS, **options: Any) -> at.Optimizer:
    network = model(dtype)
    optimizer = at.AdamW(network.named_parameters(), **options)
    at.release(optimizer)
    for step in range(steps):
        loss_of(network, step).backward()
        optimizer.step()
        assert all(p.grad is None and torch.isfinite(p).all() for p in network.parameters())
    return optimizer


def held(monkeypatch: pytest.MonkeyPatch, late: Late) -> threading.Event:
    """Holds the steps on the host back until the event is set. All gradients fit into the ring meanwhile."""
    opened, arrive = threading.Event(), late.wait
    monkeypatch.setattr(offload, "SLOT_BYTES", 1 << 20)
    monkeypatch.setattr(late, "wait", lambda ticket: (opened.wait(60), arrive(ticket)))
    return opened


def loss_of(network: nn.Module, step: int) -> Tensor:
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(step), dtype=next(network.parameters()).dtype)
    return network(x).pow(2).mean()


@pytest.mark.parametrize("name", OPTIONS)
def test_release_steps_while_the_backward_pass_goes_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS[name]()
    if options.get("max_grad_norm") is not None:
        options["max_grad_norm"] = "auto"
    there = train_released(torch.bfloat16, weights="split", **options)
    for seed, slots in itertools.product(range(2), (1, 3)):
        with Away(monkeypatch, seed, slots):
            away = train_released(torch.bfloat16, weights="split", offload=True, **options)
        assert_same(there, away)


def test_buffers_are_allocated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch, slots=3) as late:
        train_released(torch.float32, offload=True)
    assert late.log.count("buffer") == 2  # one for all weights, and the ring


def test_a_slow_host_holds_the_backward_pass_back(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, blocked = threading.Event(), threading.Event()

    class Told(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            blocked.set()
            return super().wait(timeout)

    with Away(monkeypatch, slots=2) as late:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=True)
        released = at.release(optimizer)
        released._worker._changed = Told()
        arrive = late.wait
        monkeypatch.setattr(late, "wait", lambda ticket: (opened.wait(60), arrive(ticket)))
        backward = threading.Thread(target=lambda: loss_of(network, 0).backward())
        backward.start()
        assert blocked.wait(60), "it did not wait"
        assert 0 < released._worker._bytes <= 2 * SLOT < sum(p.nbytes for p in network.parameters())
        opened.set()
        backward.join(60)
        optimizer.step()
        assert all(optimizer.state[p]["step"] == 1 for p in network.parameters())


def test_gradients_that_are_dropped_before_the_step_have_been_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=True)
        at.release(optimizer)
        for step in range(STEPS):
            loss_of(network, step).backward()
            network.zero_grad()
            optimizer.step()
    for p, q in zip(network.parameters(), train_released(torch.float32).param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_options_that_change_before_the_step_are_those_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(late: Late | None) -> list[Tensor]:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=late is not None)
        at.release(optimizer)
        loss_of(network, 0).backward()
        optimizer.step()
        opened = None if late is None else held(monkeypatch, late)
        loss_of(network, 1).backward()
        optimizer.param_groups[0]["lr"] *= 0.5
        if opened is not None:
            opened.set()
        optimizer.step()
        return list(network.parameters())

    there = run(None)
    with Away(monkeypatch) as late:
        assert all(torch.equal(p, q) for p, q in zip(run(late), there, strict=True))


def test_weights_that_are_written_before_the_step_are_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch) as late:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=True)
        at.release(optimizer)
        opened = held(monkeypatch, late)
        loss_of(network, 0).backward()
        with torch.no_grad():
            for p in network.parameters():
                p.fill_(7)
        opened.set()
        with pytest.raises(RuntimeError, match=r"parameter '\d\.\w+' .*something else"):
            optimizer.step()
        assert all((p == 7).all() for p in network.parameters())


def test_a_state_that_is_loaded_before_the_step_is_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch) as late:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=True)
        at.release(optimizer)
        loss_of(network, 0).backward()
        optimizer.step()
        saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(network.state_dict())
        opened = held(monkeypatch, late)
        loss_of(network, 9).backward()
        opened.set()
        optimizer.load_state_dict(saved)
        network.load_state_dict(weights)
        loss_of(network, 1).backward()
        optimizer.step()
        assert all(optimizer.state[p]["step"] == 2 for p in network.parameters())
    there = train_released(torch.float32, steps=2)
    for p, q in zip(network.parameters(), there.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_a_failure_while_the_backward_pass_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch) as late:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=True)
        at.release(optimizer)
        loss_of(network, 0).backward()
        optimizer.step()
        saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(network.state_dict())
        late.fails_at, sent = late.count + 1, late.log.count("send")
        opened = held(monkeypatch, late)

        def train_once() -> None:
            loss_of(network, 1).backward()
            opened.set()
            optimizer.step()

        failure = r"the step of parameter '\d\.\w+' on the host has failed: the link is down"
        with pytest.raises(RuntimeError, match=failure):
            train_once()
        assert late.log.count("send") == sent, "stepped after the failure"
        for refused in (optimizer.step, optimizer.state_dict):
            with pytest.raises(RuntimeError, match="Load"):
                refused()
        late.recover()
        network.zero_grad()
        network.load_state_dict(weights)
        optimizer.load_state_dict(saved)
        loss_of(network, 1).backward()
        optimizer.step()
    there = train_released(torch.float32, steps=2)
    for p, q in zip(network.parameters(), there.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_a_failure_while_a_state_is_loaded_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch) as late:
        network = model()
        optimizer = at.AdamW(network.named_parameters(), offload=True)
        released = at.release(optimizer)
        loss_of(network, 0).backward()
        optimizer.step()
        saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(network.state_dict())
        opened, restart = held(monkeypatch, late), released.restart
        late.fails_at = late.count + 1
        monkeypatch.setattr(released, "restart", lambda: (opened.set(), restart()))
        loss_of(network, 9).backward()
        optimizer.load_state_dict(saved)  # fails on the host after the state was replaced
        late.recover()
        network.load_state_dict(weights)
        loss_of(network, 1).backward()
        optimizer.step()
    there = train_released(torch.float32, steps=2)
    for p, q in zip(network.parameters(), there.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


# ---- memory


@pytest.mark.parametrize("options", [{}, {"state": "int8", "weights": "split"}])
def test_a_plan_tells_the_device_and_the_host_apart(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(monkeypatch):
        optimizer = train(at.AdamW, torch.bfloat16, offload=True, **options)
        params = optimizer.param_groups[0]["params"]
        memory = optimizer.memory()
        assert memory == at.plan_memory([nn.Parameter(p.detach().clone()) for p in params], offload=True, **options)
    elements = sum(p.numel() for p in params)
    assert memory.on_device == 4 * elements  # weights and gradients
    there = train(at.AdamW, torch.bfloat16, **options).memory()
    assert memory.state == there.state
    assert memory.on_host == memory.state + memory.bytes["copies of weights"] + memory.bytes["buffers for gradients"]
    assert "on the host" in str(memory)
    assert there.host == {}
    assert "on the host" not in str(there)


def test_a_parameter_on_the_cpu_is_as_any_other() -> None:
    optimizer = train(at.AdamW, torch.float32, offload=True)
    assert_same(train(at.AdamW, torch.float32), optimizer)
    assert optimizer.memory().host == {}
