"""Model files that an earlier version saved on this backend are loaded, and the next steps are what they were."""

from __future__ import annotations

import keras
import pytest
from keras_cases import nightly_value_unless_on_torch
from old_files import (
    COMPARED,
    IN_KERAS,
    OLD,
    STEPS_BEFORE,
    KerasCase,
    assert_same,
    assert_same_but_converted,
    at,
    keras_steps,
    keras_values,
    load_arrays,
    thinned,
    writer,
)

import adamas
import adamas.keras  # Keras looks for the classes by their names

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.keras
IS_SAME_PROCESSOR = adamas.engine_info().instruction_set == writer()["instruction_set"]


@pytest.mark.parametrize(
    "case",
    [case if str(case) == "adam-int8-split" else nightly_value_unless_on_torch(case) for case in IN_KERAS],
    ids=str,
)
def test_old_models(case: KerasCase) -> None:
    model = keras.saving.load_model(OLD / "keras" / BACKEND / f"{case.name}.keras")
    before = thinned(keras_values(model))
    saved = load_arrays(OLD / "keras" / BACKEND / f"{case.name}.expected.npz")
    for done in keras_steps(model, STEPS_BEFORE + 1, max(COMPARED)):
        if done in COMPARED:
            arrays = thinned(keras_values(model)), at(saved, f"after{done}"), before
            if case.options.get("state") == "int8":
                assert_same_but_converted(*arrays, f"step {done}", case.dtype)
            else:
                assert_same(*arrays, 2 if IS_SAME_PROCESSOR else 64, f"step {done}")
