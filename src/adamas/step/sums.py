"""The sums that rules need (``adamas.rule.declaration.Sum``): over each tensor or over all, wherever their parts lie."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..rule.declaration import Member
from .inspection import Peers, added_up
from .plan import GroupPlan


def most_sums(member: Member) -> int:
    """The largest number of sums that a rule of the member needs."""
    return max(len(rule.sums) for rule in member.rules())


def compute(plans: Sequence[GroupPlan], peers: Peers | None, count: int) -> None:
    """Computes the sums of a prepared step one after the other, since a sum may use those before it.

    Args:
        plans: the plans of all groups.
        peers: the processes that share the model. All of them call this function together.
        count: the largest number of sums of a rule.

    Raises:
        ValueError: a parameter is a part of a tensor, and the other parts are unknown.
    """
    for index in range(count):
        terms: dict[Hashable, list[float]] = {}
        problem = None
        try:
            for plan in plans:
                plan.add_terms(index, terms, alone=peers is None)
        except Exception as error:
            if peers is None:
                raise
            problem = error
        sums = added_up(terms) if peers is None else peers.added(terms, problem)
        for plan in plans:
            plan.take_sums(index, sums)
