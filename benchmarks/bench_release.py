"""What ``adamas.torch.release`` saves and costs: the figures of docs/memory.md.

    python benchmarks/bench_release.py            # all of them
    python benchmarks/bench_release.py errors     # the error of sums of micro-batches in bfloat16
    python benchmarks/bench_release.py memory     # the bytes of gradients that exist at once
    python benchmarks/bench_release.py times      # the time of a training step, which needs a quiet machine

``memory`` and ``times`` train a perceptron of 100 million parameters on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from turns import compare, timed

import adamas.torch
from adamas.torch.accumulator import Accumulator

COUNTS = (8, 64, 512)
ELEMENTS = 100_000
WIDTH, LAYERS, BATCH = 2500, 16, 128


def gradients(count: int, noise: float) -> Iterator[Tensor]:
    """Gradients of micro-batches: the same ones with noise, whose size is relative to theirs."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(ELEMENTS, generator=generator)
    for _ in range(count):
        yield mean + noise * mean.abs() * torch.randn(ELEMENTS, generator=generator)


def stochastic(count: int, noise: float) -> Tensor:
    p = nn.Parameter(torch.zeros(ELEMENTS))
    total = Accumulator(p, "p", 0, 0.0)
    for i, g in enumerate(gradients(count, noise)):
        p.grad = g
        if i < count - 1:
            total.add(p, 1)
    total.take(p)
    assert p.grad is not None
    return p.grad


def nearest(count: int, noise: float) -> Tensor:
    total = torch.zeros(ELEMENTS, dtype=torch.bfloat16)
    for g in gradients(count, noise):
        total += g.bfloat16()
    return total


def errors() -> None:
    """The error of a sum, relative to it, with the sums of float64 as the exact ones."""
    print(f"{'':24}" + "".join(f"{count:>22}" for count in COUNTS))
    print(f"{'noise':24}" + f"{'nearest':>12}{'ours':>10}" * len(COUNTS))
    for noise in (0.1, 1.0, 10.0):
        cells = []
        for count in COUNTS:
            exact = sum(g.double() for g in gradients(count, noise))
            assert isinstance(exact, Tensor)
            found = (float((side(count, noise) - exact).norm() / exact.norm()) for side in (nearest, stochastic))
            cells += [f"{error:.2%}" for error in found]
        print(
            f"{noise:<24}" + "".join(f"{a:>12}{b:>10}" for a, b in zip(cells[::2], cells[1::2], strict=True)),
            flush=True,
        )


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers)


def training_step(is_released: bool, watch: Callable[[Tensor], None] | None = None) -> Callable[[], None]:
    """A function that makes a training step. ``watch`` is called with each parameter when its gradient has come."""
    model, x = perceptron(), torch.randn(BATCH, WIDTH)
    optimizer = adamas.torch.AdamW(model.parameters(), lr=1e-4)
    if watch is not None:
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(watch)
    if is_released:
        adamas.torch.release(optimizer)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def memory() -> None:
    """The most bytes of gradients that exist at once."""
    sizes = [p.nbytes for p in perceptron().parameters()]
    whole, largest = sum(sizes), max(sizes)
    print(
        f"{whole / 4e6:.0f} million parameters; all gradients {whole / 1e6:.1f} MB, the largest {largest / 1e6:.1f} MB"
    )
    for is_released in (False, True):
        alive: list[tuple[StorageWeakRef, int]] = []
        most = 0

        def watch(p: Tensor, alive: list[tuple[StorageWeakRef, int]] = alive) -> None:
            nonlocal most
            assert p.grad is not None
            alive[:] = [one for one in alive if not one[0].expired()]
            alive.append((StorageWeakRef(p.grad.untyped_storage()), p.grad.nbytes))
            most = max(most, sum(size for _, size in alive))

        step = training_step(is_released, watch)
        step()
        step()
        saved, row = (whole - most) / (whole - largest), "released" if is_released else "as usual"
        print(f"{row}: {most / 1e6:.1f} MB, {saved:.0%} of all but the largest are saved")


def times() -> None:
    """The time of a training step, released and as usual, in turn."""
    compare("release", timed(training_step(True)), "as usual", timed(training_step(False)), rounds=20)


if __name__ == "__main__":
    for part in sys.argv[1:] or ("errors", "memory", "times"):
        {"errors": errors, "memory": memory, "times": times}[part]()
