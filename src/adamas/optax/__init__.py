"""Adamas for JAX: the optimizers of the family as gradient transformations of optax.

>>> import jax.numpy as jnp, adamas.optax
>>> tx = adamas.optax.adamw(1e-3, weight_decay=0.01)
>>> state = tx.init({"w": jnp.ones(3)})
"""

from ..extras import needs

with needs("jax"):
    from .members import adagrad, adam, adamax, adamw, amsgrad, nadam, radam, rmsprop, sgd
    from .transformation import State, apply_updates

__all__ = [
    "State",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "apply_updates",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
]
