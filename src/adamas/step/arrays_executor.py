"""The executor for devices without a kernel: steps one parameter after the other with the framework's operations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from ..rule.declaration import Numbers, Sum
from .exact import summed
from .executor import GroupSpec, check_gradients
from .record import Record, Scalars, Tensor

_UNCOUNTED = 2**53  # from here on, float64 cannot count another step


_OVER = {"tensor": "its tensor", "all": "all tensors"}


class ArraysExecutor:
    """The parameters of a group on devices without a kernel. Attributes and methods are those of ``EngineExecutor``."""

    def __init__(self, spec: GroupSpec, records: Sequence[Record], is_decayed: bool) -> None:
        self._spec, self._records = spec, records
        self._penalized = is_decayed and spec.penalized
        self._found: list[tuple[Record, Tensor, int]] = []  # records with gradients, and the indices of their scalars
        self._sums: list[dict[str, float]] = []  # of each of them, by name
        self.scalars: list[Scalars] = []
        self.prepared: Sequence[tuple[Numbers, Scalars]] = ()

    def look(self, gradients: list[Tensor | None] | None) -> None:
        """See ``EngineExecutor.look``."""
        if gradients is None:
            gradients = [self._spec.tensors.gradient_of(record.weight) for record in self._records]
        check_gradients(self._spec, self._records, gradients)
        distinct: dict[Scalars, int] = {}
        self._found = [
            (record, gradient, distinct.setdefault(self._scalars_of(record), len(distinct)))
            for record, gradient in zip(self._records, gradients, strict=True)
            if gradient is not None
        ]
        self._sums = [{} for _ in self._found]
        self.scalars = list(distinct)

    def _scalars_of(self, record: Record) -> Scalars:
        return tuple([self._scalar_of(record, name) for name in self._spec.scalar_names])

    def _scalar_of(self, record: Record, name: str) -> float:
        """A scalar of the state. A number of another type, set by the user, is replaced by one that the step can write to."""
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
        """See ``EngineExecutor.release``."""
        self._found = []

    def gradients(self) -> list[Tensor]:
        """See ``EngineExecutor.gradients``."""
        return [gradient for _, gradient, _ in self._found]

    def square_sum(self, threads: int) -> tuple[list[float], str | None]:
        """See ``EngineExecutor.square_sum``."""
        tensors = self._spec.tensors
        squares = [part for _, gradient, _ in self._found for part in summed(tensors.squares(gradient))]
        culprits = (record.name for record, gradient, _ in self._found if not tensors.is_finite(gradient))
        return squares, next(culprits, None)

    def add_terms(self, index: int, terms: dict[Hashable, list[float]], alone: bool) -> None:
        """See ``GroupPlan.add_terms``."""
        if index < len(self._spec.rule.sums):
            wanted = self._spec.rule.sums[index]
            for (record, gradient, row), known in zip(self._found, self._sums, strict=True):
                self._refuse_part(wanted, record, alone)
                numbers = self.prepared[row][0] | known
                found = self._spec.tensors.terms(self._spec, record, gradient, numbers, self._penalized, wanted.term)
                terms.setdefault(_key(wanted, record), []).extend(summed(found))

    def take_sums(self, index: int, sums: Mapping[Hashable, float]) -> None:
        """See ``GroupPlan.take_sums``."""
        if index < len(self._spec.rule.sums):
            wanted = self._spec.rule.sums[index]
            for (record, _, _), known in zip(self._found, self._sums, strict=True):
                known[wanted.name] = sums[_key(wanted, record)]

    def _refuse_part(self, wanted: Sum, record: Record, alone: bool) -> None:
        """Raises ValueError if the sum cannot be computed because the parameter is only a part of what is summed over."""
        name, rows = f"parameter {record.name}", record.rows
        option = f"the rule {self._spec.rule.name!r} needs the sum {wanted.name!r} over {_OVER[wanted.over]}"
        if record.is_flat and wanted.over == "tensor":
            raise ValueError(
                f"{name} is a part of several tensors that were joined, and {option}, which is unknown for each of them: use "
                "another optimizer for this model"
            )
        if alone and (record.is_flat or (rows is not None and rows.total != record.weight.shape[0])):
            raise ValueError(
                f"{name} is a part of a tensor, and {option}, wherever its parts lie: give the optimizer process_group=, "
                "the processes that have the other parts"
            )

    def apply(self) -> None:
        """Makes the prepared steps."""
        spec = self._spec
        for (record, gradient, row), sums in zip(self._found, self._sums, strict=True):
            numbers, scalars = self.prepared[row]
            spec.tensors.step(spec, record, gradient, numbers | sums, self._penalized, int(scalars[0]))
            for name, value in zip(spec.scalar_names, scalars, strict=False):
                spec.tensors.write_scalar(record.state[name], value)


def _key(wanted: Sum, record: Record) -> Hashable:
    """The key of the sum. The parts of a tensor in several processes share it, since they have the same random key."""
    return (wanted.name, record.key) if wanted.over == "tensor" else (wanted.name,)
