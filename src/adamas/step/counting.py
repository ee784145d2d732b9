"""The scalars of parameters, such as their step counts, on a device that counts the steps itself.

It does where a step can be skipped without the host waiting to learn it (``adamas.step.deciding``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .record import Record, Tensor

_UNCOUNTED = 2**53  # from here on, float64 cannot count another step


def check_count(record: Record, name: str, number: float) -> None:
    """Raises ValueError if a scalar of the state is its step, and cannot be a count; the message names the parameter."""
    if name == "step" and not 0 <= number < _UNCOUNTED:
        raise ValueError(
            f"parameter {record.name}: its state '{name}' is {number}, and has to be a number from 0 up, below 2**53"
        )


class DeviceScalars:
    """The scalars of some parameters in one tensor, of which their states have views.

    Args:
        formulas: the functions of the device (``adamas.step.namespaces.torch.Formulas``).
        names: the names of the scalars.
        records: the records of the parameters.
        number_of: the value of a scalar that is not on the device, by its record and its name.
    """

    def __init__(
        self,
        formulas: Any,
        names: Sequence[str],
        records: Sequence[Record],
        number_of: Callable[[Record, str], float],
    ) -> None:
        self._f, self._names, self._records, self._number_of = formulas, names, records, number_of
        self._all: Tensor | None = None
        self._views: list[list[Tensor]] = []  # for each name, that of each record
        self._chosen: tuple[list[int], Tensor] | None = None
        self._of_graphs: list[Any] = []  # what CUDA graphs read and write

    def adopt(self) -> None:
        """Takes over scalars that something else has put into the states. The host waits for the device once, to check them.

        Raises:
            RuntimeError: a CUDA graph is being captured.
            ValueError: one of them is missing, or is no number of steps.
        """
        for name, views in zip(self._names, self._views, strict=False):
            for record, view in zip(self._records, views, strict=True):
                if record.state.get(name) is not view:
                    self._collect()
                    return
        if self._all is None:
            self._collect()

    def _collect(self) -> None:
        f, rows = self._f, []
        f.refuse_capture(f"the {self._names[0]!r} of a state was replaced since the last step")
        for name in self._names:
            given = [record.state.get(name) for record in self._records]
            are_there = [f.has_number(x) for x in given]
            known = [
                0.0 if is_there else self._number_of(record, name)
                for is_there, record in zip(are_there, self._records, strict=True)
            ]
            row = f.uploaded(np.array(known, np.float64))
            for i, x in enumerate(given):
                if are_there[i]:
                    row[i] = f.hyperparameter(x)
            rows.append(row)
        found = f.stack(rows)
        for name, numbers in zip(self._names, found.tolist(), strict=True):
            for record, number in zip(self._records, numbers, strict=True):
                check_count(record, name, number)
        self._all, self._chosen = found, None
        self._views = [list(row) for row in self._all]
        for name, views in zip(self._names, self._views, strict=True):
            for record, view in zip(self._records, views, strict=True):
                record.state[name] = view

    def of(self, indices: list[int]) -> Tensor:
        """The scalars of the records at these indices, a row for each name."""
        assert self._all is not None
        return self._all if len(indices) == len(self._records) else self._all[:, self._index(indices)]

    def write(self, indices: list[int], values: Tensor) -> None:
        """Writes the scalars of these records, in the form of ``of``."""
        assert self._all is not None
        if len(indices) == len(self._records):
            self._all.copy_(values)
        else:
            self._all[:, self._index(indices)] = values
        if self._f.is_capturing():
            self._of_graphs.append((self._all, self._chosen))

    def _index(self, indices: list[int]) -> Tensor:
        if self._chosen is None or self._chosen[0] != indices:
            self._f.refuse_capture("other parameters have gradients than in the last step")
            self._chosen = indices, self._f.uploaded(np.array(indices, np.int64))
        return self._chosen[1]
