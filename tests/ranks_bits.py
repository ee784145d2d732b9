"""What four processes check in ``test_distributed.py``: steps have the bits of one process, however the weights lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from layouts import LAYOUTS, Here, Shapes, Tensors, whole
from members import CASES, has
from ranks import Checks
from torch import Tensor
from torch.distributed.tensor import DTensor

import adamas.torch as at

check = Checks()

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
FEW = 8  # the steps of `make test-long`: RAdam's sixth is the first that it rectifies


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


Gradients = dict[str, "Tensor | None"]
Stream = Callable[[Shapes, int, torch.dtype], Gradients]  # the gradients of a step
Act = Callable[[at.Optimizer, int], None]  # what else is done after a step


def nothing(optimizer: at.Optimizer, step: int) -> None:
    """Is done after a step."""


class Run:
    """A run in one process, with what is to be the same elsewhere.

    Attributes:
        parameters: the parameters by name, after the run.
        optimizer: the optimizer.
        told: what ``tells`` was after each step.
    """

    def __init__(
        self,
        shapes: Shapes,
        make: Callable[..., at.Optimizer],
        dtype: torch.dtype = torch.float32,
        stream: Stream = gradients_of,
        after: Act = nothing,
        steps: int = STEPS,
    ) -> None:
        self.parameters: Tensors = {
            name: torch.nn.Parameter(w.clone()) for name, w in weights_of(shapes, dtype).items()
        }
        self.optimizer = make(self.parameters.items())
        self.told = []
        for step in range(steps):
            for name, gradient in stream(shapes, step, dtype).items():
                self.parameters[name].grad = gradient
            self.optimizer.step()
            after(self.optimizer, step)
            self.told.append(tells(self.optimizer))


def tells(optimizer: at.Optimizer) -> str:
    """The numbers of an optimizer and its groups; as text, since some may be NaN."""
    names = ("lr", "betas", "weight_decay", "clipped_steps", "skipped_steps", "grad_norms")
    groups = [[group.get(name) for name in names] for group in optimizer.state_dict()["param_groups"]]
    norm, limit = (None if x is None else float(x) for x in (optimizer.grad_norm, optimizer.grad_norm_limit))
    return f"{norm} {limit} {groups}"


def has_the_bits_of_one_process(
    layout: str,
    alone: Run,
    make: Callable[..., at.Optimizer],
    dtype: torch.dtype = torch.float32,
    stream: Stream = gradients_of,
    after: Act = nothing,
) -> at.Optimizer:
    """As many steps over four ranks end with the weights and the state of a run in one process, and each tells the same."""
    shapes = LAYOUTS[layout].shapes
    here = Here(LAYOUTS[layout], weights_of(shapes, dtype))
    optimizer = make(here.parameters.items())
    for step, told in enumerate(alone.told):
        here.give(stream(shapes, step, dtype))
        optimizer.step()
        after(optimizer, step)
        assert tells(optimizer) == told, (step, tells(optimizer), told)
    equal_states(here.parameters, optimizer, alone.parameters, alone.optimizer)
    return optimizer


_runs: dict[str, Run] = {}


def clips_with_the_bits_of_one_process(
    rank: int,
    layout: str,
    kind: type[at.Optimizer],
    dtype: torch.dtype = torch.float32,
    steps: int = STEPS,
    **options: Any,
) -> None:
    shapes, make = LAYOUTS[layout].shapes, partial(kind, max_grad_norm=1.0, **options)
    key = f"{shapes} {make} {dtype} {steps}"  # layouts of the same shapes have the same run
    if key not in _runs:
        _runs[key] = Run(shapes, make, dtype, steps=steps)
    optimizer = has_the_bits_of_one_process(layout, _runs[key], make, dtype)
    assert optimizer.clipped_steps == steps


def equal_states(ours: Tensors, optimizer: at.Optimizer, theirs: Tensors, alone: at.Optimizer) -> None:
    """The weights and states of parameters over several ranks have the bits of those of one process."""
    unequal = []  # told at the end, since all ranks of a mesh have to gather
    states, expected_states = saved_states(optimizer), saved_states(alone)
    for name, p in ours.items():
        state, expected_state = states[p], expected_states[theirs[name]]
        if not torch.equal(whole(p.detach()), theirs[name]):
            unequal.append(name)
        assert state.keys() == expected_state.keys(), (name, list(state), list(expected_state))
        for entry, expected in expected_state.items():
            is_scalar = entry in alone._member.scalar_names
            assert isinstance(state[entry], DTensor) == (isinstance(p, DTensor) and not is_scalar), (name, entry)
            if not torch.equal(whole(state[entry]), expected):
                unequal.append(f"{entry} of {name}")
    assert not unequal, unequal


def saved_states(optimizer: at.Optimizer) -> dict[Tensor, Any]:
    """The state of each parameter, as it is saved."""
    saved = optimizer.state_dict()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    return {p: saved["state"].get(key, {}) for p, key in zip(params, keys, strict=True)}


def _add(name: str, is_quick: bool, **arguments: Any) -> None:
    """A check that is nightly, and where it is quick also one of a few steps in `make test-long`."""
    check[name] = partial(clips_with_the_bits_of_one_process, **arguments)
    check.nightly.add(name)
    if is_quick:
        check[f"{name}, {FEW} steps"] = partial(clips_with_the_bits_of_one_process, steps=FEW, **arguments)


def _add_layouts() -> None:
    """All layouts in every format and weights mode; in `make test-long` each in a seventh of them."""
    combinations = [(state, weights) for state in STATES for weights in WEIGHTS]
    for i, (layout, is_divided) in enumerate((name, one.is_divided) for name, one in LAYOUTS.items()):
        usable = [one for one in combinations if not is_divided or one[0] not in ("int6", "mixed")]
        for j, (state, weights) in enumerate(usable):
            dtype, mode = WEIGHTS[weights]
            options = {"state": STATES[state], "weights": mode, "lr": 1e-2}
            name = f"{layout}: AdamW, {state} state, {weights} weights"
            _add(name, (j + i) % 7 == 0, layout=layout, kind=at.AdamW, dtype=dtype, **options)


def _add_members() -> None:
    """All members in two layouts, with codes where they have them; in `make test-long` each in one of the layouts."""
    for i, case in enumerate(CASES):
        for j, layout in enumerate(("rows", "rows and columns")):
            options = {**case.options, "state": "int8" if has(case, {"state": "int8"}) else "float32"}
            _add(f"{layout}: {case.name}", (i + j) % 2 == 0, layout=layout, kind=case.make, **options)


_add_layouts()
_add_members()
