"""One step of one parameter over an array namespace: loads the state, applies the rule, and rounds and stores the results.

This step is used wherever the engine has no kernel: on PyTorch's other devices, in optax, and in Keras on JAX and TensorFlow.
It rounds with the engine's random numbers to the engine's formats, and writes nothing in place. The first argument of every
function is the namespace of the arrays, one of ``adamas.step.namespaces``.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from ..rule import formats, house, layout
from ..rule.declaration import WEIGHT_DRAW, Member, Numbers, Rule, State, Traced, has_decay, has_penalty, undecayed
from ..rule.layout import CODES, HALVES
from ..rule.recorder import reads_weight
from .record import Place

Array = Any

_F = TypeVar("_F", bound=Callable[..., Any])


def _computing(function: _F) -> _F:
    """Runs the function in the namespace's context."""

    @functools.wraps(function)
    def run(xp: Any, *args: Any, **kwargs: Any) -> Any:
        with xp.computing():
            return function(xp, *args, **kwargs)

    return run  # type: ignore[return-value]  # wraps() keeps the signature, which its type does not say


# ---- the numbers of a step


def numbers(
    xp: Any, member: Member, hyper: Mapping[str, Any], before: Mapping[str, Array], dtypes: Sequence[str]
) -> tuple[dict[str, Numbers], dict[str, Array]]:
    """The numbers of the coming step, computed within a compiled program, since only the program knows the step.

    Args:
        xp: the namespace.
        member: the member.
        hyper: its hyperparameters; arrays among them are in float64.
        before: the member's scalars before the step.
        dtypes: the names of the dtypes of the computation.

    Returns:
        The numbers for each dtype; and the member's scalars after the step, without the step count, in their dtypes.
    """
    with xp.computing():
        f = Traced(xp)
        now = member.advance(hyper, {name: xp.double(value) for name, value in before.items()}, f)
        exact = member.numbers_of(hyper, now, f=f)
        found = {dtype: {name: xp.narrowed(x, dtype) for name, x in exact.items()} for dtype in dtypes}
        after = {name: xp.narrowed(now[name], xp.dtype_name(value)) for name, value in before.items() if name != "step"}
    return found, after


# ---- rounding


class Rounding:
    """The random numbers of one parameter's step, computed only when they are needed.

    Args:
        xp: the namespace.
        key: the key of the parameter's random numbers (``adamas.rule.formats.tensor_key``).
        count: the number of steps, including this one.
        shape: the shape of the parameter.
        place: where it lies in a whole tensor, if it is a part of one.
        rows: the indices of its rows in a whole tensor, if it is these.
    """

    def __init__(
        self,
        xp: Any,
        key: int,
        count: Any,
        shape: Sequence[int],
        place: Place | None = None,
        rows: Array | None = None,
    ) -> None:
        self._xp, self._key, self._count = xp, key, count
        self._shape, self._place, self._rows = tuple(shape), place, rows

    @cached_property
    def _index(self) -> Array:
        return self._numbers(self._shape, self._place)

    def _numbers(self, shape: Sequence[int], place: Place | None) -> Array:
        """The numbers of the elements of an array in row-major order, counted in the array that it is a part of."""
        if self._rows is not None:
            _, *row = shape
            numbers = self._xp.index((1, *row), 0)
            return self._rows.reshape((-1, *[1] * len(row))) * math.prod(row) + numbers
        if place is None:
            return self._xp.index(shape, 0)
        numbers = self._xp.index((), 0)
        for size, offset, whole in zip(shape, place.offset, place.shape, strict=True):
            numbers = numbers[..., None] * whole + self._xp.index((size,), offset)
        return numbers

    def thresholds(self, draw: int) -> Array:
        """The 16-bit thresholds of the parameter's elements."""
        count = self._xp.counter(self._count)
        return formats.random16(self._xp, self._index, self._key, count, draw)

    def of_blocks(self, draw: int) -> formats.Thresholds:
        """The thresholds of codes, for arrays of shape (*rows, blocks of a row, 128)."""
        place = None if self._place is None else self._place.of_scales(self._shape)
        block = self._numbers(layout.scale_shape(self._shape), place)[..., None]
        position = self._xp.index((formats.BLOCK,), 0)
        return formats.thresholds(self._xp, block, position, self._key, self._xp.counter(self._count), draw)


@_computing
def rounded(xp: Any, value: Array, dtype: str, thresholds: Array | None) -> Array:
    """The values in bfloat16 or float16, rounded stochastically, or to the nearest without thresholds.

    This uses integer operations, because XLA may omit a conversion to 16 bits inside a larger expression.
    """
    return xp.from_bits(formats.ENCODE[dtype](xp, xp.cast(value, "float32"), thresholds), dtype)


# ---- states as they are stored


class Stored(NamedTuple):
    """A state of one parameter: an array of its shape, or codes and a float32 scale for each block of a row.

    Its methods are for codes.
    """

    values: Array
    scale: Array = None

    def is_coded(self, xp: Any) -> bool:
        """Whether these are codes."""
        return xp.dtype_name(self.values) in CODES

    def has_sign(self, xp: Any) -> bool:
        """Whether the codes have a sign."""
        return bool(xp.dtype_name(self.values) == "int8")

    def width(self, shape: Sequence[int]) -> formats.Width:
        """The width of the codes of a parameter of this shape."""
        return layout.WIDTHS[layout.form_of(self.values.shape, shape)]

    def codes(self, xp: Any, shape: Sequence[int]) -> Array:
        """The codes of a parameter of this shape, in the shape (*rows, blocks of a row, 128)."""
        return layout.unpacked(xp, self.values, self.width(shape), self.has_sign(xp))


@_computing
def load(xp: Any, stored: Stored, compute: str, shape: Sequence[int]) -> Array:
    """A state of a parameter of this shape, in the dtype of the computation."""
    if not stored.is_coded(xp):
        return xp.cast(stored.values, compute)
    codes, scale = stored.codes(xp, shape), stored.scale[..., None]
    values = formats.decode(xp, codes, scale, stored.has_sign(xp), stored.width(shape))
    return xp.cast(layout.unblocked(values, shape), compute)


@_computing
def store(
    xp: Any,
    value: Array,
    old: Array,
    before: Stored,
    state: State,
    decay: Array | float,
    rounding: Rounding,
    second: Array | None = None,
    counts: bool = True,
) -> Stored:
    """A state in its storage format.

    Args:
        xp: the namespace.
        value: the value to store.
        old: the value before the step, as ``load`` returned it.
        before: the stored state before the step.
        state: its declaration, which says how it is rounded.
        decay: the factor by which the step multiplied it.
        rounding: the random numbers.
        second: for codes with a sign, the choices of the second moment's blocks.
        counts: whether the blocks make choices of their own (``adamas.rule.declaration.Rule.counts``).
    """
    dtype = xp.dtype_name(before.values)
    if not before.is_coded(xp):
        if dtype not in HALVES:
            return before._replace(values=xp.cast(value, dtype))
        thresholds = None if state.draw is None else rounding.thresholds(state.draw)
        return before._replace(values=rounded(xp, value, dtype, thresholds))
    blocks = layout.blocks(xp, xp.cast(value, "float32"))
    thresholds = None if state.code_draw is None else rounding.of_blocks(state.code_draw)
    has_sign, width = before.has_sign(xp), before.width(value.shape)
    moved, codes = layout.blocks(xp, value != decay * old), before.codes(xp, value.shape)
    codes, found = formats.encode_next(
        xp, blocks, moved, codes, before.scale[..., None], has_sign, thresholds, decay, second, counts, width
    )
    return Stored(xp.cast(layout.packed(xp, codes, value.shape, width, has_sign), dtype), found[..., 0])


@_computing
def choices(xp: Any, value: Array, stored: Stored, width: formats.Width) -> Array:
    """The choice of grid of each block of a second moment, of shape (*rows, blocks of a row, 1).

    If its codes have another width, or it has none, it is the choice that its values would take in this width.
    """
    if stored.is_coded(xp) and stored.width(value.shape) is width:
        return formats.choice_of(xp, stored.scale[..., None])
    return formats.chosen_unsigned(xp, layout.blocks(xp, xp.cast(value, "float32")), width)


# ---- weights as they are stored


class Weight(NamedTuple):
    """A weight, and its low bits (int16) if it is a split 16-bit weight."""

    high: Array
    low: Array = None


@_computing
def load_weight(xp: Any, weight: Weight, compute: str) -> Array:
    """A weight in the dtype of the computation."""
    if weight.low is None:
        return xp.cast(weight.high, compute)
    return formats.JOIN[xp.dtype_name(weight.high)](xp, xp.bits(weight.high), xp.bits(weight.low))


@_computing
def split(xp: Any, value: Array, dtype: str) -> Weight:
    """Float32 values as 16-bit weights and their low bits."""
    high, low = formats.SPLIT[dtype](xp, value)
    return Weight(xp.from_bits(high, dtype), xp.from_bits(low, "int16"))


def store_weight(xp: Any, value: Array, before: Weight, rounding: Rounding | None = None) -> Weight:
    """A weight in its storage format; 16-bit weights without low bits are rounded stochastically if there is a rounding."""
    dtype = xp.dtype_name(before.high)
    if before.low is not None:
        return split(xp, value, dtype)
    if rounding is not None and dtype in HALVES:
        with xp.computing():
            return Weight(rounded(xp, value, dtype, rounding.thresholds(WEIGHT_DRAW)))
    return Weight(xp.cast(value, dtype))


# ---- the step


class Parameter(NamedTuple):
    """A parameter before the step.

    Attributes:
        weight: the stored weight. None if the step does not depend on it.
        g: the gradient.
        states: the stored states, in the rule's order.
    """

    weight: Weight | None
    g: Array
    states: Sequence[Stored]

    def compute_dtype(self, xp: Any) -> str:
        """The dtype of the computation."""
        return compute_dtype(xp, self.g if self.weight is None else self.weight.high)


@dataclass(frozen=True)
class Step:
    """The step of the parameters that share its numbers.

    Attributes:
        xp: the namespace.
        rule: the rule.
        numbers: the numbers of the step, in the dtype of the computation.
        has_penalty: whether a penalty is added to the gradient.
        has_decay: whether the weight decays (decoupled decay).
    """

    xp: Any
    rule: Rule
    numbers: Numbers
    has_penalty: bool
    has_decay: bool

    def weight(
        self,
        one: Parameter,
        weights: str,
        rounding: Rounding,
        by_change: bool,
        watch: Callable[[Array, Array, Array, Sequence[Array]], None] | None = None,
    ) -> tuple[Weight, list[Stored]]:
        """The stored weight and states after the step.

        Args:
            one: the parameter.
            weights: how 16-bit weights are rounded.
            rounding: the random numbers.
            by_change: whether the new weight is computed as p + ((k − 1)·p − η·u), for a k that may be too close to 1 for its
                dtype, or as k·p − η·u.
            watch: if given, called with the weight before the step, after it, and as it was stored, and with the states after
                it, all in the dtype of the computation.
        """
        assert one.weight is not None
        p = load_weight(self.xp, one.weight, one.compute_dtype(self.xp))
        moved, new, after = self._applied(one, p, rounding, by_change)
        value = self._held(p, p + moved if by_change else moved)
        drawn = rounding if weights == "stochastic" else None
        stored = one.weight if self._is_still is True else store_weight(self.xp, value, one.weight, drawn)
        if watch is not None:
            watch(p, value, load_weight(self.xp, stored, one.compute_dtype(self.xp)), new)
        return stored, after

    def change(self, one: Parameter, rounding: Rounding) -> tuple[Array, list[Stored]]:
        """The change p' − p of the weight, in the dtype of the computation, and the stored states after the step.

        The weight may be None if there is neither decay nor penalty and the rule does not read it, since the change does not
        depend on it then.
        """
        is_read = self.has_decay or self.has_penalty or reads_weight(self.rule)
        p = self._loaded(one) if is_read else None
        change, _, after = self._applied(one, p, rounding, by_change=True)
        return self._held(self.xp.zeros_like(change), change), after

    def term(self, one: Parameter, function: Callable[..., Array]) -> Array:
        """The terms of a sum (``adamas.rule.declaration.Sum``) for all elements, in the dtype of the computation.

        Args:
            one: the parameter.
            function: the ``term`` of the sum.
        """
        xp, compute, k = self.xp, one.compute_dtype(self.xp), SimpleNamespace(**self.numbers)
        p = self._loaded(one)
        g = house.gradient(k, xp, p, xp.cast(one.g, compute), self.has_penalty)
        return function(k, xp, p, g, *[load(xp, state, compute, g.shape) for state in one.states])

    def _loaded(self, one: Parameter) -> Array | None:
        return None if one.weight is None else load_weight(self.xp, one.weight, one.compute_dtype(self.xp))

    def _applied(
        self, one: Parameter, p: Array | None, rounding: Rounding, by_change: bool
    ) -> tuple[Array, Sequence[Array], list[Stored]]:
        """The new weight or its change, the new states, and these as they are stored."""
        xp, k, compute = self.xp, self.numbers, one.compute_dtype(self.xp)
        rule = self.rule.at(k)
        old = tuple([load(xp, state, compute, one.g.shape) for state in one.states])
        g = xp.cast(one.g, compute)
        if by_change:
            moved, new = house.change(rule, SimpleNamespace(**k), xp, p, g, old, self.has_penalty, self.has_decay)
        else:
            moved, new = house.step(rule, SimpleNamespace(**k), xp, p, g, old, self.has_penalty)
        after: dict[int, Stored] = {}
        for i, state in sorted(enumerate(rule.states), key=lambda item: item[1].signed):  # second moments first
            decay = 1.0 if state.decay is None else k[state.decay]
            second, before, choice = rule.second_of(state), one.states[i], None
            if second is not None and before.is_coded(xp):
                choice = choices(xp, new[second], after[second], before.width(new[i].shape))
            after[i] = store(xp, new[i], old[i], before, state, decay, rounding, choice, rule.counts(state))
        return moved, new, [after[i] for i in range(len(new))]

    @property
    def _is_still(self) -> Any:
        """Whether the weight does not move, whatever the gradient is: the rate is 0 and there is no decay."""
        is_still = self.numbers["eta"] == 0
        return is_still & (self.numbers["k_minus_one"] == 0) if self.has_decay else is_still

    def _held(self, before: Array, after: Array) -> Array:
        """``after``, or ``before`` where the weight does not move."""
        is_still = self._is_still
        if isinstance(is_still, bool):
            return before if is_still else after
        return self.xp.where(is_still, before, after)


def compute_dtype(xp: Any, x: Array) -> str:
    """The dtype of the computation for a weight: float64 for float64, else float32."""
    return "float64" if xp.dtype_name(x) == "float64" else "float32"


# ---- the steps of all parameters in a compiled program


def steps(
    xp: Any,
    rule: Rule,
    hyper: Mapping[str, Any],
    numbers: Mapping[str, Numbers],
    parameters: Sequence[Parameter],
    are_decayed: Sequence[bool],
    scalars: dict[str, Array],
) -> tuple[list[Step], dict[str, Array]]:
    """The step of each parameter, with the sums that the rule needs; and the member's scalars after it, some of which may
    follow from these sums (``adamas.rule.declaration.Member.shared``).

    A sum is added up in float64, over the arrays as the program sees them: over whole tensors where the compiler shards them.

    Args:
        xp: the namespace.
        rule: the rule.
        hyper: the member's hyperparameters, where those that are arrays count as nonzero.
        numbers: the numbers of the step for each dtype of the computation; for a rule with sums, for float64 too.
        parameters: the parameters.
        are_decayed: whether weight decay and the penalties apply to each.
        scalars: the member's scalars after the step, as far as ``numbers`` knows them.
    """
    decay, penalty = has_decay(hyper), has_penalty(hyper)
    dtypes = [one.compute_dtype(xp) for one in parameters]
    of = {
        (dtype, is_decayed): numbers[dtype] if is_decayed else undecayed(numbers[dtype])
        for dtype in numbers
        for is_decayed in (False, True)
    }
    found = [
        Step(xp, rule, of[dtype, is_decayed], is_decayed and penalty, is_decayed and decay)
        for dtype, is_decayed in zip(dtypes, are_decayed, strict=True)
    ]
    if not rule.sums:
        return found, scalars
    known: list[Numbers] = [of["float64", is_decayed] for is_decayed in are_decayed]
    f = Traced(xp)

    def learn(more: Sequence[Numbers]) -> None:
        for i, learned in enumerate(more):
            known[i] = known[i] | learned
            narrowed = {name: xp.narrowed(value, dtypes[i]) for name, value in learned.items()}
            found[i] = replace(found[i], numbers=found[i].numbers | narrowed)

    for wanted in rule.sums:
        with xp.computing():
            learn([wanted.from_sums(SimpleNamespace(**numbers), f) for numbers in known])
        terms = [step.term(one, wanted.term) for step, one in zip(found, parameters, strict=True)]
        with xp.computing():
            sums = [wanted.of(xp.sum(xp.cast(term, "float64")), math.prod(term.shape)) for term in terms]
            if wanted.over == "all":
                sums = [functools.reduce(operator.add, sums)] * len(sums)
            learn([{wanted.name: value} for value in sums])
    with xp.computing():
        learned = [rule.from_sums(SimpleNamespace(**numbers), f) for numbers in known]
        learn(learned)
        shared = learned[0] if learned else {}
        after = {name: xp.narrowed(shared.get(name, x), xp.dtype_name(x)) for name, x in scalars.items()}
    return found, after
