"""Pieces of Python source: signatures, docstrings and calls, laid out as ``ruff format`` leaves them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from adamas.rule.declaration import Hyperparameter, Member, Shares

WIDTH = 120
HEADER = "# Written by `make members` from the declarations in adamas.rule.members. Change those.\n"
SUBSCRIPTS = "₁₂₃₄₅₆₇₈₉"


class Argument(NamedTuple):
    """An argument of a signature: its name, annotation, default as source (None if it has none) and documentation.

    The name ``*`` is the mark after which arguments are keyword-only.
    """

    name: str
    annotation: str = ""
    default: str | None = None
    doc: str = ""


STAR = Argument("*")


def literal(value: Any) -> str:
    """A default as people write it: 1e-3 for 0.001."""
    if isinstance(value, float):
        if math.isinf(value):
            return "math.inf"
        short = f"{value:.0e}".replace("e-0", "e-")
        return short if 0 < value < 0.1 and float(short) == value else repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def in_order(members: Iterable[Member], adapter: str = "torch") -> list[Member]:
    """The members of an adapter from simple to complex: by the number of tensors that they keep with their defaults, then by
    name."""
    found = [
        (len(member.rule({h.name: h.default for h in member.hyperparameters}).states), member)
        for member in members
        if adapter not in member.absent
    ]
    return [member for _, member in sorted(found, key=lambda pair: pair[0])]


def doc_of(h: Hyperparameter, index: int | None = None) -> str:
    """The documentation of a hyperparameter, or of one of its numbers."""
    if index is not None:
        return f"β{SUBSCRIPTS[index]}"
    if isinstance(h, Shares):
        symbols = [f"β{SUBSCRIPTS[i]}" for i in range(len(h.default))]
        return f"{', '.join(symbols[:-1])} and {symbols[-1]}, {h.doc}"
    return h.doc


def exported(names: Iterable[str]) -> str:
    """``__all__`` in ruff's order: constants, classes, then functions."""
    items = [f'"{name}"' for name in sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))]
    line = f"__all__ = [{', '.join(items)}]\n"
    return line if len(line) <= WIDTH + 1 else "__all__ = [\n" + "".join(f"    {item},\n" for item in items) + "]\n"


def parameters(arguments: Sequence[Argument], indent: str) -> str:
    """The arguments of a signature, one per line."""
    lines = []
    for argument in arguments:
        annotation = f": {argument.annotation}" if argument.annotation else ""
        default = "" if argument.default is None else f" = {argument.default}"
        lines.append(f"{indent}{argument.name}{annotation}{default},\n")
    return "".join(lines)


def call(before: str, arguments: Sequence[str], indent: str) -> str:
    """A call, on one line if it fits."""
    joined = ", ".join(arguments)
    if len(indent) + len(before) + len(joined) + 2 <= WIDTH:
        return f"{indent}{before}({joined})\n"
    if len(indent) + 4 + len(joined) <= WIDTH:
        return f"{indent}{before}(\n{indent}    {joined}\n{indent})\n"
    lines = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{indent}{before}(\n{lines}{indent})\n"


def wrapped(text: str, indent: str, hanging: str = "") -> str:
    """A paragraph, wrapped to the width."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def formula(equations: Sequence[str], indent: str) -> str:
    """Equations as a reStructuredText directive."""
    if len(equations) == 1 and len(indent) + len(".. math:: ") + len(equations[0]) <= WIDTH + 4:
        return f"{indent}.. math:: {equations[0]}\n"
    inner = indent + "    "
    lines = [
        wrapped(f"{line} \\\\" if i < len(equations) - 1 else line, inner, "    ") for i, line in enumerate(equations)
    ]
    return f"{indent}.. math::\n" + "".join(f"{line}\n" for line in lines)


def documented(arguments: Iterable[Argument], indent: str) -> str:
    """The ``Args`` section of a docstring."""
    lines = [wrapped(f"{one.name}: {one.doc}.", indent + "    ", "    ") for one in arguments if one.doc]
    return f"{indent}Args:\n" + "".join(f"{line}\n" for line in lines)


def docstring(title: str, parts: Iterable[str], indent: str) -> str:
    """A docstring of a title and parts, each of which ends with a line break; empty parts are left out."""
    body = "\n".join(part for part in parts if part)
    return f'{indent}r"""{title}\n\n{body}{indent}"""\n'


def raises(indent: str) -> str:
    """The ``Raises`` section of every member."""
    return f"{indent}Raises:\n{indent}    ValueError: an argument has an invalid value.\n"


def example(lines: Sequence[str], indent: str) -> str:
    """An example, which runs as a test."""
    return f"{indent}Example:\n" + "".join(f"{indent}    {line}\n" for line in lines)


def note(text: str, indent: str) -> str:
    """Paragraphs."""
    return "\n".join(f"{wrapped(paragraph, indent)}\n" for paragraph in text.split("\n\n") if paragraph)
