"""Schedules of ``adamas.schedules`` for Keras, and their evaluation within a compiled step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from ..schedules import Schedule, from_json
from ..schedules.plateau import Observed
from ..schedules.schedule import Scalars, Traced
from .backend import IS_COMPILED, framework


class _Host(Scalars):
    def __init__(self, factors: Sequence[tuple[Observed, float]]) -> None:
        self._factors = factors

    def observed(self, factor: Observed) -> float:
        return next(value for part, value in self._factors if part is factor)


@keras.saving.register_keras_serializable("adamas")
class Scheduled(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras is untyped
    """A schedule of ``adamas.schedules`` as a Keras schedule, which is saved and loaded with the model.

    The optimizers of ``adamas.keras`` wrap schedules themselves; for other optimizers, wrap them with this class. Keras's
    optimizers count micro-steps if gradients are accumulated, and use the value that a ``Plateau`` had when the step was
    compiled.

    Args:
        schedule: the schedule.
        observed: the observations (``state_dict``) of each part that reacts to a metric, as in ``get_config``.

    Raises:
        TypeError: it is not a schedule.
    """

    def __init__(self, schedule: Schedule | dict[str, Any], observed: Sequence[dict[str, Any]] = ()) -> None:
        if isinstance(schedule, dict):
            schedule = from_json(schedule)
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a schedule of adamas.schedules, not {type(schedule).__name__}")
        self.schedule = schedule
        self.observed = [part for part in schedule.parts() if isinstance(part, Observed)]
        for part, state in zip(self.observed, observed, strict=False):
            part.load_state_dict(state)

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step, which may be a tensor."""
        return self.at(step, [part.value for part in self.observed])

    def at(self, step: Any, factors: Sequence[Any]) -> Any:
        """The learning rate if the parts that react to a metric have these values; float32 if the step is traced."""
        pairs = list(zip(self.observed, factors, strict=True))
        if not IS_COMPILED:
            return self.schedule._at(max(float(step), 0.0), _Host([(part, float(value)) for part, value in pairs]))
        xp = framework.Namespace()
        with xp.computing():
            traced = Traced(xp, [(part, xp.double(framework.opened(value))) for part, value in pairs])
            t = xp.maximum(xp.double(framework.opened(step)), 0.0)
            return framework.closed(xp.narrowed(self.schedule._at(t, traced) + 0.0 * t, "float32"))

    def get_config(self) -> dict[str, Any]:
        """The schedule as JSON, and the observations of its parts.

        Raises:
            TypeError: it contains a Python function.
        """
        return {"schedule": self.schedule.to_json(), "observed": [part.state_dict() for part in self.observed]}
