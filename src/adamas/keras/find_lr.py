"""The learning-rate finder for Keras models: sweeps the rate over many batches, and leaves everything as it was.

``adamas.lr_finding`` reads the curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from ..lr_finding import LRFinding, LRFindingError, Sweep, check_sweep, conclude
from ..rule.declaration import RELATIVE

Array = Any


def find_lr(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    sweeps: int = 3,
    seed: int = 0,
) -> LRFinding:
    """Suggests a learning rate: sweeps it from ``low`` to ``high``, one step per batch, and finds where the loss falls.

    See ``adamas.torch.find_lr`` for the method and the result. Afterwards everything is as it was, bit for bit, even if an
    exception or Ctrl-C ends the search: all variables of the model, its metrics and random numbers, the optimizer and its
    state. The sweep uses a copy of the optimizer, without the schedule of its rate and without ``decay="independent"``, which
    would be the same at every rate.

    Args:
        model: a compiled model, with any optimizer.
        x: inputs, as an array or a structure of arrays that ``model`` takes; or batches, ``(inputs, targets)``, in an iterable
            that can be iterated repeatedly: a list, a ``PyDataset``, a ``tf.data.Dataset``, a DataLoader.
        y: targets, if ``x`` has inputs.
        batch_size: the batch size for arrays, which are shuffled.
        low: the first rate. It must be too low for the loss to change.
        high: the last rate, at which the loss should diverge. In between, every step multiplies the rate by the same factor.
        steps: the number of batches in a sweep, at least 20.
        sweeps: the number of sweeps, each with other batches.
        seed: determines the order of arrays and of a list. The same seed gives the same finding, if the model's own random
            numbers are the same.

    Returns:
        The suggestion with its confidence; ``print`` explains it, ``plot`` draws it.

    Raises:
        LRFindingError: no rate can be suggested: the loss never fell, fell or diverged at the lowest rates, or is not finite;
            or there are no batches. The message says what to change.
        ValueError: an argument has an invalid value, the model is not compiled, or its optimizer accumulates gradients.
    """
    check_sweep(low, high, steps, sweeps)
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model is not compiled: call model.compile(optimizer, loss) first")
    if steps_of := getattr(unscaled(model.optimizer), "gradient_accumulation_steps", None):
        raise ValueError(
            f"gradient_accumulation_steps={steps_of}: a sweep needs a step for each batch; sweep a model compiled without, in "
            f"batches {steps_of} times as large"
        )
    if isinstance(x, Iterator):
        raise ValueError(
            "x can be iterated only once: give arrays, a list, a PyDataset or another iterable that can be restarted"
        )
    rates = np.geomspace(low, high, steps).tolist()
    source = _endless(x, y, batch_size, np.random.default_rng(seed))
    losses = []
    with _restored(model):
        for _ in range(sweeps):
            losses.append(_sweep(model, source, rates))
    return conclude(rates, losses)


def unscaled(optimizer: Any) -> Any:
    """The optimizer itself, if it is wrapped in one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class FindLR(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Finds a learning rate before the first epoch and sets it.

    >>> callback = FindLR(x, y)                                 # doctest: +SKIP
    >>> model.fit(x, y, epochs=10, callbacks=[callback])        # doctest: +SKIP
    >>> print(callback.finding)                                 # doctest: +SKIP

    It does this only if the optimizer has not taken a step yet; a resumed run keeps its rate.

    Args:
        x, y, options: see ``find_lr``.

    Attributes:
        finding: the result of ``find_lr``, or None.
    """

    def __init__(self, x: Any, y: Any = None, **options: Any) -> None:
        super().__init__()
        self.finding: LRFinding | None = None
        self._arguments = (x, y), options

    def on_train_begin(self, logs: Any = None) -> None:
        """Sweeps, and sets the rate.

        Raises:
            ValueError: the optimizer's rate is a schedule.
        """
        optimizer = self.model.optimizer
        if int(optimizer.iterations) > 0:
            return
        if all(variable.name != "learning_rate" for variable in optimizer.variables):
            raise ValueError(
                "FindLR sets the learning rate, but that of the optimizer is a schedule: give the optimizer a number, or call "
                "find_lr and multiply the schedule by the rate that it finds"
            )
        data, options = self._arguments
        self.finding = find_lr(self.model, *data, **options)
        optimizer.learning_rate = self.finding.lr


def _endless(x: Any, y: Any, batch_size: int, order: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """An endless stream of batches: after the last, it starts again, in another order if possible."""
    while True:
        empty = True
        for batch in _batches(x, y, batch_size, order):
            empty = False
            yield batch
        if empty:
            raise LRFindingError("there are no batches. Give at least one, preferably as many as steps")


def _batches(x: Any, y: Any, batch_size: int, order: np.random.Generator) -> Iterable[Any]:
    if y is not None:
        count = len(keras.tree.flatten(x)[0])
        places = order.permutation(count)
        size = min(batch_size, count)
        for first in range(0, count - size + 1, size):  # all of one size, so that nothing is recompiled
            chosen = places[first : first + size]
            yield keras.tree.map_structure(lambda array, chosen=chosen: np.asarray(array)[chosen], (x, y))
    elif isinstance(x, keras.utils.PyDataset):
        yield from (x[i] for i in order.permutation(x.num_batches))
    elif isinstance(x, Sequence):
        yield from (x[i] for i in order.permutation(len(x)))
    else:
        yield from x


def _sweep(model: Any, source: Iterator[tuple[Array, Array]], rates: Sequence[float]) -> list[float]:
    """The loss before the step at each rate, up to the rate at which it diverges."""
    trained = _read(model.variables)
    original = model.optimizer
    model.optimizer = _copy(original, model.trainable_variables)
    model.make_train_function(force=True)
    sweep = Sweep()
    try:
        for rate in rates:
            model.optimizer.learning_rate = rate
            model.reset_metrics()  # the loss is a metric: without a reset it is a mean over batches
            loss = model.train_on_batch(*next(source), return_dict=True)["loss"]
            if not sweep.add(float(loss)):
                break
    finally:
        model.optimizer = original
        _put(model.variables, trained)
    return sweep.losses


def _copy(optimizer: Any, variables: Sequence[Any]) -> Any:
    """An optimizer with the same state and options, whose rate is a number."""
    config = optimizer.get_config()
    inner = config["inner_optimizer"]["config"] if "inner_optimizer" in config else config
    inner["learning_rate"] = 0.0
    if inner.get("decay") in RELATIVE:
        inner["weight_decay"] = 0.0
    copy = type(optimizer).from_config(config)
    copy.build(variables)
    if optimizer.built:
        _put(_state(copy), _read(_state(optimizer)))
    return copy


def _state(optimizer: Any) -> list[Any]:
    """The variables, except that of the learning rate."""
    rate = {id(variable) for variable in getattr(unscaled(optimizer), "_factors", ())}
    return [v for v in optimizer.variables if v.name != "learning_rate" and id(v) not in rate]


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Restores what a sweep changes besides variables and optimizer: the metrics, and the compiled step."""
    metrics = list(model.metrics_variables)
    measured = _read(metrics)
    compiled = model.train_function
    try:
        yield
    finally:
        model.train_function = compiled
        model.reset_metrics()  # those that the sweep created
        _put(metrics, measured)


def _read(variables: Sequence[Any]) -> list[Array]:
    # A copy, because a compiled step on JAX may reuse the memory of the current value.
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def _put(variables: Sequence[Any], values: Sequence[Array]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value.copy())
