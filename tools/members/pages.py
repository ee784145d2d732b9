"""The parts of the documentation that list the members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adamas.rule.declaration import Member

from .text import in_order

BEGIN, END = "<!-- members: begin, written by `make members` -->", "<!-- members: end -->"


def write(root: Path, members: Sequence[Member]) -> dict[str, str]:
    """Each page with its part in its place."""
    parts = {"docs/members.md": _sections(members)}
    return {path: _with_part((root / path).read_text(encoding="utf-8"), part) for path, part in parts.items()}


def _with_part(text: str, part: str) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{part}\n{END}{rest.split(END)[1]}"


def _sections(members: Sequence[Member]) -> str:
    return "\n".join(
        f"## {member.heading or member.name}\n\n{member.page.strip()}\n\n::: adamas.torch.{member.name}\n"
        for member in in_order(members)
    )
