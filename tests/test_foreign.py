"""States of bitsandbytes and torchao, as these libraries write them, read as plain tensors and trained on from."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adamas.torch as at
from adamas.torch.foreign import decode_state

STEPS = 4
LR = 1e-7  # so small that optimizers of all kinds and precisions see the same gradients


@pytest.fixture(scope="module")
def bnb() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: its states cannot be written")


@pytest.fixture(scope="module")
def torchao() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchao.optim", reason="torchao is not installed: its states cannot be written")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Both libraries warn while they work, and torchao would compile its step for longer than the tests take."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        yield


def trained(make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The optimizer after a few steps of a model with tensors of 4270, 70, 8960 (35 blocks of 256) and 128 elements."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(61, 70), nn.Tanh(), nn.Linear(70, 128))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 8)
    model.to(dtype)
    optimizer = make(model.parameters(), lr=LR, **options)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(9, 61, generator=generator).to(dtype)).square().sum().backward()
        optimizer.step()
    return optimizer


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return optimizer.param_groups[0]["params"]


def decoded(state_dict: dict[str, Any], member: type[at.Optimizer]) -> list[dict[str, Any]]:
    return [
        decode_state(saved, member._member.states, f"'p{i}'", state_dict["param_groups"][0]).state
        for i, saved in state_dict["state"].items()
    ]


def stored(x: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return buffer


# ---- bitsandbytes

# A class, its options, and the namesake, which has a class of the same name in torch.optim.
SUPPORTED = [
    ("Adam8bit", {}, "Adam"),
    ("AdamW8bit", {}, "AdamW"),
    ("PagedAdamW8bit", {}, "AdamW"),
    ("AdamW", {"optim_bits": 8}, "AdamW"),
    ("AdamW", {}, "AdamW"),
    ("SGD8bit", {"momentum": 0.9}, "SGD"),
    ("RMSprop8bit", {}, "RMSprop"),
    ("Adagrad8bit", {}, "Adagrad"),
]
SUPPORTED_IDS = ["-".join([name, *map(str, options.values())]) for name, options, _ in SUPPORTED]
MOMENTS = {
    "Adam": ["exp_avg", "exp_avg_sq"],
    "AdamW": ["exp_avg", "exp_avg_sq"],
    "SGD": ["momentum_buffer"],
    "RMSprop": ["square_avg"],
    "Adagrad": ["sum"],
}


@pytest.mark.parametrize("source", ["state dict", "optimizer"])
@pytest.mark.parametrize(("name", "options", "namesake"), SUPPORTED, ids=SUPPORTED_IDS)
def test_bitsandbytes_is_decoded_as_it_decodes(bnb: Any, name: str, options: dict, namesake: str, source: str) -> None:
    optimizer = trained(getattr(bnb.optim, name), **options)
    live = {i: optimizer.state[p] for i, p in enumerate(parameters(optimizer))}
    state_dict = {**optimizer.state_dict(), **({"state": live} if source == "optimizer" else {})}
    before = stored(state_dict).getvalue()
    entries = decoded(state_dict, getattr(at, namesake))
    assert stored(state_dict).getvalue() == before

    compressed = 0
    for entry, p in zip(entries, parameters(optimizer), strict=True):
        assert list(entry) == ["step", *MOMENTS[namesake]]
        assert torch.equal(entry["step"], torch.tensor(float(STEPS)))
        for i, moment in enumerate(MOMENTS[namesake], start=1):
            expected = optimizer.state[p][f"state{i}"]
            if expected.dtype == torch.uint8:
                compressed += 1
                expected = bnb.functional.dequantize_blockwise(
                    expected,
                    absmax=optimizer.state[p][f"absmax{i}"],
                    code=optimizer.state[p][f"qmap{i}"],
                    blocksize=256,
                )
            assert entry[moment].shape == p.shape
            assert entry[moment].dtype == torch.float32
            assert entry[moment].any()
            assert torch.equal(entry[moment], expected)
    assert compressed == (0 if name == "AdamW" and not options else 2 * len(MOMENTS[namesake]))


@pytest.mark.parametrize(("name", "options", "namesake"), SUPPORTED, ids=SUPPORTED_IDS)
def test_bitsandbytes_has_the_moments_of_the_namesake(bnb: Any, name: str, options: dict, namesake: str) -> None:
    """The names are right: on the same gradients, each moment is that of torch.optim within what 8 bits resolve."""
    theirs = decoded(trained(getattr(bnb.optim, name), **options).state_dict(), getattr(at, namesake))
    momentum = {"momentum": 0.9} if namesake == "SGD" else {}
    reference = trained(getattr(torch.optim, namesake), **momentum)
    for entry, p in zip(theirs, parameters(reference), strict=True):
        for moment in MOMENTS[namesake]:
            expected = reference.state[p][moment]
            resolution = 0.04 if p.numel() > 4096 and (options.get("optim_bits") == 8 or "8bit" in name) else 1e-5
            assert (entry[moment] - expected).abs().max() < resolution * expected.abs().max()


def test_bitsandbytes_is_read_from_a_file_where_it_is_not_installed(bnb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dict = trained(bnb.optim.AdamW8bit).state_dict()
    expected, file = decoded(state_dict, at.AdamW), stored(state_dict)
    for module in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.setitem(sys.modules, module, None)
    for a, b in zip(decoded(torch.load(file, weights_only=True), at.AdamW), expected, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


UNSUPPORTED = [
    ("Lion8bit", {}, "Lion"),
    ("LAMB8bit", {}, "LAMB"),
    ("LARS8bit", {"momentum": 0.9}, "LARS"),
    ("AdEMAMix8bit", {}, "AdEMAMix"),
    ("AdEMAMix", {}, "AdEMAMix"),
]


@pytest.mark.parametrize(("name", "options", "kind"), UNSUPPORTED, ids=[name for name, *_ in UNSUPPORTED])
def test_what_has_no_counterpart_is_refused(bnb: Any, name: str, options: dict, kind: str) -> None:
    state_dict = trained(getattr(bnb.optim, name), **options).state_dict()
    for member in MOMENTS:
        for i, saved in state_dict["state"].items():
            with pytest.raises(ValueError, match=f"parameter 'p{i}' has the state of bitsandbytes' .*{kind}"):
                decode_state(saved, getattr(at, member)._member.states, f"'p{i}'", state_dict["param_groups"][0])


@pytest.mark.parametrize(("name", "options", "namesake"), SUPPORTED, ids=SUPPORTED_IDS)
def test_the_state_of_another_member_is_refused(bnb: Any, name: str, options: dict, namesake: str) -> None:
    state_dict = trained(getattr(bnb.optim, name), **options).state_dict()
    moments = MOMENTS[namesake]
    for member in (at.SGD, at.Adagrad, at.RMSprop, at.Adam, at.Adamax, at.NAdam, at.RAdam):
        if [moment for moment in member._member.states if moment in moments] == moments:
            decoded(state_dict, member)
        else:
            with pytest.raises(
                ValueError, match=r"parameter 'p0' has the state of bitsandbytes' .*this optimizer keeps"
            ):
                decoded(state_dict, member)


def test_blocks_of_versions_before_0_44(bnb: Any) -> None:
    group = trained(bnb.optim.SGD8bit, momentum=0.9).param_groups[0]
    x = torch.randn(71, 67, generator=torch.Generator().manual_seed(0))
    codes, quantized = bnb.functional.quantize_blockwise(x, blocksize=2048)
    entry = {"step": 3, "state1": codes, "qmap1": quantized.code, "absmax1": quantized.absmax}
    result = decode_state(entry, at.SGD._member.states, "'p'", group).state["momentum_buffer"]
    assert torch.equal(result, bnb.functional.dequantize_blockwise(codes, quantized))
    assert (result - x).abs().max() < 0.05 * x.abs().max()


def test_what_cannot_be_read_with_certainty_is_refused(bnb: Any) -> None:
    state_dict = trained(bnb.optim.AdamW8bit).state_dict()
    slots, group = at.AdamW._member.states, state_dict["param_groups"][0]
    state = state_dict["state"][0]["__bnb_optimizer_quant_state__"]
    broken = {
        "strides": {**state, "state2": state["state2"].t().contiguous().t()},
        "block_wise": {key: value for key, value in state.items() if key != "absmax1"},
        "not one scale for each": {**state, "absmax2": state["absmax2"][1:]},
    }
    for message, entry in broken.items():
        with pytest.raises(ValueError, match=f"parameter 'p'.*{message}"):
            decode_state({"step": 1, **entry}, slots, "'p'", group)
    with pytest.raises(ValueError, match=r"parameter 'p'.*lacks the betas and eps"):
        decode_state({"step": 1, **state}, slots, "'p'", {"lr": 0.1, "params": [0]})


def test_weights_that_bitsandbytes_reorders_are_refused(bnb: Any) -> None:
    """A state of channels_last weights: the CUDA kernels would have filled it in another order than those of a CPU."""
    p = nn.Parameter(torch.randn(64, 16, 3, 3).to(memory_format=torch.channels_last))
    optimizer = bnb.optim.AdamW8bit([p])
    p.grad = torch.randn(p.shape)
    optimizer.step()
    with pytest.raises(ValueError, match="'p0' has strides"):
        decoded(optimizer.state_dict(), at.AdamW)


# ---- torchao


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [(f"Adam{w}{bits}", {}) for w in ("", "W") for bits in ("8bit", "4bit", "Fp8")]
    + [("AdamW8bit", {"block_size": 64})],
)
def test_torchao_is_decoded_as_it_decodes(torchao: Any, name: str, options: dict, dtype: torch.dtype) -> None:
    optimizer = trained(getattr(torchao, name), dtype, **options)
    state_dict = optimizer.state_dict()
    before = stored(state_dict).getvalue()
    entries = decoded(torch.load(stored(state_dict), weights_only=True), at.AdamW if "W" in name else at.Adam)
    assert stored(state_dict).getvalue() == before

    compressed = 0
    for entry, p in zip(entries, parameters(optimizer), strict=True):
        assert list(entry) == ["step", "exp_avg", "exp_avg_sq"]
        assert entry["step"] == STEPS
        for moment in ("exp_avg", "exp_avg_sq"):
            expected = optimizer.state[p][moment]
            if hasattr(expected, "dequantize") and type(expected) is not Tensor:
                compressed += 1
                expected = expected.dequantize()
                assert expected.dtype == torch.float32
            assert type(entry[moment]) is Tensor
            assert entry[moment].shape == p.shape
            assert entry[moment].dtype == expected.dtype
            assert torch.equal(entry[moment], expected)
    assert compressed == 2  # torchao leaves 4270 elements, which are no whole number of blocks, as they are


# ---- others


@pytest.mark.parametrize(
    "make",
    [
        lambda p, lr: torch.optim.Adam(p, lr, amsgrad=True),
        lambda p, lr: torch.optim.SGD(p, lr),
        lambda p, lr: torch.optim.RMSprop(p, lr, momentum=0.9, centered=True),
        lambda p, lr: at.AdamW(p, lr, state="bfloat16"),
    ],
)
def test_an_ordinary_entry_comes_back_as_it_is(make: Callable[..., torch.optim.Optimizer]) -> None:
    state_dict = trained(make).state_dict()
    for entry, saved in zip(decoded(state_dict, at.Adam), state_dict["state"].values(), strict=True):
        assert entry.keys() == saved.keys()
        assert all(entry[key] is saved[key] for key in saved)


# ---- training goes on

DECAY = {"weight_decay": 0.5}
# Their class and options; ours, and the same options in PyTorch's words, without those that bitsandbytes takes and leaves out;
# and how far from theirs the weights of a compressed tensor may be after ten steps, as a part of the way that they went.
# They round their moments at every step, to codes that are 1 to 3% apart, or 10 to 30% in 4 bits.
RESUMED = [
    ("bitsandbytes", "Adam8bit", DECAY, at.Adam, {**DECAY, "decay": "decoupled"}, 0.03),
    ("bitsandbytes", "AdamW8bit", DECAY, at.AdamW, DECAY, 0.03),
    ("bitsandbytes", "AdamW", DECAY, at.AdamW, DECAY, 0.03),
    ("bitsandbytes", "SGD8bit", {**DECAY, "momentum": 0.8, "nesterov": True}, at.SGD, {**DECAY, "momentum": 0.8}, 0.03),
    (
        "bitsandbytes",
        "RMSprop8bit",
        {**DECAY, "alpha": 0.9, "momentum": 0.5},
        at.RMSprop,
        {**DECAY, "alpha": 0.9},
        0.03,
    ),
    ("bitsandbytes", "Adagrad8bit", DECAY, at.Adagrad, DECAY, 0.03),
    ("torchao", "Adam8bit", DECAY, at.Adam, DECAY, 0.03),
    ("torchao", "AdamW8bit", DECAY, at.AdamW, DECAY, 0.03),
    ("torchao", "AdamWFp8", DECAY, at.AdamW, DECAY, 0.05),
    ("torchao", "AdamW4bit", DECAY, at.AdamW, DECAY, 0.2),
]
# What an optimizer has that is to be overwritten.
OTHERWISE = {
    "SGD": {"momentum": 0.1, "nesterov": True, "decay": "decoupled", "maximize": True},
    "RMSprop": {"momentum": 0.3, "decay": "decoupled", "maximize": True},
    "Adagrad": {"lr_decay": 0.1, "decay": "independent", "maximize": True},
    "Adam": {"amsgrad": True, "maximize": True},
}


def optimizer_of(library: str, name: str, request: pytest.FixtureRequest) -> Callable[..., torch.optim.Optimizer]:
    module = request.getfixturevalue("bnb" if library == "bitsandbytes" else "torchao")
    return getattr(module.optim if library == "bitsandbytes" else module, name)


def pair() -> list[nn.Parameter]:
    """One that all libraries leave in float32, and one that they compress."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((30,), (70, 128))]


def train(optimizer: torch.optim.Optimizer, seed: int, steps: int = 10) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in parameters(optimizer):
            p.grad = torch.randn(p.shape, generator=generator) + 0.5
        optimizer.step()


@pytest.mark.parametrize("hyperparameters", ["saved", "given"])
@pytest.mark.parametrize("state", ["float32", "int8"])
@pytest.mark.parametrize(
    ("library", "name", "options", "namesake", "meant", "tolerance"), RESUMED, ids=[f"{x[0]}-{x[1]}" for x in RESUMED]
)
def test_training_goes_on_as_it_was_there(
    library: str,
    name: str,
    options: dict[str, Any],
    namesake: type[at.Optimizer],
    meant: dict[str, Any],
    tolerance: float,
    state: str,
    hyperparameters: str,
    request: pytest.FixtureRequest,
) -> None:
    theirs = optimizer_of(library, name, request)(pair(), lr=0.01, **options)
    train(theirs, seed=1)
    start = [p.detach().clone() for p in parameters(theirs)]
    other = {"lr": 0.5, **(OTHERWISE.get(namesake.__name__, {}) if library == "bitsandbytes" else {})}
    mine = {"lr": 0.01, **meant} if hyperparameters == "given" else other
    ours = namesake([nn.Parameter(p.clone()) for p in start], state=state, **mine)
    keys = {*ours.param_groups[0]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours.load_state_dict(torch.load(stored(theirs.state_dict()), weights_only=True), hyperparameters)
    assert {*ours.param_groups[0]} == keys
    words = "float32" if name == "AdamW" else "bitsandbytes' 8 bits" if library == "bitsandbytes" else "torchao's Optim"
    assert bool(caught) == (words != state)
    assert all(f" of 1 parameter from {words}" in str(warning.message) for warning in caught)

    train(theirs, seed=2)
    train(ours, seed=2)
    errors = [
        (a - b).norm() / (a - before).norm()
        for a, b, before in zip(parameters(theirs), parameters(ours), start, strict=True)
    ]
    assert errors[0] < 1e-5  # what is not compressed: only the order of the operations differs
    assert errors[1] < tolerance


def test_a_group_that_had_no_gradient_is_read_alike(bnb: Any) -> None:
    stepped, resting = pair()
    theirs = bnb.optim.SGD8bit([{"params": [stepped]}, {"params": [resting], "lr": 0.3}], lr=0.1, momentum=0.7)
    torch.optim.lr_scheduler.ExponentialLR(theirs, 0.9)
    train(theirs, seed=1)
    ours = at.SGD([{"params": [stepped]}, {"params": [resting]}], lr=0.5, momentum=0.1, dampening=0.1)
    ours.load_state_dict(theirs.state_dict())
    for group, lr in zip(ours.param_groups, (0.1, 0.3), strict=True):
        assert (group["lr"], group["initial_lr"], group["momentum"], group["dampening"]) == (lr, lr, 0.7, 0.0)
        assert not group.keys() & {"betas", "eps"}


def test_the_rate_of_torchao_is_a_tensor_that_schedulers_go_on_with(torchao: Any) -> None:
    theirs = torchao.AdamW8bit(pair(), lr=0.25)
    train(theirs, seed=1, steps=1)
    ours = at.AdamW(pair())
    ours.load_state_dict(theirs.state_dict())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(ours, 0.5)
    train(ours, seed=2, steps=1)
    scheduler.step()
    assert (float(ours.param_groups[0]["lr"]), float(theirs.param_groups[0]["lr"])) == (0.125, 0.25)
    again = at.AdamW(pair())
    again.load_state_dict(torch.load(stored(ours.state_dict()), weights_only=True))
    assert float(again.param_groups[0]["lr"]) == 0.125


def test_percentile_clipping_has_no_counterpart(bnb: Any) -> None:
    state_dict = trained(bnb.optim.AdamW8bit).state_dict()
    state_dict["state"][1]["gnorm_vec"] = torch.zeros(100)  # as old versions kept it
    ours = at.AdamW(parameters(trained(torch.optim.AdamW)), lr=0.5)
    with pytest.raises(ValueError, match=r"parameter 1 .* was clipped by bitsandbytes' percentile_clipping.*\"given\""):
        ours.load_state_dict(state_dict)
    assert not ours.state
    assert ours.param_groups[0]["lr"] == 0.5
    ours.load_state_dict(state_dict, hyperparameters="given")
    assert len(ours.state) == 4


@pytest.mark.parametrize(("theirs", "ours"), [("Lion8bit", "AdamW"), ("AdEMAMix8bit", "Adam"), ("AdamW8bit", "NAdam")])
def test_what_is_refused_changes_nothing(bnb: Any, theirs: str, ours: str) -> None:
    optimizer = getattr(at, ours)(parameters(trained(torch.optim.AdamW)), lr=0.5)
    for hyperparameters in ("saved", "given"):
        with pytest.raises(ValueError, match="parameter 0 "):
            optimizer.load_state_dict(trained(getattr(bnb.optim, theirs)).state_dict(), hyperparameters)
        assert not optimizer.state
        assert optimizer.param_groups[0]["lr"] == 0.5
