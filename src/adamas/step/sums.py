"""The sums that rules need (``adamas.rule.declaration.Sum``): over each tensor or over all, wherever their parts lie."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ..rule.declaration import Host, Member, Rule, Sum
from .executor import Executor
from .inspection import Peers, added_up
from .plan import GroupPlan
from .record import Record

_OVER = {"tensor": "its tensor", "all": "all tensors"}


def latest(member: Member, plans: Sequence[GroupPlan], peers: Peers | None) -> dict[str, float]:
    """The scalars before the coming step that all parameters share (``Member.shared``): those of the parameters that have
    counted the most steps, whether or not they have a gradient now.

    The arguments are the member and those of ``compute``.
    """
    if not member.shared:
        return {}
    indices = [member.scalar_names.index(name) for name in member.shared]
    found: set[Any] = set()
    for executor in (executor for plan in plans for executor in plan.executors):
        found |= {tuple([one[i] for i in indices]) for one in executor.scalars}
        if len(executor.found()) < len(executor.records):
            states = (record.state for record in executor.records if member.shared[0] in record.state)
            found |= {tuple([float(state[name]) for name in member.shared]) for state in states}
    if peers is not None:
        found = set(peers.added(dict.fromkeys(found, (1.0,)), None))
    return dict(zip(member.shared, max(found, default=()), strict=False))


def compute(plans: Sequence[GroupPlan], peers: Peers | None, threads: int) -> dict[str, float]:
    """Computes the sums of a prepared step one after the other, since a sum may use those before it.

    Returns the scalars after the step that follow from them (``Member.shared``), which are then among the prepared ones.

    Args:
        plans: the plans of all groups.
        peers: the processes that share the model. All of them call this function together.
        threads: how many threads the engine may use.

    Raises:
        ValueError: a parameter is a part of a tensor, and the other parts are unknown.
    """
    totals: dict[str, float] = {}
    for index in range(max((plan.sum_count for plan in plans), default=0)):
        executors = [
            executor
            for plan in plans
            for executor in plan.executors
            if executor.prepared and index < len(_sums(executor))
        ]
        terms: dict[Hashable, list[float]] = {}
        problem = None
        try:
            for executor in executors:
                _refuse_parts(executor, index, peers is None)
                if executor.is_counted:
                    _add(executor, index, terms, threads)
        except Exception as error:
            if peers is None:
                raise
            problem = error
        sums = added_up(terms) if peers is None else peers.added(terms, problem)
        for executor in executors:
            wanted = _sums(executor)[index]
            values = [wanted.of(sums[_key(wanted, record)], _numel(executor, record)) for record in executor.found()]
            if math.inf in values:
                _warn_of_overflow(executor, wanted, values.index(math.inf), threads)
            executor.take_sums(index, values)
            if wanted.over == "all":
                totals[wanted.name] = values[0]
    return _learned([executor for plan in plans for executor in plan.executors if executor.prepared], totals)


def _learned(executors: Sequence[Executor], totals: Mapping[str, float]) -> dict[str, float]:
    """The shared scalars that follow from the sums over all tensors; puts them among the prepared ones. All groups have the
    same (``Member.same``)."""
    learned: dict[str, float] = {}
    for executor in (executor for executor in executors if executor.spec.member.shared):
        member, prepared = executor.spec.member, []
        for numbers, scalars in executor.prepared:
            known = executor.spec.rule.from_sums(SimpleNamespace(**numbers, **totals), Host)
            learned = {name: known[name] for name in member.shared if name in known}
            after = zip(member.scalar_names, scalars, strict=False)  # adamas.keras keeps the scalars elsewhere
            prepared.append((numbers, tuple([learned.get(name, value) for name, value in after])))
        executor.prepared = prepared
    return learned


def _warn_of_overflow(executor: Executor, wanted: Sum, index: int, threads: int) -> None:
    """Warns that a sum over the parameter at ``index`` of ``found`` has overflowed, unless a gradient is not finite itself."""
    _, culprit = executor.square_sum(threads)
    if culprit is None:
        warnings.warn(
            f"parameter {executor.found()[index].name}: the sum {wanted.name!r} over {_OVER[wanted.over]}, which "
            f"{executor.spec.needs_sums} needs, overflows, so that the step may be 0: the squares of gradients do in float32 "
            "from about 1e19. Scale the loss down, or clip the gradient",
            stacklevel=2,
        )


def _sums(executor: Executor) -> tuple[Sum, ...]:
    return executor.spec.rule.sums


def _add(executor: Executor, index: int, terms: dict[Hashable, list[float]], threads: int) -> None:
    """Adds the parts of a sum that an executor has to ``terms``, under a key for what is summed over."""
    wanted = _sums(executor)[index]
    for record, parts in zip(executor.found(), executor.partial_sums(index, threads), strict=True):
        terms.setdefault(_key(wanted, record), []).extend(parts)


def _key(wanted: Sum, record: Record) -> Hashable:
    """The key of the sum. The parts of a tensor in several processes share it, since they have the same random key."""
    return (wanted.name, record.key) if wanted.over == "tensor" else (wanted.name,)


def _numel(executor: Executor, record: Record) -> int:
    """The number of elements of the whole tensor, where complex numbers are two."""
    tensors = executor.spec.tensors
    shape = tensors.shape_of(record.weight) if record.place is None else record.place.shape
    return math.prod(shape) * (2 if tensors.dtype_name(record.weight).startswith("complex") else 1)


def _refuse_parts(executor: Executor, index: int, alone: bool) -> None:
    for record in executor.found():
        _refuse_part(executor.spec.rule, _sums(executor)[index], record, alone)


def _refuse_part(rule: Rule, wanted: Sum, record: Record, alone: bool) -> None:
    """Raises ValueError if the sum cannot be computed because the parameter is only a part of what is summed over."""
    name, place = f"parameter {record.name}", record.place
    option = f"the rule {rule.name!r} needs the sum {wanted.name!r} over {_OVER[wanted.over]}"
    if record.is_flat and wanted.over == "tensor":
        raise ValueError(
            f"{name} is a part of several tensors that were joined, and {option}, which is unknown for each of them: use "
            "another optimizer for this model"
        )
    if alone and (record.is_flat or (place is not None and place.shape != tuple(record.weight.shape))):
        raise ValueError(
            f"{name} is a part of a tensor, and {option}, wherever its parts lie: give the optimizer process_group=, "
            "the processes that have the other parts"
        )
