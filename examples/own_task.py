"""A custom task: whether a lump in the breast is malignant, from 30 measurements of its cells' nuclei.

Run it with ``adamas train examples/own_task.py``. A task is any Python file with a function ``load(data_dir)``.
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

from adamas.lab.tasks import Task


def model():
    """Make the network; its first weights come from PyTorch's global generator, which the run has seeded."""
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))


def loss(model, inputs, targets):
    """Return the mean over a batch: what the optimizer minimises."""
    return F.binary_cross_entropy_with_logits(model(inputs).flatten().float(), targets)


def evaluate(model, inputs, targets):
    """Return metrics by name; ``metric`` names the main one."""
    logits = model(inputs).flatten().float()
    right = (logits > 0) == (targets > 0)
    return {
        "test_loss": F.binary_cross_entropy_with_logits(logits, targets).item(),
        "test_accuracy": right.float().mean().item(),
        "found": right[targets > 0].float().mean().item(),  # the share of malignant lumps that were detected
    }


def load(data_dir):
    """Return the task. ``data_dir`` is the value of ``--data-dir``, or None; this data comes with scikit-learn."""
    measurements, benign = load_breast_cancer(return_X_y=True)
    malignant = 1 - benign
    split = train_test_split(measurements, malignant, test_size=169, stratify=malignant, random_state=0)
    train_inputs, test_inputs, train_targets, test_targets = (torch.from_numpy(part).float() for part in split)
    mean, deviation = train_inputs.mean(0), train_inputs.std(0)
    return Task(
        description="569 lumps, a 30-16-1 ReLU network",
        model=model,
        loss=loss,
        evaluate=evaluate,
        metric="test_accuracy",
        mode="max",
        target=0.94,
        epochs=60,
        train=((train_inputs - mean) / deviation, train_targets),
        test=((test_inputs - mean) / deviation, test_targets),
        threads=1,
    )
