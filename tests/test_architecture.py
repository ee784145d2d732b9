"""Arrows between the rooms of the package point down, and no modules import one another in a circle. Read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# From top to bottom. A room imports itself and the rooms of the lines below it, not those of its own line.
ROOMS = (
    ("__main__",),
    ("lab",),
    ("convert",),
    ("torch", "keras", "optax", "numpy", "scipy"),
    ("lr_finding", "own"),
    ("step",),
    ("rule",),
    ("schedules",),
    ("__init__",),
    ("extras", "files", "moved", "threads"),
    ("_engine",),
)
# The same inside adamas.lab.
LAB = (
    ("commands",),
    ("report",),
    ("compare",),
    ("train",),
    ("tasks",),
    ("charts",),
    ("launch",),
    ("__init__", "inputs", "terminal", "users_code"),
)

# The arrows between rooms of one line, each with its reason.
BESIDE = {
    ("keras", "torch"): "on the backend PyTorch, the variables of Keras are PyTorch's parameters",
}


@dataclass(frozen=True)
class Arrow:
    """An import: ``typing_only`` where it stands under ``if TYPE_CHECKING``."""

    source: str
    target: str
    typing_only: bool


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((SOURCE / "adamas").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {**found, "adamas._engine": SOURCE / "adamas" / "_engine.pyi"}


MODULES = modules()


def imports(node: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import of a module, also those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, typing_only
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield from imports(ast.Module([statement], []), True)
            for statement in child.orelse:
                yield from imports(ast.Module([statement], []), typing_only)
        else:
            yield from imports(child, typing_only)


def arrows_of(name: str, path: Path) -> Iterator[Arrow]:
    """The modules of the package that a module imports.

    Of ``from package import name``, that is ``package.name`` where it is a module, and ``package`` where it is not.
    """
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for statement, typing_only in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            targets = [alias.name for alias in statement.names]
        else:
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            full = [f"{base}.{alias.name}" for alias in statement.names]
            targets = [one if one in MODULES else base for one in full]
        for target in targets:
            if target.split(".")[0] == "adamas":
                assert target in MODULES, f"{name} imports {target}, which is not there"
                yield Arrow(name, target, typing_only)


ARROWS = sorted(
    {arrow for name, path in MODULES.items() if path.suffix == ".py" for arrow in arrows_of(name, path)},
    key=lambda arrow: (arrow.source, arrow.target),
)


def room(module: str, inside: str) -> str | None:
    """The part of ``inside`` that a module belongs to, None where it is outside."""
    if module != inside and not module.startswith(f"{inside}."):
        return None
    return module[len(inside) + 1 :].partition(".")[0] or "__init__"


def climbs(rooms: tuple[tuple[str, ...], ...], inside: str) -> set[tuple[str, str]]:
    """The arrows that point up, or to another room of the same line without a reason in BESIDE."""
    height = {name: -line for line, names in enumerate(rooms) for name in names}
    found = set()
    for arrow in ARROWS:
        source, target = room(arrow.source, inside), room(arrow.target, inside)
        if source is None or target is None or source == target or (source, target) in BESIDE:
            continue
        if height[source] <= height[target]:
            found.add((arrow.source, arrow.target))
    return found


def circles(arrows: list[Arrow]) -> set[frozenset[str]]:
    """The sets of modules that can all be reached from one another (the strongly connected components, by Tarjan, 1972)."""
    after: dict[str, list[str]] = {}
    for arrow in arrows:
        if arrow.source != arrow.target:
            after.setdefault(arrow.source, []).append(arrow.target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in after.get(module, []):
            if target not in index:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == index[module]:
            component = frozenset(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.add(component)

    for module in MODULES:
        if module not in index:
            visit(module)
    return found


@pytest.mark.parametrize(("rooms", "inside"), [(ROOMS, "adamas"), (LAB, "adamas.lab")])
def test_every_module_is_in_a_room(rooms: tuple[tuple[str, ...], ...], inside: str) -> None:
    listed = [name for names in rooms for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == {found for module in MODULES if (found := room(module, inside)) is not None}


def test_arrows_point_down() -> None:
    assert climbs(ROOMS, "adamas") | climbs(LAB, "adamas.lab") == set()


def test_the_reasons_for_arrows_between_rooms_of_one_line_are_needed() -> None:
    assert {(room(arrow.source, "adamas"), room(arrow.target, "adamas")) for arrow in ARROWS} >= set(BESIDE)


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count: who needs the other's types knows the other."""
    assert circles(ARROWS) == set()


def test_the_rules_see_what_breaks_them() -> None:
    assert room("adamas", "adamas") == room("adamas.lab", "adamas.lab") == "__init__"
    assert room("adamas.lab.train.running", "adamas") == "lab"
    assert room("adamas.torch.members", "adamas.lab") is None
    text = """
import adamas.files
from . import storage
from ..rule.formats import decode
if TYPE_CHECKING:
    from adamas.torch.members import Adam
def late():
    from .optimizer import Optimizer
"""
    path = Path("members.py")
    tree = [statement for statement, _ in imports(ast.parse(text))]
    assert [typing_only for _, typing_only in imports(ast.parse(text))] == [False, False, False, True, False]
    assert len(tree) == 5
    assert path.stem == "members"
    a, b, c = (f"adamas.{name}" for name in ("files", "extras", "threads"))
    assert circles([Arrow(a, b, False), Arrow(b, c, True), Arrow(c, a, False)]) == {frozenset({a, b, c})}
    assert circles([Arrow(a, b, False), Arrow(b, c, False), Arrow(a, c, False)]) == set()
