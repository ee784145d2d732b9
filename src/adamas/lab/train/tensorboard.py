"""Writes the events of a run to TensorBoard's event files, in the folder of the run. May import torch.utils.tensorboard."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from adamas.lab.inputs import InputError
from adamas.lab.train.records import Evaluation, Listener, Plan, Sample, Summary

FOLDER = "tensorboard"
WITHOUT_TENSORFLOW = "tensorboard.compat.notf"


def check() -> None:
    """Raise InputError if TensorBoard is missing."""
    if find_spec("tensorboard") is None:
        raise InputError("log", "needs tensorboard, which is not installed: pip install 'adamas[tensorboard]'")


class TensorBoard(Listener):
    """Writes samples and evaluations as scalars by step. ``tensorboard --logdir RUN`` shows them."""

    def __init__(self, run: Path) -> None:
        """Write nothing before the run begins."""
        self.run = run

    def on_start(self, plan: Plan) -> None:
        """Open an event file; steps of an earlier file that a resumed run repeats are hidden."""
        if "tensorflow" not in sys.modules:
            # If TensorFlow is installed, TensorBoard imports it to open a file, which takes seconds and prints messages. If
            # this module exists, TensorBoard opens the file by itself.
            sys.modules.setdefault(WITHOUT_TENSORFLOW, ModuleType(WITHOUT_TENSORFLOW))
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.run / FOLDER), purge_step=plan.done + 1 if plan.done else None)

    def on_sample(self, sample: Sample) -> None:
        """Write the measurements of a step."""
        for name in ("loss", "learning_rate", "grad_norm", "update_ratio"):
            self.writer.add_scalar(f"train/{name}", getattr(sample, name), sample.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Write the metrics."""
        for name, value in evaluation.metrics.items():
            part = "validation" if name.startswith("validation_") else "test"
            self.writer.add_scalar(f"{part}/{name.removeprefix(f'{part}_')}", value, evaluation.step)
        self.writer.flush()

    def on_end(self, summary: Summary) -> None:
        """Close the file."""
        self.writer.close()
