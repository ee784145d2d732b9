"""A classifier of handwritten digits in Keras, with the curves of its accuracy; only the optimizer's import is Adamas's.

    KERAS_BACKEND=jax python examples/keras_mnist.py DIR accuracy.png

DIR holds the four files of MNIST. On any backend: tensorflow, jax or torch.
"""

import sys
from pathlib import Path

import keras
from matplotlib import pyplot

from adamas.keras import Adam
from adamas.lab.tasks.mnist import read


def load(folder):
    """Return training and test data as NumPy arrays: pixels from 0 to 1, and classes."""
    train, test, _ = read(Path(folder))
    return tuple(part.numpy() for part in train), tuple(part.numpy() for part in test)


def model():
    """Make the network."""
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )


def main(folder, picture, epochs=5, count=None):
    """Train on the first ``count`` images, and draw what the accuracy was after each epoch."""
    (x_train, y_train), (x_test, y_test) = load(folder)
    network = model()
    network.compile(
        optimizer=Adam(learning_rate=0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = network.fit(
        x_train[:count], y_train[:count], epochs=epochs, validation_data=(x_test[:count], y_test[:count]), verbose=2
    ).history
    _, axes = pyplot.subplots()
    numbers = range(1, epochs + 1)
    axes.plot(numbers, history["accuracy"], label="training")
    axes.plot(numbers, history["val_accuracy"], label="test")
    axes.set(xlabel="epoch", ylabel="accuracy", xticks=numbers)
    axes.legend()
    axes.figure.savefig(picture)
    return history


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
