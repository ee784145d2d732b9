"""The cost of each storage format in bytes, error and time: the figures of docs/storage-formats.md.

    python benchmarks/bench_formats.py                  # bytes, errors, times: ten minutes
    python benchmarks/bench_formats.py errors times     # some of them
    python benchmarks/bench_formats.py training         # five seeds of two networks: half an hour

``times`` needs a quiet machine; its ratios are to ``torch.optim.AdamW(fused=True)`` in float32, both sides in one process and
in turn, on two threads. ``training`` takes MNIST from $ADAMAS_DATA/mnist, and leaves it out if that is not set.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slow_average
import torch
import torch.nn.functional as F
import transformer
from bench_step import THREADS, fused, gpt2_small, in_turn, seconds, with_gradients
from streams import STREAMS, ClosedLoop, Make, closed_loop
from torch import Tensor, nn

import adamas.torch
from adamas.lab.tasks import mnist
from adamas.lab.tasks.idx import find_idx, read_idx

STATES: dict[str, Any] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "int6": "int6",
    "int6 and int8": {"exp_avg": "int6", "exp_avg_sq": "int8"},
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


def in_format(state: Any) -> Make:
    return functools.partial(adamas.torch.Adam, state=state)


@functools.cache
def formats() -> dict[str, Make]:
    """Adam with its moments in each format: those of Adamas, and those of other libraries."""
    import bitsandbytes
    import torchao

    return {
        **{name: in_format(state) for name, state in STATES.items() if name != "float32"},
        "bitsandbytes 8-bit": bitsandbytes.optim.Adam8bit,
        "torchao 8-bit": torchao.optim.Adam8bit,
        "torchao fp8": torchao.optim.AdamFp8,
        "torchao 4-bit": torchao.optim.Adam4bit,
    }


def errors() -> None:
    """‖u − u₀‖²/‖u₀‖² of the update on the gradients of a small transformer: second half of 800 steps."""
    loops: dict[str, dict[str, ClosedLoop]] = {name: {} for name in formats()}

    def follow(model: transformer.Transformer) -> None:
        for matrix, p in model.watched().items():
            for name, make in formats().items():
                loops[name].setdefault(matrix, ClosedLoop(p.shape, make)).step(p.grad)

    with uncompiled():
        transformer.train(
            lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), 800, each_step=follow
        )
    rows = [[name, *(f"{loop.error():.1e}" for loop in of.values())] for name, of in loops.items()]
    table(["moments", *next(iter(loops.values()))], rows)


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """Without ``torch.compile``, with which torchao compiles its step for a third of a minute for each shape."""
    return torch.compiler.set_stance("force_eager")


@functools.cache
def on_stream(stream: str, name: str) -> tuple[float, float]:
    """The error of a format on a stream, and its largest overshoot: the worst of three seeds."""
    with uncompiled():
        loops = [closed_loop(STREAMS[stream], formats()[name], seed=seed) for seed in range(3)]
    return max(loop.error() for loop in loops), max(max(loop.overshoots) for loop in loops)


def spread() -> None:
    """The same on streams of gradients (benchmarks/streams.py), whose sizes differ within a block: second half of 300 steps,
    the worst of three seeds."""
    rows = [[stream, *(f"{on_stream(stream, name)[0]:.1e}" for name in formats())] for stream in STREAMS]
    table(["gradients", *formats()], rows)


def overshoot() -> None:
    """The largest element of an update relative to the largest of the exact update of the same step, on the streams of
    ``spread``: the worst of all 300 steps and of three seeds."""
    rows = [[stream, *(f"{on_stream(stream, name)[1]:.2f}" for name in formats())] for stream in STREAMS]
    table(["gradients", *formats()], rows)


def small() -> None:
    """The mean update of small elements next to a large, constant one. Their own gradient is constant or alternates."""

    def momentum(params: Any, **options: Any) -> torch.optim.Optimizer:
        return adamas.torch.SGD(params, momentum=0.9, **options)

    rows = []
    for name, member, share, sign in (
        ("SGD, momentum 0.9", momentum, 1 / 943, 1),
        ("SGD, momentum 0.9", momentum, 1 / 50, -1),
        ("Adam", adamas.torch.Adam, 1 / 943, 1),
        ("Adam", adamas.torch.Adam, 1 / 50, -1),
    ):
        loop = ClosedLoop((64, 128), functools.partial(member, state="int8"), member)
        sums, size = torch.zeros(2, 64, 127), 0.0
        for step in range(400):
            gradient = torch.tensor([1.0, *[share * sign**step] * 127]).expand(64, 128).contiguous()
            updates = torch.stack(loop.step(gradient))[:, :, 1:]
            if step >= 200:
                sums, size = sums + updates, size + float(updates[1].abs().mean())
        means = [float(side.abs().mean()) / size for side in sums]
        gradient = "alternates" if sign < 0 else "is constant"
        rows.append([name, f"1/{1 / share:.0f}", gradient, *(f"{mean:.2f}" for mean in means)])
    table(["member", "of the largest", "its gradient", "int8: mean update", "float32"], rows)
    print("The size of the mean update of an element over 200 steps, relative to the mean size of an exact update.\n")


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


def transformer_loss(seed: int, dtype: torch.dtype, options: dict[str, Any], share: float) -> float:
    """Mean loss of the last eighth of 800 steps, or of a share of them."""
    steps = round(800 * share)
    _, losses = transformer.train(
        lambda model: adamas.torch.AdamW(model.named_parameters(), lr=1e-3, **options), steps, seed, dtype
    )
    return statistics.mean(losses[-steps // 8 :])


def mnist_loss(seed: int, dtype: torch.dtype, options: dict[str, Any], share: float) -> float:
    """Loss on the test images after three epochs, or a share of them."""
    folder = Path(os.environ["ADAMAS_DATA"]) / "mnist"

    def part(name: str) -> tuple[Tensor, Tensor]:
        images = read_idx(find_idx(folder, f"{name}-images", 3), 3).flatten(1).to(torch.float32) / 255
        return images.to(dtype), read_idx(find_idx(folder, f"{name}-labels", 1), 1).to(torch.int64)

    torch.manual_seed(seed)
    model = mnist.model().to(dtype)
    optimizer = adamas.torch.AdamW(model.named_parameters(), lr=1e-3, **options)
    images, labels = part("train")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(round(3 * share)):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]).float(), labels[batch]).backward()
            optimizer.step()
    images, labels = part("t10k")
    with torch.no_grad():
        return float(F.cross_entropy(model(images).float(), labels))


NETWORKS: dict[str, Callable[[int, torch.dtype, dict[str, Any], float], float]] = {
    "transformer": transformer_loss,
    "MNIST": mnist_loss,
}


def final_losses(network: str, setting: str, share: float = 1.0) -> list[float]:
    """Those of five seeds, after this share of the training."""
    dtype, options = SETTINGS[setting]
    return [NETWORKS[network](seed, dtype, options, share) for seed in range(5)]


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
    for section in (memory, errors, spread, overshoot, small, averages, times, threads, others, training)
}

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(f"{adamas.engine_info()}, torch {torch.__version__}\n")
    for name in sys.argv[1:] or ("memory", "errors", "spread", "overshoot", "small", "averages", "times"):
        print(f"{name}: {SECTIONS[name].__doc__}\n")
        SECTIONS[name]()
