"""Checkpoints of JAX parameters with the optimizer state of ``adamas.optax`` or of optax's own Adam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..extras import needs
from ..numpy import arrays
from ..rule import former, layout
from ..rule.declaration import Member
from ..rule.layout import Slot
from ..rule.members import MEMBERS
from .checkpoint import Array, Checkpoint, Moved, Names, Place, gathered
from .weights import narrowed, widened

with needs("jax"):
    import jax
    import jax.numpy as jnp
    import optax

    from ..optax import State, storage
    from ..optax.storage import as_array

Tree = Any


def from_optax(params: Tree, state: Tree) -> Checkpoint:
    """The checkpoint of parameters and the state of their optimizer, named by the parameters' paths in the tree.

    Args:
        params: a tree of arrays, like the one that the state was initialized with. In Flax's nnx it is
            ``nnx.state(model, nnx.Param)``.
        state: the state of a transformation that contains one member of ``adamas.optax`` or optax's ``scale_by_adam``. In
            Flax's nnx it is the optimizer's ``opt_state``.

    Raises:
        ValueError: the state contains no optimizer or more than one, it belongs to other parameters, or moments as codes were
            cast to another dtype.
    """
    found = _ours(_only(state))
    storage.refuse_cast(found.moments)
    parameters = _parameters(params)
    moments = {name: _leaves_for(parameters, name, moment) for name, moment in found.moments.items()}
    lows = None if found.low_bits is None else _leaves_for(parameters, "low_bits", found.low_bits)
    counts = {name: np.array(float(_leaf(count))) for name, count in (("step", found.count), *found.scalars.items())}
    entries = []
    for path, p in parameters.items():
        low = None if lows is None or not storage.is_half(p.dtype) else np.asarray(lows[path])
        values = {
            name: _decoded(moments, name, path, p.shape)
            for name, moment in moments.items()
            if not _is_scale(name, moments)
        }
        entries.append((Place.of(path), widened(p.dtype.name, _array(p), low), {**counts, **values}))
    return gathered(entries)


def to_optax(checkpoint: Checkpoint, params: Tree, state: Tree, names: Names = None) -> tuple[Tree, Tree]:
    """Load a checkpoint: the parameters and the optimizer state as new trees.

    Args:
        checkpoint: a checkpoint from any framework.
        params: a tree of arrays of the same shapes, which keep their dtypes. In Flax's nnx it is
            ``nnx.state(model, nnx.Param)``.
        state: the result of ``init(params)`` of a transformation that contains one member of ``adamas.optax`` or optax's
            ``scale_by_adam``. Moments keep its storage formats. In Flax's nnx it is the optimizer's ``opt_state``.
        names: for parameters that have another name in the checkpoint: a dict from the names here (of parameters or of
            modules) to the names in the checkpoint, or a function.

    Returns:
        New trees with the structure of ``params`` and of ``state``.

    Raises:
        ValueError: a parameter has no counterpart, or one of another shape; step counts differ between parameters (JAX has one
            for all); or the state lacks a moment, belongs to other parameters, or has an impossible value (a NaN, a negative
            square, or a square that float16 rounded to 0).
    """
    before = _ours(_only(state))
    storage.refuse_former(before.moments)
    parameters = _parameters(params)
    places = {path: Place.of(path) for path in parameters}
    moved = Moved(checkpoint, places.values(), names)
    member = _member_with(before.moments)
    moved.check(member, None)
    counts = moved.counts(places.values(), ["step", *before.scalars])
    moments = {name: _leaves_for(parameters, name, moment) for name, moment in before.moments.items()}
    lows = None if before.low_bits is None else _leaves_for(parameters, "low_bits", before.low_bits)
    weights = []
    for path, p in parameters.items():
        place = places[path]
        parameter = moved.fitting(place, p.shape, p.dtype.name)
        weight, low = narrowed(p.dtype.name, parameter.weight, lows is not None)
        weights.append(_like(p, weight))
        if lows is not None and low is not None:
            lows[path] = jnp.asarray(low)
        if not parameter.state:
            _check_fresh(place, int(_leaf(before.count)))
            continue
        slots = []
        for name in [name for name in moments if not _is_scale(name, moments)]:
            if name not in parameter.state:
                raise ValueError(
                    f"parameter {place.name!r} has {sorted(parameter.state)} in the checkpoint, but no {name!r}: it comes "
                    "from another optimizer"
                )
            kept, (scale, _) = moments[name][path], _scale(moments, name, path)
            slots.append(Slot(name, kept.dtype.name, kept.shape, None if scale is None else scale.shape))
        values = {slot.name: parameter.state[slot.name] for slot in slots}
        for part, x in arrays.encoded(member, slots, values, {}).items():
            moments[part][path] = _like(moments[part][path], x)
    after = before._replace(
        count=_with_leaves(before.count, [jnp.asarray(counts.get("step", 0), jnp.int32)]),
        moments={name: _with_paths(before.moments[name], values) for name, values in moments.items()},
        scalars={
            name: _with_leaves(value, [jnp.asarray(counts.get(name, _leaf(value)), _leaf(value).dtype)])
            for name, value in before.scalars.items()
        },
        low_bits=None if lows is None else _with_paths(before.low_bits, lows),
    )
    count = _leaf(after.count)
    counted = jax.tree_util.tree_map_with_path(lambda path, x: _counted(path, x, count), state, is_leaf=_is_state)
    replaced = jax.tree.map(lambda x: _theirs(x, after) if _is_state(x) else x, counted, is_leaf=_is_state)
    return _with_leaves(params, weights), replaced


# ---- trees. Flax's nnx wraps each leaf in a variable, of different types in the parameters and in the state. So trees of the
# same parameters have the same paths, but not the same structure.


def _parameters(params: Tree) -> dict[str, Any]:
    """The parameters by their paths."""
    found = {path: as_array(p) for path, p in _paths(params).items()}
    for path, p in found.items():
        if not hasattr(p, "dtype"):
            raise ValueError(
                f"{path!r} in params is a {type(p).__name__}, not an array: give the tree that init was given (for a module "
                "of Equinox, eqx.filter(model, eqx.is_inexact_array))"
            )
    return found


def _paths(tree: Tree) -> dict[str, Any]:
    """The leaves by their paths."""
    return {_named(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _named(path: Any) -> str:
    return jax.tree_util.keystr(_unwrapped(path), simple=True, separator=".")


def _unwrapped(path: Any) -> Any:
    """The path of a leaf, or of the nnx variable that contains it."""
    return path[:-1] if len(path) > 1 and getattr(path[-1], "name", None) == "value" else path


def _leaves_for(parameters: Mapping[str, Any], what: str, tree: Tree) -> dict[str, Any]:
    """The leaves of a tree in the state, by the paths of their parameters."""
    found = _paths(tree)
    if found.keys() != parameters.keys():
        here, there = sorted(parameters.keys() - found.keys()), sorted(found.keys() - parameters.keys())
        raise ValueError(
            f"params and {what!r} in the state have different parameters: {here} are only in params, and {there} only in the "
            "state; give the tree that init was given"
        )
    return found


def _leaf(x: Any) -> Any:
    """The array in an nnx variable, or the array itself."""
    (leaf,) = jax.tree.leaves(x)
    return leaf


def _with_leaves(tree: Tree, leaves: list[Any]) -> Tree:
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _with_paths(tree: Tree, values: Mapping[str, Any]) -> Tree:
    return _with_leaves(tree, [values[path] for path in _paths(tree)])


def _counted(path: Any, x: Any, count: Any) -> Any:
    """The count for other step counters in a state, such as those of optax's schedules; any other leaf unchanged."""
    name = getattr(_unwrapped(path)[-1], "name", None) if path else None
    if _is_state(x) or name not in ("count", "gradient_step"):
        return x
    return jnp.asarray(count, x.dtype)


def _check_fresh(place: Place, count: int) -> None:
    """Raise ValueError if a parameter without a state in the checkpoint would keep its current state."""
    if count:
        raise ValueError(
            f"parameter {place.name!r} has no state in the checkpoint, but {count} steps here: give the state that "
            "init(params) returns"
        )


def _is_state(x: Any) -> bool:
    return isinstance(x, State | optax.ScaleByAdamState)


def _only(state: Tree) -> Any:
    """The state of the one optimizer in the state of a transformation."""
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(x)]
    if not found:
        raise ValueError(
            "the state has no optimizer in it: give what init returned (for an nnx.Optimizer its opt_state, not its "
            "nnx.state, which does not say what it is)"
        )
    if len(found) > 1:
        raise ValueError(f"the state has {len(found)} optimizers in it, but a checkpoint has one")
    if any(
        isinstance(x, optax.MaskedNode)
        for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    ):
        raise ValueError("the state leaves parameters out (optax.masked), but a checkpoint has all of them")
    return found[0]


def _ours(state: Any) -> State:
    """The state as an ``adamas.optax.State``."""
    if isinstance(state, State):
        return state
    return State(state.count, {"exp_avg": state.mu, "exp_avg_sq": state.nu}, {}, None)


def _theirs(before: Any, state: State) -> Any:
    """The state in the type that it had before."""
    if isinstance(before, State):
        return state
    return before._replace(count=state.count, mu=state.moments["exp_avg"], nu=state.moments["exp_avg_sq"])


def _member_with(moments: Mapping[str, Any]) -> Member:
    """The first member that can have exactly these moments: their possible values are the same for all such members."""
    names = {name for name in moments if not _is_scale(name, moments)}
    return next(
        member
        for member in MEMBERS.values()
        if any(names == {member.names[state.role] for state in rule.states} for rule in member.rules())
    )


def _is_scale(name: str, moments: Mapping[str, Any]) -> bool:
    return name in map(layout.scale_name, moments) or name in map(former.scale_name, moments)


def _scale(moments: Mapping[str, Mapping[str, Any]], name: str, path: str) -> tuple[Array | None, bool]:
    """The scale of a moment, if it is stored as codes, and whether it is of the former format."""
    scales, is_former = former.scale_of(moments, name, f"{name!r} in the state")
    is_coded = moments[name][path].dtype.name in layout.CODES
    return np.asarray(scales[path]) if scales is not None and is_coded else None, is_former


def _decoded(moments: Mapping[str, Mapping[str, Any]], name: str, path: str, shape: Sequence[int]) -> Array:
    """The values of a moment of a parameter of this shape."""
    scale, is_former = _scale(moments, name, path)
    return arrays.decoded(_array(moments[name][path]), scale, shape, is_former)


def _array(x: Any) -> Array:
    """The array as a NumPy array; 16-bit floats as codes."""
    array = np.asarray(x)
    return array.view(np.uint16) if x.dtype.name in layout.HALVES else array


def _like(x: Any, values: Array) -> Any:
    """The values as a JAX array with the dtype of ``x``; 16-bit floats are given as codes."""
    return jnp.asarray(values.view(x.dtype) if values.dtype == np.uint16 else values.astype(x.dtype))
