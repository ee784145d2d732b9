"""How much of a step on the host (``offload=True``) is hidden behind the transfers and the backward pass.

    python benchmarks/bench_offload.py

Without a GPU, the transfers and the backward pass are waiting times: a copy takes as long as the bandwidth says, each
direction for itself, and the backward pass as long as a multiple of the step on the host; the steps are real. So the figures
are of this host with a device of that speed. The model is GPT-2 small in bfloat16, with int8 moments and split weights; its
gradients come one after the other, as in a backward pass.

Printed is what a training step takes longer than its backward pass: with the state in the memory of the host and no transfers
(the step alone), with ``offload=True``, and with ``adamas.torch.release`` as well, which steps during the backward pass.

On a GPU, the transfers and the backward pass are real: a transformer of 0.6 billion weights in bfloat16, with the time of a
training step and the peak of the GPU's memory; torchao's CPUOffloadOptimizer and DeepSpeed's CPU Adam are beside it where they
are installed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import torch
from bench_step import gpt2_small
from torch import Tensor, nn
from turns import timed

import adamas.torch
from adamas.torch import offload
from adamas.torch.transfer import Pairs

ROUNDS = 9
Make = Callable[[list[nn.Parameter]], Any]
BANDWIDTHS = (12.0, 25.0, 50.0)  # GB/s in each direction: PCIe 3, 4 and 5
BACKWARDS = (0.5, 1.0, 2.0)  # multiples of the step alone
HELD_UP = 1e-2  # seconds; a gradient that is later than that was held up by the host, and so are those after it
OPTIONS: dict[str, Any] = {"lr": 1e-4, "state": "int8", "weights": "split"}


class Lane:
    """One direction: a copy begins when the one before it has ended.

    Args:
        bandwidth: bytes a second.
    """

    def __init__(self, bandwidth: float) -> None:
        self._bandwidth, self._free = bandwidth, 0.0

    def take(self, pairs: Pairs) -> float:
        """The time at which the copies will have arrived."""
        begun = max(self._free, time.perf_counter())
        self._free = begun + sum(source.nbytes for source, _ in pairs) / self._bandwidth
        return self._free


class Waiting:
    """Transfers that take time and copy nothing: what is stepped are numbers that lie there.

    Args:
        bandwidth: bytes a second in each direction.
    """

    def __init__(self, bandwidth: float) -> None:
        self._down, self._up, self._last = Lane(bandwidth), Lane(bandwidth), 0.0

    def host_buffer(self, size: int) -> Tensor:
        return torch.randn(size // 2).to(torch.bfloat16).view(torch.uint8)

    def mark(self) -> None:
        pass

    def after(self, marks: Any) -> Any:
        return nullcontext()

    def fetch(self, pairs: Pairs, after: Any) -> float:
        return self._down.take(pairs)

    def wait(self, ticket: float) -> None:
        time.sleep(max(0.0, ticket - time.perf_counter()))

    def send(self, pairs: Pairs) -> None:
        self._last = self._up.take(pairs)

    def join(self) -> None:
        pass

    def settle(self) -> None:
        """The end of a step: the next forward pass needs the weights."""
        self.wait(self._last)


class Backward(torch.autograd.Function):
    """An operation whose backward pass ends when a clock says so; the gradient of the weight is there then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Callable[[], float]) -> Tensor:
        ctx.weight, ctx.ends = weight, ends
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        time.sleep(max(0.0, ctx.ends() - time.perf_counter()))
        return outer[0], torch.empty_like(ctx.weight), None


class Network:
    """Weights with a backward pass that takes a time, shared out by their sizes."""

    def __init__(self) -> None:
        self.weights = [nn.Parameter(torch.randn(shape).to(torch.bfloat16)) for shape in gpt2_small()]
        self._elements = sum(p.numel() for p in self.weights)
        self._last = 0.0

    def backward(self, seconds: float) -> None:
        """From the last weight to the first. If it is held up, the rest is later by that."""
        loss = torch.ones((), requires_grad=True)
        for p in self.weights:
            loss = Backward.apply(loss, p, partial(self._after, seconds * p.numel() / self._elements))
        self._last = time.perf_counter()
        loss.backward()

    def _after(self, seconds: float) -> float:
        now, expected = time.perf_counter(), self._last + seconds
        self._last = expected if now - expected < HELD_UP else now
        return self._last


@contextmanager
def waiting(bandwidth: float) -> Iterator[None]:
    """Lets tensors on the CPU be on a device, for optimizers with ``offload=True``."""
    with (
        mock.patch.dict(os.environ, ADAMAS_EXECUTOR="arrays"),
        mock.patch.object(offload, "transfer_of", return_value=Waiting(1e9 * bandwidth)),
    ):
        yield


def alone() -> Callable[[], float]:
    """Times a step whose gradients are in the memory of the host."""
    params = [nn.Parameter(torch.randn(shape).to(torch.bfloat16)) for shape in gpt2_small()]
    for p in params:
        p.grad = torch.randn_like(p)
    return timed(adamas.torch.AdamW(params, **OPTIONS).step)


def training(bandwidth: float, is_released: bool) -> Callable[[float], float]:
    """Times what a training step takes longer than its backward pass, which takes a given time."""
    network = Network()
    optimizer = adamas.torch.AdamW(network.weights, offload=True, **OPTIONS)
    if is_released:
        adamas.torch.release(optimizer)

    def train(seconds: float) -> None:
        network.backward(seconds)
        optimizer.step()
        optimizer.zero_grad()
        optimizer._homes.settle()  # the next forward pass needs the weights

    def beyond(seconds: float) -> float:
        with waiting(bandwidth):
            return timed(partial(train, seconds))() - seconds

    return beyond


def simulated() -> None:
    step = alone()
    print(f"{torch.get_num_threads()} threads")
    print("GB/s  step alone, ms  backward, ms  offload, ms  with release, ms  hidden of the step")
    for bandwidth in BANDWIDTHS:
        sides = [training(bandwidth, is_released) for is_released in (False, True)]
        for multiple in BACKWARDS:
            turns = []
            for _ in range(ROUNDS + 2):
                taken = step()
                turns.append((taken, *(side(multiple * taken) for side in sides)))
            taken, there, released = (median(column) for column in zip(*turns[2:], strict=True))
            print(
                f"{bandwidth:4.0f}  {1e3 * taken:14.1f}  {1e3 * multiple * taken:12.1f}  {1e3 * there:11.1f}  "
                f"{1e3 * released:16.1f}  {max(0.0, 1 - released / taken):17.0%}",
                flush=True,
            )


# ---- on a GPU


def ours(**options: Any) -> Make:
    return lambda params: adamas.torch.AdamW(params, **OPTIONS, **options)


def ours_released(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    optimizer = adamas.torch.AdamW(params, offload=True, **OPTIONS)
    adamas.torch.release(optimizer)
    return optimizer


def torchao(params: list[nn.Parameter]) -> Any:
    from torchao.optim import CPUOffloadOptimizer

    return CPUOffloadOptimizer(params, torch.optim.AdamW, offload_gradients=True, lr=1e-4, fused=True)


class OnHost:
    """DeepSpeed's AdamW over copies of the weights on the host, as ZeRO-Offload uses it."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        self._params = params
        self._copies = [nn.Parameter(p.detach().to("cpu", torch.float32).pin_memory()) for p in params]
        self._optimizer = DeepSpeedCPUAdam(self._copies, lr=1e-4)

    def step(self) -> None:
        for p, copy in zip(self._params, self._copies, strict=True):
            assert p.grad is not None
            copy.grad = p.grad.to("cpu", torch.float32)
        self._optimizer.step()
        with torch.no_grad():
            for p, copy in zip(self._params, self._copies, strict=True):
                p.copy_(copy)

    def zero_grad(self) -> None:
        for p in self._params:
            p.grad = None


SIDES: dict[str, Make] = {
    "adamas, on the GPU": ours(),
    "adamas, offload": ours(offload=True),
    "adamas, offload and release": ours_released,
    "torchao": torchao,
    "DeepSpeed": OnHost,
}


def on_gpu(width: int = 2048, layers: int = 12, tokens: tuple[int, ...] = (2048, 16384)) -> None:
    """Prints a row for each side and number of tokens in a batch."""
    for count in tokens:
        print(f"{count} tokens a step: time of a training step, peak of the memory on the GPU", flush=True)
        for name, make in SIDES.items():
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(width, width // 128, 4 * width, dropout=0.0, batch_first=True)
            network = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).to("cuda", torch.bfloat16)
            try:
                optimizer = make(list(network.parameters()))
            except ImportError:
                print(f"  {name:28} is not installed")
                continue
            x = torch.randn(count // 1024, 1024, width, device="cuda", dtype=torch.bfloat16)
            train = partial(train_once, network, optimizer, x)
            for _ in range(3):
                train()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            taken = median(timed(train)() for _ in range(ROUNDS))
            peak = torch.cuda.max_memory_allocated()
            print(f"  {name:28} {1e3 * taken:8.1f} ms  {peak / 1e9:6.2f} GB", flush=True)
            del network, optimizer, train
            torch.cuda.empty_cache()


def train_once(network: nn.Module, optimizer: Any, x: Tensor) -> None:
    network(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    torch.cuda.synchronize()


if __name__ == "__main__":
    if torch.cuda.is_available():
        on_gpu()
    else:
        simulated()
