"""Optimizers by name, as they are written in configuration files. May import the members and the standard library."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from . import members
from .optimizer import Optimizer

_CLASSES = {name.lower(): getattr(members, name) for name in members.__all__}


def from_name(name: str, params: Any, **options: Any) -> Optimizer:
    """The optimizer of this name, for code whose optimizer is chosen by a configuration.

    Args:
        name: the name of a class of ``adamas.torch``, in any case, with or without underscores: ``"adamw"``,
            ``"adamw_schedule_free"``.
        params: its first argument: parameters, groups of them, or where the class takes one, a model.
        **options: its other arguments.

    Raises:
        ValueError: there is no optimizer of this name.

    >>> from_name("adamw", torch.nn.Linear(2, 1).parameters(), lr=1e-3)  # doctest: +ELLIPSIS
    AdamW (...
    """
    made = _CLASSES.get(name.lower().replace("_", "")) if isinstance(name, str) else None
    if made is None:
        near = get_close_matches(str(name).lower(), _CLASSES, n=3)
        known = f"did you mean {' or '.join(map(repr, near))}?" if near else f"use one of {', '.join(sorted(_CLASSES))}"
        raise ValueError(f"name={name!r} is no optimizer of adamas.torch: {known}")
    optimizer: Optimizer = made(params, **options)
    return optimizer
