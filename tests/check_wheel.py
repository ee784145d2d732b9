"""What an installed wheel has to do on any Python, with NumPy alone: ``python tests/check_wheel.py``.

Not a part of the suite: it needs neither pytest nor a framework, so that it runs in the environment of somebody who has
just installed Adamas. Every member is stepped in every format by each set of instructions that the processor has, and compared
with its rule over NumPy arrays. Ends with a traceback where something is wrong.
"""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np

import adamas
import adamas.numpy
from adamas import _engine
from adamas.numpy import Optimizer
from adamas.schedules import Plateau, cosine, from_json, parse, warmup

PARTS = (
    *("convert", "lr_finding", "numpy", "rule.formats", "rule.hyperparameters", "rule.layout", "rule.members"),
    *("schedules", "schedules.expression", "step"),
)
MEMBERS = [
    (getattr(adamas.numpy, name), options)
    for name in adamas.numpy.members.__all__
    for options in {
        "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
        "Adam": [{}, {"amsgrad": True}],
        "RMSprop": [{}, {"momentum": 0.8}, {"centered": True}],
        "ADOPT": [{"lr": 0.1}],
        "LARS": [{"lr": 10.0}],
        "Muon": [{"lr": 0.1}],
        "SGDScheduleFree": [{"lr": 1.0}],
        "Prodigy": [{"lr": 1.0, "d0": 0.01}],
    }.get(name, [{}])
]
# How far float32 weights may be from those of the rule in float64, as a share of how far these moved; float16 ones: 0.1.
ERRORS = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.05}


def stepped(optimizer: Optimizer, count: int) -> Optimizer:
    """The optimizer after ``count`` more steps, with gradients that depend on the weights."""
    for _ in range(count):
        optimizer.step([np.cos(p.astype(np.float64) * 3).astype(p.dtype) for p in weights(optimizer)])
    return optimizer


def weights(optimizer: Optimizer) -> list[np.ndarray]:
    """The arrays that it steps."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def start(dtype: type) -> list[np.ndarray]:
    """A matrix that is large enough for 8 bits, and a vector."""
    random = np.random.default_rng(0)
    return [random.normal(size=(64, 96)).astype(dtype), random.normal(size=3).astype(dtype)]


def groups(member: type[Optimizer], arrays: list[np.ndarray]) -> list[Any]:
    """What it is made from: vectors are no matrices."""
    matrix, vector = arrays
    if member is not adamas.numpy.Muon:
        return arrays
    return [{"params": [matrix]}, {"params": [vector], "use_muon": False}]


@contextmanager
def without_engine() -> Iterator[None]:
    """Optimizers that are made meanwhile step by NumPy's operations, as their rule is written."""
    os.environ["ADAMAS_EXECUTOR"] = "arrays"
    yield
    del os.environ["ADAMAS_EXECUTOR"]


def check_member(member: type[Optimizer], options: dict[str, object], state: str, mode: str, dtype: type) -> None:
    """Steps it, and compares with its rule in float64, and with what goes on from a copy, a pickle and a file."""
    given = {"lr": 0.01, **options}
    optimizer = stepped(member(groups(member, start(dtype)), state=state, weights=mode, **given), 4)
    with without_engine():
        exact = stepped(member(groups(member, start(np.float64)), **given), 4)
    allowed = max(ERRORS[state], 0.1 if dtype is np.float16 else 0.0)
    for p, q, begun in zip(weights(optimizer), weights(exact), start(np.float64), strict=True):
        moved = np.linalg.norm(q - begun)
        assert moved > 0.01
        assert np.linalg.norm(p - q) < allowed * moved, (member, options, state, mode, dtype)

    file = io.BytesIO()
    np.savez(file, **optimizer.state_dict())
    file.seek(0)
    resumed = member(groups(member, [p.copy() for p in weights(optimizer)]), state=state, weights=mode)
    with np.load(file, allow_pickle=False) as saved:
        resumed.load_state_dict(saved)
    others = [resumed, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    stepped(optimizer, 2)
    for other in others:
        for p, q in zip(weights(optimizer), weights(stepped(other, 2)), strict=True):
            assert np.array_equal(p, q), (member, options, state, mode, dtype)


def check_schedules() -> None:
    """A schedule is a value: text, JSON and pickles give it back, and an optimizer follows it."""
    schedule = parse("3e-4 * warmup(10).then(cosine(20))")
    assert schedule == 3e-4 * warmup(10).then(cosine(20)) == from_json(schedule.to_json())
    assert schedule == pickle.loads(pickle.dumps(schedule))
    plateau = Plateau(patience=0)
    optimizer = adamas.numpy.AdamW(start(np.float32), lr=schedule * plateau)
    assert stepped(optimizer, 5).param_groups[0]["lr"] == schedule(5)
    plateau.observe(1.0), plateau.observe(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.1 * schedule(5)


def main() -> None:
    """All of it."""
    assert metadata.version("adamas") == adamas.__version__
    for part in PARTS:
        importlib.import_module(f"adamas.{part}")
    check_schedules()
    modes = ("nearest", "stochastic", "split")
    count, sets, best = 0, _engine.instruction_sets(), _engine.instruction_set()
    for instructions, (member, options), state, mode, dtype in itertools.product(
        sets, MEMBERS, ERRORS, modes, (np.float16, np.float32, np.float64)
    ):
        if options.get("centered") and state != "float32":
            continue  # a difference of two averages is kept in float32 alone
        if member is adamas.numpy.Adafactor and state != "float32":
            continue  # as the means of rows and columns
        _engine.use_instruction_set(instructions)
        check_member(member, options, state, mode, dtype)
        count += 1
    _engine.use_instruction_set(best)
    print(
        f"Python {sys.version.split()[0]}, NumPy {np.__version__}, {adamas.engine_info()}, {sets}: {count} combinations"
    )


if __name__ == "__main__":
    main()
