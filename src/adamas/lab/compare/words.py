"""The result of a comparison in sentences, with its caveats. May import the modules of adamas.lab.compare that run nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median

from adamas.lab.compare.design import best, equally_good, missing, total, tuning_trials
from adamas.lab.compare.results import Pair, Sensitivity, Standing
from adamas.lab.compare.space import TUNABLE
from adamas.lab.compare.statistics import is_negligible, middle
from adamas.lab.compare.study import Finished, Settings
from adamas.lab.train.named_schedules import choose_schedule, too_patient

FEW_SEEDS = 5  # with fewer, only large and consistent differences can be distinguished from chance


def number(value: float) -> str:
    """Write a number with four significant digits."""
    return f"{value:.4g}"


def setting(settings: Mapping[str, float]) -> str:
    """Write the settings of a trial, such as ``lr=0.001 eps=1e-08``."""
    return " ".join(f"{name}={value:g}" if name == "lr" else f"{name}={value:.6g}" for name, value in settings.items())


def listed(names: Sequence[str]) -> str:
    """Write names as in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def spoken(metric: str) -> str:
    """Write a metric's name as words."""
    return metric.replace("_", " ")


def chosen_by(settings: Settings) -> str:
    """Say which data chooses, and which data the result is of."""
    if settings.tuning_metric == settings.metric:
        return f"Tuning and the comparison go by {spoken(settings.metric)}."
    return (
        f"Tuning goes by {spoken(settings.tuning_metric)}, on data that it does not train on, and the comparison by "
        f"{spoken(settings.metric)}."
    )


def count(amount: int, noun: str) -> str:
    """Write an amount with its noun."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def spread(standing: Standing) -> str:
    """Write the mean with the half width of its interval."""
    if standing.mean is None:
        return "none"
    if standing.high is None:
        return number(standing.mean)
    return f"{number(standing.mean)} ± {standing.high - standing.mean:.2g}"


def reached(values: Sequence[float | None], form: str) -> str:
    """Write what it took to reach the target: the median over the seeds, and how many of them reached it if not all."""
    there = [value for value in values if value is not None]
    if not there:
        return "never"
    share = "" if len(there) == len(values) else f" ({len(there)} of {len(values)})"
    return f"{median(there):{form}}{share}"


def decades(sensitivity: Sensitivity) -> str:
    """Write how many decades of rates are nearly as good as the best, with "≥" if the range may extend further."""
    if sensitivity.low is None or sensitivity.high is None:
        return "none"
    open_ended = sensitivity.low == sensitivity.rates[0] or sensitivity.high == sensitivity.rates[-1]
    return f"{'≥ ' if open_ended else ''}{sensitivity.decades:.1f}"


def sentences(settings: Settings, standings: Sequence[Standing], pairs: Sequence[Pair]) -> list[str]:
    """Return the findings, the most important first."""
    figures = "; ".join(f"{standing.optimizer} {spread(standing)}" for standing in standings)
    seeds = count(len(settings.seeds), "seed")
    found = [f"Mean {spoken(settings.metric)} at the end of training, with its 95% interval over {seeds}: {figures}."]
    if len(standings) > 1:
        found = [*_order(settings, standings, pairs), *found]
    return [*found, _targets(settings, standings), *_rates(settings, standings)]


def _order(settings: Settings, standings: Sequence[Standing], pairs: Sequence[Pair]) -> list[str]:
    between = {frozenset((pair.first, pair.second)): pair for pair in pairs}
    leaders = [standing for standing in standings if standing.rank == 1 and standing.mean is not None]
    if not leaders:
        return ["No optimizer has a result."]
    names = [standing.optimizer for standing in leaders]
    if len(names) == 1:
        found = [f"{names[0]} is the best."]
    else:
        among = [pair for pair in pairs if {pair.first, pair.second} <= set(names)]
        small = [is_negligible(pair.difference or 0.0, settings.target) for pair in among]
        why = ["within the variation between seeds"] * (not all(small)) + ["under a millionth of the target"] * any(
            small
        )
        found = [f"{listed(names)} are tied: the differences between them are {', or '.join(why)}."]
    for standing in standings:
        if standing in leaders:
            continue
        if standing.mean is None:
            found.append(f"{standing.optimizer} has no result.")
            continue
        beside = [between[frozenset((standing.optimizer, name))] for name in names]
        lost = [(name, pair) for name, pair in zip(names, beside, strict=True) if pair.better == name]
        tested = [(name, pair) for name, pair in lost if pair.adjusted is not None]
        if tested:
            name, pair = tested[0]
            assert pair.difference is not None
            assert pair.adjusted is not None
            ties = [name for name, pair in zip(names, beside, strict=True) if pair.better is None]
            also = f", and tied with {listed(ties)}" if ties else ""
            found.append(
                f"{standing.optimizer} is behind {name} by {number(abs(pair.difference))} ({_p(pair.adjusted)}){also}."
            )
        elif lost:
            done = sum(value is not None for value in standing.values)
            found.append(
                f"{standing.optimizer} is behind {listed([name for name, _ in lost])}, as it has a result with only "
                f"{done} of {len(standing.values)} seeds."
            )
        else:
            found.append(f"{standing.optimizer} is behind others, and tied with {listed(names)}.")
    return found


def _p(adjusted: float) -> str:
    if adjusted == 0:
        return "exactly: nothing depends on the seed"
    return "p < 0.001" if adjusted < 0.001 else f"p = {adjusted:.2g}"


def _targets(settings: Settings, standings: Sequence[Standing]) -> str:
    parts = []
    for standing in standings:
        steps = reached(standing.steps_to_target, ".0f")
        seconds = reached(standing.seconds_to_target, ".2g").partition(" ")[0]
        parts.append(f"{standing.optimizer} {steps}" + ("" if steps == "never" else f" and {seconds} s"))
    partly = any(
        0 < sum(steps is not None for steps in one.steps_to_target) < len(one.steps_to_target) for one in standings
    )
    middle = "the median of the seeds that reached it" if partly else "median"
    goal = f"{spoken(settings.metric)} {number(settings.target)}"
    when = f"every {settings.eval_every}" if settings.eval_every < settings.steps else "at the end"
    return (
        f"Steps and seconds of training to {goal}, {middle}: {'; '.join(parts)}. These runs have {settings.steps} steps and "
        f"were evaluated {when}."
    )


def _rates(settings: Settings, standings: Sequence[Standing]) -> list[str]:
    parts = [
        f"{standing.optimizer} {decades(standing.sensitivity)} "
        f"({standing.sensitivity.low:.2g} to {standing.sensitivity.high:.2g})"
        for standing in standings
        if standing.sensitivity.low is not None and standing.sensitivity.high is not None
    ]
    if not parts:
        return []
    metric = spoken(settings.tuning_metric)
    return [f"Decades of learning rates whose {metric} in tuning is within 5% of the best: {'; '.join(parts)}."]


def warnings(settings: Settings, finished: Sequence[Finished], standings: Sequence[Standing]) -> list[str]:
    """Return what a reader must know before believing the rest."""
    found = []
    if missing(settings, finished):
        found.append(f"The study is not complete: {len(finished)} of {total(settings, finished)} trials are finished.")
    for standing in standings:
        found += _failures(finished, standing)
        found += _edge(settings, standing)
    found += _alike(standings)
    found += _ties(settings, finished)
    found += _untuned(settings)
    idle = too_patient(choose_schedule(settings.schedule, settings.steps), -(-settings.steps // settings.eval_every))
    found += [idle] if idle else []
    chance = any(len(set(standing.values)) > 1 for standing in standings)
    if chance and len(standings) > 1 and len(settings.seeds) < FEW_SEEDS:
        found.append(
            f"With {count(len(settings.seeds), 'seed')} only large and consistent differences stand out from chance, so ties "
            f"are likely: --seeds {FEW_SEEDS} or more."
        )
    if settings.jobs > 1:
        found.append(f"Seconds were measured with {settings.jobs} trials at a time, which slows each down: --jobs 1.")
    return found


def _failures(finished: Sequence[Finished], standing: Standing) -> list[str]:
    own = [done.outcome for done in finished if done.trial.optimizer == standing.optimizer]
    found = []
    if diverged := sum(outcome.status == "diverged" for outcome in own):
        found.append(f"{standing.optimizer}: {diverged} of {count(len(own), 'trial')} diverged.")
    if failed := [outcome for outcome in own if outcome.status == "failed"]:
        found.append(
            f"{standing.optimizer}: {len(failed)} of {count(len(own), 'trial')} failed, the first with: {failed[0].error}."
        )
    return found


def _edge(settings: Settings, standing: Standing) -> list[str]:
    sensitivity = standing.sensitivity
    if not sensitivity.at_edge:
        return []
    sign = 1 if settings.mode == "min" else -1
    ends = {"lowest": sensitivity.values[0], "highest": sensitivity.values[-1]}
    edge = min(ends, key=lambda end: math.inf if ends[end] is None else sign * (ends[end] or 0.0))
    return [
        f"{standing.optimizer}: its best rate is the {edge} that was tried, and a better one may lie beyond: --lr-range."
    ]


def _alike(standings: Sequence[Standing]) -> list[str]:
    """Name the optimizers that trained exactly alike, as an option that has no effect on the task leaves them."""
    named: dict[str, list[str]] = {}
    for standing in standings:
        if all(standing.evaluations):
            trained = [[{**row, "train_seconds": None} for row in rows] for rows in standing.evaluations]
            named.setdefault(json.dumps(trained, sort_keys=True), []).append(standing.optimizer)
    return [
        f"{' and '.join(names)} trained exactly alike, with each seed: what distinguishes them has no effect here."
        for names in named.values()
        if len(names) > 1
    ]


def _ties(settings: Settings, finished: Sequence[Finished]) -> list[str]:
    """Name the optimizers of which several settings did equally well in tuning, and say which of them was taken."""
    ties = {name: equals for name in settings.optimizers if len(equals := equally_good(settings, finished, name)) > 1}
    if not ties or sum(done.trial.phase == "tune" for done in finished) < len(tuning_trials(settings)):
        return []
    how_many = [f"{len(equals)} of {settings.budget} for {name}" for name, equals in ties.items()]
    taken = [best(settings, finished, name) for name in ties]
    are_middles = taken == [middle(equals) for equals in ties.values()]  # earlier versions took the first
    which = "the one with the middle rate, or the lower of two," if are_middles else "one of them"
    return [
        f"Several settings did equally well in tuning: {listed(how_many)}. Of these, {which} was taken. A harder task would "
        "tell them apart."
    ]


def _untuned(settings: Settings) -> list[str]:
    """Name the hyperparameters that were not tuned, and so had their defaults."""
    has = {name for names in settings.hyperparameters.values() for name in names}
    left = [name for name in TUNABLE if name in has and name not in settings.tune]
    if not left:
        return []
    return [f"Tuned: {listed(settings.tune)}. Not tuned, where an optimizer has it: {listed(left)} (--tune)."]
