"""How the weights of a model may lie on four processes: a table of layouts, for ``four_ranks.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """A model's weights on four processes.

    Attributes:
        shapes: the shapes of the whole weights.
        place: makes the parameters of this process from the whole weights.
        partial: the weights whose gradients are ``Partial`` over the mesh's only dimension.
        is_divided: whether cuts divide blocks of codes, which then cannot be packed.
    """

    shapes: Shapes
    place: Callable[[Tensors], Tensors]
    partial: tuple[str, ...] = ()
    is_divided: bool = False


@cache
def mesh(*shape: int) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=("outer", "inner")[-len(shape) :])


@cache
def mesh_of(*ranks: int) -> DeviceMesh:
    return DeviceMesh("cpu", list(ranks))


def plain(weights: Tensors) -> Tensors:
    return {name: torch.nn.Parameter(w.clone()) for name, w in weights.items()}


def distributed(shape: tuple[int, ...], placements: tuple[Any, ...], weights: Tensors) -> Tensors:
    """DTensors on a mesh of this shape. What lacks a dimension that is to be cut is replicated."""

    def placed(w: Tensor) -> Tensor:
        usable = [p if not p.is_shard() or p.dim < w.ndim else Replicate() for p in placements]
        return torch.nn.Parameter(distribute_tensor(w.clone(), mesh(*shape), usable))

    return {name: placed(w) for name, w in weights.items()}


def bucket_views(weights: Tensors) -> Tensors:
    """Those of DistributedDataParallel, whose gradients are views of its buckets."""
    parameters = plain(weights)
    wrapped = DistributedDataParallel(_Summed(parameters), gradient_as_bucket_view=True)
    wrapped().backward()
    assert all(w.grad is not None and w.grad._base is not None for w in parameters.values())
    return parameters


class _Summed(torch.nn.Module):
    """A model whose loss is the sum of its weights."""

    def __init__(self, parameters: Tensors) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(parameters.values())

    def forward(self) -> Tensor:
        return torch.stack([w.float().sum() for w in self.weights]).sum()


class Layers(torch.nn.Module):
    """Two linear layers."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(inputs, hidden), torch.nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


def tensor_parallel_and_sharded(weights: Tensors) -> Tensors:
    """Two linear layers, the first cut by its outputs and the second by its inputs, and both by FSDP2."""
    (hidden, inputs), (outputs, _) = weights["first.weight"].shape, weights["second.weight"].shape
    model = Layers(inputs, hidden, outputs).to(weights["first.weight"].dtype)
    model.load_state_dict(weights)
    two = mesh(2, 2)
    parallelize_module(model, two["inner"], {"first": ColwiseParallel(), "second": RowwiseParallel()})
    fully_shard(model, mesh=two["outer"])
    return dict(model.named_parameters())


def experts_on_subsets(weights: Tensors) -> Tensors:
    """The first experts on ranks 0 and 1, the second on 2 and 3, a third on rank 1 alone; the rest is cut over all ranks."""
    found = distributed((4,), (Shard(0),), {name: w for name, w in weights.items() if "expert" not in name})
    for name, ranks in (("first expert", (0, 1)), ("second expert", (2, 3)), ("third expert", (1,))):
        own = mesh_of(*ranks)  # all ranks make the mesh
        if dist.get_rank() in ranks:
            found[name] = torch.nn.Parameter(distribute_tensor(weights[name].clone(), own, [Shard(0)]))
    return {name: found[name] for name in weights if name in found}


def parts_of_a_mesh(weights: Tensors) -> Tensors:
    """As with tensor parallelism and FSDP2: on both dimensions of a mesh, or on one, with replicas along the other."""
    two, placements = mesh(2, 2), [Shard(0), Replicate()]
    meshes = [(two, placements), (two["outer"], placements[:1]), (two["inner"], placements[:1])]

    def placed(i: int, w: Tensor) -> Tensor:
        own, cut = meshes[i % 3]
        return torch.nn.Parameter(distribute_tensor(w.clone(), own, cut if w.ndim else [Replicate()] * own.ndim))

    return {name: placed(i, w) for i, (name, w) in enumerate(weights.items())}


def beside_plain_ones(weights: Tensors) -> Tensors:
    """Every other one plain, the same in all processes."""
    whole, parts = plain(weights), distributed((4,), (Shard(0),), weights)
    return {name: (parts if i % 2 else whole)[name] for i, name in enumerate(weights)}


# With rows that end inside a block, and dimensions that four ranks divide, do not divide, and of which some get nothing.
SHAPES: Shapes = {
    "even": (64, 200),
    "uneven": (70, 130),
    "empty": (9, 512),
    "rows": (3, 1500),
    "stack": (6, 3, 256),
    "vector": (131,),
    "short": (2,),
    "number": (),
}
COLUMNS: Shapes = {
    "even": (9, 1024),
    "uneven": (40, 510),
    "stack": (5, 4, 128),
    "short": (3, 2),
    "vector": (131,),
    "number": (),
}
BOTH: Shapes = {"even": (64, 512), "uneven": (9, 255), "stack": (7, 4, 64), "short": (1, 1), "vector": (131,)}
LAYERS: Shapes = {
    "first.weight": (255, 130),
    "first.bias": (255,),
    "second.weight": (33, 255),
    "second.bias": (33,),
}
LAYOUTS = {
    "plain": Layout(SHAPES, plain),
    "ddp": Layout(SHAPES, bucket_views),
    "rows": Layout(SHAPES, partial(distributed, (4,), (Shard(0),))),
    "replicas": Layout(SHAPES, partial(distributed, (4,), (Replicate(),))),
    "hybrid": Layout(SHAPES, partial(distributed, (2, 2), (Replicate(), Shard(0)))),
    "columns": Layout(COLUMNS, partial(distributed, (4,), (Shard(1),))),
    "rows and columns": Layout(BOTH, partial(distributed, (2, 2), (Shard(0), Shard(1)))),
    "inside blocks": Layout(
        {"matrix": (40, 300), "wide": (9, 1100), "stack": (40, 3, 64), "vector": (131,)},
        partial(distributed, (4,), (Shard(1),)),
        is_divided=True,
    ),
    "rows, and inside blocks": Layout(
        {"matrix": (40, 300), "wide": (9, 1100), "one row": (1, 5000)},
        partial(distributed, (2, 2), (Shard(0), Shard(1))),
        is_divided=True,
    ),
    "between blocks of stacks": Layout(
        {"stack": (8, 5, 192), "even": (16, 6, 64)}, partial(distributed, (4,), (Shard(1),)), is_divided=True
    ),
    "last dimension": Layout({"stack": (4, 8, 256)}, partial(distributed, (4,), (Shard(2),)), is_divided=True),
    "last dimension of stacks": Layout({"stack": (4, 8, 512)}, partial(distributed, (4,), (Shard(2),))),
    "inner dimension of stacks": Layout({"stack": (2, 10, 256)}, partial(distributed, (4,), (Shard(1),))),
    "rows twice": Layout(SHAPES, partial(distributed, (2, 2), (Shard(0), Shard(0)))),
    "tensor parallel and sharded": Layout(LAYERS, tensor_parallel_and_sharded),
    "sequence parallel": Layout(
        SHAPES, partial(distributed, (4,), (Shard(0),)), partial=("uneven", "vector", "number", "stack")
    ),
    "sequence parallel replicas": Layout(SHAPES, partial(distributed, (4,), (Replicate(),)), partial=tuple(SHAPES)),
    "two meshes": Layout(
        {
            "first expert": (40, 130),
            "uneven": (70, 130),
            "second expert": (33, 200),
            "third expert": (7,),
            "vector": (131,),
        },
        experts_on_subsets,
    ),
    "parts of a mesh": Layout(SHAPES, parts_of_a_mesh),
    "beside plain ones": Layout(SHAPES, beside_plain_ones),
}


@cache
def elements_here(place: Callable[[Tensors], Tensors], shapes: tuple[tuple[str, torch.Size], ...]) -> Tensors:
    """Which elements of the whole weights are here, as PyTorch's own placing tells."""
    assert max(shape.numel() for _, shape in shapes) < 2**24  # as float32 counts
    numbered = {name: torch.arange(shape.numel(), dtype=torch.float32).reshape(shape) for name, shape in shapes}
    return {name: local(p.detach()).long() for name, p in place(numbered).items()}


@cache
def owners(shape: torch.Size) -> Tensor:
    """A rank for each element."""
    return torch.randint(4, shape, generator=torch.Generator().manual_seed(0))


class Here:
    """The parameters that this process has, and their gradients.

    Attributes:
        parameters: the parameters by name.
    """

    def __init__(self, layout: Layout, weights: Tensors) -> None:
        self._layout = layout
        self.parameters = layout.place(weights)
        self._elements = elements_here(layout.place, tuple((name, w.shape) for name, w in weights.items()))

    def part(self, name: str, whole: Tensor) -> Tensor:
        """The part of a whole tensor that is here."""
        return whole.flatten()[self._elements[name]]

    def give(self, gradients: dict[str, Tensor | None]) -> None:
        """Gives the parameters these gradients, of the whole weights."""
        for name, p in self.parameters.items():
            whole = gradients[name]
            if whole is None:
                p.grad = None
            elif isinstance(p, DTensor):
                p.grad = self._partial(p, whole) if name in self._layout.partial else self._cut(name, p, whole)
            elif p.grad is None:
                p.grad = whole.clone()
            else:
                p.grad.copy_(whole)

    def _cut(self, name: str, p: DTensor, whole: Tensor) -> DTensor:
        return DTensor.from_local(
            self.part(name, whole), p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
        )

    def _partial(self, p: DTensor, whole: Tensor) -> DTensor:
        """A sum over the ranks, of which each has some of the elements, so that it is exact in any dtype."""
        own = torch.where(owners(whole.shape) == dist.get_rank(), whole, torch.zeros_like(whole))
        return DTensor.from_local(own, p.device_mesh, [Partial()], run_check=False)


def local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """A tensor gathered from all ranks of its mesh."""
    return x.full_tensor() if isinstance(x, DTensor) else x
