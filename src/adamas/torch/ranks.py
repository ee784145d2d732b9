"""The ranks of a process group that share a model, and how they agree on each step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from ..step.inspection import Inspection, added_up, sum_in_two

_RAISED = (FloatingPointError, ValueError, RuntimeError)  # raised on all ranks; other exceptions only where they occur


class Ranks:
    """The ranks of a process group.

    Args:
        process_group: the argument of the optimizer.

    Raises:
        TypeError: it is not a process group.
        ValueError: this process is not in it.
    """

    def __init__(self, process_group: Any) -> None:
        if process_group is None:
            raise TypeError(
                "process_group=None: it must be a process group, and torch.distributed.group.WORLD is None before "
                "init_process_group. Leave process_group out where each process has all parameters"
            )
        if process_group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("process_group: this process is not in the group")
        if not isinstance(process_group, dist.ProcessGroup):
            raise TypeError(f"process_group must be a torch.distributed.ProcessGroup, not {process_group!r}")
        self._group = process_group
        self._rank, self._size = dist.get_rank(process_group), dist.get_world_size(process_group)

    def agree(self, seen: Inspection | None, problem: Exception | None, parameters: int) -> Inspection:
        """The combined inspection of all ranks: see ``adamas.step.inspection.Peers``."""
        mine = Inspection() if seen is None else seen
        total, rest = sum_in_two(mine.square_sums or ())
        steps_here = 0 if mine.steps is None else mine.steps
        numbers_here = (problem is not None, *mine[:3], steps_here, mine.reached, total, rest, parameters)
        sent = torch.tensor(numbers_here, dtype=torch.float64, device=self._device())
        received = [torch.empty_like(sent) for _ in range(self._size)]
        dist.all_gather(received, sent, group=self._group)
        failed, overflow, is_query, skip, steps, reached, totals, rests, counts = zip(
            *(numbers.tolist() for numbers in received), strict=True
        )
        if any(failed):
            self._raise(problem)
        return Inspection(
            any(overflow),
            all(is_query),
            any(skip),
            int(max(steps)),
            int(max(reached)),
            None if mine.square_sums is None else (*totals, *rests),
            int(sum(counts[: self._rank])),
        )

    def added(self, sums: Mapping[Hashable, Sequence[float]], problem: Exception | None) -> dict[Hashable, float]:
        """The sums of all ranks: see ``adamas.step.inspection.Peers``."""
        sent = problem is not None, {key: sum_in_two(numbers) for key, numbers in sums.items()}
        received: list[Any] = [None] * self._size
        dist.all_gather_object(received, sent, group=self._group)
        if any(failed for failed, _ in received):
            self._raise(problem)
        parts: dict[Hashable, list[float]] = {}
        for _, one in received:
            for key, pair in one.items():
                parts.setdefault(key, []).extend(pair)
        return added_up(parts)

    def _raise(self, problem: Exception | None) -> NoReturn:
        """Raises this rank's problem or, if it has none, the problem of the first rank that has one."""
        kind = next((kind for kind in _RAISED if isinstance(problem, kind)), RuntimeError)
        problems: list[Any] = [None] * self._size
        dist.all_gather_object(problems, None if problem is None else (kind, str(problem)), group=self._group)
        if problem is not None:
            raise problem
        rank, (kind, text) = next((rank, one) for rank, one in enumerate(problems) if one is not None)
        raise kind(f"rank {rank} of process_group cannot make this step, so no rank makes it: {text}")

    def _device(self) -> torch.device:
        """The device of tensors that the group can communicate."""
        if "cpu:" in dist.get_backend_config(self._group):
            return torch.device("cpu")
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        return torch.device(accelerator.type, torch.accelerator.current_device_index())

    def __deepcopy__(self, memo: Any) -> Ranks:
        """Itself: a copy of the optimizer has the same ranks."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raises TypeError: a process group cannot be pickled."""
        raise TypeError("an optimizer with process_group= cannot be pickled: save its state_dict() on each rank")
