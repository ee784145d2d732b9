"""What each of four processes does in ``test_distributed.py``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from layouts import LAYOUTS, Here, Shapes, Tensors, whole
from members import CASES, has
from ranks import Checks, main
from torch import Tensor

import adamas.torch as at

check = Checks()
nightly: set[str] = set()  # the checks that only `make test-nightly` makes

STATES: dict[str, Any] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "int6": "int6",
    "mixed": {"exp_avg": "int6", "exp_avg_sq": "int8"},
}
WEIGHTS: dict[str, tuple[torch.dtype, str]] = {
    "float32": (torch.float32, "nearest"),
    "nearest": (torch.bfloat16, "nearest"),
    "stochastic": (torch.bfloat16, "stochastic"),
    "split": (torch.bfloat16, "split"),
}
STEPS = 20


@cache
def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weights_of(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> Tensors:
    return {name: random(shape, i, dtype) for i, (name, shape) in enumerate(shapes.items())}


def gradients_of(shapes: dict[str, tuple[int, ...]], step: int, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """The gradients of a step, of several sizes."""
    return {
        name: random(shape, 100 * (step + 1) + i, dtype) * 2.0 ** (i - 3)
        for i, (name, shape) in enumerate(shapes.items())
    }


class Run:
    """A run in one process, with what is to be the same elsewhere."""

    def __init__(self, shapes: Shapes, make: Callable[..., at.Optimizer], dtype: torch.dtype, **options: Any) -> None:
        self.parameters: Tensors = {
            name: torch.nn.Parameter(w.clone()) for name, w in weights_of(shapes, dtype).items()
        }
        self.optimizer = make(self.parameters.items(), **options)
        self.norms = []
        for step in range(STEPS):
            for name, gradient in gradients_of(shapes, step, dtype).items():
                self.parameters[name].grad = gradient
            self.optimizer.step()
            self.norms.append(self.optimizer.grad_norm)


_runs: dict[str, Run] = {}


def run_alone(shapes: Shapes, make: Callable[..., at.Optimizer], dtype: torch.dtype, **options: Any) -> Run:
    """The run, made once in each process."""
    key = f"{shapes}{make}{dtype}{options}"
    if key not in _runs:
        _runs[key] = Run(shapes, make, dtype, **options)
    return _runs[key]


def has_the_bits_of_one_process(
    rank: int, layout: str, make: Callable[..., at.Optimizer], dtype: torch.dtype = torch.float32, **options: Any
) -> None:
    """Steps with clipping over four ranks end with the weights, the state and the norms of one process."""
    options.setdefault("max_grad_norm", 1.0)
    shapes = LAYOUTS[layout].shapes
    alone = run_alone(shapes, make, dtype, **options)
    here = Here(LAYOUTS[layout], weights_of(shapes, dtype))
    optimizer = make(here.parameters.items(), **options)
    for step in range(STEPS):
        here.give(gradients_of(shapes, step, dtype))
        optimizer.step()
        assert optimizer.grad_norm == alone.norms[step], step
    assert optimizer.clipped_steps == alone.optimizer.clipped_steps == STEPS
    equal_states(here.parameters, optimizer, alone.parameters, alone.optimizer)


def equal_states(ours: Tensors, optimizer: at.Optimizer, theirs: Tensors, alone: at.Optimizer) -> None:
    """The weights and states of parameters over several ranks have the bits of those of one process."""
    for name, p in ours.items():
        q = theirs[name]
        assert torch.equal(whole(p.detach()), q), name
        assert optimizer.state[p].keys() == alone.state[q].keys(), name
        for entry, expected in alone.state[q].items():
            found = optimizer.state[p][entry]
            if entry in alone._member.scalar_names:
                assert not hasattr(found, "placements"), (name, entry)
            assert torch.equal(whole(found), expected), (name, entry)


def _add_layouts() -> None:
    """All layouts in every format and weights mode; in `make test` each in a quarter of them."""
    combinations = [(state, weights) for state in STATES for weights in WEIGHTS]
    for i, (layout, is_coded) in enumerate((name, one.has_codes) for name, one in LAYOUTS.items()):
        usable = [one for one in combinations if is_coded or one[0] in ("float32", "bfloat16")]
        for j, (state, weights) in enumerate(usable):
            dtype, mode = WEIGHTS[weights]
            options = {"state": STATES[state], "weights": mode, "lr": 1e-2}
            name = f"{layout}: AdamW, {state} state, {weights} weights"
            check[name] = partial(has_the_bits_of_one_process, layout=layout, make=at.AdamW, dtype=dtype, **options)
            if (j + i) % 4:
                nightly.add(name)


def _add_members() -> None:
    """All members in two layouts, with codes where they have them; in `make test` each in one of the layouts."""
    for i, case in enumerate(CASES):
        for j, layout in enumerate(("rows", "rows and columns")):
            options = {**case.options, "state": "int8" if has(case, {"state": "int8"}) else "float32"}
            name = f"{layout}: {case.name}"
            check[name] = partial(has_the_bits_of_one_process, layout=layout, make=case.make, **options)
            if (i + j) % 2:
                nightly.add(name)


_add_layouts()
_add_members()

if __name__ == "__main__":
    main(check)
