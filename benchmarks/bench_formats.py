"""The cost of each storage format in bytes, error and time: the figures of docs/storage-formats.md.

    python benchmarks/bench_formats.py                  # bytes, errors, range, times: five minutes
    python benchmarks/bench_formats.py errors times     # some of them
    python benchmarks/bench_formats.py training         # five seeds of two networks: half an hour

``times`` needs a quiet machine; its ratios are to ``torch.optim.AdamW(fused=True)`` in float32, both sides in one process and
in turn, on two threads. ``training`` takes MNIST from $ADAMAS_DATA/mnist, and leaves it out if that is not set.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slow_average
import torch
import torch.nn.functional as F
import transformer
from bench_step import THREADS, fused, gpt2_small, in_turn, seconds, with_gradients
from torch import Tensor, nn

import adamas.torch
from adamas.lab.tasks import mnist
from adamas.lab.tasks.idx import find_idx, read_idx

STATES: dict[str, Any] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "int8 and bfloat16": {"exp_avg": "int8", "exp_avg_sq": "bfloat16"},
}


def table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)
    print()


def memory() -> None:
    """Bytes of state per parameter, on the shapes of GPT-2 small."""
    rows = []
    for name, state in STATES.items():
        cells = [name]
        for dtype, weights in ((torch.float32, "nearest"), (torch.bfloat16, "stochastic"), (torch.bfloat16, "split")):
            params = [nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for shape in gpt2_small()]
            plan = adamas.torch.plan_memory(params, adamas.torch.AdamW, state=state, weights=weights)
            cells.append(f"{plan.state / plan.parameters:.2f}")
        rows.append(cells)
    table(["state=", "float32 weights", 'bfloat16, "stochastic"', 'bfloat16, "split"'], rows)


def closed_loop(
    gradients: Callable[[int], Tensor], steps: int, state: Any, member: Callable[..., Any] = adamas.torch.Adam
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each step, the update of a member at a rate of 1, and the update with float32 moments."""
    p, q = (nn.Parameter(torch.zeros_like(gradients(0))) for _ in range(2))
    coded, exact = member([p], lr=1.0, state=state), member([q], lr=1.0)
    for step in range(steps):
        p.grad = gradients(step)
        q.grad = p.grad
        with torch.no_grad():
            p.zero_(), q.zero_()
        coded.step(), exact.step()
        yield step, -p.detach(), -q.detach()


def relative_error(found: list[tuple[int, Tensor, Tensor]] | Iterator[tuple[int, Tensor, Tensor]], first: int) -> float:
    return statistics.mean(
        float((u - exact).square().sum() / exact.square().sum()) for step, u, exact in found if step >= first
    )


def errors() -> None:
    """‖u − u₀‖²/‖u₀‖² of the update on the gradients of a small transformer: second half of 800 steps."""
    steps, count = 800, itertools.count()
    found: dict[str, Tensor] = {}

    def keep(model: transformer.Transformer) -> None:
        step = next(count)
        for name, p in model.watched().items():
            found.setdefault(name, torch.empty(steps, *p.shape))[step] = p.grad

    transformer.train(lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), steps, each_step=keep)
    rows = [
        [name, *(f"{relative_error(closed_loop(g.__getitem__, steps, state), steps // 2):.1e}" for g in found.values())]
        for name, state in STATES.items()
        if state != "float32"
    ]
    table(["state=", *found], rows)


def differing(decades: int, seed: int = 0) -> Callable[[int], Tensor]:
    """Gradients whose columns differ in size: 10 to the power of 0 to −``decades``."""
    sizes = 10 ** -(decades * torch.rand(128, generator=torch.Generator().manual_seed(seed)))
    return lambda step: torch.randn(64, 128, generator=torch.Generator().manual_seed(step + 1)) * sizes


def spread() -> None:
    """The same for gradients whose sizes differ within a block: column sizes are 10 to the power of 0 to −r."""
    rows = []
    for name, state in STATES.items():
        if state == "float32":
            continue
        loops = (closed_loop(differing(decades), 300, state) for decades in (0, 1, 2, 3))
        rows.append([name, *(f"{relative_error(loop, 150):.1e}" for loop in loops)])
    table(["state=", "alike", "1 : 10", "1 : 100", "1 : 1000"], rows)


def overshoot() -> None:
    """The overshoot of updates: Adam's largest update relative to the largest with float32 moments, on the gradients of
    ``spread`` (the maximum over five draws of the sizes); then the updates of a small element next to a large one."""
    rows = []
    for name, state in STATES.items():
        if state == "float32":
            continue
        cells = [name]
        for decades in (0, 1, 2, 3):
            loops = (closed_loop(differing(decades, seed), 300, state) for seed in range(5))
            most = max(
                float(u.abs().max() / exact.abs().max()) for one in loops for step, u, exact in one if step >= 150
            )
            cells.append(f"{most:.2f}")
        rows.append(cells)
    table(["state=", "alike", "1 : 10", "1 : 100", "1 : 1000"], rows)

    def momentum(params: Any, **options: Any) -> torch.optim.Optimizer:
        return adamas.torch.SGD(params, momentum=0.9, **options)

    def small(share: float, sign: int) -> Callable[[int], Tensor]:
        """A constant 1 next to small elements, whose sign alternates if ``sign`` is -1."""
        return lambda step: torch.tensor([1.0, *[share * sign**step] * 127]).expand(64, 128).contiguous()

    rows = []
    for name, member, share, sign in (
        ("SGD, momentum 0.9", momentum, 1 / 943, 1),
        ("SGD, momentum 0.9", momentum, 1 / 50, -1),
        ("Adam", adamas.torch.Adam, 1 / 50, -1),
    ):
        loop = closed_loop(small(share, sign), 400, "int8", member)
        found = [(float(u[0, 1]), float(exact[0, 1])) for step, u, exact in loop if step >= 200]
        size = statistics.mean(abs(exact) for _, exact in found)
        means = [abs(statistics.mean(side)) / size for side in zip(*found, strict=True)]
        gradient = "alternates" if sign < 0 else "is constant"
        rows.append([name, f"1/{1 / share:.0f}", gradient, *(f"{mean:.2f}" for mean in means)])
    table(["member", "of the largest", "its gradient", "int8: mean update", "float32"], rows)
    print("Mean updates are relative to the mean size of an exact update.\n")


def averages() -> None:
    """A slow average in signed codes, a third of whose means switch sign: its squared relative error, and wrong signs."""
    rows = []
    for beta in (0.9, 0.99, 0.999, 0.9999):
        found = [slow_average.error(beta, dithered) for dithered in (False, True)]
        rows.append([str(beta), *(f"{error:.1e}, {wrong:.1%}" for error, wrong in found)])
    table(["β", "to the nearest", "stochastic"], rows)


def times() -> None:
    """A step on the shapes of GPT-2 small, compared with fused AdamW in float32."""
    rows = []
    for dtype, weights in ((torch.float32, "nearest"), (torch.bfloat16, "stochastic"), (torch.bfloat16, "split")):
        params = with_gradients(gpt2_small(), torch.float32)
        reference = fused(params)
        own = params if dtype == torch.float32 else with_gradients(gpt2_small(), dtype)
        for name, state in STATES.items():
            optimizer = adamas.torch.AdamW(own, state=state, weights=weights)
            sides = {side: lambda o=o: seconds(o.step) for side, o in (("a", optimizer), ("b", reference))}
            taken = in_turn(sides, 9)
            ratio = statistics.median(a / b for a, b in zip(taken["a"], taken["b"], strict=True))
            label = str(dtype).removeprefix("torch.") + ("" if weights == "nearest" else f', "{weights}"')
            both = [f"{statistics.median(taken[side]) * 1e3:.1f} ms" for side in ("a", "b")]
            rows.append([label, name, *both, f"{ratio:.2f}"])
    table(["weights and gradients", "state=", "a step", "fused, float32", "ratio"], rows)


def threads() -> None:
    """One thread against two: with one, the limit is arithmetic more than memory."""
    rows = []
    for count in (1, 2):
        torch.set_num_threads(count)
        params = with_gradients(gpt2_small(), torch.float32)
        sides = {"fused": fused(params), "float32": adamas.torch.AdamW(params)}
        sides["int8"] = adamas.torch.AdamW(params, state="int8")
        taken = in_turn({name: lambda o=o: seconds(o.step) for name, o in sides.items()}, 7)
        rows.append([str(count), *(f"{statistics.median(x) * 1e3:.1f} ms" for x in taken.values())])
    torch.set_num_threads(THREADS)
    table(["threads", "fused", 'state="float32"', 'state="int8"'], rows)


def others() -> None:
    """bitsandbytes' and torchao's 8-bit AdamW on this CPU, on one large matrix."""
    import bitsandbytes
    import torchao

    params = with_gradients([(4096, 1024)], torch.float32)
    ours = adamas.torch.AdamW(params, state="int8")
    rows = []
    for name, make in (
        ("bitsandbytes AdamW8bit", bitsandbytes.optim.AdamW8bit),
        ("torchao AdamW8bit", torchao.optim.AdamW8bit),
    ):
        theirs = make(with_gradients([(4096, 1024)], torch.float32))
        first = seconds(theirs.step)
        taken = in_turn({"a": lambda: seconds(ours.step), "b": lambda o=theirs: seconds(o.step)}, 5, 2)
        a, b = (statistics.median(taken[side]) for side in ("a", "b"))
        rows.append([name, f"{b * 1e3:.1f} ms", f"{a * 1e3:.2f} ms", f"{b / a:.0f}", f"{first:.2f} s"])
    table(["library", "a step", "Adamas", "times as long", "its first step"], rows)


# ---- training

SETTINGS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float32 weights, int8": (torch.float32, {"state": "int8"}),
    'bfloat16 weights, "split", int8': (torch.bfloat16, {"state": "int8", "weights": "split"}),
    'bfloat16 weights, "stochastic", int8': (torch.bfloat16, {"state": "int8", "weights": "stochastic"}),
}


def transformer_loss(seed: int, dtype: torch.dtype, options: dict[str, Any]) -> float:
    """Mean loss of the last 100 of 800 steps."""
    _, losses = transformer.train(
        lambda model: adamas.torch.AdamW(model.named_parameters(), lr=1e-3, **options), 800, seed, dtype
    )
    return statistics.mean(losses[-100:])


def mnist_loss(seed: int, dtype: torch.dtype, options: dict[str, Any]) -> float:
    """Loss on the test images after three epochs."""
    folder = Path(os.environ["ADAMAS_DATA"]) / "mnist"

    def part(name: str) -> tuple[Tensor, Tensor]:
        images = read_idx(find_idx(folder, f"{name}-images", 3), 3).flatten(1).to(torch.float32) / 255
        return images.to(dtype), read_idx(find_idx(folder, f"{name}-labels", 1), 1).to(torch.int64)

    torch.manual_seed(seed)
    model = mnist.model().to(dtype)
    optimizer = adamas.torch.AdamW(model.named_parameters(), lr=1e-3, **options)
    images, labels = part("train")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]).float(), labels[batch]).backward()
            optimizer.step()
    images, labels = part("t10k")
    with torch.no_grad():
        return float(F.cross_entropy(model(images).float(), labels))


NETWORKS: dict[str, Callable[[int, torch.dtype, dict[str, Any]], float]] = {
    "transformer": transformer_loss,
    "MNIST": mnist_loss,
}


def final_losses(network: str, setting: str, seeds: int = 5) -> list[float]:
    dtype, options = SETTINGS[setting]
    return [NETWORKS[network](seed, dtype, options) for seed in range(seeds)]


def standard_error(losses: list[float]) -> float:
    return statistics.stdev(losses) / len(losses) ** 0.5


def allowed_difference(exact: list[float]) -> float:
    """Half a percent of the mean loss with float32 moments, or its standard error."""
    return max(0.005 * statistics.mean(exact), standard_error(exact))


def training() -> None:
    """The mean final loss over five seeds, and its standard error."""
    for network in NETWORKS:
        if network == "MNIST" and "ADAMAS_DATA" not in os.environ:
            continue
        rows: list[list[str]] = []
        exact: list[float] = []
        for setting in SETTINGS:
            losses = final_losses(network, setting)
            exact = exact or losses
            difference = statistics.mean(losses) - statistics.mean(exact)
            beside = f"{difference:+.4f} (allowed {allowed_difference(exact):.4f})" if rows else ""
            each = " ".join(f"{loss:.4f}" for loss in losses)
            rows.append([setting, f"{statistics.mean(losses):.4f} ± {standard_error(losses):.4f}", beside, each])
        print(network)
        table(["setting", "final loss", "minus float32", "each seed"], rows)


SECTIONS = {
    section.__name__: section
    for section in (memory, errors, spread, overshoot, averages, times, threads, others, training)
}

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(f"{adamas.engine_info()}, torch {torch.__version__}\n")
    for name in sys.argv[1:] or ("memory", "errors", "spread", "overshoot", "averages", "times"):
        print(f"{name}: {SECTIONS[name].__doc__}\n")
        SECTIONS[name]()
