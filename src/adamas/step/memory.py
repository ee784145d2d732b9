"""The memory that an optimizer takes, by kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..rule.declaration import Member
from ..rule.layout import LOW_BITS, scale_name

WEIGHTS, GRADIENTS, SCALES, COUNTS = "weights", "gradients", "scales", "step counts"

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Memory:
    """The memory of an optimizer and its parameters. ``print`` shows a table; its units are powers of 1000 bytes.

    Attributes:
        parameters: the number of elements of all weights, including frozen ones.
        bytes: bytes by kind: ``"weights"``, ``"gradients"``, and the parts of the state that exist: each moment by its name,
            ``"scales"`` (of 8-bit moments), ``"weight_low_bits"`` (of ``weights="split"``), and ``"step counts"`` (the scalars
            of each parameter).
    """

    parameters: int
    bytes: dict[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())

    @property
    def state(self) -> int:
        """Bytes of the optimizer's state: everything except weights and gradients."""
        return self.total - self.bytes[WEIGHTS] - self.bytes[GRADIENTS]

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of the optimizer's state per element of the weights."""
        return self._each(self.state)

    def __str__(self) -> str:
        """A line for each kind, then one for the state and one for the total."""
        rows = [(f"{self.parameters:,} parameters", "memory", "bytes a parameter")]
        for kind, size in [*self.bytes.items(), ("state", self.state), ("total", self.total)]:
            rows.append((kind, _readable(size), f"{self._each(size):.2f}"))
        first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(f"{kind:{first}}  {size:>{second}}  {each:>{third}}" for kind, size, each in rows)

    def _each(self, size: int) -> float:
        return size / max(1, self.parameters)


def _readable(size: float) -> str:
    for unit in _UNITS:
        if round(size, 2) < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size} B" if unit == "B" else f"{size:.2f} {unit}"


def counted(
    member: Member, weights: Iterable[Any], gradients: Iterable[Any], states: Iterable[Mapping[str, Any]]
) -> Memory:
    """The bytes of arrays or tensors, by kind. ``states`` has the state of each parameter, by name."""
    weights = list(weights)
    found = {WEIGHTS: sum(p.nbytes for p in weights), GRADIENTS: sum(g.nbytes for g in gradients)}
    kinds = {scale_name(name): SCALES for name in member.states} | dict.fromkeys(member.scalar_names, COUNTS)
    for state in states:
        for name, value in state.items():
            if hasattr(value, "nbytes"):
                kind = kinds.get(name, name)
                found[kind] = found.get(kind, 0) + value.nbytes
    order = [WEIGHTS, GRADIENTS, *member.states, SCALES, LOW_BITS, COUNTS]
    order += [kind for kind in found if kind not in order]  # other entries that a loaded state dict had
    return Memory(sum(math.prod(p.shape) for p in weights), {kind: found[kind] for kind in order if kind in found})
