"""The task ``digits``: 1 797 handwritten digits of 8×8 pixels, which come with scikit-learn.

May import PyTorch and scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from adamas.lab.tasks import Task, classification, without_data_dir


def model() -> nn.Sequential:
    """Make the network. One wide layer is better here than two narrow ones."""
    return classification.perceptron(64, 512, 10)


def load(data_dir: Path | None) -> Task:
    """Split the digits into 1 437 for training and 360 for testing, the same ones for every seed.

    Raises:
        InputError: a data_dir was given, which this task does not read.
    """
    without_data_dir(data_dir, "digits, which come with scikit-learn")
    pixels, digits = load_digits(return_X_y=True)
    train_pixels, test_pixels, train_digits, test_digits = train_test_split(
        torch.from_numpy(pixels).float() / 16,
        torch.from_numpy(digits),
        test_size=360,
        stratify=digits,
        random_state=0,
    )
    return Task(
        description="8×8 digits, a 64-512-10 ReLU network",
        model=model,
        loss=classification.loss,
        evaluate=classification.evaluate,
        metrics_are_means=True,
        metric="test_accuracy",
        mode="max",
        target=0.97,
        epochs=25,
        train=(train_pixels, train_digits),
        test=(test_pixels, test_digits),
        batch_size=32,
        # A step is too small to share: next to another busy process, two threads took 76 s for a run of half a second.
        threads=1,
    )
