"""Checkpoints: any state loads into any other, what cannot be loaded is refused whole, and other tools can carry it."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from members import CASES, IN_TORCH, Case, with_sums
from torch import Tensor

import adamas.torch as at
from adamas.rule import formats, layout
from adamas.schedules import Plateau
from adamas.torch import storage

MEMBERS = [case for case in CASES if not case.options.get("centered")]
MIXED = {"exp_avg": "int8", "exp_avg_sq": "bfloat16"}
SETTINGS: list[Any] = ["float32", "bfloat16", "int8", "int6", MIXED]
SHAPES = {"weight": (40, 136), "bias": (40,)}  # two blocks in a row; too small for codes


def settings_of(case: Case) -> list[Any]:
    return [state for state in SETTINGS if isinstance(state, str) or {*state} <= {*case.make._member.states}]


def parameters(dtype: torch.dtype = torch.float32, shapes: dict[str, Any] = SHAPES) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for name, s in shapes.items()}


def gradient(p: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of very different sizes, around a mean, so that no moment is near zero everywhere.

    In some rows columns differ too, so that blocks take each of the grids.
    """
    exponents = torch.arange(len(p)).remainder(5).reshape(-1, *[1] * (p.ndim - 1)).float()
    if p.ndim == 2:
        exponents = exponents + torch.tensor([0, 0, 1.5, 3, 0])[exponents.long()] * torch.arange(p.shape[1]).remainder(
            2
        )
    return ((torch.randn(p.shape, generator=generator) + 0.5) * 10.0**-exponents).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = gradient(p, generator)
        optimizer.step()


def trained(
    make: Callable[..., Any], dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    params = parameters(dtype)
    optimizer = make(params.items(), **options)
    train(optimizer, 4)
    return optimizer, params


def clones(params: dict[str, Tensor]) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}


def through_a_file(x: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def values(state: dict[str, Tensor], moment: str, p: Tensor) -> Tensor:
    x = state[moment]
    return storage.decoded(x, state[layout.scale_name(moment)], p.shape) if storage.is_coded(x) else x.float()


def moments(optimizer: at.Optimizer, p: Tensor) -> list[str]:
    return [name for name in optimizer._member.states if name in optimizer.state[p]]


def slot_names(moment: str) -> list[str]:
    return [moment, layout.scale_name(moment)]


def without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


def assert_same(a: Any, b: Any) -> None:
    """The same bits in the same dtypes, in states and parameters alike."""
    assert a.keys() == b.keys()
    for key, x in a.items():
        if isinstance(x, dict):
            assert_same(x, b[key])
        else:
            assert x.dtype == b[key].dtype, key
            assert torch.equal(x, b[key]), key


@contextmanager
def said() -> Iterator[list[str]]:
    """What warnings say, of which each has to point at this file."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(warning.message) for warning in caught]
    assert {warning.filename for warning in caught} <= {__file__}


# ---- from any setting to any other


def resolution(moment: Tensor, stored: Tensor, is_spread: bool = False) -> Tensor:
    """What rounding to the nearest may change: half a unit in the last place, or half a code and half of the smallest one.

    ``is_spread`` is whether the moment is spread in all rows, as one of a single gradient is.
    """
    if stored.dtype == torch.bfloat16:
        return moment.abs() / 256
    if stored.dtype == torch.float32:
        return torch.zeros(())
    if stored.shape != moment.shape:  # 6 bits
        return moment.abs() / 3 + moment.abs().amax(-1, keepdim=True) / 200
    rows = torch.isin(torch.arange(len(moment)).remainder(5), torch.tensor([2, 3]))[:, None]  # see ``gradient``
    return moment.abs() / torch.where(rows | is_spread, 15, 60) + moment.abs().amax(-1, keepdim=True) / 800


@pytest.mark.parametrize(
    ("case", "saved_as", "stored_as"),
    [(case, a, b) for case in MEMBERS for a in settings_of(case) for b in settings_of(case)],
    ids=lambda x: "mixed" if isinstance(x, dict) else str(x),
)
def test_any_setting_loads_into_any_other(case: Case, saved_as: Any, stored_as: Any) -> None:
    one, params = trained(case.make, state=saved_as, **case.options)
    saved = through_a_file({"optimizer": one.state_dict(), "weights": {name: p.detach() for name, p in params.items()}})
    resumed = {name: torch.nn.Parameter(x) for name, x in saved["weights"].items()}
    two = case.make(resumed.items(), state=stored_as, **{**case.options, "lr": 0.5})
    with said() as messages:
        two.load_state_dict(saved["optimizer"])

    fresh, new_params = trained(case.make, state=stored_as, **case.options)
    differ = False
    for name, p in params.items():
        assert moments(two, resumed[name]) == moments(one, p)
        for moment in moments(one, p):
            before, after = one.state[p], two.state[resumed[name]]
            assert after[moment].dtype == fresh.state[new_params[name]][moment].dtype
            kept = after[moment].dtype == before[moment].dtype and after[moment].shape == before[moment].shape
            differ |= not kept
            error = (values(after, moment, p) - values(before, moment, p)).abs()
            is_spread = case.name == "adopt"  # its v is of the first gradient, which counts in full
            assert (error <= (0 if kept else resolution(values(before, moment, p), after[moment], is_spread))).all()
            assert kept or any(re.search(rf"converted .*\b{moment}\b.* of", message) for message in messages)
            if not kept and after[moment].dtype == torch.int8:
                assert_grids_of_a_step(case, moment, before, after, p)
    assert bool(messages) == differ

    start = clones(params)
    train(one, 4, seed=2), train(two, 4, seed=2)
    if not differ:
        assert_same(params, resumed)
        assert_same(one.state_dict()["state"], two.state_dict()["state"])
    for name, p in params.items():
        most = 0.3 if "int6" in (saved_as, stored_as) else 0.08  # of Lion, where a few signs differ
        assert (resumed[name] - p).norm() <= most * (p - start[name]).norm()


def assert_grids_of_a_step(
    case: Case, moment: str, before: dict[str, Tensor], after: dict[str, Tensor], p: Tensor
) -> None:
    """In the next step, a first moment would take the grids that it has been loaded into."""
    second, counts = case.declared.grids_of(moment)
    if second is None:
        return
    width = layout.WIDTHS[layout.form_of(after[moment].shape, p.shape)]
    if after[second].dtype == torch.uint8 and after[second].shape == after[moment].shape:
        theirs = formats.choice_of(torch, after[layout.scale_name(second)])
    else:
        theirs = formats.chosen_unsigned(torch, layout.blocks(torch, values(before, second, p)), width)[..., 0]
    chosen = formats.choice_of(torch, after[layout.scale_name(moment)])
    assert (chosen >= theirs if counts else chosen == theirs).all()


def test_all_conversions_are_one_warning() -> None:
    one, params = trained(at.AdamW, state="bfloat16")
    two = at.AdamW(params.items(), state={"exp_avg": "int8"})
    with said() as messages:
        two.load_state_dict(one.state_dict())
    beginning = "moments are converted to the formats that the state= of this optimizer asks for: exp_avg"
    assert messages == [
        f"{beginning} of 1 parameter from bfloat16 to float32; exp_avg of 1 parameter from bfloat16 to int8; exp_avg_sq of 2 "
        "parameters from bfloat16 to float32"
    ]
    with said() as messages:
        at.AdamW(params.items()).load_state_dict(one.state_dict())
    assert messages == [f"{beginning} and exp_avg_sq of 2 parameters from bfloat16 to float32"]
    with said() as messages:
        two.load_state_dict(two.state_dict())
    assert not messages


@pytest.mark.parametrize("state", SETTINGS[1:], ids=str)
def test_hyperparameters_do_not_decide_how_moments_are_stored(state: Any) -> None:
    one, params = trained(at.AdamW, lr=0.1)
    for hyperparameters, lr in (("saved", 0.1), ("given", 0.2)):
        two = at.AdamW(params.items(), state=state, lr=0.2)
        with said():
            two.load_state_dict(one.state_dict(), hyperparameters=hyperparameters)
        assert two.param_groups[0]["lr"] == lr
        assert two.param_groups[0]["state"] == state
        assert two.state[params["weight"]]["exp_avg"].dtype != torch.float32


# ---- what carries it elsewhere


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("case", MEMBERS, ids=str)
def test_trap_T27_copies_go_on_with_the_same_bits(case: Case, through: Callable[[Any], Any]) -> None:
    one, params = trained(case.make, state="int8", **case.options)
    two = through(one)
    three = case.make(clones(params).items(), state="int8", **case.options)
    three.load_state_dict(through(one.state_dict()))
    for optimizer in (one, two, three):
        train(optimizer, 3, seed=2)
    for other in (two, three):
        assert_same(one.state_dict()["state"], other.state_dict()["state"])
        assert all(map(torch.equal, params.values(), other.param_groups[0]["params"]))


def test_safetensors_carries_it_bit_for_bit(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    one, params = trained(at.AdamW, state="int8", amsgrad=True)
    saved = one.state_dict()
    for name in ("exp_avg_grid", "exp_avg_sq_grid"):
        assert formats.choice_of(torch, saved["state"][0][name]).unique().tolist() == [0, 1, 2]
    flat = {f"{i}.{name}": x for i, entry in saved["state"].items() for name, x in entry.items()}
    safetensors.save_file(flat, tmp_path / "optimizer.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in safetensors.load_file(tmp_path / "optimizer.safetensors").items():
        i, _, key = name.partition(".")
        state.setdefault(int(i), {})[key] = x
    two = at.AdamW(clones(params).items(), state="int8")
    two.load_state_dict({**saved, "state": state})
    train(one, 2, seed=2), train(two, 2, seed=2)
    assert_same(one.state_dict()["state"], two.state_dict()["state"])


def test_a_file_is_small(tmp_path: Path) -> None:
    p = torch.nn.Parameter(torch.zeros(1000, 1000))
    optimizer = at.AdamW([p], state="int8")
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert (tmp_path / "optimizer.pt").stat().st_size <= 2.1 * p.numel() + 8192


@pytest.mark.parametrize("flatten", [False, True])
def test_trap_T27_distributed_checkpoints(flatten: bool, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    def make() -> tuple[torch.nn.Module, at.Optimizer]:
        model = torch.nn.Linear(136, 40)
        return model, at.AdamW(model.parameters(), state="int8")

    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    (model, one), (other, two) = make(), make()
    train(one, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that there is one process only
        dcp.save({"optimizer": get_optimizer_state_dict(model, one, options=options)}, checkpoint_id=tmp_path)
        target = {"optimizer": get_optimizer_state_dict(other, two, options=options)}
        dcp.load(target, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, two, target["optimizer"], options=options)
    assert_same(one.state_dict()["state"], two.state_dict()["state"])
    assert two.state[other.weight]["exp_avg"].dtype == torch.int8


def parts_of(case: Case, weight: Tensor, state_dict: dict[str, Any], cuts: list[int]) -> list[at.Optimizer]:
    """An optimizer for each part of the weight's rows, with that part of the state."""
    optimizers = []
    for first, last in itertools.pairwise(cuts):
        part = torch.nn.Parameter(weight[first:last].detach().clone())
        group = {"params": [("weight", part)], "rows": [(first, len(weight))]}
        optimizers.append(case.make([group], state="int8", **case.options))
        entry = {name: x[first:last] if x.ndim else x for name, x in state_dict["state"][0].items()}
        optimizers[-1].load_state_dict({**state_dict, "state": {0: entry}})
    return optimizers


def joined(optimizers: list[at.Optimizer]) -> tuple[Tensor, dict[str, Any]]:
    """The whole weight, and a state dict of it."""
    saved = [optimizer.state_dict() for optimizer in optimizers]
    entries = [x["state"][0] for x in saved]
    entry = {name: torch.cat([e[name] for e in entries]) if x.ndim else x for name, x in entries[0].items()}
    weight = torch.cat([optimizer.param_groups[0]["params"][0].detach() for optimizer in optimizers])
    return weight, {**saved[0], "state": {0: entry}}


@pytest.mark.parametrize("case", [case for case in MEMBERS if not with_sums(case)], ids=str)
def test_trap_T27_slices_along_the_rows_are_the_state_of_the_parts(case: Case) -> None:
    """From one process to four, and from four to two, beside one that is never cut."""
    whole = parameters()["weight"]
    one = case.make([("weight", whole)], state="int8", **case.options)
    optimizers = parts_of(case, whole, one.state_dict() | {"state": {0: {}}}, [0, 40])
    generator = torch.Generator().manual_seed(1)
    for cuts in ([0, 40], [0, 1, 7, 32, 40], [0, 24, 40]):
        weight, saved = joined(optimizers)
        optimizers = parts_of(case, weight, saved, cuts)
        for _ in range(2):
            whole.grad = gradient(whole, generator)
            one.step()
            for optimizer, (first, last) in zip(optimizers, itertools.pairwise(cuts), strict=True):
                optimizer.param_groups[0]["params"][0].grad = whole.grad[first:last].clone()
                optimizer.step()
    weight, saved = joined(optimizers)
    assert torch.equal(weight, whole)
    assert_same(saved["state"][0], one.state_dict()["state"][0])


@pytest.mark.parametrize("state", ["bfloat16", "int8"])
@pytest.mark.parametrize("case", [case for case in MEMBERS if case in IN_TORCH], ids=str)
def test_an_export_is_what_torch_optim_goes_on_from(case: Case, state: str) -> None:
    ours, params = trained(case.make, state=state, **case.options)
    exact = clones(params)
    theirs = case.reference(exact.items(), lr=0.5)
    theirs.load_state_dict(through_a_file(ours.state_dict(state="float32")))
    # The first step uses what was exported, bit for bit. Its roots are estimates in int8; what it stores is rounded.
    for steps, error in ((1, 1e-4), (4, 0.05)):
        start = clones(params)
        train(ours, steps, seed=steps), train(theirs, steps, seed=steps)
        for name, p in params.items():
            assert (exact[name] - p).norm() <= error * (p - start[name]).norm()


def test_an_export_has_no_scales_and_no_low_bits() -> None:
    ours, _ = trained(at.AdamW, torch.bfloat16, state="int8", weights="split", amsgrad=True)
    for entry in ours.state_dict(state="float32")["state"].values():
        assert {name: x.dtype for name, x in entry.items() if name != "step"} == dict.fromkeys(
            ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"], torch.float32
        )
    with pytest.raises(ValueError, match=r"state='int8'.*only 'float32'"):
        ours.state_dict(state="int8")


# ---- other weights


@pytest.mark.parametrize("weights", ["nearest", "stochastic", "split"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state", SETTINGS, ids=str)
def test_trap_T27_the_dtype_of_the_weights_may_change(state: Any, dtype: torch.dtype, weights: str) -> None:
    """Codes stay the codes that they are, and float32 moments stay float32."""
    one, params = trained(at.AdamW, state=state)
    moved = {name: torch.nn.Parameter(p.detach().to(dtype)) for name, p in params.items()}
    two = at.AdamW(moved.items(), state=state, weights=weights)
    with said() as messages:
        two.load_state_dict(one.state_dict(), hyperparameters="given")
    assert not messages
    assert_same(one.state_dict()["state"], two.state_dict()["state"])
    train(two, 1)
    with said() as messages:
        one.load_state_dict(two.state_dict(), hyperparameters="given")
    assert not messages
    assert "weight_low_bits" not in one.state[params["weight"]]


def test_moments_of_float64_weights_are_decoded_into_float64() -> None:
    one, params = trained(at.AdamW, state="int8")
    moved = {name: torch.nn.Parameter(p.detach().double()) for name, p in params.items()}
    two = at.AdamW(moved.items())
    with said() as messages:
        two.load_state_dict(one.state_dict())
    assert any("1 parameter from int8 to float64" in message for message in messages)
    for moment in ("exp_avg", "exp_avg_sq"):
        found = two.state[moved["weight"]][moment]
        assert found.dtype == torch.float64
        assert torch.equal(found, values(one.state[params["weight"]], moment, found).double())


@pytest.mark.parametrize("state", SETTINGS, ids=str)
def test_the_bfloat16_moments_of_torch_optim(state: Any) -> None:
    theirs, params = trained(torch.optim.Adam, torch.bfloat16)
    ours = at.Adam(params.items(), state=state)
    with said() as messages:
        ours.load_state_dict(theirs.state_dict())
    assert bool(messages) == (state != "bfloat16")
    for p in params.values():
        for moment in ("exp_avg", "exp_avg_sq"):
            before, after = theirs.state[p][moment].float(), ours.state[p]
            assert ((values(after, moment, p) - before).abs() <= resolution(before, after[moment])).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_of_torch_optim_keeps_no_count(momentum: float) -> None:
    theirs, params = trained(torch.optim.SGD, momentum=momentum)
    ours = at.SGD(params.items(), state="int8", momentum=0.9)
    with said():
        ours.load_state_dict(theirs.state_dict())
    assert ours.state[params["weight"]].keys() == ({"step", *slot_names("momentum_buffer")} if momentum else set())


# ---- what is not quite as it was left


def test_codes_are_laid_out_as_the_engine_reads_them() -> None:
    one, params = trained(at.AdamW, state="int8")
    saved = one.state_dict()
    saved["state"][0] = {name: x.t().contiguous().t() for name, x in saved["state"][0].items()}
    two = at.AdamW(clones(params).items(), state="int8")
    two.load_state_dict(saved)
    train(one, 2), train(two, 2)
    assert_same(one.state_dict()["state"], two.state_dict()["state"])


def test_decoded_moments_have_the_strides_of_the_weight() -> None:
    def make(state: str) -> tuple[at.Optimizer, Tensor]:
        p = torch.nn.Parameter(torch.ones(16, 4, 10, 10).to(memory_format=torch.channels_last))
        return at.Adam([p], state=state), p

    (one, _), (two, p) = make("int8"), make("float32")
    train(one, 1)
    with said():
        two.load_state_dict(one.state_dict())
    assert two.state[p]["exp_avg"].stride() == p.stride()


def test_trap_T17_no_tensor_is_shared() -> None:
    one, params = trained(at.AdamW, state="int8", amsgrad=True)
    for state in ("int8", "float32"):
        two = at.AdamW(params.items(), state=state)
        with said():
            two.load_state_dict(one.state_dict())
        pointers = {x.data_ptr() for entry in two.state.values() for x in entry.values()}
        assert not pointers & {x.data_ptr() for entry in one.state.values() for x in entry.values()}


def test_moments_that_the_options_do_not_use_are_kept_as_they_are() -> None:
    one, params = trained(at.Adam, state="int8", amsgrad=True)
    two = at.Adam(params.items(), state="int8")
    two.load_state_dict(one.state_dict(), hyperparameters="given")
    assert_same(one.state_dict()["state"], two.state_dict()["state"])
    two.param_groups[0]["amsgrad"] = True
    train(two, 1)


def test_an_entry_that_nobody_owns_is_kept() -> None:
    one, params = trained(at.AdamW, state="int8")
    saved = one.state_dict()
    saved["state"][7] = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, dtype=torch.int8), "of": "another"}
    two = at.AdamW(params.items(), state="int8")
    two.load_state_dict(saved)
    train(two, 1)
    for again in (two.state_dict(), two.state_dict(state="float32")):
        assert again["state"][7]["of"] == "another"
        assert_same(without(again["state"][7], "of"), without(saved["state"][7], "of"))


# ---- what cannot be loaded


def assert_nothing_changes(optimizer: at.Optimizer, saved: dict[str, Any], message: str, **options: Any) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    with said() as messages, pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved, **options)
    assert not messages
    assert_same(optimizer.state_dict()["state"], before["state"])
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda e: without(e, "exp_avg_grid"), "'exp_avg' of parameter 'bad' has codes without scales"),
    (lambda e: {**e, "exp_avg_grid": e["exp_avg_grid"][1:]}, r"scales of 'exp_avg'.* \(40, 2\), not .*\(39, 2\)"),
    (lambda e: {**e, "exp_avg_grid": e["exp_avg_grid"].double()}, "scales of 'exp_avg'.*float32.*not float64"),
    (lambda e: {**e, "exp_avg_sq_grid": 1.0}, "scales of 'exp_avg_sq'.*not a float"),
    (lambda e: {**e, "exp_avg_sq": e["exp_avg"]}, "'exp_avg_sq'.* int8 .* as codes it would be uint8"),
    (lambda e: {**e, "exp_avg": e["exp_avg_sq"]}, "'exp_avg'.* uint8 .* as codes it would be int8"),
    (lambda e: {**e, "exp_avg": e["exp_avg"].t()}, r"'exp_avg'.*\(136, 40\).*\(40, 136\)"),
    (lambda e: {**e, "exp_avg": 1.0}, "'exp_avg' of parameter 'bad' is a float"),
    (lambda e: {**e, "exp_avg": e["exp_avg"].long()}, "'exp_avg' .* int64 .* a float32 parameter cannot be"),
    (lambda e: {**e, "exp_avg": e["exp_avg"].to(torch.complex64)}, "'exp_avg' .* complex64"),
    (lambda e: {**e, "step": torch.ones(3)}, r"'step' of parameter 'bad' must be one number"),
    (lambda e: {**e, "step": "four"}, r"'step' of parameter 'bad' must be one number"),
    (lambda e: without(e, "step"), r"not one of AdamW: parameter 'bad' .*needs \['step'"),
    (lambda e: without(e, "exp_avg_sq"), "not one of AdamW: parameter 'bad'"),
    (lambda e: {"step": e["step"], "square_avg": torch.ones(40, 136)}, "not one of AdamW: parameter 'bad'"),
    (lambda e: [1, 2], "parameter 'bad' has a list there"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED, ids=[message for _, message in REFUSED])
@pytest.mark.parametrize("state", ["float32", "int8"])
def test_what_does_not_fit_is_refused_whole_and_by_name(state: str, spoil: Callable[..., Any], message: str) -> None:
    shapes = {"good": (40, 136), "bad": (40, 136)}
    one, two = (at.AdamW(parameters(shapes=shapes).items(), state=x, lr=lr) for x, lr in (("int8", 0.1), (state, 0.2)))
    train(one, 2), train(two, 1)
    saved = one.state_dict()
    saved["state"][1] = spoil(saved["state"][1])
    assert_nothing_changes(two, saved, message)


WRONG: list[Any] = [
    None,
    "0.1",
    "x",
    True,
    [],
    [None],
    {},
    {"a": 1},
    (),
    (1,),
    5,
    -1,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
]
WRONG += [
    torch.tensor(math.nan),
    torch.tensor([1.0, 2.0]),
    torch.ones(2, 2).to_sparse(),
    torch.empty((), device="meta"),
]
WRONG += [torch.tensor(1j), torch.ones((), dtype=torch.int8), b"x", range(3), object()]


def spots(x: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a state dict."""
    for key in x if isinstance(x, dict) else range(len(x)) if isinstance(x, list | tuple) else ():
        yield (*path, key)
        yield from spots(x[key], (*path, key))


def replaced(x: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The state dict with another value at this path."""
    if not path:
        return value
    if isinstance(x, dict):
        return {key: replaced(y, path[1:], value) if key == path[0] else y for key, y in x.items()}
    return type(x)(replaced(y, path[1:], value) if i == path[0] else y for i, y in enumerate(x))


@pytest.mark.parametrize("case", [case for case in CASES if str(case) in ("adamw", "nadam", "nesterov")], ids=str)
def test_anything_in_the_place_of_anything_is_loaded_or_refused_in_a_line_and_whole(case: Case) -> None:
    """Loading works, and the next step after it, or raises an error of one line, and nothing has changed."""

    def make() -> at.Optimizer:
        params = parameters(shapes={"weight": (32, 128)})
        lr = case.options["lr"] * Plateau()
        return case.make(params.items(), **{**case.options, "lr": lr, "state": "int8", "max_grad_norm": "auto"})

    source, target = make(), make()
    train(source, 2), train(target, 1)
    saved, before = source.state_dict(), target.state_dict()
    for path in [(), *spots(saved)]:
        for value in WRONG:
            error = refusal(target, replaced(saved, path, value))
            if error is not None:
                words = {str(part).removesuffix("_grid").replace("param_groups", "group") for part in path[-2:]}
                assert "\n" not in error, (path, value, error)
                assert any(word in error for word in words or {"state dict"}), (path, value, error)
                assert target.state_dict()["param_groups"] == before["param_groups"]
                assert_same(target.state_dict()["state"], before["state"])
            else:
                train(target, 1)
                assert all(p.isfinite().all() for p in target.param_groups[0]["params"]), (path, value)
                target = make()
                train(target, 1)


def refusal(optimizer: at.Optimizer, saved: Any) -> str | None:
    """What loading says against a state dict; None where it loads."""
    try:
        optimizer.load_state_dict(saved)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def test_a_warning_that_is_an_error_changes_nothing() -> None:
    one, params = trained(at.AdamW, state="int8")
    two = at.AdamW(params.items(), lr=0.1)
    with pytest.raises(UserWarning, match="are converted"):  # warnings are errors in these tests
        two.load_state_dict(one.state_dict())
    assert not two.state
    assert two.param_groups[0]["lr"] == 0.1


def test_low_bits_that_torch_optim_has_cast_are_refused() -> None:
    ours, params = trained(at.AdamW, torch.bfloat16, weights="split")
    theirs = torch.optim.AdamW(params.items())
    theirs.load_state_dict(ours.state_dict())
    assert_nothing_changes(ours, theirs.state_dict(), "'weight_low_bits' of parameter 'weight' must be uint8.*bfloat16")
    theirs.load_state_dict(ours.state_dict(state="float32"))
    with said():
        ours.load_state_dict(theirs.state_dict())


def test_the_state_of_another_member_is_refused() -> None:
    adams = at.Adam, at.AdamW, at.RAdam, at.LAMB, at.StableAdamW, at.AdamH
    makers = [case for case in CASES if "amsgrad" not in case.options]
    alike = ({at.Lion, at.Signum}, {at.ADOPT, at.LaProp})
    for saving, loading in itertools.product(makers, makers):
        related = saving.make in (*adams, at.NAdam) and loading.make in adams
        related |= any({saving.make, loading.make} <= members for members in alike)
        if saving.make is loading.make or related:
            continue
        one, params = trained(saving.make, **saving.options)
        two = loading.make(params.items(), **loading.options)
        kind = type(two).__name__
        if one.state_dict()["state"][0].keys() != {"step"}:  # which gradient descent without momentum leaves
            message = f"not one of {kind}: parameter 'weight'|betas must be |decay='update' is only for"
            assert_nothing_changes(two, one.state_dict(), message)


def test_the_state_of_another_member_is_refused_before_its_hyperparameters() -> None:
    adamw, params = trained(at.AdamW)
    with pytest.raises(ValueError, match=r"not one of Adafactor: .* needs \['step', 'row_var', 'col_var'\]"):
        at.Adafactor(params.items()).load_state_dict(adamw.state_dict())


def test_a_member_with_another_number_of_betas_is_told_by_its_state() -> None:
    adam, params = trained(at.Adam)
    ademamix = at.AdEMAMix(params.items())
    ademamix.load_state_dict(adam.state_dict(), hyperparameters="given")  # the slow average begins at 0
    state = adam.state_dict()["state"][0]
    assert_same(ademamix.state_dict()["state"][0], state)
    saved = trained(at.AdEMAMix)[0].state_dict()
    assert_nothing_changes(adam, saved, "not one of Adam: parameter 'weight'", hyperparameters="given")


def test_a_scale_has_to_be_of_the_rows_that_are_there() -> None:
    one, params = trained(at.AdamW, state="int8")
    saved = one.state_dict()
    part = torch.nn.Parameter(params["weight"].detach()[8:16].clone())
    two = at.AdamW([{"params": [("weight", part)], "rows": [(8, 40)]}], state="int8")
    entry = {name: x[8:16] if x.shape == (40, 136) else x for name, x in saved["state"][0].items()}
    group = {**saved["param_groups"][0], "params": [0], "param_names": ["weight"]}
    assert_nothing_changes(two, {"state": {0: entry}, "param_groups": [group]}, r"\(8, 2\), not .*\(40, 2\)")


def test_hyperparameters_that_cannot_be_are_refused_whole() -> None:
    one, params = trained(torch.optim.RMSprop, centered=True)
    two = at.RMSprop(params.items(), state="int8")
    assert_nothing_changes(two, one.state_dict(), 'parameter group 0: centered=True needs state="float32"')
    saved = at.AdamW(params.items(), lr=1e-2 * Plateau()).state_dict()
    (plateau, other) = Plateau(), Plateau()
    three = at.AdamW(params.items(), lr=1e-2 * plateau * other)
    saved["param_groups"][0]["plateaus"] = json.dumps([{**other.state_dict(), "value": 0.5}, {"value": 0.5}])
    assert_nothing_changes(three, saved, "not the state of a Plateau")
    assert plateau.value == 1.0


@pytest.mark.parametrize("kind", [at.AdamW, at.Adagrad])
def test_a_state_whose_parameters_were_all_replaced_is_not_lost_in_silence(kind: type[at.Optimizer]) -> None:
    """As by a model that is sharded after the optimizer's state was loaded."""
    optimizer, params = trained(kind)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params.values()]
    before = [p.detach().clone() for p in copies]
    optimizer.param_groups[0]["params"] = copies
    for p in copies:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"of shape \(40, 136\)\) were replaced .* or call optimizer.state.clear\(\)"):
        optimizer.step()
    with pytest.raises(ValueError, match="were replaced"):
        optimizer.state_dict()
    assert all(torch.equal(p, q) for p, q in zip(copies, before, strict=True))
    optimizer.state.clear()
    optimizer.step()
    assert optimizer.state.keys() == set(copies)
    assert all(state["step"] == 1 for state in optimizer.state.values())
