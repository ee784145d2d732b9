"""The task ``mnist-cnn``: the digits of ``mnist``, told apart by a convolutional network. May import PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from adamas.tasks import Task, mnist


class Convolutional(nn.Module):
    """Two convolutions with batch normalisation, each halved in size by taking maxima, and two linear layers.

    >>> Convolutional()(torch.zeros(64, 784)).shape
    torch.Size([64, 10])
    """

    def __init__(self) -> None:
        """Make the layers. The convolutions need no bias: the normalisation after them would take it out again."""
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(32 * 7 * 7, 64), nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the digits' logits, images × 10, for images × 784."""
        x = pixels.view(-1, 1, 28, 28)
        x = F.max_pool2d(F.relu(self.norm1(self.first(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.second(x))), 2)
        logits: Tensor = self.head(F.relu(self.hidden(self.dropout(x.flatten(1)))))
        return logits


def load(data_dir: Path | None) -> Task:
    """Read MNIST from ``data_dir``.

    Raises:
        InputError: there is no data_dir, or a file in it is missing or damaged.
    """
    return replace(
        mnist.load(data_dir),
        description="28×28 digits, two convolutions with batch normalisation",
        model=Convolutional,
        models={},
        target=0.985,
        epochs=4,
        backpropagate=None,
    )
