"""A PyTorch learning-rate scheduler: schedules for optimizers of any library, and for trainers that require a scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..schedules import Schedule
from ..schedules.plateau import Observed
from ..step.scheduled import refuse_lr_scale
from .optimizer import Optimizer


def _is_query(optimizer: torch.optim.Optimizer) -> bool:
    """Whether all learning rates and gradients are 0: ``torch.distributed.checkpoint`` creates the state by such a step."""
    if any(group["lr"] != 0 for group in optimizer.param_groups):
        return False
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return not any(gradient.layout != torch.strided or bool(gradient.any()) for gradient in gradients)


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Sets the learning rate of any optimizer by a schedule, or reports the learning rate of an ``adamas.torch`` optimizer.

    **With a schedule**, for optimizers of other libraries:

        >>> import torch, adamas.torch
        >>> from adamas.schedules import cosine, warmup
        >>> weights = [torch.nn.Parameter(torch.zeros(1))]
        >>> optimizer = torch.optim.SGD(weights, lr=0.1)
        >>> scheduler = adamas.torch.LRScheduler(optimizer, warmup(10).then(cosine(90)))
        >>> for _ in range(5):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]

    A factor is multiplied by the learning rate of each group; a rate (``0.1 * cosine(90)``) is used as it is. If the optimizer
    skipped its step (GradScaler found an overflow), ``step()`` changes nothing, except before the optimizer's first step.

    It may be created and loaded before or after the optimizer's state is loaded. Its state has the number of steps and the
    observations of its schedule. The schedule itself is not saved: the one given here is used.

    **Without a schedule**, for trainers that require a scheduler. The optimizers of ``adamas.torch`` take a schedule for
    ``lr`` and need no scheduler. This one reports their learning rates: ``get_last_lr()`` returns those at the last call of
    ``step()``. It never changes the optimizer, however often ``step()`` is called and whatever is loaded.

        >>> optimizer = adamas.torch.SGD(weights, lr=0.1 * warmup(10).then(cosine(90)))
        >>> scheduler = adamas.torch.LRScheduler(optimizer)
        >>> for _ in range(5):
        ...     weights[0].grad = torch.ones(1)
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        schedule: a schedule for all groups, or a list with one for each group; None to report the optimizer's learning rate.
        last_epoch: the number of steps so far, minus 1; as in PyTorch.

    Raises:
        TypeError: ``schedule`` is not a schedule, or is None and the optimizer is not one of ``adamas.torch``; or neither the
            optimizer nor one that it wraps has hooks.
        ValueError: the list has another length than the groups, the optimizer has a schedule for its ``lr`` already, or a
            group has an ``lr_scale``, which only the schedulers of timm read.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | Sequence[Schedule] | None = None,
        last_epoch: int = -1,
    ) -> None:
        self.schedules = _checked(optimizer, schedule)  # empty: the optimizer's own rate is reported
        # Whether the optimizer has stepped since the last step; None before its first step.
        self._moved: bool | None = None
        # Whether this was loaded and has not stepped since: then a later load of the optimizer changes nothing.
        self._resumed = False
        if self.schedules:
            super().__init__(optimizer, last_epoch)
        else:
            # PyTorch's constructor would wrap the optimizer's step and set "initial_lr" in its groups. That is saved with the
            # optimizer, and if it is the 0 at which a warmup begins, PyTorch's schedulers continue with a rate of 0.
            self.optimizer, self.last_epoch, self._step_count = optimizer, last_epoch, 0
            self.base_lrs = self.get_lr()
            self.step()
        self._attach()

    def _attach(self) -> None:
        """Register hooks on the optimizer and on its observed factors, without keeping any of them alive."""
        me = ref(self)

        def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            scheduler, overflow = me(), getattr(optimizer, "found_inf", None)
            if scheduler is not None and (overflow is None or float(overflow) == 0) and not _is_query(optimizer):
                scheduler._moved = True

        def after_load(optimizer: torch.optim.Optimizer) -> None:
            scheduler = me()
            if scheduler is not None and (scheduler._resumed or not scheduler.schedules):
                scheduler._write()

        for part in self._observed():
            part.tell(self)
        # A wrapper of an optimizer may have no hooks.
        layers = _layers(self.optimizer)
        hooked = next((layer for layer in layers if hasattr(layer, "_optimizer_load_state_dict_post_hooks")), None)
        if hooked is None:
            raise TypeError(
                f"LRScheduler: {type(self.optimizer).__name__} has no hooks: its constructor has to call that of "
                "torch.optim.Optimizer"
            )
        if self.schedules:
            hooked.register_step_post_hook(after_step)
        hooked.register_load_state_dict_post_hook(after_load)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step. Call it after each step of the optimizer; see ``torch.optim.lr_scheduler``."""
        if not self.schedules:
            self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
            self._step_count += 1
            self._write()
            return
        if self._moved is False and epoch is None:
            return
        super().step(epoch)
        self._resumed = False
        if self._moved:
            self._moved = False

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the current step, one for each group."""
        if not self.schedules:
            return [float(group["lr"]) for group in self.optimizer.param_groups]
        rates: list[float | Tensor] = []
        for i, group in enumerate(self.optimizer.param_groups):
            schedule = self.schedules[min(i, len(self.schedules) - 1)]
            base = 1.0 if schedule.is_rate else group.setdefault("initial_lr", group["lr"])
            rates.append(base * schedule(self.last_epoch))
        return rates

    def _is_active(self) -> bool:
        """Whether the learning rates are those that this scheduler has set; not if another one of a SequentialLR is active."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return rates == [float(rate) for rate in self.get_last_lr()]

    def on_observation(self) -> None:
        """Set the groups' learning rates to those of the current step; called when a ``Plateau`` has changed."""
        if self._is_active():
            self._write()

    def _write(self) -> None:
        if self.schedules:
            for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(float(rate))
                else:
                    group["lr"] = rate
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _observed(self) -> list[Observed]:
        return [part for schedule in self.schedules for part in schedule.parts() if isinstance(part, Observed)]

    def state_dict(self) -> dict[str, Any]:
        """The number of steps so far, and the observations of the schedule."""
        return {
            "last_epoch": self.last_epoch,
            "active": self._is_active(),
            "plateaus": [part.state_dict() for part in self._observed()],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that ``state_dict`` returned, and set the learning rates if it did so then.

        Of the state of another scheduler of PyTorch it takes the number of steps.
        """
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        self._moved = False if self.last_epoch > 0 else None
        self._resumed = state_dict.get("active", True)
        for part, state in zip(self._observed(), state_dict.get("plateaus", []), strict=False):
            part.load_state_dict(state)
        if self._resumed:
            self._write()


def _layers(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizer and those that it wraps (as in accelerate, Lookahead, ZeroRedundancyOptimizer), the outermost first."""
    layers = [optimizer]
    for layer in layers:  # which grows
        inside = [value for value in vars(layer).values() if isinstance(value, torch.optim.Optimizer)]
        layers += [one for one in inside if not any(one is known for known in layers)]
    return layers


def _checked(optimizer: torch.optim.Optimizer, schedule: Schedule | Sequence[Schedule] | None) -> list[Schedule]:
    """The schedules as a list: one for all groups, one for each group, or none to report the optimizer's learning rate.

    Raises:
        TypeError, ValueError: see ``LRScheduler``.
    """
    ours = [layer for layer in _layers(optimizer) if isinstance(layer, Optimizer)]
    if schedule is None:
        if not ours:
            raise TypeError(
                f"LRScheduler: {type(optimizer).__name__} has no schedule that could be followed, as those of adamas.torch "
                "have: give one as schedule="
            )
        return []
    given = list(schedule) if isinstance(schedule, list | tuple) else [schedule]
    schedules = [one for one in given if isinstance(one, Schedule)]
    if len(schedules) < len(given):
        raise TypeError(f"LRScheduler: schedule must be a schedule of adamas.schedules, not {schedule!r}")
    if len(schedules) not in (1, len(optimizer.param_groups)):
        raise ValueError(
            f"LRScheduler: {len(schedules)} schedules for {len(optimizer.param_groups)} groups: give one, or one each"
        )
    if any("lr" in own for one in ours for own in one.schedules):
        raise ValueError(
            "LRScheduler: the optimizer has a schedule for its lr already: leave it to one of the two. LRScheduler(optimizer) "
            "follows the optimizer's own"
        )
    for i, group in enumerate(optimizer.param_groups):
        refuse_lr_scale(group, schedules[min(i, len(schedules) - 1)])
    return schedules
