"""The effect of the tasks' learning-rate scales: each optimizer with its default rate on the task, and without the scale.

    python benchmarks/bench_tasks.py [TASK …] [--seeds 2]

By default it runs the tasks that have such scales (``Task.lr_scale``, ``Task.sgd_lr_scale``). A row has the optimizer, its
rate without and with the scale, and for each seed the final metric and the steps to the target. The figures do not depend on
the speed of the machine.

May import adamas.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from adamas.lab.tasks import load
from adamas.lab.train import DivergedError, Listener
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.lab.train.options import Options
from adamas.lab.train.running import run

SCALED = ("quadratic", "chars-lstm", "sentiment", "speech", "cartpole")


def outcome(options: Options) -> str:
    try:
        summary = run(options, Listener(), write=False)
    except DivergedError:
        return "diverged"
    return f"{summary.value:.4g} ({'never' if summary.steps_to_target is None else summary.steps_to_target})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the learning-rate scales of the tasks are worth.")
    parser.add_argument("tasks", nargs="*", default=SCALED)
    parser.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    for name in arguments.tasks:
        task = load(name, arguments.data_dir)
        print(f"{name}: {task.metric} (steps to {task.target:g})")
        for optimizer in arguments.optimizers:
            spec = OPTIMIZERS[optimizer]
            for lr in dict.fromkeys((spec.lr, spec.usual_lr(task))):
                options = Options(name, arguments.data_dir, optimizer=optimizer, lr=lr, threads=arguments.threads)
                found = [outcome(replace(options, seed=seed)) for seed in range(arguments.seeds)]
                print(f"  {optimizer:9} {lr:6g}  {'  '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
