"""Adamas for JAX: the optimizers of the family as gradient transformations of optax.

>>> import jax.numpy as jnp, adamas.optax
>>> tx = adamas.optax.adamw(1e-3, weight_decay=0.01)
>>> state = tx.init({"w": jnp.ones(3)})
"""

from typing import TYPE_CHECKING

from ..extras import needs
from ..rule.absent import missing_from

with needs("jax"):
    from . import members
    from .members import *  # noqa: F403 - everything in its __all__, which `make members` writes
    from .transformation import State, apply_updates, schedule_free_eval_params

__all__ = [
    "State",
    "apply_updates",
    "schedule_free_eval_params",
    *members.__all__,
]

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = missing_from("optax")
