"""What ``optimizer.watch`` returns: the statistics that were kept, as arrays, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .watching import COLUMNS, PER_STEP, Array, Ring


class Watch:
    """The statistics of the last watched steps, read when ``optimizer.watch`` is.

    ``watch["update_norm"]`` is an array with a row for each step and a column for each tensor, in the order of ``names``; NaN
    where a tensor was not stepped. u is the change of the weight, before it is rounded to 16 bits; v̂ is the second moment as
    the update is divided by it, with bias correction. The statistics are:

    ================  ======================================================================================
    ``grad_norm``     the 2-norm of the gradient, after loss scaling was undone and before clipping
    ``weight_norm``   the 2-norm of the weight before the step
    ``update_norm``   the 2-norm of u
    ``update_max``    the largest |u|
    ``m_dot_g``       the product m·g of the first moment after the step and the gradient
    ``rms``           √mean(g²/max(v̂, ε²)), g after clipping: RMSₜ of Wortsman et al., 2023, arXiv:2304.13013
    ``under_eps``     the share of elements with 0 < √v̂ < ε
    ``behind``        the share of elements with v̂ below a tenth of g²
    ``lost``          the share of elements whose u was lost when the weight was rounded
    ``decay_norm``    the 2-norm of what decoupled weight decay adds to u
    ================  ======================================================================================

    A statistic that the member does not have, such as ``rms`` without a second moment, is NaN.

    Attributes:
        names: the names of the tensors.
        steps: for each row, the number of steps that were made, with this one (int64).
        per_step: for each row the ``loss`` (NaN if the optimizer did not get it), the ``grad_norm`` over all tensors, the
            factor ``clip`` by which clipping shortened it, the learning rate ``lr`` of the first group, and ``skipped``, 1 if
            the step was left out (float64).
    """

    def __init__(self, names: Sequence[str], per_step: Array, rows: Array) -> None:
        self.names = list(names)
        self.per_step = {name: per_step[:, i] for i, name in enumerate(PER_STEP) if name != "step"}
        self.steps = per_step[:, 0].astype(np.int64)
        self._rows = rows

    @classmethod
    def of(cls, ring: Ring | None) -> Watch:
        """What a ring has."""
        if ring is None:
            return cls([], np.zeros((0, len(PER_STEP))), np.zeros((0, 0, len(COLUMNS)), np.float32))
        return cls(ring.names, *ring.read())

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.steps)

    def __iter__(self) -> Iterator[str]:
        """The names of the statistics."""
        return iter(COLUMNS)

    def __getitem__(self, name: str) -> Array:
        """A statistic of every tensor at every step, float32 of shape (steps, tensors).

        Raises:
            KeyError: there is no statistic of this name.
        """
        if name not in COLUMNS:
            raise KeyError(f"{name!r}: the statistics are {', '.join(COLUMNS)}")
        return self._rows[:, :, COLUMNS.index(name)]

    def latest(self) -> dict[str, float]:
        """The last step as numbers with flat names, such as ``"update_norm/layer.weight"`` and ``"loss"``, for a logger.

        What is NaN is left out.
        """
        if not len(self):
            return {}
        found = {name: values[-1] for name, values in self.per_step.items()}
        found |= {f"{name}/{tensor}": self[name][-1, i] for name in self for i, tensor in enumerate(self.names)}
        return {"step": int(self.steps[-1])} | {name: float(x) for name, x in found.items() if not np.isnan(x)}
