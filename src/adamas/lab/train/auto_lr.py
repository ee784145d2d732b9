"""The learning rate of ``lr="auto"``: a sweep with the network, the data and the optimizer of a run.

May import PyTorch, adamas.torch, adamas.lab.tasks and the modules of adamas.lab.train that set up training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import adamas.torch
from adamas.lab.tasks import load
from adamas.lab.train.options import Options
from adamas.lab.train.repeatable import seed_and_threads
from adamas.lab.train.training import make_model, make_optimizer
from adamas.schedules import constant
from adamas.torch import LRFinding


def find_for_task(options: Options, **sweep: Any) -> LRFinding:
    """Look for a learning rate with the network, the data and the optimizer of a training run.

    The sweep begins with the initial weights of the run. ``lr``, ``schedule`` and ``epochs`` of the options have no effect.

    Args:
        options: the options of the run.
        sweep: ``low``, ``high``, ``steps`` and ``sweeps`` of ``adamas.torch.find_lr``, if not its defaults.

    Returns:
        See ``adamas.torch.find_lr``.

    Raises:
        InputError: the data cannot be used.
        LRFindingError: no rate can be found; the message says why.
    """
    task = load(options.task, options.data_dir)
    if options.has_plateau:
        task = task.with_validation()  # leaves out what the run will leave out
    size = options.batch_size or task.batch_size

    def batches(seed: int) -> Iterator[Any]:
        return task.batches(size, torch.Generator().manual_seed(seed))

    def loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return task.loss(model, *batch)

    with seed_and_threads(options.seed, options.threads or task.threads):
        network = make_model(task, options)
        rate = constant() * (options.spec.usual_lr(task) or 1e-3)
        optimizer = make_optimizer(network, options, rate)
        return adamas.torch.find_lr(network, optimizer, loss, batches, seed=options.seed, **sweep)
