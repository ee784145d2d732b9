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


class TestOnGpu(decided.Decided):
    WHERE = WHERE

    def test_a_graph_keeps_its_tables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No later step writes what a graph copies from, so each capture needs a step before it."""
        run, given = decided.Run(monkeypatch, *WHERE, capturable=True), next(decided.gradients(1))
        run.step(given)
        run.captured()
        with pytest.raises(RuntimeError, match="nothing can be allocated for this step"):
            run.captured()
        run.step(given)
        run.captured()


BY_PAIRS = [(options, (at.AdamW, at.RAdam, at.NAdam)[i % 3]) for i, options in enumerate(decided.OPTIONS)]


@pytest.mark.parametrize(("options", "member"), BY_PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_steps_are_the_engines(options: str, member: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_steps(monkeypatch, *WHERE, options, member)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "member",
    [at.Adam, at.Lion, at.SGD, at.RMSprop, at.Adamax, at.Adagrad, at.AdamWScheduleFree],
    ids=lambda x: x.__name__,
)
@pytest.mark.parametrize("options", [one for one in decided.OPTIONS if "betas" not in one and one != "int8"])
def test_steps_of_all_members_are_the_engines(options: str, member: object, monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_steps(monkeypatch, *WHERE, options, member)


def test_a_rate_in_a_tensor_is_read_at_each_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    decided.check_rate_in_a_tensor(monkeypatch, *WHERE)
