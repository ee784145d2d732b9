"""Recordings: what the step of a rule does, as a list of operations.

A rule is run once over values that record the operations on them. The result is data: it can be read, rewritten
(``adamas.rule.lowering``) and written out in another language (``adamas.rule.cpp``). This module depends on no language.

Values are of two kinds. A number is the same for all elements of a tensor (β1, the learning rate, and whatever is computed
from numbers alone). An array has one element for each element of the tensor. Python's floats are numbers too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, TypeAlias

from . import house, statistics
from .declaration import HOUSE_NUMBERS, MatrixRule, Rule, State
from .statistics import LARGEST, SUMS, Watched

Operand: TypeAlias = "Value | float"


@dataclass(frozen=True, eq=False)
class Value:
    """An input of a recording, or the result of an operation.

    Attributes:
        operation: the name of the operation, as in ``operator`` or in an array namespace; ``"input"`` for an input.
        operands: the operands of the operation.
        is_number: whether it is a number, not an array.
        name: the name of an input.
    """

    operation: str
    operands: tuple[Operand, ...]
    is_number: bool
    name: str = ""

    def view(self, dtype: str) -> Value:
        """The bits in another dtype, as ``adamas.rule.formats`` takes them."""
        return recorded(f"view_{dtype}", self)

    def to(self, dtype: str) -> Value:
        """The value in another dtype."""
        return recorded(f"to_{dtype}", self)

    def __bool__(self) -> bool:
        raise TypeError("a rule is recorded without its values, so it cannot branch on one: use xp.where")


def recorded(operation: str, *operands: Operand) -> Value:
    """The result of an operation: a number if all operands are numbers."""
    return Value(operation, operands, all(is_number(x) for x in operands))


def is_number(operand: Operand) -> bool:
    """Whether the operand is the same for all elements."""
    return not isinstance(operand, Value) or operand.is_number


def _record_operators() -> None:
    def unary(name: str) -> Callable[[Any], Value]:
        return lambda a: recorded(name, a)

    def binary(name: str) -> Callable[[Any, Any], Value]:
        return lambda a, b: recorded(name, a, b)

    def reflected(name: str) -> Callable[[Any, Any], Value]:
        return lambda a, b: recorded(name, b, a)

    for name in ("add", "sub", "mul", "truediv", "pow", "lshift", "rshift", "and", "or", "xor"):
        setattr(Value, f"__{name}__", binary(name))
        setattr(Value, f"__r{name}__", reflected(name))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Value, f"__{name}__", binary(name))
    for name in ("neg", "invert", "abs"):
        setattr(Value, f"__{name}__", unary(name))


_record_operators()


class Namespace:
    """The array namespace that rules are recorded with: its functions record themselves."""

    def __getattr__(self, name: str) -> Callable[..., Value]:
        return lambda *operands: recorded(name, *operands)


class Formulas(Namespace):
    """Takes the place of ``adamas.rule.declaration.Host`` in formulas of numbers."""

    @staticmethod
    def either(
        condition: Value, yes: Callable[[], Iterable[Any]], no: Callable[[], Iterable[Any]]
    ) -> tuple[Value, ...]:
        """See ``Host.either``."""
        return tuple(recorded("where", condition, one, other) for one, other in zip(yes(), no(), strict=True))


@dataclass(frozen=True)
class Recording:
    """What a step does.

    Attributes:
        states: the states of the rule; each is an input, and an output, under its role.
        gradient: the gradient that the rule takes, already scaled and with the penalties added.
        outputs: the new weight as ``"p"``, and the new states; or the term of a sum as ``"term"``; or those of statistics.
    """

    states: tuple[State, ...]
    gradient: Value
    outputs: Mapping[str, Value]

    @cached_property
    def operations(self) -> list[Value]:
        """Everything that the outputs depend on, inputs included, each after its operands."""
        found: dict[Value, None] = {}

        def visit(value: Operand) -> None:
            if isinstance(value, Value) and value not in found:
                for operand in value.operands:
                    visit(operand)
                found[value] = None

        for output in self.outputs.values():
            visit(output)
        return list(found)

    @cached_property
    def uses(self) -> dict[Value, int]:
        """The number of times that each value is an operand or an output."""
        count = dict.fromkeys(self.operations, 0)
        for value in (*self.outputs.values(), *(x for one in self.operations for x in one.operands)):
            if isinstance(value, Value):
                count[value] += 1
        return count

    def depends_on(self, outputs: Iterable[str]) -> set[Value]:
        """Everything that these outputs depend on."""
        return set(Recording(self.states, self.gradient, {name: self.outputs[name] for name in outputs}).operations)

    def rewritten(self, rewrite: Callable[[Value, Value], Operand]) -> Recording:
        """The recording with each operation replaced by what ``rewrite`` returns for it, operands first.

        Args:
            rewrite: takes the operation as it is here, and the same operation on its rewritten operands.
        """
        new: dict[Value, Any] = {}
        for value in self.operations:
            operands = tuple(new[x] if isinstance(x, Value) else x for x in value.operands)
            same = all(a is b for a, b in zip(operands, value.operands, strict=True))
            new[value] = rewrite(value, value if same else recorded(value.operation, *operands))
        return Recording(
            self.states, new.get(self.gradient, self.gradient), {name: new[x] for name, x in self.outputs.items()}
        )

    def __str__(self) -> str:
        names: dict[Value, str] = {}
        lines: list[str] = []
        for value in self.operations:
            if value.operation == "input":
                names[value] = value.name
                continue
            names[value] = f"t{len(lines)}"
            operands = ", ".join(names[x] if isinstance(x, Value) else repr(float(x)) for x in value.operands)
            lines.append(f"{names[value]} = {value.operation}({operands})")
        lines += [f"{name} <- {names[value]}" for name, value in self.outputs.items()]
        return "\n".join(lines)


def record(rule: Rule, penalized: bool) -> Recording:
    """The recording of a whole step of a rule, including the parts that all rules share (``adamas.rule.house``).

    The inputs are ``HOUSE_NUMBERS``, the numbers and the sums of the rule, the weight ``p``, the gradient ``g``, and the
    rule's states.
    """
    k, xp, p, g, states = _inputs(rule, len(rule.sums))
    gradient = house.gradient(k, xp, p, g, penalized)
    update, *after = rule.update(k, xp, p, gradient, *states)
    outputs = {state.role: x for state, x in zip(rule.states, after, strict=True)}
    return Recording(rule.states, gradient, outputs | {"p": house.moved(rule, k, xp, p, gradient, update)})


def record_term(rule: Rule, index: int, penalized: bool) -> Recording:
    """The recording of the term of the rule's sum at an index. Of the sums, only the preceding ones are inputs."""
    k, xp, p, g, states = _inputs(rule, index)
    wanted = rule.sums[index]
    k = wanted.given(vars(k), Formulas())
    gradient = house.gradient(k, xp, p, g, penalized)
    return Recording(rule.states, gradient, {"term": wanted.term(k, xp, p, gradient, *states)})


@cache
def reads_weight(rule: Rule) -> bool:
    """Whether the update or a sum of the rule depends on the weight. The direction of a rule of matrices stands for it."""
    k, xp, p, g, states = _inputs(rule, len(rule.sums))
    update, *after = (rule.direction if isinstance(rule, MatrixRule) else rule.update)(k, xp, p, g, *states)
    made = Recording(rule.states, g, {"u": update, **{str(i): x for i, x in enumerate(after)}})
    terms = (record_term(rule, i, penalized=False) for i in range(len(rule.sums)))
    return any(value.name == "p" for recording in (made, *terms) for value in recording.operations)


def _inputs(rule: Rule, sums: int) -> tuple[SimpleNamespace, Namespace, Value, Value, tuple[Value, ...]]:
    """The arguments of a rule that is recorded; of its sums, only the first ``sums`` are among the numbers."""
    k = _numbers((*HOUSE_NUMBERS, *rule.numbers, *(one.name for one in rule.sums[:sums])))
    if sums == len(rule.sums):
        vars(k).update(rule.from_sums(k, Formulas()))
    return k, Namespace(), _array("p"), _array("g"), tuple(_array(state.role) for state in rule.states)


def record_penalties() -> Recording:
    """The recording that adds the penalties to the gradient ``g``."""
    g = house.gradient(_numbers(HOUSE_NUMBERS), Namespace(), _array("p"), _array("g"), penalized=True)
    return Recording((), g, {"g": g})


def record_mask() -> Recording:
    """The recording of ``adamas.rule.house.masked``."""
    p, g, q = _array("p"), _array("g"), _array("q")
    return Recording((), g, {"q": house.masked(_numbers(HOUSE_NUMBERS), Namespace(), p, g, q)})


def record_cautious_decay() -> Recording:
    """The recording of ``adamas.rule.house.cautiously_decayed``."""
    p, q = _array("p"), _array("q")
    return Recording((), q, {"q": house.cautiously_decayed(_numbers(HOUSE_NUMBERS), Namespace(), p, q)})


@cache
def record_statistics(kind: Watched) -> Recording:
    """The recording of ``adamas.rule.statistics.terms``: its arguments are the inputs, its results, in order, the outputs."""
    arrays = {name: _array(name) for name in ("p", "g", "q", "r", "m", "v")}
    found = statistics.terms(kind, _numbers(statistics.NUMBERS), Namespace(), **arrays)
    return Recording((), arrays["g"], {name: found[name] for name in (*SUMS, LARGEST) if name in found})


def _numbers(names: Iterable[str]) -> SimpleNamespace:
    return SimpleNamespace(**{name: Value("input", (), True, name) for name in names})


def _array(name: str) -> Value:
    return Value("input", (), False, name)


def digest(rules: Iterable[Rule]) -> str:
    """A hash of the rules, of their order and of what is watched of their steps."""
    return hashlib.sha256("\n".join(_description(rule) for rule in rules).encode()).hexdigest()


def _description(rule: Rule) -> str:
    states = (
        f"{x.role} {x.signed} {x.decay} {x.draw} {x.code_draw is not None} {rule.second_of(x)} {rule.counts(x)}"
        for x in rule.states
    )
    sums = (one.name for one in rule.sums)
    watched = f"{statistics.first_of(rule)} {statistics.second_of(rule)}"
    return "\n".join([rule.name, *states, *rule.numbers, *sums, watched, *_recordings(rule)])


def _recordings(rule: Rule) -> Iterator[str]:
    for penalized in (False, True):
        yield str(record(rule, penalized))
        yield from (str(record_term(rule, i, penalized)) for i in range(len(rule.sums)))
    yield str(record_statistics(statistics.watched(rule)))
    yield str(record_mask())
    yield str(record_cautious_decay())
