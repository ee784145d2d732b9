"""Lowerings: rewritings of a recording that make the same step faster.

Each takes a recording and returns one that computes the same up to rounding. They introduce these operations, besides those
that a rule can use:

- ``fused(a, b, c)``, a·b + c; ``fused_less(a, b, c)``, a·b − c; and ``fused_from(a, b, c)``, c − a·b; each rounded once;
- ``decayed(a, x, g)``: a·x, but 0 where the gradient g is 0 and x is below the smallest normal number. Otherwise rounding
  would hold a decaying average at one of the smallest subnormal numbers forever, and x86 processors take several times as
  long on those;
- ``read(a, x)``: the same for a state x that nothing else reads. If x is decoded from codes, a is folded into their scale;
- ``estimated_root(x, a)``, √(x + a), and ``estimated_quotient(a, b)``, a/b, which may be off by some 2⁻¹³.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

from .recorder import Operand, Recording, Value, is_number, recorded

Lowering: TypeAlias = Callable[[Recording], Recording]


def rate_in_coefficients(recording: Recording) -> Recording:
    """η·((c·m + d·g) / x) becomes ((η·c)·m + (η·d)·g) / x, unless the update or a part of it is also used elsewhere."""

    def times(factor: Operand, x: Operand) -> Value | None:
        """The product, if the factor can be moved into the numbers of x."""
        if not isinstance(x, Value) or recording.uses[x] > 1:
            return None
        if scaled := _scaled(x):
            return recorded("mul", recorded("mul", factor, scaled[0]), scaled[1])
        if x.operation in ("add", "sub"):
            a, b = (times(factor, operand) for operand in x.operands)
            return None if a is None or b is None else recorded(x.operation, a, b)
        if x.operation == "truediv":
            a = times(factor, x.operands[0])
            return None if a is None else recorded("truediv", a, x.operands[1])
        return None

    def rewrite(old: Value, new: Value) -> Operand:
        if old is recording.outputs["p"] and old.operation == "sub" and (move := _scaled(old.operands[1])):
            update = times(*move)
            if update is not None:
                return recorded("sub", new.operands[0], update)
        return new

    return recording.rewritten(rewrite)


def squares_of_products(recording: Recording) -> Recording:
    """b·x² becomes (√b·x)² in the averages of unsigned states, where b cannot be negative.

    ``numbers_first`` then joins √b and the scale of the gradient into one factor.
    """
    averages = [recording.outputs[state.role] for state in recording.states if not state.signed]
    terms = {x for average in averages if average.operation == "add" for x in average.operands if isinstance(x, Value)}

    def rewrite(old: Value, new: Value) -> Operand:
        factors = _factors(new)
        if old in terms and len(factors) == 3 and is_number(factors[0]) and factors[1] is factors[2]:
            root = recorded("mul", recorded("sqrt", factors[0]), factors[1])
            return recorded("mul", root, root)
        return new

    return recording.rewritten(rewrite)


def numbers_first(recording: Recording) -> Recording:
    """a·(b·x), with numbers a and b, becomes (a·b)·x: the product of the numbers is the same for all elements."""

    def rewrite(_: Value, new: Value) -> Operand:
        outer = _scaled(new)
        inner = _scaled(outer[1]) if outer else None
        return recorded("mul", recorded("mul", outer[0], inner[0]), inner[1]) if outer and inner else new

    return recording.rewritten(rewrite)


def decays(recording: Recording) -> Recording:
    """The product of a state and its decay becomes ``read``, or ``decayed`` if the state has other uses too."""
    scaled = _scaled(recording.gradient)
    gradient = scaled[1] if scaled else recording.gradient  # 0 in the same elements as the scaled one
    decay_of = {state.role: state.decay for state in recording.states}

    def decay(x: Value) -> tuple[Operand, Value] | None:
        """The decay and the state, if x is their product."""
        if (scaled := _scaled(x)) and scaled[1].operation == "input":
            a, state = scaled
            if isinstance(a, Value) and a.operation == "input" and a.name == decay_of.get(state.name):
                return scaled
        return None

    products = [found[1] for x in recording.operations if (found := decay(x))]

    def rewrite(old: Value, new: Value) -> Operand:
        if found := decay(old):
            if recording.uses[found[1]] == 1:
                return recorded("read", *found)
            return recorded("decayed", *found, gradient)
        return new

    return recording.rewritten(rewrite) if products else recording


def fused_sums(recording: Recording, integers: Collection[Value] = ()) -> Recording:
    """A product and the sum it goes into are rounded once. Of two products, a sum fuses the second, a difference the first.

    Sums of ``integers`` stay as they are.
    """

    def is_product(x: Operand) -> bool:
        return isinstance(x, Value) and x.operation == "mul" and not x.is_number and recording.uses[x] == 1

    def rewrite(old: Value, new: Value) -> Operand:
        if old.is_number or old.operation not in ("add", "sub") or old in integers:
            return new
        is_first, is_second = map(is_product, old.operands)
        a, b = new.operands
        if old.operation == "add":
            if is_second:
                return recorded("fused", *_operands(b), a)
            return recorded("fused", *_operands(a), b) if is_first else new
        if is_first:
            return recorded("fused_less", *_operands(a), b)
        return recorded("fused_from", *_operands(b), a) if is_second else new

    return recording.rewritten(rewrite)


def counts(recording: Recording) -> Recording:
    """a + where(c, 1, 0) becomes where(c, a + 1, a), which is one operation where processors add under a mask."""

    def rewrite(old: Value, new: Value) -> Operand:
        if old.operation == "add" and isinstance(one := new.operands[1], Value) and one.operation == "where":
            total, (condition, *values) = new.operands[0], one.operands
            if [x for x in values if not isinstance(x, Value)] == [1.0, 0.0]:
                return recorded("where", condition, recorded("add", total, 1.0), total)
        return new

    return recording.rewritten(rewrite)


def estimates(recording: Recording) -> Recording:
    """Roots and quotients are estimated where nothing that is stored depends on them."""
    stored = recording.depends_on(state.role for state in recording.states)

    def rewrite(old: Value, new: Value) -> Operand:
        if old.is_number or old in stored:
            return new
        if old.operation == "truediv":
            return recorded("estimated_quotient", *new.operands)
        if old.operation == "sqrt":
            (x,) = new.operands
            if isinstance(x, Value) and x.operation == "add" and is_number(x.operands[1]):
                return recorded("estimated_root", *x.operands)
            return recorded("estimated_root", x, 0.0)
        return new

    return recording.rewritten(rewrite)


# `benchmarks/bench_lowerings.py` measures the step without each of them. With 8-bit states and AVX-512 the step takes, in
# this order, 1, 2, 1, 4, 3 and 4 % longer; in float32, a decaying state takes 25 % longer without `decays`.
LOWERINGS: tuple[Lowering, ...] = (
    rate_in_coefficients,
    squares_of_products,
    numbers_first,
    decays,
    estimates,
    fused_sums,
)


def lowered(recording: Recording) -> Recording:
    """The recording after all lowerings."""
    for lowering in LOWERINGS:
        recording = lowering(recording)
    return recording


def _operands(x: Operand) -> tuple[Operand, ...]:
    return x.operands if isinstance(x, Value) else ()


def _scaled(x: Operand) -> tuple[Operand, Value] | None:
    """The number and the array, if x is the product of a number and an array."""
    if isinstance(x, Value) and x.operation == "mul":
        for a, b in (x.operands, x.operands[::-1]):
            if is_number(a) and isinstance(b, Value) and not b.is_number:
                return a, b
    return None


def _factors(x: Value) -> tuple[Operand, ...]:
    """The three factors of (b·x)·x or b·(x·x); empty for anything else."""
    if x.operation == "mul":
        a, b = x.operands
        if isinstance(a, Value) and a.operation == "mul":
            return *a.operands, b
        if isinstance(b, Value) and b.operation == "mul":
            return a, *b.operands
    return ()
