"""The members of ``adamas.keras``: each held against the float64 oracle and against its namesake in Keras."""

from __future__ import annotations

import inspect
import json
from typing import Any

import keras
import numpy as np
import oracle
import pytest
from keras_cases import (
    BACKEND,
    CASES,
    IN_KERAS,
    LARGE,
    Case,
    Stepper,
    after,
    assert_near,
    in_turns,
    nightly_on,
    normal,
    stepped,
    value_of,
    variables,
)
from rules_with_sums import LAMB, STANDARDIZED, Scaling, standardized, trusted
from rules_with_sums import stepped as stepped_by_numpy

import adamas.keras as ak
import adamas.numpy as an
from adamas.rule.declaration import Member
from adamas.schedules import cosine

pytestmark = pytest.mark.keras


@pytest.mark.parametrize("case", in_turns(CASES), ids=str)
def test_each_step_is_the_oracles_and_a_rate_of_zero_moves_nothing(case: Case) -> None:
    """From the same weights and moments, one step in float32 is within 1e-6 of the float64 rule."""
    hyper = case.full_hyper()
    step = case.compiled()
    optimizer, of = step.optimizer, step.of
    scalars, names = dict(case.member.scalars), case.member.state_names(hyper)
    for i in range(20):
        gradients = [g.astype(np.float32) for g in normal(100 + i, 10.0 ** (i % 4 - 2))]
        scalars = case.member.advance(hyper, scalars)
        before = [value_of(v) for v in of]
        old = [[value_of(state[name]) for name in names] for state in optimizer._states]
        step(gradients)
        for j, variable in enumerate(of):
            arguments = before[j].astype(float), gradients[j].astype(float), old[j]
            want, moments = oracle.step(case.member, hyper, scalars, *arguments)
            for name, moment, was in zip(names, moments, old[j], strict=True):
                # A sum of two terms that cancel is as exact as these.
                size = max(np.abs(moment).max(), np.abs(was).max())
                assert np.abs(value_of(optimizer._states[j][name]) - moment).max() <= 1e-6 * size, f"{name} {j} at {i}"
            assert_near(value_of(variable), want, 1e-6, f"weight {j} at {i}")
        assert int(optimizer.iterations) == i + 1
    before = [value_of(v) for v in of]
    optimizer.learning_rate = 0.0
    step([np.full(b.shape, np.nan) for b in before])
    assert all(np.array_equal(b, value_of(v)) for b, v in zip(before, of, strict=True))


@pytest.mark.parametrize("case", in_turns(IN_KERAS), ids=str)
def test_weights_are_those_of_keras(case: Case) -> None:
    """To 1e-6 after 20 steps; in float64, except on JAX, which has none unless the whole process is set to it."""
    dtype = "float32" if BACKEND == "jax" else "float64"
    theirs = stepped(case.keras(), variables(0, dtype), 20, jit=False)
    ours = after(case.compiled() if BACKEND == "jax" else Stepper(case.ours(), variables(0, dtype), jit=False), 20)
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, 2e-6 if case.name == "adamax" else 1e-6, str(case))


@pytest.mark.parametrize("case", {case.make: case for case in IN_KERAS}.values(), ids=str)
def test_arguments_and_defaults_are_those_of_keras(case: Case) -> None:
    ours, theirs = (list(inspect.signature(cls.__init__).parameters.values())[1:] for cls in (case.make, case.theirs))
    theirs = [p for p in theirs if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_under_a_changing_rate_the_velocity_is_pytorchs_and_not_keras() -> None:
    """Documented: Keras's velocity has the rate in it, so that a rate of 0 goes on moving there."""
    moved = {}
    for make in (ak.SGD, keras.optimizers.SGD):
        of = [keras.Variable(np.zeros(3), name="v")]
        optimizer = make(0.5, momentum=0.5)
        step = Stepper(optimizer, of)
        step([np.ones(3)])
        optimizer.learning_rate = 0.0
        step([np.ones(3)])
        moved[make] = value_of(of[0])[0]
    assert moved[ak.SGD] == -0.5
    assert moved[keras.optimizers.SGD] == -0.75


@nightly_on("jax")
def test_adamax_differs_from_keras_by_the_place_of_epsilon_alone() -> None:
    ends = {}
    for make in (ak.Adamax, keras.optimizers.Adamax):
        for epsilon in (1e-12, 1.0):
            ends[make, epsilon] = stepped(make(1.0, epsilon=epsilon), variables(), 3)[0]
    assert_near(ends[ak.Adamax, 1e-12], ends[keras.optimizers.Adamax, 1e-12], 1e-6, "without ε")
    assert np.abs(ends[ak.Adamax, 1.0] - ends[keras.optimizers.Adamax, 1.0]).max() > 1e-4


@pytest.mark.parametrize("mode", ["decoupled", "independent", "l2", "corrected", "cautious"])
def test_decay_by_name(mode: str) -> None:
    """With a gradient of zero each kind moves the weight by its own amount."""
    of = [keras.Variable(np.ones(3), name="v")]
    step = Stepper(ak.SGD(0.125 * cosine(2), weight_decay=0.5, decay=mode), of)
    for _ in range(2):
        step([np.zeros(3)])
    want = {"independent": 0.5 * 0.75, "corrected": (1 - 0.0625) * (1 - 0.015625)}
    assert value_of(of[0]) == pytest.approx(want.get(mode, (1 - 0.0625) * (1 - 0.03125)))


def test_a_cautious_update_is_masked_and_enlarged() -> None:
    """The second step has the momentum (3, 3, −3, −2), of which the first and the third element agree with the gradient."""
    of = [keras.Variable(np.zeros(4), name="v")]
    step = Stepper(ak.SGD(0.125, momentum=0.5, cautious=True), of)
    step([np.array([4.0, 8.0, -4.0, -4.0])])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(of[0]), [-0.5, -1.0, 0.5, 0.5])
    step([np.array([1.0, -1.0, -1.0, 0.0])])
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(of[0]), [-0.5 - 0.125 * 3 * 2, -1.0, 0.5 + 0.125 * 3 * 2, 0.5]
    )
    with pytest.raises(ValueError, match="cautious=True is not for AdamH"):
        ak.AdamH(cautious=True)


def test_a_decay_that_float32_would_round_away_is_all_there() -> None:
    """1 − 10⁻⁶ in float32 is 1 − 9.5 · 10⁻⁷: after 100 steps that is half a part in a hundred."""
    if BACKEND == "torch":
        pytest.skip("there the engine's k is a float32")
    of = [keras.Variable(np.ones(3), name="v")]
    step = Stepper(ak.AdamW(1e-4, weight_decay=0.08), of)
    step([np.zeros(3)])
    assert value_of(of[0]) == pytest.approx(1 - 8e-6, abs=6.1e-8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"beta_1": 1.0}, "beta_1 must be a number from 0 to below 1"),
        ({"epsilon": -1.0}, "epsilon must be a nonnegative number"),
        ({"epsilon": np.array(0.1)}, r"epsilon must be a nonnegative number, not array\(0.1\)"),
        ({"learning_rate": -0.1}, "learning_rate must be a nonnegative number"),
        ({"eps_mode": "root"}, "use one of 'hat', 'torch'"),
        ({"decay": 1e-6}, "decay=1e-06 is unknown"),
        ({"weights": "exact"}, "weights='exact' is unknown: use one of 'nearest'"),
        ({"state": "int4"}, "state='int4' is unknown"),
        ({"state": {"momentum": "int8"}}, "no moment 'momentum'; the names are 'exp_avg'"),
        ({"seed": 0.5}, "seed must be an int"),
        ({"decay": "independent", "learning_rate": lambda: 0.1}, "needs a learning_rate"),
    ],
)
def test_errors_name_the_argument_and_what_would_work(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ak.Adam(**arguments)


def test_more_errors() -> None:
    with pytest.raises(TypeError, match="learning_rate must be a number"):
        ak.Adam("0.1")
    with pytest.raises(ValueError, match="centered=True needs"):
        ak.RMSprop(centered=True, state="int8")
    with pytest.raises(ValueError, match="weight_decay"):
        ak.AdamW(weight_decay=None)


def test_an_integer_learning_rate_is_a_number() -> None:
    optimizer = ak.SGD(1)
    assert float(optimizer.learning_rate) == 1.0
    assert ak.SGD(np.float32(0.5)).get_config()["learning_rate"] == 0.5


def test_the_estimate_of_prodigy_is_that_of_numpy() -> None:
    """It follows from sums over all variables, and is kept from step to step."""
    of, rng = variables(), np.random.default_rng(0)
    optimizer, numpy = ak.Prodigy(), an.Prodigy([value_of(v) for v in of])
    for _ in range(6):
        gradients = [1 + rng.random(v.shape) for v in of]
        optimizer.apply_gradients(
            [(keras.ops.convert_to_tensor(g, "float32"), v) for g, v in zip(gradients, of, strict=True)]
        )
        numpy.step(gradients)
    assert numpy.d > 1e-5
    assert value_of(optimizer._scalars["d"]) == pytest.approx(numpy.d, rel=1e-5)


def test_the_numbers_of_numpy_can_be_saved() -> None:
    given = ak.SGD(0.5, momentum=np.float32(0.5), nesterov=np.bool_(True), seed=np.int64(3), name="sgd")
    plain = ak.SGD(0.5, momentum=0.5, nesterov=True, seed=3, name="sgd")
    assert json.loads(json.dumps(given.get_config())) == plain.get_config()


def test_state_has_pytorchs_names_and_is_float32_for_any_variable() -> None:
    optimizer, of = ak.Adam(amsgrad=True, weights="nearest"), variables(0, "bfloat16", LARGE)
    optimizer.build(of)
    assert [v.name for v in optimizer.variables[3:6]] == ["v0_exp_avg", "v0_exp_avg_sq", "v0_max_exp_avg_sq"]
    assert {keras.backend.standardize_dtype(v.dtype) for v in optimizer.variables[2:]} == {"float32"}


@pytest.mark.filterwarnings("ignore:parameter .* overflows, so that the step may be 0:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_squares_that_overflow_leave_weights_finite(case: Case) -> None:
    """A gradient of 1e25: with a denominator no weight moves, and without one it moves by the rate times the gradient."""
    step = case.compiled()
    for _ in range(7):
        step([np.full(v.shape, 1e25, np.float32) for v in step.of])
    assert all(np.isfinite(value_of(v)).all() for v in step.of)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone takes Python's numbers for float32")
def test_the_numbers_of_a_step_are_not_rounded_to_float32() -> None:
    import tensorflow as tf

    from adamas.step.namespaces import tensorflow

    alone, beside = tensorflow._alike(0.1), tensorflow._alike(0.1, tf.constant(1.0, tf.float64))
    assert float(alone[0]) == float(beside[0]) == 0.1


SUMS = [(LAMB, trusted, {"weight_decay": 0.3, "decay": "update"}, 0.3), (STANDARDIZED, standardized, {}, 0.0)]


@pytest.mark.parametrize(("member", "scaled", "options", "inside"), SUMS, ids=["lamb", "standardized"])
def test_a_rule_gets_the_sums_that_it_names(
    member: Member, scaled: Scaling, options: dict[str, Any], inside: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMAS_EXECUTOR", "arrays")  # the engine has the rules of members alone
    shapes = ((3, 5), (7,), ())
    of, gradients = variables(0, shapes=shapes), [normal(1 + i, shapes=shapes) for i in range(5)]
    wanted = stepped_by_numpy(scaled, [value_of(v) for v in of], gradients, 0.125, (0.9, 0.999), 1e-7, inside)
    kind = type("Own", (ak.Adam,), {"_member": member})
    step = Stepper(kind(0.125, eps_mode="torch", **options), of)
    for given in gradients:
        step(given)
    for variable, p in zip(of, wanted, strict=True):
        np.testing.assert_allclose(value_of(variable), p, rtol=1e-5, atol=1e-6)
