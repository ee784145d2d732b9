"""Adamas for Keras 3: the optimizers of the family as ``keras.optimizers.Optimizer``, on TensorFlow, JAX and PyTorch.

>>> import keras, adamas.keras
>>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
>>> model.compile(adamas.keras.AdamW(1e-3, weight_decay=0.01), loss="mse")
"""

from typing import TYPE_CHECKING

from ..extras import needs
from ..rule.absent import missing_from

with needs("keras"):
    from ..lr_finding import LRFinding, LRFindingError
    from . import callbacks, members
    from .find_lr import find_lr
    from .members import *  # noqa: F403 - everything in its __all__, which `make members` writes
    from .optimizer import Optimizer
    from .schedule import Scheduled

__all__ = [
    "LRFinding",
    "LRFindingError",
    "Optimizer",
    "Scheduled",
    "callbacks",
    "find_lr",
    *members.__all__,
]

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = missing_from("keras")
