"""The processes that share a run: how they share batches, add up numbers, and tell one another when to stop.

May import PyTorch, adamas.lab.tasks and adamas.lab.launch.
"""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from adamas.lab import launch
from adamas.lab.inputs import InputError
from adamas.lab.tasks import Task
from adamas.lab.train.interruption import Interruption
from adamas.lab.train.records import RankLostError
from adamas.torch.distributed import is_distributed

LARGE = 100_000  # parameters of a block that FSDP gathers by itself
# How long a rank waits for rank 0 to say why the run ends, before one of them says so.
SECONDS_FOR_RANK_0, SECONDS_BETWEEN_LOOKS = 3.0, 0.02


class Applied(nn.Module):
    """Calls functions of a model, such as a task's loss, as its own ``forward``.

    DistributedDataParallel and FSDP act before and after ``forward``. Around this module, they also cover what a loss does
    with the model besides calling it once: calling its parts, or reading its weights.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take the model."""
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(model, *arguments)``."""
        return function(self.model, *arguments)


class Ranks:
    """The processes of a run, each of which makes the same calls in the same order. By default, this one alone."""

    def __init__(self, parallel: str | None = None, rank: int = 0, size: int = 1) -> None:
        """Take the option ``parallel``, the number of this process, from 0, and the number of all."""
        self.parallel, self.rank, self.size = parallel, rank, size
        self._said: dict[str, bool] = {}
        self._heard: frozenset[str] = frozenset()

    def check(self, task: Task, name: str, batch_size: int) -> None:
        """Raise InputError if the batches of a task cannot be shared."""
        if self.parallel is None:
            return
        if not task.train:
            raise InputError("parallel", f"shares out data, and the task {name} has none: leave it out")
        if batch_size < self.size:
            raise InputError("batch_size", f"is {batch_size}, fewer examples than the {self.size} ranks: give more")

    def device(self, name: str) -> str:
        """The device of this rank, where ``name`` is that of the option."""
        return name if self.parallel is None or name == "cpu" else f"{name}:{launch.local_rank()}"

    def shared(self, applied: Applied) -> nn.Module:
        """Return the module whose backward pass averages the gradients of all ranks; ``applied`` shares its weights."""
        if self.parallel == "ddp":
            return DistributedDataParallel(applied)
        if self.parallel == "fsdp":
            mesh = init_device_mesh(next(applied.parameters()).device.type, (self.size,))
            for block in _large_blocks(applied):
                fully_shard(block, mesh=mesh)
            fully_shard(applied, mesh=mesh)
        return applied

    def gathered(self, state: Any) -> Any:
        """A state dict with whole tensors in place of DTensors: on the CPU of rank 0, while the others have None for them.

        All ranks call it together.
        """
        if self.parallel != "fsdp":
            return state
        if isinstance(state, Mapping):
            return {key: self.gathered(value) for key, value in state.items()}
        if not is_distributed(state):
            return state
        whole = state.full_tensor()
        return whole.cpu() if self.rank == 0 else None

    def placed(self, state: Mapping[str, Any], like: Mapping[str, Any]) -> Mapping[str, Any]:
        """A state dict with DTensors in place of those whole tensors for which ``like`` has a DTensor of the same shape."""
        if self.parallel != "fsdp":
            return state
        return {name: _placed(value, like.get(name)) for name, value in state.items()}

    def check_gradients(self, model: nn.Module) -> None:
        """Raise InputError if a weight has no gradient, for which DistributedDataParallel would wait."""
        if self.parallel == "ddp":
            without = [
                name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
            ]
            if without:
                problem = f"ddp needs a gradient for every weight in every step, and {without[0]} has none: freeze it"
                raise InputError("parallel", problem)

    def part(self, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
        """Return this rank's examples of a batch, and the weight of their mean loss in the mean over ranks.

        The mean over ranks of weight times loss is the mean loss of the whole batch. A rank that would have no example takes
        the first one with a weight of 0, so that it takes part in the step.
        """
        if self.size == 1:
            return batch, 1.0
        counts = [len(batch[0]) // self.size + (rank < len(batch[0]) % self.size) for rank in range(self.size)]
        begin, count = sum(counts[: self.rank]), counts[self.rank]
        rows = slice(begin, begin + count) if count else slice(0, 1)
        return tuple(part[rows] for part in batch), count * self.size / len(batch[0])

    def total(self, number: float) -> float:
        """The sum of a number over the ranks, rounded once. Also tells the other ranks what ``agreed`` was told."""
        if self.size == 1:
            return number
        said = sorted(self._said)
        sent = torch.tensor([number, *(self._said[name] for name in said)], dtype=torch.float64)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent)
        numbers, *told = zip(*(one.tolist() for one in received), strict=True)
        self._heard = frozenset(name for name, ranks in zip(said, told, strict=True) if any(ranks))
        return math.fsum(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)

    def agreed(self, name: str, here: bool) -> bool:
        """Whether a rank has said so. With several ranks all learn of it in the next ``total``, and answer it once."""
        if self.size == 1:
            return here
        heard = name in self._heard
        self._said[name] = here and not heard
        self._heard -= {name}
        return heard

    def first(self, value: Any) -> Any:
        """The value that rank 0 has, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def check_data(self, fingerprint: int) -> None:
        """Raise InputError unless every rank has the same training data."""
        fingerprints = [fingerprint] * self.size
        if self.size > 1:
            dist.all_gather_object(fingerprints, fingerprint)
        if fingerprints != fingerprints[:1] * self.size:
            raise InputError(
                "data_dir", "holds other training data on one rank than on another: give all ranks the same"
            )

    def metrics(
        self, task: Task, data: tuple[Tensor, ...], evaluate: Callable[..., Mapping[str, float]]
    ) -> Mapping[str, float]:
        """The metrics of the test data or the validation data of a task, the same on every rank.

        If they are means over the examples, the ranks share the examples. Each evaluates the same number, since with FSDP all
        must call the model equally often; the remaining ones are evaluated by all.
        """
        each = len(data[0]) // self.size if data else 0
        if self.size == 1 or not task.metrics_are_means or not each:
            metrics: Mapping[str, float] = self.first(evaluate(*data))
            return metrics
        mine = evaluate(*(part[self.rank * each : (self.rank + 1) * each] for part in data))
        rest = [part[self.size * each :] for part in data]
        remaining = evaluate(*rest) if len(rest[0]) else dict.fromkeys(mine, 0.0)
        total = each * self.size + len(rest[0])
        return {name: (self.total(each * mine[name]) + len(rest[0]) * remaining[name]) / total for name in mine}

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def watched(self, interruption: Interruption) -> Iterator[None]:
        """Turn the error of a communication into a RankLostError.

        Then the SIGTERM that torchrun sends to the other ranks has no effect: this process ends by itself.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            interruption.ignore(signal.SIGTERM)
            raise RankLostError(
                "another process has ended, and the run with it: resume it from its last checkpoint"
            ) from error


def join(parallel: str | None, kind: str) -> Ranks:
    """Connect the processes of a run; a process group that exists already is used.

    They stay connected: destroying a group of gloo while one of its threads still holds a tensor can wait forever, as can the
    end of the interpreter (PyTorch issue 190489).

    Args:
        parallel: the option of that name.
        kind: the type of their devices.
    """
    if parallel is None:
        return Ranks()
    if not dist.is_initialized():
        backend = "gloo" if kind == "cpu" else f"cpu:gloo,{kind}:{dist.get_default_backend_for_device(kind)}"
        store = dist.PrefixStore("run", _store())  # type: ignore[attr-defined] # PyTorch exports it, but not in __all__
        dist.init_process_group(backend, store=store, rank=launch.rank(), world_size=launch.ranks())
    return Ranks(parallel, dist.get_rank(), dist.get_world_size())


@contextmanager
def last_word() -> Iterator[bool]:
    """Yield whether this process prints why the run ends: rank 0, or another one if rank 0 does not.

    The other processes wait until it is printed, since torchrun ends all when the first one exits.
    """
    store = _store()
    prints = _prints(store)
    yield prints
    if prints:
        store.set("printed", "")


def _prints(store: Any) -> bool:
    until = monotonic() + SECONDS_FOR_RANK_0
    try:
        while launch.rank() != 0 and monotonic() < until:
            if store.check(["printed"]):
                return False
            sleep(SECONDS_BETWEEN_LOOKS)
        return bool(store.add("prints", 1) == 1)
    except dist.DistError:  # the store was in a process that has ended
        return False


def _placed(value: Any, like: Any) -> Any:
    if not isinstance(value, Tensor) or not is_distributed(like) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _large_blocks(applied: Applied) -> list[nn.Module]:
    """The entries of lists and sequences that FSDP shards by themselves, inner ones first.

    An entry that shares a weight with other modules is none of them.
    """
    owners = Counter(parameter for module in applied.modules() for parameter in module._parameters.values())
    entries = [
        child
        for module in applied.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for child in module.children()
    ]
    return [
        entry
        for entry in reversed(entries)
        if sum(parameter.numel() for parameter in entry.parameters()) >= LARGE
        and all(owners[parameter] == 1 for parameter in entry.parameters())
    ]


@cache
def _store() -> Any:
    """The key-value store by which torchrun connects its processes."""
    store, _, _ = next(rendezvous("env://"))
    return store
