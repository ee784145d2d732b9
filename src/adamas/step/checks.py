"""The checks of tensors before a step, for devices where the engine does not look at them: the engine's, in its words.

A kernel trusts the shapes that it is given, and operations over arrays broadcast. So all tensors are checked before the first
parameter is stepped.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ..rule import layout
from ..rule.declaration import State
from ..rule.layout import CODES, HALVES, LOW_BITS, scale_name
from .executor import GroupSpec
from .record import Record, Tensor, TensorView, scale_shape_of

_REAL = ("float32", "float64", "bfloat16", "float16")
_COMPLEX = ("complex64", "complex128")
_SHARES_MEMORY = (
    "has elements that share memory, as after expand(), broadcast_to() or as_strided(), and cannot be updated in place; use a "
    "copy of it (clone() in PyTorch, copy() in NumPy)"
)
_OTHER_SHAPE = "has another shape than the parameter"


def check_tensors(spec: GroupSpec, record: Record, gradient: Tensor) -> None:
    """Raises ValueError if a parameter, its gradient or a tensor of its state cannot be used; the message names it."""
    _Checks(spec, record).check(gradient)


class _Checks:
    """The checks of one parameter.

    Args:
        spec: what the parameters of its group have in common.
        record: the parameter.
    """

    def __init__(self, spec: GroupSpec, record: Record) -> None:
        self._spec, self._record, self._what = spec, record, "it"
        self._weight = self._view(record.weight)
        self._state_device = spec.tensors.state_device(record.weight)

    def check(self, gradient: Tensor) -> None:
        """Checks the parameter, this gradient and the state."""
        weight, spec = self._weight, self._spec
        if weight.dtype not in (*_REAL, *_COMPLEX):
            self._refuse_dtype(weight)
        self._refuse_shared_memory(weight)
        self._check_gradient(gradient)
        if spec.weights == "split" and weight.dtype in HALVES:
            self._check_low_bits()
        for name, state in zip(spec.state_names, spec.rule.states, strict=True):
            self._check_state(name, state)

    def _check_gradient(self, gradient: Tensor) -> None:
        self._what = "its gradient"
        view = self._view_on(self._weight.device, gradient)
        if not self._has_shape_of_weight(view):
            self._refuse(f"{_OTHER_SHAPE}, or only one is complex")
        if view.dtype not in (*_REAL, *_COMPLEX):
            self._refuse_dtype(view)

    def _check_low_bits(self) -> None:
        given = self._state(LOW_BITS)
        self._view_on(self._state_device, given)
        try:
            view = self._view(self._spec.tensors.low_bits(given))
        except RuntimeError:
            self._refuse("is not made up of pairs of bytes")
        if view.shape != tuple(self._spec.tensors.array(self._record.weight).shape):
            self._refuse(_OTHER_SHAPE)
        if view.dtype != "int16":
            self._refuse("has a dtype that it cannot have")
        self._refuse_shared_memory(view)

    def _check_state(self, name: str, state: State) -> None:
        view = self._view_on(self._state_device, self._state(name))
        is_coded = view.dtype in CODES
        if is_coded and (not self._weight.shape or self._weight.is_complex):
            self._refuse("is in codes, which the parameter cannot have")
        form = layout.form_of(view.shape, self._weight.shape) if is_coded else ""
        if not form and not self._has_shape_of_weight(view, state):
            self._refuse(_OTHER_SHAPE)
        if view.dtype not in (*_REAL, *_COMPLEX, "int8" if state.signed else "uint8"):
            self._refuse("has a dtype that it cannot have")
        self._refuse_shared_memory(view)
        if is_coded:
            self._check_scale(scale_name(name))

    def _check_scale(self, name: str) -> None:
        view = self._view_on(self._state_device, self._state(name))
        shape = scale_shape_of(self._weight.shape, self._record.place)
        if view.dtype != "float32" or view.shape != shape:
            self._refuse(f"has to be float32, of shape {shape}")
        self._refuse_shared_memory(view)

    def _state(self, name: str) -> Tensor:
        """A tensor of the state, which the following checks are of."""
        self._what = f"its state '{name}'"
        if name not in self._record.state:
            self._refuse("is missing")
        return self._record.state[name]

    def _view(self, tensor: Tensor) -> TensorView:
        view = self._spec.tensors.view_of(tensor)
        if view is None:
            self._refuse(f"is of type {type(tensor).__name__}, and has to be a dense tensor")
        return view

    def _view_on(self, device: Any, tensor: Tensor) -> TensorView:
        """The view of a tensor that has to be on this device."""
        view = self._view(tensor)
        if view.device != device:
            self._refuse(f"is on the device {view.device}, and has to be on {device}")
        return view

    def _has_shape_of_weight(self, view: TensorView, state: State | None = None) -> bool:
        """Whether a tensor has the shape of the weight or, if it is a state, the shape that this one has there."""
        shape = self._weight.shape if state is None else state.shape_in(self._weight.shape)
        return view.shape == shape and view.is_complex == self._weight.is_complex

    def _refuse_shared_memory(self, view: TensorView) -> None:
        if view.overlaps_itself():
            self._refuse(_SHARES_MEMORY)

    def _refuse_dtype(self, view: TensorView) -> NoReturn:
        self._refuse(f"has the dtype {view.dtype}: a step takes {', '.join((*_REAL, *_COMPLEX))}")

    def _refuse(self, problem: str) -> NoReturn:
        raise ValueError(f"parameter {self._record.name}: {self._what} {problem}")
