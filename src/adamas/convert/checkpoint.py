"""A run independent of its framework: the weights and the state of each parameter, by name, as NumPy arrays.

Names and layouts are PyTorch's: ``layer.weight``, with the output in the first dimension. The kernels of Keras and Flax have
the output in the last dimension and are transposed. Imports only NumPy.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..files import check_archive, replacing
from ..rule import bounds, layout
from ..rule.declaration import Hypers, Member

Array: TypeAlias = npt.NDArray[Any]
Names: TypeAlias = Mapping[str, str] | Callable[[str], str] | None

# Names of parameters in Keras and Flax, and their names in PyTorch.
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "scale": "weight",
    "embedding": "weight",
    "embeddings": "weight",
    "beta": "bias",
}
_WEIGHT, _STATE = "weight", "state"
_PERMISSIVE: Hypers = {
    **{"lr": 1.0, "alpha": 1 - 2.0**-24, "eps": 0.0, "eps_mode": "torch"},
    **{"amsgrad": True, "centered": True, "nesterov": False},
    **dict.fromkeys(("momentum", "dampening", "lr_decay", "momentum_decay"), 0.0),
}


def _permissive(member: Member) -> Hypers:
    """A member's most permissive hyperparameters: the lowest bound on second moments, with every moment in use."""
    given = {h.name: h.default for h in member.hyperparameters}
    slowest = {"betas": (0.0, 1 - 2.0**-24, *(0.0 for _ in given["betas"][2:]))} if "betas" in given else {}
    return {**given, **_PERMISSIVE, **slowest}


@dataclass
class Parameter:
    """One parameter.

    Attributes:
        weight: the values, in float32 or in the wider dtype of the weight.
        state: each moment by PyTorch's name, of the weight's shape, in float32 or wider; and the counts (``step``, …), of
            shape (). Empty before the first step.
    """

    weight: Array
    state: dict[str, Array] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """The parameters of a run, by name. It does not contain buffers, such as the statistics of a batch norm."""

    parameters: dict[str, Parameter]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a NumPy ``.npz`` file without pickle, which ``load`` and ``np.load`` read. The write is atomic."""
        arrays = {f"{_WEIGHT}/{name}": p.weight for name, p in self.parameters.items()}
        arrays |= {f"{_STATE}/{name}/{key}": x for name, p in self.parameters.items() for key, x in p.state.items()}
        with replacing(Path(path), durable=True) as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # NumPy's stub mistakes them for its own options


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Load a checkpoint that ``Checkpoint.save`` wrote.

    Raises:
        ValueError: the file is damaged, or is not such a checkpoint.
    """
    name = os.fspath(path)
    stream = io.BytesIO(Path(path).read_bytes())
    try:
        check_archive(stream)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # damaged bytes fail in many ways
        raise ValueError(f"{name} is damaged, or is not a checkpoint of adamas.convert: {error}") from error
    parameters: dict[str, Parameter] = {}
    for key, array in arrays.items():
        kind, _, rest = key.partition("/")
        if kind == _WEIGHT:
            parameters[rest] = Parameter(array)
    for key, array in arrays.items():
        kind, _, rest = key.partition("/")
        parameter, _, entry = rest.rpartition("/")
        if kind == _STATE and parameter in parameters:
            parameters[parameter].state[entry] = array
        elif kind != _WEIGHT:
            raise ValueError(f"{name} has {key!r}: it is not a checkpoint of adamas.convert")
    return Checkpoint(parameters)


@dataclass(frozen=True)
class Place:
    """A parameter of a framework: its name in PyTorch, and whether it is a kernel, which PyTorch has transposed."""

    name: str
    is_kernel: bool

    @classmethod
    def of(cls, path: str) -> Place:
        """The place of a parameter with this path in its framework, separated by dots or slashes."""
        *module, leaf = [part for part in re.split(r"[./]", path) if part]
        if leaf == "value" and module:  # of a variable of Flax's nnx
            leaf = module.pop()
        return cls(".".join([*module, _LEAVES.get(leaf, leaf)]), leaf == "kernel" or leaf.endswith("_kernel"))

    def to_torch(self, x: Array) -> Array:
        """The array in PyTorch's layout: a kernel of shape (…, in, out) becomes (out, in, …)."""
        return np.moveaxis(x, (-1, -2), (0, 1)) if self.is_kernel and x.ndim > 1 else x

    def from_torch(self, x: Array) -> Array:
        """The array in the layout of the framework."""
        return np.moveaxis(x, (0, 1), (-1, -2)) if self.is_kernel and x.ndim > 1 else x


def gathered(entries: Iterable[tuple[Place, Array, Mapping[str, Array]]]) -> Checkpoint:
    """The checkpoint of parameters in the layout of their framework, given as place, weight and state of each.

    Raises:
        ValueError: two parameters have the same name.
    """
    parameters: dict[str, Parameter] = {}
    for place, weight, state in entries:
        if place.name in parameters:
            raise ValueError(f"two parameters are called {place.name!r}: give the layers different names")
        turned = {key: np.array(place.to_torch(x) if x.ndim else x, order="C") for key, x in state.items()}
        parameters[place.name] = Parameter(np.array(place.to_torch(weight), order="C"), turned)
    return Checkpoint(parameters)


class Moved:
    """A checkpoint matched to the parameters of a model: ``moved[place]`` is the parameter for that place.

    Args:
        checkpoint: the checkpoint.
        places: all parameters of the model.
        names: for parameters that have another name in the checkpoint: a dict from the names in the model (of parameters or of
            modules) to the names in the checkpoint, or a function. Modules that all names of one side begin with are ignored.

    Raises:
        ValueError: a name has no counterpart. The message lists all such names.
    """

    def __init__(self, checkpoint: Checkpoint, places: Iterable[Place], names: Names) -> None:
        here, there = [place.name for place in places], list(checkpoint.parameters)
        if twice := next((name for i, name in enumerate(sorted(here)[1:]) if name == sorted(here)[i]), None):
            raise ValueError(f"two parameters are called {twice!r} here: give the layers different names")
        self._parameters = checkpoint.parameters
        front, back = _common(here), _common(there)
        closest: tuple[list[str], list[str]] | None = None
        for shown in (here, [name.removeprefix(front) for name in here]):
            renamed = [_renamed(name, names) for name in shown]
            for sources in (renamed, _within(renamed, back, is_part=shown is not here and bool(front))):
                if sorted(sources) == sorted(there):
                    self._source = dict(zip(here, sources, strict=True))
                    return
                missing = sorted(name for name, source in zip(shown, sources, strict=True) if source not in there)
                unused = sorted(set(there) - set(sources))
                if closest is None or len(missing) + len(unused) < sum(map(len, closest)):
                    closest = missing, unused
        assert closest is not None
        missing, unused = closest
        if not missing and not unused:
            raise ValueError("names: two parameters of the model are mapped to the same parameter of the checkpoint")
        sides = ((missing, "model"), (unused, "checkpoint"))
        alone = " and ".join(f"{_shortened(found)} of the {side}" for found, side in sides if found)
        raise ValueError(
            f"no counterpart found for {alone}: give names=, a dict from names in the model to names in the checkpoint, of "
            "parameters or of modules"
        )

    def __getitem__(self, place: Place) -> Parameter:
        """The parameter for a place; raises KeyError if it was not among the places."""
        parameter = self._parameters[self._source[place.name]]
        return Parameter(
            place.from_torch(parameter.weight),
            {key: place.from_torch(x) if x.ndim else x for key, x in parameter.state.items()},
        )

    def check(self, member: Member, hyper_of: Callable[[str], Hypers] | None) -> None:
        """Check moments and counts. Second moments that are too small for the first moments are increased, with a warning.

        See ``adamas.rule.bounds``. The optimizers of ``adamas.torch`` and ``adamas.numpy`` do this when they load a state.

        Args:
            member: the member that has the moments.
            hyper_of: returns the hyperparameters of a parameter by its name in the model; None if they are unknown.

        Raises:
            ValueError: a moment or a count has an impossible value, or a second moment is too small and the hyperparameters
                are unknown.
        """
        raised: defaultdict[str, dict[str, int]] = defaultdict(dict)
        parameters = dict(self._parameters)
        for name, source in self._source.items():
            p = parameters[source]
            if not p.state:
                continue
            moments = {key: p.state[key] for key in layout.signs(member) if key in p.state}
            moments = {key: x for key, x in moments.items() if x.shape == p.weight.shape}
            counts = {key: float(p.state.get(key, start)) for key, start in member.scalars}
            try:
                bounds.check_scalars(member, counts)
                hyper = _permissive(member) if hyper_of is None else hyper_of(name)
                found = bounds.mended(np, member, [hyper], counts, moments)
            except ValueError as error:
                raise ValueError(f"parameter {name!r} in the checkpoint: {error}") from error
            parameters[source] = Parameter(p.weight, {**p.state, **{key: x.values for key, x in found.items()}})
            for key, x in found.items():
                raised[key][repr(name)] = x.elements
        for key, elements in raised.items():
            if hyper_of is None:
                raise ValueError(
                    f"{key!r} in the checkpoint is too small for the first moment in {sum(elements.values())} elements of "
                    f"{', '.join(list(elements)[:5])}, as after saving in float16. The least possible value depends on "
                    "hyperparameters, which this state does not have: load the checkpoint into an optimizer of adamas.numpy "
                    "that has them (to_numpy), which raises these elements, and convert from there"
                )
            warnings.warn(bounds.mended_message(key, elements), stacklevel=3)
        self._parameters = parameters

    def fitting(self, place: Place, shape: Iterable[int], dtype: str) -> Parameter:
        """The parameter for a place, checked against the shape and the dtype of the model's parameter.

        Raises:
            ValueError: the shape of the weight or of a moment differs, or only one of the two dtypes is complex.
        """
        parameter, shape = self[place], tuple(shape)
        if (parameter.weight.dtype.kind == "c") != dtype.startswith("complex"):
            raise ValueError(f"parameter {place.name!r} is {dtype}, but {parameter.weight.dtype} in the checkpoint")
        for what, x in (
            ("", parameter.weight),
            *((f" its {key!r}", x) for key, x in parameter.state.items() if x.ndim),
        ):
            if x.shape != shape:
                source = self._source[place.name]
                raise ValueError(
                    f"parameter {place.name!r} has shape {shape}, but{what} in the checkpoint ({source!r}) has shape {x.shape}"
                )
        return parameter

    def counts(self, places: Iterable[Place], names: Iterable[str]) -> dict[str, float]:
        """The counts that all parameters share, for a framework that has one count for all; empty if no parameter has a state.

        Raises:
            ValueError: the counts of two parameters differ.
        """
        found: dict[str, float] = {}
        first = ""
        for place in places:
            state = self[place].state
            if not state:
                continue
            counts = {name: float(state[name]) for name in names if name in state}
            if found and counts != found:
                raise ValueError(
                    f"parameters {first!r} and {place.name!r} have the counts {found} and {counts}, but this framework has "
                    "one count for all parameters"
                )
            found, first = counts, place.name
        return found


def _renamed(name: str, names: Names) -> str:
    """The name in the checkpoint of a parameter of the model. The longest prefix in ``names`` is replaced."""
    if names is None:
        return name
    if not isinstance(names, Mapping):
        return names(name)
    names = {**{Place.of(here).name: Place.of(there).name for here, there in names.items()}, **names}
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (front := ".".join(parts[:end])) in names:
            return ".".join([names[front], *parts[end:]])
    return name


def _within(names: list[str], back: str, is_part: bool) -> list[str]:
    """The names with their common modules replaced by ``back``.

    If both sides have common modules and no other ones, the names are returned unchanged: such modules may be unrelated.

    Args:
        names: the names.
        back: the modules that all names of the checkpoint begin with.
        is_part: whether common modules were already removed from the names.
    """
    front = _common(names)
    rest = [name.removeprefix(front) for name in names]
    if (front or is_part) and back and not any("." in name for name in rest):
        return names
    return [back + name for name in rest]


def _shortened(names: list[str]) -> str:
    return "[" + ", ".join(map(repr, names[:5])) + (", …]" if len(names) > 5 else "]")


def _common(names: Iterable[str]) -> str:
    """The modules that all names begin with."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{same[0]}." for same in takewhile(lambda same: len(set(same)) == 1, parts))
