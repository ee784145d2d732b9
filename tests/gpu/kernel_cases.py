"""The table that the tests of the kernels run over: members, and how their moments and weights are stored."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from members import CASES, Case, has
from torch import Tensor

from adamas.step import gpu
from adamas.step import kernels as step_kernels
from adamas.torch import Optimizer
from adamas.torch.storage import is_coded

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
STATES = ("float32", "bfloat16", "int8", "int6", "mixed")
WEIGHTS = (
    (torch.float32, "nearest", torch.float32),
    (torch.bfloat16, "nearest", torch.bfloat16),
    (torch.bfloat16, "stochastic", torch.float32),
    (torch.bfloat16, "split", torch.bfloat16),
    (torch.float16, "nearest", torch.bfloat16),
    (torch.float16, "stochastic", torch.float16),
    (torch.float16, "split", torch.float32),
    (torch.float64, "nearest", torch.float64),
    (torch.float32, "nearest", torch.float64),
    (torch.complex64, "nearest", torch.complex64),
)
# Whole tiles alone, whole ones and a rest, rows that no block divides, rows shorter than a block, and stacks of matrices.
SHAPES: tuple[Sequence[tuple[int, ...]], ...] = (
    ((33, 128), (7,)),
    ((21, 200), (16, 128)),
    ((3, 11, 128), (1,), ()),
    ((64, 65), (3000,)),
    ((6, 785), (0, 4)),
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1},
    {"l1": 0.01},
    {"maximize": True},
    {"weight_decay": 0.1, "decay": "cautious"},
    {"weight_decay": 0.1, "decay": "corrected"},
    {"weight_decay": 0.1, "cautious": True},
)


class Row(NamedTuple):
    """One row of the table."""

    case: Case
    state: str
    weights: tuple[torch.dtype, str, torch.dtype]
    shapes: Sequence[tuple[int, ...]]
    options: dict[str, Any]

    def __str__(self) -> str:
        dtype, rounding, gradient = self.weights
        names = (self.case.name, self.state, dtype, rounding, gradient, self.shapes[0], *self.options)
        return "-".join(str(x).removeprefix("torch.").replace(" ", "") for x in names)


def every_row() -> list[Row]:
    """Members × moments × weights; shapes and options take turns."""
    found = list[Row]()
    for case, state, weights in itertools.product(CASES, STATES, WEIGHTS):
        if has(case, {"state": state}) and (state == "float32" or not weights[0].is_complex):
            i = len(found)
            options = [one for one in OPTIONS if has(case, one)]
            found.append(Row(case, state, weights, SHAPES[i % len(SHAPES)], options[i % len(options)]))
    return found


def by_pairs() -> list[Row]:
    """Rows in which each pair occurs of a member, how its moments and how its weights are stored."""
    rows = every_row()
    pairs = [{(a, id(x), b, id(y)) for (a, x), (b, y) in itertools.combinations(enumerate(row[:3]), 2)} for row in rows]
    left, found = set[Any]().union(*pairs), list[Row]()
    while left:
        best = max(range(len(rows)), key=lambda i: len(pairs[i] & left))
        found.append(rows[best])
        left -= pairs[best]
    return found


def state_of(row: Row) -> Any:
    """The format of the moments; "mixed" has three formats in turn."""
    names = row.case.declared.states
    return (
        dict(zip(names, itertools.cycle(("int8", "bfloat16", "int6")), strict=False))
        if row.state == "mixed"
        else row.state
    )


def begun(row: Row, device: str, **options: Any) -> tuple[Optimizer, list[torch.nn.Parameter]]:
    """An optimizer and its parameters, on a device."""
    dtype, rounding, _ = row.weights
    generator = torch.Generator().manual_seed(1)
    whole = [torch.randn(shape, generator=generator).to(dtype) for shape in row.shapes]
    params = [torch.nn.Parameter(x.to(device)) for x in whole]
    for p in params:
        p.grad_dtype = None
    given = {**row.case.options, **row.options, "state": state_of(row), "weights": rounding, "seed": 5, **options}
    return row.case.make([(f"p{i}", p) for i, p in enumerate(params)], **given), params


def gradients(row: Row, steps: int) -> Iterator[list[Tensor]]:
    """Gradients with columns of very different sizes, so that blocks take different grids, and with zeros."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        found = []
        for shape in row.shapes:
            sizes = 10.0 ** torch.empty(shape[-1:]).uniform_(-3, 1, generator=generator)
            g = torch.randn(shape, generator=generator) * sizes
            g *= torch.rand(shape, generator=generator) > 0.1
            found.append(g.to(row.weights[2]))
        yield found


def step(optimizer: Optimizer, params: list[torch.nn.Parameter], given: list[Tensor]) -> None:
    for p, g in zip(params, given, strict=True):
        p.grad = g.to(p.device, copy=True)
    optimizer.step()


def assert_same(one: Optimizer, other: Optimizer, is_marked: bool = False) -> None:
    """The moments of both have the same bits, and their weights are alike.

    Where a block ``is_marked`` as having what is not finite, the engine decays its moments after they are read, and so rounds
    twice.
    """
    for p, q in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        for name, x in one.state[p].items():
            y = other.state[q][name].to("cpu")
            if name == "weight_low_bits":
                continue
            if DEVICE == "cpu" or is_coded(x) or name.endswith("_grid") or not x.ndim:
                assert are_equal(x, y), name
            else:
                torch.testing.assert_close(x, y, rtol=4e-7 if x.dtype == torch.float32 else 1e-2, atol=1e-30)
        assert_weights_alike(p.detach(), q.detach().to("cpu"), is_marked)


def are_equal(x: Tensor, y: Tensor) -> bool:
    """Whether all numbers are equal, or NaN in both."""
    x, y = (torch.view_as_real(one) if one.is_complex() else one for one in (x, y))
    return x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())


def assert_weights_alike(p: Tensor, q: Tensor, is_marked: bool) -> None:
    """Equal in the interpreter; on a GPU, the update is estimated."""
    if DEVICE == "cpu" and not is_marked:
        assert are_equal(p, q)
    elif p.dtype in (torch.bfloat16, torch.float16):
        assert (p != q).to(torch.float32).mean() < 1e-2
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-6)
    else:
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-7, equal_nan=True)


def launches(monkeypatch: Any) -> list[str]:
    """A list to which each launch of a kernel adds the name of its rule."""
    made: list[str] = []
    call = gpu._Launch.__call__

    def counted(self: Any, *arguments: Any) -> None:
        made.append(self.kind.rule.name)
        call(self, *arguments)

    monkeypatch.setattr(gpu._Launch, "__call__", counted)
    return made


def kernels(monkeypatch: Any) -> tuple[list[Any], list[Any]]:
    """Two lists, to which kernels are added that are compiled without a launch, and that are launched.

    A kernel is the tuple of its kind and, if it computes one, the index of a sum.
    """
    compiled: list[Any] = []
    launched: list[Any] = []
    kernel_of = step_kernels.step_or_sum

    class Observed:
        def __init__(self, *kind: Any) -> None:
            self.kind, self.kernel = kind, kernel_of(*kind)

        def warmup(self, *arguments: Any, **options: Any) -> None:
            compiled.append(self.kind)
            self.kernel.warmup(*arguments, **options)

        def __getitem__(self, grid: Any) -> Any:
            launched.append(self.kind)
            return self.kernel[grid]

    monkeypatch.setattr(step_kernels, "step_or_sum", Observed)
    return compiled, launched
