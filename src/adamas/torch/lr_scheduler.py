"""Schedules for optimizers of any library: a scheduler as ``torch.optim`` has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..schedules import Schedule
from ..schedules.plateau import Observed


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Sets the learning rate of an optimizer by a schedule; for optimizers of other libraries.

    (Those of ``adamas.torch`` take a schedule for ``lr`` and need no scheduler.)

        >>> import torch, adamas.torch
        >>> from adamas.schedules import cosine, warmup
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = adamas.torch.LRScheduler(optimizer, warmup(10).then(cosine(90)))
        >>> for _ in range(5):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]

    A factor is multiplied by the rate that each group was given; a rate (``0.1 * cosine(90)``) is taken as it is. After a
    step of the optimizer that did not happen (GradScaler found an overflow) ``step()`` changes nothing.

    It may be built and loaded before or after the optimizer's state is loaded. Its state is the number of steps, and what
    its schedule has observed: the schedule is the one given here, also where it was another one when the state was saved.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        schedule: for all groups, or a list of one for each.
        last_epoch: how many steps were done, minus 1; as in PyTorch.

    Raises:
        TypeError: what was given is no schedule.
        ValueError: the list has another length than the groups.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule | list[Schedule], last_epoch: int = -1
    ) -> None:
        schedules = schedule if isinstance(schedule, list | tuple) else [schedule]
        if not all(isinstance(one, Schedule) for one in schedules):
            raise TypeError(f"LRScheduler: schedule must be a schedule of adamas.schedules, not {schedule!r}")
        if len(schedules) > 1 and len(schedules) != len(optimizer.param_groups):
            raise ValueError(
                f"LRScheduler: {len(schedules)} schedules for {len(optimizer.param_groups)} groups: give one, or one each"
            )
        self.schedules = list(schedules)
        self._moved: bool | None = None  # whether the optimizer did since the last step; None before it first does
        super().__init__(optimizer, last_epoch)
        for part in self._observed():
            part.tell(self)
        optimizer.register_step_post_hook(self._after_step)
        optimizer.register_load_state_dict_post_hook(lambda _: self.on_observation())

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or float(overflow) == 0:
            self._moved = True

    def step(self, epoch: int | None = None) -> None:
        """Goes one step on, to be called after each step of the optimizer; see ``torch.optim.lr_scheduler``."""
        if self._moved is False and epoch is None:
            return
        super().step(epoch)
        if self._moved:
            self._moved = False

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the present step, one for each group."""
        rates: list[float | Tensor] = []
        for i, group in enumerate(self.optimizer.param_groups):
            schedule = self.schedules[min(i, len(self.schedules) - 1)]
            base = 1.0 if schedule.is_rate else group.setdefault("initial_lr", group["lr"])
            rates.append(base * schedule(self.last_epoch))
        return rates

    def on_observation(self) -> None:
        """Makes the groups' rates those of the present step; called when a ``Plateau`` has changed."""
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(float(rate))
            else:
                group["lr"] = rate
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _observed(self) -> list[Observed]:
        return [part for schedule in self.schedules for part in schedule.parts() if isinstance(part, Observed)]

    def state_dict(self) -> dict[str, Any]:
        """How many steps were done, and what the schedule has observed."""
        return {"last_epoch": self.last_epoch, "plateaus": [part.state_dict() for part in self._observed()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what ``state_dict`` gave, and sets the rates."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        for part, state in zip(self._observed(), state_dict.get("plateaus", []), strict=False):
            part.load_state_dict(state)
        self.on_observation()
