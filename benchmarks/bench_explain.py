"""False alarms of ``optimizer.explain()``: the tasks of ``adamas.lab.tasks`` in their usual settings, over seeds.

    python benchmarks/bench_explain.py [TASK …] [--seeds 3] [--first-seed 0] [--steps 1000] [--optimizers adam]
        [--schedules constant one_cycle]

A run keeps every step, and counts as a false alarm if its explanation finds anything. A row has the task, the optimizer, the
schedule, the alarms, the runs, and what was found. Tasks whose data are not here are left out: MNIST is read from
``--data-dir``. The figures do not depend on the speed of the machine.

May import adamas.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import chain, islice, product, repeat
from pathlib import Path

import torch

from adamas.lab.inputs import InputError
from adamas.lab.tasks import TASKS, Task, load
from adamas.lab.train.named_schedules import SCHEDULES
from adamas.lab.train.optimizers import OPTIMIZERS
from adamas.step.explaining import Explanation


def explained(task: Task, optimizer: str, schedule: str, seed: int, steps: int) -> Explanation:
    """Trains the task's network with the optimizer's usual rate on a schedule, and explains the run."""
    torch.manual_seed(seed)
    model, spec = task.model(), OPTIMIZERS[optimizer]
    options = {**spec.arguments, "lr": spec.usual_lr(task) * SCHEDULES[schedule].over(steps), "watch": f"keep={steps}"}
    made = spec.load()([*model.named_parameters()], **options)
    shuffling = torch.Generator().manual_seed(seed)
    epochs = (task.batches(task.batch_size, shuffling) for _ in repeat(None))
    for batch in islice(chain.from_iterable(epochs), steps):
        made.zero_grad()
        loss = task.loss(model, *batch)
        loss.backward()
        made.step(loss=loss.item())
    found: Explanation = made.explain()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="How often explain() warns of a healthy run.")
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--optimizers", nargs="*", default=["adam"], choices=OPTIMIZERS)
    parser.add_argument("--schedules", nargs="*", default=["constant"], choices=SCHEDULES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    runs = alarms = 0
    for name in arguments.tasks:
        try:
            task = load(name, arguments.data_dir if name.startswith("mnist") else None)
        except InputError as error:
            print(f"{name} is left out: {error}")
            continue
        torch.set_num_threads(task.threads or 1)
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for optimizer, schedule in product(arguments.optimizers, arguments.schedules):
            found = [explained(task, optimizer, schedule, seed, arguments.steps) for seed in seeds]
            patterns = Counter(one.pattern for explanation in found for one in explanation.findings)
            said = ", ".join(f"{pattern} {count}" for pattern, count in patterns.items())
            count = sum(map(bool, found))
            runs, alarms = runs + len(found), alarms + count
            print(f"{name:12} {optimizer:9} {schedule:13} {count} of {len(found)}  {said}", flush=True)
    print(f"{alarms} false alarms in {runs} runs of {arguments.steps} steps")


if __name__ == "__main__":
    main()
