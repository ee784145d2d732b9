"""A device that is none: its copies arrive late, and in any order that a device allows."""

from __future__ import annotations

import random
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adamas.torch.transfer import Pairs


@dataclass
class Late:
    """Copies that are only made when they are waited for; until then, their targets have no values.

    Whoever looks too early finds NaN, whoever overwrites or frees a source too early sends something else.

    Attributes:
        random: chooses how many of the copies that may have arrived have.
        fails_at: the number of the ``fetch`` whose ``wait`` fails; None for none.
        log: what was done, in order.
        pairs: how many tensors each step has fetched.
    """

    random: random.Random
    fails_at: int | None = None
    log: list[str] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fetched: list[tuple[int, list[tuple[weakref.ref[Tensor], Tensor]]]] = []
        self._sent: list[tuple[Tensor, Tensor]] = []
        self._unsettled: set[int] = set()  # the addresses of what was sent, which the device may still be reading
        self.count = 0

    def host_buffer(self, size: int) -> Tensor:
        self.log.append("buffer")
        return torch.full((size,), 255, dtype=torch.uint8)  # NaN

    def mark(self) -> None:
        self.log.append("mark")
        self.pairs.append(0)

    def after(self, marks: list[None]) -> nullcontext[None]:
        return nullcontext()

    def fetch(self, pairs: Pairs, after: Any) -> int:
        self.count += 1
        self.log.append("fetch")
        self.pairs[-1] += len(pairs)
        for _, target in pairs:
            poison(target)
        # The sources are the caller's to keep.
        self._fetched.append((self.count, [(weakref.ref(source), target) for source, target in pairs]))
        return self.count

    def wait(self, ticket: int) -> None:
        if ticket == self.fails_at:
            raise OSError("the link is down")
        self.log.append("wait")
        # In order, as on a stream: those before this one, and perhaps some after it.
        ready = [one for one in self._fetched if one[0] <= ticket]
        later = [one for one in self._fetched if one[0] > ticket]
        ready += later[: self.random.randint(0, len(later))]
        for one in ready:
            self._fetched.remove(one)
            for reference, target in one[1]:
                source = reference()
                assert source is not None, "freed before it had arrived"
                target.data.copy_(source.data)
        if self.random.random() < 0.5:
            self._arrive(self.random.randint(0, len(self._sent)))

    def send(self, pairs: Pairs) -> None:
        self.log.append("send")
        for source, target in pairs:
            assert source.data_ptr() not in self._unsettled, "written while the device was reading it"
            self._unsettled |= {source.data_ptr()} if source.numel() else set()
            poison(target)
            target.copy_(target.clone())  # a copy counts as a change of the tensor when it is begun
            self._sent.append((source, target))

    def join(self) -> None:
        self.log.append("join")
        self._arrive(len(self._sent))

    def settle(self) -> None:
        self.log.append("settle")
        self._unsettled.clear()
        self._arrive(len(self._sent))

    def recover(self) -> None:
        """The link is up again, and nothing is on its way."""
        self.fails_at, self._fetched, self._sent = None, [], []

    def _arrive(self, count: int) -> None:
        arrived, self._sent = self._sent[:count], self._sent[count:]
        for source, target in arrived:
            target.data.copy_(source.data)


def poison(tensor: Tensor) -> None:
    """Takes a tensor its values, in a way that autograd does not see."""
    tensor.data.copy_(torch.full((), float("nan")).expand_as(tensor))
