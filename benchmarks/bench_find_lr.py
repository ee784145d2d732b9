"""The quality of the learning rates that ``find_lr`` suggests, compared with the best of a grid, after one epoch.

    python benchmarks/bench_find_lr.py --data-dir DIR
    python benchmarks/bench_find_lr.py --task digits --runs 16

DIR holds the four IDX files of MNIST; by default it is $ADAMAS_DATA/mnist. For each seed, a rate is suggested. Then the task's
network trains for one epoch at a constant rate, for every rate of a geometric grid and every suggestion, from the same initial
weights and in the same order. This is repeated --runs times, with other weights and another order each time. The figure is the
mean test loss of these runs at a suggestion, divided by the lowest such mean of the grid: 1 would be perfect.

May import PyTorch and adamas.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from adamas.lab.tasks import Task, load
from adamas.lab.train.auto_lr import find_for_task
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.options import Options


def test_loss(task: Task, optimizer: str, rate: float, seed: int) -> float:
    """The test loss after one epoch; infinite if it is not a number."""
    torch.manual_seed(seed)
    model = task.model()
    member = OPTIMIZERS[optimizer]
    made = member.load()(model.parameters(), lr=rate, **member.arguments)
    for batch in task.batches(task.batch_size, torch.Generator().manual_seed(seed)):
        made.zero_grad()
        task.loss(model, *batch).backward()
        made.step()
    loss = task.evaluate(model, *task.test)["test_loss"]
    return loss if math.isfinite(loss) else math.inf


def mean_losses(task: Task, optimizer: str, rates: list[float], runs: int) -> NDArray[np.float64]:
    return np.mean([[test_loss(task, optimizer, rate, 100 + run) for rate in rates] for run in range(runs)], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare what find_lr suggests with the best rate of a grid.")
    parser.add_argument("--task", choices=["digits", "mnist"], default="mnist")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ["ADAMAS_DATA"]) / "mnist" if "ADAMAS_DATA" in os.environ else None,
        help="folder of the four IDX files (default: $ADAMAS_DATA/mnist)",
    )
    parser.add_argument("--optimizers", default="adam,sgd", help=f"some of {','.join(OPTIMIZERS)}")
    parser.add_argument("--seeds", type=int, default=3, help="how many suggestions")
    parser.add_argument("--runs", type=int, default=1, help="training runs at each rate")
    parser.add_argument("--rates", type=int, default=15)
    parser.add_argument("--low", type=float, default=1e-5, help="lowest rate of the grid")
    parser.add_argument("--high", type=float, default=1.0, help="highest rate of the grid")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data_dir = arguments.data_dir if arguments.task == "mnist" else None
    if arguments.task == "mnist" and data_dir is None:
        print("MNIST left out: give --data-dir, or set ADAMAS_DATA to the folder that holds mnist/")
        return
    torch.set_num_threads(arguments.threads)
    task = load(arguments.task, data_dir)
    grid = np.geomspace(arguments.low, arguments.high, arguments.rates).tolist()
    for optimizer in arguments.optimizers.split(","):
        findings = []
        began = perf_counter()
        for seed in range(arguments.seeds):
            options = Options(
                arguments.task, data_dir=data_dir, optimizer=optimizer, seed=seed, threads=arguments.threads
            )
            findings.append(find_for_task(options))
        seconds = (perf_counter() - began) / arguments.seeds
        losses = mean_losses(task, optimizer, [*grid, *(finding.lr for finding in findings)], arguments.runs)
        best = float(losses[: len(grid)].min())
        print(f"{arguments.task}, {optimizer}: {seconds:.2f} s a finding, {arguments.runs} runs a rate")
        print("  grid       " + "  ".join(f"{rate:.2g}: {loss:.3f}" for rate, loss in zip(grid, losses, strict=False)))
        for seed, (finding, loss) in enumerate(zip(findings, losses[len(grid) :], strict=True)):
            print(
                f"  seed {seed}: rate {finding.lr:.2g}, confidence {finding.confidence:.2f}, test loss {loss:.3f}, "
                f"{loss / best:.3f} of the best of the grid",
                flush=True,
            )


if __name__ == "__main__":
    main()
