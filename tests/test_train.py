"""Training runs: the data that they read, what they reach, what they write, and what they leave alone."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

import adamas.torch
from adamas.lab.tasks import Task, digits, mnist, mnist_cnn
from adamas.lab.tasks.idx import find_idx, read_idx
from adamas.lab.train import (
    DivergedError,
    Evaluation,
    InputError,
    Listener,
    Progress,
    Summary,
    fit,
    folder,
    running,
    training,
)
from adamas.lab.train.auto_lr import find_for_task
from adamas.lab.train.interruption import Interruption
from adamas.lab.train.named_schedules import SCHEDULES
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.options import Options
from adamas.lab.train.records import Memory, Seconds
from adamas.schedules import cosine, from_function, from_json, parse

pytestmark = pytest.mark.usefixtures("unpainted")


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


IMAGES = idx((3, 28, 28), bytes(i % 256 for i in range(3 * 28 * 28)))
LABELS = idx((3,), bytes([4, 0, 9]))


def write_mnist(target: Path, **replaced: bytes) -> Path:
    """Write a tiny MNIST; ``train_images`` and so on replace a file, and an empty name's content removes it."""
    contents = {
        "train_images": IMAGES,
        "train_labels": LABELS,
        "t10k_images": IMAGES,
        "t10k_labels": LABELS,
        **replaced,
    }
    for name, content in contents.items():
        dimensions = 3 if name.endswith("images") else 1
        (target / f"{name.replace('_', '-')}-idx{dimensions}-ubyte").write_bytes(content)
    return target


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return content


# --- the data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_mnist_files_are_found_and_read_under_every_usual_name(tmp_path: Path, mark: str, end: str) -> None:
    pack = gzip.compress if end else bytes
    (tmp_path / f"train-images{mark}idx3-ubyte{end}").write_bytes(pack(IMAGES))
    (tmp_path / f"train-labels{mark}idx1-ubyte{end}").write_bytes(pack(LABELS))
    pixels, labels = mnist.read_part(tmp_path, "train")
    assert pixels.shape == (3, 28, 28)
    assert torch.equal(pixels[1].flatten(), torch.arange(784, 2 * 784).remainder(256) / 255)
    assert labels.tolist() == [4, 0, 9]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x08\x01" + IMAGES[4:], "begins with 00000801"),
        (b"\x00\x00\x0d\x03" + IMAGES[4:], "begins with 00000d03"),
        (IMAGES[:10], "its header ends after 10 of 16 bytes"),
        (IMAGES[:-1], "holds 2351 values, where its header promises 2352"),
        (IMAGES + b"\x00", "holds more than 2352 values, where its header promises 2352"),
        (idx((2**32 - 1, 28, 28), b"\x00"), "holds 1 values"),
        (idx((0, 28, 28), b""), "is empty"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_file_is_named_with_its_damage(tmp_path: Path, content: bytes, says: str, zipped: bool) -> None:
    path = tmp_path / ("images.gz" if zipped else "images")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(InputError) as raised:
        read_idx(path, 3)
    assert raised.value.parameter == "data_dir"
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "content", [gzip.compress(IMAGES)[:-200], IMAGES, gzip.compress(IMAGES)[:-8] + b"12345678", b""]
)
def test_a_damaged_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged file, .*images\.gz: "):
        read_idx(path, 3)


@pytest.mark.parametrize("zipped", [False, True])
def test_no_more_is_read_than_the_header_promises(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / ("images.gz" if zipped else "images")
    with gzip.open(path, "wb") if zipped else path.open("wb") as stream:
        stream.write(idx((3, 4, 5), bytes(60)))
        stream.write(bytes(2**26))  # 65 kB of gzip
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="holds more than 60 values, where its header promises 60"):
            read_idx(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"t10k_labels": idx((2,), b"\x01\x02")}, "3 images in t10k-images-idx3-ubyte and 2 labels in t10k-labels"),
        ({"train_images": idx((3, 8, 8), bytes(192))}, "has training images of 8×8 and test images of 28×28"),
        ({"t10k_labels": idx((3,), b"\x01\x0a\x02")}, "has a test label 10, but no training label above 9"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, replaced: dict[str, bytes], says: str) -> None:
    with pytest.raises(InputError, match=says):
        mnist.load(write_mnist(tmp_path, **replaced))


@pytest.mark.parametrize("module", [mnist, mnist_cnn])
def test_other_images_in_the_same_format_make_a_network_of_their_size(tmp_path: Path, module: ModuleType) -> None:
    images, labels = idx((3, 12, 16), bytes(3 * 12 * 16)), idx((3,), b"\x00\x1a\x03")
    changed = {"train_images": images, "t10k_images": images, "train_labels": labels, "t10k_labels": labels}
    task = module.load(write_mnist(tmp_path, **changed))
    assert task.model()(task.train[0]).shape == (3, 27)


def test_a_missing_file_is_named_with_its_spellings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte, nor train-images-idx3-ubyte\.gz"):
        find_idx(tmp_path, "train-images", 3)
    with pytest.raises(InputError, match="is not a folder"):
        find_idx(tmp_path / "nowhere", "train-images", 3)
    with pytest.raises(InputError, match="data_dir is missing"):
        mnist.load(None)


def test_digits_are_split_alike_every_time_and_without_overlap() -> None:
    one, two = digits.load(None), digits.load(None)
    assert torch.equal(one.train[0], two.train[0])
    assert [len(part[0]) for part in (one.train, one.test)] == [1437, 360]
    every = torch.cat([one.train[0], one.test[0]])
    assert len(every.unique(dim=0)) == len(every)
    assert torch.bincount(one.test[1]).tolist() == pytest.approx([36] * 10, abs=2)


# --- what a run reaches ---------------------------------------------------------------------------------------------


def test_digits_reach_97_percent_by_default(tmp_path: Path) -> None:
    summary = fit(out=tmp_path / "run")
    assert summary.value >= 0.97
    assert summary.epochs == 25


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(tmp_path: Path, optimizer: str) -> None:
    summary = fit(optimizer=optimizer, epochs=6, out=tmp_path / "run")
    assert summary.value > 0.88
    assert summary.optimizer == optimizer


def test_mnist_is_learnt_in_an_epoch(tmp_path: Path, data_dir: Path) -> None:
    summary = fit("mnist", data_dir=data_dir / "mnist", epochs=1, threads=1, out=tmp_path / "run")
    assert summary.value > 0.95
    assert summary.parameters == 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10
    assert summary.steps == 938


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    models, accuracies = [], []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(1)  # what the caller drew before is of no account
        accuracies.append(fit(epochs=2, seed=seed, out=tmp_path / name).value)
        models.append((tmp_path / name / folder.MODEL).read_bytes())
    assert models[0] == models[1]
    assert accuracies[0] == accuracies[1]
    assert models[0] != models[2]


def test_the_seed_decides_the_order_of_the_examples() -> None:
    task = digits.load(None)
    orders = []
    for seed in (3, 3, 4):
        made = training.Training(task, Options(seed=seed, batch_size=2000), Interruption())
        orders.append([next(made.task.batches(made.batch_size, made.shuffling))[1].tolist() for _ in range(2)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == sorted(task.train[1].tolist())


def test_options_change_what_is_trained(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {},
        {"lr": 2e-3},
        {"betas": (0.8, 0.99)},
        {"eps": 1e-3},
        {"weight_decay": 0.1},
        {"schedule": "cosine"},
        {"batch_size": 64},
    ]
    models = set()
    for number, options in enumerate(given):
        fit(epochs=1, out=tmp_path / str(number), **options)
        models.add((tmp_path / str(number) / folder.MODEL).read_bytes())
    assert len(models) == len(given)


# What they are at half of the run, at three quarters and at its end.
FALLING = {
    "constant": (1, 1, 1),
    "exponential": (0.1, 0.01**0.75, 0.01),
    "step": (0.1, 0.01, 0.01),
    "cosine": (0.5, (1 - 0.5**0.5) / 2, 0),
    "linear": (0.5, 0.25, 0),
    "polynomial": (0.25, 0.0625, 0),
    "inverse_time": (1 / 5.5, 1 / 7.75, 0.1),
}
# Where they are highest, and what they are there, at half of the run, at nine tenths and at its end.
RISING = {
    "warmup": (100, 1, 1, 1, 1),
    "warmup_cosine": (100, 1, (1 + math.cos(math.pi * 4 / 9)) / 2, (1 + math.cos(math.pi * 8 / 9)) / 2, 0),
    "inverse_sqrt": (100, 1, 0.2**0.5, 1 / 3, 0.1**0.5),
    "trapezoid": (100, 1, 1, 0.5, 0),
    "one_cycle": (299, 1, 0.8100, 0.0486, 0),
    "cosine_restarts": (0, 1, 0.9619, 0.0737, 0),
    "triangular": (125, 1, 0.1, 0.82, 0.1),
}


@pytest.mark.parametrize("name", FALLING)
def test_a_schedule_falls_from_1_over_the_planned_run(name: str) -> None:
    schedule = SCHEDULES[name].over(1000)
    values = [schedule(step) for step in range(1001)]
    assert values == sorted(values, reverse=True)
    assert [values[step] for step in (0, 500, 750, 1000)] == pytest.approx([1, *FALLING[name]], abs=1e-9)


@pytest.mark.parametrize("name", RISING)
def test_a_schedule_rises_and_falls_over_the_planned_run(name: str) -> None:
    schedule = SCHEDULES[name].over(1000)
    values = [schedule(step) for step in range(1000)]
    peak = values.index(max(values))
    assert (peak, values[peak], values[500], values[900], schedule(999.999)) == pytest.approx(RISING[name], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 997])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_name_is_a_factor_over_a_run_of_any_length(name: str, steps: int) -> None:
    assert set(SCHEDULES) == set(FALLING) | set(RISING)
    schedule = SCHEDULES[name].over(steps)
    assert not schedule.is_rate
    assert all(0 <= schedule(step) <= 1 for step in range(steps + 1))
    assert parse(repr(schedule)) == schedule


def test_the_rate_follows_the_schedule_step_by_step(tmp_path: Path) -> None:
    rates: list[float] = []

    class Notes(Listener):
        def on_evaluation(self, evaluation: Evaluation) -> None:
            rates.append(evaluation.learning_rate)

    expected = pytest.approx([0.1 * (1 + math.cos(math.pi * step / 60)) / 2 for step in (14, 29, 44, 59)])
    given: list[dict[str, Any]] = [
        {"lr": 0.1, "schedule": "cosine"},
        {"lr": 0.1, "schedule": "cosine(60)"},
        {"lr": 0.1, "schedule": cosine(4).per_epoch(15, smooth=True)},
        {"schedule": "0.1 * cosine(60)"},
        {"schedule": 0.1 * cosine(60)},
    ]
    for number, options in enumerate(given):
        rates.clear()
        summary = fit(
            optimizer="sgd", epochs=4, batch_size=100, out=tmp_path / str(number), listener=Notes(), **options
        )
        assert rates == expected, options
        assert summary.lr == 0.1
        config = read_json(tmp_path / str(number) / folder.CONFIG)
        assert config["schedule"] == str(options["schedule"])
        assert config["lr"] == 0.1
        rate = parse(config["lr_schedule"]["text"])
        assert from_json(config["lr_schedule"]["json"]) == rate
        assert [rate(step) for step in (14, 29, 44, 59)] == expected


def test_a_schedule_counts_steps_and_the_first_step_is_0() -> None:
    made = training.Training(
        digits.load(None), Options(schedule="piecewise([1, 2], [1, 2, 3])", epochs=1), Interruption()
    )
    for _, _ in zip(range(4), made.train(Listener()), strict=False):
        pass
    assert [sample.learning_rate for sample in made.samples[:4]] == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3])


@pytest.mark.parametrize("where", ["plateau", "schedule"])
def test_a_plateau_cuts_the_rate_and_says_why(tmp_path: Path, where: str) -> None:
    text = "Plateau(factor=0.5, patience=0, threshold=0.5)"
    rows: list[Evaluation] = []

    class Notes(Listener):
        def on_evaluation(self, evaluation: Evaluation) -> None:
            rows.append(evaluation)

    options = {"plateau": text} if where == "plateau" else {"schedule": f"constant() * {text}"}
    summary = fit(lr=1e-3, epochs=5, out=tmp_path / "run", listener=Notes(), **options)
    rate, best, cuts = 1e-3, math.inf, []
    for row in rows:
        assert row.learning_rate == pytest.approx(rate)
        if row.metrics["validation_loss"] < best * 0.5:
            best = row.metrics["validation_loss"]
            assert row.cut is None
        else:
            rate /= 2
            assert row.cut is not None
            assert row.cut.startswith(f"learning rate {2 * rate:.3g} → {rate:.3g} from step {row.step + 1}: ")
            cuts.append(row.cut)
    assert len(cuts) > 2
    assert rows[-1].cut is not None
    assert summary.cuts == cuts[:-1]  # the last one never took effect
    told = [json.loads(line)["cut"] for line in (tmp_path / "run" / folder.METRICS).read_text().splitlines()]
    assert told == [row.cut for row in rows]
    config = read_json(tmp_path / "run" / folder.CONFIG)
    assert config["lr"] == 1e-3
    assert "Plateau(factor=0.5, patience=0, threshold=0.5)" in config["lr_schedule"]["text"]


def test_a_plateau_of_mode_max_is_shown_the_accuracy() -> None:
    task = digits.load(None).with_validation()
    made = training.Training(task, Options(plateau="Plateau(patience=0, mode='max')"), Interruption())
    shares = ((1.0, 0.5), (1.0, 0.6), (0.5, 0.6))
    seen = [{"validation_loss": loss, "validation_accuracy": share} for loss, share in shares]
    assert [made.observe(figures) is None for figures in seen] == [True, True, False]


@pytest.mark.parametrize(("where", "before"), [("plateau", ""), ("schedule", "constant() * ")])
def test_the_test_data_chooses_nothing(
    where: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {where: before + "Plateau(patience=0, threshold=0.5)"}
    load, files = digits.load, []
    for shift in (0, 3):

        def shifted(data_dir: Path | None, shift: int = shift) -> Task:
            task = load(data_dir)
            return replace(task, test=(task.test[0], task.test[1].roll(shift)))

        monkeypatch.setattr(digits, "load", shifted)
        summary = fit(lr=1e-3, epochs=4, out=tmp_path / str(shift), **options)
        assert summary.cuts
        files.append((tmp_path / str(shift) / folder.MODEL).read_bytes())
        assert summary.value > 0.5 if shift == 0 else summary.value < 0.2
    assert files[0] == files[1]


def test_a_run_with_a_plateau_keeps_a_tenth_for_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = fit(epochs=1, plateau="default", out=tmp_path / "run")
    shown = capsys.readouterr().out.splitlines()
    assert ", 1,294 training examples, 143 validation examples, 360 test examples" in shown[0].replace(";", ",")
    assert shown[2] == (
        "The plateau follows validation loss, on examples that are kept for validation and left out of training."
    )
    names = {"test_loss", "test_accuracy", "validation_loss", "validation_accuracy"}
    row = json.loads((tmp_path / "run" / folder.METRICS).read_text())
    assert names == set(summary.metrics) == names & set(row)
    assert summary.value == summary.metrics["test_accuracy"] != summary.metrics["validation_accuracy"]
    config = read_json(tmp_path / "run" / folder.CONFIG)
    assert (config["validation_examples"], config["plateau_follows"]) == (143, ["validation_loss"])


@pytest.mark.parametrize("every", [3, 4])
def test_a_plateau_that_cannot_take_effect_is_named(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = digits.load(None)
    task = replace(known, evaluate=lambda model, *data: {**known.evaluate(model, *data), "test_loss": 1.0})
    monkeypatch.setattr(digits, "load", lambda data_dir: task)
    options: dict[str, Any] = {"schedule": "constant() * Plateau(patience=1)", "batch_size": 128, "eval_every": every}
    summary = fit(epochs=1, out=tmp_path / "run", **options)  # 11 steps: 4 evaluations, or 3
    said = "\nA plateau with patience=1 cannot take effect: that needs more than 3 evaluations, and the run has 3 "
    assert (said in capsys.readouterr().out) == (every == 4) == (not summary.cuts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "quadratic", "state": "int8"}, "int8"),
        ({"task": "quadratic", "optimizer": "adam(state={'exp_avg': 'int8', 'exp_avg_sq': 'int6'})"}, "int6 or int8"),
        ({"task": "quadratic", "state": "bfloat16"}, None),
        ({"task": "quadratic", "optimizer": "torch:Adam"}, None),
        ({"task": "digits", "state": "int8"}, None),
    ],
)
def test_codes_that_no_parameter_is_large_enough_for_are_named(
    options: dict[str, Any], said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(**options, epochs=1, out=tmp_path / "run")
    start = "No moment is stored in "
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith(start)]
    rest = ": that takes a parameter of at least 4,096 elements in rows of at least 32. They stay in float32."
    assert found == ([] if said is None else [f"{start}{said}{rest}"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "sgd", "state": "int8"}, ["sgd keeps no moments: their format, int8, has no effect."]),
        (
            {"optimizer": "sgd(state='bfloat16')"},
            ["sgd(state='bfloat16') keeps no moments: their format, bfloat16, has no"],
        ),
        ({"optimizer": "sgd", "state": "float32"}, []),
        ({"optimizer": "momentum", "state": "bfloat16"}, []),
    ],
)
def test_a_format_of_moments_that_are_not_kept_is_named(
    options: dict[str, Any], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("quadratic", **options, epochs=1, out=tmp_path / "run")
    found = [line for line in capsys.readouterr().out.splitlines() if "no moments" in line]
    assert len(found) == len(said)
    assert all(map(str.startswith, found, said))


def test_without_a_plateau_all_training_data_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = fit(epochs=1, out=tmp_path / "run")
    assert "; 1,437 training examples, 360 test examples\n" in capsys.readouterr().out
    assert set(summary.metrics) == {"test_loss", "test_accuracy"}


def test_a_task_without_data_has_nothing_to_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = fit("quadratic", epochs=3, plateau="default", out=tmp_path / "run")
    assert "The plateau follows f: the task has no validation data." in capsys.readouterr().out.splitlines()
    assert set(summary.metrics) >= {"f"}
    assert not any(name.startswith("validation") for name in summary.metrics)


def test_a_metric_cannot_have_the_name_of_one_of_the_validation() -> None:
    known = digits.load(None)
    task = replace(known, evaluate=lambda model, *data: {"validation_loss": 1.0, **known.evaluate(model, *data)})
    with pytest.raises(InputError, match="returns 'validation_loss', a name that a run with validation data uses"):
        training.Training(task.with_validation(), Options(plateau="default"), Interruption())


def test_a_rate_is_found_on_the_training_data_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def find(model: object, optimizer: object, loss: object, batches: Any, seed: int) -> None:
        seen.append(sum(len(batch[0]) for batch in batches(seed)))

    monkeypatch.setattr(adamas.torch, "find_lr", find)
    for options in (Options(), Options(plateau="default")):
        find_for_task(options)
    assert seen == [1437, 1294]


def test_by_default_a_plateau_is_patient(tmp_path: Path) -> None:
    assert fit(epochs=3, plateau="default", out=tmp_path / "run").cuts == []
    text = read_json(tmp_path / "run" / folder.CONFIG)["lr_schedule"]["text"]
    assert text == "0.001 * constant() * Plateau()"


def test_a_rate_that_is_found_is_used_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finding:
        lr = 0.0123456

        def __str__(self) -> str:
            return "because"

    asked: list[Options] = []

    def find(options: Options) -> Finding:
        asked.append(options)
        return Finding()

    monkeypatch.setattr(running, "find_for_task", find)
    summary = fit(lr="auto", optimizer="sgd", schedule="warmup", epochs=1, out=tmp_path / "run")
    assert [(options.task, options.optimizer, options.lr) for options in asked] == [("digits", "sgd", "auto")]
    assert (summary.lr, summary.lr_found) == (0.012, "because")
    config = read_json(tmp_path / "run" / folder.CONFIG)
    assert (config["lr"], config["lr_found"]) == (0.012, "because")
    assert config["lr_schedule"]["text"] == "0.012 * warmup(4)"


def test_a_rate_that_is_found_trains(tmp_path: Path) -> None:
    summary = fit(lr="auto", epochs=4, out=tmp_path / "run")
    assert 1e-4 < summary.lr < 0.1
    assert summary.value > 0.9
    assert f"{summary.lr:.2g}" in (summary.lr_found or "")


# --- what a run writes ----------------------------------------------------------------------------------------------


def test_the_folder_tells_the_run(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    summary = fit(optimizer="adamw", epochs=3, seed=5, weight_decay=0.02, schedule="step", out=out)
    assert sorted(path.name for path in out.iterdir()) == sorted(folder.FILES)

    written = read_json(out / folder.SUMMARY)
    records = {
        "out": Path(written["out"]),
        "seconds": Seconds(**written["seconds"]),
        "memory": Memory(**written["memory"]),
    }
    assert Summary(**{**written, **records}) == summary
    assert summary.parameters == 64 * 512 + 512 + 512 * 10 + 10
    assert 8 * summary.parameters <= summary.memory.state <= 8 * summary.parameters + 4 * 16
    assert 0 < summary.seconds.optimizer < summary.train_seconds
    assert not summary.interrupted
    assert not summary.diverged

    config = read_json(out / folder.CONFIG)
    told = {"task": "digits", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.02, "schedule": "step", "seed": 5}
    filled_in = {"betas": [0.9, 0.999], "eps": 1e-8, "epochs": 3, "batch_size": 32, "threads": 1}
    assert {**config, **told, **filled_in} == config

    rows = [json.loads(line) for line in (out / folder.METRICS).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [45, 90, 135]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-4, 1e-5])
    assert rows[2]["test_accuracy"] == summary.value
    assert rows[2]["train_loss"] < rows[0]["train_loss"]


def test_the_saved_model_has_the_accuracy_that_is_told(tmp_path: Path) -> None:
    summary = fit(epochs=3, out=tmp_path / "run")
    model = digits.model()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / folder.MODEL))
    inputs, targets = digits.load(None).test
    assert (model(inputs).argmax(1) == targets).double().mean().item() == pytest.approx(summary.value)
    assert F.cross_entropy(model(inputs), targets).item() == pytest.approx(summary.metrics["test_loss"])


def test_without_out_runs_lie_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "strftime", lambda layout: "now")
    for expected in ("digits-now", "digits-now-2"):
        assert fit(epochs=1).out == Path("runs") / expected


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    folder.write(path, b"before")

    def fail(source: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(folder.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        folder.write(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path: Path) -> None:
    assert json.loads(folder.to_json({"loss": math.nan, "rate": math.inf, "steps": 3})) == {
        "loss": None,
        "rate": None,
        "steps": 3,
    }


# --- runs that end early --------------------------------------------------------------------------------------------


class ControlC(Listener):
    """Presses Ctrl-C after an epoch, or at the first report."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_progress(self, progress: Progress) -> None:
        if self.epoch == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        if evaluation.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("epoch", [0, 2])
def test_ctrl_c_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_REPORTS", 0)
    before = signal.getsignal(signal.SIGINT)
    summary = fit(epochs=50, out=tmp_path / "run", listener=ControlC(epoch))
    assert signal.getsignal(signal.SIGINT) is before
    assert summary.interrupted
    assert (summary.epochs, summary.steps) == ((0, 1) if epoch == 0 else (2, 90))
    assert sorted(path.name for path in summary.out.iterdir()) == sorted(folder.FILES)
    assert read_json(summary.out / folder.SUMMARY)["interrupted"] is True
    assert len((summary.out / folder.METRICS).read_text().splitlines()) == epoch


def test_ctrl_c_after_the_last_step_changes_nothing(tmp_path: Path) -> None:
    assert not fit(epochs=2, out=tmp_path / "run", listener=ControlC(2)).interrupted


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"the loss became nan in epoch 1, batch \d+, .* such as 0\.1$") as raised:
        fit(optimizer="sgd", lr=1e30, out=tmp_path / "run")
    summary = raised.value.summary
    assert summary.diverged
    assert not summary.interrupted
    assert sorted(path.name for path in summary.out.iterdir()) == sorted({*folder.FILES} - {folder.CHECKPOINT})
    written = read_json(summary.out / folder.SUMMARY)
    assert written["diverged"] is True
    assert written["metrics"]["test_loss"] is None


# --- what a run refuses, and what it leaves alone -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "mnits"}, "task 'mnits' is unknown: did you mean mnist?"),
        ({"optimizer": "Adam"}, "optimizer 'Adam' is unknown: did you mean adam?"),
        ({"schedule": "cosin"}, "schedule 'cosin' is unknown: did you mean cosine?"),
        ({"schedule": "piecewise"}, "schedule cannot be read: piecewise is called with its arguments: piecewise(bound"),
        ({"schedule": "cosin(100)"}, "schedule cannot be read: unknown schedule 'cosin': did you mean cosine?"),
        ({"schedule": "0.5"}, "schedule cannot be read: a number is not a schedule: constant(0.5) is"),
        ({"schedule": ""}, "schedule cannot be read: there is no schedule here"),
        ({"schedule": from_function(math.cos)}, "schedule cannot be read: from_function takes Python code"),
        (
            {"schedule": "3e-4 * cosine(100)", "lr": 0.1},
            "schedule contains a rate (0.0003), and lr is given too (0.1)",
        ),
        ({"schedule": "3e-4 * cosine(100)", "lr": "auto"}, "schedule contains a rate (0.0003), and lr is given too"),
        (
            {"schedule": "-1 * cosine(100)"},
            "schedule gives a rate of -1 at step 0: it must be a finite nonnegative number",
        ),
        (
            {"schedule": "step(3, 1e-6)"},
            "schedule gives a rate of inf at step 1: it must be a finite nonnegative number",
        ),
        (
            {"schedule": "linear(100, end=-1)"},
            "schedule gives a rate of -2e-05 at step 51: it must be a finite nonnegative",
        ),
        ({"schedule": "exponential(1e9)"}, "schedule gives a rate of inf at step "),
        ({"plateau": "cosine(100)"}, "plateau must be default, or such as 'Plateau(factor=0.5, patience=2)'"),
        ({"plateau": "Plateau(factor=2)"}, "plateau cannot be read: Plateau: factor must be below 1, got 2"),
        ({"plateau": "Plateau(min_factor=1)"}, "plateau cannot be read: Plateau: min_factor must be below 1, got 1"),
        ({"lr": -1.0}, "lr must be a nonnegative number, got -1.0"),
        ({"lr": math.nan}, "lr must be a nonnegative number, got nan"),
        ({"lr": math.inf}, "lr must be a nonnegative number, got inf"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers from 0 up to but not including 1, got (0.9, 1.0)"),
        ({"betas": (0.9,)}, "betas must be two numbers, got (0.9,)"),
        ({"model": "small"}, "model is not an option of digits, which has one network: leave it out"),
        ({"clip": 0.0}, "clip must be a number above 0, got 0.0"),
        ({"eval_every": 0}, "eval_every must be a whole number from 1 to 1,000,000,000, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": "tpu"}, "device 'tpu' cannot be used here: give cpu"),
        ({"device": "mps"}, "device 'mps' cannot be used here: give cpu"),
        ({"precision": "float16"}, "precision must be 'float32' or 'bfloat16', got 'float16'"),
        ({"state": "int4"}, "state must be 'float32' or 'bfloat16' or 'int8' or 'int6', got 'int4'"),
        ({"weights": "split"}, "weights determines how bfloat16 weights are stored: give precision bfloat16 too"),
        ({"log": "wandb"}, "log must be 'tensorboard', got 'wandb'"),
        ({"optimizer": "adam(lr=1)"}, "optimizer 'adam(lr=1)' has lr as an argument: give it as the option lr"),
        (
            {"optimizer": "muon(use_muon=False)"},
            "optimizer 'muon(use_muon=False)' has use_muon, which a run gives by the kind of each parameter",
        ),
        (
            {"optimizer": "adamh(keep_norm=False)"},
            "optimizer 'adamh(keep_norm=False)' has keep_norm, which a run gives by the kind of each parameter",
        ),
        ({"optimizer": "adam(beta=1)"}, "optimizer adam(beta=1) cannot be created: "),
        ({"optimizer": "adam(0.9)"}, "optimizer 'adam(0.9)' cannot be read: its arguments are written name=value"),
        ({"optimizer": "adam(eps=2*3)"}, "optimizer 'adam(eps=2*3)' cannot be read: its arguments are written"),
        (
            {"optimizer": "adamw(cautious=true)"},
            "optimizer 'adamw(cautious=true)' cannot be read: cautious=true is not a value of Python: write True, False, None",
        ),
        ({"optimizer": "adam!"}, "optimizer 'adam!' cannot be read: write such as adamw, torch:AdamW or sgd(momentum"),
        ({"optimizer": "torch:Adm"}, "optimizer 'torch:Adm' is unknown: did you mean torch:Adam?"),
        ({"optimizer": "torch:LBFGS"}, "optimizer 'torch:LBFGS' evaluates the loss several times per step"),
        (
            {"optimizer": "json:JSONDecoder"},
            "optimizer 'json:JSONDecoder' is not an optimizer: give a class derived from",
        ),
        (
            {"optimizer": "torch:Adam", "state": "int8"},
            "state is not an option of torch:Adam, only of Adamas's optimizers",
        ),
        (
            {"optimizer": "torch:Adam", "clip": "auto"},
            "clip auto is not an option of torch:Adam, only of Adamas's optimizers",
        ),
        ({"optimizer": "torch:SGD(momentm=0.9)"}, "optimizer 'momentm' is unknown: did you mean momentum?"),
        ({"eps": 0.0}, "eps must be a number above 0, got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must be a nonnegative number, got -0.1"),
        ({"epochs": 0}, "epochs must be a whole number from 1 to 1,000,000,000, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 1,000,000,000, got 0"),
        ({"threads": 0}, "threads must be from 1 to the "),
        ({"threads": 10**6}, "threads must be from 1 to the "),
        ({"seed": -1}, "seed must be a whole number from 0 to 2**63-1, got -1"),
        ({"optimizer": "sgd", "betas": (0.9, 0.9)}, "betas is not an option of sgd, which has lr, weight_decay"),
        ({"optimizer": "momentum", "eps": 1e-8}, "eps is not an option of momentum"),
        ({"optimizer": "rmsprop", "betas": (0.9, 0.9)}, "betas is not an option of rmsprop"),
        (
            {"optimizer": "adafactor", "eps": 1e-3},
            "eps is not an option of adafactor, which has lr, weight_decay: leave it out, or give it as an argument of the "
            "optimizer, such as eps=(None, 0.001)",
        ),
        (
            {"optimizer": "torch:Adafactor", "eps": 1e-3},
            "eps is not an option of torch:Adafactor, which has lr, weight_decay",
        ),
        (
            {"optimizer": "adafactor(eps=(None, 1e-2))", "eps": 1e-3},
            "eps is not an option of adafactor(eps=(None, 1e-2))",
        ),
        ({"optimizer": "adan", "betas": (0.9, 0.9)}, "betas is not an option of adan, which has eps, lr, weight_decay"),
        ({"data_dir": "."}, "data_dir is not an option of digits"),
        ({"task": "mnist", "data_dir": "nowhere"}, "data_dir 'nowhere' is not a folder"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as raised:
        fit(**options, out=tmp_path / "runs" / "run")
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"schedule": "cosin(3)"}, {"plateau": "Plato()"}])
def test_expressions_are_read_before_anything_slow_begins(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Options(**options)


@pytest.mark.parametrize("name", folder.FILES)
def test_a_folder_that_holds_a_run_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="already holds a run"):
        fit(epochs=1, out=tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file: choose another folder"):
        fit(epochs=1, out=tmp_path / "file" / "run")

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write", full)
    with pytest.raises(InputError, match="No space left on device"):
        fit(epochs=1, out=tmp_path / "deep" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_leaves_what_the_caller_has_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    state, threads, handler = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    fit(epochs=1, seed=1, threads=max(1, threads - 1), out=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGINT) is handler
