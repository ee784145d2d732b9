"""What the classification tasks share: a multilayer perceptron, the loss and the metrics. May import PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 1000  # examples per evaluation: enough to be fast, and few enough for the memory of any machine


def perceptron(*sizes: int) -> nn.Sequential:
    """Return linear layers of the given sizes, with ReLUs between them.

    >>> perceptron(784, 512, 256, 10)(torch.zeros(64, 784)).shape
    torch.Size([64, 10])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats, a float32 scalar.

    Args:
        model: returns the logits, examples × classes.
        inputs: the inputs of the model.
        targets: int64, the class of each example.
    """
    return F.cross_entropy(model(inputs).float(), targets)


def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the mean cross-entropy, ``test_loss``, and the share of correct answers, ``test_accuracy``."""
    total, right = 0.0, 0
    for some, wanted in zip(torch.split(inputs, BATCH), torch.split(targets, BATCH), strict=True):
        outputs = model(some).float()
        total += F.cross_entropy(outputs, wanted, reduction="sum").item()
        right += int((outputs.argmax(1) == wanted).sum())
    return {"test_loss": total / len(targets), "test_accuracy": right / len(targets)}
