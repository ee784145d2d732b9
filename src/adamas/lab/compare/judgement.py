"""Judges a comparison: which optimizers are better or tied, with what confidence, and their sensitivity to the rate.

May import NumPy, SciPy (through adamas.lab.compare.statistics) and the modules of adamas.lab.compare that run nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from adamas.lab.compare import words
from adamas.lab.compare.design import best
from adamas.lab.compare.results import Judgement, Pair, Sensitivity, Standing
from adamas.lab.compare.statistics import LEVEL, holm, interval, is_negligible, nearly_best, paired_p
from adamas.lab.compare.study import Finished, Settings, Study
from adamas.lab.inputs import InputError
from adamas.lab.tasks import label


def judge(study: Study) -> Judgement:
    """Judge a study, which may be incomplete.

    Each optimizer is judged by its final trials, at the setting that was best in tuning. Two are compared by a paired
    t-test over the seeds, with Holm's correction for the number of pairs; they are tied if the test does not separate them, or
    if they differ by less than a millionth of the target. The rank of an optimizer is one more than the number of better
    ones. An optimizer with a final trial without a metric ranks after those that have all, and is not tested.

    Args:
        study: an open study.

    Raises:
        InputError: no trial is finished.
    """
    settings, finished = study.settings, study.finished()
    if not finished:
        raise InputError("study", f"{str(study.path)!r} has no finished trial")
    sign = 1 if settings.mode == "min" else -1
    unranked = [_standing(settings, finished, optimizer) for optimizer in settings.optimizers]
    pairs = _pairs(settings, unranked)
    worse = {standing.optimizer: 0 for standing in unranked}
    for pair in pairs:
        if pair.better is not None:
            worse[pair.second if pair.better == pair.first else pair.first] += 1
    standings = [replace(standing, rank=1 + worse[standing.optimizer]) for standing in unranked]
    standings.sort(key=lambda standing: (standing.rank, math.inf if standing.mean is None else sign * standing.mean))
    return Judgement(
        task=label(settings.task),
        metric=settings.metric,
        tuning_metric=settings.tuning_metric,
        mode=settings.mode,
        target=settings.target,
        seeds=settings.seeds,
        standings=standings,
        pairs=pairs,
        sentences=words.sentences(settings, standings, pairs),
        warnings=words.warnings(settings, finished, standings),
    )


def _standing(settings: Settings, finished: Sequence[Finished], optimizer: str) -> Standing:
    own = [done for done in finished if done.trial.optimizer == optimizer]
    chosen = best(settings, own, optimizer)
    finals = {done.trial.seed: done.outcome for done in own if done.trial.phase == "final"}
    by_seed = [finals.get(seed) for seed in settings.seeds]
    values = [outcome.value if outcome else None for outcome in by_seed]
    present = [value for value in values if value is not None]
    mean, low, high = interval(present) if present else (None, None, None)
    return Standing(
        optimizer=optimizer,
        rank=1,
        settings=dict(chosen.trial.settings) if chosen else {},
        values=values,
        mean=mean,
        low=low if len(present) > 1 else None,
        high=high if len(present) > 1 else None,
        steps_to_target=[outcome.steps_to_target if outcome else None for outcome in by_seed],
        seconds_to_target=[outcome.seconds_to_target if outcome else None for outcome in by_seed],
        train_seconds=[outcome.train_seconds if outcome else None for outcome in by_seed],
        sensitivity=_sensitivity(settings, own, chosen),
        trials_failed=sum(done.outcome.status != "done" for done in own),
        evaluations=[outcome.evaluations if outcome else [] for outcome in by_seed],
    )


def _sensitivity(settings: Settings, own: Sequence[Finished], chosen: Finished | None) -> Sensitivity:
    """Gather the trials that differ from the best one only in the rate."""
    others = {name: value for name, value in chosen.trial.settings.items() if name != "lr"} if chosen else {}
    curve = {
        done.trial.settings["lr"]: done.outcome.value
        for done in own
        if done.trial.phase != "final"
        and (chosen is None or {name: value for name, value in done.trial.settings.items() if name != "lr"} == others)
    }
    rates = sorted(curve)
    values = [curve[rate] for rate in rates]
    found = nearly_best(rates, values, settings.mode, settings.target)
    if found is None:
        return Sensitivity(rates, values, low=None, high=None, decades=0.0, at_edge=False)
    index, low, high = found
    at_edge = len(rates) > 1 and index in (0, len(rates) - 1)
    return Sensitivity(rates, values, low, high, decades=math.log10(high / low), at_edge=at_edge)


def _pairs(settings: Settings, standings: Sequence[Standing]) -> list[Pair]:
    """Compare each optimizer with each other one."""
    pairs = []
    for first, second in combinations(standings, 2):
        common = [
            (one, other)
            for one, other in zip(first.values, second.values, strict=True)
            if one is not None and other is not None
        ]
        difference = float(np.mean([one - other for one, other in common])) if common else None
        complete = len(common) == len(settings.seeds)
        p = paired_p(*zip(*common, strict=True)) if complete else None
        pairs.append(Pair(first.optimizer, second.optimizer, difference, p, None, _more_complete(first, second)))
    adjusted = iter(holm([pair.p for pair in pairs if pair.p is not None]))
    return [pair if pair.p is None else _decided(settings, pair, next(adjusted)) for pair in pairs]


def _more_complete(first: Standing, second: Standing) -> str | None:
    """Return the one with a metric for every seed if the other lacks some; else the one with any if the other has none."""
    for enough in (all, any):
        does, other_does = (enough(value is not None for value in standing.values) for standing in (first, second))
        if does != other_does:
            return first.optimizer if does else second.optimizer
    return None


def _decided(settings: Settings, pair: Pair, adjusted: float) -> Pair:
    assert pair.difference is not None
    if adjusted >= LEVEL or is_negligible(pair.difference, settings.target):
        return replace(pair, adjusted=adjusted)
    first_is_better = (pair.difference < 0) == (settings.mode == "min")
    return replace(pair, adjusted=adjusted, better=pair.first if first_is_better else pair.second)
