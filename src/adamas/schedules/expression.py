"""Parses a schedule from text: ``0.0003 * warmup(1000).then(cosine(9000, end=0.1))``. Imports only the standard library.

The text is the ``repr`` of a schedule, so that ``parse(repr(schedule)) == schedule``. Python's parser makes the syntax tree,
which is interpreted here and never executed as Python.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from .schedule import Schedule

LONGEST, DEEPEST, WIDEST = 10_000, 300, 76  # characters of text, levels of nesting, columns of text in an error message

_CODE = ("from_function", "Feedback")  # take Python functions, which cannot be written as text
_METHODS = ("then", "clip", "shift", "per_epoch", "repeat")
_EXAMPLE = "such as warmup(100).then(cosine(900))"
_PLACE = f"there are numbers, schedules, * and the methods {', '.join(_METHODS)}"

# By the annotation of an argument: its description in error messages, and the types that are accepted.
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a number", (int, float)),
    "int": ("a whole number", (int,)),
    "bool": ("True or False", (bool,)),
    "str": ("a string", (str,)),
    "Schedule": ("a schedule", (Schedule,)),
}

_REFUSED: dict[type, str] = {
    ast.Lambda: "a lambda",
    ast.Compare: "a comparison",
    ast.BoolOp: "'and' or 'or'",
    ast.IfExp: "an 'if'",
    ast.Subscript: "an index",
    ast.Dict: "a dict",
    ast.Set: "a set",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
}

_OPERATORS: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.BitAnd: "&",
    ast.Not: "not",
    ast.Invert: "~",
}

_LOOKS_LIKE = {"×": "*", "·": "*", "−": "-", "–": "-", "—": "-", "÷": "/", "、": ",", "。": ".", "‘": "'", "’": "'"}


class ScheduleError(ValueError):
    """The text is not a schedule. The message has the problem, and the text with a mark under the mistake.

    Attributes:
        problem: what is wrong and what would work, in one line.
        text: the text that was parsed.
        position: the column of the mistake, counted in characters from 0.
    """

    def __init__(self, problem: str, text: str, position: int, width: int = 1) -> None:
        """Mark ``width`` characters of ``text``."""
        super().__init__(problem, text, position, width)
        self.problem, self.text, self.position, self.width = problem, text, position, width

    @property
    def marked(self) -> str:
        """Two lines: the text, or the part of it around the mistake, and a mark under the mistake."""
        text = re.sub(r"[^ -~]", lambda found: found[0] if found[0].isprintable() else " ", self.text)
        start = max(0, min(self.position - WIDEST // 2, len(text) - WIDEST))
        end = min(len(text), start + WIDEST)
        before, after = "…" if start else "", "…" if end < len(text) else ""
        mark = "^" * max(1, min(self.width, end - self.position))
        return f"  {before}{text[start:end]}{after}\n  {' ' * (self.position - start + len(before))}{mark}"

    def __str__(self) -> str:
        return f"{self.problem}\n{self.marked}"


def parse(text: str) -> Schedule:
    """Parses a schedule from text.

    The text can contain calls of schedules by name, with numbers, strings, True, False, None, lists of numbers and schedules
    as arguments; ``*`` between numbers and schedules; the methods ``then``, ``clip``, ``shift``, ``per_epoch`` and ``repeat``;
    and division by a number.

        >>> parse("3e-4 * warmup(1_000).then(cosine(9_000, end=0.1))")
        0.0003 * warmup(1000).then(cosine(9000, end=0.1))

    Raises:
        ScheduleError: the text is not a schedule. The message says what is wrong, where, and what would work.
    """
    if not isinstance(text, str):
        raise TypeError(f"parse takes a text, not {type(text).__name__}")
    return _Reader(text).schedule()


def names() -> dict[str, type[Schedule]]:
    """The schedules that can be used in a text, by name."""
    package = sys.modules[__package__]
    public = {name: getattr(package, name) for name in package.__all__}
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, Schedule) and name not in ("Schedule", *_CODE)
    }


def _call(name: str, parameters: Iterable[inspect.Parameter]) -> str:
    return f"{name}({', '.join(str(p.replace(annotation=p.empty)) for p in parameters if p.kind != p.VAR_KEYWORD)})"


def _nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error message that suggests the nearest choice, or lists all of them."""
    spelled = {choice.lower(): choice for choice in choices}
    found = get_close_matches(word.lower(), spelled, n=1, cutoff=0.5)
    return f"did you mean {spelled[found[0]]}?" if found else f"there are {', '.join(spelled.values())}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _described(value: Any) -> str:
    if isinstance(value, Schedule):
        return "a schedule"
    if isinstance(value, tuple):
        return "a list"
    return (
        f"the {'string' if isinstance(value, str) else 'number'} {value!r}"
        if value not in (None, True)
        else repr(value)
    )


def _short(problem: str) -> str:
    line = " ".join(problem.split())
    return line if len(line) <= 240 else f"{line[:140]} … {line[-90:]}"


class _Reader:
    """Interprets the syntax tree of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = names()
        self.indent = len(text) - len(text.lstrip())

    # ---- errors

    def fail(self, problem: str, start: int, end: int | None = None) -> NoReturn:
        """Raise the error for a problem in a part of the text."""
        start = max(0, min(start, len(self.text)))
        raise ScheduleError(_short(problem), self.text, start, (end or 0) - start)

    def refuse(self, problem: str, node: ast.AST) -> NoReturn:
        """Raise the error for a problem with a node."""
        start, end = node.col_offset, node.end_col_offset  # type: ignore[attr-defined]
        self.fail(problem, start + self.indent, end + self.indent)

    def refuse_attribute(self, problem: str, node: ast.Attribute) -> NoReturn:
        """Raise the error for a problem with the name after a dot."""
        end = (node.end_col_offset or 0) + self.indent
        self.fail(problem, end - len(node.attr), end)

    # ---- the tree

    def schedule(self) -> Schedule:
        """The schedule of the whole text."""
        node = self.tree()
        try:
            value = self.value(node)
        except RecursionError:
            self.refuse("nested too deeply", node)
        if isinstance(value, Schedule):
            return value
        if _number(value):
            self.refuse(f"a number is not a schedule: constant({value!r}) is, and so is {value!r} * cosine(100)", node)
        self.refuse(f"{_described(value)} is not a schedule, {_EXAMPLE}", node)

    def tree(self) -> ast.expr:
        """The syntax tree, checked for size; its columns count characters."""
        if not self.text.strip():
            self.fail(f"there is no schedule here, {_EXAMPLE}", 0)
        if len(self.text) > LONGEST:
            self.fail(f"{len(self.text):,} characters are too many: at most {LONGEST:,}", LONGEST)
        line = re.sub(r"\s", " ", self.text)
        for at, character in enumerate(line):
            if character < " " or character > "~":
                meant = _LOOKS_LIKE.get(character) or unicodedata.normalize("NFKC", character)
                hint = f": did you mean {meant!r}?" if " " <= meant <= "~" else " has no place in a schedule"
                self.fail(f"the character {character!r}{hint}", at)
        if "#" in line:
            self.fail("a comment has no place in a schedule", line.index("#"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about literals, which are checked below
                tree = ast.parse(line.lstrip(), mode="eval").body
        except SyntaxError as error:
            start = self.indent + (error.offset or 1) - 1
            self.fail(error.msg.split(";")[0], start, self.indent + (error.end_offset or 0) - 1)
        except (RecursionError, MemoryError, ValueError):
            self.fail("nested too deeply", 0)
        level: list[ast.AST] = [tree]
        for _ in range(DEEPEST):
            level = [
                child
                for node in level
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.expr | ast.keyword)
            ]
            if not level:
                return tree
        self.refuse(f"nested too deeply: at most {DEEPEST} levels", level[0])

    def value(self, node: ast.AST) -> Any:
        """The value of a node: a schedule, a number, a string, True, False, None, or a tuple of those."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bool | None):
            return node.value
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return self.finite(node.value, node)
        if isinstance(node, ast.List | ast.Tuple):
            return tuple(self.value(item) for item in node.elts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            operand = self.value(node.operand)
            if not _number(operand):
                self.refuse(f"a sign can only precede a number, not {_described(operand)}", node)
            return -operand if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
            return self.product(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.Name):
            name = self.named(node)
            self.refuse(f"{node.id} is called with its arguments: {_call(node.id, self.parameters(name))}", node)
        if isinstance(node, ast.Attribute):
            self.method(node)
            self.refuse_attribute(f"{node.attr} is called with its arguments: .{node.attr}(...)", node)
        operator = _OPERATORS.get(type(getattr(node, "op", None)))
        if operator:
            begin = node.left.end_col_offset or 0 if isinstance(node, ast.BinOp) else getattr(node, "col_offset", 0)
            at = self.text.index(operator, begin + self.indent)
            self.fail(f"{operator!r} has no place in a schedule: {_PLACE}", at, at + len(operator))
        self.refuse(f"{_REFUSED.get(type(node), 'this')} has no place in a schedule: {_PLACE}", node)

    def finite(self, value: float, node: ast.AST) -> float:
        """The number, checked to be finite as a float."""
        if not abs(value) <= sys.float_info.max:
            self.refuse("a number must be finite, but this is too large", node)
        return value

    def product(self, node: ast.BinOp) -> Any:
        """The product of numbers and schedules, or a division by a number."""
        left, right = self.value(node.left), self.value(node.right)
        for value, side in ((left, node.left), (right, node.right)):
            if not _number(value) and not isinstance(value, Schedule):
                self.refuse(f"only numbers and schedules can be multiplied, not {_described(value)}", side)
        if isinstance(node.op, ast.Div):
            if isinstance(right, Schedule) or right == 0:
                self.refuse(f"divide by a number other than 0, not by {_described(right)}", node.right)
            if isinstance(left, Schedule):
                left, right = 1 / right, left
            else:
                left, right = left / right, 1
        if isinstance(left, Schedule) or isinstance(right, Schedule):
            return self.built(lambda: left * right, {}, node)
        return self.finite(left * right, node)

    def named(self, node: ast.Name) -> type[Schedule]:
        """The schedule class of a name."""
        if node.id in self.names:
            return self.names[node.id]
        if node.id in _METHODS:
            self.refuse(f"{node.id} is a method of a schedule: cosine(100).{node.id}(...)", node)
        if node.id in _CODE:
            self.refuse(f"{node.id} takes Python code, which has no place in a text", node)
        self.refuse(f"unknown schedule {node.id!r}: {_nearest(node.id, self.names)}", node)

    def method(self, node: ast.Attribute) -> Callable[..., Schedule]:
        """The method named after a dot."""
        if isinstance(node.value, ast.Name) and node.value.id == "warmup" and node.attr not in _METHODS:
            if node.attr != "untuned":
                self.refuse_attribute(f"unknown name {node.attr!r}: {_nearest(node.attr, ['warmup.untuned'])}", node)
            untuned: Callable[..., Schedule] = self.names["warmup"].untuned  # type: ignore[attr-defined]
            return untuned
        target = self.value(node.value)
        if not isinstance(target, Schedule):
            hint = f": constant({target!r}) has" if _number(target) else ""
            self.refuse(f"{_described(target)} has no methods{hint}", node.value)
        if node.attr not in _METHODS:
            self.refuse_attribute(f"unknown method {node.attr!r}: {_nearest(node.attr, _METHODS)}", node)
        method: Callable[..., Schedule] = getattr(target, node.attr)
        return method

    @staticmethod
    def parameters(function: Callable[..., Schedule]) -> list[inspect.Parameter]:
        """The parameters of a schedule or a method."""
        return list(inspect.signature(function).parameters.values())

    def call(self, node: ast.Call) -> Schedule:
        """The result of calling a schedule or a method with its arguments."""
        callee = node.func
        if isinstance(callee, ast.Attribute):
            function, name = self.method(callee), callee.attr
        elif isinstance(callee, ast.Name):
            function, name = self.named(callee), callee.id
        else:
            self.refuse(f"only schedules and their methods are called, {_EXAMPLE}", callee)
        parameters = {parameter.name: parameter for parameter in self.parameters(function)}
        form = _call(name, parameters.values())
        given: dict[str, ast.AST] = {}
        for position, argument in enumerate(node.args):
            if isinstance(argument, ast.Starred):
                self.value(argument)
            if position >= len(parameters):
                self.refuse(f"too many arguments: {form}", argument)
            given[list(parameters)[position]] = argument
        for keyword in node.keywords:
            if keyword.arg is None:
                self.refuse(f"a star has no place in a schedule: {form}", keyword)
            if keyword.arg not in parameters:
                self.refuse(
                    f"{name} has no argument {keyword.arg!r}: {_nearest(keyword.arg, parameters)} ({form})", keyword
                )
            if keyword.arg in given:
                self.refuse(f"{keyword.arg} is given twice: {form}", keyword)
            given[keyword.arg] = keyword.value
        missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in given]
        if missing:
            self.refuse_call(f"{name} needs {' and '.join(missing)}: {form}", callee)
        arguments = {key: self.argument(name, parameters[key], item) for key, item in given.items()}
        return self.built(lambda: function(**arguments), given, callee)

    def refuse_call(self, problem: str, callee: ast.AST) -> NoReturn:
        """Raise the error for a problem with a call, marked at the name that is called."""
        if isinstance(callee, ast.Attribute):
            self.refuse_attribute(problem, callee)
        self.refuse(problem, callee)

    def argument(self, name: str, parameter: inspect.Parameter, node: ast.AST) -> Any:
        """The value of an argument, checked against its annotation."""
        value = self.value(node)
        needs, kinds = _KINDS.get(str(parameter.annotation), ("", (object,)))
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds != (bool,) and kinds != (object,)):
            hint = f": write constant({value!r})" if needs == "a schedule" and _number(value) else ""
            self.refuse(f"{name}: {parameter.name} must be {needs}, got {_described(value)}{hint}", node)
        return value

    def built(self, make: Callable[[], Schedule], given: dict[str, ast.AST], callee: ast.AST) -> Schedule:
        """The result of ``make``; an error that names an argument is marked at that argument."""
        try:
            return make()
        except (ValueError, TypeError, ArithmeticError) as error:
            named = re.match(r"[\w.]+: (\w+) must", str(error))
            if named and named[1] in given:
                self.refuse(str(error), given[named[1]])
            self.refuse_call(str(error), callee)
