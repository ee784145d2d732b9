"""Schedules of ``adamas.schedules`` in Keras, what answers to a metric, the finder, and what is logged."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import BACKEND, Stepper, nightly_on, nightly_unless_on_torch, normal, value_of, variables

import adamas.keras as ak
from adamas.keras.callbacks import FindLR, Log, Plateau
from adamas.schedules import Feedback, Schedule, cosine, parse, warmup
from adamas.schedules import Plateau as plateau  # noqa: N813 - a schedule, which are written small
from adamas.schedules.shapes import constant

pytestmark = pytest.mark.keras

X = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
Y = X.sum(1, keepdims=True)
MANY = np.random.default_rng(1).standard_normal((512, 8)).astype(np.float32)
VALIDATION = {"validation_data": (X, Y), "batch_size": 32, "verbose": 0}


def compiled(optimizer: Any, dropout: float = 0.0) -> Any:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(dropout), keras.layers.Dense(1)])
    model.compile(optimizer, loss="mse", metrics=["mae"])
    return model


def rate_of(optimizer: Any) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


@pytest.mark.parametrize(
    "schedule",
    [0.5 * warmup(3).then(cosine(5)), 0.25 * cosine(3).repeat(2), 0.5 * constant().then(cosine(2), at=3)],
    ids=repr,
)
@nightly_on("jax")
def test_a_schedule_has_its_value_at_every_step_and_survives_its_config(schedule: Any) -> None:
    optimizer = ak.SGD.from_config(ak.SGD(schedule).get_config())
    assert optimizer._learning_rate.schedule == schedule
    of = [keras.Variable(np.zeros(1), name="v")]
    step, moved = Stepper(optimizer, of), [0.0]
    for i in range(8):
        assert rate_of(optimizer) == pytest.approx(schedule(i), abs=1e-7)
        step([-np.ones(1)])
        moved.append(float(value_of(of[0])[0]))
    assert np.diff(moved) == pytest.approx([schedule(i) for i in range(8)], abs=3e-7)


SCHEDULES = """
constant(0.5)
linear(9, 0.1, 0.7)
polynomial(9, 2, end=0.1)
exponential(0.5, 4)
exponential(0.5, 4, staircase=True)
inverse_time(0.5, 4)
power(0.9)
step(0.5, 4)
multistep([3, 9], 0.5)
piecewise([3, 9], [1, 0.5, 0.1])
cosine(9, 0.1)
cosine(9, exponent=2)
cosine_restarts(4)
cosine_restarts(4, 2, 0.5)
cosine_restarts(5, 1.6)
one_cycle(12)
one_cycle(12, shape="linear", three_phase=True)
triangular(4)
triangular(3, 5, mode="triangular2")
triangular(4, mode="exp_range", gamma=0.9)
inverse_sqrt(4)
trapezoid(20, 4, 6)
warmup(5)
warmup(5, shape="cosine")
warmup(5, 0.1, "exponential")
2*warmup(3).then(cosine(9))
cosine(9).clip(0.2, 0.8)
cosine(9).shift(3)
cosine(9).per_epoch(3)
cosine(9).per_epoch(3, smooth=True)
linear(5).repeat()
linear(5).repeat(2)
power(0.9) * linear(5)
"""


def test_every_schedule_is_computed_in_a_compiled_step_as_by_itself() -> None:
    schedules = [parse(text) for text in SCHEDULES.strip().splitlines()]
    kinds = {name for name, kind in Schedule._registry.items() if kind.__module__ == "adamas.schedules.shapes"}
    tried = {part._name for schedule in schedules for part in schedule.parts()}
    assert tried >= {name for name in kinds if name[0] != "_"} - {"from_function"}

    def at(t: Any) -> list[Any]:
        return [ak.Scheduled(schedule)(t) for schedule in schedules]

    if BACKEND == "jax":
        import jax

        at = jax.jit(at)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        at = tf.function(at, jit_compile=True)
    for t in range(30):
        for schedule, value in zip(schedules, at(keras.ops.convert_to_tensor(t)), strict=True):
            assert float(value) == pytest.approx(schedule(t), rel=1e-6, abs=1e-8), (schedule, t)


def test_schedules_serve_other_optimizers_when_wrapped() -> None:
    schedule = ak.Scheduled(0.5 * cosine(4))
    assert rate_of(keras.optimizers.SGD(schedule)) == 0.5
    assert float(keras.ops.convert_to_numpy(schedule(2))) == pytest.approx(0.25)
    observed = plateau(factor=0.5, patience=0)
    schedule = ak.Scheduled(0.5 * observed)
    observed.observe(1.0), observed.observe(1.0)
    assert rate_of(keras.optimizers.SGD(schedule)) == 0.25
    with pytest.raises(TypeError, match="schedule must be a schedule"):
        ak.Scheduled(0.1)  # type: ignore[arg-type]


@nightly_on("jax")
def test_a_compiled_step_sees_the_plateau_and_a_resumed_training_goes_on_with_it(tmp_path: Path) -> None:
    """Whole or interrupted, saved and loaded, the factors are the same."""

    def run(model: Any, first: int, last: int) -> list[float]:
        history = model.fit(
            X, Y, initial_epoch=first, epochs=last, callbacks=[Plateau(), Log()], shuffle=False, **VALIDATION
        )
        return history.history["learning_rate"]

    def fresh() -> Any:
        return compiled(ak.SGD(2.0**-10 * plateau(factor=0.5, patience=1, threshold=0.5)))

    whole = fresh()
    rates = run(whole, 0, 6)
    assert rates[0] == 2.0**-10
    assert rates[-1] <= 2.0**-12
    half = fresh()
    first = run(half, 0, 3)
    half.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert loaded.optimizer.observed[0].history == half.optimizer.observed[0].history
    assert first + run(loaded, 3, 6) == rates
    for a, b in zip(whole.trainable_variables, loaded.trainable_variables, strict=True):
        assert np.array_equal(value_of(a), value_of(b))


def test_a_factor_is_seen_by_the_step_that_was_compiled_before() -> None:
    factor = plateau(factor=0.5, patience=0)
    of = [keras.Variable(np.zeros(1), name="v")]
    step, moved = Stepper(ak.SGD(1.0 * factor), of), []
    for loss in (1.0, 1.0, 1.0):
        factor.observe(loss)
        before = value_of(of[0])[0]
        step([-np.ones(1)])
        moved.append(value_of(of[0])[0] - before)
    assert moved == [1.0, 0.5, 0.25]


@nightly_unless_on_torch
def test_feedback_is_given_all_metrics_of_the_epoch() -> None:
    seen = []

    def rule(metrics: list[dict[str, float]], factor: float) -> float:
        seen.append(sorted(metrics[-1]))
        return factor / 2

    model = compiled(ak.SGD(0.125 * Feedback(rule)))
    model.fit(X, Y, epochs=2, callbacks=[Plateau()], **VALIDATION)
    assert seen == [["loss", "mae", "val_loss", "val_mae"]] * 2
    assert rate_of(model.optimizer) == 0.125 / 4


@nightly_unless_on_torch
def test_errors_of_the_plateau_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="has no factor that reacts"):
        compiled(ak.SGD(0.1)).fit(X, Y, callbacks=[Plateau()], verbose=0)
    with pytest.raises(ValueError, match="monitor='val_los' was not measured: there are loss, mae"):
        compiled(ak.SGD(0.1 * plateau())).fit(X, Y, callbacks=[Plateau("val_los")], verbose=0)
    with pytest.raises(ValueError, match=r"needs an optimizer of adamas\.keras"):
        compiled(keras.optimizers.SGD(0.1)).fit(X, Y, callbacks=[Log()], verbose=0)


def test_what_is_logged_is_what_the_step_did() -> None:
    """Before the clip; the update over the weights as gradient descent makes it."""
    of = variables()
    weights, gradients = [value_of(v) for v in of], normal(3)
    optimizer = ak.SGD(0.5, global_clipnorm=1.0)
    optimizer.measures = True
    Stepper(optimizer, of)(gradients)
    size = np.sqrt(sum((g**2).sum() for g in gradients))
    assert size > 1
    want = {"gradient_norm": size, "update_ratio": 0.5 / np.sqrt(sum((w**2).sum() for w in weights))}
    assert optimizer.measured() == pytest.approx(want, rel=1e-5)
    optimizer.reset_measured()
    assert optimizer.measured() == {"gradient_norm": 0.0, "update_ratio": 0.0}


@nightly_on("tensorflow")
def test_it_logs_where_the_loss_is_scaled_too() -> None:
    """At a rate of 0, and at the end: the first scales overflow, and those steps are left out."""
    norms = []
    for policy in ("mixed_float16", "float32"):
        keras.config.set_dtype_policy(policy)
        try:
            model = compiled(ak.SGD(0.0))
        finally:
            keras.config.set_dtype_policy("float32")
        logs = model.fit(X, Y, epochs=8, callbacks=[Log()], batch_size=64, verbose=0).history
        norms.append(logs["gradient_norm"][-1])
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


def test_each_epoch_is_logged_by_itself() -> None:
    """A step an epoch of gradient descent on a parabola: gradients fall by the same factor each time."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(ak.SGD(0.1), loss="mse")
    x = np.ones((4, 1), np.float32)
    norms = model.fit(x, 3 * x, epochs=4, callbacks=[Log()], verbose=0).history["gradient_norm"]
    assert norms == pytest.approx([norms[0] * 0.8**i for i in range(4)], rel=1e-4)


def test_of_accumulated_gradients_each_batch_is_measured_and_each_step() -> None:
    of = variables()
    weights, gradients = [value_of(v) for v in of], normal(3)
    optimizer = ak.SGD(0.5, gradient_accumulation_steps=2)
    optimizer.measures = True
    step = Stepper(optimizer, of)
    step(gradients), step([3 * g for g in gradients])
    size = np.sqrt(sum((g**2).sum() for g in gradients))
    want = {"gradient_norm": 2 * size, "update_ratio": 0.5 * 2 * size / np.sqrt(sum((w**2).sum() for w in weights))}
    assert optimizer.measured() == pytest.approx(want, rel=1e-5)


def everything(model: Any) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(v.value)
        for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)
    ]


@nightly_on("tensorflow")
def test_the_finder_suggests_a_rate_and_leaves_everything_bit_for_bit() -> None:
    """Also in a model with random numbers of its own, an optimizer that has begun, and a schedule."""
    model = compiled(ak.Adam(0.125 * cosine(1000)), dropout=0.1)
    model.fit(X, Y, epochs=1, verbose=0)
    optimizer, before, compiled_step = model.optimizer, everything(model), model.train_function
    finding = ak.find_lr(model, MANY, MANY.sum(1, keepdims=True), batch_size=128, steps=60, sweeps=2)
    assert 1e-3 < finding.lr < 3
    assert 0 <= finding.confidence <= 1
    assert model.optimizer is optimizer
    assert all(np.array_equal(a, b) for a, b in zip(before, everything(model), strict=True))
    with pytest.raises(ak.LRFindingError, match="Raise high"):
        ak.find_lr(model, [(X[i : i + 16], Y[i : i + 16]) for i in (0, 16)], low=1e-12, high=1e-10, steps=20, sweeps=1)
    assert all(np.array_equal(a, b) for a, b in zip(before, everything(model), strict=True))
    assert model.train_function is compiled_step
    done = int(optimizer.iterations)
    model.fit(X, Y, epochs=1, verbose=0)
    assert int(optimizer.iterations) == 2 * done


@nightly_on("tensorflow")
def test_a_sweep_has_the_loss_of_each_batch_and_begins_with_the_state_of_the_optimizer() -> None:
    model = compiled(ak.Adam(0.01))
    batches = [(X, Y), (X, 1.05 * Y)]
    want = sorted(model.evaluate(*batch, verbose=0)[0] for batch in batches)
    finding = ak.find_lr(model, batches, steps=60, sweeps=1)
    assert sorted(finding.losses[0][:2]) == pytest.approx(want, rel=1e-3)
    model.optimizer.build(model.trainable_variables)
    for state in model.optimizer._states:
        state["exp_avg_sq"].assign(np.full(state["exp_avg_sq"].shape, 1e12))  # with which nothing moves
    with pytest.raises(ak.LRFindingError):
        ak.find_lr(model, batches, steps=60, sweeps=1)


@nightly_unless_on_torch
def test_the_order_of_the_batches_is_the_seeds() -> None:
    model, options = compiled(ak.Adam(0.01)), {"batch_size": 128, "steps": 40, "sweeps": 1}
    first, same, other = (
        ak.find_lr(model, MANY, MANY.sum(1, keepdims=True), seed=seed, **options) for seed in (0, 0, 1)
    )
    assert first.losses == same.losses
    assert first.losses[0][:4] != other.losses[0][:4]


@nightly_unless_on_torch
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: ak.Adam(0.01 * plateau() * warmup(5)),
        lambda: ak.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)),
        lambda: ak.Adam(0.01, weight_decay=0.1, decay="independent"),
    ],
    ids=["plateau", "keras", "independent-decay"],
)
def test_what_gives_the_rate_or_a_decay_beside_it_does_not_count_in_a_sweep(optimizer: Any) -> None:
    assert swept(optimizer()) == pytest.approx(swept_by_adam(), rel=1e-5)


def swept(optimizer: Any) -> tuple[float, ...]:
    model = compiled(optimizer)
    optimizer.build(model.trainable_variables)
    return ak.find_lr(model, MANY, MANY.sum(1, keepdims=True), batch_size=128, steps=40, sweeps=1).losses[0]


@cache
def swept_by_adam() -> tuple[float, ...]:
    return swept(ak.Adam(0.01))


@nightly_unless_on_torch
def test_the_finder_as_a_callback_sets_the_rate_once() -> None:
    model, callback = (
        compiled(ak.Adam(1e-6)),
        FindLR(MANY, MANY.sum(1, keepdims=True), batch_size=128, steps=60, sweeps=1),
    )
    model.fit(X, Y, epochs=1, callbacks=[callback], verbose=0)
    assert callback.finding is not None
    assert rate_of(model.optimizer) == pytest.approx(callback.finding.lr)
    found = callback.finding
    model.fit(X, Y, epochs=1, callbacks=[callback], verbose=0)
    assert callback.finding is found
    with pytest.raises(ValueError, match="is a schedule"):
        compiled(ak.Adam(0.1 * cosine(9))).fit(X, Y, callbacks=[callback], verbose=0)


def test_errors_of_the_finder() -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="model is not compiled"):
        ak.find_lr(model, X, Y)
    model.compile(ak.SGD(0.1), loss="mse")
    with pytest.raises(ValueError, match="only once"):
        ak.find_lr(model, iter([(X, Y)]))
    with pytest.raises(ValueError, match="low and high"):
        ak.find_lr(model, X, Y, low=1.0, high=0.1)
    with pytest.raises(ak.LRFindingError, match="there are no batches"):
        ak.find_lr(model, [])


def test_a_sweep_with_accumulated_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient_accumulation_steps=4: a sweep needs a step for each batch"):
        ak.find_lr(compiled(ak.Adam(gradient_accumulation_steps=4)), X, Y)


@nightly_unless_on_torch
def test_it_is_measured_with_the_log_and_without_it_no_more() -> None:
    model = compiled(ak.SGD(0.01))
    model.fit(X, Y, verbose=0)
    model.fit(X, Y, verbose=0, callbacks=[Log()])
    measured = value_of(model.optimizer._measured)
    model.fit(X, Y, verbose=0)
    assert measured[0] > 0
    assert (value_of(model.optimizer._measured) == measured).all()
