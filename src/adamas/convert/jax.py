"""Checkpoints of JAX parameters: with the state of ``adamas.optax``, or that of optax's own Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import layout
from ..extras import needs
from ..layout import Slot
from ..numpy import arrays
from .checkpoint import Array, Checkpoint, Moved, Names, Place, gathered
from .weights import narrowed, widened

with needs("jax"):
    import jax
    import jax.numpy as jnp
    import optax

    from ..optax import State

Tree = Any


def from_optax(params: Tree, state: Tree) -> Checkpoint:
    """The checkpoint of parameters and the state of their optimizer, by the parameters' paths in the tree.

    Args:
        params: a tree of arrays.
        state: of a transformation with one member of ``adamas.optax`` in it, or with optax's ``scale_by_adam``.

    Raises:
        ValueError: there is none in it, or more than one.
    """
    found = _ours(_only(state))
    tree: Any
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    moments = {name: tree.flatten_up_to(moment) for name, moment in found.moments.items()}
    lows = [None] * len(paths) if found.low_bits is None else tree.flatten_up_to(found.low_bits)
    counts = {name: np.array(float(count)) for name, count in (("step", found.count), *found.scalars.items())}
    entries = []
    for i, (path, p) in enumerate(paths):
        weight = widened(p.dtype.name, _array(p), None if lows[i] is None else np.asarray(lows[i]))
        values = {
            name: arrays.decoded(_array(moment[i]), _scale(moments, name, i))
            for name, moment in moments.items()
            if not _is_scale(name, moments)
        }
        entries.append((_place(path), weight, {**counts, **values}))
    return gathered(entries)


def to_optax(checkpoint: Checkpoint, params: Tree, state: Tree, names: Names = None) -> tuple[Tree, Tree]:
    """The parameters and the state of a checkpoint.

    Args:
        checkpoint: of any framework.
        params: a tree of arrays of the same shapes; their dtypes stay.
        state: what ``init(params)`` gave, of a transformation with one member of ``adamas.optax`` in it, or with optax's
            ``scale_by_adam``. Moments are stored as they are there.
        names: for parameters that are called otherwise in the checkpoint: a dict from the names here (of parameters, or of the
            modules that they are in) to the names there, or a function.

    Returns:
        New trees like the two that were given.

    Raises:
        ValueError: a parameter has no counterpart, or one of another shape; two have counted differently, where JAX has one
            count; or the state lacks a moment.
    """
    given = _only(state)
    before = _ours(given)
    tree: Any
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    places = [_place(path) for path, _ in paths]
    moved = Moved(checkpoint, places, names)
    counts = moved.counts(places, ["step", *before.scalars])
    moments = {name: list(tree.flatten_up_to(moment)) for name, moment in before.moments.items()}
    weights, lows = [], []
    for i, (place, (_, p)) in enumerate(zip(places, paths, strict=True)):
        parameter = moved.fitting(place, p.shape, p.dtype.name)
        weight, low = narrowed(p.dtype.name, parameter.weight, before.low_bits is not None)
        weights.append(_like(p, weight))
        lows.append(None if low is None else jnp.asarray(low))
        if not parameter.state:
            _check_fresh(place, int(before.count))
            continue
        for name in [name for name in moments if not _is_scale(name, moments)]:
            if name not in parameter.state:
                raise ValueError(
                    f"parameter {place.name!r} has {sorted(parameter.state)} in the checkpoint, and no {name!r}: it is of "
                    "another optimizer"
                )
            kept, scale = moments[name][i], _scale(moments, name, i)
            slot = Slot(name, kept.dtype.name, None if scale is None else scale.shape)
            for part, values in arrays.encoded(slot, parameter.state[name]).items():
                moments[part][i] = _like(moments[part][i], values)
    after = State(
        jnp.asarray(counts.get("step", 0), jnp.int32),
        {name: jax.tree.unflatten(tree, values) for name, values in moments.items()},
        {name: jnp.asarray(counts.get(name, value), value.dtype) for name, value in before.scalars.items()},
        None if before.low_bits is None else jax.tree.unflatten(tree, lows),
    )
    counted = jax.tree_util.tree_map_with_path(lambda path, x: _counted(path, x, after.count), state, is_leaf=_is_state)
    replaced = jax.tree.map(lambda x: _theirs(x, after) if _is_state(x) else x, counted, is_leaf=_is_state)
    return jax.tree.unflatten(tree, weights), replaced


def _counted(path: Any, x: Any, count: Any) -> Any:
    """The steps of what else counts them in a state, such as optax's schedules: the count; anything else as it is."""
    name = getattr(path[-1], "name", None) if path else None
    if _is_state(x) or name not in ("count", "gradient_step"):
        return x
    return jnp.asarray(count, x.dtype)


def _check_fresh(place: Place, count: int) -> None:
    """Raises ValueError where a parameter without a state would keep the one that it has."""
    if count:
        raise ValueError(
            f"parameter {place.name!r} has no state in the checkpoint, and {count} steps here: give the state that "
            "init(params) returns"
        )


def _is_state(x: Any) -> bool:
    return isinstance(x, State | optax.ScaleByAdamState)


def _only(state: Tree) -> Any:
    """The state of the one optimizer in the state of a transformation."""
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(x)]
    if len(found) != 1:
        raise ValueError(f"the state has {len(found)} optimizers in it, and a checkpoint is of one")
    if any(
        isinstance(x, optax.MaskedNode)
        for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    ):
        raise ValueError("the state leaves parameters out (optax.masked), and a checkpoint is of all of them")
    return found[0]


def _ours(state: Any) -> State:
    """The state under our names."""
    if isinstance(state, State):
        return state
    return State(state.count, {"exp_avg": state.mu, "exp_avg_sq": state.nu}, {}, None)


def _theirs(before: Any, state: State) -> Any:
    """The state as it was there."""
    if isinstance(before, State):
        return state
    return before._replace(count=state.count, mu=state.moments["exp_avg"], nu=state.moments["exp_avg_sq"])


def _place(path: Any) -> Place:
    return Place.of(jax.tree_util.keystr(path, simple=True, separator="."))


def _is_scale(name: str, moments: Mapping[str, Any]) -> bool:
    return name in map(layout.scale_name, moments)


def _scale(moments: Mapping[str, list[Any]], name: str, i: int) -> Array | None:
    scale = moments.get(layout.scale_name(name), {i: None})[i]
    return None if scale is None else np.asarray(scale)


def _array(x: Any) -> Array:
    """The array as NumPy's; of 16-bit floats the codes."""
    array = np.asarray(x)
    return array.view(np.uint16) if x.dtype.name in layout.HALVES else array


def _like(x: Any, values: Array) -> Any:
    """The values, of which 16-bit floats are codes, as an array of JAX with the dtype of ``x``."""
    return jnp.asarray(values.view(x.dtype) if values.dtype == np.uint16 else values.astype(x.dtype))
