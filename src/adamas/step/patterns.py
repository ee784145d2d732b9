"""What ``optimizer.explain()`` recognizes (``adamas.step.explaining``): ``PATTERNS``.

Each pattern is a function that looks for it in a ``History``, beside what it means and what to do. Its docstring is what is
seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from .course import (
    BLOCK,
    LASTING,
    LEAST,
    MOST,
    SIGMAS,
    SOMETIMES,
    STANDING,
    SUSPICIOUS,
    WINDOW,
    Course,
    History,
    columns,
    lasting,
    log,
    medians,
    middle,
    standing,
)
from .watch import RATIO
from .watching import Array

JUMPED = 3.0  # times the usual norm of the gradient; what jumps less does no harm
REMAINED = 0.25  # of a jump's logarithm: what a huge gradient leaves, since the network has changed, is less
RISEN = 2.5  # times the usual loss; less may be the course of things, as where two networks play against each other
DOUBLED = 2.0  # how far updates had grown before a loss rose in github.com/marin-community/marin/issues/1368
REPLACED = 0.3  # of update to weight, where 1e-3 is usual: three steps replace the weights
EXPLODED = 100.0  # two orders of magnitude within WINDOW steps
GROWN_ON = 4.0  # how much of that came after its first LASTING steps: otherwise it jumped, and moments can follow
REPLACED_V = (
    4.0  # of 1/√v in one step; a v of 0 gives 1/√(1 - β2), 31.6 by default; elements that were not lit for long, 3
)
RMS = 2.3  # what counts as a spike of RMSₜ in Wortsman et al., 2023, arXiv:2304.13013
# Decay and the rest of an update are at right angles on average (Kosson et al., 2024, arXiv:2305.17212). Then decay is the
# larger of them from 1/√2 of the whole on; in equilibrium it is √(lr · weight_decay / 2).
OUTWEIGHS = 0.7071


class Found(NamedTuple):
    """What a pattern found.

    Attributes:
        row: the row of the history at which things left their usual course.
        tensors: the columns of the tensors.
        figures: the figures of ``text``, by name.
        text: what was seen, as sentences.
        reach: what begins within so many rows follows from it.
    """

    row: int
    tensors: Sequence[int]
    figures: dict[str, float]
    text: str
    reach: int = 0


Find: TypeAlias = Callable[[History], Iterator[Found]]


@dataclass(frozen=True)
class Pattern:
    """A pattern that ``optimizer.explain()`` recognizes.

    Attributes:
        name: its name.
        seen: what is seen.
        means: what that means.
        advice: what to do.
        find: finds it.
    """

    name: str
    seen: str
    means: str
    advice: str
    find: Find = field(repr=False)


PATTERNS: list[Pattern] = []  # of those that begin at the same step, the first is the cause


def _pattern(means: str, advice: str) -> Callable[[Find], Find]:
    def add(find: Find) -> Find:
        seen = " ".join((inspect.getdoc(find) or "").split())
        PATTERNS.append(Pattern(find.__name__, seen, means, advice, find))
        return find

    return add


def _short(x: float) -> str:
    return f"{x:.3g}"


def _usually(course: Course, row: int, column: int = 0) -> str:
    """A value and the usual one, such as ``41.2, usually 0.9``."""
    return f"{_short(np.exp(course.values[row, column]))}, usually {_short(np.exp(course.median[row, column]))}"


def _whose(history: History, tensors: Sequence[int]) -> str:
    """What the figures of a sentence about the gradients of tensors are, those of the first."""
    return "its norm" if len(tensors) == 1 else f"the norm in {history.watch.names[tensors[0]]}"


def _share(is_there: Array, is_known: Array) -> float:
    """The share of the tensors that are known."""
    return float(is_there.sum() / max(1, is_known.sum()))


def _first(rows: dict[int, int]) -> tuple[int, list[int]]:
    """The first of the rows of some columns, and the columns with a row of the LASTING from it on, in order."""
    row = min(rows.values())
    return row, sorted((i for i in rows if rows[i] < row + LASTING), key=lambda i: (rows[i], i))


# ---- What happens at one step.


@_pattern(
    means="The forward or the backward pass overflowed, or the data have a NaN. Weights and moments are lost from there on.",
    advice='Go back to a checkpoint from before. on_nonfinite="skip" leaves such steps out, "raise" names the parameter. Look '
    "for a logarithm or a root of 0, a division by a small number, or an overflow of 16-bit numbers in the layers named.",
)
def nonfinite_gradient(history: History) -> Iterator[Found]:
    """The norm of the gradient is infinite or NaN."""
    rows = columns(~np.isfinite(history.per_step("grad_norm")))
    if rows:
        row, gradient = rows[0], history["grad_norm"]
        was_there = np.isfinite(gradient[:row]).any(axis=0) | (row == 0)
        tensors = columns(~np.isfinite(gradient[row]) & was_there)
        of = f" of {history.names(tensors)}" if tensors else ""
        yield Found(row, tensors, {"steps": len(rows)}, f"The gradient{of} was infinite or NaN.", WINDOW)


@_pattern(
    means="The second moment was reset, lost, or loaded from elsewhere. Until it is estimated again, in about 1/(1 - β2) "
    "steps, updates have the wrong size.",
    advice="Load the optimizer's state together with the weights, for the same parameters under the same names. Without it, "
    "begin with a fresh optimizer, which corrects the bias of its moments, and warm the learning rate up.",
)
def moments_changed(history: History) -> Iterator[Found]:
    """The count of steps begins again; or 1/√v leaves its usual course in most tensors from one watched step to the next,
    while their gradients are as usual, and no huge one before and none that was not watched explains it; or it falls quickly
    from the first step after loading."""
    scale, gradient = history.scale, history.gradient
    for row in columns(np.diff(history.steps) < 0):
        before, after = int(history.steps[row]), int(history.steps[row + 1])
        tensors = columns(np.isfinite(history["update_norm"][row + 1]))
        text = f"The count of steps fell from {before} to {after}: the moments of {history.names(tensors)} began again."
        yield Found(row + 1, tensors, {"before": before, "after": after}, text, WINDOW)
    jump = np.diff(scale.values, axis=0, prepend=np.nan)
    unseen = np.diff(history.steps, prepend=history.steps[0])[:, None] - 1
    # A gradient that was not watched may have enlarged v, and v has forgotten as much as β2 lets it.
    is_open = (unseen > 0) & ((jump < 0) | (jump < np.log(REPLACED_V) - (unseen + 1) * np.log(_beta2(history)) / 2))
    height = gradient.values - gradient.median
    huge = np.cumsum(np.nan_to_num(height) >= np.log(EXPLODED), axis=0)
    remembers = huge > np.vstack([np.zeros_like(huge[:WINDOW]), huge[:-WINDOW]])[: len(huge)]
    is_off = np.abs(scale.sigmas) > SIGMAS
    was_off = np.vstack([np.zeros_like(is_off[:1]), is_off[:-1]])  # as after a huge gradient
    changed = (
        is_off
        & ~was_off
        & ~is_open
        & ~remembers
        & (np.abs(jump) >= np.log(REPLACED_V))
        & (np.abs(gradient.sigmas) <= SIGMAS)
    )
    for row in columns(changed.any(axis=1)):
        if _share(changed[row], np.isfinite(scale.sigmas[row])) >= MOST:
            tensors = columns(np.abs(jump[row]) >= np.log(REPLACED_V))
            times, usual = (float(np.exp(middle(x[row, tensors]))) for x in (jump, height))
            before, after = history.steps[row - 1], history.steps[row]
            text = (
                f"1/√v of {history.names(tensors)} changed to {_short(times)} times its size from step {before} to {after}, "
                f"while the gradients were {_short(usual)} times the usual ones: the second moment was not computed from them."
            )
            yield Found(row, tensors, {"times": times, "gradient": usual}, text, WINDOW)
            break
    early, late = slice(0, BLOCK), slice(BLOCK, BLOCK + LEAST)
    if history.is_whole and len(history) >= BLOCK + LEAST and history.steps[0] > 1:
        rms, drop = history["rms"] * _corrected(history), scale.values[0] - medians(scale.values[late])
        is_small = (np.median(rms[early], axis=0) >= RMS) & (drop >= np.log(DOUBLED))
        if _share(is_small, np.isfinite(rms[0])) >= MOST:
            tensors = columns(is_small)
            began = middle(rms[0, tensors])
            text = (
                f"After loading, the second moment of {history.names(tensors)} was too small for the gradients: RMSₜ was "
                f"{_short(began)}, and 1 is usual."
            )
            yield Found(0, tensors, {"rms": began}, text, WINDOW)


def _beta2(history: History) -> Array:
    """How much of its second moment each tensor keeps from one step to the next; NaN where that is not known."""
    kept = [options["betas"][1] if "betas" in options else options.get("alpha") for options in history.options]
    return np.array([np.nan if one is None else float(one) for one in kept])


def _corrected(history: History) -> Array:
    """The factor of RMSₜ at the first row if the bias of the second moment were corrected, of each tensor."""
    is_not = [not one.get("bias_correction", "betas" in one or "alpha" not in one) for one in history.options]
    found: Array = np.where(is_not, np.sqrt(1 - _beta2(history) ** history.steps[0]), 1.0)
    return found


def _dead(history: History) -> dict[int, int]:
    gradient, is_made = history["grad_norm"], history.per_step("grad_norm") > 0
    return standing((gradient == 0) & is_made[:, None], np.isfinite(gradient), share=1.0)


@_pattern(
    means="The layer is dead, or the loss does not depend on it: ReLUs that no input reaches, a saturated or masked output, a "
    "branch that is never taken or was detached.",
    advice="If it died in the run, lower the learning rate and begin again from a checkpoint from before. If it never had a "
    "gradient, look for where the graph is cut. What is to stay frozen need not be given to the optimizer.",
)
def dead_layer(history: History) -> Iterator[Found]:
    """The gradient of a tensor is exactly 0 at every step, while others have one."""
    if rows := _dead(history):
        row, tensors = _first(rows)
        steps, reach = len(history) - row, WINDOW if row else 0  # one that never had a gradient causes nothing
        text = f"The gradient of {history.names(tensors)} has been 0 for {steps} watched steps."
        yield Found(row, tensors, {"steps": steps}, text, reach)


@_pattern(
    means="One batch was unlike the others. The optimizer did not cause it. If the gradient was huge, Adam's second moments "
    "remember it for about 1/(1 - β2) steps, in which updates are too small.",
    advice="Look at the examples of this batch: labels, outliers, repeated or empty text, a wrong normalization. "
    'max_grad_norm="auto" shortens such a gradient to 1.5 times the usual norm and leaves others as they are.',
)
def bad_batch(history: History) -> Iterator[Found]:
    """The norm of the gradient and the loss jump for one or a few steps, or the norm alone by two orders of magnitude, and
    before and after them they are as usual, or nearly so beside the jump."""
    whole = history.whole_gradient
    height = (whole.values - whole.median)[:, 0]
    jumped = whole.rose[:, 0] & (height >= np.log(JUMPED))
    if history.has_loss:  # a small batch at the end of an epoch has a large gradient, but a usual loss
        jumped &= (history.loss.sigmas[:, 0] > SUSPICIOUS) | (height >= np.log(EXPLODED))
    rows = list[int]()
    for row in columns(jumped):
        before, after = slice(max(0, row - LASTING), row), slice(row + 1, row + 1 + LASTING)
        was_usual = not middle(whole.sigmas[before]) > SUSPICIOUS
        is_over = not middle(whole.sigmas[after]) > SUSPICIOUS or middle(height[after]) <= REMAINED * height[row]
        if was_usual and is_over and (not rows or row >= rows[-1] + LASTING):
            rows.append(row)
    if rows:
        row = rows[0]
        tensors = columns(history.gradient.rose[row])
        figures = {"grad_norm": float(np.exp(whole.values[row, 0])), "usual": float(np.exp(whole.median[row, 0]))}
        text = f"The gradient jumped for one batch: its norm was {_usually(whole, row)}"
        if row + 1 < len(history):
            text += f", and {_short(np.exp(middle(whole.values[row + 1 : row + 1 + LASTING])))} after it"
        if np.isfinite(history.loss.sigmas[row, 0]):
            text += f"; the loss was {_usually(history.loss, row)}"
        text += f". It jumped in {history.names(tensors)}." if tensors else "."
        if len(rows) > 1:
            others = ", ".join(str(history.steps[other]) for other in rows[1:4])
            text += f" So did {len(rows) - 1} more, at step {others}{', …' if len(rows) > 4 else ''}."
        reach = WINDOW if height[row] >= np.log(EXPLODED) else 2 * LASTING
        yield Found(row, tensors, {**figures, "batches": len(rows)}, text, reach)


class _Growth(NamedTuple):
    """The tensors whose ratio of update to weight had doubled before the loss rose at a row, before their gradients had."""

    rise: int
    share: float  # of the tensors that have a ratio
    since: dict[int, int]  # for each of them, the row from which it was doubled
    usual: Array  # of all tensors, the logarithm of the ratio before


def _growths(history: History) -> Iterator[_Growth]:
    ratio, gradient = log(history[RATIO]), history.gradient.values
    for rise in history.rises(SUSPICIOUS):
        first = max(history.young, rise - WINDOW)
        usual, usual_gradient = (medians(x[first : first + LEAST]) for x in (ratio, gradient))
        is_high = ratio[first:rise] - usual >= np.log(DOUBLED)
        since = {i: first + max(columns(~is_high[:, i]), default=-1) + 1 for i in columns(is_high[-1])}
        grown = {i: r for i, r in since.items() if not gradient[r, i] - usual_gradient[i] >= np.log(DOUBLED)}
        yield _Growth(rise, len(grown) / max(1, np.isfinite(ratio[rise - 1]).sum()), grown, usual)


@_pattern(
    means="The learning rate is too high here.",
    advice="Lower the learning rate, two to ten times, or warm it up over more steps. find_lr measures where it gets "
    "too high.",
)
def rate_too_high(history: History) -> Iterator[Found]:
    """The ratio of update to weight doubles in most tensors before the loss rises, and before their gradients do; or the usual
    loss rises while the learning rate does; or the first steps replace the weights, and the loss does not fall below that of
    the first step."""
    found = (
        _replaced(history) or [one for one in map(_told_growth(history), _growths(history)) if one] or _turned(history)
    )
    yield from found


def _told_growth(history: History) -> Callable[[_Growth], Found | None]:
    rate = history.per_step("lr")

    def told(growth: _Growth) -> Found | None:
        if not growth.since or growth.share < MOST:
            return None
        tensors, row = sorted(growth.since), int(np.median([*growth.since.values()]))
        usual = float(np.exp(middle(growth.usual[tensors])))
        ratio = middle(history[RATIO][row : growth.rise, tensors])
        before = float(rate[max(0, row - LEAST)])
        text = (
            f"The updates of {history.names(tensors)} grew from {_short(usual)} to {_short(ratio)} of their weights before "
            f"the gradients and the loss changed. The learning rate was {_short(rate[row])}"
        )
        text += f", and {_short(before)} {LEAST} steps before." if before != rate[row] else "."
        figures = {"ratio": ratio, "usual": usual, "lr": float(rate[row]), "lr_before": before}
        return Found(row, tensors, figures, text, WINDOW)

    return told


def _replaced(history: History) -> list[Found]:
    """Whether the first steps have replaced the weights."""
    if len(history) < LASTING or history.steps[0] > 1 or not history.has_loss:
        return []
    began = ~(history["weight_norm"][0] == 0)  # what began at 0 is replaced by its first steps at any rate
    update, weight = (
        np.sqrt(np.nansum(history[name][:LEAST, began] ** 2, axis=1)) for name in ("update_norm", "weight_norm")
    )
    loss = history.per_step("loss")
    later, is_replaced = middle(loss[1:][-WINDOW:]), (update >= REPLACED * weight) & (weight > 0)
    if not is_replaced.any() or later < loss[0]:
        return []
    row = int(is_replaced.argmax())
    figures = {"ratio": float(update[row] / weight[row]), "lr": float(history.per_step("lr")[row])}
    text = (
        f"An update was {_short(figures['ratio'])} of the weights, at a learning rate of {_short(figures['lr'])}. The loss "
        f"has been {_short(later)} since, not below the {_short(loss[0])} of the first step."
    )
    tensors = columns(np.isfinite(history["update_norm"][row]) & began)
    return [Found(row, tensors, {**figures, "loss": later}, text, WINDOW)]


def _turned(history: History) -> list[Found]:
    """Whether the usual loss has risen by a standard deviation of single steps while the learning rate doubled, and has not
    stayed there when the learning rate had fallen again, as that of two networks that play against each other."""
    usual, rate = history.loss.median[:, 0], history.per_step("lr")
    if not history.has_loss or not np.isfinite(usual).any():
        return []
    low = np.zeros(len(usual), int)  # for each row, that of the lowest usual loss so far
    for row in range(1, len(usual)):
        low[row] = row if not usual[low[row - 1]] < usual[row] else low[row - 1]
    is_up = (usual - usual[low] >= history.loss.spread[low, 0]) & (rate >= DOUBLED * rate[low]) & (rate[low] > 0)
    if not is_up.any():
        return []
    row = int(is_up.argmax())
    has_fallen = (rate <= rate[low[row]]) & (np.arange(len(rate)) >= row)
    if middle(usual[has_fallen]) >= usual[row]:
        return []
    losses, rates = ([float(x[r]) for r in (low[row], row)] for x in (np.exp(usual), rate))
    text = (
        f"The loss has turned with the learning rate: it was {_short(losses[0])} about step {history.steps[low[row]]}, at a "
        f"rate of {_short(rates[0])}, and {_short(losses[1])} here, at {_short(rates[1])} (medians of {WINDOW} steps)."
    )
    figures = {"lr": rates[1], "lr_before": rates[0], "loss": losses[1], "lowest": losses[0]}
    return [Found(row, columns(np.isfinite(history["update_norm"][row])), figures, text, WINDOW)]


@_pattern(
    means="These layers become unstable first: their gradients begin to point one way, so that m grows and v does not, or "
    "their own learning rate is too high.",
    advice="Give these layers a lower learning rate, in a group of their own, or normalize what enters them (QK-norm in "
    "attention). Skipping steps by the norm of the gradient comes too late.",
)
def layer_ahead(history: History) -> Iterator[Found]:
    """The update of a few tensors doubles before the loss rises, while their gradients are as usual."""
    update = history.update
    for growth in _growths(history):
        since = dict[int, int]()
        for i, row in growth.since.items():
            rows = columns(update.rose[row : growth.rise, i])
            gradients = (history.gradient.sigmas[:, i], history.whole_gradient.sigmas[:, 0])
            if rows and all(x[row + rows[0]] <= SUSPICIOUS for x in gradients):
                since[i] = row + rows[0]
        if since and growth.share < MOST:
            row, tensors = _first(since)
            one = tensors[0]
            times = float(np.exp(np.nanmax(update.values[row : growth.rise, one]) - update.median[row, one]))
            text = (
                f"The update of {history.names(tensors)} grew to {_short(times)} times its usual norm before the loss rose, "
                f"while the norm of the gradient of {history.watch.names[one]} was {_usually(history.gradient, row, one)}."
            )
            yield Found(row, tensors, {"times": times, "steps_before": growth.rise - row}, text, WINDOW)


def _turning(history: History) -> Array:
    """Where the gradient of a tensor has turned around: m·g is nearer to what it is then, (1 - β1)/(1 + β1) of g², than to the
    1 - β1 of a gradient that has nothing to do with those before. NaN where that is not known, as in Prodigy, whose m is an
    average of d·g."""
    has_first = ["eps" in options and "betas" in options and "d0" not in options for options in history.options]
    kept = [float(options["betas"][0]) if has else 0.0 for options, has in zip(history.options, has_first, strict=True)]
    beta1 = np.where(np.array(kept) > 0, kept, np.nan)
    share = history["m_dot_g"] / (history["grad_norm"] ** 2 * history.per_step("clip")[:, None] * (1 - beta1))
    return np.where(np.isfinite(share), share < (1 + 1 / (1 + beta1)) / 2, np.nan)


@_pattern(
    means="Every step overshoots the valley along its steepest direction, so that the gradient turns around and grows: the "
    "learning rate over √v is too large for how steep the loss is here (Cohen et al., 2022, arXiv:2207.14484). Where "
    "gradients shrink, v shrinks with them until this happens, again and again.",
    advice="Lower the learning rate, best by a schedule that falls as the gradients do. A lower β2 makes such spikes smaller, "
    "since v follows sooner. Skipping steps does not help: the next gradient comes from the same weights.",
)
def steps_overshoot(history: History) -> Iterator[Found]:
    """The gradients of most tensors turn around at every step, until the loss is 2.5 times, or the gradient 100 times, that of
    the 16 steps before, and no less than 128 steps before: less is soon made good."""
    gradient, turning, spikes = history.per_step("grad_norm"), _turning(history), list[tuple[int, int]]()
    is_known = np.isfinite(turning)
    most = np.nansum(turning, axis=1) > MOST * np.maximum(1, is_known.sum(axis=1))
    courses = [(history.whole_gradient.values[:, 0], EXPLODED)]
    if history.has_loss:
        courses.append((history.loss.values[:, 0], RISEN))
    for row in range(max(history.young, LEAST), len(history)):
        first = max(columns(~most[: row + 1]), default=-1) + 1  # from here on most have turned around
        is_up = any(
            x[row] - np.median(x[row - LEAST : row]) >= np.log(times)
            and np.nanmax(x[row : row + LEAST]) >= x[max(0, row - WINDOW)]
            for x, times in courses
        )
        if is_up and row - first >= LASTING and (not spikes or first > spikes[-1][1]):
            spikes.append((first, row))
    if spikes:
        first, row = spikes[0]
        tensors = columns(np.nansum(turning[first : row + 1], axis=0) > MOST * is_known[first : row + 1].sum(axis=0))
        top = row + int(np.nanargmax(gradient[row : row + LEAST]))
        figures = {"grad_norm": float(gradient[first]), "peak": float(gradient[top]), "times": len(spikes)}
        text = (
            f"The gradient of {history.names(tensors)} turned around at every step, while its norm grew from "
            f"{_short(figures['grad_norm'])} to {_short(figures['peak'])} by step {history.steps[top]}"
        )
        if history.has_loss:
            loss = history.per_step("loss")
            text += f", and the loss from {_short(loss[first])} to {_short(np.nanmax(loss[row : row + LEAST]))}"
        text += "."
        if len(spikes) > 1:
            others = ", ".join(str(history.steps[other]) for other, _ in spikes[1:4])
            text += f" It did so again from step {others}{', …' if len(spikes) > 4 else ''} on."
        yield Found(first, tensors, figures, text, spikes[-1][1] - first + WINDOW)


def _exploding(history: History) -> dict[int, int]:
    """The tensors whose gradient grows EXPLODED times and goes on growing, with the rows at which it leaves its course."""
    gradient, found = history.gradient, dict[int, int]()
    for first in range(history.young + LEAST, len(history) - LASTING, BLOCK):
        # It may have left its course before: the median is slow to follow.
        begin = max(history.young, first - WINDOW)
        above = np.nan_to_num(gradient.values[begin : first + WINDOW] - gradient.median[first], nan=-np.inf)
        for i in columns(above[first - begin :].max(axis=0) >= np.log(EXPLODED)):
            top = first - begin + int(above[first - begin :, i].argmax())
            row = max(columns(above[:top, i] <= SIGMAS * gradient.spread[first, i]), default=-1) + 1
            if top - row >= LASTING and above[top, i] - np.median(above[row : row + LASTING, i]) >= np.log(GROWN_ON):
                found.setdefault(i, begin + row)
    return found


@_pattern(
    means="The layer explodes: what it multiplies is multiplied again, at every step or through a long chain of layers.",
    advice="Clip the gradient (max_grad_norm), lower the learning rate, and look at this layer: its initialization, a missing "
    "normalization, a recurrence that amplifies.",
)
def exploding_layer(history: History) -> Iterator[Found]:
    """The norm of a tensor's gradient grows by two orders of magnitude within 128 watched steps, not in one jump."""
    if rows := _exploding(history):
        row, tensors = _first(rows)
        one = tensors[0]
        top = row + int(np.nanargmax(history.gradient.values[row : row + WINDOW, one]))
        peak, usual = (float(np.exp(x)) for x in (history.gradient.values[top, one], history.gradient.median[row, one]))
        text = (
            f"The gradient of {history.names(tensors)} left its usual course: {_whose(history, tensors)} grew from "
            f"{_short(usual)} to {_short(peak)} by step {history.steps[top]}."
        )
        yield Found(row, tensors, {"grad_norm": peak, "usual": usual}, text, WINDOW)


@_pattern(
    means="The limit is one for all tensors, so the gradients of all others are shortened with these. Adam's second moments "
    "remember longer gradients for about 1/(1 - β2) steps, in which the updates of the others are too small.",
    advice="Look for what changed at this step: data, the scale of a part of the loss, a layer that was unfrozen, a missing "
    "normalization. on_spike= skips steps while they are few.",
)
def clipped_with_others(history: History) -> Iterator[Found]:
    """Clipping shortens the gradient because that of some tensors, not of all, jumps to 100 times its usual norm and stays,
    and is the larger part of the whole."""
    gradient = history.gradient
    is_clipped = history.per_step("clip") < 1
    has_jumped = gradient.rose & (gradient.values - gradient.median >= np.log(EXPLODED)) & is_clipped[:, None]
    has_jumped[:, [*_exploding(history)]] = False
    jumped = np.sqrt((np.where(has_jumped, history["grad_norm"], 0.0) ** 2).sum(axis=1))
    has_jumped &= (jumped >= OUTWEIGHS * history.per_step("grad_norm"))[:, None]
    stayed = lasting(has_jumped, STANDING)
    rows = {i: int(stayed[:, i].argmax()) for i in columns(stayed.any(axis=0))}
    if rows and len(rows) < np.isfinite(gradient.values[min(rows.values())]).sum():
        row, tensors = _first(rows)
        clip = middle(history.per_step("clip")[row : row + LASTING])
        text = (
            f"The gradient of {history.names(tensors)} jumped and stayed: {_whose(history, tensors)} was "
            f"{_usually(gradient, row, tensors[0])}. Because of it, clipping shortens the gradients of all tensors to "
            f"{_short(clip)} of their length."
        )
        yield Found(
            row, tensors, {"clip": clip, "grad_norm": float(np.exp(gradient.values[row, tensors[0]]))}, text, WINDOW
        )


@_pattern(
    means="The second moment is too slow for this change: until it has followed, in about 1/(1 - β2) steps, v is much smaller "
    "than g², and updates are as many times too large as RMSₜ says.",
    advice="Lower β2, to 0.99 or 0.95, so that v follows within 100 or 20 steps, or limit the gradient with "
    'max_grad_norm="auto". Look for what changed at this step: data, the scale of the loss, a layer that was unfrozen.',
)
def second_moment_too_slow(history: History) -> Iterator[Found]:
    """The gradient of a tensor jumps and stays, and RMSₜ is above 2.3 from there on."""
    rms, gradient = history["rms"], history.gradient.values
    is_slow = lasting(rms >= RMS, STANDING) & lasting(history.gradient.rose)
    is_slow[:, [*_exploding(history)]] = False
    rows = dict[int, int]()
    for i in columns(is_slow.any(axis=0)):
        for row in columns(is_slow[:, i]):
            before, after = (middle(gradient[r, i]) for r in (slice(row - LASTING, row), slice(row, row + LASTING)))
            if after - before >= np.log(JUMPED):  # what grows steadily, as in the first steps of a run, does not jump
                rows[i] = row
                break
    if rows:
        row, tensors = _first(rows)
        one, here = tensors[0], slice(row, row + WINDOW)
        figures = {
            "rms": float(np.nanmax(rms[here, one])),
            "steps": int((rms[here, one] >= RMS).sum()),
            "behind": float(history["behind"][row, one]),
        }
        beta2 = _beta2(history)[one]
        text = (
            f"The gradient of {history.names(tensors)} jumped and stayed: {_whose(history, tensors)} was "
            f"{_usually(history.gradient, row, one)}. RMSₜ reached {_short(figures['rms'])} and was above {RMS} at "
            f"{figures['steps']} watched steps; v was below a tenth of g² in {figures['behind']:.0%} of the elements"
        )
        text += "." if np.isnan(beta2) else f" (β2 is {_short(beta2)})."
        yield Found(row, tensors, figures, text, WINDOW)


@_pattern(
    means="The cause is not in what is watched: the data or the loss changed, or the network is at the edge of stability.",
    advice="Compare the data before and after this step. If it happens again and again, lower the learning rate.",
)
def loss_rose(history: History) -> Iterator[Found]:
    """The loss leaves its usual course and stays high, and nothing else came before it."""
    course, what = (history.loss, "loss") if history.has_loss else (history.whole_gradient, "norm of the gradient")
    for row in history.rises(SIGMAS):
        if course.values[row, 0] - course.median[row, 0] < np.log(RISEN):
            continue
        first, here = max(0, row - LASTING), slice(max(0, row - LASTING), row + LASTING)
        rose = history.update.rose[here] | history.gradient.rose[here]
        rows = {i: first + int(rose[:, i].argmax()) for i in columns(rose.any(axis=0))}
        value, usual = (float(np.exp(x[row, 0])) for x in (course.values, course.median))
        text = f"The {what} was {_usually(course, row)}, and stayed high."
        tensors = _first(rows)[1] if rows else []
        if tensors:
            text += f" Updates or gradients of {history.names(tensors)} left their usual course with it."
        yield Found(row, tensors, {"value": value, "usual": usual}, text, WINDOW)


# ---- What stands until the end of what is watched.


def _under_eps(history: History) -> tuple[dict[int, int], dict[int, int]]:
    """The tensors most of whose elements are under ε, with the rows since which they are: because of clipping, and others."""
    share, clip = history["under_eps"], history.per_step("clip")
    share[:, history.is_negligible.mean(axis=0) >= SOMETIMES] = np.nan
    rows = standing(share >= MOST, np.isfinite(share))
    # With most elements under ε, RMSₜ is |g|/ε, and without clipping it would be 1/clip times that.
    unclipped = np.where(clip < 1, 1 / clip, 0.0)[:, None] * history["rms"]
    clipped = {i: row for i, row in rows.items() if middle(unclipped[row:, i]) > 1}
    return clipped, {i: row for i, row in rows.items() if i not in clipped}


def _told_under_eps(history: History, rows: dict[int, int], is_clipped: bool) -> Iterator[Found]:
    if rows:
        row, tensors = _first(rows)
        share, rms = (middle(history[name][row:, tensors]) for name in ("under_eps", "rms"))
        clip, figures = middle(history.per_step("clip")[row:]), {"share": share, "rms": rms}
        eps = history.options[tensors[0]].get("eps")
        eps = eps[0] if isinstance(eps, Sequence) else eps  # of Adafactor, ε₁; None stands for that of the dtype
        if eps is not None:
            figures["eps"] = float(eps)
        text = f"√v is below ε{'' if eps is None else f' = {_short(float(eps))}'} in {share:.0%} of the elements of "
        text += history.names(tensors)
        if is_clipped:
            text += f", because clipping shortens the gradient to {_short(clip)} of its length"
        text += f". Their updates are about {_short(rms)} times the learning rate."
        yield Found(row, tensors, {**figures, "clip": clip}, text)


@_pattern(
    means="The limit is so far below the norm of the gradient that what is left of it vanishes beside ε: updates stall.",
    advice='Raise max_grad_norm to about the usual norm, or give max_grad_norm="auto". Find out why the gradient is so large.',
)
def clipped_under_eps(history: History) -> Iterator[Found]:
    """√v is below ε in most elements of a tensor, and would not be without clipping."""
    yield from _told_under_eps(history, _under_eps(history)[0], True)


@_pattern(
    means="ε is too large for these gradients: updates are proportional to them, as in SGD, and smaller than the learning "
    "rate means.",
    advice="Lower ε to a hundredth, or scale the loss up.",
)
def eps_too_large(history: History) -> Iterator[Found]:
    """√v is below ε in most elements of a tensor, also without clipping."""
    yield from _told_under_eps(history, _under_eps(history)[1], False)


@_pattern(
    means="The limit does not catch outliers, but sets the length of every gradient: an outlier counts as much as any "
    "other step.",
    advice='Raise max_grad_norm above the usual norm, or give max_grad_norm="auto", which follows it.',
)
def clipped_at_every_step(history: History) -> Iterator[Found]:
    """Clipping shortens nearly every gradient, for 128 watched steps or more."""
    clip = history.per_step("clip")[:, None]
    for row in standing(clip < 1, np.isfinite(clip), WINDOW).values():
        if not _under_eps(history)[0]:
            share, factor, norm = (
                float((clip[row:] < 1).mean()),
                middle(clip[row:]),
                middle(history.per_step("grad_norm")[row:]),
            )
            text = (
                f"Clipping shortened {share:.0%} of the gradients, to {_short(factor)} of a norm of {_short(norm)} (medians): "
                f"the limit was {_short(factor * norm)}."
            )
            yield Found(row, [], {"share": share, "clip": factor, "grad_norm": norm}, text)


@_pattern(
    means='Updates are smaller than half the distance to the next 16-bit number, and weights="nearest" rounds them away: the '
    "weight stands still.",
    advice='weights="split" keeps the bits that are missing, and "stochastic" is right on average. Or keep the weights in '
    "float32.",
)
def lost_to_rounding(history: History) -> Iterator[Found]:
    """Most elements of a weight that is rounded to the nearest number have an update, and are the same after it."""
    lost = history["lost"]
    is_nearest = np.array([one.get("weights", "nearest") == "nearest" for one in history.options], bool)
    if rows := standing((lost >= MOST) & is_nearest, np.isfinite(lost)):
        row, tensors = _first(rows)
        share, ratio = (middle(history[name][row:, tensors]) for name in ("lost", RATIO))
        text = (
            f"The updates of {share:.0%} of the elements of {history.names(tensors)} were lost when the weights were rounded: "
            f"an update is {_short(ratio)} of the weight."
        )
        yield Found(row, tensors, {"share": share, "ratio": ratio}, text)


@_pattern(
    means="The weight shrinks faster than the gradient moves it: it goes to 0 and forgets what it learned.",
    advice="Lower weight_decay. In equilibrium, decay is about √(lr · weight_decay / 2) of the update, a few percent. Biases "
    "and the weights of normalization need none.",
)
def decay_outweighs(history: History) -> Iterator[Found]:
    """Weight decay is the larger part of a tensor's update, and the norm of the tensor has halved."""
    update, decay, weight = (history[name] for name in ("update_norm", "decay_norm", "weight_norm"))
    share = np.divide(decay, update, out=np.full_like(update, np.nan), where=update > 0)
    for still in (_dead(history), *_under_eps(history)):
        share[:, [*still]] = np.nan  # hardly anything else moves these
    courses = {
        i: (row, weight[row:, i][np.isfinite(share[row:, i])])
        for i, row in standing(share >= OUTWEIGHS, np.isfinite(share)).items()
    }
    # In equilibrium, the gradient makes up for the decay, so that little is left of the update, and the norm stands still.
    if rows := {i: row for i, (row, norms) in courses.items() if norms[0] >= DOUBLED * norms[-1]}:
        row, tensors = _first(rows)
        one, part = tensors[0], middle(share[row:, tensors])
        norms = courses[one][1]
        text = (
            f"Weight decay is {_short(part)} times the update of {history.names(tensors)}, at weight_decay = "
            f"{_short(float(history.options[one].get('weight_decay', np.nan)))}: the norm of {history.watch.names[one]} went "
            f"from {_short(norms[0])} to {_short(norms[-1])}."
        )
        yield Found(row, tensors, {"share": part, "weight_norm": float(norms[-1])}, text)
