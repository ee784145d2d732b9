"""The section of a page about what the optimizer of a run did: heat maps of its statistics, and their explanation.

May import NumPy, adamas.lab.charts, adamas.lab.report's readers and the standard library.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from adamas.lab.charts import HeatMap
from adamas.lab.report.numbers import count
from adamas.lab.report.runs import Run
from adamas.lab.report.section import Section
from adamas.lab.train.watched import History

MOST_COLUMNS = 250  # of a heat map


def watch_section(run: Run) -> Section:
    """The section about a run whose optimizer was watched."""
    history = run.watched
    assert history is not None
    looked = f"{count(history.count, 'step')} of {count(len(history.names), 'tensor')} were watched"
    explanation = (run.summary or {}).get("explanation") or []
    return Section(
        title=f"What the optimizer did: {run.name}",
        sentences=[f"{looked}; the explanation is below the heat maps." if explanation else f"{looked}."],
        charts=[
            _heat_map(
                history,
                "update_ratio",
                "Update-to-weight ratio of each tensor",
                "‖u‖/‖p‖, log scale",
                "The norm of the update over that of the weights; about 0.001 is usual. A row that stands out is a tensor "
                "that learns at another pace.",
            ),
            _heat_map(
                history,
                "rms",
                "RMSₜ of each tensor",
                "RMSₜ, log scale",
                "√mean(g²/v̂): about 1 is usual, and far more means that gradients grew faster than the second moment could "
                "follow.",
            ),
        ],
        notes=explanation,
    )


def _heat_map(history: History, statistic: str, title: str, label: str, note: str) -> HeatMap:
    values = history[statistic].astype(np.float64)
    size = math.ceil(len(values) / MOST_COLUMNS) or 1
    starts = range(0, len(values), size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stretch in which all are NaN stays NaN
        columns = [np.nanmax(values[start : start + size], axis=0) for start in starts]
    steps = [history.steps[min(start + size, len(values)) - 1] for start in starts]
    most = size * history.length
    largest = f" Each column is the largest value in {most:,} watched steps." if most > 1 else ""
    shown = [[float(x) if math.isfinite(x) else None for x in row] for row in np.array(columns).T]
    return HeatMap(title, "step", label, history.names, steps, shown, note + largest)
