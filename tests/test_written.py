"""What is written from the declarations of the members is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_signatures_and_pages_are_what_make_members_writes() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tools.members", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0, f"run make members: {found.stdout}{found.stderr}"
