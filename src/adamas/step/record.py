"""What an adapter passes to a step: a record of each parameter, and operations on its framework's tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..rule import layout
from ..rule.declaration import FactoredRule, Member, Numbers
from ..rule.formats import BLOCK
from ..rule.layout import LOW_BITS, Part, Slot

Tensor: TypeAlias = Any
State: TypeAlias = dict[str, Any]  # the tensors and the single numbers of a parameter, by name
Scalars: TypeAlias = tuple[float, ...]  # the single numbers of a parameter's state, its step count first
Change: TypeAlias = tuple[dict[Any, Any], Any, Any]  # a dictionary, a key, and the new value
Advance: TypeAlias = Callable[
    [Scalars], tuple[Numbers, Scalars]
]  # the numbers of the next step, and the scalars after it


class Place(NamedTuple):
    """Where a part of a tensor lies in the whole.

    Attributes:
        offset: the index of its first element in the whole tensor, one number for each dimension.
        shape: the shape of the whole tensor.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def columns(self, shape: Sequence[int]) -> range | None:
        """The elements of a row of the whole tensor that a part of this shape has in each of its rows.

        What a row is, ``adamas.rule.layout`` says. None if the elements are not consecutive.
        """
        rows = self.row_dimensions
        cut = [d for d in range(rows, len(shape)) if shape[d] != self.shape[d]]
        if cut and 0 not in shape and any(n != 1 for n in shape[rows : cut[-1]]):
            return None
        first = 0
        for offset, size in zip(self.offset[rows:], self.shape[rows:], strict=True):
            first = first * size + offset
        return range(first, first + math.prod(shape[rows:]))

    def divides_blocks(self, shape: Sequence[int]) -> bool:
        """Whether a part of this shape begins or ends inside a block of a row."""
        columns, (_, length) = self.columns(shape), layout.in_rows(self.shape)
        if not columns or 0 in shape:
            return False
        return columns.start % BLOCK != 0 or (columns.stop % BLOCK != 0 and columns.stop != length)

    def blocks(self, shape: Sequence[int]) -> range:
        """The blocks of a row of which a part of this shape has elements."""
        columns = self.columns(shape)
        assert columns is not None, "the cut leaves several pieces of a row"
        return blocks_with(columns)

    def of_scales(self, shape: Sequence[int]) -> Place:
        """Where the scales of a part of this shape lie among those of the whole tensor."""
        rows = self.offset[: self.row_dimensions]
        return Place((*rows, self.blocks(shape).start), layout.scale_shape(self.shape))

    @property
    def row_dimensions(self) -> int:
        """The number of dimensions that number the rows."""
        return len(layout.in_rows(self.shape)[0])


def blocks_with(columns: range) -> range:
    """The blocks of a row of which these columns have elements."""
    first = columns.start // BLOCK
    return range(first, -(-columns.stop // BLOCK) if columns else first)


def rows_of(group: Mapping[str, Any], index: int) -> Place | None:
    """Where ``rows=`` places the group's parameter number ``index``; None if it is a whole tensor itself."""
    rows = group.get("rows")
    if rows is None or rows[index] is None:
        return None
    (first, total), (_, *row) = rows[index], group["params"][index].shape
    return Place((first, *[0] * len(row)), (total, *row))


class TensorView(NamedTuple):
    """How a tensor lies in memory, without its address.

    Attributes:
        shape: its shape.
        strides: the distance of neighbours in each dimension.
        dtype: the name of its dtype.
        device: its device; None if the framework has no others.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: Any = None

    @property
    def is_complex(self) -> bool:
        """Whether its elements are complex numbers."""
        return self.dtype.startswith("complex")

    def overlaps_itself(self) -> bool:
        """Whether elements share memory, as after ``expand``."""
        if 0 in self.shape:
            return False
        reach = 0  # the largest offset of the dimensions so far
        for distance, size in sorted(
            (abs(stride), size) for stride, size in zip(self.strides, self.shape, strict=True)
        ):
            if size != 1 and distance <= reach:
                return True
            reach += distance * (size - 1)
        return False


class Wholes(NamedTuple):
    """Where the whole of a matrix is, of which this process may have a part.

    Attributes:
        shape: the shape of the whole.
        where: what tells the processes that have the parts, and which parts they have; None if this process has the whole.
        turns: the number of processes that take turns in having the whole.
    """

    shape: tuple[int, ...]
    where: Any
    turns: int


class Record(NamedTuple):
    """One parameter.

    Attributes:
        weight: the tensor that is stepped in place.
        state: its state. The tensors in it are looked up at each step, so they can be replaced.
        name: its name in error messages.
        key: the key of its random numbers (``adamas.rule.formats.tensor_key``).
        place: where it lies in the whole tensor; None if it is a whole tensor itself.
        is_decayed: whether weight decay and the penalties apply to it.
        is_flat: whether it is a part of several tensors that were joined, with the other parts in other processes.
        is_counted: whether it counts in sums over all processes: False for all replicas but one.
        is_divided: whether cuts divide its blocks of codes, so that processes share some (``adamas.step.divided``).
        position: its position among the parameters of this process.
    """

    weight: Tensor
    state: State
    name: str
    key: int
    place: Place | None = None
    is_decayed: bool = True
    is_flat: bool = False
    is_counted: bool = True
    is_divided: bool = False
    position: int = 0


class Tensors(Protocol):
    """The operations on tensors that differ between frameworks."""

    def is_on_cpu(self, weight: Tensor) -> bool:
        """Whether the weight is in memory that the engine can reach."""

    def is_on_gpu(self, weight: Tensor) -> bool:
        """Whether the weight is a PyTorch tensor on a GPU that Triton compiles kernels for."""

    def gradient_of(self, weight: Tensor) -> Tensor | None:
        """The weight's own gradient; None if it has none, or is frozen.

        Raises:
            ValueError: the gradient lies on other processes than the weight.
        """

    def rows_of(self, gradient: Tensor) -> tuple[Tensor, Tensor, int] | None:
        """The rows of a sparse gradient: their indices, as int64, their values, and how many rows the dense gradient has.

        Both tensors are contiguous; the values have a row for each index. A row may be there several times: its gradient is
        the sum. None if the gradient is dense, or the engine cannot step it.
        """

    def wholes_of(self, weight: Tensor) -> Wholes:
        """Where the whole of a matrix is."""

    def results_of(
        self, weights: Sequence[Tensor], parts: Sequence[Any], function: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> Sequence[Any]:
        """The parts that this process has of the results of a function of whole tensors.

        Args:
            weights: weights with equal ``wholes_of``.
            parts: for each, the part of a tensor that lies where the weight does.
            function: returns a tensor of the same shape for each.
        """

    def piece_of(self, tensor: Tensor, piece: tuple[slice, ...]) -> Tensor:
        """A piece of the part of a tensor that this process has, in the same memory; there may be more dimensions."""

    def check_gradient(self, gradient: Tensor, name: str, member: Member) -> None:
        """Raises if the gradient is of an unsupported kind, such as a sparse tensor where no rows are stepped.

        Args:
            gradient: the gradient.
            name: the name of the parameter, for the message.
            member: the member.
        """

    def refuse_alone(self, name: str, option: str) -> None:
        """Raises ValueError: the option needs a whole flat parameter, and the parameter of this name is only a part of it."""

    def before_writing(self, weights: list[Tensor]) -> None:
        """Called before the weights are stepped."""

    def engine_view(self, weight: Tensor) -> Tensor:
        """The weight as the engine sees it, in the same memory."""

    # ---- the state

    def dtype_name(self, weight: Tensor) -> str:
        """The name of the weight's dtype."""

    def scalar(self, value: float) -> Tensor:
        """A number as a scalar of a state: in float64, which counts past 2²⁴, where float32 stops."""

    def as_scalar(self, value: Any) -> Tensor | None:
        """A value that was put into a state, as a scalar of a state; None if it is not a single number."""

    def shape_of(self, weight: Tensor) -> tuple[int, ...]:
        """The shape of the part of the weight that this process has."""

    def view_of(self, tensor: Any) -> TensorView | None:
        """The part of a tensor that this process has, as it lies in memory; None if it is no dense tensor."""

    def state_device(self, weight: Tensor) -> Any:
        """The device of the weight's state; None if the framework has no others."""

    def full(self, weight: Tensor, part: Part, whole: tuple[int, ...] | None) -> Tensor:
        """A tensor of the weight's state before the first step.

        Args:
            weight: the weight.
            part: the tensor.
            whole: its shape where the whole weight is; None if it is no part of a tensor of the whole weight.
        """

    # ---- steps over arrays

    def namespace(self, weight: Tensor) -> Any:
        """The array namespace (``adamas.step.namespaces``) of the weight's device.

        Raises:
            RuntimeError: no step can be made there now.
        """

    def array(self, tensor: Tensor) -> Any:
        """A weight or a tensor of a state as an array of real numbers of the namespace, in the same memory."""

    def low_bits(self, tensor: Tensor) -> Any:
        """The low bits of a split weight as an array of 16-bit integers of the weight's shape, in the same memory."""

    def gradient_array(self, gradient: Tensor) -> Any:
        """A gradient as an array of real numbers of the namespace."""


def whole_shape(tensors: Tensors, weight: Tensor, place: Place | None) -> tuple[int, ...]:
    """The shape of the whole of a weight that lies at this place."""
    return tensors.shape_of(weight) if place is None else place.shape


def slots_of(
    tensors: Tensors, member: Member, group: Mapping[str, Any], weight: Tensor, place: Place | None
) -> Sequence[Slot]:
    """The tensors of a parameter's state, each with its format."""
    shape, whole = tensors.shape_of(weight), None if place is None else place.shape
    slots = list(layout.slots(member, group, shape, tensors.dtype_name(weight), whole))
    if place is None or place.columns(shape) is None:
        return slots
    scale_shape = scale_shape_of(shape, place)
    return [slot if slot.scale_shape is None else slot._replace(scale_shape=scale_shape) for slot in slots]


def scale_shape_of(shape: tuple[int, ...], place: Place | None) -> tuple[int, ...]:
    """The shape of the scales of a parameter's codes, if it lies at this place of a whole tensor."""
    if place is None or place.columns(shape) is None:
        return layout.scale_shape(shape)
    return *shape[: place.row_dimensions], len(place.blocks(shape))


def check_place(
    tensors: Tensors,
    member: Member,
    group: Mapping[str, Any],
    weight: Tensor,
    place: Place | None,
    name: str,
    is_divided: bool = False,
) -> None:
    """Raises ValueError if a part of a tensor cannot have its moments: means of rows and columns, or codes that a cut divides.

    Args:
        tensors: the framework's operations on tensors.
        member: the member.
        group: the hyperparameters.
        weight: the part.
        place: where it lies in the whole tensor; None if it is a whole tensor itself.
        name: the name of the parameter, for the message.
        is_divided: whether cuts divide blocks of codes, and the processes exchange what they have of these.
    """
    if place is not None and isinstance(member.rule(group, place.shape), FactoredRule):
        raise ValueError(
            f"parameter {name} is a part of a matrix, and {member.name} takes the means of whole rows and columns: keep the "
            "matrix in one piece, or use AdamW for it"
        )
    shape = tensors.shape_of(weight)
    coded = [slot for slot in slots_of(tensors, member, group, weight, place) if slot.scale_shape is not None]
    if place is None or not coded:
        return
    columns = place.columns(shape)
    (rows, length), (own_rows, own_length) = layout.in_rows(place.shape), layout.in_rows(shape)
    forms = {slot.name: layout.format_of(group["state"], slot.name) for slot in coded}
    if len(own_rows) != len(rows) and not is_divided:
        problem = f"its rows of {own_length} elements run along other dimensions than those of the tensor, of {length}"
    elif is_divided and {*forms.values()} != {"int8"}:
        assert columns is not None
        problem = f"it has the elements from {columns.start} up to {columns.stop} of rows of {length}, "
        problem += 'where packed codes cannot be cut (those of "int8" can)'
    elif 0 in shape:
        return
    elif columns is None:
        problem = f"its rows of {length} elements are cut into several pieces"
    elif place.divides_blocks(shape) and not is_divided:
        problem = f"it has the elements from {columns.start} up to {columns.stop} of rows of {length}, not whole blocks"
    elif any(layout.form_of(slot.shape, shape) != forms[slot.name] for slot in coded):
        problem = f"packed rows of {len(columns)} codes have the length of rows that are not packed"
    else:
        return
    raise ValueError(
        f"parameter {name} is the part of shape {shape} at {place.offset} of a tensor of shape {place.shape}, and cannot have "
        f'state={group["state"]!r}: {problem}. Use "float32" or "bfloat16" for its group, or cut the tensor between rows or '
        f"between blocks of {BLOCK} elements of a row"
    )


def begin_state(
    tensors: Tensors,
    member: Member,
    group: Mapping[str, Any],
    weight: Tensor,
    place: Place | None,
    state: State,
    is_divided: bool = False,
) -> None:
    """Creates the missing entries of a parameter's state: all of them at the first gradient.

    If its blocks are divided, processes that share a block each have its scale.
    """
    for name, value in member.scalars:
        if name not in state:
            state[name] = tensors.scalar(value)
    shape, dtype = tensors.shape_of(weight), tensors.dtype_name(weight)
    whole = layout.shapes(member, group, shape if place is None else place.shape, dtype)
    for slot in slots_of(tensors, member, group, weight, place):
        if slot.name not in state:
            for part in layout.parts(np, slot, shape, member.start_of(slot.name, group)):
                is_scale = part.name != slot.name
                state[part.name] = tensors.full(weight, part, None if is_divided and is_scale else whole[part.name])
    if layout.is_split(group, dtype) and LOW_BITS not in state:
        state[LOW_BITS] = tensors.full(weight, layout.low_bits(shape), whole[LOW_BITS])
