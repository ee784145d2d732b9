"""A small transformer over the source text of Python's standard library: real gradients for tests and benchmarks.

Two layers of width 128 over bytes, contexts of 128, batches of 16: about 40 ms a step on two cores.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, CONTEXT, BATCH = 256, 128, 4, 128, 16


def corpus() -> Tensor:
    """The modules of the standard library, one after the other, as bytes (int64)."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).to(torch.int64)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

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
    """Trains one; ``each_step`` is called where the gradients are there. Returns it with the loss of each step."""
    torch.manual_seed(seed)
    model = Transformer().to(dtype)
    optimizer, data = make(model), batches(corpus(), seed)
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
