"""What four processes check in ``test_distributed.py``: what is watched is of whole tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from layouts import LAYOUTS, Here, local
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


SPIKES = {
    "skip": {"on_spike": "skip, of=loss+grad_norm, last=4"},
    "clip": {"on_spike": "clip, last=4"},
    "the update before": {"on_spike": "clip, of=update_norm, last=4", "watch": True},
    "this update": {"on_spike": "skip, of=exact, last=4"},
}


@check.each(
    {f"{layout}, {name}": (layout, SPIKES[name]) for layout in ("rows", "hybrid") for name in SPIKES},
    quick=("rows, skip", "hybrid, this update"),
)
def spikes_are_those_of_one_process(rank: int, layout: str, options: dict[str, Any]) -> None:
    """The loss is the mean of those of all ranks."""
    shapes = LAYOUTS[layout].shapes
    here, alone = (Here(LAYOUTS[name], weights_of(shapes, float32)) for name in (layout, "plain"))
    ours, theirs = (at.SGD(one.parameters.items(), lr=0.1, momentum=0.5, **options) for one in (here, alone))
    for step in range(9):
        gradients: Gradients = {
            name: None if g is None else g * (100.0 if step == 6 else 1.0)
            for name, g in gradients_of(shapes, step % 2, float32).items()
        }
        loss = 9.0 if step == 7 else 1.0 + 0.1 * (step % 2)
        here.give(gradients), alone.give(gradients)
        ours.step(loss=loss + (rank - 1.5)), theirs.step(loss=loss)
        assert ours.spikes == theirs.spikes
    assert ours.spikes >= 1
    for name, p in alone.parameters.items():
        mine = local(here.parameters[name].detach())
        torch.testing.assert_close(mine.flatten(), here.part(name, p.detach()).flatten(), rtol=1e-6, atol=1e-6)
