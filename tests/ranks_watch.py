"""What four processes check in ``test_distributed.py``: what is watched is of whole tensors."""

from __future__ import annotations

import numpy as np
from layouts import LAYOUTS, Here
from ranks import Checks
from ranks_bits import Gradients, Shapes, gradients_of, weights_of
from torch import dtype, float32

import adamas.torch as at
from adamas.step.watch import Watch
from adamas.step.watching import COLUMNS

check = Checks()
STEPS = 4


def some_missing(shapes: Shapes, step: int, kind: dtype) -> Gradients:
    found = gradients_of(shapes, step, kind)
    return {name: None if (i + step) % 4 == 0 else g for i, (name, g) in enumerate(found.items())}


def watched(layout: str | None, shapes: Shapes, state: str) -> Watch:
    """What one process, or each of four, has watched."""
    weights = weights_of(shapes, float32)
    here = Here(LAYOUTS["plain"] if layout is None else LAYOUTS[layout], weights)
    named = here.parameters.items()
    groups = [
        {"params": params, "max_grad_norm": limit}
        for is_limited, limit in ((True, 1.0), (False, None))
        if (params := [one for one in named if ("e" in one[0][:2]) is is_limited])
    ]
    optimizer = at.AdamW(groups, lr=0.1, weight_decay=0.1, eps=1e-2, state=state, max_grad_norm=1.0, watch=True)
    for step in range(STEPS):
        here.give(some_missing(shapes, step, float32))
        optimizer.step(loss=step)
    assert optimizer.watch is not None
    return optimizer.watch


@check.each(
    {f"{layout} {state}": (layout, state) for layout in LAYOUTS for state in ("float32", "int8") if layout != "plain"},
    quick=("rows float32", "hybrid int8", "columns int8", "two meshes float32", "beside plain ones float32"),
)
def what_is_watched_is_of_whole_tensors(rank: int, layout: str, state: str) -> None:
    shapes = LAYOUTS[layout].shapes
    ours, theirs = watched(layout, shapes, state), watched(None, shapes, state)
    assert list(ours.steps) == list(theirs.steps)
    for name, values in ours.per_step.items():
        np.testing.assert_allclose(values, theirs.per_step[name], rtol=1e-6, err_msg=name)
    for name in COLUMNS:
        here = [theirs.names.index(tensor) for tensor in ours.names]
        largest = np.nanmax(np.abs(theirs[name]), initial=0)
        np.testing.assert_allclose(ours[name], theirs[name][:, here], rtol=1e-6, atol=1e-6 * largest, err_msg=name)
