"""What ``optimizer.watch`` returns: the statistics that were kept, as arrays, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..extras import needs
from .watching import COLUMNS, PER_STEP, Array, Ring

RATIO = "update_ratio"
_TITLES = {  # of the table that is printed
    "grad_norm": "‖g‖",
    "weight_norm": "‖p‖",
    RATIO: "‖u‖/‖p‖",
    "update_max": "max |u|",
    "rms": "RMS",
    "under_eps": "under ε",
    "behind": "behind",
    "lost": "lost",
}
_SHARES = ("under_eps", "behind", "lost")


class Watch:
    """The statistics of the last watched steps, as they were when ``optimizer.watch`` was read.

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
    ``decay_norm``    the 2-norm of what decoupled weight decay adds to u; NaN with ``decay="cautious"``
    ``update_ratio``  ``update_norm / weight_norm``, about 1e-3 in healthy training; computed from the two
    ================  ======================================================================================

    A statistic that does not exist for the member, such as ``rms`` without a second moment, is NaN.

    Attributes:
        names: the names of the tensors.
        steps: for each row, the number of steps taken, including this one (int64).
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
        return iter((*COLUMNS, RATIO))

    def __getitem__(self, name: str) -> Array:
        """A statistic of every tensor at every step, float32 of shape (steps, tensors).

        Raises:
            KeyError: there is no statistic of this name.
        """
        if name == RATIO:
            size = self["weight_norm"]
            return np.divide(self["update_norm"], size, out=np.full_like(size, np.nan), where=size > 0)
        if name not in COLUMNS:
            raise KeyError(f"{name!r}: the statistics are {', '.join(self)}")
        return self._rows[:, :, COLUMNS.index(name)]

    def latest(self) -> dict[str, float]:
        """The last step as numbers with flat names, such as ``"update_norm/layer.weight"`` and ``"loss"``, for a logger.

        NaN values are left out.
        """
        if not len(self):
            return {}
        found = {name: values[-1] for name, values in self.per_step.items()}
        found |= {f"{name}/{tensor}": self[name][-1, i] for name in self for i, tensor in enumerate(self.names)}
        return {"step": int(self.steps[-1])} | {name: float(x) for name, x in found.items() if not np.isnan(x)}

    def log_to(self, writer: Any, prefix: str = "optimizer/") -> None:
        """Writes the numbers of ``latest()`` to TensorBoard.

        Args:
            writer: a ``torch.utils.tensorboard.SummaryWriter``, or anything with its ``add_scalar(name, value, step)``.
            prefix: a prefix for the names.
        """
        numbers = self.latest()
        step = numbers.pop("step", 0)
        for name, value in numbers.items():
            writer.add_scalar(prefix + name, value, int(step))

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each step and tensor, by these two, and a column for each statistic.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_pandas() needs pandas: pip install pandas", name=error.name) from error
        index = pd.MultiIndex.from_product([self.steps, self.names], names=["step", "tensor"])
        return pd.DataFrame({name: self[name].reshape(-1) for name in self}, index=index)

    @needs("train")
    def plot(self, name: str = RATIO) -> Any:
        """A heat map of a statistic over the steps, a row for each tensor, as a ``matplotlib.figure.Figure``.

        Shares are in percent, and other statistics on a logarithmic scale.

        Args:
            name: the name of the statistic.

        Raises:
            KeyError: there is no statistic of this name.
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: nothing has been watched yet.
        """
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        values = self[name].T
        if not np.isfinite(values).any():
            raise ValueError(f"there is nothing to plot: no step with {name!r} has been watched yet")
        is_share = name in _SHARES
        shown = 100 * values if is_share else np.where(values > 0, values, np.nan)
        height = max(2.0, 0.22 * len(self.names) + 1.2)
        figure = Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots()
        norm = None if is_share or not np.isfinite(shown).any() else LogNorm(np.nanmin(shown), np.nanmax(shown))
        image = axes.imshow(shown, aspect="auto", interpolation="nearest", norm=norm)
        axes.set_yticks(range(len(self.names)), self.names, fontsize=8)
        ticks = np.unique(np.linspace(0, len(self) - 1, 8).round().astype(int))
        axes.set_xticks(ticks, [str(self.steps[i]) for i in ticks])
        axes.set_xlabel("step")
        figure.colorbar(image, label=f"{name} in %" if is_share else name)
        return figure

    def _table(self) -> list[list[str]]:
        """The table of the last step: titles, and a row for each tensor."""
        last = {name: self[name][-1] for name in _TITLES if np.isfinite(self[name][-1]).any()}
        rows = [["", *(_TITLES[name] for name in last)]]
        for i, tensor in enumerate(self.names):
            rows.append([tensor, *(_shown(name, values[i]) for name, values in last.items())])
        return rows

    def _title(self) -> str:
        numbers = [f"{name} {values[-1]:.4g}" for name, values in self.per_step.items() if np.isfinite(values[-1])]
        return ", ".join([f"step {self.steps[-1]}", *numbers])

    def __str__(self) -> str:
        """The last step as a table: a line for each tensor."""
        if not len(self):
            return "no step has been watched yet"
        rows = self._table()
        first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [
            "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
            for name, *cells in rows
        ]
        return "\n".join([self._title(), *(line.rstrip() for line in lines)])

    def __rich__(self) -> Any:
        """The same for ``rich.print``."""
        from rich import box
        from rich.table import Table

        if not len(self):
            return str(self)
        (_, *titles), *rows = self._table()
        table = Table(title=self._title(), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("tensor", overflow="fold")
        for title in titles:
            table.add_column(title, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        return table


def _shown(name: str, value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.1%}" if name in _SHARES else f"{value:.1e}"
