"""The findings about runs, in sentences with figures from their files.

May import adamas.lab.report's readers, adamas.lab.compare.statistics and the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from adamas.lab.compare.statistics import is_negligible
from adamas.lab.report.groups import NONE_BY_DEFAULT, Group, written_setting
from adamas.lab.report.numbers import count, figure, listed, mean, median, seconds, share, size, spoken
from adamas.lab.report.runs import Run, number, pairs

NOTABLY_WORSE = 0.01  # a difference, as a fraction of the best value
SLOW_DATA = 0.2  # the share of the time above which loading slows training down
SPIKE = 10  # a multiple of the median of the last BEFORE samples
BEFORE = 20
FEW_PARAMETERS = 100  # below this, what is usual for networks does not apply
USUAL_RATIO = 1e-3
ENOUGH_SEEDS = 4  # of each of two groups: by chance, all of one beat all of the other with a probability under 3%
OVERFITTED = 1.1  # a multiple of the lowest test loss
MOST_VALUES = 4  # of a setting in which runs differ, in a sentence
# What must be equal for a comparison of optimizers, besides the number of steps.
EQUAL = ("model", "data_dir", "batch_size", "schedule", "plateau", "clip", "precision", "device", "adamas", "torch")
OWN = ("lr", "weight_decay", "state")  # of each optimizer: a difference is one if it was asked for


def of_run(run: Run) -> list[str]:
    """The outcome of one run, and what stands out in it."""
    return [
        outcome(run),
        *_target(run),
        *_best(run),
        *_rate(run),
        *_overfitting(run),
        *_time(run),
        *_gradient(run),
        *_update(run),
        *_memory(run),
    ]


def cautions(run: Run) -> list[str]:
    """What a reader should know before they trust the figures."""
    name = f"Run {run.name}"
    match run.end:
        case "diverged":
            return [f"{name} diverged: its loss was no longer a finite number after step {run.steps:,}."]
        case "interrupted":
            return [f"{name} was interrupted after step {run.steps:,}; its figures are those of a shorter run."]
        case "unfinished":
            return [
                f"{name} is still running or was killed: it has no summary.json. The page shows what it has written so far."
            ]
        case _:
            return []


def inequalities(groups: Sequence[Group]) -> list[str]:
    """Differences between runs other than the optimizer, which make a comparison unfair: length, data, batch size, …"""
    runs = [run for group in groups for run in group.runs]
    differences = []
    lengths = sorted({run.steps for run in runs if run.end == "finished"})
    if len(lengths) > 1:
        differences.append(f"length ({_alternatives([f'{steps:,}' for steps in lengths])} steps)")
    for name in EQUAL:
        values = list(dict.fromkeys(_alone(name, run.config.get(name)) for run in runs))
        if len(values) > 1:
            differences.append(f"{spoken(name)} ({_alternatives(values)})")
    for name in OWN:
        values = list(dict.fromkeys(_alone(name, _given(run, name)) for run in runs))
        if len(values) > 1:
            differences.append(f"{spoken(name)} ({_alternatives(values)})")
    if not differences:
        return []
    optimizers = len({run.optimizer for run in runs})
    besides = "Besides the optimizer, the runs" if optimizers > 1 else "The runs"
    unsure = ", so a difference in the result need not come from the optimizer" if optimizers > 1 else ""
    return [f"{besides} differ in {listed(differences)}{unsure}."]


def _given(run: Run, name: str) -> Any:
    """The option that the run was given; None if it has its default."""
    options = run.config.get("options")
    return options.get(name) if isinstance(options, dict) else None


def _alone(name: str, value: Any) -> str:
    """Write a setting without its name."""
    if value is None:
        return "none" if name in NONE_BY_DEFAULT else "default"
    return written_setting(name, value).removeprefix(f"{spoken(name)} ")


def _alternatives(values: Sequence[str]) -> str:
    if len(values) > MOST_VALUES:
        return f"{len(values)} values"
    return f"{', '.join(values[:-1])} or {values[-1]}"


def outcome(run: Run) -> str:
    """How a run ended."""
    took = f" in {seconds(run.train_seconds)} of training" if run.train_seconds is not None else ""
    done = f"{run.optimizer} made {count(run.steps, 'step')} on {run.task}{took}"
    if run.value is None and run.summary is not None and run.metric is not None:
        return f"{done}, and ended at a {spoken(run.metric)} that is not a finite number."
    if run.value is None or run.metric is None:
        return f"{done}, and has not been evaluated yet."
    if run.end == "unfinished":
        reached = f"{spoken(run.metric)} of {figure(run.value)}"
        return f"{done} so far, up to a {reached}: it has no end, as it is still running or was killed."
    return f"{done}, and ended at a {spoken(run.metric)} of {figure(run.value)}."


def _target(run: Run) -> list[str]:
    if run.target is None:
        return []
    reached = run.to_target()
    if reached is None:
        verb = "has not reached" if run.end == "unfinished" else "did not reach"
        return [f"It {verb} its target, {figure(run.target)}."]
    return [
        f"Its target, {figure(run.target)}, was reached after {count(round(reached[0]), 'step')} and {seconds(reached[1])}."
    ]


def _best(run: Run) -> list[str]:
    """Say where the best value was, if the last is notably worse."""
    curve = run.curve(run.metric or "")
    if run.mode is None or run.value is None or not curve:
        return []
    step, best = (max if run.mode == "max" else min)(curve, key=lambda point: point[1])
    if abs(best - run.value) <= NOTABLY_WORSE * abs(best) or (best > run.value) != (run.mode == "max"):
        return []
    return [f"It had been better before: {figure(best)} at step {step:,.0f}."]


def _rate(run: Run) -> list[str]:
    summary = run.summary or {}
    sentences = []
    found = summary.get("lr_found") or run.config.get("lr_found")
    lr = number(summary, "lr") or number(run.config, "lr")
    if found:
        sentences.append(f"The learning rate was found by a search: {_sentence(str(found).splitlines()[0])}")
    elif lr is not None:
        schedule = str(run.config.get("schedule") or "constant")
        plateau = ", times the factor of a plateau" if run.config.get("plateau") else ""
        sentences.append(f"The learning rate was {figure(lr)} ({schedule}{plateau}).")
    if run.followed:
        sentences.append(f"The plateau followed {_followed(run)}.")
    cuts = [row["cut"] for row in run.evaluations if row.get("cut") and (number(row, "step") or 0) < run.steps]
    if cuts:
        last = figure(number(run.evaluations[-1], "learning_rate"))
        times, which = ("once", "The") if len(cuts) == 1 else (f"{len(cuts)} times", "The first")
        sentences.append(f"The plateau reduced the rate {times}; at the last evaluation it was {last}.")
        sentences.append(f"{which} cut: {_sentence(cuts[0])}")
    elif run.followed:
        sentences.append("The plateau never reduced the rate.")
    return sentences


def _followed(run: Run) -> str:
    """What the plateaus of a run observed."""
    left_out = f", on {count(run.validation_examples, 'example')} that training left out"
    where = left_out if run.validation_examples else "; the task has no validation data"
    return f"{listed(list(map(spoken, run.followed)))}{where}"


def _sentence(text: object) -> str:
    return " ".join(str(text).split()).rstrip(".") + "."


def _overfitting(run: Run) -> list[str]:
    test = next((name for name in run.metrics if name in ("test_loss", "loss", "validation_loss")), None)
    curve = run.curve(test or "")
    train = run.curve("train_loss")
    if test is None or len(curve) < 3 or len(train) < 3:
        return []
    step, lowest = min(curve, key=lambda point: point[1])
    last = curve[-1][1]
    if last <= OVERFITTED * lowest or lowest <= 0 or train[-1][1] >= min(loss for at, loss in train if at <= step):
        return []
    return [
        f"It overfits: the {spoken(test)} was lowest at step {step:,.0f} ({figure(lowest)}) and rose to {figure(last)}, "
        "while the training loss kept falling."
    ]


def _time(run: Run) -> list[str]:
    parts = run.seconds()
    total = sum(parts.values())
    if not total:
        return []
    gradient = parts.get("forward", 0.0) + parts.get("backward", 0.0)
    sentence = (
        f"Of {seconds(total)}, the gradient took {share(gradient / total)}, the optimizer "
        f"{share(parts.get('optimizer', 0.0) / total)}, the data {share(parts.get('data', 0.0) / total)} and evaluation "
        f"{share(parts.get('evaluation', 0.0) / total)}."
    )
    if parts.get("data", 0.0) > SLOW_DATA * total:
        sentence += " Loading the data slows training down: a faster way to load it would save the most time."
    return [sentence]


def _gradient(run: Run) -> list[str]:
    samples = pairs(run.samples, "step", "grad_norm")
    norms = [norm for _, norm in samples]
    if len(norms) < 2:
        return []
    # Compared with the samples just before it: even in a run that goes well, the norm may fall by orders of magnitude.
    before = [median(norms[max(0, place - BEFORE) : place]) for place in range(1, len(norms))]
    spikes = [
        (norm / usual, norm, step)
        for usual, (step, norm) in zip(before, samples[1:], strict=True)
        if norm > SPIKE * usual > 0
    ]
    if not spikes:
        return [f"The gradient norm never rose to {SPIKE} times its previous level: there was no spike."]
    times, norm, step = max(spikes)
    return [
        f"The gradient norm had spikes: {len(spikes)} of {count(len(norms), 'sampled step')} were over {SPIKE} times the "
        f"median of those before, the largest {figure(times, 2)} times, at {figure(norm, 3)} in step {step:,.0f}."
    ]


def _update(run: Run) -> list[str]:
    ratios = [ratio for _, ratio in pairs(run.samples, "step", "update_ratio")]
    if not ratios or (number(run.summary or {}, "parameters") or math.inf) < FEW_PARAMETERS:
        return []
    middle = median(ratios)
    sentence = f"A step changed the weights by {figure(middle, 2)} of their norm (median)"
    if middle > 10 * USUAL_RATIO:
        return [f"{sentence}, far more than the usual {USUAL_RATIO:g}: a lower learning rate may be more stable."]
    if middle < USUAL_RATIO / 10:
        return [f"{sentence}, far less than the usual {USUAL_RATIO:g}: a higher learning rate may train faster."]
    return [f"{sentence}, near the usual {USUAL_RATIO:g}."]


def _memory(run: Run) -> list[str]:
    memory = run.memory()
    parameters = number(run.summary or {}, "parameters")
    if "state" not in memory or not parameters:
        return []
    per = memory["state"] / parameters
    return [
        f"The optimizer kept {size(memory['state'])} of state, {figure(per, 3)} bytes for each of {parameters:,.0f} "
        f"parameters; the peak memory of the process was {size(memory.get('peak'))}."
    ]


def of_groups(groups: Sequence[Group]) -> list[str]:
    """A comparison of several runs of one task."""
    runs = [run for group in groups for run in group.runs]
    metric, mode = runs[0].metric, next((run.mode for run in runs if run.mode), None)
    sentences = [f"{count(len(runs), 'run')} of {count(len(groups), 'setting')} on {runs[0].task}."]
    if metric is None or mode is None:
        return sentences
    ended = [(centre, group) for group in groups if (centre := mean(group.values())) is not None]
    ended.sort(key=lambda pair: pair[0], reverse=mode == "max")
    if not ended:
        return [*sentences, "None of them has a final evaluation."]
    centre, best = ended[0]
    target = next((run.target for run in runs if run.target is not None), None)
    ties = [group for value, group in ended if value == centre or is_negligible(value - centre, target or 0.0)]
    seeds = len(best.values())
    over = f", the mean of {count(seeds, 'seed')} ({_between(best)})" if seeds > 1 else ""
    first = f"{'Highest' if mode == 'max' else 'Lowest'} {spoken(metric)}"
    if len(ties) > 1:
        sentences.append(f"{first}: {figure(centre)} with {listed([group.label for group in ties])}, which are tied.")
    else:
        sentences.append(f"{first}: {figure(centre)} with {best.label}{over}.")
    if len(ended) > len(ties):
        second, other = ended[len(ties)]
        text = f"Next: {figure(second)} with {other.label}, a difference of {figure(abs(centre - second), 2)}"
        sentences.append(f"{text}{_overlap(best, other)}.")
    return sentences + _targets(groups, target) + _validation(groups)


def _validation(groups: Sequence[Group]) -> list[str]:
    """What the plateaus observed, if any run has one."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for text in dict.fromkeys(_followed(run) for run in group.runs if run.followed):
            found.setdefault(text, []).append(group.label)
    runs = [run for group in groups for run in group.runs]
    if len(found) == 1 and all(run.followed for run in runs):
        return [f"The plateau of every run followed {text}." for text in found]
    sentences = [f"The plateau of {listed(labels)} followed {text}." for text, labels in found.items()]
    if {bool(run.validation_examples) for run in runs} == {False, True}:
        sentences.append("The other runs were trained on all training examples.")
    return sentences


def _between(group: Group) -> str:
    return f"{figure(min(group.values()))} to {figure(max(group.values()))}"


def _overlap(first: Group, second: Group) -> str:
    one, two = first.values(), second.values()
    if min(len(one), len(two)) < 2:
        return "; with a single seed that may be chance"
    if max(min(one), min(two)) <= min(max(one), max(two)):
        return "; their seeds overlap, so it may be chance"
    surely = min(len(one), len(two)) >= ENOUGH_SEEDS
    return "; every seed of the first beats every seed of the second" + ("" if surely else ", but there are few seeds")


def _targets(groups: Sequence[Group], target: float | None) -> list[str]:
    if target is None:
        return []
    reached: list[tuple[float, float, Group]] = []
    never = []
    for group in groups:
        times = [time for run in group.runs if (time := run.to_target()) is not None]
        if not times:
            never.append(group.label)
        else:
            reached.append((len(times) / len(group.runs), median([steps for steps, _ in times]), group))
    sentences = []
    sure = [(steps, group) for share_reached, steps, group in reached if share_reached == 1]
    if sure:
        steps, group = min(sure, key=lambda pair: pair[0])
        usual = "" if len(group.runs) == 1 else " (median)"
        sentences.append(
            f"The target, {figure(target)}, was reached first by {group.label}, after {figure(steps)} steps{usual}."
        )
    partly = [group.label for share_reached, _, group in reached if share_reached < 1]
    if partly:
        sentences.append(f"Only some seeds of {listed(partly)} reached it.")
    if never:
        sentences.append(
            f"It was not reached by {listed(never)}." if sentences else f"None reached the target, {figure(target)}."
        )
    return sentences
