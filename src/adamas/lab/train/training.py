"""The training loop: a model, its optimizer, its data, and their progress.

May import PyTorch, adamas.lab.tasks, adamas.torch and the parts of adamas.lab.train that do not use files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import islice
from numbers import Real
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

import adamas.torch
from adamas.lab.inputs import InputError, choose
from adamas.lab.tasks import Task
from adamas.lab.train import measures
from adamas.lab.train.batch_norm import over_ranks
from adamas.lab.train.interruption import Interruption
from adamas.lab.train.named_schedules import plateaus
from adamas.lab.train.options import MOST_STEPS, Options
from adamas.lab.train.ranks import Applied, Ranks
from adamas.lab.train.records import Evaluation, Listener, Progress, Sample, Seconds, validation_name
from adamas.lab.train.repeatable import random_state, seed_step, set_random_state
from adamas.lab.train.run_checkpoint import fingerprint
from adamas.lab.train.watched import Watched
from adamas.rule.layout import LOW_BITS
from adamas.schedules import Plateau, Schedule
from adamas.step import watching
from adamas.step.evaluation import Evaluated
from adamas.step.stepping import Stepping

SECONDS_BETWEEN_REPORTS = 0.2
COLUMNS = frozenset(field.name for field in fields(Evaluation)) - {"metrics"}
SAMPLES = 200  # sampled steps of a run, which are measured in more detail
MEASURED_ONLY = watching.Options(every=MOST_STEPS - 1, keep=1)  # what an optimizer watches without ``watch``


@dataclass
class Position:
    """The progress of a run: what a simple loop would keep in local variables.

    ``batch`` counts the finished batches of the current ``epoch``, both from 0. The sums are of the loss since the last
    evaluation (over examples) and since the last sample (over steps), which was at the step ``sampled_at``.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    loss_sum: float = 0.0
    examples: int = 0
    sample_sum: float = 0.0
    sampled_at: int = 0


class Training:
    """A model, its optimizer, its data, and their progress."""

    def __init__(self, task: Task, options: Options, interruption: Interruption, ranks: Ranks | None = None) -> None:
        """Make the model and the optimizer; the initial weights come from PyTorch's global generator.

        Raises:
            InputError: the options do not suit the task, the machine or the ranks.
        """
        self.interruption, self.ranks = interruption, ranks or Ranks()
        self.device = find_device(self.ranks.device(options.device))
        self.is_choosing = task.is_choosing
        train, test, validation = map(self._moved, (task.train, task.test, task.validation))
        self.task = replace(task, train=train, test=test, validation=validation)
        self.epochs = options.epochs or task.epochs
        self.batch_size = options.batch_size or task.batch_size
        if task.train:
            self.batch_size = min(self.batch_size, len(task.train[0]))
        self.ranks.check(task, options.task_label, self.batch_size)
        self.steps_in_epoch = task.steps_in_epoch(self.batch_size)
        self.steps = self.epochs * self.steps_in_epoch
        self.eval_every = options.eval_every or task.eval_every
        self.sample_every = max(1, self.steps // SAMPLES)

        self.options, self.low_precision = options, options.precision == "bfloat16"
        self.model = self.new_model()
        self.network = cast(nn.Module, torch.compile(self.model)) if options.compile else self.model
        self.applied = Applied(self.network)
        self.shared = self.ranks.shared(self.applied)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.parameter_count = sum(parameter.numel() for parameter in self.model.parameters())

        self.has_test_loss = options.has_plateau and "test_loss" in self.evaluate()
        by_loss = task.mode == "min" or self.has_test_loss
        self.rate: Schedule = options.rate(self.steps, task, "min" if by_loss else "max")
        self.usual_rate = options.spec.usual_lr(task)
        self.plateaus = plateaus(self.rate)
        for plateau in self.plateaus:
            self.followed(plateau)
        # The optimizers of Adamas clip gradients themselves, and take schedules.
        self.clip = options.clip if isinstance(options.clip, float | int) and not options.spec.is_adamas else None
        watch = options.watched or MEASURED_ONLY
        self.optimizer = make_optimizer(self.model, options, self.rate, watch)
        self.scheduler = None if options.spec.is_adamas else adamas.torch.LRScheduler(self.optimizer, self.rate)

        self.measuring = (
            measures.OfWatch(self.optimizer)
            if options.spec.is_adamas and isinstance(self.optimizer, Stepping)
            else measures.OfWeights(self.parameters)
        )
        self.watched: Watched | None = None
        if options.watched is not None and isinstance(self.optimizer, Stepping):
            self.watched = Watched(self.optimizer, options.watched)
        self.shuffling = torch.Generator().manual_seed(options.seed)
        self.epoch_began_with = self.shuffling.get_state()
        self.at = Position()
        self.history: list[Evaluation] = []
        self.samples: list[Sample] = []
        self.seconds = dict.fromkeys((field.name for field in fields(Seconds)), 0.0)
        self.diverged_at: str | None = None
        if self.ranks.size > 1:
            self.ranks.check_data(self.data_fingerprint)

    def new_model(self) -> nn.Module:
        """Make the model; its weights come from PyTorch's global generator."""
        model = make_model(self.task, self.options).to(self.device)
        if self.ranks.size > 1:
            over_ranks(model)
        return model.to(torch.bfloat16) if self.low_precision else model

    @property
    def train_seconds(self) -> float:
        """The seconds of training, without evaluations."""
        return sum(seconds for part, seconds in self.seconds.items() if part != "evaluation")

    @property
    def finished(self) -> bool:
        """Whether all planned steps are done."""
        return self.at.step >= self.steps

    @cached_property
    def data_fingerprint(self) -> int:
        """A checksum of the training data."""
        return fingerprint(self.task.train)

    def train(self, listener: Listener) -> Iterator[Evaluation | None]:
        """Train until the end, until Ctrl-C, or until the loss is no longer finite.

        Yields:
            After each step: the evaluation that followed it, or None.
        """
        watch = measures.Stopwatch(self.device, self.seconds)
        began, began_at = perf_counter(), self.at.step
        next_report = began + SECONDS_BETWEEN_REPORTS
        while not self.finished:
            batches = self.task.batches(self.batch_size, self.shuffling)
            for batch in islice(batches, self.at.batch, None):
                watch.mark("data")
                if self.ranks.agreed("stop", self.interruption.requested):
                    return
                loss = self.step(batch, watch, listener)
                if self.diverged_at is not None:
                    return
                now = perf_counter()
                if now >= next_report:
                    next_report = now + SECONDS_BETWEEN_REPORTS
                    left = (now - began) / (self.at.step - began_at) * (self.steps - self.at.step)
                    listener.on_progress(Progress(self.epoch, self.at.step, loss, self.at.learning_rate, left))
                evaluation = self.evaluate_if_due(watch)
                if self.watched is not None and (evaluation is not None or self.watched.is_due(self.at.step)):
                    self.look(listener)
                yield evaluation
                watch.start()

    def look(self, listener: Listener) -> None:
        """Explain what was watched, if anything was."""
        if self.watched is not None:
            for line in self.watched.look(self.at.step):
                listener.on_finding(line)

    @property
    def epoch(self) -> int:
        """The epoch of the last step, from 1."""
        return -(-self.at.step // self.steps_in_epoch)

    def step(self, batch: tuple[Tensor, ...], watch: measures.Stopwatch, listener: Listener) -> float:
        """Train on one batch and return its loss; if it is not finite, set ``diverged_at`` and leave the weights unchanged."""
        if self.ranks.rank:  # rank 0 draws the numbers that one process does, whose states are in the checkpoint
            seed_step(self.options.seed, self.ranks.rank, self.at.step)
        loss, rate = self.gradient(batch, watch), float(self.optimizer.param_groups[0]["lr"])
        if not math.isfinite(loss):
            lower = min(rate / 10, self.usual_rate or rate)
            self.diverged_at = (
                f"the loss became {loss} in epoch {self.at.epoch + 1}, batch {self.at.batch + 1}, at a learning rate of "
                f"{rate:.3g}: try a lower one, such as {lower:.3g}"
            )
            return loss
        at = self.at
        at.step, at.batch, at.learning_rate = at.step + 1, at.batch + 1, rate
        if at.batch == self.steps_in_epoch:
            at.epoch, at.batch = at.epoch + 1, 0
            self.epoch_began_with = self.shuffling.get_state()
        examples = len(batch[0]) if batch else 1
        at.loss_sum, at.examples, at.sample_sum = (
            at.loss_sum + loss * examples,
            at.examples + examples,
            at.sample_sum + loss,
        )
        if at.step % self.sample_every == 0 or at.step == 1:
            self.measuring.begin()
            self.move(watch, loss)
            mean = at.sample_sum / (at.step - at.sampled_at)
            self.samples.append(Sample(at.step, mean, rate, *self.measuring.end()))
            at.sample_sum, at.sampled_at = 0.0, at.step
            listener.on_sample(self.samples[-1])
        else:
            self.move(watch, loss)
        return loss

    def gradient(self, batch: tuple[Tensor, ...], watch: measures.Stopwatch) -> float:
        """Compute the gradients of the mean loss of a batch of all ranks, and return the loss."""
        self.optimizer.zero_grad()
        part, weight = self.ranks.part(batch)
        with self.arithmetic():
            loss = self.shared(self.task.loss, *part)
            if weight != 1:
                loss = weight * loss
        watch.mark("forward")
        loss.backward()
        self.ranks.check_gradients(self.model)
        mean = self.ranks.total(loss.item()) / self.ranks.size
        watch.mark("backward")
        return mean

    def move(self, watch: measures.Stopwatch, loss: float) -> None:
        """Make the step of the optimizer."""
        watch.start()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if self.scheduler is None:
            cast(Any, self.optimizer).step(loss=loss)
        else:
            self.optimizer.step()
            self.scheduler.step()
        watch.mark("optimizer")

    def evaluate_if_due(self, watch: measures.Stopwatch) -> Evaluation | None:
        """Evaluate at the end of an epoch, or every ``eval_every`` steps, and at the end of the run."""
        at = self.at
        due = at.batch == 0 if self.eval_every is None else at.step % self.eval_every == 0
        if not due and not self.finished:
            return None
        watch.start()
        metrics = self.evaluate()
        watch.mark("evaluation")
        row = Evaluation(
            epoch=at.step / self.steps_in_epoch if at.batch else at.epoch,
            step=at.step,
            learning_rate=at.learning_rate,
            train_loss=at.loss_sum / at.examples,
            metrics=metrics,
            train_seconds=self.train_seconds,
            cut=self.observe(metrics),
        )
        at.loss_sum, at.examples = 0.0, 0
        self.history.append(row)
        return row

    def evaluate(self) -> dict[str, float]:
        """The metrics of the current weights, on the test data and on the validation data, if there are any. Of a task that
        chooses (``Task.choosing``), those of the validation data stand in the place of those of the test data."""
        self.network.eval()
        with self.evaluated(), torch.no_grad(), self.arithmetic():
            found = dict(self.ranks.metrics(self.task, self.task.test, self.evaluate_on))
            if self.task.validation and not self.is_choosing:
                validation = self.ranks.metrics(self.task, self.task.validation, self.evaluate_on)
                for name in map(validation_name, validation):
                    if name in found:
                        raise _taken(name, "a run with validation data")
                found |= {validation_name(name): value for name, value in validation.items()}
        self.network.train()
        if isinstance(self.applied, FSDPModule):
            self.applied.reshard()
        return found

    def evaluate_on(self, *data: Tensor) -> dict[str, float]:
        """The metrics of some data."""
        found = self.applied(self.task.evaluate, *data)
        if not isinstance(found, Mapping) or not all(map(_is_number, found.values())):
            raise InputError("task", f"has an evaluate that must return numbers by name, not {_described(found)}")
        if self.task.metric not in found:
            raise InputError("task", f"has the metric {self.task.metric!r}, but evaluate returns {', '.join(found)}")
        if taken := COLUMNS & set(found):
            raise _taken(min(taken), "every run")
        return {name: float(value) for name, value in found.items()}

    def rehearse(self) -> None:
        """Compute the loss of a first batch and the metrics with a second model, to find mistakes of a task before the run.

        Raises:
            InputError: the task returns something that cannot be used.
        """
        before, applied, network = random_state(), self.applied, self.network
        self.network = self.new_model()
        self.applied = Applied(self.network)
        try:
            self.evaluate()
            batch = next(self.task.batches(self.batch_size, torch.Generator().manual_seed(0)))
            with self.arithmetic():
                loss = self.applied(self.task.loss, *batch)
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise InputError(
                    "task", f"has a loss that must return a scalar with a gradient, not {_described(loss)}"
                )
            if self.ranks.parallel is not None:
                loss.backward()  # type: ignore[no-untyped-call]
                self.ranks.check_gradients(self.network)
        finally:
            self.applied, self.network = applied, network
            set_random_state(before)

    def observe(self, figures: Mapping[str, float]) -> str | None:
        """Let the plateaus observe the metrics; return the change of the next step's rate, with the reasons."""
        step, reasons = self.at.step, []
        before = self.rate(step)
        for plateau in self.plateaus:
            factor = plateau.value
            if plateau.observe(figures[self.followed(plateau)]) != factor:
                reasons.append(plateau.history[-1].partition(", ")[2])  # what precedes it are the factors
        if not reasons:
            return None
        return f"learning rate {before:.3g} → {self.rate(step):.3g} from step {step + 1:,}: {'; '.join(reasons)}"

    def followed(self, plateau: Plateau) -> str:
        """The name of the metric that a plateau observes: the main one if it has the same mode, else the loss; of the
        validation data, if there are any."""
        if plateau.mode == self.task.mode:
            name = self.task.metric
        elif plateau.mode == "min" and self.has_test_loss:
            name = "test_loss"
        else:
            problem = (
                f"has the mode {plateau.mode}, but {self.task.metric} has the mode {self.task.mode}: give it that mode"
            )
            raise InputError("plateau", problem)
        return validation_name(name) if self.task.validation and not self.is_choosing else name

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The context that sets the precision of the network."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.low_precision else nullcontext()

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """A context with the weights for evaluation, if the optimizer has others for training.

        Those of training are restored to the bit, so that a run does not depend on when it is evaluated.
        """
        optimizer = getattr(self, "optimizer", None)  # none is there for the evaluation that a plateau begins with
        if not isinstance(optimizer, Evaluated):
            yield
            return
        lows = (state.get(LOW_BITS) for state in optimizer.state.values())
        weights = [*self.parameters, *(low for low in lows if low is not None)]
        with torch.no_grad():
            kept = [x.clone() for x in weights]
            optimizer.eval()
            try:
                yield
            finally:
                optimizer.train()
                for x, before in zip(weights, kept, strict=True):
                    x.copy_(before)

    def weights(self) -> dict[str, Any]:
        """The state dict of the model, with whole tensors on rank 0."""
        weights: dict[str, Any] = self.ranks.gathered(self.model.state_dict())
        return weights

    def state(self) -> dict[str, Any]:
        """Everything needed to resume, as tensors and plain values, on rank 0. All ranks call it together."""
        return {
            "data": self.data_fingerprint,
            "model": self.weights(),
            "optimizer": self.ranks.gathered(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "random": random_state(),
            "shuffling": self.epoch_began_with,
            "at": asdict(self.at),
            "history": [row.row() for row in self.history],
            "samples": [asdict(sample) for sample in self.samples],
            "seconds": dict(self.seconds),
            "watched": None if self.watched is None else self.watched.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of another run.

        Raises:
            InputError: it had another model, optimizer or data; names ``resume``.
        """
        if self.steps < state["at"]["step"]:
            done = state["at"]["step"] / self.steps_in_epoch
            raise InputError("epochs", f"is {self.epochs}, but the run has done {done:g} already: give more")
        if state["data"] != self.data_fingerprint:
            problem = "was trained on different data: give the data_dir that it began with"
            raise InputError("resume", problem, other="data_dir")
        try:
            self.model.load_state_dict(self.ranks.placed(state["model"], self.model.state_dict()))
        except RuntimeError as error:
            raise InputError("resume", f"has another model: {' '.join(str(error).split())}") from error
        try:
            self.optimizer.load_state_dict(self.placed(state["optimizer"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("resume", f"has another optimizer: {' '.join(str(error).split())}") from error
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.epoch_began_with = state["shuffling"]
        self.shuffling.set_state(self.epoch_began_with)
        self.at = Position(**state["at"])
        self.history = [Evaluation.from_row(row) for row in state["history"]]
        self.samples = [Sample(**sample) for sample in state["samples"]]
        self.seconds.update(state["seconds"])
        if self.watched is not None:
            self.watched.load_state(state.get("watched"))
        set_random_state(state["random"])

    def placed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict of the optimizer with DTensors where the weights are DTensors."""
        entries = {
            key: self.ranks.placed(entry, dict.fromkeys(entry, self.parameters[key])) if isinstance(key, int) else entry
            for key, entry in state["state"].items()
        }
        return {**state, "state": entries}

    def _moved(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device) for tensor in tensors)


def _taken(name: str, where: str) -> InputError:
    """The error for a metric whose name has another meaning."""
    return InputError("task", f"has an evaluate that returns {name!r}, a name that {where} uses: choose another name")


def _described(value: Any) -> str:
    """A value in one line."""
    text = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else " ".join(repr(value).split())
    return text[:200]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def find_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        InputError: this machine does not have it.
    """
    why = ""
    try:
        device = torch.device(name)
        try:
            torch.empty(1, device=device).item()
        except NotImplementedError:  # its message lists everything that PyTorch was built for
            raise
        except (RuntimeError, AssertionError) as error:
            why = f" ({str(error).splitlines()[0].partition('. ')[0]})"
            raise
    except (RuntimeError, AssertionError) as error:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        there = "cpu" if accelerator is None else f"cpu or {accelerator.type}"
        raise InputError("device", f"{name!r} cannot be used here{why}: give {there}") from error
    return device


def make_model(task: Task, options: Options) -> nn.Module:
    """Make the network of the task that the options choose."""
    if options.model is None:
        return task.model()
    if not task.models:
        raise InputError("model", f"is not an option of {options.task_label}, which has one network: leave it out")
    return task.models[choose("model", options.model, task.models)]()


def make_optimizer(
    model: nn.Module, options: Options, rate: Schedule, watch: watching.Options | None = None
) -> torch.optim.Optimizer:
    """Make the optimizer. One of another library gets the rate as a number, no names of the weights and no ``watch``.

    Raises:
        InputError: its class refuses the arguments.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    arguments = options.optimizer_arguments()
    try:
        optimizer: torch.optim.Optimizer
        if options.spec.takes_matrices:
            of_groups = {name: value for name, value in arguments.items() if name in ("weight_decay", "stacks", "eps")}
            groups = adamas.torch.matrix_groups(model, **of_groups)
            optimizer = options.spec.load()(groups, lr=rate, watch=watch, **arguments)
        elif options.spec.keeps_norms:
            kinds = [[one for one in named if (one[1].ndim >= 2) == is_kept] for is_kept in (True, False)]
            given = [{"params": kind, "keep_norm": not i} for i, kind in enumerate(kinds) if kind]
            optimizer = options.spec.load()(given, lr=rate, watch=watch, **arguments)
        elif options.spec.is_adamas:
            optimizer = options.spec.load()(named, lr=rate, watch=watch, **arguments)
        else:
            optimizer = options.spec.load()([weight for _, weight in named], lr=rate.unit, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            "optimizer", f"{options.optimizer} cannot be created: {' '.join(str(error).split())}"
        ) from error
    return optimizer
