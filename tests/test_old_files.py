"""Files that an earlier version wrote are read, and the next steps are what they were: see ``tests/data/old/README.md``."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # for its dtypes in NumPy's files
import numpy as np
import old_files as old
import pytest
import torch

import adamas
import adamas.numpy
import adamas.torch
from adamas import convert

WRITER = old.writer()
IS_SAME_PROCESSOR = adamas.engine_info().instruction_set == WRITER["instruction_set"]
# Where nothing is stored of them, AVX-512 takes roots and quotients from estimates of 14 bits, and others from other ones.
ENGINE_ULPS = 2 if IS_SAME_PROCESSOR else 1024
# JAX makes one program of a step: what it fuses depends on its version and on the processor.
JAX_ULPS = 2 if IS_SAME_PROCESSOR else 64


def check(folder: str, case: Any, before: Mapping[str, np.ndarray], after: Mapping[int, Any], most: float) -> None:
    saved = old.load_arrays(old.OLD / folder / f"{case.name}.expected.npz")
    for done, values in after.items():
        want = old.at(saved, f"after{done}")
        arrays, what = (old.thinned(values), want, old.thinned(before)), f"{case.name}, step {done}"
        if "int8" in str(case.options.get("state")):
            old.assert_same_but_converted(*arrays, what)
        else:
            old.assert_same(*arrays, most, what)


def weights_before(folder: str, case: Any) -> dict[str, np.ndarray]:
    return old.at(old.load_arrays(old.OLD / folder / f"{case.name}.expected.npz"), "before")


@pytest.mark.parametrize("case", old.CASES, ids=str)
def test_torch_state_dicts(case: old.Case) -> None:
    params = old.torch_parameters(case, weights_before("torch", case))
    optimizer, plateau = old.torch_optimizer(case, params)
    optimizer.load_state_dict(torch.load(old.OLD / "torch" / f"{case.name}.pt", weights_only=True))
    before = old.torch_values(params, optimizer)
    steps = old.torch_stepping(case, params, optimizer, plateau, old.STEPS_BEFORE + 1, max(old.COMPARED))
    check("torch", case, before, {done: old.torch_values(params, optimizer) for done in steps}, ENGINE_ULPS)


@pytest.mark.parametrize("case", old.IN_NUMPY, ids=str)
def test_numpy_state_dicts(case: old.Case) -> None:
    params = old.numpy_parameters(case, weights_before("numpy", case))
    optimizer, plateau = old.numpy_optimizer(case, params)
    with np.load(old.OLD / "numpy" / f"{case.name}.npz") as saved:
        optimizer.load_state_dict(saved)
    before = old.numpy_values(params, optimizer)
    steps = old.numpy_stepping(case, params, optimizer, plateau, old.STEPS_BEFORE + 1, max(old.COMPARED))
    check("numpy", case, before, {done: old.numpy_values(params, optimizer) for done in steps}, ENGINE_ULPS)


def test_a_pickled_optimizer_of_torch() -> None:
    case = old.BY_NAME["adam-int8"]
    optimizer = torch.load(old.OLD / "pickles" / f"{case.name}.pt", weights_only=False)
    params = dict(zip(case.shapes, optimizer.param_groups[0]["params"], strict=True))
    before = old.torch_values(params, optimizer)
    steps = old.torch_stepping(case, params, optimizer, None, old.STEPS_BEFORE + 1, max(old.COMPARED))
    check("torch", case, before, {done: old.torch_values(params, optimizer) for done in steps}, ENGINE_ULPS)


def test_a_pickled_optimizer_of_numpy() -> None:
    case = old.BY_NAME["sgd-int8"]
    optimizer = pickle.loads((old.OLD / "pickles" / f"{case.name}.pickle").read_bytes())
    params = dict(zip(case.shapes, optimizer.param_groups[0]["params"], strict=True))
    before = old.numpy_values(params, optimizer)
    steps = old.numpy_stepping(case, params, optimizer, None, old.STEPS_BEFORE + 1, max(old.COMPARED))
    check("numpy", case, before, {done: old.numpy_values(params, optimizer) for done in steps}, ENGINE_ULPS)


@pytest.mark.parametrize("case", [case for case in old.IN_OPTAX if case.options.get("state") != "int8"], ids=str)
def test_optax_states(case: old.OptaxCase) -> None:
    jax = pytest.importorskip("jax")
    serialization = pytest.importorskip("flax.serialization")
    tx = old.optax_optimizer(case)
    params = old.optax_parameters(case, weights_before("optax", case))
    state = serialization.from_bytes(tx.init(params), (old.OLD / "optax" / f"{case.name}.msgpack").read_bytes())
    pickled = pickle.loads((old.OLD / "optax" / f"{case.name}.pickle").read_bytes())
    assert jax.tree.structure(pickled) == jax.tree.structure(state)
    assert all(map(np.array_equal, jax.tree.leaves(pickled), jax.tree.leaves(state)))
    before = old.optax_values(params, state)
    after = {
        done: old.optax_values(params, state)
        for done, params, state in old.optax_steps(case, tx, params, state, old.STEPS_BEFORE + 1, max(old.COMPARED))
        if done in old.COMPARED
    }
    check("optax", case, before, after, JAX_ULPS)


def test_an_optax_state_in_8_bits_is_refused_and_can_be_converted() -> None:
    jax = pytest.importorskip("jax")
    serialization = pytest.importorskip("flax.serialization")
    (case,) = [case for case in old.IN_OPTAX if case.options.get("state") == "int8"]
    tx = old.optax_optimizer(case)
    params = old.optax_parameters(case, weights_before("optax", case))
    fresh = tx.init(params)
    state = pickle.loads((old.OLD / "optax" / f"{case.name}.pickle").read_bytes())
    with pytest.raises(ValueError, match=r"'exp_avg_scale', so it is of an earlier version.*to_optax"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match="'exp_avg_scale', so it is of an earlier version"):
        convert.to_optax(convert.from_optax(params, state), params, state)
    with pytest.raises(ValueError, match="exp_avg_grid"):
        serialization.from_bytes(fresh, (old.OLD / "optax" / f"{case.name}.msgpack").read_bytes())

    params, state = convert.to_optax(convert.from_optax(params, state), params, fresh)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    assert state.count == old.STEPS_BEFORE
    before = params["layer"]["weight"]
    _, params, _ = next(old.optax_steps(case, tx, params, state, old.STEPS_BEFORE + 1, 1))
    saved = old.load_arrays(old.OLD / "optax" / f"{case.name}.expected.npz")
    want = old.at(saved, "after1")["params['layer']['weight']"]
    began, got = (np.asarray(x).reshape(-1)[::11] for x in (before, params["layer"]["weight"]))
    assert np.linalg.norm(got - want) <= 0.03 * np.linalg.norm(want - began)


def test_a_checkpoint_of_convert() -> None:
    model = old.torch_model()
    optimizer = adamas.torch.AdamW(model.named_parameters(), lr=0.02)
    convert.to_torch(convert.load(old.OLD / "others" / "convert.npz"), model, optimizer)
    before = {name: old.array_of(p) for name, p in model.named_parameters()}
    old.train_model(model, optimizer, old.STEPS_BEFORE + 1, 3)
    want = old.load_arrays(old.OLD / "others" / "convert.expected.npz")
    got = {name: old.array_of(p) for name, p in model.named_parameters()}
    old.assert_same(got, want, before, ENGINE_ULPS, "convert")


def test_a_scheduler_of_another_optimizer() -> None:
    optimizer, scheduler, plateau = old.scheduled_optimizer()
    saved = torch.load(old.OLD / "others" / "lr_scheduler.pt", weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    rates = list(old.scheduled_rates(optimizer, scheduler, plateau, old.STEPS_BEFORE + 1, 3))
    assert rates == json.loads((old.OLD / "others" / "lr_scheduler.expected.json").read_text())


def as_now(config: str) -> str:
    """A run's or study's settings as if it had begun with the PyTorch that is here: another one is refused, rightly."""
    return config.replace(json.dumps(WRITER["torch"]), json.dumps(str(torch.__version__)))


@pytest.mark.parametrize("name", old.RUNS)
def test_runs(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = tmp_path / name
    shutil.copytree(old.OLD / "lab" / name, run)
    (run / "config.json").write_text(as_now((run / "config.json").read_text()))
    begun = load_file(run / "model.safetensors")
    old.command("train", str(old.OLD / "task.py"), "--resume", str(run), "--epochs", "4")
    got, want = load_file(run / "model.safetensors"), load_file(old.OLD / "lab" / f"{name}.expected.safetensors")
    assert got.keys() == want.keys()
    for key, weights in want.items():
        # Sums of a matrix product are PyTorch's, and are rounded otherwise on another processor.
        torch.testing.assert_close(got[key], weights, rtol=2e-2 if weights.dtype == torch.bfloat16 else 1e-5, atol=1e-5)
        assert not torch.equal(begun[key], weights)
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_study_that_was_not_complete(tmp_path: Path) -> None:
    study = shutil.copy(old.OLD / "lab" / "study.sqlite", tmp_path)
    with sqlite3.connect(study) as connection:
        for key, value in connection.execute("SELECT key, value FROM study").fetchall():
            connection.execute("UPDATE study SET value = ? WHERE key = ?", (as_now(value), key))
    connection.close()
    old.command("compare", study)
    connection = sqlite3.connect(study)
    rows = connection.execute("SELECT optimizer, phase, number, seed, value FROM trials ORDER BY 1, 2, 3, 4").fetchall()
    connection.close()
    want = json.loads((old.OLD / "lab" / "study.expected.json").read_text())
    assert [row[:4] for row in map(list, rows)] == [row[:4] for row in want]
    assert [row[4] for row in rows] == pytest.approx([row[4] for row in want], rel=1e-5)
