"""``adamas.optax``: a table of members, held against the float64 oracle, against optax, and through what optax wraps around.

A new member is tested by its row in ``members``.
"""

from __future__ import annotations

import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
import jax.numpy as jnp  # noqa: E402
import members  # noqa: E402
import oracle  # noqa: E402
from members import There, hyperparameters  # noqa: E402
from rules_with_sums import LAMB, STANDARDIZED, Scaling, standardized, stepped, trusted  # noqa: E402

import adamas.optax as ao  # noqa: E402
from adamas import convert  # noqa: E402
from adamas.optax.transformation import transformation  # noqa: E402
from adamas.rule import formats  # noqa: E402
from adamas.rule.declaration import WEIGHT_DRAW, Member, State  # noqa: E402
from adamas.rule.members import MEMBERS  # noqa: E402
from adamas.schedules import Plateau, cosine, warmup  # noqa: E402
from adamas.step import arrays  # noqa: E402
from adamas.step.namespaces.jax import Namespace  # noqa: E402
from adamas.step.namespaces.numpy import Namespace as NumpyNamespace  # noqa: E402

Tree = Any


@dataclass(frozen=True)
class Case:
    """A row of the table of members, as ``adamas.optax`` has it."""

    name: str
    member: Member
    there: There

    @property
    def make(self) -> Callable[..., Any]:
        return getattr(ao, self.there.name)

    @property
    def arguments(self) -> dict[str, Any]:
        return self.there.arguments

    @property
    def hyper(self) -> dict[str, Any]:
        return hyperparameters(self.member, **{"lr": 0.01, **self.there.hyper})

    def ours(self, **options: Any) -> Any:
        """The member; the same object for the same options, so that ``jax.jit`` of its update compiles once for all tests."""
        return made(self.make, **{"learning_rate": 0.01, **self.arguments, **options})

    def optax(self) -> Any:
        """Its namesake in optax."""
        given = self.there.own_arguments
        make = getattr(optax, self.there.name, None) or getattr(optax.contrib, self.there.name)
        return made(make, learning_rate=0.01, **(self.arguments if given is None else given))

    def __str__(self) -> str:
        return self.name


@cache
def made(make: Callable[..., Any], **options: Any) -> Any:
    return make(**options)


DECAYING = There("nadam", {"momentum_decay": 4e-3}, {"momentum_decay": 4e-3}, own=False)
CASES = [
    *(Case(case.name, case.declared, case.optax) for case in members.CASES if case.optax is not None),
    Case("nadam-decaying", MEMBERS["NAdam"], DECAYING),
]
IN_OPTAX = [case for case in CASES if case.there.own]
# Those that among them have each kind of moment, in each place.
DISTINCT = [case for case in CASES if case.name in ("momentum", "adagrad", "rmsprop-momentum", "amsgrad", "adamax")]
# Those that among them have each kind of code in 8 bits; the second has all that has no sign, and one that has.
IN_8_BITS = [case for case in CASES if case.name in ("rmsprop-momentum", "amsgrad")]
STATES = ["float32", "bfloat16", "int8"]
NIGHTLY = pytest.mark.nightly  # compiling takes most of the time of these tests
SHAPES = {"w": (40, 130), "deep": {"bias": (7,)}}  # the first has moments in 8 bits
MORE_SHAPES = {"w": (40, 130), "deep": {"kernel": (8, 3, 200), "bias": (7,)}, "scalar": ()}


def mostly_nightly(cases: Sequence[Any], *quick: str) -> list[Any]:
    """The cases, of which ``make test`` has only those of these names."""
    return [case if str(case) in quick else pytest.param(case, marks=NIGHTLY) for case in cases]


def normal(seed: int, scale: float = 1.0, dtype: Any = jnp.float32, shapes: Any = SHAPES) -> Tree:
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s) * scale, dtype), shapes, is_leaf=is_shape)


def trained(
    tx: Any, params: Tree, steps: int = 10, scale: float = 0.1, jit: bool = True, apply: Any = ao.apply_updates
) -> tuple[Tree, Tree]:
    state, shapes = tx.init(params), jax.tree.map(jnp.shape, params)
    update = jax.jit(tx.update) if jit else tx.update
    for i in range(steps):
        updates, state = update(normal(100 + i, scale, jax.tree.leaves(params)[0].dtype, shapes), state, params)
        params = apply(params, updates)
    return params, state


def flat(tree: Tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def equal(one: Tree, two: Tree) -> bool:
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b)), one, two)
    return all(jax.tree.leaves(same))


def has(case: Case, state: str) -> bool:
    return not (case.hyper.get("centered") and state != "float32")


WITHOUT_SUMS = [case for case in CASES if has(case, "int8") and not case.member.rule(case.hyper).sums]


# ---- the numbers


@pytest.mark.parametrize("case", mostly_nightly(IN_OPTAX, "adam", "adagrad", "radam", "rmsprop-momentum"), ids=str)
def test_squares_that_overflow_leave_finite_what_optax_leaves_finite(case: Case) -> None:
    params, gradient = jnp.ones(6), jnp.asarray([1.0, 1e18, 1e21, 1e25, 1e36, -1e38])
    finite = []
    for tx in (case.ours(), case.optax()):
        p, state, update = params, tx.init(params), jax.jit(tx.update)
        for step in range(7):
            updates, state = update(gradient if step < 3 else 1e-3 * gradient, state, p)
            p = p + updates
        finite.append(np.isfinite(np.asarray(p)))
    assert (finite[0] >= finite[1]).all()
    assert finite[0].all() or case.name != "radam"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_step_is_the_oracles(case: Case) -> None:
    """From the same weights and moments, one step in float32 is within 1e-6 of the float64 rule: moments and update."""
    hyper = case.hyper
    tx, names = case.ours(), case.member.state_names(hyper)
    params = normal(0, shapes=MORE_SHAPES)
    state, update = tx.init(params), jax.jit(tx.update)
    scalars = dict(case.member.scalars)
    for i in range(20):
        gradients = normal(100 + i, 10.0 ** (i % 4 - 2), shapes=MORE_SHAPES)
        scalars = case.member.advance(hyper, scalars)
        old = [state.moments[name] for name in names]
        updates, state = update(gradients, state, params)
        for path in (("w",), ("deep", "kernel"), ("scalar",)):
            pick = lambda tree, path=path: np.asarray(get(tree, path), np.float64)  # noqa: E731
            before = tuple(map(pick, old))
            expected, after = oracle.step(case.member, hyper, scalars, pick(params), pick(gradients), before)
            for name, x, want in zip(names, before, after, strict=True):
                assert_near(pick(state.moments[name]), want, 1e-6, f"{name} at {path}", x)
            within = 2e-5 if hyper.get("centered") else 1e-6
            usual = hyper["lr"] if path == ("scalar",) else 0.0  # the only element may be one where terms cancel
            assert_near(pick(updates), expected - pick(params), within, f"update at {path}", usual)
        params = optax.apply_updates(params, updates)
        assert int(state.count) == i + 1


@pytest.mark.parametrize("state", [*STATES, "int6"])
@pytest.mark.parametrize("case", mostly_nightly(WITHOUT_SUMS, "amsgrad"), ids=str)  # which are in float64
def test_only_the_numbers_of_a_step_have_64_bits(case: Case, state: str) -> None:
    """What a GPU does slowly is not done for each element or block."""
    params = normal(0, dtype=jnp.bfloat16, shapes=MORE_SHAPES)
    tx = case.ours(state=state, weights="split", weight_decay=0.1)
    program = jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
    assert "tensor<40x130xf32>" in program
    assert not re.findall(r"tensor<\w+x(?:f|i|ui)64>", program)


def get(tree: Tree, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def assert_near(got: np.ndarray, want: np.ndarray, share: float, what: str, before: Any = 0.0) -> None:
    """Within a share of the largest element: where terms cancel, single ones have been rounded before."""
    largest = max(np.abs(want).max(), np.abs(before).max())
    assert np.abs(got - want).max() <= share * largest + 1e-30, what


@pytest.mark.parametrize("case", IN_OPTAX, ids=str)
def test_weights_are_those_of_optax(case: Case) -> None:
    """In float32, where optax's own bias corrections lose the last digits (RAdam's the most: see the next test)."""
    (ours, _), (theirs, _) = (trained(tx, normal(0, shapes=MORE_SHAPES)) for tx in (case.ours(), case.optax()))
    assert_near(flat(ours), flat(theirs), 1e-5 if case.name == "radam" else 1e-6, str(case))


@pytest.mark.parametrize("case", mostly_nightly(IN_OPTAX, "amsgrad", "adamax", "radam", "rmsprop-momentum"), ids=str)
def test_in_float64_updates_are_those_of_optax(case: Case) -> None:
    with jax.enable_x64(True):
        params = normal(0, dtype=jnp.float64)
        mine, theirs = case.ours(), case.optax()
        one, two = mine.init(params), theirs.init(params)
        for i in range(10):
            gradients = normal(100 + i, 0.1, jnp.float64)
            a, one = jax.jit(mine.update)(gradients, one, params)
            b, two = jax.jit(theirs.update)(gradients, two, params)
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                assert x.dtype == jnp.float64
                assert_near(np.asarray(x), np.asarray(y), 1e-12, str(case))
            params = optax.apply_updates(params, b)


SUMS = [(LAMB, trusted, {"weight_decay": 0.3, "decay_mode": "update"}, 0.3), (STANDARDIZED, standardized, {}, 0.0)]


def test_arguments_by_position_are_those_of_optax() -> None:
    for name in ao.__all__:
        if theirs := getattr(optax, name, None) or getattr(optax.contrib, name, None):
            ours = inspect.signature(getattr(ao, name)).parameters.values()
            by_position = [one.name for one in ours if one.kind is one.POSITIONAL_OR_KEYWORD]
            assert by_position == list(inspect.signature(theirs).parameters)[: len(by_position)], name


@pytest.mark.parametrize(("dtype", "precision"), [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 2.0**-8)])
@pytest.mark.parametrize(("member", "scaled", "options", "inside"), SUMS, ids=["lamb", "standardized"])
def test_a_rule_gets_the_sums_that_it_names(
    member: Member, scaled: Scaling, options: dict[str, Any], inside: float, dtype: str, precision: float
) -> None:
    """Of all updates that there are; a parameter without one is in no sum."""
    rng = np.random.default_rng(0)
    start, *gradients = [[rng.standard_normal(shape) for shape in ((3, 5), (7,), ())] for _ in range(6)]
    defaults = {name: one.default for name, one in inspect.signature(ao.adam).parameters.items()}
    with jax.enable_x64(True):
        tx = transformation(member, {**defaults, "learning_rate": 0.1, "weights": "split", **options})
        params = {str(i): jnp.asarray(p, dtype) for i, p in enumerate(start)} | {"still": jnp.ones(3, dtype)}
        wanted = [np.asarray(p, np.float64) for name, p in params.items() if name != "still"]
        state, update = tx.init(params), jax.jit(tx.update)
        for given in gradients:
            updates = {str(i): jnp.asarray(g, "float64") for i, g in enumerate(given)} | {"still": None}
            updates, state = update(updates, state, params)
            params = ao.apply_updates(params, updates)
    wanted = stepped(scaled, wanted, gradients, 0.1, (0.9, 0.999), 1e-8, inside)
    for i, p in enumerate(wanted):
        np.testing.assert_allclose(np.asarray(params[str(i)], np.float64), p, rtol=precision, atol=precision / 10)


def test_lamb_steps_as_that_of_optax() -> None:
    rng = np.random.default_rng(0)
    start, *gradients = [[jnp.asarray(rng.standard_normal(shape)) for shape in ((3, 5), (7,), ())] for _ in range(6)]
    defaults = {name: one.default for name, one in inspect.signature(ao.adam).parameters.items()}
    options = {"learning_rate": 0.1, "weight_decay": 0.1, "decay_mode": "update"}
    ends = []
    for tx in (transformation(LAMB, {**defaults, **options}), optax.lamb(0.1, eps=1e-8, weight_decay=0.1)):
        params = start
        state, update = tx.init(params), jax.jit(tx.update)
        for given in gradients:
            updates, state = update(given, state, params)
            params = optax.apply_updates(params, updates)
        ends.append(params)
    for p, q in zip(*ends, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


def test_a_rule_that_reads_weights_needs_them() -> None:
    defaults = {name: one.default for name, one in inspect.signature(ao.adam).parameters.items()}
    tx = transformation(LAMB, {**defaults, "learning_rate": 0.1, "decay_mode": "update"})
    with pytest.raises(ValueError, match="params: the update of lamb depends on them"):
        tx.update({"w": jnp.ones(3)}, tx.init({"w": jnp.ones(3)}))


def test_the_bias_correction_keeps_its_digits_where_optaxs_does_not() -> None:
    """1 − 0.999ᵗ of float32 powers is wrong by 1.3e-5 on the first step; the update must not be."""
    x = jnp.array([0.3])
    updates, _ = jax.jit(ao.adam(1.0, eps=0.0).update)(x, ao.adam(1.0, eps=0.0).init(x))
    assert abs(float(updates[0]) + 1) < 2e-7


def test_decay_by_name() -> None:
    """With a gradient of zero only the decay moves the weight, and each kind by its own amount."""
    rate, x, moved = 0.1 * cosine(2), jnp.ones(3), {}
    for mode in ("decoupled", "independent", "corrected", "cautious"):
        tx = ao.adamw(rate, weight_decay=0.5, decay_mode=mode)
        p, state = x, tx.init(x)
        for _ in range(2):
            updates, state = jax.jit(tx.update)(jnp.zeros(3), state, p)
            p = ao.apply_updates(p, updates)
        moved[mode] = float(p[0])
    assert moved["decoupled"] == pytest.approx((1 - 0.05) * (1 - 0.025))
    assert moved["independent"] == pytest.approx((1 - 0.5) * (1 - 0.25))
    assert moved["corrected"] == pytest.approx((1 - 0.05) * (1 - 0.0125))
    assert moved["cautious"] == moved["decoupled"]


def test_an_update_that_a_weight_is_too_large_for_is_none_for_cautious_decay() -> None:
    """As in the engine, which looks at what the update has made of the weight."""
    x = jnp.array([1.0, 1.0])
    tx = ao.sgd(1.0, weight_decay=0.5, decay_mode="cautious")
    updates, _ = jax.jit(tx.update)(jnp.array([-1e-9, -0.5]), tx.init(x), x)
    np.testing.assert_allclose(np.asarray(updates), [-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("weights", ["nearest", "split"])
def test_cautious_decay_never_works_against_the_update(weights: str) -> None:
    x, g = jnp.array([2.0, -2.0, 2.0, -2.0, 2.0]), jnp.array([1.0, -1.0, -1.0, 1.0, 0.0])
    x = x.astype(jnp.bfloat16 if weights == "split" else jnp.float32)
    tx = ao.adamw(0.1, weight_decay=0.5, decay_mode="cautious", weights=weights)
    updates, _ = jax.jit(tx.update)(g, tx.init(x), x)
    p = ao.apply_updates(x, updates)
    np.testing.assert_allclose(np.asarray(p, np.float32), [1.8, -1.8, 2.1, -2.1, 1.9], rtol=5e-3)


def test_a_decay_that_float32_would_round_away_is_all_there() -> None:
    """1 − 10⁻⁶ in float32 is 1 − 9.5 · 10⁻⁷."""
    x = jnp.ones(3)
    tx = ao.adamw(1e-4 * cosine(10), weight_decay=1e-2)
    updates, _ = jax.jit(tx.update)(jnp.zeros(3), tx.init(x), x)
    assert np.asarray(updates) == pytest.approx(-1e-6, rel=1e-6)


def matrices(params: Tree) -> Tree:
    return jax.tree.map(lambda p: p.ndim == 2, params)


def test_a_mask_says_which_parameters_decay() -> None:
    params, zeros = normal(0), jax.tree.map(jnp.zeros_like, normal(0))
    for mask in ({"w": True, "deep": False}, matrices):
        tx = ao.adamw(0.1, weight_decay=0.5, mask=mask)
        updates, _ = tx.update(zeros, tx.init(params), params)
        assert np.allclose(updates["w"], -0.05 * params["w"])
        assert not updates["deep"]["bias"].any()


@jax.tree_util.register_pytree_node_class
class Module:
    """A tree of parameters that can be called, as the modules of Equinox are."""

    def __init__(self, kernel: Any, bias: Any) -> None:
        self.kernel, self.bias = kernel, bias

    def __call__(self, x: Any) -> Any:
        return Module(True, True)

    def tree_flatten(self) -> Any:
        return (self.kernel, self.bias), None

    @classmethod
    def tree_unflatten(cls, _: Any, leaves: Any) -> Module:
        return cls(*leaves)


def test_trap_T58_a_mask_that_can_be_called_is_a_tree_all_the_same() -> None:
    """The mask of a module of Equinox is a module too: what calls it gets an output, and not which parameters decay."""
    params = Module(jnp.ones((3, 2)), jnp.ones(2))
    zeros = jax.tree.map(jnp.zeros_like, params)
    for mask in (Module(True, False), lambda params: Module(True, False)):
        tx = ao.adamw(0.1, weight_decay=0.5, mask=mask)
        updates, _ = tx.update(zeros, tx.init(params), params)
        assert np.allclose(updates.kernel, -0.05)
        assert not updates.bias.any()


# ---- dtypes


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, marks=[] if (i + j) % 3 == 0 else NIGHTLY)
        for i, case in enumerate(CASES)
        for j, dtype in enumerate(("bfloat16", "float16", "float32"))
    ],
    ids=str,
)
def test_dtypes_and_shapes_stay(case: Case, dtype: str) -> None:
    params = normal(0, dtype=dtype, shapes={"w": (40, 130), "scalar": ()})
    for state, weights in [("float32", "nearest"), ("bfloat16", "stochastic"), ("int8", "split")]:
        if not has(case, state):
            continue
        tx = case.ours(state=state, weights=weights)
        before = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(tx.update, params, before, params)
        assert described(after) == described(before)
        assert described(jax.eval_shape(ao.apply_updates, params, updates)) == described(params)
        assert described(updates) == described(params)


def described(tree: Tree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, x.weak_type) for x in leaves]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("weights", ["stochastic", "split"])
def test_exact_weights_come_through_optaxs_own_sum(weights: str, dtype: str) -> None:
    """The float32 update of a float32 gradient plus the weight is a 16-bit number as it stands, also across zero."""
    params, tx = normal(0, 1e-3, dtype), ao.adam(3e-4, weights=weights)
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(5):
        updates, state = update(normal(100 + i, 1.0), state, params)
        wide = jax.tree.map(lambda p, u: p.astype(jnp.float32) + u, params, updates)
        params = ao.apply_updates(params, updates)
        assert equal(params, optax.apply_updates(jax.tree.map(lambda w: w.astype(dtype), wide), wide_zeros(wide)))
        assert equal(wide, jax.tree.map(lambda p: p.astype(jnp.float32), params))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_updates_in_16_bits_lose_nothing_but_where_a_weight_crosses_zero(dtype: str) -> None:
    """Elsewhere the sum is the weight that float32 updates lead to; there it is within 2 % of the step."""
    params, tx = normal(0, 1e-3, dtype, {"w": (64, 256)}), ao.adam(3e-4, weights="split")
    state, update = tx.init(params), jax.jit(tx.update)
    join = jax.jit(joined)
    for i in range(5):
        g = normal(100 + i, 1.0, dtype, {"w": (64, 256)})
        before = join(params["w"], state.low_bits["w"])
        exact, exact_state = update(jax.tree.map(lambda x: x.astype(jnp.float32), g), state, params)
        updates, state = update(g, state, params)
        assert updates["w"].dtype == dtype
        old, sums = params["w"], ao.apply_updates(params, exact)["w"]
        params = ao.apply_updates(params, updates)
        wide, meant = join(params["w"], state.low_bits["w"]), join(sums, exact_state.low_bits["w"])
        before, wide, meant, old, want, got = (
            np.asarray(x, np.float32) for x in (before, wide, meant, old, sums, params["w"])
        )
        low, exact_low = np.asarray(state.low_bits["w"]), np.asarray(exact_state.low_bits["w"])
        near = ((old < 0) == (want < 0)) & (2 * abs(want) >= abs(old)) & (2 * abs(old) >= abs(want))
        assert 0.5 < near.mean() < 0.99
        assert ((got == want) & (low == exact_low))[near].all()
        assert (abs(wide - meant) <= 0.02 * abs(meant - before)).all()


def wide_zeros(tree: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, tree)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trap_T05_a_zero_gradient_in_float16_moves_nothing(case: Case) -> None:
    params = normal(0, dtype=jnp.float16)
    tx = case.ours(weight_decay=0.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = jax.jit(tx.update)(zeros, tx.init(params), params)
    if case.name == "rmsprop-centered-momentum":
        updates, _ = jax.jit(tx.update)(zeros, state, params)
    assert equal(ao.apply_updates(params, updates), params)


@pytest.mark.parametrize(
    ("state", "weights"),
    [
        ("float32", "nearest"),
        ("bfloat16", "stochastic"),
        pytest.param("int8", "split", marks=NIGHTLY),
    ],
)
def test_trap_T32_without_jit_the_arrays_that_were_given_stay_as_they_were(state: str, weights: str) -> None:
    """Also when what came of them is donated: nothing new shares memory with what was given."""
    tx = ao.adamw(0.1, state=state, weights=weights)
    shapes = {"w": (40, 130), "small": (7,)}
    params, gradients = (normal(seed, dtype=jnp.bfloat16, shapes=shapes) for seed in (0, 1))
    params["wide"] = gradients["wide"] = jnp.ones(3)
    given = (params, tx.init(params), gradients)
    before = jax.tree.map(np.array, given)

    def step(params: Tree, held: Tree, gradients: Tree) -> Tree:
        updates, held = tx.update(gradients, held, params)
        return ao.apply_updates(params, updates), held

    donated = jax.jit(step, donate_argnums=(0, 1))
    moved, after = step(*given)
    assert not equal(moved, params)
    donated(moved, after, gradients)
    assert all(x.is_deleted() for x in jax.tree.leaves(moved))
    assert equal(given, before)
    donated(jax.tree.map(jnp.copy, params), tx.init(params), gradients)  # a state has nothing of the weights in it
    assert equal(given, before)


@pytest.mark.parametrize("state", mostly_nightly(STATES, "int8"))
def test_trap_T03_a_second_moment_decays_as_far_as_it_should(state: str) -> None:
    tx = ao.adam(1e-3, state=state)
    params = zeros = {"layer": {"w": jnp.zeros((64, 128))}}
    held = tx.init(params)
    update = jax.jit(tx.update)
    _, held = update(jax.tree.map(lambda x: x + 8.0, zeros), held, params)
    for _ in range(2000):
        _, held = update(zeros, held, params)
    v = arrays.load(Namespace(), moment(held, "exp_avg_sq"), "float32", (64, 128))
    assert float(v.mean()) == pytest.approx(0.001 * 64 * 0.999**2000, rel=0.05)


@pytest.mark.parametrize("count", [2**24, 2**24 + 1, 2**31 - 3])
def test_trap_T22_the_step_counts_on(count: int) -> None:
    tx = ao.adamw(1e-3 * warmup(2**25))
    params = normal(0)
    state = tx.init(params)._replace(count=jnp.int32(count))
    updates, state = jax.jit(tx.update)(normal(1), state, params)
    assert int(state.count) == count + 1
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(updates))


def test_an_infinite_weight_without_decay_has_a_finite_update() -> None:
    params = {"w": jnp.array([jnp.inf, -jnp.inf, 1.0])}
    tx = ao.adam(0.1)
    updates, _ = jax.jit(tx.update)({"w": jnp.ones(3)}, tx.init(params), params)
    assert np.isfinite(updates["w"]).all()
    assert np.array_equal(ao.apply_updates(params, updates)["w"][:2], params["w"][:2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rate_of_0_moves_nothing_whatever_the_gradient(case: Case) -> None:
    params, bad = {"w": jnp.ones(3)}, {"w": jnp.full(3, jnp.nan)}
    every: list[Any] = [0.0, lambda count: 0.0 * count] if case in DISTINCT else []
    for rate in (warmup(10), *every):
        tx = case.ours(learning_rate=rate)
        updates, _ = jax.jit(tx.update)(bad, tx.init(params), params)
        assert equal(ao.apply_updates(params, updates), params)


# ---- formats


@pytest.mark.parametrize("case", mostly_nightly(DISTINCT, "adagrad", "amsgrad"), ids=str)
def test_moments_are_stored_with_the_references_bits(case: Case) -> None:
    """One step from random moments, whose new values are a single product each, so that every difference is storage's.

    The gradient is zero except for one element of each block of the lower rows, whose moments are zero. So the blocks of the
    upper rows keep their codes.
    """
    hyper = case.hyper
    shape, rng = (40, 200), np.random.default_rng(0)
    states = [(case.member.names[state.role], state) for state in case.member.rule(hyper).states]
    x = {"layer": {"w": jnp.zeros(shape)}}
    g, size = np.zeros(shape, np.float32), np.float32(0.125)
    g[20:, 5::128] = size
    for state in ("bfloat16", "int8", *(["int6"] if case in IN_8_BITS else [])):
        tx = case.ours(state=state, seed=3, **({"weight_decay": 0.0} if case.name == "adamw" else {}))
        held = tx.init(x)
        loaded: dict[str, np.ndarray] = {}
        before: dict[str, arrays.Stored] = {}
        for name, kind in states:
            wide = (rng.standard_normal(shape) * 10.0 ** rng.integers(-5, 1, shape)).astype(np.float32)
            wide = np.where(g == 0, wide if kind.signed else np.abs(wide), np.float32(0))
            before[name], loaded[name] = stored_to_the_nearest(kind, wide, moment(held, name))
            held.moments[name]["layer"]["w"] = before[name].values
            if state != "bfloat16":
                held.moments[f"{name}_grid"]["layer"]["w"] = before[name].scale
        _, after = jax.jit(tx.update)({"layer": {"w": jnp.asarray(g)}}, held, x)
        scalars = case.member.advance(hyper, dict(case.member.scalars))
        k = case.member.numbers_of(hyper, scalars)
        key = formats.tensor_key(3, "layer.w")
        for name, kind in states:
            factor = np.float32(1.0 if kind.decay is None else k[kind.decay])
            value = factor * loaded[name]
            if kind.of in ("gradient", "square"):
                value = np.where(g == 0, value, np.float32(k[kind.gain]) * (g if kind.of == "gradient" else g * g))
            if kind.of == "size":
                value = np.maximum(value, np.abs(g) + np.float32(1e-8))
            if kind.of == "maximum":
                square = np.float32(k["a2"]) * loaded["exp_avg_sq"]
                value = np.maximum(value, np.where(g == 0, square, np.float32(k["b2"]) * g * g))
            rows = slice(0, 20 if kind.of is None else 40)  # what is added to a trace takes several operations
            reference, found = NumpyNamespace(), moment(after, name)
            want = arrays.store(
                reference,
                value,
                loaded[name],
                arrays.Stored(*[None if part is None else in_numpy(part) for part in before[name]]),
                kind,
                factor,
                arrays.Rounding(reference, key, 1, shape),
            )
            for got, wanted in zip(found, want, strict=True):
                if wanted is not None:
                    np.testing.assert_array_equal(in_numpy(got)[rows], wanted[rows], err_msg=name)
            if state != "bfloat16":
                kept = in_numpy(found.values)[:20] == in_numpy(before[name].values)[:20]
                assert kept.all() or kind.of in ("size", "maximum")  # 1e-8, and the second moment, may be the larger


def stored_to_the_nearest(kind: State, x: np.ndarray, before: arrays.Stored) -> tuple[arrays.Stored, np.ndarray]:
    """The values as a state is stored, and as it is read; by the reference, since JAX would compile this for seconds."""
    xp, empty = NumpyNamespace(), arrays.Stored(*[None if part is None else in_numpy(part) for part in before])
    rounding = arrays.Rounding(xp, 0, 0, x.shape)
    stored = arrays.store(xp, x, np.zeros_like(x), empty, replace(kind, draw=None), 1.0, rounding)
    parts = [
        None if part is None else jnp.asarray(part).view(old.dtype) for part, old in zip(stored, before, strict=True)
    ]
    return arrays.Stored(*parts), arrays.load(xp, stored, "float32", x.shape)


def in_numpy(x: Any) -> np.ndarray:
    """The array, with bfloat16 as the NumPy namespace holds it."""
    return np.asarray(x.view(jnp.uint16) if x.dtype == jnp.bfloat16 else x)


@pytest.mark.parametrize("part", ["exp_avg", "exp_avg_sq", "exp_avg_grid", "exp_avg_sq_grid", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["int8", "int6"])
def test_a_state_of_codes_that_was_cast_is_refused(form: Any, dtype: str, part: str) -> None:
    """Codes would be taken for values, and the choice of a grid in the low bits of a scale would be lost."""
    if dtype == "float32" and part.endswith("_grid"):
        pytest.skip("scales are in float32")
    tx, params = ao.adam(1e-2, state=form), {"w": jnp.ones((40, 200)), "b": jnp.ones(7)}
    state = tx.init(params)
    moments = {
        name: jax.tree.map(lambda x: x.astype(dtype), tree) if part in (name, "all") else tree
        for name, tree in state.moments.items()
    }
    cast = state._replace(moments=moments)
    with pytest.raises(ValueError, match="The state was cast"):
        tx.update(params, cast, params)
    with pytest.raises(ValueError, match="The state was cast"):
        convert.from_optax(params, cast)


def joined(high: Any, low: Any) -> Any:
    """The float32 weights of a split one."""
    return arrays.load_weight(Namespace(), arrays.Weight(high, low), "float32")


def moment(state: Any, name: str) -> arrays.Stored:
    scale = state.moments.get(f"{name}_grid")
    return arrays.Stored(state.moments[name]["layer"]["w"], None if scale is None else scale["layer"]["w"])


def odd_floats(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 6, shape)).astype(np.float32)
    odd = [0.0, -0.0, 1e-40, -1e-45, 1e30, -3.4e38, np.nan, np.inf, -np.inf, 65504.0, 65520.0, 6e-8, 6.1e-5]
    x.flat[: 97 * len(odd) : 97] = odd
    return x


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_split_and_joined_with_the_references_bits(dtype: str) -> None:
    x = odd_floats((30, 130))
    index = np.arange(x.size, dtype=np.int64).reshape(x.shape)
    thresholds = formats.random16(np, index, 77, 9, WEIGHT_DRAW)

    @jax.jit
    def run(x: Any, count: Any) -> Any:
        xp = Namespace(count)
        with xp.computing():
            random = arrays.Rounding(xp, 77, count, x.shape).thresholds(WEIGHT_DRAW)
        split = arrays.split(xp, x, dtype)
        nearest, stochastic = (arrays.rounded(xp, x, dtype, t) for t in (None, random))
        codes = (y.view(jnp.uint16) for y in (nearest, stochastic, *split))
        return *codes, arrays.load_weight(xp, split, "float32")

    *codes, joined = run(x, jnp.int32(9))
    with np.errstate(all="ignore"):
        encode, split = getattr(formats, f"encode_{dtype}"), getattr(formats, f"split_{dtype}")
        for got, want in zip(codes, (encode(np, x), encode(np, x, thresholds), *split(np, x)), strict=True):
            np.testing.assert_array_equal(np.asarray(got).astype(np.int64), want)
        np.testing.assert_array_equal(
            np.asarray(joined).view(np.int32), getattr(formats, f"join_{dtype}")(np, *split(np, x)).view(np.int32)
        )


def test_blocks_with_odd_numbers_have_the_references_bits() -> None:
    x, old = odd_floats((40, 2, 128)), np.abs(odd_floats((40, 2, 1)))
    old[~np.isfinite(old)] = 1.0
    choices = np.arange(80, dtype=np.int32).reshape(old.shape) % 3
    old = np.where(old > 0, old.view(np.int32) & ~3 | choices, 0).view(np.float32)

    def coded(xp: Any, x: Any, old: Any, thresholds: Any) -> list[Any]:
        found = []
        for t in (None, thresholds):
            signed, unsigned = (
                formats.encode_signed(xp, x, t, 0.9),
                formats.encode_unsigned(xp, xp.abs(x), old, t, 0.999),
            )
            found += [signed, formats.decode_signed(xp, *signed), unsigned, formats.decode_unsigned(xp, *unsigned)]
        return found

    @jax.jit
    def run(x: Any, old: Any, count: Any) -> Any:
        with jax.enable_x64(True):
            xp = Namespace(count)
            thresholds = arrays.Rounding(xp, 5, count, (40, 256)).of_blocks(4)
            return coded(xp, x, old, thresholds)

    got = run(x, old, jnp.int32(4))
    with np.errstate(all="ignore"):
        block = np.arange(80, dtype=np.int64).reshape(40, 2, 1)
        thresholds = formats.thresholds(np, block, np.arange(128, dtype=np.int64), 5, 4, 4)
        want = coded(np, x, old, thresholds)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_a_product_is_rounded_before_the_sum() -> None:
    """XLA makes one operation of both where it can, and one code in a hundred thousand would be another."""
    a, b = np.random.default_rng(0).random((2, 1 << 16), np.float32)
    total = jax.jit(lambda a, b, count: Namespace(count).separate(a * b) + 31.5)(a, b, jnp.int32(3))
    np.testing.assert_array_equal(np.asarray(total), a * b + np.float32(31.5))


def test_split_weights_are_trained_as_float32_ones() -> None:
    halves = normal(0, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), halves)
    split, plain = ao.adamw(1e-4, weight_decay=0.1, weights="split"), ao.adamw(1e-4, weight_decay=0.1)
    one, two, kept = split.init(halves), plain.init(wide), wide
    for i in range(50):
        g = normal(100 + i, dtype=jnp.bfloat16)
        updates, one = jax.jit(split.update)(g, one, halves)
        halves = ao.apply_updates(halves, updates)
        updates, two = jax.jit(plain.update)(g, two, kept)
        kept = ao.apply_updates(kept, updates)
    assert_near(
        flat(jax.tree.map(joined, halves, one.low_bits)),
        flat(kept),
        1e-6,
        "50 steps, of which each moves a weight by 1e-4",
    )


def test_stochastic_weights_follow_where_nearest_ones_stall() -> None:
    p = jnp.ones((64, 128), jnp.bfloat16)
    moved = {}
    for weights in ("nearest", "stochastic", "split"):
        tx = ao.sgd(1e-4, weights=weights)
        q, state = p, tx.init(p)
        for _ in range(100):
            updates, state = jax.jit(tx.update)(jnp.ones_like(p), state, q)
            q = ao.apply_updates(q, updates)
        moved[weights] = 1 - float(q.astype(jnp.float32).mean())
    assert moved["nearest"] == 0
    assert moved["stochastic"] == pytest.approx(0.01, rel=0.05)
    assert moved["split"] == pytest.approx(0.01, rel=0.25)  # to the spacing of bfloat16 at 1, 0.004


def test_random_numbers_are_those_of_the_pytorch_optimizer_for_a_parameter_of_that_name() -> None:
    torch = pytest.importorskip("torch")
    import adamas.torch

    x = np.random.default_rng(0).standard_normal((40, 200)).astype(np.float32)
    p = torch.nn.Parameter(torch.from_numpy(x).to(torch.bfloat16))
    optimizer = adamas.torch.SGD([("layer.w", p)], lr=0.25, weights="stochastic", seed=5)
    p.grad = torch.full_like(p, 0.25)
    q = {"layer": {"w": jnp.asarray(p.detach().float().numpy(), jnp.bfloat16)}}
    tx = ao.sgd(0.25, weights="stochastic", seed=5)
    g = jax.tree.map(lambda y: jnp.full_like(y, 0.25, jnp.float32), q)
    updates, _ = jax.jit(tx.update)(g, tx.init(q), q)
    optimizer.step()
    got = ao.apply_updates(q, updates)["layer"]["w"].astype(jnp.float32)
    np.testing.assert_array_equal(np.asarray(got), p.detach().float().numpy())


# ---- what optax wraps around


@pytest.mark.parametrize(
    ("case", "options", "dtype"),
    [
        *(pytest.param(case, {}, "float32", marks=NIGHTLY) for case in DISTINCT),
        (IN_8_BITS[-1], {"state": "int8", "weights": "split"}, "bfloat16"),
    ],
    ids=str,
)
def test_trap_T32_with_jit_arrays_stay_as_they_were_unless_donated_and_steps_are_the_same(
    case: Case, options: dict[str, Any], dtype: str
) -> None:
    tx, params = case.ours(**options), normal(0, dtype=dtype)

    def step(params: Tree, held: Tree, gradients: Tree) -> Tree:
        updates, held = tx.update(gradients, held, params)
        return ao.apply_updates(params, updates), held

    plain, donated = jax.jit(step), jax.jit(step, donate_argnums=(0, 1))
    one, two = (params, tx.init(params)), jax.tree.map(jnp.copy, (params, tx.init(params)))
    for i in range(3):
        given, other, gradients = one, two, normal(100 + i, dtype=dtype)
        before = jax.tree.map(np.array, (given, gradients))
        one, two = plain(*given, gradients), donated(*other, gradients)
        assert not equal(one[0], given[0])
        assert equal((given, gradients), before)
        assert all(x.is_deleted() for x in jax.tree.leaves(other[0]))
    assert equal(one, two)


@pytest.mark.parametrize(
    ("case", "state"),
    [
        *((case, "float32") for case in CASES if case.name in ("rmsprop-momentum", "radam")),
        *(pytest.param(case, "float32", marks=NIGHTLY) for case in DISTINCT if case.name != "rmsprop-momentum"),
        pytest.param(IN_8_BITS[-1], "int8", marks=NIGHTLY),
    ],
    ids=str,
)
def test_what_is_mapped_is_what_is_stepped_one_by_one(case: Case, state: str) -> None:
    tx = case.ours(state=state)
    many, gradients = ([normal(seed + i) for i in range(3)] for seed in (0, 50))
    stacked = lambda trees: jax.tree.map(lambda *xs: jnp.stack(xs), *trees)  # noqa: E731
    held = jax.vmap(tx.init)(stacked(many))
    updates, held = jax.jit(jax.vmap(tx.update))(stacked(gradients), held, stacked(many))
    for i in range(3):
        want, after = jax.jit(tx.update)(gradients[i], tx.init(many[i]), many[i])
        for one, two in zip(jax.tree.leaves((updates, held)), jax.tree.leaves((want, after)), strict=True):
            one, two = np.asarray(one[i], np.float64), np.asarray(two, np.float64)
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def wrapped(case: Case) -> dict[str, tuple[Any, Any]]:
    """Each wrapper around the member, and another transformation that ends where it does: the member itself, where None."""
    ours, frozen = case.ours, optax.set_to_zero
    label = {"w": "a", "deep": "b"}
    only_w = {"w": True, "deep": {"bias": False}}
    return {
        "chain": (optax.chain(optax.clip_by_global_norm(1e9), ours(), optax.scale(1.0)), None),
        "inject": (optax.inject_hyperparams(case.make)(learning_rate=0.01, **case.arguments), None),
        "masked": (
            optax.chain(optax.masked(ours(), only_w), optax.masked(frozen(), jax.tree.map(lambda x: not x, only_w))),
            optax.multi_transform({"a": ours(), "b": frozen()}, label),
        ),
        "multi": (optax.multi_transform({"a": ours(), "b": ours()}, label), None),
        "accumulating": (optax.MultiSteps(ours(), 1).gradient_transformation(), None),
        "finite": (optax.apply_if_finite(ours(), 3), None),
        "flat": (optax.with_extra_args_support(ours()), None),
    }


@cache
def unwrapped(name: str) -> np.ndarray:
    """Where the member ends by itself: what most wrappers come to."""
    (case,) = [case for case in CASES if case.name == name]
    return flat(trained(case.ours(), normal(0), 4)[0])


WRAPPERS = ["chain", "inject", "masked", "multi", "accumulating", "finite", "flat"]


# All that a wrapper sees of a member is the tree of its state; a test below injects into each.
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "case", mostly_nightly([case for case in DISTINCT if case.name in ("momentum", "amsgrad")], "momentum"), ids=str
)
def test_it_works_through_every_wrapper(case: Case, wrapper: str) -> None:
    with_wrapper, plain = wrapped(case)[wrapper]
    one, _ = trained(with_wrapper, normal(0), 4)
    two = unwrapped(case.name) if plain is None else flat(trained(plain, normal(0), 4)[0])
    assert_near(flat(one), two, 1e-6, wrapper)
    assert not equal(one, normal(0))


def test_python_numbers_are_parameters_and_gradients() -> None:
    """As with optax, and NumPy's too; a float64 of NumPy is a float32 where JAX has no others."""
    as_arrays = {"a": jnp.float32(1.0), "b": jnp.full(3, 2.0)}
    gradients = {"a": jnp.float32(2.0), "b": jnp.array([0.5, -0.5, 0.0])}
    for case in CASES:
        mask = {"mask": {"a": True, "b": False}} if case.name == "adamw" else {}
        tx = case.make(learning_rate=0.01, **case.arguments, **mask)
        want = tx.update(gradients, tx.init(as_arrays), as_arrays)
        for params, given in (
            ({"a": 1.0, "b": np.full(3, 2.0)}, {"a": 2.0, "b": np.array([0.5, -0.5, 0.0])}),
            ({"a": np.float64(1.0), "b": [2.0, 2.0, 2.0]}, {"a": 2, "b": [0.5, -0.5, 0]}),
        ):
            if isinstance(params["b"], list) and case.member.rule(case.hyper).sums:  # of each leaf
                continue
            updates, state = tx.update(given, tx.init(params), params)
            assert np.array_equal(flat((updates, state)), flat(want))
            assert {x.dtype for x in jax.tree.leaves((updates, state))} == {x.dtype for x in jax.tree.leaves(want)}
            assert np.array_equal(flat(ao.apply_updates(params, updates)), flat(ao.apply_updates(as_arrays, want[0])))
    tx = ao.adam(0.1)
    assert float(tx.update((2,), tx.init((1.0,)))[0][0]) == pytest.approx(-0.1)


GUARDS: dict[str, Callable[[Any], Any]] = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step != 2),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step != 2),
    "skip_not_finite": lambda tx: optax.MultiSteps(tx, 1, should_skip_update_fn=optax.skip_not_finite),
}


ROUNDINGS = ["nearest", "stochastic", "split"]
DTYPES = [("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32")]  # of weights and gradients


# Each guard with every rounding and with every pair of dtypes; all combinations of the three are nightly.
@pytest.mark.parametrize(
    ("guard", "weights", "dtypes"),
    [
        pytest.param(guard, weights, dtypes, marks=[] if (i + j + k) % 6 == 0 else NIGHTLY)
        for i, guard in enumerate(GUARDS)
        for j, weights in enumerate(ROUNDINGS)
        for k, dtypes in enumerate(DTYPES)
    ],
    ids=str,
)
def test_trap_T59_what_applies_a_step_or_not_takes_16_bit_weights(
    guard: str, weights: str, dtypes: tuple[str, str]
) -> None:
    """The steps that are done are those without the wrapper, to the bit; one that is not leaves weights and state."""
    tx, shapes = made(ao.sgd, learning_rate=0.01, momentum=0.9, weights=weights), {"b": (7,)}
    wrapped = GUARDS[guard](tx)
    params = plain = normal(0, dtype=dtypes[0], shapes=shapes)
    state, plain_state = wrapped.init(params), tx.init(params)
    step, plain_step = jax.jit(wrapped.update), jax.jit(tx.update)
    for i in range(5):
        g = normal(100 + i, 0.1, dtypes[1], shapes)
        if i == 2:
            g["b"] = g["b"].at[3].set(jnp.nan)
            updates, state = step(g, state, params)
            if guard == "conditionally_transform":
                assert all(np.array_equal(updates[name], g[name], equal_nan=True) for name in g)
            else:
                params = ao.apply_updates(params, updates)
        else:
            updates, state = step(g, state, params)
            params = ao.apply_updates(params, updates)
            updates, plain_state = plain_step(g, plain_state, plain)
            plain = ao.apply_updates(plain, updates)
        assert equal(params, plain)
        assert equal(state.inner_opt_state if guard == "skip_not_finite" else state.inner_state, plain_state)


@pytest.mark.parametrize("case", mostly_nightly(DISTINCT, "rmsprop-momentum", "adamax"), ids=str)
def test_trap_T06_a_nonfinite_gradient_is_skipped_and_counted(case: Case) -> None:
    """The weights of the steps that are done are those without the others, also in the narrowest formats."""
    formats = {"weights": "split", "state": "int8"} if case in IN_8_BITS else {}
    shapes, bad = {"w": (40, 130), "b": (7,)}, (np.nan, np.inf, -np.inf)
    tx, params = case.ours(on_nonfinite="skip", **formats), normal(0, dtype="bfloat16", shapes=shapes)
    held, update = tx.init(params), jax.jit(tx.update)
    for i, value in enumerate(bad):
        g = normal(100 + i, 0.1, "bfloat16", shapes)
        wrong = {**g, "b": g["b"].at[i].set(value)}
        updates, after = update(wrong, held, params)
        assert not any(x.any() for x in jax.tree.leaves(updates))
        assert equal(after._replace(skipped_steps=held.skipped_steps), held)
        assert int(after.skipped_steps) == int(optax.tree.get(after, "skipped_steps")) == i + 1
        updates, held = update(g, after, params)
        assert any(x.any() for x in jax.tree.leaves(updates))
        assert int(held.count) == i + 1
        params = ao.apply_updates(params, updates)


def test_a_skipped_step_within_what_optax_wraps_around() -> None:
    shapes = {"w": (8, 3), "b": (3,)}
    params, good = normal(0, shapes=shapes), normal(1, shapes=shapes)
    bad = {**good, "b": good["b"].at[0].set(jnp.inf)}
    schedule = 0.1 * warmup(3)
    for tx in (
        optax.chain(optax.clip_by_global_norm(1.0), ao.adamw(schedule, on_nonfinite="skip")),
        optax.inject_hyperparams(ao.adamw)(learning_rate=0.05, on_nonfinite="skip"),
        optax.MultiSteps(ao.adamw(schedule, on_nonfinite="skip"), 1),
        optax.masked(ao.adamw(schedule, on_nonfinite="skip"), {"w": True, "b": True}),
    ):
        state, update = tx.init(params), jax.jit(tx.update)
        _, state = update(good, state, params)
        updates, after = update(bad, state, params)
        assert not any(x.any() for x in jax.tree.leaves(updates))
        assert int(optax.tree.get(after, "skipped_steps")) == 1
        ours = [x for x in jax.tree.leaves(after, is_leaf=lambda x: isinstance(x, ao.State)) if isinstance(x, ao.State)]
        assert int(ours[0].count) == 1  # and with it the schedule, which has gone no further
    propagating = ao.adamw(schedule)
    _, state = propagating.update(bad, propagating.init(params), params)
    assert (int(state.count), int(state.skipped_steps)) == (1, 0)


def test_accumulated_gradients_are_stepped_once() -> None:
    tx = optax.MultiSteps(ao.adamw(0.01, state="int8"), every_k_schedule=3)
    params = normal(0)
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(6):
        updates, state = update(normal(100 + i), state, params)
        moved = any(bool(x.any()) for x in jax.tree.leaves(updates))
        assert moved == (i % 3 == 2)
        params = ao.apply_updates(params, updates)
    assert int(state.inner_opt_state.count) == 2


def test_state_maps_as_optax_maps_it() -> None:
    tx = ao.adamw(0.01, state="int8")
    mapped = optax.tree.map_params(tx, lambda x: x + 1, tx.init(normal(0)))
    assert int(mapped.count) == 0
    assert bool((mapped.moments["exp_avg"]["deep"]["bias"] == 1).all())
    assert int(optax.tree.get(mapped, "count")) == 0


@pytest.mark.parametrize(("options", "dtype"), [({"state": "int8"}, "float32"), ({"weights": "split"}, "bfloat16")])
def test_state_maps_together_with_another_tree(options: dict[str, Any], dtype: str) -> None:
    """Each array of the state, also of a parameter that is small or wide, meets what belongs to its parameter."""
    params = normal(0, dtype=dtype)
    params["deep"]["bias"] = params["deep"]["bias"].astype(jnp.float32)
    tx = ao.adamw(0.01, **options)
    state = tx.init(params)
    names = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), params)
    mapped = optax.tree.map_params(tx, lambda _, name: name, state, names, transform_non_params=lambda _: None)
    trees = [*mapped.moments.values(), *([mapped.low_bits] if "weights" in options else [])]
    assert len(trees) == (4 if "state" in options else 3)
    assert all(tree == names for tree in trees)
    for tree in (*state.moments.values(), state.low_bits):
        shapes = jax.tree.map(lambda x, p: x.shape == p.shape or x.ndim == 2, tree, params if tree else None)
        assert all(jax.tree.leaves(shapes))
    assert all(x.size for x in jax.tree.leaves(state))  # Orbax saves no array without elements


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_changed_rate_compiles_nothing_anew(case: Case) -> None:
    tx = optax.inject_hyperparams(case.make)(learning_rate=0.01, **case.arguments)
    params, gradient = jnp.float32(1.0), jnp.float32(0.3)
    state, update = tx.init(params), jax.jit(tx.update)
    moved = []
    for rate in (0.01, 0.02, 0.04):
        fresh = state._replace(hyperparams={**state.hyperparams, "learning_rate": jnp.float32(rate)})
        updates, _ = update(gradient, fresh, params)
        moved.append(float(updates))
    assert update._cache_size() == 1
    assert moved[1] == pytest.approx(2 * moved[0], rel=1e-5)

    @jax.jit
    def step(rate: Any, state: Tree) -> Tree:
        return case.make(learning_rate=rate, **case.arguments).update(gradient, state, params)[0]

    held = case.ours().init(params)
    assert [float(step(jnp.float32(rate), held)) for rate in (0.01, 0.02)] == pytest.approx(moved[:2], rel=1e-5)
    assert step._cache_size() == 1


def test_a_schedule_is_asked_for_the_steps_done() -> None:
    rate = 0.1 * warmup(3).then(cosine(5))
    x = jnp.zeros(1)
    for schedule in (
        rate,
        lambda count: rate(count),
        optax.join_schedules([lambda c: 0.1 * c / 3, rate.shift(-3)], [3]),
    ):
        tx = ao.sgd(schedule)
        state, update = tx.init(x), jax.jit(tx.update)
        moved = []
        for _ in range(8):
            updates, state = update(jnp.ones(1), state)
            moved.append(-float(updates[0]))
        assert moved == pytest.approx([rate(step) for step in range(8)], abs=1e-7)
        assert update._cache_size() == 1


def test_decay_and_betas_take_schedules() -> None:
    tx = ao.adamw(0.1, b2=lambda count: 0.9 + 0.09 * (count > 0), weight_decay=0.5 * cosine(2))
    params = {"w": jnp.ones((2, 2))}
    state, update = tx.init(params), jax.jit(tx.update)
    zeros = {"w": jnp.zeros((2, 2))}
    decays = []
    for _ in range(3):
        updates, state = update(zeros, state, params)
        decays.append(-float(updates["w"][0, 0]))
    assert decays == pytest.approx([0.05, 0.025, 0.0], abs=1e-7)


def test_a_missing_gradient_leaves_its_parameter_alone() -> None:
    params = normal(0)
    tx = ao.adamw(0.01)
    state = tx.init(params)
    updates, after = tx.update({**normal(1), "w": None}, state, params)
    assert updates["w"] is None
    assert equal(ao.apply_updates(params, updates)["w"], params["w"])
    assert equal(after.moments["exp_avg"]["w"], state.moments["exp_avg"]["w"])


def test_the_state_is_plain_arrays_and_resumes_to_the_bit() -> None:
    tx = ao.nadam(0.01, state="int8", weights="split")
    params, g = normal(0, dtype=jnp.bfloat16), normal(9, dtype=jnp.bfloat16)
    g["w"] *= 10.0 ** (-2 * (jnp.arange(40)[:, None] % 3) * (jnp.arange(130) % 2))  # so that blocks take each grid
    _, state = jax.jit(tx.update)(g, tx.init(params), params)
    for name in ("exp_avg_grid", "exp_avg_sq_grid"):
        assert {*formats.choice_of(np, np.asarray(state.moments[name]["w"])).flat} == {0, 1, 2}
    leaves, tree = jax.tree.flatten(state)
    assert all(isinstance(x, jax.Array) for x in leaves)
    saved = pickle.loads(pickle.dumps([np.asarray(x) for x in leaves]))
    again = jax.tree.unflatten(tree, [jnp.asarray(x) for x in saved])
    assert equal(jax.jit(lambda x: x)(state), again)
    assert equal(jax.jit(tx.update)(g, state, params), jax.jit(tx.update)(g, again, params))


def test_a_program_can_be_exported_and_scanned() -> None:
    tx, params = ao.radam(0.01), normal(0)

    def body(carry: Tree, gradients: Tree) -> Tree:
        p, state = carry
        updates, state = tx.update(gradients, state, p)
        return (ao.apply_updates(p, updates), state), None

    gradients = [normal(100 + i, 0.1) for i in range(10)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)
    (scanned, _), _ = jax.lax.scan(body, (params, tx.init(params)), stacked)
    looped, _ = trained(tx, params)
    assert_near(flat(scanned), flat(looped), 1e-6, "scan")


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ao.adam(-1.0), "learning_rate must be 0 or above, not -1.0"),
        (lambda: ao.prodigy(1.0, estim_lr0=0.0), "estim_lr0 must be a number above 0, not 0.0"),
        (lambda: ao.prodigy(1.0, growth_rate=0.5), "growth_rate must be a number of at least 1, not 0.5"),
        (lambda: ao.rmsprop(0.1, eps_in_sqrt=2), "eps_in_sqrt must be True or False, not 2"),
        (lambda: ao.adam(1e-3, b2=1.0), "b2 must be from 0 to below 1"),
        (lambda: ao.rmsprop(1e-3, decay=1.5), "decay must be from 0 to below 1"),
        (lambda: ao.adam(1e-3, state="int4"), "state='int4' is unknown: use one of 'float32', 'bfloat16', 'int8'"),
        (lambda: ao.adam(1e-3, state={"mu": "int8"}), "there is no moment 'mu'; the names are 'exp_avg'"),
        (lambda: ao.adam(1e-3, weights="exact"), "weights='exact' is unknown"),
        (lambda: ao.adamw(1e-3, decay_mode="l3"), "decay_mode='l3' is unknown"),
        (lambda: ao.rmsprop(1e-3, centered=True, state="int8"), 'centered=True needs state="float32"'),
        (lambda: ao.adam(1e-3 * Plateau()), "optax.contrib.reduce_on_plateau"),
        (lambda: ao.adam(1e-3, seed=jnp.int32(1)), "static_args='seed'"),
        (lambda: ao.adamw(lambda c: 0.1, decay_mode="independent"), "needs a learning_rate that is a number or"),
        (lambda: ao.adam(1e-3).init({"w": jnp.ones(3, jnp.complex64)}), "split_real_and_imaginary"),
        (lambda: ao.adam(1e-3).init({"n": jnp.ones(3, jnp.int32)}), "parameter 'n' has dtype int32"),
        (lambda: ao.adam(1e-3).init({"n": 1}), "parameter 'n' has dtype int32"),
        (lambda: ao.adam(1e-3, on_nonfinite="raise"), 'use "skip", which counts such steps'),
        (lambda: ao.adam(1e-3, on_nonfinite="stop"), "on_nonfinite='stop' is unknown: use one of 'propagate', 'skip'"),
        (
            lambda: ao.adamw(1e-3).update(jnp.ones(3), ao.adamw(1e-3).init(jnp.ones(3))),
            "call update(grads, state, params)",
        ),
        (
            lambda: trained(optax.inject_hyperparams(ao.adam)(1e-3), normal(0, dtype=jnp.bfloat16)),
            "hyperparam_dtype=jnp",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        call()


def test_injected_hyperparameters_of_16_bit_weights_in_float32() -> None:
    make = optax.inject_hyperparams(ao.adamw, static_args="seed", hyperparam_dtype=jnp.float32)
    params, _ = trained(make(1e-2, weights="stochastic", seed=4), normal(0, dtype=jnp.bfloat16))
    same, _ = trained(ao.adamw(1e-2, weights="stochastic", seed=4), normal(0, dtype=jnp.bfloat16))
    agree = [float((a == b).mean()) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(same), strict=True)]
    assert min(agree[:2]) > 0.99


# ---- schedule-free


def test_the_parameters_for_evaluation_of_schedule_free_are_those_of_adamas_torch() -> None:
    """In a chain, in float32 and in 8 bits, and with low bits."""
    torch = pytest.importorskip("torch")
    import adamas.torch as at

    for dtype, options in (("float32", {}), ("float32", {"state": "int8"}), ("bfloat16", {"weights": "split"})):
        params = normal(0, dtype=dtype)
        chain = optax.chain(ao.schedule_free_adamw(0.05, warmup_steps=3, **options), optax.identity())
        after, state = trained(chain, params, apply=ao.apply_updates)
        found = ao.schedule_free_eval_params(state, after)
        assert jax.tree.map(jnp.shape, found) == SHAPES
        paths = [
            jax.tree_util.keystr(path, simple=True, separator=".")
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        ps = [
            torch.nn.Parameter(torch.tensor(np.asarray(x, np.float32)).to(getattr(torch, dtype)))
            for x in jax.tree.leaves(params)
        ]
        optimizer = at.AdamWScheduleFree(zip(paths, ps, strict=True), lr=0.05, warmup_steps=3, **options)
        for i in range(10):
            for p, g in zip(ps, jax.tree.leaves(normal(100 + i, 0.1, dtype)), strict=True):
                p.grad = torch.tensor(np.asarray(g, np.float32)).to(p.dtype)
            optimizer.step()
        optimizer.eval()
        assert not equal(found, after)
        for p, x in zip(ps, jax.tree.leaves(found), strict=True):
            assert x.dtype == dtype
            close = 1e-3 if dtype == "bfloat16" else 1e-5  # updates in 16 bits are not exact
            np.testing.assert_allclose(np.asarray(x, np.float32), p.detach().float(), rtol=10 * close, atol=close)
    with pytest.raises(ValueError, match="there must be one state of a schedule-free optimizer in it, not 0"):
        ao.schedule_free_eval_params(ao.adam(0.1).init(params), params)


# ---- processes of their own


def run(program: str, *arguments: str, **environment: str) -> str:
    text = textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_adamas_loads_no_jax() -> None:
    assert run("import sys, adamas, adamas.schedules; print({'jax', 'optax'} & set(sys.modules))") == "set()"


@pytest.mark.parametrize(
    ("state", "weights"),
    [
        ("int8", "stochastic"),
        pytest.param("bfloat16", "stochastic", marks=NIGHTLY),
        pytest.param("int8", "split", marks=NIGHTLY),
    ],
)
def test_over_two_devices_it_is_the_same_to_the_bit(state: str, weights: str) -> None:
    """Weights and moments sharded along rows, and the state in the weights' sharding."""
    program = """
        import sys
        import jax, jax.numpy as jnp, numpy as np
        import adamas.optax as ao
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        assert len(jax.devices()) == 2
        rows = NamedSharding(Mesh(np.array(jax.devices()), "x"), P("x"))
        rng = np.random.default_rng(0)
        x, g = ({"w": jnp.asarray(rng.standard_normal((64, 200)), jnp.bfloat16)} for _ in range(2))
        state, weights = sys.argv[1:]
        tx = ao.adamw(0.01, state=state, weights=weights)
        def step(p, s, g):
            updates, s = tx.update(g, s, p)
            return ao.apply_updates(p, updates), s
        step = jax.jit(step)
        one, two = (x, tx.init(x)), (jax.device_put(x, rows), jax.jit(tx.init)(jax.device_put(x, rows)))
        for _ in range(3):
            one, two = step(*one, g), step(*two, jax.device_put(g, rows))
        moment = jax.tree.leaves(two[1].moments["exp_avg_sq"])[0]
        assert moment.sharding.is_equivalent_to(rows, moment.ndim), (state, moment.sharding)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            a, b = np.asarray(a.astype(jnp.float32)), np.asarray(b.astype(jnp.float32))
            assert np.array_equal(a, b), (state, weights, (a != b).sum())
        print("same")
    """
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    assert run(program, state, weights, **devices) == "same"


def test_the_examples_in_the_docstrings() -> None:
    import doctest

    from adamas.optax import members

    for module in (ao, members):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_cautious_updates_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    import adamas.torch

    rng = np.random.default_rng(0)
    start = rng.standard_normal((64, 128)).astype(np.float32)
    p = torch.nn.Parameter(torch.tensor(start))
    theirs = adamas.torch.AdamW([p], lr=0.01, weight_decay=0.1, cautious=True)
    tx = ao.adamw(0.01, weight_decay=0.1, cautious=True)
    x = jnp.asarray(start)
    held, update = tx.init(x), jax.jit(tx.update)
    for _ in range(5):
        g = rng.standard_normal((64, 128)).astype(np.float32)
        updates, held = update(jnp.asarray(g), held, x)
        x = ao.apply_updates(x, updates)
        p.grad = torch.tensor(g)
        theirs.step()
    np.testing.assert_allclose(np.asarray(x), p.detach().numpy(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="cautious=True is not for AdamH"):
        ao.adamh(0.01, cautious=True)
