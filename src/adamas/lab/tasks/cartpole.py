"""The task ``cartpole``: keeps a pole upright on a cart by pushing it left or right (CartPole-v1 of gymnasium).

Learns by trial and error, with the policy gradient and a learnt baseline: Williams, "Simple statistical gradient-following
algorithms for connectionist reinforcement learning", 1992. Each step plays new episodes. Only the weights and PyTorch's
generator persist between steps, so a run that is resumed from a checkpoint continues exactly.

May import PyTorch, NumPy and gymnasium.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adamas.lab.tasks import Task, without_data_dir

EPISODES = 8  # per training step
DISCOUNT = 0.99
JUDGED = range(1_000_000, 1_000_020)  # the seeds of the episodes that evaluate a policy


class Pilot(nn.Module):
    """The policy, which gives the probability of each push, and the baseline, which predicts the return."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
        self.baseline = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the pushes (states × 2) and the predicted returns (states), for states × 4."""
        return self.policy(states).float(), self.baseline(states).float().flatten()


class Episode:
    """An episode while it is played: the states, the pushes, and whether it continues."""

    def __init__(self, seed: int) -> None:
        """Set the pole up."""
        self.world = gymnasium.make("CartPole-v1", disable_env_checker=True)
        self.states: list[np.ndarray] = [self.world.reset(seed=seed)[0]]
        self.pushes: list[int] = []
        self.over = self.fallen = False

    def push(self, action: int) -> None:
        """Push left (0) or right (1); every push has a reward of 1."""
        state, _, self.fallen, late, _ = self.world.step(action)
        self.pushes.append(action)
        self.over = self.fallen or late
        if not self.over:
            self.states.append(state)

    def returns(self) -> np.ndarray:
        """Return, for each push, the discounted sum of the rewards from it on, times 1 - DISCOUNT: a number from 0 to 1.

        A pole that is upright at the time limit counts as upright forever: the time is not part of the state, and the pushes
        are not to blame for the limit.
        """
        left = np.arange(len(self.pushes), 0, -1)
        return 1 - DISCOUNT**left * self.fallen


def play(model: Pilot, seeds: Sequence[int], choose: Callable[[Tensor], Tensor]) -> list[Episode]:
    """Play an episode for each seed, all at once.

    Args:
        model: the policy.
        seeds: the seeds of the episodes.
        choose: takes logits, episodes × 2, on the CPU, and returns one push per row.
    """
    device = next(model.parameters()).device
    episodes = [Episode(seed) for seed in seeds]
    running = episodes
    with torch.no_grad():
        while running:
            states = torch.from_numpy(np.stack([episode.states[-1] for episode in running]))
            logits = model.policy(states.to(device)).float().cpu()
            for episode, action in zip(running, choose(logits).tolist(), strict=True):
                episode.push(action)
            running = [episode for episode in running if not episode.over]
    return episodes


def sample(logits: Tensor) -> Tensor:
    """Sample pushes from the policy with PyTorch's global generator.

    Logits that are NaN also give a push, so that the error is reported by the loss.
    """
    return (torch.rand(len(logits)) < logits.softmax(1)[:, 1]).long()


def best(logits: Tensor) -> Tensor:
    """Choose the more likely push."""
    return logits.argmax(1)


def loss(model: Pilot) -> Tensor:
    """Play EPISODES and return a scalar whose gradient makes good pushes more likely and the baseline more accurate.

    Its value is not meant to fall: it stays near 0 while the return rises.
    """
    device = next(model.parameters()).device
    episodes = play(model, torch.randint(JUDGED.start, (EPISODES,)).tolist(), sample)
    states = torch.from_numpy(np.concatenate([np.stack(episode.states) for episode in episodes])).to(device)
    pushes = torch.tensor([push for episode in episodes for push in episode.pushes], device=device)
    returns = torch.from_numpy(np.concatenate([episode.returns() for episode in episodes])).float().to(device)
    logits: Tensor
    predicted: Tensor
    logits, predicted = model(states)
    advantages = returns - predicted.detach()
    likelihoods = -F.cross_entropy(logits, pushes, reduction="none")
    return F.mse_loss(predicted, returns) - (advantages * likelihoods).mean()


def evaluate(model: Pilot) -> dict[str, float]:
    """Return ``mean_return`` and ``least_return`` of the more likely pushes: their number before the pole falls, up to 500."""
    lengths = [len(episode.pushes) for episode in play(model, JUDGED, best)]
    return {"mean_return": sum(lengths) / len(lengths), "least_return": float(min(lengths))}


def load(data_dir: Path | None) -> Task:
    """Make the task.

    Raises:
        InputError: a data_dir was given, which this task does not read.
    """
    without_data_dir(data_dir, "cartpole, which makes its data by playing")
    return Task(
        description=f"CartPole-v1, {EPISODES} episodes a step, a policy and a baseline of 64",
        model=Pilot,
        loss=loss,
        evaluate=evaluate,
        metric="mean_return",
        mode="max",
        target=475.0,
        epochs=15,
        steps_per_epoch=10,
        threads=1,
        lr_scale=10.0,
        sgd_lr_scale=2.0,
    )
