"""Steps every member in every way with two versions of Adamas, and reports where they differ.

    python benchmarks/compare_engines.py OLD NEW [--instruction-set avx2] [--only adam]

OLD and NEW are checkouts with their engines built, or the Pythons of virtual environments. Each case is a member with its
options, a storage format, a dtype of the weights with ``weights=``, contiguous and strided parameters of odd lengths, and 20
steps: decay, penalties, clipping, rates of 0, gradients of 0, moments that become subnormal, large gradients, infinities and
NaN. Both versions make the same steps, each in its own process, through ``adamas.torch`` and ``adamas.numpy``; then weights
and states are compared. Integers must be equal, floats at most 2 units in the last place (``--ulps``) apart.

Prints each kind of case that differs, with the number of elements and the largest distance. The exit status is 1 if a distance
is larger than allowed. On two cores it takes about a minute per instruction set.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STEPS = 20
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.02, "momentum": 0.9, "dampening": 0.1}),
    "nesterov": ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "eps_root": 1e-8}),
    "rmsprop-momentum": ("RMSprop", {"lr": 0.003, "momentum": 0.8}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.01, "centered": True}),
    "rmsprop-centered-momentum": ("RMSprop", {"lr": 0.003, "momentum": 0.8, "centered": True}),
    "adam": ("Adam", {"lr": 0.02}),
    "adam-hat": ("Adam", {"lr": 0.02, "eps_mode": "hat", "eps": 1e-4}),
    "adam-uncorrected": ("Adam", {"lr": 0.02, "bias_correction": False, "eps_root": 1e-8}),
    "amsgrad": ("Adam", {"lr": 0.02, "amsgrad": True}),
    "adamax": ("Adamax", {"lr": 0.02}),
    "nadam": ("NAdam", {"lr": 0.02}),
    "radam": ("RAdam", {"lr": 0.02}),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "coupled": {"weight_decay": 0.1, "decay": "l2", "l1": 0.01, "maximize": True, "seed": 5},
    "clipped": {"weight_decay": 0.1, "decay": "decoupled", "max_grad_norm": 2.0, "on_nonfinite": "skip"},
}
STATES = ("float32", "bfloat16", "int8", "mixed")
WEIGHTS = (
    ("float32", "nearest"),
    ("float64", "nearest"),
    ("complex64", "nearest"),
    *itertools.product(("bfloat16", "float16"), ("nearest", "stochastic", "split")),
)
IN_NUMPY = (("float32", "nearest"), ("bfloat16", "split"), ("float16", "stochastic"))
# Tensors with two dimensions have 8-bit moments. Some are every second row or column of a larger tensor.
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "matrix": ((33, 131), "whole"),
    "rows": ((37, 128), "rows"),
    "columns": ((41, 113), "columns"),
    "turned": ((60, 3, 23), "turned"),
    "poisoned": ((32, 129), "whole"),
    "tiny": ((8, 43), "whole"),
    "line": ((267,), "whole"),
    "strided": ((259,), "rows"),
    "short": ((7,), "whole"),
    "single": ((1,), "whole"),
    "number": ((), "whole"),
    "empty": ((0, 4), "whole"),
}


@dataclass(frozen=True)
class Case:
    """A tensor to step, with its options."""

    adapter: str
    member: str
    setting: str
    state: str
    dtype: str
    weights: str

    def options(self) -> dict[str, Any]:
        """The options of the optimizer."""
        mixed = {"SGD": {"momentum_buffer": "int8"}, "Adagrad": {"sum": "bfloat16"}, "RMSprop": {"square_avg": "int8"}}
        adam = {"exp_avg": "int8", "exp_avg_sq": "bfloat16"}
        adamax = {"exp_avg": "bfloat16", "exp_inf": "int8"}
        name, own = MEMBERS[self.member]
        state: Any = {**mixed, "Adamax": adamax}.get(name, adam) if self.state == "mixed" else self.state
        return {**own, **SETTINGS[self.setting], "state": state, "weights": self.weights}


def cases(only: str) -> Iterator[Case]:
    """All valid cases, in a fixed order."""
    for adapter, member, setting, state in itertools.product(("torch", "numpy"), MEMBERS, SETTINGS, STATES):
        for dtype, weights in WEIGHTS if adapter == "torch" else IN_NUMPY:
            case = Case(adapter, member, setting, state, dtype, weights)
            is_reduced = state != "float32"
            if is_reduced and (MEMBERS[member][1].get("centered") or dtype == "complex64"):
                continue
            if only in member:
                yield case


# ---- one version


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Normally distributed numbers, whose size differs widely between rows."""
    draw = np.random.default_rng(seed).standard_normal(shape)
    return draw * 10.0 ** -(np.arange(shape[0]) % 4).reshape(-1, *[1] * (len(shape) - 1)) if shape else draw


GRADIENTS = [[numbers(shape, 100 * step + i) for i, (shape, _) in enumerate(SHAPES.values())] for step in range(STEPS)]
IMAGINARY = [numbers(shape, 7000 + i) for i, (shape, _) in enumerate(SHAPES.values())]


def gradients(case: Case, step: int) -> list[np.ndarray]:
    """The gradients of a step: 0 in the 6th, tiny from the 10th to the 13th, huge in the 15th, nonfinite from the 17th on.

    Gradients of ``tiny`` are so small that their squares are subnormal, and later they themselves.
    """
    scale = 0.0 if step == 5 else 1e-9 if 9 <= step <= 12 else 300.0 if step == 14 else 0.1
    result = []
    for name, x, imaginary in zip(SHAPES, GRADIENTS[step], IMAGINARY, strict=True):
        scaled = x * (scale * (1e-17 if step < 9 else 1e-36) if name == "tiny" else scale)
        if case.dtype == "complex64":
            scaled = scaled + 1j * imaginary * np.abs(scaled)
        if name == "poisoned" and step >= 16:
            scaled.reshape(-1)[step :: step + 1] = (np.inf, np.nan, -np.inf, np.inf)[step - 16]
        result.append(scaled)
    return result


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The array with the memory layout of ``SHAPES``."""
    if layout == "rows":
        return np.repeat(x, 2, axis=0)[::2]
    if layout == "columns":
        return np.repeat(x, 2, axis=-1)[..., ::2]
    return np.ascontiguousarray(x.T).T if layout == "turned" else np.array(x, order="C")


def array_dtype(name: str) -> np.dtype[Any]:
    """The dtype of NumPy, or of ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def stepped(case: Case) -> dict[str, np.ndarray]:
    """Weights and states after all steps; bfloat16 as its bits in uint16."""
    arrays = {
        name: laid_out((numbers(shape, i) + (1j * IMAGINARY[i] if case.dtype == "complex64" else 0)), layout)
        for i, (name, (shape, layout)) in enumerate(SHAPES.items())
    }
    result = torch_stepped(case, arrays) if case.adapter == "torch" else numpy_stepped(case, arrays)
    return {name: x.view(np.uint16) if x.dtype == ml_dtypes.bfloat16 else x for name, x in result.items()}


def torch_stepped(case: Case, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See ``stepped``."""
    import torch

    import adamas.torch

    dtype = getattr(torch, case.dtype)

    def tensor(x: np.ndarray, layout: str) -> Any:
        """A tensor with the dtype of the case, and the memory layout of the array."""
        if layout == "turned":
            return torch.from_numpy(np.ascontiguousarray(x.T)).to(dtype).permute(*reversed(range(x.ndim)))
        if layout == "rows":
            return torch.from_numpy(np.repeat(x, 2, axis=0)).to(dtype)[::2]
        if layout == "columns":
            return torch.from_numpy(np.repeat(x, 2, axis=-1)).to(dtype)[..., ::2]
        return torch.from_numpy(np.array(x, order="C")).to(dtype)

    def plain(x: Any) -> np.ndarray:
        x = x.detach().resolve_conj().contiguous()
        return (
            x.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
            if x.dtype == torch.bfloat16
            else x.numpy().copy()
        )

    layouts = [layout for _, layout in SHAPES.values()]
    params = {
        name: torch.nn.Parameter(tensor(x, layout)) for (name, x), layout in zip(arrays.items(), layouts, strict=True)
    }
    optimizer = getattr(adamas.torch, MEMBERS[case.member][0])(params.items(), **case.options())
    lr = optimizer.param_groups[0]["lr"]
    for step in range(STEPS):
        for p, x, layout in zip(params.values(), gradients(case, step), layouts, strict=True):
            given = tensor(x, layout if step % 2 else "whole")
            p.grad_dtype = None  # any
            p.grad = given if step % 3 or p.dtype == torch.complex64 else given.bfloat16()
        optimizer.param_groups[0]["lr"] = 0.0 if step in (7, 8) else lr
        optimizer.step()
    result = {}
    for name, p in params.items():
        result[name] = plain(p)
        for key, x in optimizer.state[p].items():
            # Low bits were 16-bit integers, and are the two bytes of each.
            is_bytes = key == "weight_low_bits" and x.dtype == torch.uint8
            result[f"{name}/{key}"] = plain(x.view(torch.int16).squeeze(-1) if is_bytes else x)
    return result


def numpy_stepped(case: Case, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See ``stepped``."""
    import adamas.numpy

    dtype = array_dtype(case.dtype)
    params = {}
    for (name, x), (_, layout) in zip(arrays.items(), SHAPES.values(), strict=True):
        params[name] = laid_out(x.astype(dtype), layout)
    optimizer = getattr(adamas.numpy, MEMBERS[case.member][0])(params, **case.options())
    lr = optimizer.param_groups[0]["lr"]
    with np.errstate(all="ignore"):
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 0.0 if step in (7, 8) else lr
            optimizer.step([x.astype(np.float32) for x in gradients(case, step)])
    result = {name: p.copy() for name, p in params.items()}
    for name, state in optimizer.state.items():
        result.update({f"{name}/{key}": np.array(x) for key, x in state.items()})
    return result


def run(instruction_set: str, only: str) -> None:
    """Steps all cases, and writes the results to standard output."""
    import torch

    from adamas import _engine

    torch.set_num_threads(1)
    _engine.use_instruction_set(instruction_set)
    out = sys.stdout.buffer
    for case in cases(only):
        pickle.dump(stepped(case), out, protocol=5)
        out.flush()


# ---- two versions


@dataclass
class Difference:
    """The differences in the cases of a kind."""

    cases: int = 0
    integers: int = 0
    floats: int = 0
    ulps: float = 0.0
    where: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)


def ordered(x: np.ndarray) -> np.ndarray:
    """Floats as consecutive integers in the same order; both zeros are 0."""
    bits = x.view(f"i{x.itemsize}").astype(np.int64)
    lowest = -(1 << (8 * x.itemsize - 1))
    return np.where(bits < 0, lowest - bits, bits)


def compare(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], found: Difference) -> None:
    """Adds the differences between two results to ``found``."""
    if a.keys() != b.keys():
        found.where |= a.keys() ^ b.keys()
        found.ulps = np.inf
    for name in a.keys() & b.keys():
        x, y = a[name], b[name]
        if x.dtype != y.dtype or x.shape != y.shape:
            found.where.add(name)
            found.ulps = np.inf
            continue
        x, y = x.reshape(-1), y.reshape(-1)
        if np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            continue
        if x.dtype.kind == "c":
            x, y = x.view(f"f{x.itemsize // 2}"), y.view(f"f{y.itemsize // 2}")
        if x.dtype == np.uint16:
            x, y = x.view(ml_dtypes.bfloat16), y.view(ml_dtypes.bfloat16)
        if name.endswith("weight_low_bits"):  # units in the last place of a float32 weight, which go round
            distance = np.abs((x - y).astype(np.int64))
        elif x.dtype.kind in "iu":
            unequal = int(np.count_nonzero(x != y))
            found.integers += unequal
            if unequal:
                found.where.add(name)
            continue
        else:
            both = np.isnan(x) & np.isnan(y)
            distance = np.where(both, 0, np.abs(ordered(x) - ordered(y)).astype(np.float64))
            distance[np.isnan(x) != np.isnan(y)] = np.inf
        if distance.any():
            found.floats += int(np.count_nonzero(distance))
            found.ulps = max(found.ulps, float(distance.max()))
            found.where.add(name)


def started(version: str, instruction_set: str, only: str) -> subprocess.Popen[bytes]:
    """A process of this version that runs all cases."""
    path, environment = Path(version).absolute(), dict(os.environ, OMP_NUM_THREADS="1")
    python = str(path)
    if path.is_dir():
        own = path / ".venv" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        environment["PYTHONPATH"] = str(path / "src")
    return subprocess.Popen(
        [python, __file__, "--run", instruction_set, "--only", only], stdout=subprocess.PIPE, env=environment
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", metavar="OLD NEW")
    parser.add_argument("--instruction-set", action="append", help="one of the machine's; by default each of them")
    parser.add_argument("--only", default="", help="members whose names contain this")
    parser.add_argument("--ulps", type=float, default=2.0, help="how far floats may be apart")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.only)
        return 0
    if len(options.versions) != 2:
        parser.error("give two versions, OLD and NEW")
    from adamas import _engine

    kinds: dict[tuple[str, ...], Difference] = {}
    for instruction_set in options.instruction_set or _engine.instruction_sets():
        processes = [started(version, instruction_set, options.only) for version in options.versions]
        for case in cases(options.only):
            kind = (instruction_set, case.adapter, case.member, case.state, f"{case.dtype} {case.weights}")
            found = kinds.setdefault(kind, Difference())
            found.cases += 1
            try:
                a, b = (pickle.load(process.stdout) for process in processes)  # type: ignore[arg-type]
            except EOFError:
                raise SystemExit(f"a version cannot run the case {case}: see its output above") from None
            before = found.integers, found.floats
            compare(a, b, found)
            if before != (found.integers, found.floats):
                found.settings.add(case.setting)
        for process in processes:
            process.wait()
    differing = {kind: found for kind, found in kinds.items() if found.where}
    for kind, found in differing.items():
        names = sorted(found.where, key=lambda name: (name.count("/"), name))
        first = f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({', '.join(sorted(found.settings))})"
        print(
            f"{' '.join(f'{part:<9}' for part in kind)} {found.integers:>7} integers {found.floats:>7} floats, up to "
            f"{found.ulps:g} ulp: {first}"
        )
    failed = sum(found.integers > 0 or found.ulps > options.ulps for found in differing.values())
    total = sum(found.cases for found in kinds.values())
    print(f"{total} cases of {len(kinds)} kinds: {len(differing)} kinds differ, {failed} by more than is allowed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
