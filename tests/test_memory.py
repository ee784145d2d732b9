"""What an optimizer says of its memory: it is what is there, and a plan says the same before anything is."""

from __future__ import annotations

import doctest
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from members import CASES, Case
from torch import Tensor, nn

import adamas.torch as at
from adamas.schedules import warmup
from adamas.torch import memory

# Large enough for 8 bits (whole blocks, a cut one, four dimensions), and not: a bias, a scalar, nothing, short rows, too few.
SHAPES = [(32, 128), (20, 210), (16, 2, 8, 16), (256,), (), (0, 64), (300, 16), (40, 100)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
WEIGHTS = ["nearest", "stochastic", "split"]
STATES: dict[str, Callable[[list[str]], Any]] = {
    "float32": lambda names: "float32",
    "bfloat16": lambda names: "bfloat16",
    "int8": lambda names: "int8",
    "int6": lambda names: "int6",
    "mixed": lambda names: dict(zip(names, ("int8", "bfloat16"), strict=False)),
}


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    """With gradients, and one of them frozen."""
    params = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in SHAPES]
    for p in params:
        p.grad = torch.ones_like(p)
    return [*params, nn.Parameter(torch.ones(50, dtype=dtype), requires_grad=False)]


def on_meta(params: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in params]


def nbytes(*tensors: Tensor) -> int:
    return sum(x.untyped_storage().nbytes() for x in tensors)


def gpt2_small() -> list[nn.Parameter]:
    """The 148 tensors of GPT-2 small, without their values."""
    d = 768
    block = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    shapes = [(50257, d), (1024, d), *block * 12, (d,), (d,)]
    return [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]


# ---- what is there


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_plan_is_what_is_there_after_a_step(case: Case, state: str) -> None:
    names = list(case.make._member.states)
    for dtype, weights in itertools.product(DTYPES, WEIGHTS):
        options = {**case.options, "state": STATES[state](names), "weights": weights}
        params = parameters(dtype)
        if case.options.get("centered") and state != "float32":
            with pytest.raises(ValueError, match="centered=True needs"):
                at.plan_memory(params, case.make, **options)
            continue
        optimizer = case.make(params, **options)
        optimizer.step()
        there = optimizer.memory()
        plan = at.plan_memory(on_meta(params), case.make, **options)
        assert plan == there
        assert list(plan.bytes) == list(there.bytes)
        held = [x for entry in optimizer.state.values() for x in entry.values()]
        assert there.total == nbytes(*params, *(p.grad for p in params if p.grad is not None), *held)
        assert there.state == nbytes(*held)
        assert there.parameters == sum(p.numel() for p in params)


def test_the_kinds_are_the_tensors_of_the_state() -> None:
    params = parameters(torch.bfloat16)
    optimizer = at.Adam(params, state={"exp_avg": "int8", "max_exp_avg_sq": "bfloat16"}, weights="split", amsgrad=True)
    optimizer.step()
    kinds = optimizer.memory().bytes
    moments = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert list(kinds) == ["weights", "gradients", *moments, "scales", "weight_low_bits", "step counts"]
    for name in (*moments, "weight_low_bits"):
        assert kinds[name] == nbytes(*(entry[name] for entry in optimizer.state.values()))
    assert kinds["scales"] == nbytes(*(entry.get("exp_avg_grid", torch.empty(0)) for entry in optimizer.state.values()))
    assert kinds["step counts"] == 8 * len(SHAPES)
    assert kinds["gradients"] == kinds["weights"] - 2 * 50  # the frozen one has none


def test_before_the_first_step_there_is_no_state_but_adagrads() -> None:
    params = parameters(torch.float32)
    before = at.AdamW(params).memory()
    assert before.state == before.bytes_per_parameter == 0
    assert list(before.bytes) == ["weights", "gradients"]
    for p in params:
        p.grad = None
    optimizer = at.Adagrad(params, state="int8")
    assert optimizer.memory().bytes["gradients"] == 0
    assert optimizer.memory().state == at.plan_memory(params, "Adagrad", state="int8").state > 0


def test_telling_changes_nothing() -> None:
    params = parameters(torch.float32)
    optimizer = at.AdamW(params)
    optimizer.memory()
    assert not optimizer.state
    groups = [{"params": params, "state": "int8"}]
    at.plan_memory(groups, at.AdamW, weight_decay=0.5)
    assert groups == [{"params": params, "state": "int8"}]
    assert [p.requires_grad for p in params] == [True] * len(SHAPES) + [False]


def test_what_a_checkpoint_left_behind_is_counted() -> None:
    params = parameters(torch.float32)
    saved = at.Adam(params, amsgrad=True)
    saved.step()
    optimizer = at.Adam(params)
    optimizer.load_state_dict(saved.state_dict(), hyperparameters="given")
    optimizer.state[params[0]]["mine"] = torch.ones(3)
    kinds = optimizer.memory().bytes
    assert kinds["max_exp_avg_sq"] == kinds["exp_avg"]
    assert kinds["mine"] == 12


# ---- plans


def test_gpt2_small_in_8_bits_has_at_most_2_08_bytes_of_state_a_parameter() -> None:
    plan = at.plan_memory(gpt2_small(), at.AdamW, state="int8")
    assert plan.parameters == 124_439_808
    assert plan.bytes["weights"] == plan.bytes["gradients"] == 4 * plan.parameters
    assert 2.06 < plan.bytes_per_parameter <= 2.08
    assert at.plan_memory(gpt2_small(), at.AdamW).bytes_per_parameter == pytest.approx(8, abs=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_allocated(case: Case) -> None:
    """A trillion parameters: on the meta device, and as a view of one number."""
    shape = (1 << 20, 1 << 20)
    for p in (torch.empty(shape, device="meta"), torch.empty(1, 1).expand(shape)):
        params = [nn.Parameter(p)]
        state = "float32" if case.options.get("centered") else "int8"
        assert at.plan_memory(params, case.make, **case.options, state=state).parameters == 1 << 40


def test_a_model_and_all_that_an_optimizer_takes() -> None:
    def fresh() -> nn.Module:
        model = nn.Sequential(nn.Embedding(80, 64), nn.Linear(64, 80, bias=False), nn.Linear(80, 4), nn.LayerNorm(4))
        model[1].weight = model[0].weight  # tied: one tensor
        return model

    ways: list[Callable[[nn.Module], Any]] = [
        lambda model: model.parameters(),
        lambda model: model.named_parameters(),
        lambda model: list(model.parameters()),
        at.param_groups,
        lambda model: [{"params": model[2].parameters(), "state": "float32"}, {"params": model[0].weight}],
        lambda model: [{"params": list(model[0].parameters()), "rows": [(80, 1600)]}],
        lambda model: [{"params": model[2].weight, "rows": [(4, 400)]}, {"params": model[3].bias}],
    ]
    for way in ways:
        model = fresh()
        optimizer = at.AdamW(way(model), state="int8")
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert at.plan_memory(way(model), state="int8") == optimizer.memory()
        with torch.device("meta"):
            assert at.plan_memory(way(fresh()), state="int8") == optimizer.memory()
    assert at.plan_memory(fresh(), state="int8") == at.plan_memory(fresh().parameters(), "AdamW", state="int8")


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("state", ["float32", "int8", "int6"])
def test_the_plan_of_several_ranks_is_that_of_the_one_with_most(state: str, ranks: int) -> None:
    """The ranks have the chunks of ``torch.chunk``, and none of a weight that has no more rows."""
    shapes = ((7, 640), (96, 130), (4, 8, 160), (13,), ())
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    params.append(nn.Parameter(torch.ones(6, 3), requires_grad=False))
    counted = []
    for rank in range(ranks):
        held, rows = [], []
        for p in params:
            parts = torch.chunk(p.detach(), ranks) if p.ndim else [p.detach()] * ranks
            part = parts[rank] if rank < len(parts) else p.detach()[:0]
            held.append(nn.Parameter(part.clone(), requires_grad=p.requires_grad))
            rows.append((sum(len(one) for one in parts[:rank]), len(p)) if p.ndim else None)
            held[-1].grad = torch.ones_like(held[-1]) if p.requires_grad else None
        optimizer = at.AdamW([{"params": held, "rows": rows}], state=state)
        optimizer.step()
        counted.append(optimizer.memory())
    plan = at.plan_memory(params, ranks=ranks, state=state)
    assert plan == counted[0]
    assert plan.total == max(memory.total for memory in counted)
    assert [len(p) for p in params if p.ndim] == [7, 96, 4, 13, 6]


def test_what_ranks_may_be() -> None:
    p = nn.Parameter(torch.ones(64, 64))
    for ranks, error, message in [
        (0, ValueError, "ranks must be 1 or more, .* not 0"),
        (2.0, TypeError, "ranks must be an int, .* not 2.0"),
    ]:
        with pytest.raises(error, match=message):
            at.plan_memory([p], ranks=ranks)
    with pytest.raises(ValueError, match=r"rows=\[\(0, 128\)\] says .* and ranks=2 .*give one of them"):
        at.plan_memory([{"params": [p], "rows": [(0, 128)]}], ranks=2)


def test_groups_with_generators_can_be_used_after_the_plan() -> None:
    model = nn.Linear(64, 64)
    groups = [{"params": model.parameters()}]
    plan = at.plan_memory(groups, at.SGD)
    assert sum(p.numel() for group in at.SGD(groups).param_groups for p in group["params"]) == plan.parameters


def test_other_dtypes_and_a_schedule() -> None:
    params = [
        nn.Parameter(torch.ones(64, 64, dtype=torch.float16)),
        nn.Parameter(torch.ones(64, 64, dtype=torch.complex64)),
        nn.Parameter(torch.ones(64, dtype=torch.int64), requires_grad=False),
    ]
    for p in params[:2]:
        p.grad = torch.ones_like(p)
    optimizer = at.Adam(params, lr=1e-3 * warmup(10), weights="split")
    optimizer.step()
    assert at.plan_memory(params, at.Adam, lr=1e-3 * warmup(10), weights="split") == optimizer.memory()


def test_a_lazy_parameter_counts_once_it_has_a_shape() -> None:
    model = nn.LazyLinear(3)
    optimizer = at.AdamW(model.parameters())
    assert optimizer.memory().parameters == optimizer.memory().total == 0
    with pytest.raises(ValueError, match="'weight' is lazy and has no shape yet"):
        at.plan_memory(model)
    model(torch.ones(1, 5))
    assert at.plan_memory(model).parameters == 18


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stat": "int8"}, TypeError, "AdamW has no option stat"),
        ({"momentum": 0.9}, TypeError, "AdamW has no option momentum"),
        ({"state": "int4"}, ValueError, "state='int4' is unknown"),
        ({"state": {"sum": "int8"}}, ValueError, "there is no moment 'sum'"),
        ({"rows": [None]}, ValueError, "rows has 1 entries for 2 parameters"),
        ({"lr": -1.0}, ValueError, "Invalid learning rate"),
    ],
)
def test_options_are_checked_as_the_optimizer_checks_them(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    for make in (at.AdamW, lambda params, **rest: at.plan_memory(params, at.AdamW, **rest)):
        with pytest.raises(error, match=message):
            make(nn.Linear(2, 2).parameters(), **options)


def test_parameters_are_checked_as_the_optimizer_checks_them() -> None:
    p, z = nn.Parameter(torch.ones(64, 64)), nn.Parameter(torch.ones(64, 64, dtype=torch.complex64))
    for given, error, message in [
        ([("a", z)], ValueError, "'a' is complex, and there is no complex 'int8'"),
        ([("a", p), ("b", p)], ValueError, "b is a again, and would be stepped twice"),
        ([{"params": [p]}, {"params": [p]}], ValueError, "more than one parameter group"),
        ([{"params": {p}}], TypeError, "ordered collections"),
        ([], ValueError, "empty parameter list"),
        (p, TypeError, "iterable"),
        (["a"], TypeError, "can only optimize Tensors"),
    ]:
        for make in (at.AdamW, lambda params, **rest: at.plan_memory(params, at.AdamW, **rest)):
            with pytest.raises(error, match=message):
                make(given, state="int8")


def test_trap_T53_what_is_not_in_8_bits_is_told_or_refused() -> None:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in ((64, 128), (8192,), (4, 4))]
    optimizer = at.Adam(params, state="int8")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    told = optimizer.memory().bytes
    assert told["exp_avg"] == told["exp_avg_sq"] == 64 * 128 + 4 * (8192 + 16)
    assert told["scales"] == 2 * 4 * 64
    # Parameters in FSDP1 are parts of flat tensors, whatever their shapes are to the module.
    params[1]._fsdp_flattened = True
    for state in ("int8", {"exp_avg": "int8"}):
        with pytest.raises(ValueError, match="parameter 1 is flattened by FullyShardedDataParallel and has no rows"):
            at.Adam(params, state=state)


@pytest.mark.parametrize("optimizer", ["adam", "Optimizer", "Any", at.Optimizer, torch.optim.AdamW, at.param_groups])
def test_other_optimizers_are_refused(optimizer: Any) -> None:
    with pytest.raises(TypeError, match="plan_memory plans for the optimizers of"):
        at.plan_memory(nn.Linear(2, 2), optimizer)


# ---- printed


def test_the_table() -> None:
    plan = at.plan_memory([nn.Parameter(torch.empty(2000, 1000, dtype=torch.bfloat16, device="meta"))], state="int8")
    assert str(plan).splitlines() == [
        "2,000,000 parameters     memory  bytes a parameter",
        "weights                 4.00 MB               2.00",
        "gradients               4.00 MB               2.00",
        "exp_avg                 2.00 MB               1.00",
        "exp_avg_sq              2.00 MB               1.00",
        "scales                128.00 kB               0.06",
        "step counts                 8 B               0.00",
        "state                   4.13 MB               2.06",
        "total                  12.13 MB               6.06",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_994, "999.99 kB"),
        (999_996, "1.00 MB"),
        (10**16, "10000.00 TB"),
    ],
)
def test_units(size: int, text: str) -> None:
    lines = str(at.Memory(1, {"weights": size, "gradients": 0})).splitlines()
    assert lines[1].split() == ["weights", *text.split(), f"{size}.00"]


def test_the_example() -> None:
    result = doctest.testmod(memory)
    assert result.attempted
    assert not result.failed


# ---- the page


@pytest.mark.nightly
def test_the_table_of_the_page_is_what_plans_say() -> None:
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^def llama.*?(?=^print)", page, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"torch": torch}
    exec(source, namespace)
    sizes = re.findall(r"`(llama\([\d, ]+\))`", page)
    assert len(sizes) == 3
    options = {
        "float32 weights and moments": {},
        "int8, split": {"state": "int8", "weights": "split"},
        "int8, stochastic": {"state": "int8", "weights": "stochastic"},
        "int6, stochastic": {"state": "int6", "weights": "stochastic"},
    }
    cell = r" ([\d.]+(?: \([\d.]+\))?) \|"
    rows = re.findall(rf"^\| (\w[^|]*[^ |]) \|{3 * cell}$", page, re.MULTILINE)
    assert len(rows) == 9
    for row, *cells in rows:
        own = next(name for name in options if row.startswith(name))
        further = row.removeprefix(own).split(", ")[1:]
        ranks = next((int(one.split()[0]) for one in further if one.endswith("processes")), 1)
        for size, cell in zip(sizes, cells, strict=True):
            params = eval(size, namespace)
            if own.startswith("float32"):
                params = [nn.Parameter(p.float()) for p in params]
            plan = at.plan_memory(params, ranks=ranks, offload="offload" in further, **options[own])
            device = plan.on_device
            if "release" in further:
                device += max(p.nbytes for p in params) - plan.bytes["gradients"]
            host = f" ({plan.on_host / 1e9:.1f})" if plan.host else ""
            assert f"{device / 1e9:.1f}{host}" == cell, (row, size)
