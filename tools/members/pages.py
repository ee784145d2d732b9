"""The parts of the README and of the documentation that list the members.

Each part is between ``<!-- make members: KIND -->`` and ``<!-- end -->``; ``_parts`` has the kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from adamas.rule.declaration import Member

from . import keras, numpy, optax, options, scipy, torch
from .text import in_order

_PART = re.compile(r"<!-- make members: ([\w ]+) -->(\s*).*?<!-- end -->", re.DOTALL)
_CHINESE = {
    "Gradient descent": "梯度下降",
    "momentum": "动量",
    "Schedule-free gradient descent": "schedule-free 梯度下降",
    "Schedule-free AdamW": "schedule-free AdamW",
}


def write(root: Path, members: Sequence[Member]) -> dict[str, str]:
    """The pages that have such parts, with up-to-date parts.

    Raises:
        KeyError: a page has a part of an unknown kind.
    """
    parts = _parts(members)

    def part(found: re.Match[str]) -> str:
        return f"<!-- make members: {found[1]} -->{found[2]}{parts[found[1]]}{found[2]}<!-- end -->"

    pages = [*root.glob("README*.md"), *sorted((root / "docs").rglob("*.md"))]
    texts = {str(page.relative_to(root)): page.read_text(encoding="utf-8") for page in pages}
    return {path: _PART.sub(part, text) for path, text in texts.items() if _PART.search(text)}


def _parts(members: Sequence[Member]) -> dict[str, str]:
    """The text of each kind of part."""
    ordered = in_order(members)
    headings = [name for member in ordered for name in (member.heading or member.name).split(", ")]
    classes = r"^class (\w+)\((?!Options)"
    return {
        "sections": "\n\n".join(map(_section, ordered)),
        "names": ", ".join([headings[0].lower(), *headings[1:]]),
        "Chinese names": "、".join(_CHINESE.get(name, name) for name in headings),
        "torch classes": _listed(re.findall(classes, torch.write(members), re.MULTILINE)),
        "numpy classes": _listed(re.findall(classes, numpy.write(members), re.MULTILINE)),
        "keras classes": _listed(re.findall(classes, keras.write(members), re.MULTILINE)),
        "optax functions": _listed(re.findall(r"^def (\w+)\(", optax.write(members), re.MULTILINE)),
        "scipy methods": _listed(re.findall(r"^(\w+) = Method\(", scipy.write(members), re.MULTILINE)),
        "table": "| | |\n|---|---|\n" + "\n".join(map(_row, ordered)),
        "option types": "\n\n".join(
            f"::: adamas.rule.options.{name}"
            for name in re.findall(r"^class (\w*Options)\(", options.write(members), re.MULTILINE)
        ),
    }


def _listed(names: Sequence[str]) -> str:
    """The names in a sentence: ``a``, ``b`` and ``c``."""
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} and {last}" if others else last


def _section(member: Member) -> str:
    heading = member.heading or member.name
    return f"## {heading}\n\n{member.page.strip()}\n\n{_kept(member)}\n\n::: adamas.torch.{member.name}"


def _kept(member: Member) -> str:
    """The sentence about the tensors that the member keeps."""
    hyper = {h.name: h.default for h in member.hyperparameters}
    usual, of_matrices = member.state_names(hyper), member.state_names(hyper, (2, 2))
    if of_matrices != usual:
        return f"State: {_listed(of_matrices)} of matrices, {_listed(usual)} of other tensors."
    roles: Iterable[str] = (state.role for rule in member.rules() for state in rule.states)
    more = [name for name in dict.fromkeys(member.names[role] for role in roles) if name not in usual]
    if not usual:
        return f"State: none{f', or {_listed(more)} with other options' if more else ''}."
    return f"State: {_listed(usual)}{f'; with other options also {_listed(more)}' if more else ''}."


def _row(member: Member) -> str:
    """A link to the class, and its title without name and source; titles have the form "NAME (SOURCE): TEXT."."""
    text = re.sub(r"\s*\([^()]*\d{4}[^()]*(\([^()]*\))?[^()]*\)", "", member.title).rstrip(".")
    text = text.removeprefix(f"{member.name}: ").removeprefix(f"{member.heading}: ")
    return f"| [`{member.name}`][adamas.torch.{member.name}] | {text[0].upper() + text[1:]} |"
