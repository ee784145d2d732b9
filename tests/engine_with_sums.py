"""An engine of the rules in ``rules_with_sums.py``, for the tests of sums: it has the sources of the engine, and other rules.

It is built into ``build/tests`` once for the same sources: by ``make``, which runs this file, or by the first test that
uses it.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from rules_with_sums import RULES

from adamas.rule import cpp
from adamas.step import engine

ROOT = Path(__file__).parents[1]


@contextmanager
def executor(kind: str) -> Iterator[None]:
    """Every optimizer that is made meanwhile steps with this executor, if it is the engine, with this one."""
    with pytest.MonkeyPatch.context() as patch, used() if kind == "engine" else nullcontext():
        patch.setenv("ADAMAS_EXECUTOR", kind)
        yield


@contextmanager
def used() -> Iterator[ModuleType]:
    """Every optimizer that is made meanwhile steps on this engine; skips the test if it cannot be built."""
    if not can_be_built():
        pytest.skip("building an engine takes a C++ compiler, cmake and ninja")
    before, rules = engine._engine, engine.RULES
    engine._engine, engine.RULES = _loaded(), RULES
    engine._indices.cache_clear()
    try:
        yield engine._engine
    finally:
        engine._engine, engine.RULES = before, rules
        engine._indices.cache_clear()


def can_be_built() -> bool:
    return all(map(_tool, ("cmake", "ninja"))) and any(map(_tool, ("c++", "g++", "clang++")))


@cache
def _loaded() -> ModuleType:
    loader = ExtensionFileLoader("engine_with_sums._engine", str(_built()))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def _built() -> Path:
    """The file of the engine, which is built if it is not there."""
    sources = [*(ROOT / "engine").iterdir(), ROOT / "CMakeLists.txt", ROOT / "tests" / "rules_with_sums.py"]
    sources += (ROOT / "src" / "adamas" / "rule").rglob("*.py")
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:16]
    folder = ROOT / "build" / "tests" / f"{key}-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found := list(folder.glob("_engine*"))):
            _build(folder)
            found = list(folder.glob("_engine*"))
    return found[0]


def _build(folder: Path) -> None:
    nanobind = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    cpp.write(folder / "rules", RULES)
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_FLAGS_RELEASE": "-O0",  # of Python's side alone: the kernels have flags of their own
        "CMAKE_MAKE_PROGRAM": _tool("ninja"),
        "Python_EXECUTABLE": sys.executable,
        "nanobind_DIR": nanobind,
        "ADAMAS_RULES": folder / "rules",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": folder,
    }
    given = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run([_tool("cmake"), "-S", ROOT, "-B", folder / "cmake", "-G", "Ninja", *given], check=True)
    subprocess.run([_tool("cmake"), "--build", folder / "cmake"], check=True)
    shutil.rmtree(folder / "cmake")


def _tool(name: str) -> str:
    """The path of a tool, from the environment of this Python where it has one; empty if there is none."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name) or ""


if __name__ == "__main__" and can_be_built():
    _built()
