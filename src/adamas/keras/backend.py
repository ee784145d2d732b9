"""The backend that Keras runs on: ``arrays`` is what is asked of it, or None on PyTorch, where no step is traced."""

from __future__ import annotations

from typing import Any

import keras

NAME = keras.backend.backend()

arrays: Any = None
if NAME == "jax":
    from . import on_jax as arrays
elif NAME == "tensorflow":
    from . import on_tensorflow as arrays  # noqa: F401 - for the other modules
elif NAME != "torch":
    raise ImportError(
        f"adamas.keras runs on the backends tensorflow, jax and torch, not on {NAME!r}: set KERAS_BACKEND"
    )
