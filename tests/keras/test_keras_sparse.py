"""Sparse gradients in ``adamas.keras``: the step of the dense gradient, of their rows alone where that is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import BACKEND, value_of, variables

import adamas.keras as ak
from adamas.keras.backend import framework

pytestmark = pytest.mark.keras

if BACKEND == "tensorflow":
    import tensorflow as tf

of_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="on the other backends, every gradient is made dense"
)

Batch = tuple[Any, Any]  # indices, and a row of values for each


def batches(shape: tuple[int, ...], dtype: str = "float32") -> list[Batch]:
    """Of the even rows: a few, none, one, and many of which one occurs a hundred times."""
    rng, found = np.random.default_rng(0), []
    for count in (7, 0, 1, 150):
        rows = 2 * rng.integers(0, shape[0] // 2, count)
        rows[:100] = 4 if count > 100 else rows[:100]
        values = tf.cast(rng.standard_normal((count, *shape[1:])), dtype)
        found.append((tf.constant(rows, tf.int32), values))
    return found


def whole(batch: Batch, shape: tuple[int, ...]) -> Any:
    """The dense gradient of a batch, in float32 at least."""
    rows, values = batch
    wide = tf.cast(values, "float64" if values.dtype == "float64" else "float32")
    return tf.math.unsorted_segment_sum(wide, rows, shape[0])


def sparse(batch: Batch, shape: tuple[int, ...]) -> Any:
    return tf.IndexedSlices(batch[1], batch[0], tf.constant(shape))


class Table:
    """A variable that is stepped by the gradients that ``gradient`` makes of batches, beside one with a dense gradient."""

    def __init__(
        self,
        optimizer: Any,
        gradient: Callable[..., Any],
        shape: tuple[int, ...],
        dtype: str = "float32",
        mode: str = "",
    ) -> None:
        """``mode``: ``"graph"``, or ``"xla"``, for any number of rows; else every operation runs at once."""
        self.optimizer = optimizer
        self.of = [
            keras.Variable(np.random.default_rng(1).standard_normal(shape), dtype=dtype, name="table"),
            keras.Variable(np.ones(3), dtype="float32", name="bias"),
        ]
        optimizer.build(self.of)

        def step(rows: Any, values: Any) -> None:
            optimizer.apply([gradient((rows, values), shape), tf.ones(3)], self.of)

        signature = [tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, *shape[1:]), dtype)]
        self.step = tf.function(step, input_signature=signature, jit_compile=mode == "xla") if mode else step

    @property
    def variables(self) -> list[Any]:
        """The table and the optimizer's variables."""
        return [*self.of, *self.optimizer.variables]

    def values(self) -> list[np.ndarray]:
        """Those of ``variables``."""
        return [value_of(v) for v in self.variables]


@pytest.fixture
def rows_alone(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The gradients of which the rows alone are stepped."""
    if BACKEND != "tensorflow":
        return []
    found: list[Any] = []
    summed = framework.summed
    monkeypatch.setattr(framework, "summed", lambda gradient, shape: found.append(gradient) or summed(gradient, shape))
    return found


WIDE = (40, 130)  # with moments in 8 bits, in two blocks a row
STORED = [  # and whether XLA compiles it in each run of the tests
    (ak.SGD, "float32", (40, 6), {}, True),
    (ak.SGD, "bfloat16", (40, 6), {}, False),
    (ak.SGD, "bfloat16", (40, 6), {"weights": "stochastic"}, False),
    (ak.Adagrad, "float32", (40, 6), {}, False),
    (ak.Adagrad, "float64", (40, 3, 4), {}, False),
    (ak.Adagrad, "bfloat16", (40, 6), {}, True),
    (ak.Adagrad, "bfloat16", (40, 3, 128), {"weights": "stochastic", "state": "int8"}, False),
    (ak.Adagrad, "float32", WIDE, {"state": "bfloat16"}, False),
    (ak.Adagrad, "float32", WIDE, {"state": "int8"}, True),
    (ak.Adagrad, "float32", WIDE, {"state": "int6"}, False),
]
IN_MODES = [
    pytest.param(
        *case, mode, id=f"{case[0].__name__}-{case[1:]}-{mode or 'eager'}", marks=pytest.mark.nightly if later else ()
    )
    for *case, soon in STORED
    for mode in ("", "graph", "xla")
    for later in [mode == "xla" and not soon]
]


@of_tensorflow
@pytest.mark.parametrize(("make", "dtype", "shape", "options", "mode"), IN_MODES)
def test_the_rows_alone_make_the_dense_step(
    make: Any, dtype: str, shape: tuple[int, ...], options: dict[str, Any], mode: str, rows_alone: list[Any]
) -> None:
    """To the bit, but for what XLA approximates; and the other rows stay as they are, with their states."""
    one, other = (Table(make(0.1, **options), gradient, shape, dtype, mode) for gradient in (sparse, whole))
    before = one.values()
    for batch in batches(shape, dtype):
        one.step(*batch), other.step(*batch)
    assert rows_alone
    stored = [variable.dtype for variable in one.variables]
    for kind, old, got, want in zip(stored, before, one.values(), other.values(), strict=True):
        if mode == "xla":
            unit = 2 if "int" in kind else 1e-6  # of low bits
            assert np.allclose(got, want, rtol=2**-8 if kind == "bfloat16" else 1e-6, atol=unit)
        else:
            assert np.array_equal(got, want)
        if got.shape[:1] == shape[:1]:
            assert np.array_equal(got[1::2], old[1::2])
    assert not np.array_equal(one.values()[0][::2], before[0][::2])


@of_tensorflow
@pytest.mark.parametrize("options", [{}, {"use_ema": True}], ids=["plain", "ema"])
@pytest.mark.parametrize("make", [ak.SGD, ak.Adagrad])
def test_nothing_of_the_size_of_the_table_is_computed(make: Any, options: dict[str, Any]) -> None:
    """Where Keras averages the weights, that average alone."""
    shape = (41, 6)

    def sized(gradient: Any) -> set[str]:
        table = Table(make(0.1, **options), gradient, shape, mode="graph")
        operations = table.step.get_concrete_function().graph.get_operations()
        return {op.name for op in operations if any(x.shape.rank and x.shape[0] == 41 for x in op.outputs)}

    assert sized(whole)
    assert bool(sized(sparse)) == bool(options)


FOR_DENSE = [
    ("Adam", {}),
    ("AdamW", {}),
    ("RMSprop", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"weight_decay": 0.1}),
    ("Adagrad", {"weight_decay": 0.1}),
    ("Adagrad", {"clipnorm": 0.5}),
    ("SGD", {"clipvalue": 0.5}),
    ("SGD", {"global_clipnorm": 0.5}),
    ("SGD", {"gradient_accumulation_steps": 2}),
]


@of_tensorflow
@pytest.mark.parametrize(("name", "options"), FOR_DENSE, ids=str)
def test_where_more_than_the_rows_moves_the_step_is_that_of_keras(
    name: str, options: dict[str, Any], rows_alone: list[Any]
) -> None:
    """Keras's with a dense gradient: of a sparse one it clips single rows, and accumulates none."""
    shape = (40, 6)
    ours = Table(getattr(ak, name)(0.1, **options), sparse, shape)
    theirs = Table(getattr(keras.optimizers, name)(0.1, **options), whole, shape)
    for batch in batches(shape):
        ours.step(*batch), theirs.step(*batch)
    assert not rows_alone
    assert np.allclose(value_of(ours.of[0]), value_of(theirs.of[0]), rtol=1e-5, atol=1e-5)


@of_tensorflow
@pytest.mark.parametrize(
    "options", [{"l1": 0.1}, {"weight_decay": 0.1, "decay": "cautious"}, {"cautious": True}, {"epsilon": 0.0}], ids=str
)
def test_the_step_is_dense_where_a_gradient_of_0_does_something(options: dict[str, Any], rows_alone: list[Any]) -> None:
    """Without ε, the update is 0/0 where no gradient has been."""
    given = {**options, "initial_accumulator_value": 0.0}
    one, other = (Table(ak.Adagrad(0.1, **given), gradient, (40, 6)) for gradient in (sparse, whole))
    for batch in batches((40, 6)):
        one.step(*batch), other.step(*batch)
    assert not rows_alone
    for got, want in zip(one.values(), other.values(), strict=True):
        assert np.array_equal(got, want, equal_nan=True)


@of_tensorflow
def test_rows_of_a_variable_that_is_excluded_from_the_decay_are_stepped_alone(rows_alone: list[Any]) -> None:
    optimizer = ak.SGD(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["table"])
    table = Table(optimizer, sparse, (40, 6))
    table.step(*batches((40, 6))[0])
    assert rows_alone


@of_tensorflow
def test_a_row_counts_once_in_what_is_measured() -> None:
    measured = []
    for gradient in (sparse, whole):
        table = Table(ak.Adagrad(0.1), gradient, (40, 6))
        table.optimizer.measures = True
        for batch in batches((40, 6)):
            table.step(*batch)
        measured.append(table.optimizer.measured())
    assert measured[0] == measured[1]


@of_tensorflow
def test_under_a_strategy_the_gradient_is_made_dense(rows_alone: list[Any]) -> None:
    """As replicas have rows of their own."""
    ends = []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["/cpu:0"])):
        with strategy.scope():
            table = Table(ak.SGD(0.1), sparse, (40, 6))
        strategy.run(table.step, batches((40, 6))[0])
        ends.append(value_of(table.of[0]))
        assert len(rows_alone) == 1
    assert np.array_equal(*ends)


@of_tensorflow
def test_trap_T57_rows_that_are_there_twice_are_summed_before_they_are_squared() -> None:
    """In Keras, each of them is squared; without such rows the steps are the same."""
    shape = (40, 6)
    once = tf.constant([8, 2, 4]), tf.constant(np.random.default_rng(2).standard_normal((3, 6)), tf.float32)
    twice = tf.repeat(once[0], 2), tf.repeat(once[1] / 2, 2, axis=0)
    ends = []
    for make, batch in ((ak.Adagrad, once), (ak.Adagrad, twice), (keras.optimizers.Adagrad, once)):
        table = Table(make(0.1), sparse, shape)
        table.step(*batch)
        ends.append(value_of(table.of[0]))
    assert np.array_equal(ends[0], ends[1])
    assert np.allclose(ends[0], ends[2], rtol=1e-6)


@of_tensorflow
@pytest.mark.parametrize("options", [{}, {"clipvalue": 1e9}], ids=["rows", "dense"])
def test_rows_in_16_bits_are_summed_in_float32(options: dict[str, Any]) -> None:
    """In bfloat16, 256 + 1 is 256."""
    table = Table(ak.SGD(1.0, weights="nearest", **options), sparse, (40, 6), "float32")
    before = value_of(table.of[0])
    table.step(tf.zeros(257, tf.int32), tf.ones((257, 6), tf.bfloat16))
    assert np.allclose(before[0] - value_of(table.of[0])[0], 257)


@of_tensorflow
def test_values_of_another_shape_are_refused() -> None:
    table = Table(ak.SGD(0.1), sparse, (40, 6))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"\[3,1\]"):
        table.step(tf.constant([1, 2, 3]), tf.ones((3, 1)))


@of_tensorflow
@pytest.mark.parametrize(
    ("options", "jit"),
    [
        ({}, False),
        ({}, True),
        ({"state": "int8"}, False),
        pytest.param({"state": "int8"}, True, marks=pytest.mark.nightly),
    ],
)
def test_an_embedding_in_fit_ends_where_the_dense_step_does(
    options: dict[str, Any], jit: bool, rows_alone: list[Any]
) -> None:
    """Words occur several times, and the last batch is a smaller one."""
    words = np.random.default_rng(0).integers(0, 60, (70, 6))
    ends = []
    for more in ({}, {"clipvalue": 1e9}):  # clips nothing, but needs the dense gradient
        keras.utils.set_random_seed(1)
        layers = [keras.Input((6,)), keras.layers.Embedding(128, 36), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(ak.Adagrad(0.1, **options, **more), loss="mse", jit_compile=jit)
        model.fit(words, words.mean(1, keepdims=True) / 60, batch_size=16, epochs=2, verbose=0, shuffle=False)
        ends.append(value_of(model.layers[0].embeddings))
        assert bool(rows_alone) == (not more)
        rows_alone.clear()
    assert np.allclose(*ends, rtol=1e-5, atol=1e-6)


def test_a_sparse_gradient_is_taken_as_a_whole_one() -> None:
    rows, values = [[1], [4]], np.ones((2, 40), np.float32)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        sparse = tf.IndexedSlices(values, [1, 4], [6, 40])
    elif BACKEND == "jax":
        from jax.experimental.sparse import BCOO

        sparse = BCOO((values, np.array(rows)), shape=(6, 40))
    else:
        pytest.skip("Keras has none on PyTorch")
    one, other = variables()[:1], variables()[:1]
    whole = np.zeros((6, 40), np.float32)
    whole[[1, 4]] = values
    ak.Adam(0.1).apply([sparse], one)
    ak.Adam(0.1).apply([keras.ops.convert_to_tensor(whole)], other)
    assert np.array_equal(value_of(one[0]), value_of(other[0]))
