"""Stand-ins for training stacks that are not installed: what each of them does around an optimizer, and nothing else.

``stand_in`` puts them under the names of the libraries, for the blocks of docs/pytorch.md. A library that is installed is used
itself. Written after transformers 5.24, accelerate 1.15, lightning 2.6, stable-baselines3 2.9 and timm 1.0.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class TrainingArguments(SimpleNamespace):
    """Of transformers: options by name."""

    def __init__(self, output_dir: str, **options: Any) -> None:
        super().__init__(output_dir=output_dir, **{"max_grad_norm": 1.0, "max_steps": 3, **options})


class Trainer:
    """Of transformers: it makes a scheduler where it is given none, which sets the rate at once and after every step."""

    def __init__(self, model: nn.Module, args: Any, train_dataset: Any, optimizers: tuple[Any, Any]) -> None:
        self.model, self.args, self.dataset = model, args, train_dataset
        self.optimizer, self.lr_scheduler = optimizers
        self.state = SimpleNamespace(log_history=[])

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        self.lr_scheduler = self.lr_scheduler or torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        done = 0
        if resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
            done = int(folder.name.removeprefix("checkpoint-"))
            self.model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
            self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
            self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
        for step in range(done, self.args.max_steps):
            self.model.zero_grad()
            item = self.dataset[step % len(self.dataset)]
            self.model(**{name: value[None] for name, value in item.items()})["loss"].backward()
            if self.args.max_grad_norm > 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
            self.optimizer.step()
            self.state.log_history.append({"step": step + 1, "learning_rate": self.lr_scheduler.get_last_lr()[0]})
            self.lr_scheduler.step()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.args.max_steps}"
        folder.mkdir(parents=True)
        for name in ("model", "optimizer", "scheduler"):
            source = self.lr_scheduler if name == "scheduler" else getattr(self, name)
            torch.save(source.state_dict(), folder / f"{name}.pt")


class AcceleratedScheduler:
    """Of accelerate: it steps the scheduler once for each process, and never while gradients accumulate."""

    def __init__(self, scheduler: Any, accelerator: Accelerator) -> None:
        self.scheduler, self.accelerator = scheduler, accelerator

    def step(self) -> None:
        if not self.accelerator.sync_gradients:
            self.scheduler._step_count += 1
            return
        for _ in range(self.accelerator.num_processes):
            self.scheduler.step()

    def get_last_lr(self) -> list[float]:
        rates: list[float] = self.scheduler.get_last_lr()
        return rates


class AcceleratedOptimizer(torch.optim.Optimizer):
    """Of accelerate: it loads the optimizer's own state into it at once, and waits while gradients accumulate."""

    def __init__(self, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
        self.optimizer, self.accelerator = optimizer, accelerator
        optimizer.load_state_dict(optimizer.state_dict())

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self.accelerator.sync_gradients:
            self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.accelerator.sync_gradients:
            self.optimizer.zero_grad(set_to_none)


class Accelerator:
    """Of accelerate, as on two processes."""

    num_processes = 2

    def __init__(self, gradient_accumulation_steps: int = 1, **options: Any) -> None:
        self.every, self.batches, self.sync_gradients = gradient_accumulation_steps, 0, True

    def prepare(self, *args: Any) -> tuple[Any, ...]:
        def wrapped(one: Any) -> Any:
            if isinstance(one, torch.optim.lr_scheduler.LRScheduler):
                return AcceleratedScheduler(one, self)
            return AcceleratedOptimizer(one, self) if isinstance(one, torch.optim.Optimizer) else one

        return tuple(map(wrapped, args))

    @contextmanager
    def accumulate(self, model: nn.Module) -> Iterator[None]:
        self.batches += 1
        self.sync_gradients = self.batches % self.every == 0
        yield

    def backward(self, loss: Tensor) -> None:
        (loss / self.every).backward()


class LightningModule(nn.Module):
    """Of lightning."""


class LightningTrainer:
    """Of lightning: a step's closure computes the gradients, and schedulers are stepped after each batch or epoch."""

    def __init__(self, max_epochs: int = 1, **options: Any) -> None:
        self.max_epochs = max_epochs

    def fit(self, module: Any, loader: Any) -> None:
        found = module.configure_optimizers()
        optimizer, config = (found["optimizer"], found["lr_scheduler"]) if isinstance(found, dict) else (found, None)
        for _ in range(self.max_epochs):
            for i, batch in enumerate(loader):

                def closure(batch: Any = batch, i: int = i) -> Tensor:
                    loss: Tensor = module.training_step(batch, i)
                    optimizer.zero_grad()
                    loss.backward()
                    return loss

                optimizer.step(closure)
                if config is not None and config["interval"] == "step":
                    config["scheduler"].step()


class PPO:
    """Of stable-baselines3: it builds the optimizer with a number for the rate, and sets it before each training."""

    def __init__(
        self, policy: str, env: Any, learning_rate: Any, n_steps: int, policy_kwargs: Any, **options: Any
    ) -> None:
        self.rate, self.n_steps = learning_rate, n_steps
        self.policy = nn.Linear(4, 2)
        self.policy.optimizer = policy_kwargs["optimizer_class"](  # type: ignore[assignment]
            self.policy.parameters(), lr=self.rate(1), **policy_kwargs.get("optimizer_kwargs", {})
        )

    def learn(self, total_timesteps: int) -> None:
        optimizer: Any = self.policy.optimizer
        for done in range(self.n_steps, total_timesteps + 1, self.n_steps):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(1 - done / total_timesteps)
            optimizer.zero_grad()
            self.policy(torch.ones(1, 4)).sum().backward()
            optimizer.step()


def param_groups_layer_decay(
    model: nn.Module, weight_decay: float = 0.05, layer_decay: float = 0.75
) -> list[dict[str, Any]]:
    """Of timm: each layer's share of the rate stands in its groups as ``lr_scale``, which timm's schedulers multiply."""
    layers = [layer for layer in model.children() if list(layer.parameters())]
    return [
        {
            "params": [p],
            "weight_decay": weight_decay if p.ndim > 1 else 0.0,
            "lr_scale": layer_decay ** (len(layers) - 1 - depth),
        }
        for depth, layer in enumerate(layers)
        for p in layer.parameters()
    ]


_STAND_INS: dict[str, dict[str, Any]] = {
    "transformers": {"Trainer": Trainer, "TrainingArguments": TrainingArguments},
    "accelerate": {"Accelerator": Accelerator},
    "lightning": {"LightningModule": LightningModule, "Trainer": LightningTrainer},
    "stable_baselines3": {"PPO": PPO},
    "timm": {},
    "timm.optim": {"param_groups_layer_decay": param_groups_layer_decay},
}


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes those that are not installed importable for the length of a test."""
    missing = {name for name in _STAND_INS if "." not in name and importlib.util.find_spec(name) is None}
    for name, members in _STAND_INS.items():
        if name.split(".")[0] in missing:
            module = ModuleType(name)
            module.__dict__.update(members)
            monkeypatch.setitem(sys.modules, name, module)
