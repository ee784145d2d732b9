"""Callbacks for ``fit``: observing a metric for a ``Plateau``, logging of the optimizer, and finding a learning rate."""

from __future__ import annotations

from typing import Any

import keras

from ..schedules import Feedback
from .find_lr import FindLR, unscaled
from .optimizer import Optimizer

__all__ = ["FindLR", "Log", "Plateau"]


class Plateau(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Passes a metric to the ``Plateau`` in the optimizer's learning rate at the end of each epoch.

    >>> from adamas.schedules import Plateau as plateau, warmup
    >>> import adamas.keras
    >>> optimizer = adamas.keras.AdamW(1e-3 * warmup(500) * plateau(factor=0.5, patience=3))
    >>> callbacks = [Plateau(monitor="val_loss")]

    The observations are saved with the model, so a resumed run continues with them. The rule of a ``Feedback`` in the learning
    rate gets all metrics of the epoch.

    Args:
        monitor: the name of the metric in the logs of ``fit``.
    """

    def __init__(self, monitor: str = "val_loss") -> None:
        super().__init__()
        self.monitor = monitor

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the learning rate has a factor that reacts to a metric.

        Raises:
            ValueError: it has none.
        """
        if not own_optimizer(self).observed:
            raise ValueError(
                "the optimizer's learning_rate has no factor that reacts to a metric: give it one, as in "
                "learning_rate=1e-3 * adamas.schedules.Plateau(factor=0.5)"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Observe the metric.

        Raises:
            ValueError: the logs of the epoch do not have the metric.
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
    """Adds measurements of the optimizer to the logs of each epoch.

    ``learning_rate`` is that of the next step; ``gradient_norm`` is the mean global 2-norm of the gradients before clipping
    (of each batch, if gradients are accumulated); ``update_ratio`` is the mean of ‖change of the weights‖ / ‖weights‖ in a
    step, which is about 1e-3 for a good learning rate.

    The change is measured before 16-bit weights are rounded. Under a ``tf.distribute`` strategy, the norm is that of one
    replica's part. Put this callback before others that use these logs.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Turn on the measurements in the step."""
        optimizer = own_optimizer(self)
        if not optimizer.measures:
            optimizer.measures = True
            self.model.make_train_function(force=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Turn off the measurements in the step."""
        own_optimizer(self).measures = False
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Reset the measurements."""
        own_optimizer(self).reset_measured()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the measurements to the logs."""
        if logs is not None:
            optimizer = own_optimizer(self)
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            logs.update(optimizer.measured())


def own_optimizer(callback: Any) -> Optimizer:
    """The optimizer of the callback's model.

    Raises:
        ValueError: the optimizer is not one of ``adamas.keras``.
    """
    optimizer = unscaled(callback.model.optimizer)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"{type(callback).__name__} needs an optimizer of adamas.keras, and that of the model is "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}"
        )
    return optimizer
