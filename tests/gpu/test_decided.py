"""The device decides about steps that kernels make: see ``decided``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kernel_cases import DEVICE

import adamas.torch as at

sys.path.insert(0, str(Path(__file__).parents[1]))
import decided

pytestmark = [pytest.mark.kernels, pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

WHERE = ("gpu", DEVICE)
BY_PAIRS = [(options, (at.AdamW, at.RAdam, at.NAdam)[i % 3]) for i, options in enumerate(decided.OPTIONS)]


@pytest.mark.parametrize(("options", "member"), BY_PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_steps_are_the_engines(options: str, member: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_steps(monkeypatch, *WHERE, options, member)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "member", [at.Adam, at.Lion, at.SGD, at.RMSprop, at.Adamax, at.Adagrad], ids=lambda x: x.__name__
)
@pytest.mark.parametrize("options", [one for one in decided.OPTIONS if "betas" not in one and one != "int8"])
def test_steps_of_all_members_are_the_engines(options: str, member: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_steps(monkeypatch, *WHERE, options, member)


def test_copies_and_loaded_states_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_copies(monkeypatch, *WHERE)


def test_a_captured_step_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_replays(monkeypatch, *WHERE)


def test_a_rate_in_a_tensor_is_read_at_each_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_rate_in_a_tensor(monkeypatch, *WHERE)


def test_the_host_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_no_waiting(monkeypatch, *WHERE)


def test_the_device_and_the_host_decide_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_switching(monkeypatch, *WHERE)


def test_loss_scaling_is_read_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_loss_scaling(monkeypatch, *WHERE)


def test_what_cannot_be_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_refusals(monkeypatch, *WHERE)
