"""The former names of the modules that are now in ``adamas.lab``: they import for one release, with a DeprecationWarning.

May import the standard library only.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = frozenset({"tasks", "train", "compare", "report", "charts"})


class MovedModules(MetaPathFinder, Loader):
    """Imports ``adamas.train``, and every module below it, as ``adamas.lab.train``, and so for each name in MOVED.

    Both names are one module, so a class is the same class whichever name it was imported by.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module of a former name; None for any other name."""
        package, *below = name.split(".")
        return ModuleSpec(name, self) if package == "adamas" and MOVED.intersection(below[:1]) else None

    def exec_module(self, module: ModuleType) -> None:
        """Replace ``module`` by the module of the new name."""
        old = module.__name__
        new = old.replace("adamas.", "adamas.lab.", 1)
        sys.modules[old] = importlib.import_module(new)
        warnings.warn(f"{old} is now {new}; the next release removes the old name", DeprecationWarning, stacklevel=2)


sys.meta_path.insert(0, MovedModules())
