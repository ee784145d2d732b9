"""A method of ``scipy.optimize.minimize``. Imports NumPy and SciPy.

SciPy passes a callable method its raw arguments: what ``minimize`` does for its own methods (bounds, callbacks, tolerances,
finite differences) is done in this module and its neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from ..rule.declaration import Member
from ..rule.hyperparameters import checked
from ..rule.names import suggestion
from ..rule.shared import defaults
from .minimizing import STOPPING_OPTIONS, Stopping, minimize, start_of
from .objective import SCHEMES, Box, Objective
from .stepping import Stepper


@dataclass(frozen=True, repr=False)
class Method:
    """A member of the family, for ``method=`` of ``scipy.optimize.minimize``.

    Attributes:
        name: its name in this package.
        member: the member.
        preset: the hyperparameters that it sets.
        defaults: its hyperparameters, which are options of ``minimize``; ``lr``, ``weight_decay`` and ``betas`` may be
            schedules.
    """

    name: str
    member: Member
    preset: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """See the class."""
        return {**defaults(self.member, "scipy"), **self.preset}

    def __repr__(self) -> str:
        return f"adamas.scipy.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return resolve_name, (f"adamas.scipy:{self.name}",)  # pickled by its global name

    def hyperparameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults, replaced by the given values, checked.

        Raises:
            ValueError: a hyperparameter has an invalid value.
        """
        return checked(self.member, {**self.defaults, **given})

    def split(
        self, options: Mapping[str, Any], others: tuple[str, ...], level: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The hyperparameters and the other options among the given ones.

        Unknown options cause a warning at the stack level ``level`` of the caller.
        """
        known = set(self.defaults)
        hyper = {name: value for name, value in options.items() if name in known}
        rest = {name: value for name, value in options.items() if name in others}
        if unknown := [name for name in options if name not in hyper and name not in rest]:
            hint = suggestion(self.member, unknown, [*self.defaults, *others])
            words = f"Unknown solver options: {', '.join(unknown)}{hint and f' ({hint})'}"
            warnings.warn(words, OptimizeWarning, stacklevel=level + 1)
        return hyper, rest

    def __call__(
        self,
        fun: Callable[..., Any],
        x0: Any,
        args: Any = (),
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        **options: Any,
    ) -> OptimizeResult:
        """Called by ``minimize``.

        Raises:
            ValueError: there are constraints, or an argument or option has an invalid value.
        """
        for given, words, name in ((hess, "Hessian", "hess"), (hessp, "Hessian-vector product", "hessp")):
            if given is not None:
                text = f"Method {self!r} does not use {words} information ({name})."
                warnings.warn(text, RuntimeWarning, stacklevel=3)
        if constraints is not None and np.size(constraints):
            first = constraints[0] if isinstance(constraints, list | tuple) else constraints
            raise ValueError(
                f"constraints: method {self!r} takes none, but was given a {type(first).__name__}: use bounds for a box, and "
                "method='SLSQP' or 'trust-constr' for other constraints"
            )
        if jac is True:
            raise ValueError(f"jac=True is read by scipy.optimize.minimize: call minimize(…, method={self!r})")
        hyper, rest = self.split(options, STOPPING_OPTIONS, 3)
        stopping = Stopping.of(rest)
        x = start_of(x0)
        box = Box(bounds, x)
        scheme = jac if isinstance(jac, str) and jac in SCHEMES else stopping.finite_diff
        objective = Objective(fun, jac if callable(jac) else scheme, box, stopping.finite_diff_rel_step)
        stepper = Stepper(self.member, self.hyperparameters(hyper), x.size)
        arguments = args if isinstance(args, tuple) else (args,)
        return minimize(objective, box, x, arguments, stepper, stopping, callback)
