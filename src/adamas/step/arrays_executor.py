"""The executor for every other device: one parameter after the other, by the framework's own operations."""

from __future__ import annotations

from collections.abc import Sequence

from ..rule.declaration import Numbers
from .executor import GroupSpec, check_gradients
from .record import Record, Scalars, Tensor

_UNCOUNTED = 2**53  # from here on, a float64 does not count a step more


class ArraysExecutor:
    """See ``adamas.step.executor.Executor``."""

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        self._spec, self._records = spec, records
        self._penalized = is_decayed and spec.penalized
        self._found: list[tuple[Record, Tensor, int]] = []  # each with its gradient and the index of its scalars
        self.scalars: list[Scalars] = []
        self.prepared: Sequence[tuple[Numbers, Scalars]] = ()

    def look(self, gradients: list[Tensor | None] | None) -> None:
        """See ``Executor.look``."""
        if gradients is None:
            gradients = [self._spec.tensors.gradient_of(record.weight) for record in self._records]
        check_gradients(self._spec, self._records, gradients)
        distinct: dict[Scalars, int] = {}
        self._found = [
            (record, gradient, distinct.setdefault(self._scalars_of(record), len(distinct)))
            for record, gradient in zip(self._records, gradients, strict=True)
            if gradient is not None
        ]
        self.scalars = list(distinct)

    def _scalars_of(self, record: Record) -> Scalars:
        return tuple([self._scalar_of(record, name) for name in self._spec.scalar_names])

    def _scalar_of(self, record: Record, name: str) -> float:
        """A single number of the state. One that was set by hand, in any type, is replaced by one that the step can write."""
        what = f"parameter {record.name}: its state '{name}'"
        if name not in record.state:
            raise ValueError(f"{what} is missing")
        scalar = self._spec.tensors.as_scalar(given := record.state[name])
        if scalar is None:
            raise ValueError(f"{what} is {given!r}, and has to be a single number")
        record.state[name], number = scalar, float(scalar)
        if not 0 <= number < _UNCOUNTED:
            raise ValueError(f"{what} is {number}, and has to be a number from 0 up, below 2**53")
        return number

    def release(self) -> None:
        """See ``Executor.release``."""
        self._found = []

    def gradients(self) -> list[Tensor]:
        """See ``Executor.gradients``."""
        return [gradient for _, gradient, _ in self._found]

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``Executor.square_sum``."""
        sums = [self._spec.tensors.square_sum(gradient) for gradient in self.gradients()]
        culprits = (
            record.name for (record, _, _), (_, is_finite) in zip(self._found, sums, strict=True) if not is_finite
        )
        return [total for total, _ in sums], next(culprits, None)

    def apply(self) -> None:
        """Steps what was prepared."""
        spec = self._spec
        for record, gradient, index in self._found:
            numbers, scalars = self.prepared[index]
            spec.tensors.step(spec, record, gradient, numbers, self._penalized, int(scalars[0]))
            for name, value in zip(spec.scalar_names, scalars, strict=False):
                spec.tensors.write_scalar(record.state[name], value)
