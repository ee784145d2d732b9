"""Streams of gradients that are hard for storage formats, and a closed loop that measures a format on them.

For ``bench_formats.py`` and the tests. A stream is a function of a seed that yields the gradients of one step after another,
without end. Where nothing else is said, they are Gaussian.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import mean

import torch
from torch import Tensor, nn

import adamas.torch

Stream = Callable[[int], Iterator[Tensor]]
Make = Callable[..., torch.optim.Optimizer]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_sizes(rows: int, sizes: Callable[[torch.Generator], Tensor]) -> Stream:
    """Columns with sizes that are drawn once."""

    def gradients(seed: int) -> Iterator[Tensor]:
        generator = seeded(seed)
        size = sizes(generator)
        while True:
            yield torch.randn(rows, len(size), generator=generator) * size

    return gradients


def columns(spread: float, rows: int = 48) -> Stream:
    """Columns that differ in size by up to a factor of ``spread``, uniformly in the logarithm."""
    return of_sizes(rows, lambda generator: 1e-3 * spread ** -torch.rand(1024, generator=generator))


def scaled(count: int, ratio: float) -> Stream:
    """The first ``count`` of 128 columns are ``ratio`` times as large as the others."""
    return of_sizes(48, lambda generator: 1e-3 * torch.where(torch.arange(1024) % 128 < count, ratio, 1.0))


def alike(rows: int, length: int, size: float = 1.0) -> Stream:
    return of_sizes(rows, lambda generator: torch.full((length,), size))


def heavy_tails(scale: Callable[[int], float]) -> Stream:
    """Student's t with two degrees of freedom, times ``scale`` of the step."""

    def gradients(seed: int) -> Iterator[Tensor]:
        generator = seeded(seed)
        for step in itertools.count():
            x, *squared = torch.randn(3, 64, 128, generator=generator)
            yield x / (torch.stack(squared).square().mean(0).sqrt() + 1e-3) * scale(step)

    return gradients


def sparse(shape: tuple[int, ...], probability: Tensor | float) -> Stream:
    """Elements that are not 0 with these probabilities; with probabilities of shape (rows, 1), whole rows."""

    def gradients(seed: int) -> Iterator[Tensor]:
        generator = seeded(seed)
        share = torch.as_tensor(probability)
        drawn = share.shape if share.ndim else shape
        while True:
            yield torch.randn(shape, generator=generator) * (torch.rand(drawn, generator=generator) < share)

    return gradients


def dead_columns(count: int, since: int = 0) -> Stream:
    """From the step ``since``, ``count`` of 128 columns have no gradient."""

    def gradients(seed: int) -> Iterator[Tensor]:
        generator = seeded(seed)
        dead = torch.randperm(128, generator=generator)[:count]
        for step in itertools.count():
            g = torch.randn(64, 128, generator=generator)
            if step >= since:
                g[:, dead] = 0
            yield g

    return gradients


def moving(count: int, ratio: float) -> Stream:
    """Of 256 columns, ``count`` are ``ratio`` times as large as the others: every 50 steps other ones."""

    def gradients(seed: int) -> Iterator[Tensor]:
        generator = seeded(seed)
        for step in itertools.count():
            if step % 50 == 0:
                large = torch.randperm(256, generator=generator)[:count]
            g = 1e-3 * torch.randn(64, 256, generator=generator)
            g[:, large] *= ratio
            yield g

    return gradients


STREAMS: dict[str, Stream] = {
    "alike": columns(1),
    "columns 1:10": columns(10),
    "columns 1:100": columns(100),
    "columns 1:1000": columns(1000),
    "1 of 128 at 30 ×": scaled(1, 30),
    "1 of 128 at 100 ×": scaled(1, 100),
    "1 of 128 at 1000 ×": scaled(1, 1000),
    "1 of 128 at 1/1000": scaled(1, 1e-3),
    "8 of 128 at 1/100": scaled(8, 1e-2),
    "8 of 128 at 1/10⁴": scaled(8, 1e-4),
    "heavy tails": heavy_tails(lambda step: 10 ** math.sin(step / 50)),
    "heavy tails, rising by 10⁴": heavy_tails(lambda step: 10 ** (4 * step / 300 - 4)),
    "heavy tails, falling by 10⁴": heavy_tails(lambda step: 10 ** (-4 * step / 300)),
    "rare rows": sparse((64, 128), 1 / torch.arange(1, 65)[:, None]),
    "nine of ten are 0": sparse((64, 256), 0.1),
    "gradients of 1e-9": alike(64, 128, 1e-9),
    "3 of 128 columns dead": dead_columns(3),
    "64 of 128 columns dead": dead_columns(64),
    "rows of 33": alike(128, 33),
    "rows of 65": alike(64, 65),
    "rows of 785": alike(64, 785),
    "4 of 256 at 30 ×, moving": moving(4, 30),
    "4 of 256 at 1000 ×, moving": moving(4, 1e3),
    "4 of 256 at 10⁴ ×, moving": moving(4, 1e4),
    "half at 100 ×, moving": moving(128, 100),
}


class ClosedLoop:
    """The updates of an optimizer compared with those of one with float32 moments, on the same gradients.

    Both have a rate of 1, and their weights are 0 before every step.

    Args:
        shape: of the gradients.
        make: makes the optimizer from the parameters and ``lr``.
        exact: makes the other one.

    Attributes:
        errors: ‖u − u₀‖²/‖u₀‖² of each step whose exact update u₀ is not 0.
        overshoots: the largest element of u relative to that of u₀, of these steps.
    """

    def __init__(self, shape: Sequence[int], make: Make, exact: Make = adamas.torch.Adam):
        self.weight, self._exact_weight = (nn.Parameter(torch.zeros(*shape)) for _ in range(2))
        self.optimizer, self.exact = make([self.weight], lr=1.0), exact([self._exact_weight], lr=1.0)
        self.errors: list[float] = []
        self.overshoots: list[float] = []

    def step(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Both updates."""
        for p in (self.weight, self._exact_weight):
            p.grad = gradient
            p.data.zero_()
        self.optimizer.step()
        self.exact.step()
        u, exact = -self.weight.detach(), -self._exact_weight.detach()
        if exact.any():
            self.errors.append(float((u - exact).square().sum() / exact.square().sum()))
            self.overshoots.append(float(u.abs().max() / exact.abs().max()))
        return u, exact

    def run(self, gradients: Iterable[Tensor]) -> ClosedLoop:
        """The loop itself, after a step with each gradient."""
        for gradient in gradients:
            self.step(gradient)
        return self

    def error(self) -> float:
        """The mean over the second half of the steps."""
        return mean(self.errors[len(self.errors) // 2 :])


def closed_loop(
    stream: Stream, make: Make, exact: Make = adamas.torch.Adam, steps: int = 300, seed: int = 0
) -> ClosedLoop:
    """A closed loop over a stream."""
    gradients = itertools.islice(stream(seed), steps)
    first = next(gradients)
    return ClosedLoop(first.shape, make, exact).run(itertools.chain([first], gradients))
