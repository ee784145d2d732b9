"""The section of a page about a comparison: the ranking with its intervals, the profile of time to target, the sensitivity
to the learning rate, and what was searched.

May import adamas.lab.charts, adamas.lab.compare, adamas.lab.report's parts and the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamas.lab.charts import Chart, Series
from adamas.lab.charts.palette import GREY
from adamas.lab.compare.words import chosen_by
from adamas.lab.report.groups import averaged, averaged_over_time
from adamas.lab.report.numbers import NOTHING, figure, mean, median, seconds, share, size, spoken
from adamas.lab.report.run_charts import PARTS, spans_decades, title
from adamas.lab.report.runs import number, pairs
from adamas.lab.report.section import Section, Table, has_data

if TYPE_CHECKING:
    from adamas.lab.compare.results import Judgement, Standing
    from adamas.lab.compare.study import Finished, Settings

FOLDED = ("points", "space", "command", "description")  # settings that are too long for the table, or shown elsewhere


def study_section(
    path: Path, settings: Settings, finished: Sequence[Finished], judgement: Judgement, colours: dict[str, int]
) -> Section:
    """The section about a study. ``colours`` has those of the optimizers already on the page; new ones are added."""
    for optimizer in settings.optimizers:
        colours.setdefault(optimizer, len(colours))
    finals = {
        optimizer: [done for done in finished if done.trial.phase == "final" and done.trial.optimizer == optimizer]
        for optimizer in settings.optimizers
    }
    charts = [
        _ranking(judgement, finals, colours),
        _profile(judgement, colours, "step"),
        _profile(judgement, colours, "seconds"),
        _sensitivity(judgement, colours),
        _curves(judgement, finals, colours, "step"),
        _curves(judgement, finals, colours, "train_seconds"),
        _time(finals, colours),
    ]
    return Section(
        title=f"{Path(judgement.task).stem}: comparison {path.stem}",
        sentences=judgement.sentences,
        warnings=judgement.warnings,
        charts=[chart for chart in charts if has_data(chart)],
        missing=[f"{chart.title} is not drawn: no trial has data for it." for chart in charts if not has_data(chart)],
        tables=[
            _standings(judgement),
            _by_seed(judgement),
            *([_pairs(judgement)] if judgement.pairs else []),
            _rates(settings, judgement),
            _space(settings),
            *([_costs(finals)] if any(finals.values()) else []),
            *_failures(finished),
            _settings(settings),
        ],
        commands=[settings.command],
    )


def _ranking(judgement: Judgement, finals: Mapping[str, Sequence[Finished]], colours: Mapping[str, int]) -> Chart:
    standings = judgement.standings
    series = [
        Series(
            one.optimizer,
            [place],
            [one.mean],
            low=[one.low],
            high=[one.high],
            colour=colours[one.optimizer],
            style="points",
            diverged=[place] if _without_value(finals[one.optimizer]) else [],
        )
        for place, one in enumerate(standings)
    ]
    ends = [-0.5, len(standings) - 0.5]
    target = Series(f"target {figure(judgement.target)}", ends, [judgement.target] * 2, colour=GREY, style="dashed")
    near = any(one.mean is not None for one in standings)
    return Chart(
        f"Ranking by {spoken(judgement.metric)}",
        "",
        spoken(judgement.metric),
        [*series, target] if near else series,
        log_y=judgement.mode == "min" and spans_decades(series),
        higher_is_better=judgement.mode == "max",
        note="The mean over the seeds at each optimizer's best setting, with its 95% interval; the best is on the left.",
        categories=[one.optimizer for one in standings],
    )


def _profile(judgement: Judgement, colours: Mapping[str, int], over: str) -> Chart:
    """The share of seeds that have reached the target by each time or step."""
    by_step = over == "step"
    clock = "step" if by_step else "train_seconds"
    ends = [number(rows[-1], clock) or 0.0 for one in judgement.standings for rows in one.evaluations if rows]
    series = []
    for one in judgement.standings:
        times: Sequence[float | None] = one.steps_to_target if by_step else one.seconds_to_target
        reached = sorted(time for time in times if time is not None)
        shares = [100 * (place + 1) / len(times) for place in range(len(reached))]
        end = max([*ends, *reached], default=0.0)
        x, y = [0.0, *reached, end], [0.0, *shares, shares[-1] if shares else 0.0]
        series.append(Series(one.optimizer, x, y, colour=colours[one.optimizer], style="steps"))
    return Chart(
        f"Reached the target, by {'step' if by_step else 'time'}",
        "step" if by_step else "seconds of training",
        "% of the seeds",
        series if any(max(one.y, key=lambda y: y or 0.0) for one in series) else [],
        note=f"Share of the seeds that have reached {figure(judgement.target)}; further up and left is better.",
    )


def _sensitivity(judgement: Judgement, colours: Mapping[str, int]) -> Chart:
    series = [
        Series(
            one.optimizer,
            one.sensitivity.rates,
            one.sensitivity.values,
            colour=colours[one.optimizer],
            style="marked",
            diverged=[
                rate for rate, value in zip(one.sensitivity.rates, one.sensitivity.values, strict=True) if value is None
            ],
        )
        for one in judgement.standings
    ]
    return Chart(
        "Sensitivity to the learning rate",
        "learning rate, log scale",
        spoken(judgement.tuning_metric),
        series,
        log_x=True,
        log_y=judgement.mode == "min" and spans_decades(series),
        higher_is_better=judgement.mode == "max",
        note=f"{title(judgement.tuning_metric)} in tuning when only the rate changes: flatter is more forgiving.",
    )


def _without_value(trials: Sequence[Finished]) -> list[Finished]:
    """The trials that diverged or failed."""
    return [done for done in trials if done.outcome.value is None]


def _curves(
    judgement: Judgement, finals: Mapping[str, Sequence[Finished]], colours: Mapping[str, int], over: str
) -> Chart:
    series = []
    for one in judgement.standings:
        curves = [pairs(rows, "step", judgement.metric) for rows in one.evaluations]
        if over == "step":
            drawn = averaged(one.optimizer, curves, colours[one.optimizer])
        else:
            clocks = [pairs(rows, "step", over) for rows in one.evaluations]
            drawn = averaged_over_time(one.optimizer, curves, clocks, colours[one.optimizer])
        ended = [done.outcome.evaluations[-1:] for done in _without_value(finals[one.optimizer])]
        series.append(replace(drawn, diverged=[number(row, over) or 0.0 for rows in ended for row in rows or [{}]]))
    by_time = over == "train_seconds"
    return Chart(
        f"{title(judgement.metric)} {'over time' if by_time else 'by step'}",
        "seconds of training" if by_time else "step",
        spoken(judgement.metric),
        series,
        log_y=judgement.mode == "min" and spans_decades(series),
        higher_is_better=judgement.mode == "max",
        note="The mean of the seeds at the best setting, in a band from the lowest to the highest.",
    )


def _time(finals: Mapping[str, Sequence[Finished]], colours: Mapping[str, int]) -> Chart:
    recorded = {
        name: [split for done in trials if any((split := done.outcome.seconds).values())]
        for name, trials in finals.items()
    }
    parts = [part for part in PARTS if any(split.get(part) for splits in recorded.values() for split in splits)]
    series = [
        Series(
            name,
            range(len(parts)),
            [mean([number(split, part) or 0.0 for split in splits]) for part in parts],
            colour=colours[name],
            style="bars",
        )
        for name, splits in recorded.items()
        if splits
    ]
    note = "Seconds of a final trial, the mean of the seeds, by part."
    return Chart("Where the time went", "", "seconds", series, note=note, categories=parts)


def _standings(judgement: Judgement) -> Table:
    rows = []
    for one in judgement.standings:
        steps = [step for step in one.steps_to_target if step is not None]
        times = [time for time in one.seconds_to_target if time is not None]
        rows.append(
            [
                str(one.rank),
                one.optimizer,
                figure(one.mean, 5),
                f"{figure(one.low, 5)} to {figure(one.high, 5)}" if one.low is not None else NOTHING,
                f"{len(steps)} of {len(one.steps_to_target)}",
                figure(median(steps)) if steps else NOTHING,
                seconds(median(times)) if times else NOTHING,
                settings_text(one.settings),
                str(one.trials_failed),
            ]
        )
    header = ["rank", "optimizer", spoken(judgement.metric), "95% interval", "reached the target"]
    header += ["steps to it", "time to it", "best setting", "trials failed"]
    note = "Optimizers of one rank are tied. Steps and time to the target are medians over the seeds that reached it."
    return Table("Ranking", header, rows, note)


def _by_seed(judgement: Judgement) -> Table:
    header = ["optimizer", *(f"seed {seed}" for seed in judgement.seeds)]
    rows = [[one.optimizer, *(figure(value, 5) for value in one.values)] for one in judgement.standings]
    caption = f"{title(judgement.metric)} of each seed"
    return Table(
        caption, header, rows, f"{NOTHING} is a run that diverged or failed.", folded=len(judgement.seeds) > 12
    )


def _pairs(judgement: Judgement) -> Table:
    rows = [
        [
            f"{pair.first} – {pair.second}",
            figure(pair.difference, 3),
            figure(pair.p, 2),
            figure(pair.adjusted, 2),
            f"{pair.better} is better" if pair.better else "tied",
        ]
        for pair in judgement.pairs
    ]
    header = ["pair", f"difference in {spoken(judgement.metric)}", "p", "p adjusted", "verdict"]
    note = (
        "Paired by seed. The adjusted p corrects for the number of pairs. A difference under a millionth of the target is a "
        "tie, whatever its p."
    )
    return Table("Pairs", header, rows, note, folded=len(rows) > 15)


def _rates(settings: Settings, judgement: Judgement) -> Table:
    rows = [[one.optimizer, *_range(one)] for one in judgement.standings]
    header = ["optimizer", "rates within 5% of the best", "decades", "best rate inside the range"]
    return Table("How forgiving the learning rate is", header, rows, chosen_by(settings))


def _range(one: Standing) -> list[str]:
    sensitivity = one.sensitivity
    if sensitivity.low is None or sensitivity.high is None:
        return [NOTHING, NOTHING, NOTHING]
    inside = "no: a better one may lie outside" if sensitivity.at_edge else "yes"
    return [f"{figure(sensitivity.low, 3)} to {figure(sensitivity.high, 3)}", figure(sensitivity.decades, 2), inside]


def _space(settings: Settings) -> Table:
    names = list(dict.fromkeys(name for space in settings.space.values() for name in space))
    rows = [
        [optimizer, *(_interval(space[name]) if name in space else NOTHING for name in names)]
        for optimizer, space in settings.space.items()
    ]
    note = (
        f"Each optimizer had {settings.budget} trials in this space, and {len(settings.seeds)} seeds at its best setting. "
        f"{chosen_by(settings)}"
    )
    return Table("What was searched", ["optimizer", *map(spoken, names)], rows, note)


def _interval(bounds: Sequence[Any]) -> str:
    low, high, scale = bounds
    return f"{figure(low, 3)} to {figure(high, 3)} ({scale})"


def _costs(finals: Mapping[str, Sequence[Finished]]) -> Table:
    rows = []
    for optimizer, trials in finals.items():
        outcomes = [done.outcome for done in trials if done.outcome.status == "done"]
        totals = [sum(filter(None, outcome.seconds.values())) for outcome in outcomes]
        inside = [number(outcome.seconds, "optimizer") or 0.0 for outcome in outcomes]
        states = [state for outcome in outcomes if (state := number(outcome.memory, "state")) is not None]
        rows.append(
            [
                optimizer,
                seconds(mean([outcome.train_seconds for outcome in outcomes if outcome.train_seconds is not None])),
                share(sum(inside) / sum(totals)) if sum(totals) else NOTHING,
                size(mean(states)),
            ]
        )
    return Table(
        "What it cost", ["optimizer", "training time", "share in the optimizer", "state"], rows, "Means of the seeds."
    )


def _failures(finished: Sequence[Finished]) -> list[Table]:
    rows = [
        [
            done.trial.optimizer,
            done.trial.phase,
            str(done.trial.seed),
            settings_text(done.trial.settings),
            done.outcome.status,
            done.outcome.error or NOTHING,
        ]
        for done in finished
        if done.outcome.status != "done"
    ]
    header = ["optimizer", "phase", "seed", "setting", "what", "why"]
    return [Table(f"Trials that diverged or failed: {len(rows)}", header, rows, folded=len(rows) > 8)] if rows else []


def _settings(settings: Settings) -> Table:
    rows = []
    for name, value in asdict(settings).items():
        if name not in FOLDED and value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append([spoken(name), figure(value) if isinstance(value, float) else text])
    return Table("What was run: every setting, and the versions", ["setting", "value"], rows, folded=True)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Write hyperparameters in a line: ``lr 0.001, weight decay 0.01``."""
    return ", ".join(
        f"{spoken(name)} {figure(value, 3) if isinstance(value, float) else value}" for name, value in settings.items()
    )
