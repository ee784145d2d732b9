"""What adapters say of members that they do not have."""

from __future__ import annotations

import importlib

import pytest

from adamas.rule.members import MEMBERS

ABSENT = [(member.name, adapter) for member in MEMBERS.values() for adapter in member.absent]


@pytest.mark.parametrize(("name", "adapter"), ABSENT)
def test_an_absent_member_has_a_reason(name: str, adapter: str) -> None:
    module = pytest.importorskip(f"adamas.{adapter}")
    for asked in (name, name.lower()):
        with pytest.raises(AttributeError, match=rf"adamas\.{adapter} has no {asked}: .*use "):
            getattr(module, asked)
        assert not hasattr(module, asked)


@pytest.mark.parametrize("adapter", ["keras", "optax", "scipy"])
def test_other_names_are_missing_as_in_any_module(adapter: str) -> None:
    module = pytest.importorskip(f"adamas.{adapter}")
    with pytest.raises(AttributeError, match=f"module 'adamas.{adapter}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module(f"adamas.{adapter}.nothing")


def test_all_other_adapters_have_the_members() -> None:
    for adapter in ("torch", "numpy", "keras", "optax", "scipy"):
        module = pytest.importorskip(f"adamas.{adapter}")
        for member in MEMBERS.values():
            names = {member.lower_name, *(preset.name for preset in member.presets)}
            names |= {f"schedule_free_{member.name.removesuffix('ScheduleFree').lower()}"}  # in optax
            assert any(hasattr(module, n) for n in (member.name, member.name.capitalize(), *names)) is (
                adapter not in member.absent
            )
