"""A small transformer over the source text of Python's standard library: real gradients for tests and benchmarks.

Two layers of width 128 over bytes, contexts of 128, batches of 16: about 40 ms per step on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamas.lab.tasks import chars_gpt
from adamas.lab.tasks.chars_gpt import CONTEXT
from adamas.lab.tasks.text import corpus

BATCH = 16


class Transformer(chars_gpt.Transformer):
    """The network of the task chars-gpt."""

    def watched(self) -> dict[str, nn.Parameter]:
        """Four matrices that behave differently: rare rows, attention, sparse activations, and the output."""
        last = self.blocks[1]
        return {
            "embedding": self.embedding.weight,
            "qkv": last.qkv.weight,
            "second MLP": last.down.weight,
            "head": self.head.weight,
        }


def batches(text: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(0, len(text) - CONTEXT - 1, (BATCH,), generator=generator)
        rows = torch.stack([text[i : i + CONTEXT + 1] for i in starts.tolist()])
        yield rows[:, :-1], rows[:, 1:]


def train(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    steps: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    each_step: Callable[[Transformer], None] = lambda model: None,
) -> tuple[Transformer, list[float]]:
    """Trains a network, and returns it with the loss of each step; ``each_step`` is called when the gradients are computed."""
    torch.manual_seed(seed)
    model = Transformer().to(dtype)
    optimizer, data = make(model), batches(corpus().to(torch.int64), seed)
    losses = []
    for _ in range(steps):
        x, y = next(data)
        loss = F.cross_entropy(model(x).float().flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        each_step(model)
        optimizer.step()
        losses.append(loss.item())
    return model, losses
