"""A custom training loop in TensorFlow, with an exponential decay and a progress bar; only the optimizer's import is Adamas's.

    KERAS_BACKEND=tensorflow python examples/keras_gradient_tape.py DIR

DIR holds the four files of MNIST.
"""

import sys
from pathlib import Path

import keras
import tensorflow as tf

from adamas.keras import Adam
from adamas.lab.tasks.mnist import read


def main(folder, epochs=3, count=None, batch_size=64):
    """Train on the first ``count`` images; returns the mean loss of each epoch."""
    (images, labels), _, _ = read(Path(folder))
    data = tf.data.Dataset.from_tensor_slices((images.numpy()[:count], labels.numpy()[:count]))
    batches = data.shuffle(10_000, seed=0).batch(batch_size)

    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.001, decay_steps=1000, decay_rate=0.96)
    optimizer = Adam(learning_rate=schedule)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    means = []
    for epoch in range(epochs):
        print(f"epoch {epoch + 1} of {epochs}")
        progress, mean = keras.utils.Progbar(len(batches)), keras.metrics.Mean()
        for i, (x, y) in enumerate(batches):
            loss = train_step(x, y)
            mean.update_state(loss)
            progress.update(i + 1, values=[("loss", float(loss))])
        means.append(float(mean.result()))
    return means


if __name__ == "__main__":
    main(sys.argv[1])
