"""Writes the files; with ``--check``, lists those that are stale instead."""

from __future__ import annotations

import sys
from pathlib import Path

from adamas.rule.members import MEMBERS

from . import keras, numpy, optax, options, pages, scipy, torch

ROOT = Path(__file__).resolve().parents[2]


def stale() -> dict[Path, str]:
    """The files that are stale, with their right contents."""
    members = list(MEMBERS.values())
    found = {ROOT / module.PATH: module.write(members) for module in (options, torch, numpy, keras, optax, scipy)}
    found |= {ROOT / path: text for path, text in pages.write(ROOT, members).items()}
    return {path: text for path, text in found.items() if not path.exists() or path.read_text(encoding="utf-8") != text}


def main() -> int:
    """Returns the exit status: 1 if ``--check`` finds stale files."""
    changes = stale()
    if "--check" not in sys.argv[1:]:
        for path, text in changes.items():
            path.write_text(text, encoding="utf-8")
    for path in changes:
        print(path.relative_to(ROOT))
    return int("--check" in sys.argv[1:] and bool(changes))


if __name__ == "__main__":
    sys.exit(main())
