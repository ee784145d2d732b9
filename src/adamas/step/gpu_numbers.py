"""The numbers of a step on a GPU, as the words that kernels read: computed here, or by a kernel where the device decides.

As ``adamas.step.gpu``, it imports PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..rule import formats
from ..rule.declaration import Numbers
from ..rule.triton import HEADER, Kind, constants_of_statistics, written
from ..rule.triton_numbers import NumbersKind, fixed_of, values_of
from ..rule.writing import NUMBER_FUNCTIONS, NUMBER_OPERATORS, constants_of
from . import kernels
from .arrays_executor import Coming
from .executor import GroupSpec
from .record import Tensor
from .table import Upload, on

_FUNCTIONS = {name: getattr(np, name) for name in NUMBER_FUNCTIONS} | {
    name: getattr(operator, name) for name in NUMBER_OPERATORS
}


class Sets:
    """The sets of numbers of one launch.

    Args:
        kind: the kind of its tensors.
        numbers: all sets of the step, each with the step's number.
    """

    def __init__(self, kind: Kind, numbers: Sequence[tuple[Numbers, int]]) -> None:
        self._kind, self._numbers, self._index = kind, numbers, dict[Hashable, int]()
        self._words: list[np.ndarray] = []

    def take(self, chosen: np.ndarray) -> np.ndarray:
        """Takes sets of the step, and returns their indices here."""
        return np.array([self._add(*self._numbers[one]) for one in chosen])

    def _add(self, numbers: Numbers, count: int) -> int:
        kind, rule = self._kind, written(self._kind.rule)
        key = (count, *(numbers[name] for name in (*rule.given, "eta", "k")))
        index = self._index.setdefault(key, len(self._index))
        if index == len(self._words):
            moves = numbers["eta"] != 0 or numbers["k"] != 1
            words = np.zeros(kind.words, np.int32)
            words[: len(HEADER)] = np.array([formats.moved_by(count), 1, moves, 0], np.uint32).view(np.int32)
            dtype = np.float64 if kind.is_wide else np.float32
            given = {name: np.float64(numbers[name]) for name in rule.given}
            with np.errstate(all="ignore"):
                found = constants_of(rule, given, kind.penalized, _FUNCTIONS)
                if kind.is_watched:
                    found += constants_of_statistics(kind.rule, numbers)
            constants = np.array(found, np.float64).astype(dtype)
            words[len(HEADER) :][: constants.nbytes // 4] = constants.view(np.int32)
            self._words.append(words)
        return index

    def on_device(self, upload: Upload) -> Tensor:
        """All sets on the device."""
        return upload(np.concatenate(self._words))


class DeviceNumbers:
    """The numbers of the coming step, where the device decides about it: kernels compute them, for each set of scalars.

    Args:
        spec: what the parameters have in common.
        is_decayed: whether weight decay and the penalties apply to them.
        coming: the step.
        before: the scalars before it, a row for each of their names and a column for each set of numbers.
        runs: whether it is made, a boolean tensor without dimensions; None if it is in any case.
        upload: copies the inputs that the host knows.

    Attributes:
        before: the argument ``before``.
        after: the scalars after the step, once a kernel has been launched.
        unknown: what stands for the numbers where the host would look at their values.
    """

    def __init__(
        self, spec: GroupSpec, is_decayed: bool, coming: Coming, before: Tensor, runs: Tensor | None, upload: Upload
    ) -> None:
        self._spec, self._is_decayed, self._coming, self.before = spec, is_decayed, coming, before
        self.after: Tensor | None = None
        self.unknown = {"w": before, "k": before}
        f = coming.formulas
        values = [*values_of(spec.member, coming.hyper), coming.scale, 1.0 if runs is None else runs]
        known = upload(np.array([0.0 if f.has(x) else x for x in values], np.float64))
        self._inputs = known
        if any(map(f.has, values)):
            self._inputs = f.stack([f.number(x) if f.has(x) else known[i] for i, x in enumerate(values)])

    def words(self, kind: Kind) -> Tensor:
        """The words that the kernel of this kind reads."""
        before = self.before
        kernel = kernels.computing(numbers_kind(self._spec, self._coming.hyper, kind, self._is_decayed), kind.words)
        count = before.shape[1]
        self.after = torch.empty_like(before)
        words = torch.empty(count * kind.words, dtype=torch.int32, device=before.device)
        with on(before.device):
            kernel[(-(-count // kernels.SETS),)](before, self._inputs, self.after, words, count, **kernels.COMPUTED)
        return words


def numbers_kind(spec: GroupSpec, hyper: Mapping[str, Any], kind: Kind, is_decayed: bool) -> NumbersKind:
    """The kind of the numbers that a step of tensors of this kind takes."""
    fixed = fixed_of(spec.member, hyper)
    return NumbersKind(spec.member, fixed, kind.rule, kind.penalized, kind.is_wide, is_decayed, kind.is_watched)


class DecidedSets:
    """The sets of numbers of one launch, where the device decides about the step and computes them: one for each parameter."""

    def __init__(self, kind: Kind, numbers: DeviceNumbers) -> None:
        self._kind, self._numbers = kind, numbers

    def take(self, chosen: np.ndarray) -> np.ndarray:
        """See ``Sets.take``. All sets of the step are here."""
        return chosen

    def on_device(self, upload: Upload) -> Tensor:
        """See ``Sets.on_device``."""
        return self._numbers.words(self._kind)
