"""The backend that Keras runs on: ``framework`` is the module with its operations."""

from __future__ import annotations

from typing import Any

import keras

NAME = keras.backend.backend()
IS_COMPILED = NAME != "torch"  # whether the step is traced and compiled

framework: Any
if NAME == "jax":
    from . import on_jax as framework
elif NAME == "tensorflow":
    from . import on_tensorflow as framework
elif NAME == "torch":
    from . import on_torch as framework  # noqa: F401 - for the other modules
else:
    raise ImportError(
        f"adamas.keras runs on the backends tensorflow, jax and torch, not on {NAME!r}: set KERAS_BACKEND"
    )
