"""The base class of the Keras optimizers: Keras's conventions, and no arithmetic.

On JAX and TensorFlow a step is traced (``adamas.keras.traced``), and XLA compiles it to one loop. On PyTorch the engine steps
all variables in one call (``adamas.keras.on_torch``).
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np

from ..rule import former, layout
from ..rule.declaration import Member
from ..rule.formats import tensor_key
from ..rule.names import from_arguments
from ..rule.statistics import ROW
from ..schedules import Schedule
from ..schedules.plateau import Observed
from ..step.arrays import Step
from ..step.record import Record
from . import restoring, traced
from .backend import IS_COMPILED, NAME, framework
from .options import as_rate, check, check_independent, plain
from .schedule import Scheduled
from .variables import compute_dtype, dtype_of, find, joined, norm, path_of, split

if not IS_COMPILED:
    from ..step.locks import step_lock

Variable = Any
Array = Any
Rate: TypeAlias = float | Schedule | Callable[..., Any]


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

_UPDATE, _WEIGHT = map(ROW.index, ("update", "weight"))
_DESCRIPTION = "adamas"  # the entry of a saved state with its description; the others are variables, by number


class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras is untyped
    """The base class of the optimizers of ``adamas.keras``. Use one of them: ``Adam``, ``AdamW``, …"""

    _member: ClassVar[Member]
    built: bool

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """``arguments`` are the ``locals()`` of the member's ``__init__``: its arguments by name."""
        given = {name: plain(value) for name, value in arguments.items() if name not in ("self", "__class__")}
        given["learning_rate"] = as_rate(given["learning_rate"])
        check(self._member, given)
        rate = given.pop("learning_rate")
        super().__init__(learning_rate=rate, **{name: given.pop(name) for name in _OF_KERAS})
        self._own = tuple(given)
        for name, value in given.items():
            setattr(self, name, value)
        # On PyTorch a step writes in place while other threads may run. On other backends a step writes only when it is
        # complete, and TensorFlow's replicas wait for each other within a step.
        self._lock: Any = contextlib.nullcontext() if IS_COMPILED else step_lock()
        self._loaded: tuple[dict[str, Any], list[Array]] | None = None  # a state loaded before there were variables
        self._excluded: dict[str, list[str]] = {"paths": [], "patterns": []}
        self._scalars = {name: self._add_scalar(name, value) for name, value in self._member.scalars if name != "step"}
        # The number and the sum of the gradients' norms, and of the updates' norms relative to the weights.
        self._measured = self.add_variable((4,), "zeros", "float32", aggregation="only_first_replica", name="measured")
        self.measures = False
        self._moved: traced.Moved | None = None  # by the step that is being traced
        self._observed: list[Observed] = []
        self._factors: list[Variable] = []
        self._follow(rate)

    def _add_scalar(self, name: str, value: float) -> Variable:
        return self.add_variable(
            (), keras.initializers.Constant(value), "float32", aggregation="only_first_replica", name=name
        )

    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters under their names in ``adamas.rule``; the learning rate is that of each step."""
        given = {name: getattr(self, name) for name in self._own}
        found = from_arguments("keras", self._member, given)
        return {**found, "weight_decay": self.weight_decay or 0.0, "base_lr": self._base_rate}

    # ---- the learning rate

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the coming step."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        rate = as_rate(learning_rate)
        check_independent(self.decay, rate)
        keras.optimizers.Optimizer.learning_rate.fset(self, rate)
        self._follow(rate)

    def _get_current_learning_rate(self) -> Any:
        """Like Keras's method, but schedules count optimizer steps, even if gradients are accumulated."""
        rate = self._learning_rate
        if isinstance(rate, Scheduled):
            return rate.at(self.iterations, self._factors)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)
        return super()._get_current_learning_rate()

    def _follow(self, rate: Any) -> None:
        """Makes this rate the base of ``decay="independent"``, and creates a variable for each factor that reacts to a metric,
        since a compiled step only sees variables change."""
        self._base_rate = float(rate.schedule.unit) if isinstance(rate, Scheduled) else rate
        for variable in self._factors:
            self._untrack_variable(variable)
        self._observed = list(rate.observed) if isinstance(rate, Scheduled) else []
        self._factors = [self._add_scalar(type(part).__name__.lower(), part.value) for part in self._observed]
        for part in self._observed:
            part.tell(self)

    def on_observation(self) -> None:
        """Writes the new factors to their variables; called when a ``Plateau`` has changed."""
        for part, variable in zip(self._observed, self._factors, strict=True):
            variable.assign(part.value)

    # ---- state

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state of these variables, or takes the state that was loaded before.

        Raises:
            ValueError: the loaded state is impossible; see ``load_own_variables``. The optimizer is not built.
        """
        if self.built:
            return
        before = len(self._variables)
        super().build(variables)
        hyper = {**self.hyperparameters(), "state": self.state, "weights": self.weights}
        self._states: list[dict[str, Variable]] = [
            {}
            if self._overwrite_variable_with_gradient(variable)
            else {
                part.name: self.add_variable_from_reference(
                    variable, part.name, keras.initializers.Constant(part.value), part.dtype, part.shape
                )
                for part in layout.state_parts(self._member, hyper, variable.shape, dtype_of(variable))
            }
            for variable in variables
        ]
        excluded = find(variables, self._excluded["paths"], self._excluded["patterns"])
        self._decayed = [i not in excluded for i in range(len(variables))]
        # By position, because the variables of a model that was saved and loaded may have other paths.
        self._keys = [tensor_key(self.seed, i) for i in range(len(variables))]
        self._plan: Any = None
        if self._loaded is not None:
            try:
                self._take(*self._loaded)
            except BaseException:
                for variable in self._variables[before:]:
                    self._untrack_variable(variable)
                self.built = False
                raise
            self._loaded = None

    def add_variable_from_reference(
        self,
        reference_variable: Variable,
        name: str | None = None,
        initializer: Any = "zeros",
        dtype: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> Variable:
        """A state variable like ``reference_variable``, by default in float32 (float64 for float64).

        Keras uses the dtype of the variable, in which 0.999 may be 1.
        """
        full_name = f"{path_of(reference_variable)}_{name or 'var'}"
        of_one_shape = shape is None or tuple(shape) == tuple(reference_variable.shape)
        with self._beside(reference_variable):
            return self.add_variable(
                shape=reference_variable.shape if shape is None else shape,
                initializer=initializer,
                dtype=dtype or compute_dtype(reference_variable),
                layout=getattr(reference_variable, "_layout", None) if of_one_shape else None,
                name=full_name.replace("/", "_").replace(":", "_"),
            )

    def _beside(self, variable: Variable) -> Any:
        """A context in which variables are created on the devices of this one."""
        if NAME != "tensorflow":
            return contextlib.nullcontext()
        return self._distribution_strategy.extended.colocate_vars_with(getattr(variable, "value", variable))

    # ---- the step

    def apply(self, grads: Sequence[Array], trainable_variables: Sequence[Variable] | None = None) -> None:
        """Like Keras's method; on PyTorch, another thread that saves or loads sees the state of one step."""
        with self._lock:
            super().apply(grads, trainable_variables)

    def _backend_apply_gradients(self, grads: Sequence[Array], trainable_variables: Sequence[Variable]) -> None:
        """Like Keras's method, which clips and accumulates in the dtype of the gradients; here that is at least float32."""
        if IS_COMPILED:
            grads = [self._opened_gradient(*one) for one in zip(grads, trainable_variables, strict=True)]
        elif self.gradient_accumulation_steps or self.clipnorm or self.global_clipnorm or self.clipvalue:
            grads = [
                keras.ops.cast(gradient, compute_dtype(variable))
                for gradient, variable in zip(grads, trainable_variables, strict=True)
            ]
        if self.measures:
            self._add_measured(0, norm(grads))
        super()._backend_apply_gradients(grads, trainable_variables)
        if NAME == "jax" and self.use_ema and self.ema_overwrite_frequency:
            # There Keras overwrites variables in the same function, and does not know their low bits.
            overwritten = (self.iterations + 1) % self.ema_overwrite_frequency == 0
            for variable, average in zip(self._trainable_variables, self._model_variables_moving_average, strict=True):
                if self._low_bits(variable) is not None:
                    value = keras.ops.where(overwritten, average.value, self._wide_value(variable))
                    self._write(variable, value)

    def _opened_gradient(self, gradient: Array, variable: Variable) -> Array:
        """The gradient in the dtype of the computation: dense, or its rows if only these are stepped."""
        dtype = compute_dtype(variable)
        if framework.rows_of(gradient) is not None:
            gradient = keras.ops.cast(gradient, dtype)  # before anything is summed
            if self._steps_rows(variable):
                return framework.summed(gradient, variable.shape)
        return keras.ops.cast(framework.dense(gradient), dtype)

    def _steps_rows(self, variable: Variable) -> bool:
        """Whether a step of only the rows of a sparse gradient is that of the dense one, and nothing else needs the latter."""
        clips = self.clipnorm or self.clipvalue or self.global_clipnorm
        if clips or self.gradient_accumulation_steps or self.measures or framework.is_distributed():
            return False
        return self._member.rests(self.hyperparameters(), self._decayed[self._get_variable_index(variable)])

    def _backend_update_step(self, grads: Sequence[Array], trainable_variables: Sequence[Variable], rate: Any) -> None:
        step = self._step_traced if IS_COMPILED else self._step_on_torch
        norms = step(grads, trainable_variables, rate)
        if norms is not None:
            self._add_measured(2, keras.ops.divide_no_nan(*norms))

    def _step_traced(
        self, grads: Sequence[Array], trainable_variables: Sequence[Variable], rate: Any
    ) -> tuple[Array, Array] | None:
        """Makes the step; returns the norms of the update and of the weights before it, if these are measured."""
        if NAME == "tensorflow":
            grads = framework.reduced(super()._all_reduce_sum_gradients, grads)
        steps, after = traced.steps(
            self._member,
            self.hyperparameters(),
            rate,
            {"step": self.iterations, **self._scalars},
            [self._record(*one) for one in zip(trainable_variables, map(framework.rows_of, grads), strict=True)],
            grads,
        )
        # Where Keras passes the learning rate on to each update, this passes on the steps of all variables.
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        self._moved = traced.Moved() if self.measures else None
        super()._backend_update_step(grads, trainable_variables, dict(zip(indices, steps, strict=True)))
        for name, value in after.items():
            self.assign(self._scalars[name], value)
        return None if self._moved is None else (norm(self._moved.updates), norm(self._moved.weights))

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """The same gradients: on TensorFlow, ``_step`` has reduced them, since a rule may need sums over them."""
        return grads_and_vars

    def _step_on_torch(
        self, grads: Sequence[Array], variables: Sequence[Variable], rate: Any
    ) -> tuple[Array, Array] | None:
        """The same as ``_step_traced``."""
        hyper = {**self.hyperparameters(), "lr": float(rate), "weights": self.weights}
        self._plan = framework.plan_of(self._plan, self._member, hyper, variables, self._record)
        before = {"step": self.iterations, **self._scalars}
        after, rows = framework.step(self._plan, self._member, hyper, before, grads, self.measures)
        for name, variable in self._scalars.items():
            self.assign(variable, after[name])
        if not self.measures:
            return None
        update, weight = (keras.ops.cast(sum(row[at] for row in rows), "float32") for at in (_UPDATE, _WEIGHT))
        return keras.ops.sqrt(update), keras.ops.sqrt(weight)

    def _record(self, variable: Variable, rows: Array | None = None) -> Record:
        """The record of a variable, or of some of its rows."""
        i = self._get_variable_index(variable)
        state = {name: framework.opened(part, rows) for name, part in self._states[i].items()}
        name = repr(path_of(variable))
        return Record(framework.opened(variable, rows), state, name, self._keys[i], None, self._decayed[i])

    def update_step(self, gradient: Array, variable: Variable, steps: Mapping[int, Step]) -> None:
        """Makes the step of one variable."""
        index = self._get_variable_index(variable)
        rows = framework.rows_of(gradient)
        record, hyper = self._record(variable, rows), self.hyperparameters()
        weight, after = traced.step(
            self._member, hyper, steps[index], record, gradient, self.weights, self.iterations, self._moved, rows
        )
        for name, value in after.items():
            self.assign(self._states[index][name], value)
        self.assign(variable, weight)

    def stateless_apply(
        self, optimizer_variables: Sequence[Array], grads: Sequence[Array], trainable_variables: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """Like Keras's method; the arguments are not modified."""
        if not IS_COMPILED:  # the engine writes in place
            optimizer_variables = [value.clone() for value in optimizer_variables]
            trainable_variables = [value.detach().clone() for value in trainable_variables]
        after: tuple[list[Array], list[Array]] = super().stateless_apply(
            optimizer_variables, grads, trainable_variables
        )
        return after

    # ---- averages of the weights

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Variable]) -> None:
        """Like Keras's method, in float32, including the low bits of 16-bit variables in the state."""
        if self.use_ema:
            super()._update_model_variables_moving_average([self._wide_value(v) for v in trainable_variables])

    def _overwrite_model_variables_with_average_value(self, trainable_variables: Sequence[Variable]) -> None:
        """Like Keras's method, with the low bits. On JAX, Keras lets variable and average share an array, and the next ``fit``
        fails because it cannot donate the array twice."""
        if NAME == "tensorflow" and all(dtype_of(variable) not in layout.HALVES for variable in trainable_variables):
            super()._overwrite_model_variables_with_average_value(trainable_variables)
            return
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            if average is not None:
                self._write(variable, keras.ops.copy(average))

    def _low_bits(self, variable: Variable) -> Variable | None:
        return self._states[self._get_variable_index(variable)].get(layout.LOW_BITS)

    def _wide_value(self, variable: Variable) -> Array:
        return joined(variable, self._low_bits(variable))

    def _write(self, variable: Variable, value: Array) -> None:
        """Sets the weights, and their low bits if the state has them."""
        low = self._low_bits(variable)
        if low is None:
            self.assign(variable, keras.ops.cast(value, dtype_of(variable)))
        else:
            high_part, low_part = split(variable, value)
            self.assign(variable, high_part)
            self.assign(low, low_part)

    # ---- for callbacks

    @property
    def observed(self) -> list[Observed]:
        """The factors of the learning rate that react to a metric."""
        return list(self._observed)

    def reset_measured(self) -> None:
        """Resets the measurements."""
        self._measured.assign(np.zeros(4, np.float32))

    def measured(self) -> dict[str, float]:
        """The means of the measurements since ``reset_measured``: the gradient's norm, and the relative size of the update."""
        gradients, norms, steps, ratios = keras.ops.convert_to_numpy(self._measured.value).tolist()
        return {"gradient_norm": norms / max(gradients, 1.0), "update_ratio": ratios / max(steps, 1.0)}

    def _add_measured(self, place: int, value: Array) -> None:
        zero = keras.ops.zeros_like(value)
        self.assign_add(self._measured, keras.ops.stack([*[zero] * place, zero + 1, value, *[zero] * (2 - place)]))

    # ---- weight decay

    def _apply_weight_decay(self, variables: Sequence[Variable]) -> None:
        """Does nothing: the decay is part of the step."""

    def exclude_from_weight_decay(
        self, var_list: Sequence[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Excludes variables from weight decay and from the penalties; saved with the optimizer.

        Args:
            var_list: variables that are excluded, each by its path.
            var_names: regular expressions; a variable is excluded if one matches in its name, or, if it has a ``/``, in its
                path.

        Raises:
            ValueError: the optimizer is already built.
        """
        if self.built:
            raise ValueError(
                "exclude_from_weight_decay: the optimizer is built already, and a compiled step would not see it; call it "
                "before the first step"
            )
        self._excluded = {
            "paths": [path_of(variable) for variable in var_list or ()],
            "patterns": list(var_names or ()),
        }

    # ---- saving and loading

    def get_config(self) -> dict[str, Any]:
        """The arguments, and the variables that are excluded from weight decay."""
        config = {**super().get_config(), **{name: getattr(self, name) for name in self._own}}
        if isinstance(self.state, Mapping):
            config["state"] = dict(self.state)
        if any(self._excluded.values()):
            config["excluded_from_weight_decay"] = {name: list(value) for name, value in self._excluded.items()}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Optimizer:
        """The optimizer with this config: it has the same exclusions from weight decay."""
        config = dict(config)
        excluded = config.pop("excluded_from_weight_decay", None)
        optimizer: Optimizer = super().from_config(config, custom_objects)
        if excluded is not None:
            optimizer._excluded = excluded
        return optimizer

    def _layout(self, names: Mapping[str, str] | None = None) -> list[Any]:
        """A description of the state, by which the state of another optimizer is recognised.

        Args:
            names: of entries of the state, other ones under which they are described.
        """
        states, names = self._states if self.built else [], names or {}
        return [
            self._member.base,
            [{names.get(name, name): dtype_of(value) for name, value in state.items()} for state in states],
        ]

    def save_own_variables(self, store: Any) -> None:
        """Saves the state: the variables by number, as Keras does, and a JSON description of them and of what was observed.

        On PyTorch, if another thread is in a step, this waits for it, so that the saved state is consistent.
        """
        with self._lock:
            super().save_own_variables(store)
            described = {"layout": self._layout(), "observed": [part.state_dict() for part in self._observed]}
        store[_DESCRIPTION] = np.frombuffer(json.dumps(described).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Loads the state that ``save_own_variables`` saved. If the optimizer is not built, the state is kept until then.

        A state of another optimizer, other options or another model is ignored, with a warning. Second moments that became 0
        in float16 are raised to the smallest value that the first moments allow, with a warning.

        Raises:
            ValueError: the state is impossible (it has a NaN among its moments, a negative square or count) or damaged.
                Nothing was changed. If the optimizer is not built, ``build`` raises this.
        """
        keys = set(store.keys())
        described = {"layout": None}
        if _DESCRIPTION in keys:
            described = restoring.read_description(store[_DESCRIPTION])
        loaded = described, restoring.read_values(store, len(keys - {_DESCRIPTION}))
        if self.built:
            with self._lock:
                self._take(*loaded)
        else:
            self._loaded = loaded

    def _take(self, described: Mapping[str, Any], saved: Sequence[Array]) -> None:
        """Takes the loaded state, if it belongs to this optimizer."""
        if described["layout"] == [self._member.base, []]:
            return  # saved before the first step: there is no state
        variables = restoring.Variables(
            self.variables,
            self._iterations,
            self.gradient_accumulation_steps or 1,
            self._scalars,
            self._learning_rate,
            list(zip(self._trainable_variables, self._states, strict=True)),
        )
        is_former = described["layout"] == self._layout(former.names(self._member.states)) != self._layout()
        fits = is_former or described["layout"] == self._layout()
        if not fits or [value.shape for value in saved] != restoring.shapes(variables, is_former):
            warnings.warn(
                f"the saved state of optimizer {self.name!r} is of another optimizer, other options or another model, and is "
                "left out: training begins without it",
                stacklevel=3,
            )
            return
        restoring.check_observed(self._observed, described["observed"])
        values = restoring.mended(self._member, self.hyperparameters(), variables, saved, is_former)
        with framework.eagerly() if NAME == "tensorflow" else contextlib.nullcontext():
            super().load_own_variables({str(i): value for i, value in enumerate(values)})
            for part, state in zip(self._observed, described["observed"], strict=True):
                part.load_state_dict(state)
