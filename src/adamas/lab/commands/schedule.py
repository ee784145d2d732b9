"""``adamas schedule``: plots a schedule in the terminal and as a picture, and prints some of its values.

May import typer, NumPy, adamas.schedules and adamas.lab.train; matplotlib only inside the command. Needs no PyTorch.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer

from adamas.lab.inputs import InputError
from adamas.lab.train import folder
from adamas.lab.train.named_schedules import SCHEDULES, choose_schedule
from adamas.schedules import Plateau, Schedule

MOST_STEPS, SAMPLES = 10**15, 10**6
WIDEST, HEIGHT = 100, 12  # of the plot in the terminal, in characters
COLOUR = "#5b8c5a"

Values: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


def schedule(
    expression: Annotated[
        str,
        typer.Argument(
            metavar="EXPR",
            help="A schedule, such as 'warmup(100).then(cosine(900))'; or a name, over the given steps: "
            f"{', '.join(SCHEDULES)}.",
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(help="The number of steps. By default until the schedule stops changing.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate that a factor is multiplied by.")] = None,
    out: Annotated[Path, typer.Option(help="File for the picture; it is replaced if it exists.")] = Path(
        "schedule.png"
    ),
) -> None:
    """Draw a learning rate schedule and print some of its values.

    An expression combines schedules and numbers with *, .then, .clip, .shift, .per_epoch and .repeat, as in Python.
    """
    chosen, steps = _chosen(expression, steps, lr)
    folder.check_picture(out)
    at = np.unique(np.linspace(0, steps - 1, min(steps, SAMPLES)).round())
    values: Values = chosen(at)
    if not np.isfinite(values).any():
        raise InputError("expression", f"has no finite value in its first {steps:,} steps")
    with folder.output("out", out):
        folder.write(out, draw(chosen, at, values))
    braille = "⣿".encode(sys.stdout.encoding or "ascii", "ignore") != b""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    typer.echo("\n".join([str(chosen), "", *plot(at, values, width, HEIGHT, braille), "", *table(at, values)]))
    if any(isinstance(part, Plateau) for part in chosen.parts()):
        typer.echo("\nA plateau cuts when a metric stops improving; here it is drawn without a cut.")
    typer.echo(f"\nPicture: {out}")


def _chosen(expression: str, steps: int | None, lr: float | None) -> tuple[Schedule, int]:
    """Read the schedule and the number of steps; raises InputError."""
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise InputError("steps", f"must be a whole number from 1 to {MOST_STEPS:,}, got {steps}")
    if lr is not None and not 0 <= lr < math.inf:
        raise InputError("lr", f"must be a nonnegative number, got {lr}")
    chosen = choose_schedule(expression, steps or 1, "expression")
    if steps is None:
        length = None if expression in SCHEDULES else chosen.length
        if not length:
            raise InputError("steps", f"is missing: {expression} has no end, so give the number of steps")
        if length > MOST_STEPS:
            raise InputError(
                "steps", f"is missing: {expression} has {length:g}, give the number to draw, up to {MOST_STEPS:,}"
            )
        steps = math.ceil(length)
    if lr is not None and chosen.is_rate:
        raise InputError("lr", f"is given, and the expression contains a rate ({chosen.unit:g}): leave one of them out")
    return (chosen if lr is None else lr * chosen), steps


def table(at: Values, values: Values) -> list[str]:
    """The first value, those at the quarters, the highest and the last, one line each."""
    last = len(at) - 1
    rows = {"first": 0, "quarter": last / 4, "half": last / 2, "three quarters": 3 * last / 4, "last": last}
    peak = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
    places = [(name, round(place)) for name, place in rows.items()]
    places.insert(sum(place <= peak for _, place in places), ("peak", peak))
    width = max(len(f"{at[-1]:,.0f}"), 4)
    return [f"{'':14}  {'step':>{width}}  value"] + [
        f"{name:14}  {at[place]:>{width},.0f}  {values[place]:.6g}" for name, place in places
    ]


def plot(at: Values, values: Values, width: int, height: int, braille: bool) -> list[str]:
    """A plot of characters with axes: braille with eight dots a character, or ASCII."""
    finite = values[np.isfinite(values)]
    low, high = min(0.0, finite.min()), max(0.0, finite.max())
    high = high if high > low else low + 1
    labels = [f"{value:.3g}" for value in (high, (low + high) / 2, low)]
    margin = max(map(len, labels))
    across, up = (2, 4) if braille else (1, 1)
    columns = max(width - margin - 3, 10)
    dots = _dots(values, columns * across, height * up, low, high)
    labelled = dict(zip((0, height // 2, height - 1), labels, strict=True))
    corner, side, tick, floor = "└│┤─" if braille else "+||-"
    lines = []
    for row in range(height):
        cells = dots[row * up : (row + 1) * up].reshape(up, columns, across).swapaxes(0, 1)
        text = "".join(map(_braille if braille else _ascii, cells)).rstrip()
        lines.append(f"{labelled.get(row, ''):>{margin}} {tick if row in labelled else side}{text}".rstrip())
    lines.append(f"{'':{margin}} {corner}{floor * columns}")
    left, right = f"step {at[0]:,.0f}", f"{at[-1]:,.0f}"
    lines.append(f"{'':{margin}}  {left}{right:>{columns - len(left)}}")
    return lines


def _dots(values: Values, columns: int, rows: int, low: float, high: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The dots of the plot: each column is filled from its lowest to its highest value, and joined to the column before."""
    dots = np.zeros((rows, columns), bool)
    edges = np.linspace(0, len(values), columns + 1)
    before = None
    for column in range(columns):
        first = min(int(edges[column]), len(values) - 1)
        here = values[first : max(int(edges[column + 1]), first + 1)]
        here = here[np.isfinite(here)]
        if not len(here):
            before = None
            continue
        heights = ((1 - (here - low) / (high - low)) * (rows - 1)).round().astype(int)
        top, bottom = heights.min(), heights.max()
        if before is not None:  # a jump is drawn as a line that ends next to the dot where it begins
            top, bottom = min(top, before + 1), max(bottom, before - 1)
        dots[top : bottom + 1, column] = True
        before = heights[-1]
    return dots


def _braille(cell: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    lit = sum(bit for dots, row in zip(cell, bits, strict=True) for dot, bit in zip(dots, row, strict=True) if dot)
    return chr(0x2800 + lit) if lit else " "


def _ascii(cell: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    return "*" if cell.any() else " "


def draw(chosen: Schedule, at: Values, values: Values) -> bytes:
    """A PNG image of the schedule."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    thin = max(1, len(at) // 20_000)
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = np.where(np.isfinite(values), values, np.nan)
    axes.plot(at[::thin], shown[::thin], color=COLOUR, drawstyle="steps-post" if len(at) < 200 else "default")
    text = str(chosen)
    axes.set_title(text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…", loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate" if chosen.is_rate else "factor on the learning rate")
    axes.set_xlim(0, float(at[-1]) + 1)
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(shown)) * 1.05))
    if at[-1] >= 100_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
