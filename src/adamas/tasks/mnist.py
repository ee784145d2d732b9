"""The task ``mnist``: 70 000 handwritten digits of 28×28 pixels, read from the four IDX files. May import PyTorch."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from adamas.tasks import InputError, Task, classification
from adamas.tasks.idx import find_idx, read_idx
from adamas.tasks.perceptron import Perceptron


def model() -> Perceptron:
    """Make the network."""
    return Perceptron(784, 512, 256, 10)


def small() -> Perceptron:
    """Make one of a fifth of the size, which is less right by half a percent."""
    return Perceptron(784, 128, 10)


def read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read the images and labels of one part (``train`` or ``t10k``).

    Returns:
        Pixels from 0 to 1 (float32, images × 784) and digits (int64, images).

    Raises:
        InputError: a file is missing or damaged, or the two do not belong together.
    """
    image_path, label_path = find_idx(folder, f"{part}-images", 3), find_idx(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise InputError("data_dir", f"has images of {images.shape[1]}×{images.shape[2]} in {image_path}, not of 28×28")
    if len(images) != len(labels):
        counts = f"{len(images)} images in {image_path.name} and {len(labels)} labels in {label_path.name}"
        raise InputError("data_dir", f"{str(folder)!r} has {counts}: download both again, from the same place")
    if labels.max() > 9:
        raise InputError("data_dir", f"has a label {int(labels.max())} in {label_path}: labels are the digits 0 to 9")
    return images.flatten(1).float().div_(255), labels.long()


def load(data_dir: Path | None) -> Task:
    """Read MNIST from ``data_dir``.

    Raises:
        InputError: there is no data_dir, or a file in it is missing or damaged.
    """
    if data_dir is None:
        raise InputError("data_dir", "is missing: mnist needs the folder of train-images-idx3-ubyte(.gz) and the rest")
    return Task(
        description="28×28 digits, a 784-512-256-10 ReLU network",
        model=model,
        models={"small": small},
        loss=classification.loss,
        evaluate=classification.evaluate,
        metric="test_accuracy",
        mode="max",
        target=0.975,
        epochs=10,
        train=read_part(data_dir, "train"),
        test=read_part(data_dir, "t10k"),
        batch_size=64,
        backpropagate=Perceptron.backpropagate,
    )
