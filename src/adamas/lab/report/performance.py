"""The performance profile of several studies, as in AlgoPerf: the share of problems that an optimizer solves within τ
times the time of the fastest one. A problem is one seed of one study.

Dolan and Moré, "Benchmarking optimization software with performance profiles" (2002); Dahl et al., "Benchmarking Neural
Network Training Algorithms" (2023), section 4. May import adamas.lab.charts, adamas.lab.compare and the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adamas.lab.charts import Chart, Series
from adamas.lab.report.numbers import count, figure, listed, share
from adamas.lab.report.section import Section, Table

if TYPE_CHECKING:
    from adamas.lab.compare.results import Judgement

LEAST_END = 2.0  # the smallest τ at the right end of the chart
AT = (1.0, 1.5, 2.0, 4.0)  # τ in the table


def performance_section(judgements: Sequence[Judgement], colours: dict[str, int]) -> Section:
    """Compare the optimizers that all studies have in common, over the problems of all studies."""
    names = [one.optimizer for one in judgements[0].standings]
    shared = [name for name in names if all(_has(judgement, name) for judgement in judgements)]
    left_out = sorted({one.optimizer for judgement in judgements for one in judgement.standings} - set(shared))
    title = f"All {len(judgements)} studies: performance profile"
    if len(shared) < 2:
        return Section(title, ["The studies have fewer than two optimizers in common, so there is no profile."])
    for name in shared:
        colours.setdefault(name, len(colours))
    by_time, by_step = ratios(judgements, shared, "seconds"), ratios(judgements, shared, "steps")
    problems = len(next(iter(by_time.values())))
    warnings = [f"Left out, because not every study has them: {listed(left_out)}."] if left_out else []
    return Section(
        title,
        _sentences(by_time, problems, len(judgements)),
        warnings=warnings,
        charts=[_chart(by_time, colours, "time"), _chart(by_step, colours, "steps")]
        if any(math.isfinite(ratio) for row in by_time.values() for ratio in row)
        else [],
        tables=[_table(by_time)],
    )


def ratios(judgements: Sequence[Judgement], names: Sequence[str], over: str) -> dict[str, list[float]]:
    """For each optimizer and problem, its time to the target divided by the fastest; infinite if it missed the target."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for judgement in judgements:
        standings = {one.optimizer: one for one in judgement.standings}
        for place in range(len(judgement.seeds)):
            times = {}
            for name in names:
                one = standings[name]
                reached = one.seconds_to_target if over == "seconds" else one.steps_to_target
                time = reached[place] if place < len(reached) else None
                times[name] = math.inf if time is None else float(time)
            fastest = min(times.values())
            for name, time in times.items():
                found[name].append(time / fastest if 0 < fastest < math.inf and time < math.inf else math.inf)
    return found


def within(row: Sequence[float], tau: float) -> float:
    """The share of problems solved within τ times the best time."""
    return sum(ratio <= tau for ratio in row) / len(row)


def _has(judgement: Judgement, name: str) -> bool:
    return any(one.optimizer == name for one in judgement.standings)


def _sentences(by_time: Mapping[str, Sequence[float]], problems: int, studies: int) -> list[str]:
    sentences = [f"{count(problems, 'problem')}: one for each seed of {count(studies, 'study', 'studies')}."]
    if not any(math.isfinite(ratio) for row in by_time.values() for ratio in row):
        return [*sentences, "No optimizer reached a target."]
    sentences.append(f"Fastest to the target {_most({name: within(row, 1.0) for name, row in by_time.items()})}.")
    solved = {name: sum(map(math.isfinite, row)) / len(row) for name, row in by_time.items()}
    sentences.append(f"Most often successful {_most(solved)}.")
    return sentences


def _most(shares: Mapping[str, float]) -> str:
    highest = max(shares.values())
    names = [name for name, value in shares.items() if value == highest]
    each = ", each" if len(names) > 1 else ""
    return f"{'was' if len(names) == 1 else 'were'} {listed(names)}{each} in {share(highest)} of the problems"


def _chart(found: Mapping[str, Sequence[float]], colours: Mapping[str, int], over: str) -> Chart:
    finite = [ratio for row in found.values() for ratio in row if math.isfinite(ratio)]
    end = max([LEAST_END, *(1.1 * ratio for ratio in finite)])
    series = []
    for name, row in found.items():
        places = sorted({1.0, *(ratio for ratio in row if math.isfinite(ratio)), end})
        shares = [100 * within(row, place) for place in places]
        series.append(Series(name, places, shares, colour=colours[name], style="steps"))
    return Chart(
        f"Performance profile, by {over} to the target",
        f"τ: times the best {'time' if over == 'time' else 'number of steps'}, log scale",
        "% of the problems",
        series,
        log_x=True,
        note=f"Share of the problems solved within τ times the {'time' if over == 'time' else 'steps'} of the fastest; "
        "further up and left is better.",
    )


def _table(by_time: Mapping[str, Sequence[float]]) -> Table:
    rows = [
        [name, *(share(within(row, tau)) for tau in AT), share(sum(map(math.isfinite, row)) / len(row))]
        for name, row in by_time.items()
    ]
    header = ["optimizer", *(f"τ ≤ {figure(tau)}" for tau in AT), "ever"]
    return Table("Problems solved within τ times the best time", header, rows)
