"""The trials of a comparison: the same number for each optimizer, determined by the settings and by the results of tuning.

Nothing here depends on the order or the time of trials, so resuming a study means running the missing ones. May import
adamas.lab.compare.study, adamas.lab.compare.space and adamas.lab.compare.statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

from adamas.lab.compare.space import at, lr_grid
from adamas.lab.compare.statistics import is_negligible, middle
from adamas.lab.compare.study import Finished, Settings, Trial

TUNE_SEED = 0  # not one of the final seeds, so that luck in tuning does not affect the result


def final_seeds(count: int) -> list[int]:
    """Return the seeds of the final trials."""
    return list(range(TUNE_SEED + 1, TUNE_SEED + 1 + count))


def tuning_trials(settings: Settings) -> list[Trial]:
    """Return the trials of the search: for each point, one of every optimizer."""
    return [
        Trial(optimizer, "tune", number, TUNE_SEED, at(settings.space[optimizer], point))
        for number, point in enumerate(settings.points)
        for optimizer in settings.optimizers
    ]


def best(settings: Settings, finished: Sequence[Finished], optimizer: str) -> Finished | None:
    """Return the tuning trial of an optimizer with the best metric, of equals the one in the middle of their rates; None if no
    trial has a metric. Once final trials have begun, it is the one that they repeat."""
    own = [done for done in finished if done.trial.optimizer == optimizer]
    equals = equally_good(settings, own, optimizer)
    if not equals:
        return None
    numbers = {done.trial.number for done in own if done.trial.phase == "final"}
    repeated = [done for done in own if done.trial.phase == "tune" and done.trial.number in numbers]
    return middle(repeated or equals)


def equally_good(settings: Settings, finished: Sequence[Finished], optimizer: str) -> list[Finished]:
    """Return the tuning trials of an optimizer whose metric is the best one or differs from it negligibly, by rising rates."""
    tried = [
        (done.outcome.value, done)
        for done in finished
        if done.trial.optimizer == optimizer and done.trial.phase == "tune" and done.outcome.value is not None
    ]
    if not tried:
        return []
    top = (min if settings.mode == "min" else max)(value for value, _ in tried)
    equals = [done for value, done in tried if is_negligible(value - top, settings.target)]
    return sorted(equals, key=lambda done: (done.trial.settings["lr"], done.trial.number))


def planned(settings: Settings, finished: Sequence[Finished]) -> list[Trial]:
    """Return all trials that are known by now: those of the search, and once it is finished, those that follow it.

    An optimizer without a metric in the search has no further trials.
    """
    search = tuning_trials(settings)
    over = {key(done.trial) for done in finished}
    if any(key(trial) not in over for trial in search):
        return search
    found = {optimizer: best(settings, finished, optimizer) for optimizer in settings.optimizers}
    settled = [(optimizer, done.trial) for optimizer, done in found.items() if done is not None]
    finals = [
        Trial(optimizer, "final", trial.number, seed, trial.settings)
        for seed in settings.seeds
        for optimizer, trial in settled
    ]
    return search + finals + (_sweep(settings, settled) if settings.tune != ["lr"] else [])


def _sweep(settings: Settings, settled: Sequence[tuple[str, Trial]]) -> list[Trial]:
    """Vary the rate alone around the best setting, over its stated range. If only the rate is tuned, the search did so."""
    return [
        Trial(
            optimizer,
            "sweep",
            number,
            TUNE_SEED,
            {**trial.settings, "lr": lr_grid(settings.space[optimizer], settings.budget)[number]},
        )
        for number in range(settings.budget)
        for optimizer, trial in settled
    ]


def missing(settings: Settings, finished: Sequence[Finished]) -> list[Trial]:
    """Return the trials that can be run now; none if the study is complete."""
    over = {key(done.trial) for done in finished}
    return [trial for trial in planned(settings, finished) if key(trial) not in over]


def total(settings: Settings, finished: Sequence[Finished]) -> int:
    """Return how many trials the study will have; during the search, every optimizer is assumed to have final trials."""
    search = len(tuning_trials(settings))
    if len(trials := planned(settings, finished)) > search or not missing(settings, finished):
        return len(trials)
    each = len(settings.seeds) + (settings.budget if settings.tune != ["lr"] else 0)
    return search + each * len(settings.optimizers)


def key(trial: Trial) -> tuple[str, str, int, int]:
    """Return what identifies a trial within its study."""
    return trial.optimizer, trial.phase, trial.number, trial.seed
