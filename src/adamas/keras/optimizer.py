"""The optimizer that all members share: it speaks Keras's habits and holds no arithmetic.

On JAX and TensorFlow a step is traced (``adamas.keras.traced``) and XLA makes one loop of it. On PyTorch the engine takes all
variables in one call (``adamas.keras.on_torch``).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np

from .. import rule
from ..family import Member
from . import traced
from .backend import NAME, arrays

Variable = Any
Array = Any
Decay = Literal["l2", "decoupled", "independent"]
Weights = Literal["nearest", "stochastic", "split"]

_OF_KERAS = (
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "name",
)


class Optimizer(keras.optimizers.Optimizer):
    """What the optimizers of ``adamas.keras`` share. Use one of those: ``Adam``, ``AdamW``, …"""

    _member: ClassVar[Member]

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """``arguments`` is ``locals()`` of the member's ``__init__``: what it was given, by name."""
        given = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
        rate = as_rate(given.pop("learning_rate"))
        super().__init__(learning_rate=rate, **{name: given.pop(name) for name in _OF_KERAS})
        self._own = tuple(given)
        for name, value in given.items():
            setattr(self, name, value)
        self._excluded: dict[str, list[str]] = {"paths": [], "patterns": []}
        self._scalars = {
            name: self.add_variable((), keras.initializers.Constant(value), "float32", "only_first_replica", None, name)
            for name, value in self._member.scalars
            if name != "step"
        }

    def _hyper(self) -> dict[str, Any]:
        """The hyperparameters of the member as ``adamas.family`` names them, without those that all members share."""
        raise NotImplementedError

    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters as ``adamas.family`` names them, but the learning rate."""
        return {
            "weight_decay": self.weight_decay or 0.0,
            "decay": self.decay,
            "l1": self.l1,
            "maximize": False,
            **self._hyper(),
        }

    # ---- state

    def build(self, variables: Sequence[Variable]) -> None:
        """Makes the state of these variables."""
        if self.built:
            return
        super().build(variables)
        hyper = self.hyperparameters()
        names = [name for name in self._member.state_names(hyper) if name is not None]
        start = hyper.get("initial_accumulator_value", 0.0)
        self._moments = [
            {}
            if self._overwrite_variable_with_gradient(variable)
            else {
                name: self.add_variable_from_reference(variable, name, keras.initializers.Constant(start))
                for name in names
            }
            for variable in variables
        ]
        self._decayed = [not self._is_excluded(variable) for variable in variables]
        self._dtypes = sorted({compute_dtype(variable) for variable in variables})

    def add_variable_from_reference(
        self,
        reference_variable: Variable,
        name: str | None = None,
        initializer: Any = "zeros",
        dtype: str | None = None,
    ) -> Variable:
        """A state variable of the shape of ``reference_variable``, in float32 (float64 for float64) unless ``dtype`` is given.

        Keras's has the dtype of the variable, in which 0.999 may be 1.
        """
        name = f"{getattr(reference_variable, 'path', reference_variable.name).replace('/', '_')}_{name or 'var'}"
        with self._beside(reference_variable):
            return self.add_variable(
                reference_variable.shape,
                initializer,
                dtype or compute_dtype(reference_variable),
                layout=getattr(reference_variable, "_layout", None),
                name=name.replace(":", "_"),
            )

    def _beside(self, variable: Variable) -> Any:
        """A context in which variables are made where this one is."""
        if NAME != "tensorflow":
            return contextlib.nullcontext()
        return self._distribution_strategy.extended.colocate_vars_with(getattr(variable, "value", variable))

    # ---- the step

    def _backend_update_step(self, grads: Sequence[Array], trainable_variables: Sequence[Variable], rate: Any) -> None:
        before = {"step": self.iterations, **self._scalars}
        numbers, after = traced.numbers(
            self._member,
            self.hyperparameters(),
            keras.ops.convert_to_tensor(rate),
            {name: keras.ops.convert_to_tensor(value) for name, value in before.items()},
            self._dtypes,
        )
        # Where Keras hands the learning rate on to each update, we hand on all numbers of the step.
        super()._backend_update_step(grads, trainable_variables, numbers)
        for name, value in after.items():
            self.assign(self._scalars[name], value)

    def update_step(self, gradient: Array, variable: Variable, numbers: Mapping[str, traced.Numbers]) -> None:
        """Steps one variable with the numbers of this step."""
        index = self._get_variable_index(variable)
        compute = compute_dtype(variable)
        hyper = self.hyperparameters()
        shape, one = self._member.full_shape(hyper), numbers[compute]
        if not self._decayed[index]:
            shape, one = traced.undecayed(shape), one.undecayed()
        moments = self._moments[index]
        names = self._member.state_names(hyper)
        old = rule.Moments(*(None if name is None else keras.ops.convert_to_tensor(moments[name]) for name in names))
        weight = arrays.cast(keras.ops.convert_to_tensor(variable), compute)
        weight, new = traced.step(shape, one, weight, arrays.cast(gradient, compute), old)
        for name, value in zip(names, new, strict=True):
            if name is not None:
                self.assign(moments[name], value)
        self.assign(variable, arrays.cast(weight, keras.backend.standardize_dtype(variable.dtype)))

    # ---- weight decay

    def _apply_weight_decay(self, variables: Sequence[Variable]) -> None:
        """Nothing: the decay is part of the step."""

    def exclude_from_weight_decay(
        self, var_list: Sequence[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Excludes variables from weight decay and from the penalties; saved with the optimizer.

        Args:
            var_list: variables that are left out, each by its path.
            var_names: regular expressions; a variable is left out if one is found in its name, or, with a ``/`` in it, in
                its path.

        Raises:
            ValueError: the optimizer has begun already.
        """
        if self.built:
            raise ValueError(
                "exclude_from_weight_decay: the optimizer is built already, and a compiled step would not see it; call it "
                "before the first step"
            )
        self._excluded = {"paths": [_path(variable) for variable in var_list or ()], "patterns": list(var_names or ())}

    def _is_excluded(self, variable: Variable) -> bool:
        path = _path(variable)
        return path in self._excluded["paths"] or any(
            re.search(pattern, path if "/" in pattern else variable.name) for pattern in self._excluded["patterns"]
        )

    # ---- saving and loading

    def get_config(self) -> dict[str, Any]:
        """The arguments, and what is excluded from weight decay."""
        config = {**super().get_config(), **{name: getattr(self, name) for name in self._own}}
        if any(self._excluded.values()):
            config["excluded_from_weight_decay"] = {name: list(value) for name, value in self._excluded.items()}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Optimizer:
        """The optimizer with this config."""
        config = dict(config)
        excluded = config.pop("excluded_from_weight_decay", None)
        optimizer: Optimizer = super().from_config(config, custom_objects)
        if excluded:
            optimizer._excluded = excluded
        return optimizer


def as_rate(rate: Any) -> Any:
    """A learning rate as Keras takes it: an integer becomes a float."""
    if isinstance(rate, int | np.number) and not isinstance(rate, bool):
        return float(rate)
    return rate


def compute_dtype(variable: Variable) -> str:
    """What a variable is computed in."""
    return "float64" if keras.backend.standardize_dtype(variable.dtype) == "float64" else "float32"


def _path(variable: Variable) -> str:
    return str(getattr(variable, "path", variable.name))
