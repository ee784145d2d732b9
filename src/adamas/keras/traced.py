"""The step as a compiled program runs it, on JAX and TensorFlow: ``adamas.rule`` over their arrays, with its numbers computed
once a step within the program, since there the step is known only when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..rule import house, layout
from ..rule.declaration import Member, Numbers, Rule, Traced, undecayed
from . import storage
from .backend import arrays

Array = Any


class StepNumbers(NamedTuple):
    """The numbers of a step in one dtype, for the variables that have the decay and the penalties."""

    numbers: Numbers
    drift: Array | float  # k − 1, which float32 would not keep

    def undecayed(self) -> StepNumbers:
        """The same for the others."""
        return StepNumbers(undecayed(self.numbers), 0.0)


def numbers(
    member: Member, hyper: Mapping[str, Any], rate: Any, before: Mapping[str, Array], dtypes: Iterable[str]
) -> tuple[dict[str, StepNumbers], dict[str, Array]]:
    """The numbers of the coming step for each dtype that is computed in, and the member's scalars after it.

    Args:
        member: the member.
        hyper: its hyperparameters but the learning rate.
        rate: the learning rate.
        before: the member's scalars before the step, of which ``step`` is one.
        dtypes: ``"float32"``, ``"float64"`` or both.
    """
    with arrays.exactly():
        now = member.advance(hyper, {name: arrays.double(value) for name, value in before.items()})
        k = member.numbers_of({**hyper, "lr": arrays.double(rate)}, now, f=Traced(arrays.xp))
        found = {
            dtype: StepNumbers(
                {name: arrays.narrowed(x, dtype) for name, x in k.items()}, arrays.narrowed(k["k"] - 1, dtype)
            )
            for dtype in dtypes
        }
        after = {name: arrays.narrowed(now[name], "float32") for name in before if name != "step"}
    return found, after


def step(
    rule: Rule,
    penalized: bool,
    one: StepNumbers,
    names: Sequence[str],
    weight: Array,
    gradient: Array,
    state: Mapping[str, Array],
    weights: str,
    rounding: storage.Rounding,
) -> tuple[Array, dict[str, Array]]:
    """One step of one variable: the weight and the state after it, as they are stored.

    Args:
        rule: the rule.
        penalized: whether the penalties count.
        one: the numbers of the step.
        names: of the moments, in the order of the rule.
        weight: as it is stored.
        gradient: in the dtype that is computed in.
        state: what the variable has, by name.
        weights: how 16-bit weights are rounded.
        rounding: what the roundings need.
    """
    xp, k, compute, dtype = arrays.xp, one.numbers, arrays.dtype_of(gradient), arrays.dtype_of(weight)
    low = state.get(layout.LOW_BITS)
    p = arrays.cast(weight, compute) if low is None else storage.joined(weight, low, dtype, rounding.xp)
    old = tuple(storage.loaded(state[name], state.get(layout.scale_name(name)), compute, rounding.xp) for name in names)
    drifting = SimpleNamespace(**(k | {"k": one.drift}))
    change, new = house.step(rule, drifting, xp, p, gradient, old, penalized)
    # A rate of 0 without decay leaves the weight as it is, whatever the gradient was.
    still = (k["eta"] == 0.0) & (one.drift == 0.0)
    p = xp.where(still, p, p + change)

    after: dict[str, Array] = {}
    for name, value, kind in zip(names, new, rule.states, strict=True):
        form, scale = arrays.dtype_of(state[name]), state.get(layout.scale_name(name))
        if scale is None:
            after[name] = storage.kept(value, form, rounding, kind)
        else:
            factor = 1.0 if kind.decay is None else k[kind.decay]
            coded = storage.coded(value, form, scale, rounding, factor, kind.code_draw)
            after[name], after[layout.scale_name(name)] = coded
    if low is not None:
        stored, after[layout.LOW_BITS] = storage.split(p, dtype, rounding.xp)
    elif weights == "stochastic" and dtype in layout.HALVES:
        stored = storage.rounded(p, dtype, rounding)
    else:
        stored = arrays.cast(p, dtype)
    return stored, after
