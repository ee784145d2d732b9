"""What the tests of ``adamas.keras`` share. They run on the backend that KERAS_BACKEND names, and only where it names one."""

from __future__ import annotations

import os
import tempfile

collect_ignore_glob = [] if "KERAS_BACKEND" in os.environ else ["test_*.py"]
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp())  # Keras writes its settings there
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch

    torch.set_num_threads(1)  # small networks gain nothing by more, and tests that run beside this one lose


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What Keras itself still does in old ways is no failure here."""
    for item in items:
        if "tests/keras/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"))
