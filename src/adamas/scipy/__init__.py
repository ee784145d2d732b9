"""The Adam family for SciPy: methods for ``scipy.optimize.minimize``, and minimization of noisy functions.

    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import adamas.scipy
    >>> found = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=adamas.scipy.adam, options={"lr": 0.05})
    >>> found.success, found.x.round(3)
    (True, array([1., 1.]))

There are ``sgd``, ``momentum``, ``nesterov``, ``adagrad``, ``rmsprop``, ``adam``, ``adamw``, ``amsgrad``, ``adamax``,
``nadam`` and ``radam``. They work wherever SciPy takes a callable method, ``basinhopping`` and ``dual_annealing`` included.
Their arithmetic is that of ``adamas.rule`` over NumPy in float64. Imports NumPy and SciPy.
"""

from ..extras import needs

with needs("scipy"):
    from . import methods
    from .method import Method
    from .methods import *  # noqa: F403 - all that its __all__ names: make members writes it
    from .minimizing import Stopping
    from .stochastic import minimize_stochastic

__all__ = [
    "Method",
    "Stopping",
    "minimize_stochastic",
    *methods.__all__,
]
