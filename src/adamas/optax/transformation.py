"""The gradient transformation that all members share: optax's conventions, and no arithmetic.

An update computes the numbers of the step with ``adamas.rule`` within the compiled program, since the step is known only when
the program runs, and in float64, whatever ``jax_enable_x64`` is. Then it applies the rule over ``jax.numpy``, which XLA
compiles to one loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..rule import layout
from ..rule.declaration import Member, Numbers, has_decay, has_penalty
from ..rule.formats import tensor_key
from ..rule.members import MEMBERS
from ..rule.options import Weights
from ..rule.recorder import reads_weight
from ..rule.shared import declared
from ..schedules import Schedule
from ..step import arrays
from ..step.arrays import Stored
from ..step.namespaces.jax import Namespace
from . import storage
from .options import TERMS, hyperparameters, is_open

Tree = Any
Array = Any
_OFFSETS = {member.offset for member in MEMBERS.values()}


class State(NamedTuple):
    """The state of an optimizer, as plain arrays.

    Attributes:
        count: the number of steps done, int32.
        moments: each moment by PyTorch's name, as a tree like the parameters'. A moment in int8 or int6 is two trees: the
            codes and, under the name with ``_grid``, their scales, float32 of shape (*rows, blocks of a row). The scale of a
            parameter that is too small for codes is zeros (int8, of the parameter's shape), which are not used. Codes have the
            parameter's shape in int8; in int6 they are packed, four in three bytes, in the shape (*rows, 3·⌈row/4⌉), and that
            is what functions of trees, masks and shardings see. They can be sharded along the first dimension, as the
            parameter is.
        scalars: further scalars of the member, float32 (float64 under ``jax_enable_x64``).
        low_bits: with ``weights="split"``, the low bits of each 16-bit weight (int16), as a tree like the parameters'; wider
            weights have zeros there (int8, of their shape), which are not used. None with other ``weights``.
        skipped_steps: the number of steps that ``on_nonfinite="skip"`` has skipped, int32.
    """

    count: jax.Array  # type: ignore[assignment]  # optax uses this name, which is also a method of tuples
    moments: dict[str, Tree]
    scalars: dict[str, jax.Array]
    low_bits: Tree = None
    skipped_steps: jax.Array | int = 0


def transformation(member: Member, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
    """The member with these arguments, by their names in optax.

    A number may be an array that is known only when the program runs. A penalty, decay or momentum that is an array counts as
    nonzero.
    """
    hyper = hyperparameters(member, arguments)
    state, weights, seed = hyper["state"], hyper["weights"], hyper["seed"]
    mask, on_nonfinite = arguments["mask"], hyper["on_nonfinite"]
    static = {name: 1.0 if is_open(value) else value for name, value in hyper.items()}
    names = member.state_names(static)
    forms = {name: layout.format_of(state, name) for name in names}
    parts = {
        name: (name, layout.scale_name(name)) if form in layout.WIDTHS else (name,) for name, form in forms.items()
    }
    rule, penalized = member.rule(static), has_penalty(static)
    decays = has_decay(static)

    def slots_of(p: Array) -> dict[str, layout.Slot]:
        return {slot.name: slot for slot in layout.slots(member, static, p.shape, str(p.dtype))}

    def init(params: Tree) -> State:
        params = jax.tree.map(storage.as_array, params)
        _check_leaves(params)
        return State(
            jnp.zeros([], jnp.int32),
            {
                part: jax.tree.map(
                    lambda p, name=name, i=i: storage.initial(
                        slots_of(p)[name], forms[name], p, member.start_of(name, hyper)
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
        storage.refuse_former(state.moments)
        storage.refuse_cast(state.moments)
        if params is None and (decays or penalized or weights != "nearest" or mask is not None):
            raise ValueError(
                "params: weight_decay, l1 and weights= other than 'nearest' need them; call update(grads, state, params)"
            )
        if params is None and reads_weight(rule):
            raise ValueError(f"params: the update of {member.name} depends on them; call update(grads, state, params)")
        ps = [None] * len(paths) if params is None else tree.flatten_up_to(params)
        moments = {name: tree.flatten_up_to(moment) for name, moment in state.moments.items()}
        lows = [None] * len(paths) if state.low_bits is None else tree.flatten_up_to(state.low_bits)
        decayed = _masked(mask, params, tree)

        count = optax.safe_increment(state.count)
        xp = Namespace(state.count)
        numbers, scalars = _numbers(xp, member, hyper, state)
        present = [i for i, (_, g) in enumerate(paths) if g is not None]
        parameters = [
            arrays.Parameter(
                _weight(ps[i], lows[i], weights),
                storage.as_array(paths[i][1]),
                [Stored(*(moments[part][i] for part in parts[name])) for name in names],
            )
            for i in present
        ]
        steps, scalars = arrays.steps(xp, rule, static, numbers, parameters, [decayed[i] for i in present], scalars)
        changes: list[Any] = [None] * len(paths)
        for i, step, one in zip(present, steps, parameters, strict=True):
            identity = jax.tree_util.keystr(paths[i][0], simple=True, separator=".")
            rounding = arrays.Rounding(xp, tensor_key(seed, identity), count, one.g.shape)
            changes[i], new, lows[i] = _stepped(step, weights, one, lows[i], rounding)
            for name, before, value in zip(names, one.states, new, strict=True):
                for part, old, array in zip(parts[name], before, value, strict=False):
                    moments[part][i] = storage.copied(array) if array is old else array
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

    The same as ``optax.apply_updates``. Use it instead of ``equinox.apply_updates``, which turns 16-bit weights into float32
    ones if the updates are in float32, as they are for float32 gradients.

    Args:
        params: a tree of parameters; those without an update (None) do not change.
        updates: a tree of updates.
    """

    def applied(update: Any, p: Any) -> Any:
        return p if update is None or p is None else jnp.asarray(p + update).astype(jnp.asarray(p).dtype)

    return jax.tree.map(applied, updates, params, is_leaf=_is_none)


def schedule_free_eval_params(state: Tree, params: Tree) -> Tree:
    """The parameters for evaluation with ``schedule_free_adamw`` or ``schedule_free_sgd``: the training ones minus the offset.

    Like ``optax.contrib.schedule_free_eval_params``, but the state may also be nested in that of a chain or another wrapper.

    Args:
        state: the state of the optimizer.
        params: the training parameters, in the same tree as in the state.

    Raises:
        ValueError: there is not exactly one state of a schedule-free optimizer.
    """
    found = [
        (one, name)
        for one in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, State))
        if isinstance(one, State)
        for name in one.moments
        if name in _OFFSETS
    ]
    if len(found) != 1:
        raise ValueError(f"state: there must be one state of a schedule-free optimizer in it, not {len(found)}")
    (one, name), xp = found[0], Namespace()
    scales = one.moments.get(layout.scale_name(name))
    others = [tree for tree in (one.moments[name], scales, one.low_bits) if tree is not None]

    def evaluated(p: Array, values: Array, *more: Array) -> Array:
        scale = more[0] if scales is not None else None
        low = more[-1] if one.low_bits is not None and storage.is_half(p.dtype) else None
        weight, compute = arrays.Weight(storage.as_array(p), low), arrays.compute_dtype(xp, p)
        offset = arrays.load(xp, Stored(values, scale), compute, p.shape)
        return arrays.store_weight(xp, arrays.load_weight(xp, weight, compute) - offset, weight._replace(low=None)).high

    with xp.computing():
        return jax.tree.map(evaluated, params, *others)


# ---- the step of one parameter


def _weight(p: Any, low: Array | None, weights: Weights) -> arrays.Weight | None:
    """The stored weight; None without params."""
    if p is None:
        return None
    p = storage.as_array(p)
    return arrays.Weight(p, low if weights == "split" and storage.is_half(p.dtype) else None)


def _stepped(
    step: arrays.Step, weights: Weights, one: arrays.Parameter, low: Array | None, rounding: arrays.Rounding
) -> tuple[Array, list[Stored], Array]:
    """The update, the stored moments, and the low bits."""
    p = None if one.weight is None else one.weight.high
    dtype = _update_dtype(one.g, p)
    if p is None or weights == "nearest" or not storage.is_half(p.dtype):
        change, new = step.change(one, rounding)
        return change.astype(dtype), new, storage.copied(low)
    after, new = step.weight(one, weights, rounding, by_change=False)
    exact = after.high.astype(jnp.float32) - p.astype(jnp.float32)
    change = storage.as_update(exact, dtype, step.xp)
    if after.low is None:
        return change, new, None
    # If applying the update may give another weight than intended, that weight has no low bits.
    kept = change.astype(jnp.float32) == exact
    return change, new, jnp.where(kept, after.low, jnp.zeros_like(after.low))


def _update_dtype(g: Array, p: Array) -> Any:
    """The dtype of an update: that of the gradient, as optax's wrappers expect, or that of the weight if it is wider.

    The dtype of integer and 8-bit gradients is not used.
    """
    counts = jnp.issubdtype(g.dtype, jnp.floating) and jnp.dtype(g.dtype).itemsize > 1
    if p is None:
        return g.dtype if counts else jnp.float32
    return jnp.promote_types(g.dtype, p.dtype) if counts else p.dtype


def _unless_nonfinite(gradients: Tree, change: Tree, before: State, after: State) -> tuple[Tree, State]:
    """The step or, if a gradient is not finite, no change, and the state before it with one more skipped step."""
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
    xp: Namespace, member: Member, hyper: Mapping[str, Any], state: State
) -> tuple[dict[str, Numbers], dict[str, jax.Array]]:
    """The numbers of the coming step for each dtype of the computation, and the member's scalars after the step."""
    values = {name: _at(value, state.count) for name, value in hyper.items()}
    with xp.computing():
        values = {name: _widened(member, name, value) for name, value in values.items()}
    before = {"step": state.count, **state.scalars}
    return arrays.numbers(xp, member, values, before, ("float32", "float64"))


def _at(value: Any, count: jax.Array) -> Any:
    """The value at the coming step."""
    if isinstance(value, tuple):
        return tuple(_at(item, count) for item in value)
    if isinstance(value, Schedule):
        with jax.enable_x64(True):
            return value(count)
    return value(count) if callable(value) else value


def _widened(member: Member, name: str, value: Any) -> Any:
    """Arrays in float64; anything else unchanged."""
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
    """For each leaf, whether the decay and the penalties apply to it."""
    if mask is None:
        return [True] * tree.num_leaves
    given = mask(params) if _is_function(mask) else mask
    whole = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), given, params)
    return [bool(flag) for flag in tree.flatten_up_to(whole)]


def _is_function(mask: Any) -> bool:
    """Whether the mask is a function. As in optax, all of its leaves must be, since modules of Equinox are callable trees."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(map(callable, leaves))
