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
    """Suggest a learning rate: sweep it from ``low`` to ``high``, a step a batch, and see where the loss falls.

    What it does, and what it says, is described at ``adamas.torch.find_lr``. Afterwards everything is as it was, bit for bit,
    also when an exception or Ctrl-C ends it: all variables of the model, its metrics and random numbers, the optimizer and its
    state. The sweep is made with a copy of the optimizer; a schedule of its rate does not count there, nor, since it would be
    the same at every rate, does ``decay="independent"``.

    Args:
        model: compiled, with any optimizer.
        x: inputs, an array or what ``model`` takes of arrays; or batches, ``(inputs, targets)``, in whatever can be iterated
            again and again: a list, a ``PyDataset``, a ``tf.data.Dataset``, a DataLoader.
        y: targets, where ``x`` are inputs.
        batch_size: of arrays; they are shuffled.
        low: the first rate. The loss must not yet move there.
        high: the last rate, at which it should diverge. Between the two the rate grows by the same factor at every step.
        steps: batches in a sweep, 20 or more.
        sweeps: how often the sweep is repeated, with other batches.
        seed: decides the order of arrays and of a list. The same seed gives the same finding, where the model's own random
            numbers do.

    Returns:
        The suggestion with its confidence; ``print`` says it in words, ``plot`` draws it.

    Raises:
        LRFindingError: nothing can be suggested: the loss never fell, fell at the lowest rates or diverged there, or is not
            finite; or there are no batches. The text says what to change.
        ValueError: an argument has a value that it cannot have, the model is not compiled, or its optimizer accumulates
            gradients.
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
            "x can be iterated only once: give arrays, a list, a PyDataset or another thing that begins anew"
        )
    rates = np.geomspace(low, high, steps).tolist()
    source = _endless(x, y, batch_size, np.random.default_rng(seed))
    losses = []
    with _restored(model):
        for _ in range(sweeps):
            losses.append(_sweep(model, source, rates))
    return conclude(rates, losses)


def unscaled(optimizer: Any) -> Any:
    """The optimizer itself, where it stands within one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class FindLR(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Finds a learning rate before the first epoch and sets it.

    >>> callback = FindLR(x, y)                                 # doctest: +SKIP
    >>> model.fit(x, y, epochs=10, callbacks=[callback])        # doctest: +SKIP
    >>> print(callback.finding)                                 # doctest: +SKIP

    It does so for an optimizer that has done no step yet; a resumed training goes on with what it has.

    Args:
        x, y, options: see ``find_lr``.

    Attributes:
        finding: what was found, or None.
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
                "FindLR sets the learning rate, and that of the optimizer is a schedule: give the optimizer a number, or call "
                "find_lr and multiply the schedule by what it finds"
            )
        data, options = self._arguments
        self.finding = find_lr(self.model, *data, **options)
        optimizer.learning_rate = self.finding.lr


def _endless(x: Any, y: Any, batch_size: int, order: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Batches without an end: when all were given, from the beginning, in another order where possible."""
    while True:
        empty = True
        for batch in _batches(x, y, batch_size, order):
            empty = False
            yield batch
        if empty:
            raise LRFindingError("there are too few batches: none. Give at least one, and better as many as steps")


def _batches(x: Any, y: Any, batch_size: int, order: np.random.Generator) -> Iterable[Any]:
    if y is not None:
        count = len(keras.tree.flatten(x)[0])
        places = order.permutation(count)
        size = min(batch_size, count)
        for first in range(0, count - size + 1, size):  # each of one size, so that nothing is compiled anew
            chosen = places[first : first + size]
            yield keras.tree.map_structure(lambda array, chosen=chosen: np.asarray(array)[chosen], (x, y))
    elif isinstance(x, keras.utils.PyDataset):
        yield from (x[i] for i in order.permutation(x.num_batches))
    elif isinstance(x, Sequence):
        yield from (x[i] for i in order.permutation(len(x)))
    else:
        yield from x


def _sweep(model: Any, source: Iterator[tuple[Array, Array]], rates: Sequence[float]) -> list[float]:
    """The loss before the step at each rate, up to where it diverges."""
    trained = _read(model.variables)
    original = model.optimizer
    model.optimizer = _copy(original, model.trainable_variables)
    model.make_train_function(force=True)
    sweep = Sweep()
    try:
        for rate in rates:
            model.optimizer.learning_rate = rate
            model.reset_metrics()  # of which the loss is one: it is then that of the batch
            loss = model.train_on_batch(*next(source), return_dict=True)["loss"]
            if not sweep.add(float(loss)):
                break
    finally:
        model.optimizer = original
        _put(model.variables, trained)
    return sweep.losses


def _copy(optimizer: Any, variables: Sequence[Any]) -> Any:
    """An optimizer of the same state and options, whose rate is a number."""
    config = optimizer.get_config()
    inner = config["inner_optimizer"]["config"] if "inner_optimizer" in config else config
    inner["learning_rate"] = 0.0
    if inner.get("decay") == "independent":
        inner["weight_decay"] = 0.0
    copy = type(optimizer).from_config(config)
    copy.build(variables)
    if optimizer.built:
        _put(_state(copy), _read(_state(optimizer)))
    return copy


def _state(optimizer: Any) -> list[Any]:
    """The variables that do not tell the learning rate."""
    rate = {id(variable) for variable in getattr(unscaled(optimizer), "_factors", ())}
    return [v for v in optimizer.variables if v.name != "learning_rate" and id(v) not in rate]


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Puts back what a sweep changes beside variables and optimizer: the metrics, and the compiled step."""
    metrics = list(model.metrics_variables)
    measured = _read(metrics)
    compiled = model.train_function
    try:
        yield
    finally:
        model.train_function = compiled
        model.reset_metrics()  # those that were first made by the sweep
        _put(metrics, measured)


def _read(variables: Sequence[Any]) -> list[Array]:
    # A copy, for a compiled step on JAX may take the memory of what is there.
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def _put(variables: Sequence[Any], values: Sequence[Array]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value.copy())
