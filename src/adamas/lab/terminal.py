"""Formats text for a terminal, so that lines break only between words. May import the standard library only."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

GAP = 2  # spaces between two columns


def width() -> int | None:
    """The number of characters in a line of standard output; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def filled(text: str, width: int | None) -> str:
    """Break lines that are longer than ``width`` between words, and indent the rest; None breaks no line."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + GAP)
        lines += [line] if width is None else _wrapped(line, width, indent)
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of a table; the first row has the titles.

    If the table is wider than ``width``, cells wrap to several lines, the titles first; words are never broken.
    """
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    content = [max(map(len, column)) for column in zip(*rows[1:], strict=True)] or sizes
    least = [max(len(word) for cell in column for word in cell.split() or [""]) for column in zip(*rows, strict=True)]
    while width is not None and sum(sizes) + GAP * (len(sizes) - 1) > width:
        loose = [place for place, size in enumerate(sizes) if size > least[place]]
        if not loose:
            break
        sizes[max(loose, key=lambda place: (sizes[place] > content[place], sizes[place]))] -= 1
    lines = []
    for row in rows:
        cells = [_wrapped(cell, size) for cell, size in zip(row, sizes, strict=True)]
        lines += [(" " * GAP).join(map(str.ljust, line, sizes)).rstrip() for line in zip_longest(*cells, fillvalue="")]
    return lines


def commands(lines: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """Return commands with their comments: after them, or above them if a line would be longer than ``width``."""
    longest = max(len(command) for command, _ in lines)
    beside = [f"  {command:{longest}}  # {why}" for command, why in lines]
    if width is None or max(map(len, beside)) <= width:
        return beside
    return [line for command, why in lines for line in (f"  # {why}", f"  {command}")]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines or [""]
