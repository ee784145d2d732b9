"""The task ``diabetes``: predicts the progress of the disease of 442 patients after a year, from ten measurements.

The data comes with scikit-learn. Penalties keep the network from memorizing so few examples. They are part of the loss, not of
the optimizer, so that every optimizer solves the same problem: ``weight_decay`` has different meanings in Adam and AdamW.

May import PyTorch and scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from adamas.lab.tasks import Task, without_data_dir

L1, L2 = 3e-3, 1e-2


def model() -> nn.Sequential:
    """Make the network."""
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error, plus L1 · Σ|w| and L2 · Σw² over the weights; biases are not penalised."""
    weights = [parameter.float() for parameter in model.parameters() if parameter.dim() > 1]
    penalty = sum((L1 * weight.abs().sum() + L2 * weight.square().sum() for weight in weights), torch.tensor(0.0))
    return F.mse_loss(model(inputs).float(), targets) + penalty


def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return ``test_mse``, in variances of the training data, and ``test_r2``, the share of the variance that is explained."""
    error = F.mse_loss(model(inputs).float(), targets).item()
    return {"test_mse": error, "test_r2": 1 - error / targets.var(correction=0).item()}


def load(data_dir: Path | None) -> Task:
    """Split the patients into 342 for training and 100 for testing, the same ones for every seed.

    Raises:
        InputError: a data_dir was given, which this task does not read.
    """
    without_data_dir(data_dir, "diabetes, which comes with scikit-learn")
    measured, progression = load_diabetes(return_X_y=True)
    split = train_test_split(measured, progression[:, None], test_size=100, random_state=0)
    inputs, test_inputs, targets, test_targets = (torch.from_numpy(part).float() for part in split)
    return Task(
        description="442 patients, a 10-32-1 tanh network with L1 and L2 penalties",
        model=model,
        loss=loss,
        evaluate=evaluate,
        metric="test_r2",
        mode="max",
        target=0.36,  # linear least squares reaches 0.357
        epochs=150,
        train=(_standardised(inputs, inputs), _standardised(targets, targets)),
        test=(_standardised(test_inputs, inputs), _standardised(test_targets, targets)),
        threads=1,
    )


def _standardised(values: Tensor, reference: Tensor) -> Tensor:
    """Return the values minus the mean of the reference, divided by its standard deviation, column by column."""
    return (values - reference.mean(0)) / reference.std(0, correction=0)
