"""The memory that an optimizer takes, by kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..rule.declaration import Member
from ..rule.layout import LOW_BITS, scale_name

WEIGHTS, GRADIENTS, SCALES, COUNTS = "weights", "gradients", "scales", "step counts"
COPIES, RING = "copies of weights", "buffers for gradients"  # on the host, of parameters that are on a device

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Memory:
    """The memory of an optimizer and its parameters. ``print`` shows a table; its units are powers of 1000 bytes.

    Attributes:
        parameters: the number of elements of all weights, including frozen ones.
        bytes: bytes by kind: ``"weights"``, ``"gradients"``, and the parts of the state that exist: each moment by its name,
            ``"scales"`` (of 8-bit moments), ``"weight_low_bits"`` (of ``weights="split"``), and ``"step counts"`` (the scalars
            of each parameter). With ``watch=`` also ``"watch"``; with ``offload=True`` also ``"copies of weights"`` and
            ``"buffers for gradients"``.
        host: of these bytes those that are on the host, by kind, if the parameters are on a device and are stepped on the
            host (``offload=True``); else empty.
    """

    parameters: int
    bytes: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())

    @property
    def state(self) -> int:
        """Bytes of the optimizer's state: everything except weights and gradients, their copies and buffers."""
        return sum(size for kind, size in self.bytes.items() if kind not in (WEIGHTS, GRADIENTS, COPIES, RING))

    @property
    def on_host(self) -> int:
        """All bytes on the host, of parameters that are on a device."""
        return sum(self.host.values())

    @property
    def on_device(self) -> int:
        """All other bytes."""
        return self.total - self.on_host

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of the optimizer's state per element of the weights."""
        return self._each(self.state)

    def __str__(self) -> str:
        """A line for each kind, then one for the state and one for the total, which is divided if a part is on the host."""
        rows = [(f"{self.parameters:,} parameters", "memory", "bytes a parameter")]
        sums = [("state", self.state), ("total", self.total)]
        if self.host:
            sums += [("on the device", self.on_device), ("on the host", self.on_host)]
        for kind, size in [*self.bytes.items(), *sums]:
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
    member: Member,
    weights: Iterable[Any],
    gradients: Iterable[Any],
    states: Iterable[tuple[Mapping[str, Any], bool]],
    others: Mapping[str, int],
    kept: Mapping[str, int],
) -> Memory:
    """The bytes of arrays or tensors, by kind.

    Args:
        member: the member.
        weights: the weights.
        gradients: the gradients.
        states: the state of each parameter, by name, and whether it is on the host while the parameter is on a device.
        others: other bytes on the host, by kind, of parameters that are on a device.
        kept: other bytes where the parameters are, by kind.
    """
    weights = list(weights)
    found = Counter(
        {WEIGHTS: sum(p.nbytes for p in weights), GRADIENTS: sum(g.nbytes for g in gradients), **others, **kept}
    )
    host = Counter(others)
    kinds = {scale_name(name): SCALES for name in member.states} | dict.fromkeys(member.scalar_names, COUNTS)
    for state, is_on_host in states:
        for name, value in state.items():
            if hasattr(value, "nbytes"):
                kind = kinds.get(name, name)
                found[kind] += value.nbytes
                host[kind] += value.nbytes * is_on_host
    order = [WEIGHTS, GRADIENTS, *member.states, SCALES, LOW_BITS, COUNTS]
    order += [kind for kind in found if kind not in order]  # other entries that a loaded state dict had
    parameters = sum(math.prod(p.shape) for p in weights)
    return Memory(parameters, {kind: found[kind] for kind in order if kind in found}, dict(+host))
