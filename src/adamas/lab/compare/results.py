"""The result of a comparison as data: each optimizer, each pair, and the whole. May import the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Sensitivity:
    """How the metric of tuning depends on the learning rate alone.

    ``rates`` are in rising order; ``values`` are that metric at each, None if the run diverged or failed. ``low`` and ``high``
    bound the rates around the best whose metric is within 5% of it, or within a millionth of the target; ``decades`` is the
    width of that range. ``at_edge``: the best rate is the lowest or the highest that was tried, so a better one may lie
    outside.
    """

    rates: list[float]
    values: list[float | None]
    low: float | None
    high: float | None
    decades: float
    at_edge: bool


@dataclass(frozen=True)
class Standing:
    """One optimizer at its best setting. Lists are by seed, with None if the run diverged, failed, or missed the target.

    ``mean`` with its 95% interval ``low`` to ``high`` is over the seeds that finished. ``rank`` counts from 1; ties share it.
    """

    optimizer: str
    rank: int
    settings: dict[str, Any]
    values: list[float | None]
    mean: float | None
    low: float | None
    high: float | None
    steps_to_target: list[int | None]
    seconds_to_target: list[float | None]
    train_seconds: list[float | None]
    sensitivity: Sensitivity
    trials_failed: int
    evaluations: list[list[dict[str, Any]]]


@dataclass(frozen=True)
class Pair:
    """Two optimizers compared over the same seeds. ``difference`` is the mean of first minus second; ``p`` of a paired test,
    ``adjusted`` for the number of pairs; ``better`` is None if they are tied."""

    first: str
    second: str
    difference: float | None
    p: float | None
    adjusted: float | None
    better: str | None


@dataclass(frozen=True)
class Judgement:
    """The result of a study. ``metric`` is that of the standings, ``tuning_metric`` that by which settings were chosen and
    sensitivities measured. ``standings`` are in the order of their ranks; ``sentences`` state the result in words and figures.
    """

    task: str
    metric: str
    tuning_metric: str
    mode: Literal["max", "min"]
    target: float
    seeds: list[int]
    standings: list[Standing]
    pairs: list[Pair]
    sentences: list[str]
    warnings: list[str]
