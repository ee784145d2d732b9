"""The Adam family for NumPy: optimizers over a list or a dict of arrays, which are stepped in place by the engine.

    >>> import numpy as np
    >>> import adamas.numpy
    >>> params = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    >>> optimizer = adamas.numpy.AdamW(params, lr=0.1)
    >>> optimizer.step({"w": np.full((2, 3), 0.5), "b": np.array([1.0, 0.0, -1.0])})
    >>> params["b"].round(4)
    array([-0.1,  0. ,  0.1], dtype=float32)

Requires only NumPy.
"""

from . import members
from .members import *  # noqa: F403 - everything in its __all__, which `make members` writes
from .optimizer import Optimizer
from .own import OwnOptimizer

__all__ = [
    "Optimizer",
    "OwnOptimizer",
    *members.__all__,
]
