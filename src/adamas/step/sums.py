"""The sums that rules name (``adamas.rule.declaration.Sum``): of each tensor or of all, wherever their parts lie."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..rule.declaration import Member
from .inspection import Peers, added_up
from .plan import GroupPlan


def most_sums(member: Member) -> int:
    """The most sums that a rule of the member names."""
    return max(len(rule.sums) for rule in member.rules())


def compute(plans: Sequence[GroupPlan], peers: Peers | None, count: int) -> None:
    """Computes the sums for a step that is prepared, one after the other: a sum may use those before it.

    Args:
        plans: of all groups.
        peers: the processes that share the model. All of them call this together.
        count: the most sums that a rule names.

    Raises:
        ValueError: a parameter is a part of a tensor, and nothing is known of the other parts.
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
