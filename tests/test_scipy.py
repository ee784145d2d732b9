"""The methods for scipy.optimize.minimize: a table of members by properties, and every form that SciPy's arguments take."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import members as table
import numpy as np
import oracle
import pytest
import scipy
from rules_with_sums import LAMB
from scipy.optimize import (
    Bounds,
    LinearConstraint,
    OptimizeResult,
    OptimizeWarning,
    basinhopping,
    dual_annealing,
    minimize,
    rosen,
    rosen_der,
)

import adamas.scipy
from adamas.schedules import Plateau, cosine, warmup
from adamas.scipy import METHODS, adam, minimize_stochastic
from adamas.scipy.stepping import Stepper


@dataclass(frozen=True)
class Function:
    """A benchmark function with its gradient, a start, and its least value."""

    name: str
    fun: Callable[..., Any]
    jac: Callable[..., Any]
    start: tuple[float, ...]
    least: float = 0.0

    def __str__(self) -> str:
        return self.name


def beale(x: np.ndarray) -> float:
    a, b = x
    return sum((c - a + a * b**i) ** 2 for i, c in enumerate((1.5, 2.25, 2.625), 1))


def beale_der(x: np.ndarray) -> np.ndarray:
    a, b = x
    parts = [(c - a + a * b**i, b**i - 1, i * a * b ** (i - 1)) for i, c in enumerate((1.5, 2.25, 2.625), 1)]
    return np.array([sum(2 * r * da for r, da, _ in parts), sum(2 * r * db for r, _, db in parts)])


def booth(x: np.ndarray) -> float:
    return (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2


def booth_der(x: np.ndarray) -> np.ndarray:
    r, s = x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5
    return np.array([2 * r + 4 * s, 4 * r + 2 * s])


def himmelblau(x: np.ndarray) -> float:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def himmelblau_der(x: np.ndarray) -> np.ndarray:
    r, s = x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7
    return np.array([4 * r * x[0] + 2 * s, 2 * r + 4 * s * x[1]])


def matyas(x: np.ndarray) -> float:
    return 0.26 * (x[0] ** 2 + x[1] ** 2) - 0.48 * x[0] * x[1]


def matyas_der(x: np.ndarray) -> np.ndarray:
    return np.array([0.52 * x[0] - 0.48 * x[1], 0.52 * x[1] - 0.48 * x[0]])


def sphere(x: np.ndarray) -> Any:
    return x @ x


def sphere_der(x: np.ndarray) -> Any:
    return 2 * x


def both(x: np.ndarray, *args: Any) -> tuple[Any, Any]:
    return sphere(x), sphere_der(x)


FUNCTIONS = [
    Function("rosenbrock", rosen, rosen_der, (-1.2, 1.0)),
    Function("beale", beale, beale_der, (1.0, 1.0)),
    Function("booth", booth, booth_der, (-2.0, 2.0)),
    Function("himmelblau", himmelblau, himmelblau_der, (1.0, 1.0)),
    Function("matyas", matyas, matyas_der, (4.0, -3.0)),
    Function("sphere-10", sphere, sphere_der, tuple(np.linspace(-2, 3, 10))),
]

# The rates with which the methods come to the minimum of every function; that of gradient descent is one of the curvature,
# which is small along Matyas' valley.
FALLING = cosine(8000, end=0.01)
RATES = {
    **{"sgd": 2e-3, "momentum": 1e-3, "nesterov": 1e-3, "adagrad": 1.0, "rmsprop": 0.01 * FALLING, "adam": 0.05},
    **{
        "adamw": 0.05,
        "amsgrad": 0.1,
        "adamax": 0.05,
        "radam": 0.003,
        "lion": 0.01 * FALLING,
        "signum": 0.01 * FALLING,
        "lars": 20 * FALLING,
        "adopt": 1.0 * FALLING,
        ("sgd", "matyas"): 0.5,
    },
}
CASES = {case.name.replace("-schedule-free", "_schedule_free"): case for case in table.CASES}
CASES = {name: case for name, case in CASES.items() if name in METHODS}
members = pytest.mark.parametrize("name", CASES)
START = np.array([-1.2, 1.0])
SEED = {"rng" if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 15) else "seed": 0}  # renamed by SciPy


def test_the_table_has_every_method() -> None:
    assert sorted(CASES) == sorted(METHODS)
    assert all(getattr(adamas.scipy, name) is method for name, method in METHODS.items())


# ---- members by properties


@pytest.mark.parametrize(
    ("function", "name"),
    [
        pytest.param(
            function,
            name,
            marks=[] if name in ("sgd", "adam") or function.name == "booth" else pytest.mark.nightly,
        )
        for function in FUNCTIONS
        for name in CASES
    ],
    ids=str,
)
def test_every_member_comes_to_the_minimum(function: Function, name: str) -> None:
    options = {"lr": RATES.get((name, function.name), RATES.get(name, 0.02 * FALLING))}
    if METHODS[name].defaults["weight_decay"]:
        options["weight_decay"] = 0.0
    found = minimize(function.fun, function.start, jac=function.jac, method=METHODS[name], options=options)
    assert found.fun - function.least < 1e-4
    assert found.fun == function.fun(found.x)
    np.testing.assert_array_equal(found.jac, function.jac(found.x))
    assert found.success == (found.status == 0)
    last = METHODS[name].member.offset is not None  # the average of the steps is another point
    assert found.nfev == found.njev == found.nit + 1 + last


@members
def test_the_steps_are_those_of_the_oracle_bit_for_bit(name: str) -> None:
    method = METHODS[name]
    lr = 1e-3 * warmup(5).then(cosine(30))
    hyper = {"weight_decay": 0.0, "decay": "l2", "l1": 0.0, "maximize": False, **method.defaults}
    scalars, state = dict(method.member.scalars), oracle.start(method.member, hyper, (2,))
    x, path = START, [START]
    for t in range(40):
        now = {**hyper, "lr": lr(t), "base_lr": 1e-3}
        scalars = method.member.advance(now, scalars)
        x, state = oracle.step(method.member, now, scalars, x, rosen_der(x), state)
        path.append(x)
    options = {"lr": lr, "maxiter": 40, "return_all": True}
    found = minimize(rosen, START, jac=rosen_der, method=method, options=options)
    np.testing.assert_array_equal(found.allvecs, path)


@members
@pytest.mark.parametrize("extra", [{}, {"weight_decay": 0.1}], ids=["plain", "decay"])
def test_the_first_steps_are_those_of_torch(name: str, extra: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    settings = {**CASES[name].options, "lr": 1e-3, **extra}
    weights = torch.tensor(START, requires_grad=True)
    optimizer = CASES[name].reference([weights], **settings)
    path = [START]
    for _ in range(100):
        weights.grad = torch.tensor(rosen_der(weights.detach().numpy()))
        optimizer.step()
        path.append(weights.detach().numpy().copy())
    options = {"maxiter": 100, "return_all": True, **settings}
    found = minimize(rosen, START, jac=rosen_der, method=METHODS[name], options=options)
    # PyTorch keeps NAdam's product of μ in float32.
    np.testing.assert_allclose(found.allvecs, path, rtol=1e-7 if name == "nadam" else 1e-11)


def test_other_hyperparameters_of_torch_mean_the_same() -> None:
    torch = pytest.importorskip("torch")
    for name, reference, settings in (
        ("sgd", "SGD", {"lr": 1e-3, "momentum": 0.8, "dampening": 0.1}),
        ("adagrad", "Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
        ("rmsprop", "RMSprop", {"lr": 1e-3, "momentum": 0.8, "centered": True, "alpha": 0.9}),
        ("adam", "Adam", {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-3}),
        ("nadam", "NAdam", {"lr": 1e-3, "momentum_decay": 0.1}),
    ):
        weights = torch.tensor(START, requires_grad=True)
        optimizer = getattr(torch.optim, reference)([weights], **settings)
        for _ in range(30):
            weights.grad = torch.tensor(rosen_der(weights.detach().numpy()))
            optimizer.step()
        options = {"maxiter": 30, "return_all": True, **settings}
        found = minimize(rosen, START, jac=rosen_der, method=METHODS[name], options=options)
        np.testing.assert_allclose(found.allvecs[-1], weights.detach(), rtol=1e-7, err_msg=name)


def test_independent_decay_is_by_the_factor_of_the_schedule_alone() -> None:
    for lr in (0.5, 0.5 * cosine(4)):
        options = {"lr": lr, "weight_decay": 0.1, "decay": "independent", "maxiter": 4, "return_all": True}
        found = minimize(lambda x: 0.0, [1.0], jac=lambda x: [0.0], method=adam, options={**options, "gtol": 0})
        assert len(found.allvecs) == 1  # the gradient is 0: there is nothing to be done
        found = minimize(lambda x: x[1], [1.0, 0.0], jac=lambda x: [0.0, 1.0], method=adam, options=options)
        factors = [1.0] * 4 if lr == 0.5 else [cosine(4)(t) for t in range(4)]
        expected = np.cumprod([1 - 0.1 * factor for factor in factors])
        np.testing.assert_allclose([x[0] for x in found.allvecs[1:]], expected, rtol=1e-12)


@members
def test_the_best_point_is_given_and_not_the_last(name: str) -> None:
    seen: list[OptimizeResult] = []

    def fun(x: np.ndarray) -> Any:
        return sphere(x) if len(seen) < 20 else 100.0 + sphere(x)

    def note(intermediate_result: OptimizeResult) -> None:
        seen.append(intermediate_result)

    found = minimize(fun, [1.0, 2.0], jac=sphere_der, method=METHODS[name], callback=note, options={"maxiter": 40})
    i, best = min(enumerate(seen, 1), key=lambda point: point[1].fun)
    assert found.fun == best.fun < 100
    np.testing.assert_array_equal(found.x, best.x)
    assert found.nit == 40
    assert f"best point, from step {i}" in found.message


@members
def test_x_keeps_its_dtype_and_the_start_its_values(name: str) -> None:
    start = np.array([1.0, 2.0], np.float32)
    seen = []

    def fun(x: np.ndarray) -> Any:
        seen.append(x.dtype)
        x *= 1.0  # may be written to
        return sphere(x)

    found = minimize(fun, start, jac=sphere_der, method=METHODS[name], options={"maxiter": 5})
    assert found.x.dtype == np.float32
    assert set(seen) == {np.dtype(np.float32)}
    assert start.tolist() == [1.0, 2.0]
    assert found.fun == sphere(found.x)
    found = minimize(sphere, [1, 2], jac=sphere_der, method=METHODS[name], options={"maxiter": 5})
    assert found.x.dtype == np.float64


@members
def test_methods_are_pickled_and_printed_by_name(name: str) -> None:
    assert pickle.loads(pickle.dumps(METHODS[name])) is METHODS[name]
    assert repr(METHODS[name]) == f"adamas.scipy.{name}"


@members
def test_x_stays_within_bounds(name: str) -> None:
    seen = []

    def fun(x: np.ndarray) -> Any:
        seen.append(x)
        return sphere(x - 3)

    options = {"lr": 0.05, "maxiter": 3000, "gtol": 1e-4}
    found = minimize(fun, [9.0, 0.0], method=METHODS[name], bounds=[(-1, 2), (None, None)], options=options)
    assert all(-1 <= x[0] <= 2 for x in seen)
    assert found.x[0] == 2
    assert "x[0] at its upper bound 2" in found.message
    assert abs(found.x[1] - 3) < 0.5


# ---- the forms of SciPy's arguments


def test_gradients_in_every_form_give_the_same_minimum() -> None:
    options = {"lr": 0.05}
    forms: list[dict[str, Any]] = [
        {"fun": sphere, "jac": sphere_der},
        {"fun": both, "jac": True},
        {"fun": sphere},
        {"fun": sphere, "jac": "3-point"},  # SciPy hands on None
        *({"fun": sphere, "options": {**options, "finite_diff": scheme}} for scheme in ("2-point", "3-point", "cs")),
    ]
    for form in forms:
        found = minimize(x0=[1.0, -1.0], method=adam, **{"options": options, **form})
        assert found.success
        np.testing.assert_allclose(found.x, 0, atol=1e-5)


def test_jac_true_evaluates_once_for_value_and_gradient() -> None:
    calls = []

    def counted(x: np.ndarray) -> Any:
        calls.append(x)
        return both(x)

    found = minimize(counted, [1.0], jac=True, method=adam, options={"maxiter": 10})
    assert len(calls) == found.nit + 1 == 11
    with pytest.raises(ValueError, match="jac=True"):
        adam(both, [1.0], jac=True)


@pytest.mark.parametrize(("scheme", "calls"), [("2-point", 1 + 3), ("3-point", 1 + 2 * 3), ("cs", 1 + 3)])
def test_finite_differences_count_their_calls(scheme: str, calls: int) -> None:
    found = minimize(sphere, np.ones(3), method=adam, options={"maxiter": 1, "finite_diff": scheme})
    assert found.nfev == 2 * calls
    assert found.njev == 2


def test_finite_differences_stay_within_bounds_and_leave_what_is_fixed() -> None:
    def fun(x: np.ndarray) -> Any:
        assert (x >= 0).all(), x
        assert x[1] == 0.5
        return np.sqrt(x).sum()

    for dtype in (np.float64, np.float32):
        start = np.array([1.0, 0.5], dtype)
        found = minimize(fun, start, method=adam, bounds=[(0, None), (0.5, 0.5)], options={"lr": 0.05, "maxiter": 200})
        np.testing.assert_array_equal(found.x, [0, 0.5])


def test_args_go_to_function_and_gradient() -> None:
    def fun(x: np.ndarray, a: float, b: float) -> Any:
        return (x[0] - a) ** 2 + b

    def jac(x: np.ndarray, a: float, b: float) -> Any:
        return 2 * (x - a)

    for form in ({"jac": jac}, {}):
        found = minimize(fun, [0.0], args=(2.0, 5.0), method=adam, options={"lr": 0.1}, **form)
        assert found.x[0] == pytest.approx(2, abs=1e-4)
        assert found.fun == pytest.approx(5)
    assert minimize(lambda x, a: (x[0] - a) ** 2, [0.0], args=2.0, method=adam, options={"lr": 0.1}).success


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds([1.0, -np.inf], [np.inf, np.inf]),
        Bounds(np.array([1.0, -5]), 7),
        [(1, None), (None, None)],
        ((1.0, np.inf), (-np.inf, np.inf)),
        np.array([[1.0, 9.0], [-9.0, 9.0]]),
        zip([1.0, -9.0], [9.0, 9.0], strict=True),
    ],
    ids=["Bounds", "Bounds-scalar", "None", "tuples", "array", "iterator"],
)
def test_bounds_in_every_form(bounds: Any) -> None:
    found = minimize(sphere, [3.0, 1.0], jac=sphere_der, bounds=bounds, method=adam, options={"lr": 0.05})
    assert found.success
    np.testing.assert_allclose(found.x, [1, 0], atol=1e-5)
    assert "Active bounds: x[0] at its lower bound 1." in found.message


def test_bounds_hold_in_float32_though_they_lie_between_its_numbers() -> None:
    low, high = 0.7, 0.1
    assert float(np.float32(low)) < low
    assert float(np.float32(high)) > high
    start = np.array([2.0, -2.0], np.float32)
    bounds = [(low, None), (None, high)]
    found = minimize(lambda x: x[0] - x[1], start, bounds=bounds, method=adam, options={"lr": 0.1, "maxiter": 100})
    assert found.success
    assert low <= float(found.x[0]) < low + 1e-6
    assert high - 1e-6 < float(found.x[1]) <= high
    assert "x[0] at its lower" in found.message
    assert "x[1] at its upper" in found.message


def test_active_bounds_are_counted_where_there_are_many() -> None:
    found = minimize(sphere, np.ones(20), jac=sphere_der, bounds=[(1, 2)] * 20, method=adam)
    assert found.success
    assert found.nit == 0
    assert "and 12 more" in found.message


def test_tol_is_gtol_where_that_is_not_given() -> None:
    loose = minimize(sphere, [1.0], jac=sphere_der, method=adam, tol=0.5, options={"lr": 0.01})
    assert 0.1 < abs(loose.jac[0]) <= 0.5
    assert "gtol (0.5 <= 0.5)" in loose.message or "<= 0.5)" in loose.message
    exact = minimize(sphere, [1.0], jac=sphere_der, method=adam, tol=0.5, options={"lr": 0.01, "gtol": 1e-3})
    assert abs(exact.jac[0]) <= 1e-3


def test_both_signatures_of_a_callback() -> None:
    plain: list[np.ndarray] = []
    named: list[OptimizeResult] = []
    sphere_with = {"fun": sphere, "x0": [1.0, 2.0], "jac": sphere_der, "method": adam, "options": {"maxiter": 5}}

    def change(x: np.ndarray) -> None:
        plain.append(x.copy())
        x[:] = 100.0  # it is a copy

    def note(*, intermediate_result: OptimizeResult) -> None:
        named.append(intermediate_result)

    def spoil(intermediate_result: OptimizeResult) -> None:
        intermediate_result.x[:] = 100.0

    expected = minimize(**sphere_with)
    for callback in (change, spoil):
        np.testing.assert_array_equal(minimize(**sphere_with, callback=callback).x, expected.x)
    plain.clear()
    minimize(**sphere_with, callback=change)
    minimize(**sphere_with, callback=note)
    assert len(plain) == len(named) == 5
    for x, result in zip(plain, named, strict=True):
        np.testing.assert_array_equal(x, result.x)
        assert result.fun == sphere(x)
    minimize(**sphere_with, callback=plain.append)  # a builtin


def test_stop_iteration_ends_the_run() -> None:
    def halt(intermediate_result: OptimizeResult) -> None:
        if intermediate_result.fun < 4.9:
            raise StopIteration

    found = minimize(sphere, [1.0, 2.0], jac=sphere_der, method=adam, callback=halt, options={"lr": 0.01})
    assert (found.status, found.success) == (99, False)
    assert found.message == "`callback` raised `StopIteration`."
    assert found.fun < 4.9


def test_constraints_are_refused_by_name_and_none_is_fine() -> None:
    for given in ({"type": "eq", "fun": sphere}, [{"type": "eq", "fun": sphere}], LinearConstraint([[1.0]], 0, 1)):
        with pytest.raises(ValueError, match=r"constraints: method adamas\.scipy\.adam takes none.*SLSQP"):
            minimize(sphere, [1.0], jac=sphere_der, method=adam, constraints=given)
    for none in ((), [], None):
        assert minimize(sphere, [1.0], jac=sphere_der, method=adam, constraints=none, options={"maxiter": 1}).nit == 1


def test_hessians_are_ignored_with_a_warning_at_the_caller() -> None:
    for name in ("hess", "hessp"):
        with pytest.warns(RuntimeWarning, match=rf"does not use Hessian.*\({name}\)") as caught:
            minimize(sphere, [1.0], jac=sphere_der, method=adam, options={"maxiter": 1}, **{name: lambda *a: 1})
        assert caught[0].filename == __file__


def test_unknown_options_warn_as_scipy_does() -> None:
    with pytest.warns(
        OptimizeWarning, match=r"Unknown solver options: maxitr, beta1 \(did you mean maxiter, betas"
    ) as got:
        minimize(sphere, [1.0], jac=sphere_der, method=adam, options={"maxitr": 1, "beta1": 0.5, "lr": 0.1})
    assert got[0].filename == __file__
    with pytest.warns(OptimizeWarning, match=r"Unknown solver options: learning_rate \(did you mean lr\?\)"):
        minimize(sphere, [1.0], jac=sphere_der, method=adam, options={"maxiter": 1, "learning_rate": 0.1})
    with pytest.warns(OptimizeWarning, match="betas"):
        minimize(sphere, [1.0], jac=sphere_der, method=adamas.scipy.sgd, options={"betas": (0.9, 0.99), "lr": 0.1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1}, "lr must be a nonnegative number or a schedule, not -1"),
        ({"lr": "auto"}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": 0.1 * cosine(5, end=-1)}, "lr must be a nonnegative number, but 0.1 .* gives -.* at step 3"),
        ({"eps": cosine(5)}, "eps cannot be a schedule"),
        ({"betas": 0.9}, "betas must be a pair"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be from 0 up to but not including 1"),
        ({"decay": "none"}, "decay='none' is unknown"),
        ({"amsgrad": 1}, "amsgrad must be True or False"),
        ({"maxiter": -1}, "maxiter must be a whole number of at least 0"),
        ({"maxiter": 1.5}, "maxiter must be a whole number"),
        ({"patience": 0}, "patience must be a whole number of at least 1"),
        ({"gtol": -1}, "gtol must be a nonnegative number"),
        ({"finite_diff": "4-point"}, "finite_diff='4-point' is unknown"),
    ],
)
def test_wrong_options_are_named_with_what_would_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        minimize(sphere, [1.0], jac=sphere_der, method=adam, options=options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x0": [1j]}, "x0 must be a vector of real numbers"),
        ({"x0": [np.nan]}, r"x0\[0\] is not"),
        ({"bounds": [(0, 1), (0, 1)]}, "bounds has 2 pairs for the 1 elements"),
        ({"bounds": [(2, 1)]}, r"bounds\[0\] is \(2.0, 1.0\)"),
        ({"bounds": [3]}, r"bounds\[0\] is 3: give a pair"),
        ({"bounds": Bounds([0, 0], [1, 1])}, "does not fit x0"),
        ({"jac": lambda x: np.ones(3)}, r"jac gives an array of shape \(3,\)"),
        ({"fun": lambda x: x.repeat(2)}, "fun must return one real number"),
        ({"fun": both}, "jac=True"),
    ],
)
def test_wrong_arguments_are_named_with_what_would_work(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        minimize(**{"fun": sphere, "x0": [1.0], "jac": sphere_der, "method": adam, **arguments})


# ---- options


def test_a_run_may_be_ended_by_each_rule() -> None:
    base = {"lr": 0.01}
    by_count = minimize(sphere, [1.0], jac=sphere_der, method=adam, options={**base, "maxiter": 7})
    assert (by_count.status, by_count.success, by_count.nit) == (1, False, 7)
    assert "maxiter=7" in by_count.message
    none = minimize(sphere, [1.0], jac=sphere_der, method=adam, options={"maxiter": 0})
    assert (none.status, none.nit, none.nfev, none.fun) == (1, 0, 1, 1.0)
    kink = {"fun": lambda x: abs(x[0]), "jac": np.sign, "x0": [1.0], "method": adamas.scipy.sgd}
    by_ftol = minimize(**kink, options={**base, "ftol": 1e-9, "patience": 30})
    assert by_ftol.success
    assert 125 < by_ftol.nit < 145
    assert "ftol" in by_ftol.message
    assert minimize(**kink, options={**base, "patience": 30}).nit == by_ftol.nit
    by_xtol = minimize(**kink, options={"lr": 0.01 * cosine(100), "xtol": 1e-6, "patience": 5})
    assert by_xtol.success
    assert "xtol" in by_xtol.message
    assert 100 < by_xtol.nit < 110


def test_disp_prints_and_return_all_gives_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"maxiter": 3, "disp": True, "return_all": True}
    found = minimize(sphere, [1.0], jac=sphere_der, method=adam, options=options)
    printed = capsys.readouterr().out
    assert found.message in printed
    assert "Iterations: 3" in printed
    assert len(found.allvecs) == 4
    assert found.allvecs[0] == [1.0]
    assert "allvecs" not in minimize(sphere, [1.0], jac=sphere_der, method=adam, options={"maxiter": 3})


def test_hyperparameters_may_be_schedules() -> None:
    seen = []
    options = {"lr": 0.1 * cosine(4), "maxiter": 4}
    minimize(lambda x: x[0], [0.0], jac=lambda x: [1.0], method=adamas.scipy.sgd, options=options, callback=seen.append)
    lr = 0.1 * cosine(4)
    np.testing.assert_allclose(np.ravel(seen), -np.cumsum([lr(t) for t in range(4)]), rtol=1e-12)
    options = {"lr": 0.05, "betas": (0.9 * warmup(10), 0.999), "weight_decay": 0.01 * cosine(100)}
    assert minimize(sphere, [1.0, 2.0], jac=sphere_der, method=adam, options=options).success


def test_a_plateau_can_be_observed_from_a_callback() -> None:
    plateau = Plateau(factor=0.5, patience=5)
    found = minimize(
        lambda x: abs(x[0]),
        [1.0],
        jac=np.sign,
        method=adamas.scipy.sgd,
        callback=lambda intermediate_result: plateau.observe(intermediate_result.fun),
        options={"lr": 0.3 * plateau, "maxiter": 300},
    )
    assert plateau.value < 1e-3
    assert found.fun < 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at_first", [True, False])
def test_a_value_that_is_not_finite_stops_the_run_with_a_clear_status(value: float, at_first: bool) -> None:
    def fun(x: np.ndarray) -> float:
        return value if at_first or x[0] < 0.95 else x[0]

    found = minimize(fun, [1.0], jac=lambda x: [1.0], method=adamas.scipy.sgd, options={"lr": 0.02})
    assert (found.status, found.success) == (3, False)
    assert f"The objective is {value} {'at x0' if at_first else 'after step 3'}" in found.message
    if not at_first:
        assert found.x[0] == pytest.approx(0.96)
        assert found.fun == found.x[0]
        assert "The result is the best point, from step 2." in found.message


def test_a_gradient_or_step_that_is_not_finite_stops_the_run_too() -> None:
    found = minimize(sphere, [1.0], jac=lambda x: [np.nan], method=adam)
    assert found.status == 3
    assert "gradient is not finite at x0" in found.message
    found = minimize(sphere, [1.0], jac=lambda x: [1e300], method=adamas.scipy.sgd, options={"lr": 1e200})
    assert found.status == 3
    assert "Step 1 would leave the finite numbers" in found.message


# ---- inside SciPy's global methods


def test_inside_basinhopping() -> None:
    def fun(x: np.ndarray) -> Any:
        return np.cos(14.5 * x[0] - 0.3) + (x[0] + 0.2) * x[0], [-14.5 * np.sin(14.5 * x[0] - 0.3) + 2 * x[0] + 0.2]

    local = {"method": adam, "jac": True, "options": {"lr": 0.02, "maxiter": 500, "gtol": 1e-4}}
    found = basinhopping(fun, [1.0], niter=30, minimizer_kwargs=local, **SEED)
    assert found.lowest_optimization_result.success
    assert found.fun == pytest.approx(-1.0009, abs=1e-3)


def test_inside_dual_annealing() -> None:
    bounds = [(-5.12, 5.12)] * 2

    def rastrigin(x: np.ndarray) -> Any:
        return 20 + np.sum(x**2 - 10 * np.cos(2 * np.pi * x))

    local = {"method": adam, "bounds": bounds, "options": {"lr": 0.02, "maxiter": 300, "gtol": 1e-3}}
    found = dual_annealing(rastrigin, bounds, maxiter=300, minimizer_kwargs=local, **SEED)
    assert found.fun < 1e-4


# ---- noisy functions


def noisy(x: np.ndarray, batch: tuple[np.ndarray, np.ndarray]) -> Any:
    rows, targets = batch
    error = rows @ x - targets
    return np.mean(error**2), 2 * rows.T @ error / len(error)


def regression(seed: int = 0) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Batches of a noisy linear regression, and its exact solution."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(2000, 5)) * [1, 1, 3, 1, 0.5]
    targets = rows @ np.arange(5.0) + draw.normal(size=2000) * 2
    batches = [(rows[i : i + 10], targets[i : i + 10]) for i in range(0, 2000, 10)]
    return batches, np.linalg.lstsq(rows, targets, rcond=None)[0]


@members
def test_stochastic_averaging_is_nearer_than_the_last_iterate(name: str) -> None:
    batches, solution = regression()
    lr = {"sgd": 0.01, "momentum": 1e-3, "nesterov": 1e-3, "adagrad": 0.5, "radam": 0.02, "lars": 1.0}.get(name, 0.05)
    more = {"weight_decay": 0.0} if METHODS[name].defaults["weight_decay"] else {}
    found = minimize_stochastic(noisy, np.zeros(5), batches, jac=True, epochs=10, method=METHODS[name], lr=lr, **more)
    assert found.success
    assert (found.nit, found.epoch, found.nfev, found.njev) == (2000, 10, 2000, 2000)
    distance, last = (np.linalg.norm(x - solution) for x in (found.x, found.x_last))
    assert distance < 0.2
    assert distance < last


def test_averaging_weighs_as_the_formula_has_it() -> None:
    path: list[np.ndarray] = []
    batches, _ = regression()
    run = {"fun": noisy, "x0": np.zeros(5), "batches": batches[:50], "jac": True, "lr": 0.1}
    plain = minimize_stochastic(**run, average=None, callback=path.append)
    np.testing.assert_array_equal(plain.x, plain.x_last)
    assert len(path) == 50
    np.testing.assert_allclose(minimize_stochastic(**run, average=0).x, np.mean(path, axis=0), rtol=1e-12)
    mean = path[0]
    for t, x in enumerate(path[1:], 2):
        mean = (1 - 4 / (t + 3)) * mean + 4 / (t + 3) * x
    np.testing.assert_allclose(minimize_stochastic(**run, average=3).x, mean, rtol=1e-12)


def test_stochastic_progress_and_stopping() -> None:
    seen: list[OptimizeResult] = []
    batches, _ = regression()

    def note(intermediate_result: OptimizeResult) -> None:
        seen.append(intermediate_result)
        if intermediate_result.nit == 300:
            raise StopIteration

    lr = 0.1 * cosine(400)
    found = minimize_stochastic(noisy, np.zeros(5), batches, jac=True, epochs=2, lr=lr, callback=note, every=100)
    assert [result.nit for result in seen] == [100, 200, 300]
    assert [result.epoch for result in seen] == [0, 0, 1]
    assert seen[0].lr == lr(99)
    assert seen[0].fun > seen[-1].fun > 0
    assert (found.status, found.success, found.nit) == (99, False, 300)


def test_stochastic_batches_in_every_form() -> None:
    batches, _ = regression()

    def endless() -> Any:
        while True:
            yield from batches

    limited = minimize_stochastic(noisy, np.zeros(5), endless(), jac=True, maxiter=500, lr=0.05)
    again = minimize_stochastic(noisy, np.zeros(5), batches, jac=True, epochs=3, maxiter=500, lr=0.05)
    np.testing.assert_array_equal(limited.x, again.x)
    assert limited.success
    assert "maxiter=500" in limited.message
    assert again.nit == 500
    with pytest.raises(ValueError, match="batches is a generator, which can be iterated only once"):
        minimize_stochastic(noisy, np.zeros(5), endless(), jac=True, epochs=2)
    with pytest.raises(ValueError, match="batches is empty in pass 1"):
        minimize_stochastic(noisy, np.zeros(5), [], jac=True)
    with pytest.raises(ValueError, match="average must be"):
        minimize_stochastic(noisy, np.zeros(5), batches, jac=True, average=-1)
    with pytest.warns(OptimizeWarning, match="Unknown solver options: gtol") as caught:
        minimize_stochastic(noisy, np.zeros(5), batches, jac=True, gtol=1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("jac", [None, "3-point", lambda x, batch: noisy(x, batch)[1]])
def test_stochastic_gradients_in_every_form(jac: Any) -> None:
    batches, _ = regression()
    run = {"x0": np.zeros(5, np.float64), "batches": batches, "lr": 0.05, "bounds": [(None, 2.5)] * 5}
    expected = minimize_stochastic(noisy, jac=True, **run)
    found = minimize_stochastic(lambda x, batch: noisy(x, batch)[0], jac=jac, **run)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-5)
    assert found.x.max() <= 2.5
    assert "x[4] at its upper bound 2.5" in found.message


def test_a_batch_that_is_not_finite_stops_with_x_as_it_was() -> None:
    batches, _ = regression()
    good = minimize_stochastic(noisy, np.zeros(5), batches[:7], jac=True, lr=0.05)
    bad = [*batches[:7], (batches[7][0] * np.nan, batches[7][1]), *batches[8:]]
    found = minimize_stochastic(noisy, np.zeros(5), bad, jac=True, lr=0.05)
    assert (found.status, found.success, found.nit) == (3, False, 7)
    assert "At batch 8 the objective is nan" in found.message
    np.testing.assert_array_equal(found.x, good.x)
    sizes = [0.0, 1e300, 0.0]
    wild = minimize_stochastic(lambda x, b: (b, [b]), [0.0], sizes, jac=True, lr=1e200, method=METHODS["sgd"])
    assert (wild.status, wild.nit) == (3, 1)
    assert "At batch 2 " in wild.message
    assert np.isfinite(wild.x).all()


# ---- where which is the better choice


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_on_smooth_functions_lbfgsb_is_the_better_choice(function: Function) -> None:
    ours = minimize(function.fun, function.start, jac=function.jac, method=adam, options={"lr": 0.05})
    theirs = minimize(function.fun, function.start, jac=function.jac, method="L-BFGS-B")
    assert theirs.success
    assert theirs.nfev * 4 < ours.nfev


def test_on_a_noisy_function_adam_is_the_better_choice() -> None:
    batches, solution = regression()
    distances = []
    for seed in range(5):
        draw = np.random.default_rng(seed)

        def sampled(x: np.ndarray, draw: np.random.Generator = draw) -> Any:
            return noisy(x, batches[draw.integers(len(batches))])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = minimize(sampled, np.zeros(5), jac=True, method="L-BFGS-B", options={"maxfun": 2000})
        draws = [batches[i] for i in draw.integers(len(batches), size=2000)]
        ours = minimize_stochastic(noisy, np.zeros(5), draws, jac=True, lr=0.05)
        distances.append([np.linalg.norm(ours.x - solution), np.linalg.norm(theirs.x - solution)])
    assert np.max(distances, axis=0)[0] * 5 < np.min(distances, axis=0)[1]


def test_it_loads_no_torch() -> None:
    program = "import sys, adamas.scipy; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_the_examples_in_the_docstrings() -> None:
    import doctest

    from adamas.scipy import stochastic

    for module in (adamas.scipy, stochastic):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_a_rule_gets_the_sums_that_it_names() -> None:
    """LAMB's first step: the signs of the gradient, and the decay, as long as the vector."""
    defaults = {one.name: one.default for one in LAMB.hyperparameters}
    hyper = {**defaults, "lr": 0.1, "weight_decay": 0.3, "l1": 0.0}
    x, gradient = np.array([3.0, -4.0, 12.0]), np.array([1.0, 2.0, -5.0])
    update = gradient / (np.abs(gradient) + 1e-8) + 0.3 * x
    trust = np.linalg.norm(x) / np.linalg.norm(update)
    np.testing.assert_allclose(Stepper(LAMB, hyper, 3).step(x, gradient), x - 0.1 * trust * update, rtol=1e-12)
