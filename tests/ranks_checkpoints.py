"""What four processes check in ``test_distributed.py``: distributed checkpoints, saved on one layout and loaded on another."""

from __future__ import annotations

import copy
import io
import itertools
import sys
import warnings
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from layouts import (
    LAYERS,
    LAYOUTS,
    Here,
    Layout,
    Shapes,
    Tensors,
    distributed,
    local,
    mesh,
    mesh_of,
    plain,
    tensor_parallel_and_sharded,
    whole,
)
from ranks import Checks, raises
from ranks_bits import STATES, equal_states, gradients_of, tells, weights_of
from ranks_decisions import values_of
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import adamas.torch as at
from adamas.schedules import Plateau, cosine, linear

check = Checks()

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


# Of which four ranks divide blocks.
INSIDE: Shapes = {"columns.matrix": (40, 300), "columns.wide": (9, 1100), "columns.stack": (40, 3, 64)}
BETWEEN: Shapes = {
    "columns.stack": (8, 5, 192),
    "columns.even": (16, 6, 64),
}  # whole blocks, but not as DTensors are cut


class On(NamedTuple):
    """How the weights of a model lie on the first of the processes.

    Attributes:
        ranks: the number of processes.
        place: makes the parameters of this process from the whole weights.
        is_divided: whether cuts divide blocks of codes, which then cannot be packed.
    """

    ranks: int
    place: Callable[[Tensors], Tensors]
    is_divided: bool = False

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
    "columns inside blocks on 3": On(3, partial(cut, 3, Shard(1)), is_divided=True),
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

    def __init__(
        self,
        layout: On,
        dtype: torch.dtype,
        seed: bool = True,
        shapes: Shapes = SHAPES,
        kind: type[at.Optimizer] = at.AdamW,
        **options: Any,
    ) -> None:
        weights = weights_of(shapes, dtype)
        if not seed:
            weights = {name: torch.zeros_like(w) for name, w in weights.items()}
        self._here, self._shapes, self._dtype = Here(Layout(shapes, layout.place), weights), shapes, dtype
        self.parameters = self._here.parameters
        self.model = Model(self.parameters)
        self.optimizer = kind(self.parameters.items(), **{"lr": 1e-2, **options})

    def steps(self, first: int, count: int, absent: Container[str] = ()) -> None:
        """Makes steps with the gradients of these steps; the weights in ``absent`` get none."""
        for step in range(first, first + count):
            gradients = gradients_of(self._shapes, step, self._dtype)
            self._here.give({name: None if name in absent else g for name, g in gradients.items()})
            self.optimizer.step()

    def take(self, weights: Tensors) -> None:
        """Copies these weights, of any layout."""
        for name, p in self.parameters.items():
            local(p.detach()).copy_(self._here.part(name, whole(weights[name])))

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
    """All pairs of layouts in every case; in `make test-long` each layout is saved once and loaded once."""
    names = list(PLACES)
    for i, before in enumerate(names):
        for j, after in enumerate(names):
            for k, case in enumerate(CASES):
                flatten = bool((i + j + k) % 2)
                if "int6" in str(CASES[case]) and (PLACES[before].is_divided or PLACES[after].is_divided):
                    continue
                name = f"saved on {before}, loaded on {after}: {case}, {'flat' if flatten else 'nested'}"
                check[name] = partial(goes_on, before=before, after=after, case=case, flatten=flatten)
                if (j - i) % len(names) != 3 or k != (i * 2 + j) % len(CASES):
                    check.nightly.add(name)


_add_places()


# ---- how it is saved and loaded


def alone_of(case: str) -> Run:
    """The run in one process that never stops."""
    if case not in _alone:
        dtype, options = CASES[case]
        _alone[case] = Run(PLACES["one process"], dtype, **options)
        _alone[case].steps(0, BEFORE + AFTER)
    return _alone[case]


def ends_as(run: Run, case: str) -> None:
    """The run makes the steps after loading, and ends as the one that never stopped."""
    run.steps(BEFORE, AFTER)
    alone = alone_of(case)
    equal_states(run.parameters, run.optimizer, alone.parameters, alone.optimizer)
    assert tells(run.optimizer) == tells(alone.optimizer)


FULL = [
    ("rows on 4", "rows and columns", "int8", False),
    ("hybrid", "tensor parallel and sharded", "split", True),
    ("tensor parallel and sharded", "columns on 4", "int6", False),
    ("rows and columns", "hybrid", "bfloat16", True),
]


@check.each({case[2]: case for case in FULL}, quick=("split", "int6"))
def full_state_dicts_of_rank_0_are_broadcast(rank: int, before: str, after: str, case: str, flatten: bool) -> None:
    """Gathered on rank 0 from one layout, and broadcast to another; or loaded in one process."""
    dtype, options = CASES[case]
    run = Run(PLACES[before], dtype, **options)
    run.steps(0, BEFORE)
    gathered = StateDictOptions(full_state_dict=True, cpu_offload=True, flatten_optimizer_state_dict=flatten)
    model = get_model_state_dict(run.model, options=gathered)
    optimizer = get_optimizer_state_dict(run.model, run.optimizer, options=gathered)
    assert bool(model) == bool(optimizer) == (rank == 0)
    path = folder(f"full {case}")
    if rank == 0:
        torch.save({"model": model, "optimizer": optimizer}, path)
        alone = Run(PLACES["one process"], dtype, seed=False, **options)
        alone.load(torch.load(path, weights_only=True), StateDictOptions(flatten_optimizer_state_dict=flatten))
        ends_as(alone, case)
    dist.barrier()
    # Without broadcasting, PyTorch does not cut what is cut unevenly by tensor parallelism and FSDP2.
    for broadcast in (True,) if after == "tensor parallel and sharded" else (True, False):
        saved = torch.load(path, weights_only=True)  # what is loaded is also changed
        other = Run(PLACES[after], dtype, seed=False, **options)
        # PyTorch recognizes what is flat, and raises a KeyError if it is told.
        how = StateDictOptions(full_state_dict=True, broadcast_from_rank0=broadcast)
        one = saved if rank == 0 or not broadcast else {"model": {}, "optimizer": {}}
        set_model_state_dict(other.model, one["model"], options=how)
        set_optimizer_state_dict(other.model, other.optimizer, one["optimizer"], options=how)
        ends_as(other, case)


@check.each({"int8": ("rows on 4", "int8"), "split": ("rows and columns", "split")}, quick=("split",))
def what_is_saved_asynchronously_is_of_the_time_of_the_call(rank: int, name: str, case: str) -> None:
    group = dist.new_group(backend="gloo")  # the steps communicate meanwhile
    dtype, options = CASES[case]
    run = Run(PLACES[name], dtype, **options)
    run.steps(0, BEFORE)
    how = StateDictOptions()
    path = folder(f"asynchronous {case}")
    saving = dcp.async_save(run.saved(how), checkpoint_id=path, process_group=group)
    ends_as(run, case)
    saving.result()
    other = Run(PLACES["hybrid"], dtype, seed=False, **options)
    target = other.saved(how)
    dcp.load(target, checkpoint_id=path)
    other.load(target, how)
    ends_as(other, case)


NEW = itertools.product(
    ("rows on 4", "hybrid", "rows and columns", "tensor parallel and sharded"), ("int8", "split", "mixed")
)


@check.each(
    {", ".join(one): one for one in NEW},
    quick=("hybrid, int8", "tensor parallel and sharded, split", "rows and columns, mixed"),
)
def asking_for_the_state_of_a_new_optimizer_counts_no_step(rank: int, name: str, case: str) -> None:
    dtype, options = CASES[case]
    run = Run(PLACES[name], dtype, **options)
    saved = get_optimizer_state_dict(run.model, run.optimizer)
    assert all(state["step"] == 0 for state in saved["state"].values())
    run.steps(0, BEFORE)
    ends_as(run, case)


class Application(Stateful):
    """A model and its optimizer, as the documentation of PyTorch recommends it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._run.model, self._run.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        set_state_dict(
            self._run.model,
            self._run.optimizer,
            model_state_dict=state_dict["model"],
            optim_state_dict=state_dict["optimizer"],
        )


@check.each(
    {"int8": ("rows on 4", "hybrid", "int8"), "split": ("hybrid", "tensor parallel and sharded", "split")},
    quick=("int8",),
)
def a_stateful_application_goes_on(rank: int, before: str, after: str, case: str) -> None:
    dtype, options = CASES[case]
    run = Run(PLACES[before], dtype, **options)
    run.steps(0, BEFORE)
    path = folder(f"stateful {case}")
    dcp.save({"application": Application(run)}, checkpoint_id=path)
    other = Run(PLACES[after], dtype, seed=False, **options)
    dcp.load({"application": Application(other)}, checkpoint_id=path)
    ends_as(other, case)


_NAMES = [name for name, one in PLACES.items() if one.ranks == 4]


@check.each({before: (i, before) for i, before in enumerate(_NAMES[::2])}, quick=_NAMES[2:3])
def state_dicts_in_memory_go_from_one_layout_to_another(rank: int, i: int, before: str) -> None:
    """Also copied or pickled, and into plain parameters and back."""
    case = list(CASES)[2 * i + 1]
    dtype, options = CASES[case]
    run = Run(PLACES[before], dtype, **options)
    run.steps(0, BEFORE)
    saved = run.optimizer.state_dict()
    weights = {name: p.detach() for name, p in run.parameters.items()}
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    for j, after in enumerate([_NAMES[2 * i - 1], _NAMES[i - 3], "one process"]):
        other = Run(PLACES[after]._replace(ranks=4), dtype, seed=False, **options)
        sources = (saved, copy.deepcopy(saved), torch.load(file, weights_only=False))
        file.seek(0)
        other.optimizer.load_state_dict(sources[(i + j) % 3])
        other.take(weights)
        if after == "one process":
            back = Run(PLACES[before], dtype, **options)
            back.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
            back.take(weights)
            ends_as(back, case)
        ends_as(other, case)
    ends_as(copy.deepcopy(run), case)
    ends_as(run, case)


def through(path: Path, run: Run, other: Run, how: StateDictOptions, is_partial: bool = False) -> None:
    """Saves one run and loads it into another."""
    dcp.save(run.saved(how), checkpoint_id=path)
    target = other.saved(how)
    dcp.load(target, checkpoint_id=path, planner=dcp.DefaultLoadPlanner(allow_partial_load=is_partial))
    other.load(target, how)


@check.each(
    {"nested": (False, "rows on 4", "hybrid"), "flattened": (True, "rows and columns", "columns on 4")},
    quick=("flattened",),
)
def the_order_of_parameters_and_groups_of_their_own_do_not_matter(
    rank: int, flatten: bool, before: str, after: str
) -> None:
    """Also where a Plateau has observed, and with schedules that differ between the groups."""
    names = list(SHAPES)
    plateaus: dict[int, Plateau] = {}

    def grouped(run: Run, order: list[str]) -> Run:
        plateau = plateaus[id(run)] = Plateau(factor=0.5, patience=0)
        parts = [[name for name in order if (name in names[:3]) == is_first] for is_first in (True, False)]
        groups = [{"params": [(name, run.parameters[name]) for name in part]} for part in parts]
        groups[0] |= {"lr": 0.1 * linear(9) * plateau, "weight_decay": 0.0}
        run.optimizer = at.AdamW(groups, lr=1e-2, state="int8", max_grad_norm="auto")
        return run

    def observed(run: Run, losses: list[float], first: int) -> None:
        for i, loss in enumerate(losses):
            run.steps(first + i, 1)
            plateaus[id(run)].observe(loss)

    alone = grouped(Run(PLACES["one process"], torch.float32), names)
    run = grouped(Run(PLACES[before], torch.float32), names)
    other = grouped(Run(PLACES[after], torch.float32, seed=False), names[::-1])
    observed(alone, [3.0, 3.0, 2.0, 2.0, 1.0, 1.0], 0)
    observed(run, [3.0, 3.0, 2.0], 0)
    through(folder(f"order {flatten}"), run, other, StateDictOptions(flatten_optimizer_state_dict=flatten))
    observed(other, [2.0, 1.0, 1.0], 3)
    equal_states(other.parameters, other.optimizer, alone.parameters, alone.optimizer)
    assert tells(other.optimizer) == tells(alone.optimizer)
    assert plateaus[id(other)].value == plateaus[id(alone)].value < 1


@check
def parameters_that_were_frozen_or_unused_begin_anew(rank: int) -> None:
    """Saved while some had no state, and loaded where they are trained: nested without ``strict``, and partially."""

    def steps(run: Run, first: int, absent: set[str]) -> None:
        for step in range(first, first + 3):
            run.steps(step, 1, absent)

    absent = {"columns.matrix", "first.bias", "number"}
    for is_frozen, (before, after) in ((False, ("rows on 4", "hybrid")), (True, ("rows and columns", "rows on 4"))):
        options: dict[str, Any] = {"state": "int8", "max_grad_norm": 1.0}
        alone = Run(PLACES["one process"], torch.float32, **options)
        run = Run(PLACES[before], torch.float32, **options)
        other = Run(PLACES[after], torch.float32, seed=False, **options)
        for name in absent if is_frozen else ():
            run.parameters[name].requires_grad_(False)
        steps(alone, 0, absent), steps(run, 0, absent)
        through(folder(f"absent {is_frozen}"), run, other, StateDictOptions(strict=False), is_partial=True)
        steps(alone, 3, set()), steps(other, 3, set())
        equal_states(other.parameters, other.optimizer, alone.parameters, alone.optimizer)
        assert other.optimizer.state[other.parameters["columns.matrix"]]["step"] == 3


_ADAMW, _SGD = {"lr": 1e-2, "weight_decay": 0.1}, {"lr": 1e-3, "momentum": 0.9, "nesterov": True}


@check.each(
    {
        "AdamW to PyTorch": (at.AdamW, torch.optim.AdamW, _ADAMW),
        "AdamW from PyTorch": (torch.optim.AdamW, at.AdamW, _ADAMW),
        "SGD to PyTorch": (at.SGD, torch.optim.SGD, _SGD),
        "SGD from PyTorch": (torch.optim.SGD, at.SGD, _SGD),
    },
    quick=("AdamW to PyTorch", "SGD from PyTorch"),
)
def checkpoints_go_to_torch_optim_and_back(rank: int, kind: Any, other: Any, options: dict[str, Any]) -> None:
    runs = [Run(PLACES["rows on 4"], torch.float32), Run(PLACES["hybrid"], torch.float32, seed=False)]
    for run, own in zip(runs, (kind, other), strict=True):
        run.optimizer = own(run.parameters.items(), **options)
    runs[0].steps(0, 3)
    path = folder(f"{kind.__module__} {kind.__name__}")
    through(path, *runs, StateDictOptions(), is_partial=True)
    ends = []
    for run in runs:
        run.steps(3, 3)
        ends.append({name: whole(p.detach()) for name, p in run.parameters.items()})
        if run.optimizer.__class__.__module__.startswith("torch."):
            assert all(local(state["step"]) == 6 for state in run.optimizer.state.values() if "step" in state)
    for name, expected in ends[0].items():
        torch.testing.assert_close(ends[1][name], expected, rtol=1e-4, atol=1e-5)


@check
def state_that_does_not_fit_is_refused_by_all_and_nothing_is_changed(rank: int) -> None:
    for name, state in (("rows on 4", "int8"), ("rows and columns", "int6"), ("hybrid", "float32")):
        run = Run(PLACES[name], torch.float32, state=state)
        run.steps(0, 2)
        before = values_of(run.parameters, run.optimizer)

        def refuses(
            words: str,
            change: Callable[[dict[str, Any]], Any],
            at_rank: int | None = None,
            run: Run = run,
            before: list[bytes] = before,
        ) -> None:
            saved = copy.deepcopy(run.optimizer.state_dict())
            change(saved["state"][list(run.parameters).index("columns.matrix")])
            with raises(ValueError, words, rank, at_rank, "the parameters' mesh"):
                run.optimizer.load_state_dict(saved)
            assert values_of(run.parameters, run.optimizer) == before

        # Rank 0 has the first rows of both.
        refuses(
            r"'exp_avg' of parameter 'columns.matrix' has shape \(41, 512\), and the parameter has shape \(40, 512\)",
            lambda entry: entry.update(exp_avg=torch.zeros(41, 512, dtype=entry["exp_avg"].dtype)),
        )
        if state != "float32":
            refuses(
                r"'exp_avg_sq_grid' of parameter 'columns.matrix' has shape \(39, 4\)",
                lambda entry: entry.update(exp_avg_sq_grid=torch.zeros(39, 4)),
            )

        def spoil(entry: dict[str, Any]) -> None:
            if rank == 2:
                value = entry.get("exp_avg_sq_grid", entry["exp_avg_sq"])
                local(value).fill_(torch.nan)

        refuses(r"parameter 'columns.matrix'", spoil, at_rank=2)
        run.steps(2, 1)


ON_CUTS = {"inside blocks": INSIDE, "between blocks": BETWEEN}
CONVERTED = itertools.product(
    ("rows on 4", "columns on 4", "tensor parallel and sharded", *ON_CUTS),
    (("float32", "int8"), ("int8", "float32"), ("int6", "int8"), ("int8", "bfloat16")),
)


@check.each(
    {f"{name}, {before} as {after}": (name, before, after) for name, (before, after) in CONVERTED},
    quick=(
        "inside blocks, float32 as int8",
        "inside blocks, int8 as bfloat16",
        "between blocks, int8 as float32",
        "between blocks, int6 as int8",
        "columns on 4, int6 as int8",
        "tensor parallel and sharded, int8 as float32",
    ),
)
def other_formats_are_converted_also_where_a_cut_divides_a_block(
    rank: int, name: str, saved_as: str, taken_as: str
) -> None:
    """As in one process: to the format that is asked for when it is loaded, and to float32 when it is saved so."""
    place = On(4, partial(cut, 4, Shard(1))) if name in ON_CUTS else PLACES[name]
    shapes = ON_CUTS.get(name, SHAPES)
    others = []
    for before, after in ((PLACES["rows on 4"], place), (PLACES["one process"], PLACES["one process"])):
        run = Run(before, torch.float32, state=saved_as, shapes=shapes)
        run.steps(0, BEFORE)
        other = Run(after, torch.float32, state=taken_as, shapes=shapes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other.optimizer.load_state_dict(run.optimizer.state_dict(), hyperparameters="given")
        others.append(other)
    equal_states(others[0].parameters, others[0].optimizer, others[1].parameters, others[1].optimizer)
    exported, expected = (one.optimizer.state_dict(state="float32")["state"] for one in others)
    for key, entry in expected.items():
        for moment, x in entry.items():
            assert torch.equal(whole(exported[key][moment]), x), (key, moment)


@check
def entries_without_elements_of_the_weight_stay_as_they_are(rank: int) -> None:
    """A step count of shape (1,), and what others have put into a state."""
    w = torch.zeros(16, 8)
    for extra, placement in itertools.product((torch.arange(3.0), torch.ones(2, 2), w + 1), (Shard(0), Shard(1))):
        parts = torch.nn.Parameter(distribute_tensor(w, mesh(4), [placement]))
        optimizer = at.AdamW([parts])
        entry = {"step": torch.tensor([3.0]), "exp_avg": w, "exp_avg_sq": w, "extra": extra}
        optimizer.load_state_dict({"state": {0: entry}, "param_groups": optimizer.state_dict()["param_groups"]})
        state = optimizer.state[parts]
        assert state["step"] == 3
        assert torch.equal(whole(state["extra"]), extra)
        assert isinstance(state["extra"], DTensor) == (extra.shape == w.shape)
        parts.grad = torch.ones_like(parts)
        optimizer.step()


@check
def a_state_dict_that_is_wrong_on_one_rank_is_loaded_by_none(rank: int) -> None:
    """Also where the others would exchange what they have of it, since it lies elsewhere."""
    run = Run(PLACES["rows on 4"], torch.float32)
    run.steps(0, 2)
    other = Run(PLACES["hybrid"], torch.float32)
    other.steps(0, 1)
    before = values_of(other.parameters, other.optimizer)
    name = next(iter(run.parameters))
    cases: list[tuple[Callable[[dict[str, Any]], Any], str, int | None]] = [
        (lambda saved: None, "expected a state dict, not a NoneType", 1),
        (lambda saved: {"state": {}}, "not an optimizer's state dict", 1),
        (lambda saved: {**saved, "param_groups": []}, "a different number of parameter groups", 1),
        (
            lambda saved: {**saved, "state": {}},
            rf"rank 0 has the state of parameter '{name}'.*, rank 1 has nothing",
            None,
        ),
        (lambda saved: {**saved, "state": {**saved["state"], 0: {}}}, rf"the state of parameter '{name}'", None),
    ]
    for change, words, at_rank in cases:
        saved: Any = run.optimizer.state_dict()
        saved = change(copy.deepcopy(saved)) if rank == 1 else saved
        with raises(Exception, words, rank, at_rank, "the parameters' mesh"):
            other.optimizer.load_state_dict(saved)
        assert values_of(other.parameters, other.optimizer) == before
    with raises(ZeroDivisionError if rank == 1 else RuntimeError, "modulo by zero", rank, 1, "the parameters' mesh"):
        hook = other.optimizer.register_load_state_dict_pre_hook(lambda optimizer, saved: 1 // (rank != 1) and None)
        other.optimizer.load_state_dict(run.optimizer.state_dict())
    hook.remove()
    other.optimizer.load_state_dict(run.optimizer.state_dict())


@check
def codes_that_were_cast_to_numbers_are_refused(rank: int) -> None:
    """``torch.distributed.checkpoint`` casts what was saved to the dtype of what it loads into."""
    run = Run(PLACES["rows on 4"], torch.float32, state="int8")
    other = Run(PLACES["hybrid"], torch.float32, seed=False, state="float32")
    run.steps(0, 2)
    with raises(ValueError, r"'exp_avg' of parameter .* is float32 .*, and was saved .* with state='int8'", rank):
        through(folder("cast"), run, other, StateDictOptions())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is converted
        other.optimizer.load_state_dict(run.optimizer.state_dict())
    assert other.optimizer.state[other.parameters["first.weight"]]["exp_avg"].dtype == torch.float32


MEMBERS: dict[str, tuple[type[at.Optimizer], dict[str, Any], str, str, bool]] = {
    "Lion": (at.Lion, {"state": "int8", "weight_decay": 0.1}, "rows on 4", "columns inside blocks on 3", False),
    "AMSGrad": (at.Adam, {"amsgrad": True, "state": "int8"}, "rows and columns", "rows on 3", True),
    "RMSprop": (at.RMSprop, {"centered": True, "momentum": 0.9}, "columns inside blocks on 3", "hybrid", False),
}


@check.each(MEMBERS, quick=MEMBERS)
def other_members_go_from_one_layout_to_another(
    rank: int, kind: type[at.Optimizer], options: dict[str, Any], before: str, after: str, flatten: bool
) -> None:
    """With one moment, with the largest second moment, and with an average of the gradient."""
    alone = Run(PLACES["one process"], torch.float32, kind=kind, **options)
    alone.steps(0, BEFORE + AFTER)
    how, path = StateDictOptions(flatten_optimizer_state_dict=flatten), folder(f"{kind.__name__} {before}")
    for ranks in {PLACES[before].ranks, PLACES[after].ranks}:
        mesh_of(*range(ranks))  # all processes make it
    if PLACES[before].is_here:
        run = Run(PLACES[before], torch.float32, kind=kind, **options)
        run.steps(0, BEFORE)
        dcp.save(run.saved(how), checkpoint_id=path, **group(PLACES[before]))
    dist.barrier()
    if PLACES[after].is_here:
        run = Run(PLACES[after], torch.float32, seed=False, kind=kind, **options)
        target = run.saved(how)
        dcp.load(target, checkpoint_id=path, **group(PLACES[after]))
        run.load(target, how)
        run.steps(BEFORE, AFTER)
        equal_states(run.parameters, run.optimizer, alone.parameters, alone.optimizer)


@check.each({str(one): one for one in itertools.product((False, True), ("int8", "split"))}, ("(True, 'int8')",))
def experts_on_subsets_of_the_ranks_are_saved_and_loaded(rank: int, is_gathered: bool, case: str) -> None:
    """To where all ranks have parts of all, or from there; each rank saves what it has."""
    shapes = LAYOUTS["two meshes"].shapes
    experts, everywhere = On(4, LAYOUTS["two meshes"].place), PLACES["rows on 4"]
    before, after = (experts, everywhere) if is_gathered else (everywhere, experts)
    dtype, options = CASES[case]
    alone = Run(PLACES["one process"], dtype, shapes=shapes, **options)
    run = Run(before, dtype, shapes=shapes, **options)
    other = Run(after, dtype, seed=False, shapes=shapes, **options)
    alone.steps(0, BEFORE), run.steps(0, BEFORE)
    through(folder(f"experts {is_gathered} {case}"), run, other, StateDictOptions(flatten_optimizer_state_dict=True))
    alone.steps(BEFORE, AFTER), other.steps(BEFORE, AFTER)
    equal_states(other.parameters, other.optimizer, alone.parameters, alone.optimizer)
    assert tells(other.optimizer) == tells(alone.optimizer)


class Failing(dcp.FileSystemWriter):
    """Cannot write on rank 2."""

    def write_data(self, *arguments: Any) -> Any:
        if dist.get_rank() == 2:
            raise OSError("the disk is full")
        return super().write_data(*arguments)


@check
def a_checkpoint_that_one_rank_did_not_write_is_not_loaded(rank: int) -> None:
    run = Run(PLACES["rows on 4"], torch.float32, state="int8", max_grad_norm=1.0)
    run.steps(0, 2)
    path = folder("half written")
    with raises(dcp.CheckpointException, "the disk is full", rank):
        dcp.save(run.saved(StateDictOptions()), storage_writer=Failing(path))
    assert path.exists()
    before = values_of(run.parameters, run.optimizer)
    with raises(dcp.CheckpointException, "metadata", rank):
        dcp.load(run.saved(StateDictOptions()), checkpoint_id=path)
    assert values_of(run.parameters, run.optimizer) == before
    run.steps(2, 1)
