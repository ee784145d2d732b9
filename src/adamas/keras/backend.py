"""The backend that Keras runs on: ``compiled`` is its module of operations if it compiles the step; None on PyTorch."""

from __future__ import annotations

from typing import Any

import keras

NAME = keras.backend.backend()

compiled: Any = None
if NAME == "jax":
    from . import on_jax as compiled
elif NAME == "tensorflow":
    from . import on_tensorflow as compiled  # noqa: F401 - for the other modules
elif NAME != "torch":
    raise ImportError(
        f"adamas.keras runs on the backends tensorflow, jax and torch, not on {NAME!r}: set KERAS_BACKEND"
    )
