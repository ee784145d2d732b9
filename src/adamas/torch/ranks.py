"""The processes that share a model, and how they agree on each step."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..rule.statistics import joined
from ..step.inspection import DEVICE, HOST, WILLING, Inspection, Row, added_up, sum_in_two
from .distributed import is_counted, is_distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_made: dict[tuple[int, ...], tuple[Any, Any]] = {}  # the groups made here, by their ranks, each with the group of all
_RAISED = (FloatingPointError, ValueError, RuntimeError)  # raised on all ranks; other exceptions only where they occur


class Exchanged(NamedTuple):
    """Something that the ranks of a mesh exchange.

    Attributes:
        text: what it is; the same on all of these ranks.
        mesh: the mesh.
        where: for the caller.
    """

    text: str
    mesh: DeviceMesh
    where: Any = None


@cache
def _ranks_of(mesh: DeviceMesh) -> tuple[int, ...]:
    """The ranks of the mesh, in order."""
    return tuple(sorted(mesh.mesh.flatten().tolist()))


def _checksum(texts: Sequence[str]) -> int:
    """0 if there are none."""
    return 1 + zlib.crc32("\n".join(texts).encode()) if texts else 0


class Ranks:
    """The ranks that decide on each step together.

    Args:
        rank: the rank of this process among all.
        ranks: those of all of them, in order.
        group: returns their process group. It is first called when something is to be communicated, by all of them.
        has_shares: whether each rank has parameters of its own (``process_group=``). Otherwise all have the same parameters,
            in parts if they are DTensors, and those that are not are replicas.
        is_uneven: whether some ranks lack parameters that others have.
        device: the device of all parameters of this process; None if there are several.

    Attributes:
        ranks: the argument ``ranks``.
    """

    def __init__(
        self,
        rank: int,
        ranks: Sequence[int],
        group: Callable[[], dist.ProcessGroup],
        has_shares: bool,
        is_uneven: bool,
        device: torch.device | None = None,
    ) -> None:
        self.ranks, self._make_group, self.has_shares, self.is_uneven = ranks, group, has_shares, is_uneven
        self._rank, self._size, self._weights_device = ranks.index(rank), len(ranks), device

    @cached_property
    def _group(self) -> dist.ProcessGroup:
        return self._make_group()

    @classmethod
    def given(cls, process_group: Any) -> Ranks:
        """The ranks of the optimizer's argument ``process_group``.

        Raises:
            TypeError: it is not a process group.
            ValueError: this process is not in it.
        """
        if process_group is None:
            raise TypeError(
                "process_group=None: it must be a process group, and torch.distributed.group.WORLD is None before "
                "init_process_group. Leave process_group out where each process has all parameters"
            )
        if process_group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("process_group: this process is not in the group")
        if not isinstance(process_group, dist.ProcessGroup):
            raise TypeError(f"process_group must be a torch.distributed.ProcessGroup, not {process_group!r}")
        ranks = dist.get_process_group_ranks(process_group)
        return cls(dist.get_rank(), ranks, lambda: process_group, has_shares=True, is_uneven=True)

    @classmethod
    def of_weights(cls, weights: Iterable[Tensor]) -> Ranks | None:
        """The ranks of all meshes on which the weights lie, as far as this process is in them; None without DTensors.

        Raises:
            ValueError: no mesh has the ranks of all others.
        """
        found, devices = {}, set()
        for weight in weights:
            if is_distributed(weight):
                found[id(weight.device_mesh)] = weight.device_mesh
                devices.add(weight._local_tensor.device)
        meshes = [mesh for mesh in found.values() if mesh.get_coordinate() is not None]
        if not meshes:
            return None
        rank = int(meshes[0].mesh[tuple(meshes[0].get_coordinate() or ())])
        sets = {_ranks_of(mesh) for mesh in found.values()}
        ranks = max(sorted(sets), key=len)
        for others in sets:
            if not {*others} <= {*ranks}:
                raise ValueError(
                    f"parameters lie on meshes of the ranks {[*ranks]} and {[*others]}, and neither has all ranks of the "
                    "other: give the optimizer process_group=, the processes that decide together"
                )
        device = devices.pop() if len(devices) == 1 else None
        return cls(rank, ranks, lambda: _group_of(ranks, meshes), False, is_uneven=len(sets) > 1, device=device)

    def counts(self, weight: Tensor) -> bool:
        """Whether the parameter, or the part of it that this rank has, counts in the sums here: not as another replica."""
        if not is_distributed(weight):
            return self.has_shares or self._rank == 0
        return is_counted(weight) and (self.has_shares or self._is_first(weight.device_mesh))

    def _is_first(self, mesh: DeviceMesh) -> bool:
        """Whether the mesh has the first of the ranks, among those of the mesh that it is a part of.

        The other parts have replicas: with tensor parallelism on one dimension of a mesh and ``fully_shard`` on the other,
        what is not tensor parallel lies on a mesh of its own for each of the tensor parallel ranks.
        """
        return min({*mesh._get_root_mesh().mesh.flatten().tolist()} & {*self.ranks}) in mesh.mesh

    def first_with(self, weight: Tensor) -> int:
        """The first of the ranks that have the parameter or parts of it, as a number among all."""
        return _ranks_of(weight.device_mesh)[0] if is_distributed(weight) else self.ranks[self._rank]

    def own(self, weights: Iterable[Tensor]) -> int:
        """The number of parameters that this rank is the first to have; 0 if all ranks have the same."""
        if not self.has_shares:
            return 0
        return sum(self.first_with(weight) == self.ranks[self._rank] for weight in weights)

    def positions(self, weights: Iterable[Tensor], firsts: Sequence[int]) -> list[int]:
        """The positions of parameters among those of all ranks.

        Args:
            weights: the parameters of this rank. Ranks that have parts of the same ones have them in the same order.
            firsts: the position of each rank's first parameter, among those that it is the first to have.
        """
        coming, found = dict(zip(self.ranks, firsts, strict=True)), []
        for weight in weights:
            rank = self.first_with(weight)
            found.append(coming[rank])
            coming[rank] += 1
        return found

    def check_mesh(self, mesh: DeviceMesh, name: str) -> None:
        """Raises ValueError if the group lacks ranks of a parameter's mesh."""
        missing = {*mesh.mesh.flatten().tolist()} - {*self.ranks}
        if missing:
            raise ValueError(
                f"parameter {name} lies on a mesh with the ranks {sorted(missing)}, which process_group= lacks: give a group "
                "of all processes that decide together, or leave it out"
            )

    def agree(
        self,
        seen: Inspection | None,
        problem: Exception | None,
        parameters: int,
        misplaced: Sequence[Exchanged] = (),
        shared: Sequence[Exchanged] = (),
        is_willing: bool = False,
    ) -> Inspection:
        """The combined inspection of all ranks: see ``adamas.step.inspection.Peers``."""
        if problem is not None and self._size == 1:
            raise problem
        mine = Inspection() if seen is None else seen
        total, rest = sum_in_two(mine.square_sums or ())
        here = Row(
            problem is not None,
            WILLING if is_willing else HOST,
            *mine[:3],
            0 if mine.steps is None else mine.steps,
            mine.reached,
            total,
            rest,
            parameters,
            -_checksum([one.text for one in misplaced]) or _checksum([one.text for one in shared]),
            0.0 if mine.loss is None else mine.loss,
            mine.loss is not None,
        )
        rows = self.exchanged(torch.tensor(here, dtype=torch.float64, device=self._device()))
        every = Row(*zip(*rows.tolist(), strict=True))
        if DEVICE in every.decides:
            return Inspection(apart=self._apart(every.decides))
        if any(every.problem):
            self._raise(problem)
        if len({*every.checksum}) > 1 and not any(every.overflow):
            self._check_exchange(misplaced or shared)
        return Inspection(
            any(every.overflow),
            all(every.is_query),
            any(every.skip),
            int(max(every.steps)),
            int(max(every.reached)),
            None if mine.square_sums is None else (*every.total, *every.lost),
            tuple(map(int, accumulate(every.parameters[:-1], initial=0))) if self.has_shares else (),
            any(checksum < 0 for checksum in every.checksum),
            sum(every.loss) / sum(every.has_loss) if any(every.has_loss) else None,
            all(one == WILLING for one in every.decides),
        )

    def exchanged(self, row: Tensor) -> Tensor:
        """The rows of all ranks: see ``adamas.step.inspection.Peers``."""
        sent = row.to(self._device())
        received = [torch.empty_like(sent) for _ in range(self._size)]
        dist.all_gather(received, sent, group=self._group)
        return torch.stack(received).to(row.device)

    def named(self, index: int) -> str:
        """The rank whose row has this index: see ``adamas.step.inspection.Peers``."""
        return f"rank {self.ranks[index]} of {self._group_name()}"

    def _apart(self, decides: Sequence[float]) -> str:
        there = next(i for i, one in enumerate(decides) if one == DEVICE)
        return (
            f"{self.named(there)} lets its device decide about this step, as before, and rank {self.ranks[self._rank]} does "
            "not, so no rank makes it: options, and which gradients are to be redistributed, must be the same on all ranks"
        )

    def added(self, sums: Mapping[Hashable, Sequence[float]], problem: Exception | None) -> dict[Hashable, float]:
        """The sums of all ranks: see ``adamas.step.inspection.Peers``."""
        sent = problem is not None, {key: sum_in_two(numbers) for key, numbers in sums.items()}
        received = self._gathered(sent).values()
        if any(failed for failed, _ in received):
            self._raise(problem)
        parts: dict[Hashable, list[float]] = {}
        for _, one in received:
            for key, pair in one.items():
                parts.setdefault(key, []).extend(pair)
        return added_up(parts)

    def joined(self, f: Any, sums: Any, counted: Any, names: Sequence[str]) -> Any:
        """The statistics of parameters over all ranks.

        Args:
            f: ``adamas.step.watching.Host``, or the functions of the device of the sums.
            sums: those of this rank, a row for each parameter.
            counted: for each parameter 1 if it counts here, else 0.
            names: the names of the parameters.
        """
        if self.is_uneven:
            rows = f.downloaded(sums)
            mine = {name: row for name, row, counts in zip(names, rows, counted, strict=True) if counts}
            every = self._gathered(mine).values()
            nothing = np.zeros(sums.shape[1])
            return f.uploaded(np.stack([_joined([one.get(name, nothing) for one in every]) for name in names]))
        here = f.where(f.uploaded(counted)[:, None] > 0, sums, 0.0)
        sent = (here if isinstance(here, Tensor) else torch.from_numpy(here)).to(self._device())
        received = [torch.empty_like(sent) for _ in range(self._size)]
        dist.all_gather(received, sent, group=self._group)
        total: Tensor = functools.reduce(functools.partial(joined, torch), received)
        return total.to(here.device) if isinstance(here, Tensor) else total.numpy()

    def check_all(self, problem: Exception | None, exchanged: Sequence[Exchanged] = ()) -> None:
        """Raises on all ranks if one of them cannot load a state dict.

        Args:
            problem: why this rank cannot; None if it can.
            exchanged: what it is about to exchange with others.
        """
        failed = torch.tensor(float(problem is not None), device=self._device())
        dist.all_reduce(failed, group=self._group)
        if failed:
            self._raise(problem, "cannot load the state dict, so no rank loads it")
        self._check_exchange(exchanged)

    def _check_exchange(self, exchanged: Sequence[Exchanged]) -> None:
        """Raises ValueError on all ranks unless the ranks of each mesh are about to exchange the same."""
        texts: dict[tuple[int, ...], list[str]] = {}
        for one in exchanged:
            texts.setdefault(_ranks_of(one.mesh), []).append(one.text)
        checksums = self._gathered({ranks: _checksum(here) for ranks, here in texts.items()})
        for ranks in sorted({ranks for one in checksums.values() for ranks in one}):
            present = [rank for rank in ranks if rank in checksums]
            if len({checksums[rank].get(ranks) for rank in present}) > 1:
                self._refuse_exchange(texts.get(ranks, []), present)

    def _refuse_exchange(self, texts: Sequence[str], present: Sequence[int]) -> None:
        """Raises ValueError, as those of the ranks that are ``present`` are about to exchange different things."""
        found = self._gathered(texts)
        for one, other in pairwise(present):
            for its, others in zip_longest(found[one], found[other], fillvalue="nothing"):
                if its != others:
                    raise ValueError(
                        f"the ranks of a mesh have to exchange the same tensors in the same order, but where rank {one} has "
                        f"{its}, rank {other} has {others}; nothing was changed"
                    )

    def _gathered(self, here: Any) -> dict[int, Any]:
        """What each rank has, by its number among all."""
        received: list[Any] = [None] * self._size
        dist.all_gather_object(received, here, group=self._group)
        return dict(zip(self.ranks, received, strict=True))

    def _raise(
        self, problem: Exception | None, consequence: str = "cannot make this step, so no rank makes it"
    ) -> NoReturn:
        """Raises this rank's problem or, if it has none, the problem of the first rank that has one."""
        kind = next((kind for kind in _RAISED if isinstance(problem, kind)), RuntimeError)
        problems = self._gathered(None if problem is None else (kind, str(problem)))
        if problem is not None:
            raise problem
        rank, (kind, text) = next((i, one) for i, one in enumerate(problems.values()) if one is not None)
        raise kind(f"rank {rank} of {self._group_name()} {consequence}: {text}")

    def _group_name(self) -> str:
        return "process_group" if self.has_shares else "the parameters' mesh"

    def _device(self) -> torch.device:
        """The device of tensors that the group can communicate: that of the parameters, if it can."""
        backends = dist.get_backend_config(self._group)
        if self._weights_device is not None and f"{self._weights_device.type}:" in backends:
            return self._weights_device
        if "cpu:" in backends:
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


def _joined(rows: Sequence[Any]) -> Any:
    return functools.reduce(functools.partial(joined, np), rows)


def _group_of(ranks: tuple[int, ...], meshes: Sequence[DeviceMesh]) -> Any:
    """A process group of these ranks: that of a mesh, or of all processes, or a new one. All ranks call this together."""
    for mesh in meshes:
        if mesh.ndim == 1 and tuple(sorted(mesh.mesh.tolist())) == ranks:
            return mesh.get_group()
    if len(ranks) == dist.get_world_size():
        assert dist.group.WORLD is not None
        return dist.group.WORLD
    world, group = _made.get(ranks, (None, None))
    if group is None or world is not dist.group.WORLD:  # processes may leave their groups and begin anew
        group = dist.new_group(list(ranks), use_local_synchronization=True)
        _made[ranks] = dist.group.WORLD, group
    return group
