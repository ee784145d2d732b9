"""Comparisons: the statistics against SciPy, the plan, the study file, the processes, and whole comparisons."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ENVIRONMENT, PROCESS, adamas
from scipy import stats

from adamas.lab.compare import compare, design, words
from adamas.lab.compare import study as study_module
from adamas.lab.compare.comparison import Listener, Request, carry_out, open_study
from adamas.lab.compare.display import heading, row, table
from adamas.lab.compare.judgement import judge
from adamas.lab.compare.results import Judgement
from adamas.lab.compare.space import at, check_tune, default_betas, lr_grid, quasi_random, state_space, tunable
from adamas.lab.compare.statistics import holm, interval, nearly_best, paired_p
from adamas.lab.compare.study import Outcome, Settings, Study, Trial
from adamas.lab.compare.trial import options_of, run_trial
from adamas.lab.compare.workers import WorkerError
from adamas.lab.inputs import InputError
from adamas.lab.train.optimizers import choose_optimizer
from adamas.own import BETAS

SOURCE = ENVIRONMENT["PYTHONPATH"]

# Trials that need no PyTorch: processes import this by its name.
TRIALS = """
import os, signal, sys, time
from math import log10
from adamas.lab.compare.study import Outcome

def quick(settings, trial):
    best = {"adam": 1e-3, "sgd": 0.1}[trial.optimizer]
    value = 1 + log10(trial.settings["lr"] / best) ** 2 + 0.01 * trial.seed
    return Outcome("done", value, 100, 0.5, 1.0, {"weights": 8}, {"forward": 0.5}, [{"step": 1, "loss": value}])

def three(settings, trial):  # and then one that does not end
    for number in range(3):
        try:
            open(os.path.join(os.environ["DONE"], str(number)), "x").close()
        except FileExistsError:
            continue
        return quick(settings, trial)
    return endless(settings, trial)

def endless(settings, trial):
    print(os.getpid(), file=open(os.environ["PIDS"], "a"), flush=True)
    time.sleep(3600)

def fragile(settings, trial):
    if trial.optimizer == "sgd" and trial.phase == "tune":
        if trial.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.number == 1:
            os._exit(3)
        if trial.number == 2:
            raise RuntimeError("no luck\\nmore")
    return quick(settings, trial)

def hopeless(settings, trial):
    raise ValueError("never")

def process(settings, trial):
    return Outcome("done", float(os.getpid()), 1, 0.1, 0.1)
"""


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "fake_trials.py").write_text(TRIALS)
    monkeypatch.syspath_prepend(str(folder))
    return "fake_trials"


def make_settings(**changes: Any) -> Settings:
    optimizers = changes.pop("optimizers", ["adam", "sgd"])
    tune = changes.pop("tune", ["lr"])
    budget = changes.pop("budget", 4)
    members = {name: choose_optimizer(name) for name in optimizers}
    has = {name: tunable(member) for name, member in members.items()}
    settings = Settings(
        task="digits",
        description="8×8 digits",
        metric="loss",
        tuning_metric="validation_loss",
        mode="min",
        target=0.1,
        optimizers=optimizers,
        budget=budget,
        seeds=[1, 2, 3],
        tune=tune,
        hyperparameters=has,
        space={
            name: state_space(name, member.lr, [own for own in has[name] if own in tune], None)
            for name, member in members.items()
        },
        points=quasi_random(budget, tune),
        data_dir=None,
        model=None,
        epochs=1,
        batch_size=32,
        steps=45,
        eval_every=3,
        schedule="constant",
        clip=None,
        device="cpu",
        jobs=1,
        threads=1,
        command="adamas compare digits --optimizers adam,sgd",
        adamas="1",
        torch="2",
        python="3",
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Make studies; ``values`` says what comes of the final trials by optimizer, in the order of the seeds."""
    made = []

    def make(values: dict[str, list[float | None]] | None = None, **changes: Any) -> Study:
        settings = make_settings(**changes)
        made.append(Study.create(tmp_path / f"{len(made)}.sqlite", settings))
        while values is not None and (missing := design.missing(settings, made[-1].finished())):
            for trial in missing:
                value = values[trial.optimizer][trial.seed - 1] if trial.phase == "final" else 1.0 + trial.number
                made[-1].record(trial, Outcome("diverged", error="nan") if value is None else Outcome("done", value))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Trials(Listener):
    def __init__(self) -> None:
        self.started: list[Trial] = []
        self.ended: list[tuple[Trial, Outcome]] = []
        self.counts: list[tuple[int, int]] = []

    def on_start(self, study: Study, done: int, total: int) -> None:
        self.counts.append((done, total))

    def on_trial_start(self, trial: Trial) -> None:
        self.started.append(trial)

    def on_trial_end(self, trial: Trial, outcome: Outcome, done: int, total: int) -> None:
        self.ended.append((trial, outcome))
        self.counts.append((done, total))


def outcomes(study: Study) -> dict[tuple[str, str, int, int], tuple[Any, ...]]:
    return {
        design.key(done.trial): (
            done.trial.settings,
            done.outcome.status,
            done.outcome.value,
            done.outcome.steps_to_target,
        )
        for done in study.finished()
    }


# The statistics


def test_the_interval_is_that_of_scipy() -> None:
    values = [0.97, 0.975, 0.962, 0.981]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((np.mean(values), *expected))
    mean, low, high = interval([0.5])
    assert (mean, math.isnan(low), math.isnan(high)) == (0.5, True, True)


def test_the_paired_test_is_that_of_scipy() -> None:
    first, second = [0.97, 0.975, 0.962], [0.96, 0.970, 0.961]
    assert paired_p(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_differences_without_spread_prove_only_that_the_seeds_agree() -> None:
    assert paired_p([0.97, 0.98, 0.99], [0.97, 0.98, 0.99]) == 1
    assert paired_p([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == 1
    assert paired_p([0.97, 0.98, 0.99], [0.96, 0.97, 0.98]) == 0.25  # rounding must not make it a spread
    assert paired_p([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]) == 0  # nothing depends on the seed


def test_holm_is_as_in_a_worked_example() -> None:
    # By hand: 0.01·4, 0.02·3, max(0.03·2, 0.06), max(0.04·1, 0.06).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_rates_nearly_as_good_end_where_the_value_crosses_5_percent() -> None:
    # For mode min the border is 1.05: half way, by the logarithm, to the 1.10 of the rate ten times as high.
    found = nearly_best([1e-3, 1e-2, 1e-1], [None, 1.0, 1.1], "min", 1.0)
    assert found is not None
    assert found == (1, 1e-2, pytest.approx(10**-1.5))
    # For mode max it is 0.95·0.8 = 0.76.
    found = nearly_best([1e-3, 1e-2, 1e-1], [0.72, 0.8, 0.79], "max", 1.0)
    assert found == (1, pytest.approx(10**-2.5), 1e-1)
    # The range is contiguous: what lies beyond a bad rate does not count.
    assert nearly_best([1.0, 2.0, 3.0, 4.0], [1.0, 9.0, 1.0, 1.0], "min", 1.0) == (
        2,
        pytest.approx(2.98, abs=0.02),
        4.0,
    )
    # A negative best value: within 5% of its size.
    assert nearly_best([1.0, 10.0], [-1.0, -0.9], "min", 1.0) == (0, 1.0, pytest.approx(10**0.5))
    assert nearly_best([1.0], [None], "min", 1.0) is None


def test_rates_whose_metrics_differ_negligibly_are_equally_good() -> None:
    # Only the last is at 0, and the two before it are as good where 1e-4 is asked for; the first is not.
    rates, values = [1e-3, 1e-2, 1e-1, 1.0], [5.0, 3e-12, 3e-13, 0.0]
    # Of the three, the one in the middle is the best, so that no better one is looked for beyond the highest rate.
    assert nearly_best(rates, values, "min", 1e-4) == (2, pytest.approx(1e-2, rel=1e-6), 1.0)
    assert nearly_best(rates, values, "min", 0.0) == (3, 1.0, 1.0)


# The space and the plan


def test_every_optimizer_gets_the_same_points_of_its_own_ranges() -> None:
    settings = make_settings(optimizers=["adam", "sgd", "torch:AdamW"], tune=["lr", "weight_decay"], budget=5)
    searched = design.tuning_trials(settings)
    assert len(searched) == 15
    for number in range(5):
        places = {
            name: [
                math.log(trial.settings[name] / low) / math.log(high / low)
                for trial in searched
                if trial.number == number
                for low, high, _ in [settings.space[trial.optimizer][name]]
            ]
            for name in ("lr", "weight_decay")
        }
        for three in places.values():
            assert len(three) == 3
            assert np.ptp(three) < 1e-3  # settings are rounded to three digits


def test_the_points_fill_every_range_evenly() -> None:
    for budget in (1, 3, 5, 8):
        points = quasi_random(budget, ["lr", "eps"])
        for name in ("lr", "eps"):
            assert sorted(point[name] for point in points) == pytest.approx((np.arange(budget) + 0.5) / budget)


def test_default_ranges_go_a_factor_of_30_to_either_side_of_the_usual_rate() -> None:
    assert state_space("sgd", 0.1, ["lr"], None) == {"lr": [0.00333, 3.0, "log"]}
    assert state_space("sgd", None, ["lr"], (0.01, 1)) == {"lr": [0.01, 1, "log"]}
    with pytest.raises(InputError, match=r"lr_range is missing: other:Sgd has no default rate"):
        state_space("other:Sgd", None, ["lr"], None)


def test_an_optimizer_is_tuned_in_what_it_has_and_was_not_given() -> None:
    assert tunable(choose_optimizer("sgd")) == ["lr", "weight_decay"]
    assert tunable(choose_optimizer("adamw(weight_decay=0.1)")) == ["lr", "beta1", "beta2", "eps"]
    assert check_tune(["eps", "beta1"]) == ["lr", "beta1", "eps"]


@pytest.mark.parametrize("optimizer", ["adafactor", "torch:Adafactor"])
def test_an_eps_that_is_a_pair_is_not_tuned(optimizer: str) -> None:
    assert tunable(choose_optimizer(optimizer)) == ["lr", "weight_decay"]


def test_betas_are_searched_by_their_distance_from_1() -> None:
    space = state_space("adam", 1e-3, ["lr", "beta1"], None)
    assert at(space, {"lr": 0.5, "beta1": 0.0})["beta1"] == 0.99
    assert at(space, {"lr": 0.5, "beta1": 1.0})["beta1"] == 0.5


def test_a_beta_that_is_not_tuned_keeps_the_optimizers_own_value() -> None:
    settings = make_settings(tune=["lr", "beta1"])
    options = options_of(settings, Trial("adam", "tune", 0, 0, {"lr": 0.1, "beta1": 0.8}))
    assert options.betas == (0.8, 0.999)
    assert (options.seed, options.eval_every, options.optimizer) == (0, settings.steps, "adam")


def test_a_member_of_ones_own_is_tuned_in_what_it_declares() -> None:
    spec = choose_optimizer("test_own:Lioness")
    assert tunable(spec) == ["lr", "weight_decay"]
    betas = dataclasses.replace(BETAS, default=(0.8, 0.95))
    assert spec.member is not None
    with_betas = dataclasses.replace(spec.member, hyperparameters=(*spec.member.hyperparameters, betas))
    assert default_betas(dataclasses.replace(spec, member=with_betas)) == (0.8, 0.95)


def test_only_final_trials_are_evaluated_on_the_way() -> None:
    settings = make_settings()
    phases = ("tune", "sweep", "final")
    each = [options_of(settings, Trial("adam", phase, 0, 0, {"lr": 0.1})).eval_every for phase in phases]
    assert each == [settings.steps, settings.steps, settings.eval_every]
    assert settings.steps > settings.eval_every
    with_plateau = dataclasses.replace(settings, schedule="constant() * Plateau(patience=1)")
    each = [options_of(with_plateau, Trial("adam", phase, 0, 0, {"lr": 0.1})).eval_every for phase in phases]
    assert each == [settings.eval_every] * 3  # the plateau cuts in tuning as it does in the end


@pytest.mark.parametrize(("eval_every", "is_idle"), [(5, False), (6, False), (7, True), (99, True)])
def test_a_plateau_that_cannot_take_effect_is_named(eval_every: int, is_idle: bool) -> None:
    settings = make_settings(
        steps=20, eval_every=eval_every, schedule="constant() * Plateau(patience=1) * Plateau(patience=0)"
    )
    found = words.warnings(settings, [], [])
    assert any(text.startswith("A plateau with patience=1 cannot take effect:") for text in found) == is_idle


def test_the_sweep_goes_from_end_to_end_of_the_stated_range() -> None:
    rates = lr_grid({"lr": [0.01, 1.0, "log"]}, 5)
    assert (rates[0], rates[-1]) == (0.01, 1.0)
    assert [later / earlier for earlier, later in pairwise(rates)] == pytest.approx([10**0.5] * 4, rel=0.01)


def test_tuning_uses_a_seed_that_no_final_trial_has() -> None:
    seeds = {trial.seed for trial in design.tuning_trials(make_settings())}
    assert seeds.isdisjoint(design.final_seeds(3))
    assert len(set(design.final_seeds(3))) == 3


def test_the_budget_is_the_same_for_each_in_every_phase(study: Callable[..., Study]) -> None:
    one = study({"adam": [1.0] * 3, "sgd": [2.0] * 3}, tune=["lr", "eps"])
    for phase, amount in (("tune", 4), ("final", 3), ("sweep", 4)):
        for optimizer in ("adam", "sgd"):
            own = [
                done.trial for done in one.finished() if (done.trial.phase, done.trial.optimizer) == (phase, optimizer)
            ]
            assert len(own) == amount, (phase, optimizer)
    assert design.total(one.settings, one.finished()) == design.total(one.settings, []) == 22
    sweep = [done.trial.settings for done in one.finished() if done.trial.phase == "sweep"]
    assert len({settings.get("eps") for settings in sweep}) == 2  # adam's best one, and none for sgd


def test_the_best_setting_is_in_the_middle_of_equals_and_of_the_right_end(study: Callable[..., Study]) -> None:
    one = study(mode="max")
    for trial, value in zip(design.tuning_trials(one.settings), [0.5, 0.1, 0.9, 0.1, 0.9, 0.1, None, 0.1], strict=True):
        one.record(trial, Outcome("done", value))
    trials = [trial for trial in design.tuning_trials(one.settings) if trial.optimizer == "adam"]
    lower = min(trials[1:3], key=lambda trial: trial.settings["lr"])  # of the two that are equal
    chosen = design.best(one.settings, one.finished(), "adam")
    assert chosen is not None
    assert chosen.trial == lower

    # A study that has trained another of them again, as earlier versions would have, stays with it.
    (other,) = {trial.number for trial in trials[1:3]} - {lower.number}
    one.record(Trial("adam", "final", other, 1, trials[other].settings), Outcome("done", 0.8))
    chosen = design.best(one.settings, one.finished(), "adam")
    assert chosen is not None
    assert chosen.trial.number == other

    one.record(Trial("sgd", "final", 99, 1, {"lr": 0.1}), Outcome("done", 0.8))  # of no setting that was tried
    chosen = design.best(one.settings, one.finished(), "sgd")
    assert chosen is not None
    assert chosen.trial.number < 4


def test_settings_that_tuning_does_not_tell_apart_are_told(study: Callable[..., Study]) -> None:
    one = study(mode="max")
    values = {"adam": [0.9, 0.9, 0.2, 0.9], "sgd": [0.1, 0.4, 0.3, 0.2]}
    for trial in design.tuning_trials(one.settings):
        assert not one.finished() or not [warning for warning in judge(one).warnings if "apart" in warning]
        one.record(trial, Outcome("done", values[trial.optimizer][trial.number]))
    said = "Several settings did equally well in tuning: 3 of 4 for adam. Of these, {} was taken. A harder task"
    (warning,) = [warning for warning in judge(one).warnings if "apart" in warning]
    assert warning.startswith(said.format("the one with the middle rate, or the lower of two,"))
    chosen = design.best(one.settings, one.finished(), "adam")
    assert chosen is not None
    other = next(
        done.trial for done in design.equally_good(one.settings, one.finished(), "adam") if done.trial != chosen.trial
    )
    one.record(Trial("adam", "final", other.number, 1, other.settings), Outcome("done", 0.8))
    assert any(warning.startswith(said.format("one of them")) for warning in judge(one).warnings)


def test_what_comes_of_tuning_is_called_by_the_data_that_it_is_of(study: Callable[..., Study]) -> None:
    one = study({"adam": [1.0] * 3, "sgd": [2.0] * 3})
    tuned, final = Trial("adam", "tune", 0, 0, {"lr": 0.1}), Trial("adam", "final", 0, 1, {"lr": 0.1})
    assert row(one.settings, tuned, Outcome("done", 0.5)) == "tuning adam lr=0.1: validation loss 0.5"
    assert row(one.settings, final, Outcome("done", 0.5)) == "final adam lr=0.1 seed 1: loss 0.5"
    assert "Tuning goes by validation loss, on data that it does not train on, and" in heading(one, 0)
    judgement = judge(one)
    assert (judgement.metric, judgement.tuning_metric) == ("loss", "validation_loss")
    (rates,) = [sentence for sentence in judgement.sentences if "Decades" in sentence]
    assert "were evaluated every " in "".join(judgement.sentences)
    late = dataclasses.replace(one.settings, eval_every=one.settings.steps)
    assert f"These runs have {late.steps} steps and were evaluated at the end." in "".join(
        words.sentences(late, judgement.standings, judgement.pairs)
    )
    assert rates.startswith("Decades of learning rates whose validation loss in tuning is within 5% of the best: ")
    with sqlite3.connect(one.path) as connection:  # as an earlier version has written it
        connection.execute("DELETE FROM study WHERE key = 'tuning_metric'")
        connection.execute("UPDATE study SET value = '\"test_loss\"' WHERE key = 'metric'")
    with Study.open(one.path) as former:
        assert row(former.settings, tuned, Outcome("done", 0.5)) == "tuning adam lr=0.1: loss 0.5"
        assert row(former.settings, final, Outcome("done", 0.5)) == "final adam lr=0.1 seed 1: test loss 0.5"


# The judgement


def ranks(judgement: Judgement) -> dict[str, int]:
    return {standing.optimizer: standing.rank for standing in judgement.standings}


def test_a_clear_difference_is_called_and_a_small_one_is_a_tie(study: Callable[..., Study]) -> None:
    values = {"adam": [1.00, 1.02, 1.00], "nadam": [1.01, 1.01, 1.01], "sgd": [2.00, 2.03, 2.01]}
    judgement = judge(study(values, optimizers=["sgd", "nadam", "adam"]))
    assert ranks(judgement) == {"adam": 1, "nadam": 1, "sgd": 3}
    found = {(pair.first, pair.second): pair for pair in judgement.pairs}
    p = [stats.ttest_rel(values[first], values[second]).pvalue for first, second in found]
    for pair, adjusted in zip(found.values(), holm(p), strict=True):
        assert pair.adjusted == pytest.approx(adjusted)
    assert found["nadam", "adam"].better is None
    assert (found["sgd", "adam"].better, found["sgd", "adam"].difference) == ("adam", pytest.approx(1.00667, abs=1e-4))
    assert judgement.sentences[0].startswith("adam and nadam are tied")
    assert "sgd is behind adam by 1.007" in judgement.sentences[1]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([7, 9, None], ", the median of the seeds that reached it: adam 8 (2 of 3) and"),
        ([7, 9, 8], ", median: adam 8 and"),
        ([None] * 3, ", median: adam never."),
    ],
)
def test_the_median_of_some_seeds_is_called_so(study: Callable[..., Study], steps: list[Any], said: str) -> None:
    one = study({"adam": [1.0, 1.1, 1.2]}, optimizers=["adam"])
    times = {"steps_to_target": steps, "seconds_to_target": [step and step / 10 for step in steps]}
    standing = dataclasses.replace(judge(one).standings[0], **times)
    assert said in " ".join(words.sentences(one.settings, [standing], []))


def test_where_high_is_better_the_higher_is_first(study: Callable[..., Study]) -> None:
    judgement = judge(study({"adam": [0.9, 0.91, 0.9], "sgd": [0.5, 0.52, 0.51]}, mode="max"))
    assert ranks(judgement) == {"adam": 1, "sgd": 2}
    assert judgement.sentences[0] == "adam is the best."
    judgement = judge(study({"adam": [0.9, 0.7, 0.8], "sgd": [0.8, 0.9, 0.9]}, mode="max"))
    assert [(one.optimizer, one.rank) for one in judgement.standings] == [("sgd", 1), ("adam", 1)]


def test_identical_results_are_a_tie(study: Callable[..., Study]) -> None:
    judgement = judge(study({"adam": [0.0] * 3, "sgd": [0.0] * 3}))
    assert ranks(judgement) == {"adam": 1, "sgd": 1}
    assert judgement.pairs[0].p == 1


def test_optimizers_that_trained_exactly_alike_are_named(study: Callable[..., Study]) -> None:
    settings = {"seeds": [1, 2], "budget": 1, "optimizers": ["adam", "sgd", "adamw"]}
    losses = {"adam": [0.5, 0.25], "sgd": [0.5, 0.25], "adamw": [0.5, 0.125]}

    def alike(last: list[dict[str, Any]] | None = None) -> list[str]:
        one = study(None, **settings)
        for trial in [*design.missing(one.settings, [])]:
            one.record(trial, Outcome("done", 1.0))
        for i, trial in enumerate(design.missing(one.settings, one.finished())):
            rows = [{"step": 1, "train_loss": losses[trial.optimizer][trial.seed - 1], "train_seconds": float(i)}]
            is_last = last is not None and (trial.optimizer, trial.seed) == ("sgd", 2)
            one.record(trial, Outcome("done", 1.0, evaluations=last if is_last and last is not None else rows))
        return [warning for warning in judge(one).warnings if "alike" in warning]

    assert alike() == [
        "adam and sgd trained exactly alike, with each seed: what distinguishes them has no effect here."
    ]
    assert alike([{"step": 1, "train_loss": 0.3, "train_seconds": 0.0}]) == alike([]) == []


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_a_difference_that_is_negligible_beside_the_target_is_a_tie(
    study: Callable[..., Study], mode: str, sign: float
) -> None:
    def judged(values: dict[str, float]) -> Judgement:
        finals = {name: [sign * value] * 3 for name, value in values.items()}
        return judge(study(finals, optimizers=list(values), mode=mode, target=sign * 1e-4))

    judgement = judged({"adam": 5.6e-18, "sgd": 0.0})
    assert ranks(judgement) == {"sgd": 1, "adam": 1}
    assert judgement.pairs[0].better is None
    said = "sgd and adam are tied: the differences between them are under a millionth of the target."
    assert judgement.sentences[0] == said
    assert ranks(judged({"adam": 1.01e-10, "sgd": 0.0})) == {"sgd": 1, "adam": 2}
    judgement = judged({"adam": 0.9e-10, "nadam": 0.0, "sgd": 1e-3})
    assert ranks(judgement) == {"adam": 1, "nadam": 1, "sgd": 3}
    assert "sgd is behind nadam by 0.001 (exactly: nothing depends on the seed)." in judgement.sentences


def test_an_optimizer_with_failed_seeds_stands_after_those_without(study: Callable[..., Study]) -> None:
    values = {"adam": [0.1, None, 0.1], "sgd": [2.0, 2.1, 2.0], "nadam": [None] * 3}
    judgement = judge(study(values, optimizers=["adam", "sgd", "nadam"]))
    assert ranks(judgement) == {"sgd": 1, "adam": 2, "nadam": 3}
    adam = judgement.standings[1]
    assert (adam.mean, adam.values, adam.trials_failed) == (pytest.approx(0.1), [0.1, None, 0.1], 1)
    assert all(pair.p is None for pair in judgement.pairs)
    assert "adam is behind sgd, as it has a result with only 2 of 3 seeds." in judgement.sentences
    assert "nadam has no result." in judgement.sentences
    assert any("nadam: 3 of 7 trials diverged" in warning for warning in judgement.warnings)
    assert table(judgement)[3].split()[:4] == ["3", "nadam", "lr=7.79e-05", "none"]


def test_all_trials_failed_and_one_optimizer_alone_are_judged_too(study: Callable[..., Study]) -> None:
    one = study(optimizers=["adam"])
    for trial in design.missing(one.settings, []):
        one.record(trial, Outcome("failed", error="RuntimeError: no"))
    assert design.missing(one.settings, one.finished()) == []
    (standing,) = judge(one).standings
    assert (standing.rank, standing.mean, standing.settings, standing.trials_failed) == (1, None, {}, 4)
    assert table(judge(one))[1].split()[:5] == ["1", "adam", "none", "none", "never"]
    judgement = judge(study({"adam": [1.0, 1.1, 1.2]}, optimizers=["adam"]))
    assert (judgement.pairs, ranks(judgement)) == ([], {"adam": 1})


def test_a_best_rate_at_the_edge_is_pointed_out(study: Callable[..., Study]) -> None:
    one = study()
    for trial in design.tuning_trials(one.settings):
        lr = trial.settings["lr"]
        one.record(trial, Outcome("done", -lr if trial.optimizer == "sgd" else abs(math.log10(lr / 1e-3))))
    judgement = judge(one)
    sensitivity = {standing.optimizer: standing.sensitivity for standing in judgement.standings}
    assert (sensitivity["sgd"].at_edge, sensitivity["adam"].at_edge) == (True, False)
    assert sensitivity["sgd"].rates == sorted(sensitivity["sgd"].rates)
    (warning,) = [warning for warning in judgement.warnings if "--lr-range" in warning]
    assert warning.startswith("sgd: its best rate is the highest")
    assert "The study is not complete: 8 of 14 trials are finished." in judgement.warnings


def test_the_sensitivity_is_to_the_rate_alone(study: Callable[..., Study]) -> None:
    judgement = judge(study({"adam": [9.0] * 3, "sgd": [2.0] * 3}, tune=["lr", "eps"]))
    adam = next(standing for standing in judgement.standings if standing.optimizer == "adam")
    assert len(adam.sensitivity.rates) == 5  # four of the sweep and the best; the others have another eps
    assert sorted(adam.sensitivity.values, key=str) == [1.0, 1.0, 2.0, 3.0, 4.0]


# The study


def test_a_study_is_one_file_that_other_tools_read(study: Callable[..., Study], tmp_path: Path) -> None:
    one = study({"adam": [1.0, 1.1, 1.2], "sgd": [2.0, 2.2, math.nan]})
    one.close()
    assert [path.name for path in tmp_path.iterdir()] == [one.path.name]
    with sqlite3.connect(one.path) as connection:
        settings = {key: json.loads(value) for key, value in connection.execute("SELECT * FROM study")}
        rows = connection.execute("SELECT optimizer, value, json_extract(settings, '$.lr') FROM trials").fetchall()
    connection.close()
    assert settings["optimizers"] == ["adam", "sgd"]
    assert settings["space"]["sgd"]["lr"] == [0.00333, 3.0, "log"]
    assert len(rows) == 14
    assert all(isinstance(lr, float) for _, _, lr in rows)


def test_what_is_recorded_comes_back(study: Callable[..., Study]) -> None:
    one = study()
    trial = design.tuning_trials(one.settings)[0]
    outcome = Outcome(
        "done", 0.1 + 0.2, 40, 1.5, 2.5, {"weights": 8}, {"forward": 0.5}, [{"step": 1, "loss": math.inf}]
    )
    one.record(trial, outcome)
    one.close()
    with Study.open(one.path) as again:
        (done,) = again.finished()
        assert again.settings == one.settings
    assert done.trial == trial
    assert done.outcome == dataclasses.replace(outcome, evaluations=[{"step": 1, "loss": None}])


def test_a_study_is_written_by_one_comparison_at_a_time(study: Callable[..., Study]) -> None:
    one = study()
    with pytest.raises(InputError, match="is being written by another comparison"):
        Study.open(one.path, write=True)
    with Study.open(one.path) as reader:  # while it runs
        assert reader.finished() == []
    one.close()
    Study.open(one.path, write=True).close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist: give a study that adamas compare wrote"),
        (b"text", "is not a study, or is damaged: file is not a database"),
        (b"", "is not a study, or is damaged: no such table: study"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "x.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        Study.open(path)


def test_a_damaged_study_is_refused(study: Callable[..., Study]) -> None:
    one = study({"adam": [1.0] * 3, "sgd": [2.0] * 3})
    one.close()
    content = bytearray(one.path.read_bytes())
    content[4096 : 4096 * 3] = b"\xff" * 8192
    one.path.write_bytes(content)
    with pytest.raises(InputError, match="is not a study, or is damaged"):
        Study.open(one.path)


def read_whole(path: Path) -> str:
    """What a study says, as its report and its comparison read it."""
    with Study.open(path) as one:
        design.missing(one.settings, one.finished())
        return repr(judge(one))


def test_a_study_that_is_damaged_anywhere_is_refused_in_one_line_or_read(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    one = study({"adam": [1.0, 2.0, 2.5], "sgd": [2.0, 2.5, 3.5]}, optimizers=["adam", "sgd"])
    one.close()
    content, said, drawn = one.path.read_bytes(), read_whole(one.path), random.Random(19)
    path, refused = tmp_path / "damaged.sqlite", list[str]()
    for number in range(200):
        damaged = bytearray(content)
        place = drawn.randrange(len(content))
        if number % 3 == 0:
            damaged[place : place + 64] = bytes(byte ^ 0xFF for byte in damaged[place : place + 64])
        elif number % 3 == 1:
            damaged[place : place + 64] = drawn.randbytes(len(damaged[place : place + 64]))
        else:
            damaged[place] ^= 1 << drawn.randrange(8)
        path.write_bytes(damaged)
        try:
            read_whole(path)  # SQLite has no checksums: a digit that became another one cannot be seen
        except InputError as error:
            refused.append(str(error).replace(str(path), ""))
    assert len(refused) > 25
    assert all("is not a study, or is damaged: " in line or "by a newer Adamas" in line for line in refused)
    assert all("\n" not in line and len(line) < 300 for line in refused)
    for cut in (1, 10, 4000, 4096, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:-cut])
        with pytest.raises(InputError, match="is not a study, or is damaged"):
            Study.open(path)
    path.write_bytes(content)
    assert read_whole(path) == said


WRONG = [
    ("UPDATE study SET value = '5' WHERE key = 'optimizers'", "optimizers is 5"),
    ("UPDATE study SET value = '{}' WHERE key = 'space'", "adam has no range of its rate"),
    ("UPDATE study SET value = '0' WHERE key = 'jobs'", "its numbers do not belong together"),
    ("UPDATE study SET value = replace(value, ': ', ': 9') WHERE key = 'points'", "a point has no lr from 0 to 1"),
    (f"UPDATE study SET value = '{'[' * 100_000}' WHERE key = 'task'", "it is nested too deeply"),
    (f"UPDATE study SET value = '{'9' * 6000}' WHERE key = 'target'", "Exceeds the limit"),
    ("DELETE FROM study WHERE key = 'seeds'", "seeds is missing"),
    ("UPDATE trials SET settings = '{}'", "a trial has no lr"),
    ("UPDATE trials SET settings = '5'", "settings is 5"),
    ("UPDATE trials SET value = 'x'", "value is 'x'"),
    ("UPDATE trials SET number = 'x' WHERE id = 1", "number is 'x'"),
    ("UPDATE trials SET evaluations = '[5]'", r"evaluations is \[5\]"),
    ("UPDATE trials SET seconds = '{\"forward\": []}'", "seconds is "),
    ("UPDATE trials SET memory = x'ff'", "can't decode"),
    ("UPDATE trials SET error = CAST(x'ff' AS TEXT)", "Could not decode to UTF-8"),
    ("DROP TABLE trials", "no such table: trials"),
]


def test_values_of_another_type_are_told_as_damage(study: Callable[..., Study]) -> None:
    one = study({"adam": [1.0] * 3, "sgd": [2.0] * 3})
    one.close()
    content = one.path.read_bytes()
    for change, says in WRONG:
        one.path.write_bytes(content)
        with sqlite3.connect(one.path) as connection:
            connection.execute(change)
        connection.close()
        with pytest.raises(InputError, match=f"is not a study, or is damaged: .*{says}"):
            read_whole(one.path)


def test_a_study_of_a_newer_adamas_is_refused(study: Callable[..., Study]) -> None:
    one = study()
    one.close()
    with sqlite3.connect(one.path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(InputError, match="was written by a newer Adamas"):
        Study.open(one.path)


def test_a_study_with_other_settings_is_refused_by_what_differs(study: Callable[..., Study]) -> None:
    one = study()
    one.check_same(dataclasses.replace(one.settings, command="adamas compare digits"))
    with pytest.raises(InputError, match=r"other settings: budget was 4, is 5; torch was 2, is 2\.1: choose"):
        one.check_same(dataclasses.replace(one.settings, budget=5, torch="2.1"))
    space = {**one.settings.space, "sgd": {"lr": [0.1, 1.0, "log"]}}
    with pytest.raises(
        InputError, match=r"settings: space of sgd of lr was \[0\.00333, 3\.0, .log.\], is \[0\.1, 1\.0"
    ):
        one.check_same(dataclasses.replace(one.settings, space=space))


# The processes


def test_a_comparison_runs_to_its_end(study: Callable[..., Study], trials: str) -> None:
    one, listener = study(jobs=2), Trials()
    carry_out(one, listener, f"{trials}:quick")
    assert len(one.finished()) == 14
    assert listener.counts[0] == (0, 14)
    assert listener.counts[-1] == (14, 14)
    assert {design.key(trial) for trial in listener.started} == {design.key(trial) for trial, _ in listener.ended}
    judgement = judge(one)
    assert judgement.standings[0].evaluations[0][0]["step"] == 1
    carry_out(one, listener, f"{trials}:hopeless")  # nothing is missing, so nothing runs
    assert len(one.finished()) == 14


def test_one_process_serves_all_trials_that_run_one_by_one(study: Callable[..., Study], trials: str) -> None:
    one = study()
    carry_out(one, Listener(), f"{trials}:process")
    assert len({done.outcome.value for done in one.finished()}) == 1


def test_a_process_that_dies_is_a_failed_trial_and_the_others_go_on(study: Callable[..., Study], trials: str) -> None:
    one = study(jobs=2)
    carry_out(one, Listener(), f"{trials}:fragile")
    failed = {done.trial.number: done.outcome for done in one.finished() if done.outcome.status == "failed"}
    assert {done.trial.optimizer for done in one.finished() if done.outcome.status == "failed"} == {"sgd"}
    assert failed[0].error == "its process ended by SIGKILL, which is what the system does when memory runs out"
    assert failed[1].error == "its process ended with status 3"
    assert failed[2].error == "RuntimeError: no luck"
    assert len(one.finished()) == 14
    assert "sgd: 3 of 7 trials failed, the first with: its process ended by SIGKILL" in "".join(judge(one).warnings)


def test_a_comparison_whose_task_is_gone_is_an_error_and_records_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.py", tmp_path / "study.sqlite"
    path.write_text("from adamas.lab.tasks.quadratic import load\n")

    class Gone(Listener):
        def on_trial_end(self, trial: Trial, outcome: Outcome, done: int, total: int) -> None:
            path.unlink(missing_ok=True)

    arguments: dict[str, Any] = {"optimizers": ["adam", "sgd"], "budget": 2, "epochs": 1, "jobs": 1}
    with pytest.raises(InputError, match=r"mine\.py' is not a file"):
        compare(path, out=out, listener=Gone(), **arguments)
    before = recorded(out)
    assert before < 4
    with pytest.raises(InputError, match=r"mine\.py' is not a file"):
        compare(out)
    assert recorded(out) == before
    path.write_text("from adamas.lab.tasks.quadratic import load\n")
    assert {standing.mean is None for standing in compare(out).standings} == {False}


COUNTING = """
from pathlib import Path
import torch
from torch import nn
from adamas.lab.tasks import Task

def loss(model, x):
    return model(x).square().mean()

def evaluate(model, x):
    return {"rows": float(len(x)), "largest": float(x.max())}

def load(data_dir):
    with Path(__file__).with_name("loads").open("a") as stream:
        print("load", file=stream)
    x = torch.arange(50.0)[:, None]
    return Task("", lambda: nn.Linear(1, 1), loss, evaluate, "rows", "max", 100.0, 1, train=(x,), test=(100 + x[:7],))
"""


def test_the_test_data_chooses_nothing_and_a_task_is_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    settings = make_settings(task=str(tmp_path / "counting.py"), eval_every=None)
    by_phase: dict[str, set[tuple[Any, bool]]] = {}
    for phase in ("tune", "sweep", "final", "tune"):
        outcome = run_trial(settings, Trial("adam", phase, 0, 0, {"lr": 1e-3}))
        assert outcome.status == "done"
        names = ("rows", "largest") if phase == "final" else ("validation_rows", "validation_largest")
        assert {name for row in outcome.evaluations for name in row if "rows" in name or "largest" in name} == {*names}
        figures = {(row[names[0]], row[names[1]] >= 100) for row in outcome.evaluations}
        by_phase.setdefault(phase, set()).update(figures)
    assert by_phase == {"tune": {(5.0, False)}, "sweep": {(5.0, False)}, "final": {(7.0, True)}}
    assert (tmp_path / "loads").read_text().count("load") == 1


def test_a_task_may_have_metrics_with_the_names_of_validation(tmp_path: Path) -> None:
    names = '{"test_rows": float(len(x)), "validation_rows": 1.0, "validation_largest": float(x.max())}'
    text = COUNTING.replace('{"rows": float(len(x)), "largest": float(x.max())}', names)
    for metric in ("test_rows", "validation_largest"):
        path = tmp_path / f"{metric}.py"
        path.write_text(text.replace('"rows", "max"', f'"{metric}", "max"'))
        judgement = compare(path, "adam", budget=1, seeds=3, out=tmp_path / f"{metric}.sqlite")
        assert (judgement.metric, judgement.tuning_metric) == (metric, metric.replace("test_", "validation_"))
        with Study.open(tmp_path / f"{metric}.sqlite") as one:
            values = {done.trial.phase: done.outcome for done in one.finished()}
        assert values["tune"].value == {"test_rows": 5, "validation_largest": 44}[metric]
        assert values["final"].value == {"test_rows": 7, "validation_largest": 106}[metric]
        assert {"test_rows", "validation_rows"} <= values["tune"].evaluations[0].keys()


def test_a_process_that_cannot_start_ends_the_comparison_and_is_no_trial(study: Callable[..., Study]) -> None:
    one = study()
    with pytest.raises(WorkerError, match=r"no trial can be run: its process ended with status 1: .*no_such_module"):
        carry_out(one, Listener(), "no_such_module:run")
    assert one.finished() == []


def begin(script: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, str(folder)]), **environment}
    return subprocess.Popen([sys.executable, "-c", script], env=variables, stderr=subprocess.PIPE, text=True)


GO_ON = """
import sys
from pathlib import Path
from adamas.lab.compare.comparison import Listener, carry_out
from adamas.lab.compare.study import Study
with Study.open(Path({path!r}), write=True) as study:
    carry_out(study, Listener(), {run!r})
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0.02)


def recorded(path: Path) -> int:
    with Study.open(path) as study:
        return len(study.finished())


def test_a_comparison_that_was_killed_comes_to_the_same_as_one_that_was_not(
    study: Callable[..., Study], trials: str, tmp_path: Path
) -> None:
    whole, cut = study(jobs=2), study(jobs=2)
    cut.close()
    (tmp_path / "done").mkdir()
    script = GO_ON.format(path=str(cut.path), run=f"{trials}:three")
    process = begin(script, tmp_path / "modules", DONE=str(tmp_path / "done"), PIDS=str(tmp_path / "pids"))
    until(lambda: recorded(cut.path) == 3)
    process.kill()
    process.communicate()
    carry_out(whole, Listener(), f"{trials}:quick")
    with Study.open(cut.path, write=True) as again:
        carry_out(again, Listener(), f"{trials}:quick")
        assert outcomes(again) == outcomes(whole)
        assert table(judge(again)) == table(judge(whole))
    assert not (tmp_path / f".{cut.path.name}.lock").exists()


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_processes_do_not_outlive_a_comparison_that_was_killed(
    study: Callable[..., Study], trials: str, tmp_path: Path
) -> None:
    one, pids = study(jobs=2), tmp_path / "pids"
    one.close()
    script = GO_ON.format(path=str(one.path), run=f"{trials}:endless")
    process = begin(script, tmp_path / "modules", PIDS=str(pids))
    until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2)
    process.kill()
    process.communicate()
    until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


# Whole comparisons


def test_the_optimizers_of_other_libraries_take_part_and_a_diverging_one_is_a_result(tmp_path: Path) -> None:
    listener = Trials()
    judgement = compare(
        "quadratic",
        ["sgd", "torch:SGD(momentum=0.5)"],
        budget=3,
        lr_range=(0.05, 5e4),
        jobs=1,
        out=tmp_path / "study.sqlite",
        listener=listener,
    )
    diverged = [outcome for _, outcome in listener.ended if outcome.status == "diverged"]
    assert len(diverged) >= 2
    assert all(outcome.value is None and outcome.error for outcome in diverged)
    assert {standing.optimizer for standing in judgement.standings} == {"sgd", "torch:SGD(momentum=0.5)"}
    for standing in judgement.standings:
        assert standing.mean is not None
        assert standing.sensitivity.values[-1] is None
        assert all(len(rows) == 20 for rows in standing.evaluations)
    # The same call again has nothing to do, and another one is refused.
    again = compare(
        "quadratic",
        ["sgd", "torch:SGD(momentum=0.5)"],
        budget=3,
        lr_range=(0.05, 5e4),
        jobs=1,
        out=tmp_path / "study.sqlite",
    )
    assert again == judgement
    assert compare(tmp_path / "study.sqlite") == judgement
    with pytest.raises(InputError, match="other settings: optimizers was"):
        compare("quadratic", "sgd", budget=3, lr_range=(0.05, 5e4), jobs=1, out=tmp_path / "study.sqlite")


# The first trial ends at once; the others wait for a file, for as long as there is none.
WAITING = """
import time
from dataclasses import replace
from pathlib import Path
from adamas.lab.tasks import digits

def load(data_dir):
    known, calls = digits.load(data_dir), []

    def loss(*arguments):
        calls.append(arguments)
        if len(calls) == 3:  # the command rehearses each of the two optimizers, and a trial its own
            try:
                Path("first").touch(exist_ok=False)
            except FileExistsError:
                while not Path("go").exists():
                    time.sleep(0.02)
        return known.loss(*arguments)

    return replace(known, loss=loss)
"""


@pytest.mark.usefixtures("trials_in_this_process")  # of the command that goes on
def test_the_command_goes_on_after_ctrl_c_and_says_what_came_of_it(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    words = [
        "compare",
        "waiting.py",
        "--optimizers",
        "adam,torch:Adam",
        "--epochs",
        "1",
        "--budget",
        "2",
        "--jobs",
        "1",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*PROCESS, *words], cwd=tmp_path, env=ENVIRONMENT, text=True, start_new_session=True, **pipes
    ) as process:
        assert process.stdout is not None
        assert any(" 1/10 " in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the processes of the trials, too
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    (path,) = (tmp_path / "studies").iterdir()
    assert recorded(path) == 1
    assert errors == f"adamas: interrupted after 1 trial. To resume: adamas compare studies/{path.name}\n"

    (tmp_path / "go").touch()
    again = adamas(*words, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "Resuming after 1 trial." in again.stdout
    assert "10/10 final" in again.stdout
    assert f"Next:\n  adamas report studies/{path.name}" in again.stdout
    assert list((tmp_path / "studies").iterdir()) == [path]

    with Study.open(path) as study:
        judgement = judge(study)
    own, other = judgement.standings  # both are Adam, and saw the same weights and batches
    for value, same in zip(own.values, other.values, strict=True):
        assert value == pytest.approx(same, abs=0.01)
    assert len(set(own.values)) > 1  # and the seeds differ


@pytest.mark.nightly  # ``make test`` has the same of a run, which prints in the same way
def test_a_comparison_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    words = ["compare", "quadratic", "--optimizers", "adam,sgd", "--epochs", "1", "--budget", "2", "--out", "s.sqlite"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PROCESS, *words], cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as ``| head -1`` does
        assert (process.stderr.read(), process.wait()) == (b"", 0)
    with Study.open(tmp_path / "s.sqlite") as study:
        assert {standing.optimizer for standing in judge(study).standings} == {"adam", "sgd"}
    assert recorded(tmp_path / "s.sqlite") == 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "optimizers is missing: name them with commas between"),
        ({"optimizers": "adm"}, "optimizers 'adm' is unknown: did you mean adam?"),
        ({"optimizers": "adam,adam"}, "optimizers has 'adam' twice"),
        ({"optimizers": "adam(betas=1)"}, "optimizers "),
        ({"optimizers": "torch:Adm"}, "optimizers 'torch:Adm' is unknown: did you mean torch:Adam?"),
        ({"optimizers": "adam", "budget": 0}, "budget must be a whole number from 1 to 10,000, got 0"),
        (
            {"optimizers": "adam", "seeds": 2},
            "seeds must be a whole number from 3 to 10,000, got 2: fewer do not show the variation between seeds",
        ),
        ({"optimizers": "adam", "jobs": 0}, f"jobs must be from 1 to the {os.cpu_count()} processors of this machine"),
        (
            {"optimizers": "adam", "jobs": 5000},
            f"jobs must be from 1 to the {os.cpu_count()} processors of this machine",
        ),
        ({"optimizers": "adam", "tune": ["momentum"]}, "tune 'momentum' is unknown"),
        (
            {"optimizers": "sgd,adam(eps=1e-6)", "tune": ["weight_decay", "eps"]},
            "tune contains eps, which no optimizer here has to tune: sgd has lr, weight_decay; adam(eps=1e-6) has lr, "
            "weight_decay, beta1, beta2",
        ),
        ({"optimizers": "adam", "lr_range": (1.0, 0.1)}, "lr_range must be two rising numbers above 0"),
        (
            {"optimizers": "adam", "schedule": "3*cosine(9)"},
            "schedule '3*cosine(9)' contains a rate, and the rate is tuned",
        ),
        ({"optimizers": "adam", "epochs": 0}, "epochs must be a whole number from 1 to 1,000,000,000"),
        ({"optimizers": "adam", "model": "huge"}, "model "),
        ({"optimizers": "adam", "device": "nowhere"}, "device "),
        ({"optimizers": "adam", "out": "no.sqlite"}, "out 'no.sqlite' is not a study, or is damaged"),
        ({"optimizers": "adam", "out": "study.db"}, "out must be the name of a study, such as study.sqlite"),
        ({"task": "no.sqlite"}, "task 'no.sqlite' is not a study, or is damaged"),
        ({"task": "no.sqlite", "budget": 3}, "budget is determined by the study 'no.sqlite': leave it out"),
        ({"task": "nothing"}, "task 'nothing' is unknown"),
        ({"task": "nothing.sqlite"}, "task 'nothing.sqlite' does not exist: give a study that adamas compare wrote"),
        ({"task": "."}, "task '.' is a folder: give a task, or a study that adamas compare wrote"),
    ],
)
def test_what_cannot_be_compared_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("no.sqlite").write_text("no")
    with pytest.raises(InputError) as caught:
        compare(**{"task": "digits", **arguments})
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["no.sqlite"]


def test_a_study_from_a_larger_machine_runs_as_many_trials_at_once_as_there_are_processors(
    study: Callable[..., Study], trials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    one = study(jobs=500)
    assert "500 at a time (1 here, which has 1 processor), 1 thread each, to" in heading(one, 0)
    carry_out(one, Listener(), run=f"{trials}:process")
    assert len({done.outcome.value for done in one.finished()}) == 1  # the number of the process


def test_a_study_on_a_read_only_disk_is_to_be_copied(
    study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = study()
    one.close()

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(study_module, "lock", refuse)
    cure = r"cannot be written \(Read-only file system\): copy it to where it can be written, and resume the copy"
    with pytest.raises(InputError, match=f"^task .*{cure}"):
        open_study(Request(str(one.path)))
    with pytest.raises(InputError, match=f"^out .*{cure}"):
        open_study(Request("digits", ("adam",), out=one.path))
    with pytest.raises(InputError, match=r"^out .*\(Read-only file system\): choose another file"):
        Study.create(one.path.with_name("new.sqlite"), one.settings)
    with Study.open(one.path) as reader:
        assert reader.finished() == []


def test_the_command_of_a_request_asks_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    request = Request("digits", ("adam", "sgd(momentum=0.9)"), tune=("eps",), lr_range=(1e-4, 0.1), jobs=2)
    line = "adamas compare digits --optimizers 'adam,sgd(momentum=0.9)' --tune lr,eps --lr-range 0.0001,0.1 --jobs 2"
    assert request.command() == line


def test_a_namesake_of_another_library_is_searched_where_ours_is(tmp_path: Path) -> None:
    with open_study(Request("digits", ("sgd", "torch:SGD"), out=tmp_path / "study.sqlite")) as one:
        assert one.settings.space["torch:SGD"] == one.settings.space["sgd"] == {"lr": [0.00333, 3.0, "log"]}


def test_final_trials_are_evaluated_when_they_are_asked_to_be(tmp_path: Path) -> None:
    asked = {name: Request("digits", ("adam",), epochs=2, eval_every=name) for name in (None, 7)}
    for name, request in asked.items():
        with open_study(dataclasses.replace(request, out=tmp_path / f"{name}.sqlite")) as one:
            trials = design.tuning_trials(one.settings)[0], Trial("adam", "final", 0, 1, {"lr": 1e-3})
            tuning, final = (options_of(one.settings, trial).eval_every for trial in trials)
            assert tuning == one.settings.steps
            assert final == (name or math.ceil(one.settings.steps / 20))
    assert "--eval-every 7" in asked[7].command()
    with pytest.raises(InputError, match=r"^eval_every must be a whole number from 1 to .*, got 0"):
        open_study(Request("digits", ("adam",), eval_every=0, out=tmp_path / "none.sqlite"))


def test_a_study_that_is_complete_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = Request("quadratic", ("adam",), budget=1)
    with open_study(request) as first:
        pass
    with open_study(request) as again:
        assert again.path == first.path
        for _ in range(2):
            for trial in design.missing(again.settings, again.finished()):
                again.record(trial, Outcome("done", 1.0))
    with open_study(request) as fresh:
        assert fresh.path != first.path
