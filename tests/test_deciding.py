"""The parameters' device decides about steps, over arrays: see ``decided``. ``tests/gpu`` has the same for kernels."""

from __future__ import annotations

from collections.abc import Iterator

import decided
import pytest

import adamas.torch as at
from adamas import _engine

WHERE = ("arrays", "cpu")


@pytest.fixture(autouse=True)
def exact_engine() -> Iterator[None]:
    """With AVX-512, the engine estimates updates."""
    chosen = _engine.instruction_set()
    _engine.use_instruction_set("avx2" if "avx2" in _engine.instruction_sets() else chosen)
    yield
    _engine.use_instruction_set(chosen)


@pytest.mark.parametrize("member", [at.AdamW, at.RAdam, at.NAdam], ids=lambda member: member.__name__)
@pytest.mark.parametrize("options", decided.OPTIONS)
def test_steps_are_the_engines(options: str, member: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_steps(monkeypatch, *WHERE, options, member)


def test_copies_and_loaded_states_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_copies(monkeypatch, *WHERE)


def test_a_captured_step_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_replays(monkeypatch, *WHERE)


def test_a_rate_in_a_tensor_is_read_at_each_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_rate_in_a_tensor(monkeypatch, *WHERE)


def test_the_host_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_no_waiting(monkeypatch, *WHERE)


def test_loss_scaling_is_read_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_loss_scaling(monkeypatch, *WHERE)


def test_what_cannot_be_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_refusals(monkeypatch, *WHERE)
