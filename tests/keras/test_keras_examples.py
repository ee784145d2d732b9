"""The examples of ``adamas.keras`` run, and learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import keras
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.keras


def example(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_classifier_learns_and_draws_its_curves(data_dir: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    picture = tmp_path / "accuracy.png"
    history = example("keras_mnist").main(data_dir / "mnist", picture, epochs=2, count=1500)
    assert history["val_accuracy"][-1] > 0.7
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_loop_with_a_tape_learns(data_dir: Path) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a GradientTape is TensorFlow's")
    keras.utils.set_random_seed(0)
    means = example("keras_gradient_tape").main(data_dir / "mnist", epochs=2, count=1500)
    assert means[1] < 0.6 * means[0]
