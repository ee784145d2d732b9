"""The task ``chars-gpt``: a small transformer that predicts the next character of a text. May import PyTorch."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from adamas.lab.tasks import Task, text

WIDTH, HEADS, LAYERS, CONTEXT = 128, 4, 2, 128


class Block(nn.Module):
    """Attention and a two-layer network, each with a residual connection."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the same shape as ``x``: windows × characters × WIDTH."""
        batch, length, _ = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return x


class Transformer(nn.Module):
    """A GPT of 0.5 million parameters over bytes.

    >>> Transformer()(torch.zeros(16, 128, dtype=torch.int64)).shape
    torch.Size([16, 128, 256])
    """

    def __init__(self) -> None:
        """Make the layers; their matrices are initialized as in GPT-2, with a standard deviation of 0.02."""
        super().__init__()
        self.embedding, self.position = nn.Embedding(text.CHARACTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, text.CHARACTERS, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the next characters, windows × characters × CHARACTERS, for int64 characters."""
        x = self.embedding(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def load(data_dir: Path | None) -> Task:
    """Cut the text of ``data_dir`` into windows: a file, a folder of *.txt, or by default Python's standard library.

    Raises:
        InputError: the text cannot be read, or is too short.
    """
    train, test = text.windows(text.read_text(data_dir), CONTEXT, train=12_000, test=400)
    return Task(
        description=f"{train.numel():,} characters of text, a transformer of {LAYERS} layers of {WIDTH}",
        model=Transformer,
        loss=text.loss,
        evaluate=text.evaluate,
        metrics_are_means=True,
        metric="bits_per_character",
        mode="min",
        target=2.5,
        epochs=2,
        train=(train,),
        test=(test,),
        batch_size=16,
        eval_every=250,
    )
