"""Weights that are evaluated at other values than those that are trained: those of schedule-free members.

The state keeps the difference of the two, so that a switch needs one addition, in pieces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..rule import layout
from ..rule.declaration import Member
from ..rule.layout import LOW_BITS
from .arrays import Stored, Weight, compute_dtype, load, load_weight, store_weight
from .record import State, Tensor, Tensors

TRAIN_MODE = "train_mode"  # the entry of a group that says which weights it has; None if a switch was interrupted


def begun(member: Member) -> dict[str, Any]:
    """The entries of a new group."""
    return {TRAIN_MODE: True} if member.offset else {}


def refuse_interrupted(groups: Iterable[Mapping[str, Any]]) -> None:
    """Raises RuntimeError if ``eval()`` or ``train()`` was interrupted."""
    if any(group.get(TRAIN_MODE, True) is None for group in groups):
        raise RuntimeError(
            "eval() or train() was interrupted, so that some weights are those of training and others those for evaluation: "
            "load weights and a state dict"
        )


def refuse_evaluated(groups: Iterable[Mapping[str, Any]]) -> None:
    """Raises RuntimeError unless the weights are those of training."""
    refuse_interrupted(groups)
    if not all(group.get(TRAIN_MODE, True) for group in groups):
        raise RuntimeError(
            "the weights are those for evaluation (optimizer.eval()), and those of training are needed, at which gradients "
            "are taken: call optimizer.train() before the forward pass"
        )


class Evaluated(ABC):
    """An optimizer whose weights are switched by ``eval`` and ``train``. A base class beside ``Stepping``."""

    param_groups: list[dict[str, Any]]
    state: Any
    _lock: Any

    def eval(self) -> None:
        """Makes the weights those for evaluation, x; does nothing if they are.

        Only rounding is lost: after ``train``, a weight may differ in its last digit from what it was before ``eval``. In
        bfloat16 and float16 that digit is large, unless ``weights="split"`` keeps the others. The switch takes about as long
        as a step. If a signal handler raises an exception in it, the optimizer refuses to go on until a state dict is
        loaded.
        """
        self._switch(False)

    def train(self) -> None:
        """Makes the weights those of training, y; does nothing if they are. See ``eval``."""
        self._switch(True)

    def _switch(self, train_mode: bool) -> None:
        with self._lock:
            refuse_interrupted(self.param_groups)
            for group in self.param_groups:
                if group[TRAIN_MODE] is train_mode:
                    continue
                group[TRAIN_MODE] = None
                for tensors, weight, state, offset in self._offsets(group):
                    add(tensors, weight, state, offset, 1 if train_mode else -1)
                group[TRAIN_MODE] = train_mode

    @abstractmethod
    def _offsets(self, group: Mapping[str, Any]) -> Iterator[tuple[Tensors, Tensor, State, Stored]]:
        """Each weight of a group that has a state, with the operations on it, its state and its offset."""


def stored(tensors: Tensors, state: State, name: str) -> Stored:
    """A tensor of a state as arrays."""
    scale = state.get(layout.scale_name(name))
    return Stored(tensors.array(state[name]), None if scale is None else tensors.array(scale))


def add(tensors: Tensors, weight: Tensor, state: State, offset: Stored, sign: int) -> None:
    """Adds the offset of a weight to it, or subtracts it. Rounds to the nearest."""
    xp = tensors.namespace(weight)
    with xp.computing():
        high, values = (x if x.ndim else x.reshape((1,)) for x in (tensors.array(weight), offset.values))
        low = tensors.low_bits(state[LOW_BITS]).reshape(high.shape) if LOW_BITS in state else None
        tensors.before_writing([weight])
        for piece in layout.pieces(high.shape):
            before = Weight(high[piece], None if low is None else low[piece])
            part = Stored(values[piece], None if offset.scale is None else offset.scale[piece])
            compute = compute_dtype(xp, before.high)
            value = load_weight(xp, before, compute) + sign * load(xp, part, compute, before.high.shape)
            after = store_weight(xp, value, before)
            before.high[...] = after.high
            if after.low is not None:
                before.low[...] = after.low
