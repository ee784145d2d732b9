"""The error for arguments that cannot be used. May import the standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial


class InputError(ValueError):
    """An argument cannot be used. The message is one line that says what is wrong and what would work.

    It begins with ``parameter``, as spelled in Python; ``problem`` is the rest of the sentence. ``shown`` are lines that show
    where the mistake is, which a command line prints below the message. ``other`` is the name of another parameter that
    ``problem`` mentions, if it mentions one.
    """

    def __init__(self, parameter: str, problem: str, shown: str = "", other: str = "") -> None:
        """Join both to one sentence."""
        super().__init__(f"{parameter} {problem}")
        self.parameter = parameter
        self.problem = problem
        self.shown = shown
        self.other = other

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str, str]]:
        """Pickle the arguments, so that another process can raise it again."""
        return type(self), (self.parameter, self.problem, self.shown, self.other)


def choose(parameter: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``; raise InputError with the nearest of them otherwise."""
    choices = list(choices)
    if name in choices:
        return name
    lower = {choice.lower(): choice for choice in reversed(choices)}
    similar = get_close_matches(name.lower(), lower, n=len(lower), cutoff=0.5)
    nearest = min(similar, key=partial(_typing_errors, name.lower()), default=None)
    suggestion = f"did you mean {lower[nearest]}? " if nearest is not None else ""
    raise InputError(parameter, f"{name!r} is unknown: {suggestion}There are {', '.join(choices)}")


def _typing_errors(given: str, meant: str) -> int:
    """The number of letters that are missing, added, wrong or swapped with the next between the two words.

    This is the distance of Damerau, "A technique for computer detection and correction of spelling errors", 1964, in which no
    letter takes part in two edits.
    """
    before: list[int] = []
    row = list(range(len(meant) + 1))
    for i, letter in enumerate(given, start=1):
        before, above, row = row, before, [i]
        for j, other in enumerate(meant, start=1):
            errors = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, given[i - 2]) == (meant[j - 2], other):
                errors = min(errors, above[j - 2] + 1)
            row.append(errors)
    return row[-1]
