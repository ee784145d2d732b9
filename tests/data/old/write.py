"""Writes the files in this folder. Run it with the version that they are to be of, and a folder for them:

    PATH/TO/OLD/.venv/bin/python tests/data/old/write.py tests/data/old

Keras's are written once for each backend, by ``KERAS_BACKEND=jax … write.py FOLDER keras``, and whole optimizers by
``… write.py FOLDER pickles``.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import old_files as old

TASK = Path(__file__).with_name("task.py")


def write_torch(folder: Path) -> None:
    """A state dict for each case, by ``torch.save``, with the weights that belong to it and what the next steps give."""
    import torch

    for case in old.CASES:
        params = old.torch_parameters(case)
        optimizer, plateau = old.torch_optimizer(case, params)
        list(old.torch_stepping(case, params, optimizer, plateau, 1, old.STEPS_BEFORE))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(optimizer.state_dict(), folder / f"{case.name}.pt")
        arrays = old.when({name: old.array_of(p) for name, p in params.items()}, "before")
        for done in old.torch_stepping(case, params, optimizer, plateau, old.STEPS_BEFORE + 1, max(old.COMPARED)):
            arrays.update(old.when(old.thinned(old.torch_values(params, optimizer)), f"after{done}"))
        old.save_arrays(folder / f"{case.name}.expected.npz", arrays)


def write_numpy(folder: Path) -> None:
    """The same for NumPy: the state by ``np.savez``."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in old.IN_NUMPY:
        params = old.numpy_parameters(case)
        optimizer, plateau = old.numpy_optimizer(case, params)
        list(old.numpy_stepping(case, params, optimizer, plateau, 1, old.STEPS_BEFORE))
        np.savez_compressed(folder / f"{case.name}.npz", **optimizer.state_dict())
        arrays = old.when({name: p.copy() for name, p in params.items()}, "before")
        for done in old.numpy_stepping(case, params, optimizer, plateau, old.STEPS_BEFORE + 1, max(old.COMPARED)):
            arrays.update(old.when(old.thinned(old.numpy_values(params, optimizer)), f"after{done}"))
        old.save_arrays(folder / f"{case.name}.expected.npz", arrays)


def write_pickles(folder: Path) -> None:
    """Whole optimizers with their parameters: of PyTorch by ``torch.save``, of NumPy by pickle."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    case = old.BY_NAME["adam-int8"]
    params = old.torch_parameters(case)
    optimizer, plateau = old.torch_optimizer(case, params)
    list(old.torch_stepping(case, params, optimizer, plateau, 1, old.STEPS_BEFORE))
    torch.save(optimizer, folder / f"{case.name}.pt")
    case = old.BY_NAME["sgd-int8"]
    arrays = old.numpy_parameters(case)
    optimizer, plateau = old.numpy_optimizer(case, arrays)
    list(old.numpy_stepping(case, arrays, optimizer, plateau, 1, old.STEPS_BEFORE))
    (folder / f"{case.name}.pickle").write_bytes(pickle.dumps(optimizer))


def write_optax(folder: Path) -> None:
    """The same for optax: the state by Flax's msgpack, which knows fields by name, and by pickle, which knows classes."""
    import flax.serialization
    import jax

    folder.mkdir(parents=True, exist_ok=True)
    for case in old.IN_OPTAX:
        params, tx = old.optax_parameters(case), old.optax_optimizer(case)
        state = tx.init(params)
        *_, (_, params, state) = old.optax_steps(case, tx, params, state, 1, old.STEPS_BEFORE)
        (folder / f"{case.name}.msgpack").write_bytes(flax.serialization.to_bytes(state))
        (folder / f"{case.name}.pickle").write_bytes(pickle.dumps(jax.device_get(state), protocol=4))
        arrays = old.when({name: np.asarray(x) for name, x in params["layer"].items()}, "before")
        for done, after, s in old.optax_steps(case, tx, params, state, old.STEPS_BEFORE + 1, max(old.COMPARED)):
            if done in old.COMPARED:
                arrays.update(old.when(old.thinned(old.optax_values(after, s)), f"after{done}"))
        old.save_arrays(folder / f"{case.name}.expected.npz", arrays)


def write_keras(folder: Path) -> None:
    """A model file for each case, and what the next steps give, on the backend that KERAS_BACKEND names."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in old.IN_KERAS:
        model = old.keras_model(case)
        list(old.keras_steps(model, 1, old.STEPS_BEFORE))
        model.save(folder / f"{case.name}.keras")
        arrays: dict[str, np.ndarray] = {}
        for done in old.keras_steps(model, old.STEPS_BEFORE + 1, max(old.COMPARED)):
            if done in old.COMPARED:
                arrays.update(old.when(old.thinned(old.keras_values(model)), f"after{done}"))
        old.save_arrays(folder / f"{case.name}.expected.npz", arrays)


def write_others(folder: Path) -> None:
    """A checkpoint of ``adamas.convert``; and a state dict of ``adamas.torch.lr_scheduler`` with its optimizer's."""
    import torch

    import adamas.torch
    from adamas import convert

    model = old.torch_model()
    optimizer = adamas.torch.AdamW(model.named_parameters(), lr=0.02)
    old.train_model(model, optimizer, 1, old.STEPS_BEFORE)
    folder.mkdir(parents=True, exist_ok=True)
    convert.from_torch(model, optimizer).save(folder / "convert.npz")
    old.train_model(model, optimizer, old.STEPS_BEFORE + 1, 3)
    old.save_arrays(folder / "convert.expected.npz", {name: old.array_of(p) for name, p in model.named_parameters()})

    optimizer, scheduler, plateau = old.scheduled_optimizer()
    list(old.scheduled_rates(optimizer, scheduler, plateau, 1, old.STEPS_BEFORE))
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, folder / "lr_scheduler.pt")
    rates = list(old.scheduled_rates(optimizer, scheduler, plateau, old.STEPS_BEFORE + 1, 3))
    (folder / "lr_scheduler.expected.json").write_text(json.dumps(rates) + "\n")


def write_lab(folder: Path) -> None:
    """A run that can be gone on with, and a study whose last trial is missing."""
    import shutil
    import sqlite3
    import tempfile

    for name, options in old.RUNS.items():
        run = folder / name
        shutil.rmtree(run, ignore_errors=True)
        old.command("train", str(TASK), *options, "--epochs", "2", "--out", str(run))
        (run / "curves.png").unlink()
        for told in (run / "config.json", run / "summary.json"):  # where they were written means nothing elsewhere
            told.write_text(told.read_text().replace(f"{folder}/", "").replace(str(TASK), TASK.name))
        with tempfile.TemporaryDirectory() as scratch:
            longer = Path(scratch, "run")
            shutil.copytree(run, longer)
            old.command("train", str(TASK), "--resume", str(longer), "--epochs", "4")
            shutil.copy(longer / "model.safetensors", folder / f"{name}.expected.safetensors")
    study = folder / "study.sqlite"
    study.unlink(missing_ok=True)
    old.command(
        "compare", "quadratic", "--optimizers", "adam,sgd", "--budget", "2", "--epochs", "1", "--out", str(study)
    )
    connection = sqlite3.connect(study, isolation_level=None)
    rows = connection.execute("SELECT optimizer, phase, number, seed, value FROM trials ORDER BY 1, 2, 3, 4").fetchall()
    (folder / "study.expected.json").write_text(json.dumps(rows, indent=1) + "\n")
    connection.execute("DELETE FROM trials WHERE phase = 'final' AND optimizer = 'sgd' AND seed = 3")
    connection.execute("UPDATE study SET value = replace(value, ?, '')", (f"{folder}/",))
    connection.execute("VACUUM")
    connection.close()


def versions() -> dict[str, str]:
    """What writes the files."""
    import jax
    import keras
    import torch

    import adamas

    return {
        "adamas": adamas.__version__,
        "instruction_set": adamas.engine_info().instruction_set,
        "torch": str(torch.__version__),
        "jax": jax.__version__,
        "keras": keras.__version__,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    if sys.argv[2:] == ["keras"]:
        import keras

        write_keras(folder / "keras" / keras.backend.backend())
    elif sys.argv[2:] == ["pickles"]:
        write_pickles(folder / "pickles")
    else:
        write_torch(folder / "torch")
        write_numpy(folder / "numpy")
        write_optax(folder / "optax")
        write_others(folder / "others")
        write_lab(folder / "lab")
        (folder / "written.json").write_text(json.dumps(versions(), indent=1) + "\n")
