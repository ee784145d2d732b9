"""The gradient transformation that all members share: it speaks optax's habits and holds no arithmetic.

An update asks ``adamas.rule`` for the numbers of this step, computed within the program in float64 whatever
``jax_enable_x64`` says, since there the step is known only when it runs; and hands them to the rule over
``jax.numpy``, which XLA makes one loop of.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..jax_formats import Namespace
from ..rule import house, layout
from ..rule.declaration import WEIGHT_DRAW, Member, Numbers, Rule, Traced, has_penalty
from ..rule.formats import tensor_key
from ..rule.options import Weights
from ..rule.shared import declared
from ..schedules import Schedule
from . import storage
from .options import TERMS, hyperparameters, is_open

Tree = Any
Array = Any


class State(NamedTuple):
    """What an optimizer remembers, as plain arrays.

    Attributes:
        count: steps done, int32.
        moments: each moment by PyTorch's name for it, as a tree like the parameters'; those in 8 bits are two, the codes and
            ``…_scale``, float32 of shape (rows, blocks of a row). A parameter that is too small for codes has zeros for a
            scale (int8, of the parameter's shape), which nothing reads.
        scalars: what else the member counts, float32 (float64 under ``jax_enable_x64``).
        low_bits: for ``weights="split"`` the low bits of each 16-bit weight (int16), as a tree like the parameters'; wider
            weights have zeros there (int8, of their shape), which nothing reads. None for other ``weights``.
        skipped_steps: steps that ``on_nonfinite="skip"`` has left undone, int32.
    """

    count: jax.Array  # type: ignore[assignment]  # optax's name for it, and a tuple's method
    moments: dict[str, Tree]
    scalars: dict[str, jax.Array]
    low_bits: Tree = None
    skipped_steps: jax.Array | int = 0


class _Leaf(NamedTuple):
    """The numbers of a step for leaves of one dtype that have, or do not have, the decay and the penalties."""

    rule: Rule
    penalized: bool
    numbers: Numbers
    drift: Array | float  # k − 1, which float32 would not keep

    def held(self, before: Array, after: Array) -> Array:
        """``after``; but where a rate of 0 moves nothing, ``before``, whatever the gradient was."""
        still = (self.numbers["eta"] == 0) & (self.drift == 0)
        return jnp.where(still, before, after)


def transformation(member: Member, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
    """The member with these arguments, by their names in optax.

    A number may be an array, known only when the program runs; a penalty, a decay or a momentum that is one counts as there.
    """
    hyper = hyperparameters(member, arguments)
    state, weights, seed = hyper["state"], hyper["weights"], hyper["seed"]
    mask, on_nonfinite = arguments["mask"], hyper["on_nonfinite"]
    static = {name: 1.0 if is_open(value) else value for name, value in hyper.items()}
    names = member.state_names(static)
    forms = {name: layout.format_of(state, name) for name in names}
    parts = {name: (name, f"{name}_scale") if form == "int8" else (name,) for name, form in forms.items()}
    signs = layout.signs(member)
    rule, penalized = member.rule(static), has_penalty(static)
    decays = bool(static["weight_decay"]) and hyper["decay"] != "l2"

    def init(params: Tree) -> State:
        params = jax.tree.map(storage.as_array, params)
        _check_leaves(params)
        return State(
            jnp.zeros([], jnp.int32),
            {
                part: jax.tree.map(
                    lambda p, name=name, i=i: storage.initial(
                        forms[name], signs[name], p, member.start_of(name, hyper)
                    )[i],
                    params,
                )
                for name in names
                for i, part in enumerate(parts[name])
            },
            {name: jnp.asarray(value, float) for name, value in member.scalars if name != "step"},
            jax.tree.map(storage.no_low_bits, params) if weights == "split" else None,
            jnp.zeros([], jnp.int32),
        )

    def update(updates: Tree, state: State, params: Tree = None) -> tuple[Tree, State]:
        tree: Any
        paths, tree = jax.tree_util.tree_flatten_with_path(updates, is_leaf=_is_none)
        if params is None and (decays or penalized or weights != "nearest" or mask is not None):
            raise ValueError(
                "params: weight_decay, l1 and weights= other than 'nearest' need them; call update(grads, state, params)"
            )
        ps = [None] * len(paths) if params is None else tree.flatten_up_to(params)
        moments = {name: tree.flatten_up_to(moment) for name, moment in state.moments.items()}
        lows = [None] * len(paths) if state.low_bits is None else tree.flatten_up_to(state.low_bits)
        decayed = _masked(mask, params, tree)

        count = optax.safe_increment(state.count)
        xp = Namespace(state.count)
        numbers, scalars = _numbers(member, hyper, state)
        changes: list[Any] = []
        for i, (path, g) in enumerate(paths):
            if g is None:
                changes.append(None)
                continue
            g, p, low = storage.as_array(g), ps[i] if ps[i] is None else storage.as_array(ps[i]), lows[i]
            compute = _compute_dtype(g if p is None else p)
            leaf = _leaf(rule, penalized, *numbers[compute], decayed[i])
            moves = decays and decayed[i]
            identity = jax.tree_util.keystr(path, simple=True, separator=".")
            rounding = storage.Rounding(tensor_key(seed, identity), count, xp)
            stored = [storage.Stored(*(moments[part][i] for part in parts[name])) for name in names]
            changed, new, lows[i] = _stepped(leaf, moves, weights, p, g, stored, low, compute, rounding)
            changes.append(changed)
            for name, value in zip(names, new, strict=True):
                for part, array in zip(parts[name], value, strict=False):
                    moments[part][i] = array
        change = jax.tree.unflatten(tree, changes)
        after = State(
            count,
            {name: jax.tree.unflatten(tree, values) for name, values in moments.items()},
            scalars,
            None if state.low_bits is None else jax.tree.unflatten(tree, lows),
            jnp.copy(state.skipped_steps),
        )
        return _unless_nonfinite(updates, change, state, after) if on_nonfinite == "skip" else (change, after)

    return optax.GradientTransformation(init, update)


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """The parameters after the updates, each in its own dtype.

    The same as ``optax.apply_updates``, and in the place of ``equinox.apply_updates``, which makes float32 weights of 16-bit
    ones where the updates are in float32, as they are for float32 gradients.

    Args:
        params: a tree of parameters; what has no update (None) stays as it is.
        updates: a tree of updates.
    """

    def applied(update: Any, p: Any) -> Any:
        return p if update is None or p is None else jnp.asarray(p + update).astype(jnp.asarray(p).dtype)

    return jax.tree.map(applied, updates, params, is_leaf=_is_none)


# ---- the step of one parameter


def _stepped(
    leaf: _Leaf,
    moves: bool,
    weights: Weights,
    p: Array,
    g: Array,
    stored: list[storage.Stored],
    low: Array,
    compute: Any,
    rounding: storage.Rounding,
) -> tuple[Array, list[storage.Stored], Array]:
    """The update, the moments as they are stored, and the low bits. ``moves``: whether the weight itself is in the step."""
    k, xp, dtype = leaf.numbers, rounding.xp, _update_dtype(g, p)
    exact = weights != "nearest" and storage.is_half(p.dtype)
    is_split = exact and weights == "split"
    weight: Array = 0.0
    if exact or moves or leaf.penalized:
        weight = storage.joined(p, low, xp) if is_split else p.astype(compute)
    old = tuple(storage.loaded(x, compute, xp) for x in stored)

    def stepped(p: Array, keep: Array | float) -> tuple[Array, tuple[Array, ...]]:
        numbers = SimpleNamespace(**(k | {"k": keep}))
        return house.step(leaf.rule, numbers, jnp, p, g.astype(compute), old, leaf.penalized)

    if exact:
        value, moments = stepped(weight, k["k"])
        value = leaf.held(weight, value)
        if is_split:
            high, low = storage.split(value, p.dtype, xp)
        else:
            high = storage.rounded(value, p.dtype, rounding.thresholds(p.shape, WEIGHT_DRAW), xp)
        exact_change = high.astype(compute) - p.astype(compute)
        change = storage.as_update(exact_change, dtype, xp)
        if is_split:  # Where the sum may be another weight than the one that was meant, that other one has no low bits.
            low = jnp.where(change.astype(compute) == exact_change, low, jnp.zeros_like(low))
    else:
        low = storage.copied(low)
        change, moments = stepped(weight, leaf.drift if moves else 0.0)
        change = leaf.held(jnp.zeros_like(change), change).astype(dtype)
    new = [
        storage.kept(value, x, rounding, kind, 1.0 if kind.decay is None else k[kind.decay])
        for x, value, kind in zip(stored, moments, leaf.rule.states, strict=True)
    ]
    return change, new, low


def _update_dtype(g: Array, p: Array) -> Any:
    """The dtype of an update: that of the gradient, which optax's wrappers count on, or of the weight where it is wider.

    Gradients that are integers or have 8 bits are numbers alone, and have no say in it.
    """
    counts = jnp.issubdtype(g.dtype, jnp.floating) and jnp.dtype(g.dtype).itemsize > 1
    if p is None:
        return g.dtype if counts else jnp.float32
    return jnp.promote_types(g.dtype, p.dtype) if counts else p.dtype


def _unless_nonfinite(gradients: Tree, change: Tree, before: State, after: State) -> tuple[Tree, State]:
    """The step; but where a gradient is not finite no change, and the state before it with one more skipped step."""
    finite = jnp.array(True)
    for g in jax.tree.leaves(gradients):
        finite &= jnp.isfinite(g).all()
    change, state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (change, after), (jax.tree.map(jnp.zeros_like, change), before)
    )
    skipped = jnp.where(finite, before.skipped_steps, optax.safe_increment(before.skipped_steps))
    return change, state._replace(skipped_steps=skipped)


# ---- the numbers of a step


def _numbers(
    member: Member, hyper: Mapping[str, Any], state: State
) -> tuple[dict[Any, tuple[Numbers, Any]], dict[str, jax.Array]]:
    """The coefficients and k − 1 for each dtype that is computed in, and the member's scalars after the step."""
    values = {name: _at(value, state.count) for name, value in hyper.items()}
    with jax.enable_x64(True):
        arrays = {name: _widened(member, name, value) for name, value in values.items()}
        before: dict[str, Any] = {"step": state.count, **state.scalars}
        now = member.advance(arrays, {name: value.astype(jnp.float64) for name, value in before.items()})
        k = member.numbers_of(arrays, now, f=Traced(jnp))
        found = {
            dtype: ({name: _narrowed(x, dtype) for name, x in k.items()}, _narrowed(k["k"] - 1, dtype))
            for dtype in (jnp.float32, jnp.float64)
        }
        after: dict[str, Any] = {name: _narrowed(now[name], value.dtype) for name, value in state.scalars.items()}
    return found, after


def _leaf(rule: Rule, penalized: bool, k: Numbers, drift: Any, decayed: bool) -> _Leaf:
    if decayed:
        return _Leaf(rule, penalized, k, drift)
    return _Leaf(rule, False, k | {"l2": 0.0, "l1": 0.0, "k": 1.0}, 0.0)


def _at(value: Any, count: jax.Array) -> Any:
    """The value at the coming step."""
    if isinstance(value, tuple):
        return tuple(_at(item, count) for item in value)
    if isinstance(value, Schedule):
        with jax.enable_x64(True):
            return value(count)
    return value(count) if callable(value) else value


def _widened(member: Member, name: str, value: Any) -> Any:
    """Arrays in float64; what is known already as it is."""
    if isinstance(value, tuple):
        return tuple(_widened(member, name, item) for item in value)
    if not isinstance(value, jax.Array):
        return value
    if jnp.dtype(value.dtype).itemsize < 4:
        raise ValueError(
            f"{TERMS.name(member, declared(member)[name])} came as {value.dtype}, in which 0.999 is 1: give it in float32 "
            "(optax.inject_hyperparams: hyperparam_dtype=jnp.float32)"
        )
    return value.astype(jnp.float64)


def _narrowed(value: Any, dtype: Any) -> Any:
    # Without the barrier, XLA would convert it anew for every element of a parameter.
    if not isinstance(value, jax.Array):
        return value
    return jax.lax.optimization_barrier(value.astype(dtype))  # type: ignore[no-untyped-call]


def _compute_dtype(x: Array) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


# ---- what was given


def _is_none(x: Any) -> bool:
    return x is None


def _check_leaves(params: Tree) -> None:
    for path, p in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            raise ValueError(f"parameter {name!r} is complex: wrap with optax.contrib.split_real_and_imaginary")
        if not jnp.issubdtype(p.dtype, jnp.floating) or jnp.dtype(p.dtype).itemsize < 2:
            raise ValueError(
                f"parameter {name!r} has dtype {p.dtype}: only bfloat16, float16, float32 and float64 can be optimized "
                "(optax.masked leaves others out)"
            )


def _masked(mask: Any, params: Tree, tree: Any) -> list[bool]:
    """For each leaf, whether the decay and the penalties are for it."""
    if mask is None:
        return [True] * tree.num_leaves
    given = mask(params) if _is_function(mask) else mask
    whole = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), given, params)
    return [bool(flag) for flag in tree.flatten_up_to(whole)]


def _is_function(mask: Any) -> bool:
    """Whether the mask is a function: as optax has it, if all of its leaves are. Modules of Equinox are callable trees."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(map(callable, leaves))
