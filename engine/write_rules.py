"""Writes the generated headers of the engine: ``python -I -S write_rules.py FOLDER``.

Runs at build time, with only the standard library. The package is not installed then, so ``adamas.rule`` is loaded from its
source, without the imports of ``adamas``.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

source = Path(__file__).resolve().parents[1] / "src" / "adamas" / "rule"
spec = importlib.util.spec_from_file_location("rule", source / "__init__.py", submodule_search_locations=[str(source)])
assert spec is not None
assert spec.loader is not None
sys.modules["rule"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rule"])
importlib.import_module("rule.cpp").write(Path(sys.argv[1]))
