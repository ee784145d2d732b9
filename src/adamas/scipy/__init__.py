"""The Adam family for SciPy: methods for ``scipy.optimize.minimize``, and minimization of noisy functions.

    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import adamas.scipy
    >>> found = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=adamas.scipy.adam, options={"lr": 0.05})
    >>> found.success, found.x.round(3)
    (True, array([1., 1.]))

Each member is a method under its lower-case name, as are ``momentum``, ``nesterov`` and ``amsgrad``; ``METHODS`` has all of
them by name. They work wherever SciPy takes a callable method, including ``basinhopping`` and ``dual_annealing``. Their
arithmetic is that of ``adamas.rule`` over NumPy in float64. Imports NumPy and SciPy.
"""

from typing import TYPE_CHECKING

from ..extras import needs
from ..rule.absent import missing_from

with needs("scipy"):
    from . import methods
    from .method import Method
    from .methods import *  # noqa: F403 - everything in its __all__, which `make members` writes
    from .minimizing import Stopping
    from .stochastic import minimize_stochastic

__all__ = [
    "Method",
    "Stopping",
    "minimize_stochastic",
    *methods.__all__,
]

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = missing_from("scipy")
