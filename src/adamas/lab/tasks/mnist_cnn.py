"""The task ``mnist-cnn``: classifies the images of ``mnist`` with a convolutional network. May import PyTorch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from adamas.lab.tasks import Task, classification, mnist


class Convolutional(nn.Module):
    """Two convolutions with batch normalisation and max pooling, and two linear layers.

    >>> Convolutional()(torch.zeros(64, 28, 28)).shape
    torch.Size([64, 10])
    """

    def __init__(self, height: int = 28, width: int = 28, classes: int = 10) -> None:
        """Make the layers. The convolutions need no bias: the normalisation after them would remove it."""
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(32 * (height // 4) * (width // 4), 64), nn.Linear(64, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits, images × classes, for images × height × width."""
        x = F.max_pool2d(F.relu(self.norm1(self.first(pixels.unsqueeze(1)))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.second(x))), 2)
        logits: Tensor = self.head(F.relu(self.hidden(self.dropout(x.flatten(1)))))
        return logits


def load(data_dir: Path | None) -> Task:
    """Read MNIST, or other data in its format, from ``data_dir``.

    Raises:
        InputError: there is no data_dir, or a file in it is missing or damaged.
    """
    train, test, classes = mnist.read(data_dir)
    height, width = train[0].shape[1:]
    return Task(
        description=f"{height}×{width} digits, two convolutions with batch normalisation",
        model=partial(Convolutional, height, width, classes),
        loss=classification.loss,
        evaluate=classification.evaluate,
        metrics_are_means=True,
        metric="test_accuracy",
        mode="max",
        target=0.985,
        epochs=4,
        train=train,
        test=test,
        batch_size=64,
    )
