"""8-bit moments of the former format are read as they were meant, and converted to the present format."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import old_files as old
import pytest
import torch

import adamas.numpy as an
import adamas.torch as at
from adamas.rule import formats, former, layout
from adamas.torch import conversion

SHAPE = (24, 300)  # rows of three blocks, of which the last is not full
CASE = old.BY_NAME["adam-int8"]
MOMENTS = {"exp_avg": np.int8, "exp_avg_sq": np.uint8}


def moment(dtype: Any, seed: int = 0, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Codes, all of those that an unmarked block can have, and scales of all sizes; the first block has no number but 0."""
    generator = np.random.default_rng(seed)
    codes = np.arange(np.prod(shape)).reshape(shape) % 254 - (127 if dtype == np.int8 else 0)
    scale = (10.0 ** generator.uniform(-20, 20, layout.scale_shape(shape))).astype(np.float32)
    codes[0, :128], scale[0, 0] = 0, 0
    return codes.astype(dtype), scale


def marked(codes: np.ndarray, scale: np.ndarray) -> None:
    """Gives the last row NaN, infinities and finite values, as it had them in the former format."""
    codes[-1] %= 120
    codes[-1, ::7] = -128 if codes.dtype == np.int8 else 254
    codes[-1, 1::7] = 127 if codes.dtype == np.int8 else 255
    if codes.dtype == np.int8:
        codes[-1, 2::7], codes[-1, 3::7] = -127, 126
    scale[-1] *= -1


def meant(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The values that the former format had, from its description."""
    c, has_sign = codes.astype(np.int64), codes.dtype == np.int8
    size = abs(c)
    units = (32 + size % 32) * 2.0 ** (size // 32) - 32 + (0 if has_sign else 0.5)
    each = np.repeat(scale, 128, 1)[:, : codes.shape[1]].astype(np.float64)
    value = np.where(c < 0, -1, 1) * units * abs(each)
    value[(each < 0) & (size == (127 if has_sign else 255))] = np.inf
    value[(each < 0) & (c == -127)] = -np.inf
    value[(each < 0) & (c == (-128 if has_sign else 254))] = np.nan
    return value


def decoded(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    values = np.empty(codes.shape, np.float32)
    layout.decode(np, codes, scale, values)
    return values


def converted(codes: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes, scale = codes.copy(), scale.copy()
    former.convert(np, codes, scale)
    return codes, scale


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_the_former_format_is_read_as_it_was_meant(dtype: Any) -> None:
    codes, scale = moment(dtype)
    marked(codes, scale)
    values = np.empty(SHAPE, np.float32)
    former.decode(np, codes, scale, values)
    np.testing.assert_allclose(values, meant(codes, scale), rtol=2.0**-23)
    tensors = torch.empty(SHAPE)
    former.decode(torch, torch.from_numpy(codes), torch.from_numpy(scale), tensors)
    np.testing.assert_array_equal(tensors.numpy(), values)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_the_present_format_gets_the_nearest_values(dtype: Any) -> None:
    codes, scale = moment(dtype)
    marked(codes, scale)
    want, (after, stored) = meant(codes, scale), converted(codes, scale)
    assert (formats.choice_of(np, stored) == 0).all()
    got, finite = decoded(after, stored), np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite].astype(np.float32))
    c, size, error = codes[finite].astype(int), abs(want[finite]), abs(got[finite] - want[finite])
    if dtype == np.int8:
        assert np.array_equal(after, codes)
        assert (error <= size * 2.0**-21).all()
    else:
        allowed = np.select([c < 32, c < 64, c < 96], [2.0**-21, 1 / 32, 1 / 96], 1 / 224)
        assert (error <= size * allowed).all()
        for step in (-1, 1):  # no other code is nearer
            other = decoded(np.clip(after.astype(int) + step, 0, 253).astype(np.uint8), stored)[finite]
            assert (error <= abs(other - want[finite]) * (1 + 1e-4)).all()
    assert not after[0, :128].any()
    tensors = torch.from_numpy(codes.copy()), torch.from_numpy(scale.copy())
    former.convert(torch, *tensors)
    assert np.array_equal(tensors[0].numpy(), after)
    assert np.array_equal(tensors[1].numpy().view(np.int32), stored.view(np.int32))


def saved_torch(state: str = "int8") -> tuple[at.Adam, dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """An optimizer, a state dict of the former format for it, and the moments in it."""
    optimizer = at.Adam([("w", torch.nn.Parameter(torch.zeros(SHAPE)))], state=state)
    of = {name: moment(dtype, seed) for seed, (name, dtype) in enumerate(MOMENTS.items())}
    for one in of.values():
        marked(*one)
    entry: dict[str, Any] = {"step": torch.tensor(5.0)}
    for name, (codes, scale) in of.items():
        entry |= {name: torch.from_numpy(codes.copy()), f"{name}_scale": torch.from_numpy(scale.copy())}
    return optimizer, {**optimizer.state_dict(), "state": {0: entry}}, of


def saved_numpy(state: str = "int8") -> tuple[an.Adam, dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
    optimizer = an.Adam({"w": np.zeros(SHAPE, np.float32)}, state=state)
    _, saved, of = saved_torch()
    entry = {f"state/w/{name}": x.numpy() for name, x in saved["state"][0].items()}
    return optimizer, {**optimizer.state_dict(), **entry}, of


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
def test_a_state_dict_of_the_former_format_is_loaded(saved: Any) -> None:
    optimizer, state_dict, of = saved()
    buffer = io.BytesIO()
    if saved is saved_torch:
        torch.save(state_dict, buffer)
        buffer.seek(0)
        optimizer.load_state_dict(torch.load(buffer, weights_only=True))
    else:
        np.savez(buffer, **state_dict)
        buffer.seek(0)
        optimizer.load_state_dict(np.load(buffer))
    (state,) = optimizer.state.values()
    assert set(state) == {"step", *MOMENTS, "exp_avg_grid", "exp_avg_sq_grid"}
    for name, one in of.items():
        for got, want in zip((state[name], state[f"{name}_grid"]), converted(*one), strict=True):
            np.testing.assert_array_equal(np.asarray(got), want)


def test_the_scales_of_a_stack_of_matrices_get_its_dimensions() -> None:
    """They had two dimensions."""
    shape, of = (4, 6, 256), {name: moment(dtype, shape=(4, 1536)) for name, dtype in MOMENTS.items()}
    want = {}
    for name, one in of.items():
        marked(*one)
        codes, scale = converted(*one)
        want |= {name: codes.reshape(shape), f"{name}_grid": scale.reshape(4, 6, 2)}

    def entry() -> dict[str, Any]:
        named = [{name: codes.reshape(shape), f"{name}_scale": scale} for name, (codes, scale) in of.items()]
        return {"step": np.array(5.0)} | named[0] | named[1]

    tensors = [{key: torch.from_numpy(x.copy()) for key, x in entry().items()} for _ in range(2)]
    ours = [
        at.Adam([("w", torch.nn.Parameter(torch.zeros(shape)))], state=form) for form in ("int8", "float32", "int8")
    ]
    ours[0].load_state_dict({**ours[0].state_dict(), "state": {0: tensors[0]}})
    with pytest.warns(UserWarning, match="from int8 to float32"):
        ours[1].load_state_dict({**ours[1].state_dict(), "state": {0: tensors[0]}})
    (p,) = ours[2].param_groups[0]["params"]
    conversion.check_shapes(ours[2]._member, p, {"exp_avg_scale": (4, 12), "exp_avg_grid": (4, 6, 2)}, "w")
    for name, size in (("exp_avg_scale", (4, 6, 2)), ("exp_avg_grid", (4, 12))):
        with pytest.raises(ValueError, match=f"'{name}' of parameter w has shape"):
            conversion.check_shapes(ours[2]._member, p, {name: size}, "w")
    ours[2].state[p], p.grad = tensors[1], torch.zeros(shape)
    ours[2]._current_plans()
    theirs = an.Adam({"w": np.zeros(shape, np.float32)}, state="int8")
    theirs.load_state_dict({**theirs.state_dict(), **{f"state/w/{key}": x for key, x in entry().items()}})
    for optimizer in (ours[0], ours[2], theirs):
        (state,) = optimizer.state.values()
        for key, x in want.items():
            np.testing.assert_array_equal(np.asarray(state[key]), x)
    (state,) = ours[1].state.values()
    for name, one in of.items():
        np.testing.assert_allclose(np.asarray(state[name]), meant(*one).reshape(shape), rtol=2.0**-23)
    ours[2].step()


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
def test_into_float32_the_former_format_is_loaded_exactly(saved: Any) -> None:
    optimizer, state_dict, of = saved("float32")
    with pytest.warns(UserWarning, match="from int8 to float32"):
        optimizer.load_state_dict(state_dict)
    (state,) = optimizer.state.values()
    for name, one in of.items():
        np.testing.assert_allclose(np.asarray(state[name]), meant(*one), rtol=2.0**-23)


def test_a_state_that_another_optimizer_has_put_there_is_converted() -> None:
    """As ``torch.distributed.optim.ZeroRedundancyOptimizer`` does it, which doesn't call ``load_state_dict``."""
    (one, state_dict, _), (two, _, _) = saved_torch(), saved_torch()
    two.state[two.param_groups[0]["params"][0]] = {key: x.clone() for key, x in state_dict["state"][0].items()}
    one.load_state_dict(state_dict)
    for optimizer in (one, two):
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = torch.ones_like(p)
        optimizer.step()
    (want,), (got,) = one.state.values(), two.state.values()
    assert got.keys() == want.keys()
    for key, x in want.items():
        np.testing.assert_array_equal(got[key].numpy(), x.numpy())


def test_a_distributed_checkpoint_of_the_former_format_is_loaded_by_its_names(tmp_path: Path) -> None:
    """The recipe of docs/storage-formats.md. Without it, the names that are missing are told, and codes alone are refused."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def make() -> tuple[torch.nn.Module, at.Adam]:
        model = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False)
        return model, at.Adam(model.named_parameters(), state="int8")

    (model, optimizer), (other, same), (_, state_dict, of) = make(), make(), saved_torch()
    entry = state_dict["state"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that there is one process only
        dcp.save({"optimizer": {"state": {"weight": entry}}}, checkpoint_id=tmp_path)
        new = get_optimizer_state_dict(model, optimizer)
        with pytest.raises(dcp.api.CheckpointException, match=r"Missing key .*exp_avg_grid"):
            dcp.load({"optimizer": {"state": new["state"]}}, checkpoint_id=tmp_path)
        partial = dcp.DefaultLoadPlanner(allow_partial_load=True)
        dcp.load({"optimizer": {"state": new["state"]}}, checkpoint_id=tmp_path, planner=partial)
        with pytest.raises(ValueError, match="'exp_avg' of parameter 'weight' have a 0 where its codes are not 0"):
            set_optimizer_state_dict(model, optimizer, new)

        new = get_optimizer_state_dict(other, same)
        state = {
            name: {key.replace("_grid", "_scale"): x for key, x in entry.items()}
            for name, entry in new["state"].items()
        }
        dcp.load({"optimizer": {"state": state}}, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, same, {**new, "state": state})
    (got,) = same.state.values()
    for name, one in of.items():
        for found, want in zip((got[name], got[f"{name}_grid"]), converted(*one), strict=True):
            np.testing.assert_array_equal(found.numpy(), want)


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda codes, scale: scale.fill(np.nan), "the scales of 'exp_avg_sq' .*have a NaN or an infinity"),
        (lambda codes, scale: np.negative(scale, scale), "have a negative number"),
        (lambda codes, scale: scale.fill(0), "have a 0 where its codes are not 0"),
    ],
    ids=["nan", "negative", "zero"],
)
@pytest.mark.parametrize("name", ["exp_avg_sq_scale", "exp_avg_sq_grid"])
def test_impossible_scales_are_refused(saved: Any, name: str, spoil: Any, message: str) -> None:
    optimizer, state_dict, _ = saved()
    entry = state_dict["state"][0] if saved is saved_torch else state_dict
    before = "" if saved is saved_torch else "state/w/"
    entry[f"{before}{name}"] = scale = entry.pop(f"{before}exp_avg_sq_scale")
    array = np.asarray(scale)
    if name.endswith("_grid"):
        array.view(np.int32)[...] &= ~3
    spoil(None, array)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state_dict)
    assert not optimizer.state


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
def test_a_choice_without_a_scale_is_refused(saved: Any) -> None:
    optimizer, state_dict, _ = saved()
    entry, key = (state_dict["state"][0], "") if saved is saved_torch else (state_dict, "state/w/")
    entry[f"{key}exp_avg_sq_grid"] = scale = entry.pop(f"{key}exp_avg_sq_scale")
    np.asarray(scale).view(np.int32)[...] = 2
    with pytest.raises(ValueError, match="have a 0 where its codes are not 0"):
        optimizer.load_state_dict(state_dict)


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
@pytest.mark.parametrize("name", MOMENTS)
def test_codes_of_the_other_sign_are_refused(saved: Any, name: str) -> None:
    optimizer, state_dict, _ = saved()
    entry, key = (state_dict["state"][0], name) if saved is saved_torch else (state_dict, f"state/w/{name}")
    wanted = np.asarray(entry[key]).dtype
    other = np.dtype({"int8": "uint8", "uint8": "int8"}[wanted.name])
    entry[key] = entry[key].view(getattr(torch, other.name)) if saved is saved_torch else entry[key].view(other)
    with pytest.raises(ValueError, match=rf"'{name}' of parameter '?w'? is {other}.*; as codes it would be {wanted}"):
        optimizer.load_state_dict(state_dict)


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
@pytest.mark.parametrize("end", ["_scale", "_grid"])
def test_codes_that_were_cast_to_floats_are_refused(saved: Any, end: str) -> None:
    optimizer, state_dict, _ = saved()
    entry, key = (state_dict["state"][0], "exp_avg") if saved is saved_torch else (state_dict, "state/w/exp_avg")
    entry[f"{key}{end}"] = entry.pop(f"{key}_scale")
    entry[key] = entry[key].float() if saved is saved_torch else entry[key].astype(np.float32)
    with pytest.raises(ValueError, match=r"'exp_avg' of parameter '?w'? .*float32.* but there are scales for codes of"):
        optimizer.load_state_dict(state_dict)


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
def test_scales_of_both_formats_are_refused(saved: Any) -> None:
    optimizer, state_dict, _ = saved()
    entry, key = (state_dict["state"][0], "exp_avg") if saved is saved_torch else (state_dict, "state/w/exp_avg")
    entry[f"{key}_grid"] = entry[f"{key}_scale"]
    with pytest.raises(
        ValueError, match=r"'exp_avg' of parameter '?w'? has scales of two versions, 'exp_avg_scale' and"
    ):
        optimizer.load_state_dict(state_dict)


@pytest.mark.parametrize("make", [at.Adam, an.Adam])
@pytest.mark.parametrize("name", MOMENTS)
def test_a_code_behind_the_end_of_a_row_is_refused(make: Any, name: str) -> None:
    is_torch, shape = make is at.Adam, (40, 135)
    weight: Any = torch.nn.Parameter(torch.zeros(shape)) if is_torch else np.zeros(shape, np.float32)
    optimizer = make({"w": weight}.items() if is_torch else {"w": weight}, state="int6")
    if is_torch:
        weight.grad = torch.ones(shape)
        optimizer.step()
    else:
        optimizer.step([np.ones(shape, np.float32)])
    state_dict = optimizer.state_dict()
    optimizer.load_state_dict(state_dict)
    codes = state_dict["state"][0][name] if is_torch else state_dict[f"state/w/{name}"]
    codes[7, -1] |= 1 << 4  # the last word has three codes, in all but six of its bits
    with pytest.raises(
        ValueError, match=f"the codes of '{name}' of parameter '?w'? have a number behind the end of a row"
    ):
        optimizer.load_state_dict(state_dict)


@pytest.mark.parametrize("saved", [saved_torch, saved_numpy])
@pytest.mark.parametrize("name", MOMENTS)
def test_a_choice_that_is_none_is_refused(saved: Any, name: str) -> None:
    optimizer, state_dict, _ = saved()
    entry = state_dict["state"][0] if saved is saved_torch else state_dict
    key = name if saved is saved_torch else f"state/w/{name}"
    entry[f"{key}_grid"] = scale = entry.pop(f"{key}_scale")
    np.asarray(scale).view(np.int32)[...] |= 3
    with pytest.raises(ValueError, match=f"the scales of '{name}' of parameter '?w'? have .* not the choice of a grid"):
        optimizer.load_state_dict(state_dict)
