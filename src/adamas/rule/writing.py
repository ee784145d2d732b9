"""What the writers of languages have in common: the constants of a rule's loops, and the lines of a recording.

``adamas.rule.cpp`` and ``adamas.rule.triton`` add how their language spells an operation. This module needs only the standard
library.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

from .declaration import HOUSE_NUMBERS, Rule
from .lowering import lowered
from .recorder import Operand, Recording, Value, record, record_term

PENALTIES = ("s", "l2", "l1")
FIRST = (*PENALTIES, "cautious", "k")  # the constants that come first
NUMBER_FUNCTIONS = (
    "sqrt",
    "log",
    "exp",
    "minimum",
    "maximum",
    "where",
)  # of which numbers are computed, besides operators
NUMBER_OPERATORS = ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne", "neg")
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


class WrittenRule:
    """One rule, with what is written of it.

    The terms of sums are written without lowerings, so that they are rounded as array namespaces round them.

    Attributes:
        rule: the rule.
        recording: the lowered recording of its step, without penalties.
        terms: the recordings of the terms of its sums.
        constants: the numbers that its loops take besides ``FIRST``, by name.
        read: the roles of the states that are multiplied by their decay when they are read.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule, self.recording = rule, lowered(record(rule, penalized=False))
        self.terms = [record_term(rule, i, penalized=False) for i in range(len(rule.sums))]
        self.constants: dict[str, Value] = {}
        self._names: dict[str, str] = {}  # by the text of the number
        for value in self._operations():
            if not value.is_number:
                for number in value.operands:
                    if isinstance(number, Value) and number.is_number and _text(number) not in self._names:
                        self._add(number)
        states = [x.operands[1] for x in self.recording.operations if x.operation == "read"]
        self.read = {state.name for state in states if isinstance(state, Value)}
        for state in rule.states:
            if state.decay is not None and state.decay not in self.constants:
                raise ValueError(f"rule {rule.name}: nothing is multiplied by {state.decay}, the decay of {state.role}")

    @cached_property
    def given(self) -> tuple[str, ...]:
        """The names of the numbers that the constants are computed from, in the order in which the engine takes them."""
        return (*HOUSE_NUMBERS, *self.rule.numbers, *(one.name for one in self.rule.sums))

    def _operations(self) -> Iterator[Value]:
        for recording in (self.recording, *self.terms):
            yield from recording.operations

    def _add(self, number: Value) -> None:
        name = _unused(_name_of(number), self.constants)
        self.constants[name], self._names[_text(number)] = number, name

    def name_of(self, number: Value) -> str:
        """The name of a constant."""
        return self._names[_text(number)]

    def index_of(self, constant: str | None) -> int:
        """The index of a constant, after those of ``FIRST``; -1 for none."""
        return -1 if constant is None else len(FIRST) + list(self.constants).index(constant)

    @cached_property
    def numbers(self) -> tuple[dict[str, tuple[Value, Mapping[Value, str]]], list[str]]:
        """The numbers that are computed from those in ``given``, and the names of the constants among them.

        Each number has a name, in the order of computation, and comes with the names of its operands.
        """
        names, found = dict(self._names), dict[str, tuple[Value, Mapping[Value, str]]]()
        for value in self._operations():
            if value.is_number:
                name = names.setdefault(_text(value), _unused(_name_of(value), names.values()))
                found[name] = value, {x: names[_text(x)] for x in value.operands if isinstance(x, Value)}
        return found, [names[_text(number)] for number in self.constants.values()]


def constants_of(
    rule: WrittenRule, numbers: Mapping[str, Any], penalized: bool, functions: Mapping[str, Callable[..., Any]]
) -> list[Any]:
    """The constants of a rule's loops, those of ``FIRST`` first.

    Args:
        rule: the rule.
        numbers: the numbers of the step.
        penalized: whether penalties are added to the gradient.
        functions: the functions that compute constants, by the names of their operations.
    """
    first = [numbers[name] for name in FIRST]
    if penalized:
        numbers = {**numbers, "s": 1.0}  # the penalties are added to the scaled gradient
    found: dict[str, Any] = {}
    steps, constants = rule.numbers
    for name, (value, names) in steps.items():
        operands = [found[names[x]] if isinstance(x, Value) else x for x in value.operands]
        found[name] = numbers[value.name] if value.operation == "input" else functions[value.operation](*operands)
    return [*first, *(found[name] for name in constants)]


def _text(value: Value) -> str:
    """The number as an expression: equal for equal numbers."""
    operands = (_text(x) if isinstance(x, Value) else repr(float(x)) for x in value.operands)
    return value.name or f"{value.operation}({', '.join(operands)})"


def _name_of(number: Value) -> str:
    """A name for a number that is computed from others, such as ``eta_c``."""
    if number.operation == "where":
        return "chosen"
    parts = [_name_of(x) if isinstance(x, Value) else "number" for x in number.operands]
    if number.operation == "input":
        return number.name
    if number.operation == "truediv":
        return "_over_".join(parts)
    return "_".join(parts if number.operation == "mul" else [number.operation, *parts])


def _unused(name: str, names: Collection[str]) -> str:
    while name in names:
        name += "_"
    return name


class Language(Protocol):
    """How a language spells a recording."""

    def literal(self, x: float) -> str:
        """A number that is known."""

    def variable(self, name: str) -> str:
        """What an input or an output is called."""

    def operation(self, value: Value, operands: list[str]) -> str:
        """An operation on arrays."""

    def line(self, value: Value, name: str, right: str) -> str:
        """The line that gives the result of an operation its name."""

    def assignment(self, target: str, name: str) -> str:
        """The line that sets an output."""


def lines(recording: Recording, name_of: Callable[[Value], str], language: Language) -> Iterator[str]:
    """The lines that compute the arrays of a recording, whose numbers have these names."""
    names: dict[Value, str] = {}

    def text(x: Operand) -> str:
        if isinstance(x, Value):
            return name_of(x) if x.is_number else names[x]
        return language.literal(x)

    count = 0
    for value in recording.operations:
        if value.is_number:
            continue
        if value.operation == "input":
            names[value] = language.variable(value.name)
        elif value.operation == "read":
            names[value] = text(value.operands[1])
        else:
            names[value] = f"t{count}"
            count += 1
            yield language.line(value, names[value], language.operation(value, [text(x) for x in value.operands]))
    for name, output in recording.outputs.items():
        yield language.assignment(language.variable(name), names[output])
