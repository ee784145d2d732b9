"""Stand-ins for training stacks that are not installed: what each of them does around an optimizer, and nothing else.

``stand_in`` puts them under the names of the libraries, for the blocks of docs/pytorch.md and docs/distributed.md. A library
that is installed is used itself. Written after transformers 5.24, accelerate 1.15, lightning 2.6, torchtitan 0.3,
stable-baselines3 2.9 and timm 1.0.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Saves what is sharded."""
    states = get_state_dict(model, optimizer)
    dcp.save(dict(zip(("model", "optimizer"), states, strict=True)), checkpoint_id=folder)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads what ``save`` saved."""
    states = get_state_dict(model, optimizer)
    dcp.load(dict(zip(("model", "optimizer"), states, strict=True)), checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=states[0], optim_state_dict=states[1])


class TrainingArguments(SimpleNamespace):
    """Of transformers: options by name."""

    def __init__(self, output_dir: str, **options: Any) -> None:
        super().__init__(output_dir=output_dir, **{"max_grad_norm": 1.0, "max_steps": 3, **options})


class Trainer:
    """Of transformers: it makes a scheduler where it is given none, which sets the rate at once and after every step.

    With ``fsdp=True`` accelerate shards the model, and ``create_scheduler`` gets accelerate's optimizer.
    """

    def __init__(
        self, model: nn.Module, args: Any, train_dataset: Any, optimizers: tuple[Any, Any] = (None, None)
    ) -> None:
        self.model, self.args, self.dataset = model, args, train_dataset
        self.optimizer, self.lr_scheduler = optimizers
        self.is_sharded = getattr(args, "fsdp", False)
        if self.is_sharded and optimizers != (None, None):
            raise RuntimeError("Passing `optimizers` is not allowed if PyTorch FSDP is enabled.")
        self.state = SimpleNamespace(log_history=[])

    def create_scheduler(self, num_training_steps: int) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        if self.is_sharded:
            self.create_optimizer()  # type: ignore[attr-defined]
            accelerator = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin())
            self.model, self.optimizer = accelerator.prepare(self.model, self.optimizer)
        self.lr_scheduler = self.lr_scheduler or self.create_scheduler(self.args.max_steps)
        done = 0
        if resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
            done = int(folder.name.removeprefix("checkpoint-"))
            if self.is_sharded:
                load(folder, self.model, self.optimizer)
            else:
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
            if step + 1 in (self.args.max_steps, getattr(self.args, "save_steps", None)):
                self._save(Path(self.args.output_dir) / f"checkpoint-{step + 1}")

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_sharded:
            save(folder, self.model, self.optimizer)
        else:
            torch.save(self.model.state_dict(), folder / "model.pt")
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")


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

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self.accelerator.sync_gradients:
            self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.accelerator.sync_gradients:
            self.optimizer.zero_grad(set_to_none)


class FullyShardedDataParallelPlugin(SimpleNamespace):
    """Of accelerate: options by name."""


class Accelerator:
    """Of accelerate, as on two processes."""

    num_processes = 2

    def __init__(self, gradient_accumulation_steps: int = 1, fsdp_plugin: Any = None, **options: Any) -> None:
        self.every, self.batches, self.sync_gradients = gradient_accumulation_steps, 0, True
        self.is_sharding = fsdp_plugin is not None
        self.prepared: tuple[Any, ...] = ()

    def prepare(self, *args: Any) -> tuple[Any, ...]:
        def wrapped(one: Any) -> Any:
            if isinstance(one, torch.optim.lr_scheduler.LRScheduler):
                return AcceleratedScheduler(one, self)
            return AcceleratedOptimizer(one, self) if isinstance(one, torch.optim.Optimizer) else one

        self.prepared = tuple(map(wrapped, args))
        if self.is_sharding:
            self._shard(*self.prepared)
        return self.prepared

    def _shard(self, model: nn.Module, optimizer: AcceleratedOptimizer) -> None:
        """The parameters in the groups are exchanged for small tensors, so that nothing keeps them, and these for DTensors."""
        names = {p: name for name, p in model.named_parameters()}
        for group in optimizer.param_groups:
            group["names"] = [names[p] for p in group["params"]]
            for i in range(len(group["params"])):
                group["params"][i] = torch.empty(1)
        fully_shard(model)
        sharded = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [sharded[name] for name in group.pop("names")]

    def save_state(self, folder: str) -> None:
        save(Path(folder), *self.prepared)

    def load_state(self, folder: str) -> None:
        load(Path(folder), *self.prepared)

    @contextmanager
    def accumulate(self, model: nn.Module) -> Iterator[None]:
        self.batches += 1
        self.sync_gradients = self.batches % self.every == 0
        yield

    def backward(self, loss: Tensor) -> None:
        (loss / self.every).backward()


class LightningModule(nn.Module):
    """Of lightning."""


class ModelParallelStrategy:
    """Of lightning: the mesh, on which a module shards itself."""

    def __init__(self, data_parallel_size: int, tensor_parallel_size: int) -> None:
        self.sizes = data_parallel_size, tensor_parallel_size

    def setup(self, module: Any) -> None:
        module.device_mesh = init_device_mesh("cpu", self.sizes, mesh_dim_names=("data_parallel", "tensor_parallel"))
        module.configure_model()


class LightningTrainer:
    """Of lightning: a step's closure computes the gradients, and schedulers are stepped after each batch or epoch."""

    def __init__(self, max_epochs: int = 1, strategy: Any = None, **options: Any) -> None:
        self.max_epochs, self.strategy = max_epochs, strategy

    def fit(self, module: Any, loader: Any) -> None:
        if self.strategy is not None:
            self.strategy.setup(module)
        found = module.configure_optimizers()
        optimizer, config = (found["optimizer"], found["lr_scheduler"]) if isinstance(found, dict) else (found, None)
        self.module, self.optimizers = module, [optimizer]
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

    def save_checkpoint(self, path: str) -> None:
        save(Path(path), self.module, self.optimizers[0])


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


@dataclass(kw_only=True, slots=True)
class ParamGroupConfig:
    """Of torchtitan."""

    pattern: str
    optimizer_name: str
    optimizer_kwargs: dict[str, Any]


class OptimizersContainer:
    """Of torchtitan: a state dict has the entries of each parameter and the options of its group under its name."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        owner: ClassVar[Any]
        param_groups: list[ParamGroupConfig]

        def build(self, *, model_parts: list[nn.Module]) -> Any:
            return self.owner(self, model_parts=model_parts)

    def __init_subclass__(cls) -> None:
        cls.Config.owner = cls

    def __init__(self, config: Any, *, model_parts: list[nn.Module]) -> None:
        (group,), (model,) = config.param_groups, model_parts
        named = {name: p for name, p in model.named_parameters() if re.search(group.pattern, name)}
        names = {"params": list(named.values()), "param_names": list(named)}
        kind = self._resolve_optimizer_factory(group.optimizer_name)  # type: ignore[attr-defined]
        self.optimizer = kind([{**names, "fused": True, "foreach": False, **group.optimizer_kwargs}])

    def __iter__(self) -> Iterator[Any]:
        return iter([self.optimizer])

    def state_dict(self) -> dict[str, Any]:
        if not self.optimizer.state:
            (group,) = self.optimizer.param_groups
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
            before, group["lr"] = group["lr"], 0.0
            self.optimizer.step()
            group["lr"] = before
            self.optimizer.zero_grad()
        saved = self.optimizer.state_dict()
        (group,) = saved["param_groups"]
        flat = {}
        for i, name in zip(group["params"], group["param_names"], strict=True):
            flat |= {f"state.{name}.{key}": value for key, value in saved["state"][i].items()}
            options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            flat |= {f"param_groups.{name}.{key}": value for key, value in options.items()}
        return flat

    def load_state_dict(self, flat: dict[str, Any]) -> None:
        (group,) = self.optimizer.param_groups
        names = group["param_names"]
        state = {
            i: {key: flat[f"state.{name}.{key}"] for key in self.optimizer.state[p]}
            for i, (name, p) in enumerate(zip(names, group["params"], strict=True))
        }
        options = {key: flat[f"param_groups.{names[0]}.{key}"] for key in group if key not in ("params", "param_names")}
        self.optimizer.load_state_dict({"state": state, "param_groups": [{"params": list(state), **options}]})


class LRSchedulersContainer:
    """Of torchtitan: after loading, each scheduler computes its rates."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        pass

    schedulers: list[Any]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.schedulers[0].last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for scheduler in self.schedulers:
            scheduler.last_epoch = state_dict["last_epoch"]
            scheduler._step_count = scheduler.last_epoch + 1
            scheduler._last_lr = scheduler.get_lr()


_STAND_INS: dict[str, dict[str, Any]] = {
    "transformers": {"Trainer": Trainer, "TrainingArguments": TrainingArguments},
    "accelerate": {"Accelerator": Accelerator, "FullyShardedDataParallelPlugin": FullyShardedDataParallelPlugin},
    "lightning": {"LightningModule": LightningModule, "Trainer": LightningTrainer},
    "lightning.pytorch": {},
    "lightning.pytorch.strategies": {"ModelParallelStrategy": ModelParallelStrategy},
    "torchtitan": {},
    "torchtitan.components": {},
    "torchtitan.components.optimizer": {
        "LRSchedulersContainer": LRSchedulersContainer,
        "OptimizersContainer": OptimizersContainer,
        "ParamGroupConfig": ParamGroupConfig,
    },
    "stable_baselines3": {"PPO": PPO},
    "timm": {},
    "timm.optim": {"param_groups_layer_decay": param_groups_layer_decay},
}


def _shard_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the real accelerate shard on a CPU too, where it ignores the plugin."""
    from accelerate import state  # type: ignore[import-not-found, unused-ignore]
    from accelerate.utils import DistributedType  # type: ignore[import-not-found, unused-ignore]

    begin = state.AcceleratorState.__init__

    def begin_sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    monkeypatch.setattr(state.AcceleratorState, "__init__", begin_sharded)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes those that are not installed importable for the length of a test."""
    missing = {name for name in _STAND_INS if "." not in name and importlib.util.find_spec(name) is None}
    for name, members in _STAND_INS.items():
        if name.split(".")[0] in missing:
            module = ModuleType(name)
            module.__dict__.update(members)
            monkeypatch.setitem(sys.modules, name, module)
    if "accelerate" not in missing:
        _shard_on_cpu(monkeypatch)
