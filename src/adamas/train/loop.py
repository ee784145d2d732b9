"""The training loop and what surrounds it: build, train, evaluate, write.

May import PyTorch, safetensors, adamas.tasks and adamas.torch.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import adamas
import adamas.torch
from adamas.schedules import Plateau, Schedule
from adamas.tasks import Task, load
from adamas.train import folder
from adamas.train.curves import draw_curves
from adamas.train.interruption import Interruption
from adamas.train.options import Options
from adamas.train.records import DivergedError, Epoch, Listener, Plan, Progress, Summary
from adamas.train.repeatable import seed_and_threads

SECONDS_BETWEEN_REPORTS = 0.2
EVALUATION_BATCH = 1000


def run(options: Options, listener: Listener) -> Summary:
    """Do what ``options`` say and tell ``listener``; see ``adamas.train.fit``."""
    out = folder.choose_folder(options.out, options.task)
    task = load(options.task, options.data_dir)
    options, lr_found = _with_lr_found(options)
    with seed_and_threads(options.seed, options.threads or task.threads), Interruption() as interruption:
        training = Training(task, options, interruption)
        plan = Plan(
            task=task.name,
            description=task.description,
            optimizer=options.optimizer,
            learning_rate=options.learning_rate,
            schedule=options.schedule if options.plateau is None else f"{options.schedule} * {training.plateaus[-1]}",
            lr_found=lr_found,
            epochs=training.epochs,
            steps=training.steps,
            batch_size=training.batch_size,
            train_examples=len(task.train[0]),
            test_examples=len(task.test[0]),
            parameters=training.parameter_count,
            threads=torch.get_num_threads(),
            out=out,
        )
        folder.create(out, _configuration(options, plan, training))
        folder.write_metrics(out, [])
        listener.on_start(plan)
        for epoch in training.train(listener):
            folder.write_metrics(out, [asdict(row) for row in training.history])
            listener.on_epoch(epoch)
        test_loss, test_accuracy = training.evaluate()
        summary = Summary(
            task=task.name,
            optimizer=options.optimizer,
            lr=options.learning_rate,
            lr_found=lr_found,
            cuts=[row.cut for row in training.history if row.cut],
            test_accuracy=test_accuracy,
            test_loss=test_loss,
            epochs=len(training.history),
            steps=len(training.losses),
            train_seconds=training.train_seconds,
            optimizer_seconds=training.optimizer_seconds,
            parameters=training.parameter_count,
            state_bytes=_state_bytes(training.optimizer),
            interrupted=training.diverged_at is None and len(training.history) < training.epochs,
            diverged=training.diverged_at is not None,
            out=out,
        )
        weights = {name: tensor.contiguous() for name, tensor in training.model.state_dict().items()}
        folder.write(out / folder.MODEL, safetensors.torch.save(weights))
        folder.write(out / folder.CURVES, draw_curves(training.history, training.losses, training.rates, plan))
        folder.write(out / folder.SUMMARY, folder.to_json(asdict(summary), indent=2))
    if training.diverged_at is not None:
        raise DivergedError(training.diverged_at, summary)
    return summary


class Training:
    """A model, its optimizer and its data, and how far they have come."""

    def __init__(self, task: Task, options: Options, interruption: Interruption) -> None:
        """Make the model and the optimizer; the model's weights come from PyTorch's global generator."""
        self.task = task
        self.interruption = interruption
        self.epochs = options.epochs or task.epochs
        self.batch_size = min(options.batch_size or task.batch_size, len(task.train[0]))
        self.steps = self.epochs * math.ceil(len(task.train[0]) / self.batch_size)
        self.model = task.model()
        parameters = list(self.model.parameters())
        self.parameter_count = sum(parameter.numel() for parameter in parameters)
        optimizer_class = getattr(adamas.torch, options.member.class_name)
        self.rate: Schedule = options.rate(self.steps)
        self.plateaus = [part for part in self.rate.parts() if isinstance(part, Plateau)]
        arguments = {**options.optimizer_arguments(), "lr": self.rate}
        self.optimizer: torch.optim.Optimizer = optimizer_class(parameters, **arguments)
        self.usual_rate = options.member.lr
        self.shuffling = torch.Generator().manual_seed(options.seed)
        self.history: list[Epoch] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.train_seconds = 0.0
        self.optimizer_seconds = 0.0
        self.diverged_at: str | None = None

    def train(self, listener: Listener) -> Iterator[Epoch]:
        """Train and evaluate, epoch after epoch; end early at Ctrl-C or where the loss is no longer finite."""
        self.began = perf_counter()
        self.next_report = self.began + SECONDS_BETWEEN_REPORTS
        for number in range(1, self.epochs + 1):
            began = perf_counter()
            train_loss = self.train_epoch(number, listener)
            self.train_seconds += perf_counter() - began
            if train_loss is None:
                return
            test_loss, test_accuracy = self.evaluate()
            self.history.append(
                Epoch(
                    epoch=number,
                    step=len(self.losses),
                    learning_rate=self.rates[-1],
                    train_loss=train_loss,
                    test_loss=test_loss,
                    test_accuracy=test_accuracy,
                    train_seconds=self.train_seconds,
                    optimizer_seconds=self.optimizer_seconds,
                    cut=self.observe(test_loss, test_accuracy),
                )
            )
            yield self.history[-1]
            if self.interruption.requested:
                return

    def observe(self, test_loss: float, test_accuracy: float) -> str | None:
        """Show the plateaus the test loss, or the accuracy to those of mode "max"; return what they did and why."""
        cuts = []
        for plateau in self.plateaus:
            before = plateau.value
            if plateau.observe(test_accuracy if plateau.mode == "max" else test_loss) != before:
                cuts.append(plateau.history[-1])
        return "; ".join(cuts) or None

    def train_epoch(self, number: int, listener: Listener) -> float | None:
        """Go through the training data once; return the mean loss, or None where it was not finished."""
        total = 0.0
        for batch, (inputs, targets) in enumerate(self.batches(), start=1):
            if self.interruption.requested:
                return None
            loss = self.task.backpropagate(self.model, inputs, targets).item()
            rate: float = self.optimizer.param_groups[0]["lr"]
            if not math.isfinite(loss):
                self.diverged_at = (
                    f"the loss became {loss} in epoch {number}, batch {batch}, at a learning rate of {rate:.3g}: "
                    f"try a lower one, such as {min(rate / 10, self.usual_rate):.3g}"
                )
                return None
            before = perf_counter()
            self.optimizer.step()
            now = perf_counter()
            self.optimizer_seconds += now - before
            self.losses.append(loss)
            self.rates.append(rate)
            total += loss * len(targets)
            if now >= self.next_report:
                self.next_report = now + SECONDS_BETWEEN_REPORTS
                done = len(self.losses)
                seconds_left = (now - self.began) / done * (self.steps - done)
                listener.on_progress(Progress(number, done, loss, rate, seconds_left))
        return total / len(self.task.train[0])

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training data once, in random order; the last batch may be smaller."""
        inputs, targets = self.task.train
        for chosen in torch.split(torch.randperm(len(inputs), generator=self.shuffling), self.batch_size):
            yield inputs.index_select(0, chosen), targets.index_select(0, chosen)

    def evaluate(self) -> tuple[float, float]:
        """Return the mean loss and the share of right answers over the test data."""
        inputs, targets = self.task.test
        total, right = 0.0, 0
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(targets), EVALUATION_BATCH):
                wanted = targets[start : start + EVALUATION_BATCH]
                outputs = self.model(inputs[start : start + EVALUATION_BATCH])
                total += self.task.loss(outputs, wanted).item() * len(wanted)
                right += int((outputs.argmax(1) == wanted).sum())
        self.model.train()
        return total / len(targets), right / len(targets)


def _with_lr_found(options: Options) -> tuple[Options, str | None]:
    """The options with a number for ``lr="auto"``, and why it is that one."""
    if options.lr != "auto":
        return options, None
    from adamas.train.find_lr import find_for_task

    finding = find_for_task(options)
    return replace(options, lr=float(f"{finding.lr:.2g}")), str(finding)  # no digits that mean nothing


def _configuration(options: Options, plan: Plan, training: Training) -> dict[str, Any]:
    """All that is needed to repeat the run, with every default filled in."""
    defaults = training.optimizer.defaults
    return {
        **asdict(options),
        **{name: defaults[name] for name in (*options.member.options, *options.member.fixed)},
        "lr": options.learning_rate,
        "lr_found": plan.lr_found,
        "lr_schedule": {"text": repr(training.rate), "json": training.rate.to_json()},
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "threads": plan.threads,
        "out": plan.out,
        "adamas": adamas.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors that the optimizer keeps."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
