"""What ``optimizer.explain()`` returns: what left its usual course in the steps that were watched, where and when first.

``adamas.step.patterns`` lists what is recognized, and ``adamas.step.course`` is the yardstick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .course import LEAST, YOUNG, History
from .patterns import PATTERNS, Found, Pattern
from .watch import Watch

_BY_NAME = {pattern.name: pattern for pattern in PATTERNS}


@dataclass(frozen=True)
class Finding:
    """Something that went wrong.

    Attributes:
        pattern: the name of a pattern in ``adamas.step.patterns.PATTERNS``.
        step: the number of the step at which things left their usual course.
        tensors: the names of the tensors where they did, in this order; empty if the pattern does not concern tensors.
        figures: the numbers in ``text``, by name.
        text: what was seen, as sentences.
        advice: what to do.
        consequences: what followed from it, in order.
    """

    pattern: str
    step: int
    tensors: tuple[str, ...]
    figures: Mapping[str, float]
    text: str
    advice: str
    consequences: tuple[Finding, ...] = ()

    @property
    def title(self) -> str:
        """The pattern and the step, such as ``"Step 200, bad batch"``."""
        return f"Step {self.step}, {self.pattern.replace('_', ' ')}"

    def __str__(self) -> str:
        """All of it in plain sentences."""
        followed = [f"What followed: {one.title}. {one.text}" for one in self.consequences]
        return "\n  ".join([f"{self.title}: {self.text}", *followed, _BY_NAME[self.pattern].means, self.advice])


@dataclass(frozen=True)
class Explanation:
    """What went wrong in the steps that were watched.

    It is true if anything was found. ``str()`` describes the findings in plain sentences, in the order in which they began.

    Attributes:
        findings: what was found, in this order. What followed from a finding is among its ``consequences``.
        looked_at: a sentence that names the steps and tensors that were examined, and what could not be seen.
    """

    findings: tuple[Finding, ...]
    looked_at: str

    @classmethod
    def of(cls, watch: Watch, groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]], is_whole: bool) -> Explanation:
        """Explains what was watched.

        Args:
            watch: the statistics.
            groups: the names of the tensors of each group, and its hyperparameters.
            is_whole: whether ``watch`` has every watched step since the optimizer was made or loaded.
        """
        options = {name: group for names, group in groups for name in names}
        history = History(watch, [options.get(name, {}) for name in watch.names], is_whole)
        found = list[tuple[int, int, int, Finding]]()
        with np.errstate(all="ignore"):
            for order, pattern in enumerate(PATTERNS if len(history) else ()):
                for one in pattern.find(history):
                    found.append((one.row, order, one.reach, _finding(history, pattern, one)))
        return cls(_causes(sorted(found, key=lambda one: one[:2])), _looked_at(history))

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.findings)

    def __str__(self) -> str:
        """All of it in plain sentences."""
        if not self:
            return f"Nothing has left its usual course. {self.looked_at}"
        return "\n\n".join([*map(str, self.findings), self.looked_at])


def _finding(history: History, pattern: Pattern, found: Found) -> Finding:
    names = tuple(history.watch.names[i] for i in found.tensors)
    return Finding(pattern.name, int(history.steps[found.row]), names, found.figures, found.text, pattern.advice)


def _causes(found: Sequence[tuple[int, int, int, Finding]]) -> tuple[Finding, ...]:
    """The findings with their consequences, from all of them in order, each with its row, its pattern's place, its reach."""
    causes = list[Finding]()
    cause, end = 0, -1  # the last finding that others follow from, and the last row at which they do
    for row, _, reach, finding in found:
        if row > end:
            causes.append(finding)
            if reach:
                cause, end = len(causes) - 1, row + reach
        elif finding.pattern not in {one.pattern for one in (causes[cause], *causes[cause].consequences)}:
            causes[cause] = replace(causes[cause], consequences=(*causes[cause].consequences, finding))
    return tuple(causes)


def _looked_at(history: History) -> str:
    skipped = len(history.watch) - len(history)
    if not len(history):
        return f"All {skipped} watched steps were skipped." if skipped else "No step has been watched yet."
    steps, every = history.steps, int(np.median(np.diff(history.steps))) if len(history) > 1 else 1
    text = f"Looked at {len(history)} watched steps, from {steps[0]} to {steps[-1]}, of {len(history.watch.names)} tensors."
    if skipped:
        text += f" {skipped} more were skipped."
    if len(history) <= history.young + LEAST:
        text += f" A usual course needs more than {LEAST} of them after the first {YOUNG} steps of training."
    if every > 1:
        text += f" One step in {every} was watched: what happened between them, and was over, is not seen."
    if not history.has_loss:
        is_known = np.isfinite(history.per_step("loss")).any()
        text += (
            " The loss can be negative: it was not judged."
            if is_known
            else " The loss is not known: give it as step(loss=…)."
        )
    return text
