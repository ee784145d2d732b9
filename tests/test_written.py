"""What is written from the declarations of the members is current."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rules_with_sums import LAMB

from adamas.rule.declaration import OwnRule
from adamas.rule.members import MEMBERS

ROOT = Path(__file__).parents[1]


def test_signatures_and_pages_are_what_make_members_writes() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tools.members", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0, f"run make members: {found.stdout}{found.stderr}"


def test_a_member_with_sums_or_without_states_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from tools.members import pages, rule

    # Adam's first update is 1, and the trust ratio of a weight of 5 multiplies it by 5.
    lamb = replace(LAMB, hyperparameters=MEMBERS["Adam"].hyperparameters)
    assert rule.after_a_step(lamb, "numpy", decay="update") == "4.995"

    plain = OwnRule("plain", (), (), lambda k, xp, p, g: (g,))
    stateless = replace(MEMBERS["SGD"], hyperparameters=(), make_rule=lambda hyper: plain, names={})
    assert "\n\nState: none.\n\n" in pages._section(stateless)
