"""The task ``mnist``: 70 000 handwritten digits of 28×28 pixels, or any other images in the format of their four IDX files
(Fashion-MNIST, EMNIST, …). May import PyTorch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from adamas.lab.inputs import InputError
from adamas.lab.tasks import Task, classification
from adamas.lab.tasks.idx import find_idx, read_idx


def model(pixels: int = 784, classes: int = 10) -> nn.Sequential:
    """Make the network."""
    return classification.perceptron(pixels, 512, 256, classes)


def small(pixels: int = 784, classes: int = 10) -> nn.Sequential:
    """Make a network of a fifth of the size, which is half a percent less accurate."""
    return classification.perceptron(pixels, 128, classes)


def read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read the images and labels of one part (``train`` or ``t10k``).

    Returns:
        Pixels from 0 to 1 (float32, images × height × width) and classes (int64, images).

    Raises:
        InputError: a file is missing or damaged, or the two do not belong together.
    """
    image_path, label_path = find_idx(folder, f"{part}-images", 3), find_idx(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if len(images) != len(labels):
        counts = f"{len(images)} images in {image_path.name} and {len(labels)} labels in {label_path.name}"
        raise InputError("data_dir", f"{str(folder)!r} has {counts}: download both again, from the same place")
    return images.float().div_(255), labels.long()


def read(data_dir: Path | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], int]:
    """Read both parts of ``data_dir``.

    Returns:
        Training and test data, each as from ``read_part``, and the number of classes.

    Raises:
        InputError: there is no data_dir, or a file in it is missing or damaged, or the parts do not belong together.
    """
    if data_dir is None:
        raise InputError("data_dir", "is missing: mnist needs the folder of train-images-idx3-ubyte(.gz) and the rest")
    train, test = read_part(data_dir, "train"), read_part(data_dir, "t10k")
    sizes = ["×".join(map(str, images.shape[1:])) for images, _ in (train, test)]
    if sizes[0] != sizes[1]:
        problem = (
            f"training images of {sizes[0]} and test images of {sizes[1]}: download both again, from the same place"
        )
        raise InputError("data_dir", f"{str(data_dir)!r} has {problem}")
    classes = int(train[1].max()) + 1
    if test[1].max() >= classes:
        problem = f"a test label {int(test[1].max())}, but no training label above {classes - 1}"
        raise InputError("data_dir", f"{str(data_dir)!r} has {problem}: download both again, from the same place")
    return train, test, classes


def load(data_dir: Path | None) -> Task:
    """Read MNIST, or other data in its format, from ``data_dir``.

    Raises:
        InputError: there is no data_dir, or a file in it is missing or damaged.
    """
    (images, labels), (test_images, test_labels), classes = read(data_dir)
    height, width = images.shape[1:]
    sizes = {"pixels": height * width, "classes": classes}
    return Task(
        description=f"{height}×{width} digits, a {height * width}-512-256-{classes} ReLU network",
        model=partial(model, **sizes),
        models={"small": partial(small, **sizes)},
        loss=classification.loss,
        evaluate=classification.evaluate,
        metrics_are_means=True,
        metric="test_accuracy",
        mode="max",
        target=0.975,
        epochs=10,
        train=(images.flatten(1), labels),
        test=(test_images.flatten(1), test_labels),
        batch_size=64,
    )
