"""What four processes check in ``test_distributed.py``: distributed checkpoints, saved on one layout and loaded on another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from layouts import LAYERS, Here, Layout, Shapes, Tensors, distributed, mesh_of, plain, tensor_parallel_and_sharded
from ranks import Checks
from ranks_bits import STATES, equal_states, gradients_of, tells, weights_of
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import adamas.torch as at
from adamas.schedules import cosine, linear

check = Checks()
nightly: set[str] = set()  # the checks that only `make test-nightly` makes

BEFORE, AFTER = 3, 3  # the steps before saving, and after loading

# Some can be cut along their columns; 2, 3 and 4 ranks divide some, and get nothing of others.
SHAPES: Shapes = {
    **LAYERS,
    "columns.matrix": (40, 512),
    "columns.uneven": (9, 511),
    "columns.stack": (5, 4, 128),
    "few": (3, 700),
    "short": (2,),
    "number": (),
}


class On(NamedTuple):
    """How the weights of a model lie on the first of the processes.

    Attributes:
        ranks: the number of processes.
        place: makes the parameters of this process from the whole weights.
    """

    ranks: int
    place: Callable[[Tensors], Tensors]

    @property
    def is_here(self) -> bool:
        """Whether this process is one of them."""
        return dist.get_rank() < self.ranks


def cut(ranks: int, placement: Any, weights: Tensors) -> Tensors:
    """DTensors on the first ranks; where they cannot be cut along their columns, along their rows."""
    mesh = mesh_of(*range(ranks))

    def placed(name: str, w: Tensor) -> Tensor:
        usable = Shard(0) if placement == Shard(1) and not name.startswith("columns") else placement
        return torch.nn.Parameter(distribute_tensor(w.clone(), mesh, [usable if w.ndim else Replicate()]))

    return {name: placed(name, w) for name, w in weights.items()}


def rows_and_columns(weights: Tensors) -> Tensors:
    """DTensors on a mesh of 2 × 2, of which some are cut both ways."""
    both = {name: w for name, w in weights.items() if name.startswith("columns")}
    rows = {name: w for name, w in weights.items() if name not in both}
    return distributed((2, 2), (Shard(0), Shard(1)), both) | distributed((2, 2), (Replicate(), Shard(0)), rows)


def tensor_parallel(weights: Tensors) -> Tensors:
    """Two layers with tensor parallelism under FSDP2, and the rest under FSDP2."""
    rest = {name: w for name, w in weights.items() if name not in LAYERS}
    layers = {name: w for name, w in weights.items() if name in LAYERS}
    return tensor_parallel_and_sharded(layers) | distributed((4,), (Shard(0),), rest)


PLACES = {
    "one process": On(1, plain),
    "rows on 2": On(2, partial(cut, 2, Shard(0))),
    "rows on 3": On(3, partial(cut, 3, Shard(0))),
    "rows on 4": On(4, partial(cut, 4, Shard(0))),
    "replicas on 3": On(3, partial(cut, 3, Replicate())),
    "columns on 2": On(2, partial(cut, 2, Shard(1))),
    "columns on 4": On(4, partial(cut, 4, Shard(1))),
    "hybrid": On(4, partial(distributed, (2, 2), (Replicate(), Shard(0)))),
    "rows and columns": On(4, rows_and_columns),
    "tensor parallel and sharded": On(4, tensor_parallel),
}

CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {"max_grad_norm": 1.0}),
    "bfloat16": (torch.float32, {"state": "bfloat16", "max_grad_norm": "auto"}),
    "int8": (torch.float32, {"state": "int8", "max_grad_norm": 1.0, "lr": 1e-2 * linear(8)}),
    "int6": (torch.float32, {"state": "int6", "max_grad_norm": 1.0, "betas": (linear(9, start=0.8, end=0.95), 0.95)}),
    "mixed": (torch.float32, {"state": STATES["mixed"], "weight_decay": 0.1 * cosine(7)}),
    "split": (torch.bfloat16, {"weights": "split", "state": "int8", "max_grad_norm": "auto"}),
    "stochastic": (torch.bfloat16, {"weights": "stochastic", "state": "int6"}),
}


class Model(torch.nn.Module):
    """A model of parameters, under their names."""

    def __init__(self, parameters: Tensors) -> None:
        super().__init__()
        for name, p in parameters.items():
            *path, last = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, p)


class Run:
    """A model and its optimizer in this process.

    Attributes:
        parameters: the parameters by name.
        model: the model.
        optimizer: the optimizer.
    """

    def __init__(self, layout: On, dtype: torch.dtype, seed: bool = True, **options: Any) -> None:
        weights = weights_of(SHAPES, dtype)
        if not seed:
            weights = {name: torch.zeros_like(w) for name, w in weights.items()}
        self._here, self._dtype = Here(Layout(SHAPES, layout.place), weights), dtype
        self.parameters = self._here.parameters
        self.model = Model(self.parameters)
        self.optimizer = at.AdamW(self.parameters.items(), **{"lr": 1e-2, **options})

    def steps(self, first: int, count: int) -> None:
        """Makes steps with the gradients of these steps."""
        for step in range(first, first + count):
            self._here.give(gradients_of(SHAPES, step, self._dtype))
            self.optimizer.step()

    def saved(self, options: StateDictOptions) -> dict[str, Any]:
        """What is saved, or loaded into."""
        return {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=options),
        }

    def load(self, saved: dict[str, Any], options: StateDictOptions) -> None:
        set_model_state_dict(self.model, saved["model"])
        set_optimizer_state_dict(self.model, self.optimizer, saved["optimizer"], options=options)


def folder(name: str) -> Path:
    """A folder of all processes."""
    return Path(sys.argv[3]) / name.replace(" ", "-")


def group(layout: On) -> dict[str, Any]:
    """The arguments of ``torch.distributed.checkpoint`` for the processes of a layout."""
    if layout.ranks == 1:
        return {"no_dist": True}
    return {"process_group": mesh_of(*range(layout.ranks)).get_group()}


_alone: dict[str, Run] = {}
_saved: set[Path] = set()


def goes_on(rank: int, before: str, after: str, case: str, flatten: bool) -> None:
    """Training goes on after loading with the bits of a run in one process that never stopped."""
    dtype, options = CASES[case]
    how = StateDictOptions(flatten_optimizer_state_dict=flatten)
    if case not in _alone:
        _alone[case] = Run(PLACES["one process"], dtype, **options)
        _alone[case].steps(0, BEFORE + AFTER)
    path = folder(f"{before} {case} {flatten}")
    for ranks in {PLACES[before].ranks, PLACES[after].ranks} - {1}:
        mesh_of(*range(ranks))  # all processes make it
    if path not in _saved:
        _saved.add(path)
        if PLACES[before].is_here:
            run = Run(PLACES[before], dtype, **options)
            run.steps(0, BEFORE)
            dcp.save(run.saved(how), checkpoint_id=path, **group(PLACES[before]))
        dist.barrier()
    if PLACES[after].is_here:
        run = Run(PLACES[after], dtype, seed=False, **options)
        target = run.saved(how)
        dcp.load(target, checkpoint_id=path, **group(PLACES[after]))
        run.load(target, how)
        run.steps(BEFORE, AFTER)
        alone = _alone[case]
        equal_states(run.parameters, run.optimizer, alone.parameters, alone.optimizer)
        assert tells(run.optimizer) == tells(alone.optimizer)


def _add_places() -> None:
    """All pairs of layouts in every case; in `make test` two pairs for each layout."""
    names = list(PLACES)
    for i, before in enumerate(names):
        for j, after in enumerate(names):
            for k, case in enumerate(CASES):
                flatten = bool((i + j + k) % 2)
                name = f"saved on {before}, loaded on {after}: {case}, {'flat' if flatten else 'nested'}"
                check[name] = partial(goes_on, before=before, after=after, case=case, flatten=flatten)
                if (j - i) % len(names) not in (3, 8) or k != (i * 2 + j) % len(CASES):
                    nightly.add(name)


_add_places()
