"""The parts of a step that all rules share: scaling and penalties of the gradient, and the step of the weight."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .declaration import Host, Numbers, Rule

Array = Any


def gradient(k: Any, xp: Any, p: Array | None, g: Array, penalized: bool) -> Array:
    """The gradient as the rule takes it: scaled, and with the coupled penalties."""
    g = k.s * g
    return g + k.l2 * p + k.l1 * xp.sign(p) if penalized else g


def moved(rule: Rule, k: Any, xp: Any, p: Array, g: Array, update: Array) -> Array:
    """The weight after the step; ``g`` is the gradient as the rule takes it."""
    q = k.k * p - k.eta * update
    if rule.is_masked:
        q = masked(k, xp, p, g, q)
    return cautiously_decayed(k, xp, p, q) if rule.is_cautious else q


def masked(k: Any, xp: Any, p: Array, g: Array, q: Array) -> Array:
    """The updated weight q where it has moved against the gradient; elsewhere the old weight p, decayed."""
    kept = k.k * p
    return xp.where(xp.sign(kept - q) * g <= 0, kept, q)


def cautiously_decayed(k: Any, xp: Any, p: Array, q: Array) -> Array:
    """The updated weight q, decayed where the update has not enlarged the old weight p: Chen et al., 2025,
    arXiv:2510.12402, algorithm 1."""
    return q - xp.where((p - q) * xp.sign(p) >= 0, k.cautious * p, 0.0)


def step(
    rule: Rule, k: Any, xp: Any, p: Array, g: Array, states: tuple[Array, ...], penalized: bool
) -> tuple[Array, tuple[Array, ...]]:
    """One step of a rule: the new weight and the new states. Nothing is written in place.

    Args:
        rule: the rule.
        k: the numbers of the step.
        xp: the array namespace.
        p: the weight.
        g: its gradient.
        states: the states of the rule, in its order.
        penalized: whether the penalties ``k.l2`` and ``k.l1`` are added to the gradient.
    """
    g = gradient(k, xp, p, g, penalized)
    update, *after = rule.update(k, xp, p, g, *states)
    return moved(rule, k, xp, p, g, update), tuple(after)


def with_sums(
    rule: Rule, numbers: Numbers, xp: Any, p: Array, g: Array, states: tuple[Array, ...], penalized: bool
) -> Numbers:
    """The numbers of a step, with the rule's sums and what it computes from them, for a model with only this tensor.

    The arguments are those of ``step``.
    """
    for wanted in rule.sums:
        k = wanted.given(numbers, Host)
        term = wanted.term(k, xp, p, gradient(k, xp, p, g, penalized), *states)
        numbers = numbers | {wanted.name: wanted.of(float(xp.sum(term, dtype=float)), p.size)}
    return numbers | rule.from_sums(SimpleNamespace(**numbers), Host)


def change(
    rule: Rule,
    k: Any,
    xp: Any,
    p: Array | None,
    g: Array,
    states: tuple[Array, ...],
    penalized: bool,
    decayed: bool,
) -> tuple[Array, tuple[Array, ...]]:
    """As ``step``, but returns the change of the weight, (k − 1)·p − η·u, which is more precise if k is close to 1.

    Args:
        rule: the rule.
        k: the numbers of the step.
        xp: the array namespace.
        p: the weight; may be None if it is neither penalized nor decayed, and the rule does not read it.
        g: its gradient.
        states: the states of the rule, in its order.
        penalized: whether the penalties ``k.l2`` and ``k.l1`` are added to the gradient.
        decayed: whether the weight decays by ``k.k_minus_one``. If not, the change depends on the weight only through the
            rule and the penalties.
    """
    g = gradient(k, xp, p, g, penalized)
    update, *after = rule.update(k, xp, p, g, *states)
    is_cautious = decayed and rule.is_cautious
    step = xp.where(xp.sign(update) * g <= 0, 0.0, k.eta * update) if rule.is_masked else k.eta * update
    made = (k.k_minus_one * p if decayed and not is_cautious else 0.0) - step
    if is_cautious:
        moved_by = (p + made) - p  # as ``cautiously_decayed`` sees it: 0 where the weight is too large for the update
        made = made - xp.where(moved_by * xp.sign(p) <= 0, k.cautious * p, 0.0)
    return made, tuple(after)
