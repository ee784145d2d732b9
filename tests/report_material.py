"""Material of the tests of the report: run folders, judgements and studies, made by hand."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from adamas.lab.compare.results import Judgement, Pair, Sensitivity, Standing
from adamas.lab.compare.study import Finished, Outcome, Settings, Study, Trial


def make_run(
    folder: Path,
    *,
    optimizer: str = "adam",
    seed: int = 0,
    lr: float = 1e-3,
    accuracies=(0.9, 0.95, 0.9731),
    spike: float = 1.0,
    ratio: float = 1e-3,
    data: float = 0.01,
    validated: bool = False,
    cut: str | None = None,
    summary: dict | bool | None = None,
    **config,
) -> Path:
    """Write the four files that a run leaves, of 100 steps between evaluations.

    With ``validated`` it has the metrics of a validation part too; ``cut`` is what a plateau did after each evaluation.
    """
    folder.mkdir(parents=True)
    told = {
        "task": "digits",
        "metric": "test_accuracy",
        "mode": "max",
        "target": 0.97,
        "optimizer": optimizer,
        "lr": lr,
    }
    told |= {"schedule": "constant", "seed": seed, "epochs": len(accuracies), "lr_found": None, "torch": "2.13.0"}
    told |= {"command": f"adamas train digits --seed {seed}", "options": {"seed": seed}, **config}
    (folder / "config.json").write_text(json.dumps(told))
    rows = [
        {
            "test_accuracy": accuracy,
            "test_loss": 1 - accuracy,
            "epoch": place + 1,
            "step": 100 * (place + 1),
            "learning_rate": lr,
            "train_loss": 1 / (place + 1),
            "train_seconds": 0.5 * (place + 1),
            "cut": cut,
            **({"validation_accuracy": accuracy - 0.01, "validation_loss": 1.01 - accuracy} if validated else {}),
        }
        for place, accuracy in enumerate(accuracies)
    ]
    write_lines(folder / "metrics.jsonl", rows)
    steps = 100 * len(accuracies)
    samples = [
        {"step": at, "loss": 1.0, "learning_rate": lr, "grad_norm": spike if at == 51 else 1.0, "update_ratio": ratio}
        for at in range(1, steps, 10)
    ]
    write_lines(folder / "steps.jsonl", samples)
    if summary is not False:
        reached = next((row for row in rows if row["test_accuracy"] >= 0.97), None)
        end = {
            **{name: told[name] for name in ("task", "optimizer", "lr", "lr_found", "metric", "mode", "target")},
            "cuts": [],
            "value": accuracies[-1],
            "metrics": {"test_accuracy": accuracies[-1]},
            "steps_to_target": reached and reached["step"],
            "seconds_to_target": reached and reached["train_seconds"],
            "epochs": len(accuracies),
            "steps": steps,
            "train_seconds": 0.5 * len(accuracies),
            "seconds": {"data": data, "forward": 0.3, "backward": 0.4, "optimizer": 0.19, "evaluation": 0.1},
            "memory": {"weights": 4000, "state": 8000, "peak": 123_000_000},
            "parameters": 1000,
            "interrupted": False,
            "diverged": False,
            "out": str(folder),
        }
        (folder / "summary.json").write_text(json.dumps({**end, **(summary or {})}))
    return folder


def write_lines(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def standing(optimizer: str, rank: int, steps, *, mean=0.97, failed=0) -> Standing:
    rows = [{"test_accuracy": 0.5 + 0.04 * at, "step": 10 * at, "train_seconds": 0.1 * at} for at in range(1, 11)]
    return Standing(
        optimizer=optimizer,
        rank=rank,
        settings={"lr": 0.003},
        values=[mean] * len(steps),
        mean=mean,
        low=mean - 0.0123,
        high=mean + 0.0123,
        steps_to_target=list(steps),
        seconds_to_target=[None if step is None else step / 100 for step in steps],
        train_seconds=[1.0] * len(steps),
        sensitivity=Sensitivity(
            [1e-4, 1e-3, 1e-2], [0.8, mean, None], low=5e-4, high=2e-3, decades=0.602, at_edge=False
        ),
        trials_failed=failed,
        evaluations=[rows] * len(steps),
    )


def judgement(*standings: Standing, sentences=("adam is the best.",)) -> Judgement:
    seeds = list(range(1, len(standings[0].values) + 1))
    pairs = [Pair("adam", "sgd", 0.0456, 0.0123, 0.0246, "adam")]
    return Judgement(
        "digits",
        "test_accuracy",
        "validation_accuracy",
        "max",
        0.97,
        seeds,
        list(standings),
        pairs,
        list(sentences),
        ["Few seeds."],
    )


def settings(**changes) -> Settings:
    told = {field.name: None for field in fields(Settings)}
    told |= {"task": "digits", "description": "8×8 digits", "metric": "test_accuracy", "mode": "max", "target": 0.97}
    told |= {
        "tuning_metric": "validation_accuracy",
        "optimizers": ["adam", "sgd"],
        "budget": 7,
        "seeds": [1, 2],
        "tune": ["lr"],
        "points": [{"lr": 0.5}] * 7,
        "epochs": 3,
    }
    told |= {"space": {name: {"lr": [1e-4, 0.1, "log"]} for name in ("adam", "sgd")}, "steps": 100, "eval_every": 10}
    told |= {"command": "adamas compare digits", "torch": "2.13.0", "schedule": "constant"}
    told |= {"batch_size": 32, "device": "cpu", "adamas": "0.1.0", "python": "3.11.0"}
    told |= {"hyperparameters": {"adam": ["lr"], "sgd": ["lr"]}, "jobs": 1, "threads": 1, **changes}
    return Settings(**told)


def trials():
    seconds = {"data": 0.1, "forward": 0.5, "backward": 0.0, "optimizer": 0.4}
    done = [
        Finished(
            Trial(name, "final", 0, seed, {"lr": 0.003}),
            Outcome("done", 0.97, 50, 0.5, 1.0, {"state": 8000}, seconds),
        )
        for name in ("adam", "sgd")
        for seed in (1, 2)
    ]
    failed = Outcome("diverged", error="the loss was no longer finite <at step 7>")
    return [*done, Finished(Trial("sgd", "tune", 3, 0, {"lr": 0.1}), failed)]


def make_study(path: Path) -> None:
    """Write the file of a comparison with these trials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Study.create(path, settings()) as study:
        for done in trials():
            study.record(done.trial, done.outcome)
