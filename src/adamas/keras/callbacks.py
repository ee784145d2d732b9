"""Callbacks for ``fit``: one observes a metric for a ``Plateau``, one logs what the optimizer does, one finds a rate."""

from __future__ import annotations

from typing import Any

import keras

from ..schedules import Feedback
from .find_lr import FindLR, unscaled
from .optimizer import Optimizer

__all__ = ["FindLR", "Log", "Plateau"]


class Plateau(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Observes a metric at the end of each epoch, for the ``Plateau`` in the learning rate of the optimizer.

    >>> from adamas.schedules import Plateau as plateau, warmup
    >>> import adamas.keras
    >>> optimizer = adamas.keras.AdamW(1e-3 * warmup(500) * plateau(factor=0.5, patience=3))
    >>> callbacks = [Plateau(monitor="val_loss")]

    What was observed is saved with the model, so that a training that is resumed goes on. With a ``Feedback`` in the learning
    rate, its rule is given all metrics of the epoch.

    Args:
        monitor: the metric, as ``fit`` names it.
    """

    def __init__(self, monitor: str = "val_loss") -> None:
        super().__init__()
        self.monitor = monitor

    def on_train_begin(self, logs: Any = None) -> None:
        """Looks for what is to observe.

        Raises:
            ValueError: there is none.
        """
        if not own_optimizer(self).observed:
            raise ValueError(
                "the optimizer's learning_rate has no factor that answers to a metric: give it one, as in "
                "learning_rate=1e-3 * adamas.schedules.Plateau(factor=0.5)"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Observes the metric.

        Raises:
            ValueError: the epoch did not measure it.
        """
        logs = logs or {}
        for part in own_optimizer(self).observed:
            if isinstance(part, Feedback):
                part.observe(**{name: float(value) for name, value in logs.items()})
            elif self.monitor not in logs:
                raise ValueError(f"monitor={self.monitor!r} was not measured: there are {', '.join(sorted(logs))}")
            else:
                part.observe(float(logs[self.monitor]))  # type: ignore[attr-defined]


class Log(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Adds to the logs of each epoch what the optimizer did in it.

    ``learning_rate`` is that of the next step; ``gradient_norm`` the mean 2-norm of all gradients together, before clipping
    (of each batch, where they are accumulated); ``update_ratio`` the mean of ‖change of the weights‖ / ‖weights‖ by a step,
    about 1e-3 where the rate is right.

    It comes before callbacks that use these. With it a step takes somewhat longer. Under a strategy of ``tf.distribute`` the
    norm is that of one replica's part.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Has the step measure, from now on."""
        optimizer = own_optimizer(self)
        if not optimizer.measures:
            optimizer.measures = True
            self.model.make_train_function(force=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Has the step measure no more."""
        own_optimizer(self).measures = False
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins anew."""
        own_optimizer(self).reset_measured()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds what was measured."""
        if logs is not None:
            optimizer = own_optimizer(self)
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            logs.update(optimizer.measured())


def own_optimizer(callback: Any) -> Optimizer:
    """The optimizer of the callback's model.

    Raises:
        ValueError: it is none of ``adamas.keras``.
    """
    optimizer = unscaled(callback.model.optimizer)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"{type(callback).__name__} needs an optimizer of adamas.keras, and that of the model is "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}"
        )
    return optimizer
